"""`python -m fineclip` is `fineclip`."""

import sys

from fineclip.cli import main

sys.exit(main())

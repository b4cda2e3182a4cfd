"""`python -m fineclip` is `fineclip`. The workflow uses it; its start is measured."""

import gc
import sys

if __name__ == "__main__":
    gc.disable()  # `main` enables it
    from fineclip.cli import main

    sys.exit(main())

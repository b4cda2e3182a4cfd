"""`python -m fineclip` is `fineclip`, and starts without garbage collection until `main` sets it up."""

import gc
import sys

if __name__ == "__main__":
    gc.disable()  # `main` enables it
    from fineclip.cli import main

    sys.exit(main())

"""`python -m pyllm` is the `pyllm` command."""

import sys

from pyllm.cli import main

if __name__ == "__main__":
    sys.exit(main())

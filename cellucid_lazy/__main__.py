"""Runs the command line: ``python -m cellucid_lazy``."""

import sys

from cellucid_lazy.cli import main

if __name__ == "__main__":
    sys.exit(main())

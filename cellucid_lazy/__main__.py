"""Runs the command line: ``cellucid-lazy``, or ``python -m cellucid_lazy``."""

from __future__ import annotations

import sys


def main() -> int:
    """Run one command; see `cellucid_lazy.cli.main.main`."""
    try:
        # Deferred, so that Ctrl-C during the import is reported too.
        from cellucid_lazy.cli import main as run

        return run()
    except KeyboardInterrupt:
        sys.stderr.write("interrupted\n")
        return 130


if __name__ == "__main__":
    sys.exit(main())

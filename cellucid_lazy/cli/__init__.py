"""The command line: ``inspect``, ``export``, ``bytes``, ``plot`` and ``demo``."""

from cellucid_lazy.cli.main import main

__all__ = ["main"]

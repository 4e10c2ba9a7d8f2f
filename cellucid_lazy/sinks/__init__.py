"""Sinks: where bytes go. They know bytes and paths, and no biology."""

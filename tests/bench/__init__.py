"""Benchmarks against the reference implementation; run with ``python -m tests.bench``."""

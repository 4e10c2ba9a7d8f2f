"""The engine: computes outputs and writes their files, within a memory budget."""

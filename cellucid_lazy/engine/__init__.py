"""The engine: outputs to streams of bytes, within a memory budget. It knows no kind of output."""

"""Transforms: pure functions, dask arrays in and dask arrays out."""

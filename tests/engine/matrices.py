"""Matrices as awkward as files hold them, and what plain NumPy and SciPy make of them."""

from __future__ import annotations

from typing import Any

import anndata
import numpy as np
import pandas as pd
from hypothesis import strategies as st
from scipy import sparse

from tests.data import writing

# Sparse matrices of SciPy hold no float16; dense ones do.
SPARSE_DTYPES = ("f4", "f8", "i1", "u1", "i2", "i4", "i8", "u8", "?")
DENSE_DTYPES = (*SPARSE_DTYPES, "f2")
ODD = (np.nan, np.inf, -np.inf, -0.0, 1e300, 1e-45, -1.5, 16777217.0)


@st.composite
def sparse_matrices(draw: Any, *, layouts: tuple[str, ...] = ("csr", "csc")) -> Any:
    """CSR or CSC with unsorted and duplicate indices, empty rows and genes, int32 or int64."""
    n_cells, n_genes = draw(st.integers(1, 40)), draw(st.integers(1, 12))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    return awkward(
        rng,
        n_cells,
        n_genes,
        layout=draw(st.sampled_from(layouts)),
        dtype=draw(st.sampled_from(SPARSE_DTYPES)),
        index_dtype=draw(st.sampled_from(["i4", "i8"])),
        fill=draw(st.sampled_from([0.0, 0.1, 0.6, 2.0, 5.0])),
        odd=draw(st.booleans()),
    )


def awkward(
    rng: np.random.Generator,
    n_cells: int,
    n_genes: int,
    *,
    layout: str = "csr",
    dtype: str = "f4",
    index_dtype: str = "i4",
    fill: float = 0.3,
    odd: bool = False,
) -> Any:
    """Draw each row's (or gene's) entries with repetition, in any order; a third are empty."""
    shape = (n_cells, n_genes)
    n_major, n_minor = shape if layout == "csr" else shape[::-1]
    counts = rng.poisson(fill * n_minor, n_major) * (rng.random(n_major) < 0.7)
    indptr = np.concatenate([[0], np.cumsum(counts)]).astype(index_dtype)
    # Genes of the last tenth are empty, so that a block's end is one of the cases.
    indices = rng.integers(0, max(1, n_minor - n_minor // 10), indptr[-1]).astype(index_dtype)
    kind = sparse.csr_matrix if layout == "csr" else sparse.csc_matrix
    return kind((numbers(rng, len(indices), dtype, odd=odd), indices, indptr), shape=shape)


def numbers(rng: np.random.Generator, n: int, dtype: str, *, odd: bool = False) -> Any:
    """Values of a dtype; with ``odd`` also NaN, infinities, -0.0 and what float32 cannot hold."""
    found = rng.integers(0, 100, n) * rng.choice([1, 1.1, 1 / 3], n)
    if np.dtype(dtype).kind == "f" and odd:
        found = np.where(rng.random(n) < 0.3, rng.choice(ODD, n), found)
    with np.errstate(over="ignore"):
        return found.astype(dtype)


@st.composite
def dense_matrices(draw: Any) -> Any:
    """NumPy matrices of any real dtype, C or Fortran order."""
    n_cells, n_genes = draw(st.integers(1, 40)), draw(st.integers(1, 12))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    values = numbers(rng, n_cells * n_genes, draw(st.sampled_from(DENSE_DTYPES)), odd=True)
    values[rng.random(len(values)) < draw(st.sampled_from([0.0, 0.7, 1.0]))] = 0
    matrix = values.reshape(n_cells, n_genes)
    return np.asfortranarray(matrix) if draw(st.booleans()) else matrix


def matrices() -> Any:
    """Any matrix of the two."""
    return st.one_of(sparse_matrices(), dense_matrices())


def dense32(matrix: Any) -> Any:
    """What a column's bytes have to be: SciPy's ``toarray``, as float32."""
    with np.errstate(over="ignore", invalid="ignore"):
        dense = matrix.toarray() if sparse.issparse(matrix) else np.asarray(matrix)
        return dense.astype(np.float32)


def copied(matrix: Any) -> Any:
    """Bytes of all parts, to see that nothing was changed."""
    parts = (matrix.data, matrix.indices, matrix.indptr) if sparse.issparse(matrix) else (matrix,)
    return [np.array(part, copy=True).tobytes() for part in parts]


def in_memory(matrix: Any) -> anndata.AnnData:
    """Hold a matrix in memory, with an embedding."""
    var = pd.DataFrame(index=[f"g{i}" for i in range(matrix.shape[1])])
    obs = pd.DataFrame(index=[f"c{i}" for i in range(matrix.shape[0])])
    umap = np.random.default_rng(0).random((len(obs), 2), dtype=np.float32)
    with writing():
        return anndata.AnnData(matrix, obs=obs, var=var, obsm={"X_umap": umap})

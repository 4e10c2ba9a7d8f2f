"""AnnDataAdapter: replaces ``cellucid.anndata_adapter.AnnDataAdapter`` of version 0.0.9."""

from __future__ import annotations

import json
import os
import threading
import warnings
from collections import OrderedDict
from collections.abc import Mapping
from concurrent.futures import Future
from dataclasses import replace
from itertools import islice
from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np
from numpy.typing import NDArray

from cellucid_lazy.catalogue import Catalogue, outputs
from cellucid_lazy.codecs.gzip import Gzip
from cellucid_lazy.engine.resources import memory_budget as budget_bytes
from cellucid_lazy.errors import ClosedError, DataError, missing_key
from cellucid_lazy.export import to_bytes
from cellucid_lazy.kinds.embeddings import DIMENSIONS, way_to_choose
from cellucid_lazy.names import name_problems, safe_name
from cellucid_lazy.options import DEFAULT_MIN_POINTS, DEFAULT_QUANTILE, Options
from cellucid_lazy.readers import open as open_source
from cellucid_lazy.source import ColumnKind, Source

if TYPE_CHECKING:
    from anndata import AnnData

# The reference's level.
_GZIP = Gzip(6)

# A server sends float32, and compresses on request.
_FIXED: dict[str, Any] = {
    "manifest_shape": "live",
    "compression": None,
    "var_quantization": None,
    "obs_continuous_quantization": None,
}


class AnnDataAdapter:
    """Computes what a server of the viewer sends: arrays as bytes, manifests as dicts.

    Arguments, methods, results and built-in errors are those of
    ``cellucid.anndata_adapter.AnnDataAdapter``. Any number of threads may call it at once. Data are
    read on request: one pass over them serves all requests that came during the pass before, and
    the latest results are cached.

    Parameters
    ----------
    adata
        An AnnData, or anything else that `open` takes or gives.
    latent_key, gene_id_column, normalize_embeddings
        As in `Options`.
    centroid_outlier_quantile, centroid_min_points
        As in `Options`.
    dataset_name, dataset_id
        As in `Options`.
    memory_budget
        For one pass: bytes, or text such as ``"1GB"``. A pass over genes and one over other outputs
        may run at once; each of the two caches results up to a quarter of the budget.
    options
        Further settings of `Options`, such as ``embeddings={2: "X_tsne"}``.

    Attributes
    ----------
    adata
        The AnnData that was given or loaded; None for a file that is read lazily.
    latent_key
        obsm key of the latent space for outlier quantiles, or None.
    gene_id_column, normalize_embeddings, centroid_outlier_quantile, centroid_min_points
        As used.
    dataset_name, dataset_id
        As in the identity.

    Raises
    ------
    DataError
        When the dataset cannot be read, or has no embedding to show. It is a ValueError.
    MissingKeyError
        For a latent key or a column of gene identifiers that is not there. It is a KeyError.
    OptionError
        For a setting out of range. It is a ValueError.
    """

    def __init__(
        self,
        adata: AnnData | Source | str | os.PathLike[str],
        latent_key: str | None = None,
        gene_id_column: str | None = "index",
        normalize_embeddings: bool = True,
        centroid_outlier_quantile: float = DEFAULT_QUANTILE,
        centroid_min_points: int = DEFAULT_MIN_POINTS,
        dataset_name: str | None = None,
        dataset_id: str | None = None,
        *,
        memory_budget: int | str | None = None,
        **options: Any,
    ) -> None:
        budget = budget_bytes(memory_budget)
        source = open_source(adata)
        self.adata: AnnData | None = None
        if not isinstance(adata, (Source, str, os.PathLike)):
            # The reference shows no file for an object, even a backed one.
            self.adata, source = adata, replace(source, path=None, storage="memory")
        for name in _FIXED.keys() & options.keys():
            raise TypeError(
                f"{name}= does not apply: an adapter answers float32 in the live shape, "
                "compressed where it is asked to with compress=True"
            )
        settings = Options(
            latent_key=latent_key,
            gene_id_column=gene_id_column or "index",
            normalize_embeddings=normalize_embeddings,
            centroid_outlier_quantile=centroid_outlier_quantile,
            centroid_min_points=centroid_min_points,
            dataset_name=dataset_name,
            dataset_id=dataset_id,
            **_FIXED,
            **options,
        )
        catalogue = outputs(source, settings)
        dataset = catalogue.dataset
        if not dataset.shown.embeddings:
            raise DataError(f"{source.name}: no embedding can be shown: {way_to_choose(source)}")
        self.latent_key = dataset.latent_key
        self.gene_id_column = settings.gene_id_column
        self.normalize_embeddings = settings.normalize_embeddings
        self.centroid_outlier_quantile = settings.centroid_outlier_quantile
        self.centroid_min_points = settings.centroid_min_points
        self.dataset_name = dataset.name
        self.dataset_id = settings.dataset_id or safe_name(dataset.name)
        self._catalogue: Catalogue | None = catalogue
        # Held while the catalogue reads names of genes and labels, which it keeps.
        self._reading = threading.Lock()
        self._genes, self._others = (_SharedPasses(budget, 4 * source.n_cells) for _ in range(2))

    @classmethod
    def from_file(
        cls,
        path: str | os.PathLike[str],
        backed: bool | Literal["r", "r+"] = "r",
        **kwargs: Any,
    ) -> Self:
        """Open an h5ad file or a zarr store, or the URL of one.

        Parameters
        ----------
        path
            As `open` takes it.
        backed
            False loads an h5ad file into memory. Anything else reads lazily, and never writes.
        kwargs
            Further arguments of the class.

        Returns
        -------
        AnnDataAdapter
            Of the file.

        Raises
        ------
        MissingFileError
            When there is nothing at the path. It is a FileNotFoundError.
        DataError
            When it is neither an h5ad file nor a zarr store. It is a ValueError.
        """
        source = open_source(path)
        if backed or source.storage != "h5ad":
            return cls(source, **kwargs)
        # Deferred: anndata takes long to import, and lazy files do without.
        from anndata import read_h5ad

        from cellucid_lazy.readers.objects import open_anndata

        loaded = read_h5ad(source.path)
        adapter = cls(open_anndata(loaded, layer=None, use_raw=False, path=source.path), **kwargs)
        adapter.adata = loaded
        return adapter

    @property
    def n_cells(self) -> int:
        """Number of cells."""
        return self._opened().source.n_cells

    @property
    def n_genes(self) -> int:
        """Number of genes."""
        return self._opened().source.n_genes

    @property
    def is_backed(self) -> bool:
        """Whether an h5ad file is read lazily; False once closed."""
        catalogue = self._catalogue
        return catalogue is not None and catalogue.source.is_backed

    def get_embedding(self, dim: int) -> NDArray[np.float32]:
        """Compute an embedding.

        Parameters
        ----------
        dim
            1, 2 or 3.

        Returns
        -------
        ndarray
            float32 (n_cells, dim).

        Raises
        ------
        DataError
            When there is no such embedding. It is a ValueError.
        """
        points = np.frombuffer(self.get_points_binary(dim), np.float32)
        return points.reshape(-1, dim).copy()

    def get_embedding_3d(self, dim: int) -> NDArray[np.float32]:
        """Compute an embedding with zeros in further axes: float32 (n_cells, 3)."""
        points = np.frombuffer(self._read(f"{self._points(dim)}/padded"), np.float32)
        return points.reshape(-1, 3).copy()

    def get_points_binary(self, dim: int, compress: bool = False) -> bytes:
        """Compute an embedding as bytes; with `compress` as one gzip member."""
        return _encoded(self._read(self._points(dim)), compress)

    def get_vector_field_binary(self, field_id: str, dim: int, compress: bool = False) -> bytes:
        """Compute a vector field in the scale of the embedding.

        Parameters
        ----------
        field_id
            Name of the field, such as ``"velocity_umap"``, or its form in file names.
        dim
            1, 2 or 3.
        compress
            Whether to compress it as one gzip member.

        Returns
        -------
        bytes
            float32 (n_cells, dim).

        Raises
        ------
        DataError
            When there is no such field, or not in this dimension. It is a ValueError.
        """
        dataset = self._opened().dataset
        fields, asked = dataset.shown.vector_fields, str(field_id or "")
        if asked not in fields:
            asked = next((field for field in fields if safe_name(field) == asked), asked)
        # The server sends these sentences to its clients, so they name no file.
        if asked not in fields:
            raise DataError(f"Vector field '{asked}' not available")
        if f"{int(dim)}d" not in fields[asked]:
            raise DataError(f"Vector field '{asked}' does not provide {dim}D data")
        return _encoded(self._read(f"vectors/{asked}/{int(dim)}d"), compress)

    def get_obs_keys(self) -> list[str]:
        """List the obs columns."""
        return list(self._opened().dataset.obs_keys)

    def get_obs_field_kind(self, key: str) -> ColumnKind:
        """Return whether an obs column is ``"continuous"`` or a ``"category"``; reads no data.

        Raises
        ------
        MissingKeyError
            When there is no such column. It is a KeyError.
        """
        return self._opened().dataset.column(key).kind

    def get_obs_continuous_values(self, key: str, compress: bool = False) -> bytes:
        """Compute a continuous obs column: float32 (n_cells,), as `get_gene_expression`.

        Raises
        ------
        MissingKeyError
            When there is no continuous column of that name. It is a KeyError.
        """
        return _encoded(self._read(f"obs/{key}/values"), compress)

    def get_obs_categorical_codes(
        self, key: str, compress: bool = False
    ) -> tuple[bytes, list[str], int]:
        """Compute the codes of a category column.

        Parameters
        ----------
        key
            The column.
        compress
            Whether to compress the codes as one gzip member.

        Returns
        -------
        tuple
            Codes (n_cells,), uint8 or uint16 by the number of labels; the labels in their order;
            the code of missing values, 255 or 65535.

        Raises
        ------
        FieldError
            When it has too many categories, or its values cannot be categories.
        MissingKeyError
            When there is no category column of that name. It is a KeyError.
        """
        name = f"obs/{key}/codes"
        codes = self._read(name)
        with self._reading:
            output = self._opened()[name]
        missing = int(np.iinfo(output.dtype).max)
        return _encoded(codes, compress), list(output.labels or ()), missing

    def get_obs_outlier_quantiles(self, key: str, compress: bool = False) -> bytes:
        """Compute for each cell the rank of its distance to the mean of its category.

        Parameters and errors are those of `get_obs_categorical_codes`.

        Returns
        -------
        bytes
            float32 (n_cells,); zeros without a latent space.
        """
        return _encoded(self._read(f"obs/{key}/outliers"), compress)

    def get_centroids_for_field(self, key: str) -> dict[str, list[dict[str, Any]]]:
        """Compute the centroids of a category column; those of all columns are computed together.

        Parameters
        ----------
        key
            The column.

        Returns
        -------
        dict
            For each dimension (``"2"``) a list of ``category``, ``position`` and ``n_points``.

        Raises
        ------
        MissingKeyError
            When no category column of that name can be shown. It is a KeyError.
        """
        found = {row[0]: row[4] for row in self.get_obs_manifest()["_categoricalFields"]}
        if key not in found:
            raise missing_key("category column", key, found, where=self._opened().source.name)
        centroids: dict[str, list[dict[str, Any]]] = found[key]
        return centroids

    def get_gene_ids(self) -> list[str]:
        """List the gene identifiers, each once."""
        catalogue = self._opened()
        with self._reading:
            return [name.key for name in catalogue.listed("var").values()]

    def get_gene_expression(self, gene_id: str, compress: bool = False) -> bytes:
        """Compute the values of a gene.

        Parameters
        ----------
        gene_id
            The gene's identifier.
        compress
            Whether to compress the values as one gzip member.

        Returns
        -------
        bytes
            float32 (n_cells,).

        Raises
        ------
        MissingKeyError
            When there is no such gene, or no expression matrix. It is a KeyError.
        """
        return _encoded(self._read(f"var/{gene_id}"), compress)

    def get_gene_min_max(self, gene_id: str) -> tuple[float, float]:
        """Compute the range of a gene's finite values; (0, 1) if there are none."""
        values = np.frombuffer(self.get_gene_expression(gene_id), np.float32)
        finite = values[np.isfinite(values)]
        return (float(finite.min()), float(finite.max())) if finite.size else (0.0, 1.0)

    def has_connectivity(self) -> bool:
        """Whether there is a neighbour graph; False once closed."""
        catalogue = self._catalogue
        return catalogue is not None and catalogue.source.connectivities is not None

    def get_connectivity_edges(self, compress: bool = False) -> tuple[bytes, bytes, int, int]:
        """Compute the edges of the neighbour graph.

        Parameters
        ----------
        compress
            Whether to compress sources and destinations as one gzip member each.

        Returns
        -------
        tuple
            Sources and destinations (n_edges,), sorted, of the type that the manifest names; the
            number of edges; the largest number of neighbours of a cell.

        Raises
        ------
        DataError
            When there is no neighbour graph. It is a ValueError.
        """
        source = self._opened().source
        if source.connectivities is None:
            raise DataError(f"{source.name}: there is no neighbour graph")
        names = ("connectivity/src", "connectivity/dst", "manifest/connectivity")
        *ends, manifest = self._read_all(*names)
        sources, destinations = (_encoded(end, compress) for end in ends)
        counts = json.loads(manifest)
        return sources, destinations, counts["n_edges"], counts["max_neighbors"]

    def get_dataset_identity(self) -> dict[str, Any]:
        """Describe the dataset, as ``dataset_identity.json``."""
        # Both count the edges, so one pass makes both.
        counted = ["manifest/connectivity"] if self.has_connectivity() else []
        return _parsed(self._read_all("manifest/identity", *counted)[0])

    def get_obs_manifest(self) -> dict[str, Any]:
        """Describe the obs columns, as ``obs_manifest.json``."""
        return self._manifest("obs")

    def get_var_manifest(self) -> dict[str, Any]:
        """List the genes, as ``var_manifest.json``."""
        return self._manifest("var")

    def get_connectivity_manifest(self) -> dict[str, Any] | None:
        """Describe the edges, as ``connectivity_manifest.json``; None without a neighbour graph."""
        found = self.has_connectivity()
        return _parsed(self._read("manifest/connectivity")) if found else None

    def close(self) -> None:
        """Free the cached results, and close the AnnData that was given if it is backed.

        Running calls end as usual; later ones raise ClosedError, a RuntimeError.
        """
        adata, self.adata, self._catalogue = self.adata, None, None
        self._genes.close()
        self._others.close()
        if adata is not None and adata.isbacked:
            adata.file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *problem: object) -> None:
        self.close()

    def __repr__(self) -> str:
        catalogue = self._catalogue
        if catalogue is None:
            return "AnnDataAdapter(closed)"
        source = catalogue.source
        backed = " (backed)" if source.is_backed else ""
        origin = f" from {source.storage}" if source.storage != "memory" else ""
        return (
            f"AnnDataAdapter({source.n_cells:,} cells, {source.n_genes:,} genes, "
            f"dims={self._available_dimensions}{backed}{origin})"
        )

    @property
    def _available_dimensions(self) -> list[int]:
        """Dimensions that have an embedding; the reference's server prints them."""
        return [DIMENSIONS[one] for one in self._opened().dataset.shown.embeddings]

    def _opened(self) -> Catalogue:
        catalogue = self._catalogue
        if catalogue is None:
            raise ClosedError("this AnnDataAdapter is closed; make another one")
        return catalogue

    def _manifest(self, kind: str) -> dict[str, Any]:
        """Read the manifest of a kind; warn of keys with one file name."""
        catalogue = self._opened()
        with self._reading:
            problems = list(name_problems(catalogue.listed(kind).values()))
        for problem in problems:
            warnings.warn(f"{catalogue.source.name}: {problem}", stacklevel=3)
        return _parsed(self._read(f"manifest/{kind}"))

    def _points(self, dim: int) -> str:
        """Return the output's name of an embedding."""
        shown = self._available_dimensions
        if dim not in shown:
            where = self._opened().source.name
            raise DataError(f"{where}: no embedding of {dim!r} dimensions; there are {shown}")
        return f"points/{dim}d"

    def _read(self, name: str) -> bytes:
        return self._read_all(name)[0]

    def _read_all(self, *names: str) -> list[bytes]:
        catalogue = self._opened()
        with self._reading:
            # An unknown name is an error here, not in a pass that serves others too.
            kinds = {catalogue.find(name).kind for name in names}
        return (self._genes if kinds == {"var"} else self._others).read(catalogue, names)


class _SharedPasses:
    """Computes files in passes that threads share, and caches the latest results.

    A thread makes one pass for all files requested until then; requests during it share the next.

    Parameters
    ----------
    budget
        Memory of a pass in bytes. Results are cached up to a quarter of it.
    file_size
        Typical size of a file in bytes.
    """

    def __init__(self, budget: int, file_size: int) -> None:
        self._budget, self._max_cached_bytes = budget, budget // 4
        self._max_files = max(1, self._max_cached_bytes // file_size)
        # Its lock protects all attributes below; it is notified when a pass ends.
        self._changed = threading.Condition()
        self._is_running = False
        self._requested: dict[str, Future[bytes]] = {}
        self._cached: OrderedDict[str, Future[bytes]] = OrderedDict()
        self._cached_bytes = 0

    def read(self, catalogue: Catalogue, names: tuple[str, ...]) -> list[bytes]:
        """Return files, cached or computed; raise the error of the first that failed."""
        with self._changed:
            futures = [self._request(name) for name in names]
        for future in futures:
            while not future.done():
                self._run_or_wait(catalogue, future)
        return [future.result() for future in futures]

    def close(self) -> None:
        """Free the cached results, and cache none from now on."""
        with self._changed:
            self._cached.clear()
            self._cached_bytes = self._max_cached_bytes = 0

    def _request(self, name: str) -> Future[bytes]:
        if name not in self._cached:
            return self._requested.setdefault(name, Future())
        self._cached.move_to_end(name)
        return self._cached[name]

    def _run_or_wait(self, catalogue: Catalogue, future: Future[bytes]) -> None:
        """Make a pass in this thread, or wait for the end of the pass of another thread."""
        with self._changed:
            self._changed.wait_for(lambda: future.done() or not self._is_running)
            if future.done():
                return
            self._is_running = True
            names = list(islice(self._requested, self._max_files))
        results: Mapping[str, bytes | Exception] = {}
        try:
            results = self._compute(catalogue, names)
        finally:
            # After an interrupt there are no results: another thread takes over the requests.
            with self._changed:
                for name, result in results.items():
                    self._finish(name, result)
                self._is_running = False
                self._changed.notify_all()

    def _compute(self, catalogue: Catalogue, names: list[str]) -> Mapping[str, bytes | Exception]:
        try:
            return to_bytes(catalogue, names, memory_budget=self._budget)
        except Exception as problem:
            if len(names) == 1:
                return {names[0]: problem}
            # One at a time, so that only the files that cannot be computed fail.
            return {name: self._compute(catalogue, [name])[name] for name in names}

    def _finish(self, name: str, result: bytes | Exception) -> None:
        future = self._requested.pop(name)
        if isinstance(result, Exception):
            future.set_exception(result)
            return
        future.set_result(result)
        if len(result) <= self._max_cached_bytes:
            self._cached[name] = future
            self._cached_bytes += len(result)
        while self._cached_bytes > self._max_cached_bytes:
            _, oldest = self._cached.popitem(last=False)
            self._cached_bytes -= len(oldest.result())


def _encoded(content: bytes, compress: bool) -> bytes:
    return _GZIP.encode(memoryview(content)) if compress else content


def _parsed(manifest: bytes) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(manifest)
    return found

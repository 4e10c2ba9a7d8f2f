"""AnnDataAdapter: what the reference's class of that name answers, over a catalogue.

It goes in its place in ``cellucid.anndata_server`` of version 0.0.9, and may be used by any number
of threads at once.
"""

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
from cellucid_lazy.engine.output import Output
from cellucid_lazy.engine.resources import memory_budget as settle_budget
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


# Files of a server are float32, and compressed on the way.
_SETTLED = frozenset(
    {"compression", "var_quantization", "obs_continuous_quantization", "manifest_shape"}
)


class AnnDataAdapter:
    """Answers what a server of the viewer asks of a dataset: arrays as bytes, manifests as dicts.

    Arguments, methods and answers are those of ``cellucid.anndata_adapter.AnnDataAdapter``, and so
    are the built-in errors that it raises for the same mistakes. Nothing is read before it is asked
    for. What is asked for while a pass over the data runs shares the next pass; what several ask
    for is made once; what was made last is kept.

    Parameters
    ----------
    adata
        An AnnData, or anything else that `open` takes or gives.
    latent_key, gene_id_column, normalize_embeddings
        As `Options` has them.
    centroid_outlier_quantile, centroid_min_points
        As `Options` has them.
    dataset_name, dataset_id
        As `Options` has them.
    memory_budget
        For a pass, as `to_bytes` takes it: bytes, or text such as ``"1GB"``. A pass over genes and
        one over anything else may run at once; each keeps up to a quarter as much of what it made.
    options
        Further settings of `Options`, such as ``embeddings={2: "X_tsne"}``.

    Attributes
    ----------
    adata
        The AnnData that was given or loaded; None for a file that is read lazily.
    latent_key
        obsm key of the latent space for outlier quantiles, or None.
    gene_id_column, normalize_embeddings, centroid_outlier_quantile, centroid_min_points
        As they are used.
    dataset_name, dataset_id
        As the identity has them.

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
        budget = settle_budget(memory_budget)
        source = open_source(adata)
        self.adata: AnnData | None = None
        if not isinstance(adata, (Source, str, os.PathLike)):
            # Of an object the reference knows no file, whether or not it is backed by one.
            self.adata, source = adata, replace(source, path=None, storage="memory")
        for name in _SETTLED & set(options):
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
            manifest_shape="live",
            # Files of a server are float32, and compressed on the way.
            compression=None,
            var_quantization=None,
            obs_continuous_quantization=None,
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
        # Where names of genes and labels are read, which the catalogue keeps.
        self._reading = threading.Lock()
        self._genes, self._others = (_Passes(budget, 4 * source.n_cells) for _ in range(2))

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
            As the class takes them.

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
        # Deferred: anndata takes long to import, and files that are read lazily do without.
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

    # Embeddings

    def get_embedding(self, dim: int) -> NDArray[np.float32]:
        """Compute the embedding of a dimension.

        Parameters
        ----------
        dim
            1, 2 or 3.

        Returns
        -------
        ndarray
            float32 (n_cells, dim), a copy.

        Raises
        ------
        DataError
            When there is no such embedding. It is a ValueError.
        """
        points = np.frombuffer(self.get_points_binary(dim), np.float32)
        return points.reshape(-1, dim).copy()

    def get_embedding_3d(self, dim: int) -> NDArray[np.float32]:
        """Compute the embedding of a dimension with zeros in further axes: float32 (n_cells, 3)."""
        points = np.frombuffer(self._read(f"{self._points(dim)}/padded"), np.float32)
        return points.reshape(-1, 3).copy()

    def get_points_binary(self, dim: int, compress: bool = False) -> bytes:
        """Compute `get_embedding` as bytes; with `compress` as one gzip member."""
        return _encoded(self._read(self._points(dim)), compress)

    def get_vector_field_binary(self, field_id: str, dim: int, compress: bool = False) -> bytes:
        """Compute a vector field, scaled as the embedding is.

        Parameters
        ----------
        field_id
            Name of the field, such as ``"velocity_umap"``, or the name of its file without
            dimension.
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

    # Columns of obs

    def get_obs_keys(self) -> list[str]:
        """List the obs columns."""
        return list(self._opened().dataset.obs_keys)

    def get_obs_field_kind(self, key: str) -> ColumnKind:
        """Tell whether an obs column is ``"continuous"`` or a ``"category"``; reads nothing.

        Raises MissingKeyError, which is a KeyError, for one that is not there.
        """
        return self._opened().dataset.column(key).kind

    def get_obs_continuous_values(self, key: str, compress: bool = False) -> bytes:
        """Compute a continuous obs column.

        Parameters
        ----------
        key
            The column.
        compress
            Whether to compress it as one gzip member.

        Returns
        -------
        bytes
            float32 (n_cells,).

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
        codes, output = self._read(name), self._output(name)
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
        """Compute the centroids of a category column, together with those of the others.

        Parameters
        ----------
        key
            The column.

        Returns
        -------
        dict
            By dimension (``"2"``) a list of ``category``, ``position`` and ``n_points``.

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

    # Genes

    def get_gene_ids(self) -> list[str]:
        """List the gene identifiers; of several genes with one, it is there once."""
        catalogue = self._opened()
        with self._reading:
            return [name.key for name in catalogue.listed("var").values()]

    def get_gene_expression(self, gene_id: str, compress: bool = False) -> bytes:
        """Compute the values of a gene.

        Parameters
        ----------
        gene_id
            Its identifier.
        compress
            Whether to compress them as one gzip member.

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
        """Compute the range of a gene's finite float32 values; (0, 1) where there are none."""
        values = np.frombuffer(self.get_gene_expression(gene_id), np.float32)
        finite = values[np.isfinite(values)]
        return (float(finite.min()), float(finite.max())) if finite.size else (0.0, 1.0)

    # The neighbour graph

    def has_connectivity(self) -> bool:
        """Tell whether there is a neighbour graph; False once closed."""
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
        told = json.loads(manifest)
        return sources, destinations, told["n_edges"], told["max_neighbors"]

    # Manifests

    def get_dataset_identity(self) -> dict[str, Any]:
        """Describe the dataset, as ``dataset_identity.json``."""
        # Both count the edges.
        counted = ["manifest/connectivity"] if self.has_connectivity() else []
        return _parsed(self._read_all("manifest/identity", *counted)[0])

    def get_obs_manifest(self) -> dict[str, Any]:
        """Describe the obs columns, as ``obs_manifest.json``."""
        return self._described("obs")

    def get_var_manifest(self) -> dict[str, Any]:
        """List the genes, as ``var_manifest.json``."""
        return self._described("var")

    def get_connectivity_manifest(self) -> dict[str, Any] | None:
        """Describe the edges, as ``connectivity_manifest.json``; None without a neighbour graph."""
        found = self.has_connectivity()
        return _parsed(self._read("manifest/connectivity")) if found else None

    # The end

    def close(self) -> None:
        """Free what is kept, and close the AnnData that was given if it is backed by a file.

        Calls that have begun end as usual; further ones raise ClosedError, a RuntimeError.
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
        """The dimensions that have an embedding; the reference's server prints them."""
        return [DIMENSIONS[one] for one in self._opened().dataset.shown.embeddings]

    def _opened(self) -> Catalogue:
        catalogue = self._catalogue
        if catalogue is None:
            raise ClosedError("this AnnDataAdapter is closed; make another one")
        return catalogue

    def _described(self, kind: str) -> dict[str, Any]:
        """Read the manifest of a kind; warn of keys that a server cannot tell apart."""
        catalogue = self._opened()
        with self._reading:
            problems = list(name_problems(catalogue.listed(kind).values()))
        for problem in problems:
            warnings.warn(f"{catalogue.source.name}: {problem}", stacklevel=3)
        return _parsed(self._read(f"manifest/{kind}"))

    def _points(self, dim: int) -> str:
        """Name the embedding of a dimension, which must be there."""
        shown = self._available_dimensions
        if dim not in shown:
            where = self._opened().source.name
            raise DataError(f"{where}: no embedding of {dim!r} dimensions; there are {shown}")
        return f"points/{dim}d"

    def _output(self, name: str) -> Output:
        catalogue = self._opened()
        with self._reading:
            return catalogue[name]

    def _read(self, name: str) -> bytes:
        return self._read_all(name)[0]

    def _read_all(self, *names: str) -> list[bytes]:
        catalogue = self._opened()
        with self._reading:
            # Here, or the error of one would be that of a pass for many.
            kinds = {catalogue.find(name).kind for name in names}
        return (self._genes if kinds == {"var"} else self._others).read(catalogue, names)


class _Passes:
    """Files as bytes, made in one pass at a time; what is asked for meanwhile shares the next one.

    Parameters
    ----------
    budget
        Memory of a pass. Latest results are kept, up to a quarter of it.
    n_bytes
        Size of a file, about.
    """

    def __init__(self, budget: int, n_bytes: int) -> None:
        self._budget, self._most_kept = budget, budget // 4
        self._most_together = max(1, self._most_kept // n_bytes)
        # It guards all below, and tells of the end of a pass.
        self._changed = threading.Condition()
        self._is_running = False
        self._asked: dict[str, Future[bytes]] = {}
        self._kept: OrderedDict[str, bytes] = OrderedDict()
        self._n_kept = 0

    def read(self, catalogue: Catalogue, names: tuple[str, ...]) -> list[bytes]:
        """Return files, kept or made; raise what went wrong with one of them."""
        with self._changed:
            futures = [self._ask(name) for name in names]
        for future in futures:
            while not future.done():
                self._make_or_wait(catalogue, future)
        return [future.result() for future in futures]

    def close(self) -> None:
        """Keep nothing from now on."""
        with self._changed:
            self._kept.clear()
            self._n_kept = self._most_kept = 0

    def _ask(self, name: str) -> Future[bytes]:
        if name not in self._kept:
            return self._asked.setdefault(name, Future())
        self._kept.move_to_end(name)
        future: Future[bytes] = Future()
        future.set_result(self._kept[name])
        return future

    def _make_or_wait(self, catalogue: Catalogue, future: Future[bytes]) -> None:
        """Make what is asked for, in this thread; or wait for the thread that does so."""
        with self._changed:
            self._changed.wait_for(lambda: future.done() or not self._is_running)
            if future.done():
                return
            self._is_running = True
            names = list(islice(self._asked, self._most_together))
        made: Mapping[str, bytes | Exception] = {}
        try:
            made = self._make(catalogue, names)
        finally:
            # An interrupt leaves all as asked for, to another thread.
            with self._changed:
                for name, result in made.items():
                    self._finish(name, result)
                self._is_running = False
                self._changed.notify_all()

    def _make(self, catalogue: Catalogue, names: list[str]) -> Mapping[str, bytes | Exception]:
        try:
            return to_bytes(catalogue, names, memory_budget=self._budget)
        except Exception as problem:
            if len(names) == 1:
                return {names[0]: problem}
            # What cannot be made does not take the rest with it.
            return {name: self._make(catalogue, [name])[name] for name in names}

    def _finish(self, name: str, result: bytes | Exception) -> None:
        future = self._asked.pop(name)
        if isinstance(result, Exception):
            future.set_exception(result)
            return
        future.set_result(result)
        if len(result) <= self._most_kept:
            self._kept[name] = result
            self._n_kept += len(result)
        while self._n_kept > self._most_kept:
            self._n_kept -= len(self._kept.popitem(last=False)[1])


def _encoded(content: bytes, compress: bool) -> bytes:
    return _GZIP.encode(memoryview(content)) if compress else content


def _parsed(manifest: bytes) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(manifest)
    return found

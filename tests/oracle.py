"""What the outputs must be: by the reference, and by NumPy where the reference is imprecise."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
from cellucid.anndata_adapter import AnnDataAdapter

if TYPE_CHECKING:
    from anndata import AnnData

    from cellucid_lazy import Catalogue

MANIFESTS = ("identity", "obs", "var", "connectivity")


def reference_outputs(adata: AnnData, **options: Any) -> dict[str, bytes]:
    """The reference's outputs under our names; its manifests as it answers them."""
    return adapter_outputs(AnnDataAdapter(adata, **options))


def adapter_outputs(adapter: Any) -> dict[str, bytes]:
    """All that an adapter answers, the reference's or ours, under our names."""
    manifests = manifests_of(adapter)
    found = {f"manifest/{kind}": one for kind, one in manifests.items()}
    identity = json.loads(manifests["identity"])
    for dimension in identity["embeddings"]["available_dimensions"]:
        found[f"points/{dimension}d"] = adapter.get_points_binary(dimension)
        found[f"points/{dimension}d/padded"] = adapter.get_embedding_3d(dimension).tobytes()
    for field, entry in identity.get("vector_fields", {"fields": {}})["fields"].items():
        for d in entry["available_dimensions"]:
            found[f"vectors/{field}/{d}d"] = adapter.get_vector_field_binary(field, d)
    for key in adapter.get_obs_keys():
        if adapter.get_obs_field_kind(key) == "continuous":
            found[f"obs/{key}/values"] = adapter.get_obs_continuous_values(key)
        else:
            found[f"obs/{key}/codes"] = adapter.get_obs_categorical_codes(key)[0]
            found[f"obs/{key}/outliers"] = adapter.get_obs_outlier_quantiles(key)
    for gene in adapter.get_gene_ids():
        found[f"var/{gene}"] = adapter.get_gene_expression(gene)
    if adapter.has_connectivity():
        sources, destinations, _, _ = adapter.get_connectivity_edges()
        found |= {"connectivity/src": sources, "connectivity/dst": destinations}
    return found


def manifests_of(adapter: Any) -> dict[str, bytes]:
    """The four manifests as the reference's server answers them."""
    answers = {
        "identity": adapter.get_dataset_identity(),
        "obs": adapter.get_obs_manifest(),
        "var": adapter.get_var_manifest(),
        "connectivity": adapter.get_connectivity_manifest(),
    }
    return {kind: json.dumps(one).encode() for kind, one in answers.items() if one is not None}


def assert_same_outputs(found: dict[str, bytes], expected: dict[str, bytes]) -> None:
    """Every output of the reference, byte for byte; outliers and manifests are compared apart."""
    assert set(found) == set(expected), set(found) ^ set(expected)
    different = [
        name
        for name, octets in expected.items()
        if not name.startswith("manifest/")
        and not name.endswith("/outliers")
        and found[name] != octets
    ]
    assert different == [], different


def assert_same_manifests(
    found: dict[str, bytes], expected: dict[str, bytes], *, but: tuple[str, ...] = ("created_at",)
) -> None:
    """Equal as JSON; ``but`` names what the identity may tell otherwise."""
    for kind in MANIFESTS:
        name = f"manifest/{kind}"
        assert (name in found) == (name in expected)
        if name in found:
            same_json(strict_json(found[name]), strict_json(expected[name]), but=but)


def strict_json(octets: bytes) -> Any:
    """Parse as browsers do: NaN and Infinity are errors."""

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} in a manifest makes the whole dataset unreadable")

    return json.loads(octets, parse_constant=refuse)


def same_json(found: Any, expected: Any, *, but: tuple[str, ...] = (), where: str = "") -> None:
    """Equal JSON; centroids' positions to float32 tolerance, because the reference sums so."""
    assert type(found) is type(expected), (where, found, expected)
    if isinstance(expected, dict):
        assert set(found) - set(but) == set(expected) - set(but), (
            where,
            set(found) ^ set(expected),
        )
        for key in set(expected) - set(but):
            if key == "position":
                np.testing.assert_allclose(found[key], expected[key], rtol=0, atol=2e-6)
            else:
                same_json(found[key], expected[key], but=but, where=f"{where}/{key}")
    elif isinstance(expected, list):
        assert len(found) == len(expected), (where, found, expected)
        for place, (one, other) in enumerate(zip(found, expected, strict=True)):
            same_json(one, other, but=but, where=f"{where}/{place}")
    else:
        assert found == expected, (where, found, expected)


def assert_right_outliers(
    catalogue: Catalogue, found: dict[str, bytes], latent: np.ndarray, *, min_points: int = 10
) -> None:
    """Outlier quantiles are those of a float64 computation."""
    labels = {row[0]: row[1] for row in categorical_rows(found["manifest/obs"])}
    for name, octets in found.items():
        if name.endswith("/outliers"):
            key = name.removeprefix("obs/").removesuffix("/outliers")
            dtype = catalogue[f"obs/{key}/codes"].dtype
            codes = np.frombuffer(found[f"obs/{key}/codes"], dtype)
            right = naive_outliers(latent, codes, len(labels[key]), min_points)
            np.testing.assert_array_equal(np.frombuffer(octets, np.float32), right, err_msg=key)


def assert_right_centroids(
    catalogue: Catalogue, found: dict[str, bytes], *, quantile: float = 0.95, min_points: int = 10
) -> None:
    """Centroids are those of a float64 computation on the points."""
    for key, labels, dtype, _, centroids, *_ in categorical_rows(found["manifest/obs"]):
        codes = np.frombuffer(found[f"obs/{key}/codes"], dtype)
        for dimension, rows in centroids.items():
            points = np.frombuffer(found[f"points/{dimension}d"], np.float32)
            points = points.reshape(len(codes), -1)
            right = naive_centroids(points, codes, len(labels), quantile, min_points)
            listed = [
                [labels[place], int(row[-1]), row[:-1]]
                for place, row in enumerate(right)
                if row[-1]
            ]
            told = [[row["category"], row["n_points"]] for row in rows]
            assert told == [row[:2] for row in listed], key
            for row, (_, _, position) in zip(rows, listed, strict=True):
                np.testing.assert_allclose(row["position"], position, rtol=0, atol=1e-12)


def categorical_rows(manifest: bytes) -> list[Any]:
    """The rows of the category fields of an obs manifest."""
    rows: list[Any] = strict_json(manifest)["_categoricalFields"]
    return rows


def cells_of(values: np.ndarray, codes: np.ndarray, category: int) -> np.ndarray:
    return np.flatnonzero((codes == category) & np.isfinite(values).all(axis=1))


def naive_centroids(
    values: np.ndarray, codes: np.ndarray, n_categories: int, quantile: float, min_points: int
) -> np.ndarray:
    """float64 (n_categories, d + 1): position and cells averaged, 0 of them for none."""
    rows = []
    for category in range(n_categories):
        points = values[cells_of(values, codes, category)].astype(np.float64)
        if len(points) < min_points:
            rows.append([*[np.nan] * values.shape[1], 0])
            continue
        distances = np.sqrt(((points - points.mean(axis=0)) ** 2).sum(axis=1))
        near = points[distances <= np.quantile(distances, quantile)]
        if len(points) > min_points and len(near) >= min_points:
            points = near
        rows.append([*points.mean(axis=0), len(points)])
    return np.array(rows).reshape(n_categories, values.shape[1] + 1)


def naive_outliers(
    values: np.ndarray, codes: np.ndarray, n_categories: int, min_points: int
) -> np.ndarray:
    """float32 (n_cells,): rank of the distance over the size of the category."""
    out = np.full(len(codes), np.nan, np.float32)
    for category in range(n_categories):
        cells = cells_of(values, codes, category)
        points = values[cells].astype(np.float64)
        if len(points) < min_points:
            continue
        distances = np.sqrt(((points - points.mean(axis=0)) ** 2).sum(axis=1))
        ranks = np.searchsorted(np.sort(distances), distances, side="right")
        out[cells] = ranks.astype(np.float32) / len(points)
    return out

"""Every declared kind survives netCDF-4 and zarr unchanged: values, types, dimensions, attributes."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr

from featattn_neuro.io.store import load_kind, open_kind, save_kind
from featattn_neuro.schema import KINDS, STATUS, Kind, Variable

SIZES = {"stimulus": 5, "unit": 3, "other_unit": 3, "trial": 7, "task": 2, "layer": 4}
WORDS = ["", "a|b", "Ünïcode µ", "conv1/003", " spaced ", "long " * 20]


def _values(name: str, spec: Variable, shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    size = int(np.prod(shape))
    if spec.dtype == "text":
        words = np.array(STATUS if name == "status" else WORDS)[np.arange(size) % 6]
        if spec.dims == (name,):
            words = np.array([f"{name} {i} ü" for i in range(size)])
        return words.reshape(shape)
    if spec.dtype == "int":
        return (np.arange(size) + (2**40 if name.startswith("n_") else 0)).reshape(shape)
    if spec.dims == (name,):
        return np.arange(size) * 1.5
    low, high = (-3.0 if spec.low is None else spec.low), (3.0 if spec.high is None else spec.high)
    values = rng.uniform(low, high, shape).astype(np.float32 if len(shape) > 1 else np.float64)
    if size > 1:
        values.flat[1] = np.nan
    return values


def example(kind: Kind, *, full: bool) -> xr.Dataset:
    """A valid Dataset of the kind: what it must have, or everything that it may have."""
    rng = np.random.default_rng(0)

    def built(table: dict[str, Variable]) -> dict[str, tuple[tuple[str, ...], np.ndarray]]:
        result = {}
        for name, spec in table.items():
            if full or spec.required or not any(v.required for v in table.values()):
                dims = (spec.extra if full else ()) + spec.dims
                result[name] = (dims, _values(name, spec, tuple(SIZES.get(d, 2) for d in dims), rng))
        return result

    variables = built(dict(kind.variables))
    used = {d for dims, _ in variables.values() for d in dims}
    coordinates = {n: v for n, v in built(dict(kind.coordinates)).items() if set(v[0]) <= used}
    attrs = {"kind": kind.name, "seed": 3, "bound": 0.25, "note": "größer: ≥ 1\nsecond line", "empty": ""}
    dataset = xr.Dataset(variables, coords=coordinates, attrs=attrs)
    first = next(iter(variables))
    dataset[first].attrs.update(units="spikes/s", order=2, scale=0.5)
    return kind.check(dataset)


@pytest.mark.parametrize("suffix", [".nc", ".zarr"])
@pytest.mark.parametrize("full", [False, True], ids=["required", "all"])
@pytest.mark.parametrize("name", list(KINDS))
def test_every_kind_survives(tmp_path, name, full, suffix):
    before = example(KINDS[name], full=full)
    kept = before.copy(deep=True)
    after = load_kind(save_kind(before, tmp_path / f"a{suffix}"), name)
    xr.testing.assert_identical(before, kept)
    assert isinstance(after.attrs.pop("provenance"), str)
    xr.testing.assert_identical(after, before)
    for key, variable in before.variables.items():
        assert after[key].dims == variable.dims
        # text is as wide as its longest word, whatever width it came with
        same = after[key].dtype.kind == "U" if variable.dtype.kind == "U" else after[key].dtype == variable.dtype
        assert same, key
        for attr, value in variable.attrs.items():
            assert type(after[key].attrs[attr]) is type(value)
    assert {k: type(v) for k, v in after.attrs.items()} == {k: type(v) for k, v in before.attrs.items()}


@pytest.mark.parametrize("suffix", [".nc", ".zarr"])
def test_lazy_opening_gives_the_same(tmp_path, suffix):
    before = example(KINDS["ACTIVATIONS"], full=True)
    path = save_kind(before, tmp_path / f"a{suffix}")
    with open_kind(path) as opened:
        assert opened["response"].chunks is not None
        assert opened["layer"].chunks is None
        opened.attrs.pop("provenance")
        xr.testing.assert_identical(opened.compute(), before)


@pytest.mark.parametrize("suffix", [".nc", ".zarr"])
def test_object_text_and_dask_chunks_are_normalised(tmp_path, suffix):
    before = example(KINDS["SELECTIVITY"], full=False)
    loose = before.assign(status=before["status"].astype(object)).chunk(unit=2)
    after = load_kind(save_kind(loose, tmp_path / f"a{suffix}"))
    assert after["status"].dtype.kind == "U"
    xr.testing.assert_equal(after, before)

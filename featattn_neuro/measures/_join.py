"""Joining by id, never by position: what every measure needs before it computes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, TypeVar

import numpy as np
import xarray as xr

from featattn_neuro.errors import DataError
from featattn_neuro.schema import CONSTITUENT_SEPARATOR

Labelled = TypeVar("Labelled", xr.Dataset, xr.DataArray)


def same_ids(wanted: Iterable[Any], came: Iterable[Any], *, what: str, wanted_name: str, came_name: str) -> None:
    """Raise `DataError` unless both hold the same ids, in any order."""
    first, second = {str(i) for i in wanted}, {str(i) for i in came}
    missing, extra = sorted(first - second), sorted(second - first)
    if missing or extra:
        parts = [f"{len(missing)} of {wanted_name} absent from {came_name} (first: {missing[0]!r})"] if missing else []
        parts += [f"{len(extra)} of {came_name} absent from {wanted_name} (first: {extra[0]!r})"] if extra else []
        raise DataError(
            f"wanted the same {what} ids in {wanted_name} and {came_name}; came {' and '.join(parts)}; "
            f"compute both from the same {what}s, or select the common ones first"
        )


def aligned(array: xr.DataArray, dim: str, ids: Sequence[Any] | np.ndarray, *, name: str, to: str) -> xr.DataArray:
    """`array` in the order of `ids` along `dim`; `DataError` if the sets of ids differ."""
    if dim not in array.coords:
        raise DataError(
            f"{name} has no ids along {dim!r}, so it could only be matched by position; give it the coordinate {dim!r}"
        )
    index = array.get_index(dim)
    if not index.is_unique:
        raise DataError(f"ids along {dim!r} of {name} must be unique; {index[index.duplicated()][0]!r} came twice")
    same_ids(ids, index, what=dim, wanted_name=to, came_name=name)
    return array.sel({dim: np.asarray(ids)})


def single(dataset: xr.Dataset, dims: Iterable[str], *, name: str) -> xr.Dataset:
    """`dataset` without the given dimensions, which may have length 1; `DataError` that says what to select if not."""
    for dim in dims:
        if dim not in dataset.dims:
            continue
        if dataset.sizes[dim] != 1:
            values = [str(v) for v in dataset[dim].values] if dim in dataset.coords else []
            shown = f" ({', '.join(values[:8])})" if values else ""
            raise DataError(
                f"{name} has {dataset.sizes[dim]} values along {dim!r}{shown}; wanted one; "
                f"select it first, for example .sel({dim}={values[0]!r})"
                if values
                else f"{name} has {dataset.sizes[dim]} values along {dim!r}; wanted one; select it first"
            )
        dataset = dataset.isel({dim: 0}, drop=True)
    return dataset


def source_ids(dataset: xr.Dataset) -> np.ndarray:
    """Sorted unique ids of the sources of the stimuli: the constituents where given, else the stimuli themselves."""
    texts = dataset["constituents" if "constituents" in dataset.coords else "stimulus"].values
    ids = {part for text in texts for part in str(text).split(CONSTITUENT_SEPARATOR)}
    return np.array(sorted(ids), dtype=str)


def layers_of(units: xr.Dataset | xr.DataArray) -> list[str]:
    """Names of the layers in the order in which units come."""
    return list(dict.fromkeys(str(layer) for layer in units["layer"].values))


def without_scalars(dataset: xr.Dataset) -> xr.Dataset:
    """`dataset` without the scalar coordinates that `.sel(arm=…)` leaves behind and no kind declares."""
    if not isinstance(dataset, xr.Dataset):
        return dataset  # the kind's check says what was wanted
    return dataset.drop_vars([name for name, coordinate in dataset.coords.items() if coordinate.ndim == 0])


def by_filter(dataset: Labelled, *, name: str) -> Labelled:
    """`dataset` with the ids of filters, "layer/channel", in place of those of one call, "layer@call/channel".

    A module that runs several times is recorded call by call, while a gain belongs to its filters and acts in every
    call: the two join on the filter. `DataError` if several calls of a filter are there: which one is meant, or how
    they would be joined, is not for us to choose.
    """
    if "call" not in dataset.coords or "layer" not in dataset.coords or dataset["call"].dims != ("unit",):
        return dataset
    ids = []
    for unit, layer, call in zip(
        dataset["unit"].values.tolist(), dataset["layer"].values.tolist(), dataset["call"].values.tolist(), strict=True
    ):
        marked = f"{layer}@{call}/"
        ids.append(f"{layer}/{unit.removeprefix(marked)}" if unit.startswith(marked) else unit)
    if len(set(ids)) < len(ids):
        calls = {
            one: set(dataset["call"].values[dataset["layer"].values == one].tolist()) for one in layers_of(dataset)
        }
        layer, ran = next((layer, sorted(ran)) for layer, ran in calls.items() if len(ran) > 1)
        raise DataError(
            f"{name} has calls {ran} of layer {layer!r}, and a gain is one for all of them; choose "
            f"one, for example with .isel(unit=(ds.layer != {layer!r}) | (ds.call == {ran[0]}))"
        )
    return dataset.assign_coords(unit=ids)


def seen_first(values: np.ndarray, axis: int) -> np.ndarray:
    """The values along `axis` with those that are NaN behind the others, which keep their order."""
    return np.take_along_axis(values, np.argsort(~np.isfinite(values), axis=axis, kind="stable"), axis)

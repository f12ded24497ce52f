"""What all converters share: responses checked once on the way out, and put together and checked on the way in."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import xarray as xr

from featattn_neuro.errors import DataError, choose
from featattn_neuro.schema import ACTIVATIONS, NEURAL, Kind, metadata_name

ROW_KINDS: dict[str, Kind] = {"ACTIVATIONS": ACTIVATIONS, "NEURAL": NEURAL}
"""Kinds that have a layout elsewhere: rows are stimuli (ACTIVATIONS) or presentations (NEURAL), columns units."""

ROWS = {"ACTIVATIONS": "stimulus", "NEURAL": "trial"}


def checked_responses(responses: xr.Dataset) -> tuple[xr.DataArray, str]:
    """`response` (rows, unit) with its coordinates and the Dataset's attributes, and the kind's name."""
    given = responses
    if isinstance(responses, xr.Dataset):
        given = responses.drop_vars([name for name, coord in responses.coords.items() if coord.ndim == 0])
    name = getattr(given, "attrs", {}).get("kind") or (
        "NEURAL" if "trial" in getattr(given, "dims", ()) else "ACTIVATIONS"
    )
    kind = ROW_KINDS[choose(str(name), ROW_KINDS, "kind to convert")]
    dataset = kind.check(given)
    response = dataset["response"]
    if "reduction" in response.dims:
        if response.sizes["reduction"] > 1:
            names = [str(one) for one in response["reduction"].values]
            raise DataError(
                f"the activations hold {len(names)} reductions ({', '.join(names)}); these layouts hold one; "
                f"select it first: activations.sel(reduction={names[0]!r})"
            )
        response = response.isel(reduction=0, drop=True)
    attrs = {key: value for key, value in dataset.attrs.items() if key != "schema_version"}
    left = sorted(str(other) for other in dataset.data_vars if other != "response")
    if left:
        attrs["left_out"] = ", ".join(left)
    return response.transpose(ROWS[kind.name], "unit").assign_attrs(attrs), kind.name


def build(
    values: Any,
    rows: Mapping[str, Any],
    units: Mapping[str, Any],
    *,
    kind: str,
    attrs: Mapping[Any, Any] | None = None,
    names: str = "came",
    theirs: Mapping[str, str] | None = None,
) -> xr.Dataset:
    """A checked Dataset of `kind` from values (rows, units) and coordinates by name.

    Text, numbers and flags along `stimulus` are metadata and come along. Other coordinates that the kind does not
    declare are left out and named in the attribute `left_out`; text is made text, `theirs` says what a name was before
    it became ours;
    `channel` counts the units of a layer where it is not given (`layer` may come as `area`).
    """
    table = ROW_KINDS[choose(kind, ROW_KINDS, "kind")].coordinates
    row_dim = ROWS[kind]
    columns = {"row": dict(rows), "unit": dict(units)}
    if kind == "ACTIVATIONS":
        _complete_units(columns["unit"])
    elif "trial" not in columns["row"]:
        columns["row"]["trial"] = np.arange(np.shape(values)[0])
    coordinates, left = {}, []
    for place, dim in (("row", row_dim), ("unit", "unit")):
        for name, column in columns[place].items():
            if name in table and table[name].dims == (dim,):
                coordinates[name] = (dim, _typed(np.asarray(column), table[name].dtype, name))
                continue
            metadata = _metadata(name, column) if dim == "stimulus" else None
            if metadata is None:
                left.append(name)
            else:
                coordinates[name] = (dim, metadata)
    for name in ("stimulus", "unit"):
        if name not in coordinates:
            raise DataError(f"wanted an id for every {name}; {names} none; name the column or descriptor that holds it")
    array = np.asarray(values)
    array = array if array.dtype.kind == "f" else array.astype(np.float64)
    plain = {str(key): plain_attribute(value) for key, value in (attrs or {}).items() if key != "left_out"}
    kept = {key: value for key, value in plain.items() if value is not None}
    dropped = sorted({(theirs or {}).get(name, name) for name in left} | (plain.keys() - kept.keys()))
    told = {"left_out": ", ".join(dropped)} if dropped else {}
    dataset = xr.Dataset({"response": ((row_dim, "unit"), array)}, coordinates, {**kept, **told, "kind": kind})
    _unique_rows(dataset, kind)
    return ROW_KINDS[kind].check(dataset)


def decide_kind(kind: str | None, attrs: Mapping[Any, Any], units: Mapping[str, Any]) -> str:
    """The kind that is named; else what the attribute `kind` says; else NEURAL, unless the units have a layer."""
    if kind is not None:
        return choose(kind, ROW_KINDS, "kind")
    said = attrs.get("kind")
    if said in ROW_KINDS:
        return str(said)
    return "ACTIVATIONS" if "layer" in units else "NEURAL"


def _complete_units(units: dict[str, Any]) -> None:
    if "layer" not in units:
        if "area" not in units:
            raise DataError(
                "ACTIVATIONS need the layer (or area) of each unit; came neither; add it, or convert to kind='NEURAL'"
            )
        units["layer"] = units.pop("area")
    if "channel" not in units:
        layer = np.asarray(units["layer"]).astype(str)
        channel = np.zeros(layer.size, dtype=np.int64)
        for name in np.unique(layer):
            channel[layer == name] = np.arange((layer == name).sum())
        units["channel"] = channel


def _metadata(name: str, column: Any) -> np.ndarray | None:
    """A column as metadata of stimuli; None where its name or its type does not serve."""
    values = np.asarray(column)
    if values.dtype.kind in "OT" and all(isinstance(one, str) for one in values.tolist()):
        values = values.astype(str)
    try:
        metadata_name(name)
    except DataError:
        return None
    return values if values.dtype.kind in "fiubU" else None


def _typed(column: np.ndarray, dtype: str, name: str) -> np.ndarray:
    if dtype == "text":
        return np.array([str(value) for value in column.tolist()], dtype=str)
    try:
        if dtype == "int":
            whole = column.astype(np.int64)
            if not np.array_equal(whole, column.astype(np.float64), equal_nan=False):
                raise ValueError("not whole numbers")
            return whole
        return column.astype(np.float64)
    except (TypeError, ValueError) as error:
        raise DataError(f"{name!r} must be {dtype}; came {column[:3].tolist()} … ({error}); convert it") from error


def plain_attribute(value: Any) -> str | int | float | None:
    """Text or number as a plain Python value (files give numpy's), None for anything else."""
    if isinstance(value, np.generic):
        value = value.item()
    return value if isinstance(value, str | int | float) and not isinstance(value, bool) else None


def _unique_rows(dataset: xr.Dataset, kind: str) -> None:
    index = dataset.get_index(ROWS[kind])
    if kind == "ACTIVATIONS" and not index.is_unique:
        twice = index[index.duplicated()][0]
        raise DataError(
            f"stimulus {str(twice)!r} comes more than once; presentations are of kind NEURAL: pass kind='NEURAL' and "
            "average with measures.selectivity.average_trials"
        )

"""Arrays of responses: .npy with sidecar tables, .npz and .mat files, netCDF and zarr of other tools."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import NDArray

from featattn_neuro.errors import ConfigError, DataError, StoreError, choose
from featattn_neuro.io.neural_checks import check_padding, check_unit_ids, say
from featattn_neuro.io.neural_columns import (
    TRIAL_COLUMNS,
    UNIT_COLUMNS,
    NeuralOptions,
    trial_coordinates,
    unit_coordinates,
)
from featattn_neuro.schema import NEURAL

DIMS = ("trial", "unit", "stimulus", "repeat")
"""Names of axes: responses are (trial, unit), or (stimulus, repeat, unit), in any order."""

_RESPONSE_NAMES = ("response", "responses")

_ABSENT = ("nan", "na", "n/a", "null", "none")
"""What stands for no value in a column of numbers; among names these are names."""


def read_npy(path: Path, options: NeuralOptions) -> xr.Dataset:
    """NEURAL of `X.npy` with the tables `X.trials.csv` (or `X.stimuli.csv`, one row per stimulus, where repeats are an
    axis) and, where there is one, `X.units.csv`; rows in the order of the axis."""
    values = _loaded(path)
    dims = _dims(values.shape, options, {}, path.name)
    rows = "stimulus" if "repeat" in dims else "trial"
    sidecar = path.with_suffix(".stimuli.csv" if rows == "stimulus" else ".trials.csv")
    if not sidecar.is_file():
        raise StoreError(
            f"wanted a table with one row per {rows} beside {path.name!r}; there is no {sidecar.name!r}; write "
            "it, with "
            "a column stimulus"
        )
    unit_path = path.with_suffix(".units.csv")
    units = _table(unit_path) if unit_path.is_file() else None
    return array_to_neural(values, dims, _table(sidecar), units, options, where=path.name)


def read_npz(path: Path, options: NeuralOptions) -> xr.Dataset:
    """NEURAL of an .npz archive: an array of responses and one array for each thing known of trials or units."""
    if not path.is_file():
        raise StoreError(f"wanted an .npz archive; there is none at {str(path)!r}; check the path")
    try:
        with np.load(path, allow_pickle=False) as archive:
            content = {name: archive[name] for name in archive.files}
    except (OSError, ValueError, zipfile.BadZipFile, EOFError) as error:
        raise StoreError(
            f"{str(path)!r} cannot be read as arrays without pickled objects ({error}); save plain arrays"
        ) from error
    return variables_to_neural(content, options, where=path.name)


def variables_to_neural(content: Mapping[str, Any], options: NeuralOptions, *, where: str) -> xr.Dataset:
    """NEURAL of named arrays: the responses (option `variable`, else called response or responses) and columns.

    An array of one axis that is as long as there are trials (or stimuli) is a column of theirs, one as long as there
    are units a column of units; where both are equally long, the column's name decides.
    """
    arrays = {name: array for name, value in content.items() if (array := _as_array(value)).size}
    name = _response_name(arrays, options, where)
    values = _numbers(arrays.pop(name), f"{name!r} of {where}")
    columns = {key: _column(value) for key, value in arrays.items() if _is_column(value)}
    dims = _dims(values.shape, options, columns, where)
    rows = "stimulus" if "repeat" in dims else "trial"
    lengths = {dim: values.shape[dims.index(dim)] for dim in (rows, "unit")}
    of_units = {"unit", *UNIT_COLUMNS, *(options.columns.get(one, one) for one in ("unit", *UNIT_COLUMNS))}
    row_table, unit_table = pd.DataFrame(index=range(lengths[rows])), pd.DataFrame(index=range(lengths["unit"]))
    of_units -= set(TRIAL_COLUMNS)
    for key, column in columns.items():
        if len(column) == lengths["unit"] and (key in of_units or lengths[rows] != lengths["unit"]):
            unit_table[key] = column
        elif len(column) == lengths[rows]:
            row_table[key] = column
    return array_to_neural(values, dims, row_table, unit_table, options, where=where)


def array_to_neural(
    values: NDArray[Any],
    dims: Sequence[str],
    rows: pd.DataFrame,
    units: pd.DataFrame | None,
    options: NeuralOptions,
    *,
    where: str,
) -> xr.Dataset:
    """NEURAL of responses over named axes and a table for the rows (trials, or stimuli where repeats are an axis)."""
    row_dim = "stimulus" if "repeat" in dims else "trial"
    sizes = dict(zip(dims, values.shape, strict=True))
    units = pd.DataFrame(index=range(sizes["unit"])) if units is None else units
    for what, table, dim in (("rows", rows, row_dim), ("units", units, "unit")):
        if len(table) != sizes[dim]:
            raise DataError(
                f"wanted one row per {dim} ({sizes[dim]}) in the table of {what} of {where}; came {len(table)}; "
                "they are "
                "matched in order, so every one needs its row"
            )
    unit_columns = unit_coordinates(_named_units(units, options), options, where=where)
    check_unit_ids(unit_columns["unit"], where=where)
    kept, row_columns, found = trial_coordinates(rows, options, where=where)
    values = values.astype(np.float64) if values.dtype.kind != "f" else values
    found += check_padding(values, dims, where=where)
    if row_dim == "stimulus":
        response, row_columns = _unrolled(
            np.moveaxis(values, [dims.index(d) for d in ("stimulus", "repeat", "unit")], [0, 1, 2])[kept], row_columns
        )
    else:
        response = np.moveaxis(values, dims.index("unit"), 1)[kept]
    coordinates: dict[str, Any] = {
        "trial": np.arange(len(response)),
        "unit": unit_columns.pop("unit"),
        **{name: ("trial", column) for name, column in row_columns.items()},
        **{name: ("unit", column) for name, column in unit_columns.items()},
    }
    stated = "as in the file"
    attrs = {
        "kind": "NEURAL", "units": options.response_units or stated, "window": stated, "baseline": stated,
        "source": where, **say(found, where=where),
    }  # fmt: skip
    return NEURAL.check(xr.Dataset({"response": (("trial", "unit"), response)}, coordinates, attrs))


def _named_units(units: pd.DataFrame, options: NeuralOptions) -> pd.DataFrame:
    """Units without a column for their ids are numbered in order."""
    if "unit" in units or "unit" in options.columns:
        return units
    return units.assign(unit=[f"unit/{number:04d}" for number in range(len(units))])


def _unrolled(values: NDArray[Any], columns: dict[str, NDArray[Any]]) -> tuple[NDArray[Any], dict[str, NDArray[Any]]]:
    """(stimulus, repeat, unit) to (trial, unit); presentations that no unit was recorded in are no trials."""
    n_stimuli, n_repeats, n_units = values.shape
    flat = values.reshape(-1, n_units)
    shown = ~np.isnan(flat).all(axis=1)
    repeated = {name: np.repeat(column, n_repeats)[shown] for name, column in columns.items()}
    repeated["repetition"] = np.tile(np.arange(n_repeats), n_stimuli)[shown]
    return flat[shown], repeated


def _dims(
    shape: tuple[int, ...], options: NeuralOptions, columns: Mapping[str, Sequence[Any]], where: str
) -> list[str]:
    """Names of the axes: as the caller says; for two axes (trial, unit), turned if only that fits the columns."""
    if options.dims is not None:
        dims = [choose(str(one), DIMS, "name of an axis") for one in options.dims]
        if sorted(dims) not in (["trial", "unit"], ["repeat", "stimulus", "unit"]) or len(dims) != len(shape):
            raise ConfigError(
                "wanted dims as ('trial', 'unit') or ('stimulus', 'repeat', 'unit') in some order for the array "
                "of shape "
                f"{shape} of {where}; came {tuple(dims)}; name its axes"
            )
        return dims
    if len(shape) != 2:
        raise DataError(
            f"the responses of {where} have shape {shape}; which axis is what? Pass dims=, for example "
            "dims=('unit', 'stimulus', 'repeat')"
        )
    names = options.stimulus_names() or ["stimulus"]
    length = next((len(columns[name]) for name in names if name in columns), None)
    if length is not None and length != shape[0] and length == shape[1]:
        return ["unit", "trial"]
    return ["trial", "unit"]


def _response_name(arrays: Mapping[str, NDArray[Any]], options: NeuralOptions, where: str) -> str:
    tables = [
        name
        for name, value in arrays.items()
        if value.ndim in (2, 3) and min(value.shape) > 1 and value.dtype.kind in "fiu"
    ]
    if options.variable is not None:
        return choose(options.variable, arrays, f"array of {where}")
    named = [name for name in arrays if name in _RESPONSE_NAMES]
    if named:
        return named[0]
    shown = (
        ", ".join(f"{name!r} {arrays[name].shape}" for name in tables) or f"none among {', '.join(arrays) or 'nothing'}"
    )
    raise DataError(
        f"which array of {where} holds the responses? None is called response; candidates: {shown}; pass variable=NAME"
    )


def _as_array(value: Any) -> NDArray[Any]:
    """A list of cells as one axis: those with a single number are that number, others stay whatever they are."""
    if not isinstance(value, list):
        return np.asarray(value)
    items = [one.ravel()[0] if isinstance(one, np.ndarray) and one.size == 1 else one for one in value]
    if all(np.ndim(one) == 0 for one in items):
        return np.array(items)
    found = np.empty(len(items), dtype=object)
    found[:] = items
    return found


def _is_column(value: NDArray[Any]) -> bool:
    plain = value.dtype != object or all(np.ndim(one) == 0 for one in value.ravel())
    return plain and (value.ndim == 1 or (value.ndim == 2 and 1 in value.shape))


def _column(value: NDArray[Any]) -> list[Any]:
    """One axis as a list."""
    return list(value.ravel().tolist())


def _numbers(values: NDArray[Any], what: str) -> NDArray[Any]:
    if values.dtype.kind not in "fiub" or not values.size:
        raise DataError(f"wanted numbers in {what}; came {values.dtype} of shape {values.shape}; choose another array")
    if np.isinf(values.astype(np.float64)).any():
        raise DataError(f"wanted finite responses (NaN = not recorded) in {what}; some are infinite; mend them")
    return values


def _loaded(path: Path) -> NDArray[Any]:
    if not path.is_file():
        raise StoreError(f"wanted an array of responses; there is none at {str(path)!r}; check the path")
    try:
        values = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise StoreError(
            f"{str(path)!r} cannot be read as a plain array ({error}); save it with numpy.save, without objects"
        ) from error
    return _numbers(values, path.name)


def _table(path: Path) -> pd.DataFrame:
    """A sidecar table as text: 001 and 1 are two names, and None may be the name of a category."""
    try:
        table = pd.read_csv(path, dtype=str, keep_default_na=False)
    except (OSError, ValueError) as error:
        raise DataError(f"{str(path)!r} is not a readable CSV table ({error}); correct it") from error
    return table.apply(_without_absent)


def _without_absent(column: pd.Series) -> pd.Series:
    absent = column.str.strip().str.lower().isin([*_ABSENT, ""])
    numbers = pd.to_numeric(column[~absent], errors="coerce")
    return column.mask(absent, "") if len(numbers) and numbers.notna().all() else column

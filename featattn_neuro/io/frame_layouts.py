"""Responses as pandas tables, and back: tidy (one row per response) and wide (one column per unit)."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from featattn_neuro.errors import DataError
from featattn_neuro.io.layouts import ROW_KINDS, ROWS, build, checked_responses, decide_kind


def to_tidy(responses: xr.Dataset) -> pd.DataFrame:
    """One row per stimulus (or trial) and unit, with all coordinates as columns and `response` last.

    Parameters
    ----------
    responses : ACTIVATIONS or NEURAL; one reduction. NaN responses keep their rows.

    Raises
    ------
    DataError : several reductions. ConfigError, SchemaError : another kind.

    >>> unit = {"unit": ["conv/0"], "layer": ("unit", ["conv"]), "channel": ("unit", [0])}
    >>> recorded = xr.Dataset({"response": (("stimulus", "unit"), [[3.0], [5.0]])}, unit | {"stimulus": ["a", "b"]})
    >>> to_tidy(recorded)[["stimulus", "unit", "response"]].values.tolist()
    [['a', 'conv/0', 3.0], ['b', 'conv/0', 5.0]]
    """
    response, kind = checked_responses(responses)
    rows, units = response.shape
    columns = {}
    for name, column in _by_dim(response, ROWS[kind]).items():
        columns[name] = np.repeat(column, units)
    for name, column in _by_dim(response, "unit").items():
        columns[name] = np.tile(column, rows)
    columns["response"] = response.values.ravel()
    return _with_attrs(pd.DataFrame(columns), response.attrs)


def from_tidy(frame: pd.DataFrame, *, kind: str | None = None) -> xr.Dataset:
    """A tidy table as ACTIVATIONS or NEURAL.

    Parameters
    ----------
    frame : columns `response`, `unit`, `stimulus` and, for NEURAL, `trial`; others that the kind declares become
        coordinates and must be the same in all rows of a stimulus, trial or unit; in ACTIVATIONS, so does any other
        column that is the same in all rows of a stimulus. The rest is left out and named in the attribute `left_out`.
        Rows in any order; stimuli and units come in the order of their first row.
    kind : None = what `frame.attrs["kind"]` says, else NEURAL if there is a column `trial`, else ACTIVATIONS.

    Raises
    ------
    DataError : a column missing, a pair of stimulus and unit twice, or (ACTIVATIONS) absent; a NEURAL pair that is
    absent is NaN: the unit was not recorded.

    >>> table = pd.DataFrame({"stimulus": ["a", "b"], "unit": "conv/0", "layer": "conv", "response": [3.0, 5.0]})
    >>> from_tidy(table).response.values.tolist()
    [[3.0], [5.0]]
    """
    wanted = kind or frame.attrs.get("kind") or ("NEURAL" if "trial" in frame else "ACTIVATIONS")
    wanted = decide_kind(str(wanted), {}, {})
    row_dim = ROWS[wanted]
    for name in dict.fromkeys(("response", "unit", "stimulus", row_dim)):
        if name not in frame:
            raise DataError(
                f"a tidy {wanted} table needs the column {name!r}; came {list(frame.columns)}; rename or add it"
            )
    row, row_ids = pd.factorize(frame[row_dim])
    unit, unit_ids = pd.factorize(frame["unit"])
    place = row.astype(np.int64) * len(unit_ids) + unit
    if (row < 0).any() or (unit < 0).any():
        raise DataError(f"columns {row_dim!r} and 'unit' must be filled in every row; an id is missing; drop such rows")
    if len(np.unique(place)) < len(place):
        first = frame[pd.Series(place).duplicated().to_numpy()].iloc[0]
        raise DataError(
            f"{row_dim} {str(first[row_dim])!r} and unit {str(first['unit'])!r} come more than once; "
            "average them, or give presentations a column 'trial'"
        )
    response = frame["response"].to_numpy()
    if wanted == "ACTIVATIONS" and len(place) < len(row_ids) * len(unit_ids):
        hole = int(np.setdiff1d(np.arange(len(row_ids) * len(unit_ids)), place)[0])
        raise DataError(
            f"{len(row_ids) * len(unit_ids) - len(place)} responses are absent, the first of stimulus "
            f"{str(row_ids[hole // len(unit_ids)])!r}, unit {str(unit_ids[hole % len(unit_ids)])!r}; add them as NaN"
        )
    values = np.full(
        len(row_ids) * len(unit_ids), np.nan, dtype=response.dtype if response.dtype.kind == "f" else float
    )
    values[place] = response
    table = ROW_KINDS[wanted].coordinates
    columns: dict[str, dict[str, Any]] = {row_dim: {row_dim: row_ids}, "unit": {"unit": unit_ids}}
    others = [str(name) for name in frame.columns if name not in ("response", "unit", row_dim)]
    for name in others:
        dim = "unit" if name in ("layer", "area") or (name in table and table[name].dims == ("unit",)) else row_dim
        declared = name in table or name == "area"
        codes, count = (unit, len(unit_ids)) if dim == "unit" else (row, len(row_ids))
        try:
            columns[dim][name] = _per_id(frame[name], codes, count, name, dim)
        except DataError:
            if declared:
                raise
            columns[dim][name] = np.empty(count, dtype=object)  # of no row alone: left out
    return build(
        values.reshape(len(row_ids), len(unit_ids)), columns[row_dim], columns["unit"], kind=wanted,
        attrs=frame.attrs, names="the table has",
    )  # fmt: skip


def to_wide(responses: xr.Dataset) -> pd.DataFrame:
    """Rows = stimuli (or trials), columns = units, ids as labels; `row_table` and `unit_table` hold the rest.

    Raises
    ------
    DataError : several reductions. ConfigError, SchemaError : another kind.

    >>> unit = {"unit": ["conv/0"], "layer": ("unit", ["conv"]), "channel": ("unit", [0])}
    >>> recorded = xr.Dataset({"response": (("stimulus", "unit"), [[3.0], [5.0]])}, unit | {"stimulus": ["a", "b"]})
    >>> to_wide(recorded).loc["b", "conv/0"].item()
    5.0
    """
    response, kind = checked_responses(responses)
    index = pd.Index(response[ROWS[kind]].values, name=ROWS[kind])
    columns = pd.Index(response["unit"].values.astype(str), name="unit")
    return _with_attrs(pd.DataFrame(response.values.copy(), index=index, columns=columns), response.attrs)


def row_table(responses: xr.Dataset) -> pd.DataFrame:
    """What is known of each stimulus (or trial), indexed by its id: a column per coordinate, rows as they come.

    Raises
    ------
    DataError : several reductions. ConfigError, SchemaError : another kind.

    >>> unit = {"unit": ["conv/0"], "layer": ("unit", ["conv"]), "channel": ("unit", [0])}
    >>> recorded = xr.Dataset({"response": (("stimulus", "unit"), [[3.0]])}, unit | {"stimulus": ["a"]})
    >>> row_table(recorded).index.tolist()
    ['a']
    """
    response, kind = checked_responses(responses)
    return pd.DataFrame(_by_dim(response, ROWS[kind])).set_index(ROWS[kind])


def unit_table(responses: xr.Dataset) -> pd.DataFrame:
    """What is known of each unit, indexed by its id: a column per coordinate, rows as the units come.

    Raises
    ------
    DataError : several reductions. ConfigError, SchemaError : another kind.

    >>> unit = {"unit": ["conv/0"], "layer": ("unit", ["conv"]), "channel": ("unit", [0])}
    >>> recorded = xr.Dataset({"response": (("stimulus", "unit"), [[3.0]])}, unit | {"stimulus": ["a"]})
    >>> unit_table(recorded).index.tolist()
    ['conv/0']
    """
    response, _ = checked_responses(responses)
    return pd.DataFrame(_by_dim(response, "unit")).set_index("unit")


def from_wide(
    frame: pd.DataFrame, *, units: pd.DataFrame, rows: pd.DataFrame | None = None, kind: str | None = None
) -> xr.Dataset:
    """A wide table as ACTIVATIONS or NEURAL.

    Parameters
    ----------
    frame : rows = stimuli or trials, columns = units; ids as labels.
    units : one row per unit, indexed by its id in any order: layer, channel, … (area, subject for NEURAL).
    rows : one row per stimulus or trial, likewise; NEURAL needs its column `stimulus`.
    kind : None = what `frame.attrs["kind"]` says, else NEURAL if the index is called `trial`, else ACTIVATIONS.

    Raises
    ------
    DataError : a row or unit that the tables do not describe, or that comes twice; a column called as the ids are
        (`unit`; `stimulus` or `trial`) that says otherwise than the index.

    >>> units = pd.DataFrame({"layer": ["conv"]}, index=["conv/0"])
    >>> from_wide(pd.DataFrame({"conv/0": [3.0, 5.0]}, index=["a", "b"]), units=units).response.values.tolist()
    [[3.0], [5.0]]
    """
    wanted = kind or frame.attrs.get("kind") or ("NEURAL" if frame.index.name == "trial" else "ACTIVATIONS")
    wanted = decide_kind(str(wanted), {}, {})
    row_dim = ROWS[wanted]
    described = _described(rows if rows is not None else pd.DataFrame(index=frame.index), frame.index, row_dim)
    columns = _described(units, frame.columns, "unit")
    return build(
        frame.to_numpy(), {row_dim: frame.index.to_numpy(), **described}, {"unit": frame.columns.to_numpy(), **columns},
        kind=wanted, attrs=frame.attrs, names="the tables have",
    )  # fmt: skip


def _by_dim(response: xr.DataArray, dim: str) -> dict[str, np.ndarray]:
    """Coordinates along `dim`, its ids first."""
    names = [dim, *(str(name) for name, coord in response.coords.items() if coord.dims == (dim,) and name != dim)]
    return {name: response[name].values for name in names}


def _with_attrs(frame: pd.DataFrame, attrs: dict[Any, Any]) -> pd.DataFrame:
    frame.attrs.update(attrs)
    return frame


def _per_id(column: pd.Series, codes: np.ndarray, count: int, name: str, dim: str) -> np.ndarray:
    """The one value of `column` for each id."""
    values = column.to_numpy()
    first = np.full(count, -1, dtype=np.int64)
    first[codes[::-1]] = np.arange(len(codes))[::-1]
    kept = values[first]
    same = (values == kept[codes]) | (pd.isna(values) & pd.isna(kept[codes]))
    if not np.asarray(same).all():
        row = int(np.flatnonzero(~np.asarray(same))[0])
        raise DataError(
            f"column {name!r} must have one value per {dim}; row {row} says {values[row]!r}, an earlier one "
            f"{kept[codes[row]]!r}; correct it, or drop the column"
        )
    return kept


def _described(table: pd.DataFrame, ids: pd.Index, what: str) -> dict[str, np.ndarray]:
    if not ids.is_unique or not table.index.is_unique:
        twice = ids[ids.duplicated()] if not ids.is_unique else table.index[table.index.duplicated()]
        raise DataError(f"ids along {what!r} must be unique; {str(twice[0])!r} came more than once; drop the copies")
    missing = ids.difference(table.index)
    if len(missing):
        raise DataError(f"the table of {what}s lacks {len(missing)} (first: {str(missing[0])!r}); add their rows")
    ordered = table.loc[ids]
    if what in ordered:
        own, other = ids.astype(str).to_numpy(), ordered[what].astype(str).to_numpy()
        if (own != other).any():
            row = int(np.flatnonzero(own != other)[0])
            raise DataError(
                f"the table that describes each {what} has a column {what!r} that says otherwise than its index "
                f"({other[row]!r} for {own[row]!r}); drop or rename it, or make it the index of both tables"
            )
    return {str(name): ordered[name].to_numpy() for name in ordered.columns if name != what}

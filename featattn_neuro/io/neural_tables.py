"""Long tables of responses: one row per trial and unit, in a CSV or parquet file or a pandas DataFrame."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import NDArray

from featattn_neuro.errors import DataError, StoreError
from featattn_neuro.io.neural_checks import check_codes, say
from featattn_neuro.io.neural_columns import (
    NUMBERS,
    TRIAL_COLUMNS,
    UNIT_COLUMNS,
    NeuralOptions,
    as_text,
    candidates,
    taken_by_name,
)
from featattn_neuro.io.parquet import read_parquet
from featattn_neuro.schema import NEURAL

_KINDS: dict[str, type] = {
    "trial": int, "unit": str, "stimulus": str, "response": float, **TRIAL_COLUMNS, **UNIT_COLUMNS
}  # fmt: skip


def read_table(source: Path | pd.DataFrame, options: NeuralOptions) -> xr.Dataset:
    """NEURAL of a long table with columns trial, unit, stimulus, response and what else is known; see `read_neural`."""
    name = str(source) if isinstance(source, Path) else "the table"
    raw = _loaded(source) if isinstance(source, Path) else source
    table = _checked(raw, name, options)
    table, found = _without_codes(table, name, options)
    key = ["session", "trial"] if "session" in table else ["trial"]
    twice = table.duplicated([*key, "unit"])
    if twice.any():
        first = table[twice].iloc[0]
        raise DataError(f"{name!r} gives trial {first['trial']} of unit {first['unit']!r} twice; keep one")
    per_trial = ["stimulus", *(c for c in TRIAL_COLUMNS if c in table and c not in key)]
    trials = _one_each(table, key, per_trial, name).sort_values(key, ignore_index=True)
    units = _one_each(table, ["unit"], [c for c in UNIT_COLUMNS if c in table], name)
    row = pd.MultiIndex.from_frame(trials[key]).get_indexer(pd.MultiIndex.from_frame(table[key]))
    column = pd.Index(units["unit"]).get_indexer(pd.Index(table["unit"]))
    response = np.full((len(trials), len(units)), np.nan)
    response[row, column] = table["response"].to_numpy()
    if "repetition" not in trials:
        within = [c for c in ("session", "stimulus") if c in trials]
        trials["repetition"] = trials.groupby(within).cumcount()
    number = trials["trial"].to_numpy()
    coordinates: dict[str, Any] = {
        # numbers that start again in each session cannot be ids
        "trial": number if np.unique(number).size == number.size else np.arange(number.size),
        "unit": units["unit"].to_numpy().astype(str),
        "stimulus": ("trial", trials["stimulus"].to_numpy().astype(str)),
    }
    for columns, frame, dim in ((TRIAL_COLUMNS, trials, "trial"), (UNIT_COLUMNS, units, "unit")):
        for one, kind in columns.items():
            if one in frame:
                coordinates[one] = (dim, frame[one].to_numpy().astype(kind))
    attrs = {
        "kind": "NEURAL",
        "units": options.response_units or "as in the table",
        "window": "as in the table",
        "baseline": "as in the table",
        "source": Path(name).name,
        **say(found, where=name),
    }
    return NEURAL.check(xr.Dataset({"response": (("trial", "unit"), response)}, coords=coordinates, attrs=attrs))


def _loaded(path: Path) -> pd.DataFrame:
    if not path.is_file():
        raise StoreError(f"wanted a table of responses; there is none at {str(path)!r}; check the path")
    if path.suffix.lower() == ".csv":
        try:
            return pd.read_csv(path, dtype=str, keep_default_na=False)
        except (OSError, ValueError) as error:
            raise DataError(f"{str(path)!r} is not a readable CSV table ({error}); correct it") from error
    return read_parquet(path, repr(str(path)))


def _checked(raw: pd.DataFrame, name: str, options: NeuralOptions) -> pd.DataFrame:
    """The columns that are wanted, by our names, converted; errors name the column and the line."""
    stimulus = options.stimulus_names() or ["stimulus"]
    present = [str(column) for column in raw.columns]
    sources = {ours: ours for ours in _KINDS if taken_by_name(raw, ours)} | dict(options.columns)
    wanted = {"trial": "trial", "unit": sources.get("unit", "unit"), "response": "response"}
    needed = [wanted["trial"], wanted["unit"], *stimulus, wanted["response"], *options.columns.values()]
    missing = [column for column in dict.fromkeys(needed) if column not in present]
    if missing:
        shown = ""
        if missing[0] == "stimulus":
            guesses = candidates(raw, ["trial", "unit", "response"])
            shown = f", or say which column names the stimulus: stimulus_column={guesses[0]}" if guesses else ""
        raise DataError(
            f"wanted columns {', '.join(dict.fromkeys(needed))} in {name!r}; there is no {missing[0]!r}, came "
            f"{', '.join(present)}; rename or add it{shown}"
        )
    if not len(raw):
        raise DataError(f"{name!r} has no rows; add responses")
    texts = raw.map(lambda value: "" if value is None or value is pd.NA or value != value else as_text(value))
    table = pd.DataFrame({ours: texts[theirs] for ours, theirs in sources.items() if ours != "stimulus"})
    for one in stimulus:
        _converted(texts[one].rename("stimulus" if len(stimulus) == 1 else one), str, name, needed=True)
    table["stimulus"] = texts[stimulus].agg("/".join, axis=1) if len(stimulus) > 1 else texts[stimulus[0]]
    ordered = table[[one for one in _KINDS if one in table]].copy()
    for ours in map(str, ordered.columns):
        ordered[ours] = _converted(ordered[ours], _KINDS[ours], name, needed=ours in ("unit", "stimulus"))
    return ordered


def _without_codes(table: pd.DataFrame, name: str, options: NeuralOptions) -> tuple[pd.DataFrame, list[str]]:
    coded = np.zeros(len(table), dtype=bool)
    numbers = pd.to_numeric(table["stimulus"], errors="coerce")
    columns = {"stimulus": numbers} if numbers.notna().all() else {}
    columns |= {one: table[one] for one in NUMBERS if one in table}
    for one, column in columns.items():
        values = np.where(coded, np.nan, column.to_numpy(dtype=float))
        coded |= check_codes(values, options.codes(one), name=one, where=repr(name), coordinate=one)
    if coded.all():
        raise DataError(f"every row of {name!r} holds a code; nothing is left; check sentinels")
    said = [f"{int(coded.sum())} rows with codes were left out"] if coded.any() else []
    return table[~coded].reset_index(drop=True), said


def _converted(column: pd.Series, kind: type, name: str, *, needed: bool) -> pd.Series:
    """Text to numbers where the column is one; an empty response or level is NaN; the first bad line is named."""
    bad: NDArray[np.bool_]
    if kind is str:
        bad = (column == "").to_numpy(dtype=bool) & needed
        result = column.astype(object)
    else:
        result = pd.Series(pd.to_numeric(column.where(column != "", "nan"), errors="coerce")).astype(float)
        number = result.to_numpy(dtype=float)
        bad = np.isnan(number) & ~column.str.lower().isin(["", "nan"]).to_numpy(dtype=bool) | np.isinf(number)
        if kind is int:
            bad |= np.isnan(number) | (number != np.round(number))
    if bad.any():
        line = int(np.flatnonzero(bad)[0])
        what = {str: "text", int: "a whole number", float: "a finite number"}[kind]
        raise DataError(
            f"wanted {what} in column {column.name!r} of {name!r}; line {line + 2} has {column.iloc[line]!r}; "
            "correct it"
        )
    return result.astype(np.int64) if kind is int else result


def _one_each(table: pd.DataFrame, key: list[str], columns: list[str], name: str) -> pd.DataFrame:
    """One row per key, in order of appearance; an error where a key comes with two values of a column."""
    distinct = table[key + columns].drop_duplicates(ignore_index=True)
    twice = distinct.duplicated(key)
    if twice.any():
        where = ", ".join(f"{k} {distinct[twice].iloc[0][k]}" for k in key)
        raise DataError(
            f"wanted one {' and one '.join(columns)} for each {' and '.join(key)} in {name!r}; {where} has two; "
            "correct it"
        )
    return distinct

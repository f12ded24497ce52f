"""Which column of a recording means what: columns are said, or taken by name; guesses are shown, never used."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from featattn_neuro.errors import ConfigError, DataError, choose
from featattn_neuro.io.neural_checks import CODED, check_codes

RESPONSE_UNITS = ("spikes", "spikes/s")

TRIAL_COLUMNS: dict[str, type] = {
    "condition": str,
    "label": str,
    "repetition": int,
    "session": str,
    "level": float,
    **dict.fromkeys(("orientation", "direction", "spatial_frequency", "phase", "contrast"), float),
}
"""Coordinates of trials that a column of the same name becomes."""

NUMBERS = tuple(name for name, kind in TRIAL_COLUMNS.items() if kind is float)
"""Those that are numbers: stimulus parameters."""

UNIT_COLUMNS: dict[str, type] = {"area": str, "subject": str}
"""Coordinates of units that a column of the same name becomes."""

_SUGGESTIVE = ("stim", "image", "picture", "object", "orient", "direction", "disparity", "frame", "cond", "label")


@dataclass(frozen=True)
class NeuralOptions:
    """What the caller of `read_neural` said; None = nothing. See there for what each means."""

    stimulus_column: str | Sequence[str] | None = None
    columns: Mapping[str, str] = field(default_factory=dict)
    window: tuple[float, float] | None = None
    baseline: tuple[float, float] | None = None
    response_units: str | None = None
    event: str | None = None
    trials: Any = None
    variable: str | None = None
    dims: Sequence[str] | None = None
    sentinels: Sequence[float] | Mapping[str, Sequence[float]] | None = None

    def __post_init__(self) -> None:
        if self.response_units is not None:
            choose(self.response_units, RESPONSE_UNITS, "unit of responses")
        for ours in self.columns:
            choose(ours, ["unit", *TRIAL_COLUMNS, *UNIT_COLUMNS], "coordinate in columns")
        for ours in self.sentinels if isinstance(self.sentinels, Mapping) else ():
            choose(ours, ["stimulus", *NUMBERS], "coordinate in sentinels")

    def only(self, *used: str, source: str, why: str) -> NeuralOptions:
        """Itself, if nothing was said beyond `used`; `ConfigError` that names what this source has no use for."""
        for one in fields(self):
            value = getattr(self, one.name)
            if one.name not in used and value is not None and value != {}:
                raise ConfigError(f"{one.name} is for {_FOR[one.name]}; {source!r} {why}; leave it out")
        return self

    def codes(self, *coordinates: str) -> list[float] | None:
        """What the caller said are codes in a column that becomes these coordinates; None = nothing."""
        if self.sentinels is None:
            return None
        if not isinstance(self.sentinels, Mapping):
            return list(self.sentinels) if not len(self.sentinels) or set(coordinates) & set(CODED) else None
        said = [self.sentinels[one] for one in coordinates if one in self.sentinels]
        return [code for codes in said for code in codes] if said else None

    def stimulus_names(self) -> list[str]:
        """The columns that name the stimulus together, [] where the caller named none."""
        if self.stimulus_column is None:
            return []
        return [self.stimulus_column] if isinstance(self.stimulus_column, str) else list(self.stimulus_column)


_FOR = {
    "stimulus_column": "tables of trials: .nwb, .csv, .parquet, .mat, .npy, .npz files, tables and pynapple objects",
    "columns": "tables of trials and units: .nwb, .csv, .parquet, .mat, .npy, .npz files, tables and pynapple objects",
    "window": "sets with spike times",
    "baseline": "sets with spike times",
    "response_units": "spike times (what to compute) and plain tables and arrays (what they hold)",
    "event": "sets with spike times and trials",
    "trials": ".nwb files (name of a table of intervals) and pynapple objects (the IntervalSet)",
    "variable": "files with several arrays (.mat, .npz)",
    "dims": "arrays without names of dimensions (.mat, .npy, .npz)",
    "sentinels": "tables of trials that may hold codes instead of values",
}


def trial_coordinates(
    table: pd.DataFrame, options: NeuralOptions, *, where: str, skip: Sequence[str] = ()
) -> tuple[NDArray[np.bool_], dict[str, NDArray[Any]], list[str]]:
    """Coordinates along `trial` from a table of trials.

    Parameters
    ----------
    table : one row per trial. options : which columns to take; else those that are called as the coordinates.
    where : how messages name the source. skip : columns that cannot name a stimulus (times, ids).

    Returns
    -------
    Which trials are kept (those with a stimulus that is no code), the coordinates of those, and what should be said.

    Raises
    ------
    DataError : no column that is called stimulus (candidates are listed), an unknown column, suspected codes.
    """
    parts = [table[name] for name in _stimulus_columns(table, options, where, skip)]
    found = []
    kept = ~np.logical_or.reduce([_missing(part) for part in parts])
    if not kept.all():
        found.append(f"{int((~kept).sum())} trials without a stimulus were left out")
    for theirs, uses in _numeric(table, parts, options).items():
        values = np.where(kept, pd.to_numeric(table[theirs], errors="coerce").to_numpy(dtype=float), np.nan)
        coded = check_codes(values, options.codes(*uses), name=theirs, where=where, coordinate=uses[0])
        if coded.any():
            found.append(f"{int(coded.sum())} trials with codes in {theirs!r} were left out")
            kept &= ~coded
    if not kept.any():
        raise DataError(f"no trial of {where} has a stimulus; check stimulus_column and sentinels")
    texts = [[as_text(value) for value in part[kept]] for part in parts]
    coordinates: dict[str, NDArray[Any]] = {"stimulus": np.array(["/".join(one) for one in zip(*texts, strict=True)])}
    for ours, kind in TRIAL_COLUMNS.items():
        column = named_column(table, options, ours, where)
        if column is not None:
            coordinates[ours] = converted(column[kept], kind, ours, where)
    if "repetition" not in coordinates:
        keys = [coordinates[name] for name in ("session", "stimulus") if name in coordinates]
        coordinates["repetition"] = pd.Series(1, range(int(kept.sum()))).groupby(keys).cumcount().to_numpy()
    return kept, coordinates, found


def unit_coordinates(table: pd.DataFrame, options: NeuralOptions, *, where: str) -> dict[str, NDArray[Any]]:
    """`unit` (from the column unit, or the index) and what else the kind knows of units."""
    column = named_column(table, options, "unit", where)
    ids = [as_text(value) for value in (table.index if column is None else column)]
    found: dict[str, NDArray[Any]] = {"unit": np.array(ids, dtype=str)}
    for ours, kind in UNIT_COLUMNS.items():
        column = named_column(table, options, ours, where)
        if column is not None:
            found[ours] = converted(column, kind, ours, where)
    return found


def named_column(table: pd.DataFrame, options: NeuralOptions, ours: str, where: str) -> pd.Series | None:
    """The column that the caller named for a coordinate (an error if it is not there), or the one of its name."""
    theirs = options.columns.get(ours)
    if theirs is None:
        return table[ours] if taken_by_name(table, ours) else None
    both = {**dict.fromkeys(TRIAL_COLUMNS, "trials"), **dict.fromkeys(("unit", *UNIT_COLUMNS), "units")}
    return table[choose(theirs, [str(c) for c in table.columns], f"column for {ours!r} of the {both[ours]} of {where}")]


def taken_by_name(table: pd.DataFrame, ours: str) -> bool:
    """Whether the table has a column of the coordinate's name; a direction in words (left, choice A) is no angle."""
    return ours in table and (ours != "direction" or _is_numeric(table[ours]))


def candidates(table: pd.DataFrame, skip: Sequence[str] = ()) -> list[str]:
    """Columns that might name the stimulus, the likeliest first, each with its number of values and some of them.

    >>> candidates(pd.DataFrame({"rt": [0.31, 0.28, 0.4, 0.33], "image": ["car", "face", "car", "face"]}))
    ["'image' (2 values: car, face)"]
    """
    ranked: list[tuple[bool, int, str]] = []
    for name in map(str, table.columns):
        values = table[name]
        if name in skip or name.endswith("_time") or values.map(np.ndim).any():
            continue
        texts = [as_text(value) for value in values[~_missing(values)]]
        distinct = sorted(set(texts))
        if not 2 <= len(distinct) <= max(2, len(texts) // 2) and not _suggests(name):
            continue
        shown = ", ".join(one[:20] for one in distinct[:4]) + (", …" if len(distinct) > 4 else "")
        ranked.append((not _suggests(name), len(ranked), f"{name!r} ({len(distinct)} values: {shown})"))
    return [text for _, _, text in sorted(ranked)]


def as_text(value: Any) -> str:
    """An id as text: whole numbers without a point, bytes decoded.

    >>> as_text(3.0), as_text(b"face"), as_text(0.5)
    ('3', 'face', '0.5')
    """
    if isinstance(value, bytes):
        return value.decode("utf-8", errors="replace")
    if isinstance(value, float | np.floating) and np.isfinite(value):
        return str(int(value)) if value == int(value) else repr(float(value))
    return str(value)


def converted(column: pd.Series, kind: type, ours: str, where: str) -> NDArray[Any]:
    """Values of a coordinate as text, whole numbers or numbers; `DataError` names the first that is none."""
    if kind is str:
        return np.array(["" if missing else as_text(v) for v, missing in zip(column, _missing(column), strict=True)])
    numbers = pd.to_numeric(column, errors="coerce").to_numpy(dtype=float)
    bad = np.isinf(numbers) | (np.isnan(numbers) & ~_missing(column))
    if kind is int:
        bad |= np.isnan(numbers) | (numbers != np.round(numbers))
    if bad.any():
        row = int(np.flatnonzero(bad)[0])
        what = {int: "a whole number", float: "a number"}[kind]
        raise DataError(
            f"wanted {what} for {ours!r} in column {column.name!r} of {where}; row {row} has {column.iloc[row]!r}; "
            "correct it, or name another column in columns="
        )
    return numbers.astype(np.int64) if kind is int else numbers


def _stimulus_columns(table: pd.DataFrame, options: NeuralOptions, where: str, skip: Sequence[str]) -> list[str]:
    wanted = options.stimulus_names()
    present = [str(name) for name in table.columns]
    if wanted:
        return [choose(one, present, f"column of the trials of {where}") for one in wanted]
    if "stimulus" in present:
        return ["stimulus"]
    guesses = candidates(table, skip)
    shown = (
        "; ".join(guesses[:8]) if guesses else f"none that looks like one among {', '.join(present) or 'no columns'}"
    )
    example = f", for example stimulus_column={guesses[0].split(' ')[0]}" if guesses else ""
    raise DataError(
        f"which column of the trials of {where} names the stimulus? None is called 'stimulus'; candidates: {shown}; "
        f"say which{example} (several columns together: a list)"
    )


def _numeric(table: pd.DataFrame, parts: Sequence[pd.Series], options: NeuralOptions) -> dict[str, list[str]]:
    """Columns of numbers, and which coordinates each becomes."""
    uses: dict[str, list[str]] = {str(part.name): ["stimulus"] for part in parts if _is_numeric(part)}
    for ours in NUMBERS:
        theirs = options.columns.get(ours, ours)
        if theirs in table if ours in options.columns else taken_by_name(table, ours):
            uses.setdefault(theirs, []).append(ours)
    return uses


def _missing(column: pd.Series) -> NDArray[np.bool_]:
    empty = column.map(lambda value: isinstance(value, str | bytes) and len(value) == 0)
    return (column.isna() | empty).to_numpy(dtype=bool)


def _is_numeric(column: pd.Series) -> bool:
    there = column[~_missing(column)]
    return bool(len(there)) and bool(pd.to_numeric(there, errors="coerce").notna().all())


def _suggests(name: str) -> bool:
    return any(word in name.lower() for word in _SUGGESTIVE)

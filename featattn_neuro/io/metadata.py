"""Metadata of stimuli: a table of any columns, joined by id or path, never by order, and carried as coordinates."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import NDArray

from featattn_neuro.errors import ConfigError, DataError, StoreError, choose
from featattn_neuro.io.labels import checked_labels, without_blank_rows
from featattn_neuro.io.parquet import read_parquet
from featattn_neuro.io.stimulus_set import Stimuli
from featattn_neuro.schema import ACTIVATIONS, kind_of, metadata_name

Table = str | Path | pd.DataFrame
Column = NDArray[Any]

KEYS = ("stimulus", "stimulus_id", "id", "path")
"""Columns by which a table can be joined: content ids, or file names relative to the source of the stimuli."""

OWN_NUMBERS = "stimulus_number"
"""What a laboratory's own numbers become that stand in a column `stimulus`, the name of the dimension."""

_SEPARATORS = {".csv": ",", ".tsv": "\t", ".txt": "\t"}
_MISSING = ("", "NA", "NaN", "nan", "N/A")
_FLAGS = {"true": True, "false": False}
_CODE = re.compile(r"[+-]?0\d|\d{19}")
"""What looks like a number and is a code: 007, or more digits than a 64-bit integer holds."""
_LONG = re.compile(r"[+-]?0\d|[+-]?\d{16,}$|\d{19}")
"""The same where a whole number becomes floating point."""


def with_metadata(what: Any, table: Table, *, others: str = "error") -> Any:
    """Stimuli, or a Dataset of responses to stimuli, with the columns of a table joined to each stimulus by its id.

    Every column beside the key becomes a coordinate along `stimulus` under its own name: in what is recorded with the
    stimuli, in memory, in stores, and in what converters make of it.

    Parameters
    ----------
    what : `Stimuli`, or a Dataset whose rows are stimuli (ACTIVATIONS, SALIENCY, …); it is not altered.
    table : a DataFrame, or a file: .csv, .tsv or .txt (tab-separated), .parquet. The key is the first of the columns
        `stimulus`, `stimulus_id`, `id` (content ids) and `path` (relative to the source of the stimuli) that names a
        stimulus; an index of that name counts as a column. Numbers of your own in a column `stimulus` become
        `stimulus_number`. Rows that are empty throughout do not count. In text files a column is of numbers (empty and
        "NA" cells are missing) or of true/false where all its cells are; codes such as 007 stay text.
    others : rows that name none of the stimuli: "error", or "ignore" for a table of a larger set.

    Returns
    -------
    The same with more coordinates: text ("" where missing), numbers (NaN where missing), flags; times as ISO 8601 text.
    A column `label` or `split` becomes that of stimuli that have none; spaces around a label do not count.

    Raises
    ------
    DataError : no key column, an id twice, a stimulus without a row, rows of other stimuli, a column whose name is
        taken or that says otherwise than a coordinate that is there, a column that is neither text, numbers nor flags,
        a new label that is missing or blank.
    StoreError : no such file. ConfigError : another sort of table.

    >>> stimuli = Stimuli(id=np.array(["i", "j"]), images=np.zeros((2, 1, 3, 3), np.float32))
    >>> table = pd.DataFrame({"id": ["j", "i"], "animal": [True, False]})
    >>> with_metadata(stimuli, table).coordinates()["animal"][1].tolist()
    [False, True]
    """
    if isinstance(what, Stimuli):
        columns = metadata_columns(table, {n: v for n, (_, v) in what.coordinates().items()}, others=others)
        known = {n: columns.pop(n, getattr(what, n)) for n in ("label", "split", "path")}
        return replace(
            what, label=known["label"], split=known["split"], path=known["path"],
            parameters={**what.parameters, **columns},
        )  # fmt: skip
    if isinstance(what, xr.Dataset) and "stimulus" in what.dims:
        kind_of(what).check(what)
        known = {str(name): one.values for name, one in what.coords.items() if one.dims == ("stimulus",)}
        columns = metadata_columns(table, known, others=others)
        described = what.assign_coords({name: ("stimulus", values) for name, values in columns.items()})
        described = kind_of(what).check(described)
        described.set_close(what.close)
        return described
    raise DataError(
        f"wanted stimuli (see load_stimuli) or a Dataset with the dimension 'stimulus'; came {type(what).__name__}; "
        "load the images first, or average trials over stimuli"
    )


def metadata_columns(table: Table, known: Mapping[str, Any], *, others: str = "error") -> dict[str, Column]:
    """The columns of `table` in the order of the stimuli, without what is known already; see `with_metadata`.

    Parameters
    ----------
    known : coordinates along `stimulus` by name, `stimulus` (the ids) among them.
    """
    choose(others, ("error", "ignore"), "treatment of rows of other stimuli")
    frame, name, untyped = _loaded(table)
    key, rows = _joined(frame, known, name, others)
    frame = _typed(frame, key) if untyped else frame
    found: dict[str, Column] = {}
    for column in frame.columns:
        if column == key:
            continue
        values = _values(frame[column].iloc[rows], column, name)
        if column == "stimulus" and _are_numbers(values):
            column = OWN_NUMBERS
        if column in known:
            _agree(column, values, np.asarray(known[column]), name)
        elif column in found:
            raise DataError(f"wanted each column of {name} once; two would be called {column!r}; rename one")
        else:
            title = metadata_name(column)
            found[title] = _declared(title, values, name)
    if "label" in found:
        calls = known["path" if "path" in known else "stimulus"]
        found["label"] = checked_labels(found["label"], calls, f"column 'label' of {name}")
    return found


def _are_numbers(values: Column) -> bool:
    return values.dtype.kind in "iuf" or bool(pd.to_numeric(pd.Series(values), errors="coerce").notna().all())


def _loaded(table: Table) -> tuple[pd.DataFrame, str, bool]:
    """The table, what to call it, and whether it is of a text file, all cells text."""
    untyped = False
    if isinstance(table, pd.DataFrame):
        frame, name = table, "the table"
        if frame.index.name in KEYS and frame.index.name not in frame.columns:
            frame = frame.reset_index()
    else:
        path, name = Path(table), repr(str(table))
        frame, untyped = _read(path, name), path.suffix.lower() in _SEPARATORS
    if not frame.columns.is_unique:
        twice = frame.columns[frame.columns.duplicated()][0]
        raise DataError(f"wanted each column of {name} once; {twice!r} comes twice; rename one")
    return without_blank_rows(frame), name, untyped


def _read(path: Path, name: str) -> pd.DataFrame:
    suffix = path.suffix.lower()
    if suffix not in (*_SEPARATORS, ".parquet"):
        raise ConfigError(f"wanted metadata in a .csv, .tsv, .txt or .parquet file; came {name}; convert it")
    if not path.is_file():
        raise StoreError(f"wanted a table of metadata; there is none at {name}; check the path")
    if suffix == ".parquet":
        return read_parquet(path, name)
    try:
        # the header as a row: pandas would rename a name that comes twice
        cells = pd.read_csv(
            path, sep=_SEPARATORS[suffix], header=None, dtype=str, keep_default_na=False, encoding="utf-8-sig"
        ).fillna("")
    except (OSError, ValueError) as error:  # pandas' own errors of parsing are among the latter
        raise DataError(f"{name} is not a readable table ({error}); correct it") from error
    return cells.iloc[1:].set_axis(cells.iloc[0].str.strip().tolist(), axis=1).reset_index(drop=True)


def _typed(frame: pd.DataFrame, key: str) -> pd.DataFrame:
    """Columns of a text file, the key and those that mean text to us left alone."""
    text = {n for n, spec in ACTIVATIONS.coordinates.items() if spec.dims == ("stimulus",) and spec.dtype == "text"}
    return pd.DataFrame({n: frame[n] if n in text or n == key else _inferred(frame[n]) for n in frame.columns})


def _inferred(column: pd.Series) -> pd.Series:
    """Cells of a text file as flags or numbers where every one is; as text, word for word, otherwise."""
    missing = column.isin(_MISSING)
    present = column[~missing]
    if present.empty:
        return column.where(~missing, "")
    if not missing.any() and present.str.lower().isin(_FLAGS).all():
        return present.str.lower().map(_FLAGS).astype(bool)
    # beside a missing cell numbers are floating point, which holds 15 digits whole
    longest = _LONG if missing.any() else _CODE
    if not present.str.match(longest).any():
        numbers = pd.to_numeric(present, errors="coerce")
        if numbers.notna().all():
            return numbers if not missing.any() else numbers.reindex(column.index).astype(np.float64)
    return column


def _joined(frame: pd.DataFrame, known: Mapping[str, Any], name: str, others: str) -> tuple[str, NDArray[np.int64]]:
    """The key column, and the row of each stimulus."""
    keys = [key for key in KEYS if key in frame.columns]
    if not keys:
        raise DataError(
            f"wanted one of the columns {', '.join(KEYS)} in {name}, to join its rows to the stimuli; came "
            f"{', '.join(map(str, frame.columns))}; rename the one that holds content ids or paths"
        )
    own = {key: np.asarray(known["path" if key == "path" else "stimulus"]).astype(str)
           for key in keys if key != "path" or "path" in known}  # fmt: skip
    cells = {key: frame[key].astype(str) for key in own}
    key = next((key for key in own if cells[key].isin(own[key]).any()), None)
    if key is None:
        shown = keys[0]
        first = "" if frame.empty else f" (its first is {str(frame[shown].iloc[0])!r})"
        ours = str(np.asarray(known["path" if shown == "path" and "path" in known else "stimulus"])[0])
        raise DataError(
            f"the column {shown!r} of {name} names none of the stimuli{first}; the first stimulus is {ours!r}"
            + ("" if "path" in known or shown != "path" else ", which is no file")
            + "; join by content id or by path relative to the source"
        )
    return key, _rows(cells[key], own[key], key, name, others)


def _rows(cells: pd.Series, own: Column, key: str, name: str, others: str) -> NDArray[np.int64]:
    twice = cells[cells.duplicated()]
    if len(twice):
        raise DataError(f"wanted one row per stimulus in {name}; {key} {twice.iloc[0]!r} has two; remove one")
    rows = pd.Index(cells).get_indexer(pd.Index(own))
    missing = own[rows < 0]
    if len(missing):
        raise DataError(
            f"{name} has no row for {len(missing)} of {len(own)} stimuli, the first is {str(missing[0])!r}; add them, "
            "or select the stimuli that it describes"
        )
    extra = cells[~cells.isin(own)]
    if len(extra) and others == "error":
        raise DataError(
            f"{len(extra)} of {len(cells)} rows of {name} name no stimulus that is there, the first is "
            f"{extra.iloc[0]!r}; drop them, or pass others='ignore'"
        )
    return rows.astype(np.int64)


def _values(column: pd.Series, title: Any, name: str) -> Column:
    """One column as text, numbers or flags."""
    if isinstance(column.dtype, pd.CategoricalDtype):
        column = pd.Series(column.tolist())
    if column.dtype == object:
        column = column.infer_objects()
    missing = column.isna().to_numpy()
    types = pd.api.types
    if types.is_bool_dtype(column) and not missing.any():
        return column.to_numpy(dtype=bool)
    if types.is_numeric_dtype(column) and not types.is_bool_dtype(column) and not types.is_complex_dtype(column):
        if types.is_integer_dtype(column) and not missing.any():
            return column.to_numpy(dtype=np.uint64 if types.is_unsigned_integer_dtype(column) else np.int64)
        return column.to_numpy(dtype=np.float64, na_value=np.nan)
    if types.is_datetime64_any_dtype(column):
        return np.array(["" if pd.isna(one) else one.isoformat() for one in column], dtype=str)
    values = column.to_numpy(dtype=object)
    strange = [one for one, gap in zip(values, missing, strict=True) if not gap and not isinstance(one, str)]
    if strange:
        raise DataError(
            f"column {title!r} of {name} must hold text, numbers or true/false in every row; came {strange[0]!r} "
            f"({type(strange[0]).__name__}) beside others; convert it, or drop the column"
        )
    return np.array(["" if gap else str(one) for one, gap in zip(values, missing, strict=True)], dtype=str)


def _agree(column: str, values: Column, ours: Column, name: str) -> None:
    """A column that is there already must say the same."""
    same = values.astype(str) == ours.astype(str)
    if ours.dtype.kind in "fiu" and values.dtype.kind in "fiub":
        same = (values == ours) | ((values != values) & (ours != ours))
    if not same.all():
        row = int(np.flatnonzero(~same)[0])
        raise DataError(
            f"the stimuli have a coordinate {column!r} already, and {name} says otherwise ({ours[row]!s} is "
            f"{values[row]!s} there); rename or drop the column"
        )


def _declared(column: str, values: Column, name: str) -> Column:
    """As the type that the schema gives a coordinate of this name, if it does."""
    spec = ACTIVATIONS.coordinates.get(column)
    if spec is None or spec.dtype == "text":
        return values if spec is None else values.astype(str)
    try:
        return values.astype(np.float64 if spec.dtype == "float" else np.int64)
    except ValueError as error:
        raise DataError(
            f"column {column!r} of {name} must be {spec.dtype} ({spec.meaning}); came {values[0]!s}; rename the column"
        ) from error

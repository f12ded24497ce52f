"""Own labels from a CSV file, matched to stimuli by id or path, never by order."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import NDArray

from featattn_neuro.errors import DataError
from featattn_neuro.schema import UNREADABLE

SEPARATOR = "|"
"""Between the labels of one stimulus, where it has several."""


def checked_labels(values: Any, names: Sequence[Any], origin: str, *, unlabelled: bool = False) -> NDArray[np.str_]:
    """Labels as text, without spaces around them; where `unlabelled`, "" for what is missing.

    Parameters
    ----------
    values : one per stimulus. names : what messages call the stimuli. origin : likewise, where the labels are from.

    Raises
    ------
    DataError : a label that is missing (None, NaN) or blank, unless `unlabelled`: it would become a class of its own.

    >>> checked_labels([" cat", "cat"], "ij", "the list").tolist()
    ['cat', 'cat']
    """
    given = np.asarray(values, dtype=object)
    gaps = np.asarray(pd.isna(given))
    # numbers as numpy writes the whole array: 1 beside 2.5 is 1.0
    text = np.where(gaps, "", given) if gaps.any() else np.asarray(values)
    found = np.strings.strip(text.astype(str))
    missing = np.flatnonzero(found == "")
    if missing.size and not unlabelled:
        raise DataError(
            f"{origin} has no label for {missing.size} of {found.size} stimuli, the first is "
            f"{str(names[missing[0]])!r}; add them, or leave these stimuli out"
        )
    return found


def read_cells(path: Path, wanted: str) -> pd.DataFrame:
    """Cells of a CSV file as text, without empty rows; `DataError` (wanted …) if it cannot be read."""
    try:
        table = pd.read_csv(path, dtype=str, keep_default_na=False)
    except (OSError, ValueError) as error:
        raise DataError(f"{wanted} ({error}); check the path") from error
    return without_blank_rows(table)


def without_blank_rows(table: pd.DataFrame) -> pd.DataFrame:
    """A table without the rows in which every cell is empty, as spreadsheets leave them below the last."""
    blank = np.ones(len(table), dtype=bool)
    for name in table.columns:
        empty = table[name].isna()
        if not pd.api.types.is_numeric_dtype(table[name]):
            empty |= table[name].astype(str).str.strip() == ""
        blank &= empty.to_numpy(dtype=bool)
        if not blank.any():
            return table
    return table[~blank]


def read_labels(path: str | Path, stimuli: Any, *, unlabelled: bool = False) -> xr.DataArray:
    """Labels of stimuli from a CSV file: text over `stimulus`, in the order of the stimuli.

    Parameters
    ----------
    path : a CSV file with the columns `label` and `id` (content ids) or `path` (relative to the source of the stimuli),
        the first of the two that names a stimulus; every stimulus must be named once, others may be there too. Several
        labels of one stimulus: "cat|dog". Spaces around a label do not count.
    unlabelled : whether a label may be empty: the stimulus has none of the labels.

    Raises
    ------
    DataError : no such file, missing columns, a stimulus without a label or with two rows, an empty label
        (unless `unlabelled`).
    """
    path = Path(path)
    table = read_cells(path, f"wanted labels in a CSV file; {str(path)!r} cannot be read")
    columns = [name for name in ("id", "path") if name in table.columns]
    if not columns or "label" not in table.columns:
        raise DataError(
            f"wanted the columns label and id or path in {str(path)!r}; came {', '.join(table.columns)}; rename them"
        )
    own = {"id": stimuli.id, "path": getattr(stimuli, "path", None)}
    known = [name for name in columns if own[name] is not None]
    if not known:
        raise DataError(f"{str(path)!r} names paths, but the stimuli are no files; give their ids in a column id")
    # a column id may hold a laboratory's own numbers
    column = next((name for name in known if table[name].isin(own[name]).any()), known[0])
    twice = table[column][table[column].duplicated()]
    if len(twice):
        raise DataError(
            f"wanted one row per stimulus in {str(path)!r}; {twice.iloc[0]!r} has two; join labels with '|'"
        )
    labels = dict(zip(table[column], table["label"], strict=True))
    names = np.asarray(own[column]).astype(str)
    # what cannot be read has no id that a table could name, and is left out of what is recorded
    wanted = np.array([name in labels or not name.startswith(UNREADABLE) for name in names.tolist()], dtype=bool)
    missing = [name for name in names[wanted].tolist() if name not in labels]
    if missing:
        raise DataError(
            f"{str(path)!r} has no label for {len(missing)} of {len(names)} stimuli, the first is {missing[0]!r}; "
            "add them"
        )
    values = np.full(names.shape, "", dtype=object)
    values[wanted] = checked_labels(
        [labels[name] for name in names[wanted].tolist()], names[wanted], repr(str(path)), unlabelled=unlabelled
    )
    values = values.astype(str)
    return xr.DataArray(values, {"stimulus": np.asarray(stimuli.id)}, ("stimulus",), name="label")


def label_matrix(labels: np.ndarray) -> tuple[np.ndarray, list[str]]:
    """(K, N) bool and the K names, of texts with one label or several.

    >>> label_matrix(np.array(["cat|dog", "dog"]))[0].tolist()
    [[True, False], [True, True]]
    """
    parts = [{one.strip() for one in str(label).split(SEPARATOR) if one.strip()} for label in labels]
    names = sorted(set().union(*parts))
    return np.array([[name in part for part in parts] for name in names], dtype=bool), names

"""Own labels from a CSV file, matched to stimuli by id or path, never by order."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from featattn_neuro.errors import DataError

SEPARATOR = "|"
"""Between the labels of one stimulus, where it has several."""


def read_labels(path: str | Path, stimuli: Any, *, unlabelled: bool = False) -> xr.DataArray:
    """Labels of stimuli from a CSV file: text over `stimulus`, in the order of the stimuli.

    Parameters
    ----------
    path : a CSV file with the columns `label` and `id` (content ids) or `path` (relative to the source of the stimuli);
        every stimulus must be named once, others may be there too. Several labels of one stimulus: "cat|dog".
    unlabelled : whether a label may be empty: the stimulus has none of the labels.

    Raises
    ------
    DataError : no such file, missing columns, a stimulus without a label or with two rows, an empty label
        (unless `unlabelled`).
    """
    path = Path(path)
    try:
        table = pd.read_csv(path, dtype=str, keep_default_na=False)
    except (OSError, ValueError) as error:
        raise DataError(
            f"wanted labels in a CSV file; {str(path)!r} cannot be read ({error}); check the path"
        ) from error
    column = next((name for name in ("id", "path") if name in table.columns), None)
    if column is None or "label" not in table.columns:
        raise DataError(
            f"wanted the columns label and id or path in {str(path)!r}; came {', '.join(table.columns)}; rename them"
        )
    own = stimuli.id if column == "id" else getattr(stimuli, "path", None)
    if own is None:
        raise DataError(f"{str(path)!r} names paths, but the stimuli are no files; give their ids in a column id")
    twice = table[column][table[column].duplicated()]
    if len(twice):
        raise DataError(
            f"wanted one row per stimulus in {str(path)!r}; {twice.iloc[0]!r} has two; join labels with '|'"
        )
    known = dict(zip(table[column], table["label"], strict=True))
    missing = [name for name in map(str, own) if not (name in known if unlabelled else known.get(name))]
    if missing:
        raise DataError(
            f"{str(path)!r} has no label for {len(missing)} of {len(own)} stimuli, the first is {missing[0]!r}; "
            "add them"
        )
    found = np.array([known[str(name)] for name in own], dtype=str)
    return xr.DataArray(found, {"stimulus": np.asarray(stimuli.id)}, ("stimulus",), name="label")


def label_matrix(labels: np.ndarray) -> tuple[np.ndarray, list[str]]:
    """(K, N) bool and the K names, of texts with one label or several.

    >>> label_matrix(np.array(["cat|dog", "dog"]))[0].tolist()
    [[True, False], [True, True]]
    """
    parts = [{one.strip() for one in str(label).split(SEPARATOR) if one.strip()} for label in labels]
    names = sorted(set().union(*parts))
    return np.array([[name in part for part in parts] for name in names], dtype=bool), names

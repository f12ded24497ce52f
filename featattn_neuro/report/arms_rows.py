"""Arms in words and rounded numbers: the rows of the page."""

from __future__ import annotations

import math
from collections.abc import Container, Mapping
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from featattn_neuro.report.results import Results
from featattn_neuro.report.style import ARM_LABELS, number

_ARMS_HEADS = {
    "auc": "ROC area",
    "difference_probe": "− probe",
    "difference_ungained": "− un-gained",
    "area_updates": "area, updates",
    "area_examples": "area, examples",
    "to_criterion_updates": "updates to criterion",
    "to_criterion_examples": "examples to criterion",
    "reference_score": "reference task, on",
    "reference_score_off": "off",
    "at_end_of_search": "at an end of the search",
}


def arms_rows(tables: Mapping[str, pd.DataFrame]) -> list[dict[str, Any]]:
    """The arms over networks, for people; columns that no arm has are left out."""
    table = tables.get("arms_summary")
    if table is None:
        return []

    def cell(row: Mapping[str, Any], name: str) -> str:
        if name == "at_end_of_search":
            return "" if math.isnan(row[name]) else f"{int(row[name])} of {int(row['n_networks'])}"
        if math.isnan(row[name]):
            return ""
        if name.startswith("to_criterion"):
            return f"{row[name]:g}"
        if not name.startswith("difference_"):
            return number(row[name])
        low, high = (row[name.replace("difference_", f"difference_{end}_")] for end in ("low", "high"))
        return f"{_signed(row[name])} [{_signed(low)}, {_signed(high)}]" if math.isfinite(low) else _signed(row[name])

    there = [name for name in _ARMS_HEADS if table[name].notna().any()]
    return [
        {"arm": ARM_LABELS.get(row["arm"], row["arm"])}
        | (
            {_ARMS_HEADS[name]: cell(row, name) for name in there}
            if row["n_networks"]
            else {_ARMS_HEADS[name]: "not applicable" if name == there[:2][-1] else "" for name in there}
        )
        for row in [{str(key): value for key, value in row.items()} for row in table.to_dict("records")]
    ]


def _signed(value: float) -> str:
    """
    >>> _signed(-0.00001), _signed(0.0123)
    ('−0.0000', '+0.0123')
    """
    return f"{value:+.4f}".replace("-", "−")


def at_end_sentence(tables: Mapping[str, pd.DataFrame]) -> str:
    """Which arms chose a rate at an end of the search in most networks: they may be worth more than they show."""
    table = tables.get("arms_summary")
    if table is None or not table["at_end_of_search"].notna().any():
        return ""
    most = table[table["at_end_of_search"] > table["n_networks"] / 2]["arm"]
    if not len(most):
        return "No arm chose the smallest or largest rate that was tried in most of the networks."
    names = ", ".join(ARM_LABELS.get(arm, arm) for arm in most)
    return (
        f"Chose the smallest or largest rate that was tried in most of the networks: {names}. A better one may lie "
        "outside, so these may be worth more than is shown; see choices.csv."
    )


def trained_numbers(r: Results) -> list[dict[str, Any]]:
    """Arm and how many numbers it trains per task: once if it is so in all networks, else by network."""
    counts = {name: one["trained_numbers"] for name, one in r.scores.items() if "trained_numbers" in one}
    if not counts:
        return []
    same = len({tuple(zip(one["arm"].values.tolist(), one.values.tolist(), strict=True)) for one in counts.values()})
    columns = {"numbers trained": next(iter(counts.values()))} if same == 1 else counts
    arms = list(dict.fromkeys(str(arm) for one in counts.values() for arm in one["arm"].values))
    applies: set[str] = set()
    for one in r.scores.values():
        areas = one["auc"].transpose("arm", ...).values
        applies.update(map(str, one["arm"].values[np.isfinite(areas).reshape(len(areas), -1).any(axis=1)]))
    return [
        {"arm": ARM_LABELS.get(arm, arm)} | {what: _count(one, arm, applies) for what, one in columns.items()}
        for arm in arms
    ]


def _count(numbers: xr.DataArray, arm: str, applies: Container[str]) -> str:
    if arm not in numbers["arm"].values:
        return ""
    return f"{int(numbers.sel(arm=arm)):,}" if arm in applies else "not applicable"

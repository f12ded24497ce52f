"""Tell two result folders apart by their tables; timings and logs play no part."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from featattn_neuro.errors import StoreError


def compare(first: str | Path, second: str | Path) -> list[str]:
    """Differences between the tables of two result folders, one sentence each; empty if they are identical."""
    folders = [Path(first), Path(second)]
    tables = []
    for folder in folders:
        found = sorted(p.name for p in (folder / "tables").glob("*.csv"))
        if not found:
            raise StoreError(
                f"{folder} has no tables (tables/*.csv); let featattn run CONFIG --out {folder} finish first"
            )
        tables.append(found)
    differences = [f"{name} is only in {folders[0]}" for name in tables[0] if name not in tables[1]]
    differences += [f"{name} is only in {folders[1]}" for name in tables[1] if name not in tables[0]]
    for name in tables[0]:
        paths = [folder / "tables" / name for folder in folders]
        if name in tables[1] and paths[0].read_bytes() != paths[1].read_bytes():
            differences.append(f"{name}: {_how(*map(_table, paths))}")
    return differences


def _table(path: Path) -> pd.DataFrame:
    try:
        return pd.read_csv(path, keep_default_na=True)
    except (OSError, ValueError) as error:  # pandas' errors of parsing and of encoding are among the latter
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise StoreError(
            f"wanted a table in {str(path)!r}; it is damaged ({reason}); write it again with featattn report "
            f"{path.parent.parent}"
        ) from None


def _how(one: pd.DataFrame, other: pd.DataFrame) -> str:
    if list(one.columns) != list(other.columns):
        odd = sorted(set(one.columns) ^ set(other.columns))
        return f"other columns ({', '.join(odd) or 'in another order'})"
    if len(one) != len(other):
        return f"{len(one)} rows and {len(other)} rows"
    parts = []
    for column in one.columns:
        a, b = one[column], other[column]
        if pd.api.types.is_numeric_dtype(a) and pd.api.types.is_numeric_dtype(b):
            differs = ~((a == b) | (a.isna() & b.isna()))
            if differs.any():
                gap = (
                    float(np.nanmax(np.abs(a[differs] - b[differs])))
                    if (a[differs] - b[differs]).notna().any()
                    else float("nan")
                )
                parts.append(f"{column} in {int(differs.sum())} rows (largest gap {gap:.3g})")
        else:
            differs = a.fillna("").astype(str) != b.fillna("").astype(str)
            if differs.any():
                row = int(np.flatnonzero(differs)[0])
                parts.append(f"{column} in {int(differs.sum())} rows (row {row + 1}: {a[row]!r} and {b[row]!r})")
    return "; ".join(parts) if parts else "the same values, written differently"

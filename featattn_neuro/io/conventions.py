"""Converters to and from the layouts of other tools, so that a recording can go where a lab's analyses are.

| tool | layout | to | from |
|---|---|---|---|
| brainio / brain-score | DataArray (presentation, neuroid), flat coordinates | `to_brainio` | `from_brainio` |
| rsatoolbox | `Dataset`, measurements (observations, channels) with descriptors | `to_rsatoolbox` | `from_rsatoolbox` |
| pynapple | tuning curves, DataArray (unit, feature) | `to_pynapple` | `from_pynapple` |
| pandas, tidy | one row per response | `to_tidy` | `from_tidy` |
| pandas, wide | one column per unit, with `row_table` and `unit_table` | `to_wide` | `from_wide` |

All take and give checked Datasets: ACTIVATIONS (rows are stimuli) or NEURAL (rows are presentations); TUNING for
pynapple. Ids are text and are what things are joined by. What a layout or kind has no place for is left out and named
in the attribute `left_out`. A round trip gives back values, dtypes, ids, coordinates and attributes.
"""

from __future__ import annotations

from featattn_neuro.io.frame_layouts import from_tidy, from_wide, row_table, to_tidy, to_wide, unit_table
from featattn_neuro.io.peer_layouts import (
    from_brainio,
    from_pynapple,
    from_rsatoolbox,
    to_brainio,
    to_pynapple,
    to_rsatoolbox,
)

__all__ = [
    "from_brainio",
    "from_pynapple",
    "from_rsatoolbox",
    "from_tidy",
    "from_wide",
    "row_table",
    "to_brainio",
    "to_pynapple",
    "to_rsatoolbox",
    "to_tidy",
    "to_wide",
    "unit_table",
]

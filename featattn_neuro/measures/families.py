"""Correction for multiple comparisons on labelled p-values: the family is named by its dimensions, and m is kept."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import xarray as xr

from featattn_neuro.arrays.multiplicity import METHODS, adjust, family_size
from featattn_neuro.errors import DataError, choose


def adjust_family(p: xr.DataArray, *, family: str | Sequence[str], method: str = "holm") -> xr.Dataset:
    """Adjusted p-values, one family for every combination of the dimensions that the family does not name.

    Parameters
    ----------
    p : p-values in [0, 1] over named dimensions; NaN = not tested.
    family : dimension or dimensions whose hypotheses are corrected together, for example ("layer", "unit"). There is no
        default: who corrects must say over what.
    method : "holm", "bonferroni", "bh" or "by", see `featattn_neuro.arrays.multiplicity.adjust`.

    Returns
    -------
    Dataset: `p`, `p_adjusted` (NaN in, NaN out, the others unaffected) and `m` over the other dimensions, the number
    of hypotheses tested in each family. Attributes `family` and `method`.

    >>> import xarray as xr
    >>> table = xr.DataArray([[0.01, 0.5], [0.03, float("nan")]], dims=("task", "unit"))
    >>> found = adjust_family(table, family="unit", method="bonferroni")
    >>> found.p_adjusted.values.tolist(), found.m.values.tolist()
    ([[0.02, 1.0], [0.03, nan]], [2, 1])
    """
    choose(method, METHODS, "method")
    dims = [family] if isinstance(family, str) else [str(name) for name in family]
    absent = [name for name in dims if name not in p.dims]
    if absent or not dims:
        raise DataError(f"the family must name dimensions of p, which are {p.dims}; came {dims}")
    others = [str(name) for name in p.dims if name not in dims]
    ordered = p.transpose(*others, *dims)
    shape = ordered.shape[: len(others)]
    flat = np.asarray(ordered.values, dtype=np.float64).reshape(int(np.prod(shape)), -1)
    adjusted = np.array([adjust(row, method) for row in flat]).reshape(ordered.shape)
    sizes = np.array([family_size(row) for row in flat], dtype=np.int64).reshape(shape)
    found = xr.Dataset({"p": ordered, "p_adjusted": ordered.copy(data=adjusted), "m": (tuple(others), sizes)})
    return found.transpose(*p.dims).assign_attrs(family=", ".join(dims), method=method)

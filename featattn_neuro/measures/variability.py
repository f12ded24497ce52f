"""How much neurons vary from trial to trial of one stimulus, alone and together: Fano factor and noise correlation."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import xarray as xr

from featattn_neuro.arrays.variability import fano_factor, noise_correlation
from featattn_neuro.errors import DataError, choose
from featattn_neuro.measures._join import without_scalars
from featattn_neuro.measures.tuning import tuning
from featattn_neuro.schema import NEURAL, TUNING

CONDITIONS = ("stimulus", "condition")
"""What makes two trials the same, where the caller does not say: those of them that the recording has."""


def response_variability(
    neural: xr.Dataset,
    *,
    by: Sequence[str] = (),
    min_mean: float = 0.5,
    ddof: int = 1,
    pairs: bool | None = None,
) -> xr.Dataset:
    """Fano factor of each neuron, and noise correlation of each pair, over trials of one and the same stimulus.

    Parameters
    ----------
    neural : NEURAL, spike counts (not rates, no baseline subtracted), stimuli repeated.
    by : coordinates of the trials that together say which trials are repeats of each other; none = stimulus, and
        condition where there is one. Trials without a value of one of them ("" or NaN) are left out. Images of a class
        are no repeats: what differs between them is signal.
    min_mean : levels with a mean count at or below it are left out of `fano`.
    ddof : of the variance of counts.
    pairs : whether noise correlations are computed; None = where the units were recorded together.

    Returns
    -------
    TUNING over those levels: `fano_level` (unit, level), NaN at mean 0 or below two trials; `fano` (unit), the median
    of
    its levels with a mean count above `min_mean`, NaN without any; with pairs, `noise_correlation` (unit, other_unit),
    responses z-scored within level (NaN for pairs with fewer than three shared trials), and `n_shared`. The attribute
    `fano_median_levels` is the median over all unit × level cells above `min_mean`, which is not the median over units.

    Raises
    ------
    DataError : rates, fractions, negative responses, no repeats, or pairs of units that were recorded one at a time.

    Notes
    -----
    Fano 1947; Tolhurst, Movshon & Dean 1983; Bair, Zohary & Newsome 2001.

    >>> trials = {"trial": [0, 1, 2, 3], "unit": ["a"], "stimulus": ("trial", ["x", "x", "y", "y"])}
    >>> counts = xr.Dataset({"response": (("trial", "unit"), [[1.0], [3.0], [4.0], [4.0]])}, trials)
    >>> response_variability(counts, pairs=False).fano_level.values.tolist()
    [[1.0, 0.0]]
    """
    checked = NEURAL.check(without_scalars(neural))
    together = int(checked.attrs.get("simultaneous", 1)) == 1
    if pairs and not together:
        raise DataError("these units were recorded one at a time (simultaneous = 0); pairs of them share no noise")
    values = checked["response"].transpose("trial", "unit").values.astype(np.float64)
    _check_counts(values, checked)
    names = _same_trials(checked, by)
    shown = checked.assign_coords(label=("trial", names))
    curves = tuning(shown, level="label", test="none")
    values, names = values[names != ""], names[names != ""]
    levels = curves["level_name"].values.astype(str)
    row = np.searchsorted(levels, names)
    fano = np.full((values.shape[1], levels.size), np.nan)
    for level in range(levels.size):
        fano[:, level] = fano_factor(values[row == level].T, ddof=ddof)
    if not np.isfinite(fano).any():
        raise DataError("variability needs trials that are repeats of each other; there are none; see by")
    counted = np.where(curves["curve"].values > min_mean, fano, np.nan)
    seen = np.isfinite(counted).any(axis=1)
    per_unit = np.full(values.shape[1], np.nan)
    per_unit[seen] = np.nanmedian(counted[seen], axis=1)
    added = {"fano_level": (("unit", "level"), fano), "fano": ("unit", per_unit)}
    attrs = {
        "parameter": " and ".join(by or _present(checked)), "min_mean": float(min_mean), "ddof": int(ddof),
        "fano_median_levels": float(np.nanmedian(counted)) if seen.any() else float("nan"),
    }  # fmt: skip
    result = curves.assign(added).assign_attrs(attrs)
    if together if pairs is None else pairs:
        result = _with_pairs(result, values, names)
    return TUNING.check(result)


def _present(checked: xr.Dataset) -> list[str]:
    return [name for name in CONDITIONS if name in checked.coords]


def _same_trials(checked: xr.Dataset, by: Sequence[str]) -> np.ndarray:
    """One name for every set of trials that repeat each other; "" where a trial has no value of what was asked for."""
    known = [str(name) for name, one in checked.coords.items() if one.dims == ("trial",) and name != "trial"]
    columns = [choose(name, known, "coordinate of the trials") for name in by] or _present(checked)
    parts = [checked[name].values.astype(str).tolist() for name in columns]
    named = np.all([_named(checked[name].values) for name in by or CONDITIONS[:1]], axis=0)
    joined = np.array([" / ".join(one) for one in zip(*parts, strict=True)])
    return np.where(named, joined, "")


def _named(values: np.ndarray) -> np.ndarray:
    return (values.astype(str) != "") & (values == values)  # NaN is not itself


def _check_counts(values: np.ndarray, checked: xr.Dataset) -> None:
    units = str(checked.attrs.get("units", ""))
    seen = values[np.isfinite(values)]
    fractions = int((seen != np.round(seen)).sum())
    if "/s" in units or "Hz" in units or fractions:
        came = f"responses in {units}" if "/s" in units or "Hz" in units else f"{fractions} that are no whole numbers"
        raise DataError(
            f"variance over mean has no meaning for rates (it changes with the unit of time); came {came}; read spike "
            "counts, response_units='spikes'"
        )
    if (values < 0).any():
        raise DataError(
            f"spike counts are not negative; {int((values < 0).sum())} responses are; read them without baseline"
        )


def _with_pairs(result: xr.Dataset, values: np.ndarray, names: np.ndarray) -> xr.Dataset:
    try:
        found = noise_correlation(values.T, names)
    except ValueError as error:
        raise DataError(f"noise correlation is not defined here: {error}") from error
    pair = ("unit", "other_unit")
    return result.assign(
        noise_correlation=(pair, np.asarray(found.correlation, dtype=np.float64)),
        n_shared=(pair, np.asarray(found.trials, dtype=np.int64)),
    ).assign_coords(other_unit=result["unit"].values)

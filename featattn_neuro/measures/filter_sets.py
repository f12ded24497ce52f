"""Causal check: silence, or boost, the filters with the highest |d'|, and others that are like them in all but d'.

This module chooses the filters (as GAINS, one gain set each) and reads the result; `api.apply_filter_sets` places the
sets on a network. A correlation between gains and d' is no cause; what a set of filters does to performance is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import xarray as xr

from featattn_neuro.arrays.resampling import t_interval, t_test
from featattn_neuro.errors import DataError, choose
from featattn_neuro.measures._join import layers_of, single, without_scalars
from featattn_neuro.measures.gain_selectivity import live_filters
from featattn_neuro.schema import GAINS, SCORES, SELECTIVITY

CONTROLS = {
    "random": "live filters outside the top set, drawn at random",
    "activation": "matched to the top set in mean activation",
    "leverage": "matched to the top set in |leverage d'|",
}
CANDIDATES = 3
"""A matched control is drawn from this many nearest filters, so that repeats differ."""
ONE_NETWORK = (
    "this network, a diagnostic: too small, since control sets share filters and filters covary; see pool_set_effects"
)


def filter_sets(
    selectivity: xr.Dataset,
    *,
    share: float = 0.1,
    factor: float = 0.0,
    controls: Sequence[str] = ("random", "activation", "leverage"),
    repeats: int = 10,
    seed: int = 0,
) -> xr.Dataset:
    """Gains that are `factor` on a chosen set of filters of every layer and 1 elsewhere.

    Parameters
    ----------
    selectivity : SELECTIVITY of the un-gained network, on stimuli that performance is not tested on; `mean_response`
        for the control "activation", `leverage_dprime` for "leverage".
    share : part of the live filters of each layer that is chosen, in (0, .5); at least one.
    factor : 0 silences, above 1 boosts; >= 0.
    controls : "random" live filters outside the top set; "activation" and "leverage" are matched to it in mean
        activation and in |leverage d'|. repeats : sets of each control. seed : of the draws.

    Returns
    -------
    GAINS, gain(gain_set, [task,] unit), all layers at once; gain sets "top", "random/0", "activation/0", … Dead filters
    are never chosen. `training_source` names the images that chose the filters. Attributes say share, factor, seed.

    Raises
    ------
    DataError : a share or factor out of range, a control whose matching variable is absent, a layer with too few live
    filters to have as many controls as top filters.
    """
    measured = SELECTIVITY.check(without_scalars(selectivity))
    if not 0 < share < 0.5 or not factor >= 0 or repeats < 1:
        raise DataError(f"wanted 0 < share < .5, factor >= 0 and repeats >= 1; came {share}, {factor}, {repeats}")
    wanted = [choose(str(name), CONTROLS, "control") for name in controls]
    matching = _matching(measured, wanted)
    score = np.atleast_2d(np.abs(measured["dprime"].transpose(..., "unit").values))
    live, layer = live_filters(measured), measured["layer"].values.astype(str)
    names = ["top", *(f"{kind}/{k}" for kind in wanted for k in range(repeats))]
    table = np.ones((len(names), *score.shape))
    rng = np.random.default_rng(seed)
    for name in layers_of(measured):
        inside = np.flatnonzero(live & (layer == name))
        count = max(1, round(share * inside.size))
        if inside.size < 2 * count + CANDIDATES:
            raise DataError(
                f"layer {name!r} has {inside.size} live filters, too few for {count} top filters and their controls; "
                "leave the layer out, or lower the share"
            )
        for row in range(len(score)):
            order = inside[np.argsort(-score[row, inside], kind="stable")]
            top, rest = order[:count], order[count:]
            table[0, row, top] = factor
            for k in range(1, len(names)):
                kind = names[k].split("/")[0]
                values = None if kind == "random" else matching[kind][row]
                table[k, row, _control(top, rest, values, rng)] = factor
    dims = ("gain_set", "task", "unit") if "task" in measured["dprime"].dims else ("gain_set", "unit")
    coordinates = {n: measured[n] for n in ("unit", "layer", "channel", "stage") if n in measured.coords}
    if "task" in dims:
        coordinates["task"] = measured["task"]
    notes = {"share": float(share), "factor": float(factor), "seed": int(seed)}
    values = {"gain": (dims, table if "task" in dims else table[:, 0])}
    if "selection_source" in measured:  # whoever applies the sets can refuse the images that chose them
        values["training_source"] = (("source",), measured["selection_source"].values)
    return GAINS.check(xr.Dataset(values, {"gain_set": names, **coordinates}, notes))


def set_effects(scores: xr.Dataset) -> pd.DataFrame:
    """What silencing or boosting the top filters did, beside each kind of control.

    Parameters
    ----------
    scores : SCORES of `apply_filter_sets`: arms "ungained", "top", "random/0", …

    Returns
    -------
    DataFrame, one row per control: `change_top` and `change_control`, mean over tasks of the ROC area minus that
    without a set (the control's also over its repeats); `difference`; `p`, two-sided, (1 + sets at least as far from
    the mean of all as the top one)/(1 + repeats); `reads`, what that p may be read as: control sets share filters with
    each other, but none with the top set, and filters that respond alike do alike, so it is too small and a diagnostic
    of one network; `repeats`; `n_tasks`. The test is `pool_set_effects`, over networks.
    """
    checked = SCORES.check(single(without_scalars(scores), ("network",), name="the scores"))
    arms = [str(arm) for arm in checked["arm"].values]
    for needed in ("ungained", "top"):
        if needed not in arms:
            raise DataError(f"wanted scores of the sets of filter_sets; the arm {needed!r} is absent")
    change = (checked["auc"] - checked["auc"].sel(arm="ungained")).mean("task", skipna=False)
    top = float(change.sel(arm="top"))
    rows = []
    for kind in CONTROLS:
        values = np.array([float(change.sel(arm=arm)) for arm in arms if arm.split("/")[0] == kind])
        if values.size == 0:
            continue
        centre = float(np.mean([*values, top]))
        further = int((np.abs(values - centre) >= abs(top - centre) - 1e-12).sum())
        rows.append(
            {
                "control": kind,
                "change_top": top,
                "change_control": float(values.mean()),
                "difference": top - float(values.mean()),
                "p": (1 + further) / (1 + values.size) if np.isfinite(values).all() and np.isfinite(top) else np.nan,
                "reads": ONE_NETWORK,
                "repeats": int(values.size),
                "n_tasks": int(checked.sizes["task"]),
            }
        )
    return pd.DataFrame(rows)


def pool_set_effects(effects: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """What the top filters do beyond each kind of control, over replicate networks.

    Parameters
    ----------
    effects : network → table of `set_effects`, networks with their own images.

    Returns
    -------
    DataFrame, one row per control: `change_top`, `change_control` and `difference`, means over networks; `ci_low`,
    `ci_high`, 95 % t interval of the difference; `p`, Student's t, two-sided; `n_networks`. NaN below two networks.

    Raises
    ------
    DataError : no network, or networks with different controls.

    >>> row = {"control": "random", "change_top": -0.3, "change_control": 0.1, "difference": -0.4}
    >>> table = pd.DataFrame([row])
    >>> found = pool_set_effects({"a": table, "b": table.assign(difference=-0.2)}).iloc[0]
    >>> found["control"], round(float(found["difference"]), 3), int(found["n_networks"])
    ('random', -0.3, 2)
    """
    kinds = {tuple(table["control"]) for table in effects.values()}
    if len(kinds) != 1:
        raise DataError(
            "wanted the same kinds of control in one network or more; came "
            f"{sorted(', '.join(one) for one in kinds) or 'no network'}; measure all networks alike"
        )
    rows = []
    for kind in kinds.pop():
        each = [table[table["control"] == kind].iloc[0] for table in effects.values()]
        values = np.array([float(one["difference"]) for one in each])
        low, high = t_interval(values)
        finite = np.isfinite(values)
        means = {
            name: float(np.mean([float(one[name]) for one, use in zip(each, finite, strict=True) if use]))
            if finite.any()
            else float("nan")
            for name in ("change_top", "change_control", "difference")
        }
        ends = {"ci_low": low, "ci_high": high, "p": t_test(values), "n_networks": int(finite.sum())}
        rows.append({"control": kind, **means, **ends})
    return pd.DataFrame(rows)


def _matching(measured: xr.Dataset, wanted: Sequence[str]) -> dict[str, np.ndarray]:
    """control → (task, unit) values that a control filter shares with the top filter it stands for."""
    found = {}
    tasks = measured.sizes.get("task", 1)
    for kind, variable in (("activation", "mean_response"), ("leverage", "leverage_dprime")):
        if kind not in wanted:
            continue
        if variable not in measured:
            raise DataError(
                f"the control {kind!r} needs {variable} in the selectivity; came without; leave the control out, or "
                "record it"
            )
        values = np.abs(measured[variable].transpose(..., "unit").values)
        found[kind] = np.broadcast_to(np.atleast_2d(values), (tasks, values.shape[-1]))
    return found


def _control(top: np.ndarray, rest: np.ndarray, values: np.ndarray | None, rng: np.random.Generator) -> np.ndarray:
    """As many filters of `rest` as of `top`: at random, or each near a top filter in `values`; none twice."""
    if values is None:
        return rng.choice(rest, size=top.size, replace=False)
    free, taken = list(rest), []
    for filter_ in rng.permutation(top):
        distance = np.abs(values[np.array(free)] - values[filter_])
        near = np.argsort(np.where(np.isfinite(distance), distance, np.inf), kind="stable")[:CANDIDATES]
        taken.append(free.pop(int(rng.choice(near))))
    return np.array(taken)

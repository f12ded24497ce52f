"""Exploratory mixed model of gains on selectivity: random intercept *and slope* per layer of each network.

Layers of one network are an ordered, fixed set and no sample; the model is shown beside the primary test, never instead
of it. With a random intercept alone, filters count as independent and half or more of true nulls are rejected.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import xarray as xr
from scipy import stats

from featattn_neuro.arrays.gain_covariance import centred_ranks
from featattn_neuro.arrays.resampling import t_interval, t_test
from featattn_neuro.errors import DataError
from featattn_neuro.measures._join import same_ids
from featattn_neuro.measures._tables import PairedLayers, paired_layers

MIN_GROUPS = 4


@dataclass(frozen=True)
class SlopeFit:
    """Result of `fit_slopes`: the fixed slope, its standard error, t on `df`, p, and whether the fit may be used.

    status : "ok"; "failed" = did not converge or no standard error (all numbers NaN); "too_few" groups.
    slope_sd : SD over groups of the random slope (0 without one). boundary : 1 where a variance was estimated as 0.
    """

    slope: float
    standard_error: float
    df: float
    p: float
    slope_sd: float
    boundary: int
    status: str


def fit_slopes(y: np.ndarray, x: np.ndarray, group: np.ndarray, *, random_slope: bool = True) -> SlopeFit:
    """y = a + b x with a random intercept, and a random slope, per group; restricted maximum likelihood.

    Parameters
    ----------
    y, x, group : (n,). group : which layer of which network an observation belongs to.
    random_slope : False = random intercept alone, for the calibration table: it rejects true nulls.

    Returns
    -------
    SlopeFit; p from t with (groups - 1) degrees of freedom, not from the normal, which is too narrow for few groups.

    Notes
    -----
    Laird & Ware 1982; statsmodels `MixedLM`. A fit that did not converge is a failed test: status "failed", all NaN.
    """
    from statsmodels.regression.mixed_linear_model import MixedLM
    from statsmodels.tools.sm_exceptions import ConvergenceWarning

    labels, index = np.unique(np.asarray(group), return_inverse=True)
    nan = float("nan")
    if labels.size < MIN_GROUPS:
        return SlopeFit(nan, nan, nan, nan, nan, 0, "too_few")
    design = np.column_stack([np.ones(len(x)), np.asarray(x, dtype=np.float64)])
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            model = MixedLM(np.asarray(y, dtype=np.float64), design, index, exog_re=design if random_slope else None)
            found = model.fit(reml=True, method=["bfgs", "lbfgs", "cg", "powell"])
        except (np.linalg.LinAlgError, ValueError):
            return SlopeFit(nan, nan, nan, nan, nan, 0, "failed")
    on_edge = any(issubclass(w.category, ConvergenceWarning) and "boundary" in str(w.message) for w in caught)
    error = float(found.bse_fe[1])
    if not found.converged or not np.isfinite(error) or error <= 0:
        return SlopeFit(nan, nan, nan, nan, nan, int(on_edge), "failed")
    slope, df = float(found.fe_params[1]), float(labels.size - 1)
    spread = float(np.sqrt(max(float(np.asarray(found.cov_re)[1, 1]), 0.0))) if random_slope else 0.0
    p = float(2 * stats.t.sf(abs(slope / error), df))
    return SlopeFit(slope, error, df, p, spread, int(on_edge), "ok")


def mixed_model(gains: Mapping[str, xr.Dataset], selectivity: Mapping[str, xr.Dataset]) -> xr.Dataset:
    """Slope of gain ranks on |d'| ranks over all networks and layers, with the t-test on layer slopes beside it.

    Parameters
    ----------
    gains, selectivity : network → GAINS (one arm) and SELECTIVITY, of the same units and tasks, any order; the tasks
        of all networks are the same, too.

    Returns
    -------
    Dataset over `task` (one entry "" without tasks): `slope` (SDs of the gain's rank in its network, per SD of
    the rank of |d'| in its layer), `standard_error`, `df`, `p`, `slope_sd`, `status`; and `layer_slope`,
    `layer_slope_low`, `layer_slope_high`, `layer_slope_p`: mean over layers in each network, then Student's t
    over networks. Attribute `label` says that it is exploratory. A layer with fewer than 8 live filters is left out.

    Raises
    ------
    DataError : no network, other networks in gains than in selectivity, other tasks in one network than in another, or
    no layer with enough live filters.

    Notes
    -----
    Ranks of |d'| are centred within each layer, so layer means cannot make a slope; groups are layers of networks.
    The null of 0 is not that of the task-mismatch test: what all tasks amplify counts here.
    """
    if set(gains) != set(selectivity) or not gains:
        raise DataError(
            "wanted gains and selectivity of the same networks, one or more; "
            f"came {sorted(gains)}, {sorted(selectivity)}"
        )
    pairs = {name: paired_layers(gains[name], selectivity[name]) for name in gains}
    tasks = next(iter(pairs.values())).tasks
    for name, pair in pairs.items():
        same_ids(tasks, pair.tasks, what="task", wanted_name="the first network", came_name=f"network {name}")
    tasks = tasks or [""]
    rows = [_one_task(pairs, task) for task in tasks]
    table = {key: ("task", np.array([row[key] for row in rows])) for key in rows[0]}
    label = "exploratory: layers of a network are no sample; the primary test is the task mismatch"
    return xr.Dataset(table, {"task": tasks}, {"label": label, "n_networks": len(pairs)})


def _one_task(pairs: Mapping[str, PairedLayers], task: str) -> dict[str, float | str]:
    y, x, group, slopes = [], [], [], []
    for name, pair in pairs.items():
        row = pair.tasks.index(task) if pair.tasks else 0
        gains = [pair.gain[layer][row] for layer in pair.layers]
        if not gains:
            slopes.append(float("nan"))
            continue
        # ranks over the whole network keep the layers' means, which the random intercept is for
        ranks = np.split(_standard_ranks(np.concatenate(gains)), np.cumsum([gain.size for gain in gains])[:-1])
        mine = []
        for layer, rank in zip(pair.layers, ranks, strict=True):
            score = _standard_ranks(pair.score[layer][row])
            if np.isfinite(score).all() and np.isfinite(rank).all():
                y.append(rank)
                x.append(score)
                group.append(np.full(rank.size, f"{name}/{layer}"))
                mine.append(float(rank @ score / (score @ score)))
        slopes.append(float(np.mean(mine)) if mine else float("nan"))
    if not y:
        raise DataError("no layer of any network has enough live filters for a slope; record more filters or stimuli")
    fit = fit_slopes(np.concatenate(y), np.concatenate(x), np.concatenate(group))
    low, high = t_interval(slopes)
    finite = np.array(slopes)[np.isfinite(slopes)]
    return {
        "slope": fit.slope,
        "standard_error": fit.standard_error,
        "df": fit.df,
        "p": fit.p,
        "slope_sd": fit.slope_sd,
        "status": fit.status,
        "layer_slope": float(finite.mean()) if finite.size else float("nan"),
        "layer_slope_low": low,
        "layer_slope_high": high,
        "layer_slope_p": t_test(slopes),
    }


def _standard_ranks(values: np.ndarray) -> np.ndarray:
    """Mid-ranks with mean 0 and SD 1; NaN where all are equal."""
    return centred_ranks(values) * np.sqrt(values.size)

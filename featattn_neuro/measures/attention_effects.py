"""What attention does to neurons, and gains to filters: one call for both."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import xarray as xr
from scipy import stats

from featattn_neuro.arrays import attention_models as kernels
from featattn_neuro.errors import DataError, choose
from featattn_neuro.measures._join import same_ids, seen_first, single, without_scalars
from featattn_neuro.measures.attention_level import (
    profile_variables,
    stimulus_levels,
    tuning_form,
    width_variables,
)
from featattn_neuro.measures.attention_slopes import layer_slopes, mean_response, preference_slope
from featattn_neuro.measures.spike_counts import in_counts
from featattn_neuro.schema import ACTIVATIONS, ATTENTION, NEURAL

CRITERIA = {
    "bic": "Bayesian information criterion",
    "likelihood_ratio": "a richer model where it is better at p <= .05, one parameter at a time (the first: .025)",
}
MAX_GROUPS = 20
"""Leave-one-stimulus-out up to so many stimuli; with more, they are left out in so many groups."""
_NEUTRAL = {"g": 1.0, "b": 0.0, "e": 1.0}
_VARIABLES = {"g": "gain", "b": "shift", "e": "exponent"}
_FEWEST = 3
GAUSSIAN_NOTE = (
    "equal variance was taken everywhere: where it grows with the mean, as that of spikes does, the criterion finds a "
    "factor several times too often"
)
TRUTH = ("true_gain", "true_shift", "true_exponent", "true_narrowing")
"""What simulated neurons carry along: the effect that they were given."""


def attention_effects(
    responses: xr.Dataset,
    attended: xr.Dataset | None = None,
    *,
    conditions: tuple[str, str] = ("unattended", "attended"),
    noise: str | None = None,
    models: Sequence[str] = tuple(kernels.MODELS),
    criterion: str = "bic",
    level: float = 0.95,
    held_out: bool = True,
    selectivity: xr.DataArray | str | None = None,
    tuning_value: xr.DataArray | str | None = None,
    parameter: xr.DataArray | str | None = None,
    form: str | None = None,
    profile: bool = True,
) -> xr.Dataset:
    """Attention index, the model of the effect (factor, added response, both, width), and feature-similarity slopes.

    Parameters
    ----------
    responses : NEURAL with the coordinate `condition`; or, with `attended`, the un-attended responses: ACTIVATIONS
        with gains off, or NEURAL.
    attended : ACTIVATIONS with gains on, or NEURAL; the same units and stimuli, any order.
    conditions : names of the unattended and the attended condition in `responses`, where `attended` is not given.
    noise : "overdispersed" (default for NEURAL: spike counts, not rates), "poisson", or "gaussian" (default for
        ACTIVATIONS, which have no noise: equal deviations in both conditions). Rates (spikes/s) are multiplied by the
        window where all trials have one `duration` and this gives whole numbers: attribute `counts_from`, and added
        responses in spikes. Gaussian noise of neurons whose variance grows with the mean, as that of spikes does, finds
        a factor several times too often (`model`, `bic`, p); intervals take the variances from the repeats, where every
        stimulus has some, and hold.
    models : of `featattn_neuro.arrays.attention_models.MODELS`.
    criterion : what chooses the model: "bic" or "likelihood_ratio". AIC is printed, it overfits.
    level : of the intervals (Wald; Student's t where the noise is estimated, from the repeats or the residuals).
    held_out : whether to leave stimuli out in turn (one each, or 20 groups), for `held_out`.
    selectivity : gives `selectivity_slope` and `selectivity_rho` per layer: values over `unit` from other responses; or
        "sparseness" or "modulation_depth" over the stimuli, from half of the unattended repeats, the index being taken
        from the other half, both ways.
    tuning_value : gives `similarity_slope` per image and layer: tuning value for the attended feature over `unit`, or
        over `stimulus` and `unit`; or "shown": the attended feature is the stimulus, tuning value = (response − mean
        over stimuli)/SD, from other repeats than the ratio.
    parameter : number that describes each stimulus (orientation, direction, …): the name of a coordinate, or over
        `stimulus`. Adds the widths of tuning curves; the profile is then over distance from the preferred level.
    form : of these curves, see `arrays.width_models.FORMS`; None = by the name: "orientation", "direction",
        spatial_frequency "log_gaussian", others "gaussian".
    profile : whether to compare shapes of the fall-off with distance from the preferred stimulus.

    Returns
    -------
    ATTENTION. `index` is per stimulus, `mean_index` that of the means over stimuli. Values of parameters that a model
    has not are 1 (gain, exponent) or 0 (shift). `bic`, `aic` and `held_out` are differences to the best model. A unit
    is "dead" (all 0), "constant" (flat tuning: factor and added response cannot be told apart), "too_few" (fewer than
    three shared stimuli) or "nonfinite" (no maximum found). `preference_slope` ranks stimuli by other repeats than it
    measures where there are repeats. `layer` is the area of neurons.

    `width_change` needs no parameter: it is e^(−½) − 1 of the model whose whole tuning is raised to a power, right
    where no part of the response is untuned. `curve_width_change` compares the half widths of curves with baseline and
    amplitude free in each condition, so that a baseline, a factor and an added response are no change of width;
    `p_width` tests it.

    `profile_ratio` is attended/unattended by distance from the preferred stimulus, mean over units of a layer;
    `profile_bic` (difference to the best) and `profile_error` (units left out) compare no fall-off, a linear one and
    one with a surround; `profile_shape` is the shape that both prefer, "" where they differ.

    Raises
    ------
    DataError : conditions, units or stimuli that are not there in both; rates or negative counts where counts are
        wanted; a parameter that is text or differs between trials of a stimulus.

    Notes
    -----
    Treue & Martinez-Trujillo 1999; McAdams & Maunsell 1999; see `arrays.attention_models`, `arrays.width_models` and
    `arrays.similarity_profile`.

    >>> import xarray as xr
    >>> unit = {"unit": ["conv/0"], "layer": ("unit", ["conv"]), "channel": ("unit", [0])}
    >>> shown = {"stimulus": ["a", "b", "c", "d"]}
    >>> off = xr.Dataset({"response": (("stimulus", "unit"), [[1.0], [2.0], [4.0], [7.0]])}, unit | shown)
    >>> found = attention_effects(off, off * 1.5)
    >>> found.model.item(), round(found.gain.sel(model_name="multiplicative").item(), 6), found.mean_index.item()
    ('multiplicative', 1.5, 0.2)
    """
    names = [choose(str(model), kernels.MODELS, "model") for model in models]
    choose(str(criterion), CRITERIA, "criterion")
    if not 0 < level < 1:
        raise DataError(f"wanted a level between 0 and 1; came {level}")
    if noise != "gaussian":
        responses, attended = in_counts(responses, attended)
    pair = _pair(responses, attended, conditions)
    kind = choose(str(noise or ("overdispersed" if pair.neural else "gaussian")), kernels.NOISES, "noise")
    _check_counts(pair, kind)
    counts = kind != "gaussian"
    values_of, parameter_name = (
        (None, "") if parameter is None else stimulus_levels(without_scalars(responses), parameter, pair.stimuli)
    )
    curve_form = tuning_form(form, parameter_name)
    groups = min(pair.stimuli.size, MAX_GROUPS) if held_out else 0
    off, on = pair.unattended, pair.attended
    fits, phi = kernels.fit_models(off, on, noise=kind, models=names, groups=groups)
    trials = (np.isfinite(off).sum(axis=(1, 2)) + np.isfinite(on).sum(axis=(1, 2))).astype(np.float64)
    # without repeats only the deviations from the shared tuning are data: one per stimulus
    observations = trials if counts else np.minimum(*(np.isfinite(v).any(axis=2).sum(axis=1) for v in (off, on)))
    status = _status(pair, fits)
    means = [mean_response(values) for values in (off, on)]
    shared = np.isfinite(means[0]) & np.isfinite(means[1])
    totals = [np.where(shared, mean, 0.0).sum(axis=1) for mean in means]
    mean_index = np.where(shared.any(axis=1), kernels.attention_index(totals[1], totals[0]), np.nan)
    values = {
        "index": (("stimulus", "unit"), kernels.attention_index(means[1], means[0]).T),
        "mean_index": ("unit", mean_index),
        "preference_slope": ("unit", preference_slope(off, on, counts=counts)),
        "dispersion": ("unit", phi),
        "status": ("unit", status),
        **_parameters(fits, level),
        **_choice(fits, observations, criterion, held_out),
    }
    layers = list(dict.fromkeys(pair.layers.tolist()))
    members = [pair.layers == layer for layer in layers]
    coordinates = {
        "unit": pair.units,
        "unit_layer": ("unit", pair.layers),
        "stimulus": pair.stimuli,
        "model_name": names,
        "layer": layers,
        **{name: ("unit", value) for name, value in pair.truth.items()},
    }
    values |= layer_slopes(
        off, on, mean_index, members, units=pair.units, stimuli=pair.stimuli, selectivity=selectivity,
        tuning_value=tuning_value, counts=counts,
    )  # fmt: skip
    attrs: dict[str, str | int | float] = {
        "noise": kind, "criterion": criterion, "level": float(level), "held_out_groups": groups,
        "conditions": ", ".join(conditions) if attended is None else "two recordings",
    }  # fmt: skip
    if pair.neural and not counts:
        attrs["noise_note"] = GAUSSIAN_NOTE
    if "counts_from" in getattr(responses, "attrs", {}):
        attrs["counts_from"] = str(responses.attrs["counts_from"])
    if values_of is not None:
        values |= width_variables(off, on, values_of, curve_form, phi if counts else None, level)
        attrs |= {"parameter": parameter_name, "form": curve_form}
    if profile:
        more, places, distance = profile_variables(off, on, members, levels=values_of, form=curve_form, counts=counts)
        values, coordinates, attrs = values | more, coordinates | places, attrs | {"distance": distance}
    if isinstance(selectivity, str):
        attrs["selectivity"] = selectivity
    return ATTENTION.check(xr.Dataset(values, coordinates, attrs | {f"model_{m}": kernels.MODELS[m] for m in names}))


@dataclass(frozen=True)
class _Pair:
    """(unit, stimulus, repeat) responses in the two conditions, NaN = missing."""

    unattended: np.ndarray
    attended: np.ndarray
    units: np.ndarray
    layers: np.ndarray
    stimuli: np.ndarray
    truth: dict[str, np.ndarray]
    neural: bool
    rates: bool


def _pair(responses: xr.Dataset, attended: xr.Dataset | None, conditions: tuple[str, str]) -> _Pair:
    first = without_scalars(responses)
    neural = isinstance(first, xr.Dataset) and "trial" in first.dims
    if attended is not None:
        second = without_scalars(attended)
        if neural != (isinstance(second, xr.Dataset) and "trial" in second.dims):
            raise DataError("both recordings must have trials, or neither; came one of each; average_trials(neural)")
    if not neural:
        if attended is None:
            raise DataError("activations have no conditions; pass the recording with gains on as the second argument")
        return _filters(first, second)
    checked = NEURAL.check(first)
    if attended is None:
        if "condition" not in checked.coords:
            raise DataError("neurons need the coordinate 'condition' over trials; there is none; add it")
        known = sorted(set(checked["condition"].values.astype(str)))
        both = [
            checked.isel(
                trial=np.flatnonzero(checked["condition"].values.astype(str) == choose(str(c), known, "condition"))
            )
            for c in conditions
        ]
    else:
        both = [checked, NEURAL.check(second)]
        units_of = [str(one.attrs.get("units", "")) for one in both]
        if units_of[0] != units_of[1]:
            raise DataError(
                f"both recordings must have the same units; came {units_of[0]!r} unattended and {units_of[1]!r} "
                "attended; read both as counts, response_units='spikes'"
            )
        same_ids(both[0]["unit"].values, both[1]["unit"].values, what="unit", wanted_name="the unattended responses",
                 came_name="the attended ones")  # fmt: skip
        both[1] = both[1].sel(unit=both[0]["unit"].values)
    ids = [sorted(set(one["stimulus"].values.astype(str))) for one in both]
    same_ids(ids[0], ids[1], what="stimulus", wanted_name="the unattended responses", came_name="the attended ones")
    stimuli, units = np.array(ids[0]), both[0]["unit"].values.astype(str)
    layers = both[0]["area"].values.astype(str) if "area" in both[0].coords else np.full(units.size, "unknown")
    truth = {n: both[0][n].values for n in TRUTH if n in both[0].coords}
    cubes = [_cube(one, stimuli) for one in both]
    rates = "/s" in str(checked.attrs.get("units", ""))
    return _Pair(cubes[0], cubes[1], units, layers, stimuli, truth, True, rates)


def _filters(off: xr.Dataset, on: xr.Dataset) -> _Pair:
    checked = [ACTIVATIONS.check(single(one, ["reduction"], name="the activations")) for one in (off, on)]
    for what in ("unit", "stimulus"):
        same_ids(checked[0][what].values, checked[1][what].values, what=what, wanted_name="the recording without gains",
                 came_name="the one with gains")  # fmt: skip
    order = {what: checked[0][what].values for what in ("unit", "stimulus")}
    cubes = [one.sel(order)["response"].transpose("unit", "stimulus").values.astype(np.float64) for one in checked]
    layers = checked[0]["layer"].values.astype(str)
    units, stimuli = (order[what].astype(str) for what in ("unit", "stimulus"))
    return _Pair(cubes[0][..., None], cubes[1][..., None], units, layers, stimuli, {}, False, False)


def _cube(neural: xr.Dataset, stimuli: np.ndarray) -> np.ndarray:
    """(unit, stimulus, repeat)."""
    row = np.searchsorted(stimuli, neural["stimulus"].values.astype(str))
    repeat = np.zeros(row.size, dtype=np.int64)
    for one in range(stimuli.size):
        repeat[row == one] = np.arange((row == one).sum())
    cube = np.full((neural.sizes["unit"], stimuli.size, repeat.max() + 1), np.nan)
    cube[:, row, repeat] = neural["response"].transpose("unit", "trial").values
    # repeats are counted over all sessions: a unit has its own in some of them
    return seen_first(cube, 2)[:, :, : max(int(np.isfinite(cube).sum(axis=2).max(initial=0)), 1)]


def _check_counts(pair: _Pair, noise: str) -> None:
    if noise == "gaussian":
        return
    seen = [values[np.isfinite(values)] for values in (pair.unattended, pair.attended)]
    if pair.rates or any((v < 0).any() or (v != np.round(v)).any() for v in seen):
        raise DataError(
            f"noise {noise!r} is that of spike counts; came rates, fractions or negative responses; multiply rates by "
            "the window in seconds (done here where all trials have one 'duration'), or pass noise='gaussian'"
        )


def _status(pair: _Pair, fits: dict[str, kernels.ModelFit]) -> np.ndarray:
    means = [mean_response(values) for values in (pair.unattended, pair.attended)]
    shared = np.isfinite(means[0]) & np.isfinite(means[1])
    found = np.full(pair.units.size, "ok", dtype="U10")
    found[~np.any([fit.converged for fit in fits.values()], axis=0)] = "nonfinite"
    with np.errstate(invalid="ignore"):
        inside = np.where(shared, means[0], np.nan)
        flat = np.nanmax(inside, axis=1, initial=-np.inf) - np.nanmin(inside, axis=1, initial=np.inf) <= 0
    found[flat] = "constant"
    found[shared.sum(axis=1) < _FEWEST] = "too_few"
    silent = np.all(
        [np.nanmax(np.abs(v), axis=(1, 2), initial=0) == 0 for v in (pair.unattended, pair.attended)], axis=0
    )
    found[silent & (shared.sum(axis=1) >= _FEWEST)] = "dead"
    return found


def _parameters(fits: dict[str, kernels.ModelFit], level: float) -> dict[str, tuple[tuple[str, str], np.ndarray]]:
    dims = ("model_name", "unit")
    # t with infinite degrees of freedom is the normal distribution; a parameter that a model has not has no error
    found: dict[str, tuple[tuple[str, str], np.ndarray]] = {
        "converged": (dims, np.stack([fit.converged for fit in fits.values()]).astype(np.int64))
    }
    for parameter, name in _VARIABLES.items():
        value, error = (
            np.stack(
                [getattr(fit, part).get(parameter, np.where(fit.converged, neutral, np.nan)) for fit in fits.values()]
            )
            for part, neutral in (("value", _NEUTRAL[parameter]), ("error", 0.0))
        )
        freedom = np.stack([fit.error_freedom.get(parameter, fit.freedom) for fit in fits.values()])
        reach = stats.t.ppf((1 + level) / 2, freedom) * error
        found |= {name: (dims, value), f"{name}_low": (dims, value - reach), f"{name}_high": (dims, value + reach)}
    return found


def _choice(
    fits: dict[str, kernels.ModelFit], observations: np.ndarray, criterion: str, held_out: bool
) -> dict[str, tuple[tuple[str, ...] | str, np.ndarray]]:
    names, dims = list(fits), ("model_name", "unit")
    bic, aic = (np.stack([table[m] for m in names]) for table in kernels.information_criteria(fits, observations))
    likelihood = np.stack([fit.log_likelihood for fit in fits.values()])
    defined = np.isfinite(bic).any(axis=0)
    chosen = np.array(names)[np.argmin(np.where(np.isfinite(bic), bic, np.inf), axis=0)]
    found: dict[str, tuple[tuple[str, ...] | str, np.ndarray]] = {
        "log_likelihood": (dims, likelihood),
        "bic": (dims, bic - _best(bic, np.nanmin)),
        "aic": (dims, aic - _best(aic, np.nanmin)),
    }
    if held_out:
        left = np.stack([fit.held_out for fit in fits.values()])
        found["held_out"] = (dims, left - _best(left, np.nanmax))
    if {"both", "multiplicative", "additive"} <= set(names):
        p = kernels.likelihood_ratio_p(fits["both"], [fits["multiplicative"], fits["additive"]])
        found["p_both"] = ("unit", p)
    if criterion == "likelihood_ratio":
        chosen = _by_likelihood_ratio(fits)
    if "width" in names:
        # a Gaussian tuning curve raised to the power e is narrower by √e
        found["width_change"] = ("unit", fits["width"].value["e"] ** -0.5 - 1)
    return {"model": ("unit", np.where(defined, chosen, "")), **found}


def _best(values: np.ndarray, pick: object) -> np.ndarray:
    filled = np.where(np.isfinite(values).any(axis=0), values, 0.0)
    best: np.ndarray = pick(filled, axis=0)  # type: ignore[operator]
    return best


def _by_likelihood_ratio(fits: dict[str, kernels.ModelFit]) -> np.ndarray:
    """From the simplest on: one more parameter at a time, each at p <= .05."""
    wanted = ("none", "multiplicative", "additive", "both")
    missing = [name for name in wanted if name not in fits]
    if missing:
        raise DataError(
            f"criterion 'likelihood_ratio' compares {', '.join(wanted)}; {missing[0]!r} is not among models"
        )
    single_ones = [fits["multiplicative"], fits["additive"]]
    one = np.where(single_ones[0].log_likelihood >= single_ones[1].log_likelihood, "multiplicative", "additive")
    # two models with one parameter each are tried: Bonferroni
    any_effect = np.min([kernels.likelihood_ratio_p(fit, [fits["none"]]) for fit in single_ones], axis=0) <= 0.025
    richer = kernels.likelihood_ratio_p(fits["both"], single_ones) <= 0.05
    chosen = np.where(any_effect, np.where(richer, "both", one), "none")
    if "width" in fits:
        narrower = kernels.likelihood_ratio_p(fits["width"], [fits["multiplicative"]]) <= 0.05
        better = fits["width"].log_likelihood > fits["both"].log_likelihood
        chosen = np.where(any_effect & narrower & richer & better, "width", chosen)
    return chosen

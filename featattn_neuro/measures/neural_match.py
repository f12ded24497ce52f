"""Layers of a network against recorded neurons, stimulus by stimulus, matched by id."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import xarray as xr
from scipy import stats

from featattn_neuro.arrays.dissimilarity import noise_ceiling
from featattn_neuro.arrays.prediction import attenuation_corrected, explained_share, split_half_reliability
from featattn_neuro.errors import DataError, choose
from featattn_neuro.measures._join import layers_of, same_ids, seen_first, single, without_scalars
from featattn_neuro.measures.match_scores import (
    COMPARISONS,
    DISTANCES,
    METHODS,
    PREDICTIVE,
    LayerScore,
    Plan,
    Reference,
    complete_repeats,
    layer_score,
    median_or_nan,
    neural_matrix,
)
from featattn_neuro.measures.selectivity import average_trials
from featattn_neuro.schema import ACTIVATIONS, DISSIMILARITY, MATCH, NEURAL

SPLITS = 100
GROUPS = 20
"""Groups of stimuli that the jackknife of a difference leaves out in turn."""
HALVES = ("first", "second")


def neural_match(
    activations: xr.Dataset,
    neural: xr.Dataset,
    *,
    methods: Sequence[str] = ("rsa", "cka", "ridge"),
    folds: int = 5,
    seed: int = 0,
    inner_folds: int = 5,
    distance: str = "correlation",
    comparison: str = "spearman",
    subjects: str = "pooled",
    layer_choice: str = "none",
    gained: xr.Dataset | None = None,
) -> xr.Dataset:
    """How well each layer matches neurons, or a published dissimilarity matrix.

    Parameters
    ----------
    activations : ACTIVATIONS, one reduction, of exactly the stimuli of `neural`, in any order.
    neural : NEURAL (averaged over trials), ACTIVATIONS-like averages of `average_trials`, or DISSIMILARITY (only "rsa"
        then). One condition; one subject, unless subjects = "each".
    methods : "rsa" (Kriegeskorte 2008), "cka" (unbiased; Song 2012), "ridge" (nested cross-validation, a penalty per
        neuron), "pls" (25 components, 10 shuffle splits with .9 for training, stratified by the stimuli's labels where
        they allow it; Schrimpf 2018).
    folds, inner_folds, seed : of ridge's nested cross-validation; the seed also of splits and halves.
    distance : of "rsa": "correlation", "euclidean" or "crossnobis" (needs repeats; variances of the noise from them).
    comparison : of "rsa": "spearman" or "kendall" (τ_a).
    subjects : "pooled" = neurons of all subjects together; "each" = the mean over subjects of the "rsa" score, with
        the lower and upper noise ceiling of Nili et al. 2014.
    layer_choice : "halves" = the layer that is best on one half of the stimuli is scored on the other half, both ways;
        "none" = no layer is chosen: choosing it on these scores would be circular.
    gained : ACTIVATIONS of the same units and stimuli with gains on; its scores and the difference are added, with a
        95 % jackknife interval over stimuli (20 groups; predictions are not refitted). Ridge divides features by their
        SD, so that a factor per filter is no change for it at the gained layer itself: what changes are later layers.

    Returns
    -------
    MATCH: `score` (layer, measure): "rsa" rank correlation of dissimilarities, "cka" centred kernel alignment (both
    over the neurons recorded with every stimulus), "ridge" and "pls" the median over neurons of held-out r (not r²).
    `ceiling` (measure) is named in `ceiling_name`: for "ridge" and "pls" the median over neurons of split-half
    reliability (Spearman–Brown), a ratio of variances; `explained` is the median of r|r|/reliability and `corrected`
    of r/√reliability; both and the ceiling are NaN where no stimulus was repeated. `neuron_score` and
    `neuron_reliability` are the values per neuron: means over the folds or splits in which the neuron varies, NaN where
    these are less than half; `n_undefined` counts the neurons that "ridge" or "pls" have no score of.

    Raises
    ------
    DataError : stimuli differ, units with and without gains differ, several conditions, responses that are not finite,
        or a method needs what did not come (neurons, repeats, two subjects; for "pls" three held-out stimuli in each
        split). "ridge" is NaN with fewer than three stimuli in a fold.
    """
    wanted = [choose(str(method), METHODS, "method") for method in methods]
    plan = Plan(
        int(folds), int(inner_folds), int(seed),
        choose(str(distance), DISTANCES, "distance"), choose(str(comparison), COMPARISONS, "comparison"),
    )  # fmt: skip
    choose(str(subjects), ("pooled", "each"), "value of subjects")
    choose(str(layer_choice), ("none", "halves"), "value of layer_choice")
    recorded = _checked(activations, "the activations")
    reference, units, reliability = _reference(neural, wanted, plan, subjects)
    same_ids(
        recorded["stimulus"].values, reference.ids, what="stimulus", wanted_name="the activations",
        came_name="the neural data",
    )  # fmt: skip
    recorded = recorded.sel(stimulus=reference.ids)
    if "label" in recorded.coords:
        reference = Reference(reference.ids, reference.neurons, reference.matrices, recorded["label"].values)
    layers = layers_of(recorded)
    found = {layer: _scores(recorded, layer, wanted, reference, plan) for layer in layers}
    result = xr.Dataset(
        {"score": (("layer", "measure"), [[one.value for one in found[layer]] for layer in layers])},
        {"layer": layers, "measure": wanted},
    )
    result = result.assign(_ceilings(wanted, reference, reliability, plan, subjects))
    result = result.assign(_per_neuron(wanted, found, reliability)) if units is not None else result
    if units is not None and "neural_unit" in result.dims:
        result = result.assign_coords(neural_unit=units)
    if layer_choice == "halves":
        result = result.assign(_chosen(recorded, layers, wanted, reference, plan)).assign_coords(half=list(HALVES))
    if gained is not None:
        others = _same_units(recorded, gained)
        again = {layer: _scores(others, layer, wanted, reference, plan) for layer in layers}
        result = result.assign(_differences(found, again, reference.ids.size, plan.seed))
    notes = {f"method_{name}": METHODS[name] for name in wanted}
    if "rsa" in wanted:
        notes |= {"distance": DISTANCES[plan.distance], "comparison": COMPARISONS[plan.comparison]}
    counts = {"n_stimuli": reference.ids.size, "folds": plan.folds, "inner_folds": plan.inner_folds, "seed": plan.seed}
    return MATCH.check(result.assign_attrs(notes | counts | {"subjects": str(subjects)}))


def _checked(activations: xr.Dataset, name: str) -> xr.Dataset:
    recorded = ACTIVATIONS.check(without_scalars(activations))
    if "reduction" in recorded["response"].dims:
        recorded = ACTIVATIONS.check(single(recorded, ["reduction"], name=name))
    if not np.isfinite(recorded["response"].values).all():
        raise DataError(f"wanted finite responses in {name}; came NaN or infinite ones; leave those units out")
    return recorded


def _same_units(recorded: xr.Dataset, gained: xr.Dataset) -> xr.Dataset:
    """The recording with gains on, in the order of the one without."""
    others = _checked(gained, "the gained activations")
    for what in ("stimulus", "unit"):
        same_ids(
            recorded[what].values, others[what].values, what=what, wanted_name="the activations",
            came_name="the gained activations",
        )  # fmt: skip
    return others.sel(stimulus=recorded["stimulus"].values, unit=recorded["unit"].values)


def _scores(
    recorded: xr.Dataset, layer: str, wanted: Sequence[str], reference: Reference, plan: Plan
) -> list[LayerScore]:
    inside = np.flatnonzero(recorded["layer"].values.astype(str) == layer)
    features = recorded["response"].isel(unit=inside).transpose("stimulus", "unit").values
    try:
        return [layer_score(method, features, reference, plan) for method in wanted]
    except ValueError as error:
        raise DataError(f"layer {layer!r} cannot be scored: {error}") from error


def _reference(
    neural: xr.Dataset, wanted: Sequence[str], plan: Plan, subjects: str
) -> tuple[Reference, np.ndarray | None, np.ndarray | None]:
    """What to compare with; ids of the neurons; their reliabilities."""
    given = without_scalars(neural)
    if getattr(neural, "attrs", {}).get("kind") == "DISSIMILARITY" or (
        isinstance(neural, xr.Dataset) and "dissimilarity" in neural
    ):
        return _matrices(given, wanted, plan, subjects), None, None
    trials = NEURAL.check(given) if isinstance(given, xr.Dataset) and "trial" in given.dims else None
    averages = ACTIVATIONS.check(given) if trials is None else average_trials(_one_condition(trials))
    neurons, ids = averages["response"].transpose("stimulus", "unit").values, averages["stimulus"].values
    repeats = None if trials is None else _by_repeat(trials)
    matrices = _neural_matrices(averages, trials, repeats, plan, subjects) if "rsa" in wanted else None
    reliability = None
    if set(wanted) & set(PREDICTIVE):
        reliability = np.full(neurons.shape[1], np.nan)
        if repeats is not None:
            rng = np.random.default_rng(plan.seed)
            reliability = split_half_reliability(repeats, splits=SPLITS, rng=rng)
    return Reference(ids, neurons, matrices), averages["unit"].values, reliability


def _matrices(neural: xr.Dataset, wanted: Sequence[str], plan: Plan, subjects: str) -> Reference:
    for method in wanted:
        if method != "rsa":
            raise DataError(f"method {method!r} needs neurons; a dissimilarity matrix came; use methods=['rsa']")
    if plan.distance == "crossnobis":
        raise DataError(
            "distance 'crossnobis' is computed from repeats; a dissimilarity matrix came; "
            "name the distance of the network's matrix: 'correlation' or 'euclidean'"
        )
    dims = ("layer",) if subjects == "each" else ("subject", "layer")
    checked = DISSIMILARITY.check(single(neural, dims, name="the dissimilarities"))
    if subjects == "each" and checked.sizes.get("subject", 1) < 2:
        raise DataError("subjects='each' needs the matrices of two subjects or more; came one; use subjects='pooled'")
    ids = checked["stimulus"].values
    same_ids(ids, checked["other_stimulus"].values, what="stimulus", wanted_name="the rows", came_name="the columns")
    values = checked["dissimilarity"].sel(other_stimulus=ids).transpose(..., "stimulus", "other_stimulus").values
    return Reference(ids, None, values.reshape(-1, ids.size, ids.size).astype(np.float64))


def _one_condition(neural: xr.Dataset) -> xr.Dataset:
    names = sorted({str(name) for name in neural["condition"].values}) if "condition" in neural.coords else []
    if len(names) > 1:
        raise DataError(
            f"wanted neurons in one condition; came {', '.join(names)}; "
            f"select one first: neural.isel(trial=(neural.condition == {names[0]!r}).values)"
        )
    return neural


def _by_repeat(neural: xr.Dataset) -> np.ndarray:
    """(stimulus, repeat, neuron), NaN where a repeat is missing; stimuli sorted by id as `average_trials` does."""
    names, row = np.unique(neural["stimulus"].values.astype(str), return_inverse=True)
    repeat = np.zeros(row.size, dtype=np.int64)
    for stimulus in range(names.size):
        repeat[row == stimulus] = np.arange((row == stimulus).sum())
    values = neural["response"].transpose("trial", "unit").values.astype(np.float64)
    trials = np.full((names.size, repeat.max() + 1, values.shape[1]), np.nan)
    trials[row, repeat] = values
    return trials


def _neural_matrices(
    averages: xr.Dataset, trials: xr.Dataset | None, repeats: np.ndarray | None, plan: Plan, subjects: str
) -> np.ndarray:
    neurons = averages["response"].transpose("stimulus", "unit").values
    folds = None
    if plan.distance == "crossnobis":
        # repeats are counted over all sessions: a neuron has its own in some of them
        folds = None if repeats is None else seen_first(np.moveaxis(repeats, 1, 0), 0)
    members = [np.ones(neurons.shape[1], dtype=bool)]
    if subjects == "each":
        of = trials["subject"].values.astype(str) if trials is not None and "subject" in trials.coords else np.array([])
        names = sorted(set(of))
        if len(names) < 2:
            raise DataError(
                f"subjects='each' needs neurons of two subjects or more, named in the coordinate 'subject'; came "
                f"{len(names)}; use subjects='pooled'"
            )
        members = [of == name for name in names]
    if plan.distance == "crossnobis":
        for m in members:
            if folds is None or complete_repeats(folds[:, :, m]).max(initial=0) < 2:
                raise DataError(
                    "distance 'crossnobis' needs neurons with every stimulus shown twice or more; came none"
                    f"{' of a subject' if subjects == 'each' else ''}; use 'correlation'"
                )
    return np.stack(
        [neural_matrix(neurons[:, m], plan.distance, None if folds is None else folds[:, :, m]) for m in members]
    )


def _ceilings(
    wanted: Sequence[str], reference: Reference, reliability: np.ndarray | None, plan: Plan, subjects: str
) -> dict[str, tuple[str, list[float]] | tuple[str, list[str]]]:
    ceiling = {name: float("nan") for name in wanted}
    low, high, names = dict(ceiling), dict(ceiling), dict.fromkeys(wanted, "none")
    for name in wanted:
        if name in PREDICTIVE and reliability is not None and np.isfinite(reliability).any():
            ceiling[name] = median_or_nan(reliability)
            names[name] = "split-half reliability (Spearman–Brown), ratio of variances: compare with r²"
        if name == "rsa" and subjects == "each" and reference.matrices is not None:
            bounds = noise_ceiling(reference.matrices, by=plan.comparison)
            low[name], high[name] = bounds.lower, bounds.upper
            names[name] = "agreement between subjects (Nili 2014): low without, high with the subject itself"
    return {
        "ceiling": ("measure", list(ceiling.values())),
        "ceiling_low": ("measure", list(low.values())),
        "ceiling_high": ("measure", list(high.values())),
        "ceiling_name": ("measure", list(names.values())),
    }


def _per_neuron(
    wanted: Sequence[str], found: dict[str, list[LayerScore]], reliability: np.ndarray | None
) -> dict[str, tuple[tuple[str, ...], np.ndarray]]:
    if reliability is None:
        return {}
    nothing = np.full(reliability.size, np.nan)
    scores = np.array(
        [[nothing if one.per_neuron is None else one.per_neuron for one in row] for row in found.values()]
    )
    summaries = {
        name: np.array([[median_or_nan(one) for one in row] for row in change(scores, reliability)])
        for name, change in (("explained", explained_share), ("corrected", attenuation_corrected))
    }
    predictive = np.isin(wanted, PREDICTIVE)
    return {
        "n_undefined": (("layer", "measure"), (np.isnan(scores).sum(axis=2) * predictive).astype(np.int64)),
        "neuron_score": (("layer", "measure", "neural_unit"), scores),
        "neuron_reliability": (("neural_unit",), reliability),
        **{name: (("layer", "measure"), value) for name, value in summaries.items()},
    }


def _chosen(
    recorded: xr.Dataset, layers: Sequence[str], wanted: Sequence[str], reference: Reference, plan: Plan
) -> dict[str, tuple[tuple[str, str], list]]:
    """Best layer on one half of the stimuli, and its score on the other half."""
    order = np.random.default_rng(plan.seed).permutation(reference.ids.size)
    halves = [np.sort(order[: order.size // 2]), np.sort(order[order.size // 2 :])]
    tables = []
    for rows in halves:
        part, mine = recorded.isel(stimulus=rows), reference.among(rows)
        tables.append([[one.value for one in _scores(part, layer, wanted, mine, plan)] for layer in layers])
    names: list[list[str]] = []
    scores: list[list[float]] = []
    for column in range(len(wanted)):
        here = [np.array(table)[:, column] for table in tables]
        best = [int(np.nanargmax(values)) if np.isfinite(values).any() else -1 for values in here]
        names.append([layers[one] if one >= 0 else "" for one in best])
        scores.append([float(here[1 - k][one]) if one >= 0 else float("nan") for k, one in enumerate(best)])
    return {"chosen_layer": (("measure", "half"), names), "chosen_score": (("measure", "half"), scores)}


def _differences(
    plain: dict[str, list[LayerScore]], gained: dict[str, list[LayerScore]], n_stimuli: int, seed: int
) -> dict[str, tuple[tuple[str, str], np.ndarray]]:
    """Scores with gains, differences, and their delete-a-group jackknife intervals over stimuli."""
    groups = min(GROUPS, n_stimuli)
    member = np.random.default_rng(seed).permutation(n_stimuli) % groups
    after = np.array([[one.value for one in row] for row in gained.values()])
    before = np.array([[one.value for one in row] for row in plain.values()])
    half = np.empty(after.shape)
    for row, (off, on) in enumerate(zip(plain.values(), gained.values(), strict=True)):
        for column, (a, b) in enumerate(zip(off, on, strict=True)):
            left = np.array([b.over(member != group) - a.over(member != group) for group in range(groups)])
            spread = (groups - 1) / groups * ((left - left.mean()) ** 2).sum()
            half[row, column] = stats.t.ppf(0.975, groups - 1) * np.sqrt(spread)
    dims = ("layer", "measure")
    return {
        "score_gained": (dims, after),
        "difference": (dims, after - before),
        "difference_low": (dims, after - before - half),
        "difference_high": (dims, after - before + half),
    }

"""One score of one layer: what each method of `neural_match` computes, also on some of the stimuli."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from featattn_neuro.arrays.dissimilarity import (
    compare_dissimilarity,
    correlation_distance,
    crossnobis_distance,
    euclidean_distance,
    linear_cka,
)
from featattn_neuro.arrays.partial_least_squares import pls_predictivity
from featattn_neuro.arrays.prediction import FEWEST_HELD, columnwise_correlation, mean_of_defined
from featattn_neuro.arrays.ridge import ridge_predictivity

METHODS = {
    "rsa": "rank correlation of dissimilarity matrices",
    "cka": "centred kernel alignment, linear, unbiased",
    "ridge": "median over neurons of cross-validated ridge r (not squared)",
    "pls": "median over neurons of partial least squares r (not squared), mean over shuffle splits",
}
PREDICTIVE = ("ridge", "pls")
DISTANCES = {
    "correlation": "1 - Pearson correlation of patterns",
    "euclidean": "squared Euclidean, mean over units",
    "crossnobis": "cross-validated over repeats for the neurons; squared Euclidean for the network, which has no noise",
}
COMPARISONS = {"spearman": "Spearman, mid-ranks", "kendall": "Kendall tau a"}


@dataclass(frozen=True)
class Plan:
    """How to score. Parameters as in `neural_match`."""

    folds: int = 5
    inner_folds: int = 5
    seed: int = 0
    distance: str = "correlation"
    comparison: str = "spearman"


@dataclass(frozen=True)
class Reference:
    """What layers are compared with, over stimuli in one order.

    Parameters
    ----------
    ids : (stimulus,). neurons : (stimulus, neuron), NaN where not recorded, or None where only matrices are known.
    matrices : (subject, stimulus, stimulus) dissimilarities, or None where they were not asked for.
    strata : (stimulus,) classes, or None.
    """

    ids: np.ndarray
    neurons: np.ndarray | None
    matrices: np.ndarray | None
    strata: np.ndarray | None = None

    def among(self, rows: np.ndarray) -> Reference:
        """The same over some of the stimuli. Distances are between two stimuli, so a sub-matrix is theirs."""
        return replace(
            self,
            ids=self.ids[rows],
            neurons=None if self.neurons is None else self.neurons[rows],
            matrices=None if self.matrices is None else self.matrices[:, rows][:, :, rows],
            strata=None if self.strata is None else self.strata[rows],
        )


@dataclass(frozen=True)
class LayerScore:
    """The score, each neuron's where there is one, and the score over the stimuli of a mask (fits are not repeated)."""

    value: float
    per_neuron: np.ndarray | None
    over: Callable[[np.ndarray], float]


def layer_score(method: str, features: np.ndarray, reference: Reference, plan: Plan) -> LayerScore:
    """Score (stimulus, unit) responses of a layer against the reference by one of `METHODS`."""
    if method == "rsa":
        assert reference.matrices is not None
        distance = correlation_distance if plan.distance == "correlation" else euclidean_distance
        rsa = partial(_rsa, distance(features), reference.matrices, plan.comparison)
        return LayerScore(rsa(None), None, rsa)
    assert reference.neurons is not None
    if method == "cka":
        cka = partial(_cka, features, complete(reference.neurons))
        return LayerScore(cka(None), None, cka)
    return (_ridge if method == "ridge" else _pls)(features, reference, plan)


def complete(neurons: np.ndarray) -> np.ndarray:
    """The neurons that were recorded with every stimulus; geometry over stimuli needs the same neurons throughout."""
    return neurons[:, np.isfinite(neurons).all(axis=0)]


def neural_matrix(neurons: np.ndarray, distance: str, repeats: np.ndarray | None) -> np.ndarray:
    """Dissimilarity matrix of (stimulus, neuron) means, or of (repeat, stimulus, neuron) responses for crossnobis.

    Distances are sums over neurons, each cross-validated over its own repeats: neurons count with as many as they have
    of every stimulus, if these are two or more. NaN where no neuron has two, or none varies between them.
    """
    if distance != "crossnobis":
        return (correlation_distance if distance == "correlation" else euclidean_distance)(complete(neurons))
    assert repeats is not None
    counts = complete_repeats(repeats)
    total, number = np.zeros((neurons.shape[0], neurons.shape[0])), 0
    for count in np.unique(counts[counts >= 2]):
        kept = repeats[:count, :, counts == count]
        noise = kept.var(axis=0, ddof=1).mean(axis=0)
        usable = noise > 0
        if usable.any():
            total += usable.sum() * crossnobis_distance(kept[:, :, usable], precision=1 / noise[usable])
            number += int(usable.sum())
    return total / number if number else np.full_like(total, np.nan)


def complete_repeats(repeats: np.ndarray) -> np.ndarray:
    """(neuron,) how many repeats a neuron has of every stimulus; (repeat, stimulus, neuron), gaps at the end."""
    return np.asarray(np.isfinite(repeats).all(axis=1).sum(axis=0))


def median_or_nan(values: np.ndarray) -> float:
    """Median of the finite values; NaN where there is none."""
    finite = values[np.isfinite(values)]
    return float(np.median(finite)) if finite.size else float("nan")


def _rsa(matrix: np.ndarray, references: np.ndarray, comparison: str, keep: np.ndarray | None) -> float:
    mine, others = (matrix, references) if keep is None else (matrix[keep][:, keep], references[:, keep][:, :, keep])
    return float(np.mean([compare_dissimilarity(mine, one, by=comparison) for one in others]))


def _cka(features: np.ndarray, neurons: np.ndarray, keep: np.ndarray | None) -> float:
    return linear_cka(features, neurons) if keep is None else linear_cka(features[keep], neurons[keep])


def _ridge(features: np.ndarray, reference: Reference, plan: Plan) -> LayerScore:
    neurons = reference.neurons
    assert neurons is not None
    fit = ridge_predictivity(
        features, neurons, folds=plan.folds, inner_folds=plan.inner_folds, seed=plan.seed
    )  # fmt: skip
    groups = np.stack([(fit.fold == number) for number in range(plan.folds)])
    per_neuron = mean_of_defined(fit.r)
    return LayerScore(
        median_or_nan(per_neuron),
        per_neuron,
        lambda keep: median_or_nan(mean_of_defined(_grouped(fit.predicted, neurons, groups & keep[:, None]))),
    )


def _pls(features: np.ndarray, reference: Reference, plan: Plan) -> LayerScore:
    neurons = reference.neurons
    assert neurons is not None
    everywhere = np.isfinite(neurons).all(axis=0)
    per_neuron = np.full(neurons.shape[1], np.nan)
    if not everywhere.any():
        return LayerScore(float("nan"), per_neuron, lambda keep: float("nan"))
    kept = neurons[:, everywhere]
    fit = pls_predictivity(features, kept, strata=reference.strata, seed=plan.seed)
    per_neuron[everywhere] = mean_of_defined(fit.r)

    def over(keep: np.ndarray) -> float:
        rows = np.broadcast_to((fit.test & keep)[:, :, None], fit.predicted.shape)
        found = [
            _grouped(guess, kept, rows[split][None])[0] for split, guess in enumerate(np.nan_to_num(fit.predicted))
        ]
        return float(mean_of_defined([median_or_nan(one) for one in found]))

    return LayerScore(float(mean_of_defined([median_or_nan(one) for one in fit.r])), per_neuron, over)


def _grouped(predicted: np.ndarray, measured: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """(group, neuron) Pearson's r over the stimuli of each group (group, stimulus, neuron)."""
    found = np.full((groups.shape[0], measured.shape[1]), np.nan)
    for number, group in enumerate(groups):
        patterns, which = np.unique(group, axis=1, return_inverse=True)
        for index in range(patterns.shape[1]):
            rows, columns = patterns[:, index], which.ravel() == index
            if rows.sum() >= FEWEST_HELD:
                found[number, columns] = columnwise_correlation(
                    predicted[np.ix_(rows, columns)], measured[np.ix_(rows, columns)]
                )
    return found

"""Partial least squares predictivity of neurons, by the convention of Brain-Score."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from featattn_neuro.arrays.prediction import FEWEST_HELD, columnwise_correlation

Float = NDArray[np.float64]


@dataclass(frozen=True)
class PlsFit:
    """What shuffle splits of a partial least squares regression give.

    Parameters
    ----------
    r : (split, neuron) Pearson's r of predicted and measured responses to the held-out stimuli; NaN where constant.
    test : (split, stimulus) true where the split held the stimulus out.
    predicted : (split, stimulus, neuron) predictions of the held-out stimuli, NaN elsewhere.
    components : components used: fewer than asked for where features or training stimuli are fewer.
    stratified : whether the splits kept the classes in proportion.
    """

    r: Float
    test: NDArray[np.bool_]
    predicted: Float
    components: int
    stratified: bool


def pls_predictivity(
    features: ArrayLike,
    responses: ArrayLike,
    *,
    components: int = 25,
    splits: int = 10,
    train_share: float = 0.9,
    strata: ArrayLike | None = None,
    seed: int = 0,
) -> PlsFit:
    """Held-out predictions of neurons by partial least squares (scikit-learn's `PLSRegression`, no scaling).

    Parameters
    ----------
    features : (stimulus, feature), finite.
    responses : (stimulus, neuron), finite: components are shared by the neurons, so each needs every stimulus.
    components, splits, train_share : 25 components, 10 shuffle splits, .9 for training.
    strata : (stimulus,) classes that each split keeps in proportion; None, or a class with one stimulus = plain splits.
    seed : of the splits.

    Returns
    -------
    PlsFit. The customary score is the median of r over neurons, then the mean over splits.

    Raises
    ------
    ValueError : fewer than three held-out stimuli in a split: r over two is always 1 or −1.

    Notes
    -----
    Wold 1975; Schrimpf et al. 2018 (Brain-Score). Splits overlap in their training stimuli: their spread is no
    standard error.

    >>> x = np.random.default_rng(0).normal(size=(40, 3))
    >>> fit = pls_predictivity(x, x[:, :1] - x[:, 1:2])
    >>> fit.components, bool((fit.r > 0.999).all())
    (3, True)
    """
    from sklearn.cross_decomposition import PLSRegression

    x, y = np.asarray(features, dtype=np.float64), np.asarray(responses, dtype=np.float64)
    if x.ndim != 2 or y.ndim != 2 or x.shape[0] != y.shape[0] or 0 in x.shape or 0 in y.shape:
        raise ValueError(f"features and responses must be (stimulus, ...), same stimuli; came {x.shape} and {y.shape}")
    if not (np.isfinite(x).all() and np.isfinite(y).all()):
        raise ValueError("features and responses must be finite")
    if components < 1 or splits < 1 or not 0 < train_share < 1:
        raise ValueError(f"wanted components, splits >= 1, 0 < train_share < 1; came {components, splits, train_share}")
    _check_held(x.shape[0], train_share)
    test = np.zeros((splits, x.shape[0]), dtype=bool)
    predicted = np.full((splits, *y.shape), np.nan)
    r = np.full((splits, y.shape[1]), np.nan)
    used = components
    classes = _classes(x.shape[0], train_share, strata)
    for split, (train, held) in enumerate(_splits(x.shape[0], splits, train_share, classes, seed)):
        used = min(components, x.shape[1], train.size - 1)
        model = PLSRegression(n_components=used, scale=False).fit(x[train], y[train])
        guess = np.asarray(model.predict(x[held])).reshape(held.size, -1)
        test[split, held] = True
        predicted[split, held] = guess
        r[split] = columnwise_correlation(guess, y[held])
    return PlsFit(r, test, predicted, used, classes is not None)


def _check_held(count: int, train_share: float) -> None:
    held = count - int(train_share * count)
    if held < FEWEST_HELD or count - held < 2:
        fewest = next(n for n in itertools.count(FEWEST_HELD) if n - int(train_share * n) >= FEWEST_HELD)
        raise ValueError(
            f"partial least squares needs {FEWEST_HELD} held-out stimuli in each split or more, and two to train on; "
            f"came {count} stimuli, of which {max(held, 0)} are held out; show {fewest} or more, or lower train_share"
        )


def _classes(count: int, train_share: float, strata: ArrayLike | None) -> NDArray[np.str_] | None:
    """The classes, or None where splits cannot keep them in proportion: too few stimuli, or too many classes."""
    if strata is None:
        return None
    labels = np.asarray(strata).astype(str)
    names, sizes = np.unique(labels, return_counts=True)
    held = count - int(train_share * count)
    return labels if 1 < names.size <= min(held, count - held) and sizes.min() >= 2 else None


def _splits(
    count: int, splits: int, train_share: float, classes: NDArray[np.str_] | None, seed: int
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    from sklearn.model_selection import ShuffleSplit, StratifiedShuffleSplit

    kind = ShuffleSplit if classes is None else StratifiedShuffleSplit
    plan = kind(splits, train_size=train_share, random_state=seed)
    return iter(plan.split(np.empty((count, 1)), classes))

"""Model–brain match: what it costs beside its peers, and what it finds in public data.

    python benchmarks/neural.py [ridge] [rsa] [v4] [objects92] [--quick] [--rounds 15]

Without a name all four parts run. `ridge` and `rsa` are timings: every round runs each contestant once, the order
rotated by one from round to round; a ratio is taken within its round, its median over rounds is printed with the range
of the middle half, and "again" is the noise of the method. One thread. `v4` and `objects92` need the public data sets
of these names (`featattn fetch`) and the EfficientNet-Lite0 weights; they print the profile over the seven stages.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable, Mapping
from functools import partial
from itertools import islice
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before BLAS starts its pool

import numpy as np
import torch
from sklearn.linear_model import RidgeCV
from sklearn.model_selection import KFold
from sklearn.preprocessing import StandardScaler

import featattn_neuro as fn
from featattn_neuro.arrays.dissimilarity import correlation_distance
from featattn_neuro.arrays.ridge import PENALTIES, ridge_predictivity
from featattn_neuro.io.neural import read_dissimilarity

OUTER, INNER = 10, 5
STAGES = [f"blocks.{stage}" for stage in range(7)]
PUBLISHED = {  # what independent code found with the same definitions
    "v4": (0.27, 0.35, 0.37, 0.41, 0.46, 0.47, 0.46),
    "objects92": (0.14, 0.19, 0.13, 0.20, 0.28, 0.41, 0.26),
}
Contestant = Callable[[], Any]


def rounds(contestants: Mapping[str, Contestant], count: int) -> dict[str, np.ndarray]:
    """Seconds of each contestant in each round, order rotated."""
    order = list(contestants)
    found: dict[str, list[float]] = {name: [] for name in order}
    for one in contestants.values():
        one()
    for number in range(count):
        turn = number % len(order)
        for name in order[turn:] + order[:turn]:
            begun = time.perf_counter()
            contestants[name]()
            found[name].append(time.perf_counter() - begun)
    return {name: np.array(values) for name, values in found.items()}


def ratio(seconds: Mapping[str, np.ndarray], name: str, other: str) -> str:
    """Median ratio within rounds, with the range of the middle half."""
    low, middle, high = np.percentile(seconds[name] / seconds[other], [25, 50, 75])
    return f"{middle:.3f} ({low:.3f}–{high:.3f})"


def ridge(quick: bool, count: int) -> None:
    """Ours, himalaya (the faster of its two solvers) and a loop over neurons with scikit-learn."""
    from himalaya.backend import set_backend

    set_backend("torch")  # himalaya's name for torch on the CPU
    images, units, neurons = (160, 600, 10) if quick else (640, 5000, 50)
    rng = np.random.default_rng(0)
    x = rng.normal(size=(images, units)).astype(np.float32)
    y = (x[:, :50] @ rng.normal(size=(50, neurons)) + 5 * rng.normal(size=(images, neurons))).astype(np.float32)
    print(f"\n## Ridge: {images} images × {units} units × {neurons} neurons, {OUTER} × {INNER} folds, "
          f"{len(PENALTIES)} penalties, float32 in\n")  # fmt: skip
    print("| features | himalaya's solver | ours / himalaya | ours / ours (noise) | ours / scikit-learn loop "
          "| largest difference of predictions, SDs |\n|---|---|---|---|---|---|")  # fmt: skip
    for scale in (False, True):
        print(_ridge_row(x, y, scale, count))


def _ridge_row(x: np.ndarray, y: np.ndarray, scale: bool, count: int) -> str:
    def ours() -> np.ndarray:
        return ridge_predictivity(x, y, folds=OUTER, inner_folds=INNER, scale=scale).predicted

    peers = {name: partial(himalaya, x, y, name, scale) for name in ("KernelRidgeCV", "RidgeCV")}
    solo = {name: _seconds(partial(himalaya, x, y, name, scale, outer=1)) for name in peers}  # one fold says which
    peer = min(solo, key=solo.__getitem__)
    seconds = rounds({"ours": ours, "again": ours, "himalaya": peers[peer]}, count)
    # the loop is linear in neurons, so that one neuron says what it costs
    loop = _seconds(partial(per_neuron, x, y[:, :1], scale)) * y.shape[1]
    apart = np.abs(ours() - himalaya(x.astype(float), y.astype(float), peer, scale)).max() / y.std()
    label, share = "divided by their SD" if scale else "as they are", loop / np.median(seconds["ours"])
    return (
        f"| {label} | {peer} | {ratio(seconds, 'ours', 'himalaya')} | {ratio(seconds, 'again', 'ours')} "
        f"| 1/{share:.0f} | {apart:.1e} |"
    )


def himalaya(x: np.ndarray, y: np.ndarray, solver: str, scale: bool, outer: int = OUTER) -> np.ndarray:
    """Nested cross-validation with himalaya on torch tensors, over the first `outer` outer folds."""
    import warnings

    from himalaya import kernel_ridge, ridge

    made = {"KernelRidgeCV": kernel_ridge.KernelRidgeCV, "RidgeCV": ridge.RidgeCV}[solver]
    features, responses = torch.from_numpy(x), torch.from_numpy(y)
    predicted = np.full(y.shape, np.nan)
    for train, test in islice(KFold(OUTER, shuffle=True, random_state=0).split(x), outer):
        inside, outside = features[train], features[test]
        if scale:
            middle, sd = inside.mean(0), inside.std(0, correction=0)
            inside, outside = (inside - middle) / sd, (outside - middle) / sd
        inner = KFold(INNER, shuffle=True, random_state=0)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it advises the other solver, which is a contestant too
            model = made(alphas=np.array(PENALTIES), cv=inner, fit_intercept=True)
            predicted[test] = model.fit(inside, responses[train]).predict(outside).numpy()
    return predicted


def per_neuron(x: np.ndarray, y: np.ndarray, scale: bool) -> np.ndarray:
    """One `RidgeCV` per neuron and outer fold, with its fast leave-one-out choice of the penalty."""
    predicted = np.full(y.shape, np.nan)
    for neuron in range(y.shape[1]):
        for train, test in KFold(OUTER, shuffle=True, random_state=0).split(x):
            scaler = StandardScaler(with_std=scale).fit(x[train])
            model = RidgeCV(PENALTIES).fit(scaler.transform(x[train]), y[train, neuron])
            predicted[test, neuron] = model.predict(scaler.transform(x[test]))
    return predicted


def rsa(quick: bool, count: int) -> None:
    """Correlation distances against one float32 matrix product of the same size."""
    stimuli, units = (200, 5000) if quick else (1000, 50_000)
    rng = np.random.default_rng(0)
    x = rng.standard_normal((stimuli, units), dtype=np.float32) + np.float32(100)
    other = rng.standard_normal((stimuli, units), dtype=np.float32)
    contestants = {
        "ours": lambda: correlation_distance(x),
        "again": lambda: correlation_distance(x),
        "product": lambda: x @ other.T,
        "symmetric": lambda: x @ x.T,
    }
    seconds = rounds(contestants, count)
    centred = x.astype(np.float64)
    centred -= centred.mean(axis=1, keepdims=True)
    centred /= np.linalg.norm(centred, axis=1, keepdims=True)
    off = ~np.eye(stimuli, dtype=bool)
    error = np.abs(correlation_distance(x) - (1 - centred @ centred.T))[off].max()
    naive = x @ x.T
    centre, norm = x.sum(axis=1) / units, np.sqrt(np.diag(naive) / units - (x.sum(axis=1) / units) ** 2)
    plain = 1 - (naive / units - np.outer(centre, centre)) / np.outer(norm, norm)
    worse = np.abs(plain - 1 + centred @ centred.T)[off].max()
    print(f"\n## RSA: correlation distances of {stimuli} stimuli × {units} units, float32 around an offset of 100\n")
    print("| ours / product x yᵀ | ours / product x xᵀ (half the work in BLAS) | ours / ours (noise) | largest error "
          "| of the textbook formula in float32 |\n|---|---|---|---|---|")  # fmt: skip
    print(f"| {ratio(seconds, 'ours', 'product')} | {ratio(seconds, 'ours', 'symmetric')} "
          f"| {ratio(seconds, 'again', 'ours')} | {error:.1e} | {worse:.1e} |")  # fmt: skip


def stage_means(stimuli: Any) -> Any:
    """Spatial means of the seven stages of EfficientNet-Lite0."""
    return fn.record(fn.load_model("efficientnet_lite0"), stimuli, STAGES)


def v4(quick: bool, count: int) -> None:
    """Ridge from stage means to V4, 5 folds; images shuffled for the null."""
    neural = fn.read_neural("v4_210325")
    stimuli = fn.load_stimuli("v4_210325")
    if quick:
        kept = np.random.default_rng(0).permutation(len(stimuli))[:160]
        stimuli = stimuli.select(np.sort(kept))
        neural = neural.isel(trial=np.isin(neural["stimulus"].values, stimuli.id))
    recorded = stage_means(stimuli)
    found = fn.neural_match(recorded, neural, methods=["ridge", "pls"], folds=5)
    shuffled = recorded.assign_coords(stimulus=np.random.default_rng(1).permutation(recorded["stimulus"].values))
    null = fn.neural_match(shuffled, neural, methods=["ridge"], folds=5)["score"].values[:, 0]
    print(f"\n## V4, {len(stimuli)} natural images, 50 neurons: median over neurons of held-out r\n")
    _profile("ridge, 5 folds", found["score"].sel(measure="ridge").values, PUBLISHED["v4"])
    _profile("PLS, 25 components", found["score"].sel(measure="pls").values, None)
    _profile("ridge, images shuffled", null, None)
    print(f"median split-half reliability (Spearman–Brown) {float(found['ceiling'][0]):.2f}")


def objects92(quick: bool, count: int) -> None:
    """Spearman of stage dissimilarity matrices with monkey IT."""
    monkey = read_dissimilarity("objects92").sel(subject="monkey_IT")
    found = fn.neural_match(stage_means(fn.load_stimuli("objects92")), monkey, methods=["rsa"])
    print("\n## 92 objects: Spearman of dissimilarities (1 − Pearson, spatial means) with monkey IT\n")
    _profile("rsa", found["score"].values[:, 0], PUBLISHED["objects92"])


def _profile(name: str, values: np.ndarray, published: tuple[float, ...] | None) -> None:
    shown = " ".join(f"{value:.2f}" for value in values)
    worst = (
        ""
        if published is None
        else f"; largest distance from the published profile {np.abs(values - published).max():.3f}"
    )
    print(f"{name}: {shown}{worst}")


def _seconds(run: Contestant) -> float:
    begun = time.perf_counter()
    run()
    return time.perf_counter() - begun


PARTS = {"ridge": ridge, "rsa": rsa, "v4": v4, "objects92": objects92}


def main() -> None:
    """Run the parts that were asked for and print their tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", choices=[*PARTS, []], help="which parts; all if none is named")
    parser.add_argument("--quick", action="store_true", help="small sizes, to see that it works")
    parser.add_argument("--rounds", type=int, default=None, help="paired rounds (15; with --quick 3)")
    given = parser.parse_args()
    torch.set_num_threads(1)
    for name in given.parts or PARTS:
        PARTS[name](given.quick, given.rounds or (3 if given.quick else 15))


if __name__ == "__main__":
    main()

"""What d' and ROC areas cost: everything in one run, against sorting the same matrix and against scikit-learn.

    python benchmarks/discriminability.py [--quick] [--rounds 15] [--threads 2] [--growth 50000 20000] [--json FILE]

float32, 5,000 stimuli × 1,280 units, half of the values exact zeros (what a ReLU gives), stimuli in rows as a recorder
writes them: the transposition to units is inside the clock. Every round runs each contestant once, the order rotated by
one from round to round; a ratio is taken within its round, and its median over rounds is printed with the middle half.
"np.argsort again" is the noise of the method. scikit-learn's loop is timed on a part of the units and scaled up.
"""

from __future__ import annotations

import argparse
import json
import resource
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from threadpoolctl import threadpool_limits

from featattn_neuro.arrays import permutation
from featattn_neuro.arrays.discrimination import delong_interval, discriminate, dprime, roc_area

BASE = "np.argsort, units in rows, along stimuli"
LOOP = "loop of sklearn roc_auc_score"


def responses(stimuli: int, units: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Rectified responses (stimuli, units) float32, and which stimuli are targets."""
    rng = np.random.default_rng(seed)
    target = np.arange(stimuli) % 2 == 0
    values = rng.standard_normal((stimuli, units), dtype=np.float32)
    values[target] += np.float32(0.2)
    values -= np.float32(np.median(values))
    return np.maximum(values, 0), rng.permutation(target)


def contestants(stimuli: int, units: int, permutations: int, part: int) -> dict[str, Callable[[], object]]:
    """Name to function; each goes over the whole matrix once, the loop over `part` of its units."""
    from sklearn.metrics import roc_auc_score

    matrix, target = responses(stimuli, units)
    turned = np.ascontiguousarray(matrix.T)

    def argsort() -> None:
        np.argsort(turned, axis=1)

    def argsort_as_stored() -> None:
        np.argsort(matrix, axis=1)

    def loop() -> None:
        for unit in range(part):
            roc_auc_score(target, matrix[:, unit])

    def permuted() -> None:
        permutation.permutation_test(matrix.T, target, permutations=permutations, rng=np.random.default_rng(0))

    few = np.random.default_rng(1).permutation(stimuli) < stimuli // 10  # one class of ten

    def permuted_few() -> None:
        permutation.permutation_test(matrix.T, few, permutations=permutations, rng=np.random.default_rng(0))

    def separately() -> None:
        dprime(matrix.T, target)
        roc_area(matrix.T, target)
        delong_interval(matrix.T, target)

    return {
        BASE: argsort,
        "np.argsort again": argsort,
        "np.argsort as stored, along units": argsort_as_stored,
        "np.sort": lambda: np.sort(turned, axis=1),
        "d' + area (and DeLong variance)": lambda: discriminate(matrix.T, target),
        "d', area, DeLong interval: one call each": separately,
        f"{permutations} label permutations of both": permuted,
        f"{permutations} label permutations of both, 1 target in 10": permuted_few,
        LOOP: loop,
    }


def race(found: dict[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Seconds of every contestant in every round."""
    names = list(found)
    for one in found.values():  # warm-up: compiling, allocation
        one()
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(rounds):
        for k in range(len(names)):
            name = names[(k + turn) % len(names)]
            since = time.perf_counter()
            found[name]()
            seconds[name].append(time.perf_counter() - since)
    return seconds


def table(seconds: dict[str, list[float]], *, scale: float) -> str:
    """Markdown rows; the loop's seconds times `scale` are those of all units."""
    whole = {name: np.array(values) * (scale if name == LOOP else 1) for name, values in seconds.items()}
    lines = ["| | ratio to np.argsort | middle half | times faster than the loop | s |", "|---|---|---|---|---|"]
    for name, values in whole.items():
        low, median, high = np.percentile(values / whole[BASE], [25, 50, 75])
        faster = np.median(whole[LOOP] / values)
        lines.append(f"| {name} | {median:.3f} | {low:.3f}–{high:.3f} | {faster:.1f} | {np.median(values):.3f} |")
    return "\n".join(lines)


def memory(stimuli: int, units: int) -> str:
    """Extra memory of one walk, as a share of the input, seen by tracemalloc (NumPy reports its arrays to it)."""
    import tracemalloc

    matrix, target = responses(stimuli, units)
    tracemalloc.start()
    discriminate(matrix.T, target)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return (
        f"held beside the input of {matrix.nbytes / 1e6:.1f} MB: {peak / 1e6:.1f} MB, {peak / matrix.nbytes:.2f} of it"
    )


def growth(stimuli: int, units: int) -> str:
    """d', area and interval of a matrix on disk, opened lazily, block by block: seconds, and the process's peak."""
    import dask.array as da
    import xarray as xr
    import zarr

    from featattn_neuro.measures.selectivity import selectivity

    with tempfile.TemporaryDirectory() as folder:
        step = max(1, 64_000_000 // stimuli)
        store = zarr.create_array(
            store=Path(folder) / "responses.zarr", shape=(stimuli, units), chunks=(stimuli, min(200, units)),
            dtype="float32", compressors=None,
        )  # fmt: skip
        for start in range(0, units, step):
            store[:, start : start + step] = responses(stimuli, min(step, units - start), seed=start)[0]
        target = responses(stimuli, 1)[1]
        recorded = xr.Dataset(
            {"response": (("stimulus", "unit"), da.from_zarr(store))},
            {
                "stimulus": [f"s{i:06d}" for i in range(stimuli)],
                "label": ("stimulus", np.where(target, "a", "b")),
                "unit": [f"layer/{k:06d}" for k in range(units)],
                "layer": ("unit", ["layer"] * units),
                "channel": ("unit", np.arange(units)),
            },
            {"kind": "ACTIVATIONS"},
        )
        since = time.perf_counter()
        found = selectivity(recorded, "a")
        seconds = time.perf_counter() - since
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    size = stimuli * units * 4 / 1e9
    return (
        f"{stimuli} × {units} float32 on disk ({size:.2f} GB): {seconds:.1f} s, "
        f"{int((found.status == 'ok').sum())} units, peak of the process {peak:.2f} GB"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a small matrix and three rounds: does it run")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, default=2, help="threads of the matrix products; the rest has one")
    parser.add_argument("--growth", type=int, nargs=2, metavar=("STIMULI", "UNITS"), help="lazily, from disk")
    parser.add_argument("--json", type=Path, help="write all seconds here")
    args = parser.parse_args()
    stimuli, units, permutations, part = (500, 64, 50, 8) if args.quick else (5000, 1280, 1000, 20)
    rounds = 3 if args.quick else args.rounds
    print(f"numpy {np.__version__}, {stimuli} stimuli × {units} units, {rounds} rounds, {args.threads} threads\n")
    with threadpool_limits(args.threads):
        seconds = race(contestants(stimuli, units, permutations, part), rounds)
        print(table(seconds, scale=units / part))
        print("\n" + memory(stimuli, units))
        if args.growth or args.quick:
            print(growth(*(args.growth or (1000, 300))))
    if args.json is not None:
        args.json.write_text(json.dumps(seconds))


if __name__ == "__main__":
    main()

"""How much learning gains saves by computing the frozen part once: cut network against hooks on the whole network.

Same gains, same batches, same optimiser; one thread. Paired runs in rotated order; "hooks against hooks" is the noise
of the method. Prints a Markdown table; the copy and the command are in benchmarks/README.md.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
import torch

from featattn_neuro.nets.adapters import build_network
from featattn_neuro.nets.cutting import CutNetwork, require_head
from featattn_neuro.nets.detectors import Detector
from featattn_neuro.nets.learning import Schedule, fit_tasks, start

PAIRS = 15
TASKS = 2
LAST_STAGE = [f"layer3.{k}.relu{j}" for k in range(3) for j in (1, 2)]
CASES = (
    ("digits_cnn, all three ReLUs", "digits_cnn", ["relu1", "relu2", "relu3"], (60, 1, 28, 28)),
    ("cifar_resnet20, ReLUs of the last stage", "cifar_resnet20", LAST_STAGE, (30, 3, 32, 32)),
)


def work(cut: CutNetwork, images: torch.Tensor, width: int) -> Callable[[], None]:
    """Four updates of the gains of two tasks, prefix already there."""
    rows = cut.prefix(images)
    rng = np.random.default_rng(0)
    detector = Detector(rng.normal(size=(TASKS, width)), np.zeros(TASKS), np.ones(width))
    target = np.tile(np.arange(len(images)) % 2 == 0, (TASKS, 1))
    schedule = Schedule(rate=0.03, batch_size=len(images), epochs=None, updates=4)

    def run() -> None:
        fit_tasks(cut, rows, target, start(cut, detector), schedule, train_gains=True, train_head=False)

    return run


def seconds(run: Callable[[], None]) -> float:
    """Wall seconds of one run."""
    begun = time.perf_counter()
    run()
    return time.perf_counter() - begun


def main() -> None:
    """Print the table."""
    torch.set_num_threads(1)
    print("| network, sites | hooks / cut, median (quartiles) | hooks / hooks (noise) |\n|---|---|---|")
    for label, name, layers, shape in CASES:
        network = build_network(name, weights="random", seed=0)
        head = require_head(network.head, name)
        images = torch.rand(shape, generator=torch.Generator().manual_seed(0))
        cut, hooks = (CutNetwork(network.module, layers, head) for _ in range(2))
        assert cut.cached, cut.reason
        hooks.cached = False
        width = network.module.get_submodule(head).in_features
        runs = {"cut": work(cut, images, width), "hooks": work(hooks, images, width)}
        runs["again"] = work(hooks, images, width)
        for run in runs.values():
            run()
        order = list(runs)
        found: dict[str, list[float]] = {key: [] for key in order}
        for k in range(PAIRS):
            for key in order[k % 3 :] + order[: k % 3]:
                found[key].append(seconds(runs[key]))
        ratios = np.array(found["hooks"]) / np.array(found["cut"]), np.array(found["again"]) / np.array(found["hooks"])
        shown = ["{1:.2f} ({0:.2f}–{2:.2f})".format(*np.percentile(r, [25, 50, 75])) for r in ratios]
        print(f"| {label} | {shown[0]} | {shown[1]} |")


if __name__ == "__main__":
    main()

"""Races of `recording.py`: contestants over the same block of images, run by run, in rotated order."""

from __future__ import annotations

import copy
import gc
import importlib.util
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

import featattn_neuro as fn

BATCH = 32
MEANS, REDUCTIONS, MAPS = "record, means", "record, mean + max + sd", "record, every position to zarr"


@dataclass(frozen=True)
class Entry:
    """A network in the race: its side in pixels, which layers are recorded, and how many images a run takes."""

    model: str
    side: int
    layers: Callable[[nn.Module], list[str]]
    block: int


def _convolutions(module: nn.Module) -> list[str]:
    return [layer.name for layer in fn.list_layers(module, input_shape=(3, 64, 64)) if layer.stage == "conv"]


def _blocks(module: Any) -> list[str]:
    return [f"blocks.{stage}.{k}" for stage, part in enumerate(module.blocks) for k in range(len(part))]


NETWORKS = {
    "resnet18": Entry("torchvision:resnet18", 64, _convolutions, 1024),
    "efficientnet_lite0": Entry("efficientnet_lite0", 224, _blocks, 128),
}

Contestant = Callable[[Any, Sequence[torch.Tensor]], Any]
"""Takes the stimuli of a block, and the same images as batches."""


def race(name: str, parts: Sequence[str], *, runs: int, quick: bool) -> dict[str, list[float]]:
    """Means, reductions and peers on one network."""
    module, layers, entry = _network(name)
    found: dict[str, Contestant] = _bare(module)
    if "means" in parts:
        found[MEANS] = _recorder(module, layers, "mean")
    if "reductions" in parts:
        found[REDUCTIONS] = _recorder(module, layers, ["mean", "max", "sd"])
    if "peers" in parts:
        found |= _peers(module, layers)
    block = 64 if quick else entry.block
    print(f"\n{name}, {entry.side} px, {len(layers)} layers, batch {BATCH}, {runs} runs of {block} images")
    seconds = _run(found, runs, block, entry.side)
    print(table(seconds))
    _bound(seconds, MEANS, 1.05)
    _bound(seconds, REDUCTIONS, 1.3)
    for peer in [one for one in _contestants(seconds) if one.startswith("peer")] if "means" in parts else ():
        _bound(seconds, MEANS, 1, against=peer)
    return seconds


def maps(folder: Path, *, runs: int, quick: bool) -> dict[str, list[float]]:
    """Every position of all convolutions of ResNet-18, streamed to zarr."""
    module, layers, entry = _network("resnet18")
    out = folder / "maps.zarr"

    def stored(stimuli: Any, _batches: Sequence[torch.Tensor]) -> None:
        fn.record(module, stimuli, layers, reduce="none", batch_size=BATCH, out=out).close()

    block = 64 if quick else entry.block
    print(f"\nresnet18, {entry.side} px, maps of {len(layers)} layers, batch {BATCH}, {runs} runs of {block} images")
    seconds = _run(
        _bare(module) | {MAPS: stored}, runs, block, entry.side, after=lambda: shutil.rmtree(out, ignore_errors=True)
    )
    print(table(seconds))
    _bound(seconds, MAPS, 3)
    return seconds


def table(seconds: dict[str, list[float]]) -> str:
    """Markdown rows: contestant, median ratio to the bare pass, middle half, the same of processor time, seconds."""
    lines = ["| | ratio to bare | middle half | ratio of processor time | s a run |", "|---|---|---|---|---|"]
    for name in _contestants(seconds):
        low, median, high = _quartiles(seconds, name)
        processor = np.median(np.array(seconds[f"{name} (processor)"]) / np.array(seconds["bare (processor)"]))
        wall = np.median(seconds[name])
        lines.append(f"| {name} | {median:.3f} | {low:.3f}–{high:.3f} | {processor:.3f} | {wall:.2f} |")
    return "\n".join(lines)


def _contestants(seconds: dict[str, list[float]]) -> list[str]:
    return [name for name in seconds if not name.endswith(" (processor)")]


def _quartiles(seconds: dict[str, list[float]], name: str, against: str = "bare") -> np.ndarray:
    return np.percentile(np.array(seconds[name]) / np.array(seconds[against]), [25, 50, 75])


def _bound(seconds: dict[str, list[float]], name: str, bound: float, against: str = "bare") -> None:
    if name not in seconds:
        return
    low, _, high = _quartiles(seconds, "bare again")
    noise = max(1 - low, high - 1, 0.0)
    first, median, third = _quartiles(seconds, name, against)
    verdict = "within" if median <= bound else "within the noise of" if median <= bound + noise else "ABOVE"
    what = name if against == "bare" else f"{name} / {against}"
    print(
        f"{what}: {median:.3f} ({first:.3f}–{third:.3f}), {verdict} {bound} "
        f"(noise: middle half of bare against bare, ±{noise:.3f})"
    )


def _network(name: str) -> tuple[nn.Module, list[str], Entry]:
    entry = NETWORKS[name]
    module = fn.load_model(entry.model, weights="random").module.eval()
    return module, entry.layers(module), entry


def _bare(module: nn.Module) -> dict[str, Contestant]:
    def bare(_stimuli: Any, batches: Sequence[torch.Tensor]) -> None:
        with torch.inference_mode():
            for batch in batches:
                module(batch)

    return {"bare": bare, "bare again": bare}


def _recorder(module: nn.Module, layers: list[str], reduce: Any) -> Contestant:
    return lambda stimuli, _batches: fn.record(module, stimuli, layers, reduce=reduce, batch_size=BATCH)


def _peers(module: nn.Module, layers: list[str]) -> dict[str, Contestant]:
    """Peers that take means over positions of the same layers; what is not installed is said."""
    from torchvision.models.feature_extraction import create_feature_extractor

    def means(outputs: dict[str, torch.Tensor]) -> list[np.ndarray]:
        return [value.mean(dim=(2, 3)).numpy() for value in outputs.values()]

    # TensorFlow's padding hangs on the size of its input, which torch.fx cannot follow: those convolutions stay whole
    whole = {type(part) for part in module.modules() if type(part).__name__ == "Conv2dSame"}
    graph = create_feature_extractor(copy.deepcopy(module), layers, tracer_kwargs={"leaf_modules": list(whole)})

    def torchvision_fx(_stimuli: Any, batches: Sequence[torch.Tensor]) -> None:
        with torch.inference_mode():
            for batch in batches:
                means(graph(batch))

    found: dict[str, Contestant] = {"peer: torchvision fx, means": torchvision_fx}
    if importlib.util.find_spec("torchextractor") is None:
        print("torchextractor: not installed, left out")
        return found
    import torchextractor

    extractor = torchextractor.Extractor(copy.deepcopy(module), layers)

    def torch_extractor(_stimuli: Any, batches: Sequence[torch.Tensor]) -> None:
        with torch.inference_mode():
            for batch in batches:
                means(extractor(batch)[1])

    return {**found, "peer: torchextractor, means": torch_extractor}


def _run(
    found: dict[str, Contestant], runs: int, block: int, side: int, after: Callable[[], None] = lambda: None
) -> dict[str, list[float]]:
    """Seconds of every contestant in every run, by the clock and of the process on its processors."""
    names = list(found)
    seconds: dict[str, list[float]] = {f"{name}{what}": [] for name in names for what in ("", " (processor)")}
    for run in range(-1, runs):  # the run before the first is a warm-up: allocation, kernels' choice of algorithm
        rng = np.random.default_rng(run + 1)
        count = block if run >= 0 else min(block, 2 * BATCH)
        pixels = rng.standard_normal((count, 3, side, side), dtype=np.float32)
        stimuli, batches = fn.load_stimuli(pixels, label=None), torch.from_numpy(pixels).split(BATCH)
        for k in range(len(names)):
            name = names[(k + max(run, 0)) % len(names)]
            gc.collect()
            since, worked = time.perf_counter(), time.process_time()
            found[name](stimuli, batches)
            passed, worked = time.perf_counter() - since, time.process_time() - worked
            if run >= 0:
                seconds[name].append(passed)
                seconds[f"{name} (processor)"].append(worked)
            after()
    return seconds

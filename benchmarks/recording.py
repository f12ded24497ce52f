"""What recording costs: ratios to the bare forward pass, interleaved in one run with the peers that are installed.

    python benchmarks/recording.py [--images 2048] [--runs 15] [--network resnet18 efficientnet_lite0] [--threads 1]

Every round runs each contestant once, the order rotated by one from round to round; a ratio is taken within its round
and its median over rounds is printed with the range of the middle half. "bare again" is the noise of the method.
Stimuli are loaded (and their ids made) beforehand; batches of the bare pass and of the peers are cut beforehand.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import importlib.util
import itertools
import json
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

import featattn_neuro as fn

BATCH = 32
Contestant = Callable[[], Any]


def network(name: str) -> tuple[nn.Module, list[str], int]:
    """Module, layers that are recorded, side of its images."""
    if name == "resnet18":
        module = fn.load_model("torchvision:resnet18", weights="random").module
        return (
            module,
            [layer.name for layer in fn.list_layers(module, input_shape=(3, 64, 64)) if layer.stage == "conv"],
            64,
        )
    module = fn.load_model("timm:efficientnet_lite0", weights="random").module
    return module, [f"blocks.{stage}.{k}" for stage, part in enumerate(module.blocks) for k in range(len(part))], 224


def contestants(
    module: nn.Module, layers: list[str], stimuli: Any, folder: Path, *, maps: bool
) -> dict[str, Contestant]:
    """Name to function; each goes over all images once."""
    images = torch.from_numpy(stimuli.images)
    batches = images.split(BATCH)
    module.eval()

    numbers = itertools.count()

    def bare() -> None:
        with torch.inference_mode():
            for batch in batches:
                module(batch)

    def record(reduce: Any) -> Contestant:
        return lambda: fn.record(module, stimuli, layers, reduce=reduce, batch_size=BATCH)

    def stored() -> None:
        out = folder / f"maps{next(numbers)}.zarr"  # removed between rounds, outside the clock
        fn.record(module, stimuli, layers, reduce="none", batch_size=BATCH, out=out).close()

    found: dict[str, Contestant] = {
        "bare": bare,
        "bare again": bare,
        "record mean": record("mean"),
        "record mean + max + sd": record(["mean", "max", "sd"]),
    }
    if maps:
        found["record full maps to zarr"] = stored
    return {**found, **peers(module, layers, batches)}


def peers(module: nn.Module, layers: list[str], batches: tuple[torch.Tensor, ...]) -> dict[str, Contestant]:
    """Peers that are installed, each taking means; the others are named."""
    from torchvision.models.feature_extraction import create_feature_extractor

    def means(outputs: dict[str, torch.Tensor]) -> list[np.ndarray]:
        return [value.mean(dim=(2, 3)).numpy() for value in outputs.values()]

    found: dict[str, Contestant] = {}
    graph = create_feature_extractor(module, layers)

    def torchvision_fx() -> None:
        with torch.inference_mode():
            for batch in batches:
                means(graph(batch))

    found["torchvision fx + mean"] = torchvision_fx
    if _installed("captum"):
        from captum.attr import LayerActivation

        parts = [module.get_submodule(layer) for layer in layers]
        activation = LayerActivation(module, parts)

        def captum() -> None:
            with torch.no_grad():
                for batch in batches:
                    outputs = activation.attribute(batch)
                    means(dict(zip(layers, outputs, strict=True)))

        found["captum LayerActivation + mean"] = captum
    if _installed("torchextractor"):
        import torchextractor

        extractor = torchextractor.Extractor(module, layers)

        def torch_extractor() -> None:
            with torch.inference_mode():
                for batch in batches:
                    means(extractor(batch)[1])

        found["torchextractor + mean"] = torch_extractor
    for name in ("captum", "torchextractor", "thingsvision", "brainscore_vision"):
        if not _installed(name):
            print(f"  {name}: not installed, left out")
    return found


def _installed(name: str) -> bool:
    return importlib.util.find_spec(name) is not None


def race(found: dict[str, Contestant], runs: int, folder: Path) -> dict[str, list[float]]:
    """Seconds of every contestant in every round."""
    names = list(found)
    for one in found.values():  # warm-up: allocation, kernels' choice of algorithm
        one()
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for run in range(runs):
        for k in range(len(names)):
            name = names[(k + run) % len(names)]
            since = time.perf_counter()
            found[name]()
            seconds[name].append(time.perf_counter() - since)
            for left in folder.glob("maps*.zarr"):
                shutil.rmtree(left)
    return seconds


def table(seconds: dict[str, list[float]]) -> str:
    """Markdown rows: contestant, median ratio to bare, middle half, seconds."""
    bare = np.array(seconds["bare"])
    lines = ["| | ratio to bare | middle half | s |", "|---|---|---|---|"]
    for name, values in seconds.items():
        low, median, high = np.percentile(np.array(values) / bare, [25, 50, 75])
        lines.append(f"| {name} | {median:.3f} | {low:.3f}–{high:.3f} | {np.median(values):.2f} |")
    return "\n".join(lines)


def idle(folder: Path, count: int) -> str:
    """Share of wall time in which the network waits for images, with and without loader workers."""
    from PIL import Image

    rng = np.random.default_rng(0)
    place = folder / "photographs"
    place.mkdir()
    for i in range(count):
        coarse = Image.fromarray(rng.integers(0, 255, (24, 32, 3), np.uint8)).resize(
            (500, 375), Image.Resampling.BICUBIC
        )
        coarse.save(place / f"{i:05d}.jpg", quality=90)
    model = fn.load_model("torchvision:resnet18", weights="random")
    stimuli = fn.load_stimuli(place)
    lines = []
    for workers in (0, 1, 2):
        timing: dict[str, float] = {}
        since = time.perf_counter()
        fn.record(model, stimuli, "conv", batch_size=BATCH, workers=workers, timing=timing)
        wall = time.perf_counter() - since
        lines.append(f"| {workers} loader workers | {timing['waiting'] / wall:.1%} idle | | {wall:.2f} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=2048)
    parser.add_argument("--map-images", type=int, default=256, help="images whose full maps are stored")
    parser.add_argument("--runs", type=int, default=15)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--network", nargs="+", default=["resnet18", "efficientnet_lite0"])
    parser.add_argument("--json", type=Path, help="write all seconds here")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    print(f"torch {torch.__version__}, {importlib.metadata.version('featattn_neuro')}, {args.threads} threads")
    seconds: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        for name in args.network:
            module, layers, side = network(name)
            for count, maps in ((args.images, False), (args.map_images, True)):
                if maps and name != "resnet18":
                    continue
                pixels = np.random.default_rng(0).standard_normal((count, 3, side, side)).astype(np.float32)
                stimuli = fn.load_stimuli(pixels, label=None)
                print(f"\n{name}, {side} px, {len(layers)} layers, {count} images, batch {BATCH}, {args.runs} rounds")
                found = contestants(module, layers, stimuli, folder, maps=maps)
                if maps:
                    found = {k: found[k] for k in ("bare", "bare again", "record full maps to zarr")}
                seconds[f"{name} {count}"] = race(found, args.runs, folder)
                print(table(seconds[f"{name} {count}"]))
        print("\nresnet18 at 224 px from JPEG files")
        print(idle(folder, min(args.images, 512)))
    if args.json is not None:
        args.json.write_text(json.dumps(seconds))


if __name__ == "__main__":
    main()

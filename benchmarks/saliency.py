"""What excess maps cost: 20 gain sets at several layers, against recording those maps, and against captum.

    python benchmarks/saliency.py [--part races memory] [--images 512] [--runs 15] [--threads 1] [--no-captum] [--quick]

Every round runs each contestant once, the order rotated by one from round to round; a ratio is taken within its round
and its median over rounds is printed with the range of the middle half. "record again" is the noise of the method.
"record" = one recording pass that keeps the same layers' maps in memory (`reduce="none"`). captum = one
LayerGradCam call per gain set (`attr_dim_summation=False`) and layer, its channels weighted with g - 1: on digits at
all the layers that ours has, on ResNet-18 at the last alone, since all eight would take eight times as long.
Memory: peak resident size of a pass over what stands before it, streamed to zarr and kept in memory, at two numbers of
images. The peak of a process can be set back on Linux only (/proc/self/clear_refs); elsewhere it is not measured.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import importlib.metadata
import importlib.util
import json
import tempfile
import time
from collections.abc import Callable
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import nn

import featattn_neuro as fn

BATCH = 32
SETS = 20
Contestant = Callable[[], Any]


def network(name: str) -> tuple[nn.Module, list[str], int, int]:
    """Module, layers whose maps are wanted, channels and side of its images."""
    if name == "digits, all 8 maps":
        module = fn.load_model("digits_cnn", weights="random").module
        return module, ["conv1", "relu1", "pool1", "conv2", "relu2", "pool2", "conv3", "relu3"], 1, 28
    if name == "digits, 3 gained":
        return fn.load_model("digits_cnn", weights="random").module, ["relu1", "relu2", "relu3"], 1, 28
    module = fn.load_model("torchvision:resnet18", weights="random").module
    return module, [f"layer{stage}.{block}" for stage in range(1, 5) for block in range(2)], 3, 64


def gain_sets(module: nn.Module, layers: list[str], shape: tuple[int, int, int]) -> xr.Dataset:
    """GAINS of `SETS` sets."""
    widths = {info.name: info.filters for info in fn.list_layers(module, input_shape=shape)}
    unit = [f"{layer}/{k:03d}" for layer in layers for k in range(widths[layer])]
    values = np.exp(0.3 * np.random.default_rng(0).standard_normal((SETS, len(unit))))
    coords = {
        "unit": unit,
        "layer": ("unit", [layer for layer in layers for _ in range(widths[layer])]),
        "channel": ("unit", [k for layer in layers for k in range(widths[layer])]),
        "gain_set": [f"set_{k}" for k in range(SETS)],
    }
    return xr.Dataset({"gain": (("gain_set", "unit"), values)}, coords, {"kind": "GAINS"})


def contestants(
    module: nn.Module, layers: list[str], stimuli: Any, gains: xr.Dataset, *, captum_layers: list[str] | None
) -> dict[str, Contestant]:
    """Name to function; each goes over all images once."""

    def record() -> None:
        fn.record(module, stimuli, layers, reduce="none", batch_size=BATCH)

    def excess() -> None:
        fn.saliency_by_layer(module, gains, stimuli, layers, batch_size=BATCH, activation=False, relative=False)

    def with_plain() -> None:
        fn.saliency_by_layer(module, gains, stimuli, layers, batch_size=BATCH)

    found = {
        "record": record, "record again": record, "excess maps": excess, "excess, plain and relative maps": with_plain
    }  # fmt: skip
    if captum_layers is None:
        return found
    if importlib.util.find_spec("captum") is None:
        print("  captum: not installed, left out")
        return found
    from captum.attr import LayerGradCam

    images = torch.from_numpy(stimuli.images)
    weights = {
        layer: torch.as_tensor(gains["gain"].values[:, gains["layer"].values == layer] - 1, dtype=torch.float32)
        for layer in captum_layers
    }

    def captum() -> None:
        for layer, excess in weights.items():
            cam = LayerGradCam(module, module.get_submodule(layer))
            for k in range(SETS):
                for batch in images.split(BATCH):
                    channels = cam.attribute(batch, target=0, attr_dim_summation=False).detach()
                    torch.einsum("k,nkyx->nyx", excess[k], channels).numpy()

    return {**found, f"20 captum LayerGradCam, {len(captum_layers)} of {len(layers)} layers": captum}


def race(found: dict[str, Contestant], runs: int) -> dict[str, list[float]]:
    """Seconds of every contestant in every round; captum, which takes long, in the first three only."""
    names = list(found)
    for name in names:
        if "captum" not in name:
            found[name]()  # warm-up
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for run in range(runs):
        for k in range(len(names)):
            name = names[(k + run) % len(names)]
            if "captum" in name and run >= 3:
                continue
            since = time.perf_counter()
            found[name]()
            seconds[name].append(time.perf_counter() - since)
    return seconds


def table(seconds: dict[str, list[float]]) -> str:
    """Markdown rows: contestant, median ratio to record, middle half, seconds."""
    lines = ["| | ratio to record | middle half | s |", "|---|---|---|---|"]
    for name, values in seconds.items():
        base = np.array(seconds["record"][: len(values)])
        low, median, high = np.percentile(np.array(values) / base, [25, 50, 75])
        lines.append(f"| {name} | {median:.3f} | {low:.3f}–{high:.3f} | {np.median(values):.2f} |")
    return "\n".join(lines)


def reset_peak() -> bool:
    """Set the peak resident size of this process back to the present one; False where that is not offered."""
    gc.collect()
    try:
        ctypes.CDLL(None).malloc_trim(0)  # what was freed but kept would hide as much of what comes
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    except (OSError, AttributeError):
        return False
    return True


def resident(field: str) -> float:
    """VmRSS (now) or VmHWM (peak since the last `reset_peak`) of this process, MiB."""
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith(f"{field}:"):
            return float(line.split()[1]) / 1024
    raise RuntimeError(f"/proc/self/status has no {field}")


def _extra_peak(count: int, folder: str | None, found: Any) -> None:
    module, layers, channels, side = network("resnet18")
    pixels = np.random.default_rng(0).standard_normal((count, channels, side, side)).astype(np.float32)
    stimuli, gains = fn.load_stimuli(pixels, label=None), gain_sets(module, layers, (channels, side, side))

    def maps(images: Any, name: str) -> None:
        out = None if folder is None else Path(folder) / name
        fn.gain_saliency(module, gains, images, layer=layers[0], dtype="float32", out=out).close()

    maps(stimuli.select(np.arange(BATCH)), "first.zarr")  # libraries are loaded, the network has run
    if not reset_peak():
        found.put(None)
        return
    before = resident("VmRSS")
    maps(stimuli, "all.zarr")
    found.put(resident("VmHWM") - before)


def memory(counts: tuple[int, int]) -> str:
    """Extra peak memory of a pass that streams and of one that keeps its maps, in processes of their own."""
    lines, spawn = (
        ["| images, MiB of maps | streamed: MiB extra peak | in memory |", "|---|---|---|"],
        get_context("spawn"),
    )
    for count in counts:
        extra: list[str] = []
        for streamed in (True, False):
            with tempfile.TemporaryDirectory() as folder:
                found = spawn.Queue()
                process = spawn.Process(target=_extra_peak, args=(count, folder if streamed else None, found))
                process.start()
                value = found.get(timeout=600)
                process.join()
            extra.append("not measured: only Linux sets a peak back" if value is None else f"{value:.0f}")
        lines.append(f"| {count}, {count * SETS * 16 * 16 * 4 / 2**20:.0f} | {extra[0]} | {extra[1]} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", nargs="+", choices=["races", "memory"], default=["races", "memory"])
    parser.add_argument("--images", type=int, default=512)
    parser.add_argument("--runs", type=int, default=15)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--no-captum", action="store_true", help="leave captum out, which takes most of the time")
    parser.add_argument("--quick", action="store_true", help="64 images, 3 rounds: to see that it works")
    parser.add_argument("--json", type=Path, help="write all seconds here")
    args = parser.parse_args()
    images, runs = (64, 3) if args.quick else (args.images, args.runs)
    torch.set_num_threads(args.threads)
    print(f"torch {torch.__version__}, {importlib.metadata.version('featattn_neuro')}, {args.threads} threads")
    seconds: dict[str, Any] = {}
    for name in ("resnet18", "digits, 3 gained", "digits, all 8 maps") if "races" in args.part else ():
        module, layers, channels, side = network(name)
        count = images if name == "resnet18" else 4 * images
        pixels = np.random.default_rng(0).standard_normal((count, channels, side, side)).astype(np.float32)
        stimuli = fn.load_stimuli(pixels, label=None)
        print(
            f"\n{name}, {side} px, {len(layers)} layers, {SETS} gain sets, {count} images, batch {BATCH}, {runs} rounds"
        )
        found = contestants(
            module, layers, stimuli, gain_sets(module, layers, (channels, side, side)),
            captum_layers=None if args.no_captum else layers[-1:] if name == "resnet18" else layers,
        )  # fmt: skip
        seconds[name] = race(found, runs)
        print(table(seconds[name]))
    if "memory" in args.part:
        print("\nextra peak memory of one pass, resnet18, one layer")
        print(memory((images, 8 * images)))
    if args.json is not None:
        args.json.write_text(json.dumps(seconds))


if __name__ == "__main__":
    main()

"""Parts of `recording.py` about size: weights hashed, peak memory, large stores, images from files."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xarray as xr

import featattn_neuro as fn

Figures = dict[str, Any]
HERE = Path(__file__).resolve()


def weights(folder: Path, *, threads: int, quick: bool) -> Figures:
    """Times that the weights are hashed over five stored recordings of one network, and the cost of knowing them."""
    from featattn_neuro.nets import fingerprint

    hashed = []
    original = fingerprint.weights_sha256
    fingerprint.weights_sha256 = lambda module: hashed.append(1) or original(module)  # type: ignore[assignment, func-returns-value]
    try:
        module = fn.load_model("torchvision:resnet18", weights="random").module
        since = time.perf_counter()
        fingerprint.weights_digest(module)
        first, since = time.perf_counter() - since, time.perf_counter()
        fingerprint.weights_digest(module)
        again = time.perf_counter() - since
        images = np.random.default_rng(0).random((32, 3, 64, 64), dtype=np.float32)
        for k in range(5):
            fn.record(module, images, "conv", out=folder / f"weights{k}.zarr").close()
    finally:
        fingerprint.weights_sha256 = original
    print(f"\nweights of ResNet-18 (47 MB): hashed {len(hashed)} time(s) in five stored recordings (bound 1)")
    print(f"hash {first * 1e3:.0f} ms, known again {again * 1e3:.0f} ms")
    return {"hashes": len(hashed), "first_s": first, "again_s": again}


def memory(folder: Path, *, threads: int, quick: bool) -> Figures:
    """Peak memory with many stimuli minus peak with few, each in a process of its own."""
    few, many = (40, 200) if quick else (1000, 10_000)
    print(f"\npeak memory, resnet18 at 32 px, 20 convolutions: {many} stimuli minus {few} (bound 50 MB)")
    print(f"| | peak, {few} | peak, {many} | difference | values |\n|---|---|---|---|---|")
    figures: Figures = {}
    for what in ("every position to zarr", "means to zarr", "moments"):
        peaks = []
        for count in (few, many):
            out = folder / f"memory{count}.zarr"
            found = _in_process("recorded", what, str(count), str(out), str(threads))
            peaks.append(found["peak_mb"])
            subprocess.run(["rm", "-rf", str(out)], check=True)
        values = f"{found['values_mb']:.0f} MB"
        print(f"| {what} | {peaks[0]:.0f} MB | {peaks[1]:.0f} MB | {peaks[1] - peaks[0]:+.0f} MB | {values} |")
        figures[what] = {"few_mb": peaks[0], "many_mb": peaks[1]}
    return figures


class _Drawn(torch.utils.data.Dataset[Any]):
    """Images that are drawn when they are asked for, the same ones each time; two classes."""

    def __init__(self, count: int, side: int) -> None:
        self.count, self.side = count, side

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, i: int) -> tuple[torch.Tensor, int]:
        drawn = np.random.default_rng(i).standard_normal((3, self.side, self.side), dtype=np.float32)
        return torch.from_numpy(drawn), i % 2


def recorded(what: str, count: str, out: str, threads: str) -> Figures:
    """In a process of its own: record, and say the peak of resident memory (VmHWM)."""
    torch.set_num_threads(int(threads))
    module = fn.load_model("torchvision:resnet18", weights="random").module
    stimuli = _Drawn(int(count), 32)
    if what == "moments":
        found = fn.stream_moments(module, stimuli, "conv")
        size = 0.0
    else:
        found = fn.record(module, stimuli, "conv", reduce="none" if "position" in what else "mean", out=out)
        size = found["response"].nbytes / 1e6
    status = Path("/proc/self/status").read_text()
    peak = next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1]
    return {"peak_mb": int(peak) / 1024, "values_mb": size}


def opening(folder: Path, *, threads: int, quick: bool) -> Figures:
    """A store of 5 GB, made by recording; opening it, selecting, loading, each in a fresh process."""
    out = folder / "large.zarr"
    module = fn.load_model("torchvision:resnet18", weights="random").module
    count = 256 if quick else 7168
    since = time.perf_counter()
    fn.record(module, _Drawn(count, 64), "conv", reduce="none", out=out).close()
    made = time.perf_counter() - since
    size = sum(os.stat(os.path.join(place, name)).st_size for place, _, names in os.walk(out) for name in names)
    print(f"\nstore of {size / 1e9:.2f} GB: {count} stimuli, every position of 20 convolutions; made in {made:.0f} s")
    found = [_in_process("opened", str(out), str(threads)) for _ in range(3 if quick else 15)]
    seconds = [one["open_s"] for one in found]
    print(
        f"open and select lazily, libraries imported, {len(found)} fresh processes: median {np.median(seconds):.3f} s, "
        f"largest {max(seconds):.3f} s (bound 0.5 s)"
    )
    print("| loaded | chunks | load | read and decode the chunks | ratio | bytes only |\n|---|---|---|---|---|---|")
    figures: Figures = {"bytes": size, "open_s": seconds}
    ratios: dict[str, float] = {}
    for name in found[0]["loads"]:
        rows = [one["loads"][name] for one in found]
        load, decode, plain = (np.median([row[key] for row in rows]) for key in ("load_s", "decode_s", "bytes_s"))
        ratio = float(np.median([row["load_s"] / row["decode_s"] for row in rows]))
        chunks = f"{rows[0]['chunks']} ({rows[0]['mb']:.0f} MB)"
        print(f"| {name} | {chunks} | {load:.3f} s | {decode:.3f} s | {ratio:.2f} | {plain:.3f} s |")
        figures[name] = rows
        ratios[name] = ratio
    worst = max(ratios, key=lambda name: ratios[name])
    verdict = "within" if ratios[worst] <= 1.3 else "ABOVE"
    print(f"loading / reading and decoding the touched chunks: at most {ratios[worst]:.2f} ({worst}), {verdict} 1.3")
    return figures


def opened(path: str, threads: str) -> Figures:
    """In a process of its own: open, select, load; and the touched chunks read and decoded without any of it."""
    import dask.array  # imported before the clock runs, as the bound says
    import numcodecs.blosc
    import pandas as pd  # noqa: F401
    import zarr  # noqa: F401

    from featattn_neuro.io.recording_chunks import crc32c

    torch.set_num_threads(int(threads))
    fn.open_kind  # noqa: B018 - imports what opening needs
    # the first load in a process, of anything: xarray looks for plugins, dask starts threads
    xr.DataArray(dask.array.zeros(1)).load()
    since = time.perf_counter()
    recording = fn.open_kind(path)
    layer = recording["response"].isel(unit=recording["layer"].values == "layer3.0.conv1")
    selections = {
        "320 stimuli of a layer": layer.isel(stimulus=slice(320)),
        "a layer, all stimuli": layer,
        "one filter, all stimuli": layer.isel(unit=layer["channel"].values == 7),
    }
    found: Figures = {"open_s": time.perf_counter() - since, "loads": {}}
    names = json.loads((Path(path) / "zarr.json").read_text())["attributes"]["layers"]
    number = list(dict.fromkeys(recording["layer"].values.tolist())).index("layer3.0.conv1")
    assert number < names
    blocks = sorted((Path(path) / f"response_{number:04d}" / "c" / "0").iterdir(), key=lambda one: int(one.name))
    for name, selection in selections.items():
        files = [one for block in blocks[: 10 if name.startswith("320") else None] for one in sorted(block.iterdir())]
        for one in files:  # all alike from the page cache
            one.read_bytes()
        since = time.perf_counter()
        selection.load()
        load, since = time.perf_counter() - since, time.perf_counter()
        kept = []  # as any reader must keep what it has read
        for one in files:
            data = one.read_bytes()
            assert crc32c(data[:-4]) == data[-4:]
            kept.append(numcodecs.blosc.decompress(data[:-4]))
        decode, since = time.perf_counter() - since, time.perf_counter()
        size = sum(len(one.read_bytes()) for one in files)
        found["loads"][name] = {
            "load_s": load, "decode_s": decode, "bytes_s": time.perf_counter() - since, "chunks": len(files),
            "mb": size / 1e6,
        }  # fmt: skip
    return found


def idle(folder: Path, *, threads: int, quick: bool) -> Figures:
    """Share of wall time in which the network waits for images, with and without loader workers."""
    from PIL import Image

    rng = np.random.default_rng(0)
    place = folder / "photographs"
    place.mkdir()
    count = 64 if quick else 384
    for i in range(count):
        coarse = Image.fromarray(rng.integers(0, 255, (24, 32, 3), np.uint8))
        coarse.resize((500, 375), Image.Resampling.BICUBIC).save(place / f"{i:05d}.jpg", quality=90)
    model, stimuli = fn.load_model("torchvision:resnet18", weights="random"), fn.load_stimuli(place)
    print(f"\nresnet18 at 224 px from {count} JPEG files (500 × 375), means of 20 convolutions")
    print("| loader workers | network idle | images a second |\n|---|---|---|")
    figures: Figures = {}
    for workers in (0, 1, 2):
        timing: dict[str, float] = {}
        since = time.perf_counter()
        fn.record(model, stimuli, "conv", workers=workers, timing=timing)
        wall = time.perf_counter() - since
        figures[str(workers)] = {"wall_s": wall, **timing}
        print(f"| {workers} | {timing['waiting'] / wall:.1%} | {count / wall:.1f} |")
    return figures


def _in_process(function: str, *arguments: str) -> Figures:
    code = f"import sys; sys.path.insert(0, {str(HERE.parent)!r}); import json, {HERE.stem} as m; "
    code += f"print(json.dumps(m.{function}(*{arguments!r})))"
    done = subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.PIPE, text=True)
    found: Figures = json.loads(done.stdout.splitlines()[-1])
    return found


PARTS: dict[str, Callable[..., Figures]] = {"weights": weights, "memory": memory, "open": opening, "idle": idle}

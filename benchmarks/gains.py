"""What gains cost: beside peft's IA3, behind a cached prefix, in refits, in a forward pass, in memory.

    python benchmarks/gains.py [--part ia3 prefix refits forward memory] [--rounds 15] [--quick] [--threads 1]

Ratios come from rounds: in each, every contestant does an equal block of work once, the order rotated by one from round
to round; a ratio is taken within its round, its median over rounds is printed with the range of the middle half, and
the same work against itself ("again") is the noise of the method. Full size: about 15 minutes on one quiet core.

How the figures for 2,000 images and 10 epochs follow from blocks of B images: a fit behind the cut computes the prefix
once per image and the rest once per image and epoch, a fit with peft computes everything once per image and epoch, so
    ratio = 10 U / (P + 10 S),
U, P, S the seconds of one update of peft, of the prefix, and of one update behind the cut, all for the same B images.
"""

from __future__ import annotations

import argparse
import copy
import json
import re
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import nn
from torch.nn.functional import binary_cross_entropy_with_logits

import featattn_neuro as fa
from featattn_neuro.nets.adapters import build_network
from featattn_neuro.nets.cutting import CutNetwork
from featattn_neuro.nets.detectors import Detector
from featattn_neuro.nets.learning import Schedule, class_weights, fit_tasks, learn, start
from featattn_neuro.nets.parameterisations import Parameterisation
from featattn_neuro.nets.plan import unit_ids
from featattn_neuro.nets.readouts import joint_logistic_detectors
from featattn_neuro.nets.refit import refit_gains

FREE = Parameterisation.parse("free")
Work = Callable[[], Any]
rows_printed: list[dict[str, Any]] = []


def race(contestants: dict[str, Work], rounds: int) -> dict[str, np.ndarray]:
    """Seconds of every contestant in every round, order rotated."""
    names = list(contestants)
    for work in contestants.values():  # warm-up: allocation, kernels' choice of algorithm
        work()
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for k in range(rounds):
        shift = k % len(names)
        for name in names[shift:] + names[:shift]:
            since = time.perf_counter()
            contestants[name]()
            seconds[name].append(time.perf_counter() - since)
    return {name: np.array(values) for name, values in seconds.items()}


def line(label: str, ratios: np.ndarray, *, most: float | None = None, least: float | None = None) -> None:
    """One row of the table: median, middle half, what is wanted, whether it is reached."""
    low, median, high = np.percentile(ratios, [25, 50, 75])
    wanted = f"<= {most:g}" if most is not None else f">= {least:g}" if least is not None else ""
    met = (most is None or median <= most) and (least is None or median >= least)
    verdict = "" if not wanted else "yes" if met else "NO"
    print(f"| {label} | {median:.3f} ({low:.3f}–{high:.3f}) | {wanted} | {verdict} |", flush=True)
    rows_printed.append({"label": label, "median": median, "low": low, "high": high, "wanted": wanted, "met": verdict})


def head(title: str) -> None:
    print(f"\n{title}\n\n| | median (middle half) | wanted | reached |\n|---|---|---|---|", flush=True)


def problem(width: int, images: int, tasks: int = 1) -> tuple[Detector, np.ndarray]:
    """A read-out of random weights and balanced random labels."""
    rng = np.random.default_rng(0)
    weight = rng.normal(size=(tasks, width)) / width**0.5
    target = np.stack([rng.permutation(images) < images // 2 for _ in range(tasks)])
    return Detector(weight, np.zeros(tasks), np.ones(width)), target


# -- peft ---------------------------------------------------------------------------------------------------------


class PeftFit:
    """Gains of convolutions learned with peft's IA3: frozen network in evaluation mode, frozen read-out, Adam."""

    def __init__(self, module: nn.Module, head_name: str, sites: Sequence[str], detector: Detector) -> None:
        from peft import IA3Config, get_peft_model

        base = copy.deepcopy(module)
        owner, _, name = head_name.rpartition(".")
        setattr(base.get_submodule(owner), name, nn.Identity())
        pattern = "|".join(re.escape(site) for site in sites)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self.model = get_peft_model(base, IA3Config(target_modules=pattern, feedforward_modules=[])).eval()
        self.gains = {n: p for n, p in self.model.named_parameters() if p.requires_grad}
        assert len(self.gains) == len(sites)
        assert all("ia3_l" in n for n in self.gains)
        self.weight, self.bias = (
            torch.as_tensor(v, dtype=torch.float32) for v in (detector.weight[0], detector.bias[0])
        )

    def fit(self, images: torch.Tensor, target: np.ndarray, schedule: Schedule) -> dict[str, torch.Tensor]:
        """Learn from gains of 1; layer to gains."""
        for parameter in self.gains.values():
            parameter.data.fill_(1.0)
        labels = torch.as_tensor(target)
        mass = class_weights(labels[None])[0]
        optimiser = torch.optim.Adam(list(self.gains.values()), lr=schedule.rate, fused=True)
        for batch in schedule.batches(len(images)):
            z = self.model(images[batch]) @ self.weight + self.bias
            loss = binary_cross_entropy_with_logits(z, labels[batch].float(), mass[batch])
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            optimiser.step()
        return {n.split("model.")[-1].split(".ia3_l")[0]: p.detach().flatten() for n, p in self.gains.items()}


def our_fit(cut: CutNetwork, rows: Sequence[torch.Tensor], detector: Detector, target: np.ndarray, s: Schedule) -> Any:
    """The same with this package: free gains of one task."""
    state = start(cut, detector, parameterisation=FREE)
    return learn(cut, rows, target[None] if target.ndim == 1 else target, state, s, train_gains=True, train_head=False)


def part_ia3(rounds: int, quick: bool) -> None:
    """The same gains, at the same speed, with gains on all convolutions."""
    network = build_network("cifar_resnet20", weights="random", seed=0)
    module, name = network.module, str(network.head)
    randomise(module)
    sites = [n for n, part in module.named_modules() if isinstance(part, nn.Conv2d)]
    count = 16 if quick else 60
    images = torch.randn(count, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    detector, target = problem(64, count)
    schedule = Schedule(rate=0.01, batch_size=count // 2, epochs=3 if quick else 10)
    head("Beside peft IA3 (cifar_resnet20, free gains on convolutions; batch norm frozen, same order, Adam)")
    differences: dict[str, tuple[float, float, float | None]] = {}
    for some, most in (([sites[9]], 1e-5), ([sites[-1]], 1e-5), (sites, None)):
        cut = CutNetwork(module, some, name, past_pools=False)
        ours = our_fit(cut, cut.prefix(images), detector, target[0], schedule).gains()
        theirs = {
            key: gain.clone()
            for key, gain in PeftFit(module, name, some, detector).fit(images, target[0], schedule).items()
        }
        # a cut network computes in channels-last order; in another order convolutions round otherwise
        same_order = PeftFit(module, name, some, detector)
        same_order.model.to(memory_format=torch.channels_last)
        ordered = same_order.fit(images.contiguous(memory_format=torch.channels_last), target[0], schedule)
        worst = max(float((ours[site][0] - ordered[site]).abs().max()) for site in some)
        itself = max(float((theirs[site] - ordered[site]).abs().max()) for site in some)
        moved = max(float((theirs[site] - 1).abs().max()) for site in some)
        what = some[0] if len(some) == 1 else "all convolutions"
        differences[f"{what} (moved by {moved:.2f})"] = worst, itself, most
    for what, (worst, itself, most) in differences.items():
        verdict = "" if most is None else "yes" if worst <= most else "NO"
        wanted = "" if most is None else f"<= {most:g}"
        print(f"| largest difference of gains, {what} | {worst:.1e} | {wanted} | {verdict} |")
        print(f"| peft against itself in the other memory order, {what} | {itself:.1e} | | |")
        rows_printed.append(
            {"label": f"difference of gains, {what}", "median": worst, "wanted": wanted, "met": verdict}
        )
    cut = CutNetwork(module, sites, name, past_pools=False)
    block = Schedule(rate=0.01, batch_size=count // 2, epochs=2)
    theirs, last = PeftFit(module, name, sites, detector), PeftFit(module, name, sites, detector)
    last.model.to(memory_format=torch.channels_last)
    channels_last = images.contiguous(memory_format=torch.channels_last)
    cut.prefix(images)
    seconds = race(
        {
            "ours": lambda: our_fit(cut, cut.prefix(images), detector, target[0], block),
            "peft": lambda: theirs.fit(images, target[0], block),
            "peft again": lambda: theirs.fit(images, target[0], block),
            "peft channels last": lambda: last.fit(channels_last, target[0], block),
        },
        rounds,
    )
    line("ours / peft, gains on all convolutions, prefix included", seconds["ours"] / seconds["peft"], most=1.03)
    line("ours / peft in channels-last layout", seconds["ours"] / seconds["peft channels last"], most=1.03)
    line("peft / peft (noise)", seconds["peft again"] / seconds["peft"])


def randomise(module: nn.Module) -> None:
    """Norms as after training, so that the gains of all layers have gradients of a usual size."""
    generator = torch.Generator().manual_seed(1)
    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.running_var.fill_(1.0)
            part.weight.data.uniform_(0.3, 0.6, generator=generator)
            part.bias.data.uniform_(-0.1, 0.3, generator=generator)


# -- cached prefix ------------------------------------------------------------------------------------------------


def part_prefix(rounds: int, quick: bool) -> None:
    """ResNet-18 at 224 px: fits of 2,000 images and 10 epochs behind the cut against peft."""
    network = build_network("resnet18", weights="random", seed=0)
    module, name = network.module, str(network.head)
    randomise(module)
    side, count = (64, 4) if quick else (224, 32)
    images = torch.randn(count, 3, side, side, generator=torch.Generator().manual_seed(0))
    channels_last = images.contiguous(memory_format=torch.channels_last)
    detector, target = problem(512, count)
    stage = [f"layer4.{block}.conv{k}" for block in (0, 1) for k in (1, 2)]
    places = {"last stage": stage, "last block": stage[2:], "pooling commutes": ["layer4"]}
    cuts = {
        label: CutNetwork(module, sites, name, past_pools=label == "pooling commutes")
        for label, sites in places.items()
    }
    rows = {label: cut.prefix(images) for label, cut in cuts.items()}
    assert cuts["pooling commutes"].pooled
    updates = {"last stage": 2, "last block": 4, "pooling commutes": 200}
    one = Schedule(rate=0.01, batch_size=count, epochs=None, updates=1)
    contestants: dict[str, Work] = {}
    for label, sites in places.items():
        # where pooling commutes peft has no place: the last convolution is the nearest that it has
        theirs = PeftFit(module, name, ["layer4.1.conv2"] if label == "pooling commutes" else sites, detector)
        theirs.model.to(memory_format=torch.channels_last)
        several = Schedule(rate=0.01, batch_size=count, epochs=None, updates=updates[label])
        contestants[f"U {label}"] = lambda theirs=theirs: theirs.fit(channels_last, target[0], one)
        contestants[f"P {label}"] = lambda label=label: cuts[label].prefix(channels_last)
        contestants[f"S {label}"] = lambda label=label, several=several: our_fit_any(
            cuts[label], rows[label], detector, target, several, log=label == "pooling commutes"
        )
    theirs = PeftFit(module, name, stage, detector)
    theirs.model.to(memory_format=torch.channels_last)
    contestants["U again"] = lambda: theirs.fit(channels_last, target[0], one)
    seconds = race(contestants, rounds)
    head(
        f"Cached prefix against peft, both channels-last (ResNet-18, {side} px, blocks of {count} images; figures for "
        "2,000 images and 10 epochs: 10 U / (P + 10 S))"
    )
    for label, least in (("last stage", 2.8), ("last block", 4.3), ("pooling commutes", 9.5)):
        own = seconds[f"P {label}"] + 10 * seconds[f"S {label}"] / updates[label]
        line(f"peft / ours, {label}", 10 * seconds[f"U {label}"] / own, least=least)
    line("peft / peft (noise), last stage", seconds["U again"] / seconds["U last stage"])
    total = 200 if quick else 2000
    cached = torch.rand(total, 512, generator=torch.Generator().manual_seed(1))
    further, labels = problem(512, total)
    whole = Schedule(rate=0.01, batch_size=count, epochs=10)
    steps = -(-total // count) * 10
    cut = cuts["pooling commutes"]
    again = race({"fit": lambda: our_fit_any(cut, (cached,), further, labels, whole, log=True)}, min(rounds, 5))["fit"]
    peft = float(np.median(seconds["U pooling commutes"])) * steps
    line(f"peft / ours, each further task or relabelling ({total} images, 10 epochs)", peft / again, least=100)


def our_fit_any(
    cut: CutNetwork, rows: Sequence[torch.Tensor], detector: Detector, target: np.ndarray, s: Schedule, *, log: bool
) -> Any:
    """One task, gains with a logarithm or free."""
    if not log:
        return our_fit(cut, rows, detector, target, s)
    return fit_tasks(cut, rows, target, start(cut, detector), s, train_gains=True, train_head=False)


# -- refits -------------------------------------------------------------------------------------------------------


def part_refits(rounds: int, quick: bool) -> None:
    """200 relabellings of the digits job, read-outs included, against one cached fit of the same layer."""
    network = build_network("digits_cnn", weights="random", seed=0)
    generator = torch.Generator().manual_seed(0)
    composites, singles = torch.rand(600, 1, 28, 28, generator=generator), 2000
    rng = np.random.default_rng(0)
    features = np.maximum(rng.standard_normal((singles, 64)) @ rng.standard_normal((64, 64)) / 8 + 0.5, 0)
    target, source = np.arange(600)[None] % 5 == 0, np.arange(singles)[None] % 10 == 0
    detector = joint_logistic_detectors(features, source)
    head("200 refits against one cached fit of the same layer (digits: 600 composites, batch 60, 30 epochs)")
    for layer, most in (("relu3", 5), ("relu2", 300), ("relu1", 500)):
        cut = CutNetwork(network.module, [layer], "head")
        rows = cut.prefix(composites)
        pooled = cut.pooled
        # earlier layers: equal shares of the work, 8 relabellings and a tenth of the updates (both enter linearly)
        some, epochs = (200, 30) if pooled else (8, 1 if quick else 3)
        schedule = Schedule(rate=0.03, batch_size=60, epochs=epochs)

        def one(cut: CutNetwork = cut, rows: Any = rows, schedule: Schedule = schedule) -> None:
            fit_tasks(cut, rows, target, start(cut, detector), schedule, train_gains=True, train_head=False)

        def many(cut: CutNetwork = cut, rows: Any = rows, s: Schedule = schedule, some: int = some) -> None:
            if cut.pooled:
                refit_gains(cut, rows, target, features, source, s, refits=some, seed=0)
            else:
                labels = np.concatenate([target[:, rng.permutation(600)] for _ in range(some)])
                wide = Detector(np.tile(detector.weight, (some, 1)), np.tile(detector.bias, some), detector.scale)
                fit_tasks(cut, rows, labels, start(cut, wide), s, train_gains=True, train_head=False)

        def heads() -> None:
            joint_logistic_detectors(
                features, np.concatenate([source[:, rng.permutation(singles)] for _ in range(200)])
            )

        seconds = race({"one": one, "many": many, "heads": heads, "one again": one}, max(3, rounds // 3))
        scale = 30 / epochs
        total = seconds["many"] if pooled else seconds["many"] * scale * 200 / some + seconds["heads"]
        line(f"200 refits / one fit, {layer}", total / (seconds["one"] * scale), most=most)
        line(f"one fit / one fit (noise), {layer}", seconds["one again"] / seconds["one"])
        print(f"| (read-outs of 200 relabellings: {np.median(seconds['heads']):.2f} s; one fit: ", end="")
        print(f"{np.median(seconds['one']) * scale:.2f} s) | | | |")


# -- forward pass -------------------------------------------------------------------------------------------------


def gain_set(module: nn.Module, images: torch.Tensor, sites: Sequence[str]) -> xr.Dataset:
    """GAINS of random positive gains at the sites."""
    widths: dict[str, int] = {}
    handles = [
        module.get_submodule(site).register_forward_hook(
            lambda part, inputs, output, site=site: widths.__setitem__(site, output.shape[1])
        )
        for site in sites
    ]
    with torch.no_grad():
        module(images[:1])
    for handle in handles:
        handle.remove()
    rng = np.random.default_rng(0)
    unit = [one for site in sites for one in unit_ids(site, widths[site])]
    return xr.Dataset(
        {"gain": ("unit", np.exp(rng.normal(0, 0.3, len(unit))))},
        {
            "unit": unit,
            "layer": ("unit", [site for site in sites for _ in range(widths[site])]),
            "channel": ("unit", [k for site in sites for k in range(widths[site])]),
        },
        {"kind": "GAINS"},
    )


def part_forward(rounds: int, quick: bool) -> None:
    """A forward pass with gains against the plain one."""
    module = build_network("resnet18", weights="random", seed=0).module
    images = torch.randn(2 if quick else 8, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    blocks = [f"layer{stage}.{k}" for stage in range(1, 5) for k in (0, 1)]
    norms = [n for n, part in module.named_modules() if isinstance(part, nn.BatchNorm2d)]
    at_blocks, at_norms = gain_set(module, images, blocks), gain_set(module, images, norms)
    folded = fa.fold_gains(module, at_norms)

    def plain(network: nn.Module = module) -> None:
        with torch.inference_mode():
            network(images)

    # a copy each, so that both sets stay placed: entering a `with` is timed on its own
    gained = {"blocks": copy.deepcopy(module), "norms": copy.deepcopy(module)}

    def enter() -> None:
        with fa.with_gains(module, at_norms):
            pass

    with ExitStack() as stack:
        for where, gains in (("blocks", at_blocks), ("norms", at_norms)):
            stack.enter_context(fa.with_gains(gained[where], gains))
        contestants: dict[str, Work] = {
            "plain": plain,
            "blocks": lambda: plain(gained["blocks"]),
            "norms": lambda: plain(gained["norms"]),
            "folded": lambda: plain(folded),
            "plain again": plain,
            "enter": enter,
        }
        seconds = race(contestants, rounds)
    head(f"A gained forward pass against the plain one (ResNet-18, 224 px, {len(images)} images)")
    line("gains at the 8 block outputs", seconds["blocks"] / seconds["plain"], most=1.03)
    line("gains at all 20 norms", seconds["norms"] / seconds["plain"], most=1.10)
    line("folded (1.00 within the noise below)", seconds["folded"] / seconds["plain"], most=1.02)
    line("plain / plain (noise)", seconds["plain again"] / seconds["plain"])
    print(f"| (placing gains at 20 norms and taking them away: {1e3 * np.median(seconds['enter']):.1f} ms) | | | |")


# -- memory -------------------------------------------------------------------------------------------------------


def peak_bytes(work: Work) -> int:
    """Largest number of bytes that `work` held at once beyond what was there before, from torch's profiler."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profiler:
        work()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trace.json"
        profiler.export_chrome_trace(str(path))
        events = [e for e in json.loads(path.read_text())["traceEvents"] if e.get("name") == "[memory]"]
    held, most = 0, 0
    for event in sorted(events, key=lambda e: e["ts"]):
        held += int(event["args"]["Bytes"])
        most = max(most, held)
    return most


def saved_bytes(cut: CutNetwork, rows: Sequence[torch.Tensor], state: Any, target: np.ndarray) -> tuple[int, int]:
    """Bytes that autograd saves of one update (weights not counted), and those of the two largest tensors."""
    weights = {p.untyped_storage().data_ptr() for p in cut.module.parameters()}
    weights |= {b.untyped_storage().data_ptr() for b in cut.module.buffers()}
    kept: dict[int, tuple[torch.Tensor, int]] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = tensor, storage.nbytes()
        return tensor

    for theta in state.theta.values():
        theta.requires_grad_(True)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        z = state.logits(cut.features(rows, state.modulations()))
        binary_cross_entropy_with_logits(z, torch.as_tensor(target).float()).backward()
    sizes = sorted((size for _, size in kept.values()), reverse=True)
    return sum(sizes), sum(sizes[:2])


def part_memory(rounds: int, quick: bool) -> None:
    """Peak memory of learning against what autograd must save of the suffix."""
    head(
        "Peak memory of one update (profiler), without the learned numbers, their gradients and Adam's moments, "
        "/ (saved activations of the suffix + its two largest tensors)"
    )
    last_stage = [f"layer3.{k}.relu{j}" for k in range(3) for j in (1, 2)]
    cases = [
        ("digits_cnn", ["relu1", "relu2", "relu3"], (1, 28, 28), 60),
        ("cifar_resnet20", last_stage, (3, 32, 32), 30),
    ]
    cases += [] if quick else [("resnet18", ["layer4.0.bn1", "layer4.1.bn1", "layer4"], (3, 224, 224), 16)]
    for name, sites, shape, count in cases:
        network = build_network(name, weights="random", seed=0)
        cut = CutNetwork(network.module, sites, str(network.head))
        rows = cut.prefix(torch.rand(count, *shape, generator=torch.Generator().manual_seed(0)))
        width = network.module.get_submodule(str(network.head)).in_features
        detector, target = problem(int(width), count)  # type: ignore[arg-type]
        schedule = Schedule(rate=0.01, batch_size=count, epochs=None, updates=1)

        def update(
            cut: Any = cut, rows: Any = rows, detector: Any = detector, t: Any = target, s: Any = schedule
        ) -> None:
            learn(cut, rows, t, start(cut, detector), s, train_gains=True, train_head=False)

        update()
        saved, two = saved_bytes(cut, rows, start(cut, detector), target)
        # theta, its start, gradient and two moments; the read-out and its start
        numbers = 5 * 4 * sum(cut.n_filters[site] for site in sites) + 4 * 4 * (int(width) + 1)  # type: ignore[arg-type]
        peak = peak_bytes(update) - numbers
        line(
            f"{name}: peak {peak / 1e6:.1f} MB, saved {saved / 1e6:.1f} MB", np.array([peak / (saved + two)]), most=1.0
        )
        # convolutions lay weights out anew in every pass: a copy of them is held beside the maps
        weights = max(4 * parameter.numel() for parameter in cut.module.parameters())
        print(f"| (largest weights of the network, in no sum above: {weights / 1e6:.1f} MB) | | | |")


PARTS = {
    "ia3": part_ia3, "prefix": part_prefix, "refits": part_refits, "forward": part_forward, "memory": part_memory,
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", nargs="+", choices=list(PARTS), default=list(PARTS))
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--quick", action="store_true", help="small sizes and few rounds: does it run at all")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path, help="write the rows of the tables here")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    rounds = min(args.rounds, 3) if args.quick else args.rounds
    print(f"torch {torch.__version__}, {args.threads} threads, {rounds} rounds{', quick' if args.quick else ''}")
    for name in args.part:
        since = time.perf_counter()
        PARTS[name](rounds, args.quick)
        print(f"\n({name}: {time.perf_counter() - since:.0f} s)", flush=True)
    if args.json is not None:
        args.json.write_text(json.dumps(rows_printed, indent=1))


if __name__ == "__main__":
    main()

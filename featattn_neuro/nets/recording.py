"""Recording: responses of filters to stimuli, reduced inside the hook, labelled on the way out.

The loop knows nothing of files. Values go to a `Sink`: into memory here, into a store that is handed in elsewhere.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager, nullcontext
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from torch import Tensor, fx, nn

from featattn_neuro.errors import DataError
from featattn_neuro.nets.batches import StimulusSource
from featattn_neuro.nets.channels import ChannelAxis, ChannelRule, channels_first
from featattn_neuro.nets.graph_nodes import Site
from featattn_neuro.nets.hooks import evaluating, hooked
from featattn_neuro.nets.loading import Batch, PaddedBatches, first_input, load_batches
from featattn_neuro.nets.plan import COMPUTE_DTYPES, STORAGE_DTYPES, RecordingPlan, make_plan
from featattn_neuro.nets.reductions import Reducer, reduced
from featattn_neuro.nets.selection import Layers
from featattn_neuro.nets.units import RecordedLayer, unit_coordinates
from featattn_neuro.schema import RecordingHeader

if TYPE_CHECKING:
    import xarray as xr

Progress = Callable[[int, int], None]
CPU = torch.device("cpu")
Header = RecordingHeader


class Sink(Protocol):
    """Where values go. `begin` says which stimuli are still wanted: ranges that start at multiples of the batch."""

    def begin(self, header: RecordingHeader) -> list[tuple[int, int]]: ...

    def write(self, start: int, values: Sequence[np.ndarray], unreadable: Mapping[int, str]) -> None:
        """Values (reduction, rows, units) of each recorded layer, for the stimuli from `start` on."""

    def finish(self) -> xr.Dataset: ...


class MemorySink:
    """Keeps everything in one array, made once."""

    def begin(self, header: RecordingHeader) -> list[tuple[int, int]]:
        self.header = header
        shape = (len(header.reductions), header.n_stimuli, sum(header.widths))
        self.response = np.empty(shape, header.dtype)
        self.unreadable: dict[int, str] = {}
        return [(0, header.n_stimuli)]

    def write(self, start: int, values: Sequence[np.ndarray], unreadable: Mapping[int, str]) -> None:
        stop = start + values[0].shape[1]
        np.concatenate(values, axis=2, out=self.response[:, start:stop])
        self.unreadable.update(unreadable)

    def finish(self) -> xr.Dataset:
        return self.header.dataset(self.response, self.unreadable)


class _Collector:
    """Takes the wanted outputs of one pass; every value is a copy, so that nothing in place can reach it."""

    def __init__(self, plan: RecordingPlan, rule: ChannelRule) -> None:
        self.plan, self.rule = plan, rule
        self.dtype = STORAGE_DTYPES[plan.dtype]
        self.values: dict[tuple[str, int], Tensor] = {}
        self.calls: dict[str, int] = {}
        self.rows = 0
        self.shapes: dict[tuple[str, int], Any] | None = None
        self.axes: dict[tuple[str, int], int | None] = {}

    def collect(self, layer: str, output: Any, call: int | None = None) -> None:
        """Keep one output, reduced; `call` counts by itself unless given."""
        if call is None:
            call = self.calls.get(layer, 0)
            self.calls[layer] = call + 1
        if self.shapes is not None:
            # only once every layer has run is it known which axes are open: until then an axis is a guess
            self.shapes[layer, call] = output.to("meta", copy=True) if isinstance(output, Tensor) else output
            try:
                axis = self.rule.axis(layer, output)
                self.values[layer, call] = self._kept(layer, output, axis)
                self.axes[layer, call] = axis
            except DataError:  # if there is something wrong, the pass that comes then says so
                self.axes[layer, call] = None
            return
        self.values[layer, call] = self._kept(layer, output, self.rule.axis(layer, output))

    def _kept(self, layer: str, output: Tensor, axis: int) -> Tensor:
        """(reduction, N, units) of one output, never sharing memory with it."""
        if output.shape[0] != self.rows:
            raise DataError(
                f"layer {layer!r} gives {output.shape[0]} rows for {self.rows} images (windows or patches folded into "
                "the batch); choose a layer around it"
            )
        maps = channels_first(output.detach(), axis)
        if self.plan.keeps_maps:
            kept = maps.to(self.dtype, memory_format=torch.contiguous_format, copy=True).flatten(1)[None]
        else:
            kept = reduced(self.plan.reductions, maps).to(self.dtype)
        if self.plan.dtype == "float16" and bool((kept.isinf() & maps.isfinite().all()).any()):
            raise DataError(f"layer {layer!r} exceeds what float16 can hold (65504); store float32")
        return kept

    def take(self) -> dict[tuple[str, int], Tensor]:
        """What was collected, (layer, call) to (reduction, N, units); starts the next pass empty."""
        values, self.values, self.calls = self.values, {}, {}
        return values


class _Runner:
    """Runs the network on batches and gives the collected values, in the order that the first pass fixed."""

    def __init__(self, module: nn.Module, plan: RecordingPlan, device: torch.device) -> None:
        self.module, self.plan, self.device = module, plan, device
        self.rule = ChannelRule(module, plan.channel_axis)
        self.collector = _Collector(plan, self.rule)
        weight = next((p for p in module.parameters() if p.is_floating_point()), None)
        self.input_dtype = torch.float32 if weight is None else weight.dtype
        self.keys: list[tuple[str, int]] = []

    @contextmanager
    def ready(self) -> Iterator[None]:
        """Hooks on, evaluation mode, no gradients, compute dtype; all given back on the way out."""
        compute = COMPUTE_DTYPES[self.plan.compute_dtype]
        cast = nullcontext() if compute == torch.float32 else torch.autocast(self.device.type, dtype=compute)
        with evaluating(self.module), torch.inference_mode(), cast, hooked(self.module, self._hooks()):
            yield

    def _hooks(self) -> dict[str, Any]:
        if self.plan.graph is not None:
            return {}
        return {
            layer: lambda module, inputs, output, layer=layer: self.collector.collect(layer, output)
            for layer in self.plan.layers
        }

    def forward(self, images: Tensor) -> None:
        """One pass, to fill the collector."""
        batch = images.to(self.device, self.input_dtype)
        self.collector.rows = len(batch)
        if self.plan.graph is None:
            self.module(batch)
            return
        sites: dict[fx.Node, list[Site]] = {}
        for node, site in zip(self.plan.nodes, self.plan.sites, strict=True):
            sites.setdefault(node, []).append(site)

        def collect(node: fx.Node, value: Any) -> None:
            for site in sites.get(node, ()):
                self.collector.collect(site.layer, value, site.call)

        self.plan.graph.run(batch, collect)

    def learn(self, images: Tensor) -> tuple[list[RecordedLayer], dict[tuple[str, int], Tensor] | None]:
        """Shapes of everything recorded, from the first pass, and its values, if what it took to be the axes of filters
        holds now that every layer has run.
        """
        watch = {
            name: lambda module, inputs, output, axis=axis: self.rule.watch(axis, output)
            for name, axis in self.rule.watched().items()
        }
        self.collector.shapes = {}
        with hooked(self.module, watch):
            self.forward(images)
        shapes = {key: self._shape(key[0], shape) for key, shape in self.collector.shapes.items()}
        self.collector.shapes = None
        values, guessed = self.collector.take(), self.collector.axes
        holds = all(guessed[key] == shape[0] for key, shape in shapes.items())
        return self._recorded(shapes), values if holds else None

    def _shape(self, layer: str, output: Tensor) -> tuple[int, ...]:
        axis = self.rule.axis(layer, output)
        return (axis, *channels_first(output, axis).shape[1:])

    def _recorded(self, shapes: dict[tuple[str, int], tuple[int, ...]]) -> list[RecordedLayer]:
        found = []
        for site in self.plan.sites:
            calls = [call for layer, call in shapes if layer == site.layer]
            if not calls:
                raise DataError(f"layer {site.layer!r} exists but did not run on these stimuli; leave it out")
            here = calls if self.plan.graph is None else [site.call]
            total = len(calls) if self.plan.graph is None else self.plan.graph.calls(site.layer)
            for call in here:
                axis, channels, *positions = shapes[site.layer, call]
                self.keys.append((site.layer, call))
                found.append(
                    RecordedLayer(site.layer, site.stage, call, total, channels, tuple(positions), axis)
                )  # fmt: skip
        if self.plan.graph is not None:
            names = [self.plan.graph.node_names[node] for node in self.plan.nodes]
            found = [one.at(node) for one, node in zip(found, names, strict=True)]
        return found

    def values(self, batch: Batch) -> list[np.ndarray]:
        """(reduction, count, units) of each recorded layer for one batch."""
        assert batch.images is not None
        self.forward(batch.images)
        return self.arrays(self.collector.take(), batch.count)

    def arrays(self, found: dict[tuple[str, int], Tensor], count: int) -> list[np.ndarray]:
        """What one pass collected, as `values` gives it: without the rows that pad the batch."""
        if set(found) != set(self.keys):
            raise DataError(
                "a layer ran a different number of times on different batches; record it alone, or leave it out"
            )
        return [found[key][:, :count].cpu().numpy() for key in self.keys]


@contextmanager
def random_state_kept(device: torch.device) -> Iterator[None]:
    """Give the global generators of Python, numpy and torch back as they were."""
    python, numpy = random.getstate(), np.random.get_state()  # noqa: NPY002 - the global one is what is kept
    devices = [device] if device.type == "cuda" else []
    try:
        with torch.random.fork_rng(devices=devices):
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)  # noqa: NPY002


def record_activations(
    module: nn.Module,
    stimuli: StimulusSource,
    layers: Layers,
    *,
    preprocess: Callable[[np.ndarray], torch.Tensor] | None = None,
    reduce: Reducer | Sequence[Reducer] = "mean",
    batch_size: int = 32,
    device: str | torch.device = "cpu",
    network_name: str = "network",
    dtype: str = "float32",
    compute_dtype: str = "float32",
    channel_axis: ChannelAxis = None,
    progress: Progress | None = None,
) -> xr.Dataset:
    """Record `layers` of `module` while it sees `stimuli`, into memory; see `featattn_neuro.record`.

    Parameters
    ----------
    layers : name, glob, regular expression, stage, type, function, or several (see `select_layers`).
    reduce : reduction(s) over positions; several give a dimension `reduction`.
    batch_size : compute batch; fixed and padded, so each row is independent of the other stimuli.
    progress : called with (stimuli done, stimuli in all) after each batch.

    Returns
    -------
    ACTIVATIONS : `response(stimulus, unit)`, units of the layers' outputs; a module that runs several times gives
        units `layer@call/channel` and a coordinate `call`.

    Raises
    ------
    ConfigError : unknown layer or reduction (before the first batch). DataError : a layer without filters, no stimuli.
    """
    plan = make_plan(
        module, layers, reduce, batch_size=batch_size, dtype=dtype, compute_dtype=compute_dtype,
        channel_axis=channel_axis,
    )  # fmt: skip
    return run_plan(
        module, plan, stimuli, MemorySink(), preprocess=preprocess, device=torch.device(device),
        attrs={"network_name": network_name}, progress=progress,
    )  # fmt: skip


def run_plan(
    module: nn.Module,
    plan: RecordingPlan,
    stimuli: StimulusSource,
    sink: Sink,
    *,
    preprocess: Callable[[np.ndarray], torch.Tensor] | None = None,
    device: torch.device = CPU,
    workers: int = 0,
    corrupt: str = "error",
    attrs: Mapping[str, str | int | float] | None = None,
    progress: Progress | None = None,
    timing: dict[str, float] | None = None,
) -> xr.Dataset:
    """Carry a plan out: stimuli through the network, values into `sink`. The network is left as it was found.

    Parameters
    ----------
    workers : processes that read and preprocess; 0 = here. The result does not depend on it.
    corrupt : "error" or "skip": images that cannot be read are listed in `skipped` and left out.
    timing : filled with the seconds in which the network ran ("compute") and waited for images ("waiting").
    """
    runner = _Runner(module, plan, device)
    clock = {"compute": 0.0, "waiting": 0.0}
    with ExitStack() as stack:
        stack.enter_context(random_state_kept(device))
        stack.enter_context(runner.ready())
        image = first_input(stimuli, preprocess, skip=corrupt == "skip")
        since = time.perf_counter()
        first = _first_batch(stimuli, preprocess, plan, image, skip=corrupt == "skip") if workers == 0 else None
        got = time.perf_counter()
        recorded, known = runner.learn(image[None] if first is None or first.images is None else first.images)
        clock["waiting"] += got - since
        clock["compute"] += time.perf_counter() - got
        ranges = sink.begin(_header(plan, recorded, stimuli, dict(attrs or {})))
        starts = [start for low, high in ranges for start in range(low, high, plan.batch_size)]
        source = PaddedBatches(
            stimuli, preprocess, starts, plan.batch_size, shape=image.shape, skip=corrupt == "skip"
        )  # fmt: skip
        todo = sum(high - low for low, high in ranges)
        done = len(stimuli) - todo
        if first is not None and first.images is not None and known is not None and starts[:1] == [0]:
            # the pass that told the shapes was that of the first batch: it need not be made again
            sink.write(0, runner.arrays(known, first.count), first.unreadable)
            done += first.count
            if progress is not None:
                progress(done, len(stimuli))
            source.starts = starts[1:]
        del first, known  # a batch of maps is not to stay until the end
        since = time.perf_counter()
        with closing(load_batches(source, workers)) as batches:  # type: ignore[type-var]
            for batch in batches:
                got = time.perf_counter()
                values = runner.values(batch)
                clock["waiting"] += got - since
                since = time.perf_counter()
                clock["compute"] += since - got
                sink.write(batch.start, values, batch.unreadable)
                done += batch.count
                if progress is not None:
                    progress(done, len(stimuli))
    if timing is not None:
        timing.update(clock)
    return sink.finish()


def _first_batch(
    stimuli: StimulusSource,
    preprocess: Callable[[np.ndarray], torch.Tensor] | None,
    plan: RecordingPlan,
    image: Tensor,
    *,
    skip: bool,
) -> Batch:
    """The batch of the first stimuli; `images` is None where none of them can be read."""
    return PaddedBatches(stimuli, preprocess, [0], plan.batch_size, shape=image.shape, skip=skip).batch(0)


def _header(
    plan: RecordingPlan,
    recorded: Sequence[RecordedLayer],
    stimuli: StimulusSource,
    attrs: dict[str, str | int | float],
) -> RecordingHeader:
    widths = tuple(one.units(maps=plan.keeps_maps) for one in recorded)
    last = sorted({one.layer for one in recorded if one.axis != 1})
    return RecordingHeader(
        widths=widths,
        steps=tuple(width // one.channels for width, one in zip(widths, recorded, strict=True)),
        reductions=plan.reduction_names,
        dtype=plan.dtype,
        batch_size=plan.batch_size,
        n_stimuli=len(stimuli),
        coordinates={
            "stimulus": ("stimulus", np.asarray(stimuli.id)),
            **stimuli.coordinates(),
            **unit_coordinates(recorded, maps=plan.keeps_maps),
        },
        attrs={
            **attrs,
            "batch_size": plan.batch_size,
            "recorded_through": plan.path,
            "channel_rule": "axis 1" + (f", last axis in {', '.join(last)}" if last else ""),
            "compute_dtype": plan.compute_dtype,
        },
    )

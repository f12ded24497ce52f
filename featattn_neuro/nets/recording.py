"""Recording: responses of filters to stimuli, reduced inside the hook, labelled on the way out.

The loop knows nothing of files. Values go to a `Sink`: into memory here, into a store that is handed in elsewhere.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, closing
from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from featattn_neuro.errors import ConfigError
from featattn_neuro.nets.batches import StimulusSource
from featattn_neuro.nets.chance import random_state_kept
from featattn_neuro.nets.channels import ChannelAxis
from featattn_neuro.nets.loading import Batch, PaddedBatches, first_input, load_batches
from featattn_neuro.nets.passes import Runner
from featattn_neuro.nets.plan import RecordingPlan, make_plan
from featattn_neuro.nets.reductions import Reducer
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
    if not isinstance(workers, int | np.integer) or workers < 0:
        raise ConfigError(f"workers must be a number of processes, 0 or more; came {workers!r}; leave it out")
    runner = Runner(module, plan, device)
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
        stack.enter_context(runner.recording())
        ranges = sink.begin(_header(plan, recorded, stimuli, {**(attrs or {}), **runner.left_out_attribute()}))
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
            "channel_rule": _channel_rule(recorded),
            "compute_dtype": plan.compute_dtype,
        },
    )


def _channel_rule(recorded: Sequence[RecordedLayer]) -> str:
    """Where the filters were, in words: axis 1 but for the layers that are named."""
    layers: dict[str, set[str]] = {}
    for one in recorded:
        if one.axis != 1:
            place = "last axis" if one.axis == len(one.positions) + 1 else f"axis {one.axis}"
            layers.setdefault(place, set()).add(one.layer)
    return ", ".join(["axis 1", *(f"{place} in {', '.join(sorted(layers[place]))}" for place in sorted(layers))])

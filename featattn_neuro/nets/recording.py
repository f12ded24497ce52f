"""Recording: responses of filters to stimuli, reduced inside the hook, labelled on the way out."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from featattn_neuro.errors import DataError
from featattn_neuro.nets.batches import StimulusSource, batches
from featattn_neuro.nets.hooks import channel_axis, evaluating, hooked
from featattn_neuro.nets.plan import RecordingPlan, make_plan, reduce_maps, unit_ids
from featattn_neuro.schema import ACTIVATIONS

if TYPE_CHECKING:
    import xarray as xr


class _Recorder:
    """Collects (reduction, N, C) per layer and call; one instance per batch run."""

    def __init__(self, plan: RecordingPlan) -> None:
        self.plan = plan
        self.calls: dict[str, list[torch.Tensor]] = {}

    def hook(self, layer: str) -> Callable[[nn.Module, tuple[Any, ...], Any], None]:
        def collect(module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
            channel_axis(output, layer)
            reduced = torch.stack([reduce_maps(output, name) for name in self.plan.reductions])
            self.calls.setdefault(layer, []).append(reduced.float())

        return collect

    def take(self) -> dict[tuple[str, int, int], torch.Tensor]:
        """(layer, call, calls) to (reduction, N, C), in plan order; starts the next batch empty."""
        missing = [layer for layer in self.plan.layers if layer not in self.calls]
        if missing:
            raise DataError(f"layer {missing[0]!r} exists but did not run on these stimuli; leave it out")
        out = {
            (layer, call, len(self.calls[layer])): values
            for layer in self.plan.layers
            for call, values in enumerate(self.calls[layer])
        }
        self.calls = {}
        return out


def record_activations(
    module: nn.Module,
    stimuli: StimulusSource,
    layers: str | Iterable[str],
    *,
    preprocess: Callable[[np.ndarray], torch.Tensor] | None = None,
    reduce: str | Sequence[str] = "mean",
    batch_size: int = 32,
    device: str | torch.device = "cpu",
    network_name: str = "network",
    progress: Callable[[int, int], None] | None = None,
) -> xr.Dataset:
    """Record `layers` of `module` while it sees `stimuli`.

    Parameters
    ----------
    layers : name, glob, stage, or several (see `select_layers`).
    reduce : reduction(s) over positions; several give a dimension `reduction`.
    batch_size : compute batch; fixed and padded, so each row is independent of the other stimuli.
    progress : called with (stimuli done, stimuli in all) after each batch.

    Returns
    -------
    ACTIVATIONS : `response(stimulus, unit)`, float32, units of the layers' outputs; a module that runs several times
        gives units `layer@call/channel` and a coordinate `call`.

    Raises
    ------
    ConfigError : unknown layer or reduction (before the first batch). DataError : a layer without filters, no stimuli.
    """
    plan = make_plan(module, layers, reduce, batch_size=batch_size)
    recorder = _Recorder(plan)
    blocks: list[dict[tuple[str, int, int], np.ndarray]] = []
    done = 0
    with (
        evaluating(module),
        torch.inference_mode(),
        hooked(module, {layer: recorder.hook(layer) for layer in plan.layers}),
    ):
        for batch, count in batches(stimuli, preprocess, batch_size=batch_size, device=device):
            module(batch)
            blocks.append({key: values[:, :count].cpu().numpy() for key, values in recorder.take().items()})
            done += count
            if progress is not None:
                progress(done, len(stimuli))
    return _label(plan, blocks, stimuli, network_name)


def _label(
    plan: RecordingPlan,
    blocks: list[dict[tuple[str, int, int], np.ndarray]],
    stimuli: StimulusSource,
    network_name: str,
) -> xr.Dataset:
    import xarray as xr

    keys = list(blocks[0])
    if any(list(block) != keys for block in blocks):
        raise DataError(
            "a layer ran a different number of times on different batches; record it alone, or leave it out"
        )
    stage = dict(zip(plan.layers, plan.stages, strict=True))
    response = np.concatenate([np.concatenate([block[key] for block in blocks], axis=1) for key in keys], axis=2)
    widths = [blocks[0][key].shape[2] for key in keys]
    unit = [
        name
        for (layer, call, calls), width in zip(keys, widths, strict=True)
        for name in unit_ids(layer, width, call, calls)
    ]
    per_unit = [
        (layer, channel, call) for (layer, call, _), width in zip(keys, widths, strict=True) for channel in range(width)
    ]
    dataset = xr.Dataset(
        {"response": (("reduction", "stimulus", "unit"), response)},
        coords={
            "reduction": list(plan.reductions),
            "stimulus": np.asarray(stimuli.id),
            "unit": np.asarray(unit),
            "layer": ("unit", np.asarray([layer for layer, _, _ in per_unit])),
            "channel": ("unit", np.asarray([channel for _, channel, _ in per_unit])),
            "call": ("unit", np.asarray([call for _, _, call in per_unit])),
            "stage": ("unit", np.asarray([stage[layer] for layer, _, _ in per_unit])),
            **stimuli.coordinates(),
        },
        attrs={"kind": "ACTIVATIONS", "network_name": network_name, "batch_size": plan.batch_size},
    )
    if len(plan.reductions) == 1:
        dataset = dataset.isel(reduction=0, drop=True).assign_attrs(reduction=plan.reductions[0])
    return ACTIVATIONS.check(dataset)

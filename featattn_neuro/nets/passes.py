"""Passes of a network while it is recorded: the first one tells what there is, the others give values."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import fields, is_dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx, nn

from featattn_neuro.errors import ConfigError, DataError
from featattn_neuro.nets.chance import random_state
from featattn_neuro.nets.channels import ChannelRule, channels_first, declared_axis, no_filters, without_filters
from featattn_neuro.nets.graph_nodes import Site
from featattn_neuro.nets.hooks import attributes_kept, evaluating, hooked
from featattn_neuro.nets.loading import Batch
from featattn_neuro.nets.plan import COMPUTE_DTYPES, STORAGE_DTYPES, RecordingPlan
from featattn_neuro.nets.reductions import prepared, reduced
from featattn_neuro.nets.units import RecordedLayer

Key = tuple[str, int]
"""Layer and call."""


class _Collector:
    """Takes the wanted outputs of one pass; every value is a copy, so that nothing in place can reach it.

    seen : while a pass tells what there is, each output without its numbers; None in the passes that give values.
    known : axis of the filters, and dimensions behind the first, of each output, once that pass was made.
    """

    def __init__(self, plan: RecordingPlan, rule: ChannelRule) -> None:
        self.plan, self.rule = plan, rule
        self.dtype = STORAGE_DTYPES[plan.dtype]
        self.values: dict[Key, Tensor] = {}
        self.calls: dict[str, int] = {}
        self.rows = 0
        self.seen: dict[Key, Any] | None = None
        self.guessed: dict[Key, int | None] = {}
        self.known: dict[Key, tuple[int, tuple[int, ...]]] = {}
        self.usual: dict[Key, tuple[torch.Size, Callable[[Tensor], Tensor]]] = {}

    def learn(self, known: dict[Key, tuple[int, tuple[int, ...]]]) -> None:
        """What every later pass should give; for most outputs nothing is then left to look at but their shape."""
        self.known = known
        plain = not self.plan.keeps_maps and self.dtype in (torch.float32, torch.float64)
        self.usual = {
            key: (torch.Size((self.plan.batch_size, *shape)), prepared(self.plan.reductions, 1 + len(shape)))
            for key, (axis, shape) in known.items()
            if plain and axis == 1
        }

    def hook(self, layer: str, module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        """What a module calls when it has run."""
        self.collect(layer, output)

    def collect(self, layer: str, output: Any, call: int | None = None) -> None:
        """Keep one output, reduced; `call` counts by itself unless given."""
        if call is None:
            call = self.calls.get(layer, 0)
            self.calls[layer] = call + 1
        key = layer, call
        if self.seen is None:
            usual = self.usual.get(key)
            if usual is not None and type(output) is Tensor and not output.requires_grad:
                shape, reduce = usual
                if output.shape == shape and output.dtype == self.dtype:
                    self.values[key] = reduce(output)
                    return
            self.values[key] = self._kept(layer, output, self._axis(key, output))
            return
        # only once every layer has run is it known which axes are open: until then an axis is a guess
        self.seen[key] = output.to("meta", copy=True) if isinstance(output, Tensor) else output
        try:
            axis = self.rule.axis(layer, output)
            self.values[key] = self._kept(layer, output, axis)
            self.guessed[key] = axis
        except DataError:  # if there is something wrong, the pass that comes then says so
            self.guessed[key] = None

    def _axis(self, key: Key, output: Any) -> int:
        known = self.known.get(key)
        if known is not None and isinstance(output, Tensor) and output.shape[1:] == known[1]:
            return known[0]
        axis = self.rule.axis(key[0], output)
        if known is not None:
            wanted = known[1] if self.plan.keeps_maps else known[1][known[0] - 1]
            came = tuple(output.shape[1:]) if self.plan.keeps_maps else output.shape[axis]
            if came != wanted:
                what = "positions" if self.plan.keeps_maps else "filters"
                raise DataError(
                    f"layer {key[0]!r} gives other {what} for other images: {wanted}, then {came}; leave it out"
                )
        return axis

    def _kept(self, layer: str, output: Tensor, axis: int) -> Tensor:
        """(reduction, N, units) of one output, never sharing memory with it."""
        if output.shape[0] != self.rows:
            raise other_rows(layer, output.shape[0], self.rows)
        maps = channels_first(output.detach(), axis)
        if self.plan.keeps_maps:
            kept = maps.to(self.dtype, memory_format=torch.contiguous_format, copy=True).flatten(1)[None]
        else:
            maps = reduced(self.plan.reductions, maps)
            kept = maps.to(self.dtype)
        # one by one: what is infinite in the network is kept so, and hides no other value
        if _wider(maps.dtype, self.dtype) and bool((kept.isinf() & ~maps.isinf().reshape(kept.shape)).any()):
            most = f"{torch.finfo(self.dtype).max:.6g}"
            raise DataError(f"layer {layer!r} exceeds what {self.plan.dtype} can hold ({most}); store a wider dtype")
        return kept

    def take(self) -> dict[Key, Tensor]:
        """What was collected, (layer, call) to (reduction, N, units); starts the next pass empty."""
        values, self.values, self.calls = self.values, {}, {}
        return values


class Runner:
    """Runs the network on batches and gives the collected values, in the order that the first pass fixed.

    left_out : layers that a pattern means and that cannot be recorded, and why.
    """

    def __init__(self, module: nn.Module, plan: RecordingPlan, device: torch.device) -> None:
        self.module, self.plan, self.device = module, plan, device
        self.rule = ChannelRule(module, plan.channel_axis)
        self.collector = _Collector(plan, self.rule)
        weight = next((p for p in module.parameters() if p.is_floating_point()), None)
        self.input_dtype = torch.float32 if weight is None else weight.dtype
        self.keys: list[Key] = []
        self.left_out = dict(plan.left_out)

    @contextmanager
    def ready(self) -> Iterator[None]:
        """Evaluation mode, no gradients, compute dtype, whatever the caller has on; all given back on the way out, and
        what the network keeps of its passes in attributes too: it would not be known again by its content.

        Not inference mode: a network that keeps a tensor of its forward, a grid or a mask, could not be trained after.
        """
        compute = COMPUTE_DTYPES[self.plan.compute_dtype]
        half = compute != torch.float32
        cast = torch.autocast(self.device.type, dtype=compute if half else None, enabled=half)
        with evaluating(self.module), attributes_kept(self.module), torch.inference_mode(False), torch.no_grad(), cast:
            yield

    @contextmanager
    def recording(self) -> Iterator[None]:
        """Hooks on, on what is recorded."""
        if self.plan.graph is not None:
            yield
            return

        layers = [layer for layer in self.plan.layers if layer not in self.left_out]
        with hooked(self.module, {layer: partial(self.collector.hook, layer) for layer in layers}):
            yield

    def forward(self, images: Tensor) -> Any:
        """One pass, to fill the collector; returns the network's output."""
        batch = images.to(self.device, self.input_dtype)
        self.collector.rows = len(batch)
        if self.plan.graph is None:
            return self.module(batch)
        sites: dict[fx.Node, list[Site]] = {}
        for node, site in zip(self.plan.nodes, self.plan.sites, strict=True):
            if site.layer not in self.left_out:
                sites.setdefault(node, []).append(site)
        return self.plan.graph.run(batch, sites, self.collector.collect)

    def learn(self, images: Tensor) -> tuple[list[RecordedLayer], dict[Key, Tensor] | None]:
        """Shapes of everything recorded, from the first pass, and its values, if what it took to be the axes of filters
        holds now that every layer has run.

        Raises
        ------
        DataError : a layer that was named cannot be recorded; nothing is left of what patterns mean; values depend on
            the other images of a batch, or on chance. ConfigError : the graph computes something else than the network.
        """
        before = random_state(self.device)
        with self._watching():
            seen, output = self._look(images)
        if self.plan.graph is not None:
            self._refuse_other_graph(images, output)
        drawn = random_state(self.device) != before
        # a copy: a second look, for `_batch_second`, guesses anew
        values, guessed = self.collector.take(), dict(self.collector.guessed)
        self._leave_out(seen, images)
        seen = {key: output for key, output in seen.items() if key[0] not in self.left_out}
        known = {key: (self.rule.axis(key[0], output), tuple(output.shape[1:])) for key, output in seen.items()}
        self.collector.learn(known)
        recorded = self._recorded(known)
        holds = all(guessed[key] == axis for key, (axis, _) in known.items())
        found = {key: values[key] for key in known} if holds else None
        if drawn:
            self._refuse_chance(images, found)
        return recorded, found

    def _look(self, images: Tensor) -> tuple[dict[Key, Any], Any]:
        """What layers give in one pass, without their numbers, and the network's output."""
        self.collector.seen = {}
        with self.recording():
            # a copy, which is run again, and the network may work in place on it
            output = self.forward(images.clone())
        seen, self.collector.seen = self.collector.seen, None
        return seen, output

    def _refuse_other_graph(self, images: Tensor, output: Any) -> None:
        """One pass of the network itself: its output must be that of the graph.

        torch.fx passes over hooks on the network and a forward set by hand, and decides once what a forward decides by
        plain Python.
        """
        batch = images.to(self.device, self.input_dtype)
        itself = self.module(batch.clone())
        if _agree(itself, output, exactly=True):
            return
        # atomic sums on a GPU give other last digits in every pass
        if not _agree(itself, self.module(batch.clone()), exactly=True) and _agree(itself, output, exactly=False):
            return
        raise ConfigError(
            "the torch.fx graph of this network gives another output than the network itself (its forward decides "
            "something while it is traced, or something was put on the network by hand), so functional operations "
            "cannot be recorded; name modules only"
        )

    @contextmanager
    def _watching(self) -> Iterator[None]:
        """Show the channel rule what the network works on, and refuse what mixes the images of a batch."""

        def shown(layer: str) -> Any:
            def hook(module: nn.Module, inputs: Any, output: Any) -> None:
                self.rule.watch(layer, output)

            return hook

        mixing = [name for name, part in self.rule.modules.items() if self.plan.batch_size > 1 and mixes(part)]
        with ExitStack() as stack:
            stack.enter_context(hooked(self.module, {name: refuses_mixing(name) for name in mixing}))
            stack.enter_context(hooked(self.module, {name: shown(name) for name in self.rule.watched()}))
            yield

    def _leave_out(self, seen: dict[Key, Any], images: Tensor) -> None:
        """Note layers of patterns that cannot be recorded; raise for layers that were named, or if nothing is left."""
        turned = self._batch_second(seen, images)
        for layer in self.plan.layers:
            outputs = [output for (name, _), output in seen.items() if name == layer]
            trouble = _trouble(layer, outputs, len(images), turned=layer in turned)
            if trouble is None:
                continue
            reason, error = trouble
            if layer not in self.plan.optional:
                raise error
            self.left_out[layer] = reason
        if all(layer in self.left_out for layer in self.plan.layers):
            layer, reason = next(iter(self.left_out.items()))
            raise DataError(
                f"none of the {len(self.left_out)} layers that are meant can be recorded "
                f"(the first, {layer!r}, {reason}); name others, see list_layers(model)"
            )

    def _batch_second(self, seen: dict[Key, Any], images: Tensor) -> set[str]:
        """Layers whose outputs are (T, N, C) with as many tokens as images, by a second look at another number."""
        rows = len(images)
        open_ones = {
            layer
            for (layer, _), output in seen.items()
            if isinstance(output, Tensor)
            and output.ndim == 3
            and output.shape[:2] == (rows, rows)
            and declared_axis(self.rule.modules.get(layer, nn.Identity())) != 1
        }
        if not open_ones:
            return set()
        fewer = images[:-1] if rows > 1 else images.repeat(2, *[1] * (images.ndim - 1))
        again, _ = self._look(fewer)
        self.collector.take()
        return {layer for (layer, _), output in again.items() if layer in open_ones and len(output) != len(fewer)}

    def _refuse_chance(self, images: Tensor, first: dict[Key, Tensor] | None) -> None:
        """The network drew random numbers: refuse if that reaches what is recorded."""
        passes = [] if first is None else [first]
        with self.recording():
            while len(passes) < 2:
                self.forward(images.clone())
                passes.append(self.collector.take())
        for key, value in passes[0].items():
            if key not in passes[1] or not np.array_equal(value.cpu(), passes[1][key].cpu(), equal_nan=True):
                raise DataError(
                    f"layer {key[0]!r} gives other values for the same images in a second pass: the network draws "
                    "random numbers in evaluation mode; switch its noise off, or draw it once and keep it in a buffer"
                )

    def _recorded(self, known: dict[Key, tuple[int, tuple[int, ...]]]) -> list[RecordedLayer]:
        found = []
        graph = self.plan.graph
        for k, site in enumerate(self.plan.sites):
            if site.layer in self.left_out:
                continue
            calls = [call for layer, call in known if layer == site.layer]
            here = calls if graph is None else [site.call]
            total = len(calls) if graph is None else graph.calls(site.layer)
            for call in here:
                axis, shape = known[site.layer, call]
                positions = shape[: axis - 1] + shape[axis:]
                self.keys.append((site.layer, call))
                one = RecordedLayer(site.layer, site.stage, call, total, shape[axis - 1], positions, axis)
                found.append(one if graph is None else one.at(graph.node_names[self.plan.nodes[k]]))
        return found

    def left_out_attribute(self) -> dict[str, str]:
        """The attribute that names layers left out; none where all are recorded."""
        told = "; ".join(f"{layer} ({reason})" for layer, reason in self.left_out.items())
        return {"layers_left_out": told} if told else {}

    def values(self, batch: Batch) -> list[np.ndarray]:
        """(reduction, count, units) of each recorded layer for one batch."""
        assert batch.images is not None
        self.forward(batch.images)
        return self.arrays(self.collector.take(), batch.count)

    def arrays(self, found: dict[Key, Tensor], count: int) -> list[np.ndarray]:
        """What one pass collected, as `values` gives it: without the rows that pad the batch."""
        if len(found) != len(self.keys) or any(key not in found for key in self.keys):
            raise DataError(
                "a layer ran a different number of times on different batches; record it alone, or leave it out"
            )
        values = [found[key] for key in self.keys]
        autocast = self.plan.compute_dtype != "float32"  # it has rules of its own for joining tensors
        if self.plan.keeps_maps or autocast or len({value.device for value in values}) > 1:
            return [value[:, :count].cpu().numpy() for value in values]
        # brought home in one piece: they are small, and each transfer waits
        together = torch.cat(values, 2)[:, :count].cpu().numpy()
        return np.split(together, np.cumsum([value.shape[2] for value in values[:-1]]), axis=2)


def _wider(came: torch.dtype, kept: torch.dtype) -> bool:
    """Whether `came` holds numbers that are infinite in `kept`."""
    return came != kept and (not came.is_floating_point or torch.finfo(came).max > torch.finfo(kept).max)


def _agree(first: Any, second: Any, *, exactly: bool) -> bool:
    """Whether two outputs of a network hold the same tensors; or nearly so."""
    one, other = _tensors(first), _tensors(second)
    if len(one) != len(other) or any(a.shape != b.shape or a.dtype != b.dtype for a, b in zip(one, other, strict=True)):
        return False
    pairs = zip(one, other, strict=True)
    if exactly:
        return all(bool(((a == b) | ((a != a) & (b != b))).all()) for a, b in pairs)
    return all(torch.allclose(a.cpu(), b.cpu(), rtol=1e-3, atol=1e-5, equal_nan=True) for a, b in pairs)


def _tensors(value: Any) -> list[Tensor]:
    """The tensors of an output, in its order."""
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, Mapping):
        return _tensors(list(value.values()))
    if is_dataclass(value) and not isinstance(value, type):
        return _tensors([getattr(value, one.name) for one in fields(value)])
    return [one for part in value for one in _tensors(part)] if isinstance(value, list | tuple) else []


def refuses_mixing(name: str) -> Any:
    """A hook for a part that `mixes`, where several images are in the batch: it says so as soon as the part runs."""

    def hook(module: nn.Module, inputs: Any, output: Any) -> None:
        raise DataError(
            f"layer {name!r} normalises by the mean and variance of the batch (it has no running ones), so responses "
            "would depend on the neighbours; give it running statistics, or pass batch_size=1"
        )

    return hook


def mixes(part: nn.Module) -> bool:
    """Whether a module normalises by the statistics of the batch in evaluation mode too."""
    return isinstance(part, nn.modules.batchnorm._BatchNorm) and part.running_mean is None and part.running_var is None


def _trouble(layer: str, outputs: list[Any], rows: int, *, turned: bool) -> tuple[str, DataError] | None:
    """Why a layer cannot be recorded, briefly and as an error; None where it can. `turned`: images on axis 1."""
    if not outputs:
        return "did not run", DataError(f"layer {layer!r} exists but did not run on these stimuli; leave it out")
    for output in outputs:
        came = without_filters(output)
        if came is not None:
            return f"gives {came}", no_filters(layer, came)
        if len(output) != rows:
            return f"gives {len(output)} rows for {rows} images", other_rows(layer, len(output), rows)
    if turned:
        return "has the images on its second axis", DataError(
            f"layer {layer!r} gives {tuple(outputs[0].shape)} with the images on the second axis (batch_first=False); "
            "choose a layer around it"
        )
    return None


def other_rows(layer: str, came: int, rows: int) -> DataError:
    """The error of a layer whose output has not one row per image."""
    return DataError(
        f"layer {layer!r} gives {came} rows for {rows} images (windows or patches folded into the batch, or images on "
        "the second axis); choose a layer around it"
    )

"""What to record, decided once: patterns and names become a frozen plan before the first batch."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import fx, nn

from featattn_neuro.errors import ConfigError, choose
from featattn_neuro.nets.channels import ChannelAxis, checked_axes
from featattn_neuro.nets.graph_nodes import NodeGraph, Site
from featattn_neuro.nets.layers import stage_of
from featattn_neuro.nets.reductions import MAPS, Reducer, Reduction, parse_reductions
from featattn_neuro.nets.selection import (
    LayerPattern,
    Layers,
    as_patterns,
    match_modules,
    match_names,
    no_match,
    select_layers,
)

__all__ = ["RecordingPlan", "make_plan", "select_layers", "unit_ids"]

STORAGE_DTYPES = {"float16": torch.float16, "float32": torch.float32, "float64": torch.float64}
COMPUTE_DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


@dataclass(frozen=True)
class RecordingPlan:
    """What will be recorded, and how; the recording loop has nothing left to decide.

    Parameters
    ----------
    sites : the layers in network order (through hooks), or the calls and operations in order of execution (through
        the graph).
    reductions : in output order; empty = every position is kept.
    batch_size : compute batch; the last one is padded.
    dtype : of the stored values. compute_dtype : "float32" computes as the network is, others by autocast.
    channel_axis : the caller's word on where the filters are, if any.
    graph : the traced network where operations are recorded; None = hooks on modules.
    nodes : the graph's node of each site.
    optional : layers that only patterns mean; where one does not run, or gives no filters, it is left out.
    left_out : layers of patterns that the graph does not reach, and why.
    """

    sites: tuple[Site, ...]
    reductions: tuple[Reduction, ...]
    batch_size: int
    dtype: str = "float32"
    compute_dtype: str = "float32"
    channel_axis: ChannelAxis = None
    graph: NodeGraph | None = field(default=None, compare=False)
    nodes: tuple[fx.Node, ...] = field(default=(), compare=False)
    optional: frozenset[str] = frozenset()
    left_out: tuple[tuple[str, str], ...] = ()

    @property
    def layers(self) -> tuple[str, ...]:
        """Names of the layers, each once."""
        return tuple(dict.fromkeys(site.layer for site in self.sites))

    @property
    def keeps_maps(self) -> bool:
        """Whether every position is kept."""
        return not self.reductions

    @property
    def reduction_names(self) -> tuple[str, ...]:
        """Names along the dimension `reduction`."""
        return tuple(one.name for one in self.reductions) or (MAPS,)

    @property
    def path(self) -> str:
        """How layers are reached, for the output's attribute `recorded_through`."""
        return "module hooks" if self.graph is None else "torch.fx graph"

    def describe(self) -> dict[str, Any]:
        """The plan as plain values, for the content key."""
        return {
            "sites": [(site.layer, site.stage, site.call) for site in self.sites],
            "reductions": list(self.reduction_names),
            "functions": list(self.reductions),
            "batch_size": self.batch_size,
            "dtype": self.dtype,
            "compute_dtype": self.compute_dtype,
            "channel_axis": self.channel_axis,
            "path": self.path,
            "optional": sorted(self.optional),
            "left_out": self.left_out,
        }


def make_plan(
    module: nn.Module,
    layers: Layers,
    reduce: Reducer | Sequence[Reducer] = "mean",
    *,
    batch_size: int = 32,
    dtype: str = "float32",
    compute_dtype: str = "float32",
    channel_axis: ChannelAxis = None,
) -> RecordingPlan:
    """Turn names into a frozen plan; everything unknown fails here, before the first batch.

    A text that means no module is looked up among the nodes of the traced graph (`F.relu`, `+`); if one is wanted, all
    layers are recorded through the graph.

    >>> make_plan(nn.Sequential(nn.ReLU()), "0").layers
    ('0',)
    """
    reductions = parse_reductions(reduce)
    choose(dtype, STORAGE_DTYPES, "storage dtype")
    choose(compute_dtype, COMPUTE_DTYPES, "compute dtype")
    if not isinstance(batch_size, int | np.integer) or isinstance(batch_size, bool) or batch_size < 1:
        raise ConfigError(f"batch_size must be at least 1, a whole number; came {batch_size!r}; 32 is usual")
    _check_compute(module, compute_dtype)
    modules: list[str] = []
    named: set[str] = set()
    operations: list[str] = []
    chosen: list[fx.Node] = []
    graph: NodeGraph | None = None
    known = dict(module.named_modules())
    every_name = {name for name, _ in module.named_modules(remove_duplicate=False)}
    for pattern in as_patterns(layers):
        found = match_modules(module, pattern, known)
        if not found:
            graph = graph or _graph(module, pattern)
            nodes = match_names(_text(pattern), graph.names)
            if not nodes:
                raise no_match(pattern, dict.fromkeys([*(n for n in known if n), *graph.names]))
            operations += nodes
            if nodes == [pattern]:
                named.update(site.layer for _, site in graph.sites_of(nodes[0]))
        modules += found
        if pattern in every_name:
            named.update(found)
    left_out: dict[str, str] = {}
    if graph is None:
        wanted = set(modules)
        ordered = [name for name in known if name in wanted]
        sites = [Site(name, stage_of(known[name])) for name in ordered]
    else:
        left_out = {name: graph.why_not(name) for name in modules if name not in graph.returned}
        for name in left_out:
            if name in named or len(left_out) == len({*modules, *operations}):
                raise ConfigError(f"layer {name!r} {left_out[name]}; leave it out, or the functional operations")
        sites, chosen = _sites(graph, [name for name in [*modules, *operations] if name not in left_out])
    checked_axes(channel_axis, dict.fromkeys([*(n for n in known if n), *operations]))
    return RecordingPlan(
        tuple(sites), reductions, int(batch_size), dtype, compute_dtype, channel_axis, graph, tuple(chosen),
        frozenset(site.layer for site in sites) - named, tuple(left_out.items()),
    )  # fmt: skip


def _check_compute(module: nn.Module, compute_dtype: str) -> None:
    """Autocast turns float32 into something narrower, and leaves other types as they are."""
    types = {part.dtype for part in module.parameters() if part.is_floating_point()} - {torch.float32}
    if compute_dtype != "float32" and types:
        came = str(next(iter(types))).removeprefix("torch.")
        raise ConfigError(
            f"compute_dtype={compute_dtype!r} casts a float32 network while it runs; this one holds {came} weights; "
            "leave compute_dtype out, or call float() on the network"
        )


def _text(pattern: LayerPattern) -> str | re.Pattern[str]:
    return pattern if isinstance(pattern, re.Pattern) else str(pattern)


def _graph(module: nn.Module, pattern: LayerPattern) -> NodeGraph:
    missing = no_match(pattern, [name for name, _ in module.named_modules() if name])
    if not isinstance(pattern, str | re.Pattern):
        raise missing
    try:
        return NodeGraph(module)
    except ConfigError as error:
        raise ConfigError(f"{missing}; nor is it a functional operation: {error}") from error


def _sites(graph: NodeGraph, names: list[str]) -> tuple[list[Site], list[fx.Node]]:
    found: dict[Site, fx.Node] = {}
    for name in names:
        found.update({site: node for node, site in graph.sites_of(name)})
    place = {node: k for k, node in enumerate(graph.node_names)}
    # a container and its last layer return the same node, the layer inside first
    ordered = sorted(found, key=lambda site: (place[found[site]], -site.layer.count(".")))
    return ordered, [found[site] for site in ordered]


def unit_ids(layer: str, channels: int, call: int = 0, calls: int = 1) -> list[str]:
    """Stable text ids of a layer's filters; a module that runs several times gets the call in its ids.

    >>> unit_ids("conv1", 2)
    ['conv1/000', 'conv1/001']
    >>> unit_ids("relu", 1, call=1, calls=2)
    ['relu@1/000']
    """
    place = layer if calls == 1 else f"{layer}@{call}"
    return [f"{place}/{channel:03d}" for channel in range(channels)]

"""On which axis the channels of each value of a traced network are, and how many dimensions the value has.

A factor per channel may only go into weights that read, or make, the very axis it is on: of maps (N, C, H, W) axis 1,
of sequences (N, T, C) the last one, of vectors (N, C) both. The graph tells it: convolutions and batch norms work on
axis 1, linear layers and layer norms on the last, most other steps keep what they are given.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import fx, nn

from featattn_neuro.nets.architectures import GlobalMean
from featattn_neuro.nets.channels import declared_axis
from featattn_neuro.nets.hooks import attributes_kept, evaluating
from featattn_neuro.nets.layers import USUAL_SHAPES

FIRST, LAST = 1, -1
"""The channel axis of maps and that of sequences."""

MEANS = (torch.mean, "mean")
FLATTENINGS = (torch.flatten, "flatten")

_NORMS = (nn.modules.batchnorm._NormBase, nn.GroupNorm, nn.LayerNorm)
_DROPOUTS = (nn.modules.dropout._DropoutNd, nn.Identity)
_KEEPING_CALLS = {
    *("add", "iadd", "add_", "sub", "isub", "mul", "imul", "truediv", "itruediv", "contiguous", "clone", "cat"),
    *("concat", "dropout", "relu", "relu_", "relu6", "gelu", "silu", "mish", "elu", "leaky_relu", "hardswish"),
    *("hardtanh", "sigmoid", "hardsigmoid", "tanh", "softplus", "batch_norm", "float", "to"),
}
"""Operations whose result has the dimensions of what they are given, in their order."""


class MapAxes:
    """Number of dimensions, and channel axis, of every value of a traced network.

    Parameters
    ----------
    graph : of `module`. input_shape : (C, H, W) of its images, where known.
    """

    def __init__(self, module: nn.Module, graph: fx.Graph, input_shape: tuple[int, ...] | None = None) -> None:
        self.module, self.graph, self.input_shape = module, graph, input_shape
        self._parts: Mapping[str, nn.Module] = dict(module.named_modules())
        self._ranks: dict[fx.Node, int | None] = {}
        self._axes: dict[fx.Node, int | None] = {}
        self._was_run = False
        for node in graph.nodes:  # which come in the order in which they are made
            self._ranks[node] = self._made_rank(node)
            self._axes[node] = self._made_axis(node)

    def rank(self, node: fx.Node) -> int | None:
        """Number of dimensions; the network is run on a blank image, once, where its graph does not tell."""
        if self._ranks[node] is None and not self._was_run:
            self._was_run = True
            self._run()
        return self._ranks[node]

    def axis(self, node: fx.Node) -> int | None:
        """`FIRST`, `LAST`, or None where it is not known; of vectors it is either."""
        return self._axes[node]

    def holds_maps_only(self) -> bool:
        """Whether linear layers and layer norms read vectors alone, so that every map has its channels on axis 1."""
        last = [n for n in self.graph.nodes if n.op == "call_module" and declared_axis(self._part(n)) == LAST]
        return all(self.rank(node.all_input_nodes[0]) == 2 for node in last)

    def survives(self, mean: fx.Node, axis: int | None) -> bool:
        """Whether a mean over positions leaves the channels, on `axis` of what it is given, and the images apart."""
        return axis is None or _survives(mean_dims(mean), axis, self.rank(mean.all_input_nodes[0]))

    def _part(self, node: fx.Node) -> nn.Module:
        return self._parts[str(node.target)]

    def _made_rank(self, node: fx.Node) -> int | None:
        if node.op == "placeholder":
            first = next(iter(self.graph.nodes)) is node
            return len(self.input_shape) + 1 if first and self.input_shape is not None else None
        known = [rank for rank in (self._ranks[one] for one in node.all_input_nodes) if rank is not None]
        given = max(known) if known else None
        if node.op == "call_module":
            return _rank_of_module(self._part(node), given)
        return _rank_of_call(node, given) if node.op in ("call_function", "call_method") else None

    def _made_axis(self, node: fx.Node) -> int | None:
        given = {self._axes[one] for one in node.all_input_nodes} - {None}
        kept = given.pop() if len(given) == 1 else None
        if node.op == "call_module":
            return _axis_of_module(self._part(node), kept)
        name = name_of(node)
        if re.search(r"(pool|conv)\dd$", name) or (node.target in FLATTENINGS and self._ranks[node] == 2):
            return FIRST
        if node.target in MEANS:
            left = kept is not None and _survives(mean_dims(node), kept, self._ranks[node.all_input_nodes[0]])
            return kept if left else None
        return LAST if name == "linear" else kept if name in _KEEPING_CALLS else None

    def _run(self) -> None:
        example = next((p for p in self.module.parameters() if p.is_floating_point()), torch.zeros(()))
        found: dict[fx.Node, int | None] = {}
        for shape in USUAL_SHAPES if self.input_shape is None else [self.input_shape]:
            try:
                with torch.no_grad(), evaluating(self.module), attributes_kept(self.module):
                    run = _Noting(fx.GraphModule(self.module, self.graph), found)
                    run.run(torch.zeros((1, *shape), dtype=example.dtype, device=example.device))
            except Exception:  # what a foreign network raises on a wrong shape is its own affair
                found.clear()
                continue
            break
        # the graph module may hold a copy of the graph, whose nodes come in the same order
        for node, rank in zip(self.graph.nodes, found.values(), strict=False):
            self._ranks[node] = self._ranks[node] or rank


class _Noting(fx.Interpreter):
    """Runs a graph and notes the number of dimensions of each value, in order."""

    def __init__(self, graph: fx.GraphModule, found: dict[fx.Node, int | None]) -> None:
        super().__init__(graph)
        self.found, self.extra_traceback = found, False

    def run_node(self, n: fx.Node) -> object:
        value = super().run_node(n)
        self.found[n] = value.ndim if isinstance(value, torch.Tensor) else None
        return value


def _rank_of_module(part: nn.Module, given: int | None) -> int | None:
    if isinstance(part, nn.modules.conv._ConvNd):
        return part.weight.ndim
    if isinstance(part, GlobalMean):
        return 2
    if isinstance(part, nn.Flatten):
        return _flattened(given, part.start_dim, part.end_dim)
    dims = re.search(r"([23])d", type(part).__name__)
    if dims and (isinstance(part, nn.modules.batchnorm._BatchNorm) or _is_pool(part)):
        return int(dims[1]) + 2
    return given if _keeps(part) or _is_pool(part) or isinstance(part, (*_NORMS, nn.Linear)) else None


def _axis_of_module(part: nn.Module, kept: int | None) -> int | None:
    if isinstance(part, (*_NORMS, nn.Linear, nn.modules.conv._ConvNd)):
        return declared_axis(part)
    if _is_pool(part) or isinstance(part, GlobalMean | nn.Flatten):
        return FIRST
    return kept if _keeps(part) else None


def _is_pool(part: nn.Module) -> bool:
    return type(part).__module__.startswith("torch.") and "Pool" in type(part).__name__


def _keeps(part: nn.Module) -> bool:
    activation = "activation" in type(part).__module__
    return activation or isinstance(part, _DROPOUTS) or (isinstance(part, nn.Sequential) and not len(part))


def _rank_of_call(node: fx.Node, given: int | None) -> int | None:
    name = name_of(node)
    dims = re.search(r"(pool|conv)([123])d$", name)
    if dims:
        return int(dims[2]) + 2
    if node.target in FLATTENINGS:
        start, end = argument(node, 1, "start_dim", 0), argument(node, 2, "end_dim", -1)
        return _flattened(given, start, end) if isinstance(start, int) and isinstance(end, int) else None
    if name in ("view", "reshape"):
        sizes = node.args[1] if len(node.args) == 2 and isinstance(node.args[1], list | tuple) else node.args[1:]
        return len(sizes) or None
    if node.target in MEANS:
        count = len(mean_dims(node))
        given = given or (4 if count == 2 else None)  # over both axes of maps
        return given if given is None or argument(node, 2, "keepdim", False) else given - count
    return given if name in (*_KEEPING_CALLS, "permute", "transpose", "linear") else None


def _flattened(given: int | None, start: int, end: int) -> int | None:
    if given is None:
        return 2 if start == 1 and end in (-1, 3) else None
    return given - max(end % given - start % given, 0) if end < given else None


def _survives(dims: tuple[int, ...], axis: int, rank: int | None) -> bool:
    if rank is None:
        return axis == FIRST or all(dim < LAST for dim in dims)
    return not {axis % rank, 0} & {dim % rank for dim in dims}


def mean_dims(node: fx.Node) -> tuple[int, ...]:
    """The axes that a mean is over; none where it is over all."""
    dims = argument(node, 1, "dim", None)
    listed = tuple(dims) if isinstance(dims, list | tuple) else (dims,)
    return tuple(dim for dim in listed if isinstance(dim, int))


def is_spatial_mean(node: fx.Node) -> bool:
    """Whether a step is a mean over axes that may be positions."""
    return node.target in MEANS and mean_dims(node) in ((2, 3), (-2, -1), (3,), (2,), (-1,), (-2,))


def is_flattening(node: fx.Node) -> bool:
    """Whether a step flattens all but the images."""
    return node.target in FLATTENINGS and argument(node, 1, "start_dim", 0) == 1


def argument(node: fx.Node, position: int, name: str, default: object) -> object:
    """What a step is given in one place, by position or by name."""
    return node.kwargs.get(name, node.args[position] if len(node.args) > position else default)


def name_of(node: fx.Node) -> str:
    """The name of a function or method, for messages."""
    return str(getattr(node.target, "__name__", node.target))

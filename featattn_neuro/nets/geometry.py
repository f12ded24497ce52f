"""Where the cells of a layer's map lie in the image: centre of the first cell and distance between cells, in pixels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import fx, nn

from featattn_neuro.nets.hooks import evaluating
from featattn_neuro.nets.layers import LeafTracer, stage_of

_WINDOWS = (nn.Conv2d, nn.MaxPool2d, nn.AvgPool2d)
_KEEPING_MODULES = (nn.Identity, nn.Dropout, nn.Dropout2d, nn.AlphaDropout)
_KEEPING_MODULE_NAMES = {"StochasticDepth", "DropPath"}
_KEEPING_FUNCTIONS = {
    *("add", "iadd", "sub", "isub", "mul", "imul", "truediv", "itruediv", "neg", "abs", "cat", "concat", "batch_norm"),
    *("relu", "relu6", "hardtanh", "leaky_relu", "elu", "gelu", "silu", "mish", "sigmoid", "tanh", "softplus"),
    *("hardswish", "hardsigmoid", "clamp", "dropout", "dropout2d", "stochastic_depth"),
    *("contiguous", "clone", "detach", "float", "to"),
}
"""Steps that act on each position alone. A step that is not known to do so ends the trace: no place is guessed."""


@dataclass(frozen=True)
class Grid:
    """Centres of a map's cells along one axis: pixel = offset + stride * index; size is the receptive field, pixels.

    Pixel 0 is the centre of the first pixel. Conv and pooling (kernel k, stride s, padding p, dilation d) turn
    (offset o, stride j, size r) into (o + j (d (k - 1) / 2 - p), j s, r + d (k - 1) j) (Araujo, Norris & Sim 2019,
    Distill, "Computing receptive fields of convolutional neural networks").
    """

    offset: float = 0.0
    stride: float = 1.0
    size: float = 1.0

    def after(self, kernel: int, stride: int, padding: int, dilation: int) -> Grid:
        """Grid after one convolution or pooling; `padding` is that before the first pixel.

        >>> Grid().after(kernel=2, stride=2, padding=0, dilation=1)
        Grid(offset=0.5, stride=2.0, size=2.0)
        """
        reach = dilation * (kernel - 1)
        return Grid(
            self.offset + self.stride * (reach / 2 - padding), self.stride * stride, self.size + reach * self.stride
        )

    def centres(self, cells: int) -> np.ndarray:
        """Centres of the first `cells` cells, pixels, float64.

        >>> Grid(offset=0.5, stride=2.0).centres(3)
        array([0.5, 2.5, 4.5])
        """
        return self.offset + self.stride * np.arange(cells, dtype=np.float64)


@dataclass(frozen=True)
class _Axis:
    """A grid, and the number of its cells where the image size is known."""

    grid: Grid
    cells: int | None


def layer_grid(
    module: nn.Module, layer: str, *, image_size: int | None = None, cells: int | None = None
) -> Grid | None:
    """Grid of `layer` along one axis, or None where it cannot be known.

    Parameters
    ----------
    image_size : pixels of the network's input along the axis; needed where padding depends on it ("same" padding).
    cells : cells of the layer's map along the axis, if known: None is returned where the trace predicts another number.

    Returns
    -------
    None where the network cannot be traced, has unequal axes, or has a step on the way whose geometry is not known
    (upsampling, slicing, reshaping). Where branches meet (residual sums, concatenation) the known grid with the largest
    receptive field is kept; where a module runs several times, its first call.

    >>> net = nn.Sequential(nn.Conv2d(1, 1, 3, padding=1), nn.MaxPool2d(2), nn.ReLU())
    >>> layer_grid(net, "2")
    Grid(offset=0.5, stride=2.0, size=4.0)
    """
    childless = next(module.get_submodule(layer).children(), None) is None
    tracer = LeafTracer({layer} if childless else ())
    try:
        with evaluating(module):
            graph = tracer.trace(module)
    except Exception:  # torch.fx raises many types for control flow it cannot follow; the caller is told by None
        return None
    if layer not in tracer.returned:
        return None
    known: dict[fx.Node, _Axis] = {}
    for node in graph.nodes:
        if node.op == "placeholder":
            known[node] = _Axis(Grid(), image_size)
        incoming = [known[n] for n in node.all_input_nodes if n in known]
        if incoming:
            after = _through(module, node, max(incoming, key=lambda axis: axis.grid.size))
            if after is not None:
                known[node] = after
    found = known.get(tracer.returned[layer][0][0])
    if found is None or (None not in (cells, found.cells) and cells != found.cells):
        return None
    return found.grid


def _through(module: nn.Module, node: fx.Node, axis: _Axis) -> _Axis | None:
    if node.op != "call_module":
        name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")
        return axis if name.removesuffix("_") in _KEEPING_FUNCTIONS else None
    part = module.get_submodule(str(node.target))
    if isinstance(part, _WINDOWS):
        return _window(part, axis)
    keeps = isinstance(part, _KEEPING_MODULES) or type(part).__name__ in _KEEPING_MODULE_NAMES
    return axis if keeps or stage_of(part) in ("norm", "activation") else None


def _window(part: nn.Module, axis: _Axis) -> _Axis | None:
    kernel, stride, dilation = (_alike(getattr(part, name, 1)) for name in ("kernel_size", "stride", "dilation"))
    if kernel is None or stride is None or dilation is None:
        return None
    reach, n = dilation * (kernel - 1), axis.cells
    padding: int | None
    after: int | None
    if type(part).__name__.endswith("Same"):  # timm: as much padding as makes ceil(n / stride) cells, less of it first
        if n is None:
            return None
        after = -(-n // stride)
        padding = max((after - 1) * stride + reach + 1 - n, 0) // 2
    elif isinstance(part.padding, str):
        padding = reach // 2 if part.padding == "same" else 0
        after = None if n is None else n if part.padding == "same" else (n - reach - 1) // stride + 1
    else:
        padding = _alike(part.padding)
        after = None if n is None or padding is None else _count(part, n, reach, stride, padding)
    return None if padding is None else _Axis(axis.grid.after(kernel, stride, padding, dilation), after)


def _count(part: nn.Module, n: int, reach: int, stride: int, padding: int) -> int:
    free = n + 2 * padding - reach - 1
    if not getattr(part, "ceil_mode", False):
        return free // stride + 1
    cells = -(-free // stride) + 1
    return cells if (cells - 1) * stride < n + padding else cells - 1  # no window starts in the padding behind


def _alike(value: Any) -> int | None:
    """The number that both axes share, or None."""
    pair = tuple(value) if isinstance(value, tuple | list) else (value, value)
    return int(pair[0]) if len(pair) == 2 and pair[0] == pair[1] else None

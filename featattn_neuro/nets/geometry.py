"""Where the cells of a layer's map lie in the image: centre, distance and receptive field of the cells, in pixels."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import fx, nn

from featattn_neuro.arrays.masks import cell_edges
from featattn_neuro.errors import DataError, choose
from featattn_neuro.nets.hooks import attributes_kept, evaluating, hooked
from featattn_neuro.nets.layers import LeafTracer, stage_of

_WINDOWS = (nn.Conv2d, nn.MaxPool2d, nn.AvgPool2d)
_ADAPTIVE = (nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d)
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
    """Grid of `layer` along one axis, or None where it cannot be known, or where rows and columns differ.

    Parameters
    ----------
    image_size : pixels of the network's input along the axis; needed where padding depends on it ("same" padding).
    cells : cells of the layer's map along the axis, if known: None is returned where the trace predicts another number.

    Returns
    -------
    None where the network cannot be traced, has unequal axes, or has a step on the way whose geometry is not known
    (upsampling, slicing, reshaping). Where branches meet (residual sums, concatenation) the known grid with the largest
    receptive field is kept; gates of one cell (squeeze and excitation) have no place and are left out. Where a module
    runs several times, its first call.

    >>> net = nn.Sequential(nn.Conv2d(1, 1, 3, padding=1), nn.MaxPool2d(2), nn.ReLU())
    >>> layer_grid(net, "2")
    Grid(offset=0.5, stride=2.0, size=4.0)
    """
    size = None if image_size is None else (image_size, image_size)
    found = layer_grids(module, [layer], image_size=size, cells=None if cells is None else {layer: (cells, cells)})
    place = found[layer]
    return None if place is None or place.rows != place.columns else place.rows


@dataclass(frozen=True)
class Place:
    """Where a layer's map lies in the image: the grid of its rows (downwards) and of its columns (rightwards)."""

    rows: Grid
    columns: Grid


def layer_grids(
    module: nn.Module,
    layers: Sequence[str],
    *,
    image_size: tuple[int, int] | None = None,
    cells: Mapping[str, tuple[int, int]] | None = None,
) -> dict[str, Place | None]:
    """Receptive-field centre, stride and size of several layers, rows and columns, from one trace of the network.

    Parameters
    ----------
    image_size : (height, width) of the network's input, pixels; needed where padding or windows depend on it.
    cells : layer to (height, width) of its map, where known; a trace that predicts another number is not believed.

    Returns
    -------
    Layer to `Place`; None where `layer_grid` gives None, but rows and columns may differ.

    Raises
    ------
    ConfigError : a layer that the network does not have.

    >>> net = nn.Sequential(nn.Conv2d(1, 1, (1, 3)), nn.ReLU())
    >>> layer_grids(net, ["1"])["1"].columns
    Grid(offset=1.0, stride=1.0, size=3.0)
    """
    modules = dict(module.named_modules())
    for layer in layers:
        choose(layer, modules, "layer")
    childless = {layer for layer in layers if next(module.get_submodule(layer).children(), None) is None}
    nothing: dict[str, Place | None] = dict.fromkeys(layers)
    tracer = LeafTracer(childless)
    try:
        with evaluating(module), attributes_kept(module):
            graph = tracer.trace(module)
    except Exception:  # torch.fx raises many types for control flow it cannot follow; the caller is told by None
        return nothing
    axes = [_grids(module, graph, axis, None if image_size is None else image_size[axis]) for axis in (0, 1)]
    for layer in layers:
        if layer not in tracer.returned:
            continue
        node = tracer.returned[layer][0][0]
        found = [known.get(node) for known in axes]
        wanted = (cells or {}).get(layer, (None, None))
        agree = [
            axis is not None and (None in (count, axis.cells) or count == axis.cells)
            for axis, count in zip(found, wanted, strict=True)
        ]
        if all(agree) and found[0] is not None and found[1] is not None:
            nothing[layer] = Place(found[0].grid, found[1].grid)
    return nothing


def map_edges(
    module: nn.Module,
    cells: Mapping[str, tuple[int, int]],
    image_size: tuple[int, int],
    *,
    size: tuple[int, int] | None = None,
) -> dict[str, tuple[np.ndarray, np.ndarray] | None]:
    """Where the cells of layers' maps begin and end in the image: what `arrays.masks.on_grid` takes as `edges`.

    Parameters
    ----------
    cells : layer to (height, width) of its map. image_size : (height, width) of the network's input, pixels.
    size : (height, width) of the masks, where they are of the image before it was resized as a whole.

    Returns
    -------
    Layer to (height + 1,) and (width + 1,) edges in pixels of the masks; None where the place is not known.

    >>> map_edges(nn.Sequential(nn.Conv2d(1, 1, 3)), {"0": (2, 1)}, (4, 3))["0"][0]  # unpadded: no cell at the margin
    array([1., 2., 3.])
    """
    places = layer_grids(module, list(cells), image_size=image_size, cells=cells)
    scale = [n / m for n, m in zip(size or image_size, image_size, strict=True)]
    return {
        layer: None
        if place is None
        else (
            scale[0] * cell_edges(place.rows.centres(cells[layer][0]), place.rows.stride),
            scale[1] * cell_edges(place.columns.centres(cells[layer][1]), place.columns.stride),
        )
        for layer, place in places.items()
    }


def _grids(module: nn.Module, graph: fx.Graph, axis: int, image_size: int | None) -> dict[fx.Node, _Axis]:
    """Grid of every step whose geometry is known, along axis 0 (rows) or 1 (columns)."""
    known: dict[fx.Node, _Axis] = {}
    for node in graph.nodes:
        if node.op == "placeholder":
            known[node] = _Axis(Grid(), image_size)
        incoming = [known[n] for n in node.all_input_nodes if n in known]
        # one cell beside many is a factor for all of them, such as a gate: it says nothing of their places
        incoming = [one for one in incoming if one.cells != 1] or incoming
        if incoming:
            after = _through(module, node, max(incoming, key=lambda one: one.grid.size), axis)
            if after is not None:
                known[node] = after
    return known


def _through(module: nn.Module, node: fx.Node, here: _Axis, axis: int) -> _Axis | None:
    if node.op != "call_module":
        name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")
        return here if name.removesuffix("_") in _KEEPING_FUNCTIONS else None
    part = module.get_submodule(str(node.target))
    if isinstance(part, _WINDOWS):
        return _window(part, here, axis)
    if isinstance(part, _ADAPTIVE):
        return _adaptive(part, here, axis)
    keeps = isinstance(part, _KEEPING_MODULES) or type(part).__name__ in _KEEPING_MODULE_NAMES
    return here if keeps or stage_of(part) in ("norm", "activation") else None


def _window(part: nn.Module, here: _Axis, axis: int) -> _Axis | None:
    values = (getattr(part, name, 1) for name in ("kernel_size", "stride", "dilation"))
    kernel, stride, dilation = (_along(value, axis) for value in values)
    reach, n = dilation * (kernel - 1), here.cells
    padding: int
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
        padding = _along(part.padding, axis)
        after = None if n is None else _count(part, n, reach, stride, padding)
    return _Axis(here.grid.after(kernel, stride, padding, dilation), after)


def _adaptive(part: nn.Module, here: _Axis, axis: int) -> _Axis | None:
    """Adaptive pooling is pooling where the cells that come out divide those that go in; elsewhere windows differ."""
    out, n = part.output_size, here.cells
    pair: Any = tuple(out) if isinstance(out, tuple | list) else (out, out)
    wanted = pair[axis]
    if n is None:
        return None
    after = n if wanted is None else int(wanted)
    if n % after:
        return None
    width = n // after
    return _Axis(here.grid.after(width, width, 0, 1), after)


def _count(part: nn.Module, n: int, reach: int, stride: int, padding: int) -> int:
    free = n + 2 * padding - reach - 1
    if not getattr(part, "ceil_mode", False):
        return free // stride + 1
    cells = -(-free // stride) + 1
    return cells if (cells - 1) * stride < n + padding else cells - 1  # no window starts in the padding behind


def _along(value: Any, axis: int) -> int:
    """The number of one axis, where both may share one."""
    pair = tuple(value) if isinstance(value, tuple | list) else (value, value)
    return int(pair[axis] if len(pair) == 2 else pair[0])


def measured_field(
    module: nn.Module, layer: str, image_shape: tuple[int, int, int], cell: tuple[int, int]
) -> tuple[tuple[int, int], tuple[int, int]]:
    """Receptive field of one cell, measured by a gradient: first and last row, first and last column of pixels.

    A check of `layer_grids`, or its substitute where a network cannot be traced. Measured on a copy in which every
    path counts alike: convolutions with one positive weight, pooling by means, no norms and no nonlinearities; so it
    shows where the cell can see, not where the trained network looks (effective receptive fields are smaller: Luo, Li,
    Urtasun & Zemel 2016). Pooling over the whole map is held fixed for layers with several cells: gates of squeeze and
    excitation see all of the image and say nothing of a place.

    Parameters
    ----------
    layer : of one that runs several times, the first call. image_shape : (C, height, width) of the input.
    cell : (row, column) in the layer's map.

    Raises
    ------
    DataError : no such cell, or it sees nothing.

    >>> net = nn.Sequential(nn.Conv2d(1, 1, 3, padding=1), nn.MaxPool2d(2))
    >>> measured_field(net, "1", (1, 8, 8), (1, 1))
    ((1, 4), (1, 4))
    """
    plain = _every_path_alike(copy.deepcopy(module).double().eval())
    image = torch.ones((1, *image_shape), dtype=torch.float64, requires_grad=True)
    seen: list[torch.Tensor] = []
    with hooked(plain, {layer: lambda part, inputs, output: seen.append(output)}):
        with torch.no_grad():
            plain(image)
        several = seen[0].shape[2:] != (1, 1)
        seen.clear()  # as many as the layer has calls
        fixed = {name: _fixed for name, part in plain.named_modules() if isinstance(part, _ADAPTIVE) and several}
        with hooked(plain, fixed), torch.enable_grad():
            plain(image)
    maps = seen[0]
    if maps.ndim != 4 or not (0 <= cell[0] < maps.shape[2] and 0 <= cell[1] < maps.shape[3]):
        raise DataError(f"wanted a cell (row, column) of maps {tuple(maps.shape)} at {layer!r}; came {cell}")
    (gradient,) = torch.autograd.grad(maps[0, :, cell[0], cell[1]].sum(), image)
    lit = gradient[0].abs().sum(dim=0) > 0
    rows, columns = (torch.nonzero(lit.any(dim=1 - axis)).flatten().tolist() for axis in (0, 1))
    if not rows:
        raise DataError(f"cell {cell} of layer {layer!r} sees no pixel of images {image_shape}; choose another cell")
    return (rows[0], rows[-1]), (columns[0], columns[-1])


def _fixed(part: nn.Module, inputs: tuple[Any, ...], output: torch.Tensor) -> torch.Tensor:
    return output.detach() if output.shape[2:] == (1, 1) else output


def _every_path_alike(module: nn.Module) -> nn.Module:
    for name, part in list(module.named_modules()):
        if isinstance(part, nn.Conv2d):
            nn.init.constant_(part.weight, 1 / part.weight[0].numel())
            if part.bias is not None:
                nn.init.zeros_(part.bias)
        replacement: nn.Module | None = None
        if isinstance(part, nn.MaxPool2d):
            replacement = nn.AvgPool2d(part.kernel_size, part.stride, part.padding, part.ceil_mode)
        elif name and (stage_of(part) == "activation" or isinstance(part, nn.modules.batchnorm._BatchNorm)):
            replacement = nn.Identity() if not any(True for _ in part.children()) else None
        if replacement is not None:
            owner, _, last = name.rpartition(".")
            setattr(module.get_submodule(owner), last, replacement)
    return module

"""Where the cells of a layer's map lie in the image: centre of the first cell and distance between cells, in pixels."""

from __future__ import annotations

from dataclasses import dataclass

from torch import fx, nn

from featattn_neuro.nets.layers import LeafTracer


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
        """Grid after one convolution or pooling.

        >>> Grid().after(kernel=2, stride=2, padding=0, dilation=1)
        Grid(offset=0.5, stride=2.0, size=2.0)
        """
        reach = dilation * (kernel - 1)
        return Grid(
            self.offset + self.stride * (reach / 2 - padding), self.stride * stride, self.size + reach * self.stride
        )


def layer_grid(module: nn.Module, layer: str) -> Grid | None:
    """Grid of `layer` (rows and columns alike), or None where the network cannot be traced or has unequal axes.

    Where branches meet (residual sums, concatenation) the grid with the largest receptive field is kept.

    >>> net = nn.Sequential(nn.Conv2d(1, 1, 3, padding=1), nn.MaxPool2d(2), nn.ReLU())
    >>> layer_grid(net, "2")
    Grid(offset=0.5, stride=2.0, size=4.0)
    """
    try:
        graph = LeafTracer().trace(module)
    except Exception:  # torch.fx raises many types for control flow it cannot follow; the caller is told by None
        return None
    grids: dict[fx.Node, Grid | None] = {}
    for node in graph.nodes:
        incoming = [grids[n] for n in node.all_input_nodes if grids.get(n) is not None]
        if node.op == "placeholder":
            grids[node] = Grid()
        elif not incoming:
            grids[node] = None
        else:
            widest = max((g for g in incoming if g is not None), key=lambda g: g.size)
            grids[node] = _through(module, node, widest)
        if node.op == "call_module" and node.target == layer:
            return grids[node]
    return None


def _through(module: nn.Module, node: fx.Node, grid: Grid) -> Grid | None:
    if node.op != "call_module":
        return grid
    part = module.get_submodule(str(node.target))
    if isinstance(part, nn.AdaptiveAvgPool2d | nn.AdaptiveMaxPool2d | nn.Flatten | nn.Linear):
        return None
    if not isinstance(part, nn.Conv2d | nn.MaxPool2d | nn.AvgPool2d):
        return grid
    numbers = []
    for name, default in (("kernel_size", 1), ("stride", 1), ("padding", 0), ("dilation", 1)):
        value = getattr(part, name, default)
        pair = value if isinstance(value, tuple) else (value, value)
        if len(pair) != 2 or pair[0] != pair[1] or isinstance(pair[0], str):
            return None
        numbers.append(int(pair[0]))
    if type(part).__name__.endswith("Same"):  # timm's "same" padding depends on the image size
        return None
    return grid.after(*numbers)

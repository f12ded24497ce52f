"""Gains folded into the weights: a plain network that answers as the gained one does.

Backward folding: the factor on a map moves against the flow of the network until it reaches numbers that it can be
multiplied into. It passes f where f(g x) = g f(x): a ReLU for g >= 0 (positive homogeneity), pooling, a sum, a
concatenation. It ends in the weights and biases of a convolution or a linear layer, or in the affine part of a batch
norm, which is exact for any sign. On its way nothing else may read a map that is changed; that is why a gain behind an
identity skip cannot be folded.
"""

from __future__ import annotations

import copy
import operator
from dataclasses import dataclass, replace
from typing import NoReturn

import torch
import torch.nn.functional as functional
import xarray as xr
from torch import Tensor, fx, nn

from featattn_neuro.errors import ConfigError, DataError
from featattn_neuro.nets.adapters import Network, as_network
from featattn_neuro.nets.architectures import GlobalMean
from featattn_neuro.nets.gains import gains_by_layer
from featattn_neuro.nets.hooks import evaluating
from featattn_neuro.nets.layers import LeafTracer, find_module

_PRODUCERS = ("Conv1d", "Conv2d", "Conv3d", "Conv2dSame", "Linear")
_AFFINE = (nn.modules.batchnorm._BatchNorm, nn.GroupNorm)
# f(g x) = g f(x) for g >= 0 only
_HALF_LINEAR = (
    nn.ReLU,
    nn.LeakyReLU,
    nn.PReLU,
    nn.MaxPool1d,
    nn.MaxPool2d,
    nn.MaxPool3d,
    nn.AdaptiveMaxPool1d,
    nn.AdaptiveMaxPool2d,
    nn.AdaptiveMaxPool3d,
)
# f(g x) = g f(x) for any g
_LINEAR = (
    nn.Identity,
    nn.Dropout,
    nn.Dropout1d,
    nn.Dropout2d,
    nn.Dropout3d,
    nn.AvgPool1d,
    nn.AvgPool2d,
    nn.AvgPool3d,
    nn.AdaptiveAvgPool1d,
    nn.AdaptiveAvgPool2d,
    nn.AdaptiveAvgPool3d,
    GlobalMean,
)
_HALF_LINEAR_CALLS = (functional.relu, torch.relu, "relu", "relu_", torch.relu_, functional.max_pool2d)
_SUMS = (operator.add, operator.iadd, torch.add, "add", "add_")
_JOINS = (torch.cat, torch.concat)


def fold_gains(model: nn.Module | Network, gains: xr.Dataset, *, task: str | None = None) -> nn.Module:
    """Return a copy of `model` with `gains` multiplied into its weights; the original is untouched.

    The copy needs nothing of this package and no hooks. In eval mode its output equals that of the gained network
    (relative 1e-4 in float32). A layer whose gains are all 1 is left alone. Backward folding, see this module.

    Parameters
    ----------
    model : what the gains were learned on.
    gains : GAINS with `gain(unit)`, no units, any finite value that the place allows; joined by `layer` and `channel`,
        in any order.
    task : which task's gains, where `gains` holds several.

    Returns
    -------
    nn.Module, of the class and in the train or eval mode of the original.

    Raises
    ------
    ConfigError : unknown layer or task; hooks on the model; a gain that cannot be folded: the message says which layer,
        what is in the way (ReLU6 and other bounded or smooth activations, a negative gain behind a ReLU, an identity
        skip, an operation that is no module, weights that are used twice) and what to do.
    DataError : channels that are missing or twice, gains that are not finite, or several sets of gains.
    SchemaError : not of kind GAINS.

    Examples
    --------
    >>> network = nn.Sequential(nn.Conv2d(1, 1, 1, bias=False), nn.ReLU())
    >>> gains = xr.Dataset({"gain": ("unit", [2.0])}, {
    ...     "unit": ["1/0"], "layer": ("unit", ["1"]), "channel": ("unit", [0])})
    >>> folded = fold_gains(network, gains)
    >>> (folded[0].weight / network[0].weight).item()
    2.0
    """
    per_layer = gains_by_layer(gains, task)
    original = as_network(model).module
    for name, part in original.named_modules():
        if part._forward_hooks or part._forward_pre_hooks:
            raise ConfigError(
                f"the network carries hooks (on {name or 'itself'}), which folding would not see; "
                "leave with_gains, or remove them, and fold then"
            )
    folded = copy.deepcopy(original)
    for layer in per_layer:
        find_module(folded, layer)
    folder = _Folder(folded)
    for layer, gain in per_layer.items():
        folder.fold(layer, torch.as_tensor(gain, dtype=torch.float64))
    return folded


@dataclass(frozen=True)
class _Site:
    """One gained layer on its way to the weights, for messages; `summed` once the way has led through a sum."""

    layer: str
    summed: bool = False

    def refuse(self, why: str, remedy: str) -> NoReturn:
        raise ConfigError(f"the gains of layer {self.layer!r} cannot be folded: {why}; {remedy}")


_KEEP = "keep this layer's gains as they are (with_gains), or place them elsewhere"


class _Folder:
    """Folds gains into the weights of one module, in place; the graph is traced once."""

    def __init__(self, module: nn.Module) -> None:
        self.module = module
        self.parts = dict(module.named_modules())
        tracer = LeafTracer()
        try:
            with evaluating(module):
                graph = tracer.trace(module)
        except Exception as error:  # tracing fails in as many ways as forward methods can be written
            raise ConfigError(
                f"the network cannot be traced ({type(error).__name__}: {error}), so it is not known what its gains "
                "could be folded into; keep the gains as they are (with_gains)"
            ) from error
        self.returned = tracer.returned
        self.calls: dict[int, int] = {}
        for node in graph.nodes:
            if node.op == "call_module":
                part = id(self.parts[str(node.target)])
                self.calls[part] = self.calls.get(part, 0) + 1

    def fold(self, layer: str, gain: Tensor) -> None:
        """Multiply `gain` (channel,) on the output of `layer` into the weights before it."""
        if bool((gain == 1).all()):
            return
        site = _Site(layer)
        for node in self._output_nodes(site):
            self._push(node, gain, site)

    def _output_nodes(self, site: _Site) -> list[fx.Node]:
        """What each call of the layer returns."""
        returned = self.returned.get(site.layer, [])
        parent, _, child = site.layer.rpartition(".")
        if not returned and isinstance(self.parts.get(parent), nn.modules.batchnorm._BatchNorm) and child == "act":
            # timm's norm-and-activation in one: what the activation inside gives is what the whole gives
            returned = self.returned.get(parent, [])
        if not returned:
            site.refuse("the traced network does not run it, or it returns no single map", _KEEP)
        if any(shared for _, shared in returned):
            site.refuse("it returns its input, or a map that is also used inside it, where no gain acts", _KEEP)
        return [node for node, _ in returned]

    def _push(self, node: fx.Node, gain: Tensor, site: _Site) -> None:
        """Multiply `gain` on the value of `node`, all of whose users shall see it."""
        if node.op == "call_module":
            self._push_module(node, gain, site)
        elif node.op in ("call_function", "call_method"):
            self._push_call(node, gain, site)
        elif node.op == "placeholder":
            site.refuse("nothing with weights comes before it", _KEEP)
        else:
            site.refuse(f"it adds or joins the fixed tensor {node.target!s}", _KEEP)

    def _push_module(self, node: fx.Node, gain: Tensor, site: _Site) -> None:
        name = str(node.target)
        part = self.parts[name]
        if _is_producer(part):
            # timm's batch norm may hold its activation; nn.Identity stands for none
            inner = getattr(part, "act", None)
            if isinstance(inner, nn.Module) and not isinstance(inner, nn.Identity):
                self._need_passable(inner, f"{name}.act", gain, site)
            self._scale(part, name, gain, site)
            return
        # a Sequential that is a node of its own is empty
        if not isinstance(part, (*_LINEAR, nn.Sequential)):
            self._need_passable(part, name, gain, site)
        self._through(node, node.all_input_nodes[0], gain, site)

    def _need_passable(self, part: nn.Module, name: str, gain: Tensor, site: _Site) -> None:
        """Refuse a module that a factor cannot be moved through."""
        kind = type(part).__name__
        if not isinstance(part, _HALF_LINEAR) or getattr(part, "return_indices", False):
            site.refuse(
                f"{kind} ({name}) lies between the gain and the weights, and {kind}(g x) is not known to be "
                f"g {kind}(x)",
                _KEEP,
            )
        self._need_positive(gain, f"{kind} ({name})", site)

    def _need_positive(self, gain: Tensor, through: str, site: _Site) -> None:
        if bool((gain < 0).any()):
            worst = int(gain.argmin())
            site.refuse(
                f"the gain of channel {worst} is negative ({float(gain[worst]):.4g}) and would have to pass {through}, "
                "which changes sign with it",
                "learn gains that are not negative, or keep them as they are (with_gains)",
            )

    def _push_call(self, node: fx.Node, gain: Tensor, site: _Site) -> None:
        if node.target in _HALF_LINEAR_CALLS:
            self._need_positive(gain, _name_of(node), site)
            self._through(node, node.all_input_nodes[0], gain, site)
        elif node.target in _SUMS:
            self._push_sum(node, gain, site)
        elif node.target in _JOINS:
            self._push_join(node, gain, site)
        else:
            site.refuse(
                f"the operation {_name_of(node)}, which is no module, lies between the gain and the weights", _KEEP
            )

    def _push_sum(self, node: fx.Node, gain: Tensor, site: _Site) -> None:
        if not all(isinstance(term, fx.Node) for term in node.args[:2]):
            site.refuse("a number is added between the gain and the weights", _KEEP)
        site = replace(site, summed=True)
        for term in node.all_input_nodes:
            self._need_alone(node, term, site)
            if self._channels(term) not in (None, len(gain)):
                site.refuse(f"the map {term.name} is broadcast when it is added", _KEEP)
        for term in node.all_input_nodes:
            self._push(term, gain, site)

    def _push_join(self, node: fx.Node, gain: Tensor, site: _Site) -> None:
        axis = node.kwargs.get("dim", node.args[1] if len(node.args) > 1 else 0)
        terms = list(node.args[0] if node.args else node.kwargs["tensors"])  # type: ignore[arg-type]
        if axis != 1 or len(set(terms)) != len(terms):
            site.refuse("maps are joined along another axis than the channels, or one of them twice", _KEEP)
        widths = [width for term in terms if (width := self._channels(term)) is not None]
        if len(widths) < len(terms):
            site.refuse("it is not known how many channels each of the joined maps has", _KEEP)
        self._need_channels(sum(widths), gain, site)
        for term, piece in zip(terms, gain.split(widths), strict=True):
            self._through(node, term, piece, site)

    def _through(self, node: fx.Node, source: fx.Node, gain: Tensor, site: _Site) -> None:
        """Go on from `node` to what it reads, which nothing else may read."""
        self._need_alone(node, source, site)
        self._push(source, gain, site)

    def _need_alone(self, node: fx.Node, source: fx.Node, site: _Site) -> None:
        others = ", ".join(sorted(user.name for user in source.users if user is not node))
        if others and site.summed:
            site.refuse(
                f"an identity skip ends before it: the map {source.name} is added there and also read by {others}, "
                "which must not see the gain",
                "gain a layer inside the branch, or keep these gains as they are (with_gains)",
            )
        if others:
            site.refuse(f"the map {source.name} before it is also read by {others}, which must not see the gain", _KEEP)

    def _channels(self, node: fx.Node) -> int | None:
        """Number of channels of the value of `node`, read from the weights that make it; None if not known."""
        part = self.parts.get(str(node.target)) if node.op == "call_module" else None
        if part is not None and _is_producer(part):
            return _width(part)
        if node.target in _JOINS:
            widths = [self._channels(term) for term in node.all_input_nodes]
            return None if None in widths else sum(width for width in widths if width is not None)
        passes = isinstance(part, _LINEAR + _HALF_LINEAR) or node.target in _HALF_LINEAR_CALLS + _SUMS
        return self._channels(node.all_input_nodes[0]) if passes and node.all_input_nodes else None

    def _need_channels(self, width: int, gain: Tensor, site: _Site) -> None:
        if width != len(gain):
            raise DataError(
                f"layer {site.layer!r} has {width} channels; {len(gain)} gains came; "
                "use the gains that were learned on this network"
            )

    def _scale(self, part: nn.Module, name: str, gain: Tensor, site: _Site) -> None:
        """Multiply `gain` into the numbers of `part` that make its output channels."""
        if self.calls[id(part)] > 1:
            site.refuse(
                f"the weights it would go into ({name}) are used {self.calls[id(part)]} times in one pass",
                "use a network with a module for each place",
            )
        self._need_channels(_width(part), gain, site)
        if isinstance(part, _AFFINE) and part.weight is None:
            _make_affine(part, len(gain))
        for parameter in ("weight", "bias"):
            old = getattr(part, parameter)
            if old is None:
                continue
            factor = gain.to(old.device).view(-1, *[1] * (old.ndim - 1))
            # a new Parameter, so that weights shared with another module stay what they are there
            new = (old.detach().to(torch.float64) * factor).to(old.dtype)
            setattr(part, parameter, nn.Parameter(new, requires_grad=old.requires_grad))


def _is_producer(part: nn.Module) -> bool:
    """Whether a factor on the output of `part` can be multiplied into its weights.

    Subclasses that others define may use their weights in another way (weight standardisation, spectral norm).
    """
    own = type(part).__module__.startswith(("torch.", "timm.")) and not nn.utils.parametrize.is_parametrized(part)
    return own and (isinstance(part, _AFFINE) or type(part).__name__ in _PRODUCERS)


def _width(part: nn.Module) -> int:
    names = ("out_channels", "out_features", "num_features", "num_channels")
    return next(int(getattr(part, name)) for name in names if hasattr(part, name))


def _make_affine(part: nn.Module, width: int) -> None:
    """Give a norm without weights the weights 1 and biases 0."""
    example = getattr(part, "running_mean", None)
    device = None if example is None else example.device
    part.affine = True  # type: ignore[assignment]
    part.weight = nn.Parameter(torch.ones(width, device=device), requires_grad=False)
    part.bias = nn.Parameter(torch.zeros(width, device=device), requires_grad=False)


def _name_of(node: fx.Node) -> str:
    return str(getattr(node.target, "__name__", node.target))

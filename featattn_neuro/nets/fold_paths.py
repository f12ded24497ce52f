"""Where a factor on a layer's output can go: back into the weights that make the map, or on into those that read it.

Backward, the factor moves against the flow of the network until it reaches weights whose output it can scale. It passes
f where f(g x) = g f(x): a ReLU or max pooling for g >= 0 (positive homogeneity), average pooling, a sum, a
concatenation. On its way nothing else may read a map that is changed; that is why a gain behind an identity skip cannot
go back. It ends in a convolution, a linear layer or the affine part of a norm, exact for any sign.

Onward, every reader of the map must be able to take it: through pooling and concatenation into the input side of a
convolution, a linear layer or an evaluated batch norm, exact for any sign where only linear maps lie between. So ReLU6
and other bounded or smooth activations are no obstacle; a sum is.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NoReturn

import torch
import torch.nn.functional as functional
from torch import Tensor, fx, nn

from featattn_neuro.errors import ConfigError, DataError, choose
from featattn_neuro.nets.architectures import GlobalMean
from featattn_neuro.nets.channels import declared_axis
from featattn_neuro.nets.fold_axes import FIRST, LAST, MapAxes, argument, is_flattening, is_spatial_mean, name_of
from featattn_neuro.nets.hooks import attributes_kept, evaluating
from featattn_neuro.nets.layers import LeafTracer
from featattn_neuro.nets.operations import Operations
from featattn_neuro.nets.selection import no_match

DIRECTIONS = ("auto", "backward", "forward")

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
_LINEAR_CALLS = (functional.avg_pool2d, functional.adaptive_avg_pool2d, functional.dropout)
_SUMS = (operator.add, operator.iadd, torch.add, "add", "add_")
_JOINS = (torch.cat, torch.concat)
_KEEP = "keep this layer's gains as they are (with_gains), or place them elsewhere"


class RefusedError(ConfigError):
    """A factor cannot be moved; the message says which layer, what is in the way and what to do."""


@dataclass(frozen=True)
class Scaling:
    """One factor per channel (C,), float64, on the `side` ("output" or "input") of the weights of `module`."""

    module: str
    side: str
    gain: Tensor


@dataclass(frozen=True)
class _Site:
    """One gained layer on its way; `summed` once that has led through a sum; `axis` = where its gains are, if known."""

    layer: str
    summed: bool = False
    axis: int | None = None

    def refusal(self, why: str, remedy: str) -> RefusedError:
        return RefusedError(f"the gains of layer {self.layer!r} cannot be folded: {why}; {remedy}")

    def refuse(self, why: str, remedy: str) -> NoReturn:
        raise self.refusal(why, remedy)


class FoldPaths:
    """Finds where gains can go in one network; traced once, nothing is changed.

    Parameters
    ----------
    takes : which modules may take a factor, None = all that can; a further condition on convolutions, linear layers
        and norms.
    input_shape : (C, H, W) of the images, where known: it tells where axes are of which the graph does not.
    """

    def __init__(
        self,
        module: nn.Module,
        takes: Callable[[nn.Module], bool] | None = None,
        *,
        input_shape: tuple[int, ...] | None = None,
    ) -> None:
        self.module = module
        self.takes = takes or (lambda part: True)
        self.parts = dict(module.named_modules())
        tracer = LeafTracer()
        try:
            with evaluating(module), attributes_kept(module):
                graph = tracer.trace(module)
                used = [_attribute(module, str(node.target)) for node in graph.nodes if node.op == "get_attr"]
        except Exception as error:  # tracing fails in as many ways as forward methods can be written
            raise ConfigError(
                f"the network cannot be traced ({type(error).__name__}: {error}), so it is not known what its gains "
                "could be folded into; keep the gains as they are (with_gains)"
            ) from error
        self.returned = tracer.returned
        self.operations = tracer.operations
        self.axes = MapAxes(module, graph, input_shape)
        self._named: Operations | None = None
        self.calls: dict[int, int] = {}
        for node in graph.nodes:
            if node.op == "call_module":
                part = id(self.parts[str(node.target)])
                self.calls[part] = self.calls.get(part, 0) + 1
        for weights in used:  # that a function takes: used there too, whosever they are
            for part in self.parts.values():
                if any(weights is own for own in part._parameters.values()):
                    self.calls[id(part)] = self.calls.get(id(part), 0) + 1

    def plan(self, layer: str, gain: Tensor, direction: str = "auto") -> list[Scaling]:
        """Where `gain` (channel,) on the output of `layer` goes; `RefusedError` with the reason if it cannot.

        "auto" goes backward where that is exact and onward otherwise.
        """
        choose(direction, DIRECTIONS, "direction of folding")
        if bool((gain == 1).all()):
            return []
        if direction == "forward":
            return self._forward(layer, gain)
        try:
            return self._backward(layer, gain)
        except RefusedError as backward:
            if direction == "backward":
                raise
            try:
                return self._forward(layer, gain)
            except RefusedError as forward:
                onward = str(forward).partition(" cannot be folded: ")[2].partition("; ")[0]
                raise RefusedError(f"{backward} (nor into the weights that follow: {onward})") from forward

    def readers(self, name: str) -> list[fx.Node]:
        """What the calls of module `name` read: one node a call."""
        graph = next(iter(self.returned.values()))[0][0].graph
        return [node.all_input_nodes[0] for node in graph.nodes if node.op == "call_module" and node.target == name]

    def need_site(self, name: str) -> None:
        """Refuse a name that is neither a module nor a functional operation; `ConfigError` lists the nearest."""
        if name not in self.parts and name not in self._operation_names():
            raise no_match(name, [*(part for part in self.parts if part), *self._operation_names()])

    def _operation_names(self) -> list[str]:
        if self._named is None:
            self._named = Operations(self.module)
        return self._named.names

    def _operation_node(self, site: _Site) -> fx.Node:
        """The node of a functional operation."""
        owner = site.layer.rpartition(".")[0]
        siblings = [name for name in self._operation_names() if name.rpartition(".")[0] == owner]
        found = self.operations.get(owner, [])
        if len(found) != len(siblings):
            site.refuse(f"the operation lies inside {owner!r}, which is taken as a whole here", _KEEP)
        return found[siblings.index(site.layer)]

    def _output_nodes(self, site: _Site) -> list[fx.Node]:
        """What each call of the layer returns, or what a functional operation gives."""
        if site.layer not in self.parts:
            return [self._operation_node(site)]
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

    # -- backward ------------------------------------------------------------------------------------------------

    def _backward(self, layer: str, gain: Tensor) -> list[Scaling]:
        site, found = _Site(layer), []
        for node in self._output_nodes(site):
            found += self._push(node, gain, replace(site, axis=self.axes.axis(node)))
        return found

    def _push(self, node: fx.Node, gain: Tensor, site: _Site) -> list[Scaling]:
        """Multiply `gain` on the value of `node`, all of whose users shall see it."""
        if node.op == "call_module":
            return self._push_module(node, gain, site)
        if node.op in ("call_function", "call_method"):
            return self._push_call(node, gain, site)
        if node.op == "placeholder":
            site.refuse("nothing with weights comes before it", _KEEP)
        raise site.refusal(f"it adds or joins the fixed tensor {node.target!s}", _KEEP)

    def _push_module(self, node: fx.Node, gain: Tensor, site: _Site) -> list[Scaling]:
        name = str(node.target)
        part = self.parts[name]
        if is_producer(part):
            # timm's batch norm may hold its activation; nn.Identity stands for none
            inner = getattr(part, "act", None)
            if isinstance(inner, nn.Module) and not isinstance(inner, nn.Identity):
                self._need_passable(inner, f"{name}.act", gain, site)
            self._need_usable(part, name, site)
            self._need_axis(node, declared_axis(part), f"{type(part).__name__} ({name})", site)
            self._need_channels(width(part), gain, site)
            return [Scaling(name, "output", gain)]
        # a Sequential that is a node of its own is empty
        if not isinstance(part, (*_LINEAR, nn.Sequential)):
            self._need_passable(part, name, gain, site)
        self._need_kept(node, site)
        return self._through(node, node.all_input_nodes[0], gain, site)

    def _push_call(self, node: fx.Node, gain: Tensor, site: _Site) -> list[Scaling]:
        self._need_kept(node, site)
        if node.target in _HALF_LINEAR_CALLS:
            self._need_positive(gain, name_of(node), site)
            return self._through(node, node.all_input_nodes[0], gain, site)
        if node.target in _LINEAR_CALLS or is_spatial_mean(node):
            return self._through(node, node.all_input_nodes[0], gain, site)
        if node.target in _SUMS:
            return self._push_sum(node, gain, site)
        if node.target in _JOINS:
            return self._push_join(node, gain, site)
        raise site.refusal(
            f"the operation {name_of(node)}, which is no module, lies between the gain and the weights", _KEEP
        )

    def _push_sum(self, node: fx.Node, gain: Tensor, site: _Site) -> list[Scaling]:
        named = [node.kwargs[name] for name in ("input", "other") if name in node.kwargs]
        terms = [term for term in (*node.args, *named) if isinstance(term, fx.Node)]
        if len(terms) != 2 or len(node.args) + len(named) != 2:
            site.refuse("a number is added between the gain and the weights", _KEEP)
        if set(node.all_input_nodes) != set(terms):  # a factor alpha or a place for the sum, which the network computes
            site.refuse(f"the sum {node.name} is given more than its two terms", _KEEP)
        site = replace(site, summed=True)
        for term in node.all_input_nodes:
            self._need_alone(node, term, site)
            if self._channels(term) not in (None, len(gain)):
                site.refuse(f"the map {term.name} is broadcast when it is added", _KEEP)
        return [scaling for term in node.all_input_nodes for scaling in self._push(term, gain, site)]

    def _push_join(self, node: fx.Node, gain: Tensor, site: _Site) -> list[Scaling]:
        terms, widths = self._joined(node, site)
        self._need_axis(node, FIRST, f"the concatenation {node.name}", site)
        if len(set(terms)) != len(terms):
            site.refuse("maps are joined along another axis than the channels, or one of them twice", _KEEP)
        self._need_channels(sum(widths), gain, site)
        found = []
        for term, piece in zip(terms, gain.split(widths), strict=True):
            found += self._through(node, term, piece, site)
        return found

    def _through(self, node: fx.Node, source: fx.Node, gain: Tensor, site: _Site) -> list[Scaling]:
        """Go on from `node` to what it reads, which nothing else may read."""
        self._need_alone(node, source, site)
        return self._push(source, gain, site)

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

    # -- onward --------------------------------------------------------------------------------------------------

    def _forward(self, layer: str, gain: Tensor) -> list[Scaling]:
        site, found = _Site(layer), []
        for node in self._output_nodes(site):
            found += self._pull(node, gain, replace(site, axis=self.axes.axis(node)), flat=False)
        return found

    def _pull(self, node: fx.Node, gain: Tensor, site: _Site, *, flat: bool) -> list[Scaling]:
        """Take `gain` on the value of `node` into everything that reads it; `flat`: positions were made channels."""
        found = []
        for user in node.users:
            if user.op == "output":
                site.refuse("the network returns this map, so no weights follow that could hold the gain", _KEEP)
            elif user.op == "call_module":
                found += self._pull_module(user, gain, site, flat=flat)
            else:
                found += self._pull_call(user, node, gain, site, flat=flat)
        return found

    def _pull_module(self, user: fx.Node, gain: Tensor, site: _Site, *, flat: bool) -> list[Scaling]:
        name = str(user.target)
        part = self.parts[name]
        if is_producer(part):
            self._need_usable(part, name, site)
            if isinstance(part, _AFFINE) and (
                not isinstance(part, nn.modules.batchnorm._BatchNorm) or part.running_mean is None
            ):
                site.refuse(f"{type(part).__name__} ({name}) divides by the size of what it reads", _KEEP)
            if not flat:
                wanted = declared_axis(part)
                self._need_axis(user.all_input_nodes[0], wanted, f"{type(part).__name__} ({name})", site)
            return [Scaling(name, "input", self._fitted(part, gain, site, flat=flat))]
        if isinstance(part, nn.Flatten):
            if part.start_dim != 1:
                site.refuse(f"Flatten ({name}) joins images", _KEEP)
            if self.axes.rank(user) != 2:
                site.refuse(f"Flatten ({name}) leaves positions apart, which the layer behind it reads", _KEEP)
            return self._pull(user, gain, site, flat=True)
        if not isinstance(part, (*_LINEAR, nn.Sequential)):
            if flat:
                site.refuse(f"{type(part).__name__} ({name}) follows a flattening", _KEEP)
            self._need_passable(part, name, gain, site)
        self._need_kept(user, site)
        return self._pull(user, gain, site, flat=flat)

    def _pull_call(self, user: fx.Node, node: fx.Node, gain: Tensor, site: _Site, *, flat: bool) -> list[Scaling]:
        self._need_kept(user, site)
        if user.target in _HALF_LINEAR_CALLS:
            self._need_positive(gain, name_of(user), site)
        elif is_flattening(user) and self.axes.rank(user) == 2:
            flat = True
        elif user.target in _JOINS and not flat:
            self._need_axis(node, FIRST, f"the concatenation {user.name}", site)
            site = replace(site, axis=FIRST)
            terms, widths = self._joined(user, site, known={node: len(gain)})
            ones = [torch.ones(w, dtype=gain.dtype, device=gain.device) for w in widths]
            gain = torch.cat([gain if term is node else one for term, one in zip(terms, ones, strict=True)])
        elif user.target in _SUMS:
            site.refuse(
                f"its map is added to another ({user.name}), which no weights lie before",
                "gain a layer inside the branch, or keep these gains as they are (with_gains)",
            )
        elif user.target not in _LINEAR_CALLS and not is_spatial_mean(user):
            site.refuse(f"the operation {name_of(user)}, which is no module, reads it", _KEEP)
        return self._pull(user, gain, site, flat=flat)

    def _fitted(self, part: nn.Module, gain: Tensor, site: _Site, *, flat: bool) -> Tensor:
        """The gain as long as the input of `part`: channels repeated over the positions that were flattened."""
        wanted = input_width(part)
        if not flat or wanted % len(gain):
            self._need_channels(wanted, gain, site)
        positions = wanted // len(gain)
        if positions == 1:
            return gain
        axis = site.axis or (FIRST if self.axes.holds_maps_only() else None)
        if axis is None:
            site.refuse(
                "a flattening follows, and nothing tells whether the gains are on the first or last axis", _KEEP
            )
        return gain.repeat_interleave(positions) if axis == FIRST else gain.repeat(positions)

    # -- both ----------------------------------------------------------------------------------------------------

    def _need_axis(self, value: fx.Node, wanted: int | None, what: str, site: _Site) -> None:
        """Refuse weights that make, or read, another axis of `value` than the one that the gains are on."""
        if site.axis is None or wanted in (None, site.axis) or self.axes.rank(value) == 2:
            return
        place = "the last axis, as those of sequences," if site.axis == LAST else "axis 1, as those of maps,"
        open_rank = "" if self.axes.rank(value) else " (unless these are vectors, of which nothing tells)"
        site.refuse(f"its filters are on {place} and {what} works along another axis{open_rank}", _KEEP)

    def _need_kept(self, node: fx.Node, site: _Site) -> None:
        """Refuse pooling, or a mean, over the axis that the gains are on."""
        part = self.parts[str(node.target)] if node.op == "call_module" else None
        what = name_of(node) if part is None else f"{type(part).__name__} ({node.target})"
        pools = "pool" in what.lower().split(" ")[0] or isinstance(part, GlobalMean)
        if pools and (site.axis == LAST or self.axes.rank(node.all_input_nodes[0]) == 2):
            site.refuse(f"{what} takes means or maxima along the axis of its filters", _KEEP)
        if is_spatial_mean(node) and not self.axes.survives(node, site.axis):
            site.refuse(f"the {what} is over the axis of its filters", _KEEP)

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

    def _need_usable(self, part: nn.Module, name: str, site: _Site) -> None:
        if self.calls[id(part)] > 1:
            site.refuse(
                f"the weights it would go into ({name}) are used {self.calls[id(part)]} times in one pass",
                "use a network with a module for each place",
            )
        if not self.takes(part):
            site.refuse(f"it would go into {type(part).__name__} ({name}), which is not wanted here", _KEEP)

    def _joined(
        self, node: fx.Node, site: _Site, known: dict[fx.Node, int] | None = None
    ) -> tuple[list[fx.Node], list[int]]:
        """Maps that are concatenated, and how many channels each has."""
        terms: list[fx.Node] = list(node.args[0] if node.args else node.kwargs["tensors"])  # type: ignore[arg-type]
        if argument(node, 1, "dim", 0) != 1:
            site.refuse("maps are joined along another axis than the channels, or one of them twice", _KEEP)
        widths = [(known or {}).get(term) or self._channels(term) for term in terms]
        if None in widths:
            site.refuse("it is not known how many channels each of the joined maps has", _KEEP)
        return terms, [w for w in widths if w is not None]

    def joined(self, node: fx.Node) -> list[tuple[fx.Node, int]]:
        """The maps that are concatenated to the value of `node`, with their channels; or itself, and 0 for all.

        Empty where it is not known how many channels each map has.
        """
        if node.target not in _JOINS:
            return [(node, 0)]
        try:
            return list(zip(*self._joined(node, _Site(node.name)), strict=True))
        except RefusedError:
            return []

    def _channels(self, node: fx.Node) -> int | None:
        """Number of channels of the value of `node`, read from the weights that make it; None if not known."""
        part = self.parts.get(str(node.target)) if node.op == "call_module" else None
        if part is not None and is_producer(part):
            return width(part)
        if node.target in _JOINS:
            widths = [self._channels(term) for term in node.all_input_nodes]
            return None if None in widths else sum(w for w in widths if w is not None)
        # an activation keeps the channels whatever it does to the values
        kept = isinstance(part, _LINEAR + _HALF_LINEAR) or (part is not None and "activation" in type(part).__module__)
        passes = kept or node.target in _HALF_LINEAR_CALLS + _LINEAR_CALLS + _SUMS
        return self._channels(node.all_input_nodes[0]) if passes and node.all_input_nodes else None

    def _need_channels(self, wanted: int, gain: Tensor, site: _Site) -> None:
        if wanted != len(gain):
            raise DataError(
                f"layer {site.layer!r} has {wanted} channels; {len(gain)} gains came; "
                "use the gains that were learned on this network"
            )


def is_producer(part: nn.Module) -> bool:
    """Whether a factor on the output of `part` can be multiplied into its weights.

    Subclasses that others define may use their weights in another way (weight standardisation, spectral norm).
    """
    own = type(part).__module__.startswith(("torch.", "timm.")) and not nn.utils.parametrize.is_parametrized(part)
    return own and (isinstance(part, _AFFINE) or type(part).__name__ in _PRODUCERS)


def width(part: nn.Module) -> int:
    """Channels that `part` gives.

    >>> width(nn.Conv2d(3, 8, 1)), width(nn.BatchNorm2d(5))
    (8, 5)
    """
    names = ("out_channels", "out_features", "num_features", "num_channels")
    return next(int(getattr(part, name)) for name in names if hasattr(part, name))


def input_width(part: nn.Module) -> int:
    """Channels that `part` reads.

    >>> input_width(nn.Conv2d(3, 8, 1)), input_width(nn.BatchNorm2d(5))
    (3, 5)
    """
    names = ("in_channels", "in_features", "num_features", "num_channels")
    return next(int(getattr(part, name)) for name in names if hasattr(part, name))


def _attribute(module: nn.Module, name: str) -> object:
    owner, _, attribute = name.rpartition(".")
    return getattr(module.get_submodule(owner), attribute)

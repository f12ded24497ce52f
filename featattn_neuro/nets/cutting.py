"""A frozen network cut before its first gained layer: the prefix runs once per image, the rest for many tasks at once.

The base network never changes while gains are learned, so everything that no gain reaches is computed once and kept:
what lies before the first gained map, and branches beside it. After the cut, images of several tasks travel together
as one batch of T x B rows, each task with its own gains: the frozen weights are shared, so T fits cost one pass over
the network and not T.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import fx, nn

from featattn_neuro.errors import ConfigError, DataError, choose
from featattn_neuro.nets.architectures import GlobalMean
from featattn_neuro.nets.batches import own_copy
from featattn_neuro.nets.chance import draws_noted
from featattn_neuro.nets.channels import ChannelRule
from featattn_neuro.nets.expansion import FirstConvolution
from featattn_neuro.nets.hooks import attributes_kept, channel_axis, counts_calls, hooked, settle_memory_format
from featattn_neuro.nets.in_place import reused_in_place
from featattn_neuro.nets.layers import LeafTracer
from featattn_neuro.nets.modulation import modulated

_NOTHING = (nn.Identity, nn.Dropout, nn.Dropout2d)
"""What a frozen network in evaluation mode hands on as it is."""

SiteFactor = torch.Tensor | Callable[[torch.Tensor], torch.Tensor]
"""What acts at a gained site: gains (T, C), or a function of rows (T * B, C, ...) such as `modulation.Modulation`."""

_POOLS = (nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d, GlobalMean)


def _scale(rows: torch.Tensor, gain: SiteFactor) -> torch.Tensor:
    """Rows (T * B, C, ...) times gains (T, C), or whatever else acts at the site."""
    if not isinstance(gain, torch.Tensor):
        return gain(rows)
    return modulated(rows, (len(gain), -1), gain.view(len(gain), 1, -1, *[1] * (rows.ndim - 2)))


class CutNetwork:
    """Frozen copy of a network: `prefix` once per image, `features` for many tasks at once.

    Parameters
    ----------
    module : the network; it is copied, never altered.
    layers : gained sites, names of modules.
    head : name of the final linear layer; its input (N, F) is the feature vector.
    past_pools : whether what acts at a site may act behind a pooling layer instead, where the maps are smaller. That is
        the same for gains that are not negative; not for others, and not for gains per position.
    shifts : whether something may be added to the maps too. Pooling commutes with that, g a + b for g >= 0, unless it
        counts padding; what acts then stays before it.

    Attributes
    ----------
    cached : whether a prefix could be split off; `reason` says why not.
    whole : the frozen copy to run from images to head; ReLU and max pooling may have changed places (same values).
    n_filters : filters per gained layer, known after the first `prefix`.
    pooled : the gains of the only layer act on the features themselves, since nothing but pooling lies between: the
        prefix is then the whole network, and rows are (N, F).
    memory_format : of images and maps: channels last, which is faster, unless the network cannot run so.
    first : the convolution that alone takes the first gained map, which can be expanded; None where there is none.

    Gains that are not negative may be moved past a pooling layer that alone consumes the map: max(g a + b) =
    g max(a) + b, mean(g a + b) = g mean(a) + b. The result is the same; the maps to multiply are smaller.
    """

    def __init__(
        self,
        module: nn.Module,
        layers: Sequence[str],
        head: str,
        device: str | torch.device = "cpu",
        *,
        past_pools: bool = True,
        shifts: bool = False,
    ) -> None:
        modules = dict(module.named_modules())
        for layer in layers:
            choose(layer, modules, "layer")
        choose(head, modules, "head")
        if head in layers:
            raise ConfigError(
                f"a gain on what the head {head!r} gives scales its answers, and is no gain of filters; gain "
                f"'{head}.input', or a layer before it"
            )
        self.layers, self.head, self.device = tuple(layers), head, torch.device(device)
        self.past_pools, self.shifts = past_pools, shifts
        self.module = copy.deepcopy(module).eval().requires_grad_(False).to(self.device)
        self.memory_format = torch.channels_last
        self.whole: nn.Module = self.module
        self.cached, self.reason = True, ""
        self.n_filters: dict[str, int] = {}
        self.pooled = False
        self.first: FirstConvolution | None = None
        if counts_calls(self.module):  # a hook on the whole network starts the count, and its parts do not call it
            self.cached, self.reason = False, "gains act on single calls of a module"
            return
        # constants that tracing puts on the network, which the graphs take over, and what its forward keeps of it
        with attributes_kept(self.module):
            self.reason = self._cut()
        self.cached = not self.reason

    def _cut(self) -> str:
        """Trace and split the network; why it cannot be split, or nothing."""
        layers, head = self.layers, self.head
        # a gained block with gained layers inside is entered; its site is what it returns
        around = {one for one in layers if any(other.startswith(f"{one}.") for other in (*layers, head))}
        tracer = LeafTracer({*layers, head} - around)
        try:
            with draws_noted(self.module) as drawn:
                graph = tracer.trace(self.module)
                if drawn():  # the graph would hold it fast
                    return "it draws random numbers"
        except Exception as error:  # torch.fx raises many types for control flow it cannot follow
            return f"torch.fx cannot trace it: {type(error).__name__}: {error}"
        reused = reused_in_place(self.module, graph)
        if reused is not None:
            return f"a map is used again after step {reused!r} worked on it in place"
        returned = {one: tracer.returned.get(one, []) for one in around}
        self._need_ways(graph, returned)  # before steps that lead nowhere go, and with them the gains there
        if self.past_pools:
            kept = {node for nodes in returned.values() for node, _ in nodes}
            # a gain on a pooled map acts behind the ReLU: a shift before it is another, and a gain of 0 has no gradient
            pools = {node for node in graph.nodes if node.op == "call_module" and node.target in self.layers}
            _pool_before_relu(self.module, graph, kept, pools | kept)
        self.whole = _without_dead_code(self.module, graph)
        try:
            self._prefix, self._suffix = self._split(graph, returned)
        except _NotSplitError as error:
            return str(error)
        return ""

    def _need_ways(self, graph: fx.Graph, around: Mapping[str, Sequence[tuple[fx.Node, bool]]]) -> None:
        """Refuse a layer from which no way leads to the input of the head."""
        heads = [node for node in graph.nodes if node.op == "call_module" and node.target == self.head]
        needed = {one for node in heads for one in _ancestors(node)}
        for layer in self.layers:
            sites = [node for node in graph.nodes if node.op == "call_module" and node.target == layer]
            sites = [node for node, _ in around[layer]] if layer in around else sites
            if heads and sites and not needed.intersection(sites):
                raise self._leads_nowhere(layer)

    def prefix(self, images: torch.Tensor, chunk: int = 128) -> tuple[torch.Tensor, ...]:
        """Everything before the first gain, for images (N, C, H, W): tensors with N rows each."""
        parts: list[tuple[torch.Tensor, ...]] = []
        with torch.no_grad():
            if not self.n_filters:
                self._count_filters(images[:2])
                if not self.cached:
                    self._need_gradients(images[:2])
            for start in range(0, len(images), chunk):
                batch = own_copy(images[start : start + chunk], self.device, self.memory_format)
                parts.append(tuple(self._prefix(batch)) if self.cached else (batch,))
        return tuple(torch.cat(list(column)) for column in zip(*parts, strict=True))

    def features(self, rows: Sequence[torch.Tensor], gains: Mapping[str, SiteFactor]) -> torch.Tensor:
        """Input of the head, (T * B, F), for prefix rows (T * B, ...) in task-major order and gains (T, C) a layer.

        Rows are used up: what follows may work on them in place. Give a copy of rows that are read again.
        """
        if self.cached:
            return self._suffix(*rows, *[gains[layer] for layer in self.layers])
        seen: dict[str, torch.Tensor] = {}
        hooks: dict[str, Any] = {
            layer: lambda module, inputs, output, gain=gains[layer]: _scale(output, gain) for layer in self.layers
        }
        hooks[self.head] = lambda module, inputs, output: seen.__setitem__("features", inputs[0])
        with hooked(self.module, hooks):
            self.module(rows[0])
        return self._flat(seen["features"])

    def _flat(self, features: torch.Tensor) -> torch.Tensor:
        if features.ndim != 2:
            raise DataError(
                f"the input of head {self.head!r} must be vectors (N, F); came {tuple(features.shape)}; "
                "name another head"
            )
        return features

    def _count_filters(self, images: torch.Tensor) -> None:
        """Settle the memory format, and note the filters of each gained layer; refuse layers without them on axis 1."""
        maps: dict[str, list[torch.Tensor]] = {layer: [] for layer in self.layers}
        seen: dict[str, torch.Tensor] = {}
        behind: list[str] = []
        rule, features_last = ChannelRule(self.module), set[int]()

        def note(layer: str) -> Any:
            def hook(module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
                channel_axis(output, layer)
                maps[layer].append(torch.empty_like(output, device="meta"))
                if "features" in seen:
                    behind.append(layer)

            return hook

        def watch(layer: str) -> Any:
            def hook(module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
                if rule.watch(layer, output) == 3:
                    features_last.add(output.shape[-1])

            return hook

        hooks = {layer: note(layer) for layer in self.layers}
        hooks[self.head] = lambda module, inputs, output: seen.__setitem__("features", inputs[0])
        self.memory_format = settle_memory_format(self.module, images.to(self.device))
        if self.memory_format != torch.channels_last:
            self.first = None  # its terms give maps with channels last
        with hooked(self.module, {name: watch(name) for name in rule.watched()}), \
                hooked(self.module, hooks):  # fmt: skip
            self.module(own_copy(images, self.device))
        missing = [layer for layer in self.layers if not maps[layer]]
        if missing or "features" not in seen:
            raise DataError(f"layer {(missing or [self.head])[0]!r} exists but did not run; leave it out")
        if behind:
            raise self._leads_nowhere(behind[0])
        for layer, outputs in maps.items():
            counts = [output.shape[1] for output in outputs]
            for output in outputs:
                _need_filters_first(rule, features_last, layer, output)
            if len(set(counts)) > 1:
                other = next(n for n in counts if n != counts[0])
                raise DataError(
                    f"layer {layer!r} runs several times, with {counts[0]} filters and with {other}; "
                    "one set of gains cannot serve both; choose layers that run once"
                )
        self._flat(seen["features"])
        self.n_filters.update({layer: outputs[0].shape[1] for layer, outputs in maps.items()})

    def _need_gradients(self, images: torch.Tensor) -> None:
        """Refuse a layer whose gains reach no input of the head: no graph tells it of a network that is not cut."""
        with torch.inference_mode(False), torch.enable_grad():
            gains = {k: torch.ones(1, n, device=self.device, requires_grad=True) for k, n in self.n_filters.items()}
            features = self.features((own_copy(images, self.device, self.memory_format),), gains)
            for layer, gain in gains.items():
                found: tuple[torch.Tensor | None, ...] = (None,)
                if features.requires_grad:
                    found = torch.autograd.grad(features.sum(), gain, allow_unused=True, retain_graph=True)
                if found[0] is None:
                    raise self._leads_nowhere(layer)

    def _leads_nowhere(self, layer: str) -> DataError:
        return DataError(
            f"what layer {layer!r} gives does not lead to the input of head {self.head!r}, so a gain there would "
            "change nothing that is learned from; choose a layer before the head"
        )

    def _split(
        self, graph: fx.Graph, around: Mapping[str, Sequence[tuple[fx.Node, bool]]]
    ) -> tuple[fx.GraphModule, fx.GraphModule]:
        nodes = list(graph.nodes)
        heads = [node for node in nodes if node.op == "call_module" and node.target == self.head]
        if len(heads) != 1:
            raise _NotSplitError(f"the head {self.head!r} runs {len(heads)} times")
        places: dict[fx.Node, str] = {}
        sites: dict[str, list[fx.Node]] = {}
        for layer in self.layers:
            sites[layer] = [node for node in nodes if node.op == "call_module" and node.target == layer]
            if layer in around:
                if any(shared for _, shared in around[layer]):
                    raise _NotSplitError(f"what layer {layer!r} returns is read inside it too, or is what it was given")
                sites[layer] = [node for node, _ in around[layer]]
            if not sites[layer]:
                raise _NotSplitError(f"layer {layer!r} is not a step of the traced graph")
        all_sites = {node for found in sites.values() for node in found}
        for layer in self.layers:
            for site in sites[layer]:
                place = self._past_pools(site, all_sites)
                if place in places:
                    raise _NotSplitError(f"layers {layer!r} and {places[place]!r} act on the same map")
                places[place] = layer
        features = heads[0].args[0]
        needed = _ancestors(features)
        late = _descendants(places)
        early = [node for node in nodes if node not in late and node.op != "output"]
        constant = _constants(nodes)  # weights that a traced function takes: they have no rows, so the suffix has them
        crossing = [n for n in early if n in needed - constant and (n in places or any(u in late for u in n.users))]
        if not crossing:
            raise _NotSplitError(f"no gain lies before the head {self.head!r}")
        self.pooled = len(crossing) == 1 and features is crossing[0]
        late = late | constant
        convolution = self._sole_convolution([node for node in crossing if node in places])
        if convolution is not None:
            gained = convolution.all_input_nodes[0]
            others = [node for node in crossing if node is not gained]
            after = self._suffix_graph(nodes, late, [*others, convolution], places, features)
            part: Any = self.module.get_submodule(str(convolution.target))
            self.first = FirstConvolution(places[gained], part, crossing.index(gained), after)
        return self._prefix_graph(early, crossing), self._suffix_graph(nodes, late, crossing, places, features)

    def _sole_convolution(self, gained: Sequence[fx.Node]) -> fx.Node | None:
        """The convolution that is all that takes the only gained map of the prefix."""
        if len(gained) != 1 or len(gained[0].users) != 1:
            return None
        user = next(iter(gained[0].users))
        part = self.module.get_submodule(str(user.target)) if user.op == "call_module" else None
        # padding with other values than 0 is left to the convolution itself
        plain = type(part) is nn.Conv2d and part.groups == 1 and part.padding_mode == "zeros"
        return user if plain else None

    def _past_pools(self, node: fx.Node, gained: Collection[fx.Node]) -> fx.Node:
        while self.past_pools and len(node.users) == 1:
            user = next(iter(node.users))
            if user in gained:  # its own gain acts there
                break
            is_pool = user.op == "call_module" and isinstance(self.module.get_submodule(str(user.target)), _POOLS)
            if user.op == "call_module" and getattr(
                self.module.get_submodule(str(user.target)), "return_indices", False
            ):
                is_pool = False
            if is_pool and self.shifts and not _keeps_shifts(self.module.get_submodule(str(user.target))):
                break
            is_mean = user.target in ("mean", torch.mean) and _mean_dims(user) in ((2, 3), (-2, -1))
            if not (is_pool or is_mean or self._keeps_values(node, user)):
                break
            node = user
        return node

    def _keeps_values(self, node: fx.Node, user: fx.Node) -> bool:
        """Whether `user` hands on the values of `node` as they are, filters still along axis 1."""
        part = self.module.get_submodule(str(user.target)) if user.op == "call_module" else None
        if isinstance(part, _NOTHING):
            return True
        flattens = bool(isinstance(part, nn.Flatten) and part.start_dim == 1) or (
            user.target in (torch.flatten, "flatten")
            and user.kwargs.get("start_dim", user.args[1] if len(user.args) > 1 else 0) == 1
        )
        before = self.module.get_submodule(str(node.target)) if node.op == "call_module" else None
        return bool(flattens and getattr(before, "output_size", None) in (1, (1, 1), [1, 1]))

    def _prefix_graph(self, nodes: list[fx.Node], crossing: list[fx.Node]) -> fx.GraphModule:
        graph = fx.Graph()
        values: dict[fx.Node, fx.Node] = {}
        for node in nodes:
            values[node] = graph.node_copy(node, lambda n: values[n])
        graph.output(tuple(values[node] for node in crossing))
        return _without_dead_code(self.module, graph)

    def _suffix_graph(
        self,
        nodes: list[fx.Node],
        late: set[fx.Node],
        crossing: list[fx.Node],
        places: dict[fx.Node, str],
        features: Any,
    ) -> fx.GraphModule:
        graph = fx.Graph()
        values = {node: graph.placeholder(f"row_{index}") for index, node in enumerate(crossing)}
        gains = {layer: graph.placeholder(f"gain_{index}") for index, layer in enumerate(self.layers)}
        for node in nodes:
            if node in late and node.op != "output" and node not in values:
                values[node] = graph.node_copy(node, lambda n: values[n])
            if node in places and node in values:
                values[node] = graph.call_function(_scale, (values[node], gains[places[node]]))
            if node is features:
                break
        graph.output(values[features])
        return _without_dead_code(self.module, graph)


def _need_filters_first(rule: ChannelRule, features_last: Collection[int], layer: str, output: torch.Tensor) -> None:
    """Refuse maps whose filters are on another axis than 1, or on one that nothing in the network tells.

    features_last : numbers of features of the network's maps (N, H, W, C).
    """
    came = f"layer {layer!r} gives {tuple(output.shape)}"
    wanted = "gains are learned on maps (N, C, H, W) and vectors (N, C); gain a layer that gives those"
    try:
        axis = rule.axis(layer, output)
    except DataError as error:
        # the network holds both kinds of maps: this one's sizes may tell
        first, last = output.shape[1] in rule.map_channels, output.shape[-1] in features_last
        if first == last:
            raise DataError(
                f"{came}, and nothing in the network tells on which axis its filters are; {wanted}"
            ) from error
        axis = 1 if first else output.ndim - 1
    if axis != 1:
        raise DataError(f"{came}, with its filters on axis {axis}; {wanted}")


class _NotSplitError(Exception):
    """The network cannot be cut; learning then runs all of it, with hooks, and says so."""


def _pool_before_relu(
    module: nn.Module, graph: fx.Graph, kept: Collection[fx.Node] = (), pools: Collection[fx.Node] = ()
) -> None:
    """max pooling of a ReLU = ReLU of the max pooling, values and gradients alike; the second has fewer numbers.

    kept : ReLUs that stay where they are. pools : pooling that stays behind its ReLU.
    """
    for relu in list(graph.nodes):
        users = list(relu.users)
        if relu in kept or relu.op != "call_module" or len(users) != 1 or users[0].op != "call_module":
            continue
        pool = users[0]
        if pool in pools:
            continue
        parts = module.get_submodule(str(relu.target)), module.get_submodule(str(pool.target))
        if type(parts[0]) is nn.ReLU and type(parts[1]) is nn.MaxPool2d and not parts[1].return_indices:
            with graph.inserting_after(pool):
                moved = graph.call_module(str(relu.target), (pool,))
            pool.replace_all_uses_with(moved, delete_user_cb=lambda user, keep=moved: user is not keep)
            pool.args = (relu.args[0], *pool.args[1:])
            graph.erase_node(relu)


def _without_dead_code(module: nn.Module, graph: fx.Graph) -> fx.GraphModule:
    made = fx.GraphModule(module, graph)
    made.graph.eliminate_dead_code()
    made.recompile()
    return made


def _keeps_shifts(pool: nn.Module) -> bool:
    """Whether pooling a + b is pooling a, plus b; not known of a class of others, which may pad on its own."""
    return type(pool) in _POOLS and not _counts_padding(pool)


def _counts_padding(pool: nn.Module) -> bool:
    """Whether a pooling layer gives another value than b for a map that is b everywhere, at the border.

    >>> _counts_padding(nn.AvgPool2d(3, padding=1)), _counts_padding(nn.MaxPool2d(3, padding=1))
    (True, False)
    """
    if not isinstance(pool, nn.AvgPool2d):
        return False
    padded = pool.padding not in (0, (0, 0)) and pool.count_include_pad
    return bool(padded or pool.divisor_override is not None)


def _mean_dims(node: fx.Node) -> tuple[int, ...] | None:
    dims = node.kwargs.get("dim", node.args[1] if len(node.args) > 1 else None)
    return tuple(dims) if isinstance(dims, list | tuple) else None


def _ancestors(node: Any) -> set[fx.Node]:
    found: set[fx.Node] = set()
    waiting = [node]
    while waiting:
        current = waiting.pop()
        if current not in found:
            found.add(current)
            waiting.extend(current.all_input_nodes)
    return found


def _constants(nodes: Iterable[fx.Node]) -> set[fx.Node]:
    """Steps that no input reaches."""
    found: set[fx.Node] = set()
    for node in nodes:
        if node.op not in ("placeholder", "output") and all(one in found for one in node.all_input_nodes):
            found.add(node)
    return found


def _descendants(places: Iterable[fx.Node]) -> set[fx.Node]:
    """All that a gain at one of the places reaches."""
    found: set[fx.Node] = set()
    waiting = [user for place in places for user in place.users]
    while waiting:
        current = waiting.pop()
        if current not in found:
            found.add(current)
            waiting.extend(current.users)
    return found


def require_head(head: str | None, name: str) -> str:
    """The name of the head, or `ConfigError` that says how to name it."""
    if head is None:
        raise ConfigError(f"network {name!r} has no final linear layer that could be found; name it with head=")
    return head

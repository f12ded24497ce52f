"""Functional operations as layers: the network's torch.fx graph, its nodes named as torchvision names them.

A module can be hooked; `F.relu(x)` and `a + b` cannot. They are nodes of the traced graph, which is run node by node
on the network's own modules, so that each value is seen when it is made and before anything works on it in place.

Where torchvision gives an operation the name of a module (`F.relu(x)` before a module `relu`), the name is the
module's, as everywhere else, and the operation is called `relu()`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx, nn
from torchvision import ops
from torchvision.models.feature_extraction import NodePathTracer

from featattn_neuro.errors import ConfigError
from featattn_neuro.nets.chance import draws_noted
from featattn_neuro.nets.hooks import attributes_kept, count_anew, evaluating
from featattn_neuro.nets.layers import InPlaceProxy, stage_of

_ACTIVATIONS = (
    "relu", "relu_", "relu6", "gelu", "silu", "elu", "celu", "selu", "leaky_relu", "hardswish", "hardtanh", "mish",
    "sigmoid", "hardsigmoid", "tanh", "softplus", "softmax", "log_softmax", "prelu", "glu",
)  # fmt: skip


class _Tracer(NodePathTracer):
    """torchvision's tracer with its default leaf rules; notes which node each call of a module returned, and which was
    the last that was made inside it: what works in place on the returned value inside the call lies before that.

    whole : further types of modules that are kept as one node.
    failed : the innermost module whose forward could not be followed.
    """

    def __init__(self, whole: Iterable[type[nn.Module]] = ()) -> None:
        super().__init__(autowrap_modules=(math, ops), leaf_modules=[*_leaf_operations(), *whole])
        self.returned: dict[str, list[tuple[fx.Node, fx.Node]]] = {}
        self.failed: nn.Module | None = None

    def proxy(self, node: fx.Node) -> fx.Proxy:
        return InPlaceProxy(node, self)

    def call_module(self, m: nn.Module, forward: Any, args: Any, kwargs: Any) -> Any:
        try:
            output = super().call_module(m, forward, args, kwargs)
        except Exception:
            self.failed = self.failed or m
            raise
        if isinstance(output, fx.Proxy):
            last = next(iter(reversed(self.graph.nodes)))
            self.returned.setdefault(self.path_of_module(m), []).append((output.node, last))
        return output


class DrawnError(Exception):
    """A forward drew random numbers while it was traced."""


def _leaf_operations() -> list[type[nn.Module]]:
    return [part for part in vars(ops).values() if isinstance(part, type) and issubclass(part, nn.Module)]


def trace_what_can_be(
    make: Callable[[list[type[nn.Module]]], _Tracer], root: nn.Module, network: nn.Module
) -> tuple[_Tracer, fx.Graph, list[type[nn.Module]]]:
    """Trace `root`; modules whose forward torch.fx cannot follow (padding that hangs on the size of the input) are kept
    as one node, with all others of their type, which are returned too.

    Raises
    ------
    DrawnError : random numbers were drawn, which the graph would hold fast.
    Exception : what torch.fx raises where the forward of the network itself cannot be followed.
    """
    whole: list[type[nn.Module]] = []
    while True:
        tracer = make(whole)
        try:
            with draws_noted(network) as drawn:
                graph = tracer.trace(root)
                if drawn():
                    raise DrawnError("the network draws random numbers that its torch.fx graph would hold fast")
            return tracer, graph, whole
        except DrawnError:
            raise
        except Exception:
            failed = tracer.failed
            if failed is None or failed is network or type(failed) in whole:
                raise
            whole.append(type(failed))


def own_names(named: Mapping[str, fx.Node], modules: Iterable[str]) -> dict[str, fx.Node]:
    """Nodes by a name that no module has: an operation that is called as a module is gets "()" behind its name."""
    taken = set(modules)
    operations = ("call_function", "call_method")
    return {name + "()" * (node.op in operations and name in taken): node for name, node in named.items()}


@dataclass(frozen=True)
class Site:
    """One value to be recorded: the call of a layer, or a node of the graph.

    Parameters
    ----------
    layer : dotted module name, or the node's name for a functional operation.
    stage : of the module, or of the operation.
    call : which call of the module; 0 for an operation, whose every use has a name of its own.
    """

    layer: str
    stage: str
    call: int = 0


Collect = Callable[[str, Any, int], None]
"""Takes the value of one call of a layer."""


class NodeGraph:
    """The traced graph of a network: names of its nodes, and a run that shows the wanted ones.

    Raises
    ------
    ConfigError : torch.fx cannot trace the network, or it draws random numbers.
    """

    def __init__(self, module: nn.Module) -> None:
        self.module = module
        try:
            # constants that tracing puts on the network, which the copy takes over, and what its forward keeps of it
            with evaluating(module), attributes_kept(module):
                tracer, graph, self.whole = trace_what_can_be(_Tracer, module, module)
                self.graph = fx.GraphModule(module, graph)
        except DrawnError as error:
            raise ConfigError(
                f"{error}; functional operations cannot be recorded; name modules only, or switch its noise off"
            ) from None
        except Exception as error:  # torch.fx raises many types for control flow it cannot follow
            raise ConfigError(
                f"torch.fx cannot trace this network ({type(error).__name__}: {error}); functional operations cannot "
                "be recorded, name modules only"
            ) from error
        # GraphModule copies the graph: nodes keep their order
        copies = dict(zip(graph.nodes, self.graph.graph.nodes, strict=True))
        self.node_names = {copies[n]: name for n, name in tracer.node_to_qualname.items() if n in copies}
        self.returned: dict[str, list[fx.Node]] = {}
        self.ends: dict[tuple[str, int], fx.Node] = {}
        for name, calls in tracer.returned.items():
            self.returned[name] = [copies[node] for node, _ in calls]
            self.ends |= {(name, call): copies[last] for call, (_, last) in enumerate(calls)}
        self.nodes = own_names(
            {name: node for node, name in self.node_names.items()},
            [name for name, _ in module.named_modules(remove_duplicate=False)],
        )

    @property
    def names(self) -> list[str]:
        """Names of all nodes in order of execution, as `torchvision.models.feature_extraction` gives them; but an
        operation that it calls as a module is called has "()" behind its name.
        """
        return [name for name, node in self.nodes.items() if node.op not in ("placeholder", "output", "get_attr")]

    def why_not(self, name: str) -> str:
        """Why a module is none of the nodes."""
        around = [name.rsplit(".", k)[0] for k in range(1, name.count(".") + 1)]
        kept = next((one for one in around if type(self.module.get_submodule(one)) in self.whole), None)
        if kept is not None:
            return f"lies in {kept!r}, whose forward torch.fx cannot follow"
        return "does not run, or gives no tensor"

    def sites_of(self, name: str) -> list[tuple[fx.Node, Site]]:
        """The nodes that a module's name, or a node's name, stands for."""
        if name in self.returned:
            stage = stage_of(self.module.get_submodule(name))
            return [(node, Site(name, stage, call)) for call, node in enumerate(self.returned[name])]
        node = self.nodes[name]
        if node.op == "call_module":  # "relu_1": a later call of module "relu"
            layer = str(node.target)
            return [(node, Site(layer, stage_of(self.module.get_submodule(layer)), self.returned[layer].index(node)))]
        return [(node, Site(name, _stage(node)))]

    def calls(self, layer: str) -> int:
        """How often a module runs; 1 for an operation."""
        return len(self.returned.get(layer, [None]))

    def run(self, batch: torch.Tensor, wanted: Mapping[fx.Node, list[Site]], collect: Collect) -> Any:
        """Run the network on `batch` and return its output; `collect(layer, value, call)` is called for each wanted
        site as soon as its value is that which a hook would see: when the call ends, or when an operation was done.
        """
        count_anew(self.module)
        due: dict[fx.Node, list[tuple[fx.Node, Site]]] = {}
        for node, sites in wanted.items():
            for site in sites:
                due.setdefault(self.ends.get((site.layer, site.call), node), []).append((node, site))
        return _Collecting(self.graph, due, collect).run(batch)


class _Collecting(fx.Interpreter):
    """Shows values of nodes when they are due: at the node itself or, of a call, at the last node inside it."""

    def __init__(
        self, graph: fx.GraphModule, due: Mapping[fx.Node, list[tuple[fx.Node, Site]]], collect: Collect
    ) -> None:
        super().__init__(graph)
        self.due, self.collect = due, collect
        self.later = {node: None for end, some in due.items() for node, _ in some if node is not end}
        self.extra_traceback = False

    def run_node(self, n: fx.Node) -> Any:
        value = super().run_node(n)
        if n in self.later:
            self.later[n] = value
        for node, site in self.due.get(n, ()):
            self.collect(site.layer, value if node is n else self.later[node], site.call)
        return value


def _stage(node: fx.Node) -> str:
    name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", str(node.target))
    if name in _ACTIVATIONS:
        return "activation"
    if "pool" in name or (name == "mean" and node.op == "call_method"):
        return "pool"
    if name.startswith("conv"):
        return "conv"
    return "linear" if name == "linear" else "norm" if "norm" in name else "other"

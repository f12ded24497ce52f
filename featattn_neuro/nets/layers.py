"""What a network is made of: sorts of layers, its head, its graph."""

from __future__ import annotations

import operator
from collections.abc import Callable, Collection, Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn

from featattn_neuro.errors import ConfigError, choose
from featattn_neuro.nets.chance import random_state_kept
from featattn_neuro.nets.hooks import attributes_kept, evaluating

USUAL_SHAPES = tuple((channels, side, side) for side in (224, 32, 28, 96) for channels in (3, 1))
_TRANSPARENT = (nn.Identity, nn.Dropout)
_CONVOLUTIONS = (
    nn.Conv1d,
    nn.Conv2d,
    nn.Conv3d,
    nn.ConvTranspose1d,
    nn.ConvTranspose2d,
    nn.ConvTranspose3d,
)
_NORMS = (nn.modules.batchnorm._NormBase, nn.GroupNorm, nn.LayerNorm, nn.LocalResponseNorm)


def stage_of(module: nn.Module) -> str:
    """Return what sort of layer `module` is: conv, norm, activation, pool, linear, block or other.

    >>> stage_of(nn.ReLU6()), stage_of(nn.Sequential(nn.ReLU())), stage_of(nn.Dropout())
    ('activation', 'block', 'other')
    """
    if isinstance(module, _CONVOLUTIONS):
        return "conv"
    if isinstance(module, nn.Linear):
        return "linear"
    if isinstance(module, _NORMS):
        return "norm"
    # torchvision's Conv2dNormActivation has the word too, and is a block
    if "Norm" in type(module).__name__ and not any(isinstance(part, _CONVOLUTIONS) for part in module.modules()):
        return "norm"
    if "Pool" in type(module).__name__ or type(module).__name__ == "GlobalMean":
        return "pool"
    if any(True for _ in module.children()):
        return "block"
    # timm keeps its activations in modules named so; torch in one
    if ".activation" in type(module).__module__:
        return "activation"
    return "other"


def find_module(module: nn.Module, name: str, *, what: str = "layer") -> nn.Module:
    """Return the module that is called `name` inside `module`; `ConfigError` prints the names if there is none.

    >>> find_module(nn.Sequential(nn.ReLU()), "1")
    Traceback (most recent call last):
    featattn_neuro.errors.ConfigError: unknown layer '1'; choose one of: 0
    """
    return dict(module.named_modules())[choose(name, [n for n, _ in module.named_modules() if n], what)]


def run_blank(module: nn.Module, input_shape: Sequence[int] | None = None, *, before: Any = None) -> Any:
    """Return the output of `module` for one blank image, in eval mode, without gradient; the global random generators
    are given back.

    Parameters
    ----------
    input_shape : (C, H, W); None: the usual ones are tried in turn, `before()` is called ahead of each.

    Raises
    ------
    ConfigError : the network does not take the shape, or none of the usual ones.
    """
    example = next((p for p in module.parameters() if p.is_floating_point()), torch.zeros((), device="cpu"))
    failure: Exception | None = None
    kept = random_state_kept(example.device)
    with torch.no_grad(), evaluating(module), attributes_kept(module), kept:
        for shape in USUAL_SHAPES if input_shape is None else [tuple(input_shape)]:
            if before is not None:
                before()
            try:
                return module(torch.zeros((1, *shape), dtype=example.dtype, device=example.device))
            except Exception as error:  # what a foreign network raises on a wrong shape is its own affair
                failure = error
    tried = "an image of any usual shape" if input_shape is None else f"an image of shape {tuple(input_shape)}"
    raise ConfigError(
        f"the network does not take {tried} ({type(failure).__name__}: {failure}); "
        "give input_shape=(channels, height, width) of its inputs"
    ) from failure


class InPlaceProxy(fx.Proxy):
    """Notes operations that work in place as such, since another name of the same value sees them too; torch.fx alone
    makes `a += b` a sum apart. Named like the others, as torchvision names them.
    """


def _noted(target: Callable[..., Any], name: str) -> Callable[[InPlaceProxy, Any], Any]:
    return lambda proxy, other: proxy.tracer.create_proxy("call_function", target, (proxy, other), {}, name)


for _name in ("add", "sub", "mul", "truediv", "floordiv", "mod", "pow", "and", "or", "xor"):
    _node = f"{_name}_" if _name in ("and", "or") else _name
    setattr(InPlaceProxy, f"__i{_name}__", _noted(getattr(operator, f"i{_name}"), _node))


class LeafTracer(fx.Tracer):
    """Symbolic tracer that keeps every module without children, and every batch norm, as one node.

    Modules named in `whole` are kept as one node too; a batch norm is entered if one of them lies inside it (timm's
    batch norms hold their activation).

    `returned` holds, for each module, the node that each of its calls gave, and whether that value has another
    reader than those who call the module: it is used inside too, or is the module's input passed on. `operations`
    holds, for each module, the functional operations of its own forward, in order.
    """

    def __init__(self, whole: Collection[str] = ()) -> None:
        super().__init__()
        self.whole = frozenset(whole)
        self.returned: dict[str, list[tuple[fx.Node, bool]]] = {}
        self.operations: dict[str, list[fx.Node]] = {}
        self._inside = ""

    def proxy(self, node: fx.Node) -> fx.Proxy:
        """What stands for a value while the network is traced."""
        return InPlaceProxy(node, self)

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        """Whether `m` is kept as one node."""
        if module_qualified_name in self.whole or not any(True for _ in m.children()):
            return True
        entered = any(name.startswith(f"{module_qualified_name}.") for name in self.whole)
        return isinstance(m, nn.modules.batchnorm._BatchNorm) and not entered

    def call_module(self, m: nn.Module, forward: Any, args: Any, kwargs: Any) -> Any:
        """Trace the call and note the node it returns."""
        outside, self._inside = self._inside, self.path_of_module(m)
        try:
            output = super().call_module(m, forward, args, kwargs)
        finally:
            self._inside = outside
        if isinstance(output, fx.Proxy):
            passed_on = any(isinstance(a, fx.Proxy) and a.node is output.node for a in (*args, *kwargs.values()))
            shared = passed_on or len(output.node.users) > 0
            self.returned.setdefault(self.path_of_module(m), []).append((output.node, shared))
        return output

    def create_node(self, kind: str, *args: Any, **kwargs: Any) -> fx.Node:
        """Make a node, and note whose forward it is an operation of."""
        node = super().create_node(kind, *args, **kwargs)
        if kind in ("call_function", "call_method"):
            self.operations.setdefault(self._inside, []).append(node)
        return node


def find_head(module: nn.Module, *, input_shape: Sequence[int] | None = None) -> str | None:
    """Return the dotted name of the `nn.Linear` whose output is the output of `module`; None if there is none.

    Found in the traced graph; where the network cannot be traced, in one pass on a blank image.

    >>> find_head(nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2), nn.Dropout()))
    '2'
    >>> find_head(nn.Sequential(nn.Linear(4, 4), nn.ReLU())) is None
    True
    """
    linears = {id(part): name for name, part in module.named_modules() if name and isinstance(part, nn.Linear)}
    if not linears:
        return None
    try:
        with evaluating(module), attributes_kept(module):
            graph = LeafTracer().trace(module)
    except Exception:  # tracing fails in as many ways as forward methods can be written; then the network is run
        return _head_by_running(module, linears, input_shape)
    node = next(n for n in graph.nodes if n.op == "output").args[0]
    while isinstance(node, fx.Node) and node.op == "call_module":
        part = module.get_submodule(str(node.target))
        if isinstance(part, nn.Linear):
            return str(node.target)
        if not isinstance(part, _TRANSPARENT):
            return None
        node = node.args[0]
    return None


def _head_by_running(module: nn.Module, linears: dict[int, str], input_shape: Sequence[int] | None) -> str | None:
    outputs: dict[str, Tensor] = {}

    def note(part: nn.Module, _inputs: Any, output: Tensor) -> None:
        outputs[linears[id(part)]] = output

    handles = [part.register_forward_hook(note) for part in module.modules() if id(part) in linears]
    try:
        result = run_blank(module, input_shape, before=outputs.clear)
    except ConfigError:  # no usual shape fits: then the head is not known, which is what None says
        return None
    finally:
        for handle in handles:
            handle.remove()
    return next((name for name, output in outputs.items() if output is result), None)

"""Gains on functional operations: what `F.relu(x)` or `a + b` gives inside a module's forward, named as recorded.

The module whose forward holds the operation (its owner) is traced alone, its parts kept whole. While something acts on
the operation, the owner answers through that graph, in which the operation's value passes what acts; all other modules
run as they did, with their hooks. Weights, buffers and the class as written are not touched, and are back on the way
out. Operations that work in place stay in place.

What the forward decides while it is traced (attributes of the module, its mode) is decided once per mode.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import fx, nn

from featattn_neuro.errors import ConfigError
from featattn_neuro.nets.chance import draws_noted
from featattn_neuro.nets.graph_nodes import DrawnError, _stage, _Tracer, own_names, trace_what_can_be
from featattn_neuro.nets.hooks import attributes_kept, evaluating

_REPLAY = "_featattn_replay"
"""Where a module keeps the graph that it answers through."""

_MOST_TENSORS = 4
_INSTEAD = "gain a module before or behind it"
Act = Callable[[Any], Any]


class _Tensor:
    """Stands for a tensor among the arguments of a call."""


@dataclass(frozen=True)
class Arguments:
    """How a module is called: with tensors in some places, and always the same values in the others."""

    args: tuple[Any, ...] = (_Tensor,)
    kwargs: tuple[tuple[str, Any], ...] = ()

    @classmethod
    def of(cls, args: Iterable[Any], kwargs: Mapping[str, Any]) -> Arguments | None:
        """From a traced call; None where a tensor lies inside another value, or there are too many."""

        def place(value: Any) -> Any:
            return _Tensor if isinstance(value, fx.Proxy) else value

        made = cls(tuple(place(one) for one in args), tuple((name, place(one)) for name, one in kwargs.items()))
        values = [*made.args, *(value for _, value in made.kwargs)]
        fits = sum(value is _Tensor for value in values) <= _MOST_TENSORS
        return made if fits and not any(_holds_proxy(value) for value in values) else None

    def filled(self, tensors: Iterable[Any]) -> tuple[list[Any], dict[str, Any]]:
        """Arguments with tensors in their places."""
        left = iter(tensors)
        args = [next(left) if value is _Tensor else value for value in self.args]
        return args, {name: next(left) if value is _Tensor else value for name, value in self.kwargs}

    def tensors(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> list[Any] | None:
        """The tensors of a call; None where the call is another one."""
        if len(args) != len(self.args) or set(kwargs) != {name for name, _ in self.kwargs}:
            return None
        pairs = [*zip(self.args, args, strict=True), *((value, kwargs[name]) for name, value in self.kwargs)]
        same = all(wanted is _Tensor or wanted is came or _equal(wanted, came) for wanted, came in pairs)
        return [came for wanted, came in pairs if wanted is _Tensor] if same else None


def _holds_proxy(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return any(isinstance(one, fx.Proxy) or _holds_proxy(one) for one in value)
    if isinstance(value, dict):
        return _holds_proxy(list(value.values()))
    return False


def _equal(first: Any, second: Any) -> bool:
    plain = bool | int | float | str | list | tuple
    return isinstance(first, plain) and type(first) is type(second) and bool(first == second)


class _Call(nn.Module):
    """Calls a module in one way; what is traced, since a forward by itself does not say what it is called with."""

    def __init__(self, owner: nn.Module, arguments: Arguments) -> None:
        super().__init__()
        self.owner, self.arguments = owner, arguments
        self.training = owner.training

    def forward(self, first: Any, second: Any, third: Any, fourth: Any) -> Any:
        args, kwargs = self.arguments.filled((first, second, third, fourth))
        return self.owner(*args, **kwargs)


class _WrittenTracer(_Tracer):
    """Traces forwards as they are written: without hooks, and without what replays.

    Parameters
    ----------
    alone : the one module that is entered; None = all that recording enters.
    """

    def __init__(self, alone: nn.Module | None = None, whole: Iterable[type[nn.Module]] = ()) -> None:
        super().__init__(whole)
        self.alone = alone
        self.entered: dict[str, list[Arguments | None]] = {}

    def is_leaf_module(self, m: nn.Module, module_qualname: str) -> bool:
        return super().is_leaf_module(m, module_qualname) if self.alone is None else m is not self.alone

    def call_module(self, m: nn.Module, forward: Any, args: Any, kwargs: Any) -> Any:
        self.entered.setdefault(self.path_of_module(m), []).append(Arguments.of(args, kwargs))
        return super().call_module(m, lambda *a, **k: written_forward(type(m))(m, *a, **k), args, kwargs)


def written_forward(kind: type) -> Callable[..., Any]:
    """The forward of a class as its author wrote it."""
    found: Callable[..., Any] = next(one for one in kind.__mro__ if "_replays" not in vars(one)).forward  # type: ignore[attr-defined]
    return found


def _trace(tracer: _WrittenTracer, call: _Call) -> tuple[fx.Graph, dict[str, fx.Node]]:
    """The graph, and its operations by name below the called module."""
    return tracer.trace(call), _named(tracer, call.owner)


def _named(tracer: _Tracer, owner: nn.Module) -> dict[str, fx.Node]:
    """The operations of a traced module by name below it."""
    named = {
        name.removeprefix("owner."): node
        for node, name in tracer.node_to_qualname.items()
        if node.op in ("call_function", "call_method")
    }
    modules = owner.named_modules(remove_duplicate=False)
    # what stands for an operation has its name
    return own_names(named, [name for name, part in modules if not isinstance(part, OperationOutput)])


@dataclass(frozen=True)
class Operation:
    """A functional operation: `owner` the module whose forward holds it ("" = the network), `local` its name there.

    place : how many operations of the owner run before it. stage : as of a layer that does the same.
    """

    name: str
    owner: str
    local: str
    place: int
    stage: str
    arguments: Arguments


class Operations:
    """The functional operations of a network, in order of execution.

    Raises
    ------
    ConfigError : torch.fx cannot trace the network, or it draws random numbers.
    """

    def __init__(self, module: nn.Module) -> None:
        self.module = module
        try:
            with evaluating(module), attributes_kept(module):
                tracer, _, _ = trace_what_can_be(
                    lambda whole: _WrittenTracer(whole=whole), _Call(module, Arguments()), module
                )
        except DrawnError as error:
            raise ConfigError(
                f"{error}; no functional operation can be named; name modules only, or switch its noise off"
            ) from None
        except Exception as error:  # torch.fx raises many types for control flow it cannot follow
            raise ConfigError(
                f"torch.fx cannot trace this network ({type(error).__name__}: {error}), so no functional operation can "
                "be named; name modules only"
            ) from error
        assert isinstance(tracer, _WrittenTracer)
        self._nodes = _named(tracer, module)
        self._entered = {name.removeprefix("owner").removeprefix("."): v for name, v in tracer.entered.items()}

    @property
    def names(self) -> list[str]:
        """Names of all of them, as `torchvision.models.feature_extraction` gives them."""
        return list(self._nodes)

    def find(self, name: str) -> Operation:
        """One operation by name.

        Raises
        ------
        ConfigError : its owner runs several times in one pass, or is called in a way that cannot be repeated.
        """
        owner, _, local = name.rpartition(".")
        calls = self._entered[owner]
        if len(calls) != 1:
            raise ConfigError(
                f"operation {name!r} lies in module {owner!r}, which runs {len(calls)} times in one pass; {_INSTEAD}"
            )
        part = self.module.get_submodule(owner)
        if "forward" in vars(part):
            raise ConfigError(
                f"operation {name!r} lies in module {owner!r}, which carries a forward that was put there by hand and "
                f"would be passed over; take it off, or {_INSTEAD}"
            )
        if calls[0] is None:
            raise ConfigError(
                f"operation {name!r} lies in module {owner!r}, which takes tensors inside lists, or more than "
                f"{_MOST_TENSORS} of them; {_INSTEAD}"
            )
        siblings = [one for one in self._nodes if one.rpartition(".")[0] == owner]
        found = Operation(name, owner, local, siblings.index(name), _stage(self._nodes[name]), calls[0])
        with evaluating(part), attributes_kept(part):
            _, alone = _trace(_WrittenTracer(part), _Call(part, found.arguments))
        if list(alone) != [one.rpartition(".")[2] for one in siblings]:
            raise ConfigError(f"operation {name!r} cannot be told apart when module {owner!r} runs alone; {_INSTEAD}")
        return found


class _Acting(nn.Module):
    """What acts on one operation, one after the other."""

    def __init__(self, acts: list[Act]) -> None:
        super().__init__()
        self.acts = acts

    def forward(self, value: Any) -> Any:
        for act in self.acts:
            value = act(value)
        return value


class _Replay:
    """The forward of a module as a graph in which something acts on the values of its operations.

    acting : name of the operation below the module to what acts on it; a module among it is one of the owner's own.
    """

    def __init__(self, owner: nn.Module, arguments: Arguments, name: str) -> None:
        self.owner, self.arguments, self.name = owner, arguments, name
        self.acting: dict[str, list[Act]] = {}
        self.graphs: dict[bool, fx.GraphModule] = {}

    def __call__(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        tensors = self.arguments.tensors(args, kwargs)
        if tensors is None:
            raise ConfigError(
                f"module {self.name or 'the network'!r}, in which an operation is gained, is called with other "
                f"arguments than one tensor for each that its author's forward was traced with; {_INSTEAD}"
            )
        return self.graph().forward(*tensors, *[None] * (_MOST_TENSORS - len(tensors)))

    def graph(self) -> fx.GraphModule:
        """The graph of the mode that the module is in now."""
        mode = self.owner.training
        if mode not in self.graphs:
            self.graphs[mode] = self._make()
        return self.graphs[mode]

    def act(self, local: str, act: Act) -> None:
        """Let something act on an operation, after what acts there already."""
        if local not in self.acting:
            self.graphs = {}
        self.acting.setdefault(local, []).append(act)

    def leave(self, local: str, act: Act) -> None:
        """Take off again what `act` put there."""
        self.acting[local].remove(act)
        if not self.acting[local]:
            del self.acting[local]
            self.graphs = {}

    def _make(self) -> fx.GraphModule:
        call = _Call(self.owner, self.arguments)
        with draws_noted(self.owner) as drawn, attributes_kept(self.owner):
            graph, named = _trace(_WrittenTracer(self.owner), call)
            if drawn():  # in evaluation mode `Operations` says so
                raise ConfigError(
                    f"module {self.name or 'the network'!r}, in which an operation is gained, draws random numbers in "
                    "training mode that would stay the same; put the network in evaluation mode, or switch its noise "
                    "off"
                )
        for number, (local, acts) in enumerate(self.acting.items()):
            if local not in named:
                raise ConfigError(
                    f"operation {local!r} of module {self.name!r} does not run in training mode; put the network in "
                    "evaluation mode"
                )
            path = f"owner.{local}"
            if not isinstance(acts[0], nn.Module):
                path = f"acting_{number}"
                call.add_module(path, _Acting(acts))
            node = named[local]
            with graph.inserting_after(node):
                behind = graph.call_module(path, (node,))
            for user in [one for one in node.users if one is not behind]:
                user.replace_input_with(node, behind)
        return fx.GraphModule(call, graph)

    def __getstate__(self) -> dict[str, Any]:
        """What it does to a network, for the content key of a recording."""
        return {"name": self.name, "acting": {k: list(v) for k, v in self.acting.items()}}

    def __deepcopy__(self, memo: dict[int, Any]) -> _Replay:
        made = object.__new__(type(self))
        memo[id(self)] = made
        made.__dict__.update({key: copy.deepcopy(value, memo) for key, value in vars(self).items()})
        return made


def _replaying(kind: type, *, one_tensor: bool) -> type:
    """A class like `kind` whose forward is what the module keeps as its replay."""

    def of_any(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        return vars(self)[_REPLAY](args, kwargs)

    def of_one(self: nn.Module, images: Any) -> Any:  # a name for torch.fx to start from
        return vars(self)[_REPLAY]((images,), {})

    members = {
        "forward": of_one if one_tensor else of_any, "_replays": True, "__module__": kind.__module__,
        "__qualname__": kind.__qualname__, "__doc__": kind.__doc__,
    }  # fmt: skip
    return type(kind.__name__, (kind,), members)


def acts_now(module: nn.Module) -> bool:
    """Whether anything acts on functional operations of a network."""
    return any(_REPLAY in vars(part) for part in module.modules())


@contextmanager
def acting_on(module: nn.Module, operation: Operation, act: Act) -> Iterator[None]:
    """Let `act` change what an operation gives, inside the `with`; several act one after the other.

    >>> import torch
    >>> class Net(nn.Module):
    ...     def forward(self, images):
    ...         return torch.relu(images) + 1
    >>> net = Net()
    >>> with acting_on(net, Operations(net).find("relu"), lambda value: value * 10):
    ...     net(torch.tensor([-1.0, 2.0])).tolist()
    [1.0, 21.0]
    >>> net(torch.tensor([-1.0, 2.0])).tolist(), type(net) is Net
    ([1.0, 3.0], True)
    """
    owner = module.get_submodule(operation.owner)
    replay: _Replay | None = vars(owner).get(_REPLAY)
    if replay is None:
        replay = _Replay(owner, operation.arguments, operation.owner)
        vars(owner)[_REPLAY] = replay
        owner.__class__ = _replaying(type(owner), one_tensor=False)
    replay.act(operation.local, act)
    try:
        replay.graph()
        yield
    finally:
        replay.leave(operation.local, act)
        if not replay.acting:
            del vars(owner)[_REPLAY]
            owner.__class__ = type(owner).__mro__[1]


class OperationOutput(nn.Identity):
    """What an operation gives, as a module, so that what works on outputs of modules can work on it."""

    def __init__(self, stage: str) -> None:
        super().__init__()
        self.operation_stage = stage


def with_operation_modules(module: nn.Module, operations: Iterable[Operation]) -> nn.Module:
    """`module` itself where none is given; else a copy in which each operation's value passes a module of its name.

    The copy answers as the original, bit for bit.

    Raises
    ------
    ConfigError : gains act on operations of the network already; the owner has something else of that name.
    """
    wanted = list(operations)
    if not wanted:
        return module
    if acts_now(module):
        raise ConfigError("gains act on functional operations of this network now; leave with_gains before learning")
    changed = copy.deepcopy(module)
    for name in dict.fromkeys(one.owner for one in wanted):
        here = [one for one in wanted if one.owner == name]
        owner = changed.get_submodule(name)
        replay = _Replay(owner, here[0].arguments, name)
        for one in here:
            if hasattr(owner, one.local):
                raise ConfigError(
                    f"operation {one.name!r} has the name of something that module {name!r} holds; {_INSTEAD}"
                )
            output = OperationOutput(one.stage)
            owner.add_module(one.local, output)
            replay.act(one.local, output)
        vars(owner)[_REPLAY] = replay
        owner.__class__ = _replaying(type(owner), one_tensor=name == "")
        with evaluating(owner):
            replay.graph()
    return changed

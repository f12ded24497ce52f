"""Everything that can be reached from a value, as one hash: values, the code of functions and classes, what code names.

A key that misses a dependence gives stale results; one that holds too much only costs a recording. So what code may
reach is followed through modules, class members, closures and nested functions, and what cannot be followed is refused.
Code of installed packages counts by its version. Not seen: files that code reads, environment variables, the clock.
"""

from __future__ import annotations

import builtins
import copyreg
import dis
import enum
import functools
import hashlib
import importlib
import importlib.util
import logging
import pathlib
import sys
import types
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx, nn

from featattn_neuro.errors import ConfigError
from featattn_neuro.nets.code_versions import fixed_version, source_sha256
from featattn_neuro.nets.weights import weights_sha256

_PLAIN = (type(None), bool, int, float, complex, str, bytes, type(...), type(NotImplemented))
_PLUMBING = {
    "_parameters", "_buffers", "_modules", "_non_persistent_buffers_set", "training", "_is_full_backward_hook",
    "_state_dict_hooks", "_state_dict_pre_hooks", "_load_state_dict_pre_hooks", "_load_state_dict_post_hooks",
}  # fmt: skip
"""What is in the key elsewhere, or acts in no forward pass."""

_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
_FLAGS = ("_forward_hooks_with_kwargs", "_forward_hooks_always_called", "_forward_pre_hooks_with_kwargs")
_DESCRIBING = {
    "__dict__", "__weakref__", "__doc__", "__module__", "__annotations__", "__annotate_func__", "__annotations_cache__",
    "_abc_impl", "__firstlineno__", "__static_attributes__", "__slotnames__",
}  # fmt: skip
"""Members of classes that say where a class is from; they, and notes that pickle makes, change no value."""

_BEYOND_SIGHT = (eval, exec, __import__, importlib.import_module)
"""What runs code that is not there to be read."""

_HEAP_TYPE = 1 << 9  # of type.__flags__: made by a class statement, or by an extension that plays at it


class ContentWalk:
    """Feeds one hash with everything that can be reached from a value; each object once.

    Raises
    ------
    ConfigError : something cannot be hashed; the message says where it is.
    """

    def __init__(self) -> None:
        self.hash = hashlib.sha256()
        self.seen: dict[int, int] = {}
        self.kept: list[Any] = []  # alive while their ids stand for them
        self.place: list[str] = []

    def hexdigest(self) -> str:
        return self.hash.hexdigest()

    def say(self, *words: object) -> None:
        self.hash.update(("\x1f".join(map(str, words)) + "\x1e").encode())

    @contextmanager
    def refusing_depth(self) -> Iterator[None]:
        """Around a whole walk: an end of Python's stack is a refusal too."""
        try:
            yield
        except RecursionError:
            raise self._refusal(
                "something", "it is nested too deeply, or is a set that its own elements hold"
            ) from None

    def add(self, value: Any) -> None:
        """One value and all that it holds."""
        if type(value) in _PLAIN:
            self.say(type(value).__name__, repr(value))
            return
        # whether equal tuples are one object is the compiler's affair, and another one's when code comes from its cache
        if type(value) not in (tuple, frozenset) and not self._is_new(value):
            return
        self._add_object(value)

    def add_network(self, module: nn.Module) -> None:
        """Structure of a network: classes and their code, attributes, hooks, buffers outside the weights."""
        parts = list(module.named_modules(remove_duplicate=False))
        fresh = {id(part) for _, part in parts if id(part) not in self.seen}
        for name, part in parts:
            self.say("part", name)
            self._is_new(part)  # all at once: a part may hold another, or a method of itself
        for name, part in parts:
            if id(part) in fresh:
                fresh.remove(id(part))
                with self._at(f"module {name!r}" if name else type(part).__name__):
                    self._add_part(part)

    # -- values ----------------------------------------------------------------------------------------------------

    def _is_new(self, value: Any) -> bool:
        if id(value) in self.seen:
            self.say("again", self.seen[id(value)])
            return False
        self.seen[id(value)] = len(self.seen)
        self.kept.append(value)
        return True

    @contextmanager
    def _at(self, name: str) -> Iterator[None]:
        self.place.append(name)
        try:
            yield
        finally:
            self.place.pop()

    def _named(self, name: str, value: Any) -> None:
        self.say(name)
        with self._at(name):
            self.add(value)

    def _refusal(self, what: str, reason: object) -> ConfigError:
        inside = f" (reached through {' > '.join(self.place)})" if self.place else ""
        return ConfigError(
            f"{what} in the network, its hooks, reductions or preprocessing{inside} cannot be part of a content key "
            f"({reason}); record without out= and cache=, or take it out"
        )

    def _add_object(self, value: Any) -> None:
        if isinstance(value, Tensor | np.ndarray):
            self._add_array(value)
        elif isinstance(value, enum.Enum):
            self.say("enum", value.name)
            self.add(type(value))
        elif isinstance(value, Mapping):
            self.say(
                "mapping", type(value).__qualname__, len(value)
            )  # in its order, which code that goes through it sees
            for key in value:
                self.add(key)
                with self._at(repr(key)[:40]):
                    self.add(value[key])
            self._add_extras(value)
        elif isinstance(value, list | tuple):
            self.say("sequence", type(value).__qualname__, len(value))
            for one in value:
                self.add(one)
            self._add_extras(value)
        elif isinstance(value, set | frozenset):
            self.say("set", type(value).__qualname__, *sorted(_digest(one) for one in value))
            self._add_extras(value)
        elif isinstance(value, type):
            self._add_class(value)
        elif isinstance(value, nn.Module):
            self.say("network", weights_sha256(value))
            del self.seen[id(value)]
            self.add_network(value)
        elif isinstance(value, types.ModuleType):
            self._add_module(value)
        else:
            self._add_callable(value)

    def _add_callable(self, value: Any) -> None:
        if isinstance(value, types.FunctionType):
            self._add_function(value)
        elif isinstance(value, types.MethodType):
            self.add(value.__func__)
            self.add(value.__self__)
        elif isinstance(value, types.BuiltinFunctionType):
            self.say("builtin", value.__module__, value.__qualname__)
            if not isinstance(value.__self__, types.ModuleType):
                self.add(value.__self__)
        elif isinstance(value, np.ufunc):
            if all(set(kind) <= set("O->") for kind in value.types):
                raise self._refusal(f"the function {value.__name__!r}", "np.frompyfunc hides its code; np.vectorize")
            self.say("ufunc", value.__name__, *value.types)
        elif isinstance(value, functools.partial):
            self.add((type(value), value.func, value.args, value.keywords, vars(value)))
        elif isinstance(value, property):
            self.add((value.fget, value.fset, value.fdel))
        elif isinstance(value, staticmethod | classmethod):
            self.say(type(value).__name__)
            self.add(value.__func__)
        elif isinstance(value, types.MemberDescriptorType | types.GetSetDescriptorType):
            self.say("slot", value.__name__)
        elif isinstance(value, torch.dtype | torch.device | torch.memory_format | torch.layout | pathlib.PurePath):
            self.say(type(value).__name__, repr(value))
        elif isinstance(value, logging.Logger):
            self.say("logger", value.name)  # what it says changes no value
        else:
            self._add_instance(value)

    def _add_extras(self, value: Any) -> None:
        """Code and attributes of a container that is more than a builtin one."""
        if type(value).__module__ != "builtins":
            self.add(type(value))
            self._add_attributes(getattr(value, "__dict__", {}))
            if hasattr(value, "default_factory"):
                self._named("default_factory", value.default_factory)

    def _add_attributes(self, state: Mapping[str, Any]) -> None:
        """By name: the order in which attributes were set is seen by nothing."""
        for name in sorted(state):
            self._named(name, state[name])

    def _add_array(self, value: Any) -> None:
        self.say("array", value.dtype, tuple(value.shape))
        if type(value) not in (Tensor, np.ndarray, nn.Parameter):
            self.add(type(value))
            self._add_attributes(getattr(value, "__dict__", {}))
        if isinstance(value, np.ndarray) and value.dtype.hasobject:
            self.add(value.tolist())  # its bytes would be addresses
            return
        try:
            if isinstance(value, Tensor):
                array = value.detach().cpu().resolve_conj().resolve_neg().contiguous().view(-1)
                self.hash.update(array.view(torch.uint8).numpy().tobytes())
            else:
                self.hash.update(np.ascontiguousarray(value).tobytes())
        except (RuntimeError, TypeError, NotImplementedError) as error:
            reason = (str(error) or type(error).__name__).splitlines()[0]
            raise self._refusal(f"a {type(value).__name__}", reason) from error

    def _add_instance(self, value: Any) -> None:
        kind = type(value)
        self.add(kind)
        known = fixed_version(kind.__module__) is not None
        if known and "__getstate__" in vars(kind):  # says what counts
            self.add(value.__getstate__())
            return
        declared = kind in copyreg.dispatch_table or any(
            getattr(kind, name) is not getattr(object, name) for name in ("__reduce_ex__", "__reduce__")
        )
        state = _attributes(value)
        if state and not (known and declared):
            self._add_attributes(state)
        if declared or not state or any(not base.__flags__ & _HEAP_TYPE for base in kind.__mro__[:-1]):
            self._add_reduced(value)

    def _add_reduced(self, value: Any) -> None:
        """What pickle would keep of an object that is not written in Python; its parts are walked, not pickled."""
        kind = type(value)
        try:
            reduce = copyreg.dispatch_table.get(kind)
            parts: Any = reduce(value) if reduce is not None else value.__reduce_ex__(4)
        except Exception as error:  # whatever the object's own methods raise
            raise self._refusal(f"a {kind.__name__}", error) from error
        if isinstance(parts, str):
            self.say("global", kind.__module__, parts)
            # pickle looks it up by name; what it does is below it: functools.cache holds its function as __wrapped__
            state = _attributes(value)
            self._add_attributes({name: state[name] for name in state if name not in _DESCRIBING})
            return
        make, arguments, *rest = parts
        self.add(make)
        self.add(arguments)
        for one in rest:
            self.add(one if one is None or not isinstance(one, Iterator) else list(one))

    def _add_part(self, part: nn.Module) -> None:
        self.add(type(part))
        # a traced network runs the code that was made from its graph, and holds both
        unseen = _PLUMBING | {"_graph"} if isinstance(part, fx.GraphModule) else _PLUMBING
        state = {key: value for key, value in vars(part).items() if key not in unseen}
        for name in _HOOKS:
            state[name] = list(state.get(name, {}).values())
        for name in _FLAGS:  # by hook, not by the running number that hooks get in a process
            hooks = getattr(part, name.replace("_with_kwargs", "").replace("_always_called", ""), {})
            state[name] = [key in state.get(name, {}) for key in hooks]
        self._add_attributes(state)
        transient: set[str] = getattr(part, "_non_persistent_buffers_set", set())
        self._add_attributes({key: part._buffers[key] for key in transient})

    # -- code ------------------------------------------------------------------------------------------------------

    def _add_class(self, kind: type) -> None:
        self.say("class", kind.__module__, kind.__qualname__)
        version = fixed_version(kind.__module__)
        if version is not None and "<locals>" not in kind.__qualname__:
            self.say(version)
            for base in kind.__mro__:
                for name, member in vars(base).items():
                    if isinstance(member, types.FunctionType) and _version_of(member) is None:
                        self._named(f"{base.__name__}.{name}", member)  # put there by somebody else
            return
        self.add(type(kind))
        for base in kind.__bases__:
            self.add(base)
        for name in sorted(set(vars(kind)) - _DESCRIBING):
            self.say(name)
            with self._at(f"{kind.__name__}.{name}"):
                self.add(vars(kind)[name])

    def _add_function(self, function: types.FunctionType) -> None:
        version = _version_of(function)
        self.say("function", function.__module__, function.__qualname__, version)
        if version is not None and function.__closure__ is None:
            return
        with self._at(f"{function.__qualname__}()"):
            self._add_code(function.__code__)
            self.add(function.__defaults__)
            self.add(function.__kwdefaults__)
            self._add_attributes(function.__dict__)
            for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
                try:
                    content = cell.cell_contents
                except ValueError:  # a cell that is not filled yet
                    self.say("empty cell")
                else:
                    self._named(name, content)
            if version is None:
                for code in _nested(function.__code__):
                    self._add_names(code, function.__globals__)

    def _add_code(self, code: types.CodeType) -> None:
        self.hash.update(code.co_code)
        self.say(code.co_flags, code.co_names, code.co_varnames, code.co_freevars, code.co_cellvars)
        for constant in code.co_consts:
            if isinstance(constant, types.CodeType):
                self._add_code(constant)
            else:
                self.add(constant)

    def _add_names(self, code: types.CodeType, namespace: dict[str, Any]) -> None:
        """What one code object reaches by name: globals, attributes of modules, modules it imports."""
        instructions = [one for one in dis.get_instructions(code) if one.opname != "EXTENDED_ARG"]
        for place, instruction in enumerate(instructions):
            name = instruction.argval
            if instruction.opname == "IMPORT_NAME":
                level, taken = (one.argval for one in instructions[place - 2 : place])
                self._add_import("." * level + name, taken or (), namespace.get("__package__"))
            elif "GLOBAL" in instruction.opname or instruction.opname == "LOAD_NAME":
                if name in namespace:
                    self._follow(name, namespace[name], instructions, place)
                else:
                    self._add_builtin(name, namespace)

    def _follow(self, name: str, value: Any, instructions: list[dis.Instruction], place: int) -> None:
        """A global; through a module, the attribute that is taken of it."""
        foreign = False
        while isinstance(value, types.ModuleType):
            place += 1
            following = instructions[place] if place < len(instructions) else None
            if following is None or following.opname not in ("LOAD_ATTR", "LOAD_METHOD"):
                break
            foreign = self._add_module_name(value)
            name = f"{name}.{following.argval}"
            try:
                value = getattr(value, following.argval)
            except Exception:  # a module may have a __getattr__ of its own
                self.say(name, "is missing")
                return
        if isinstance(value, types.BuiltinFunctionType | types.FunctionType) and value in _BEYOND_SIGHT:
            raise self._refusal(f"the function {name!r}", "it runs code that cannot be read beforehand")
        if value is sys.modules:
            raise self._refusal(f"the use of {name!r}", "any module may be reached through it; import it instead")
        simple = (*_PLAIN, types.FunctionType, type, Tensor, np.ndarray, types.ModuleType, tuple)
        if foreign and not isinstance(value, simple):
            self.say(name)  # an object of an installed library, as its version makes it
        else:
            self._named(name, value)

    def _add_builtin(self, name: str, namespace: dict[str, Any]) -> None:
        value = getattr(builtins, name, None)
        if value in _BEYOND_SIGHT:
            raise self._refusal(f"the function {name!r}", "it runs code that cannot be read beforehand")
        self.say(name, value is None)
        if value is globals:
            self._add_namespace(namespace)

    def _add_import(self, name: str, taken: Sequence[str], package: str | None) -> None:
        """A module that a function imports when it runs: all of it, since what it will take is not known yet."""
        try:
            full = importlib.util.resolve_name(name, package)
        except ImportError:
            self.say("module", name, "is missing")
            return
        ends = [place for place, letter in enumerate(full) if letter == "."]
        wanted = [full[:end] for end in ends] + [full] + [f"{full}.{one}" for one in taken if one != "*"]
        for module in wanted:
            version = fixed_version(module)
            if version is None and module not in sys.modules:
                with suppress(ImportError):  # no module, but a name in one; or one that is not installed
                    importlib.import_module(module)
            if module in sys.modules:
                self.add(sys.modules[module])
            else:
                self.say("module", module, version)

    def _add_module_name(self, module: types.ModuleType) -> bool:
        """Say a module with what fixes its code; whether that is the version of an installed package."""
        name = module.__name__
        version = fixed_version(name)
        self.say("module", name, source_sha256(getattr(module, "__file__", None)) if version is None else version)
        return version is not None

    def _add_module(self, module: types.ModuleType) -> None:
        if not self._add_module_name(module):
            with self._at(module.__name__):
                self._add_namespace(vars(module))

    def _add_namespace(self, namespace: dict[str, Any]) -> None:
        if self._is_new(namespace):
            self._add_attributes({k: v for k, v in namespace.items() if not (k.startswith("__") and k.endswith("__"))})


def _digest(value: Any) -> str:
    walk = ContentWalk()
    walk.add(value)
    return walk.hexdigest()


def _attributes(value: Any) -> dict[str, Any]:
    state = dict(getattr(value, "__dict__", {}))
    for kind in type(value).__mro__:
        slots = vars(kind).get("__slots__", ())
        for name in (slots,) if isinstance(slots, str) else slots:
            own = f"_{kind.__name__.lstrip('_')}{name}" if name.startswith("__") and not name.endswith("__") else name
            if name not in ("__dict__", "__weakref__") and hasattr(value, own):
                state[own] = getattr(value, own)
    return state


def _nested(code: types.CodeType) -> Iterator[types.CodeType]:
    """A function's code and that of all functions, comprehensions and classes inside it."""
    yield code
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _nested(constant)


def _version_of(function: types.FunctionType) -> str | None:
    """As `fixed_version`, of the module where a function was written: functools.wraps gives it another's name."""
    return fixed_version(function.__globals__.get("__name__"))

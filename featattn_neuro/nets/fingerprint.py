"""What a recording depends on, as one hash: weights, structure and code of the network, preprocessing, plan, versions.

A key that misses a dependence gives stale results; one that holds too much only costs a recording. So everything that
can be reached from the network is hashed, code included, and what cannot be hashed is refused.
"""

from __future__ import annotations

import enum
import functools
import hashlib
import importlib.metadata
import os
import pickle
import sys
import types
import weakref
from collections.abc import Mapping
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from featattn_neuro.errors import ConfigError
from featattn_neuro.nets.plan import RecordingPlan
from featattn_neuro.nets.weights import weights_sha256

_LIBRARIES = ("torch", "torchvision", "timm", "numpy", "PIL", "builtins", "collections", "functools", "math", "typing")
"""Packages whose code is fixed by the versions in the key; other code is hashed itself."""

_PLUMBING = {"_parameters", "_buffers", "_modules", "_non_persistent_buffers_set", "training", "_is_full_backward_hook"}


def network_digest(module: nn.Module) -> str:
    """sha256 over the structure of a network: classes and their code, attributes, hooks, buffers outside the weights.

    Raises
    ------
    ConfigError : an attribute or hook holds something that cannot be hashed.

    >>> network_digest(nn.Sequential(nn.ReLU())) == network_digest(nn.Sequential(nn.Tanh()))
    False
    """
    walk = _Walk()
    token = _WALKED.set((*_WALKED.get(), module))
    try:
        for name, part in module.named_modules(remove_duplicate=False):
            walk.add(name)
            walk.add(type(part))
            state = {key: value for key, value in vars(part).items() if key not in _PLUMBING}
            for hooks in ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks"):
                state[hooks] = list(state.get(hooks, {}).values())
            walk.add(state)
            transient: set[str] = getattr(part, "_non_persistent_buffers_set", set())
            walk.add({key: part._buffers[key] for key in sorted(transient)})
    finally:
        _WALKED.reset(token)
    return walk.hexdigest()


_WALKED: ContextVar[tuple[nn.Module, ...]] = ContextVar("_WALKED", default=())
"""Networks whose digest is being made: a global of the user's script may hold the very network."""


def digest(value: Any) -> str:
    """sha256 over any plain value, array, tensor, dataclass or function (its code, defaults and closure).

    >>> digest({"a": 1, "b": 2}) == digest({"b": 2, "a": 1}), digest(1) == digest(1.0)
    (True, False)
    """
    walk = _Walk()
    walk.add(value)
    return walk.hexdigest()


_KNOWN: weakref.WeakKeyDictionary[nn.Module, tuple[Any, str]] = weakref.WeakKeyDictionary()


def weights_digest(module: nn.Module) -> str:
    """`weights_sha256` of a module, computed once per process for the same weights.

    The weights are known again by storage, version counters and a CRC-32C over all bytes, several times faster than
    the hash: counters alone do not see what is written through `.data` or numpy.
    """
    state = _state(module)
    known = _KNOWN.get(module)
    if known is not None and known[0] == state:
        return known[1]
    found = weights_sha256(module)
    _KNOWN[module] = state, found
    return found


def _state(module: nn.Module) -> list[tuple[Any, ...]]:
    import google_crc32c

    rows: list[tuple[Any, ...]] = []
    for name, tensor in module.state_dict(keep_vars=True).items():
        if isinstance(tensor, Tensor):
            data = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
            version = None if tensor.is_inference() else tensor._version
            place = tensor.data_ptr(), version, tuple(tensor.shape), str(tensor.dtype)
            rows.append((name, *place, google_crc32c.value(data.tobytes()), int(_folded(data))))
    return rows


def _folded(data: np.ndarray) -> int:
    """Wrapping sum of the bytes as 64-bit words: a second, independent check beside the CRC."""
    whole = len(data) // 8 * 8
    return int(data[:whole].view(np.uint64).sum()) if whole else int(data.sum())


def surroundings(device: torch.device) -> dict[str, Any]:
    """Versions, and what else the bits depend on: threads, instruction set, device, kernels, the package's own code."""
    versions = {"python": sys.version}
    for name in ("torch", "torchvision", "timm", "numpy", "pillow", "xarray", "zarr", "numcodecs", "featattn_neuro"):
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = "not installed"
    return {
        "versions": versions,
        "code": _own_code(),
        "threads": torch.get_num_threads(),
        "cpu": torch.backends.cpu.get_cpu_capability(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "mkldnn": torch.backends.mkldnn.is_available() and torch.backends.mkldnn.enabled,
        "matmul": torch.get_float32_matmul_precision(),
        "tf32": torch.backends.cudnn.allow_tf32,
        "autocast": torch.is_autocast_enabled(device.type),
    }


def recording_inputs(
    module: nn.Module, plan: RecordingPlan, preprocess: Any, stimuli: str, device: torch.device
) -> dict[str, str]:
    """All that a recording depends on, as hashes by name; `stimuli` is the hash of the images' bytes and columns."""
    return {
        "weights": weights_digest(module),
        "network": network_digest(module),
        "preprocessing": digest(preprocess),
        "layers": digest(plan.describe()),
        "stimuli": stimuli,
        "versions": digest(surroundings(device)),
    }


@functools.lru_cache(maxsize=1)
def _own_code() -> str:
    """sha256 over this package's source files: a changed working copy has no new version."""
    package = Path(__file__).resolve().parents[1]
    found = hashlib.sha256()
    for folder in ("nets", "io"):
        for path in sorted((package / folder).glob("*.py")):
            found.update(path.name.encode() + path.read_bytes())
    return found.hexdigest()


class _Walk:
    """Feeds one hash with everything that can be reached from a value; each object once."""

    def __init__(self) -> None:
        self.hash = hashlib.sha256()
        self.seen: dict[int, int] = {}
        self.kept: list[Any] = []  # alive while their ids stand for them

    def hexdigest(self) -> str:
        return self.hash.hexdigest()

    def say(self, *words: object) -> None:
        self.hash.update(("\x1f".join(map(str, words)) + "\x1e").encode())

    def add(self, value: Any) -> None:
        """One value and all that it holds."""
        if value is None or isinstance(value, bool | int | float | complex | str | bytes | type(...)):
            self.say(type(value).__name__, repr(value))
            return
        if id(value) in self.seen:
            self.say("again", self.seen[id(value)])
            return
        self.seen[id(value)] = len(self.seen)
        self.kept.append(value)
        self._add_object(value)

    def _add_object(self, value: Any) -> None:
        if isinstance(value, Tensor | np.ndarray):
            self._add_array(value)
        elif isinstance(value, Mapping):
            self.say("mapping", type(value).__name__, len(value))
            for key in sorted(value, key=repr):
                self.add(key)
                self.add(value[key])
        elif isinstance(value, list | tuple):
            self.say("sequence", type(value).__name__, len(value))
            for one in value:
                self.add(one)
        elif isinstance(value, set | frozenset):
            self.say("set", *sorted(digest(one) for one in value))
        elif isinstance(value, type):
            self._add_class(value)
        elif isinstance(value, types.FunctionType):
            self._add_function(value)
        elif isinstance(value, types.MethodType):
            self.add(value.__func__)
            self.add(value.__self__)
        elif isinstance(value, types.BuiltinFunctionType | np.ufunc):
            self.say("builtin", getattr(value, "__module__", ""), value.__name__)
        elif isinstance(value, types.ModuleType):
            self.say("module", value.__name__)
        elif isinstance(value, functools.partial):
            self.add((value.func, value.args, value.keywords))
        elif isinstance(value, enum.Enum | torch.dtype | torch.device | torch.memory_format | os.PathLike):
            self.say(type(value).__name__, repr(value))
        elif isinstance(value, nn.Module):
            walked = [place for place, one in enumerate(_WALKED.get()) if one is value]
            if walked:
                self.say("network that holds this", walked[0])
            else:
                self.say("network", network_digest(value), weights_sha256(value))
        else:
            self._add_instance(value)

    def _add_array(self, value: Any) -> None:
        array = value.detach().cpu().contiguous().view(-1) if isinstance(value, Tensor) else np.ascontiguousarray(value)
        self.say("array", type(value).__name__, value.dtype, tuple(value.shape))
        raw = array.view(torch.uint8).numpy() if isinstance(array, Tensor) else array
        self.hash.update(raw.tobytes())

    def _add_class(self, kind: type) -> None:
        self.say("class", kind.__module__, kind.__qualname__)
        if _fixed(kind.__module__):
            return
        for base in kind.__bases__:
            self.add(base)
        for name in sorted(vars(kind)):
            member = vars(kind)[name]
            member = getattr(member, "__func__", getattr(member, "fget", getattr(member, "func", member)))
            if isinstance(member, types.FunctionType | bool | int | float | str | tuple | None):
                self.say(name)
                self.add(member)

    def _add_function(self, function: types.FunctionType) -> None:
        self.say("function", function.__module__, function.__qualname__)
        if _fixed(function.__module__) and function.__closure__ is None:
            return
        self._add_code(function.__code__)
        self.add(function.__defaults__)
        self.add(function.__kwdefaults__)
        for cell in function.__closure__ or ():
            try:
                self.add(cell.cell_contents)
            except ValueError:  # a cell that is not filled yet
                self.say("empty cell")
        if not _fixed(function.__module__):
            for name in function.__code__.co_names:
                if name in function.__globals__:
                    self.say(name)
                    self.add(function.__globals__[name])

    def _add_code(self, code: types.CodeType) -> None:
        self.hash.update(code.co_code)
        self.say(code.co_names, code.co_varnames)
        for constant in code.co_consts:
            if isinstance(constant, types.CodeType):
                self._add_code(constant)
            else:
                self.add(constant)

    def _add_instance(self, value: Any) -> None:
        self.add(type(value))
        if "__getstate__" in vars(type(value)) and _fixed(type(value).__module__):  # our own: says what counts
            self.add(value.__getstate__())
            return
        state = dict(getattr(value, "__dict__", {}))
        for kind in type(value).__mro__:
            slots = getattr(kind, "__slots__", ())
            for name in (slots,) if isinstance(slots, str) else slots:
                if hasattr(value, name) and name not in ("__dict__", "__weakref__"):
                    state[name] = getattr(value, name)
        if state:
            self.add(state)
            return
        try:
            self.hash.update(pickle.dumps(value, protocol=5))
        except Exception as error:  # pickle raises what the objects' own methods raise
            raise ConfigError(
                f"a {type(value).__name__} in the network, its hooks or its preprocessing cannot be part of a content "
                f"key ({error}); record without out= and cache=, or take it out"
            ) from error


def _fixed(module: str | None) -> bool:
    return (module or "").split(".")[0] in (*_LIBRARIES, "featattn_neuro")

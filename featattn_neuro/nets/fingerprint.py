"""What a recording depends on, as one hash: weights, structure and code of the network, preprocessing, plan, versions.

A key that misses a dependence gives stale results; one that holds too much only costs a recording. So everything that
can be reached from the network is hashed, code included, and what cannot be hashed is refused (`content_walk`).
"""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
import sys
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.modules import module as hooked_by_torch

from featattn_neuro.nets.content_walk import ContentWalk
from featattn_neuro.nets.plan import RecordingPlan
from featattn_neuro.nets.weights import state_tensors, weights_sha256


def network_digest(module: nn.Module) -> str:
    """sha256 over the structure of a network: classes and their code, attributes, hooks, buffers outside the weights.

    Raises
    ------
    ConfigError : an attribute or hook holds something that cannot be hashed.

    >>> network_digest(nn.Sequential(nn.ReLU())) == network_digest(nn.Sequential(nn.Tanh()))
    False
    """
    walk = ContentWalk()
    with walk.refusing_depth():
        walk.add_network(module)
        for name in ("_global_forward_hooks", "_global_forward_pre_hooks"):  # those that torch runs on every module
            walk.add(list(getattr(hooked_by_torch, name).values()))
    return walk.hexdigest()


def digest(value: Any) -> str:
    """sha256 over any plain value, array, tensor, dataclass or function (its code and all that it reaches).

    >>> digest({"a": 1, "b": 2}) == digest({"b": 2, "a": 1}), digest(1) == digest(1.0)
    (False, False)
    """
    walk = ContentWalk()
    with walk.refusing_depth():
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
    for name, tensor in state_tensors(module):
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
        "defaults": (str(torch.get_default_dtype()), _default_device()),  # of tensors that a forward makes
        "threads": torch.get_num_threads(),
        "cpu": torch.backends.cpu.get_cpu_capability(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "mkldnn": torch.backends.mkldnn.is_available() and torch.backends.mkldnn.enabled,
        "precision": _precisions(),
        "attention": {
            name: getattr(torch.backends.cuda, f"{name}_sdp_enabled")()
            for name in ("flash", "mem_efficient", "math", "cudnn")
            if hasattr(torch.backends.cuda, f"{name}_sdp_enabled")
        },
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "cudnn": {name: getattr(torch.backends.cudnn, name) for name in ("enabled", "deterministic", "benchmark")},
        "autocast": torch.is_autocast_enabled(device.type),
    }


def _default_device() -> str:
    """Where tensors are made that name no device; older versions of torch have no getter."""
    return str(torch.empty(0).device)


def strides_digest(module: nn.Module) -> str:
    """sha256 over how parameters and buffers lie in memory: convolutions take other kernels for weights with channels
    last, with other last digits. No part of the published hash of weights.

    >>> one = nn.Conv2d(2, 2, 3)
    >>> strides_digest(one) == strides_digest(nn.Conv2d(2, 2, 3).to(memory_format=torch.channels_last))
    False
    """
    return digest([(name, tensor.stride()) for name, tensor in state_tensors(module)])


_PRECISIONS = ("cuda.matmul", "cudnn.conv", "cudnn.rnn", "mkldnn.conv", "mkldnn.matmul", "mkldnn.rnn")


def _precisions() -> dict[str, Any]:
    """How float32 is multiplied, by library and operation. The getters that older versions of torch have, for all
    operations of a library at once, raise where these are set apart.
    """
    found = {}
    for name in _PRECISIONS:
        library, operation = name.split(".")
        switches = getattr(getattr(torch.backends, library, None), operation, None)
        found[name] = getattr(switches, "fp32_precision", None)
    if all(one is not None for one in found.values()):
        return found
    return {**found, "matmul": torch.get_float32_matmul_precision(), "tf32": torch.backends.cudnn.allow_tf32}


def recording_inputs(
    module: nn.Module, plan: RecordingPlan, preprocess: Any, stimuli: str, device: torch.device
) -> dict[str, str]:
    """All that a recording depends on, as hashes by name; `stimuli` is the hash of the images' bytes and columns."""
    return {
        "weights": weights_digest(module),
        "memory format": strides_digest(module),
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
    for folder in ("schema", "arrays", "nets", "io", "api"):
        for path in sorted((package / folder).glob("*.py")):
            found.update(path.name.encode() + path.read_bytes())
    return found.hexdigest()

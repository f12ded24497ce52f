"""Weight files: read without running code from them, and put into a network only where every tensor fits."""

from __future__ import annotations

import hashlib
import pickle
import struct
import zipfile
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from featattn_neuro.errors import StoreError

_UNREADABLE = (
    pickle.UnpicklingError, zipfile.BadZipFile, RuntimeError, EOFError, ValueError, KeyError, OSError,
    IndexError, struct.error, TypeError, AttributeError,  # of a damaged pickle, as torch wrote them before 1.6
)  # fmt: skip


def read_weights(path: str | Path) -> dict[str, Tensor]:
    """Return the tensors of a weight file by name, on the CPU, in the file's order.

    Parameters
    ----------
    path : a `.safetensors` file, or what `torch.save` wrote (read with `weights_only=True`, so nothing in it runs).
        A state dict that sits under the key "state_dict" or "model" is taken out, and the prefix "module." that
        DataParallel writes is removed.

    Raises
    ------
    StoreError : no such file, not a weight file, or a file that holds more than tensors.
    """
    path = Path(path)
    if not path.is_file():
        raise StoreError(f"wanted a weight file; there is none at {path}; check the path, or fetch the weights first")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            state = load_file(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
    except _UNREADABLE as error:
        raise StoreError(
            f"{path.name} cannot be read as plain tensors ({type(error).__name__}); wanted a state dict saved by "
            "torch.save or safetensors; save model.state_dict() rather than the model, or fetch the file again"
        ) from error
    except Exception as error:
        # safetensors raises a class of its own that is not derived from any of the above
        if type(error).__name__ != "SafetensorError":
            raise
        raise StoreError(
            f"{path.name} is not a valid safetensors file ({error}); wanted one; fetch or save it again"
        ) from error
    return _plain(state, path)


def _plain(state: object, path: Path) -> dict[str, Tensor]:
    for key in ("state_dict", "model"):
        if isinstance(state, Mapping) and isinstance(state.get(key), Mapping):
            state = state[key]
    if not isinstance(state, Mapping) or not state or not all(isinstance(value, Tensor) for value in state.values()):
        raise StoreError(
            f"{path.name} does not hold a state dict (names -> tensors); came {type(state).__name__}; "
            "save model.state_dict()"
        )
    if all(str(name).startswith("module.") for name in state):
        return {str(name).removeprefix("module."): value for name, value in state.items()}
    return {str(name): value for name, value in state.items()}


def rename_by_order(
    state: Mapping[str, Tensor], module: nn.Module, *, what: str = "the weight file"
) -> dict[str, Tensor]:
    """Return `state` under the names of `module`, matched by position; every shape and last name must agree.

    For files of the same network written by another library (same order, other names). Files that carry the names of
    `module` already are returned as they are.

    Raises
    ------
    StoreError : another number of tensors, or a tensor of another shape or another last name (weight, bias, …).

    Examples
    --------
    >>> layer = nn.Linear(1, 1)
    >>> list(rename_by_order({"a.weight": torch.ones(1, 1), "a.bias": torch.ones(1)}, layer))
    ['weight', 'bias']
    """
    wanted = module.state_dict()
    if set(wanted) == set(state):
        return dict(state)
    if len(wanted) != len(state):
        raise StoreError(f"wanted {len(wanted)} tensors; {what} holds {len(state)}; it belongs to another network")
    for (own, tensor), (other, came) in zip(wanted.items(), state.items(), strict=True):
        if tensor.shape != came.shape or own.rpartition(".")[2] != other.rpartition(".")[2]:
            raise StoreError(
                f"{what} does not fit: wanted {own} {tuple(tensor.shape)}; came {other} {tuple(came.shape)} in its "
                "place; it belongs to another network"
            )
    return dict(zip(wanted, state.values(), strict=True))


def put_weights(module: nn.Module, state: Mapping[str, Tensor], *, what: str = "the weight file") -> None:
    """Load `state` into `module`, in place; every tensor must be there and fit, none may be left over.

    Raises
    ------
    StoreError : names the first missing, unknown or misshapen tensor; `module` is then unchanged.
    """
    own = module.state_dict()
    # a count of batches seen, which files from before PyTorch 0.4.1 do not have and eval mode does not use
    optional = {name for name in own if name.endswith("num_batches_tracked")}
    missing = [name for name in own if name not in state and name not in optional]
    unknown = [name for name in state if name not in own]
    misshapen = [name for name in own if name in state and own[name].shape != state[name].shape]
    if missing or unknown or misshapen:
        faults = [
            f"{len(names)} {fault} (first: {names[0]})"
            for fault, names in (("missing", missing), ("unknown", unknown), ("of another shape", misshapen))
            if names
        ]
        raise StoreError(
            f"{what} does not fit the network: of {len(own)} tensors wanted, {', '.join(faults)}; "
            "use the file that was saved from this network, with the same number of classes"
        )
    module.load_state_dict(dict(state), strict=False)


def state_tensors(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Every parameter and saved buffer by name, in the order of `state_dict()`, as the modules hold them.

    Not `state_dict()` itself: a class that overrides it, or a hook on it, may leave out a frozen backbone or give other
    tensors than those that compute. What a module's own way of saving adds (extra state, packed weights) counts too.

    >>> [name for name, _ in state_tensors(nn.Sequential(nn.Linear(1, 1)))]
    ['0.weight', '0.bias']
    """
    for name, part in module.named_modules(remove_duplicate=False):
        prefix = f"{name}." if name else ""
        saved: Any = OrderedDict()
        saved._metadata = OrderedDict()  # as state_dict() hands it over
        part._save_to_state_dict(saved, prefix, True)
        yield from ((key, value) for key, value in saved.items() if isinstance(value, Tensor))
        transient: set[str] = getattr(part, "_non_persistent_buffers_set", set())
        held = [
            *part._parameters.items(),
            *((key, value) for key, value in part._buffers.items() if key not in transient),
        ]
        for key, value in held:
            if value is not None and saved.get(prefix + key) is not value:
                yield prefix + key, value


def weights_sha256(module: nn.Module) -> str:
    """Return the sha256, in hex, over names, dtypes, shapes and bytes of all parameters and buffers.

    For networks that leave `state_dict` as torch makes it, the hash over what that gives.

    >>> weights_sha256(nn.Linear(1, 1)) == weights_sha256(nn.Linear(1, 1))  # drawn anew
    False
    """
    digest = hashlib.sha256()
    for name, tensor in state_tensors(module):
        array = tensor.detach().cpu().contiguous()
        digest.update(f"{name} {array.dtype} {tuple(array.shape)};".encode())
        digest.update(array.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def weights_bytes(module: nn.Module) -> bytes:
    """The module's state as a safetensors file, in bytes: the same weights always give the same bytes."""
    from safetensors.torch import save

    # safetensors refuses tensors that share memory, as tied weights do
    state = {name: value.detach().cpu().contiguous() for name, value in module.state_dict().items()}
    pointers = [value.untyped_storage().data_ptr() for value in state.values()]
    shared = {pointer for pointer in pointers if pointers.count(pointer) > 1}
    return save({n: v.clone() if v.untyped_storage().data_ptr() in shared else v for n, v in state.items()})


def torn_weight(state: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> str | None:
    """Name of a tensor that would not hold `wanted` once all are put in, since another shares its memory; or None.

    >>> one = torch.zeros(2)
    >>> torn_weight({"a": one, "b": one}, {"a": torch.ones(2), "b": torch.zeros(2)})
    'a'
    """
    memory: dict[int, torch.UntypedStorage] = {}
    held: dict[str, Tensor] = {}
    for name, value in state.items():
        storage = value.untyped_storage()
        own = memory.setdefault(storage.data_ptr(), storage.clone())
        held[name] = torch.empty(0, dtype=value.dtype, device=value.device).set_(
            own, value.storage_offset(), value.size(), value.stride()
        )
        held[name].copy_(wanted[name])
    same = {name: torch.allclose(held[name], wanted[name], rtol=0, atol=0, equal_nan=True) for name in held}
    return next((name for name, equal in same.items() if not equal), None)

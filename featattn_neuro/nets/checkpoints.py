"""Checkpoints of learning: what was learned so far and the optimiser's moments, so that it goes on bit for bit."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from featattn_neuro.errors import ConfigError, StoreError


class BlobStore(Protocol):
    """Bytes by name, written whole or not at all."""

    def read(self, name: str) -> bytes | None: ...

    def write(self, name: str, data: bytes) -> None: ...


@dataclass(frozen=True)
class Checkpoints:
    """Where learning writes how far it is, and takes up again from there.

    Parameters
    ----------
    store : of bytes. key : hash of all that the result depends on; a checkpoint of another key is refused.
    every : updates between two checkpoints; the end of learning is written too.
    """

    store: BlobStore
    key: str
    every: int = 50

    def __post_init__(self) -> None:
        if self.every < 1:
            raise ConfigError(f"wanted 1 or more updates between checkpoints; came {self.every}")

    def keeper(self, block: str) -> Keeper:
        """The checkpoint of one block of tasks."""
        return Keeper(self, block)


@dataclass(frozen=True)
class Keeper:
    """The checkpoint of one optimisation loop."""

    checkpoints: Checkpoints
    block: str

    def restore(self, parameters: Sequence[torch.Tensor], optimiser: torch.optim.Adam) -> int:
        """Put the last checkpoint into parameters and optimiser, in place; the number of updates it holds (0 = none).

        Raises
        ------
        StoreError : the checkpoint is damaged, or is one of other data, settings or versions.
        """
        name = f"{self.block}.safetensors"
        data = self.checkpoints.store.read(name)
        if data is None:
            return 0
        header, tensors = _parse(name, data)
        if header.get("key") != self.checkpoints.key:
            raise StoreError(
                f"the checkpoint {name} was written by other learning (other images, labels, network, settings or "
                "versions); give another checkpoint folder, or remove this one"
            )
        with torch.no_grad():
            for number, parameter in enumerate(parameters):
                parameter.copy_(tensors[f"parameter_{number}"].to(parameter))
                optimiser.state[parameter] = {
                    part: _moment(tensors[f"{part}_{number}"], part, parameter)
                    for part in ("step", "exp_avg", "exp_avg_sq")
                }
        return int(header["update"])

    def note(
        self, update: int, parameters: Sequence[torch.Tensor], optimiser: torch.optim.Adam, *, last: bool = False
    ) -> None:
        """Write a checkpoint if it is time, or learning has ended."""
        if not last and update % self.checkpoints.every:
            return
        from safetensors.torch import save

        tensors = {}
        for number, parameter in enumerate(parameters):
            tensors[f"parameter_{number}"] = parameter.detach().cpu().contiguous().clone()
            for part in ("step", "exp_avg", "exp_avg_sq"):
                tensors[f"{part}_{number}"] = optimiser.state[parameter][part].detach().cpu().contiguous().clone()
        header = {"key": self.checkpoints.key, "update": str(update)}
        self.checkpoints.store.write(f"{self.block}.safetensors", save(tensors, metadata=header))


def _moment(value: torch.Tensor, part: str, parameter: torch.Tensor) -> torch.Tensor:
    # Adam keeps the layout of the parameter for the moments, and its own counter where fused kernels want it
    return value.to(parameter.device) if part == "step" else torch.empty_like(parameter).copy_(value)


def _parse(name: str, data: bytes) -> tuple[dict[str, str], dict[str, torch.Tensor]]:
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        tensors = load(data)
        length = int.from_bytes(data[:8], "little")
        header: dict[str, Any] = json.loads(data[8 : 8 + length])
    except (SafetensorError, ValueError) as error:
        raise StoreError(f"the checkpoint {name} is damaged ({error}); remove it to start anew") from error
    return dict(header.get("__metadata__", {})), tensors

"""Gains as the `ia3_l` vectors of peft's (IA)^3 adapters (Liu et al. 2022), and back.

peft multiplies the output of a convolution or linear layer, or ("feedforward") its input; it has no place behind a
batch norm or an activation. A gain of ours sits anywhere, so it is first moved to a place that peft has, by the rules
of folding: back through a ReLU for g >= 0, or on into the inputs of everything that reads the map.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import fx, nn

from featattn_neuro.errors import ConfigError, DataError
from featattn_neuro.nets.adapters import Network, as_network
from featattn_neuro.nets.fold_paths import FoldPaths, input_width, width
from featattn_neuro.nets.folding import check_unhooked
from featattn_neuro.nets.gains import gains_by_layer
from featattn_neuro.nets.layers import find_module, stage_of
from featattn_neuro.nets.plan import unit_ids
from featattn_neuro.schema import GAINS

PREFIX, SUFFIX = "base_model.model.", ".ia3_l"
_TARGETS = (nn.Conv2d, nn.Conv3d, nn.Linear)


def peft_layout(
    model: nn.Module | Network, gains: xr.Dataset, *, task: str | None = None
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """The tensors and the configuration of a peft IA3 adapter that answers as the gained network does.

    Parameters
    ----------
    model, gains, task : as in `fold_gains`.

    Returns
    -------
    Tensors by the names of peft's `adapter_model.safetensors`, float32: (1, C, 1, 1) on convolutions; (C, 1) on the
    output and (1, C) on the input of linear layers. And what belongs into `adapter_config.json`. The read-out that
    gains may carry has no place in this layout.

    Raises
    ------
    ConfigError : a gain that can be moved to no convolution or linear layer (the message says what is in the way), or
        one layer that would need a factor on both sides, which peft cannot hold.
    """
    module = as_network(model).module
    check_unhooked(module)
    paths = FoldPaths(module, takes=lambda part: type(part) in _TARGETS)
    sides: dict[str, str] = {}
    vectors: dict[str, torch.Tensor] = {}
    for layer, gain in gains_by_layer(gains, task).items():
        paths.need_site(layer)
        for scaling in paths.plan(layer, torch.as_tensor(gain, dtype=torch.float64)):
            name = scaling.module
            if sides.setdefault(name, scaling.side) != scaling.side:
                raise ConfigError(
                    f"the gains of layer {layer!r} cannot be written for peft: {name} would need a factor on its input "
                    "and on its output, and peft has one per layer; gain one layer less, or fold instead"
                )
            vectors[name] = vectors[name] * scaling.gain if name in vectors else scaling.gain
    if not vectors:
        raise DataError("all gains are 1: there is nothing to write for peft; choose gains that differ from 1")
    shaped = {
        PREFIX + name + SUFFIX: _shaped(module.get_submodule(name), sides[name], vector)
        for name, vector in vectors.items()
    }
    return shaped, _config(list(vectors), [name for name, side in sides.items() if side == "input"])


def gains_from_peft(
    tensors: Mapping[str, np.ndarray], config: Mapping[str, Any], model: nn.Module | Network
) -> xr.Dataset:
    """GAINS of a peft IA3 adapter for `model`: factors on outputs at that layer, on inputs where these come from.

    Raises
    ------
    DataError : no IA3 adapter, or vectors of other lengths than the model's layers.
    ConfigError : a layer that the model does not have; a factor on the input of a layer whose input is no layer's
        output alone (it is read elsewhere too, or is the result of an operation).
    """
    if str(config.get("peft_type")) != "IA3":
        raise DataError(f"wanted an IA3 adapter; came peft_type {config.get('peft_type')!r}; export one with IA3Config")
    module = as_network(model).module
    per_layer: dict[str, np.ndarray] = {}
    paths: FoldPaths | None = None
    vectors = {key: value for key, value in tensors.items() if key.endswith(SUFFIX)}
    if not vectors:
        raise DataError(f"the adapter holds no ia3_l vectors; came {', '.join(sorted(tensors)[:3]) or 'nothing'}")
    for key, value in vectors.items():
        name = key.removeprefix(PREFIX).removesuffix(SUFFIX)
        part = find_module(module, name)
        vector = np.asarray(value, dtype=np.float64).reshape(-1)
        at_input = _is_feedforward(name, config.get("feedforward_modules") or [])
        if not isinstance(part, _TARGETS):
            raise DataError(
                f"peft gains convolutions and linear layers; {name!r} is {type(part).__name__}; wrong model?"
            )
        wanted = input_width(part) if at_input else width(part)
        if len(vector) != wanted:
            raise DataError(
                f"the adapter has {len(vector)} numbers for {name!r}, which has {wanted} channels there; "
                "give the network that the adapter was made for"
            )
        if at_input:
            paths = paths or FoldPaths(module)
            found = _sources(paths, name, vector)
        else:
            found = {name: vector}
        for layer, gain in found.items():
            if layer in per_layer:
                raise ConfigError(f"the adapter scales the output of {layer!r} twice; fold it with peft instead")
            per_layer[layer] = gain
    return _gain_set(module, per_layer)


def _sources(paths: FoldPaths, name: str, vector: np.ndarray) -> dict[str, np.ndarray]:
    """The layers whose outputs the layer `name`, and nothing else, reads, and the part of the vector of each.

    It is one layer, or several whose maps are concatenated; one that is concatenated with itself is scaled alike.
    """
    sources = paths.readers(name)
    source = sources[0] if len(sources) == 1 else None
    pieces = [] if source is None else paths.joined(source)
    found: dict[str, np.ndarray] = {}
    begin = 0
    for node, size in pieces:
        piece = vector[begin : begin + size] if size else vector
        begin += size
        alone = node.op == "call_module" and len(node.users) == 1 and _calls(node) == 1
        if not alone or not np.array_equal(found.setdefault(str(node.target), piece), piece):
            found = {}
            break
    if not found:
        what = "several maps" if source is None else source.name
        raise ConfigError(
            f"the adapter scales the input of {name!r}, which is {what}, not the output of layers that only it "
            "reads, each scaled by one set of gains; merge the adapter with peft instead"
        )
    return found


def _calls(node: fx.Node) -> int:
    return sum(other.op == "call_module" and other.target == node.target for other in node.graph.nodes)


def _shaped(part: nn.Module, side: str, vector: torch.Tensor) -> np.ndarray:
    values = vector.to(torch.float32).cpu().numpy()
    if isinstance(part, nn.Linear):
        return values[:, None] if side == "output" else values[None]
    dims = part.weight.ndim - 2  # type: ignore[operator]
    return values.reshape(1, -1, *[1] * int(dims))


def _config(names: list[str], at_input: list[str]) -> dict[str, Any]:
    def pattern(some: list[str]) -> str:
        # a list would match every layer whose name ends so; an expression is matched in full
        return "|".join(re.escape(name).replace("\\-", "-") for name in some)

    return {
        "peft_type": "IA3",
        "task_type": None,
        "base_model_name_or_path": None,
        "inference_mode": True,
        "fan_in_fan_out": False,
        "init_ia3_weights": True,
        "modules_to_save": None,
        "target_modules": pattern(names),
        "feedforward_modules": pattern(at_input) if at_input else [],
    }


def _is_feedforward(name: str, feedforward: str | list[str]) -> bool:
    """As peft decides it: an expression is matched in full, names in a list are endings.

    >>> _is_feedforward("a.conv2", "a\\\\.conv[12]"), _is_feedforward("a.conv2", ["conv2"]), _is_feedforward("a", [])
    (True, True, False)
    """
    if isinstance(feedforward, str):
        return re.fullmatch(feedforward, name) is not None
    return any(name.endswith(ending) for ending in feedforward)


def _gain_set(module: nn.Module, per_layer: Mapping[str, np.ndarray]) -> xr.Dataset:
    modules = dict(module.named_modules())
    units = [(layer, channel) for layer, gain in per_layer.items() for channel in range(len(gain))]
    return GAINS.check(
        xr.Dataset(
            {"gain": ("unit", np.concatenate(list(per_layer.values())))},
            coords={
                "unit": [unit for layer, gain in per_layer.items() for unit in unit_ids(layer, len(gain))],
                "layer": ("unit", [layer for layer, _ in units]),
                "channel": ("unit", [channel for _, channel in units]),
                "stage": ("unit", [stage_of(modules[layer]) for layer, _ in units]),
            },
            attrs={"kind": "GAINS", "imported_from": "peft IA3"},
        )
    )

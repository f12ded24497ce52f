"""Gains in use: switched on, written for other tools, folded into weights, read back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path

import xarray as xr
from torch import nn

from featattn_neuro.errors import ConfigError
from featattn_neuro.io import gain_files
from featattn_neuro.io.store import write_bytes_atomic
from featattn_neuro.nets import gains as _gains
from featattn_neuro.nets.adapters import Network, as_network
from featattn_neuro.nets.channels import ChannelAxis
from featattn_neuro.nets.folding import check_folded, fold_gains
from featattn_neuro.nets.gain_collections import GainSwitch
from featattn_neuro.nets.gain_collections import switchable_gains as _switchable_gains
from featattn_neuro.nets.onnx_export import check_onnx, onnx_bytes
from featattn_neuro.nets.peft_layout import gains_from_peft, peft_layout
from featattn_neuro.nets.weights import torn_weight, weights_bytes


def switchable_gains(model: nn.Module | Network, sets: Mapping[str, xr.Dataset]) -> AbstractContextManager[GainSwitch]:
    """Switch between named gain sets inside a `with`: `switch("cat")`, `switch("cat", "dog")` for both, `switch()`.

    Parameters
    ----------
    sets : `GainSets`, or a mapping from names to GAINS of one task. At first none of them acts.

    Every switch places hooks anew and divides nothing out: what it gives does not depend on what was before.

    Returns
    -------
    A context; in it, the switch.

    Raises
    ------
    DataError : as in `with_gains`, of the sets that are switched to; none acts then. ConfigError : an unknown name,
        which changes nothing.
    """
    return _switchable_gains(as_network(model).module, sets)


def with_gains(
    model: nn.Module | Network,
    gains: xr.Dataset,
    *,
    task: str | None = None,
    channel_axis: ChannelAxis = None,
) -> AbstractContextManager[nn.Module]:
    """Multiply each gained layer's output by its gains inside a `with`; the network is given back on the way out.

    Parameters
    ----------
    gains : GAINS, `gain(unit)`; with several tasks, `task` names one. Shifts, gains per position, sites before a
        layer ("relu1.input") and functional operations ("layer1.0.add") act too where the set has them.
    channel_axis : as in `record`, for layers in which neither a rule nor the number of gains says where filters are.

    All g = 1 leaves the outputs bit-identical; g = 0 silences a filter until the `with` ends. Sets may be nested;
    `GainSets` names them, `compose_gains` multiplies them, `switchable_gains` switches between them.

    Returns
    -------
    A context; in it, the network of `model` with the gains on.

    Raises
    ------
    DataError : several tasks and none named, another number of filters than gains, gains that are not finite.
        ConfigError : a layer that is not there, an open or contradicted `channel_axis`.

    >>> import torch
    >>> net = nn.Sequential(nn.Conv2d(1, 1, 1, bias=False))
    >>> _ = nn.init.constant_(net[0].weight, 1.0)
    >>> unit = {"unit": ["0/000"], "layer": ("unit", ["0"]), "channel": ("unit", [0])}
    >>> gains = xr.Dataset({"gain": ("unit", [3.0])}, unit, {"kind": "GAINS"})
    >>> with with_gains(net, gains) as gained:
    ...     gained(torch.ones(1, 1, 1, 1)).item()
    3.0
    """
    return _gains.with_gains(as_network(model).module, gains, task=task, channel_axis=channel_axis)


def export_gains(
    gains: xr.Dataset,
    path: str | Path,
    *,
    model: nn.Module | Network | None = None,
    task: str | None = None,
    input_shape: Sequence[int] | None = None,
) -> Path:
    """Write gains for other tools; the name says in which form.

    Parameters
    ----------
    gains : GAINS.
    path : `.safetensors` = the gains with unit ids, tasks and provenance in the header (all tasks; `import_gains` gives
        back the very Dataset); `.onnx` = the network with the gains folded into its weights, compared on noise with
        the gained network (relative 1e-3) and with itself in onnxruntime (relative 1e-4) before it is written; without
        a suffix = a folder with a peft IA3 adapter (`ia3_l` vectors), as `PeftModel.from_pretrained` reads it; an
        adapter that is there is replaced.
    model : what the gains were learned on; for `.onnx` and peft.
    task : which task's gains, where there are several; for `.onnx` and peft.
    input_shape : (C, H, W) of the images, for `.onnx`; None = what the network's preprocessing gives.

    Returns
    -------
    The path. The read-out that gains may carry is in the safetensors file only.

    Raises
    ------
    ConfigError : gains that cannot be folded or moved to where peft has a place; the message says why. A package that
        is needed and not installed; a folded network that answers otherwise than the gained one. StoreError : the file
        cannot be written, the folder holds other things than an adapter, or the ONNX network answers otherwise.

    >>> export_gains(xr.Dataset(), "gains.pt")
    Traceback (most recent call last):
    featattn_neuro.errors.ConfigError: wanted a name that ends in .safetensors or .onnx, or a folder for peft; came ...
    """
    path = Path(path)
    if path.suffix not in (".safetensors", ".onnx", ""):
        raise ConfigError(
            f"wanted a name that ends in .safetensors or .onnx, or a folder for peft; came {path.name!r}; rename it"
        )
    if path.suffix == ".safetensors":
        return gain_files.write_gains(gains, path)
    if model is None:
        raise ConfigError(
            "the network is part of what is written: give model= (on the command line --model), which the gains were "
            "learned on"
        )
    network = as_network(model)
    if path.suffix == "":
        return gain_files.write_peft(path, *peft_layout(network, gains, task=task))
    shape = input_shape or network.input_shape
    if shape is None:
        raise ConfigError(
            "it is not known which images the network takes; give input_shape=(channels, height, width) (on the "
            "command line --input-shape)"
        )
    channels, height, width = shape
    folded = fold_gains(replace(network, input_shape=(channels, height, width)), gains, task=task)
    data = onnx_bytes(folded, shape)
    check_folded(network, gains, folded, shape, task=task)
    check_onnx(data, folded, shape)
    return write_bytes_atomic(path, data)


def save_folded(
    model: nn.Module | Network,
    gains: xr.Dataset,
    path: str | Path,
    *,
    task: str | None = None,
    direction: str = "auto",
) -> Path:
    """Write the weights of the network with the gains folded in, as `.safetensors`: `load_model(weights=)` reads it.

    Parameters
    ----------
    model, gains, task, direction : as in `fold_gains`.

    Returns
    -------
    The path.

    Raises
    ------
    ConfigError : another suffix; gains that cannot be folded; a network that needs more weights than it has to hold
        them (a norm without weights; weights that are shared and of which the gains change one).
    """
    path = Path(path)
    if path.suffix != ".safetensors":
        raise ConfigError(f"wanted a name that ends in .safetensors; came {path.name!r}; rename it")
    original = as_network(model).module
    folded = fold_gains(original, gains, task=task, direction=direction)
    more = sorted(set(folded.state_dict()) - set(original.state_dict()))
    if more:
        raise ConfigError(
            f"the folded network has weights that the network as it is built has not ({more[0]}), so no weight file "
            "holds it; use fold_gains, or export to .onnx"
        )
    torn = torn_weight(original.state_dict(), folded.state_dict())
    if torn:
        raise ConfigError(
            f"the network as it is built shares the numbers of {torn} with other weights, and the folded network "
            "has others at each place, so no weight file holds it; use fold_gains, or export to .onnx"
        )
    return write_bytes_atomic(path, weights_bytes(folded))


def import_gains(path: str | Path, *, model: nn.Module | Network | None = None) -> xr.Dataset:
    """GAINS from a `.safetensors` file of `export_gains`, or from the folder of a peft IA3 adapter for `model`.

    Returns
    -------
    GAINS : of a file, what was exported. Of an adapter, `gain(unit)` at the layers that peft scales; a factor on the
        input of a layer becomes the gain of the layer that alone feeds it.

    Raises
    ------
    StoreError : no such file, or one that holds something else. DataError, ConfigError : an adapter of another kind or
        for another network.
    """
    path = Path(path)
    if path.suffix == ".safetensors":
        return gain_files.read_gains(path)
    if model is None:
        raise ConfigError(
            "a peft adapter names layers of a network: give model= (on the command line --model), which it was made for"
        )
    tensors, config = gain_files.read_peft(path)
    return gains_from_peft(tensors, config, as_network(model))

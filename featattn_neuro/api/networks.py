"""A network by name, or one in hand."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from torch import nn

from featattn_neuro.errors import ConfigError
from featattn_neuro.io import manifest
from featattn_neuro.nets.adapters import Network, as_network, build_network
from featattn_neuro.nets.preprocessing import Preprocessing


def load_model(
    model: str | nn.Module | Network,
    *,
    weights: str | Path | None = None,
    seed: int = 0,
    preprocess: Preprocessing | None = None,
    head: str | None = None,
    num_classes: int | None = None,
) -> Network:
    """A network by name, or one in hand, with the preprocessing that its weights were trained with.

    Parameters
    ----------
    model : "efficientnet_lite0", "cifar_resnet20" (32, 56), "digits_cnn", "torchvision:NAME", "timm:NAME",
        "module:function" (your code; the function returns an `nn.Module`), or an `nn.Module`.
    weights : None or "pretrained" = the published weights named in the data manifest (they must be present: nothing is
        downloaded here, see `featattn fetch`); "random" with `seed`; a file (state dict or safetensors). torchvision
        and timm networks want it said, since "pretrained" lets those libraries download.
    preprocess, head : override what comes with the network; `head` is the dotted name of the final linear layer.

    Returns
    -------
    Network : `module` in evaluation mode, `preprocess`, `head`, `source`, `weights_sha256`.

    Raises
    ------
    ConfigError : unknown name (the table is printed). StoreError, DataError : weights missing, corrupt or of another
        network.

    >>> load_model("digits_cnn", weights="random").head
    'head'
    """
    if not isinstance(model, str):
        if weights is not None or num_classes is not None:
            raise ConfigError(
                "weights and num_classes are for networks by name; load weights into your module yourself"
            )
        network = as_network(model)
        shape = network.input_shape
        if preprocess is not None and preprocess.output_size is not None:
            shape = preprocess.channels, preprocess.output_size, preprocess.output_size
        return replace(
            network, preprocess=preprocess or network.preprocess, head=head or network.head, input_shape=shape
        )
    if weights in (None, "pretrained") and model in manifest.load_manifest().names("weights"):
        weights = manifest.find(model)
    return build_network(model, weights=weights, seed=seed, preprocess=preprocess, head=head, num_classes=num_classes)

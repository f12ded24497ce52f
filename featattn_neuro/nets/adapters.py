"""A model, by name or as given, becomes a `Network`: module, preprocessing and head together."""

from __future__ import annotations

import hashlib
import importlib
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import nn

from featattn_neuro.errors import ConfigError, FeatattnError, StoreError, choose
from featattn_neuro.nets.architectures import ARCHITECTURES, build_architecture
from featattn_neuro.nets.layers import find_head, find_module
from featattn_neuro.nets.listing import LayerInfo, run_layers
from featattn_neuro.nets.preprocessing import Preprocessing
from featattn_neuro.nets.weights import put_weights, read_weights, rename_by_order, weights_sha256

__all__ = ["LayerInfo", "Network", "as_network", "build_network", "list_layers"]

OWN_NAMES = (*ARCHITECTURES, "efficientnet_lite0")
"""Networks that are known by a bare name of this package."""


@dataclass(frozen=True, eq=False)
class Network:
    """A network with what its weights presuppose.

    Parameters
    ----------
    name : for tables and messages.
    module : the network itself, in eval mode if it was built here; what a caller gave is kept as it is.
    preprocess : raw image -> what the network sees; None: images are taken as they stand.
    head : dotted name of the final linear layer, whose output is the network's output; None if there is none.
    source : where architecture and weights come from, in words.
    input_shape : (C, H, W) of one usual input, or None where it is not known.
    """

    name: str
    module: nn.Module
    preprocess: Preprocessing | None = None
    head: str | None = None
    source: str = ""
    input_shape: tuple[int, int, int] | None = None

    @cached_property
    def weights_sha256(self) -> str:
        """sha256, in hex, over names, shapes and bytes of all parameters and buffers, when first asked for."""
        return weights_sha256(self.module)


def as_network(model: nn.Module | Network) -> Network:
    """Return `model` as a `Network`: unchanged if it is one, else wrapped without preprocessing.

    The module itself is kept, not copied, and its train or eval mode is left as it is. The head is the `nn.Linear`
    whose output is the module's output; None if there is none.

    Raises
    ------
    ConfigError : neither an `nn.Module` nor a `Network`.

    Examples
    --------
    >>> as_network(nn.Sequential(nn.Flatten(), nn.Linear(4, 2))).head
    '1'
    """
    network = bare_network(model)
    return network if network is model else replace(network, head=find_head(network.module))


def bare_network(model: nn.Module | Network) -> Network:
    """As `as_network`, but the head of an `nn.Module` is not looked for."""
    if isinstance(model, Network):
        return model
    if not isinstance(model, nn.Module):
        raise ConfigError(
            f"wanted an nn.Module, or what load_model returns; came {type(model).__name__}; load the model first"
        )
    if isinstance(model, torch.jit.ScriptModule):
        raise ConfigError(
            "wanted an nn.Module whose layers can be hooked; came a ScriptModule; give the module that it was made from"
        )
    return Network(type(model).__name__, model, source="given as an nn.Module")


def list_layers(model: str | nn.Module | Network, *, input_shape: Sequence[int] | None = None) -> list[LayerInfo]:
    """Return the layers of `model` in the order in which they give their output in one pass on a blank image.

    A layer comes before the block it is in; layers that do not run are left out. Hooks are removed and train/eval modes
    restored afterwards, also when the network raises.

    Parameters
    ----------
    model : an `nn.Module` or a `Network`; or the name of a network, which then has random weights: none are needed.
    input_shape : (C, H, W) of the image. None: that of the network; where it is unknown, the usual shapes are tried
        (224, 32, 28, 96 pixels; 3 channels, 1).

    Raises
    ------
    ConfigError : the network does not take the shape, or none of the usual ones.

    Examples
    --------
    >>> [(layer.name, layer.stage, layer.output_shape) for layer in list_layers(
    ...     nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU()), input_shape=(1, 5, 5))]
    [('0', 'conv', (4, 3, 3)), ('1', 'activation', (4, 3, 3))]
    """
    if isinstance(model, str):
        model = build_network(model, weights="random" if _takes_random_weights(model) else None)
    network = bare_network(model)
    return run_layers(network.module, input_shape if input_shape is not None else network.input_shape)


def _takes_random_weights(name: str) -> bool:
    """Whether a name is one of ours, torchvision's or timm's, and not that of a function, which gives its own."""
    return ":" not in name or name.partition(":")[0] in ("torchvision", "timm")


def build_network(
    model: str | Callable[..., Any],
    *,
    weights: str | Path | None = None,
    seed: int = 0,
    preprocess: Preprocessing | None = None,
    head: str | None = None,
    num_classes: int | None = None,
) -> Network:
    """Return the network `model` with its weights, in eval mode.

    Parameters
    ----------
    model : "digits_cnn", "cifar_resnet20" / "32" / "56", "efficientnet_lite0"; "torchvision:NAME" or a bare torchvision
        name; "timm:NAME"; "module:function" of an importable file (the current directory counts) that returns an
        `nn.Module` or a `Network`; or such a function, or an `nn.Module`, itself.
    weights : "random" (drawn from `seed`), "pretrained" (downloaded by torchvision or timm), a weight file, or None:
        drawn from `seed` for "digits_cnn", whatever the function gives for a function; an error elsewhere.
    seed : of everything that is drawn; the global generator is left alone.
    preprocess : instead of the published one. A torchvision network with random weights, or weights from a file, gets
        that of torchvision's first published weights (224 px, ImageNet mean and SD, for most); a file that torchvision
        publishes, known by its sha256, gets its own.
    head : dotted name of the final linear layer, instead of the one found.
    num_classes : number of logits; passed on to a function as the keyword `num_classes`. None: as published.

    Raises
    ------
    ConfigError : unknown name (the table is printed), weights not said, a function that cannot be imported or called.
    StoreError : the weight file is missing, unreadable or of another network; a download failed.

    Examples
    --------
    >>> network = build_network("digits_cnn", seed=1)
    >>> network.head, network.module.training
    ('head', False)
    """
    request = _Request(weights, seed, num_classes, preprocess)
    built = _build_named(model, request) if isinstance(model, str) else _build_function(model, _label(model), request)
    built.module.eval()
    if head is not None:
        find_module(built.module, head, what="head")
    return Network(
        name=built.name,
        module=built.module,
        preprocess=preprocess if preprocess is not None else built.preprocess,
        head=head or built.head or find_head(built.module, input_shape=built.input_shape),
        source=built.source,
        input_shape=_input_shape(preprocess) or built.input_shape,
    )


@dataclass(frozen=True)
class _Request:
    """How the weights were asked for."""

    weights: str | Path | None
    seed: int
    num_classes: int | None
    preprocess: Preprocessing | None

    @property
    def file(self) -> Path | None:
        """The weight file, if one was asked for."""
        return None if self.weights in (None, "random", "pretrained") else Path(str(self.weights))

    def said(self, name: str, *, offers: tuple[str | None, ...]) -> None:
        """Refuse weights that are not said, or that this sort of network does not come with."""
        if self.file is None and self.weights not in offers:
            came = "nothing was said" if self.weights is None else f"{self.weights!r} came"
            raise ConfigError(
                f"say which weights {name} shall have: {came}; give weights= a weight file"
                + "".join(f" or {offer!r}" for offer in offers if offer is not None)
            )

    def describe(self) -> str:
        """In words, without a path: what is written into outputs must not depend on the machine."""
        if self.file is not None:
            return f"weights of {self.file.name}"
        return {"pretrained": "pretrained weights"}.get(str(self.weights), f"random weights, seed {self.seed}")


def _build_named(name: str, request: _Request) -> Network:
    if name in ARCHITECTURES:
        return _build_own(name, request)
    if name == "efficientnet_lite0":
        return _build_efficientnet_lite0(request)
    library, _, rest = name.partition(":")
    if library == "timm":
        return _build_timm(rest, request)
    if library == "torchvision":
        return _build_torchvision(rest, request)
    if rest:
        return _build_function(_import_function(library, rest), name, request)
    import torchvision

    known = torchvision.models.list_models(module=torchvision.models)
    if name not in known:
        choose(name, [*OWN_NAMES, "torchvision:NAME", "timm:NAME", "module:function", *known], "network")
    return _build_torchvision(name, request)


def _build_own(name: str, request: _Request) -> Network:
    # the digits network is trained by its user; the ResNets are of use with their published weights only
    request.said(name, offers=("random", None) if name == "digits_cnn" else ("random",))
    module = build_architecture(name, num_classes=request.num_classes or 10, seed=request.seed)
    if request.file is not None:
        put_weights(module, read_weights(request.file), what=request.file.name)
    if name == "digits_cnn":
        preprocess = Preprocessing(size=28, mean=(0.0,), std=(1.0,), channel_order="L")
        shape, head = (1, 28, 28), "head"
    else:
        preprocess, shape, head = Preprocessing(size=32), (3, 32, 32), "linear"
    return Network(name, module, preprocess, head, f"{name} of featattn_neuro, {request.describe()}", shape)


def _build_efficientnet_lite0(request: _Request) -> Network:
    import timm

    request.said("efficientnet_lite0", offers=("random",))
    with _seeded(request.seed):
        # not timm's "efficientnet_lite0": it takes the same tensors but pads differently and answers otherwise
        module = timm.create_model("tf_efficientnet_lite0", pretrained=False, num_classes=request.num_classes or 1000)
    if request.file is not None:
        state = rename_by_order(read_weights(request.file), module, what=request.file.name)
        put_weights(module, state, what=request.file.name)
    # what the published weights were trained with; ImageNet mean and SD cost ten points of accuracy
    preprocess = Preprocessing(256, "bicubic", 224, "255", (127.0,) * 3, (128.0,) * 3)
    source = f"timm tf_efficientnet_lite0, {request.describe()}"
    return Network("efficientnet_lite0", module, preprocess, "classifier", source, (3, 224, 224))


def _build_torchvision(name: str, request: _Request) -> Network:
    import torchvision

    choose(name, torchvision.models.list_models(module=torchvision.models), "torchvision network")
    request.said(f"torchvision:{name}", offers=("random", "pretrained"))
    options: dict[str, Any] = {} if request.num_classes is None else {"num_classes": request.num_classes}
    if request.file is not None:
        return _build_torchvision_from_file(name, request, request.file, options)
    if request.weights == "pretrained":
        entry = torchvision.models.get_model_weights(name).DEFAULT
        if request.num_classes not in (None, len(entry.meta["categories"])):
            raise ConfigError(
                f"the pretrained head of torchvision:{name} has {len(entry.meta['categories'])} classes; "
                f"num_classes={request.num_classes} came; leave it out, or use weights='random'"
            )
        module = _download(name, lambda: torchvision.models.get_model(name, weights=entry))
    else:
        entry = next(iter(torchvision.models.get_model_weights(name)))
        with _seeded(request.seed):
            module = torchvision.models.get_model(name, weights=None, **options)
    preprocess = _torchvision_preprocessing(entry.transforms())
    source = f"torchvision {name}, {request.describe()}"
    return Network(name, module, preprocess, None, source, _input_shape(preprocess))


_INCEPTION = ("googlenet", "inception_v3")
"""Networks to which torchvision adds a transform of the input whenever it loads their published weights."""

_OLD_DENSENET_NAME = re.compile(r"(.*denselayer\d+\.(?:norm|relu|conv))\.([12]\.\w+)")


def _build_torchvision_from_file(name: str, request: _Request, file: Path, options: dict[str, Any]) -> Network:
    """A network with the weights of a file; one that torchvision publishes gives the network that torchvision makes."""
    import torchvision

    state = read_weights(file)
    entries = list(torchvision.models.get_model_weights(name))
    published = _published_entry(file, entries)
    if name in _INCEPTION:
        if published is None and request.preprocess is None:
            raise ConfigError(
                f"{file.name} is no file that torchvision publishes for {name}, so whether the network transforms its "
                "input (transform_input) is not known; load the weights yourself and pass the module in hand, or give "
                "preprocess= for a network that takes its images untransformed"
            )
        options = {**options, "init_weights": False, "transform_input": published is not None}
    with _seeded(request.seed):
        module = torchvision.models.get_model(name, weights=None, **options)
    if name.startswith("densenet"):  # as torchvision does with its own files, which are older than its names
        state = {_OLD_DENSENET_NAME.sub(r"\1\2", key): value for key, value in state.items()}
    put_weights(module, state, what=file.name)
    source = f"torchvision {name}, {request.describe()}"
    if published is not None:
        source += f", published as {published.name}"
        if name == "googlenet":  # its auxiliary heads are published untrained
            module.aux_logits, module.aux1, module.aux2 = False, None, None
    elif name in _INCEPTION:
        source += ", transform_input=False"
    preprocess = _torchvision_preprocessing((published or entries[0]).transforms())
    return Network(name, module, preprocess, None, source, _input_shape(preprocess))


def _published_entry(file: Path, entries: Sequence[Any]) -> Any:
    """The published weights that a file holds, by the start of its sha256, which their addresses carry; or None."""
    with open(file, "rb") as handle:
        sha256 = hashlib.file_digest(handle, "sha256").hexdigest()
    for entry in entries:
        found = re.search(r"-([0-9a-f]{8,})\.", entry.url)
        if found is not None and sha256.startswith(found[1]):
            return entry
    return None


def _torchvision_preprocessing(transform: Any) -> Preprocessing:
    return Preprocessing(
        size=transform.resize_size[0],
        interpolation=transform.interpolation.value,
        crop=transform.crop_size[0],
        mean=tuple(transform.mean),
        std=tuple(transform.std),
    )


def _build_timm(name: str, request: _Request) -> Network:
    import timm

    if not timm.is_model(name):
        choose(name, timm.list_models(), "timm network")
    request.said(f"timm:{name}", offers=("random", "pretrained"))
    options: dict[str, Any] = {} if request.num_classes is None else {"num_classes": request.num_classes}
    with _seeded(request.seed):
        if request.weights == "pretrained":
            module = _download(name, lambda: timm.create_model(name, pretrained=True, **options))
        else:
            module = timm.create_model(name, pretrained=False, **options)
    if request.file is not None:
        put_weights(module, read_weights(request.file), what=request.file.name)
    config = timm.data.resolve_model_data_config(module)
    preprocess = request.preprocess or _timm_preprocessing(config, name)
    return Network(name, module, preprocess, None, f"timm {name}, {request.describe()}", tuple(config["input_size"]))


def _timm_preprocessing(config: dict[str, Any], name: str) -> Preprocessing:
    channels, height, width = config["input_size"]
    mode = config.get("crop_mode", "center")
    if mode not in ("center", "squash") or height != width or channels != 3:
        raise ConfigError(
            f"timm:{name} was published for {channels} x {height} x {width} inputs with crop mode {mode!r}, which "
            "Preprocessing does not offer; give preprocess= what you want instead"
        )
    return Preprocessing(
        size=int(height / config["crop_pct"]),
        interpolation=config["interpolation"],
        crop=height,
        mean=tuple(config["mean"]),
        std=tuple(config["std"]),
        square=mode == "squash",
    )


def _build_function(function: Callable[..., Any], name: str, request: _Request) -> Network:
    if request.weights == "pretrained":
        raise ConfigError(
            f"{name} gives its own weights, so weights='pretrained' says nothing; leave weights out, or name a file"
        )
    if isinstance(function, nn.Module | Network):
        built = as_network(function)
        if request.num_classes is not None or request.weights is not None:
            raise ConfigError(
                f"{name} is a finished network: weights and num_classes cannot be changed; load the weights first, "
                "or give a function that makes the network"
            )
        return built
    options: dict[str, Any] = {} if request.num_classes is None else {"num_classes": request.num_classes}
    with _seeded(request.seed):
        try:
            made = function(**options)
        except FeatattnError:
            raise
        except Exception as error:
            raise ConfigError(
                f"{name} raised {type(error).__name__}: {error}; it must return an nn.Module when called with "
                f"{options or 'no arguments'}"
            ) from error
    if not isinstance(made, nn.Module | Network):
        raise ConfigError(f"{name} must return an nn.Module; it returned {type(made).__name__}; return the network")
    built = made if isinstance(made, Network) else Network(name, made, source=f"{name}, weights as it gives them")
    if request.file is not None:
        put_weights(built.module, read_weights(request.file), what=request.file.name)
        built = Network(
            built.name, built.module, built.preprocess, built.head, f"{name}, {request.describe()}", built.input_shape
        )
    return built


def _import_function(module_name: str, function_name: str) -> Callable[..., Any]:
    what = f"{module_name}:{function_name}"
    here = str(Path.cwd())
    sys.path.insert(0, here)
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
            raise ConfigError(f"{what} needs the package {error.name!r}, which is not installed; install it") from error
        raise ConfigError(
            f"there is no importable module {module_name!r} for {what}; run from the folder that holds "
            f"{module_name.partition('.')[0]}.py, or install it"
        ) from error
    except Exception as error:
        raise ConfigError(f"importing {module_name} for {what} raised {type(error).__name__}: {error}") from error
    finally:
        sys.path.remove(here)
    public = [name for name, value in vars(module).items() if callable(value) and not name.startswith("_")]
    function: Callable[..., Any] = getattr(module, choose(function_name, public, f"function of {module_name}"))
    return function


def _download(name: str, make: Callable[[], nn.Module]) -> nn.Module:
    try:
        return make()
    except Exception as error:  # each library, and each of its transports, has errors of its own
        raise StoreError(
            f"the pretrained weights of {name} could not be had ({type(error).__name__}: {error}); connect to the "
            "network once, or give weights= a file that holds them"
        ) from error


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


def _input_shape(preprocess: Preprocessing | None) -> tuple[int, int, int] | None:
    if preprocess is None or preprocess.output_size is None:
        return None
    return preprocess.channels, preprocess.output_size, preprocess.output_size


def _label(model: Any) -> str:
    return str(getattr(model, "__name__", type(model).__name__))

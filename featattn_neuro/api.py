"""The public names, wired: a name becomes a file, a network, stimuli. No logic of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import xarray as xr
from torch import nn

from featattn_neuro.errors import ConfigError, DataError, choose
from featattn_neuro.io import manifest
from featattn_neuro.io.neural import read_neural
from featattn_neuro.io.recording_store import recording_store
from featattn_neuro.io.splits import check_disjoint
from featattn_neuro.io.stimuli import Stimuli, load_stimuli
from featattn_neuro.io.store import open_kind, save_kind
from featattn_neuro.measures.gain_selectivity import gain_selectivity
from featattn_neuro.measures.neural_match import neural_match
from featattn_neuro.measures.selectivity import selectivity
from featattn_neuro.nets import gains as _gains
from featattn_neuro.nets.adapters import Network, as_network, bare_network, build_network, list_layers
from featattn_neuro.nets.arms import ArmRule, arm_network, arm_start
from featattn_neuro.nets.batches import as_tensor
from featattn_neuro.nets.channels import ChannelAxis
from featattn_neuro.nets.cutting import require_head
from featattn_neuro.nets.datasets import DatasetStimuli, first_raw, is_torch_source
from featattn_neuro.nets.detectors import Detector, feature_scale, logistic_detectors
from featattn_neuro.nets.fingerprint import digest, recording_inputs
from featattn_neuro.nets.folding import fold_gains
from featattn_neuro.nets.gain_collections import GainSets, GainSwitch, compose_gains
from featattn_neuro.nets.gain_collections import switchable_gains as _switchable_gains
from featattn_neuro.nets.gain_sets import to_gain_set
from featattn_neuro.nets.hooks import placed
from featattn_neuro.nets.learning import Schedule, fit_tasks
from featattn_neuro.nets.loading import usual_workers
from featattn_neuro.nets.modulation import COMBINATIONS
from featattn_neuro.nets.plan import make_plan
from featattn_neuro.nets.preprocessing import Preprocessing
from featattn_neuro.nets.recording import MemorySink, run_plan
from featattn_neuro.nets.reductions import Reducer
from featattn_neuro.nets.saliency import gain_saliency as _gain_saliency
from featattn_neuro.nets.selection import Layers
from featattn_neuro.nets.sites import select_sites
from featattn_neuro.nets.training import head_inputs

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

__all__ = [
    "GainSets",
    "Preprocessing",
    "compose_gains",
    "fold_gains",
    "gain_saliency",
    "gain_selectivity",
    "learn_gains",
    "list_layers",
    "load_model",
    "load_stimuli",
    "neural_match",
    "open_kind",
    "read_neural",
    "record",
    "save_kind",
    "selectivity",
    "switchable_gains",
    "with_gains",
]


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


def _network(model: nn.Module | Network) -> Network:
    return as_network(model)


def _stimuli(stimuli: Any, network: Network, corrupt: str = "error") -> tuple[Any, Preprocessing | None]:
    """Stimuli and how to preprocess them: arrays are taken as they stand."""
    if isinstance(stimuli, Stimuli):
        return stimuli, network.preprocess
    if is_torch_source(stimuli):
        found = DatasetStimuli(stimuli, skip=corrupt == "skip")
        # tensors are what the dataset's own transform made of the images; decoded pictures still want preprocessing
        return found, network.preprocess if len(found) and _is_picture(found) else None
    if isinstance(stimuli, str | Path) or (
        isinstance(stimuli, list | tuple) and stimuli and all(isinstance(one, str | Path) for one in stimuli)
    ):
        return load_stimuli(stimuli, corrupt="keep" if corrupt == "skip" else corrupt), network.preprocess
    return load_stimuli(stimuli, label=None), None


def _is_picture(stimuli: DatasetStimuli) -> bool:
    return first_raw(stimuli).dtype == np.uint8


def record(
    model: nn.Module | Network,
    stimuli: Any,
    layers: Layers,
    *,
    reduce: Reducer | Sequence[Reducer] = "mean",
    batch_size: int = 32,
    device: str | torch.device | None = None,
    out: str | Path | None = None,
    cache: str | Path | None = None,
    overwrite: bool = False,
    workers: int | None = None,
    corrupt: str = "error",
    dtype: str = "float32",
    compute_dtype: str = "float32",
    channel_axis: ChannelAxis = None,
    progress: Callable[[int, int], None] | None = None,
    timing: dict[str, float] | None = None,
) -> xr.Dataset:
    """Responses of a network's filters to stimuli.

    Parameters
    ----------
    model : an `nn.Module`, or what `load_model` gives.
    stimuli : what `load_stimuli` gives (preprocessed as the network's weights want); a folder, data-set name or list of
        image files; an array or tensor (N, C, H, W), taken as it stands; or a torch dataset or loader (items that are
        tensors are taken as they stand, pictures are preprocessed).
    layers : dotted names, globs ("layer3.*.relu*"), regular expressions ("re:layer[12]\\..*"), stages ("conv",
        "activation"), types (nn.Conv2d or "Conv2d"), functions (name, module) -> bool, or several of these. A text that
        means no module is looked up among the functional operations of the torch.fx graph, named as torchvision's
        `get_graph_node_names` does ("layer1.0.add", "relu_1"); all layers are then recorded through that graph.
    reduce : "mean", "max", "sum", "sd", "centre", a quantile ("q0.9") over positions, or a function of maps
        (N, C, H, W) to (N, C); several give a dimension `reduction`. "none" keeps every position as a unit, with
        coordinates `y` and `x`.
    batch_size : compute batch; the last one is padded, so a row never depends on how many others there are.
    device : where to compute; None = where the network is. The network is brought back afterwards.
    out : file to record into, .zarr (streamed; memory does not grow with the number of stimuli; taken up again after a
        kill) or .nc (written from such a store at the end). If it holds this very recording, that is returned.
    cache : folder for recordings named by their content; the same recording is made once. Not together with `out`.
    overwrite : replace another recording at `out`.
    workers : processes that decode and preprocess images while the network computes; None = a few for image files.
    corrupt : images that cannot be read: "error" names the first, "skip" leaves them out and lists them in `skipped`.
    dtype : of the stored values: "float32", "float16" or "float64".
    compute_dtype : "float32" = as the network is; "float16" or "bfloat16" by torch.autocast.
    channel_axis : where the filters are, for layers in which no rule says it; one for all or {layer: axis}.
    progress : called with (stimuli done, stimuli in all).
    timing : a dictionary to be filled with the seconds that the network computed and waited for images.

    Returns
    -------
    ACTIVATIONS : `response(stimulus, unit)`, units of the layers' outputs; `unit` has coordinates `layer`, `channel`,
        `call`, `stage` (`node` for the graph); `stimulus` its content ids, `label` and `path` where they are known.
        Attribute `recorded_through` says "module hooks" or "torch.fx graph". Opened lazily with `out` or `cache`.

    Raises
    ------
    ConfigError : unknown layer (nearest names are listed). DataError : a layer without filters, unequal image sizes.
    StoreError : `out` holds another recording, or another process is writing it.

    >>> net = nn.Sequential(nn.Conv2d(1, 1, 1), nn.ReLU(inplace=True))
    >>> _ = nn.init.constant_(net[0].weight, 1.0), nn.init.constant_(net[0].bias, -3.0)
    >>> record(net, np.ones((1, 1, 2, 2), np.float32), ["0", "1"]).response.values  # 1 - 3, then ReLU
    array([[-2.,  0.]], dtype=float32)
    """
    choose(corrupt, ("error", "skip"), "treatment of corrupt images")
    if out is not None and cache is not None:
        raise ConfigError("out names the file, cache lets the content name it: give one of them")
    # the head plays no part here, and finding it takes as long as dozens of images
    network = bare_network(model)
    plan = make_plan(
        network.module, layers, reduce, batch_size=batch_size, dtype=dtype, compute_dtype=compute_dtype,
        channel_axis=channel_axis,
    )  # fmt: skip
    if out is not None and Path(out).suffix == ".nc" and dtype == "float16":
        raise ConfigError("netCDF-4 has no float16; store float32, or record into .zarr")
    images, preprocess = _stimuli(stimuli, network, corrupt)
    with placed(network.module, device) as place:
        run = partial(
            run_plan, network.module, plan, images, preprocess=preprocess, device=place, corrupt=corrupt,
            workers=usual_workers(images, batch_size) if workers is None else workers,
            attrs={"network_name": network.name, "recorded_dtype": dtype}, progress=progress, timing=timing,
        )  # fmt: skip
        if out is None and cache is None:
            return run(MemorySink())
        inputs = recording_inputs(network.module, plan, preprocess, images.digest(), place)
        key = digest({**inputs, "name": network.name, "corrupt": corrupt})
        if cache is not None:
            Path(cache).mkdir(parents=True, exist_ok=True)
        path = Path(out) if out is not None else Path(str(cache)) / f"{key}.zarr"
        with recording_store(path, key=key, inputs=inputs, overwrite=overwrite) as store:
            return open_kind(path, "ACTIVATIONS") if store is None else run(store)


def _targets(labels: Any, stimuli: Stimuli) -> tuple[np.ndarray, list[str] | None]:
    """(T, N) bool in the order of the stimuli, and task names (None: one unnamed task)."""
    if isinstance(labels, xr.DataArray):
        if "stimulus" not in labels.dims or set(labels.dims) - {"task", "stimulus"}:
            raise DataError(f"labels must be over 'stimulus' or (task, stimulus); came {labels.dims}; rename them")
        known = set(labels["stimulus"].values.tolist())
        missing = [i for i in stimuli.id.tolist() if i not in known]
        if missing:
            raise DataError(f"labels name no stimulus {missing[0][:12]}… ({len(missing)} missing); match labels by id")
        labels = labels.sel(stimulus=np.asarray(stimuli.id))
        if "task" in labels.dims:
            if labels.dtype != bool and not np.isin(labels.values, (0, 1)).all():
                raise DataError(
                    "labels over (task, stimulus) must be true or false; came other values; see `learn_gains`"
                )
            return labels.transpose("task", "stimulus").values.astype(bool), [str(t) for t in labels["task"].values]
        labels = labels.values
    values = np.asarray(labels.cpu() if isinstance(labels, torch.Tensor) else labels)
    if values.shape != (len(stimuli),):
        raise DataError(f"labels must be one per stimulus ({len(stimuli)}); came shape {values.shape}")
    kinds = np.unique(values)
    if len(kinds) < 2:
        raise DataError(f"labels must name two classes or more; all {len(values)} are {kinds.tolist()}")
    if len(kinds) == 2 and (values.dtype == bool or set(kinds.tolist()) == {0, 1}):
        return values.astype(bool)[None], None
    return np.stack([values == kind for kind in kinds]), [str(kind) for kind in kinds]


def learn_gains(
    model: nn.Module | Network,
    stimuli: Any,
    labels: ArrayLike | xr.DataArray,
    layers: str | Iterable[str],
    *,
    head_stimuli: Any = None,
    head_labels: ArrayLike | xr.DataArray | None = None,
    train_head: bool | None = None,
    rate: float = 0.03,
    penalty: float = 0.0,
    epochs: int = 30,
    batch_size: int = 60,
    seed: int = 0,
    device: str | torch.device | None = None,
    per: str = "filter",
    shift: bool = False,
    parameterisation: str = "log",
    combination: str = "multiplicative",
    penalty_norm: str = "l2",
) -> xr.Dataset:
    """Learn one multiplicative gain per filter for a detection task, the network frozen.

    Parameters
    ----------
    stimuli : as in `record`. labels : one per stimulus: booleans (or 0 and 1) for one task; more values make one
        detection task each (class against the rest); or a boolean DataArray over stimulus, or (task, stimulus),
        matched by id.
    layers : gained sites (names, globs, stages); a gain multiplies the site's output, or with ".input" behind the
        pattern ("relu1.input") what goes into it.
    head_stimuli, head_labels : other images on which a read-out is fitted first (balanced logistic regression, C = 1)
        and then kept frozen. Without them the read-out starts at 0 and is learned together with the gains; then only
        gain times weight is identified at the last layer, and gains should not be compared with selectivity.
    train_head : False = frozen (default with `head_stimuli`), True = learned with the gains (default without).
    rate, penalty, epochs, batch_size, seed : Adam; penalty times mean (log gain)^2 pulls gains to 1.
    per : "filter" one gain each; "layer" one for all filters of a layer; "position" one per place of a layer's maps
        (`spatial`); "filter and position" both, acting together as `combination` says: "multiplicative" g s, or
        "additive" 1 + (g - 1) + (s - 1).
    shift : a number per filter is learned too, added to the gained map (`shift`).
    parameterisation : "log" g = exp theta; "free", "non_negative", "bounded(low, high)", "log(low, high)"; with
        "+layer_mean" the gains of a layer keep the mean 1. The penalty is of log g where that is what is learned, of
        g - 1 otherwise. penalty_norm : "l2" squares, "l1" absolute values.

    Returns
    -------
    GAINS : `gain(unit)`, or `gain(task, unit)` with several tasks; positive (g = exp theta, theta starts at 0); with
        the read-out (`head_weight`, `head_bias`, `feature_scale`) and the ids of the source stimuli
        (`training_source`). Attribute `head_rule` says whether the head was frozen.

    Raises
    ------
    ConfigError : no head found (name it with `load_model(..., head=)`). DataError : one class only, labels that do not
        fit, read-out images that are among `stimuli`, a loss that is not finite.
    """
    network = _network(model)
    head = require_head(network.head, network.name)
    images, preprocess = _stimuli(stimuli, network)
    target, names = _targets(labels, images)
    if (head_stimuli is None) != (head_labels is None):
        raise ConfigError("head_stimuli and head_labels belong together; give both or neither")
    if head_stimuli is None and train_head is False:
        raise ConfigError("a frozen head needs other images to be fitted on: give head_stimuli= and head_labels=")
    learns_head = head_stimuli is None if train_head is None else train_head
    pixels = as_tensor(images, preprocess)
    with placed(network.module, device) as place:
        if head_stimuli is None:
            scale = feature_scale(head_inputs(network.module, head, pixels.to(place)))
            detector = Detector(np.zeros((len(target), len(scale))), np.zeros(len(target)), scale)
        else:
            others, other_preprocess = _stimuli(head_stimuli, network)
            check_disjoint(stimuli=images, head_stimuli=others)
            other_target, other_names = _targets(head_labels, others)
            if other_names != names:
                raise DataError(f"head_labels must name the same tasks as labels ({names}); came {other_names}")
            features = head_inputs(network.module, head, as_tensor(others, other_preprocess).to(place))
            detector = logistic_detectors(features, other_target)
        rule = _gain_rule(per, shift, parameterisation, combination)
        cut = arm_network(network.module, select_sites(network.module, layers), head, rule.place, place)
        assert cut is not None  # only norms can be absent
    rows = cut.prefix(pixels)
    fit = fit_tasks(
        cut,
        rows,
        target,
        arm_start(rule, cut, detector, network.module, pixels[:1]),
        Schedule(rate=rate, penalty=penalty, batch_size=batch_size, epochs=epochs, seed=seed, norm=penalty_norm),
        train_gains=True,
        train_head=learns_head,
        names=names or ["target"],
    )
    attrs: dict[str, str | float | int] = {
        "network_name": network.name,
        "weights_sha256": network.weights_sha256,
        "head_rule": "learned with the gains" if learns_head else "frozen",
        "rate": rate,
        "penalty": penalty,
        "epochs": epochs,
        "batch_size": batch_size,
        "seed": seed,
        "frozen_part_cached": "yes" if cut.cached else f"no: {cut.reason}",
    }
    gains = to_gain_set(cut, fit.state, names or ["target"], images.sources(), attrs=attrs)
    return gains if names is not None else gains.isel(task=0, drop=True)


_PER = {
    "filter": ArmRule("filter"),
    "layer": ArmRule("layer"),
    "position": ArmRule(spatial=True),
    "filter and position": ArmRule("filter", spatial=True),
}


def _gain_rule(per: str, shift: bool, parameterisation: str, combination: str) -> ArmRule:
    """What `learn_gains` is to learn; a combination is refused where there is nothing to combine."""
    rule = _PER[choose(per, _PER, "kind of gain")].with_settings(parameterisation)
    choose(combination, COMBINATIONS, "combination")
    if combination != "multiplicative" and per != "filter and position":
        raise ConfigError(f"combination={combination!r} is for per='filter and position'; came per={per!r}")
    return replace(rule, shift=shift, combination=combination)


def switchable_gains(model: nn.Module | Network, sets: Mapping[str, xr.Dataset]) -> AbstractContextManager[GainSwitch]:
    """Switch between named gain sets inside a `with`: `switch("cat")`, `switch("cat", "dog")` for both, `switch()`.

    Parameters
    ----------
    sets : `GainSets`, or a mapping from names to GAINS of one task. At first none of them acts.

    Every switch places hooks anew and divides nothing out: what it gives does not depend on what was before.
    """
    return _switchable_gains(_network(model).module, sets)


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
    gains : GAINS, `gain(unit)`; with several tasks, `task` names one. Shifts, gains per position and sites before a
        layer ("relu1.input") act too where the set has them.
    channel_axis : as in `record`, for layers in which neither a rule nor the number of gains says where filters are.

    All g = 1 leaves the outputs bit-identical; g = 0 silences a filter until the `with` ends. Sets may be nested;
    `GainSets` names them, `compose_gains` multiplies them, `switchable_gains` switches between them.

    >>> net = nn.Sequential(nn.Conv2d(1, 1, 1, bias=False))
    >>> _ = nn.init.constant_(net[0].weight, 1.0)
    >>> unit = {"unit": ["0/000"], "layer": ("unit", ["0"]), "channel": ("unit", [0])}
    >>> gains = xr.Dataset({"gain": ("unit", [3.0])}, unit, {"kind": "GAINS"})
    >>> with with_gains(net, gains) as gained:
    ...     gained(torch.ones(1, 1, 1, 1)).item()
    3.0
    """
    return _gains.with_gains(_network(model).module, gains, task=task, channel_axis=channel_axis)


def gain_saliency(
    model: nn.Module | Network,
    gains: xr.Dataset,
    stimuli: Any,
    *,
    layer: str,
    task: str | Sequence[str] | None = None,
    upstream: bool = False,
    relative_to_mean: bool = False,
    batch_size: int = 32,
    device: str | torch.device | None = None,
) -> xr.Dataset:
    """Where in the images the gains of a layer amplify: S(y, x) = sum over filters k of (g_k - 1) A_k(y, x).

    See `featattn_neuro.nets.saliency.gain_saliency` for parameters and units; `stimuli` as in `record`.

    Returns
    -------
    SALIENCY : `excess(stimulus, y, x)` (with `task` in front for several tasks), signed, units of the layer's output;
        y and x in pixels of the network's input. All g = 1 gives exactly 0.
    """
    network = _network(model)
    images, preprocess = _stimuli(stimuli, network)
    with placed(network.module, device) as place:
        return _gain_saliency(
            network.module, gains, images, layer=layer, task=task, preprocess=preprocess, upstream=upstream,
            relative_to_mean=relative_to_mean, batch_size=batch_size, device=place,
        )  # fmt: skip

"""The public names, wired: a name becomes a file, a network, stimuli. No logic of its own."""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from functools import partial, wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

import numpy as np
import torch
import xarray as xr
from torch import nn

from featattn_neuro.arrays import choice as _choice
from featattn_neuro.arrays import class_selectivity as _classes
from featattn_neuro.arrays import discrimination as _discrimination
from featattn_neuro.arrays import orientation as _orientation
from featattn_neuro.arrays import signal_detection as _detection
from featattn_neuro.arrays import sparseness as _sparseness
from featattn_neuro.arrays import tuning_fits as _fits
from featattn_neuro.arrays import variability as _variability
from featattn_neuro.errors import ConfigError, DataError, choose
from featattn_neuro.io import gain_files, manifest
from featattn_neuro.io.labels import SEPARATOR, label_matrix, read_labels
from featattn_neuro.io.masks import read_boxes, read_segmentations
from featattn_neuro.io.neural import read_neural
from featattn_neuro.io.neural_names import with_stimulus_ids
from featattn_neuro.io.parametric_stimuli import parametric_stimuli, quadrant_arrays
from featattn_neuro.io.recording_store import recording_store
from featattn_neuro.io.row_store import RowFolder
from featattn_neuro.io.saliency_store import saliency_store
from featattn_neuro.io.splits import check_disjoint
from featattn_neuro.io.stimuli import Stimuli, load_stimuli
from featattn_neuro.io.store import BlobFolder, open_kind, save_kind, write_bytes_atomic
from featattn_neuro.measures.attention_effects import attention_effects
from featattn_neuro.measures.filter_matching import gain_selectivity_in, select_like_neurons, tuning_match
from featattn_neuro.measures.gain_selectivity import gain_selectivity
from featattn_neuro.measures.localisation import localisation
from featattn_neuro.measures.neural_match import neural_match
from featattn_neuro.measures.selectivity import average_trials, selectivity
from featattn_neuro.measures.simulated_population import simulate_population
from featattn_neuro.measures.streaming import class_moments, merge_moments, selectivity_from_moments
from featattn_neuro.measures.tuning import tuning
from featattn_neuro.measures.tuning_indices import tuning_indices
from featattn_neuro.nets import gains as _gains
from featattn_neuro.nets.adapters import Network, as_network, bare_network, build_network, list_layers
from featattn_neuro.nets.arms import ArmRule, arm_network, arm_start
from featattn_neuro.nets.batches import as_tensor
from featattn_neuro.nets.causal import causal_check as _causal_check
from featattn_neuro.nets.channels import ChannelAxis
from featattn_neuro.nets.checkpoints import Checkpoints
from featattn_neuro.nets.cutting import CutNetwork, require_head
from featattn_neuro.nets.datasets import DatasetStimuli, first_raw, is_torch_source
from featattn_neuro.nets.detectors import Detector, as_tensors, feature_scale, logistic_detectors
from featattn_neuro.nets.fingerprint import digest, recording_inputs, surroundings
from featattn_neuro.nets.folding import fold_gains, unfold_gains
from featattn_neuro.nets.gain_collections import GainSets, GainSwitch, compose_gains
from featattn_neuro.nets.gain_collections import switchable_gains as _switchable_gains
from featattn_neuro.nets.gain_sets import detector_of, to_gain_set
from featattn_neuro.nets.hooks import placed
from featattn_neuro.nets.learning import Schedule, Trained, fit_tasks, logits
from featattn_neuro.nets.loading import usual_workers
from featattn_neuro.nets.modulation import COMBINATIONS
from featattn_neuro.nets.onnx_export import check_onnx, onnx_bytes
from featattn_neuro.nets.peft_layout import gains_from_peft, peft_layout
from featattn_neuro.nets.permuted_scores import permuted_scores
from featattn_neuro.nets.plan import make_plan, select_layers
from featattn_neuro.nets.prefix_cache import (
    MEMORY_LIMIT,
    Augmentation,
    PrefixCache,
    augmented_rows,
    check_alive,
    count_filters,
)
from featattn_neuro.nets.preprocessing import Preprocessing
from featattn_neuro.nets.recording import MemorySink, run_plan
from featattn_neuro.nets.reductions import Reducer
from featattn_neuro.nets.saliency import gain_saliency as _gain_saliency
from featattn_neuro.nets.saliency import saliency_by_layer as _saliency_by_layer
from featattn_neuro.nets.selection import Layers
from featattn_neuro.nets.sites import select_sites
from featattn_neuro.nets.streaming import MomentsSink
from featattn_neuro.nets.target_importance import LUO_RATE, learn_target_importance
from featattn_neuro.nets.tasks import KINDS, ClassWeight, declared_weights, learn_jointly, softmax_read_out
from featattn_neuro.nets.theory_gains import (
    METHODS,
    gradient_values,
    site_means,
    theory_factors,
    tuning_values_of,
    with_factors,
)
from featattn_neuro.nets.training import head_inputs
from featattn_neuro.nets.weights import weights_bytes
from featattn_neuro.schema import GAINS, SCORES

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

__all__ = [
    "GainSets",
    "Preprocessing",
    "apply_filter_sets",
    "attention_effects",
    "average_trials",
    "causal_check",
    "choice_probability",
    "class_moments",
    "class_selectivity",
    "compose_gains",
    "delong_interval",
    "direction_selectivity",
    "discriminate",
    "dprime",
    "eta_squared",
    "export_gains",
    "fano_factor",
    "fit_tuning",
    "fold_gains",
    "gain_saliency",
    "gain_selectivity",
    "gain_selectivity_in",
    "grand_choice_probability",
    "import_gains",
    "learn_gains",
    "lifetime_sparseness",
    "list_layers",
    "load_model",
    "load_stimuli",
    "localisation",
    "merge_moments",
    "neural_match",
    "neurometric_function",
    "noise_correlation",
    "open_kind",
    "orientation_selectivity",
    "parametric_stimuli",
    "picture_saliency",
    "population_sparseness",
    "prefix_cache",
    "quadrant_arrays",
    "read_neural",
    "record",
    "roc_area",
    "roc_curve",
    "saliency_by_layer",
    "save_folded",
    "save_kind",
    "score_saliency",
    "select_like_neurons",
    "selectivity",
    "selectivity_from_moments",
    "signal_detection",
    "simulate_population",
    "stream_moments",
    "switchable_gains",
    "target_importance_gains",
    "theory_gains",
    "tuning",
    "tuning_indices",
    "tuning_match",
    "unfold_gains",
    "with_gains",
    "with_stimulus_ids",
]

P = ParamSpec("P")
R = TypeVar("R")


def _public(kernel: Callable[P, R]) -> Callable[P, R]:
    """`kernel` of `arrays`, whose complaints about its input become errors that the command line prints alone."""

    @wraps(kernel)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return kernel(*args, **kwargs)
        except ValueError as error:
            raise DataError(f"{kernel.__name__}: {error}") from error

    return call


dprime = _public(_discrimination.dprime)
roc_area = _public(_discrimination.roc_area)
discriminate = _public(_discrimination.discriminate)
delong_interval = _public(_discrimination.delong_interval)
roc_curve = _public(_discrimination.roc_curve)
signal_detection = _public(_detection.signal_detection)
eta_squared = _public(_classes.eta_squared)
class_selectivity = _public(_classes.class_selectivity)
lifetime_sparseness = _public(_sparseness.lifetime_sparseness)
population_sparseness = _public(_sparseness.population_sparseness)
orientation_selectivity = _public(_orientation.orientation_selectivity)
direction_selectivity = _public(_orientation.direction_selectivity)
fit_tuning = _public(_fits.fit_tuning)
fano_factor = _public(_variability.fano_factor)
noise_correlation = _public(_variability.noise_correlation)
choice_probability = _public(_choice.choice_probability)
grand_choice_probability = _public(_choice.grand_choice_probability)
neurometric_function = _public(_choice.neurometric_function)


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
    reduce : "mean", "max", "sum", "sd", "centre" of maps, "first" of a sequence (the class token of a vision
        transformer), a quantile ("q0.9") over positions, or a function of maps (N, C, H, W) to (N, C); several give a
        dimension `reduction`. "none" keeps every position as a unit, with coordinates `y` and `x`.
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
        Attributes: `recorded_through` ("module hooks" or "torch.fx graph"), `preprocessing`, `channel_rule`,
        `compute_dtype`, `batch_size`. Opened lazily with `out` or `cache`.

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
            attrs={
                "network_name": network.name,
                "preprocessing": _in_words(preprocess),
                "recorded_dtype": dtype,
            },
            progress=progress, timing=timing,
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


def stream_moments(
    model: nn.Module | Network,
    stimuli: Any,
    layers: Layers,
    *,
    target: xr.DataArray | None = None,
    reduce: Reducer | Sequence[Reducer] = "mean",
    batch_size: int = 32,
    device: str | torch.device | None = None,
    workers: int | None = None,
    corrupt: str = "error",
    compute_dtype: str = "float32",
    channel_axis: ChannelAxis = None,
    progress: Callable[[int, int], None] | None = None,
) -> xr.Dataset:
    """Sum up the responses of filters per class while stimuli go by: d' of any number of stimuli without storage.

    Parameters
    ----------
    target : None = one group per label of the stimuli; or a boolean DataArray over `stimulus` or (task, stimulus),
        matched by stimulus id = targets and distractors of each task.
    model, stimuli, layers, reduce, batch_size, device, workers, corrupt, compute_dtype, channel_axis, progress : as in
        `record`; what is summed up is bit for bit what that would store. A folder's sub-folders are its labels.

    Returns
    -------
    MOMENTS over (group, unit), float64: count, mean, sum of squared deviations (M2), minimum, maximum, zeros. Memory
    grows with groups times units, and with the stimuli only by their ids. `selectivity_from_moments` makes d' of it;
    parts of a stimulus set, from other machines for instance, go through `merge_moments` first.

    Raises
    ------
    ConfigError : unknown layer or reduction (before the first batch). DataError : no labels and no target, stimuli
        that `target` does not name.

    Notes
    -----
    Chan, Golub & LeVeque 1983; see `featattn_neuro.arrays.moments`.

    >>> net = nn.Sequential(nn.Conv2d(1, 1, 1))
    >>> _ = nn.init.constant_(net[0].weight, 1.0), nn.init.constant_(net[0].bias, 0.0)
    >>> pixels = np.array([3.0, 5.0, 1.0, 3.0], np.float32).reshape(4, 1, 1, 1) + np.zeros((4, 1, 1, 2), np.float32)
    >>> pixels[3, 0, 0] = 2.5, 3.5  # the same mean as the first, another image
    >>> moments = stream_moments(net, load_stimuli(pixels, label=["cat", "cat", "dog", "dog"]), "conv")
    >>> moments["mean"].values.ravel().tolist()
    [4.0, 2.0]
    >>> round(float(selectivity_from_moments(moments, "cat").dprime[0]), 3)  # (4 - 2)/sqrt 2
    1.414
    """
    choose(corrupt, ("error", "skip"), "treatment of corrupt images")
    network = bare_network(model)
    plan = make_plan(
        network.module, layers, reduce, batch_size=batch_size, compute_dtype=compute_dtype, channel_axis=channel_axis
    )
    images, preprocess = _stimuli(stimuli, network, corrupt)
    with placed(network.module, device) as place:
        return run_plan(
            network.module, plan, images, MomentsSink(target), preprocess=preprocess, device=place, corrupt=corrupt,
            workers=usual_workers(images, batch_size) if workers is None else workers,
            attrs={"network_name": network.name, "preprocessing": _in_words(preprocess)}, progress=progress,
        )  # fmt: skip


def _in_words(preprocess: Preprocessing | None) -> str:
    return "none: images as they stand" if preprocess is None else preprocess.describe()


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
    task: str = "detection",
    class_weight: ClassWeight = "balanced",
    cache: str | Path | PrefixCache | None = None,
    augment: Augmentation | None = None,
    checkpoint: str | Path | None = None,
    checkpoint_every: int = 50,
) -> xr.Dataset:
    """Learn one multiplicative gain per filter for a detection task, the network frozen.

    Parameters
    ----------
    stimuli : as in `record`. labels : one per stimulus: booleans (or 0 and 1) for one task; more values make one
        detection task each (class against the rest); or a boolean DataArray over stimulus, or (task, stimulus),
        matched by id; or the path of a CSV file with columns label and id or path ("cat|dog" = two labels).
    layers : gained sites (names, globs, stages); a gain multiplies the site's output, or with ".input" behind the
        pattern ("relu1.input") what goes into it. Functional operations are named as in `record` ("layer1.0.add").
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
    task : "detection" = gains of their own for each task or class; "multiclass" = one set of gains for all classes
        (softmax, each image has one); "multilabel" = one set of gains for all labels (a sigmoid each).
    class_weight : in the loss. "balanced" = equal mass for targets and distractors, or for all classes; "equal" = every
        image counts the same; or declared: {"target": 2, "distractor": 1}, and for "multiclass" {class: weight}.
    cache : the part of the network that no gain reaches is computed once per image and kept, in memory or, above 2 GiB,
        in a temporary folder. A path keeps it there for other calls and processes; a `PrefixCache` keeps it for further
        tasks on the same images, network and layers. Known again by content.
    augment : function of images (B, C, H, W) and a `torch.Generator`, drawn anew for every batch. Nothing can be kept
        then: attribute `frozen_part_cached` says so, and a warning if a cache was asked for.
    checkpoint : folder that learning writes to every `checkpoint_every` updates. Called again with the same arguments
        after an interruption, it goes on from there and ends bit for bit as if it had not stopped; removed at the end.

    Returns
    -------
    GAINS : `gain(unit)`, or `gain(task, unit)` with several tasks; positive (g = exp theta, theta starts at 0); with
        the read-out (`head_weight`, `head_bias`, `feature_scale`) and the ids of the source stimuli
        (`training_source`). Attribute `head_rule` says whether the head was frozen. One `gain(unit)` and read-outs
        over `output` for "multiclass" and "multilabel".

    Raises
    ------
    ConfigError : no head found (name it with `load_model(..., head=)`). DataError : one class only, labels that do not
        fit, read-out images that are among `stimuli`, a loss that is not finite, a layer whose filters are all silent.
        StoreError : the checkpoint is of other learning.
    """
    network = _network(model)
    head = require_head(network.head, network.name)
    images, preprocess = _stimuli(stimuli, network)
    target, names = _task_targets(labels, images, task)
    weights = declared_weights(target, names or ["target"], task, class_weight)
    if (head_stimuli is None) != (head_labels is None):
        raise ConfigError("head_stimuli and head_labels belong together; give both or neither")
    if head_stimuli is None and train_head is False:
        raise ConfigError("a frozen head needs other images to be fitted on: give head_stimuli= and head_labels=")
    learns_head = head_stimuli is None if train_head is None else train_head
    schedule = Schedule(rate=rate, penalty=penalty, batch_size=batch_size, epochs=epochs, seed=seed, norm=penalty_norm)
    rule = _gain_rule(per, shift, parameterisation, combination)
    with placed(network.module, device) as place:
        detector = None
        if head_stimuli is not None:
            others, other_preprocess = _stimuli(head_stimuli, network)
            check_disjoint(stimuli=images, head_stimuli=others)
            other_target, other_names = _task_targets(head_labels, others, task)
            if other_names != names:
                raise DataError(f"head_labels must name the same tasks as labels ({names}); came {other_names}")
            features = head_inputs(network.module, head, as_tensor(others, other_preprocess).to(place))
            fit_head = softmax_read_out if task == "multiclass" else logistic_detectors
            detector = fit_head(features, other_target)
        cut = arm_network(network.module, select_sites(network.module, layers), head, rule.place, place)
        assert cut is not None  # only norms can be absent
        with _frozen_rows(cut, images, preprocess, head=head, cache=cache, augment=augment, seed=seed) as (rows, kept):
            check_alive(cut, rows)
            if detector is None:
                scale = feature_scale(_plain_features(cut, rows))
                detector = Detector(np.zeros((len(target), len(scale))), np.zeros(len(target)), scale)
            single = Detector(detector.weight[:1], detector.bias[:1], detector.scale)
            first = as_tensor(images, preprocess, 0, 1)
            initial = arm_start(rule, cut, detector if task == "detection" else single, network.module, first)
            settings: dict[str, str | float | int] = {
                "network_name": network.name,
                "weights_sha256": network.weights_sha256,
                "head_rule": "learned with the gains" if learns_head else "frozen",
                "rate": rate,
                "penalty": penalty,
                "epochs": epochs,
                "batch_size": batch_size,
                "seed": seed,
                "frozen_part_cached": kept,
            }
            if task != "detection" or class_weight != "balanced":
                shown = class_weight if isinstance(class_weight, str) else dict(class_weight)
                settings |= {"task_kind": task, "class_weight": str(shown)}
            checkpoints, blobs = None, None
            if checkpoint is not None:
                blobs = BlobFolder(checkpoint)
                inputs = {
                    **settings, "frozen_part_cached": "", "sites": list(cut.layers), "rule": str(rule),
                    "norm": penalty_norm, "target": target, "weights": weights.numpy(), "names": names,
                    "detector": [detector.weight, detector.bias, detector.scale], "stimuli": images.digest(),
                    "preprocessing": digest(preprocess), "augment": digest(augment),
                    "versions": digest(surroundings(cut.device)),
                }  # fmt: skip
                checkpoints = Checkpoints(blobs, digest(inputs), checkpoint_every)
            if task == "detection":
                state = fit_tasks(
                    cut, rows, target, initial, schedule, train_gains=True, train_head=learns_head,
                    names=names or ["target"], image_weights=None if class_weight == "balanced" else weights,
                    checkpoints=checkpoints,
                ).state  # fmt: skip
                gains = to_gain_set(cut, state, names or ["target"], images.sources(), attrs=settings)
            else:
                outputs = as_tensors(detector, cut.device)
                joint = replace(initial, weight=outputs[0].clone(), bias=outputs[1].clone(), scale=outputs[2])
                state = learn_jointly(
                    cut, rows, target, joint, schedule, kind=task, image_weights=weights, train_head=learns_head,
                    keeper=None if checkpoints is None else checkpoints.keeper("joint"),
                )  # fmt: skip
                gains = _joint_gain_set(cut, state, names or [], images.sources(), settings)
    if blobs is not None:
        blobs.remove()
    return gains if names is not None and task == "detection" else gains.isel(task=0, drop=True)


def _task_targets(labels: Any, stimuli: Any, task: str) -> tuple[np.ndarray, list[str] | None]:
    """(T, N) bool and names: tasks for detection, classes or labels otherwise."""
    choose(task, KINDS, "kind of task")
    if isinstance(labels, str | Path):
        labels = read_labels(labels, stimuli)
    array = labels.values if isinstance(labels, xr.DataArray) else np.asarray(labels)
    several = array.dtype.kind in "UO" and any(SEPARATOR in str(one) for one in array.ravel())
    if several and task == "multiclass":
        raise DataError(f"each image has one class in a multiclass task; one has several ({SEPARATOR}); use multilabel")
    if several:
        if isinstance(labels, xr.DataArray):
            array = labels.sel(stimulus=np.asarray(stimuli.id)).values
        if array.shape != (len(stimuli),):
            raise DataError(f"labels must be one text per stimulus ({len(stimuli)}); came shape {array.shape}")
        return label_matrix(array)
    target, names = _targets(labels, stimuli)
    if task == "multiclass" and names is None:
        return np.concatenate([~target, target]), ["0", "1"]
    return target, names if task == "detection" or names is not None else ["target"]


@contextmanager
def _frozen_rows(
    cut: CutNetwork,
    images: Any,
    preprocess: Any,
    *,
    head: str,
    cache: str | Path | PrefixCache | None,
    augment: Augmentation | None,
    seed: int,
) -> Iterator[tuple[Sequence[Any], str]]:
    """What learning reads images from, and in words whether it was kept."""
    if augment is not None:
        if cache is not None:
            warnings.warn(
                "the cache is off: augment draws the images anew for every batch, so nothing can be kept", stacklevel=3
            )
        rows = augmented_rows(cut, images, preprocess, augment, seed=seed)
        yield rows, "no: images are drawn anew for every batch (augment)"
        return
    if not cut.cached:
        count_filters(cut, images, preprocess)
        yield cut.prefix(as_tensor(images, preprocess)), f"no: {cut.reason}"
        return
    if isinstance(cache, PrefixCache):
        yield cache.rows(cut, images, preprocess, head=head)[0], "yes"
    elif cache is not None:
        yield PrefixCache(RowFolder(cache), keep=True).rows(cut, images, preprocess, head=head)[0], "yes"
    else:
        with tempfile.TemporaryDirectory(prefix="featattn_rows_") as folder:
            yield PrefixCache(RowFolder(folder)).rows(cut, images, preprocess, head=head)[0], "yes"


def prefix_cache(folder: str | Path | None = None, *, memory_limit: int = MEMORY_LIMIT) -> PrefixCache:
    """A cache for `learn_gains(cache=…)`: the frozen part of a network is computed once for any number of calls.

    Parameters
    ----------
    folder : None = in memory, as long as the object lives; otherwise also on disk, for other processes and for what is
        larger than `memory_limit` bytes.

    >>> prefix_cache().entries
    {}
    """
    if folder is None:
        return PrefixCache(memory_limit=memory_limit)
    return PrefixCache(RowFolder(folder), memory_limit, keep=True)


def _plain_features(cut: CutNetwork, rows: Sequence[Any], chunk: int = 60) -> np.ndarray:
    """(N, F) inputs of the head of the un-gained network."""
    ones = {layer: torch.ones(1, cut.n_filters[layer], device=cut.device) for layer in cut.layers}
    with torch.no_grad():
        parts = [cut.features([row[k : k + chunk] for row in rows], ones) for k in range(0, len(rows[0]), chunk)]
    return torch.cat(parts).double().cpu().numpy()


def _joint_gain_set(
    cut: CutNetwork, state: Trained, names: list[str], sources: Sequence[str], attrs: dict[str, str | float | int]
) -> xr.Dataset:
    """GAINS of one task whose read-outs are over `output`."""
    detector = state.detector()
    alone = replace(state, weight=state.weight[:1], bias=state.bias[:1])
    gains = to_gain_set(cut, alone, ["all"], sources, attrs=attrs).drop_vars(["head_weight", "head_bias"])
    return gains.assign(
        head_weight=(("output", "feature"), detector.weight), head_bias=("output", detector.bias)
    ).assign_coords(output=names)  # fmt: skip


def theory_gains(
    model: nn.Module | Network,
    stimuli: Any,
    labels: ArrayLike | xr.DataArray,
    layers: str | Iterable[str],
    *,
    method: str = "tuning",
    strength: float | Sequence[float] = 1.0,
    choice_stimuli: Any = None,
    choice_labels: ArrayLike | xr.DataArray | None = None,
    mode: str = "bidirectional",
    clip: bool = False,
    device: str | torch.device | None = None,
) -> xr.Dataset:
    """Gains from theory, nothing learned: 1 + beta f, f the tuning or gradient values of the targets.

    Parameters
    ----------
    stimuli, labels, layers : as in `learn_gains`; single images, of which the values are and on which the read-out is
        fitted (balanced logistic regression, C = 1).
    method : "tuning" f = (mean response to targets - mean over all images) / SD over all images; "gradient"
        f = -(mean over targets of the spatial mean of dE/dx) / the layer's largest, E the read-out's cross-entropy.
    strength : beta >= 0; several are tried on `choice_stimuli`, and the one with the largest mean ROC area over tasks
        is kept (the smallest of equals).
    choice_stimuli, choice_labels : other images, for several strengths and only then.
    mode : "bidirectional", or "positive" = negative f count as 0. clip : factors below 0 become 0.

    Returns
    -------
    GAINS : `gain(unit)` or `gain(task, unit)` with the read-out; attributes `method`, `strength`, `mode`, `clipped`,
        and `choice_auc`, what each strength gave on `choice_stimuli`. A filter that never varies has the gain 1.

    Raises
    ------
    ConfigError : several strengths without images to choose on, or such images with one strength. DataError : one class
        only; images in both sets.

    Notes
    -----
    Lindsay & Miller 2018, eLife 7:e38105: equations of tuning values, gradient values and multiplicative attention.
    """
    network = _network(model)
    head = require_head(network.head, network.name)
    choose(method, METHODS, "method")
    strengths = sorted({float(one) for one in (strength if isinstance(strength, Sequence) else [strength])})
    given = choice_stimuli is not None, choice_labels is not None
    if not strengths or given != (len(strengths) > 1,) * 2:
        raise ConfigError(
            "several strengths are chosen from on other images, one strength is not: give choice_stimuli and "
            f"choice_labels with several, neither with one; came {len(strengths)} strengths"
        )
    images, preprocess = _stimuli(stimuli, network)
    target, names = _task_targets(labels, images, "detection")
    with placed(network.module, device) as place:
        pixels = as_tensor(images, preprocess)
        detector = logistic_detectors(head_inputs(network.module, head, pixels.to(place)), target)
        cut = arm_network(network.module, select_sites(network.module, layers), head, "any", place)
        assert cut is not None  # only norms can be absent
        cut.prefix(pixels[:1])
        if method == "tuning":
            values = tuning_values_of(site_means(cut, pixels), target)
        else:
            values = gradient_values(cut, pixels, target, detector)
        states = [with_factors(cut, detector, theory_factors(values, one, mode=mode, clip=clip)) for one in strengths]
        attrs: dict[str, str | float | int] = {
            "network_name": network.name, "weights_sha256": network.weights_sha256, "head_rule": "frozen",
            "method": method, "mode": mode, "clipped": "yes" if clip else "no",
        }  # fmt: skip
        best = 0
        if len(strengths) > 1:
            others, other_preprocess = _stimuli(choice_stimuli, network)
            check_disjoint(stimuli=images, choice_stimuli=others)
            wanted, other_names = _task_targets(choice_labels, others, "detection")
            if other_names != names:
                raise DataError(f"choice_labels must name the same tasks as labels ({names}); came {other_names}")
            rows = cut.prefix(as_tensor(others, other_preprocess))
            areas = [
                float(np.mean([float(roc_area(z, t)) for z, t in zip(logits(cut, rows, one), wanted, strict=True)]))
                for one in states
            ]
            best = int(np.argmax(areas))
            attrs["choice_auc"] = ", ".join(f"{s:g}: {a:.4f}" for s, a in zip(strengths, areas, strict=True))
        attrs["strength"] = strengths[best]
        gains = to_gain_set(cut, states[best], names or ["target"], images.sources(), attrs=attrs)
    return gains if names is not None else gains.isel(task=0, drop=True)


def target_importance_gains(
    model: nn.Module | Network,
    stimuli: Any,
    labels: ArrayLike | xr.DataArray,
    layers: str | Iterable[str],
    *,
    targets: str | Sequence[str],
    importance: float,
    outputs: Mapping[str, int] | None = None,
    rate: float = LUO_RATE,
    penalty: float = 0.0,
    epochs: int = 30,
    batch_size: int = 60,
    seed: int = 0,
    device: str | torch.device | None = None,
    cache: str | Path | PrefixCache | None = None,
) -> xr.Dataset:
    """Non-negative gains for target classes of a network's own softmax; errors on other classes count less.

    Parameters
    ----------
    stimuli, layers, device, cache : as in `learn_gains`. labels : the class of every image, names or a CSV file.
    targets : classes to attend to, a set of gains each. importance : in (0, 1], the weight of images of other classes
        in the loss, targets having 1: with 1 nothing is attended; the smaller, the more hits and false alarms.
    outputs : class name to index of the head's output; None = the sorted names are the outputs in order.
    rate, penalty, epochs, batch_size, seed : Adam from gains of 1; the penalty pulls to 1.

    Returns
    -------
    GAINS : `gain(task, unit)`, a task for each target, with the weights of the target's output as read-out.

    Raises
    ------
    ConfigError : a head that is no linear layer; classes and outputs that do not fit; importance outside (0, 1].
    DataError : no image of a target; a loss that is not finite; a layer whose filters are all silent.

    Notes
    -----
    Luo, Roads & Love 2021, arXiv 2002.02342: non-negative gains, initial 1, Adam 3e-4, frozen softmax head.
    """
    network = _network(model)
    head = require_head(network.head, network.name)
    last = network.module.get_submodule(head)
    if not isinstance(last, nn.Linear):
        raise ConfigError(f"wanted a linear head with one output a class; {head!r} is {type(last).__name__}")
    images, preprocess = _stimuli(stimuli, network)
    classes = _class_names(labels, images)
    index = _outputs(classes, outputs, last.out_features)
    wanted = [choose(name, index, "target class") for name in ([targets] if isinstance(targets, str) else targets)]
    schedule = Schedule(rate=rate, penalty=penalty, batch_size=batch_size, epochs=epochs, seed=seed)
    with placed(network.module, device) as place:
        cut = arm_network(network.module, select_sites(network.module, layers), head, "positive", place)
        assert cut is not None  # only norms can be absent
        with _frozen_rows(cut, images, preprocess, head=head, cache=cache, augment=None, seed=seed) as (rows, kept):
            check_alive(cut, rows)
            state = learn_target_importance(
                cut, rows, np.array([index[name] for name in classes]), last, [index[name] for name in wanted],
                importance, schedule,
            )  # fmt: skip
            attrs: dict[str, str | float | int] = {
                "network_name": network.name, "weights_sha256": network.weights_sha256, "head_rule": "frozen",
                "method": "target importance", "importance": float(importance), "rate": rate, "penalty": penalty,
                "epochs": epochs, "batch_size": batch_size, "seed": seed, "frozen_part_cached": kept,
            }  # fmt: skip
            return to_gain_set(cut, state, wanted, images.sources(), attrs=attrs)


def _class_names(labels: Any, stimuli: Any) -> list[str]:
    """The class of every stimulus, in their order."""
    if isinstance(labels, str | Path):
        labels = read_labels(labels, stimuli)
    if isinstance(labels, xr.DataArray):
        if labels.dims != ("stimulus",):
            raise DataError(
                f"wanted one class per stimulus; came labels over {labels.dims}; give names over 'stimulus'"
            )
        missing = sorted(set(stimuli.id.tolist()) - set(labels["stimulus"].values.tolist()))
        if missing:
            raise DataError(f"labels name no stimulus {missing[0][:12]}… ({len(missing)} missing); match labels by id")
        labels = labels.sel(stimulus=np.asarray(stimuli.id)).values
    values = np.asarray(labels)
    if values.shape != (len(stimuli),):
        raise DataError(f"labels must be one class per stimulus ({len(stimuli)}); came shape {values.shape}")
    return [str(one) for one in values]


def _outputs(classes: Sequence[str], outputs: Mapping[str, int] | None, count: int) -> dict[str, int]:
    """Class name to index of the head's output."""
    names = sorted(set(classes))
    if outputs is None:
        if len(names) != count:
            raise ConfigError(
                f"the head has {count} outputs and the images {len(names)} classes, so it is not known which is which; "
                "give outputs={class: index}"
            )
        return {name: k for k, name in enumerate(names)}
    missing = [name for name in names if name not in outputs]
    wrong = [name for name, k in outputs.items() if not 0 <= int(k) < count]
    if missing or wrong:
        what = f"no output of class {missing[0]!r}" if missing else f"output {outputs[wrong[0]]} of {wrong[0]!r}"
        raise ConfigError(f"outputs must give each class an index from 0 to {count - 1}; came {what}")
    return {name: int(outputs[name]) for name in names}


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
    gains : GAINS, `gain(unit)`; with several tasks, `task` names one. Shifts, gains per position, sites before a
        layer ("relu1.input") and functional operations ("layer1.0.add") act too where the set has them.
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
        back the very Dataset); `.onnx` = the network with the gains folded into its weights, run once with onnxruntime
        and compared (relative 1e-4) before it is written; without a suffix = a folder with a peft IA3 adapter
        (`ia3_l` vectors), as `PeftModel.from_pretrained` reads it.
    model : what the gains were learned on; for `.onnx` and peft.
    task : which task's gains, where there are several; for `.onnx` and peft.
    input_shape : (C, H, W) of the images, for `.onnx`; None = what the network's preprocessing gives.

    Returns
    -------
    The path. The read-out that gains may carry is in the safetensors file only.

    Raises
    ------
    ConfigError : gains that cannot be folded or moved to where peft has a place; the message says why. A package that
        is needed and not installed. StoreError : the file cannot be written, or the ONNX network answers otherwise.

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
        raise ConfigError("the network is part of what is written: give model=, which the gains were learned on")
    network = _network(model)
    if path.suffix == "":
        return gain_files.write_peft(path, *peft_layout(network, gains, task=task))
    shape = input_shape or network.input_shape
    if shape is None:
        raise ConfigError("it is not known which images the network takes; give input_shape=(channels, height, width)")
    folded = fold_gains(network, gains, task=task)
    data = onnx_bytes(folded, shape)
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

    Raises
    ------
    ConfigError : another suffix; gains that cannot be folded; a network that needs more weights than it has to hold
        them (a norm without weights).
    """
    path = Path(path)
    if path.suffix != ".safetensors":
        raise ConfigError(f"wanted a name that ends in .safetensors; came {path.name!r}; rename it")
    original = _network(model).module
    folded = fold_gains(original, gains, task=task, direction=direction)
    more = sorted(set(folded.state_dict()) - set(original.state_dict()))
    if more:
        raise ConfigError(
            f"the folded network has weights that the network as it is built has not ({more[0]}), so no weight file "
            "holds it; use fold_gains, or export to .onnx"
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
        raise ConfigError("a peft adapter names layers of a network: give model=, which it was made for")
    tensors, config = gain_files.read_peft(path)
    return gains_from_peft(tensors, config, _network(model))


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
    methods: str | Iterable[str] = "excess",
    relative: bool | None = None,
    live: xr.DataArray | None = None,
    output: int | Sequence[int] | None = None,
    top: int = 0,
    dtype: str = "float64",
    workers: int | None = None,
    out: str | Path | None = None,
    overwrite: bool = False,
) -> xr.Dataset:
    """Where in the images the gains of a layer amplify: S(y, x) = sum over filters k of (g_k - 1) A_k(y, x).

    Parameters
    ----------
    methods : further maps beside the excess: "class_weighted", "gain_gradient", "gradcam", "path" (integrated gradients
        along the gains), one or several. They explain the logit of the read-out that the gains carry, or with `output`
        that of the network's output of this index.
    relative : sum g A / sum A - 1 too. None: where the layer's maps are nowhere negative; True: refuse signed maps.
    top : also the maps of the `top` filters that contribute most to each image.
    out : file to write while the maps are made, .zarr or .nc: memory then holds one batch, whatever the number of
        images. `overwrite` replaces a file of that name.

    See `featattn_neuro.nets.saliency.gain_saliency` for the other parameters and units; `stimuli` as in `record`.

    Returns
    -------
    SALIENCY : `excess(stimulus, y, x)` (with `task`, `gain_set` in front for several), signed, units of the layer's
        output; y and x in pixels of the network's input. All g = 1 gives exactly 0. Opened lazily with `out`.
    """
    network = _network(model)
    images, preprocess = _stimuli(stimuli, network)
    with placed(network.module, device) as place:
        run = partial(
            _gain_saliency, network.module, gains, images, layer=layer, task=task, preprocess=preprocess,
            upstream=upstream, relative_to_mean=relative_to_mean, batch_size=batch_size, device=place, methods=methods,
            relative=relative, live=live, head=network.head, output=output, top=top, dtype=dtype,
            workers=usual_workers(images, batch_size) if workers is None else workers,
        )  # fmt: skip
        if out is None:
            return run()
        with saliency_store(out, overwrite=overwrite) as sink:
            run(sink=sink)
    return open_kind(out, "SALIENCY")


def saliency_by_layer(
    model: nn.Module | Network,
    gains: xr.Dataset,
    stimuli: Any,
    layers: str | Iterable[str],
    *,
    device: str | torch.device | None = None,
    **options: Any,
) -> dict[str, xr.Dataset]:
    """Saliency at several layers, from one pass over the images: layer to SALIENCY.

    Parameters
    ----------
    layers : names or patterns, as in `learn_gains`.
    options : keywords of `featattn_neuro.nets.saliency.saliency_by_layer`,
        such as `methods`, `task`, `top`, `relative`, `dtype`.
    """
    network = _network(model)
    images, preprocess = _stimuli(stimuli, network)
    with placed(network.module, device) as place:
        return _saliency_by_layer(
            network.module, gains, images, select_layers(network.module, layers), preprocess=preprocess,
            head=network.head, device=place, **options,
        )  # fmt: skip


def causal_check(
    model: nn.Module | Network,
    gains: xr.Dataset,
    stimuli: Any,
    saliency: xr.Dataset,
    *,
    device: str | torch.device | None = None,
    **options: Any,
) -> xr.Dataset:
    """What masking the most amplified pixels does to the detector's logit: deletion and insertion curves (CAUSAL).

    See `featattn_neuro.nets.causal.causal_check` for `options` (`maps`, `fill`, `fractions`, `output`, `seed`).
    """
    network = _network(model)
    images, preprocess = _stimuli(stimuli, network)
    with placed(network.module, device) as place:
        return _causal_check(
            network.module, gains, images, saliency, preprocess=preprocess, head=network.head, device=place, **options
        )  # fmt: skip


def apply_filter_sets(
    model: nn.Module | Network,
    sets: xr.Dataset,
    detectors: xr.Dataset,
    stimuli: Any,
    labels: ArrayLike | xr.DataArray,
    *,
    device: str | torch.device | None = None,
) -> xr.Dataset:
    """Performance of a frozen read-out while chosen filters are silenced or boosted.

    Parameters
    ----------
    sets : GAINS of `featattn_neuro.measures.filter_sets.filter_sets`, gain(gain_set, [task,] unit).
    detectors : GAINS that carry the read-out (`head_weight`, `head_bias`, `feature_scale`), as `learn_gains` returns;
        its gains are not applied.
    stimuli, labels : images that neither chose the filters nor trained the read-out; labels as in `learn_gains`.

    Returns
    -------
    SCORES : `auc` (arm, task); arm "ungained", then the names of the gain sets; read it with
        `measures.filter_sets.set_effects`.

    Raises
    ------
    DataError : no read-out in `detectors`, other tasks in labels than in the sets, images shared with training.
    """
    network = _network(model)
    head = require_head(network.head, network.name)
    images, preprocess = _stimuli(stimuli, network)
    target, names = _targets(labels, images)
    readout, tasks = detector_of(detectors), names or ["target"]
    sets = GAINS.check(sets)
    if "gain_set" not in sets["gain"].dims:
        raise DataError(f"wanted gain sets along 'gain_set', as filter_sets makes them; came {sets['gain'].dims}")
    for what, one in (("chose the filters", sets), ("trained the read-out", detectors)):
        known = {str(i) for i in one["training_source"].values} if "training_source" in one else set()
        if known & {str(i) for i in images.sources()}:
            raise DataError(f"some of these images {what}; test performance on images that played no part before")
    if len(readout.weight) != len(tasks) or ("task" in detectors.dims and list(detectors["task"].values) != tasks):
        raise DataError(f"labels name the tasks {tasks}; the read-outs are of other tasks; label the same ones")
    if "task" in sets["gain"].dims and set(sets["task"].values) != set(tasks):
        raise DataError(f"labels name the tasks {tasks}; the filter sets are of {list(sets['task'].values)}")
    pixels = as_tensor(images, preprocess)
    arms = ["ungained", *(str(name) for name in sets["gain_set"].values)]
    auc = np.full((len(arms), len(tasks)), np.nan)
    with placed(network.module, device) as place:
        pixels = pixels.to(place)
        logits = readout.logits(head_inputs(network.module, head, pixels))
        auc[0] = [float(roc_area(logits[t], target[t])) for t in range(len(tasks))]
        for row in range(1, len(arms)):
            one = sets.isel(gain_set=row - 1, drop=True)
            for t, task in enumerate(tasks):
                if t == 0 or "task" in one.dims:  # else the same set for all tasks: one pass over the images
                    with _gains.with_gains(network.module, one, task=task if "task" in one.dims else None):
                        logits = readout.logits(head_inputs(network.module, head, pixels))
                auc[row, t] = float(roc_area(logits[t], target[t]))
    values = {"auc": (("arm", "task"), auc)}
    attrs = {"network_name": network.name, "kind": "SCORES"}
    return SCORES.check(xr.Dataset(values, {"arm": arms, "task": tasks}, attrs))


def score_saliency(
    model: nn.Module | Network,
    gains: xr.Dataset,
    stimuli: Any,
    saliency: xr.Dataset,
    *,
    boxes: str | Path | None = None,
    segments: str | Path | None = None,
    masks: xr.Dataset | None = None,
    permutations: int = 1000,
    seed: int = 0,
    device: str | torch.device | None = None,
) -> xr.Dataset:
    """Scores of one layer's maps against marked objects, with plain activation, centre bias and permuted gains beside.

    Parameters
    ----------
    saliency : SALIENCY of `gain_saliency`, with activation. boxes : CSV table; segments : folder of PNG; masks : MASKS;
        one of the three, in pixels of the images as the network sees them.
    permutations : gains permuted within the layer (0 = no null), by `seed`.

    Returns
    -------
    AGREEMENT, see `featattn_neuro.measures.localisation.localisation`.
    """
    network = _network(model)
    images, preprocess = _stimuli(stimuli, network)
    given = [one for one in (boxes, segments, masks) if one is not None]
    if len(given) != 1:
        raise ConfigError(f"wanted one of boxes, segments and masks; came {len(given)}; give one")
    size = int(saliency.attrs["image_height"]), int(saliency.attrs["image_width"])
    if boxes is not None:
        masks = read_boxes(boxes, images, size)
    elif segments is not None:
        masks = read_segmentations(segments, images, size)
    assert masks is not None
    tasks = [str(task) for task in saliency["task"].values] if "task" in saliency.dims else None
    chosen = gains if tasks is None or "task" not in gains.dims else gains.sel(task=tasks)
    layer, null = str(saliency.attrs["layer"]), None
    if permutations:
        with placed(network.module, device) as place:
            null = permuted_scores(
                network.module, chosen, images, [layer], masks, permutations=permutations, seed=seed,
                preprocess=preprocess, device=place,
                relative_to_mean=saliency.attrs.get("gauge") == "gain divided by the layer's mean",
            )  # fmt: skip
    return localisation({layer: saliency}, masks, null=null)


def picture_saliency(
    stimuli: Any, saliency: xr.Dataset, folder: str | Path, *, count: int = 12, which: str = "most", svg: bool = False
) -> list[Path]:
    """Overlay panels and a contact sheet of every task, of the images that the gains change most, or least.

    Parameters
    ----------
    stimuli : those of the maps. folder : is made; `overlays_TASK.png` (or .svg) shows the first four images,
        `sheet_TASK.png` all `count`.

    Returns
    -------
    The files, in the order of the tasks.
    """
    from featattn_neuro.report.saliency_overlays import chosen_images, contact_sheet, saliency_overlays
    from featattn_neuro.report.style import save_figure

    images = stimuli if isinstance(stimuli, Stimuli) else load_stimuli(stimuli, label=None)
    order = {name: k for k, name in enumerate(images.id.tolist())}
    suffix, files = ".svg" if svg else ".png", []
    tasks = [str(task) for task in saliency["task"].values] if "task" in saliency.dims else [None]
    for task in tasks:
        ids = chosen_images(saliency, count, which=which, task=task)
        shown = {name: _shown(images[order[name]]) for name in ids}
        titles = {} if images.label is None else {name: str(images.label[order[name]]) for name in ids}
        name = "" if task is None else "_" + "".join(c if c.isalnum() or c in "-." else "_" for c in task)
        first = {one: shown[one] for one in ids[:4]}
        for what, figure in (
            ("overlays", saliency_overlays(first, saliency, task=task, titles=titles)),
            ("sheet", contact_sheet(shown, saliency, task=task, titles=titles)),
        ):
            files.append(save_figure(figure, Path(folder) / f"{what}{name}{suffix}"))
    return files


def _shown(raw: np.ndarray) -> np.ndarray:
    """A raw image as a picture: (H, W) grey or (H, W, 3)."""
    if raw.dtype == np.uint8:
        return raw
    return raw[0] if len(raw) == 1 else np.clip(raw[:3].transpose(1, 2, 0), 0, 1)

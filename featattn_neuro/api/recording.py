"""Responses of filters to stimuli, stored or summed up while the stimuli go by."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
import xarray as xr
from torch import nn

from featattn_neuro.api._shared import as_stimuli, gives_bytes
from featattn_neuro.errors import ConfigError, StoreError, choose
from featattn_neuro.io.metadata import Table, metadata_columns, with_metadata
from featattn_neuro.io.recording_store import recording_store
from featattn_neuro.io.stimuli import Stimuli
from featattn_neuro.io.store import open_kind
from featattn_neuro.nets.adapters import Network, bare_network
from featattn_neuro.nets.chance import random_state_kept
from featattn_neuro.nets.channels import ChannelAxis
from featattn_neuro.nets.datasets import DatasetStimuli
from featattn_neuro.nets.fingerprint import digest, recording_inputs
from featattn_neuro.nets.hooks import placed
from featattn_neuro.nets.loading import usual_workers
from featattn_neuro.nets.plan import make_plan
from featattn_neuro.nets.preprocessing import Preprocessing
from featattn_neuro.nets.recording import MemorySink, run_plan
from featattn_neuro.nets.reductions import Reducer
from featattn_neuro.nets.selection import Layers
from featattn_neuro.nets.streaming import MomentsSink, known_weights


def _described(images: Stimuli | DatasetStimuli, metadata: Table) -> Stimuli | DatasetStimuli:
    """Stimuli with the columns of a table, joined by id."""
    if isinstance(images, DatasetStimuli):
        return images.described(metadata_columns(metadata, {n: v for n, (_, v) in images.coordinates().items()}))
    described: Stimuli = with_metadata(images, metadata)
    return described


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
    metadata: Table | None = None,
    progress: Callable[[int, int], None] | None = None,
    timing: dict[str, float] | None = None,
) -> xr.Dataset:
    """Responses of a network's filters to stimuli.

    Parameters
    ----------
    model : an `nn.Module`, or what `load_model` gives.
    stimuli : what `load_stimuli` gives (preprocessed as the network's weights want); a folder, data-set name or list of
        image files; an array or tensor (N, C, H, W), taken as it stands; pictures, bytes (N, H, W, 3) or PIL; or a
        torch dataset or loader, or what has a length and items by position as a dataset does, Hugging Face's for
        instance (items that are tensors are taken as they stand, pictures are preprocessed).
    layers : dotted names, globs ("layer3.*.relu*"), regular expressions ("re:layer[12]\\..*" or compiled), stages
        ("conv", "activation"), types (nn.Conv2d or "Conv2d"), functions (name, module) -> bool, or several of these. A
        name goes before a stage, a stage before a type; "stage:norm" and "type:Conv2d" are never a name. A text that
        means no module is looked up among the functional operations of the torch.fx graph, named as torchvision's
        `get_graph_node_names` does ("layer1.0.add", "relu_1"); all layers are then recorded through that graph. An
        operation that is called there as a module is has "()" behind its name ("relu()" beside a module "relu").
        Layers that only a pattern means are left out where they do not run or give no filters (auxiliary heads, blocks
        that return several maps); layers that are named must be there.
    reduce : "mean", "max", "sum", "sd", "centre" of maps, "first" of a sequence (the class token of a vision
        transformer), a quantile ("q0.9") over positions, or a function of maps (N, C, H, W) to (N, C); several give a
        dimension `reduction`. A vector is a map of one position (its "sd" is 0; a function sees (N, C, 1, 1)). "none"
        keeps every position as a unit, with coordinates `y` and `x`.
    batch_size : compute batch; the last one is padded, so a row never depends on how many others there are.
    device : where to compute; None = where the network is. The network is brought back afterwards.
    out : file to record into, .zarr (streamed; memory does not grow with the number of stimuli; taken up again after a
        kill) or .nc (written from such a store at the end). If it holds this very recording, that is returned.
    cache : folder for recordings named by their content; the same recording is made once. Not together with `out`.
    overwrite : replace another recording at `out`; this very one is read through, and made anew if it is damaged.
    workers : processes that decode and preprocess images while the network computes; None = a few for image files.
    corrupt : images that cannot be read: "error" names the first, "skip" leaves them out and lists them in `skipped`.
        Images that can be read and do not fit (smaller than the crop, not what they were) are errors either way.
    dtype : of the stored values: "float32", "float16" or "float64".
    compute_dtype : "float32" = as the network is; "float16" or "bfloat16" by torch.autocast.
    channel_axis : where the filters are: one axis for all layers in which no rule says it, or {layer: axis}, which goes
        before every rule.
    metadata : what is known of the stimuli, a DataFrame or a .csv, .tsv or .parquet file, with the content ids in a
        column `id` or the paths in a column `path`; the others become coordinates of `stimulus` (see `with_metadata`).
    progress : called with (stimuli done, stimuli in all).
    timing : a dictionary to be filled with the seconds that the network computed and waited for images.

    Returns
    -------
    ACTIVATIONS : `response(stimulus, unit)`, units of the layers' outputs; `unit` has coordinates `layer`, `channel`,
        `call`, `stage` (`node` for the graph); `stimulus` its content ids, `label` and `path` where they are known,
        and the columns of `metadata`. Attributes: `recorded_through` ("module hooks" or "torch.fx graph"),
        `preprocessing`, `channel_rule`, `compute_dtype`, `batch_size`; `layers_left_out`, with the reasons, where a
        pattern meant layers that could not be recorded. Opened lazily with `out` or `cache`.

    Raises
    ------
    ConfigError : unknown layer (nearest names are listed). DataError : a layer without filters, unequal image sizes,
        metadata that do not fit the stimuli, a value that `dtype` cannot hold; a network whose values depend on the
        other images (batch norm without running statistics; batch_size=1 does) or on chance: one that draws from the
        global random generators is shown the first batch twice, and refused if a recorded layer gives other values.
    StoreError : `out` holds another recording, or another process is writing it; `cache` cannot be a folder.

    >>> import numpy as np
    >>> net = nn.Sequential(nn.Conv2d(1, 1, 1), nn.ReLU(inplace=True))
    >>> _ = nn.init.constant_(net[0].weight, 1.0), nn.init.constant_(net[0].bias, -3.0)
    >>> record(net, np.ones((1, 1, 2, 2), np.float32), ["0", "1"]).response.values  # 1 - 3, then ReLU
    array([[-2.,  0.]], dtype=float32)
    """
    choose(corrupt, ("error", "skip"), "treatment of corrupt images")
    if out is not None and cache is not None:
        raise ConfigError("out names the file, cache lets the content name it: give one of them")
    if out is not None and Path(out).suffix == ".nc" and dtype == "float16":
        raise ConfigError("netCDF-4 has no float16; store float32, or record into .zarr")
    # the head plays no part here, and finding it takes as long as dozens of images
    network = bare_network(model)
    # a dataset may draw from the caller's generators when it is read for its ids
    with placed(network.module, device) as place, random_state_kept(place):
        # where it is to run: a traced graph has buffers and constants of its own, which would stay at home
        plan = make_plan(
            network.module, layers, reduce, batch_size=batch_size, dtype=dtype, compute_dtype=compute_dtype,
            channel_axis=channel_axis,
        )  # fmt: skip
        images, preprocess = as_stimuli(stimuli, network, corrupt)
        if metadata is not None:
            images = _described(images, metadata)
        run = partial(
            run_plan, network.module, plan, images, preprocess=preprocess, device=place, corrupt=corrupt,
            workers=usual_workers(images, batch_size) if workers is None else workers,
            attrs={
                "network_name": network.name,
                "preprocessing": _in_words(preprocess, images),
                "recorded_dtype": dtype,
            },
            progress=progress, timing=timing,
        )  # fmt: skip
        if out is None and cache is None:
            return run(MemorySink())
        inputs = recording_inputs(network.module, plan, preprocess, images.digest(parameters=False), place)
        # apart, so that a recording with another table is not said to be one of other images
        inputs["metadata"] = digest({name: values.tolist() for name, values in images.parameters.items()})
        key = digest({**inputs, "name": network.name, "corrupt": corrupt})
        path = Path(out) if out is not None else _cache_folder(cache) / f"{key}.zarr"
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
    parts of a stimulus set, from other machines for instance, go through `merge_moments` first, which refuses parts of
    other weights (attribute `weights_sha256`). Stimuli that were left out (`corrupt="skip"`) count in `n_skipped`; a
    label that only they have is no group.

    Raises
    ------
    ConfigError : unknown layer or reduction (before the first batch). DataError : no labels and no target, stimuli
        that `target` does not name.

    Notes
    -----
    Chan, Golub & LeVeque 1983; see `featattn_neuro.arrays.moments`.

    >>> import numpy as np
    >>> from featattn_neuro import load_stimuli, selectivity_from_moments
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
    with placed(network.module, device) as place, random_state_kept(place):
        plan = make_plan(
            network.module, layers, reduce, batch_size=batch_size, compute_dtype=compute_dtype,
            channel_axis=channel_axis,
        )  # fmt: skip
        images, preprocess = as_stimuli(stimuli, network, corrupt)
        return run_plan(
            network.module, plan, images, MomentsSink(target), preprocess=preprocess, device=place, corrupt=corrupt,
            workers=usual_workers(images, batch_size) if workers is None else workers,
            attrs={
                "network_name": network.name,
                "preprocessing": _in_words(preprocess, images),
                **known_weights(network.module),
            },
            progress=progress,
        )  # fmt: skip


def _cache_folder(cache: Any) -> Path:
    """The folder for recordings by their content, made where it is not there."""
    try:
        folder = Path(cache)
        folder.mkdir(parents=True, exist_ok=True)
    except TypeError as error:
        raise ConfigError(f"wanted a folder as cache; came {cache!r}; give its path") from error
    except OSError as error:
        raise StoreError(
            f"{str(cache)!r} cannot be a folder for recordings ({error.strerror}); choose another cache"
        ) from error
    return folder


def _in_words(preprocess: Preprocessing | None, images: Stimuli | DatasetStimuli) -> str:
    if preprocess is not None:
        return preprocess.describe()
    return "none: pixels scaled to [0, 1]" if gives_bytes(images) else "none: images as they stand"

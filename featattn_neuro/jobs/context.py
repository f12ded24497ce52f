"""What all stages of one network share: its images, splits, composites, weights, detectors. Rebuilt from the config."""

from __future__ import annotations

import fnmatch
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from pathlib import Path

import numpy as np
import torch
import xarray as xr

from featattn_neuro import api
from featattn_neuro.errors import ConfigError, DataError, choose
from featattn_neuro.io.arrangements import Arrangement, array_composites
from featattn_neuro.io.splits import Composites, check_disjoint, pair_composites, partition
from featattn_neuro.io.stimuli import Stimuli, load_stimuli
from featattn_neuro.io.store import load_kind
from featattn_neuro.jobs.config import PretrainedConfig, RunConfig, parse_config
from featattn_neuro.measures.contrasts import targets_from_labels
from featattn_neuro.nets.adapters import Network
from featattn_neuro.nets.arms import arm_network
from featattn_neuro.nets.batches import as_tensor
from featattn_neuro.nets.cutting import CutNetwork, require_head
from featattn_neuro.nets.detectors import Detector
from featattn_neuro.nets.gain_sets import detector_of
from featattn_neuro.nets.plan import select_layers
from featattn_neuro.nets.weights import put_weights, read_weights

SPLITS = ("R", "G", "V", "S", "P")


@lru_cache(maxsize=2)
def load_run_stimuli(source: str, duplicates: str, corrupt: str) -> Stimuli:
    """The stimuli of a run, loaded once per process."""
    return load_stimuli(source, duplicates=duplicates, corrupt=corrupt)


def forget() -> None:
    """Drop what earlier runs of this process have loaded: files may have changed since."""
    load_run_stimuli.cache_clear()
    network_job.cache_clear()


def labels_of(stimuli: Stimuli) -> np.ndarray:
    """Labels (N,) of stimuli; an error that says how to label them where there are none."""
    if stimuli.label is None:
        raise DataError(f"stimuli {stimuli.name!r} have no labels; put the images of each class in a folder of its own")
    return stimuli.label


@lru_cache(maxsize=8)
def network_job(config_text: str, out: str, name: str) -> NetworkJob:
    """The job of one network, kept while its stages run in this process."""
    return NetworkJob(parse_config(config_text, "the configuration"), Path(out), name)


@dataclass(frozen=True, eq=False)
class NetworkJob:
    """One network of a run; everything follows from the configuration, so any process can rebuild it."""

    config: RunConfig
    out: Path
    name: str

    @property
    def index(self) -> int:
        """Seed of the network: its place in the list, counted from the first seed."""
        first = 0 if self.config.networks.train is None else self.config.networks.train.first_seed
        return first + self.config.network_names().index(self.name)

    @property
    def pretrained(self) -> PretrainedConfig | None:
        return next((one for one in self.config.networks.pretrained if one.name == self.name), None)

    @property
    def stimuli(self) -> Stimuli:
        """All images of the run."""
        return load_run_stimuli(self.config.stimuli, self.config.duplicates, self.config.corrupt)

    @cached_property
    def classes(self) -> list[str]:
        """Class names, which are the tasks."""
        found = sorted(set(labels_of(self.stimuli).tolist()))
        wanted = self.config.classes or found
        unknown = [name for name in wanted if name not in found]
        if unknown:
            raise ConfigError(f"classes: no images of {unknown[0]!r}; the stimuli have {', '.join(found)}")
        if len(wanted) < 2:
            raise DataError(f"wanted two classes or more; came {wanted}; put images of each class in its own folder")
        return list(wanted)

    @property
    def omitted(self) -> list[str]:
        """Classes that reference training does not see (novel), rotated so that each is omitted equally often."""
        train = self.config.networks.train
        if train is None:
            return []
        k = train.omitted_classes
        return [self.classes[(k * self.index + j) % len(self.classes)] for j in range(k)]

    @cached_property
    def splits(self) -> dict[str, Stimuli]:
        """Split name to single images, drawn with this network's own seed; disjoint by source id."""
        stimuli = self.stimuli.select(np.isin(labels_of(self.stimuli), self.classes))
        seed = self.config.networks.partition_seed + self.index
        found: dict[str, Stimuli] = {}
        taken: dict[str | None, np.ndarray] = {}
        for pattern in dict.fromkeys(self.config.splits[s].path for s in SPLITS):
            names = [s for s in SPLITS if self.config.splits[s].path == pattern]
            here = np.ones(len(stimuli), dtype=bool) if pattern is None else _matching(stimuli, pattern)
            _check_apart(stimuli, taken, pattern, here)
            taken[pattern] = here
            drawn = partition(stimuli.select(here), {s: self.config.splits[s].per_class for s in names}, seed=seed)
            found.update({s: drawn.select(drawn.split == s) for s in names})
        check_disjoint(**found)
        return {s: found[s] for s in SPLITS}

    @property
    def drawn(self) -> Stimuli:
        """All single images of all splits, as one set."""
        parts = self.splits.values()
        whole = self.stimuli.select(np.concatenate([part.id for part in parts]))
        return replace(whole, split=np.concatenate([np.full(len(part), name) for name, part in self.splits.items()]))

    @cached_property
    def composites(self) -> dict[str, Composites]:
        """Split name to averaged pairs of that split's images, each image in one pair."""
        seed = self.config.networks.partition_seed + self.index
        made = {
            split: pair_composites(self.splits[split], count, seed=10 * seed + SPLITS.index(split))
            for split, count in sorted(self.config.composites.items())
        }
        check_disjoint(R=self.splits["R"], **{split: one.stimuli for split, one in made.items()})
        return made

    @cached_property
    def arrays(self) -> Arrangement:
        """2 × 2 arrays of the single images of P, each image in one."""
        wanted = None if self.config.saliency is None else self.config.saliency.arrays
        singles, seed = self.splits["P"], self.config.networks.partition_seed + self.index
        return array_composites(singles, wanted or len(singles) // 4, seed=10 * seed + len(SPLITS))

    @property
    def model(self) -> str:
        """Name of the network's design, or module:function."""
        train = self.config.networks.train
        if self.pretrained is not None:
            return self.pretrained.model
        assert train is not None
        return train.architecture

    def build(self) -> Network:
        """The network before any weights of this run: architecture and seed, or the given weights."""
        given = self.pretrained
        if given is None:
            return api.load_model(self.model, weights="random", seed=self.index, num_classes=len(self.classes))
        own_code = ":" in given.model and not given.model.startswith(("torchvision:", "timm:"))
        if own_code and given.weights == "pretrained":
            weights = None  # the user's function brings its own
        else:
            weights = given.weights
        network = api.load_model(given.model, weights=weights, head=given.head)
        if given.pixels is not None:
            if network.preprocess is None:
                raise ConfigError(f"network {given.name!r} has no preprocessing, so pixels={given.pixels} says nothing")
            network = replace(network, preprocess=replace(network.preprocess, size=given.pixels, crop=given.pixels))
        return network

    @cached_property
    def network(self) -> Network:
        """The network of this run, trained or given."""
        network = self.build()
        if self.pretrained is None:
            path = self.out / "networks" / f"{self.name}.safetensors"
            put_weights(network.module, read_weights(path), what=path.name)
        return network

    @cached_property
    def layers(self) -> list[str]:
        """Gained sites."""
        patterns = self.config.networks.layers if self.pretrained is None else self.pretrained.layers
        return select_layers(self.build().module, patterns)

    @cached_property
    def refit_layers(self) -> list[str]:
        """Gained sites of the refit null; none where the configuration asks for none."""
        found: set[str] = set()
        for pattern in self.config.statistics.refit_layers:
            here = fnmatch.filter(self.layers, pattern)
            found.update(here or [choose(pattern, self.layers, f"layer of statistics.refit_layers in {self.name!r}")])
        return [layer for layer in self.layers if layer in found]

    def check(self) -> None:
        """Refuse what can be refused before anything is computed: splits, layers, head, layers of the refit null."""
        if len(set(self.omitted)) > len(self.classes) - 2:
            raise ConfigError(
                f"networks.train.omitted_classes must leave two classes to train on; came {len(self.omitted)} of "
                f"{len(self.classes)}; omit fewer"
            )
        _ = self.splits
        network = self.build()
        head = network.module.get_submodule(require_head(network.head, self.name))
        _ = self.refit_layers
        if self.pretrained is not None and self.pretrained.detector == "head":
            outputs = getattr(head, "out_features", None)
            if outputs != len(self.classes):
                raise ConfigError(
                    f"detector: head wants a linear head with one output per class, {len(self.classes)}; the head of "
                    f"{self.name!r} is {type(head).__name__} with {outputs} outputs; use detector: logistic"
                )

    @property
    def head(self) -> str:
        return require_head(self.network.head, self.name)

    @cached_property
    def cut(self) -> CutNetwork:
        """The frozen network behind a cut before its first gained layer."""
        return CutNetwork(self.network.module, self.layers, self.head)

    @lru_cache(maxsize=4)  # noqa: B019 - jobs live as long as the worker
    def arm_cut(self, place: str) -> CutNetwork | None:
        """The frozen network that arms of one place learn on, see `nets.arms`; None where the arm does not apply."""
        return self.cut if place == "positive" else arm_network(self.network.module, self.layers, self.head, place)

    @lru_cache(maxsize=3)  # noqa: B019 - as above
    def arm_rows(self, place: str, split: str) -> tuple[torch.Tensor, ...]:
        """Everything before the first site of `arm_cut(place)`, for a split's composites."""
        cut = self.arm_cut(place)
        assert cut is not None
        return self.rows(split) if place == "positive" else cut.prefix(self.images(split))

    def images(self, split: str) -> torch.Tensor:
        """Network input of a split's composites (N, C, H, W)."""
        return as_tensor(self.composites[split].stimuli, self.network.preprocess)

    @lru_cache(maxsize=4)  # noqa: B019 - jobs live as long as the worker
    def rows(self, split: str) -> tuple[torch.Tensor, ...]:
        """Everything before the first gain, for a split's composites."""
        return self.cut.prefix(self.images(split))

    def single_images(self, split: str) -> torch.Tensor:
        """Network input of a split's single images."""
        return as_tensor(self.splits[split], self.network.preprocess)

    def targets(self, stimuli: Stimuli) -> xr.DataArray:
        """Boolean (task, stimulus): which stimuli show each class."""
        labels = xr.DataArray(np.asarray(stimuli.label), {"stimulus": np.asarray(stimuli.id)}, ("stimulus",))
        return targets_from_labels(labels, self.classes)

    def target_matrix(self, split: str) -> np.ndarray:
        """(T, N) bool of a split's composites."""
        return self.targets(self.composites[split].stimuli).transpose("task", "stimulus").values

    @cached_property
    def detector_set(self) -> xr.Dataset:
        """GAINS of the un-gained network: all gains 1, the frozen detectors."""
        return load_kind(self.out / "detectors" / f"{self.name}.nc", "GAINS")

    @property
    def detector(self) -> Detector:
        return detector_of(self.detector_set)


def _check_apart(stimuli: Stimuli, taken: dict[str | None, np.ndarray], pattern: str | None, here: np.ndarray) -> None:
    """Refuse path patterns that let one image into two splits."""
    for other, there in taken.items():
        shared = np.flatnonzero(there & here)
        if shared.size:
            first, second = ("no path, all images" if p is None else f"path {p!r}" for p in (other, pattern))
            raise ConfigError(
                f"splits must not overlap; {shared.size} images match both {first}, and {second}, one is "
                f"{stimuli.describe(int(shared[0]))}; give the splits paths that exclude each other, or none at all"
            )


def _matching(stimuli: Stimuli, pattern: str) -> np.ndarray:
    if stimuli.path is None:
        raise ConfigError(f"splits: path {pattern!r} needs stimuli from files; {stimuli.name} are arrays")
    keep = np.array([fnmatch.fnmatch(str(path), pattern) for path in stimuli.path])
    if not keep.any():
        raise ConfigError(f"splits: no image path matches {pattern!r}; the first path is {str(stimuli.path[0])!r}")
    return keep

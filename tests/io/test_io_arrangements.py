"""Composites in which objects lie apart, their masks, and masks from files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from featattn_neuro.errors import DataError, StoreError
from featattn_neuro.io.arrangements import array_composites, shifted_composites
from featattn_neuro.io.masks import box_masks, read_boxes, read_segmentations
from featattn_neuro.io.splits import check_disjoint
from featattn_neuro.io.stimuli import Stimuli, load_stimuli


def singles(n: int = 30, classes: int = 5, size: int = 6, low: float = 0.5) -> Stimuli:
    images = np.random.default_rng(0).uniform(low, 1, (n, 1, size, size)).astype(np.float32)
    return load_stimuli(images, label=[f"c{k % classes}" for k in range(n)])


def test_arrays_hold_four_different_sources_each_once() -> None:
    sources = singles()
    found = array_composites(sources, 7, seed=3)
    assert np.unique(found.sources).size == 28
    assert found.stimuli.images.shape == (7, 1, 12, 12)
    for n in range(7):
        labels = sources.label[found.sources[n]].tolist()
        assert len(set(labels)) == 4
        assert str(found.stimuli.label[n]) == "|".join(labels)
        assert str(found.stimuli.constituents[n]) == "|".join(sources.id[found.sources[n]])
        for o, (top, left, bottom, right) in enumerate(found.boxes[n]):
            np.testing.assert_array_equal(
                found.stimuli[n][:, top:bottom, left:right], sources[int(found.sources[n, o])]
            )
    again = array_composites(sources, 7, seed=3)
    assert again.stimuli.id.tolist() == found.stimuli.id.tolist()
    assert array_composites(sources, 7, seed=4).stimuli.id.tolist() != found.stimuli.id.tolist()
    masks = found.masks()
    assert (masks["mask"].sum("object") == 1).all()  # the quadrants tile the image
    with pytest.raises(DataError, match="must not share images"):
        check_disjoint(arrays=found.stimuli, sources=sources)


def test_all_images_of_balanced_classes_can_be_used() -> None:
    found = array_composites(singles(40, 5), 10, seed=1)
    assert np.sort(found.sources.ravel()).tolist() == list(range(40))


@pytest.mark.parametrize("shift", [0, 2, 6])
def test_shifted_pairs_and_their_exclusive_ink(shift: int) -> None:
    sources = singles(low=0.0)
    found = shifted_composites(sources, 8, shift=shift, seed=5)
    assert found.stimuli.images.shape == (8, 1, 6 + shift, 6 + shift)
    ink = sources.pixels()[:, 0]
    masks = found.masks(ink=ink, threshold=0.4)["mask"].values
    assert masks.sum(axis=1).max() == 1
    for n in range(8):
        canvas, wanted = np.zeros((6 + shift, 6 + shift)), []
        for o, (top, left, bottom, right) in enumerate(found.boxes[n]):
            layer = np.zeros_like(canvas)
            layer[top:bottom, left:right] = ink[found.sources[n, o]]
            canvas += layer / 2
            wanted.append(layer > 0.4)
        np.testing.assert_allclose(found.stimuli[n][0], canvas, atol=1e-6)
        np.testing.assert_array_equal(masks[n, 0], wanted[0] & ~wanted[1])
        np.testing.assert_array_equal(masks[n, 1], wanted[1] & ~wanted[0])
        assert (found.boxes[n, 0, :2] != found.boxes[n, 1, :2]).all() or shift == 0  # opposite corners
    corners = {tuple(box[:2]) for box in found.boxes[:, 0].tolist()}
    assert len(corners) > 1 or shift == 0


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: array_composites(singles(30, 3), 2, seed=0), "2 composites of 4 different classes"),
        (lambda: array_composites(singles(), 8, seed=0), "which is too few"),
        (lambda: array_composites(singles(), 0, seed=0), "wanted 0 composites"),
        (lambda: shifted_composites(singles(), 2, shift=-1, seed=0), "a shift of 0 pixels or more; came -1"),
        (
            lambda: array_composites(array_composites(singles(), 4, seed=0).stimuli, 1, seed=0),
            "has 4 composites; pass their sources",
        ),
        (
            lambda: array_composites(load_stimuli(np.zeros((1, 1, 2, 2), np.float32), label=None), 1, seed=0),
            "no labels",
        ),
    ],
)
def test_what_cannot_be_arranged(make: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        make()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    for name in ("cat", "dog"):
        (tmp_path / "images" / name).mkdir(parents=True)
        (tmp_path / "segments" / name).mkdir(parents=True)
        for k in range(2):
            pixels = rng.integers(0, 255, (8, 10, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "images" / name / f"{k}.png")
            segments = np.zeros((8, 10), np.uint8)
            segments[k : k + 3, 2:5] = 7
            segments[6:, 8:] = 200
            Image.fromarray(segments).save(tmp_path / "segments" / name / f"{k}.png")
    return tmp_path


def test_segmentations_are_matched_by_file_name(folder: Path) -> None:
    stimuli = load_stimuli(folder / "images")
    found = read_segmentations(folder / "segments", stimuli.select([2, 0, 1]), (8, 10))
    for n, path in enumerate(found["path"].values):
        k = int(str(path).split("/")[-1][0])
        wanted = np.zeros((8, 10))
        wanted[k : k + 3, 2:5] = 1
        np.testing.assert_array_equal(found["mask"].values[n, 0], wanted)
        assert found["mask"].values[n, 1].sum() == 4
    assert found["object_label"].values[0].tolist() == [str(found["label"].values[0]), ""]
    with pytest.raises(DataError, match=r"wanted masks of 8 × 9 pixels, as the images; '0.png' has 8 × 10"):
        read_segmentations(folder / "segments", stimuli, (8, 9))
    (folder / "segments" / "dog" / "1.png").unlink()
    with pytest.raises(StoreError, match=r"wanted the segmentation of 'dog/1\.png'"):
        read_segmentations(folder / "segments", stimuli, (8, 10))


def only_image(folder: Path) -> Any:
    return load_stimuli(folder / "images").select([0])


def test_segments_of_sixteen_bits_and_of_colour(folder: Path) -> None:
    stimuli, file = only_image(folder), folder / "segments" / "cat" / "0.png"
    wide = np.zeros((8, 10), np.uint16)
    wide[:2, :2], wide[4:6, 4:7] = 300, 700
    Image.fromarray(wide).save(file)
    found = read_segmentations(folder / "segments", stimuli, (8, 10))["mask"].values[0]
    assert found.sum(axis=(1, 2)).tolist() == [4, 6]
    colour = np.zeros((8, 10, 3), np.uint8)
    colour[:2, :2], colour[4:6, 4:7] = (255, 0, 0), (0, 130, 0)
    Image.fromarray(colour).save(file)
    with pytest.raises(DataError, match=r"wanted grey or palette pictures of segments; 'cat/0\.png' is RGB"):
        read_segmentations(folder / "segments", stimuli, (8, 10))
    palette = Image.fromarray((colour.sum(axis=2) > 0).astype(np.uint8) * 3, mode="P")
    palette.putpalette([k for k in range(256) for _ in range(3)])
    palette.save(file)
    assert read_segmentations(folder / "segments", stimuli, (8, 10))["mask"].values[0].sum() == 10


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ("label\ncat/0.png,0,0,1,1,", r"row 1 .* has no label"),
        ("label\ncat/0.png,0,x,1,1,cat", r"wanted a number in column left .*; row 1 has 'x'"),
        ("label\ncat/0.png,0,0,1,,cat", r"wanted a number in column right .*; row 1 has ''"),
        ("object\ncat/0.png,0,0,1,1,", "whole numbers from 0 in column object"),
    ],
)
def test_cells_of_boxes_that_say_nothing(folder: Path, rows: str, message: str) -> None:
    table = folder / "boxes.csv"
    table.write_text(f"path,top,left,bottom,right,{rows}\n")
    with pytest.raises(StoreError, match=message):
        read_boxes(table, only_image(folder), (8, 10))
    table.write_text("path,top,left,bottom,right,label\ncat/0.png,0,0,1,1,NA\n")  # a class may be called so
    assert read_boxes(table, only_image(folder), (8, 10))["object_label"].values.tolist() == [["NA"]]


def test_boxes_from_a_table(folder: Path) -> None:
    stimuli, table = load_stimuli(folder / "images"), folder / "boxes.csv"
    rows = [f"{name}/{k}.png,{name},{k},1,{k + 2},4" for name in ("dog", "cat") for k in range(2)]
    table.write_text("path,label,top,left,bottom,right\n" + "\n".join(rows) + "\n")
    found = read_boxes(table, stimuli, (8, 10))
    for n, path in enumerate(stimuli.path):
        k = int(str(path).split("/")[-1][0])
        np.testing.assert_array_equal(found["mask"].values[n, 0], box_masks([k, 1, k + 2, 4], (8, 10)))
        assert str(found["object_label"].values[n, 0]) == str(stimuli.label[n])
    table.write_text("path,label,top,left,bottom,right\n" + "\n".join(rows[1:]) + "\n")
    with pytest.raises(DataError, match=r"has no mask for 1 of 4 images, one is image 'dog/0.png'"):
        read_boxes(table, stimuli, (8, 10))
    table.write_text("path,top,left,bottom,right\ncat/9.png,0,0,1,1\n")
    with pytest.raises(DataError, match=r"1 images that .* does not have \(first: 'cat/9.png'\)"):
        read_boxes(table, stimuli, (8, 10))
    table.write_text("path,top,left,bottom,right\ncat/0.png,0,0,9,1\n")
    with pytest.raises(DataError, match=r"inside images of 8 × 10; came \[0, 0, 9, 1\]"):
        read_boxes(table, stimuli, (8, 10))
    table.write_text("path,top,left\ncat/0.png,0,0\n")
    with pytest.raises(StoreError, match="missing bottom, right"):
        read_boxes(table, stimuli, (8, 10))


def test_boxes_of_two_classes_are_no_one_object(folder: Path) -> None:
    stimuli, table = only_image(folder), folder / "boxes.csv"
    head, rows = "path,top,left,bottom,right,label", ["cat/0.png,0,0,2,2,cat", "cat/0.png,4,4,6,6,dog"]
    table.write_text("\n".join([head, *rows]))
    with pytest.raises(StoreError, match=r"row 2 of 2 calls object 0 of 'cat/0\.png' 'dog', a row .* in column object"):
        read_boxes(table, stimuli, (8, 10))
    table.write_text("\n".join([f"{head},object", f"{rows[0]},0", f"{rows[1]},1"]))
    assert read_boxes(table, stimuli, (8, 10))["object_label"].values.tolist() == [["cat", "dog"]]
    table.write_text("\n".join([head, rows[0], "cat/0.png,4,4,6,6,cat"]))  # one object in two parts
    assert int(read_boxes(table, stimuli, (8, 10))["mask"].sum()) == 8


@pytest.mark.parametrize("box", [[0.2, 0, 0.8, 3], [0, 1.5, 3, 2], [1.1, 1.1, 1.9, 1.9]])
def test_boxes_between_pixels_are_refused(box: list[float]) -> None:
    with pytest.raises(DataError, match="wanted boxes with pixels inside images of 4 × 5"):
        box_masks([[0, 0, 1, 1], box], (4, 5))
    assert box_masks([1.5, 0.5, 2.5, 3], (4, 5)).sum() == 2


def test_objects_are_numbered_within_an_image(folder: Path) -> None:
    table = folder / "boxes.csv"
    table.write_text("path,top,left,bottom,right,object\ncat/0.png,0,0,1,1,0\ncat/0.png,2,2,4,4,2\n")
    assert read_boxes(table, only_image(folder), (8, 10))["mask"].values.sum(axis=(2, 3)).tolist() == [[1, 0, 4]]
    table.write_text("path,top,left,bottom,right,object\ncat/0.png,0,0,1,1,0\ncat/0.png,2,2,4,4,1000000000\n")
    with pytest.raises(StoreError, match=r"numbered 0, 1, … .* came 1000000000 where no image has more than 2 boxes"):
        read_boxes(table, only_image(folder), (8, 10))

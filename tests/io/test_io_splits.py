"""Splits are disjoint, composites use each source once, leaks are found, near-duplicates are reported."""

from __future__ import annotations

import io
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from PIL import Image

from featattn_neuro.errors import DataError
from featattn_neuro.io.stimuli import (
    Stimuli,
    check_disjoint,
    difference_hash,
    load_stimuli,
    near_duplicates,
    pair_composites,
    partition,
)


def labelled(counts: dict[str, int], seed: int = 0) -> Stimuli:
    label = np.repeat(list(counts), list(counts.values()))
    images = np.random.default_rng(seed).random((label.size, 1, 4, 4), dtype=np.float32)
    return load_stimuli(images, label=label)


def test_partition_is_stratified_disjoint_and_seeded():
    stimuli = labelled({"a": 30, "b": 25})
    sizes = {"R": 10, "G": 6, "P": 4}
    parts = partition(stimuli, sizes, seed=3)
    for name, size in sizes.items():
        one = parts.select(parts.split == name)
        assert np.unique(one.label, return_counts=True)[1].tolist() == [size, size]
    assert len(parts) == 40
    check_disjoint(**{name: parts.select(parts.split == name) for name in sizes})
    assert partition(stimuli, sizes, seed=3).split.tolist() == parts.split.tolist()
    assert partition(stimuli, sizes, seed=4).id.tolist() != parts.id.tolist()


@settings(max_examples=20, deadline=None)
@given(st.permutations(range(12)), st.integers(0, 5))
def test_partition_depends_on_ids_not_on_order(order, seed):
    stimuli = labelled({"a": 6, "b": 6})
    one, other = (partition(s, {"G": 2, "P": 3}, seed=seed) for s in (stimuli, stimuli.select(order)))
    assert dict(zip(one.id, one.split, strict=True)) == dict(zip(other.id, other.split, strict=True))


def test_every_image_is_equally_likely_in_each_split():
    stimuli = labelled({"a": 6})
    counts = np.zeros((6, 2))
    for seed in range(600):
        parts = partition(stimuli, {"G": 2, "P": 3}, seed=seed)
        for row, one in enumerate(stimuli.id):
            for column, name in enumerate("GP"):
                counts[row, column] += one in parts.id[parts.split == name]
    # binomial, n 600: SD about 12
    np.testing.assert_allclose(counts[:, 0], 200, atol=55)
    np.testing.assert_allclose(counts[:, 1], 300, atol=55)


def test_partition_names_the_class_that_is_too_small():
    with pytest.raises(DataError, match=r"wanted 6 images of each class \(G 2, P 4\); class 'b' of array has 5"):
        partition(labelled({"a": 6, "b": 5}), {"G": 2, "P": 4}, seed=0)
    with pytest.raises(DataError, match="wanted labelled stimuli"):
        partition(load_stimuli(np.eye(4, dtype=np.float32).reshape(4, 1, 2, 2)), {"G": 1}, seed=0)
    with pytest.raises(DataError, match="split 'G' has -1"):
        partition(labelled({"a": 2}), {"G": -1}, seed=0)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 12), min_size=2, max_size=5), st.data())
def test_composites_use_each_source_once_and_labels_differ(counts, data):
    count = data.draw(st.integers(1, sum(counts) // 2))
    assume(sum(min(c, count) for c in counts) >= 2 * count)
    stimuli = labelled({f"c{i}": c for i, c in enumerate(counts)})
    pairs = pair_composites(stimuli, count, seed=data.draw(st.integers(0, 9)))
    used = np.concatenate([pairs.first, pairs.second])
    assert np.unique(used).size == used.size == 2 * count
    assert (stimuli.label[pairs.first] != stimuli.label[pairs.second]).all()
    pixels = stimuli.pixels()
    np.testing.assert_array_equal(pairs.stimuli.pixels(), (pixels[pairs.first] + pixels[pairs.second]) / 2)
    for i, (a, b) in enumerate(zip(pairs.first, pairs.second, strict=True)):
        assert pairs.stimuli.label[i] == f"{stimuli.label[a]}|{stimuli.label[b]}"
        assert pairs.stimuli.constituents[i] == f"{stimuli.id[a]}|{stimuli.id[b]}"
    assert pairs.stimuli.sources() == sorted(stimuli.id[used])


def test_pairs_of_classes_are_equally_likely():
    stimuli = labelled({"a": 20, "b": 20, "c": 20, "d": 20})
    seen: dict[str, int] = {}
    for seed in range(150):
        for label in pair_composites(stimuli, 40, seed=seed).stimuli.label:
            key = "".join(sorted(label.split("|")))
            seen[key] = seen.get(key, 0) + 1
    assert len(seen) == 6
    np.testing.assert_allclose(list(seen.values()), 1000, rtol=0.1)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(1, 6), min_size=1, max_size=4), st.integers(1, 12))
def test_impossible_pairings_are_refused_and_possible_ones_are_found(counts, count):
    possible = sum(min(c, count) for c in counts) >= 2 * count
    stimuli = labelled({f"c{i}": c for i, c in enumerate(counts)})
    if possible:
        assert len(pair_composites(stimuli, count, seed=0).stimuli) == count
    else:
        with pytest.raises(DataError, match=f"wanted {count} pairs of different classes"):
            pair_composites(stimuli, count, seed=0)


def test_composites_keep_the_split_and_refuse_several_and_composites():
    parts = partition(labelled({"a": 4, "b": 4}), {"G": 2, "P": 2}, seed=0)
    with pytest.raises(DataError, match="one split to pair; came G, P"):
        pair_composites(parts, 1, seed=0)
    pairs = pair_composites(parts.select(parts.split == "G"), 2, seed=0).stimuli
    assert set(pairs.split) == {"G"}
    with pytest.raises(DataError, match=r"wanted single images; .* has 2 composites"):
        pair_composites(pairs, 1, seed=0)


def test_a_leak_through_a_source_is_a_leak():
    stimuli = labelled({"a": 3, "b": 3})
    pairs = pair_composites(stimuli, 2, seed=0)
    rest = np.setdiff1d(np.arange(6), np.concatenate([pairs.first, pairs.second]))
    check_disjoint(pairs=pairs.stimuli, rest=stimuli.select(rest))
    leak = stimuli.select([pairs.first[0]])
    with pytest.raises(
        DataError, match=rf"'pairs' and 'probe' must not share images; they share 1, one is '{leak.id[0]}'"
    ):
        check_disjoint(rest=stimuli.select(rest), pairs=pairs.stimuli, probe=leak)


def test_ids_count_by_their_sources_too():
    check_disjoint(gains=["i|j"], selectivity=iter(["k|l", "m"]))
    with pytest.raises(DataError, match="share 1, one is 'j'"):
        check_disjoint(gains=["i|j"], selectivity=["j|k"])


def test_digits_have_no_identical_and_two_nearly_identical_images():
    digits = load_stimuli("digits")
    found = near_duplicates(digits)
    assert len(found) == 2
    label = dict(zip(digits.id, digits.label, strict=True))
    assert {label[i] for i in [*found["first"], *found["second"]]} == {"1"}


def test_near_duplicates_agree_with_corrcoef_across_blocks(monkeypatch):
    from featattn_neuro.io import splits

    monkeypatch.setattr(splits, "_BLOCK", 7)
    rng = np.random.default_rng(0)
    images = rng.random((30, 1, 5, 5), dtype=np.float32)
    images[20:] = images[:10] + 0.08 * rng.random((10, 1, 5, 5), dtype=np.float32)
    images[13] = images[12] + 0.08 * rng.random((1, 5, 5), dtype=np.float32)  # neighbours, the edge of the triangle
    stimuli = load_stimuli(images)
    wanted = np.corrcoef(images.reshape(30, -1))
    found = near_duplicates(stimuli, threshold=0.97)
    order = {one: i for i, one in enumerate(stimuli.id)}
    pairs = {(order[a], order[b]) for a, b in zip(found["first"], found["second"], strict=True)}
    assert pairs == {(i, j) for i in range(30) for j in range(i + 1, 30) if wanted[i, j] > 0.97}
    assert len(pairs) == 11
    np.testing.assert_allclose(
        found["correlation"],
        [wanted[order[a], order[b]] for a, b in zip(found["first"], found["second"], strict=True)],
        atol=1e-5,
    )


def test_large_images_by_hash_and_splits_are_reported(tmp_path):
    rng = np.random.default_rng(0)
    for i in range(4):
        coarse = rng.integers(0, 256, (9, 9, 3), dtype=np.uint8)
        image = Image.fromarray(coarse).resize((128, 96), Image.Resampling.BICUBIC)
        image.save(tmp_path / f"{i}.png")
        if i == 0:
            image.save(tmp_path / "recompressed.jpg", quality=60)
    stimuli = load_stimuli(tmp_path)
    split = np.where(stimuli.path == "recompressed.jpg", "P", "G")
    stimuli = Stimuli(id=stimuli.id, images=stimuli.images, path=stimuli.path, split=split)
    found = near_duplicates(stimuli)
    path = dict(zip(stimuli.id, stimuli.path, strict=True))
    assert [(path[a], path[b]) for a, b in zip(found["first"], found["second"], strict=True)] == [
        ("0.png", "recompressed.jpg")
    ]
    assert found[["first_split", "second_split"]].to_numpy().tolist() == [["G", "P"]]
    assert found["correlation"][0] >= 1 - 2 * 3 / 64


def test_difference_hash_of_ramps():
    ramp = np.tile(np.arange(90, dtype=np.uint8)[None, :, None], (80, 1, 3))
    assert difference_hash(ramp).all()
    assert not difference_hash(ramp[:, ::-1]).any()
    assert difference_hash(ramp.transpose(2, 0, 1).astype(np.float32)).all()


def test_flat_images_are_no_near_duplicates():
    flat = np.stack([np.full((1, 4, 4), v, np.float32) for v in (0.0, 0.5)])
    assert near_duplicates(load_stimuli(flat)).empty


def test_corrupt_bytes_do_not_reach_the_hash(tmp_path):
    buffer = io.BytesIO()
    Image.new("RGB", (80, 80)).save(buffer, format="PNG")
    (tmp_path / "a.png").write_bytes(buffer.getvalue())
    stimuli = load_stimuli(tmp_path)
    (tmp_path / "a.png").write_bytes(b"gone")
    with pytest.raises(DataError, match=r"a\.png.* is corrupt"):
        near_duplicates(stimuli)


def test_partition_keeps_what_is_known_of_the_stimuli():
    stimuli = labelled({"a": 3, "b": 3})
    known = replace(stimuli, parameters={"session": np.arange(6)}, path=np.array([f"{i}.png" for i in range(6)]))
    drawn = partition(known, {"G": 1, "P": 1}, seed=0)
    places = [known.id.tolist().index(one) for one in drawn.id]
    assert drawn.parameters["session"].tolist() == places
    assert drawn.path.tolist() == [f"{i}.png" for i in places]
    assert drawn.name == known.name

"""Coordinates and metadata of a recording: listed, checksummed, made anew when a recording is taken up."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import featattn_neuro as fn
from featattn_neuro.errors import StoreError
from featattn_neuro.io import recording_store as stores
from featattn_neuro.io.stimuli import load_stimuli

FILES = ["channel/c/0", "label/c/0", "layer/c/0", "stage/c/0", "x/c/0", "y/c/0", "stimulus/c/0",
         "zarr.json", "channel/zarr.json", "response_0000/zarr.json"]  # fmt: skip


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch):
    monkeypatch.setattr(stores, "BLOCK_BYTES", 1)


def network():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU()).eval()


def record(out, **options):
    pixels = np.random.default_rng(0).standard_normal((8, 1, 5, 5)).astype(np.float32)
    images = load_stimuli(pixels, label=list("abababab"))
    return fn.record(network(), images, ["0", "1"], reduce="none", batch_size=2, out=out, **options)


def content(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(Path(folder).rglob("*")) if p.is_file()}


def damage(path, how):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    if how == "remove":
        path.unlink()
    else:
        path.write_bytes(data)


@pytest.mark.parametrize("how", ["flip", "remove"])
@pytest.mark.parametrize("name", FILES)
def test_a_lost_or_damaged_coordinate_or_metadata_file_is_named(tmp_path, name, how):
    out = tmp_path / "a.zarr"
    record(out).close()
    damage(out / name, how)
    for reading in (fn.open_kind, stores.verify_recording):
        with pytest.raises(
            StoreError, match=rf"^{name} of .*{'damaged' if how == 'flip' else 'missing'}.*record again"
        ):
            reading(out)


@pytest.mark.parametrize("name", FILES)
def test_what_was_lost_of_an_unfinished_recording_is_not_in_the_finished_one(tmp_path, name):
    def stop(done, total):
        if done == 6:
            raise KeyboardInterrupt

    record(tmp_path / "whole.zarr").close()
    out, calls = tmp_path / "cut.zarr", []
    with pytest.raises(KeyboardInterrupt):
        record(out, progress=stop)
    damage(tmp_path / ".cut.zarr.recording" / name, "remove" if name.endswith("0") else "flip")
    record(out, progress=lambda *done: calls.append(done)).close()
    assert content(out) == content(tmp_path / "whole.zarr")
    assert len(calls) < 4, "what was whole is not recorded again"


def test_the_list_itself_is_checked(tmp_path):
    out = tmp_path / "a.zarr"
    record(out).close()
    place = out / "chunks.json"
    text = place.read_text()
    place.unlink()
    with pytest.raises(StoreError, match=r"chunks\.json of .* is missing: .* record again"):
        fn.open_kind(out)
    for wrong in (text[:-30], text.replace('"unreadable": {}', '"unreadable": {"1": "gone"}'), "[]", '{"format": 2}'):
        place.write_text(wrong)
        with pytest.raises(StoreError, match=r"chunks\.json of .* is damaged"):
            fn.open_kind(out)
    newer = {**json.loads(text), "format": 3}
    place.write_text(json.dumps(newer))
    with pytest.raises(StoreError, match="newer featattn_neuro"):
        fn.open_kind(out)


def test_any_flipped_byte_of_metadata_is_a_clear_error(tmp_path):
    out = tmp_path / "a.zarr"
    record(out).close()
    for name in ("chunks.json", "zarr.json", "response_0000/zarr.json"):
        whole = (out / name).read_bytes()
        for place in range(0, len(whole), max(1, len(whole) // 40)):
            data = bytearray(whole)
            data[place] ^= 1
            (out / name).write_bytes(data)
            with pytest.raises(StoreError):
                fn.open_kind(out)
        (out / name).write_bytes(whole)
    fn.open_kind(out).close()


def test_recordings_of_the_first_format_open_and_say_what_they_cannot(tmp_path):
    out = tmp_path / "a.zarr"
    wanted = record(out).load()
    manifest = json.loads((out / "chunks.json").read_text())
    old = {"format": 1, **{name: manifest[name] for name in ("key", "chunks", "unreadable")}}
    (out / "chunks.json").write_text(json.dumps(old))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert fn.open_kind(out).load().identical(wanted)
    (out / "channel" / "c" / "0").unlink()
    with pytest.warns(UserWarning, match=r"coordinate 'channel' of .* has lost a file otherwise"):
        fn.open_kind(out)
    (out / "zarr.json").write_text((out / "zarr.json").read_text().replace('"layers": 2', '"layers": "2"'))
    with pytest.raises(StoreError, match="cannot be read"):
        fn.open_kind(out)


def test_coordinates_that_are_zero_throughout_have_a_file(tmp_path):
    out = tmp_path / "a.zarr"
    images = load_stimuli(np.ones((1, 1, 4, 4), np.float32), label=None)
    found = fn.record(nn.Sequential(nn.Conv2d(1, 1, 1)), images, "0", out=out)
    assert found.channel.values.tolist() == [0]
    assert (out / "channel" / "c" / "0").is_file()

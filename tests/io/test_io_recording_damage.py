"""Stored recordings that are damaged, places that cannot hold one, and what is left when a process is interrupted."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from torch import nn

import featattn_neuro as fn
from featattn_neuro.errors import ConfigError, StoreError

SCRIPT = Path(__file__).with_name("_killed_recorder.py")


@pytest.fixture
def net():
    return nn.Sequential(nn.Conv2d(3, 8, 1)).eval()


IMAGES = np.random.default_rng(0).standard_normal((16, 3, 8, 8)).astype(np.float32)


def damage(path):
    """Turn one byte of the responses over."""
    if path.suffix == ".nc":
        import h5py

        with h5py.File(path) as opened:
            file, place = path, opened["response"].id.get_chunk_info(0).byte_offset + 10
    else:
        file, place = next(one for one in (path / "response_0000" / "c").rglob("*") if one.is_file()), 30
    data = bytearray(file.read_bytes())
    data[place] ^= 255
    file.write_bytes(data)


@pytest.mark.parametrize("suffix", [".zarr", ".nc"])
def test_overwriting_makes_a_damaged_recording_anew_and_leaves_a_whole_one(tmp_path, net, suffix):
    out = tmp_path / f"a{suffix}"
    wanted = fn.record(net, IMAGES, "0", reduce="none", out=out).load()
    damage(out)
    with fn.open_kind(out) as found, pytest.raises(StoreError, match=rf"a\{suffix}.*damaged"):
        found.response.values  # noqa: B018 - reading is what is tested
    calls = []
    for made in (True, False):
        calls.clear()
        options = {"overwrite": True, "progress": lambda *done: calls.append(done)}
        with fn.record(net, IMAGES, "0", reduce="none", out=out, **options) as found:
            np.testing.assert_array_equal(found.response, wanted.response)
        assert bool(calls) == made


def test_a_damaged_entry_of_a_cache_is_named_and_can_be_made_anew(tmp_path, net):
    wanted = fn.record(net, IMAGES, "0", cache=tmp_path).load()
    (entry,) = tmp_path.glob("*.zarr")
    damage(entry)
    with pytest.raises(StoreError, match=rf"{entry.name}.*or delete the folder"):
        fn.record(net, IMAGES, "0", cache=tmp_path).load()
    np.testing.assert_array_equal(fn.record(net, IMAGES, "0", cache=tmp_path, overwrite=True).response, wanted.response)


def test_a_cache_that_cannot_be_a_folder_is_refused_in_a_sentence(tmp_path, net):
    (tmp_path / "file").write_text("")
    for place in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(StoreError, match=r"cannot be a folder for recordings .*choose another cache"):
            fn.record(net, IMAGES, "0", cache=place)
    with pytest.raises(ConfigError, match="wanted a folder as cache; came True"):
        fn.record(net, IMAGES, "0", cache=True)


def wait_for(condition, seconds=120):
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "waited in vain"
        time.sleep(0.05)


@pytest.mark.parametrize("suffix", [".zarr", ".nc"])
def test_a_second_process_is_refused(tmp_path, net, suffix):
    out = tmp_path / f"a{suffix}"
    process = subprocess.Popen([sys.executable, "-W", "ignore", str(SCRIPT), str(out), "30"])
    try:
        wait_for((tmp_path / f".a{suffix}.recording" / "progress.jsonl").is_file)
        with pytest.raises(StoreError, match="another process is recording into"):
            fn.record(net, IMAGES, "0", out=out)
    finally:
        process.kill()
        process.wait()
    assert not out.exists()


INTERRUPTED = """
import signal, sys, time
import featattn_neuro as fn
from torch import nn

def slow(done, total):
    print("images", flush=True)
    time.sleep(60)

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)  # what a shell starts in the background ignores it
    net, (images, out) = nn.Sequential(nn.Conv2d(3, 2, 1)), sys.argv[1:]
    fn.record(net, images, "0", batch_size=2, workers=2, out=out, progress=slow)
"""


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="needs /proc, which tells children")
def test_an_interrupt_ends_the_loader_workers_too(tmp_path):
    from PIL import Image

    (tmp_path / "images").mkdir()
    for i in range(12):
        Image.fromarray(np.full((8, 8, 3), i, np.uint8)).save(tmp_path / "images" / f"{i:02d}.png")
    (tmp_path / "run.py").write_text(INTERRUPTED)
    process = subprocess.Popen(
        [sys.executable, "-W", "ignore", "run.py", "images", "a.zarr"],
        cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, start_new_session=True,
    )  # fmt: skip
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "images\n"
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        assert len(children) >= 2
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does
        assert process.wait(60) != 0
    finally:
        process.kill()
        process.wait()
    wait_for(lambda: not any(Path(f"/proc/{child}").exists() for child in children), 30)
    assert not (tmp_path / "a.zarr").exists()

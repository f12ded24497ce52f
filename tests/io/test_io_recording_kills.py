"""What a kill leaves at each moment of replacing and of writing netCDF, simulated state by state, and put right."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr
from torch import nn

import featattn_neuro as fn
from featattn_neuro.errors import StoreError
from featattn_neuro.io import recording_store as stores
from featattn_neuro.io import store
from featattn_neuro.io.stimuli import load_stimuli


class Kill(BaseException):
    """What no code catches, as no code catches SIGKILL."""


def network():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU()).eval()


def record(out, layer="0", **options):
    images = load_stimuli(np.random.default_rng(0).standard_normal((6, 1, 5, 5)).astype(np.float32), label=None)
    return fn.record(network(), images, layer, batch_size=2, out=out, **options).load()


def names(folder):
    return sorted(path.name for path in Path(folder).iterdir())


def content(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(Path(folder).rglob("*")) if p.is_file()}


def kill_at(monkeypatch, place, condition, act):
    """Run `act`; die where a function of this place is called with arguments that meet the condition."""
    owner, name = place
    known = getattr(owner, name)

    def dying(*arguments, **options):
        if condition(*arguments):
            raise Kill
        return known(*arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(owner, name, dying)
        with pytest.raises(Kill):
            act()


MOMENTS = {
    "before": ((os, "replace"), lambda source, target: str(target).endswith(".a.zarr.replaced")),
    "between": ((os, "replace"), lambda source, target: str(target).endswith("/a.zarr")),
    "removing": ((store, "_remove"), lambda path: path.name == ".a.zarr.replaced" and path.exists()),
}


@pytest.mark.parametrize("moment", MOMENTS)
def test_an_overwriting_that_was_killed_is_finished_by_the_same_call(tmp_path, monkeypatch, moment):
    out = tmp_path / "a.zarr"
    wanted = record(tmp_path / "b.zarr", "1")
    record(out, "0")
    kill_at(monkeypatch, *MOMENTS[moment], lambda: record(out, "1", overwrite=True))
    calls: list[object] = []
    found = record(out, "1", overwrite=True, progress=lambda *done: calls.append(done))
    assert found.identical(wanted)
    assert calls == [], "the recording was whole already"
    assert content(out) == content(tmp_path / "b.zarr")
    for layer in ("0", "1", "0"):  # and the path is good for more
        assert record(out, layer, overwrite=True).sizes["unit"] == 2
    assert names(tmp_path) == ["a.zarr", "b.zarr"]


def test_killed_between_two_names_another_call_finds_the_whole_recording(tmp_path, monkeypatch):
    out = tmp_path / "a.zarr"
    record(out, "0")
    kill_at(monkeypatch, *MOMENTS["between"], lambda: record(out, "1", overwrite=True))
    with pytest.raises(
        StoreError, match=r"a process was killed while it replaced .*rename the old one, '\.a\.zarr\.repl"
    ):
        fn.open_kind(out)
    with pytest.raises(StoreError, match="holds another recording"):
        record(out, "0")
    assert set(fn.open_kind(out).layer.values) == {"1"}
    assert names(tmp_path) == ["a.zarr"]


def test_an_old_recording_whose_successor_is_lost_comes_back(tmp_path):
    out = tmp_path / "a.zarr"
    wanted = record(out, "0")
    os.replace(out, tmp_path / ".a.zarr.replaced")
    assert record(out, "0").identical(wanted)
    assert names(tmp_path) == ["a.zarr"]


@pytest.fixture
def small() -> xr.Dataset:
    units = {"unit": ["c/0"], "layer": ("unit", ["c"]), "channel": ("unit", [0])}
    values = {"response": (("stimulus", "unit"), np.ones((2, 1), np.float32))}
    return xr.Dataset(values, {"stimulus": ["i", "j"], **units}, {"kind": "ACTIVATIONS"})


@pytest.mark.parametrize("moment", ["between", "removing"])
def test_a_dataset_that_was_being_replaced_is_written_by_the_next_call(tmp_path, monkeypatch, small, moment):
    path = store.save_kind(small, tmp_path / "a.zarr")
    kill_at(monkeypatch, *MOMENTS[moment], lambda: store.save_kind(small * 2, path))
    store.save_kind(small.assign(response=small.response * 3), path)
    assert float(store.load_kind(path).response.max()) == 3
    assert names(tmp_path) == ["a.zarr"]


def test_half_written_files_of_dead_processes_are_removed_and_those_of_others_kept(tmp_path, small):
    machine, dead = store._machine(), subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    kept = [f".a.nc.{machine}-{os.getpid()}-0123abcd.partial",  # a writer beside this one
            f".a.nc.00000000-{dead.pid}-0123abcd.partial",  # of another machine
            f".b.nc.{machine}-{dead.pid}-0123abcd.partial"]  # of another file  # fmt: skip
    stale = [f".a.nc.{machine}-{dead.pid}-0123abcd.partial", f"..a.nc.{machine}-{dead.pid}-0123abcd.nc.partial"]
    for name in (*kept, *stale):
        (tmp_path / name).write_text("half")
    (tmp_path / f".a.nc.{machine}-{dead.pid}-0123abcd.zarr").mkdir()
    store.save_kind(small, tmp_path / "a.nc")
    assert names(tmp_path) == sorted([*kept, "a.nc"])


def test_killed_while_netcdf_is_written_a_rerun_leaves_nothing_beside_it(tmp_path):
    out = tmp_path / "k.nc"
    script = (
        "import os, sys; sys.path.insert(0, sys.argv[1]); import test_io_recording_kills as kills;"
        "from featattn_neuro.io import store; known = store._move_over;"
        "store._move_over = lambda a, b: os._exit(9) if b.suffix == '.nc' else known(a, b);"
        "kills.record(sys.argv[2])"
    )
    done = subprocess.run([sys.executable, "-c", script, str(Path(__file__).parent), str(out)], check=False)
    assert done.returncode == 9
    assert len(names(tmp_path)) == 2, "the recording and half a file"
    calls: list[object] = []
    found = record(out, progress=lambda *done: calls.append(done))
    assert found.identical(record(tmp_path / "l.nc"))
    assert names(tmp_path) == ["k.nc", "l.nc"]


def test_killed_after_netcdf_was_written_the_unfinished_folder_goes(tmp_path, monkeypatch):
    out = tmp_path / "k.nc"
    kill_at(monkeypatch, (stores.shutil, "rmtree"), lambda path, *more: path.name == ".k.nc.recording",
            lambda: record(out))  # fmt: skip
    assert names(tmp_path) == [".k.nc.recording", "k.nc"]
    record(out)
    assert names(tmp_path) == ["k.nc"]


def test_a_recording_of_few_units_is_taken_up_near_where_it_was_killed(tmp_path):
    pixels = np.random.default_rng(0).standard_normal((2000, 1, 2, 2)).astype(np.float32)
    images, net = load_stimuli(pixels, label=None), nn.Sequential(nn.Conv2d(1, 10, 1)).eval()
    stopped: list[int] = []

    def stop(done, total):
        stopped.append(done)
        if done >= 1900:
            raise Kill

    fn.record(net, images, "0", out=tmp_path / "whole.zarr").close()
    with pytest.raises(Kill):
        fn.record(net, images, "0", out=tmp_path / "cut.zarr", progress=stop)
    taken_up: list[int] = []
    fn.record(net, images, "0", out=tmp_path / "cut.zarr", progress=lambda done, total: taken_up.append(done)).close()
    assert stopped[-1] - (taken_up[0] - 32) < 512
    assert content(tmp_path / "cut.zarr") == content(tmp_path / "whole.zarr")
    chunks = [path for path in (tmp_path / "whole.zarr" / "response_0000" / "c").rglob("*") if path.is_file()]
    assert len(chunks) == 4, "not many small files"

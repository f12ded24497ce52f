"""The streamed store: equal to memory, whole or resumable after any kill, locked, checksummed, keyed by content."""

from __future__ import annotations

import importlib.util
import json
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr
from torch import nn

import featattn_neuro as fn
from featattn_neuro.errors import ConfigError, DataError, StoreError
from featattn_neuro.io import recording_store as stores
from featattn_neuro.io.stimuli import load_stimuli

SCRIPT = Path(__file__).with_name("_killed_recorder.py")
_spec = importlib.util.spec_from_file_location("_killed_recorder", SCRIPT)
assert _spec is not None
assert _spec.loader is not None
killed = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(killed)


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch):
    monkeypatch.setattr(stores, "BLOCK_BYTES", 1)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def content(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(Path(folder).rglob("*")) if p.is_file()}


def plain(dataset):
    extra = ("provenance", "recording_key", "recording_inputs")
    return dataset.load().assign_attrs({}).drop_attrs(deep=False).assign_attrs(
        {k: v for k, v in dataset.attrs.items() if k not in extra}
    )  # fmt: skip


@pytest.mark.parametrize("suffix", [".zarr", ".nc"])
@pytest.mark.parametrize("reduce", ["mean", ["mean", "sd", "q0.9"], "none"], ids=["one", "several", "maps"])
def test_a_stored_recording_is_the_one_in_memory(tmp_path, reduce, suffix):
    net, images = killed.network(), killed.stimuli()
    wanted = fn.record(net, images, ["0", "1", "2"], reduce=reduce, batch_size=5)
    found = fn.record(net, images, ["0", "1", "2"], reduce=reduce, batch_size=5, out=tmp_path / f"a{suffix}")
    assert found.response.chunks is not None
    xr.testing.assert_identical(plain(found), wanted)
    found.close()
    assert [p.name for p in tmp_path.iterdir()] == [f"a{suffix}"]


def test_chunks_never_cross_a_layer_and_selecting_reads_only_what_it_needs(tmp_path):
    found = killed.record(tmp_path / "a.zarr")
    layer = found.layer.values
    ends = set(np.flatnonzero(layer[1:] != layer[:-1]) + 1)
    assert ends <= set(np.cumsum(found.response.chunks[1]))
    wanted = killed.record(tmp_path / "b.zarr").response[:8].load()
    for name in ("response_0000", "response_0002"):
        for path in (tmp_path / "a.zarr" / name / "c").rglob("*"):
            if path.is_file():
                path.unlink()
    kept = np.flatnonzero(layer == "1")
    got = found.response.isel(stimulus=slice(0, 8), unit=kept).values
    np.testing.assert_array_equal(got, wanted.values[:, kept])


def test_compressed_with_bitshuffled_lz4_and_crc32c(tmp_path):
    killed.record(tmp_path / "a.zarr")
    codecs = json.loads((tmp_path / "a.zarr" / "response_0000" / "zarr.json").read_text())["codecs"]
    assert [c["name"] for c in codecs] == ["bytes", "blosc", "crc32c"]
    assert codecs[1]["configuration"]["cname"] == "lz4"
    assert codecs[1]["configuration"]["shuffle"] == "bitshuffle"


@pytest.mark.parametrize("how", ["flip", "cut", "remove"])
def test_damage_is_named(tmp_path, how):
    found = killed.record(tmp_path / "a.zarr")
    chunk = next(p for p in (tmp_path / "a.zarr" / "response_0001" / "c").rglob("*") if p.is_file())
    data = bytearray(chunk.read_bytes())
    data[len(data) // 2] ^= 1
    if how == "remove":
        chunk.unlink()
    else:
        chunk.write_bytes(data if how == "flip" else data[:-7])
    with pytest.raises(StoreError, match="response_0001"):
        stores.verify_recording(tmp_path / "a.zarr")
    with pytest.raises(StoreError, match=r"response_0001/c/0/\d+/\d+ .*(checksum|No such file)"):
        found.response.values  # noqa: B018 - reading is what is tested
    if how != "flip":
        with pytest.raises(StoreError, match="response_0001.*" + {"cut": "cut short", "remove": "missing"}[how]):
            fn.open_kind(tmp_path / "a.zarr")


@pytest.mark.slow
def test_killed_at_random_it_ends_bit_identical(tmp_path):
    """SIGKILLs at random moments; every start takes up what is there; the end is the uninterrupted run."""
    whole, cut = tmp_path / "whole.zarr", tmp_path / "cut.zarr"
    killed.record(str(whole))
    draw, kills, context = random.Random(0), 0, multiprocessing.get_context("fork")
    seen = []
    began = time.monotonic()
    killed.record(str(tmp_path / "timed.zarr"), slow=0.01)
    duration = time.monotonic() - began
    while kills < 24:
        reading, writing = os.pipe()
        child = context.Process(target=_child, args=(str(cut), writing))
        child.start()
        os.close(writing)
        os.read(reading, 1)  # the child is about to record
        os.close(reading)
        child.join(draw.uniform(0.0, duration))
        if child.exitcode is None:
            os.kill(child.pid, signal.SIGKILL)
            kills += 1
        child.join()
        progress = tmp_path / ".cut.zarr.recording" / "progress.jsonl"
        seen.append(len(progress.read_text().splitlines()) if progress.exists() else 0)
        if cut.exists():  # it came to its end between kills: compare, and begin anew
            assert content(cut) == content(whole)
            stores.shutil.rmtree(cut)
    assert len(set(seen)) > 2, "no kill fell inside the recording"
    killed.record(str(cut))
    assert content(cut) == content(whole)


def _child(out, writing):
    os.write(writing, b"x")
    os.close(writing)
    killed.record(out, slow=0.01)
    os._exit(0)


def test_killed_in_another_interpreter_it_resumes(tmp_path):
    whole, cut = tmp_path / "whole.zarr", tmp_path / "cut.zarr"
    killed.record(str(whole))
    process = subprocess.Popen([sys.executable, str(SCRIPT), str(cut), "0.2"], stdout=subprocess.PIPE, text=True)
    progress = tmp_path / ".cut.zarr.recording" / "progress.jsonl"
    until = time.monotonic() + 60
    while not (progress.exists() and progress.read_text().count("\n") > 2) and time.monotonic() < until:
        time.sleep(0.02)
    process.kill()
    process.wait()
    assert not cut.exists()
    killed.record(str(cut))
    assert content(cut) == content(whole)


def test_a_torn_chunk_is_made_again(tmp_path):
    whole, cut = tmp_path / "whole.zarr", tmp_path / "cut.zarr"
    killed.record(str(whole))
    stop = _Stop(after=32)
    with pytest.raises(KeyboardInterrupt):
        fn.record(
            killed.network(), killed.stimuli(), ["0", "1", "2"], reduce="none", batch_size=4, out=cut, progress=stop
        )
    work = tmp_path / ".cut.zarr.recording"
    chunk = next(p for p in (work / "response_0002" / "c").rglob("*") if p.is_file())
    chunk.write_bytes(chunk.read_bytes()[:-9])
    counted = _Stop(after=1000)
    fn.record(
        killed.network(), killed.stimuli(), ["0", "1", "2"], reduce="none", batch_size=4, out=cut, progress=counted
    )
    assert content(cut) == content(whole)
    assert 0 < counted.calls < 16, "what was whole is not recorded again"


def test_killed_while_it_tidied_up_it_ends_bit_identical(tmp_path, monkeypatch):
    """Between the last word and the name, with a file of the unfinished recording still there."""
    whole, cut = tmp_path / "whole.zarr", tmp_path / "cut.zarr"
    killed.record(str(whole))

    def die(*arguments):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(stores.files, "_move_over", die)
        with pytest.raises(KeyboardInterrupt):
            killed.record(str(cut))
    (tmp_path / ".cut.zarr.recording" / "progress.jsonl").write_text("{}")
    killed.record(str(cut))
    assert content(cut) == content(whole)


class _Stop:
    def __init__(self, after):
        self.after, self.calls = after, 0

    def __call__(self, done, total):
        self.calls += 1
        if done >= self.after:
            raise KeyboardInterrupt


def test_netcdf_is_written_in_small_pieces_one_after_the_other(tmp_path, monkeypatch):
    from featattn_neuro.io import regions

    sizes, at_once, original = [], [], regions.Region.read

    def read(self):
        at_once.append(self)
        assert len(at_once) == 1, "two blocks in memory"
        found = original(self)
        time.sleep(0.005)
        sizes.append(found.nbytes)
        at_once.pop()
        return found

    monkeypatch.setattr(regions.Region, "read", read)
    monkeypatch.setattr(stores, "BLOCK_BYTES", 20_000)
    options = {"reduce": "none", "batch_size": 4}
    fn.record(killed.network(), killed.stimuli(), ["0", "1", "2"], out=tmp_path / "a.nc", **options).close()
    assert len(sizes) > 30
    assert max(sizes) <= 20_000


def test_fault_22_blocks_and_reader_are_tested_together(tmp_path, monkeypatch):
    """What is written in blocks is not what the reader gives."""
    wanted = fn.record(killed.network(), killed.stimuli(), ["0", "2"], batch_size=4)
    for size in (1, 4000, 1 << 20):
        monkeypatch.setattr(stores, "BLOCK_BYTES", size)
        found = fn.record(killed.network(), killed.stimuli(), ["0", "2"], batch_size=4, out=tmp_path / f"{size}.zarr")
        xr.testing.assert_identical(plain(found), wanted)


@pytest.mark.parametrize("reduce", ["none", ["mean", "sd", "max"]], ids=["maps", "several"])
@pytest.mark.parametrize("size", [1, 20_000, 1 << 23])
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_chunks_are_byte_for_byte_what_zarr_writes_and_reads(tmp_path, monkeypatch, reduce, size, dtype):
    import zarr

    monkeypatch.setattr(stores, "BLOCK_BYTES", size)
    out = tmp_path / "a.zarr"
    net, images = killed.network(), killed.stimuli().select(np.arange(23))
    wanted = fn.record(net, images, ["0", "2"], reduce=reduce, batch_size=4, dtype=dtype)
    found = fn.record(net, images, ["0", "2"], reduce=reduce, batch_size=4, dtype=dtype, out=out)
    np.testing.assert_array_equal(found.response.values, wanted.response.values)
    for number, layer in enumerate(["0", "2"]):
        theirs = zarr.open_array(out / f"response_{number:04d}", mode="r")
        inside = wanted.layer.values == layer
        values = wanted.response.values[..., inside]
        np.testing.assert_array_equal(theirs[:], values if values.ndim == 3 else values[None])
        again = zarr.create_array(
            tmp_path / f"again{number}", shape=theirs.shape, chunks=theirs.chunks, dtype=theirs.dtype,
            compressors=theirs.compressors, fill_value=0, config={"write_empty_chunks": True},
        )  # fmt: skip
        again[:] = theirs[:]
        assert content(tmp_path / f"again{number}" / "c") == content(out / f"response_{number:04d}" / "c")


def test_values_are_read_chunk_by_chunk_and_no_chunk_that_is_not_selected(tmp_path, monkeypatch):
    from featattn_neuro.io import recording_chunks

    wanted = killed.record(tmp_path / "a.zarr").response.load()
    reads = []
    original = recording_chunks.StoredLayer.read_chunk
    monkeypatch.setattr(
        recording_chunks.StoredLayer,
        "read_chunk",
        lambda self, row, column: reads.append((self.layer.folder, row, column)) or original(self, row, column),
    )
    found = fn.open_kind(tmp_path / "a.zarr")
    assert found.response.shape == wanted.shape
    one = found.response.isel(stimulus=[3, 9], unit=(found.layer.values == "2") & (found.channel.values == 4))
    layer_by_layer = found.response.isel(unit=found.layer.values == "2").isel(stimulus=[3, 9])
    assert reads == [], "opening and selecting reads no values"
    np.testing.assert_array_equal(one.values, wanted.sel(stimulus=one.stimulus.values, unit=one.unit.values).values)
    layer = stores._stored_layer(tmp_path / "a.zarr", "response_0002").layer
    filters = layer.columns // (layer.width // 10)
    assert sorted(reads) == [("response_0002", row // layer.rows, 4 // filters) for row in (3, 9)]
    reads.clear()
    np.testing.assert_array_equal(
        layer_by_layer.values, wanted.sel(stimulus=layer_by_layer.stimulus, unit=layer_by_layer.unit).values
    )
    assert {(name, row) for name, row, _ in reads} == {("response_0002", row // layer.rows) for row in (3, 9)}
    assert len(reads) == len(set(reads)), "each chunk once"
    reads.clear()
    stores.files.load_kind(tmp_path / "a.zarr")
    manifest = json.loads((tmp_path / "a.zarr" / "chunks.json").read_text())["chunks"]
    assert sorted(f"{name}/c/0/{row}/{column}" for name, row, column in reads) == sorted(manifest)


@pytest.mark.parametrize(
    "index",
    [
        np.s_[:, :, :],
        np.s_[0, 3, 5],
        np.s_[:, 2:19:3, 7:90],
        np.s_[1, ::-1, 40:3:-7],
        np.s_[:, -1, -4:],
        np.s_[:, 5:5, :],
    ],
    ids=str,
)
def test_indexing_a_stored_layer_is_indexing_its_values(tmp_path, index):
    from featattn_neuro.io.recording_chunks import LayerChunks, StoredLayer

    values = np.random.default_rng(0).standard_normal((2, 21, 95)).astype(np.float32)
    layer = LayerChunks("a", 2, 95, 4, 30, np.dtype("float32"))
    for start in range(0, 21, 4):
        layer.write(tmp_path, start, [values[:, start : start + 3], values[:, start + 3 : start + 4]])
    found = StoredLayer(tmp_path, layer, 21)[index]
    np.testing.assert_array_equal(found, values[index])
    found += 1  # what is given may be changed


def test_two_writers_are_refused(tmp_path):
    out = tmp_path / "a.zarr"

    def second(done, total):
        with pytest.raises(StoreError, match="another process is recording"):
            killed.record(str(out))

    fn.record(killed.network(), killed.stimuli(), "0", batch_size=32, out=out, progress=second)
    assert out.exists()


@pytest.mark.parametrize("suffix", [".zarr", ".nc"])
@pytest.mark.parametrize(
    "place",
    ["recording_store._create", "recording_store.RecordingStore._write_block", "recording_store.RecordingStore._seal"],
)
def test_a_full_disk_is_one_clear_error_and_recording_goes_on(tmp_path, monkeypatch, place, suffix):
    def full(*given, **options):
        raise OSError(28, "No space left on device")

    out = tmp_path / f"a{suffix}"
    with monkeypatch.context() as patch:
        patch.setattr(f"featattn_neuro.io.{place}", full)
        with pytest.raises(
            StoreError, match=r"cannot be written \(No space left on device\); free space and run again"
        ):
            killed.record(out)
    assert not out.exists()
    xr.testing.assert_identical(plain(killed.record(out)), plain(killed.record(tmp_path / f"b{suffix}")))


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs /proc, where nobody can make a folder")
@pytest.mark.parametrize("suffix", [".zarr", ".nc"])
def test_a_place_where_nothing_can_be_made(suffix):
    with pytest.raises(StoreError, match=rf"'/proc/x\{suffix}' cannot be written .*choose another place"):
        killed.record(Path(f"/proc/x{suffix}"))


def test_a_lock_ends_with_its_process(tmp_path):
    work = tmp_path / ".a.zarr.recording"
    work.mkdir()
    code = (
        f"import fcntl, os, time; h = os.open({str(work)!r}, os.O_RDONLY); fcntl.flock(h, 2); print(1, flush=True); "
        "time.sleep(60)"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.readline()
    with pytest.raises(StoreError, match="another process"):
        killed.record(str(tmp_path / "a.zarr"))
    process.kill()
    process.wait()
    assert killed.record(str(tmp_path / "a.zarr")).sizes["stimulus"] == killed.COUNT


def test_another_recording_is_not_overwritten_unasked(tmp_path):
    net, images = killed.network(), killed.stimuli()
    first = fn.record(net, images, "0", out=tmp_path / "a.zarr").load()
    with pytest.raises(StoreError, match="other layers"):
        fn.record(net, images, "2", out=tmp_path / "a.zarr")
    assert fn.record(net, images, "2", out=tmp_path / "a.zarr", overwrite=True).sizes["unit"] == 10
    again = fn.record(net, images, "0", out=tmp_path / "a.zarr", overwrite=True).load()
    xr.testing.assert_identical(again, first)


def test_a_folder_of_something_else_is_not_recorded_over(tmp_path):
    foreign = tmp_path / "a.zarr"
    foreign.mkdir()
    (foreign / "thesis.txt").write_text("precious")
    calls = []
    with pytest.raises(StoreError, match="folder with other things in it"):
        fn.record(
            killed.network(), killed.stimuli(), "0", out=foreign, overwrite=True, progress=lambda *d: calls.append(d)
        )
    assert not calls
    assert (foreign / "thesis.txt").read_text() == "precious"
    assert [p.name for p in tmp_path.iterdir()] == ["a.zarr"]


# -- the content key -----------------------------------------------------------------------------------------------


class Scaled(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.factor = nn.Conv2d(3, 4, 1), 1.0

    def forward(self, x):
        return self.conv(x) * self.factor


def _runs(net, images, cache, layers="conv", **options):
    calls = []
    found = fn.record(net, images, layers, cache=cache, progress=lambda *a: calls.append(a), **options)
    return bool(calls), found.load()


def _optimiser_step(net, images):
    with torch.no_grad():
        net.conv.weight.add_(1e-3)


def _behind_the_counters(net, images):
    net.conv.weight.data[0, 0, 0, 0] += 1e-3


def _through_numpy(net, images):
    net.conv.bias.detach().numpy()[0] += 1


def _one_pixel(net, images):
    images.images[3, 0, 1, 1] += 1


def _another_class(net, images):
    net.__class__ = type("Scaled", (Scaled,), {"forward": lambda self, x: self.conv(x) * self.factor + 0})


def _hook(net, images):
    net.conv.register_forward_hook(lambda module, inputs, output: output * 2)


def _threads(net, images):
    torch.set_num_threads(2)


CHANGES = [_optimiser_step, _behind_the_counters, _through_numpy, _one_pixel, _another_class, _hook, _threads]


@pytest.mark.parametrize("change", [*CHANGES, lambda net, images: setattr(net, "factor", 2.0)])
def test_fault_7_a_stale_hit_is_impossible(tmp_path, change):
    """A cache gives a recording of another network or other images."""
    torch.manual_seed(0)
    net, images = Scaled().eval(), killed.stimuli()
    assert _runs(net, images, tmp_path)[0]
    ran, _ = _runs(net, images, tmp_path)
    assert not ran, "the same recording is made once"
    change(net, images)
    ran, second = _runs(net, images, tmp_path)
    assert ran, "something changed and the old recording was given"
    wanted = fn.record(net, images, "conv")
    np.testing.assert_array_equal(second.response, wanted.response)


@pytest.mark.parametrize(
    "options",
    [{"batch_size": 16}, {"reduce": "max"}, {"dtype": "float64"}, {"compute_dtype": "bfloat16"},
     {"layers": ["conv", "mul"]}, {"reduce": lambda maps: maps.amin((2, 3))}, {"channel_axis": 1}],
    ids=["batch_size", "reduce", "dtype", "compute_dtype", "layers", "function", "channel_axis"],
)  # fmt: skip
def test_fault_7_every_option_is_in_the_key(tmp_path, options):
    """The same of other options."""
    net, images = Scaled().eval(), killed.stimuli()
    assert _runs(net, images, tmp_path)[0]
    assert _runs(net, images, tmp_path, **options)[0]
    assert not _runs(net, images, tmp_path, **options)[0]


@pytest.mark.parametrize(
    "change",
    [{"crop": 8}, {"size": 14}, {"interpolation": "nearest"}, {"mean": (0.4,) * 3}, {"channel_order": "BGR"}],
    ids=lambda change: next(iter(change)),
)
def test_fault_7_preprocessing_is_in_the_key_and_in_the_output(tmp_path, folder, change):
    """The same of another preprocessing."""
    before = {"size": 12, "crop": 10, "mean": (0.5,) * 3, "std": (0.5,) * 3}
    first, second = (
        fn.load_model(killed.network(), preprocess=fn.Preprocessing(**options)) for options in (before, before | change)
    )
    assert _runs(first, folder, tmp_path)[0]
    assert not _runs(first, folder, tmp_path)[0]
    ran, other = _runs(second, folder, tmp_path)
    assert ran, "the images come in another size or form, and the old recording was given"
    assert other.attrs["preprocessing"] == second.preprocess.describe()
    with pytest.raises(StoreError, match="other preprocessing"):
        fn.record(second, folder, "conv", out=_stored(first, folder, tmp_path / "a.zarr"))


def _stored(network, images, out):
    fn.record(network, images, "conv", out=out).close()
    return out


def test_fault_7_gains_in_place_make_another_key(tmp_path):
    """The same of a network with gains."""
    net, images = Scaled().eval(), killed.stimuli()
    plain_rows = _runs(net, images, tmp_path)[1]
    units = plain_rows.unit.values
    gains = xr.Dataset(
        {"gain": ("unit", np.array([2.0, 1, 1, 1]))},
        {"unit": units, "layer": ("unit", ["conv"] * 4), "channel": ("unit", range(4))},
        {"kind": "GAINS"},
    )
    with fn.with_gains(net, gains):
        ran, gained = _runs(net, images, tmp_path)
    assert ran
    np.testing.assert_allclose(gained.response[:, 0], 2 * plain_rows.response[:, 0], rtol=1e-6)
    assert not _runs(net, images, tmp_path)[0]


def test_weights_are_hashed_once_per_process(monkeypatch):
    from featattn_neuro.nets import fingerprint

    net, calls = Scaled(), []
    monkeypatch.setattr(fingerprint, "weights_sha256", lambda m: calls.append(1) or "x")
    for _ in range(3):
        fingerprint.weights_digest(net)
    assert len(calls) == 1


# -- images in files ------------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path):
    from PIL import Image

    rng = np.random.default_rng(0)
    place = tmp_path / "images"
    for i in range(10):
        (place / "ab"[i % 2]).mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 255, (12, 12, 3), np.uint8)).save(place / "ab"[i % 2] / f"{i}.jpg", quality=95)
    return place


@pytest.mark.parametrize("stored", [False, True], ids=["memory", "store"])
def test_a_truncated_image_fails_named_or_is_skipped_and_listed(tmp_path, folder, stored):
    out = {"out": tmp_path / "a.zarr"} if stored else {}
    whole = fn.record(killed.network(), folder, "0", batch_size=4)
    bad = folder / "a" / "4.jpg"
    bad.write_bytes(bad.read_bytes()[:-60])
    with pytest.raises(DataError, match=r"4\.jpg"):
        fn.record(killed.network(), folder, "0", batch_size=4, **out)
    found = fn.record(killed.network(), folder, "0", batch_size=4, corrupt="skip", **out)
    assert found.skipped.values.tolist() == ["a/4.jpg"]
    kept = whole.isel(stimulus=whole.path.values != "a/4.jpg")
    np.testing.assert_array_equal(found.response, kept.response)
    assert found.stimulus.values.tolist() == kept.stimulus.values.tolist()


def test_a_file_that_changes_under_the_recording_is_refused(folder):
    images = load_stimuli(folder)
    other = folder / "b" / "1.jpg"
    other.write_bytes((folder / "a" / "0.jpg").read_bytes())
    with pytest.raises(DataError, match="changed"):
        fn.record(killed.network(), images, "0")


@pytest.mark.parametrize("workers", [1, 2])
def test_results_do_not_depend_on_loader_workers(folder, workers):
    alone = fn.record(killed.network(), folder, ["0", "2"], batch_size=2, workers=0)
    xr.testing.assert_identical(fn.record(killed.network(), folder, ["0", "2"], batch_size=2, workers=workers), alone)


def test_results_do_not_depend_on_order_or_neighbours():
    images = killed.stimuli()
    whole = fn.record(killed.network(), images, ["0", "2"], reduce=["mean", "sd"], batch_size=8)
    for pick in (np.arange(64)[::-1], np.arange(3, 40), np.array([17]), np.random.default_rng(0).permutation(64)[:50]):
        some = fn.record(killed.network(), images.select(pick), ["0", "2"], reduce=["mean", "sd"], batch_size=8)
        wanted = whole.sel(stimulus=some.stimulus.values)
        np.testing.assert_array_equal(some.response, wanted.response)


def test_batch_sizes_agree_to_rounding():
    rows = [fn.record(killed.network(), killed.stimuli(), "2", batch_size=b).response.values for b in (1, 7, 64)]
    for other in rows[1:]:
        np.testing.assert_allclose(other, rows[0], rtol=2e-5, atol=1e-6)


def test_netcdf_has_no_half_precision(tmp_path):
    with pytest.raises(ConfigError, match="float16"):
        fn.record(killed.network(), killed.stimuli(), "0", out=tmp_path / "a.nc", dtype="float16")

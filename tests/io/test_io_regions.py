"""Regions of a stored recording: whatever is selected is what numpy selects, and only its chunks are read."""

from __future__ import annotations

import multiprocessing
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import dask
import dask.array
import numpy as np
import pytest
import torch
import xarray as xr
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

import featattn_neuro as fn
from featattn_neuro.errors import StoreError
from featattn_neuro.io import recording_store, regions
from featattn_neuro.io.recording_chunks import StoredLayer
from featattn_neuro.io.regions import RegionArray, region_array

STIMULI = 37


@pytest.fixture(scope="module", params=["mean", "none"])
def recordings(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A recording of two layers opened from its store, and the same in memory."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(1, 3, 3), nn.ReLU(), nn.Conv2d(3, 4, 3)).eval()
    images = np.random.default_rng(0).standard_normal((STIMULI, 1, 6, 6)).astype(np.float32)
    reduce = ["mean", "max"] if request.param == "mean" else "none"
    options: Any = {"layers": ["0", "2"], "reduce": reduce, "batch_size": 4}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(recording_store, "BLOCK_BYTES", 1)  # a chunk is one batch
        out = tmp_path_factory.mktemp("regions") / "a.zarr"
        fn.record(net, images, out=out, **options).close()
    return fn.open_kind(out), fn.record(net, images, **options)


@pytest.fixture(autouse=True)
def _two_chunks_a_block(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(regions, "BLOCK_BYTES", 800)


def indices(length: int) -> st.SearchStrategy[Any]:
    places = st.integers(-length, length - 1)
    return st.one_of(
        places,
        st.slices(length),
        st.lists(places, min_size=1, max_size=6),
        st.lists(st.booleans(), min_size=length, max_size=length).map(np.array),
        st.tuples(places, places).map(lambda ends: np.arange(min(ends) % length, max(ends) % length + 1)),
    ).filter(lambda one: not isinstance(one, np.ndarray) or one.size > 0)


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_selections_one_after_the_other_are_those_in_memory(recordings: Any, data: Any) -> None:
    stored, wanted = (one["response"] for one in recordings)
    with dask.config.set(scheduler="synchronous"):
        for _ in range(data.draw(st.integers(1, 3))):
            if not wanted.dims or 0 in wanted.shape:
                break
            dim = data.draw(st.sampled_from(wanted.dims))
            index = data.draw(indices(wanted.sizes[dim]))
            stored, wanted = stored.isel({dim: index}), wanted.isel({dim: index})
        xr.testing.assert_equal(stored.compute(), wanted)


def test_what_is_read_is_what_is_selected(recordings: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    stored, wanted = (one["response"] for one in recordings)
    read: list[tuple[str, int, int]] = []
    real = StoredLayer.read_chunk

    def noted(self: StoredLayer, row: int, column: int, into: np.ndarray | None = None) -> np.ndarray:
        read.append((Path(self.layer.folder).name, row, column))
        return real(self, row, column, into)

    monkeypatch.setattr(StoredLayer, "read_chunk", noted)
    mask = stored["layer"].values == "2"
    found = stored.isel(stimulus=slice(5, 11), unit=mask)
    assert isinstance(found.data, RegionArray)
    np.testing.assert_array_equal(found.values, wanted.isel(stimulus=slice(5, 11), unit=mask).values)
    assert {one[:2] for one in read} == {("response_0001", 1), ("response_0001", 2)}  # stimuli 4-7 and 8-11
    assert len(read) == len(set(read))
    read.clear()
    np.testing.assert_array_equal(stored.isel(stimulus=[0, 1, 36]).values, wanted.isel(stimulus=[0, 1, 36]).values)
    assert {one[:2] for one in read} == {(layer, row) for layer in ("response_0000", "response_0001") for row in (0, 9)}
    assert len(read) == len(set(read))


def test_blocks_hold_whole_chunks_of_one_layer(recordings: Any) -> None:
    whole = recordings[0]["response"].data
    assert isinstance(whole, RegionArray)
    part = recordings[0]["response"].isel(stimulus=slice(6, None)).data
    for array in (region_array(whole.region, whole.token), part):
        *_, rows, widths = array.chunks
        first = array.region.spans[1][0]
        edges = np.cumsum([first, *rows])[1:-1]
        assert (edges % 4 == 0).all()
        assert len(edges) > 0
        assert sum(widths) == array.shape[-1]
        assert len(widths) == 2
        assert max(rows) * max(widths) * 4 * (array.shape[0] if array.ndim == 3 else 1) <= 800 or max(rows) <= 4


def test_many_runs_and_other_orders_are_left_to_dask(recordings: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    stored, wanted = (one["response"] for one in recordings)
    monkeypatch.setattr(regions, "_MOST_RUNS", 3)
    for places in (np.array([0, 2, 4, 6]), np.array([6, 4, 2]), np.array([3, 3, 1])):
        assert regions.as_slices(places, 7) is None
        np.testing.assert_array_equal(stored.isel(unit=places).values, wanted.isel(unit=places).values)


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_process_reads_after_its_parent_has(recordings: Any) -> None:
    """As loader workers may; threads do not follow into the fork."""
    region, wanted = recordings[0]["response"].data.region, recordings[1]["response"]
    there = region.read()  # several chunks: the threads have started
    context = multiprocessing.get_context("fork")
    found = context.SimpleQueue()
    child = context.Process(target=lambda: found.put(region.read()), daemon=True)
    child.start()
    child.join(30)
    assert child.exitcode == 0, "the child waits for threads that it does not have"
    np.testing.assert_array_equal(found.get(), there)
    np.testing.assert_array_equal(there.ravel(), wanted.values.ravel())


def test_a_thread_that_outlives_the_main_one_reads(recordings: Any) -> None:
    """Python takes no more work for thread pools then."""
    region = recordings[0]["response"].data.region
    script = f"""
import threading
from featattn_neuro.io.store import open_kind

region = open_kind({str(region.layers[0].store)!r}, "ACTIVATIONS")["response"].data.region

def read():
    threading.main_thread().join()
    print("read", region.read().sum(dtype="float64"))

threading.Thread(target=read, daemon=False).start()
"""
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120)
    assert found.stdout.split() == ["read", str(region.read().sum(dtype="float64"))], found.stderr


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_worker_processes_read_without_threads(recordings: Any) -> None:
    """Each of them would have as many as the processors that all of them share."""
    region = recordings[0]["response"].data.region

    def names() -> list[str]:
        region.read()
        return [thread.name for thread in threading.enumerate() if thread.name.startswith("featattn-chunks")]

    context = multiprocessing.get_context("fork")
    found = context.SimpleQueue()
    child = context.Process(target=lambda: found.put(names()), daemon=True)
    child.start()
    child.join(30)
    assert found.get() == []
    assert names() != []


def test_the_first_damaged_chunk_is_named(recordings: Any) -> None:
    region = recordings[0]["response"].data.region
    layer = region.layers[1]
    chunks = [layer.store / layer.layer.folder / "c" / "0" / row / "0" for row in ("3", "6")]
    whole = [chunk.read_bytes() for chunk in chunks]
    try:
        for chunk, data in zip(chunks, whole, strict=True):
            chunk.write_bytes(data[:-6] + b"\x01\x02" + data[-4:])
        for _ in range(5):  # threads may finish in any order
            with pytest.raises(StoreError, match=rf"chunk {layer.layer.folder}/c/0/3/0 of .* is damaged"):
                region.read()
    finally:
        for chunk, data in zip(chunks, whole, strict=True):
            chunk.write_bytes(data)
    region.read()


def test_regions_compute_beside_other_arrays_and_give_what_may_be_changed(recordings: Any) -> None:
    stored, wanted = (one["response"] for one in recordings)
    other = dask.array.ones(3, chunks=2)
    first = stored.isel(stimulus=slice(4)).data  # one block
    found, ones, sums = dask.compute(first, other, first.sum())
    np.testing.assert_array_equal(found, wanted.isel(stimulus=slice(4)).values)
    np.testing.assert_array_equal(ones, 1)
    np.testing.assert_allclose(sums, wanted.isel(stimulus=slice(4)).values.sum(), rtol=1e-5)
    found += 1
    np.testing.assert_array_equal(first.compute(), wanted.isel(stimulus=slice(4)).values)


def test_a_single_block_is_not_copied(recordings: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(regions, "BLOCK_BYTES", 2**27)
    made: list[np.ndarray] = []
    read = regions.Region.read
    monkeypatch.setattr(regions.Region, "read", lambda self: made.append(read(self)) or made[-1])
    part = recordings[0]["response"].isel(unit=recordings[0]["layer"].values == "2")
    assert part.data.npartitions == 1
    values = part.values
    assert np.shares_memory(values, made[-1]), "a copy costs more than the reading"

"""Store: whole or not at all, netCDF-4 only, and errors that say what to do."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import textwrap

import numpy as np
import pytest
import xarray as xr

from featattn_neuro.errors import SchemaError, StoreError
from featattn_neuro.io import store
from featattn_neuro.schema import SCHEMA_VERSION


@pytest.fixture
def small() -> xr.Dataset:
    return xr.Dataset(
        {"response": (("stimulus", "unit"), np.arange(6, dtype=np.float32).reshape(2, 3))},
        coords={
            "stimulus": ["i", "j"],
            "unit": ["c/0", "c/1", "c/2"],
            "layer": ("unit", ["c"] * 3),
            "channel": ("unit", [0, 1, 2]),
        },
        attrs={"kind": "ACTIVATIONS"},
    )


def test_netcdf_is_hdf5_and_compressed(tmp_path, small):
    large = small.isel(stimulus=[0]).drop_vars("stimulus").expand_dims(copies=4096).squeeze("stimulus", drop=True)
    large = large.rename(copies="stimulus").assign_coords(stimulus=[f"s{i}" for i in range(4096)])
    path = store.save_kind(large, tmp_path / "a.nc")
    assert path.read_bytes()[:8] == b"\x89HDF\r\n\x1a\n"
    with xr.open_dataset(path, engine="h5netcdf") as raw:
        assert raw["response"].encoding["zlib"]


def test_two_saves_are_the_same_bytes(tmp_path, small):
    a, b = (store.save_kind(small, tmp_path / n).read_bytes() for n in ("a.nc", "b.nc"))
    assert hashlib.sha256(a).digest() == hashlib.sha256(b).digest()


@pytest.mark.parametrize("suffix", [".nc", ".zarr"])
def test_replaces_and_leaves_nothing_beside(tmp_path, small, suffix):
    path = store.save_kind(small, tmp_path / f"a{suffix}")
    opened = store.open_kind(path)
    opened.close()
    store.save_kind(small.assign(response=small["response"] * 2), path)
    assert float(store.load_kind(path)["response"].max()) == 10.0
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("suffix", [".nc", ".zarr"])
def test_a_folder_that_is_no_store_of_ours_is_never_replaced(tmp_path, small, suffix):
    foreign = tmp_path / f"a{suffix}"
    foreign.mkdir()
    (foreign / "thesis.txt").write_text("precious")
    (foreign / ".zattrs").write_text('{"kind": "OTHER"}')
    with pytest.raises(StoreError, match=r"folder with other things in it.*choose another name"):
        store.save_kind(small, foreign)
    assert (foreign / "thesis.txt").read_text() == "precious"
    assert [p.name for p in tmp_path.iterdir()] == [foreign.name]


def test_a_damaged_store_and_an_empty_folder_are_replaced(tmp_path, small):
    path = tmp_path / "a.zarr"
    path.mkdir()
    store.save_kind(small, path)
    (path / ".zmetadata").write_text("torn")
    store.save_kind(small, path)
    xr.testing.assert_equal(store.load_kind(path), small)


@pytest.mark.parametrize("suffix", [".nc", ".zarr"])
def test_a_failed_write_keeps_the_old_file(tmp_path, small, suffix, monkeypatch):
    path = store.save_kind(small, tmp_path / f"a{suffix}")

    def broken(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(xr.Dataset, "to_netcdf", broken)
    monkeypatch.setattr(xr.Dataset, "to_zarr", broken)
    with pytest.raises(StoreError, match=r"cannot be written .*No space left on device.*free space"):
        store.save_kind(small, path)
    monkeypatch.undo()
    assert float(store.load_kind(path)["response"].max()) == 5.0
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_a_file_size_limit_like_a_full_disk_is_one_clear_error(tmp_path):
    script = textwrap.dedent(
        """
        import resource, signal, sys
        import numpy as np, xarray as xr
        from featattn_neuro.errors import StoreError
        from featattn_neuro.io.store import save_kind
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        n = 300_000
        values = np.random.default_rng(0).normal(size=(n, 1))
        units = dict(unit=["c/0"], layer=("unit", ["c"]), channel=("unit", [0]))
        big = xr.Dataset({"response": (("stimulus", "unit"), values)},
                         coords={"stimulus": np.arange(n).astype(str), **units}, attrs={"kind": "ACTIVATIONS"})
        resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))
        try:
            save_kind(big, sys.argv[1])
        except StoreError as error:
            print("clear:", error)
        """
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "a.nc")], capture_output=True, text=True, timeout=120, check=False
    )
    assert "clear:" in done.stdout, done.stderr
    assert "free space" in done.stdout
    assert os.listdir(tmp_path) == []


def test_provenance_has_versions_and_threads_but_no_place_or_time(small, tmp_path):
    text = store.load_kind(store.save_kind(small, tmp_path / "a.nc")).attrs["provenance"]
    content = json.loads(text)
    assert content["versions"]["numpy"] == np.__version__
    assert all(isinstance(n, int) for n in content["blas"].values())
    assert content["cpu"]
    assert not any(word in text for word in (str(tmp_path), os.uname().nodename, os.sep + "home"))


def test_provenance_does_not_hang_on_what_else_is_imported():
    # scipy brings a BLAS of its own; a resumed recording once differed in this text alone
    script = (
        "from featattn_neuro.io.store import provenance; before = provenance(); import scipy.linalg, torch, sklearn;"
        "print(before == provenance(), before)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120, check=False)
    same, text = done.stdout.split(" ", 1)
    assert same == "True", done.stderr
    assert json.loads(text)["blas"]


def test_messages(tmp_path, small):
    with pytest.raises(StoreError, match=r"ends in \.nc or \.zarr; came .*a\.csv"):
        store.save_kind(small, tmp_path / "a.csv")
    with pytest.raises(StoreError, match=r"there is none at .*nowhere"):
        store.save_kind(small, tmp_path / "nowhere" / "a.nc")
    with pytest.raises(SchemaError, match="attribute kind"):
        store.save_kind(xr.Dataset(), tmp_path / "a.nc")
    with pytest.raises(StoreError, match="there is none at"):
        store.open_kind(tmp_path / "a.nc")
    path = store.save_kind(small, tmp_path / "a.nc")
    with pytest.raises(SchemaError, match=r"wanted a Dataset of kind GAINS; .*a\.nc.* holds kind ACTIVATIONS"):
        store.open_kind(path, "GAINS")
    with pytest.raises(SchemaError, match="wanted a declared kind"):
        store.open_kind(path, "GAIN")
    (tmp_path / "cut.nc").write_bytes(path.read_bytes()[:3000])
    with pytest.raises(StoreError, match=r"cut\.nc.* damaged"):
        store.load_kind(tmp_path / "cut.nc")
    (tmp_path / "text.nc").write_text("hello")
    with pytest.raises(StoreError, match=r"wanted netCDF-4.*another format"):
        store.open_kind(tmp_path / "text.nc")


def test_netcdf3_is_refused(tmp_path):
    xr.Dataset({"a": ("x", [1.0])}).to_netcdf(tmp_path / "old.nc", engine="scipy", format="NETCDF3_64BIT")
    with pytest.raises(StoreError, match="netCDF-3"):
        store.open_kind(tmp_path / "old.nc")


def test_a_newer_schema_is_refused(tmp_path, small, monkeypatch):
    path = store.save_kind(small, tmp_path / "a.nc")
    monkeypatch.setattr(store, "SCHEMA_VERSION", SCHEMA_VERSION - 1)
    with pytest.raises(StoreError, match="newer featattn_neuro"):
        store.open_kind(path)


def test_foreign_netcdf4_is_named(tmp_path):
    xr.Dataset({"a": ("x", [1.0])}).to_netcdf(tmp_path / "foreign.nc", engine="h5netcdf")
    with pytest.raises(SchemaError, match=r"foreign\.nc.*attribute kind"):
        store.open_kind(tmp_path / "foreign.nc")


def test_text_with_a_hole_is_refused(tmp_path, small):
    holed = small.assign_coords(label=("stimulus", np.array(["a", None], dtype=object)))
    with pytest.raises(SchemaError, match="'label' must hold text only; came nan"):
        store.save_kind(holed, tmp_path / "a.nc")


def test_load_closes_the_file(tmp_path, small):
    path = store.save_kind(small, tmp_path / "a.nc")
    loaded = store.load_kind(path)
    path.unlink()
    assert float(loaded["response"].sum()) == 15.0
    assert not any(os.path.realpath(f"/proc/self/fd/{fd}").startswith(str(path)) for fd in os.listdir("/proc/self/fd"))


def test_checksum_and_atomic_writes(tmp_path):
    path = store.write_text_atomic(tmp_path / "a.txt", "abc")
    assert store.file_sha256(path) == hashlib.sha256(b"abc").hexdigest()
    with pytest.raises(StoreError, match="cannot be written"):
        store.write_bytes_atomic(tmp_path, b"a folder is there")
    with pytest.raises(StoreError, match="cannot be read"):
        store.file_sha256(tmp_path / "nowhere")
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # h5netcdf's, of a file it cannot open
def test_a_flipped_byte_of_netcdf_is_never_silent(tmp_path, small):
    numbers = np.random.default_rng(0).standard_normal((40, 30)).astype(np.float32)
    labels = [f"label {i}" for i in range(40)]
    large = xr.Dataset(
        {"response": (("stimulus", "unit"), numbers)},
        {"stimulus": [f"s{i}" for i in range(40)], "label": ("stimulus", labels), "unit": [f"c/{i}" for i in range(30)],
         "layer": ("unit", ["c"] * 30), "channel": ("unit", range(30))},
        {"kind": "ACTIVATIONS", "network_name": "a network"},
    )  # fmt: skip
    path, damaged = store.save_kind(large, tmp_path / "a.nc"), tmp_path / "b.nc"
    whole, wanted, refused = path.read_bytes(), store.load_kind(path), 0
    assert "text_checksum" not in wanted.attrs
    for place in range(0, len(whole), len(whole) // 150):
        data = bytearray(whole)
        data[place] ^= 1
        damaged.write_bytes(data)
        try:
            found = store.load_kind(damaged)
        except (StoreError, SchemaError):
            refused += 1
        else:
            assert found.identical(wanted), f"byte {place} was flipped and nothing said it"
    assert refused > 30


def test_changed_text_or_numbers_of_netcdf_are_named(tmp_path, small):
    import h5py

    path = store.save_kind(small.assign_coords(label=("stimulus", ["cat", "dog"])), tmp_path / "a.nc")
    with h5py.File(path) as opened:
        assert opened["response"].fletcher32
        place = opened["response"].id.get_chunk_info(0).byte_offset
    whole = path.read_bytes()
    data = bytearray(whole)
    data[place + 3] ^= 1
    path.write_bytes(data)
    with pytest.raises(StoreError, match=r"a\.nc' cannot be read .*damaged"):
        store.load_kind(path)
    path.write_bytes(whole.replace(b"dog", b"dot"))
    with pytest.raises(StoreError, match=r"text or attributes of .*a\.nc.* are not what was written"):
        store.open_kind(path)


def test_files_without_a_checksum_of_their_text_open(tmp_path, small, monkeypatch):
    wanted = store.load_kind(store.save_kind(small, tmp_path / "a.nc"))
    small.assign_attrs(wanted.attrs).to_netcdf(tmp_path / "old.nc", engine="h5netcdf")
    assert store.load_kind(tmp_path / "old.nc").identical(wanted)

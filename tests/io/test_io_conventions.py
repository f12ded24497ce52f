"""Layouts of other tools: a round trip gives back what went in, and the other tool's own functions take it."""

from __future__ import annotations

import inspect

import numpy as np
import pandas as pd
import pytest
import xarray as xr

import featattn_neuro as fn
from featattn_neuro.arrays.dissimilarity import correlation_distance
from featattn_neuro.errors import ConfigError, DataError, SchemaError
from featattn_neuro.io import conventions, frame_layouts, peer_layouts
from featattn_neuro.io.conventions import (
    from_brainio,
    from_pynapple,
    from_rsatoolbox,
    from_tidy,
    from_wide,
    row_table,
    to_brainio,
    to_pynapple,
    to_rsatoolbox,
    to_tidy,
    to_wide,
    unit_table,
)
from featattn_neuro.measures.selectivity import selectivity
from featattn_neuro.measures.tuning import tuning
from featattn_neuro.schema import ACTIVATIONS, NEURAL

N, UNITS = 6, 5


@pytest.fixture
def activations():
    rng = np.random.default_rng(0)
    names = [f"conv{k // 3}/{k % 3:03d}/{k},0" for k in range(UNITS)]
    coords = {
        "stimulus": [f"sha{i}" for i in (3, 1, 2, 0, 5, 4)],
        "label": ("stimulus", list("ababab")),
        "split": ("stimulus", list("SSSPPP")),
        "constituents": ("stimulus", [f"x{i}|y{i}" for i in range(N)]),
        "unit": names,
        "layer": ("unit", [name.split("/")[0] for name in names]),
        "channel": ("unit", [k % 3 for k in range(UNITS)]),
        "call": ("unit", [0] * UNITS),
        "stage": ("unit", ["conv"] * UNITS),
        "y": ("unit", np.arange(UNITS)),
        "x": ("unit", np.zeros(UNITS, int)),
    }
    values = rng.normal(size=(N, UNITS)).astype(np.float32)
    values[0, 0] = np.nan
    attrs = {"kind": "ACTIVATIONS", "network_name": "net", "batch_size": 32, "reduction": "mean"}
    return ACTIVATIONS.check(xr.Dataset({"response": (("stimulus", "unit"), values)}, coords, attrs))


@pytest.fixture
def neural():
    rng = np.random.default_rng(1)
    values = rng.poisson(5, size=(12, 3)).astype(np.float64)
    values[2, 1] = np.nan
    coords = {
        "trial": np.arange(100, 112),
        "stimulus": ("trial", ["s0", "s1", "s2"] * 4),
        "repetition": ("trial", np.repeat(np.arange(4), 3)),
        "session": ("trial", ["day1"] * 6 + ["day2"] * 6),
        "level": ("trial", [-0.5, 0.0, 0.5] * 4),
        "unit": ["V4/1", "V4/2", "IT/1"],
        "area": ("unit", ["V4", "V4", "IT"]),
        "subject": ("unit", ["m1", "m1", "m2"]),
    }
    attrs = {"kind": "NEURAL", "units": "spikes"}
    return NEURAL.check(xr.Dataset({"response": (("trial", "unit"), values)}, coords, attrs))


def brainio_gathered(array):
    """What brainio's DataAssembly does to flat coordinates on reading: all of a dimension into one MultiIndex."""
    levels = {dim: [str(n) for n, c in array.coords.items() if c.dims == (dim,) and n != dim] for dim in array.dims}
    return array.set_index(levels, append=True)


ROUND_TRIPS = {
    "brainio": lambda ds: from_brainio(to_brainio(ds)),
    "brainio_multiindex": lambda ds: from_brainio(brainio_gathered(to_brainio(ds))),
    "brainio_transposed": lambda ds: from_brainio(to_brainio(ds).T),
    "tidy": lambda ds: from_tidy(to_tidy(ds)),
    "wide": lambda ds: from_wide(to_wide(ds), units=unit_table(ds)[::-1], rows=row_table(ds)[::-1]),
    "rsatoolbox": lambda ds: from_rsatoolbox(to_rsatoolbox(ds)),
}


@pytest.mark.parametrize("name", list(ROUND_TRIPS))
@pytest.mark.parametrize("which", ["activations", "neural"])
def test_round_trips_give_back_everything(name, which, request):
    if name == "rsatoolbox":
        pytest.importorskip("rsatoolbox")
    before = request.getfixturevalue(which)
    kept = before.copy(deep=True)
    after = ROUND_TRIPS[name](before)
    xr.testing.assert_identical(after, before)
    xr.testing.assert_identical(before, kept)
    for key, variable in before.variables.items():
        assert after[key].dtype.kind == variable.dtype.kind, key
    assert after["response"].dtype == before["response"].dtype


@pytest.mark.parametrize("which", ["activations", "neural"])
def test_brainios_file_layout(which, request, tmp_path):
    before = request.getfixturevalue(which)
    array = to_brainio(before, regions={"conv0": "V4", "conv1": "IT"} if which == "activations" else None)
    assert array.dims == ("presentation", "neuroid")
    assert set(array.indexes) == set()
    wanted = {"stimulus_id", "repetition", "neuroid_id", "region"}
    wanted |= {"object_name", "layer", "channel", "channel_x", "channel_y"} if which == "activations" else {"animal"}
    assert wanted <= set(array.coords)
    # as brainio's write_netcdf does: variable "data", compressed
    compressed = {"data": {"zlib": True, "complevel": 1}}
    array.to_dataset(name="data").to_netcdf(tmp_path / "assy.nc", engine="h5netcdf", encoding=compressed)
    with xr.open_dataset(tmp_path / "assy.nc", engine="h5netcdf") as read:
        after = from_brainio(read.load())
    if which == "activations":
        assert after.attrs.pop("left_out") == "region"
    xr.testing.assert_identical(after, before)


def test_an_assembly_from_elsewhere():
    gathered = brainio_gathered(
        xr.DataArray(
            np.arange(8).reshape(4, 2, 1),
            dims=("presentation", "neuroid", "time_bin"),
            coords={
                "image_id": ("presentation", ["a", "b", "a", "b"]),
                "object_name": ("presentation", ["car", "dog", "car", "dog"]),
                "variation": ("presentation", [3, 3, 3, 3]),
                "neuroid_id": ("neuroid", [11, 12]),
                "region": ("neuroid", ["V4", "IT"]),
                "time_bin_start": ("time_bin", [70]),
            },
            attrs={"stimulus_set": pd.DataFrame(), "stimulus_set_identifier": "x"},
        ).isel(time_bin=[0])
    )
    found = from_brainio(gathered.reset_index("time_bin"))
    assert found.attrs["kind"] == "NEURAL"
    assert found["stimulus"].values.tolist() == ["a", "b", "a", "b"]
    assert found["unit"].values.tolist() == ["11", "12"]
    assert found["response"].values[3].tolist() == [6.0, 7.0]
    assert found["label"].values.tolist() == ["car", "dog", "car", "dog"]
    assert found.attrs["left_out"] == "stimulus_set, variation"
    assert found.attrs["stimulus_set_identifier"] == "x"
    averaged = gathered.reset_index("time_bin").isel(presentation=[0, 1], time_bin=0)
    as_filters = from_brainio(averaged, kind="ACTIVATIONS")  # one presentation each, an area for a layer
    assert as_filters["layer"].values.tolist() == ["V4", "IT"]
    assert as_filters["channel"].values.tolist() == [0, 0]
    assert as_filters["label"].values.tolist() == ["car", "dog"]
    with pytest.raises(DataError, match="'a' comes more than once; presentations are of kind NEURAL"):
        from_brainio(gathered.reset_index("time_bin"), kind="ACTIVATIONS")


def test_ids_gathered_alone_lose_their_name_but_not_their_meaning():
    flat = xr.DataArray(
        np.eye(2),
        dims=("presentation", "neuroid"),
        coords={"stimulus_id": ("presentation", ["a", "b"]), "neuroid_id": ("neuroid", ["n", "m"])},
    )
    gathered = brainio_gathered(flat)
    assert "neuroid_id" not in gathered.coords
    xr.testing.assert_identical(from_brainio(gathered), from_brainio(flat))


def test_repetitions_are_counted_where_there_are_none(neural):
    found = to_brainio(neural.drop_vars("repetition"))
    np.testing.assert_array_equal(found["repetition"], neural["repetition"])


def test_a_converted_recording_gives_the_same_selectivity(activations):
    back = from_tidy(to_tidy(activations).sample(frac=1, random_state=0))
    found = selectivity(back, "a").sel(unit=activations["unit"].values)
    np.testing.assert_allclose(found["dprime"], selectivity(activations, "a")["dprime"])


def test_rsatoolbox_computes_the_same_distances(activations):
    rsatoolbox = pytest.importorskip("rsatoolbox")
    filled = activations.assign(response=activations["response"].fillna(0.0))
    dataset = to_rsatoolbox(filled)
    theirs = rsatoolbox.rdm.calc_rdm(dataset, method="correlation", descriptor="stimulus")
    order = [str(name) for name in theirs.pattern_descriptors["stimulus"]]
    ours = correlation_distance(filled["response"].sel(stimulus=order).values)
    np.testing.assert_allclose(theirs.get_matrices()[0], ours, atol=1e-6)
    part = dataset.subset_channel("layer", "conv0")
    xr.testing.assert_identical(from_rsatoolbox(part), filled.isel(unit=slice(0, 3)))


def test_rsatoolbox_datasets_from_elsewhere():
    rsatoolbox = pytest.importorskip("rsatoolbox")
    theirs = rsatoolbox.data.Dataset(
        np.eye(2),
        descriptors={"session": 0, "list": [1]},
        obs_descriptors={"conds": np.array(["a", "b"])},
        channel_descriptors={"name": ["v1", "v2"], "area": ["V1", "V1"]},
    )
    found = from_rsatoolbox(theirs, stimulus="conds", unit="name")
    assert found.attrs["kind"] == "NEURAL"
    assert found["unit"].values.tolist() == ["v1", "v2"]
    assert found.attrs["left_out"] == "list"
    with pytest.raises(DataError, match=r"no observation descriptor 'stimulus'; there are \['conds'\]; pass stimulus="):
        from_rsatoolbox(theirs)
    with pytest.raises(DataError, match="average or select time first"):
        from_rsatoolbox(object())


def test_pynapple_layout_round_trip(neural):
    before = tuning(neural)
    array = to_pynapple(before, feature="disparity")
    assert array.dims == ("unit", "disparity")
    assert "occupancy" not in array.attrs  # one unit missed a trial
    xr.testing.assert_identical(from_pynapple(array), before)
    even = tuning(neural.isel(unit=[0, 2]))
    assert to_pynapple(even).attrs["occupancy"].tolist() == [4.0, 4.0, 4.0]
    xr.testing.assert_identical(from_pynapple(to_pynapple(even)), even)


def test_pynapples_documented_layout():
    theirs = xr.DataArray(
        [[10.0, 10.0, 10.0], [10.0, 0.0, 5.0], [0.0, 0.0, 0.0]],
        {"unit": [1, 2, 7], "0": [0.1, 0.3, 0.5], "hemisphere": ("unit", ["l", "r", "l"])},
        ("unit", "0"),
        attrs={"occupancy": np.array([100.0, 100.0, 90.0]), "bin_edges": [np.arange(4)], "fs": 10.0},
    )
    found = from_pynapple(theirs)
    assert found["status"].values.tolist() == ["constant", "ok", "dead"]
    assert found["n_trials"].values.tolist() == [[100, 100, 90]] * 3
    assert found.attrs["left_out"] == "bin_edges, hemisphere"
    np.testing.assert_array_equal(to_pynapple(found, feature="0").values, theirs.values)
    np.testing.assert_array_equal(to_pynapple(found).attrs["occupancy"], theirs.attrs["occupancy"])
    with pytest.raises(DataError, match="one feature"):
        from_pynapple(theirs.expand_dims("1"))
    with pytest.raises(ConfigError, match="cannot be called 'unit'"):
        to_pynapple(found, feature="unit")


def test_installed_pynapple_takes_and_gives_the_layout(neural):
    nap = pytest.importorskip("pynapple")
    even = tuning(neural.isel(unit=[0, 2]))
    information = nap.compute_mutual_information(to_pynapple(even))
    assert list(information.index) == ["V4/1", "IT/1"]
    rng = np.random.default_rng(0)
    feature = nap.Tsd(t=np.arange(200) * 0.1, d=np.repeat([0.0, 1.0, 2.0, 3.0], 50))
    spikes = nap.TsGroup({k: nap.Ts(np.sort(rng.uniform(0, 20, 60 * (k + 1)))) for k in range(2)})
    theirs = nap.compute_tuning_curves(spikes, feature, bins=4, feature_names=["phase"])
    found = from_pynapple(theirs)
    again = to_pynapple(found, feature="phase")
    np.testing.assert_array_equal(again.values, theirs.values)
    again = again.assign_coords(unit=theirs["unit"])
    decoded, _ = nap.decode_bayes(again, spikes, epochs=feature.time_support, bin_size=1.0)
    wanted, _ = nap.decode_bayes(theirs, spikes, epochs=feature.time_support, bin_size=1.0)
    np.testing.assert_array_equal(decoded.values, wanted.values)


def test_tidy_tables_from_elsewhere(activations):
    table = pd.DataFrame({"stimulus": ["a", "a", "b", "b"], "unit": ["u", "v"] * 2, "layer": "l", "response": range(4)})
    found = from_tidy(table.assign(note="x"))
    assert found["response"].values.tolist() == [[0.0, 1.0], [2.0, 3.0]]
    assert found["channel"].values.tolist() == [0, 1]
    assert found["note"].values.tolist() == ["x", "x"]  # of the stimuli: it comes along
    assert from_tidy(table.assign(note=list("xyxy"))).attrs["left_out"] == "note"
    with pytest.raises(DataError, match="1 responses are absent, the first of stimulus 'b', unit 'v'"):
        from_tidy(table[:3])
    with pytest.raises(DataError, match="stimulus 'a' and unit 'u' come more than once"):
        from_tidy(pd.concat([table, table[:1]]))
    with pytest.raises(DataError, match="needs the column 'unit'"):
        from_tidy(table.drop(columns="unit"))
    with pytest.raises(DataError, match="column 'label' must have one value per stimulus; row 1 says 'd'"):
        from_tidy(table.assign(label=["c", "d", "c", "c"]))
    with pytest.raises(DataError, match="need the layer"):
        from_tidy(table.drop(columns="layer"))
    with pytest.raises(DataError, match="'channel' must be int"):
        from_tidy(table.assign(channel=0.5))
    trials = from_tidy(table.rename(columns={"layer": "area"}).assign(trial=[0, 0, 1, 1])[:3])
    assert np.isnan(trials["response"].values[1, 1])


def test_wide_tables_must_be_described(activations):
    wide, units = to_wide(activations), unit_table(activations)
    with pytest.raises(DataError, match="the table of units lacks 1"):
        from_wide(wide, units=units[1:])
    with pytest.raises(DataError, match="must be unique"):
        from_wide(pd.concat([wide, wide[:1]]), units=units)


@pytest.mark.parametrize("what", ["unit", "stimulus"])
def test_a_column_of_a_table_does_not_replace_the_ids(activations, what):
    wide, units, rows = to_wide(activations), unit_table(activations), row_table(activations)
    told = {"units": units, "rows": rows}
    described = "units" if what == "unit" else "rows"
    same = told | {described: told[described].assign(**{what: told[described].index})}
    xr.testing.assert_identical(from_wide(wide, **same), from_wide(wide, **told))
    other = told | {described: told[described].assign(**{what: told[described].index[::-1]})}
    with pytest.raises(DataError, match=f"a column '{what}' that says otherwise than its index"):
        from_wide(wide, **other)


def test_a_descriptor_that_gives_way_to_the_ids_is_named(activations):
    pytest.importorskip("rsatoolbox")
    theirs = to_rsatoolbox(activations)
    theirs.obs_descriptors["image_name"] = np.array(list("pqrstu"))
    found = from_rsatoolbox(theirs, stimulus="image_name")
    assert found["stimulus"].values.tolist() == list("pqrstu")
    assert found.attrs["left_out"] == "stimulus"


def test_one_reduction_and_one_kind(activations):
    two = xr.concat([activations, activations], xr.IndexVariable("reduction", ["mean", "max"]), data_vars="all")
    for convert in (to_brainio, to_tidy, to_wide, unit_table):
        with pytest.raises(DataError, match=r"2 reductions \(mean, max\)"):
            convert(two)
        with pytest.raises(ConfigError, match="unknown kind to convert 'GAINS'"):
            convert(activations.assign_attrs(kind="GAINS"))
        with pytest.raises(SchemaError, match="wanted an xarray Dataset"):
            convert(activations["response"])
    found = to_brainio(two.sel(reduction="max"))
    assert found.shape == (N, UNITS)
    with_leverage = activations.assign(leverage=activations["response"])
    assert to_brainio(with_leverage).attrs["left_out"] == "leverage"


def test_user_mistakes(activations, neural):
    array = to_brainio(activations)
    with pytest.raises(DataError, match="wanted dimensions"):
        from_brainio(array.rename(neuroid="cell"))
    with pytest.raises(DataError, match="3 time bins"):
        from_brainio(array.expand_dims(time_bin=3))
    with pytest.raises(DataError, match="an id for every unit"):
        from_brainio(array.drop_vars("neuroid_id"))
    with pytest.raises(DataError, match="wanted one variable"):
        from_brainio(xr.Dataset({"a": array, "b": array}))
    with pytest.raises(DataError, match="regions must name every layer; 'conv1'"):
        to_brainio(activations, regions={"conv0": "V1"})
    with pytest.raises(DataError, match="areas of their own"):
        to_brainio(neural, regions={"V4": "V4"})
    with pytest.raises(ConfigError, match="unknown kind 'SPIKES'"):
        from_brainio(array, kind="SPIKES")


def test_every_converter_is_public():
    made = {
        name
        for module in (frame_layouts, peer_layouts)
        for name, one in vars(module).items()
        if inspect.isfunction(one) and one.__module__ == module.__name__ and not name.startswith("_")
    }
    assert made == set(conventions.__all__)
    assert all(getattr(fn, name) is getattr(conventions, name) for name in made)
    assert made < set(fn.__all__)

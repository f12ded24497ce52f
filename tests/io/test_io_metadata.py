"""Metadata of stimuli: joined by id or path, whatever the order, and carried through recordings and their stores."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import xarray as xr
from PIL import Image
from torch import nn
from torch.utils.data import TensorDataset

import featattn_neuro as fn
from featattn_neuro.cli import app
from featattn_neuro.errors import ConfigError, DataError, FeatattnError, SchemaError, StoreError
from featattn_neuro.io import recording_store as stores
from featattn_neuro.io.conventions import (
    from_brainio,
    from_tidy,
    from_wide,
    row_table,
    to_brainio,
    to_tidy,
    to_wide,
    unit_table,
)
from featattn_neuro.io.metadata import metadata_columns, with_metadata
from featattn_neuro.io.stimulus_set import Stimuli, content_id
from featattn_neuro.schema import ACTIVATIONS

N = 7
COLUMNS = {
    "animal": ["yes", "no", "", "yes", "no", "Ünïcode, µ", "x" * 300],
    "area (cm2)": [1.5, np.nan, 3.0, 4.0, 5.0, 6.0, -7.25],
    "rank in set": [3, 1, 2, 2**40, 5, 6, 7],
    "indoor": [True, False, True, True, False, False, True],
    "code": ["007", "1", "2", "3", "4", "5", "6"],
}


@pytest.fixture
def stimuli() -> Stimuli:
    pixels = np.random.default_rng(0).standard_normal((N, 1, 6, 6)).astype(np.float32)
    return fn.load_stimuli(pixels, label=list("aabbabb"))


@pytest.fixture
def table(stimuli: Stimuli) -> pd.DataFrame:
    """Rows in another order than the stimuli."""
    return pd.DataFrame({"id": stimuli.id, **COLUMNS}).sample(frac=1, random_state=1).reset_index(drop=True)


@pytest.fixture
def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 3, 3), nn.ReLU())


def carried(dataset: xr.Dataset) -> dict[str, list[Any]]:
    return {name: dataset[name].values.tolist() for name in COLUMNS}


def same(found: dict[str, list[Any]], wanted: dict[str, list[Any]]) -> bool:
    return repr(found) == repr(wanted)  # NaN is the same as NaN, True is not 1


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".txt", ".parquet", "frame", "index"])
def test_every_sort_of_table_joins_by_id(stimuli, table, net, tmp_path, suffix):
    given: Any = tmp_path / f"table{suffix}"
    if suffix in ("frame", "index"):
        given = table if suffix == "frame" else table.set_index("id")
    elif suffix == ".parquet":
        pytest.importorskip("pyarrow")
        table.to_parquet(given)
    else:
        table.to_csv(given, index=False, sep="," if suffix == ".csv" else "\t")
    kept = table.copy(deep=True)
    found = fn.record(net, stimuli, "0", metadata=given)
    assert same(carried(found), COLUMNS)
    assert [found[name].dtype.kind for name in COLUMNS] == list("UfibU")
    assert all(found[name].dims == ("stimulus",) for name in COLUMNS)
    pd.testing.assert_frame_equal(table, kept)
    xr.testing.assert_identical(found.drop_vars(list(COLUMNS)), fn.record(net, stimuli, "0"))


@pytest.mark.parametrize("suffix", [".zarr", ".nc"])
def test_stored_and_resumed_recordings_carry_them(stimuli, table, net, tmp_path, suffix, monkeypatch):
    monkeypatch.setattr(stores, "BLOCK_BYTES", 1)

    def stop(done: int, total: int) -> None:
        if done >= 4:
            raise KeyboardInterrupt

    def record(**options: Any) -> xr.Dataset:
        return fn.record(net, stimuli, ["0", "1"], batch_size=2, metadata=table, **options)

    in_memory = record()
    with pytest.raises(KeyboardInterrupt):
        record(out=tmp_path / f"a{suffix}", progress=stop)
    begun: list[int] = []
    record(out=tmp_path / f"a{suffix}", progress=lambda done, total: begun.append(done)).close()
    assert begun[0] > 2, "it was taken up where it stopped"
    found = fn.open_kind(tmp_path / f"a{suffix}", "ACTIVATIONS").load()
    assert same(carried(found), COLUMNS)
    assert [found[name].dtype.kind for name in COLUMNS] == list("UfibU")
    for name in in_memory.coords:
        xr.testing.assert_equal(found[name], in_memory[name])
    np.testing.assert_array_equal(found["response"], in_memory["response"])


@pytest.mark.parametrize("suffix", [".zarr", ".nc"])
def test_save_and_open_keep_them(stimuli, table, net, tmp_path, suffix):
    before = fn.record(net, stimuli, "0", metadata=table)
    after = fn.open_kind(fn.save_kind(before, tmp_path / f"a{suffix}")).load()
    assert same(carried(after), COLUMNS)
    xr.testing.assert_identical(after.drop_attrs(deep=False), before.drop_attrs(deep=False))


def test_another_table_is_another_recording_and_is_said_to_be(stimuli, table, net, tmp_path):
    def record(metadata: pd.DataFrame | None) -> xr.Dataset:
        return fn.record(net, stimuli, "0", out=tmp_path / "a.zarr", metadata=metadata)

    record(table)
    assert same(carried(record(table.sample(frac=1, random_state=5))), COLUMNS)  # the same, in another order
    with pytest.raises(StoreError, match=r"holds another recording \(other metadata\)"):
        record(table.assign(indoor=~table["indoor"]))
    with pytest.raises(StoreError, match=r"\(other metadata\)"):
        record(None)
    described = with_metadata(stimuli, table)
    xr.testing.assert_identical(fn.record(net, described, "0", out=tmp_path / "a.zarr"), record(table))


def test_a_recording_made_before_takes_a_table(stimuli, table, net, tmp_path):
    wanted = fn.record(net, stimuli, "0", metadata=table)
    xr.testing.assert_identical(with_metadata(fn.record(net, stimuli, "0"), table), wanted)
    fn.record(net, stimuli, "0", out=tmp_path / "a.zarr").close()
    with with_metadata(fn.open_kind(tmp_path / "a.zarr"), table) as lazy:
        assert lazy["response"].chunks is not None
        assert same(carried(lazy), COLUMNS)


def test_files_join_by_path_and_selecting_keeps_rows_together(net, tmp_path):
    rng = np.random.default_rng(0)
    for name in ("b/2.png", "a/1.png", "a/3.png"):
        (tmp_path / "images" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 255, (6, 6, 3), np.uint8)).save(tmp_path / "images" / name)
    table = pd.DataFrame({"path": ["b/2.png", "a/3.png", "a/1.png"], "id": [2, 3, 1], "label": ["b", "a", "a"]})
    table.to_csv(tmp_path / "t.csv", index=False)
    stimuli = with_metadata(fn.load_stimuli(tmp_path / "images"), tmp_path / "t.csv")
    assert stimuli.parameters["id"].tolist() == [1, 3, 2]  # a number of the laboratory's own: the paths are the key
    assert stimuli.select([2, 0]).parameters["id"].tolist() == [2, 1]
    colour = nn.Sequential(nn.Conv2d(3, 2, 1))
    found = fn.record(colour, stimuli.select([2, 0]), "0")
    assert dict(zip(found.path.values.tolist(), found.id.values.tolist(), strict=True)) == {"b/2.png": 2, "a/1.png": 1}
    with pytest.raises(DataError, match=r"a coordinate 'label' already, and the table says otherwise \(a is z there\)"):
        with_metadata(fn.load_stimuli(tmp_path / "images"), table.assign(label="z"))
    unlabelled = fn.load_stimuli(tmp_path / "images", label=None)
    assert with_metadata(unlabelled, table).label.tolist() == ["a", "a", "b"]


def test_torch_datasets_take_metadata(table, stimuli, net, tmp_path):
    data = TensorDataset(torch.from_numpy(stimuli.images))
    found = fn.record(net, data, "0", metadata=table, out=tmp_path / "a.zarr")
    assert same(carried(found), COLUMNS)
    labelled = fn.record(net, data, "0", metadata=table.rename(columns={"code": "label"}))
    assert labelled["label"].values.tolist() == COLUMNS["code"]
    with pytest.raises(StoreError, match="other metadata"):
        fn.record(net, data, "0", out=tmp_path / "a.zarr")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda t: t.rename(columns={"id": "image"}),
            "wanted one of the columns stimulus, stimulus_id, id, path in the",
        ),
        (lambda t: t.assign(id="?"), r"'id' of the table names none of the stimuli \(its first is '\?'\)"),
        (lambda t: t[:0], "names none of the stimuli; the first stimulus is '"),
        (lambda t: t.rename(columns={"id": "path"}), "which is no file; join by content id"),
        (lambda t: pd.concat([t, t[:1]]), "one row per stimulus in the table; id '[0-9a-f]{64}' has two"),
        (lambda t: t[2:], "has no row for 2 of 7 stimuli, the first is '[0-9a-f]{64}'"),
        (
            lambda t: pd.concat([t, t[:2].assign(id=["p", "q"])]),
            "2 of 9 rows of the table name no .* first is 'p'; drop",
        ),
        (lambda t: t.assign(label="z"), "a coordinate 'label' already, and the table says otherwise"),
        (lambda t: t.assign(layer="conv"), "name 'layer' of a metadata column is taken: dotted module name"),
        (lambda t: t.assign(y=1.5), "name 'y' of a metadata column is taken"),
        (lambda t: t.assign(unit=1), "name 'unit' of a metadata column is taken"),
        (lambda t: t.assign(response_0000=1), "name 'response_0000' of a metadata column is taken: stores use it"),
        (lambda t: t.assign(**{"a/b": 1}), "without a slash.*came 'a/b'"),
        (lambda t: t.rename(columns={"animal": 3}), "names of metadata columns as text.*came 3"),
        (
            lambda t: t.set_axis(["id", "a", "a", "b", "c", "d"], axis=1),
            "each column of the table once; 'a' comes twice",
        ),
        (lambda t: t.assign(animal=[1, "a"] + [None] * 5), "column 'animal' of the table must hold text.*came 1"),
        (lambda t: t.assign(animal=[[1]] * N), "column 'animal' of the table must hold text"),
        (lambda t: t.assign(indoor=[True, None] * 3 + [False]), "column 'indoor' .*came (True|False)"),
        (lambda t: t.assign(orientation="up"), "column 'orientation' of the table must be float"),
    ],
)
def test_tables_that_do_not_fit_are_refused_before_the_first_image(stimuli, table, change, message):
    class Untouched(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            raise AssertionError("the network ran")

    with pytest.raises(DataError, match=message):
        fn.record(nn.Sequential(Untouched()), stimuli, "0", metadata=change(table))


def test_other_files_and_other_things_are_refused(stimuli, table, net, tmp_path):
    (tmp_path / "empty.csv").write_text("")
    (tmp_path / "ragged.csv").write_text("id,a\n1,2\n3,4,5\n")
    for given, error, message in (
        (tmp_path / "none.csv", StoreError, "there is none at .*none.csv"),
        (tmp_path / "a.xlsx", ConfigError, "a .csv, .tsv, .txt or .parquet file; came .*a.xlsx"),
        (tmp_path / "empty.csv", DataError, "empty.csv' is not a readable table"),
        (tmp_path / "ragged.csv", DataError, "ragged.csv' is not a readable table"),
    ):
        with pytest.raises(error, match=message):
            with_metadata(stimuli, given)
    with pytest.raises(DataError, match=r"wanted stimuli .* came ndarray"):
        with_metadata(stimuli.images, table)
    with pytest.raises(ConfigError, match="did you mean 'ignore'"):
        with_metadata(stimuli, table, others="ignored")
    with pytest.raises(DataError, match="'label' is no parameter of stimuli"):
        Stimuli(id=stimuli.id, images=stimuli.images, parameters={"label": np.arange(N)})
    with pytest.raises(DataError, match="parameter 'when' must be text, numbers or flags"):
        Stimuli(id=stimuli.id, images=stimuli.images, parameters={"when": np.arange(N).astype("M8[s]")})


def test_a_table_of_a_larger_set_serves_on_request(stimuli, table):
    more = pd.concat([table, table[:2].assign(id=["p", "q"])])
    with pytest.raises(DataError, match="others='ignore'"):
        with_metadata(stimuli, more)
    assert with_metadata(stimuli, more, others="ignore").parameters["code"].tolist() == COLUMNS["code"]
    found = metadata_columns(more, {"stimulus": stimuli.id}, others="ignore")
    assert same({name: values.tolist() for name, values in found.items()}, COLUMNS)


def test_cells_of_text_files_are_typed_as_a_whole_column(stimuli, tmp_path):
    cells = {
        "numbers": ["1", "NA", "2.5", "", "-1e3", "4", "5"],
        "words": ["1", "NA", "two", "", "4", "5", "6"],
        "flags": ["TRUE", "false", "True", "true", "False", "FALSE", "true"],
        "ids": ["00", "1", "2", "3", "4", "5", "6"],
        "long": ["9" * 20, "1", "2", "3", "4", "5", "6"],
        "nothing": [""] * N,
        "colour": ["1", "2", "3", "4", "5", "6", "7"],  # text by declaration
    }
    pd.DataFrame({"stimulus_id": stimuli.id, **cells}).to_csv(tmp_path / "t.csv", index=False)
    found = metadata_columns(tmp_path / "t.csv", {"stimulus": stimuli.id})
    assert repr(found["numbers"].tolist()) == "[1.0, nan, 2.5, nan, -1000.0, 4.0, 5.0]"
    assert found["flags"].tolist() == [True, False, True, True, False, False, True]
    for name in ("words", "ids", "long", "nothing", "colour"):
        assert found[name].tolist() == cells[name], name


def test_times_categories_and_nullable_columns(stimuli):
    table = pd.DataFrame(
        {
            "stimulus": stimuli.id,
            "when": pd.to_datetime(["2026-01-02 03:04:05", None] + ["2026-01-03 00:00:00"] * 5),
            "kind": pd.Categorical(["a", "b", None, "a", "a", "b", "b"]),
            "level": pd.Categorical([3, 1, 1, 1, 1, 1, 1]),
            "count": pd.array([1, None, 3, 4, 5, 6, 7], dtype="Int64"),
            "whole": pd.array(range(N), dtype="Int64"),
        }
    )
    found = metadata_columns(table, {"stimulus": stimuli.id})
    assert found["when"].tolist()[:3] == ["2026-01-02T03:04:05", "", "2026-01-03T00:00:00"]
    assert found["kind"].tolist() == ["a", "b", "", "a", "a", "b", "b"]
    assert found["level"].tolist() == [3, 1, 1, 1, 1, 1, 1]
    assert np.isnan(found["count"][1])
    assert found["whole"].dtype == np.int64


def test_metadata_serve_as_labels_and_survive_selecting(stimuli, table, net):
    found = fn.record(net, stimuli, "0", metadata=table)
    some = found.isel(stimulus=[5, 2])
    assert some["code"].values.tolist() == ["5", "2"]
    by_flag = fn.selectivity(found, found["indoor"])
    by_hand = fn.selectivity(found, xr.DataArray(COLUMNS["indoor"], {"stimulus": stimuli.id}, ("stimulus",)))
    np.testing.assert_array_equal(by_flag["dprime"], by_hand["dprime"])


def test_undeclared_coordinates_elsewhere_stay_refused(stimuli, net):
    found = fn.record(net, stimuli, "0")
    with pytest.raises(SchemaError, match="kind ACTIVATIONS has no coordinate 'note'"):
        ACTIVATIONS.check(found.assign_coords(note=("unit", ["x"] * 3)))
    with pytest.raises(SchemaError, match="kind ACTIVATIONS has no coordinate 'when'"):
        ACTIVATIONS.check(found.assign_coords(when=("stimulus", np.arange(N).astype("M8[s]"))))


def test_converters_take_them_there_and_back(stimuli, table, net):
    before = fn.record(net, stimuli, "0", metadata=table)
    assert same({name: to_brainio(before)[name].values.tolist() for name in COLUMNS}, COLUMNS)
    back = from_wide(to_wide(before), units=unit_table(before), rows=row_table(before))
    for after in (from_brainio(to_brainio(before)), from_tidy(to_tidy(before)), back):
        xr.testing.assert_identical(after, before)
    with pytest.raises(DataError, match="'object_name' has a name that brainio gives something else"):
        to_brainio(before.rename(code="object_name"))


def test_skipped_images_take_their_rows_with_them(tmp_path):
    rng = np.random.default_rng(0)
    for name in "abc":
        Image.fromarray(rng.integers(0, 255, (6, 6, 3), np.uint8)).save(tmp_path / f"{name}.png")
    (tmp_path / "b.png").write_bytes((tmp_path / "b.png").read_bytes()[:60])
    table = pd.DataFrame({"path": ["c.png", "b.png", "a.png"], "place": [3, 2, 1]})
    net = nn.Sequential(nn.Conv2d(3, 2, 1))
    found = fn.record(net, tmp_path, "0", metadata=table, corrupt="skip")
    assert found["place"].values.tolist() == [1, 3]
    assert found["skipped"].values.tolist() == ["b.png"]


def test_command_line(tmp_path: Path):
    from typer.testing import CliRunner

    rng = np.random.default_rng(0)
    (tmp_path / "images" / "cat").mkdir(parents=True)
    for name in "abc":
        Image.fromarray(rng.integers(0, 255, (28, 28, 3), np.uint8)).save(tmp_path / "images" / "cat" / f"{name}.png")
    pd.DataFrame({"path": [f"cat/{n}.png" for n in "cab"], "age": [3, 1, 2]}).to_csv(tmp_path / "t.csv", index=False)

    def run(*more: str) -> Any:
        command = ["record", "digits_cnn", str(tmp_path / "images"), "--layers", "conv1", "--weights", "random"]
        return CliRunner().invoke(app, [*command, "--metadata", str(tmp_path / "t.csv"), *more])

    done = run("--out", str(tmp_path / "a.nc"))
    assert done.exit_code == 0, done.output
    assert fn.open_kind(tmp_path / "a.nc").load()["age"].values.tolist() == [1, 2, 3]
    part = run("--out", str(tmp_path / "b.zarr"), "--limit", "2")
    assert part.exit_code == 0, part.output
    assert fn.open_kind(tmp_path / "b.zarr")["age"].values.tolist() == [1, 2]
    (tmp_path / "t.csv").write_text("path,age\ncat/a.png,1\n")
    assert isinstance(run("--out", str(tmp_path / "c.zarr")).exception, FeatattnError)
    assert not (tmp_path / "c.zarr").exists()


def test_ids_are_those_that_a_laboratory_can_compute(stimuli):
    assert stimuli.id.tolist() == [content_id(image) for image in stimuli.images]


def test_long_whole_numbers_beside_a_missing_cell_keep_their_digits(stimuli, tmp_path):
    long = [f"12345678901234{k:03d}" for k in range(N)]
    cells = {
        "whole": long,
        "gaps": [*long[:-1], ""],
        "signed": ["-" + long[0], *long[1:-1], "NA"],
        "short": [*(one[-15:] for one in long[:-1]), ""],
        "decimal": [*(f"0.{one}" for one in long[:-1]), ""],
    }
    pd.DataFrame({"id": stimuli.id, **cells}).to_csv(tmp_path / "table.csv", index=False)
    found = metadata_columns(tmp_path / "table.csv", {"stimulus": stimuli.id})
    assert [found[name].dtype.kind for name in cells] == list("iUUff")
    assert found["whole"].tolist() == [int(one) for one in long]
    assert found["gaps"].tolist() == cells["gaps"]
    assert found["signed"].tolist()[0] == cells["signed"][0]
    assert found["short"].tolist()[:-1] == [int(one) for one in cells["short"][:-1]]


@pytest.mark.parametrize("suffix", [".csv", "frame"])
@pytest.mark.parametrize("gap", ["", " ", None])
def test_a_missing_label_is_no_class(stimuli, tmp_path, suffix, gap):
    bare = replace(stimuli, label=None)
    table = pd.DataFrame({"id": stimuli.id, "label": ["a ", "a", gap, "b", "b", "b", "b"]})
    if suffix == ".csv":
        table.to_csv(tmp_path / "table.csv", index=False)
    source = tmp_path / "table.csv" if suffix == ".csv" else table
    with pytest.raises(DataError, match=f"no label for 1 of 7 stimuli, the first is '{stimuli.id[2]}'"):
        with_metadata(bare, source)
    table.loc[2, "label"] = "b"
    assert with_metadata(bare, table).label.tolist() == list("aabbbbb")


@pytest.mark.parametrize("suffix", [".csv", "frame"])
def test_blank_rows_do_not_count(stimuli, table, tmp_path, suffix):
    with_gaps = pd.concat([table[:3], table[:1].map(lambda _: None), table[3:], table[:2].map(lambda _: None)])
    if suffix == ".csv":
        with_gaps.to_csv(tmp_path / "table.csv", index=False)
    found = with_metadata(stimuli, tmp_path / "table.csv" if suffix == ".csv" else with_gaps)
    assert found.parameters["code"].tolist() == COLUMNS["code"]
    assert found.parameters["rank in set"].tolist() == COLUMNS["rank in set"]


@pytest.mark.parametrize("suffix", [".csv", "frame"])
def test_numbers_of_a_laboratory_beside_the_path(stimuli, tmp_path, suffix):
    files = replace(stimuli, path=np.array([f"{k}.png" for k in range(N)]))
    table = pd.DataFrame({"stimulus": range(100, 100 + N), "id": range(N), "path": files.path}).iloc[::-1]
    if suffix == ".csv":
        table.to_csv(tmp_path / "table.csv", index=False)
    found = with_metadata(files, tmp_path / "table.csv" if suffix == ".csv" else table).parameters
    assert found["stimulus_number"].astype(int).tolist() == list(range(100, 100 + N))
    assert found["id"].tolist() == list(range(N))
    with pytest.raises(DataError, match="two would be called 'stimulus_number'"):
        with_metadata(files, table.assign(stimulus_number=0))
    with pytest.raises(DataError, match="have a coordinate 'stimulus' already"):
        with_metadata(files, table.assign(stimulus="x"))

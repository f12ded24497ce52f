"""The command line: it calls the right function with what was typed, and a mistake is one sentence and status 2."""

from __future__ import annotations

import json
import subprocess
import sys
import types

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from PIL import Image

from featattn_neuro import cli
from featattn_neuro.cli.options import one_arm, read_images, split_layers, split_names
from featattn_neuro.cli.recording import _axes
from featattn_neuro.errors import StoreError
from featattn_neuro.io.stimuli import load_stimuli
from featattn_neuro.io.store import load_kind, save_kind
from featattn_neuro.measures.selectivity import selectivity


def featattn(*arguments: object) -> int:
    with pytest.raises(SystemExit) as stopped:
        cli.main([str(a) for a in arguments])
    code = stopped.value.code
    return code if isinstance(code, int) else 0


@pytest.fixture
def fake(monkeypatch):
    """Put a module with these functions where the commands import it from, and note the calls."""
    calls: list[tuple[str, tuple, dict]] = []

    def install(module: str, **functions):
        made = types.ModuleType(module)
        for name, answer in functions.items():

            def call(*args, _name=name, _answer=answer, **kwargs):
                calls.append((_name, args, kwargs))
                if isinstance(_answer, Exception):
                    raise _answer
                return _answer

            setattr(made, name, call)
        monkeypatch.setitem(sys.modules, module, made)
        parent, _, child = module.rpartition(".")
        monkeypatch.setattr(sys.modules[parent], child, made, raising=False)
        return calls

    import featattn_neuro.jobs  # noqa: F401  (the parent of the modules that are replaced)

    return install


def test_help_lists_every_command(capsys):
    assert featattn("--help") == 0
    shown = capsys.readouterr().out
    for command in (
        *("run", "status", "compare", "report", "data", "fetch"),
        *("layers", "record", "gains", "selectivity", "associate", "saliency", "match"),
        *("example", "read-neural", "neurons"),
    ):
        assert command in shown


def test_version_and_module_entry():
    done = subprocess.run(
        [sys.executable, "-m", "featattn_neuro", "--version"], capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith("featattn_neuro 0.")


def test_run_passes_its_options_and_exit_status(fake, capsys):
    calls = fake("featattn_neuro.jobs.runner", run=3)
    assert featattn("run", "a.yaml", "--out", "b", "--quiet", "--until", "gains", "--workers", 2) == 3
    (name, args, kwargs) = calls[0]
    assert (name, [str(a) for a in args]) == ("run", ["a.yaml", "b"])
    assert kwargs == {"quiet": True, "until": "gains", "full": False, "workers": 2}


def test_plan_and_status_print(fake, capsys):
    calls = fake("featattn_neuro.jobs.runner", plan="12 fits", status="all done")
    assert featattn("run", "a.yaml", "--out", "b", "--plan") == 0
    calls[0][2]["say"]("12 fits")
    assert featattn("status", "b") == 0
    assert capsys.readouterr().out == "12 fits\nall done\n"
    assert [c[0] for c in calls] == ["plan", "status"]
    assert featattn("run", "a.yaml", "--out", "b", "--plan", "--full", "--workers", 2) == 0
    calls[-1][2].pop("say")
    assert calls[-1][2] == {"full": True, "workers": 2}
    assert featattn("run", "a.yaml", "--out", "b", "--plan", "--quiet") == 2
    assert "--quiet" in capsys.readouterr().err


@pytest.mark.parametrize(("found", "code"), [([], 0), (["claims.csv: row 2 differs"], 1)])
def test_compare_says_whether_folders_differ(fake, capsys, found, code):
    fake("featattn_neuro.jobs.compare", compare=found)
    assert featattn("compare", "a", "b") == code
    assert capsys.readouterr().out.strip() == (found[0] if found else "same")
    assert featattn("compare", "a", "b", "--json") == code
    assert json.loads(capsys.readouterr().out) == {"same": not found, "differences": found}


def test_mistake_is_one_sentence_without_traceback(fake, capsys):
    fake("featattn_neuro.jobs.runner", run=StoreError("wanted a folder; came none; make one"))
    assert featattn("run", "a.yaml", "--out", "b") == 2
    assert capsys.readouterr().err == "featattn: wanted a folder; came none; make one\n"


def test_our_own_mistakes_keep_their_traceback(fake):
    fake("featattn_neuro.jobs.runner", run=ZeroDivisionError("ours"))
    with pytest.raises(ZeroDivisionError):
        cli.main(["run", "a.yaml", "--out", "b"])


def test_unknown_option_and_missing_argument_are_status_2(capsys):
    assert featattn("run") == 2
    assert featattn("data", "--jsn") == 2
    assert "--json" in capsys.readouterr().err


def test_data_lists_the_manifest(capsys):
    assert featattn("data", "--json", "--kind", "images") == 0
    rows = json.loads(capsys.readouterr().out)
    assert {"name", "kind", "here", "MB", "source", "licence"} == set(rows[0])
    assert "digits" in [row["name"] for row in rows]
    assert {row["kind"] for row in rows} == {"images"}
    assert featattn("data") == 0
    assert "efficientnet_lite0" in capsys.readouterr().out


def test_fetch_of_an_unknown_name_prints_the_close_match(capsys):
    assert featattn("fetch", "digts") == 2
    assert "did you mean 'digits'" in capsys.readouterr().err


def test_report_of_no_folder(capsys, tmp_path):
    assert featattn("report", tmp_path / "none") == 2
    assert "featattn run CONFIG" in capsys.readouterr().err


def gains_file(path, arms):
    units = {"unit": ["a/0", "a/1"], "layer": ("unit", ["a", "a"]), "channel": ("unit", [0, 1])}
    values = np.arange(1.0, 1 + 2 * len(arms)).reshape(len(arms), 2)
    ds = xr.Dataset({"gain": (("arm", "unit"), values)}, {"arm": arms, **units}, {"kind": "GAINS"})
    return save_kind(ds, path)


def test_one_arm_is_taken_only_when_it_is_clear(tmp_path):
    one = load_kind(gains_file(tmp_path / "one.nc", ["gain"]))
    assert one_arm(one, None)["gain"].values.tolist() == [1.0, 2.0]
    two = load_kind(gains_file(tmp_path / "two.nc", ["gain", "full"]))
    assert one_arm(two, "full")["gain"].values.tolist() == [3.0, 4.0]
    for dataset, arm, text in ((two, None, "say which with --arm"), (two, "ful", "did you mean 'full'")):
        with pytest.raises(cli.FeatattnError, match=text):
            one_arm(dataset, arm)


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("relu1, layer3.*,conv", ["relu1", "layer3.*", "conv"]),
        (
            r"re:conv{1,2}, relu,re:(a|b,c)[(,],re:\(a,x(b,y",
            [r"re:conv{1,2}", "relu", "re:(a|b,c)[(,]", r"re:\(a", "x(b", "y"],
        ),
        ("re:conv(1,2", ["re:conv(1,2"]),
    ],
)
def test_layers_are_split_outside_the_brackets_of_regular_expressions(text, parts):
    assert split_layers(text) == parts


def test_names_are_split_at_commas():
    assert split_names("relu1, layer3.*,conv") == ["relu1", "layer3.*", "conv"]
    with pytest.raises(cli.FeatattnError, match="one name or more"):
        split_names(" , ")


@pytest.fixture(scope="module")
def image_folders(tmp_path_factory):
    """Three sets of small labelled images, bars in two directions, none of them shared."""
    rng, top = np.random.default_rng(0), tmp_path_factory.mktemp("bars")
    for part, count in (("head", 12), ("gains", 12), ("test", 16)):
        for label in ("across", "upright"):
            (top / part / label).mkdir(parents=True)
            for number in range(count):
                pixels = rng.integers(0, 60, (28, 28, 3)).astype(np.uint8)
                at = int(rng.integers(4, 20))
                bar = np.s_[at : at + 4, 3:25] if label == "across" else np.s_[3:25, at : at + 4]
                pixels[bar] = 230
                Image.fromarray(pixels).save(top / part / label / f"{number:02d}.png")
    (top / "tiny_network.py").write_text(
        "import torch\nfrom torch import nn\n\n\nclass Net(nn.Module):\n"
        "    def __init__(self):\n        super().__init__()\n"
        "        self.conv = nn.Conv2d(3, 10, 5, padding=2)\n        self.relu = nn.ReLU()\n"
        "        self.head = nn.Linear(10, 2)\n\n"
        "    def forward(self, x):\n        return self.head(self.relu(self.conv(x)).mean(dim=(2, 3)))\n\n\n"
        "def make():\n    torch.manual_seed(0)\n    return Net()\n"
    )
    return top


def test_the_steps_meet_in_files(image_folders, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(image_folders)
    model, layers = "tiny_network:make", ("--layers", "relu")
    assert featattn("layers", model, "--json") == 0
    rows = json.loads(capsys.readouterr().out)
    assert [(row["name"], row["stage"]) for row in rows][:2] == [("conv", "conv"), ("relu", "activation")]

    recorded, measured = tmp_path / "activations.nc", tmp_path / "selectivity.nc"
    assert featattn("record", model, "test", *layers, "--out", recorded) == 0
    assert load_kind(recorded, "ACTIVATIONS")["response"].shape == (32, 10)
    assert featattn("selectivity", recorded, "--target", "across", "--out", measured) == 0
    assert load_kind(measured, "SELECTIVITY")["dprime"].dims == ("unit",)

    learned, found = tmp_path / "gains.nc", tmp_path / "association.nc"
    options = ("--target", "across", "--head-images", "head", "--epochs", 2, "--out", learned)
    assert featattn("gains", model, "gains", *layers, *options) == 0
    gain = load_kind(learned, "GAINS")["gain"]
    assert gain.dims == ("unit",)
    assert (gain > 0).all()
    assert (gain != 1).any()
    assert featattn("associate", learned, measured, "--out", found) == 0
    assert abs(float(load_kind(found, "ASSOCIATION")["rho"].sel(measure="dprime", layer="relu"))) <= 1

    where = tmp_path / "saliency.nc"
    assert featattn("saliency", model, learned, "test", "--layer", "relu", "--limit", 4, "--out", where) == 0
    assert load_kind(where, "SALIENCY")["excess"].sizes["stimulus"] == 4


def test_layers_prints_name_type_stage_shape_filters_and_calls(image_folders, monkeypatch, capsys):
    monkeypatch.chdir(image_folders)
    assert featattn("layers", "tiny_network:make") == 0
    heading, first = capsys.readouterr().out.splitlines()[:2]
    assert heading.split() == ["name", "type", "stage", "output", "shape", "filters", "calls"]
    assert first.split()[:3] == ["conv", "Conv2d", "conv"]
    assert first.split()[-2:] == ["10", "1"]
    (image_folders / "flattens.py").write_text(
        "from torch import nn\ndef make():\n    return nn.Sequential(nn.Conv2d(1, 10, 3), nn.Flatten(2))\n"
    )
    assert featattn("layers", "flattens:make") == 0
    assert capsys.readouterr().out.splitlines()[2].split()[-2:] == ["?", "1"]
    assert featattn("layers", "torchvision:squeezenet1_1", "--stage", "conv") == 0  # no weights are asked for
    assert "classifier.1" in capsys.readouterr().out


def test_recording_says_which_layers_of_a_pattern_it_leaves_out(image_folders, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(image_folders)
    (image_folders / "idle.py").write_text(
        "from torch import nn\nclass Net(nn.Module):\n    def __init__(self):\n        super().__init__()\n"
        "        self.used, self.idle = nn.Conv2d(3, 2, 1), nn.Conv2d(3, 2, 1)\n"
        "    def forward(self, x):\n        return self.used(x)\n"
    )
    assert featattn("record", "idle:Net", "test", "--layers", "conv", "--out", tmp_path / "a.nc") == 0
    assert "layers left out: idle (did not run)" in capsys.readouterr().err


def test_recording_takes_its_options_to_the_store(image_folders, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(image_folders)
    out = tmp_path / "a.zarr"
    command = ("record", "tiny_network:make", "test", "--layers", "conv,relu", "--out", out)
    options = ("--reduce", "mean,sd,q0.9", "--batch-size", 5, "--workers", 1, "--storage-dtype", "float16")
    assert featattn(*command, *options, "--compute-dtype", "bfloat16", "--device", "cpu") == 0
    assert capsys.readouterr().out == f"{out}\n"
    found = load_kind(out, "ACTIVATIONS")
    assert found["response"].dims == ("reduction", "stimulus", "unit")
    assert found["reduction"].values.tolist() == ["mean", "sd", "q0.9"]
    assert found["response"].dtype == np.float16
    assert (found.attrs["batch_size"], found.attrs["compute_dtype"]) == (5, "bfloat16")

    before = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    assert featattn(*command, *options, "--compute-dtype", "bfloat16") == 0
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*")} == before, "it was there already"
    assert featattn(*command) == 2
    assert "holds another recording (other layers)" in capsys.readouterr().err
    assert featattn(*command, "--overwrite") == 0
    assert load_kind(out)["response"].shape == (32, 20)


def test_recording_goes_on_where_it_was_stopped(image_folders, tmp_path, monkeypatch):
    from featattn_neuro import api
    from featattn_neuro.io import recording_store

    monkeypatch.chdir(image_folders)
    monkeypatch.setattr(recording_store, "BLOCK_BYTES", 1)
    command = (
        "record",
        "tiny_network:make",
        "test",
        "--layers",
        "conv",
        "--batch-size",
        8,
        "--out",
        tmp_path / "a.zarr",
    )
    seen, record = [], api.record

    def stopping(*args, progress=None, **options):
        def stop(done, total):
            seen.append(done)
            if len(seen) == 2:
                raise KeyboardInterrupt

        return record(*args, progress=stop, **options)

    monkeypatch.setattr(api, "record", stopping)
    assert featattn(*command) not in (0, 2)
    assert not (tmp_path / "a.zarr").exists()
    assert featattn(*command) == 0
    assert seen[:2] == [8, 16]
    assert seen[2] > 8, "what was whole is not recorded again"
    assert load_kind(tmp_path / "a.zarr")["response"].shape == (32, 10)


def test_recording_skips_what_cannot_be_read_and_says_so(image_folders, tmp_path, monkeypatch, capsys):
    import shutil

    monkeypatch.chdir(image_folders)
    shutil.copytree("head", tmp_path / "some")
    bad = tmp_path / "some" / "across" / "03.png"
    bad.write_bytes(bad.read_bytes()[:-40])
    command = ("record", "tiny_network:make", tmp_path / "some", "--layers", "conv", "--out", tmp_path / "a.nc")
    assert featattn(*command) == 2
    assert "across/03.png" in capsys.readouterr().err
    assert featattn(*command, "--corrupt", "skip") == 0
    assert "left out, could not be read: across/03.png" in capsys.readouterr().err
    found = load_kind(tmp_path / "a.nc", "ACTIVATIONS")
    assert found.sizes["stimulus"] == 23
    assert found["skipped"].values.tolist() == ["across/03.png"]
    assert featattn(*command, "--corrupt", "leave") == 2
    assert featattn(*command, "--channel-axis", "conv") == 2
    assert "LAYER=AXIS" in capsys.readouterr().err
    assert _axes(["blocks.0=-1", "a=1"]) == {"blocks.0": -1, "a": 1}


def test_several_files_without_an_image_are_skipped_too(image_folders, tmp_path, monkeypatch, capsys):
    import shutil

    import featattn_neuro as fa

    monkeypatch.chdir(image_folders)
    some = shutil.copytree("head", tmp_path / "some")
    for name in ("across/03.png", "upright/04.png"):
        (some / name).write_bytes(b"")
    (some / "across/04.png").unlink()
    (some / "across/04.png").symlink_to("/nowhere/x.png")
    images = fa.load_stimuli(some, corrupt="skip")
    labels = tmp_path / "labels.csv"
    pd.DataFrame({"id": images.id, "label": images.label}).to_csv(labels, index=False)
    command = ("record", "tiny_network:make", some, "--layers", "conv", "--corrupt", "skip", "--out")
    for out, more in (("a.nc", ()), ("a.zarr", ()), ("b.nc", ("--labels", labels))):
        assert featattn(*command, tmp_path / out, *more) == 0
        found = load_kind(tmp_path / out)
        assert found["skipped"].values.tolist() == ["across/03.png", "across/04.png", "upright/04.png"]
        assert found.sizes["stimulus"] == 21
        assert "could not be read: across/03.png, across/04.png, upright/04.png" in capsys.readouterr().err


def test_a_limit_is_spread_over_the_classes_of_a_table_by_id(image_folders, tmp_path, monkeypatch):
    import featattn_neuro as fa

    monkeypatch.chdir(image_folders)
    images = fa.load_stimuli("head")
    table = pd.DataFrame({"id": images.id, "label": images.label})
    table.to_csv(tmp_path / "by id.csv", index=False)
    table.assign(id=range(len(table)), path=images.path).to_csv(tmp_path / "own id.csv", index=False)
    table.assign(id=images.path).rename(columns={"id": "path"}).to_csv(tmp_path / "by path.csv", index=False)
    for name in ("by id.csv", "own id.csv", "by path.csv"):
        found = read_images("head", tmp_path / name, 4)
        assert found.label.tolist() == ["across", "across", "upright", "upright"]
        assert found.path.tolist() == ["across/00.png", "across/01.png", "upright/00.png", "upright/01.png"]


@pytest.mark.parametrize("column", ["id", "path"])
def test_an_image_without_a_label_is_said_unless_it_may_have_none(image_folders, tmp_path, monkeypatch, column):
    import featattn_neuro as fa

    monkeypatch.chdir(image_folders)
    images = fa.load_stimuli("head")
    table = pd.DataFrame({column: getattr(images, column), "label": images.label})
    table.loc[2, "label"] = " "
    table.to_csv(tmp_path / "labels.csv", index=False)
    with pytest.raises(cli.FeatattnError, match="no label for 1 of 24 stimuli"):
        read_images("head", tmp_path / "labels.csv", None)
    assert read_images("head", tmp_path / "labels.csv", None, unlabelled=True).label[2] == ""


def test_several_classes_own_labels_and_export(image_folders, tmp_path, monkeypatch, capsys):
    import featattn_neuro as fa

    monkeypatch.chdir(image_folders)
    table, learned = tmp_path / "labels.csv", tmp_path / "gains.nc"
    images = fa.load_stimuli("gains")
    rows = [f"{i},{label}" for i, label in zip(images.id, images.label, strict=True)]
    table.write_text("\n".join(["id,label", *reversed(rows)]))
    options = ("--layers", "relu", "--target", "across,upright", "--epochs", 2, "--out", learned)
    own = ("--labels", table, "--task", "multiclass", "--class-weight", "across=1,upright=3")
    kept = ("--cache", tmp_path / "rows", "--checkpoint", tmp_path / "checkpoint")
    assert featattn("gains", "tiny_network:make", "gains", *options, *own, *kept) == 0
    found = load_kind(learned, "GAINS")
    assert found["output"].values.tolist() == ["across", "upright"]
    assert found.attrs["class_weight"] == "{'across': 1.0, 'upright': 3.0}"
    assert len(list((tmp_path / "rows").iterdir())) == 1
    assert not (tmp_path / "checkpoint").exists()
    out = tmp_path / "gains.safetensors"
    assert featattn("export", learned, "--out", out) == 0
    np.testing.assert_array_equal(fa.import_gains(out)["gain"], found["gain"])
    capsys.readouterr()
    assert featattn("export", learned, "--out", tmp_path / "adapter") == 2
    assert "--model" in capsys.readouterr().err
    weights = ("--class-weight", "across:1")
    assert featattn("gains", "tiny_network:make", "gains", *options, *weights) == 2
    assert "unknown class weights" in capsys.readouterr().err


def test_saliency_with_scores_curves_and_pictures(image_folders, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(image_folders)
    model, learned = "tiny_network:make", tmp_path / "gains.nc"
    options = (
        "--target",
        "across,upright",
        "--head-images",
        "head",
        "--epochs",
        2,
        "--layers",
        "relu",
        "--out",
        learned,
    )
    classes = sorted(p.name for p in (image_folders / "gains").iterdir())
    options = tuple(",".join(classes) if o == "across,upright" else o for o in options)
    assert featattn("gains", model, "gains", *options) == 0
    shown = load_stimuli("test")
    boxes = tmp_path / "boxes.csv"
    rows = [f"{path},{label},0,0,5,5" for path, label in zip(shown.path, shown.label, strict=True)]
    boxes.write_text("\n".join(["path,label,top,left,bottom,right", *rows]) + "\n")
    where, scores, curves = (tmp_path / f"{name}.nc" for name in ("saliency", "scores", "causal"))
    more = ("--methods", "path", "--boxes", boxes, "--scores", scores, "--permutations", 5, "--causal", curves)
    pictures = ("--figures", tmp_path / "pictures", "--pictured", 3, "--svg")
    capsys.readouterr()
    assert featattn("saliency", model, learned, "test", "--layer", "relu", *more, *pictures, "--out", where) == 0
    maps = load_kind(where, "SALIENCY")
    assert set(maps["path_status"].values.ravel()) <= {"ok", "incomplete"}
    scored = load_kind(scores, "AGREEMENT")
    assert scored["localisation"].sizes["stimulus"] == len(shown)
    assert scored.sizes["permutation"] == 5
    assert load_kind(curves, "CAUSAL")["logit"].dims[0] == "task"
    made = sorted(p.name for p in (tmp_path / "pictures").iterdir())
    assert made == sorted(f"{what}_{name}.svg" for what in ("overlays", "sheet") for name in classes)
    assert str(tmp_path / "pictures" / made[0]) in capsys.readouterr().out
    one = ("--figures", tmp_path / "one", "--show", f"{shown.path[2]},{shown.id[0][:12]}", "--task", classes[0])
    assert featattn("saliency", model, learned, "test", "--layer", "relu", *one, "--out", where) == 0
    assert len(list((tmp_path / "one").iterdir())) == 2
    assert featattn("saliency", model, learned, "test", "--layer", "relu", *one[:3], "no such", "--out", where) == 2
    assert "whose id begins with 'no such'" in capsys.readouterr().err
    assert featattn("saliency", model, learned, "test", "--layer", "relu", "--boxes", boxes, "--out", where) == 2
    assert "give --scores with --boxes or with --segments" in capsys.readouterr().err
    for more, text in (
        (("--show", shown.id[0]), "--show is for --figures"),
        (("--which", "most"), "--which is for --figures"),
        (("--pictured", 12), "--pictured is for --figures"),
        (("--svg",), "--svg is for --figures"),
        (("--permutations", 5), "--permutations is for --scores"),
        ((*one, "--which", "least"), "--which chooses images, and --show names them"),
        ((*one, "--pictured", 3), "--pictured chooses images, and --show names them"),
    ):
        capsys.readouterr()
        assert featattn("saliency", model, learned, "test", "--layer", "relu", *more, "--out", tmp_path / "x.nc") == 2
        assert text in capsys.readouterr().err
    assert not (tmp_path / "x.nc").exists()


def test_mistakes_in_the_steps_are_one_sentence(image_folders, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(image_folders)
    out = tmp_path / "x.nc"
    for arguments, text in (
        (("record", "tiny_network:make", "test", "--layers", "rleu", "--out", out), "relu"),
        (("record", "tiny_network:make", "nowhere", "--layers", "relu", "--out", out), "nowhere"),
        (
            ("record", "tiny_network:make", "test/across", "--layers", "relu", "--out", tmp_path / "x.csv"),
            ".nc or .zarr",
        ),
        (("gains", "tiny_network:make", "test/across", "--layers", "relu", "--target", "a", "--out", out), "no labels"),
        (("gains", "tiny_network:make", "test", "--layers", "relu", "--target", "acros", "--out", out), "across"),
        (("selectivity", tmp_path / "none.nc", "--target", "a", "--out", tmp_path / "no" / "x.nc"), "none at"),
        (
            (
                "gains",
                "tiny_network:make",
                "test",
                "--layers",
                "relu",
                "--target",
                "a",
                "--head-labels",
                "a",
                "--out",
                out,
            ),
            "--head-images",
        ),
        (("selectivity", tmp_path / "none.nc", "--target", "a", "--out", out), "none.nc"),
    ):
        assert featattn(*arguments) == 2, arguments
        shown = capsys.readouterr().err
        assert text in shown
        assert "Traceback" not in shown
    assert not out.exists()


def test_labels_that_are_no_text(image_folders, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(image_folders)
    monkeypatch.syspath_prepend(str(image_folders))
    (tmp_path / "labels.csv").write_bytes(b"\x89PNG\xff\xfe\n")
    to = ("tiny_network:make", "test", "--layers", "relu", "--labels", tmp_path / "labels.csv", "--out")
    assert featattn("record", *to, tmp_path / "a.nc") == 2
    assert "labels.csv' cannot be read (it is not UTF-8 text); name a table" in capsys.readouterr().err
    assert featattn("gains", *to, tmp_path / "g.nc", "--target", "across") == 2
    assert "labels.csv' cannot be read (it is not UTF-8 text)" in capsys.readouterr().err


@pytest.fixture
def recorded_file(tmp_path):
    """Three labels, ten filters of one layer; the first filter likes ants."""
    rng = np.random.default_rng(4)
    label = np.repeat(["ant", "bee", "cat"], [16, 18, 20])
    values = np.maximum(rng.normal(size=(54, 10)), 0)
    values[label == "ant", 0] += 3
    names = [f"relu/{k}" for k in range(10)]
    unit = {"unit": names, "layer": ("unit", ["relu"] * 10), "channel": ("unit", np.arange(10))}
    shown = {"stimulus": [f"s{k}" for k in range(54)], "label": ("stimulus", label)}
    return save_kind(
        xr.Dataset({"response": (("stimulus", "unit"), values)}, unit | shown, {"kind": "ACTIVATIONS"}),
        tmp_path / "recorded.nc",
    )


@pytest.mark.parametrize(
    ("options", "tasks"),
    [
        ((), ["ant", "bee", "cat"]),
        (("--target", "bee,cat"), ["bee", "cat"]),
        (("--pairs",), ["ant vs bee", "ant vs cat", "bee vs cat"]),
        (("--pairs", "--target", "cat,ant"), ["cat vs ant"]),
        (("--contrast", "social=ant,bee:cat", "--contrast", "wings=bee:ant"), ["social", "wings"]),
    ],
)
def test_selectivity_compares_what_is_asked(recorded_file, tmp_path, options, tasks):
    import featattn_neuro as fa

    assert featattn("selectivity", recorded_file, *options, "--out", tmp_path / "s.nc") == 0
    found = load_kind(tmp_path / "s.nc", "SELECTIVITY")
    assert found["task"].values.tolist() == tasks
    if "--contrast" in options:
        wanted = fa.selectivity(
            load_kind(recorded_file), {"social": (["ant", "bee"], ["cat"]), "wings": ("bee", "ant")}
        )
        np.testing.assert_array_equal(found["auc"], wanted["auc"])
        np.testing.assert_array_equal(found["n_distractor"], [20, 16])


def test_selectivity_prints_tests_intervals_and_tables(recorded_file, tmp_path, capsys):
    import pandas as pd

    out, folder = tmp_path / "s.nc", tmp_path / "tables"
    tests = ("--permutations", 99, "--family", "task", "--correction", "holm", "--interval", "bootstrap", "--seed", 3)
    assert featattn("selectivity", recorded_file, *tests, "--out", out, "--tables", folder) == 0
    assert capsys.readouterr().out.splitlines() == [str(out), str(folder / "selectivity.csv")]
    found = load_kind(out, "SELECTIVITY")
    assert (found.attrs["family"], found.attrs["correction"], found.attrs["seed"]) == ("task", "holm", 3)
    assert found.attrs["dprime_interval"] == "bootstrap"
    assert (found["family_size"] == 10).all()
    table = pd.read_csv(folder / "selectivity.csv").set_index(["task", "unit"])
    assert table["network"].unique().tolist() == ["recorded"]
    for name in ("dprime", "dprime_low", "auc_p", "dprime_p_corrected", "eta_squared"):
        wanted = found[name].broadcast_like(found["dprime"]).to_series()
        assert table[name].reindex(wanted.index).to_numpy() == pytest.approx(wanted.to_numpy(), nan_ok=True)
    assert set(table["family"]) == {"task ant", "task bee", "task cat"}
    assert featattn("selectivity", recorded_file, "--permutations", 99, "--family", "all", "--out", out) == 0
    assert load_kind(out).attrs["correction"] == "max"


@pytest.mark.parametrize(("kind", "starts"), [("md", "|"), ("tex", r"\begin{tabular}"), ("parquet", "PAR1")])
def test_tables_in_other_formats(recorded_file, tmp_path, kind, starts):
    needed = {"md": "tabulate", "parquet": "pyarrow"}.get(kind)
    if needed is not None:
        pytest.importorskip(needed, reason=f"{needed} is not installed")
    options = ("--target", "ant", "--out", tmp_path / "s.nc", "--tables", tmp_path / "t", "--table-format", kind)
    assert featattn("selectivity", recorded_file, *options) == 0
    assert (tmp_path / "t" / f"selectivity.{kind}").read_bytes().startswith(starts.encode())


def test_selectivity_of_one_of_several_reductions(recorded_file, tmp_path, capsys):
    one, two, out = load_kind(recorded_file), tmp_path / "two.nc", tmp_path / "s.nc"
    several = xr.concat([one, one.assign(response=one["response"] ** 2)], xr.Variable("reduction", ["mean", "max"]))
    save_kind(several.assign_attrs(one.attrs), two)
    assert featattn("selectivity", two, "--out", out) == 2
    assert "several: mean, max; say which with --reduction" in capsys.readouterr().err
    assert featattn("selectivity", two, "--reduction", "mean", "--out", out) == 0
    np.testing.assert_allclose(load_kind(out)["dprime"], selectivity(one)["dprime"], rtol=1e-6)
    capsys.readouterr()
    for file, reduction, text in ((two, "sd", "choose one of: mean, max"), (recorded_file, "sd", "leave --reduction")):
        assert featattn("selectivity", file, "--reduction", reduction, "--out", out) == 2
        assert text in capsys.readouterr().err


def test_selectivity_of_a_recording_of_neurons(tmp_path, capsys):
    shown = np.tile(["i0", "i1", "i2", "i3"], 6)
    values = {"response": (("trial", "unit"), np.random.default_rng(0).poisson(4, (24, 3)).astype(float))}
    coordinates = {"trial": np.arange(24), "unit": ["a", "b", "c"], "stimulus": ("trial", shown)}
    path = save_kind(xr.Dataset(values, coordinates, {"kind": "NEURAL"}), tmp_path / "n.nc")
    command = ("selectivity", path, "--out", tmp_path / "s.nc")
    assert featattn(*command) == 0
    assert load_kind(tmp_path / "s.nc")["n_target"].values.tolist() == [6] * 4
    sides = ("--contrast", "x=i0,i1:i2,i3")
    assert featattn(*command, *sides, "--observations", "stimulus") == 0
    assert load_kind(tmp_path / "s.nc")["n_target"].values.tolist() == [2]
    assert featattn(*command, *sides, "--permutations", 9, "--family", "all") == 2
    assert "shown repeatedly" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (("--correction", "holm"), "say --family"),
        (("--family", "all"), "permutations=999"),
        (("--observations", "trial"), "leave it out"),
        (("--table-format", "md"), "--tables FOLDER"),
        (("--tables", "t", "--table-format", "xlsx"), "unknown format of a table"),
        (("--contrast", "a=ant:bee", "--pairs"), "came also --pairs"),
        (("--contrast", "a=ant:bee", "--target", "ant"), "came also --target"),
        (("--contrast", "ant:bee"), "NAME=TARGETS:DISTRACTORS"),
        (("--contrast", "a=ant:bee", "--contrast", "a=ant:cat"), "different names"),
        (("--interval", "wald"), "unknown interval"),
        (("--pairs", "--target", "ant"), "two or more different labels"),
    ],
)
def test_options_of_selectivity_that_do_not_go_together(recorded_file, tmp_path, capsys, options, text):
    assert featattn("selectivity", recorded_file, *options, "--out", tmp_path / "s.nc") == 2
    assert text in capsys.readouterr().err
    assert not (tmp_path / "s.nc").exists()


def test_associate_takes_method_covariates_and_tables(recorded_file, tmp_path, capsys):
    import pandas as pd

    import featattn_neuro as fa

    measured, learned, out = (tmp_path / f"{name}.nc" for name in ("s", "gains", "a"))
    assert featattn("selectivity", recorded_file, "--out", measured) == 0
    found = load_kind(measured)
    gain = np.exp(0.2 * np.random.default_rng(1).normal(size=(3, 10)))
    coordinates = {name: found[name] for name in ("task", "unit", "layer", "channel")}
    save_kind(xr.Dataset({"gain": (("task", "unit"), gain)}, coordinates, {"kind": "GAINS"}), learned)
    command = ("associate", learned, measured, "--permutations", 99, "--out", out)
    capsys.readouterr()
    options = ("--method", "kendall", "--covariates", "mean_response,zero_fraction", "--tables", tmp_path / "t")
    assert featattn(*command, *options) == 0
    names = ["association", "association_summary", "association_checks"]
    assert capsys.readouterr().out.splitlines() == [str(out), *(str(tmp_path / "t" / f"{n}.csv") for n in names)]
    got = load_kind(out, "ASSOCIATION")
    wanted = fa.gain_selectivity(
        load_kind(learned), found, method="kendall", covariates=found[["mean_response", "zero_fraction"]],
        permutations=99,
    )  # fmt: skip
    for name in ("rho", "partial", "p_task_permutation"):
        np.testing.assert_allclose(got[name], wanted[name])
    assert got.attrs["method"].startswith("Kendall")
    assert got["covariate"].values.tolist() == ["mean_response", "zero_fraction", "other_tasks_gain", "all"]
    summary = pd.read_csv(tmp_path / "t" / "association_summary.csv")
    assert summary["p_task_permutation"].tolist() == pytest.approx(wanted["p_task_permutation"].values)
    assert featattn(*command, "--covariates", "mean_respons") == 2
    assert "did you mean 'mean_response'" in capsys.readouterr().err
    assert featattn(*command, "--method", "pearson") == 2
    assert "unknown method" in capsys.readouterr().err

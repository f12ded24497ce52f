"""`featattn gains`, `fold`, `export` and `import-gains`: every option reaches the learning, none is ignored."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

import featattn_neuro as fa
from featattn_neuro import cli
from featattn_neuro.io.store import load_kind

MODEL = "small_network:make"


def featattn(*arguments: object) -> int:
    with pytest.raises(SystemExit) as stopped:
        cli.main([str(a) for a in arguments])
    code = stopped.value.code
    return code if isinstance(code, int) else 0


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Small labelled images, bars in two directions, in three sets that share none; a network that is written twice."""
    rng, top = np.random.default_rng(1), tmp_path_factory.mktemp("small")
    for part, count in (("head", 10), ("gains", 10), ("choice", 8)):
        for label in ("across", "upright"):
            (top / part / label).mkdir(parents=True)
            for number in range(count):
                pixels = rng.integers(0, 60, (16, 16, 3)).astype(np.uint8)
                at = int(rng.integers(3, 10))
                pixels[np.s_[at : at + 3, 2:14] if label == "across" else np.s_[2:14, at : at + 3]] = 230
                Image.fromarray(pixels).save(top / part / label / f"{number:02d}.png")
    (top / "small_network.py").write_text(
        "import torch\nfrom torch import nn\nfrom torch.nn import functional as F\n\n\nclass Net(nn.Module):\n"
        "    def __init__(self):\n        super().__init__()\n"
        "        self.conv = nn.Conv2d(3, 8, 5, padding=2)\n        self.act = nn.ReLU()\n"
        "        self.more = nn.Conv2d(8, 8, 3, padding=1)\n        self.head = nn.Linear(8, 2)\n\n"
        "    def forward(self, x):\n        maps = self.act(self.conv(x))\n"
        "        return self.head(F.relu(self.more(maps) + maps).mean(dim=(2, 3)))\n\n\n"
        "def make():\n    torch.manual_seed(0)\n    return Net()\n"
    )
    return top


@pytest.fixture(autouse=True)
def inside(folders, monkeypatch):
    monkeypatch.chdir(folders)


def command(out, *more, layers="act", images="gains"):
    return ("gains", MODEL, images, "--layers", layers, "--target", "across", "--out", out, *more)


def learned(tmp_path, *more, layers="act"):
    out = tmp_path / "gains.nc"
    assert featattn(*command(out, "--epochs", 2, "--batch-size", 5, *more, layers=layers)) == 0
    return load_kind(out, "GAINS")


def test_learning_options_are_those_of_learn_gains(tmp_path, capsys):
    network, images, others = fa.load_model(MODEL), fa.load_stimuli("gains"), fa.load_stimuli("head")
    head = {"head_stimuli": others, "head_labels": others.label == "across"}
    for typed, options in (
        ((), {}),
        (("--head-images", "head", "--rate", 0.1, "--penalty", 0.5), {**head, "rate": 0.1, "penalty": 0.5}),
        (
            ("--penalty", 0.5, "--penalty-norm", "l1", "--parameterisation", "bounded(0.9, 1.1)"),
            {"penalty": 0.5, "penalty_norm": "l1", "parameterisation": "bounded(0.9, 1.1)"},
        ),
        (("--per", "layer", "--shift"), {"per": "layer", "shift": True}),
        (("--per", "position"), {"per": "position"}),
        (
            ("--per", "filter and position", "--combination", "additive"),
            {"per": "filter and position", "combination": "additive"},
        ),
        (("--head-images", "head", "--train-head"), {**head, "train_head": True}),
        (("--device", "cpu", "--class-weight", "equal"), {"device": "cpu", "class_weight": "equal"}),
    ):
        found = learned(tmp_path, *typed)
        wanted = fa.learn_gains(network, images, images.label == "across", "act", epochs=2, batch_size=5, **options)
        for name in ("gain", "shift", "spatial", "head_weight"):
            assert (name in found) == (name in wanted), (typed, name)
            if name in found:
                np.testing.assert_array_equal(found[name], wanted[name], err_msg=f"{typed} {name}")
        for attribute in ("head_rule", "rate", "penalty", "batch_size", "parameterisation", "combination"):
            assert found.attrs.get(attribute) == wanted.attrs.get(attribute), (typed, attribute)


def test_gains_at_functional_operations(tmp_path):
    found = learned(tmp_path, "--head-images", "head", layers="add,relu")
    assert found["layer"].values[::8].tolist() == ["add", "relu"]
    assert (found["gain"] != 1).any()


def test_theory_gains_and_their_strength(tmp_path, capsys):
    network, images, others = fa.load_model(MODEL), fa.load_stimuli("gains"), fa.load_stimuli("choice")
    out = tmp_path / "gains.nc"
    theory = ("--method", "tuning", "--strength", "0.5", "--mode", "positive")
    assert featattn(*command(out, *theory)) == 0
    wanted = fa.theory_gains(network, images, images.label == "across", "act", strength=0.5, mode="positive")
    np.testing.assert_array_equal(load_kind(out)["gain"], wanted["gain"])
    assert float(wanted["gain"].min()) == 1
    assert float(wanted["gain"].max()) > 1
    capsys.readouterr()
    swept = ("--method", "gradient", "--strength", "0,1,3", "--clip", "--choice-images", "choice")
    assert featattn(*command(out, *swept)) == 0
    said = capsys.readouterr().out
    found = load_kind(out)
    wanted = fa.theory_gains(
        network, images, images.label == "across", "act", method="gradient", strength=[3, 0, 1], clip=True,
        choice_stimuli=others, choice_labels=others.label == "across",
    )  # fmt: skip
    np.testing.assert_array_equal(found["gain"], wanted["gain"])
    script = ("--method", "gradient", "--normalise", "filter", "--sign", 1, "--mode", "additive")
    assert featattn(*command(tmp_path / "script.nc", *script)) == 0
    other = fa.theory_gains(
        network, images, images.label == "across", "act", method="gradient", normalise="filter", sign=1, mode="additive"
    )
    np.testing.assert_array_equal(load_kind(tmp_path / "script.nc")["shift"], other["shift"])
    areas = dict(part.split(": ") for part in found.attrs["choice_auc"].split(", "))
    best = max(areas.values(), key=float)
    assert found.attrs["strength"] == min(float(s) for s, a in areas.items() if a == best)
    assert f"strength {found.attrs['strength']:g} (ROC area by strength: 0: " in said
    assert found["head_weight"].dims == ("feature",)


def test_target_importance(tmp_path, capsys):
    out = tmp_path / "gains.nc"
    preset = ("--method", "target-importance", "--rate", 0.05, "--epochs", 3, "--checkpoint", tmp_path / "kept")
    assert featattn(*command(out, *preset, "--importance", 0.1, "--outputs", "across=0,upright=1")) == 0
    found = load_kind(out)
    images = fa.load_stimuli("gains")
    wanted = fa.target_importance_gains(
        fa.load_model(MODEL), images, images.label, "act", targets="across", importance=0.1, rate=0.05, epochs=3
    )
    np.testing.assert_array_equal(found["gain"], wanted["gain"])
    assert found["gain"].dims == ("task", "unit")
    assert (found["gain"] >= 0).all()
    assert (found.attrs["importance"], found.attrs["parameterisation"]) == (0.1, "non_negative")
    for more, text in (
        ((), "wants --importance"),
        (("--importance", 2), "must be in (0, 1]"),
        (("--importance", 0.5, "--outputs", "across=7,upright=1"), "index from 0 to 1; came output 7 of 'across'"),
        (("--importance", 0.5, "--outputs", "across=1"), "no output of class 'upright'"),
        (("--importance", 0.5, "--outputs", "across:1"), "class=INDEX"),
    ):
        capsys.readouterr()
        assert featattn(*command(out, *preset, *more)) == 2
        assert text in capsys.readouterr().err


def test_no_option_is_accepted_and_ignored(tmp_path, capsys):
    out = tmp_path / "none.nc"
    for more, text in (
        (("--strength", 1), "--method learned has no --strength, which is for tuning, gradient"),
        (("--importance", 1), "has no --importance"),
        (("--clip",), "has no --clip"),
        (("--method", "tuning", "--rate", 0.03), "--method tuning has no --rate"),
        (("--method", "tuning", "--frozen-head"), "has no --train-head or --frozen-head"),
        (("--method", "gradient", "--shift"), "has no --shift"),
        (("--method", "tuning", "--normalise", "filter"), "has no --normalise, which is for gradient"),
        (("--method", "target-importance", "--head-images", "head"), "has no --head-images"),
        (("--method", "tunning"), "did you mean 'tuning'"),
        (("--method", "tuning", "--strength", "1,2"), "several strengths are chosen from on other images"),
        (("--method", "tuning", "--choice-images", "choice"), "came 1 strengths"),
        (("--method", "tuning", "--choice-labels", "x.csv"), "--choice-images"),
        (("--combination", "additive"), "is for per='filter and position'"),
        (("--per", "filters"), "did you mean 'filter'"),
        (("--penalty-norm", "l3"), "norm of the penalty"),
        (("--parameterisation", "logg"), "wanted free, non_negative, bounded"),
        (("--parameterisation", "log+layer_mean", "--per", "layer"), "uniform gain cannot be learned"),
        (("--frozen-head",), "a frozen head needs other images"),
        (("--checkpoint-every", 5), "--checkpoint FOLDER"),
        (("--layers", "reluu"), "did you mean 'relu'"),
    ):
        capsys.readouterr()
        assert featattn(*command(out, *more)) == 2, more
        shown = capsys.readouterr().err
        assert text in shown, (more, shown)
        assert "Traceback" not in shown
    assert not out.exists()


def test_folded_weights_are_a_plain_network(tmp_path, capsys):
    gains = learned(tmp_path, "--head-images", "head")
    out = tmp_path / "folded.safetensors"
    assert featattn("fold", MODEL, tmp_path / "gains.nc", "--out", out) == 0
    assert capsys.readouterr().out.splitlines()[-1] == str(out)
    network, folded = fa.load_model(MODEL), fa.load_model(MODEL, weights=out)
    images = torch.rand(3, 3, 16, 16)
    with torch.no_grad(), fa.with_gains(network, gains):
        torch.testing.assert_close(folded.module(images), network.module(images), rtol=1e-4, atol=1e-5)
    for more, text in (
        (("--out", tmp_path / "folded.pt"), "ends in .safetensors"),
        (("--out", out, "--direction", "forward"), "cannot be folded"),
        (("--out", out, "--direction", "sideways"), "direction of folding"),
    ):
        assert featattn("fold", MODEL, tmp_path / "gains.nc", *more) == 2
        assert text in capsys.readouterr().err


def test_export_takes_what_it_needs_and_refuses_the_rest(tmp_path, capsys):
    gains, file = learned(tmp_path, "--head-images", "head"), tmp_path / "gains.nc"
    out, adapter, network = tmp_path / "gains.safetensors", tmp_path / "adapter", tmp_path / "folded.onnx"
    assert featattn("export", file, "--out", out) == 0
    assert featattn("export", file, "--out", adapter, "--model", MODEL) == 0
    back, moved = tmp_path / "back.nc", tmp_path / "moved.nc"
    assert featattn("import-gains", out, "--out", back) == 0
    np.testing.assert_array_equal(load_kind(back, "GAINS")["gain"], gains["gain"])
    assert featattn("import-gains", adapter, "--model", MODEL, "--out", moved) == 0
    np.testing.assert_allclose(load_kind(moved, "GAINS")["gain"], gains["gain"], rtol=1e-6)
    assert load_kind(moved)["layer"].values.tolist() == ["conv"] * 8  # peft has a place there, and none behind a ReLU
    assert featattn("export", file, "--out", network, "--model", MODEL, "--input-shape", "3,16,16") == 0
    assert network.stat().st_size > 1000
    capsys.readouterr()
    for arguments, text in (
        (("export", file, "--out", out, "--model", MODEL), "--model is for .onnx and peft"),
        (("export", file, "--out", out, "--task", "across"), "--task is for .onnx and peft"),
        (
            ("export", file, "--out", adapter, "--model", MODEL, "--input-shape", "3,16,16"),
            "--input-shape is for .onnx",
        ),
        (("export", file, "--out", network, "--model", MODEL), "--input-shape"),
        (("export", file, "--out", network, "--model", MODEL, "--input-shape", "16"), "CHANNELS,HEIGHT,WIDTH"),
        (("import-gains", adapter, "--out", moved), "--model"),
        (("import-gains", out, "--out", back, "--model", MODEL), "--model is for a peft adapter"),
        (("import-gains", adapter, "--out", moved, "--seed", 3), "--model names"),
    ):
        assert featattn(*arguments) == 2, arguments
        shown = capsys.readouterr().err
        assert text in shown, shown

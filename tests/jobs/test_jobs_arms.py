"""All arms in one run: tables, status where an arm does not apply, doses, the plan, the reference task."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from featattn_neuro.io.store import load_kind
from featattn_neuro.jobs import runner
from featattn_neuro.jobs.config import ARMS, MORE_ARMS
from featattn_neuro.jobs.context import network_job
from tests.jobs.conftest import Started, changed, make_images, write_config

NETWORKS = """
import torch
from torch import nn

def build(norm):
    parts = [nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16) if norm else nn.Identity(), nn.ReLU(), nn.MaxPool2d(2)]
    parts += [nn.Conv2d(16, 12, 3, padding=1), nn.ReLU(inplace=True), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    parts += [nn.Linear(12, 6)]
    torch.manual_seed(0)
    net = nn.Sequential(*parts)
    for part in net.modules():
        if isinstance(part, nn.Conv2d):
            nn.init.kaiming_normal_(part.weight)
    return net.eval()

def with_norm():
    return build(True)

def without():
    return build(False)
"""
LEARNED = [arm for arm in MORE_ARMS if arm not in ("adabn", "tuning", "gradient")]


@pytest.fixture(scope="module")
def arms_config(tiny: dict[str, Any]) -> dict[str, Any]:
    networks = [
        {"name": name, "model": f"my_arms:{name}", "layers": ["2", "5"], "head": "8"}
        for name in ("with_norm", "without")
    ]
    arms = {
        **tiny["arms"],
        **{arm: {"rates": [0.03, 0.1], "penalties": [0.001]} for arm in LEARNED},
        "adabn": {},
        "tuning": {"strengths": [0.0, 0.5, 3.0]},
        "gradient": {"strengths": [0.5, 0.0], "mode": "additive", "normalise": "filter", "sign": 1},
    }
    arms["feature_spatial"]["combination"] = "additive"
    arms["bounded"]["parameterisation"] = "bounded(0.8, 1.2)"
    curves = {
        **tiny["curves"],
        **{
            f"rates_{axis}": {"gain_head": [0.03], "probe": [0.03], "norm_affine": [0.03]}  # of full, none
            for axis in ("examples", "updates")
        },
    }
    return changed(
        tiny, stimuli="photos", networks={"pretrained": networks}, arms=arms, curves=curves, saliency=None,
        statistics__refit_layers=[], statistics__reference_gain=True, learning__reference=True, doses=[0.0, 0.5, 1.0],
    )  # fmt: skip


def test_every_arm_of_a_run(
    arms_config: dict[str, Any], tmp_path: Path, start: Callable[..., Started], monkeypatch: pytest.MonkeyPatch
) -> None:
    make_images(tmp_path / "photos", colour=True)
    (tmp_path / "my_arms.py").write_text(NETWORKS)
    write_config(tmp_path, arms_config, "mine.yaml")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    said = runner.plan(Path("mine.yaml"), Path("results"))
    assert "min" in said
    code, printed = start("run", "mine.yaml", "--out", "results").wait()
    assert code == 0, printed
    assert "Warning" not in printed
    table = pd.read_csv("results/tables/arms.csv")
    assert list(dict.fromkeys(table["arm"])) == [*ARMS, *MORE_ARMS]
    needs_norm = table["arm"].isin(["norm_affine", "norm_affine_head", "adabn"])
    absent = needs_norm & (table["network"] == "without")
    assert (table.loc[absent, "status"] == "not_applicable").all()
    assert table.loc[absent, ["auc", "difference_probe", "reference_score", "area_updates"]].isna().all(axis=None)
    assert (table.loc[~absent, "status"] == "ok").all()
    assert table.loc[~absent, "auc"].notna().all()
    # what is paired by image agrees with the areas, also of means over shuffles
    probe = table[table["arm"] == "probe"].set_index(["network", "task"])["auc"]
    paired = table[~absent & (table["arm"] != "probe")].set_index(["network", "task"])
    np.testing.assert_allclose(paired["difference_probe"], paired["auc"] - probe.reindex(paired.index), atol=1e-12)
    assert table.loc[table["arm"] == "probe", "difference_probe"].isna().all()
    shuffled = table[table["arm"] == "permuted"]
    assert shuffled["difference_low_ungained"].notna().any()
    varied = paired.dropna(subset=["difference_low_probe"])
    assert (varied["difference_low_probe"] <= varied["difference_probe"]).all()
    # numbers trained: two sites of 16 and 12 filters, maps of 12 x 12 and 6 x 6, a read-out of 12 + 1
    numbers = table[table["network"] == "with_norm"].groupby("arm")["trained_numbers"].first().to_dict()
    plain = {
        "ungained": 0,
        "probe": 13,
        "gain": 28,
        "gain_head": 41,
        "uniform": 2,
        "bounded": 28,
        "adabn": 0,
        "tuning": 0,
    }
    assert {arm: numbers[arm] for arm in plain} == plain
    assert (numbers["shift_head"], numbers["gain_shift"], numbers["gain_shift_head"]) == (41, 56, 69)
    assert (numbers["spatial"], numbers["feature_spatial"]) == (144 + 36, 144 + 36 + 28)
    assert (numbers["norm_affine"], numbers["norm_affine_head"]) == (32, 45)
    text = runner.resolve(Path("mine.yaml"))[1]
    # with everything taken off again nothing of the reference task is lost, exactly, and nothing trained stays
    off = table["reference_score_off"]
    base = table.loc[table["arm"] == "ungained"]
    assert base["reference_score"].isna().all()
    for name in ("with_norm", "without"):
        job = network_job(text, "results", name)
        singles = job.splits["P"]
        with torch.no_grad():  # these networks have an output per class, and were told of all classes
            answers = job.build().module(torch.as_tensor(singles.pixels())).argmax(1).numpy()
        wanted = np.mean(np.array(job.classes)[answers] == np.array(singles.label))
        assert set(off[(table["network"] == name) & off.notna()]) == {wanted}
    assert off[table["arm"] == "full"].isna().all()
    assert table.loc[table["arm"] == "full", "reference_score"].notna().all()
    assert (table.loc[table["arm"] == "probe", "reference_score"] == off[table["arm"] == "probe"]).all()
    # theory: strength 0 is the un-gained network; the best on test is never worse than what V chose
    theory = table[table["arm"].isin(["tuning", "gradient"])]
    assert theory["strength"].isin([0.0, 0.5, 3.0]).all()
    means = theory.groupby(["network", "arm"])[["auc", "auc_best_on_test"]].mean()
    assert (means["auc_best_on_test"] >= means["auc"] - 1e-12).all()
    derived = load_kind(Path("results/arms/without/gradient.gains.nc"), "GAINS")
    assert set(derived["layer"].values.tolist()) == {"2.input", "5.input"}
    assert (derived.attrs["mode"], derived.attrs["clipped"]) == ("additive", "no")
    assert bool((derived["shift"] != 0).any()) == (derived.attrs["strength"] > 0)
    # one criterion for all arms of a network and task
    with_curves = table.dropna(subset=["criterion_updates"])
    assert with_curves.groupby(["network", "task"])["criterion_updates"].nunique().eq(1).all()
    assert set(table[table["area_updates"].notna() & (table["network"] == "with_norm")]["arm"]) == {
        "probe", "gain_head", "norm_affine",
    }  # fmt: skip
    speed = pd.read_csv("results/tables/claims.csv").set_index("claim").loc["T2"]
    assert pd.isna(speed["estimate"])
    assert "has no arm full" in printed
    together = load_kind(Path("results/gains/without.nc"), "GAINS")
    assert together.attrs["network_name"] == "without"
    assert not {"parameterisation", "head_rule", "arm"} & set(together.attrs)  # of single arms
    bounded = together["gain"].sel(arm="bounded")
    assert float(bounded.min()) >= 0.8 - 1e-6
    assert float(bounded.max()) <= 1.2 + 1e-6
    doses = pd.read_csv("results/tables/doses.csv")
    for dose, arm in ((0.0, "ungained"), (1.0, "gain")):
        found = doses[doses["dose"] == dose].groupby(["network", "task"])["auc"].first()
        wanted = table[table["arm"] == arm].set_index(["network", "task"])["auc"]
        np.testing.assert_allclose(found.sort_index(), wanted.sort_index(), atol=0.02)
    assert (doses.loc[doses["dose"] == 0, "sd_log_gain"] == 0).all()
    checks = pd.read_csv("results/tables/association_checks.csv")
    covariate = checks[(checks["check"] == "partial") & (checks["item"] == "reference_gain")]
    assert set(covariate["network"]) == {"with_norm", "without"}
    assert covariate["value"].notna().any()
    reference = load_kind(Path("results/arms/without/reference.gains.nc"), "GAINS")
    assert reference["gain"].dims == ("unit",)
    assert float(abs(np.log(reference["gain"])).max()) > 0.001
    assert Path("results/figures/doses.png").is_file()
    assert "doses.png" in Path("results/report.html").read_text(encoding="utf-8")
    assert "not_applicable" in Path("results/tables/arms.csv").read_text()
    assert json.loads(Path("results/facts.json").read_text())["config"]
    resolved, _ = runner.resolve(Path("mine.yaml"))
    assert runner._work(resolved, text, Path("results")).pending == []


@pytest.mark.parametrize("made", ["bounded(0.99, 1.01)", "free"])
def test_all_gains_of_a_run_are_of_one_kind(
    made: str, tiny: dict[str, Any], tmp_path: Path, start: Callable[..., Started]
) -> None:
    """Halves, refits and shuffles are of the arm that they are held against, so they are learned as it is."""
    gain = {"rates": [0.1], "penalties": [0.001], "penalty_norm": "l1", "parameterisation": made}
    config = changed(
        tiny, networks__train__count=1, arms__gain=gain, arms__gain_head=gain, saliency=None, curves=None,
        learning__epochs=2,
    )  # fmt: skip
    code, printed = start("run", write_config(tmp_path, config), "--out", tmp_path / "out").wait()
    assert code == 0, printed
    files = ["arms/network_0/gain.gains.nc", "halves/network_0_a.nc", "halves/network_0_b.nc", "refits/network_0.nc"]
    sets = [load_kind(tmp_path / "out" / name, "GAINS") for name in files]
    assert [one.attrs["parameterisation"] for one in sets] == [made] * 4
    for name, one in zip(files, sets, strict=True):
        moved = float(abs(one["gain"] - 1).max())
        assert moved <= 0.01 + 1e-6 if made != "free" else moved > 0.02, name
    arms = pd.read_csv(tmp_path / "out" / "tables" / "arms.csv")
    areas = arms.pivot_table(index="task", columns="arm", values="auc")
    assert areas["permuted"].notna().all()
    if made != "free":  # gains within 1 % of 1, in whatever order, change little
        np.testing.assert_allclose(areas["permuted"], areas["ungained"], atol=0.03)

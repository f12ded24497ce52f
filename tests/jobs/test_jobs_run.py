"""Whole runs on made-up images: to the end, again, changed, killed, interrupted, with other workers."""

from __future__ import annotations

import importlib
import json
import os
import re
import runpy
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from featattn_neuro.io.store import load_kind, open_kind
from featattn_neuro.jobs import runner
from featattn_neuro.jobs.compare import compare
from featattn_neuro.jobs.ledger import Ledger
from tests.jobs.conftest import OWN_NETWORK, TINY, Started, changed, make_images, write_config

ANALYSES = Path(__file__).resolve().parents[2] / "analyses"
Start = Callable[..., Started]
Featattn = Callable[..., tuple[int, str, str]]


def records(folder: Path) -> set[str]:
    return {path.stem for path in (folder / ".done").glob("*.json")}


def pending(folder: Path, config: dict[str, Any], tmp_path: Path) -> set[str]:
    """Stages, without the network's name, that a changed configuration would do again in a finished folder."""
    resolved, text = runner.resolve(write_config(tmp_path, config, "changed.yaml"))
    return {stage.id.partition(".")[0] for stage in runner._work(resolved, text, folder).pending}


def test_a_run_ends_in_tables_page_and_four_verdicts(finished: Path):
    printed = (finished.parent / "output.txt").read_text()
    verdicts = [line.split()[0] for line in printed.splitlines() if line[:1] == "T" and line[1:2].isdigit()]
    assert verdicts == ["T1", "T2", "T3", "T4"]
    assert "done in" in printed
    assert "Traceback" not in printed
    for name in ("selectivity", "gains", "association", "arms", "saliency", "claims"):
        assert len(pd.read_csv(finished / "tables" / f"{name}.csv")) > 0
    assert "tiny" in (finished / "report.html").read_text(encoding="utf-8")
    assert load_kind(finished / "claims.nc", "CLAIMS").sizes["network"] == 2
    shown = json.loads((finished / "stimuli" / "shown.json").read_text())
    ids = set(load_kind(finished / "scores" / "network_0.nc", "SCORES")["stimulus"].values)
    assert len(shown) == 2
    assert {row["id"] for row in shown} <= ids
    assert all((finished / "stimuli" / row["file"]).is_file() for row in shown)
    sheets = json.loads((finished / "stimuli" / "sheets.json").read_text())
    maps = [load_kind(path, "SALIENCY") for path in sorted((finished / "sheets").iterdir())]
    assert len(maps) == 2  # one a network
    assert set(maps[0]["stimulus"].values) == {row["id"] for row in sheets} <= ids


def test_every_output_holds_its_seed(finished: Path):
    paths = sorted(finished.rglob("*.nc"))
    assert {path.relative_to(finished).parts[0] for path in paths} >= {
        "activations", "agreement", "arms", "association", "claims.nc", "curve_parts", "curves", "detectors", "gains",
        "halves", "refits", "saliency", "scores", "selectivity", "sheets",
    }  # fmt: skip
    without = []
    for path in paths:
        with open_kind(path) as dataset:
            if "seed" not in dataset.attrs:
                without.append(str(path.relative_to(finished)))
    assert not without
    assert load_kind(finished / "gains" / "network_1.nc", "GAINS").attrs["seed"] == 1
    assert load_kind(finished / "refits" / "network_1.nc", "GAINS").attrs["network_name"] == "network_1"


def test_splits_are_disjoint_and_written_down(finished: Path):
    for name in ("network_0", "network_1"):
        table = pd.read_csv(finished / "splits" / f"{name}.csv")
        singles = table[~table["constituents"].str.contains("|", regex=False)]
        assert not singles["stimulus"].duplicated().any()
        of = dict(zip(singles["stimulus"], singles["split"], strict=True))
        pairs = table[table["constituents"].str.contains("|", regex=False)]
        assert all(
            {of[one] for one in c.split("|")} == {s} for c, s in zip(pairs["constituents"], pairs["split"], strict=True)
        )


def test_nothing_of_this_machine_is_in_tables_or_facts(finished: Path):
    home = str(finished.parent.parent)
    facts = (finished / "facts.json").read_text()
    assert json.loads(facts)["command"] == "featattn run tiny.yaml --out out"
    for path in (finished / "tables").iterdir():
        assert home not in path.read_text(), path.name


def test_the_second_run_skips_every_stage(copy: Path, tiny: dict[str, Any], tmp_path: Path, featattn: Featattn):
    before = {path: path.stat().st_mtime_ns for path in copy.rglob("*") if path.is_file()}
    code, _, err = featattn("run", write_config(tmp_path, tiny), "--out", copy)
    assert code == 0
    assert "36 stages, 36 of them unchanged" in err
    assert "unchanged: report" in err
    assert "T4" in err
    touched = {p.relative_to(copy).as_posix() for p, t in before.items() if p.stat().st_mtime_ns != t}
    assert touched == {"config.yaml", "run.json", "log.txt"}


@pytest.mark.parametrize(
    ("changes", "again"),
    [
        ({"workers": 1}, set()),
        ({"title": "Another", "networks__train__count": 1}, set()),
        ({"statistics__permutations": 49}, {"association"}),
        ({"saliency__threshold": 0.3}, {"saliency"}),
        ({"statistics__refits": 3}, {"refits", "association"}),
        ({"statistics__refit_layers": []}, {"association"}),
        ({"curves": None}, {"gather"}),
        ({"curves__batch_size": 8}, {"curve_gain_head", "curve_full", "gather"}),
        ({"arms__full": {"rates": [0.001]}}, {"arm_full", "gather"}),
        ({"arms__full": {"rates": [0.003], "penalties": [0.1]}}, {"arm_full", "gather"}),  # curves have no penalty
        (
            {"arms__gain": {"rates": [0.1]}},
            {"arm_gain", "arm_permuted", "halves", "refits", "association", "saliency", "gather"},
        ),
    ],
    ids=lambda value: '-'.join(value) if isinstance(value, dict) else '',
)  # fmt: skip
def test_a_change_repeats_what_depends_on_it(
    finished: Path, tiny: dict[str, Any], tmp_path: Path, changes: dict[str, Any], again: set[str]
):
    assert pending(finished, changed(tiny, **changes), tmp_path) == again


def test_another_network_is_added_to_those_that_are_there(finished: Path, tiny: dict[str, Any], tmp_path: Path):
    resolved, text = runner.resolve(write_config(tmp_path, changed(tiny, networks__train__count=3)))
    todo = {stage.network for stage in runner._work(resolved, text, finished).pending}
    assert todo == {"network_2"}


def test_a_damaged_file_is_made_again(copy: Path, tiny: dict[str, Any], tmp_path: Path):
    (copy / "activations" / "network_0.nc").write_bytes(b"half a file")
    (copy / ".done" / "halves.network_1.json").write_text("{")
    resolved, text = runner.resolve(write_config(tmp_path, tiny))
    todo = {stage.id for stage in runner._work(resolved, text, copy).pending}
    assert {"record.network_0", "halves.network_1"} <= todo
    assert "network.network_0" not in todo
    assert "record.network_1" not in todo


def test_a_changed_image_or_label_repeats_everything(copy: Path, tiny: dict[str, Any], images: Path, tmp_path: Path):
    other = shutil.copytree(images, tmp_path / images.name)
    config = changed(tiny, stimuli=str(other))
    from featattn_neuro.jobs.context import forget, load_run_stimuli

    forget()
    first = load_run_stimuli(str(other), "error", "error").id.tolist()
    (other / "east" / "00.png").write_bytes((other / "east" / "00.png").read_bytes() + b"\0")
    assert "network" in pending(copy, config, tmp_path)
    assert load_run_stimuli(str(other), "error", "error").id.tolist() != first


def _reached(out: Path, run: Started, goal: int | str) -> bool:
    """Whether so many stages are done and workers are at work, or whether a file of the last step is there."""
    if isinstance(goal, str):
        return (out / goal).exists()
    return len(records(out)) >= goal and bool(run.workers())


def test_killed_at_many_moments_it_ends_as_if_it_had_not_been(
    finished: Path, tiny: dict[str, Any], tmp_path: Path, start: Start
):
    out = tmp_path / "out"
    arguments = ("run", write_config(tmp_path, tiny), "--out", out)
    done = 0
    for goal in (0, 3, 11, 22, 31, "claims.nc", "tables/gains.csv"):
        run = start(*arguments)
        run.until(lambda goal=goal, run=run: _reached(out, run, goal))
        run.kill()
        assert run.left() == []
        assert len(records(out)) >= done, "a stage that was done was forgotten"
        done = len(records(out))
    assert "report" not in records(out)
    code, printed = start(*arguments).wait()
    assert code == 0, printed
    assert "36 of them unchanged" in printed
    assert compare(finished, out) == []
    assert not list(out.rglob("*.partial"))


def test_one_worker_gives_the_same_tables(finished: Path, tiny: dict[str, Any], tmp_path: Path, start: Start):
    code, printed = start("run", write_config(tmp_path, tiny), "--out", tmp_path / "out", "--workers", "1").wait()
    assert code == 0, printed
    assert "with 1 worker;" in printed
    assert compare(finished, tmp_path / "out") == []


def test_a_smaller_configuration_leaves_nothing_of_the_larger(
    copy: Path, tiny: dict[str, Any], tmp_path: Path, start: Start, featattn: Featattn
):
    smaller = changed(
        tiny, networks__train__count=1, curves=None, saliency=None, statistics__refit_layers=[], arms__full=None
    )
    config = write_config(tmp_path, smaller)
    fresh, changed_run = (start("run", config, "--out", out, "--quiet") for out in (tmp_path / "fresh", copy))
    assert fresh.wait() == (0, "")
    assert changed_run.wait() == (0, "")
    assert compare(tmp_path / "fresh", copy) == []
    for part in ("figures", "stimuli", "scores", "curves", "agreement", "saliency", "association"):
        found = [sorted(p.name for p in (folder / part).iterdir()) for folder in (tmp_path / "fresh", copy)]
        assert found[0] == found[1], part
    # what was learned for the larger one is kept: only its last steps are done again
    assert pending(copy, tiny, tmp_path) <= {"gather", "association", "saliency", "selectivity"}
    assert (copy / "arms" / "network_1" / "full.nc").is_file()


def test_interrupted_by_the_keyboard(tiny: dict[str, Any], tmp_path: Path, start: Start):
    run = start("run", write_config(tmp_path, tiny), "--out", tmp_path / "out")
    run.until(lambda: len(records(tmp_path / "out")) >= 2)
    os.kill(run.pid, signal.SIGINT)
    code, printed = run.wait()
    assert code == 130
    assert "goes on from here" in printed
    assert "Traceback" not in printed
    assert run.left() == []


def test_a_killed_worker_is_told(tiny: dict[str, Any], tmp_path: Path, start: Start):
    run = start("run", write_config(tmp_path, tiny), "--out", tmp_path / "out")
    run.until(lambda: len(records(tmp_path / "out")) >= 2 and len(run.workers()) == 2)
    os.kill(run.workers()[0], signal.SIGKILL)
    code, printed = run.wait()
    assert code == 2
    assert "killed from outside" in printed
    assert "Traceback" not in printed
    assert run.left() == []
    assert "killed from outside" in (tmp_path / "out" / "log.txt").read_text()


def test_until_and_status(tiny: dict[str, Any], tmp_path: Path, featattn: Featattn):
    out = tmp_path / "out"
    config = write_config(tmp_path, changed(tiny, networks__train__count=1))
    code, _, err = featattn("run", config, "--out", out, "--until", "record")
    assert code == 0
    assert "done up to step record" in err
    assert records(out) == {"network.network_0", "record.network_0"}
    code, printed, _ = featattn("status", out)
    assert code == 0
    assert "record       1 of 1 stages done" in printed
    assert "selectivity  0 of 1 stages done; to do: selectivity.network_0" in printed
    assert "not yet" in printed
    # a later step needs some of an earlier one only
    code, _, err = featattn("run", config, "--out", out, "--until", "selectivity", "--quiet")
    assert code == 0
    assert err == ""
    assert "selectivity.network_0" in records(out)
    assert "association.network_0" not in records(out)


def test_status_of_a_finished_folder_loads_no_image(copy: Path, monkeypatch: pytest.MonkeyPatch, featattn: Featattn):
    monkeypatch.setattr("featattn_neuro.jobs.context.load_stimuli", lambda *a, **k: pytest.fail("loaded images"))
    code, printed, _ = featattn("status", copy)
    assert code == 0
    assert "to do" not in printed
    assert "written" in printed
    (copy / "report.html").unlink()
    (copy / "scores" / "network_1.nc").write_bytes(b"")
    _, printed, _ = featattn("status", copy)
    assert "to do: gather.network_1" in printed
    assert "not yet" in printed


def test_status_and_report_of_another_configuration(
    copy: Path, tiny: dict[str, Any], tmp_path: Path, featattn: Featattn
):
    """A run was started with other settings and stopped at once: what is there is of the earlier ones."""
    other = changed(tiny, arms__gain={"rates": [0.05], "penalties": [0.001]})
    (copy / "config.yaml").write_text(runner.resolve(write_config(tmp_path, other))[1])
    _, printed, _ = featattn("status", copy)
    found = re.search(r"gains +(\d+) of (\d+) stages done; to do: arm_gain.network_0", printed)
    assert found
    assert 0 < int(found[1]) < int(found[2]), "the other arms are as they were"
    assert "page         of an earlier state of this folder; run again" in printed
    code, printed, _ = featattn("report", copy)
    assert code == 0
    assert "T1" not in printed
    assert "no verdicts: those in this folder are of an earlier state" in printed
    page = (copy / "report.html").read_text()
    assert "<b>No verdicts:</b>" in page
    assert 'class="card"' not in page
    assert not any((copy / "tables" / f"{name}.csv").exists() for name in ("claims", "claims_by_network", "secondary"))
    assert (copy / "tables" / "arms.csv").exists()
    # with the configuration that they were made for they are there again
    (copy / "config.yaml").write_text(runner.resolve(write_config(tmp_path, tiny))[1])
    _, printed, _ = featattn("report", copy)
    assert printed.startswith("T1 ")
    assert (copy / "tables" / "claims.csv").exists()


def test_networks_that_are_not_in_the_verdicts_are_told(
    copy: Path, tiny: dict[str, Any], tmp_path: Path, featattn: Featattn
):
    larger = changed(tiny, networks__train__count=3)
    (copy / "config.yaml").write_text(runner.resolve(write_config(tmp_path, larger))[1])
    _, printed, _ = featattn("status", copy)
    assert "network      2 of 3 stages done; to do: network.network_2" in printed
    assert "of an earlier state" in printed
    _, printed, _ = featattn("report", copy)
    assert "T1" not in printed


def test_what_others_put_beside_the_results_stays(copy: Path, tiny: dict[str, Any], tmp_path: Path):
    mine = [copy / "figures" / "mine.png", copy / "tables" / ".ipynb_checkpoints" / "arms-checkpoint.csv"]
    for path in mine:
        path.parent.mkdir(exist_ok=True)
        path.write_text("mine")
    (copy / "report.html").unlink()  # so that the last stage is done again
    assert runner.run(write_config(tmp_path, tiny), copy, quiet=True) == 0
    assert all(path.read_text() == "mine" for path in mine)
    outputs = {name for name in Ledger(copy).record("report")["outputs"] if "/" in name}
    parts = [copy / part for part in ("tables", "figures", "stimuli")]
    written = {path.relative_to(copy).as_posix() for part in parts for path in part.iterdir()}
    assert outputs - {"association/pooled.nc"} == written - {"figures/mine.png", "tables/.ipynb_checkpoints"}


def test_choices_of_v_are_in_a_table(tiny: dict[str, Any], tmp_path: Path):
    config = changed(
        tiny, networks__train__count=1, arms__probe={"rates": [0.1, 0.3], "penalties": [0.0, 0.01]}, arms__full=None,
        curves=None, saliency=None, statistics__refit_layers=[],
    )  # fmt: skip
    assert runner.run(write_config(tmp_path, config), tmp_path / "out", quiet=True) == 0
    table = pd.read_csv(tmp_path / "out" / "tables" / "choices.csv")
    assert set(table["arm"]) == {"probe", "gain"}, "those that had a choice"
    table = table[table["arm"] == "probe"]
    each = table.groupby("choice")[["rate", "penalty"]].first().apply(tuple, axis=1).tolist()
    assert each == [(0.1, 0.01), (0.1, 0.0), (0.3, 0.01), (0.3, 0.0)]
    assert len(table) == 4 * table["task"].nunique()
    assert table["strength"].isna().all()
    best = table.groupby("choice")["auc"].mean().idxmax()
    chosen = load_kind(tmp_path / "out" / "arms" / "network_0" / "probe.nc", "SCORES")
    assert (float(chosen["rate"].item()), float(chosen["penalty"].item())) == each[best]


def test_plan_says_fits_minutes_and_disk_and_starts_nothing(
    finished: Path, tiny: dict[str, Any], tmp_path: Path, featattn: Featattn
):
    config = write_config(tmp_path, tiny)
    code, printed, _ = featattn("run", config, "--out", tmp_path / "new", "--plan")
    assert code == 0
    assert not (tmp_path / "new").exists()
    assert "37 stages, 2 workers" in printed
    said = float(re.search(r"disk +(\d+) MB at most", printed)[1])
    written = sum(path.stat().st_size for path in finished.rglob("*") if path.is_file()) / 1e6
    assert written < said < 20 * written + 20
    # 6 tasks, 2 networks: arms 1+2+1+1+1 choices, curves 2*(2+1) fits, 2 halves, 2 refits
    assert f"{6 * 2 * (6 + 6 + 2 + 2 * 2)} fits" in printed
    code, printed, _ = featattn("run", config, "--out", finished, "--plan")
    assert code == 0
    assert "36 stages are done already" in printed
    assert " 0 fits" in printed


def test_full_refits_every_gained_layer(tiny: dict[str, Any], tmp_path: Path):
    from featattn_neuro.jobs.context import NetworkJob

    resolved, _ = runner.resolve(write_config(tmp_path, tiny), full=True)
    assert NetworkJob(resolved, tmp_path, "network_0").refit_layers == ["relu1", "relu2", "relu3"]


def test_own_networks_on_colour_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny: dict[str, Any], start: Start
):
    """The way of a user: module:function, a folder of images, from the folder that holds both."""
    make_images(tmp_path / "photos", colour=True)
    helped = OWN_NETWORK.replace("nn.Flatten()", "Flat()").replace("import torch\n", "from my_parts import Flat\n")
    (tmp_path / "my_networks.py").write_text(helped + "\ndef wide():\n    return small(24)\n")
    helper = "from torch import nn\nclass Flat(nn.Module):\n    def forward(self, x):\n        return x.flatten(1)\n"
    (tmp_path / "my_parts.py").write_text(helper)
    networks = [
        {"name": "small", "model": "my_networks:small", "layers": ["1", "4"]},
        {"name": "wide.one", "model": "my_networks:wide", "layers": ["activation"], "head": "7"},
    ]
    config = changed(tiny, stimuli="photos", networks={"pretrained": networks}, curves=None, arms__full=None,
                     statistics__refit_layers=["4"])  # fmt: skip
    write_config(tmp_path, config, "mine.yaml")
    monkeypatch.chdir(tmp_path)
    code, printed = start("run", "mine.yaml", "--out", "results", draw=True).wait()
    assert code == 0, printed
    assert "Warning" not in printed
    assert "this network" in printed, "one network of a design has no interval over networks"
    table = pd.read_csv(tmp_path / "results" / "tables" / "gains.csv")
    assert set(table["network"]) == {"small", "wide.one"}
    assert json.loads((tmp_path / "results" / "facts.json").read_text())["command"] == (
        "featattn run mine.yaml --out results"
    )
    resolved, text = runner.resolve(Path("mine.yaml"))
    assert runner._work(resolved, text, Path("results")).pending == []
    # a design of one's own can also be trained
    own = {"train": {**TINY["networks"]["train"], "architecture": "my_networks:small"}, "layers": ["1", "4"]}
    trained = write_config(tmp_path, changed(config, networks=own), "trained.yaml")
    assert runner.run(trained, Path("trained"), quiet=True, until="network") == 0
    assert json.loads(Path("trained/networks/network_1.json").read_text())["reference_accuracy"] >= 0
    # the place in the list is the seed, so an exchange is another run; so is other code of the same weights
    exchanged = changed(config, networks={"pretrained": networks[::-1]})
    assert "network" in pending(Path("results"), exchanged, tmp_path)

    def imported_anew() -> set[str]:
        for name in ("my_networks", "my_parts"):
            monkeypatch.delitem(sys.modules, name)
        importlib.invalidate_caches()
        return {s.id for s in runner._work(resolved, text, Path("results")).pending}

    (tmp_path / "my_parts.py").write_text(helper.replace("x.flatten(1)", "x.flatten(1) * 1.0"))
    assert imported_anew() >= {"network.small"}, "other code in a file that is imported"
    (tmp_path / "my_parts.py").write_text(helper)
    assert imported_anew() == set()
    with (tmp_path / "my_networks.py").open("a") as handle:
        handle.write("# other code\n")
    assert {s.id for s in runner._work(resolved, text, Path("results")).pending} >= {"network.small"}
    monkeypatch.delitem(sys.modules, "my_networks")
    monkeypatch.delitem(sys.modules, "my_parts")


def test_each_numbered_script_runs_up_to_its_step(
    finished: Path, tiny: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str], copy: Path,
):  # fmt: skip
    config = write_config(tmp_path, changed(tiny, networks__train__count=1))
    monkeypatch.syspath_prepend(str(ANALYSES))
    steps = {"00_networks": "network", "01_record": "record", "02_selectivity": "selectivity",
             "03_associate": "associate", "04_saliency": "saliency", "05_report": "report"}  # fmt: skip
    assert [*sorted(steps), "06_neurons"] == sorted(p.stem for p in ANALYSES.glob("0*.py"))  # the last is no step

    def script(name: str, *arguments: str | Path) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", [f"{name}.py", *map(str, arguments)])
        with pytest.raises(SystemExit) as end:
            runpy.run_path(str(ANALYSES / f"{name}.py"), run_name="__main__")
        return int(end.value.code or 0), capfd.readouterr().err

    assert script("00_networks", "--config", config, "--out", tmp_path / "new", "--workers", "1")[0] == 0
    assert records(tmp_path / "new") == {"network.network_0"}
    # the other steps on a folder where their stages are done
    for name, step in list(steps.items())[1:-1]:
        code, err = script(name, "--config", config, "--out", copy)
        assert code == 0
        assert f"done up to step {step}" in err
    config = write_config(tmp_path, tiny)
    code, err = script("05_report", "--config", config, "--out", copy)
    assert code == 0
    assert "T1" in err
    code, err = script("05_report", "--config", tmp_path / "nowhere.yaml")
    assert code == 2
    assert err.count("\n") == 1
    assert err.startswith("05_report.py: wanted a configuration file")
    monkeypatch.delitem(sys.modules, "_common", raising=False)


def test_a_stage_that_comes_out_as_before_stops_the_repetition(copy: Path, tiny: dict[str, Any], tmp_path: Path):
    """Keys follow what is in the files: the record is gone, the weights are made again, nothing after them is."""
    (copy / ".done" / "record.network_0.json").unlink()
    later = Ledger(copy).record("selectivity.network_0")
    assert runner.run(write_config(tmp_path, tiny), copy, quiet=True, until="selectivity") == 0
    assert Ledger(copy).record("selectivity.network_0") == later

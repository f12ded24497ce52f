"""A user's mistake is one clear sentence and exit status 2, without a traceback; what is computed stays."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from featattn_neuro.jobs import ledger, runner, talk
from featattn_neuro.jobs.compare import compare
from tests.jobs.conftest import CLASSES, Started, changed, make_images, write_config

Featattn = Callable[..., tuple[int, str, str]]
Run = Callable[..., str]


@pytest.fixture
def refused(featattn: Featattn, tmp_path: Path) -> Run:
    """Run a configuration that must be refused; the sentence that says why."""

    def command(config: dict[str, Any] | Path, *options: str, out: Path | None = None) -> str:
        path = config if isinstance(config, Path) else write_config(tmp_path, config)
        code, _, err = featattn("run", path, "--out", out or tmp_path / "out", *options)
        return sentence(code, err)

    return command


def sentence(code: int, err: str) -> str:
    """The one line that is not progress."""
    assert code == 2, err
    assert "Traceback" not in err
    lines = [line for line in err.splitlines() if line.startswith("featattn: ")]
    assert len(lines) == 1, err
    assert err.splitlines()[-1] == lines[0], "the reason is said last"
    assert len(lines[0]) < 900
    return lines[0]


def own(tiny: dict[str, Any], **network: Any) -> dict[str, Any]:
    """The tiny configuration with one given network."""
    given = {"name": "one", "model": "torchvision:resnet18", "weights": "random", "layers": ["relu"], **network}
    return changed(tiny, networks={"pretrained": [given]}, statistics__refit_layers=[])


@pytest.mark.parametrize(
    ("changes", "parts"),
    [
        ({"aproach": 1}, ["unknown key 'aproach'", "known keys here"]),
        ({"composits": {}}, ["unknown key 'composits'", "did you mean 'composites'"]),
        ({"networks__train__epoch": 3}, ["unknown key 'networks.train.epoch'", "did you mean 'epochs'"]),
        ({"arms__gain": {"rate": 0.03}}, ["arms.gain"]),
        ({"stimuli": "digts"}, ["unknown set of images", "did you mean 'digits'"]),
        ({"stimuli": "no/such/folder"}, ["wanted images", "no/such/folder", "check the path"]),
        ({"classes": ["east", "up"]}, ["no images of 'up'", "the stimuli have east, north"]),
        ({"classes": ["east"]}, ["two classes or more"]),
        ({"networks__train__architecture": "digits_cn"}, ["unknown network 'digits_cn'", "did you mean 'digits_cnn'"]),
        ({"networks__layers": ["relu1", "relu9"]}, ["unknown layer 'relu9'", "relu3"]),
        ({"statistics__refit_layers": ["relu4"]}, ["statistics.refit_layers", "'relu4'", "relu3"]),
        ({"networks__train__omitted_classes": 5}, ["leave two classes", "came 5 of 6", "omit fewer"]),
        ({"splits__R": {"per_class": 9}}, ["wanted 31 images of each class", "has 30", "make the splits smaller"]),
        ({"composites__G": 19}, ["wanted 19 pairs", "ask for fewer"]),
        ({"curves__examples": [1, 2, 50]}, ["curves.examples wants 50 targets"]),
        (
            {"splits__R": {"per_class": 4, "path": "*/0*"}},
            ["splits must not overlap", "path '*/0*'", "give the splits paths that exclude each other"],
        ),
        (
            {"splits__R": {"per_class": 4, "path": "train/*"}},
            ["no image path matches 'train/*'", "the first path is 'east/00.png'"],
        ),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_wrong_configurations(tiny: dict[str, Any], refused: Run, changes: dict[str, Any], parts: list[str]):
    said = refused(changed(tiny, **changes))
    for part in parts:
        assert part in said


@pytest.mark.parametrize(
    ("network", "parts"),
    [
        ({"model": "torchvision:resnet81"}, ["unknown torchvision network 'resnet81'", "did you mean 'resnet18'"]),
        ({"model": "no_such_module:net", "weights": "pretrained"}, ["no importable module 'no_such_module'"]),
        ({"weights": "weights.pth"}, ["weights.pth"]),
        ({"layers": ["layer9.*"]}, ["unknown layer 'layer9.*'"]),
        ({"head": "classifier"}, ["classifier"]),
        ({"detector": "head"}, ["one output per class, 6", "1000 outputs", "use detector: logistic"]),
        ({"name": "a/b"}, ["networks.pretrained.0.name"]),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_wrong_networks(tiny: dict[str, Any], refused: Run, network: dict[str, Any], parts: list[str]):
    said = refused(own(tiny, **network))
    for part in parts:
        assert part in said


def test_the_command_itself(tiny: dict[str, Any], finished: Path, tmp_path: Path):
    """As a user starts it, in a process that has loaded nothing."""
    config = write_config(tmp_path, changed(tiny, networks__layers=["relu9"]))
    command = [sys.executable, "-m", "featattn_neuro", "run", str(config), "--out", str(tmp_path / "out")]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert "unknown layer 'relu9'" in sentence(ended.returncode, ended.stderr)
    assert ended.stdout == ""


def test_unknown_step_and_no_configuration(tiny: dict[str, Any], refused: Run, tmp_path: Path):
    assert "did you mean 'selectivity'" in refused(tiny, "--until", "selectivty")
    assert "there is none at" in refused(tmp_path / "nowhere.yaml")
    assert "Is a directory" in refused(tmp_path)
    (tmp_path / "picture.yaml").write_bytes(b"\x89PNG\xff\xfe")
    assert "not UTF-8" in refused(tmp_path / "picture.yaml")
    (tmp_path / "broken.yaml").write_text("name: [tiny\nstimuli: digits\n")
    assert "not valid YAML (line 2)" in refused(tmp_path / "broken.yaml")


def test_a_class_with_one_image_and_an_empty_class(tiny: dict[str, Any], images: Path, refused: Run, tmp_path: Path):
    folder = shutil.copytree(images, tmp_path / "photos")
    config = changed(tiny, stimuli=str(folder))
    (folder / "up").mkdir()
    said = refused(config)
    assert "at least one image in each class folder" in said
    assert str(folder / "up") in said
    shutil.copy(folder / "east" / "00.png", folder / "up" / "one.png")
    (folder / "east" / "00.png").unlink()
    said = refused(config)
    assert "class 'up' of photos has 1;" in said or "class 'east' of photos has 29" in said


def test_missing_and_corrupt_images(tiny: dict[str, Any], images: Path, refused: Run, tmp_path: Path):
    folder = shutil.copytree(images, tmp_path / "photos")
    config = changed(tiny, stimuli=str(folder))
    whole = (folder / "west" / "07.png").read_bytes()
    (folder / "west" / "07.png").write_bytes(whole[: len(whole) // 2])
    said = refused(config)
    assert "west/07.png' is corrupt" in said
    assert "replace it" in said
    (folder / "west" / "07.png").unlink()
    (folder / "west" / "07.png").symlink_to(tmp_path / "gone.png")
    assert "west/07.png' cannot be read" in refused(config)
    (folder / "west" / "07.png").unlink()
    shutil.copy(folder / "west" / "08.png", folder / "west" / "07.png")
    said = refused(config)
    assert "07.png" in said
    assert "08.png" in said
    assert "class 'west' of photos has 29" in refused(changed(config, duplicates="drop"))


def test_corrupt_images_can_be_left_out(tiny: dict[str, Any], images: Path, tmp_path: Path):
    folder = shutil.copytree(images, tmp_path / "photos")
    (folder / "west" / "bad.png").write_bytes(b"no image")
    config = changed(tiny, stimuli=str(folder), corrupt="skip", networks__train__count=1)
    assert runner.run(write_config(tmp_path, config), tmp_path / "out", quiet=True, until="network") == 0


def test_images_of_two_sizes(tiny: dict[str, Any], images: Path, refused: Run, tmp_path: Path):
    folder = shutil.copytree(images, tmp_path / "photos")
    for path in (folder / "west").iterdir():
        Image.fromarray(np.random.default_rng(int(path.stem)).integers(0, 255, (9, 9), np.uint8)).save(path)
    said = refused(changed(tiny, stimuli=str(folder)))
    assert "wanted images of one size" in said
    assert "12 x 12" in said.replace("×", "x")


def test_an_image_that_goes_away_while_the_run_goes_on(
    tiny: dict[str, Any], images: Path, refused: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    folder = shutil.copytree(images, tmp_path / "photos")
    outlook = runner._outlook

    def remove_then_say(*arguments: Any) -> str:
        shutil.rmtree(folder)
        return outlook(*arguments)

    monkeypatch.setattr(runner, "_outlook", remove_then_say)
    said = refused(changed(tiny, stimuli=str(folder)))
    assert "cannot be read" in said or "is corrupt" in said


def test_two_runs_of_one_folder(tiny: dict[str, Any], refused: Run, tmp_path: Path, start: Callable[..., Started],
                                featattn: Featattn, monkeypatch: pytest.MonkeyPatch):  # fmt: skip
    monkeypatch.setattr(ledger, "LOCK_SECONDS", 0.3)
    first = start("run", write_config(tmp_path, tiny), "--out", tmp_path / "out")
    first.until((tmp_path / "out" / ".done").is_dir)
    os.kill(first.pid, signal.SIGSTOP)  # it is not to end before the others have asked
    assert "another run is writing it; wait for it, or choose another --out" in refused(tiny)
    code, _, err = featattn("report", tmp_path / "out")
    assert "another run is writing it" in sentence(code, err)
    first.kill()
    assert not first.left()


def test_folders_that_are_not_ours(tiny: dict[str, Any], refused: Run, featattn: Featattn, tmp_path: Path):
    theirs = tmp_path / "thesis"
    theirs.mkdir()
    (theirs / "chapter.txt").write_text("mine")
    assert "not a results folder" in refused(tiny, out=theirs)
    assert "not a results folder" in refused(tiny, "--plan", out=theirs)
    assert "is a file" in refused(tiny, out=theirs / "chapter.txt")
    assert "is no folder" in (said := refused(tiny, out=theirs / "chapter.txt" / "out")) or "Not a directory" in said
    for folder in (theirs, tmp_path / "nowhere"):
        code, _, err = featattn("status", folder)
        assert "wanted a results folder" in sentence(code, err)
        code, _, err = featattn("report", folder)
        assert "results folder" in sentence(code, err) or "folder with results" in sentence(code, err)
        code, _, err = featattn("compare", folder, theirs)
        assert "has no tables" in sentence(code, err)
    assert [p.name for p in theirs.iterdir()] == ["chapter.txt"], "nothing is left in it"
    assert not (tmp_path / "nowhere").exists()


def test_results_of_another_version(copy: Path, tiny: dict[str, Any], refused: Run, featattn: Featattn):
    tables = {p.name: p.read_bytes() for p in (copy / "tables").iterdir()}
    (copy / "run.json").write_text(json.dumps({"format": 1, "version": "9.9.9"}))
    said = refused(tiny, out=copy)
    assert "made by featattn_neuro 9.9.9" in said
    assert "choose another --out" in said
    for command in ("status", "report"):
        code, _, err = featattn(command, copy)
        assert "9.9.9" in sentence(code, err)
    (copy / "run.json").write_text("{}")
    assert "is damaged" in refused(tiny, out=copy)
    assert {p.name: p.read_bytes() for p in (copy / "tables").iterdir()} == tables


def test_a_mistake_on_a_finished_folder_leaves_it_as_it_is(copy: Path, tiny: dict[str, Any], refused: Run):
    before = {p: p.read_bytes() for p in copy.rglob("*") if p.is_file() and p.name != "log.txt"}
    assert "relu9" in refused(changed(tiny, networks__layers=["relu9"]), out=copy)
    assert {p: p.read_bytes() for p in before} == before
    assert "relu9" in (copy / "log.txt").read_text(), "the log tells"


def test_unwritable_folder(tiny: dict[str, Any], refused: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    locked = tmp_path / "locked"
    locked.mkdir(mode=0o555)
    if os.geteuid() == 0:  # for whom no folder is locked

        def refuse(*arguments: Any, **options: Any) -> int:
            raise PermissionError(errno.EACCES, "Permission denied")

        monkeypatch.setattr(ledger, "os", SimpleNamespace(**{**vars(os), "open": refuse}))
    said = refused(tiny, out=locked)
    assert "cannot write the results folder" in said
    assert "Permission denied" in said


def test_a_disk_that_is_too_small(tiny: dict[str, Any], refused: Run, monkeypatch: pytest.MonkeyPatch):
    usage = shutil.disk_usage("/")
    monkeypatch.setattr(runner.shutil, "disk_usage", lambda path: usage._replace(free=1_000_000))
    said = refused(tiny)
    assert "20 MB" in said
    assert "1 MB are free" in said
    assert "make room" in said


def test_a_plan_for_a_disk_that_is_too_small(
    tiny: dict[str, Any], featattn: Featattn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    usage = shutil.disk_usage("/")
    monkeypatch.setattr(runner.shutil, "disk_usage", lambda path: usage._replace(free=1_000_000))
    code, out, err = featattn("run", write_config(tmp_path, tiny), "--out", tmp_path / "out", "--plan")
    assert "MB at most" in out, "the plan is shown all the same"
    assert "1 MB are free" in sentence(code, err)
    assert not (tmp_path / "out").exists()


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs /proc, where nobody can make a folder")
def test_a_plan_for_a_place_that_cannot_be_written(tiny: dict[str, Any], refused: Run):
    said = refused(tiny, "--plan", out=Path("/proc/nope/out"))
    assert "cannot write the results folder /proc/nope/out" in said
    assert "choose another --out" in said


def _full_disk(*arguments: Any) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize(
    "place",
    [
        "featattn_neuro.io.store.reserve_space",  # a result file, in a worker
        "featattn_neuro.jobs.stages.write_text_atomic",  # bare, in a worker
        "featattn_neuro.jobs.ledger.write_text_atomic",  # the record, in the first process
    ],
)
def test_a_disk_that_fills_up(
    tiny: dict[str, Any], refused: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
):
    config = changed(tiny, networks__train__count=1)
    out = tmp_path / "out"
    runner.run(write_config(tmp_path, config), out, quiet=True, until="network")
    done = (out / ".done" / "network.network_0.json").read_bytes()
    if "stages" in place:
        (out / ".done" / "network.network_0.json").unlink()
    with monkeypatch.context() as patch:
        patch.setattr(place, _full_disk)
        said = refused(config, "--until", "record")
    assert "No space left on device" in said
    assert "space" in said.removeprefix("No space left") or "make room" in said
    assert not list(out.rglob("*.partial"))
    assert runner.run(write_config(tmp_path, config), out, quiet=True, until="record") == 0
    again = json.loads((out / ".done" / "network.network_0.json").read_bytes())
    assert again["outputs"] == json.loads(done)["outputs"]
    if "stages" not in place:
        assert (out / ".done" / "network.network_0.json").read_bytes() == done, "what was done is not done again"


def test_a_log_that_cannot_be_written_does_not_matter(
    tiny: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(talk, "os", SimpleNamespace(**{**vars(os), "write": _full_disk}))
    config = write_config(tmp_path, changed(tiny, networks__train__count=1))
    assert runner.run(config, tmp_path / "out", quiet=True, until="network") == 0


def test_our_own_mistakes_keep_their_traceback(
    tiny: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, finished: Path
):
    """Of a worker too: on the terminal, and in the log; stages that were done beside it are kept."""

    def broken(*arguments: Any) -> list[str]:
        return [str(1 / 0)]

    monkeypatch.setattr("featattn_neuro.jobs.stages.learn_halves", broken)
    config = write_config(tmp_path, changed(tiny, networks__train__count=1))
    with pytest.raises(ZeroDivisionError) as caught:
        runner.run(config, tmp_path / "out", quiet=True)
    assert "return [str(1 / 0)]" in str(caught.value.__cause__)
    log = (tmp_path / "out" / "log.txt").read_text()
    assert "ZeroDivisionError" in log
    assert "return [str(1 / 0)]" in log
    monkeypatch.undo()
    done = {p.stem for p in (tmp_path / "out" / ".done").iterdir()}
    assert {"network.network_0", "arm_gain.network_0"} <= done
    resolved, text = runner.resolve(config)
    assert not done & {stage.id for stage in runner._work(resolved, text, tmp_path / "out").pending}


def test_a_loss_that_is_not_finite_names_class_arm_and_network(tiny: dict[str, Any], refused: Run, tmp_path: Path):
    for arm in ("gain", "full"):
        said = refused(changed(tiny, networks__train__count=1, **{f"arms__{arm}__rates": [1e30]}), out=tmp_path / arm)
        assert re.search(rf"network 'network_0', arm '{arm}': the loss of task [a-z]+ is not finite at update \d", said)


def test_a_wrong_setting_names_arm_and_network(tiny: dict[str, Any], refused: Run, tmp_path: Path):
    """Additive attention at a module that is no activation is known only where the arm meets the network."""
    arms = {**tiny["arms"], "tuning": {"strengths": [1.0], "mode": "additive"}}
    config = changed(
        tiny, networks__train__count=1, networks__layers=["conv1", "relu2", "relu3"], arms=arms, curves=None,
        saliency=None,
    )  # fmt: skip
    said = refused(config)
    assert "network 'network_0', arm 'tuning': mode 'additive' adds to what goes into a nonlinearity" in said
    assert "came 'conv1'" in said


def test_a_bug_is_not_taken_for_a_full_disk(tiny: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def broken(*arguments: Any) -> list[str]:
        raise FileNotFoundError(errno.ENOENT, "ours")

    monkeypatch.setattr("featattn_neuro.jobs.stages.train_network", broken)
    with pytest.raises(FileNotFoundError, match="ours"):
        runner.run(write_config(tmp_path, tiny), tmp_path / "out", quiet=True)


def test_classes_can_be_named(tmp_path: Path, tiny: dict[str, Any], finished: Path):
    """The same classes by name, in the same order, are the same tasks; made-up images are the same everywhere."""
    again = make_images(tmp_path / "blobs")
    config = changed(tiny, stimuli=str(again), classes=list(CLASSES), networks__train__count=1)
    assert runner.run(write_config(tmp_path, config), tmp_path / "out", quiet=True, until="network") == 0
    for name in ("splits/network_0.csv", "networks/network_0.safetensors"):
        assert (tmp_path / "out" / name).read_bytes() == (finished / name).read_bytes()
    with pytest.raises(Exception, match="has no tables"):
        compare(finished, tmp_path / "out")

"""Every command and snippet in README.md runs, in the order of the page, and prints what the page says.

Fenced blocks: `python` is executed in one namespace; `sh` is run command by command; `python` and `yaml` that begin
with `# NAME.py` or `# NAME.yaml` are written to that file; a `text` block right after one of them is what it prints.
Long commands are replaced: `make X` by `make -n X`; a configuration that comes with the package by one with the same
sections, of the same name, that runs in seconds.
"""

from __future__ import annotations

import io
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from featattn_neuro import cli
from featattn_neuro.io.manifest import is_present, load_manifest
from featattn_neuro.jobs.config import load_config
from featattn_neuro.report.columns import COLUMNS

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
FENCE = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
RATES = ("rates_examples", "rates_updates")
OF_EXAMPLE = re.compile(r"featattn example|neurons\.nc")
FILE = re.compile(r"# ([\w-]+\.(?:py|yaml))\n")


@dataclass
class Block:
    """A fenced block: its language, what is in it, the line it begins at, and what it should print."""

    language: str
    content: str
    line: int
    output: str | None = None


def blocks_of(text: str) -> list[Block]:
    """Blocks in order; `text` right behind another block is its output, any other `text` is only shown."""
    found: list[Block] = []
    end = 0
    for match in FENCE.finditer(text):
        language, content = match.groups()
        if language == "text":
            if found and not text[end : match.start()].strip():
                found[-1].output = content
        else:
            found.append(Block(language, content, text[: match.start()].count("\n") + 1))
        end = match.end()
    return found


OTHER_PROCESS = """
import contextlib, io, json, pathlib, runpy, sys
from PIL import Image
from featattn_neuro import cli
from featattn_neuro.report import page
drawn, blank = page.png_bytes, io.BytesIO()
Image.new("RGB", (160, 160)).save(blank, format="PNG")
for line in sys.stdin:
    words, printed = json.loads(line), io.StringIO()
    # figures take most of the time of a small run; those of the reader's own run are drawn
    ours = any(word.startswith("analyses/configs/") for word in words)
    page.png_bytes = (lambda figure, *, dpi: blank.getvalue()) if ours else drawn
    with contextlib.redirect_stdout(printed):
        try:
            if words[0] == "featattn":
                cli.main(words[1:])
            sys.argv, sys.path[0] = words[1:], str(pathlib.Path(words[1]).resolve().parent)
            runpy.run_path(words[1], run_name="__main__")
        except SystemExit as stopped:
            code = stopped.code or 0
        except Exception as error:
            code = repr(error)
    print(json.dumps([code, printed.getvalue()]), flush=True)
"""
"""Runs fork workers, which a process that has fitted anything must not do; one for all, since it starts slowly."""


def small(config: dict[str, Any]) -> dict[str, Any]:
    """A configuration with the same sections and arms, fewer of everything, and none of what has to be downloaded."""
    found: dict[str, Any] = json.loads(json.dumps(config))
    sizes = {"R": 8, "G": 6, "V": 4, "S": 6, "P": 8}
    classes = 10
    if "train" in found["networks"]:
        found["networks"]["train"] |= {"count": 1, "epochs": 1}
    else:
        # images and network of the page itself, which has written them before
        found["networks"]["pretrained"] = [{"name": "mine", "model": "my_network:make", "layers": ["1", "4"]}]
        found["stimuli"], classes = "my_images", 4
    for split, count in sizes.items():
        path = {"*train/*": "*readout/*", "*test/*": "*held_out/*"}.get(found["splits"][split].get("path"))
        found["splits"][split] = {"per_class": count, **({} if path is None else {"path": path})}
    found["composites"] = {split: sizes[split] * classes // 2 for split in found["composites"]}
    found["learning"] |= {"batch_size": 10, "epochs": 1, "shuffles": 1}
    for arm in found["arms"].values():
        arm.update({key: values[:1] for key, values in arm.items() if key in ("rates", "penalties", "strengths")})
    if "curves" in found:
        rates = {axis: {arm: some[:1] for arm, some in found["curves"][axis].items()} for axis in RATES}
        found["curves"] |= {"examples": [1, 2], "updates": 2, "every": 1, **rates}
    found["statistics"] |= {"permutations": 19, "refits": 1}
    if "saliency" in found:
        found["saliency"] |= {"permutations": 9, "localisation_permutations": 9, "shown": 1, "sheet": 1}
        found["saliency"] |= {"arrays": 4} if "arrays" in found["saliency"] else {}
    return found


class Walk:
    """A reader who types everything on the page, in an empty folder with images beside `analyses/`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.names: dict[str, Any] = {"__name__": "readme"}
        self._other: subprocess.Popen[str] | None = None

    def do(self, block: Block) -> None:
        """Run one block and compare what it prints."""
        where = f"README.md, block at line {block.line}"
        named = FILE.match(block.content)
        if named:
            (self.folder / named.group(1)).write_text(block.content, encoding="utf-8")
            return
        printed = io.StringIO()
        with self._inside(), redirect_stdout(printed):
            if block.language == "python":
                exec(compile(block.content, where, "exec"), self.names)
            elif block.language == "sh":
                for command in block.content.splitlines():
                    self.type(command, printed)
            else:
                raise AssertionError(f"{where}: no way to run a block of {block.language}")
        if block.output is not None:
            assert printed.getvalue() == block.output, where

    def type(self, command: str, printed: io.StringIO) -> None:
        """Run one command line."""
        words = shlex.split(command)
        program = words[0].removeprefix(".venv/bin/")
        if program == "make":
            subprocess.run(["make", "-n", *words[1:]], cwd=ROOT, check=True, capture_output=True)
        elif command == "pip install .":
            project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
            assert project["project"]["scripts"] == {"featattn": "featattn_neuro.cli:main"}
            assert (ROOT / project["project"]["readme"]).is_file()
        elif program == "python":
            self._elsewhere(words, printed)
        elif program == "featattn":
            self._featattn(words[1:], printed)
        else:
            raise AssertionError(f"README.md: no way to run {command!r}")

    def _featattn(self, words: list[str], printed: io.StringIO) -> None:
        if words[0] == "fetch" and not is_present(words[1]):
            return  # a known name (an unknown one is an error), which tests do not download
        if words[0] != "run" or "--plan" in words:
            assert exit_status(words) == 0, words
        else:
            self._elsewhere(["featattn", *words], printed)

    def _elsewhere(self, words: list[str], printed: io.StringIO) -> None:
        if self._other is None:
            self._other = subprocess.Popen(
                [sys.executable, "-c", OTHER_PROCESS], text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                cwd=self.folder, env={**os.environ, "OMP_NUM_THREADS": "1"},
            )  # fmt: skip
        other = self._other
        assert other.stdin is not None
        assert other.stdout is not None
        other.stdin.write(json.dumps(words) + "\n")
        other.stdin.flush()
        answer = other.stdout.readline()
        assert answer, f"{words} ended the process"
        code, text = json.loads(answer)
        assert code == 0, f"{words}: {code}\n{text}"
        printed.write(text)

    def leave(self) -> None:
        """End the other process."""
        if self._other is not None:
            self._other.communicate()
            self._other = None

    @contextmanager
    def _inside(self) -> Iterator[None]:
        before, known = Path.cwd(), set(sys.modules)
        os.chdir(self.folder)
        try:
            yield
        finally:
            os.chdir(before)
            for name in set(sys.modules) - known:
                if Path(getattr(sys.modules[name], "__file__", None) or "/").parent == self.folder:
                    del sys.modules[name]


def exit_status(words: list[str]) -> int:
    with pytest.raises(SystemExit) as stopped:
        cli.main(words)
    return int(stopped.value.code or 0)


@pytest.fixture(scope="module")
def walk(tmp_path_factory) -> Iterator[Walk]:
    """An empty folder with small labelled pictures, sorted as the page says: four shapes on a dark ground."""
    folder = tmp_path_factory.mktemp("reader").resolve()
    shutil.copytree(ROOT / "analyses", folder / "analyses", ignore=shutil.ignore_patterns("__pycache__"))
    for path in (folder / "analyses" / "configs").glob("*.yaml"):
        config = yaml.safe_load(path.read_text(encoding="utf-8"))
        path.write_text(yaml.safe_dump(small(config), sort_keys=False), encoding="utf-8")
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:32, :32]
    for part, count in (("readout", 20), ("learn", 20), ("held_out", 30)):
        for label in ("bird", "cat", "dog", "ship"):
            (folder / "my_images" / part / label).mkdir(parents=True)
            for number in range(count):
                down, across, size = *rng.integers(10, 22, 2), rng.integers(5, 9)
                shape = {
                    "bird": np.hypot(y - down, x - across) < size,
                    "cat": np.maximum(abs(y - down), abs(x - across)) < size,
                    "dog": abs(y - down) < 3,
                    "ship": abs(x - across) < 3,
                }[label]
                pixels = rng.integers(0, 50, (32, 32, 3))
                pixels[shape] += rng.integers(100, 200, 3)
                Image.fromarray(pixels.astype(np.uint8)).save(folder / f"my_images/{part}/{label}/{number:02}.png")
    reader = Walk(folder)
    yield reader
    reader.leave()


@pytest.mark.slow
@pytest.mark.parametrize("block", blocks_of(README), ids=lambda block: f"line_{block.line}_{block.language}")
def test_block(walk, block):
    """Blocks build on those before them: run the whole file."""
    if OF_EXAMPLE.search(block.content):
        pytest.importorskip("pynwb", reason="pynwb is not installed: there is no example session")
    walk.do(block)


def test_the_page_has_what_a_reader_needs():
    commands = [line for block in blocks_of(README) if block.language == "sh" for line in block.content.splitlines()]
    assert commands[:2] == ["make reproduce", "make test"]
    verbs = {shlex.split(c)[1] for c in commands if c.removeprefix(".venv/bin/").startswith("featattn ")}
    known = {command.name or command.callback.__name__.replace("_", "-") for command in cli.app.registered_commands}
    assert verbs == known
    example = next(block for block in blocks_of(README) if block.language == "python")
    assert len([line for line in example.content.splitlines() if line]) == 10
    assert example.output


def test_small_configurations_have_the_sections_of_the_long_ones(tmp_path):
    for path in (ROOT / "analyses" / "configs").glob("*.yaml"):
        (tmp_path / path.name).write_text(yaml.safe_dump(small(yaml.safe_load(path.read_text(encoding="utf-8")))))
        long, short = load_config(path), load_config(tmp_path / path.name)
        assert short.arm_names() == long.arm_names()
        assert short.curve_arms() == long.curve_arms()
        assert short.model_fields_set == long.model_fields_set
        assert short.statistics.refit_layers == long.statistics.refit_layers


def test_every_table_and_every_download_of_the_larger_runs_is_named():
    listed = re.findall(r"^\| `(\w+)\.csv` \| (?!meaning)", README, re.MULTILINE)
    assert sorted(listed) == sorted(COLUMNS)
    wanted = {
        entry["model"]
        for path in (ROOT / "analyses" / "configs").glob("*.yaml")
        for entry in yaml.safe_load(path.read_text(encoding="utf-8"))["networks"].get("pretrained", ())
    }
    manifest = load_manifest()
    to_fetch = {name for name in wanted if manifest.entry(name).source == "url"}
    assert to_fetch == set(re.findall(r"^featattn fetch (\w+)$", README, re.MULTILINE))


def test_links_lead_somewhere():
    targets = re.findall(r"\]\(([^)]+)\)", README)
    anchors = {re.sub(r"[^\w -]", "", h).lower().replace(" ", "-") for h in re.findall(r"^#+ (.+)$", README, re.M)}
    for target in targets:
        file, _, anchor = target.partition("#")
        assert not file or (ROOT / file).is_file(), target
        assert not anchor or file or anchor in anchors, target
    assert "docs/images/digits.png" in targets
    assert Image.open(ROOT / "docs/images/digits.png").format == "PNG"


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("```python\nprint(1 + 1)\n```\n\n```text\n3\n```\n", AssertionError),
        ("```python\nfa.lern_gains\n```\n", NameError),
        ("```sh\nfeatattn layers digits_cnn --stag conv\n```\n", AssertionError),
        ("```sh\nfeatattn run analyses/configs/none.yaml --out x\n```\n", Exception),
        ("```sh\nfeatattn run analyses/configs/digits.yaml --oot x\n```\n", AssertionError),
        ("```sh\npython analyses/99_none.py\n```\n", AssertionError),
        ("```sh\nmake reprodce\n```\n", subprocess.CalledProcessError),
        ("```sh\ncurl example.org\n```\n", AssertionError),
        ("```r\n1\n```\n", AssertionError),
    ],
)
def test_a_broken_page_is_noticed(tmp_path, text, error):
    (tmp_path / "analyses").symlink_to(ROOT / "analyses")
    reader, (block,) = Walk(tmp_path), blocks_of(text)
    with pytest.raises(error):
        reader.do(block)
    reader.leave()


def test_a_sound_page_passes(tmp_path):
    text = """
```python
# one.py
x = 1
```

```python
import one
print(one.x)
```

```text
1
```

So:

```text
2
```
"""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(tmp_path))
        for block in blocks_of(text):
            Walk(tmp_path).do(block)
    assert [block.output for block in blocks_of(text)] == [None, "1\n"]

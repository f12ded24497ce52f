"""Breakages that can be rerun: for each kernel that is broken on purpose, does a test notice?

    python benchmarks/breakages.py [--only arrays nets.excess ...] [--timeout 600]

The package and its tests are copied to a temporary folder. There the named tests must pass; then one text of
`breakage_list.py` at a time is replaced, the test that must notice is run on the copy, and the file is restored. Prints
a Markdown table (module, broken how, noticed by) and ends with status 1 where a test still passes: NOT NOTICED. A text
that does not occur exactly once in its file, or a test that does not exist, ends it before anything is run.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from breakage_list import BREAKAGES, Breakage

ROOT = Path(__file__).resolve().parents[1]
COPIED = ("featattn_neuro", "tests", "pyproject.toml", "data_manifest.yaml")
NOT_NOTICED = "NOT NOTICED"


@dataclass(frozen=True)
class Outcome:
    """Exit status of pytest (-1: stopped at the time limit), the first test that failed, and what was printed."""

    status: int
    failed: str
    printed: str

    @property
    def noticed(self) -> bool:
        """Whether a test failed; an error before any test ran is none."""
        return self.status == 1 and bool(self.failed)


def problems(root: Path, breakages: Sequence[Breakage]) -> list[str]:
    """What is wrong with the list itself: a text that is not there exactly once, a test that does not exist."""
    found = []
    for one in breakages:
        path = root / one.file
        count = path.read_text(encoding="utf-8").count(one.old) if path.is_file() else 0
        if count != 1:
            found.append(f"{one.file}: wanted the text exactly once; it occurs {count} times: {one.old!r}")
        if one.old == one.new:
            found.append(f"{one.file}: the new text is the old one: {one.old!r}")
        if not exists(root, one.test):
            found.append(f"{one.file}: there is no test {one.test}")
    return found


def exists(root: Path, test: str) -> bool:
    """Whether a test file, or the function of a node in it, is there."""
    file, _, node = test.partition("::")
    path = root / file
    name = re.escape(node.partition("[")[0].rpartition("::")[2])
    return path.is_file() and (
        not node or bool(re.search(rf"^\s*def {name}\(", path.read_text(encoding="utf-8"), re.MULTILINE))
    )


@contextmanager
def copied(root: Path) -> Iterator[Path]:
    """A temporary folder with the package and its tests."""
    with tempfile.TemporaryDirectory(prefix="breakages-") as folder:
        for name in COPIED:
            source = root / name
            if source.is_dir():
                shutil.copytree(source, Path(folder) / name)
            elif source.is_file():
                shutil.copy2(source, Path(folder) / name)
        yield Path(folder)


def environment(root: Path, folder: Path) -> dict[str, str]:
    """Of a test process: the copy is what is imported; no byte code of a broken file stays behind."""
    found = {**os.environ, "PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1", "OMP_NUM_THREADS": "1"}
    data = root.parent / "shared" / "data"  # next to the checkout, not to the copy
    if "FEATATTN_DATA" not in found and data.is_dir():
        found["FEATATTN_DATA"] = str(data)
    return found


def run_tests(root: Path, folder: Path, tests: Sequence[str], timeout: float) -> Outcome:
    """Run tests on the copy, up to the first that fails."""
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-ra", "-p", "no:cacheprovider", "--tb=line", *tests]
    try:
        done = subprocess.run(
            command, cwd=folder, env=environment(root, folder), capture_output=True, text=True, timeout=timeout,
            check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return Outcome(-1, "", f"did not end in {timeout:g} s")
    names = re.findall(r"^FAILED \S+?::(.+?)(?: - .*)?$", done.stdout, re.MULTILINE)
    return Outcome(done.returncode, names[0] if names else "", done.stdout + done.stderr)


def check_copy(root: Path, folder: Path) -> None:
    """End where the tests would import the package from elsewhere: nothing would be noticed, or everything."""
    command = [sys.executable, "-c", "import featattn_neuro; print(featattn_neuro.__file__)"]
    done = subprocess.run(
        command, cwd=folder, env=environment(root, folder), capture_output=True, text=True, check=True
    )
    if not Path(done.stdout.strip()).resolve().is_relative_to(folder.resolve()):
        raise SystemExit(f"wanted the package in {folder}; Python imports {done.stdout.strip()}; check PYTHONPATH")


def try_one(root: Path, folder: Path, breakage: Breakage, timeout: float) -> Outcome:
    """Break the copy, run the test that must notice, restore the copy."""
    path = folder / breakage.file
    text = path.read_text(encoding="utf-8")
    path.write_text(text.replace(breakage.old, breakage.new), encoding="utf-8")
    try:
        return run_tests(root, folder, [breakage.test], timeout)
    finally:
        path.write_text(text, encoding="utf-8")


def verdict(outcome: Outcome) -> str:
    """The last cell of a row."""
    if outcome.noticed:
        return f"`{outcome.failed}`"
    if outcome.status == 0:
        return NOT_NOTICED
    reason = (
        outcome.printed if outcome.status < 0 else f"pytest ended with status {outcome.status} before a test failed"
    )
    return f"{NOT_NOTICED}: {reason}"


def try_all(root: Path, breakages: Sequence[Breakage], *, timeout: float = 600.0) -> int:
    """Print the table; 0 if every breakage was noticed."""
    wrong = problems(root, breakages)
    if wrong:
        raise SystemExit("\n".join(wrong))
    missed, before = 0, ""
    with copied(root) as folder:
        check_copy(root, folder)
        whole = run_tests(root, folder, list(dict.fromkeys(one.test for one in breakages)), timeout * len(breakages))
        if whole.status:
            raise SystemExit(f"wanted tests that pass before anything is broken; came\n{whole.printed}")
        print("| module | broken how | noticed by |\n|---|---|---|", flush=True)
        for one in breakages:
            outcome = try_one(root, folder, one, timeout)
            missed += not outcome.noticed
            name = "" if one.module == before else f"`{one.module}`"
            print(f"| {name} | {one.how} | {verdict(outcome)} |", flush=True)
            before = one.module
    return int(missed > 0)


def chosen(breakages: Sequence[Breakage], only: Sequence[str]) -> list[Breakage]:
    """Breakages of the modules whose names begin with one of `only`; all where it is empty."""
    found = [one for one in breakages if not only or one.module.startswith(tuple(only))]
    if not found:
        known = ", ".join(dict.fromkeys(one.module for one in breakages))
        raise SystemExit(f"no breakage of {', '.join(only)}; there are: {known}")
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", default=[], help="modules whose names begin so: arrays, nets.excess")
    parser.add_argument("--timeout", type=float, default=600.0, help="seconds for one test")
    args = parser.parse_args()
    return try_all(ROOT, chosen(BREAKAGES, args.only), timeout=args.timeout)


if __name__ == "__main__":
    sys.exit(main())

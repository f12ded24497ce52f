"""The page on statistics answers every point a reviewer looks for, by tests and sections that exist."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "statistics.md").read_text(encoding="utf-8")
TESTS = {
    name
    for file in (ROOT / "tests").rglob("test_*.py")
    for name in re.findall(r"^def (test_\w+)", file.read_text(encoding="utf-8"), re.MULTILINE)
}
POINTS = re.findall(r"^\| (\d+) \| (.+?) \| (.+?) \|$", PAGE, re.MULTILINE)


def anchor(heading: str) -> str:
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def anchors(page: str) -> set[str]:
    return {anchor(text) for text in re.findall(r"^#+ (.+)$", page, re.MULTILINE)}


def test_all_38_points_are_there_in_order():
    assert [int(number) for number, _, _ in POINTS] == list(range(1, 39))


@pytest.mark.parametrize(("number", "point", "answer"), POINTS)
def test_each_point_names_tests_or_sections_that_exist(number, point, answer):
    named = re.findall(r"`(test_\w+)`", answer)
    linked = re.findall(r"\]\(#([\w-]+)\)", answer)
    assert named or linked, f"point {number} ({point}) is not answered"
    assert set(named) <= TESTS, f"point {number}: {sorted(set(named) - TESTS)} do not exist"
    assert set(linked) <= anchors(PAGE), f"point {number}: no section {sorted(set(linked) - anchors(PAGE))}"


def test_sections_that_answer_a_point_say_something():
    """A section that is the only answer to a point has words to it, and names the point's remedy in code or figures."""
    alone = [re.findall(r"\]\(#([\w-]+)\)", answer) for _, _, answer in POINTS if "`test_" not in answer]
    sections = {anchor(part.split("\n")[0]): part for part in re.split(r"^## ", PAGE, flags=re.MULTILINE)[1:]}
    for name in {one for found in alone for one in found}:
        assert len(sections[name].split()) > 40, name


def test_modules_and_functions_named_on_the_page_exist():
    import importlib

    for module, name in re.findall(r"`(\w+)\.(\w+)`", PAGE):
        if module in ("benchmarks", "api", "arrays"):
            path = "featattn_neuro.api" if module == "api" else "featattn_neuro.arrays"
            target = importlib.import_module(path)
            assert hasattr(target, name) or importlib.import_module(f"{path}.{name}"), name
        else:
            assert hasattr(importlib.import_module(f"featattn_neuro.measures.{module}"), name), f"{module}.{name}"


def test_rates_and_coverages_on_the_page_are_those_of_the_table():
    """Numbers with three digits are quotations; bounds and effects have fewer."""
    quoted = set(re.findall(r"(?<![\d/])\.\d{3}\b", PAGE.replace("“.052”", "")))
    rows = (ROOT / "benchmarks" / "README.md").read_text(encoding="utf-8").partition("## Calibration of every")[2]
    assert len(quoted) > 15
    assert quoted <= set(re.findall(r"\.\d{3}\b", re.sub(r"\([^)]*\)", "", rows)))


def test_chi_square_rejects_too_often_with_twelve_stimuli():
    """The one rate on the page that is computed: F of one parameter in twelve stimuli, ten degrees of freedom."""
    from scipy import stats

    rate = stats.f.sf(10 * np.expm1(stats.chi2.isf(0.05, 1) / 12), 1, 10)
    assert rate == pytest.approx(0.08, abs=0.005)
    assert "chi-square rejects 8 %" in " ".join(PAGE.split())


@pytest.mark.parametrize(("arm", "count"), [("probe", 8), ("gain", 30), ("gain_head", 38), ("uniform", 2)])
def test_trained_numbers_include_the_head(arm, count):
    """Seven features and a bias for the head; filters of both layers for the gains, one number a layer when uniform."""
    import torch

    from featattn_neuro.nets.learning import Trained

    filters = {"a": 10, "b": 20}
    wide = {"probe": {}, "uniform": dict.fromkeys(filters, 1)}.get(arm, filters)
    theta = {layer: torch.zeros(3, width) for layer, width in wide.items()}
    state = Trained(theta, torch.zeros(3, 7), torch.zeros(3), torch.ones(7), filters)
    assert state.trained_numbers(head=arm in ("probe", "gain_head")) == count

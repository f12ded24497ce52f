"""A fast part of the calibration battery: seeds are fixed, bounds are exact Monte-Carlo limits, not tuned.

A test of an offered method fails when its simulated rejections are incompatible, at 99.9 %, with a true rate of .05 (or
less, for conservative ones); a test of a known-bad method when they are compatible with it.
"""

from __future__ import annotations

import ast
import importlib.util
import re
import sys
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from featattn_neuro.arrays.association import spearman, task_mismatch
from featattn_neuro.arrays.discrimination import dprime, roc_area
from featattn_neuro.arrays.resampling import t_interval, t_test

FOLDER = Path(__file__).parents[1] / "benchmarks"


def load(name: str):
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, FOLDER / f"{name}.py")
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        spec.loader.exec_module(module)
    return sys.modules[name]


PARTS = ("_networks", "_outcomes", "_units", "_contrasts", "_cases", "_covered", "")
networks, _, units, contrasts, cases, covered, calibration = (load(f"calibration{part}") for part in PARTS)


def rows_of(name: str, sims: int) -> dict:
    case = next(one for one in cases.CASES if one.name == name)
    null = case.simulate(np.random.default_rng([2026, len(name)]), sims, 0.0)
    return {row.method: row for row in calibration.summarise(case, null, None)}, null


def hits(outcome) -> tuple[int, int]:
    p = outcome.p[np.isfinite(outcome.p)]
    return int((p <= 0.05 + 1e-12).sum()), p.size


def not_above(outcome, rate: float = 0.05) -> bool:
    k, n = hits(outcome)
    return k <= stats.binom.ppf(0.999, n, rate)


def covers(outcome, level: float = 0.95) -> bool:
    truth = outcome.estimate.mean() if np.isnan(outcome.truth) else outcome.truth
    inside = ((outcome.low <= truth) & (truth <= outcome.high))[np.isfinite(outcome.low)]
    return inside.sum() >= stats.binom.ppf(0.001, inside.size, level)


@pytest.mark.parametrize(("name", "sims"), [("mismatch-5", 250), ("mismatch-10", 120)])
def test_the_primary_test_holds_its_rate_in_single_layers_and_their_mean(name, sims):
    _, found = rows_of(name, sims)
    tests = {method: outcome for method, outcome in found.items() if "task mismatch" in method}
    assert len(tests) == 4
    for method, outcome in tests.items():
        k, n = hits(outcome)
        low, high = stats.binom.ppf([0.001, 0.999], n, 0.05)
        assert low <= k <= high, method
    assert all(covers(outcome) for method, outcome in found.items() if "interval" in method)


OFFERED = ("arms-5", "arms-10", "means-5", "means-5-heavy", "means-10", "area-unbalanced", "area-high", "area-few",
           "pairs-once", "crossed-5-networks", "crossed-5-tasks", "crossed-5-both", "crossed-10-both", "u-5-j",
           "bootstrap-10", "bootstrap-10-skewed", "permuted-gains", "max-t-correlated", "dprime-gauss",
           "dprime-unequal", "tuning", "tuning-sparse", "attention-factor", "attention-added", "saliency-composites",
           "images", "images-most", "partials-5")  # fmt: skip
DEAR = (("selectivity-families", 100), ("saliency-5-permuted", 100), ("saliency-5-covarying", 100),
        ("compare-arms", 100), ("lesions-5", 40), ("chosen-filters", 40), ("rivals-5", 40))  # fmt: skip


@pytest.mark.parametrize(("name", "sims"), [*((name, 300) for name in OFFERED), *DEAR])
def test_what_is_offered_holds_its_rate_and_covers(name, sims):
    _, found = rows_of(name, sims)
    offered = {method: outcome for method, outcome in found.items() if outcome.role == cases.OFFERED}
    assert offered
    for method, outcome in offered.items():
        if outcome.p is not None:
            assert not_above(outcome), method
        if outcome.low is not None:
            assert covers(outcome), method


BAD = (("arms-5-shared", 300), ("pairs-reused", 300), ("crossed-5-tasks", 300), ("bootstrap-5", 300),
       ("naive-calibration", 60), ("refit-informed", 40), ("u-5-j", 300), ("max-t", 60),
       ("selectivity-trials", 300), ("selectivity-sources", 300))  # fmt: skip


@pytest.mark.parametrize(("name", "sims"), BAD)
def test_methods_known_to_fail_do_fail(name, sims):
    _, found = rows_of(name, sims)
    bad = {method: outcome for method, outcome in found.items() if outcome.role == cases.BAD}
    assert bad
    for method, outcome in bad.items():
        assert not not_above(outcome), method


def test_a_random_intercept_alone_rejects_true_nulls():
    _, found = rows_of("mixed-5", 30)
    slope = found["mixed model, random intercept and slope (t, groups − 1)"]
    assert not_above(slope)
    assert not not_above(found["mixed model, random intercept only"])


def test_planted_effects_are_found():
    case = next(one for one in cases.CASES if one.name == "mismatch-5")
    found = case.simulate(np.random.default_rng(1), 40, case.effect)
    assert (found["T3 task mismatch, mean of layers"].p <= 0.05).mean() > 0.8


def test_the_vectorised_copies_are_the_packages_functions():
    rng = np.random.default_rng(0)
    responses = np.maximum(rng.normal(size=(2, 5, 40)), 0)
    target = rng.random((2, 3, 40)) < 0.3
    found = networks.absolute_dprime(responses, target.astype(float))
    for net in range(2):
        np.testing.assert_allclose(found[net], np.abs(dprime(responses[net], target[net])), rtol=1e-10)
    values = rng.normal(size=(4, 6))
    np.testing.assert_allclose(networks.t_p(values), [t_test(row) for row in values])
    np.testing.assert_allclose(np.array(networks.t_ends(values)).T, [t_interval(row) for row in values])
    z = rng.normal(size=(3, 4, 4))
    wanted = task_mismatch(z, permutations=9, rng=rng)
    np.testing.assert_allclose(networks.matched(z), wanted.matched)
    np.testing.assert_allclose(networks.specific(z), wanted.specific)
    x, y = rng.normal(size=(2, 20))
    rho = spearman(x, y)
    assert float(networks.spearman_p(rho, 20)) == pytest.approx(stats.spearmanr(x, y).pvalue)


def test_the_area_of_rectified_responses_has_its_closed_form():
    rng = np.random.default_rng(0)
    target = np.arange(400_000) < 200_000
    values = np.maximum(rng.normal(size=400_000) + 1.3 * target, 0)
    assert cases.rectified_area(1.3) == pytest.approx(float(roc_area(values, target)), abs=0.003)
    assert cases.rectified_area(0.0) == pytest.approx(0.5)


def test_simulated_networks_have_ties_and_correlated_filters():
    design = networks.Design(networks=2, tasks=5, layers=((12, 3),), stimuli=60)
    one = networks.draw(design, np.random.default_rng(0))
    assert one.z.shape == (1, 2, 5, 5)
    assert np.isfinite(one.z).all()


def test_monte_carlo_limits_are_exact():
    share, low, high = calibration.limits(100, 2000)
    assert share == 0.05
    assert stats.binom.cdf(100, 2000, high) == pytest.approx(0.005, rel=1e-3)
    assert stats.binom.sf(99, 2000, low) == pytest.approx(0.005, rel=1e-3)


NOTHING = (float("nan"),) * 3


@pytest.mark.parametrize(
    ("role", "rate", "coverage", "verdict"),
    [
        ("offered", (0.05, 0.04, 0.063), NOTHING, "calibrated"),
        ("offered", (0.02, 0.01, 0.03), NOTHING, "conservative"),
        ("offered", (0.06, 0.047, 0.075), NOTHING, "FAILS: false positives not shown to be below .07"),
        ("offered", (0.09, 0.07, 0.11), NOTHING, "FAILS: false positives"),
        ("offered", NOTHING, (0.9, 0.88, 0.93), "FAILS: coverage"),
        ("offered", NOTHING, (0.94, 0.925, 0.955), "calibrated"),
        ("known bad", (0.4, 0.3, 0.5), NOTHING, "fails: false positives"),
        ("known bad", (0.06, 0.047, 0.075), NOTHING, "holds in this null"),
    ],
)
def test_verdicts_follow_the_limits(role, rate, coverage, verdict):
    assert calibration.judge(role, rate, coverage) == verdict


def test_one_case_by_name_gives_the_same_table_twice(capsys):
    texts = []
    for _ in range(2):
        assert calibration.main(["--only", "means-10", "--quick", "--workers", "1"]) == 0
        texts.append(capsys.readouterr().out.split("simulations per null or more")[0])
    assert texts[0] == texts[1]
    assert "t over networks" in texts[0]
    with pytest.raises(SystemExit, match="no case begins with 'nothing'"):
        calibration.main(["--only", "nothing"])


def printed(pattern: str = r"(^|_)(p|low)(_|$)") -> dict[str, set[str]]:
    """What the data dictionary and the tables call a p-value or the lower end of an interval."""
    from featattn_neuro.report.columns import COLUMNS
    from featattn_neuro.schema import KINDS

    found = {name: {v for v in kind.variables if re.search(pattern, v)} for name, kind in KINDS.items()}
    found["tables"] = {column for columns in COLUMNS.values() for column in columns if re.search(pattern, column)}
    return {name: names for name, names in found.items() if names}


def test_every_printed_p_and_interval_has_a_case():
    for where, names in printed().items():
        missing = names - set(covered.COVERED.get(where, {})) - set(covered.NO_INTERVAL)
        assert not missing, f"{where}: no case calibrates {sorted(missing)}"
    known = {name for table in covered.COVERED.values() for name in table} | set(covered.NO_INTERVAL)
    for file in (Path(__file__).parents[1] / "featattn_neuro" / "measures").glob("*.py"):
        texts = {
            node.value
            for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
            if isinstance(node, ast.Constant) and isinstance(node.value, str)
        }
        named = {text for text in texts if re.fullmatch(r"p|[a-z]+_p|p_[a-z_]+|[a-z0-9]+_low|low", text)}
        assert named <= known, f"{file.name}: no case calibrates {sorted(named - known)}"


def test_every_case_that_is_said_to_cover_exists_and_all_offered_ones_are_said():
    names = [case.name for case in cases.CASES]
    assert len(set(names)) == len(names)
    used = set()
    for where, table in covered.COVERED.items():
        for name, patterns in table.items():
            for pattern in patterns:
                found = covered.matching(pattern, names)
                assert found, f"{where} {name}: there is no case {pattern}"
                used |= set(found)
    assert used == set(names)
    assert "| SELECTIVITY | `dprime_p` | `selectivity-families`" in covered.covered_table()

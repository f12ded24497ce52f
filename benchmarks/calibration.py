"""False positives, coverage and power of every p-value and interval that the package prints, by simulation.

    python benchmarks/calibration.py                    all cases, 2,000 simulations each (more where cheap)
    python benchmarks/calibration.py --quick            60 simulations each: does everything run?
    python benchmarks/calibration.py --only mismatch-5  one case, or all whose names begin so
    python benchmarks/calibration.py --covered          which cases cover which printed p-value or interval

Prints a Markdown table; the copy, with the command, is in benchmarks/README.md. A method that the package offers is
calibrated when the upper 99 % Monte-Carlo limit of its false-positive rate at .05 is at most .07 and the lower limit of
the coverage of its 95 % interval is at least .92; a rate below .03 is called conservative. Methods that are known to
fail are in the same table, so that a reader sees why they are not used. The exit status is 1 when an offered method
fails.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

for _variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_variable, "1")
sys.path.insert(0, str(Path(__file__).resolve().parent))

import numpy as np  # noqa: E402  (threads are fixed before BLAS is loaded)
from calibration_cases import CASES  # noqa: E402  (threads are fixed before BLAS is loaded)
from calibration_covered import covered_table  # noqa: E402
from calibration_outcomes import BAD, BEYOND, DIAGNOSTIC, OFFERED, Case, Outcome  # noqa: E402
from scipy import stats  # noqa: E402

ALPHA = 0.05
RATE_LIMIT, CONSERVATIVE, COVERAGE_LIMIT = 0.07, 0.03, 0.92
CHUNK = 50
TITLES = {
    OFFERED: "Offered",
    DIAGNOSTIC: "Diagnostics, which the package labels as such",
    BEYOND: "Offered tests where their assumption is broken on purpose",
    BAD: "Known to fail, not in the package or refused by it",
}


@dataclass(frozen=True)
class Row:
    """One method in one null: rates with exact 99 % limits (Clopper & Pearson 1934), NaN where there is none."""

    case: str
    null: str
    method: str
    role: str
    rate: tuple[float, float, float]
    coverage: tuple[float, float, float]
    power: float
    verdict: str


def limits(hits: int, n: int, level: float = 0.99) -> tuple[float, float, float]:
    """Share and its exact Monte-Carlo limits.

    >>> limits(0, 0)
    (nan, nan, nan)
    """
    if n == 0:
        return (float("nan"),) * 3
    interval = stats.binomtest(hits, n).proportion_ci(level, method="exact")
    return hits / n, float(interval.low), float(interval.high)


def run_chunk(job: tuple[int, int, float, tuple[int, ...]]) -> dict[str, Outcome]:
    """`sims` simulations of a case; `key` makes the seed, so results do not depend on the number of processes."""
    index, sims, effect, key = job
    return CASES[index].simulate(np.random.default_rng(list(key)), sims, effect)


def together(parts: Sequence[dict[str, Outcome]]) -> dict[str, Outcome]:
    """Chunks joined."""
    joined = {}
    for name, first in parts[0].items():
        arrays = {
            key: None if getattr(first, key) is None else np.concatenate([getattr(part[name], key) for part in parts])
            for key in ("p", "low", "high", "estimate")
        }
        joined[name] = Outcome(first.role, truth=first.truth, **arrays)
    return joined


def summarise(case: Case, null: dict[str, Outcome], planted: dict[str, Outcome] | None) -> list[Row]:
    """One row per method."""
    rows = []
    for name, found in null.items():
        rate = coverage = limits(0, 0)
        if found.p is not None:
            p = found.p[np.isfinite(found.p)]
            rate = limits(int((p <= ALPHA + 1e-12).sum()), p.size)
        if found.low is not None and found.high is not None:
            truth = (
                float(found.estimate.mean()) if np.isnan(found.truth) and found.estimate is not None else found.truth
            )
            usable = np.isfinite(found.low) & np.isfinite(found.high)
            inside = (found.low <= truth) & (truth <= found.high)
            coverage = limits(int(inside[usable].sum()), int(usable.sum()))
        strong = planted[name].p if planted is not None else None
        power = float((strong <= ALPHA).mean()) if strong is not None else float("nan")
        verdict = judge(found.role, rate, coverage)
        rows.append(Row(case.name, case.null, name, found.role, rate, coverage, power, verdict))
    return rows


def judge(role: str, rate: tuple[float, float, float], coverage: tuple[float, float, float]) -> str:
    """What the limits say: calibrated, conservative, or what is wrong."""
    wrong = []
    if rate[2] > RATE_LIMIT:
        wrong.append("false positives" if rate[1] > ALPHA else "false positives not shown to be below .07")
    if coverage[1] < COVERAGE_LIMIT:
        wrong.append("coverage" if coverage[2] < 0.95 else "coverage not shown to be above .92")
    if wrong and role == OFFERED:
        return "FAILS: " + ", ".join(wrong)
    if role != OFFERED:
        bad = [word for word in wrong if "shown" not in word]
        return "fails: " + ", ".join(bad) if bad else "holds in this null"
    return "conservative" if rate[0] < CONSERVATIVE else "calibrated"


def battery(cases: Iterable[Case], *, sims: int, seed: int, workers: int) -> list[Row]:
    """Rows of all cases, dearest first so that two processes end together."""
    chosen = sorted(cases, key=lambda case: -case.cost)
    size = {case.name: min(CHUNK, sims) for case in chosen}
    jobs, owners = [], []
    for case in chosen:
        index = CASES.index(case)
        asked = sims * case.factor
        for planted, count in ((0, asked), (1, max(1, sims // 4) if case.effect else 0)):
            for start in range(0, count, size[case.name]):
                block = min(size[case.name], count - start)
                key = (seed, index, planted, start)
                jobs.append((index, block, case.effect if planted else 0.0, key))
                owners.append((case.name, planted))
    if workers == 1:
        results = [run_chunk(job) for job in jobs]
    else:
        with ProcessPoolExecutor(workers) as pool:
            results = list(pool.map(run_chunk, jobs))
    rows = []
    for case in cases:
        null = together([r for r, owner in zip(results, owners, strict=True) if owner == (case.name, 0)])
        planted_parts = [r for r, owner in zip(results, owners, strict=True) if owner == (case.name, 1)]
        rows += summarise(case, null, together(planted_parts) if planted_parts else None)
    return rows


def percent(value: float) -> str:
    """`.052`, or an en dash where there is nothing."""
    return "–" if np.isnan(value) else "1.000" if value == 1 else f"{value:.3f}".removeprefix("0")


def table(rows: Sequence[Row]) -> str:
    """Rows as Markdown, offered methods first, known-bad ones last."""
    head = "| method | null | false positives at .05 (99 % limits) | coverage of 95 % (99 % limits) | power | verdict |"
    lines = []
    for role, title in TITLES.items():
        mine = [row for row in rows if row.role == role]
        if not mine:
            continue
        lines += [f"\n**{title}**\n", head, "|---|---|---|---|---|---|"]
        for row in sorted(mine, key=lambda one: one.method):
            rate, cover = (
                f"{percent(v[0])} ({percent(v[1])}–{percent(v[2])})" if not np.isnan(v[0]) else "–"
                for v in (row.rate, row.coverage)
            )
            lines.append(f"| {row.method} | {row.null} | {rate} | {cover} | {percent(row.power)} | {row.verdict} |")
    return "\n".join(lines)


def chosen_cases(only: str | None) -> list[Case]:
    """All cases, or those whose names begin with `only`."""
    found = [case for case in CASES if only is None or case.name.startswith(only)]
    if not found:
        raise SystemExit(f"no case begins with {only!r}; there are: {', '.join(case.name for case in CASES)}")
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Run, print, and say by the exit status whether every offered method is calibrated."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--simulations", type=int, default=2000, help="per null (a quarter of it for power)")
    parser.add_argument("--quick", action="store_true", help="60 simulations: shows that it runs, nothing else")
    parser.add_argument("--only", help="one case, or the beginning of the names of several")
    parser.add_argument("--covered", action="store_true", help="only print which cases cover what")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args(arguments)
    if options.covered:
        print(covered_table())
        return 0
    sims = 60 if options.quick else options.simulations
    begun = time.perf_counter()
    rows = battery(chosen_cases(options.only), sims=sims, seed=options.seed, workers=options.workers)
    print(table(rows))
    seconds = time.perf_counter() - begun
    print(f"\n{sims} simulations per null or more, seed {options.seed}, {options.workers} processes, {seconds:.0f} s")
    failed = [row for row in rows if row.role == OFFERED and row.verdict.startswith("FAILS")]
    if options.quick:
        print("quick: limits are wide, verdicts mean nothing")
        return 0
    return 1 if failed else 0


if __name__ == "__main__":
    raise SystemExit(main())

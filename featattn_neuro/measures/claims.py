"""Verdicts on the four claims T1-T4. Estimands, nulls, bounds and the order of verdicts are fixed before the data.

The network is the unit of replication: every claim has one number per network, and tasks are fixed. A result that
contradicts a claim is said as plainly as one that supports it. The numbers come from `claim_evidence`, the words from
`claim_sentences`; this module decides.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import xarray as xr

from featattn_neuro.arrays.multiplicity import adjust
from featattn_neuro.arrays.resampling import t_interval
from featattn_neuro.errors import DataError, choose
from featattn_neuro.measures.claim_evidence import (
    Evidence,
    gain_evidence,
    saliency_evidence,
    speed_evidence,
    transfer_evidence,
)
from featattn_neuro.measures.claim_sentences import Finding, sentence
from featattn_neuro.schema import CLAIMS

BOUNDS = {"T1": 0.01, "T2": 0.01, "T3": 0.10, "T4": 0.10}
"""Smallest effect of interest: ROC area for T1 and T2, Fisher's z for T3, SDs of the map for T4."""
ALPHA = 0.05
MIN_NETWORKS = 5
"""Below this many networks every verdict is inconclusive."""


def claims(
    scores: Mapping[str, xr.Dataset],
    curves: Mapping[str, xr.Dataset] | None = None,
    associations: Mapping[str, xr.Dataset] | None = None,
    agreements: Mapping[str, xr.Dataset] | None = None,
    *,
    permutations: int = 9999,
    seed: int = 0,
    interval: str = "network",
) -> xr.Dataset:
    """Effect, interval, p and verdict of each claim.

    Parameters
    ----------
    scores : network → SCORES with arms "gain_head" and "probe" (T1), "gain" and "uniform" (its condition); `novel`
        tells novel from trained cells.
    curves : network → CURVES with arms "gain_head" and "full", auc_examples and auc_updates (T2).
    associations : network → ASSOCIATION of `gain_selectivity`, gains of the arm with frozen head (T3).
    agreements : network → AGREEMENT of `saliency_agreement`, same arm (T4); a cell is one composite under one cue.
        None, an empty table or a missing arm makes the claim "not_applicable", and the sentence says why.
    permutations, seed : joint permutations of tasks of T3, and their seed.
    interval : "network": networks are replicates of one design (own seed, own images), and make the intervals; "none":
        they are not, or there is one only: no interval, verdict "inconclusive", each network speaks for itself.

    Returns
    -------
    CLAIMS over claim (T1-T4) and network. Verdict, first that holds: "inconclusive" with fewer than five networks;
    "negligible", 90 % interval inside ± bound; "supported", Holm p <= .05, estimate > 0 and the claim's condition;
    "contradicted", Holm p <= .05 and estimate < 0; "inconclusive". Holm is over those of the four primary tests that
    gave a p. Where all networks have one and the same number the interval has no width: inside the bound that is
    "negligible", and otherwise Student's t has no p (T3's permutation has), so that the claim is "inconclusive".

    T1 u = mean over tasks of AUC(gain_head) - AUC(probe); condition: the same of gain - uniform has a 95 % interval
    above 0, from five networks or more. T2 u1, u2 = area between gain_head and full over log2 examples and over
    updates. T2 has two areas: every rule must hold for both, and a network counts that has both; shown is the one
    nearer 0, with the larger p. T3 u = matched - mismatched z, p by joint permutation of tasks; condition: matched z
    has a 95 % interval above 0, from five networks or more. T4 u = mean cue swap over usable layers.

    Notes
    -----
    Student's t over networks, N - 1 degrees of freedom; Holm 1979; equivalence by two one-sided tests (Schuirmann
    1987): the 90 % interval inside the bound.
    """
    choose(interval, ("network", "none"), "value of interval")
    names = list(
        dict.fromkeys(str(name) for table in (scores, curves, associations, agreements) for name in table or ())
    )
    if not names:
        raise DataError("wanted scores, associations or agreements of one network or more; came none")
    novel = _novel(scores)
    evidence = [
        transfer_evidence(scores, novel),
        speed_evidence(curves or {}, novel),
        gain_evidence(associations or {}, novel, permutations=permutations, seed=seed),
        saliency_evidence(agreements or {}, novel),
    ]
    replicated = interval == "network"
    findings = [_finding(one, replicated=replicated) for one in evidence]
    adjusted = adjust([finding.p for finding in findings], "holm")
    for finding, p_holm in zip(findings, adjusted, strict=True):
        finding.p_holm = float(p_holm)
        finding.verdict = _verdict_of(finding, replicated=replicated)
    counts = {"interval": interval, "permutations": int(permutations), "seed": int(seed), "alpha": ALPHA}
    return CLAIMS.check(_dataset(findings, names, replicated).assign_attrs(counts))


def decide(
    *,
    estimates: Sequence[float],
    intervals_90: Sequence[tuple[float, float]],
    p_holm: float,
    bound: float,
    n_networks: int,
    condition_met: bool,
) -> str:
    """The verdict, first rule that holds; T2 has two estimates, which must agree, the others one.

    >>> decide(
    ...     estimates=[0.05], intervals_90=[(0.04, 0.06)], p_holm=0.01, bound=0.01, n_networks=5, condition_met=True
    ... )
    'supported'
    """
    if n_networks < MIN_NETWORKS:
        return "inconclusive"
    if intervals_90 and all(-bound < low and high < bound for low, high in intervals_90):
        return "negligible"
    if p_holm <= ALPHA and all(value > 0 for value in estimates) and condition_met:
        return "supported"
    if p_holm <= ALPHA and all(value < 0 for value in estimates):
        return "contradicted"
    return "inconclusive"


def _finding(evidence: Evidence, *, replicated: bool) -> Finding:
    """Means and intervals of the evidence; no interval where networks are no replicates."""
    finding = Finding(evidence, BOUNDS[evidence.claim], replicated)
    if evidence.absent:
        return finding
    columns = [np.array(list(numbers.values())) for numbers in evidence.numbers]
    finding.estimates = [_mean(column) for column in columns]
    chosen = int(np.argmin(np.abs(finding.estimates)))
    finding.chosen = chosen
    # both areas of T2 decide, so a network counts that has both
    finding.n_networks = int(np.isfinite(columns).all(axis=0).sum())
    if evidence.condition is not None:
        guard = np.array(list(evidence.condition.values()))
        finding.condition, finding.condition_networks = _mean(guard), int(np.isfinite(guard).sum())
    if replicated:
        finding.intervals = [t_interval(column, 0.95) for column in columns]
        finding.intervals_90 = [t_interval(column, 0.90) for column in columns]
        finding.p = evidence.p
        if evidence.condition is not None:
            finding.condition_interval = t_interval(list(evidence.condition.values()), 0.95)
    elif finding.n_networks == 1 and evidence.claim == "T3":
        finding.p = evidence.p  # the task permutation needs no replicate; it speaks for this network
    finding.condition_met = evidence.condition is None or (
        finding.condition_interval[0] > 0 and finding.condition_networks >= MIN_NETWORKS
    )
    return finding


def _verdict_of(finding: Finding, *, replicated: bool) -> str:
    if finding.evidence.absent:
        return "not_applicable"
    if not replicated:
        return "inconclusive"
    return decide(
        estimates=finding.estimates,
        intervals_90=finding.intervals_90,
        p_holm=finding.p_holm,
        bound=finding.bound,
        n_networks=finding.n_networks,
        condition_met=finding.condition_met,
    )


def _mean(values: np.ndarray) -> float:
    finite = values[np.isfinite(values)]
    return float(finite.mean()) if finite.size else float("nan")


def _novel(scores: Mapping[str, xr.Dataset]) -> dict[str, dict[str, bool]]:
    """network → task → whether reference training omitted the class; empty where the scores do not say."""
    table = {}
    for name, one in scores.items():
        if "novel" in one:
            flags = one["novel"].isel(network=0) if "network" in one["novel"].dims else one["novel"]
            table[str(name)] = {
                str(task): bool(flag) for task, flag in zip(flags["task"].values, flags.values, strict=True)
            }
    return table


def _per_network(tables: Sequence[Mapping[str, float]], names: Sequence[str]) -> np.ndarray:
    return np.array([[table.get(name, np.nan) for name in names] for table in tables], dtype=np.float64)


def _dataset(findings: Sequence[Finding], names: Sequence[str], replicated: bool) -> xr.Dataset:
    evidence = [finding.evidence for finding in findings]
    floats = {
        "estimate": [finding.estimate for finding in findings],
        "ci_low": [finding.interval[0] for finding in findings],
        "ci_high": [finding.interval[1] for finding in findings],
        "ci90_low": [finding.interval_90[0] for finding in findings],
        "ci90_high": [finding.interval_90[1] for finding in findings],
        "p": [finding.p for finding in findings],
        "p_holm": [finding.p_holm for finding in findings],
        "bound": [finding.bound for finding in findings],
        "condition": [finding.condition for finding in findings],
        "condition_low": [finding.condition_interval[0] for finding in findings],
        "condition_high": [finding.condition_interval[1] for finding in findings],
        "novel": [one.novel for one in evidence],
        "trained": [one.trained for one in evidence],
    }
    counts = {
        "n_networks": [finding.n_networks for finding in findings],
        "n_tasks": [one.n_tasks for one in evidence],
        "n_undefined": [one.n_undefined for one in evidence],
        "condition_met": [int(finding.condition_met and not finding.evidence.absent) for finding in findings],
    }
    numbers = [
        one.numbers[finding.chosen] if one.numbers else {} for one, finding in zip(evidence, findings, strict=True)
    ]
    tables = {
        "per_network": _per_network(numbers, names),
        "condition_per_network": _per_network([one.condition or {} for one in evidence], names),
        "p_per_network": _per_network([one.p_networks for one in evidence], names),
    }
    values: dict[str, tuple[tuple[str, ...], np.ndarray]] = {
        **{name: (("claim",), np.array(column, dtype=np.float64)) for name, column in floats.items()},
        **{name: (("claim",), np.array(column, dtype=np.int64)) for name, column in counts.items()},
        **{name: (("claim", "network"), table) for name, table in tables.items()},
        "verdict": (("claim",), np.array([finding.verdict for finding in findings])),
        "sentence": (("claim",), np.array([sentence(finding) for finding in findings])),
    }
    return xr.Dataset(values, {"claim": [one.claim for one in evidence], "network": list(names)})

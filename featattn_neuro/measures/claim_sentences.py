"""Plain words for what was found on a claim, also when the claim fails."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from featattn_neuro.measures.claim_evidence import Evidence

Interval = tuple[float, float]
_NONE: Interval = (float("nan"), float("nan"))

QUANTITY = {
    "T1": "ROC area of gain + head minus probe",
    "T2": "Area between the learning curves of gain + head and full fine-tuning",
    "T3": "Fisher z of gain with selectivity, matched minus mismatched tasks",
    "T4": "Cue swap of the gain-weighted saliency, in SDs of the map",
}
WORDS = {
    "T1": {
        "supported": "learned gains with a new head detect better than a new head alone",
        "contradicted": "learned gains with a new head detect worse than a new head alone",
        "negligible": "adding learned gains to a new head makes no difference that matters",
        "inconclusive": "whether learned gains add to a new head is not decided",
    },
    "T2": {
        "supported": "gain + head learns faster than full fine-tuning, over examples and over updates",
        "contradicted": "gain + head learns slower than full fine-tuning, over examples and over updates",
        "negligible": "gain + head and full fine-tuning learn equally fast, over examples and over updates",
        "inconclusive": "whether gain + head learns faster than full fine-tuning is not decided",
    },
    "T3": {
        "supported": "filters that discriminate a task best are amplified most by the gains of that task",
        "contradicted": "the gains of a task follow the selectivity of other tasks more than that of their own",
        "negligible": "gains follow the selectivity of their own task no more than that of other tasks",
        "inconclusive": "whether gains follow the selectivity of their own task is not decided",
    },
    "T4": {
        "supported": "gains amplify the cued object more than the other object of the same image",
        "contradicted": "gains amplify the cued object less than the other object of the same image",
        "negligible": "gains do not favour the cued object by an amount that matters",
        "inconclusive": "whether gains amplify the cued object is not decided",
    },
}


@dataclass
class Finding:
    """Evidence with its means, intervals and verdict. NaN = not computed."""

    evidence: Evidence
    bound: float
    replicated: bool
    estimates: list[float] = field(default_factory=list)
    intervals: list[Interval] = field(default_factory=list)
    intervals_90: list[Interval] = field(default_factory=list)
    chosen: int = 0
    n_networks: int = 0
    condition: float = float("nan")
    condition_networks: int = 0
    condition_interval: Interval = _NONE
    condition_met: bool = False
    p: float = float("nan")
    p_holm: float = float("nan")
    verdict: str = ""

    @property
    def estimate(self) -> float:
        return self.estimates[self.chosen] if self.estimates else float("nan")

    @property
    def interval(self) -> Interval:
        return self.intervals[self.chosen] if self.intervals else _NONE

    @property
    def interval_90(self) -> Interval:
        return self.intervals_90[self.chosen] if self.intervals_90 else _NONE


def sentence(finding: Finding) -> str:
    """One line: verdict, words, effect, interval, N, p, and what else must be said beside them."""
    evidence = finding.evidence
    head = f"{evidence.claim} {finding.verdict.replace('_', ' ')}"
    if evidence.absent:
        return f"{head}: not tested, because {evidence.absent}."
    if not finding.replicated or finding.n_networks < 2:
        return f"{head}: {_each_network(finding)}"
    low, high = finding.interval
    tasks = f", {evidence.n_tasks} tasks" if evidence.n_tasks else ""
    parts = [
        f"{head}: {WORDS[evidence.claim][finding.verdict]}.",
        f"{QUANTITY[evidence.claim]} {finding.estimate:+.4f}, 95 % interval [{low:+.4f}, {high:+.4f}], "
        f"N = {finding.n_networks} networks{tasks}, {_p('p', finding.p)}, {_p('Holm p', finding.p_holm)}.",
        *_why(finding),
        *_beside(finding),
    ]
    return " ".join(parts)


def _each_network(finding: Finding) -> str:
    """No interval over networks: each network speaks for itself."""
    evidence = finding.evidence
    numbers = evidence.numbers[finding.chosen]
    if len(numbers) == 1:
        start = "one network, so there is no interval over networks."
    elif not finding.replicated:
        start = "the networks are no replicates of one design, so there is no interval over networks."
    else:
        what = "both values" if len(evidence.numbers) > 1 else "a value"
        start = f"{finding.n_networks} of {len(numbers)} networks have {what}, so there is no interval over networks."
    said = []
    for name, value in numbers.items():
        p = evidence.p_networks.get(name, float("nan"))
        permuted = f" ({_p('task-permutation p', p)})" if math.isfinite(p) else ""
        said.append(f"{name}: in this network {value:+.4f}{permuted}" if math.isfinite(value) else f"{name}: undefined")
    parts = [start, f"{QUANTITY[evidence.claim]}: {'; '.join(said)}.", *_beside(finding)]
    return " ".join(parts)


def _why(finding: Finding) -> list[str]:
    """What decided, where the verdict alone does not say it."""
    claim, verdict = finding.evidence.claim, finding.verdict
    low, high = finding.condition_interval
    interval = f"{finding.condition:+.4f}, 95 % interval [{low:+.4f}, {high:+.4f}]"
    parts = []
    if finding.n_networks < 5:
        parts.append("Fewer than five networks: no verdict.")
    if verdict == "negligible":
        inside = finding.interval_90
        parts.append(
            f"The 90 % interval [{inside[0]:+.4f}, {inside[1]:+.4f}] lies inside ±{finding.bound:g}; "
            f"the sign is {'positive' if finding.estimate > 0 else 'negative' if finding.estimate < 0 else 'zero'}."
        )
    # significant, positive and no equivalence, yet inconclusive: only the further condition can have failed
    unmet = finding.n_networks >= 5 and verdict == "inconclusive" and finding.p_holm <= 0.05 and finding.estimate > 0
    if claim == "T1":
        beats = "beats" if low > 0 else "does not clearly beat"
        parts.append(f"Gain with frozen head {beats} one scalar a layer (uniform): {interval}.")
        if low > 0 and finding.condition_networks < 5 <= finding.n_networks:
            parts.append(f"That is from {finding.condition_networks} networks, fewer than five: it does not count.")
    if claim == "T3":
        parts.append(f"Matched z {interval}.")
        if unmet:
            parts.append("Specific but not positive.")
        # a verdict that is withheld, or an effect that Holm or the bound took away, is no sign of its absence
        above = finding.interval[0] > 0
        if finding.n_networks >= 5 and finding.condition_met and verdict != "supported" and not above:
            parts.append("Generic only: filters useful for any task.")
    return parts


def _beside(finding: Finding) -> list[str]:
    """Both areas of T2, novel and trained cells apart, layers of T4, undefined cells."""
    evidence = finding.evidence
    parts = []
    if evidence.claim == "T2":
        parts.append(f"Over examples {finding.estimates[0]:+.4f}, over updates {finding.estimates[1]:+.4f}.")
    if math.isfinite(evidence.novel):  # without novel classes, all cells are trained ones: nothing to print apart
        trained = f"trained cells {evidence.trained:+.4f}" if math.isfinite(evidence.trained) else "no trained cells"
        parts.append(f"Novel cells {evidence.novel:+.4f}, {trained}.")
    if evidence.layers:
        parts.append(f"Layers: {', '.join(evidence.layers)}.")
    parts.append(f"Undefined cells left out: {evidence.n_undefined}.")
    return parts


def _p(name: str, value: float) -> str:
    """p with its name, to two significant digits, never 0.

    >>> _p("p", 0.0312), _p("Holm p", 1e-6)
    ('p = 0.031', 'Holm p < 0.0001')
    """
    if not math.isfinite(value):
        return f"{name} not computed"
    return f"{name} = {value:.2g}" if value >= 1e-4 else f"{name} < 0.0001"

"""Verdicts on the claims."""

from __future__ import annotations

from featattn_neuro.schema.base import Kind, Variable
from featattn_neuro.schema.parts import text

CLAIMS = Kind(
    "CLAIMS",
    "verdicts on the claims T1-T4",
    {
        "estimate": Variable(("claim",), "float", "mean over networks; units of the claim's score"),
        "ci_low": Variable(("claim",), "float", "lower end of the 95 % t interval over networks"),
        "ci_high": Variable(("claim",), "float", "upper end"),
        "p": Variable(("claim",), "float", "two-sided p of the primary test", low=0, high=1),
        "p_holm": Variable(("claim",), "float", "the same after Holm over the four claims", low=0, high=1),
        "bound": Variable(("claim",), "float", "smallest effect of interest, fixed before the data"),
        "n_networks": Variable(("claim",), "int", "replicate networks"),
        "n_tasks": Variable(("claim",), "int", "tasks"),
        "n_undefined": Variable(("claim",), "int", "undefined cells left out"),
        "condition_met": Variable(("claim",), "int", "1 if the claim's further condition holds"),
        "verdict": Variable(("claim",), "text", "negligible, supported, contradicted, inconclusive or not_applicable"),
        "sentence": Variable(("claim",), "text", "the finding in plain words"),
        "per_network": Variable(("claim", "network"), "float", "the claim's number per network"),
        "ci90_low": Variable(("claim",), "float", "lower end of the 90 % t interval (equivalence)", False),
        "ci90_high": Variable(("claim",), "float", "upper end", False),
        "condition": Variable(("claim",), "float", "mean over networks of the further condition's number", False),
        "condition_low": Variable(("claim",), "float", "lower end of its 95 % t interval", False),
        "condition_high": Variable(("claim",), "float", "upper end", False),
        "condition_per_network": Variable(("claim", "network"), "float", "the same per network", False),
        "p_per_network": Variable(("claim", "network"), "float", "task-permutation p of one network", False, (), 0, 1),
        "novel": Variable(("claim",), "float", "estimate over novel cells (class not in reference training)", False),
        "trained": Variable(("claim",), "float", "estimate over trained cells", False),
    },
    {"claim": text("claim", meaning="T1, T2, T3, T4", required=True)},
)

"""What covers what: every p-value and 95 % interval that the package prints, and the cases that calibrate it.

`python benchmarks/calibration.py --covered` prints this as a table. A test compares it with the data dictionary
(`schema/`), the columns of the tables (`report/columns.py`) and the source of `measures/`, so that nothing with a p
or an interval can be added without a case. Names end in * where several cases begin so.
"""

from __future__ import annotations

COVERED: dict[str, dict[str, tuple[str, ...]]] = {
    "SELECTIVITY": {
        "dprime_p": ("selectivity-families", "selectivity-spread*"),
        "auc_p": ("selectivity-families", "selectivity-spread*", "selectivity-trials", "selectivity-sources"),
        "dprime_p_corrected": ("selectivity-families", "max-t*"),
        "auc_p_corrected": ("selectivity-families", "max-t*"),
        "auc_low": ("area-*",),
        "dprime_low": ("dprime-*",),
    },
    "ASSOCIATION": {
        "p_task_permutation": ("one-network",),
        "p_pooled": ("mismatch-*",),
        "p_filter_permutation": ("naive-*",),
        "rho_standard_error": ("naive-*",),
        "partial": ("partials-5*",),
        "refit_null": ("refit-*",),
    },
    "CLAIMS": {
        "p": ("mismatch-*", "arms-*", "means-*", "saliency-5-*", "saliency-10-*"),
        "p_holm": ("means-*",),
        "p_per_network": ("one-network",),
        "ci_low": ("mismatch-*", "arms-*", "means-*", "saliency-5-*", "saliency-10-*"),
        "ci90_low": ("means-*",),
        "condition_low": ("arms-*", "mismatch-*"),
    },
    "SCORES": {
        "difference_low_probe": ("compare-arms*", "pairs-*"),
        "difference_low_ungained": ("compare-arms*", "pairs-*"),
    },
    "AGREEMENT": {
        "p_permuted": ("permuted-gains*",),
        "score_low": ("saliency-composites",),
        "localisation_low": ("images*",),
        "localisation_p": ("localisation-permuted*",),
    },
    "CAUSAL": {"area_low": ("images*",)},
    "TUNING": {"p_selective": ("tuning*",), "low": ("tuning*",)},
    "ATTENTION": {
        "p_both": ("attention-*",),
        "gain_low": ("attention-*",),
        "shift_low": ("attention-*",),
        "exponent_low": ("attention-width",),
        "p_width": ("attention-curves",),
        "curve_width_change_low": ("attention-curves",),
        "model": ("attention-none",),
    },
    "MATCH": {"difference_low": ("match-change*",)},
    "tables": {
        "p": ("one-network", "mismatch-*"),
        "p_holm": ("means-*",),
        "p_pooled": ("mismatch-*",),
        "p_task_permutation": ("one-network",),
        "p_permuted": ("permuted-gains*", "localisation-permuted*"),
        "dprime_p": ("selectivity-families",),
        "auc_p": ("selectivity-families",),
        "dprime_p_corrected": ("selectivity-families",),
        "auc_p_corrected": ("selectivity-families",),
        "auc_low": ("area-*",),
        "dprime_low": ("dprime-*",),
        "difference_low_probe": ("compare-arms*", "pairs-*", "arms-*"),
        "difference_low_ungained": ("compare-arms*", "pairs-*", "arms-*"),
        "score_low": ("saliency-composites",),
        "low": ("images*",),
        "ci_low": ("mismatch-*", "arms-*", "means-*"),
        "ci90_low": ("means-*",),
        "condition_low": ("arms-*", "mismatch-*"),
    },
    "measures.arms.compare_arms": {
        "p": ("compare-arms*", "pairs-*"),
        "p_holm": ("compare-arms*",),
        "ci_low": ("compare-arms*", "pairs-*"),
    },
    "measures.network_tests": {
        "p": ("crossed-*", "means-*", "u-*"),
        "ci_low": ("crossed-*", "means-*", "mismatch-*", "disattenuated-10"),
    },
    "measures.mixed_model": {
        "p": ("mixed-5",),
        "layer_slope_p": ("mixed-5",),
        "layer_slope_low": ("means-*", "mixed-5"),
    },
    "measures.families.adjust_family": {"p_adjusted": ("selectivity-families", "means-*")},
    "measures.rivals.compare_rivals": {"p": ("rivals-5",), "ci_low": ("rivals-5",)},
    "measures.filter_sets.set_effects": {"p": ("lesions-one*",)},
    "measures.filter_sets.pool_set_effects": {"p": ("lesions-5",), "ci_low": ("lesions-5",)},
    "measures.filter_matching.gain_selectivity_in": {"p_random": ("chosen-filters*",)},
    "measures.association_errors.filter_permutation": {"p": ("naive-*",)},
    "measures.secondary": {"ci_low": ("mismatch-*", "arms-*", "means-*", "partials-5*")},
    "arrays.class_selectivity.eta_squared": {"p": ("omnibus*",)},
    "arrays.choice.neurometric_function": {"status": ("neurometric",)},
    "arrays.roc.delong_interval": {"low": ("area-*",)},
    "arrays.resampling.bootstrap_t_interval": {"low": ("bootstrap-*",)},
    "arrays.area_interval.roc_area_interval": {"low": ("area-*",)},
}
"""where it is printed → name → cases. `low` stands for both ends."""

NO_INTERVAL = {
    "ceiling_low": "the lower of two noise ceilings (Nili 2014), not an end of an interval",
}
"""Names that look like one end of an interval and are none."""


def matching(pattern: str, names: list[str]) -> list[str]:
    """Cases that a name, or the beginning of names with *, stands for.

    >>> matching("u-*", ["u-5", "u-10-j", "means-5"]), matching("u-5", ["u-5", "u-5-j"])
    (['u-5', 'u-10-j'], ['u-5'])
    """
    if pattern.endswith("*"):
        return [name for name in names if name.startswith(pattern[:-1])]
    return [name for name in names if name == pattern]


def covered_table() -> str:
    """The table as Markdown."""
    lines = ["| printed in | p-value or interval | cases |", "|---|---|---|"]
    for where, quantities in COVERED.items():
        lines += [
            f"| {where} | `{name}` | {', '.join(f'`{case}`' for case in cases)} |" for name, cases in quantities.items()
        ]
    return "\n".join(lines)

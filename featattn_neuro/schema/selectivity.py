"""What units tell of a task, alone and together, and whether gains go with it."""

from __future__ import annotations

from featattn_neuro.schema.base import Kind, Variable
from featattn_neuro.schema.parts import PLACE, UNIT, text

SELECTIVITY = Kind(
    "SELECTIVITY",
    "how well each unit tells targets from distractors",
    {
        "dprime": Variable(("unit",), "float", "(mean target - mean distractor) / rms SD; SDs", extra=("task",)),
        "auc": Variable(("unit",), "float", "P(target > distractor) + P(equal)/2", extra=("task",), low=0, high=1),
        "status": Variable(("unit",), "text", "reason code, see STATUS", extra=("task",)),
        "dprime_floor": Variable(("unit",), "float", "mean |d'| over label permutations", False, extra=("task",)),
        "auc_low": Variable(("unit",), "float", "lower end of its 95 % interval", False, extra=("task",)),
        "auc_high": Variable(("unit",), "float", "upper end of its 95 % interval", False, extra=("task",)),
        "interval_status": Variable(
            ("unit",), "text", "why the interval is NaN: constant = area 0 or 1, else status", False, extra=("task",)
        ),
        "n_target": Variable((), "int", "number of target stimuli", False, extra=("task", "unit")),
        "n_distractor": Variable((), "int", "number of distractor stimuli", False, extra=("task", "unit")),
        "auc_floor": Variable(("unit",), "float", "mean |area - .5| over label permutations", False, extra=("task",)),
        "dprime_low": Variable(("unit",), "float", "lower end of the 95 % interval of d'", False, extra=("task",)),
        "dprime_high": Variable(
            ("unit",), "float", "upper end; the attribute dprime_interval says how", False, ("task",)
        ),
        "dprime_p": Variable(("unit",), "float", "two-sided permutation p of d'", False, ("task",), 0, 1),
        "auc_p": Variable(("unit",), "float", "two-sided permutation p of the ROC area", False, ("task",), 0, 1),
        "dprime_p_corrected": Variable(
            ("unit",), "float", "the p of d' corrected over `family`", False, ("task",), 0, 1
        ),
        "auc_p_corrected": Variable(
            ("unit",), "float", "the p of the area corrected over `family`", False, ("task",), 0, 1
        ),
        "family": Variable(("unit",), "text", "which tests are corrected together", False, extra=("task",)),
        "family_size": Variable(("unit",), "int", "defined tests in the family (m)", False, extra=("task",)),
        "eta_squared": Variable(("unit",), "float", "share of variance between labels", False, low=0, high=1),
        "n_nonfinite": Variable(("unit",), "int", "responses that are NaN or infinite", False),
        "first_nonfinite": text("unit", meaning="first stimulus whose response is NaN or infinite; empty: none"),
        "mean_response": Variable(("unit",), "float", "mean response over all stimuli", False),
        "sd_response": Variable(("unit",), "float", "SD of the response over all stimuli", False),
        "zero_fraction": Variable(("unit",), "float", "fraction of stimuli with response 0", False, low=0, high=1),
        "leverage_dprime": Variable(("unit",), "float", "d' of the leverage (optimiser check)", False, extra=("task",)),
        "live": Variable(("unit",), "int", "1 if the filter has variance in each class of every task", False),
        "selection_source": text("source", meaning="ids of the source stimuli that selectivity was measured on"),
    },
    {**UNIT, **PLACE, "task": text("task", meaning="name of the task")},
)

_PAIR = ("network", "measure", "task", "selectivity_task")
ASSOCIATION = Kind(
    "ASSOCIATION",
    "association of gain with selectivity, within layers",
    {
        "rho": Variable(("layer",), "float", "correlation over live filters (see method)", extra=_PAIR, low=-1, high=1),
        "n_live": Variable(("layer",), "int", "live filters", extra=("network",)),
        "status": Variable(("layer",), "text", "reason code, see STATUS", extra=("network",)),
        "z": Variable((), "float", "mean over layers of atanh rho", extra=_PAIR),
        "matched": Variable((), "float", "mean over tasks of z(t, t)", False, extra=("network", "measure")),
        "specific": Variable((), "float", "matched minus mismatched", False, extra=("network", "measure")),
        "p_task_permutation": Variable(
            (), "float", "joint permutation of tasks", False, extra=("network", "measure"), low=0, high=1
        ),
        "p_pooled": Variable((), "float", "the same over all networks", False, extra=("measure",), low=0, high=1),
        "partial": Variable(
            ("layer", "covariate"), "float", "partial Spearman given the covariate", False, extra=("network", "task")
        ),
        "gain_reliability": Variable(
            ("layer",), "float", "Spearman of gains from disjoint halves of G", False, extra=("network",)
        ),
        "selectivity_reliability": Variable(
            ("layer",), "float", "Spearman of |d'| from disjoint halves of S", False, extra=("network",)
        ),
        "refit_null": Variable(
            ("layer", "refit"), "float", "atanh rho of gains refitted to permuted labels", False, extra=("network",)
        ),
        "rho_standard_error": Variable(
            ("layer",),
            "float",
            "SD of rho from the covariance of refitted gain ranks",
            False,
            ("network", "task"),
            0,
            1,
        ),
        "p_filter_permutation": Variable(
            ("layer",), "float", "filters permuted within layer; anticonservative", False, ("network", "task"), 0, 1
        ),
    },
)

POPULATION = Kind(
    "POPULATION",
    "what a linear read-out of all units of a layer tells",
    {
        "dprime": Variable(("layer",), "float", "cross-validated d' of the best linear read-out, SDs", extra=("task",)),
        "ungained": Variable(("layer",), "float", "the same without gains, same folds", False, extra=("task",)),
        "change": Variable(("layer",), "float", "dprime minus ungained", False, extra=("task",)),
        "n_units": Variable(("layer",), "int", "units that were read out"),
        "status": Variable(("layer",), "text", "reason code, see STATUS", extra=("task",)),
    },
    {"layer": text("layer", meaning="layer, downstream last"), "task": text("task", meaning="name of the task")},
)

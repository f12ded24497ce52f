"""Columns of the tables are frozen: who reads them by name finds them again, until the version says otherwise."""

from __future__ import annotations

import pytest

from featattn_neuro.report.columns import COLUMNS, TABLES_VERSION

FROZEN: dict[int, dict[str, str]] = {
    2: {
        "selectivity": (
            "network task unit layer channel dprime auc auc_low auc_high status live dprime_floor leverage_dprime "
            "mean_response sd_response zero_fraction n_target n_distractor interval_status dprime_low dprime_high "
            "auc_floor dprime_p auc_p dprime_p_corrected auc_p_corrected family family_size eta_squared"
        ),
        "gains": "network arm task unit layer channel gain",
        "association": "network measure task selectivity_task layer rho n_live status z",
        "association_summary": "network measure matched specific p_task_permutation p_pooled",
        "association_checks": "network check layer task item value",
        "arms": (
            "network arm task auc status novel trained_numbers rate penalty difference_probe difference_low_probe "
            "difference_high_probe difference_ungained difference_low_ungained difference_high_ungained "
            "criterion_updates to_criterion_updates area_updates criterion_examples to_criterion_examples "
            "area_examples reference_score reference_score_off strength strength_best_on_test auc_best_on_test"
        ),
        "arms_summary": (
            "arm n_networks auc difference_probe difference_low_probe difference_high_probe difference_ungained "
            "difference_low_ungained difference_high_ungained trained_numbers area_updates area_examples "
            "to_criterion_updates to_criterion_examples reference_score reference_score_off at_end_of_search"
        ),
        "curves": "network arm task axis at auc",
        "choices": "network arm task choice rate penalty strength auc",
        "saliency": (
            "network layer layer_score null_mean null_sd p_permuted mass_in_mask mass_in_mask_plain usable "
            "share_resolved mask_cells status score_low score_high randomised_score"
        ),
        "localisation": "network layer localiser map mean low high status null_mean null_sd p_permuted",
        "saliency_stimuli": "network layer stimulus label cue_swap",
        "doses": "network task dose layer sd_log_gain auc",
        "claims": (
            "claim verdict estimate ci_low ci_high p p_holm bound n_networks n_tasks n_undefined condition_met "
            "sentence ci90_low ci90_high condition condition_low condition_high novel trained"
        ),
        "claims_by_network": "claim network value condition p",
        "secondary": "claim quantity estimate ci_low ci_high",
    }
}
"""Version to the columns that its tables have had since, in order. A new version gets an entry of its own."""


def lost(frozen: dict[str, str], columns: dict[str, dict[str, str]]) -> list[str]:
    """Columns that are gone, and tables whose columns are in another order."""
    found = []
    for table, names in frozen.items():
        now = list(columns.get(table, {}))
        found += [f"{table}.{name}" for name in names.split() if name not in now]
        if [name for name in now if name in names.split()] != [name for name in names.split() if name in now]:
            found.append(f"{table}: order")
    return found


def test_no_column_is_renamed_or_removed_within_a_version():
    assert TABLES_VERSION in FROZEN, "say here which columns the new version freezes"
    gone = lost(FROZEN[TABLES_VERSION], COLUMNS)
    assert not gone, f"raise TABLES_VERSION, or keep {gone}"


@pytest.mark.parametrize(
    ("columns", "gone"),
    [
        ({"t": {"a": "", "b": ""}}, []),
        ({"t": {"a": "", "b": "", "new": ""}, "more": {}}, []),
        ({"t": {"a": "", "c": ""}}, ["t.b"]),
        ({"t": {"b": "", "a": ""}}, ["t: order"]),
        ({}, ["t.a", "t.b"]),
    ],
)
def test_adding_is_allowed_and_no_other_change(columns, gone):
    assert lost({"t": "a b"}, columns) == gone

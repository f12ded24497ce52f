"""What every column of every table means: frozen, versioned, in one place.

Renaming a column or changing its meaning raises `TABLES_VERSION`; adding one at the end does not. Tables are CSV,
UTF-8, comma-separated, full precision; an empty cell is undefined, and the column `status` says why where there is one.
"""

from __future__ import annotations

TABLES_VERSION = 2

_NETWORK = {"network": "name of the replicate network"}
_TASK = {"task": "name of the task: the class that is to be detected"}
_ARM = {
    "arm": "what was trained: ungained, probe, gain, gain_head, full, uniform, permuted, permuted_head; bounded, "
    "shift, shift_head, gain_shift, gain_shift_head, norm_affine, norm_affine_head, spatial, feature_spatial; "
    "nothing: adabn, tuning, gradient"
}
_UNIT = {
    "unit": "stable id of the filter, layer/channel",
    "layer": "dotted module name of the layer",
    "channel": "index of the filter in its layer, from 0",
}
_STATUS = {"status": "ok, or why the value is undefined: dead, constant, too_few, single_class, nonfinite"}
_ARM_STATUS = {
    "status": "ok; why auc is undefined: single_class (no targets, or no distractors), too_few, nonfinite or constant "
    "logits, undefined where the scores do not say; or not_applicable, perhaps followed by ': ' and the reason: the "
    "network has not what the arm needs (batch norm)"
}

COLUMNS: dict[str, dict[str, str]] = {
    "selectivity": {
        **_NETWORK,
        **_TASK,
        **_UNIT,
        "dprime": "(mean response to targets - mean to distractors) / root mean square of the two SDs (ddof 1)",
        "auc": "ROC area: P(target > distractor) + P(equal) / 2",
        "auc_low": "lower end of the 95 % interval of auc (DeLong, one observation added to each class, logit scale)",
        "auc_high": "upper end of the 95 % interval of auc",
        **_STATUS,
        "live": "1 if the filter varies in each class of every task; others are left out of associations",
        "dprime_floor": "mean |dprime| over permutations of the labels: what no selectivity looks like",
        "leverage_dprime": "dprime of d logit / d gain at gain 1 (an optimiser check, never evidence)",
        "mean_response": "mean response over all stimuli, units of the recorded site",
        "sd_response": "SD of the response over all stimuli",
        "zero_fraction": "fraction of stimuli with response exactly 0",
        "n_target": "number of target stimuli",
        "n_distractor": "number of distractor stimuli",
        "interval_status": "why auc_low and auc_high are undefined: constant = area 0 or 1, else as status",
        "dprime_low": "lower end of the 95 % interval of dprime (noncentral t or bootstrap, as asked for)",
        "dprime_high": "upper end",
        "auc_floor": "mean |auc - .5| over permutations of the labels",
        "dprime_p": "two-sided p of dprime under permuted labels, this unit and task alone",
        "auc_p": "the same of auc",
        "dprime_p_corrected": "dprime_p corrected over the family",
        "auc_p_corrected": "auc_p corrected over the family",
        "family": "which tests are corrected together",
        "family_size": "defined tests in the family (m)",
        "eta_squared": "share of the unit's variance that lies between labels",
    },
    "gains": {
        **_NETWORK,
        **_ARM,
        **_TASK,
        **_UNIT,
        "gain": "learned factor on the filter's map, no units; 1 = unchanged",
    },
    "association": {
        **_NETWORK,
        "measure": "which selectivity: dprime (|d'|), auc (|AUC - .5|), corrected (leave-one-task-out gain), leverage",
        "task": "task whose gains",
        "selectivity_task": "task whose selectivity; equal to task = matched, else mismatched",
        "layer": "dotted module name of the layer",
        "rho": "Spearman correlation of gain and selectivity over the live filters of the layer",
        "n_live": "number of live filters in the layer",
        **_STATUS,
        "z": "mean over layers of atanh rho for this pair of tasks (the same number in the row of every layer)",
    },
    "association_summary": {
        "network": "name of the replicate network, or 'pooled' for all networks together",
        "measure": "as in association.csv",
        "matched": "mean over tasks of z(task, same task)",
        "specific": "matched minus the mean of z over different tasks",
        "p_task_permutation": "two-sided p under joint permutation of the tasks, this network",
        "p_pooled": "the same over all networks (row 'pooled')",
    },
    "association_checks": {
        **_NETWORK,
        "check": "partial, gain_reliability, selectivity_reliability, refit_null or rho_standard_error",
        "layer": "dotted module name of the layer",
        "task": "task, where the check has one",
        "item": "covariate of a partial correlation, number of the refit, else empty",
        "value": "partial Spearman rho; Spearman reliability; atanh rho of the refit; SD of rho over refits",
    },
    "arms": {
        **_NETWORK,
        **_ARM,
        **_TASK,
        "auc": "ROC area of the detector's logit on the test split P",
        **_ARM_STATUS,
        "novel": "1 if the reference training of this network left the class out",
        "trained_numbers": "numbers trained per task in this arm, head included",
        "rate": "learning rate used",
        "penalty": "penalty used: it multiplies the mean square (l1: absolute value) of what the arm learns, from its "
        "start: log gains, shifts and read-out weights; of full: all weights; biases of read-outs are free",
        "difference_probe": "auc minus auc of the arm probe on the same images",
        "difference_low_probe": "lower end of its paired 95 % DeLong interval (this network, this task)",
        "difference_high_probe": "upper end",
        "difference_ungained": "auc minus auc of the arm ungained on the same images",
        "difference_low_ungained": "lower end of its paired 95 % DeLong interval",
        "difference_high_ungained": "upper end",
        "criterion_updates": "ROC area that counts as learned over updates, one for all arms of network and task",
        "to_criterion_updates": "updates after which the arm first reaches it; empty = never",
        "area_updates": "area under the curve over updates, as a ROC area",
        "criterion_examples": "ROC area that counts as learned over examples per class, one for all arms",
        "to_criterion_examples": "examples per class with which the arm first reaches it; empty = never",
        "area_examples": "area under the curve over log2 examples per class, as a ROC area",
        "reference_score": "accuracy on the reference task (naming single images of P) with the arm's changes on",
        "reference_score_off": "the same with them taken off again; empty where they cannot be (full)",
        "strength": "strength of gains from theory, chosen on V",
        "strength_best_on_test": "the strength that would be best on P: circular, for comparison only",
        "auc_best_on_test": "auc at that strength: circular, for comparison only",
    },
    "arms_summary": {
        **_ARM,
        "n_networks": "networks to which the arm applies",
        "auc": "mean over networks of the mean over tasks of auc in arms.csv",
        "difference_probe": "the same of auc minus auc of the arm probe",
        "difference_low_probe": "lower end of its 95 % t interval over networks, where networks are replicates",
        "difference_high_probe": "upper end",
        "difference_ungained": "the same of auc minus auc of the arm ungained",
        "difference_low_ungained": "lower end of its 95 % t interval over networks, where networks are replicates",
        "difference_high_ungained": "upper end",
        "trained_numbers": "numbers trained per task, mean over networks",
        "area_updates": "mean of area_updates in arms.csv",
        "area_examples": "mean of area_examples in arms.csv",
        "to_criterion_updates": "median over networks and tasks; empty: half of them or more never reach the criterion",
        "to_criterion_examples": "the same of examples per class",
        "reference_score": "mean of reference_score in arms.csv",
        "reference_score_off": "mean of reference_score_off in arms.csv",
        "at_end_of_search": "networks in which the chosen rate is the smallest or largest that was tried (gains from "
        "theory: the largest strength), so that a better one may lie outside; empty = nothing was chosen",
    },
    "curves": {
        **_NETWORK,
        **_ARM,
        **_TASK,
        "axis": "updates (optimiser steps), examples (composites per class) or choice (index of rate and penalty)",
        "at": "value on that axis",
        "auc": "ROC area on P (on V for axis choice)",
    },
    "choices": {
        **_NETWORK,
        **_ARM,
        **_TASK,
        "choice": "index of the choice, from 0, in the order in which equals would be taken",
        "rate": "learning rate of the choice; empty for gains from theory",
        "penalty": "penalty of the choice; empty for gains from theory",
        "strength": "strength of gains from theory; empty for arms that learn",
        "auc": "ROC area on V: the choice with the largest mean over tasks is taken for all of them",
    },
    "saliency": {
        **_NETWORK,
        "layer": "dotted module name of the layer",
        "layer_score": "mean cue-swap score over composites, in SDs of the map; > 0 = amplified on the cued object",
        "null_mean": "mean of that score under gains permuted within the layer",
        "null_sd": "SD of that score under gains permuted within the layer",
        "p_permuted": "two-sided p under that null; too small where gains covary (.09 at .05), no part of a verdict",
        "mass_in_mask": "share of positive excess inside the cued mask minus the mask's share of the area",
        "mass_in_mask_plain": "the same for the plain sum of activations: brightness alone",
        "usable": "1 if the layer's grid resolves the masks; 0 = not part of the claim",
        "share_resolved": "share of composites with at least 5 cells in both masks",
        "mask_cells": "measured = masks lie at the layer's receptive fields; tiling = cells taken to tile the image",
        **_STATUS,
        "score_low": "lower end of the 95 % t interval of layer_score over composites (this network)",
        "score_high": "upper end",
        "randomised_score": "layer_score in the same network with shuffled weights: what needs no learning",
    },
    "localisation": {
        **_NETWORK,
        "layer": "dotted module name of the layer",
        "localiser": "pointing_game, mass_in_mask (minus area), auc_judd, energy (against the other objects)",
        "map": "excess (what gains amplify), activation (plain sum of A), centre (centre bias) or a baseline",
        "mean": "mean score over images",
        "low": "lower end of its 95 % interval over images (t; of the pointing game that of a share)",
        "high": "upper end",
        **_STATUS,
        "null_mean": "mean of the score under gains permuted within the layer (map excess)",
        "null_sd": "SD of that",
        "p_permuted": "two-sided p under that null; too small where gains covary (.14 at .05), no part of a verdict",
    },
    "saliency_stimuli": {
        **_NETWORK,
        "layer": "dotted module name of the layer",
        "stimulus": "content id of the composite",
        "label": "its two classes, joined by |",
        "cue_swap": "cue-swap score of this composite, in SDs of the map",
    },
    "doses": {
        **_NETWORK,
        **_TASK,
        "dose": "factor on the learned log gains: 0 = un-gained, 1 = as learned",
        "layer": "dotted module name of the layer",
        "sd_log_gain": "population SD of log gain over the filters of the layer at that dose; cortex: about .05 to .26",
        "auc": "ROC area on P at that dose (the same number in the row of every layer)",
    },
    "claims": {
        "claim": "T1 transfer, T2 speed, T3 selective gain, T4 saliency",
        "verdict": "negligible, supported, contradicted, inconclusive or not_applicable",
        "estimate": "mean over networks of the claim's number. T2 has two areas: every rule must hold for both; shown "
        "is the one nearer 0, with the larger p.",
        "ci_low": "lower end of the 95 % t interval over networks",
        "ci_high": "upper end",
        "p": "two-sided p of the primary test",
        "p_holm": "p after Holm over the primary tests that gave a p",
        "bound": "smallest effect of interest, fixed before the data",
        "n_networks": "replicate networks with a value (T2: with both areas)",
        "n_tasks": "tasks",
        "n_undefined": "undefined cells left out",
        "condition_met": "1 if the claim's further condition holds, in five networks or more",
        "sentence": "the finding in plain words",
        "ci90_low": "lower end of the 90 % t interval (for 'negligible')",
        "ci90_high": "upper end",
        "condition": "mean over networks of the further condition's number",
        "condition_low": "lower end of its 95 % t interval",
        "condition_high": "upper end",
        "novel": "estimate over cells whose class the network's reference training left out",
        "trained": "estimate over the other cells",
    },
    "claims_by_network": {
        "claim": "T1, T2, T3 or T4",
        **_NETWORK,
        "value": "the claim's number in this network",
        "condition": "the further condition's number in this network",
        "p": "task-permutation p of this network alone",
    },
    "secondary": {
        "claim": "claim that the quantity is printed beside; it is no part of the verdict",
        "quantity": "what it is, in words",
        "estimate": "mean over networks",
        "ci_low": "lower end of the 95 % t interval over networks, where networks are replicates",
        "ci_high": "upper end",
    },
}
"""`COLUMNS[table][column]` is the column's meaning; the order is the order in the file. The file is `table`.csv."""

ONLY_WHERE_ASKED: dict[str, tuple[str, ...]] = {
    "selectivity": (
        *("dprime_low", "dprime_high", "auc_floor", "dprime_p", "auc_p", "dprime_p_corrected", "auc_p_corrected"),
        *("family", "family_size", "eta_squared"),
    ),
}
"""Columns that a table has only where they were computed: tests and intervals that somebody asked for."""

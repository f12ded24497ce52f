"""Learned multiplicative filter gains in frozen convolutional networks, measured like neurons.

Importing this module is free: it loads no torch, matplotlib, xarray, pandas or scipy. A public name is found in
`featattn_neuro.api` when it is first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from featattn_neuro.api import (
        GainSets,
        Preprocessing,
        apply_filter_sets,
        attention_effects,
        causal_check,
        compose_gains,
        export_gains,
        fold_gains,
        gain_saliency,
        gain_selectivity,
        import_gains,
        gain_selectivity_in,
        average_trials,
        choice_probability,
        class_moments,
        class_selectivity,
        delong_interval,
        direction_selectivity,
        discriminate,
        dprime,
        eta_squared,
        fano_factor,
        fit_tuning,
        fold_gains,
        gain_saliency,
        gain_selectivity,
        grand_choice_probability,
        learn_gains,
        lifetime_sparseness,
        list_layers,
        load_model,
        load_stimuli,
        localisation,
        merge_moments,
        neural_match,
        neurometric_function,
        noise_correlation,
        open_kind,
        parametric_stimuli,
        quadrant_arrays,
        prefix_cache,
        read_neural,
        record,
        saliency_by_layer,
        orientation_selectivity,
        population_sparseness,
        read_neural,
        record,
        roc_area,
        roc_curve,
        save_kind,
        select_like_neurons,
        selectivity,
        selectivity_from_moments,
        simulate_population,
        stream_moments,
        tuning,
        tuning_indices,
        switchable_gains,
        unfold_gains,
        tuning_match,
        signal_detection,
        with_gains,
        with_stimulus_ids,
    )

__version__ = "0.1.0"

__all__ = [
    "GainSets",
    "Preprocessing",
    "apply_filter_sets",
    "attention_effects",
    "causal_check",
    "compose_gains",
    "export_gains",
    "fold_gains",
    "gain_saliency",
    "gain_selectivity",
    "import_gains",
    "gain_selectivity_in",
    "average_trials",
    "choice_probability",
    "class_moments",
    "class_selectivity",
    "delong_interval",
    "direction_selectivity",
    "discriminate",
    "dprime",
    "eta_squared",
    "fano_factor",
    "fit_tuning",
    "fold_gains",
    "gain_saliency",
    "gain_selectivity",
    "grand_choice_probability",
    "learn_gains",
    "lifetime_sparseness",
    "list_layers",
    "load_model",
    "load_stimuli",
    "localisation",
    "merge_moments",
    "neural_match",
    "neurometric_function",
    "noise_correlation",
    "open_kind",
    "parametric_stimuli",
    "quadrant_arrays",
    "prefix_cache",
    "read_neural",
    "record",
    "saliency_by_layer",
    "orientation_selectivity",
    "population_sparseness",
    "read_neural",
    "record",
    "roc_area",
    "roc_curve",
    "save_kind",
    "select_like_neurons",
    "selectivity",
    "selectivity_from_moments",
    "simulate_population",
    "stream_moments",
    "tuning",
    "tuning_indices",
    "switchable_gains",
    "unfold_gains",
    "tuning_match",
    "signal_detection",
    "with_gains",
    "with_stimulus_ids",
]


def __getattr__(name: str) -> Any:
    if name in __all__:
        value = getattr(importlib.import_module("featattn_neuro.api"), name)
        globals()[name] = value  # found once, then an ordinary attribute
        return value
    raise AttributeError(f"module 'featattn_neuro' has no attribute {name!r}; public names: {', '.join(__all__)}")


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])

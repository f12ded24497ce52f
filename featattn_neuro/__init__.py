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
        average_trials,
        causal_check,
        choice_probability,
        class_moments,
        class_selectivity,
        compose_gains,
        delong_interval,
        direction_selectivity,
        discriminate,
        dprime,
        eta_squared,
        export_gains,
        fano_factor,
        fit_tuning,
        fold_gains,
        gain_saliency,
        gain_selectivity,
        gain_selectivity_in,
        grand_choice_probability,
        import_gains,
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
        orientation_selectivity,
        parametric_stimuli,
        picture_saliency,
        population_sparseness,
        prefix_cache,
        quadrant_arrays,
        read_neural,
        record,
        roc_area,
        roc_curve,
        saliency_by_layer,
        save_kind,
        score_saliency,
        select_like_neurons,
        selectivity,
        selectivity_from_moments,
        signal_detection,
        simulate_population,
        stream_moments,
        switchable_gains,
        tuning,
        tuning_indices,
        tuning_match,
        unfold_gains,
        with_gains,
        with_metadata,
        with_stimulus_ids,
    )

__version__ = "0.1.0"

__all__ = [
    "GainSets",
    "Preprocessing",
    "apply_filter_sets",
    "attention_effects",
    "average_trials",
    "causal_check",
    "choice_probability",
    "class_moments",
    "class_selectivity",
    "compose_gains",
    "delong_interval",
    "direction_selectivity",
    "discriminate",
    "dprime",
    "eta_squared",
    "export_gains",
    "fano_factor",
    "fit_tuning",
    "fold_gains",
    "gain_saliency",
    "gain_selectivity",
    "gain_selectivity_in",
    "grand_choice_probability",
    "import_gains",
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
    "orientation_selectivity",
    "parametric_stimuli",
    "picture_saliency",
    "population_sparseness",
    "prefix_cache",
    "quadrant_arrays",
    "read_neural",
    "record",
    "roc_area",
    "roc_curve",
    "saliency_by_layer",
    "save_kind",
    "score_saliency",
    "select_like_neurons",
    "selectivity",
    "selectivity_from_moments",
    "signal_detection",
    "simulate_population",
    "stream_moments",
    "switchable_gains",
    "tuning",
    "tuning_indices",
    "tuning_match",
    "unfold_gains",
    "with_gains",
    "with_metadata",
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

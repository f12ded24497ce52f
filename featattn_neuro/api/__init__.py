"""The public names, wired: a name becomes a file, a network, stimuli. No logic of its own.

networks       a network by name
recording      responses of its filters to stimuli, stored or summed up
learning       gains learned from labelled images
derived_gains  gains from theory, or from the network's own softmax
gains          gains switched on, exported, folded into weights, imported
filter_sets    chosen filters silenced or boosted
saliency       where gains amplify: maps, scores, causal check, pictures
kernels        arithmetic of `arrays` whose complaints are errors a user can act on

The other names are those of `io`, `measures` and `nets` as they are.
"""

from __future__ import annotations

from featattn_neuro.api.derived_gains import target_importance_gains, theory_gains
from featattn_neuro.api.filter_sets import apply_filter_sets
from featattn_neuro.api.gains import export_gains, import_gains, save_folded, switchable_gains, with_gains
from featattn_neuro.api.kernels import (
    choice_probability,
    class_selectivity,
    delong_interval,
    direction_selectivity,
    discriminate,
    dprime,
    eta_squared,
    fano_factor,
    fit_tuning,
    grand_choice_probability,
    lifetime_sparseness,
    neurometric_function,
    noise_correlation,
    orientation_selectivity,
    population_sparseness,
    roc_area,
    roc_curve,
    signal_detection,
)
from featattn_neuro.api.learning import learn_gains, prefix_cache
from featattn_neuro.api.networks import load_model
from featattn_neuro.api.recording import record, stream_moments
from featattn_neuro.api.saliency import causal_check, gain_saliency, picture_saliency, saliency_by_layer, score_saliency
from featattn_neuro.io.conventions import (
    from_brainio,
    from_pynapple,
    from_rsatoolbox,
    from_tidy,
    from_wide,
    row_table,
    to_brainio,
    to_pynapple,
    to_rsatoolbox,
    to_tidy,
    to_wide,
    unit_table,
)
from featattn_neuro.io.metadata import with_metadata
from featattn_neuro.io.neural import read_neural
from featattn_neuro.io.neural_names import with_stimulus_ids
from featattn_neuro.io.parametric_stimuli import parametric_stimuli, quadrant_arrays
from featattn_neuro.io.stimuli import load_stimuli
from featattn_neuro.io.store import open_kind, save_kind
from featattn_neuro.measures.attention_effects import attention_effects
from featattn_neuro.measures.filter_matching import gain_selectivity_in, select_like_neurons, tuning_match
from featattn_neuro.measures.gain_selectivity import gain_selectivity
from featattn_neuro.measures.localisation import localisation
from featattn_neuro.measures.neural_match import neural_match
from featattn_neuro.measures.selectivity import average_trials, selectivity
from featattn_neuro.measures.simulated_population import simulate_population
from featattn_neuro.measures.streaming import class_moments, merge_moments, selectivity_from_moments
from featattn_neuro.measures.tuning import tuning
from featattn_neuro.measures.tuning_indices import tuning_indices
from featattn_neuro.nets.adapters import list_layers
from featattn_neuro.nets.folding import fold_gains, unfold_gains
from featattn_neuro.nets.gain_collections import GainSets, compose_gains
from featattn_neuro.nets.preprocessing import Preprocessing

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
    "from_brainio",
    "from_pynapple",
    "from_rsatoolbox",
    "from_tidy",
    "from_wide",
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
    "row_table",
    "saliency_by_layer",
    "save_folded",
    "save_kind",
    "score_saliency",
    "select_like_neurons",
    "selectivity",
    "selectivity_from_moments",
    "signal_detection",
    "simulate_population",
    "stream_moments",
    "switchable_gains",
    "target_importance_gains",
    "theory_gains",
    "to_brainio",
    "to_pynapple",
    "to_rsatoolbox",
    "to_tidy",
    "to_wide",
    "tuning",
    "tuning_indices",
    "tuning_match",
    "unfold_gains",
    "unit_table",
    "with_gains",
    "with_metadata",
    "with_stimulus_ids",
]

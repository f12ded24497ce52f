"""What `breakages.py` breaks: file, how, the exact text and what it becomes, and the test that must notice.

Add one when you add a kernel. Choose a mistake that somebody could make: a term left out, the wrong axis, a join by
position, a correction that is skipped. The text must occur exactly once in its file.
"""

from __future__ import annotations

from typing import NamedTuple


class Breakage(NamedTuple):
    """`old` in `file` becomes `new`; `test`, a file or a node of pytest, must then fail."""

    file: str
    how: str
    old: str
    new: str
    test: str

    @property
    def module(self) -> str:
        """`arrays.roc` for featattn_neuro/arrays/roc.py."""
        return self.file.removeprefix("featattn_neuro/").removesuffix(".py").replace("/", ".")


_ARRAYS, _NETS, _MEASURES, _IO, _JOBS = (
    f"featattn_neuro/{folder}" for folder in ("arrays", "nets", "measures", "io", "jobs")
)

BREAKAGES = (
    # ------------------------------------------------------------------------------------------------------ arrays
    Breakage(
        f"{_ARRAYS}/packed_sort.py", "negative numbers sorted by their bits",
        "bit if bit >= 0 else bit ^ np.int64(0x7FFFFFFF)", "bit",
        "tests/arrays/test_arrays_packed_sort.py::test_centred_ranks_are_scipys",
    ),
    Breakage(
        f"{_ARRAYS}/packed_sort.py", "zeros counted below negative numbers too",
        "position if value < 0 or zeros == 0 else position + zeros", "position + zeros",
        "tests/arrays/test_arrays_packed_sort.py::test_centred_ranks_are_scipys",
    ),
    Breakage(
        f"{_ARRAYS}/counting.py", "DeLong: placements of targets divided by the number of distractors",
        "return of_targets / n1 + of_distractors / n0", "return of_targets / n0 + of_distractors / n1",
        "tests/arrays/test_arrays_discrimination.py::test_delong_variance_equals_the_all_pairs_definition",
    ),
    Breakage(
        f"{_ARRAYS}/counting.py", "classes of unequal size weighted alike in the variance of their union",
        "between = n * (mean - grand) ** 2", "between = (mean - grand) ** 2",
        "tests/measures/test_measures_selectivity_table.py::test_every_label_against_the_rest_in_one_call",
    ),
    Breakage(
        f"{_ARRAYS}/standardised.py", "pooled SD weighted with n instead of n − 1",
        "((n1 - 1) * variance1 + (n0 - 1) * variance0)", "(n1 * variance1 + n0 * variance0)",
        "tests/arrays/test_arrays_discrimination.py::test_pooled_is_cohens_d_and_the_t_statistic",
    ),
    Breakage(
        f"{_ARRAYS}/roc.py", "paired areas: placements of distractors added instead of subtracted",
        "targets_a - targets_b, distractors_a - distractors_b", "targets_a - targets_b, distractors_a + distractors_b",
        "tests/arrays/test_arrays_discrimination.py::test_paired_delong_equals_the_covariance_form",
    ),
    Breakage(
        f"{_ARRAYS}/roc.py", "the criterion rises instead of falling",
        "np.unique(-values[0].astype(np.float64), return_inverse=True)",
        "np.unique(values[0].astype(np.float64), return_inverse=True)",
        "tests/arrays/test_arrays_intervals.py::test_roc_curve_is_scikit_learns",
    ),
    Breakage(
        f"{_ARRAYS}/permutation.py", "p of the maximum without the 1 +",
        "(1 + ordered.size - np.searchsorted(ordered, limit))", "(ordered.size - np.searchsorted(ordered, limit))",
        "tests/arrays/test_arrays_intervals.py::test_permutation_test_is_permuting_by_hand",
    ),
    Breakage(
        f"{_ARRAYS}/permutation.py", "all families share one maximum",
        "usable & (mine == kind)", "usable",
        "tests/arrays/test_arrays_intervals.py::test_families_have_their_own_maximum_and_tensors_give_the_same",
    ),
    Breakage(
        f"{_ARRAYS}/intervals.py", "degrees of freedom of equal variances",
        "freedom = (v1 + v0) ** 2 / (v1**2 / (m1 - 1) + v0**2 / (m0 - 1))", "freedom = m1 + m0 - 2",
        "tests/arrays/test_arrays_intervals.py::test_noncentral_t_interval_inverts_the_distribution",
    ),
    Breakage(
        f"{_ARRAYS}/intervals.py", "bootstrap without bias correction and acceleration",
        "special.ndtr(bias + z / (1 - acceleration * z))", "special.ndtr(stats.norm.ppf(share))",
        "tests/arrays/test_arrays_intervals.py::test_bias_and_acceleration_move_the_ends_of_skewed_samples",
    ),
    Breakage(
        f"{_ARRAYS}/signal_detection.py", "hit rate over all trials instead of target trials",
        "hit = corrected_rate(hits, np.add(hits, misses), correction=correction)",
        "hit = corrected_rate(hits, np.add(np.add(hits, misses), correct_rejections), correction=correction)",
        "tests/arrays/test_arrays_neural_kernels.py::test_corrections_use_the_count_of_their_own_cell",
    ),
    Breakage(
        f"{_ARRAYS}/signal_detection.py", "criterion with the wrong sign",
        "sensitivity, criterion = z_hit - z_alarm, -(z_hit + z_alarm) / 2",
        "sensitivity, criterion = z_hit - z_alarm, (z_hit + z_alarm) / 2",
        "tests/arrays/test_arrays_neural_kernels.py::test_signal_detection_of_the_published_rates",
    ),
    Breakage(
        f"{_ARRAYS}/sparseness.py", "not divided by 1 − 1/n",
        "(1 - activity) / (1 - 1 / n)", "(1 - activity)",
        "tests/arrays/test_arrays_neural_kernels.py::test_lifetime_sparseness_of_the_published_vector",
    ),
    Breakage(
        f"{_ARRAYS}/orientation.py", "angles of orientations not doubled",
        "np.exp(1j * harmonic * np.deg2rad(degrees))", "np.exp(1j * np.deg2rad(degrees))",
        "tests/arrays/test_arrays_neural_kernels.py::test_orientation_index_is_one_minus_circular_variance",
    ),
    Breakage(
        f"{_ARRAYS}/variability.py", "Fano factor from the variance over n",
        "squares / (n - ddof) / mean", "squares / n / mean",
        "tests/arrays/test_arrays_neural_kernels.py::test_fano_factor_of_poisson_and_by_hand",
    ),
    Breakage(
        f"{_ARRAYS}/variability.py", "noise correlation without the means over shared trials",
        "filled @ filled.T / n - sums * sums.T / n**2", "filled @ filled.T / n",
        "tests/arrays/test_arrays_neural_kernels.py::test_noise_correlation_with_missing_trials_is_that_of_shared_trials",
    ),
    Breakage(
        f"{_ARRAYS}/choice.py", "grand choice probability without z-scoring within the stimulus",
        "scores = zscore_within(values, shown)", "scores = values.copy()",
        "tests/arrays/test_arrays_neural_kernels.py::test_grand_choice_probability_removes_the_stimulus",
    ),
    Breakage(
        f"{_ARRAYS}/choice.py", "neurometric function against the same sign",
        "values[strength == -one] if reference is None", "values[strength == one] if reference is None",
        "tests/arrays/test_arrays_neural_kernels.py::test_neurometric_function_of_a_gaussian_unit",
    ),
    Breakage(
        f"{_ARRAYS}/tuning_fits.py", "half-width from the baseline called that from the trough",
        "cosine = 1 + (np.log1p(np.exp(-2 * k)) - np.log(2)) / k", "cosine = 1 + (0 - np.log(2)) / k",
        "tests/arrays/test_arrays_neural_kernels.py::test_half_widths_are_half_the_height",
    ),
    Breakage(
        f"{_ARRAYS}/tuning_fits.py", "amplitude may be negative",
        "lower = np.array([r.min() - 2 * height, 0.0, low, widths[0]])",
        "lower = np.array([r.min() - 2 * height, -10 * height, low, widths[0]])",
        "tests/arrays/test_arrays_neural_kernels.py::test_a_dip_is_no_peak",
    ),
    Breakage(
        f"{_ARRAYS}/tuning_fits.py", "standard errors of the responses ignored",
        "return (curve(x, parameters) - r) * weight", "return curve(x, parameters) - r",
        "tests/arrays/test_arrays_neural_kernels.py::test_levels_count_by_their_precision",
    ),
    Breakage(
        f"{_ARRAYS}/class_selectivity.py", "preferred class measured on the stimuli that chose it",
        "top = second[best, units]", "top = first[best, units]",
        "tests/arrays/test_arrays_neural_kernels.py::test_held_out_class_selectivity_has_no_floor",
    ),
    Breakage(
        f"{_ARRAYS}/class_selectivity.py", "ordinal curve shown on the stimuli that ranked it",
        "np.take_along_axis(second, order, axis=0)", "np.take_along_axis(first, order, axis=0)",
        "tests/arrays/test_arrays_neural_kernels.py"
        "::test_ordinal_selectivity_of_noise_is_flat_and_of_tuned_units_falls",
    ),
    Breakage(
        f"{_ARRAYS}/attention_models.py", "dispersion without the variance of the mean",
        "weight * (mean**2 - variance / n)", "weight * mean**2",
        "tests/arrays/test_arrays_attention.py::test_dispersion_closed_form",
    ),
    Breakage(
        f"{_ARRAYS}/attention_models.py", "BIC with the penalty of AIC",
        "len(PARAMETERS[m]) * np.log(n)", "len(PARAMETERS[m]) * 2",
        "tests/arrays/test_arrays_attention.py::test_aic_overfits_where_bic_does_not",
    ),
    Breakage(
        f"{_ARRAYS}/attention_models.py", "overdispersed counts fitted as Poisson counts",
        "else mean + data.phi * mean**2", "else mean",
        "tests/arrays/test_arrays_attention.py::test_the_maximum_is_that_of_another_optimiser",
    ),
    Breakage(
        f"{_ARRAYS}/attention_models.py", "least preferred stimulus ranked first",
        "np.where(keep, -p, np.inf)", "np.where(keep, p, np.inf)",
        "tests/arrays/test_arrays_attention.py::test_slopes_by_hand",
    ),
    Breakage(
        f"{_ARRAYS}/dissimilarity.py", "crossnobis keeps products of a fold with itself",
        'total -= np.einsum("fik,fjk->ij", values, weighted, optimize=True)',
        'total -= 0 * np.einsum("fik,fjk->ij", values, weighted, optimize=True)',
        "tests/arrays/test_arrays_dissimilarity.py::test_crossnobis_is_zero_on_average_where_only_noise_differs",
    ),
    Breakage(
        f"{_ARRAYS}/dissimilarity.py", "unbiased HSIC without its last term",
        " - 2 * cross / (n - 2)", "",
        "tests/arrays/test_arrays_dissimilarity.py::test_unbiased_cka_equals_the_definition_over_quadruples",
    ),
    Breakage(
        f"{_ARRAYS}/dissimilarity.py", "Kendall τ_b instead of τ_a",
        "float(np.clip(tau_b * np.sqrt(untied[0]) * np.sqrt(untied[1]) / (n * (n - 1) / 2), -1.0, 1.0))",
        "float(np.clip(tau_b, -1.0, 1.0))",
        "tests/arrays/test_arrays_dissimilarity.py::test_kendall_tau_a_counts_pairs",
    ),
    Breakage(
        f"{_ARRAYS}/localisation.py", "AUC-Judd: shares of cells counted as whole cells",
        "(weights * (cells - weights))", "(cells - weights)",
        "tests/arrays/test_arrays_localisation.py"
        "::test_auc_judd_is_scikit_learns_with_ties_and_shares_of_cells",
    ),
    Breakage(
        f"{_ARRAYS}/localisation.py", "pointing game: weights of maxima that tie are summed",
        "np.maximum(best.sum(axis=-1), 1)", "1",
        "tests/arrays/test_arrays_localisation.py::test_scores_where_the_answer_is_known",
    ),
    Breakage(
        f"{_ARRAYS}/masks.py", "cells that reach beyond the image lose their weight",
        "inside / np.where(total > 0, total, 1.0)", "inside / np.diff(ends)[:, None]",
        "tests/arrays/test_arrays_localisation.py::test_cells_that_reach_beyond_the_image",
    ),
    Breakage(
        f"{_ARRAYS}/masks.py", "edges of cells half a pixel off",
        "middle = np.asarray(centres, dtype=np.float64) + 0.5", "middle = np.asarray(centres, dtype=np.float64)",
        "tests/nets/test_nets_mask_places.py::test_the_grid_of_a_padded_network_tiles_the_image",
    ),
    # -------------------------------------------------------------------------------------------------------- nets
    Breakage(
        f"{_NETS}/expansion.py", "bias left out of the expanded convolution",
        "gains.new_ones(len(gains), 1)", "gains.new_zeros(len(gains), 1)",
        "tests/nets/test_nets_expansion.py::test_terms_give_the_features_and_the_gradients_of_the_convolution",
    ),
    Breakage(
        f"{_NETS}/excess.py", "g instead of g − 1",
        "np.where(keep, gain / scale - 1, 0.0)", "np.where(keep, gain / scale, 0.0)",
        "tests/nets/test_nets_saliency.py::test_gains_of_one_are_exactly_zero",
    ),
    Breakage(
        f"{_NETS}/excess.py", "dead filters counted in the layer's mean gain",
        "scale = gain[:, keep].mean(axis=1, keepdims=True)", "scale = gain.mean(axis=1, keepdims=True)",
        "tests/nets/test_nets_saliency.py::test_tasks_the_mean_gain_and_live_filters",
    ),
    Breakage(
        f"{_NETS}/gradient_saliency.py", "right ends instead of midpoints of the path",
        "share = (step + 0.5) / steps", "share = (step + 1) / steps",
        "tests/nets/test_nets_saliency_methods.py::test_the_path_is_integrated_as_a_dense_sum_is",
    ),
    Breakage(
        f"{_NETS}/gradient_saliency.py", "Grad-CAM with gains instead of its change",
        'cam - found[layer]["cam_ungained"][row]', "cam",
        "tests/nets/test_nets_saliency_methods.py::test_gains_of_one_are_zero_in_every_map",
    ),
    Breakage(
        f"{_NETS}/gradient_saliency.py", "gain × gradient with g instead of g − 1",
        'keep(layer, "gain_gradient", torch.einsum("k,bkyx,bkyx->byx", excess[layer][row], maps, slope))',
        'keep(layer, "gain_gradient", torch.einsum("k,bkyx,bkyx->byx", excess[layer][row] + 1, maps, slope))',
        "tests/nets/test_nets_saliency_methods.py::test_gain_gradient_is_what_finite_differences_give",
    ),
    Breakage(
        f"{_NETS}/gradient_saliency.py", "read-out weights without the scale of their features",
        "weight = (logits.weight.double() / logits.scale.double()).numpy()", "weight = logits.weight.double().numpy()",
        "tests/nets/test_nets_saliency_methods.py::test_the_read_out_of_the_gains_is_the_logit",
    ),
    Breakage(
        f"{_NETS}/gradient_saliency.py", "an integral that does not add up called complete",
        "<= TOLERANCE * mass", "<= mass + 1e9",
        "tests/nets/test_nets_saliency_methods.py::test_a_path_that_does_not_add_up_is_said",
    ),
    Breakage(
        f"{_NETS}/gradient_saliency.py", "steps of the path never doubled",
        "if not len(todo) or steps >= most_steps:", "if True:",
        "tests/nets/test_nets_saliency_methods.py::test_steps_are_doubled_where_the_path_does_not_add_up",
    ),
    Breakage(
        f"{_NETS}/gradient_saliency.py", "no more midpoints than the first",
        "FIRST_STEPS, MOST_STEPS = 8, 512", "FIRST_STEPS, MOST_STEPS = 8, 8",
        "tests/nets/test_nets_saliency_methods.py::test_steps_are_doubled_where_the_path_does_not_add_up",
    ),
    Breakage(
        f"{_NETS}/gain_rows.py", "maps joined to gain sets by position",
        "maps = maps.sel({dim: mine})", "maps = maps.isel({dim: slice(len(mine))})",
        "tests/test_api_saliency.py::test_the_causal_check_joins_maps_by_label",
    ),
    Breakage(
        f"{_NETS}/causal.py", "maps stretched over the image",
        'in_pixels(values, saliency["y"].values, saliency["x"].values, (int(size[0]), int(size[1])))',
        "in_pixels(values, *((np.arange(n) + 0.5) * m / n - 0.5 for n, m in zip(values.shape[-2:], size)), (*size,))",
        "tests/nets/test_nets_causal.py::test_pixels_are_masked_where_the_layer_sees_them",
    ),
    Breakage(
        f"{_NETS}/causal.py", "every gain set masked in the order of the first",
        "ranks[row if len(ranks) > 1 else 0]", "ranks[0]",
        "tests/nets/test_nets_causal.py::test_every_gain_set_has_its_own_order",
    ),
    Breakage(
        f"{_NETS}/causal.py", "random orders are rows of pixels",
        "rng.permuted(np.broadcast_to(np.arange(pixels), (count, pixels)), axis=1)",
        "np.broadcast_to(np.arange(pixels), (count, pixels))",
        "tests/nets/test_nets_causal.py::test_random_orders_are_drawn_by_the_seed",
    ),
    Breakage(
        f"{_NETS}/causal.py", "deletion and insertion exchanged",
        "enumerate(((filled, images), (images, filled)))", "enumerate(((images, filled), (filled, images)))",
        "tests/nets/test_nets_causal.py::test_ends_of_the_curves_are_the_image_and_its_fill",
    ),
    Breakage(
        f"{_NETS}/causal.py", "least amplified pixels masked first",
        "np.broadcast_to(jitter, flat.shape), -flat)", "np.broadcast_to(jitter, flat.shape), flat)",
        "tests/nets/test_nets_causal.py::test_curves_where_the_logit_is_the_mean_of_the_pixels",
    ),
    Breakage(
        f"{_NETS}/geometry.py", "padding forgotten in the centre of cells",
        "self.offset + self.stride * (reach / 2 - padding)", "self.offset + self.stride * (reach / 2)",
        "tests/nets/test_nets_geometry.py::test_places_against_measured_receptive_fields",
    ),
    Breakage(
        f"{_NETS}/geometry.py", "the smallest field kept where branches meet",
        "max(incoming, key=lambda one: one.grid.size)", "min(incoming, key=lambda one: one.grid.size)",
        "tests/nets/test_nets_geometry.py::test_places_against_measured_receptive_fields",
    ),
    Breakage(
        f"{_NETS}/geometry.py", "the grid of a gate taken for that of the map",
        "[one for one in incoming if one.cells != 1] or incoming", "list(incoming)",
        "tests/nets/test_nets_geometry.py::test_a_gate_has_no_place",
    ),
    Breakage(
        f"{_NETS}/masked_maps.py", "covariance about 0 instead of the mean",
        "self.products / self.count - np.outer(mean, mean)", "self.products / self.count",
        "tests/nets/test_nets_saliency.py::test_masked_maps_by_hand",
    ),
    Breakage(
        f"{_NETS}/masked_maps.py", "mask cells taken to tile the image",
        "here = on_grid(masks, shape, edges=places[layer])", "here = on_grid(masks, shape)",
        "tests/nets/test_nets_mask_places.py::test_masked_means_of_an_unpadded_network",
    ),
    Breakage(
        f"{_NETS}/modulation.py", "additive spatial gain not counted from 1",
        "gain + (spatial - 1)", "gain + spatial",
        "tests/nets/test_nets_placing.py::test_factors_add_as_in_the_paper",
    ),
    Breakage(
        f"{_NETS}/modulation.py", "gained maps are a view, which a ReLU in place copies",
        "        return out\n", "        return maps.flatten(0, 1)\n",
        "tests/nets/test_nets_modulation.py::test_an_activation_that_works_in_place_copies_nothing",
    ),
    Breakage(
        f"{_NETS}/modulation.py", "gradient of the maps not scaled",
        "gradient if factor is None else (grouped * factor).flatten(0, 1)", "gradient",
        "tests/nets/test_nets_modulation.py::test_gradients_and_their_gradients_agree_with_differences",
    ),
    Breakage(
        f"{_NETS}/parameterisations.py", "penalty pulls gains to 0 instead of 1",
        "return theta if self.log else theta - 1", "return theta",
        "tests/nets/test_nets_parameterisations.py::test_penalties_pull_to_one_and_not_to_zero",
    ),
    Breakage(
        f"{_NETS}/parameterisations.py", "bounds of a logarithmic gain applied to its logarithm",
        "(_log(self.low), _log(self.high)) if self.log else (self.low, self.high)", "(self.low, self.high)",
        "tests/nets/test_nets_parameterisations.py::test_learning_keeps_to_the_parameterisation",
    ),
    Breakage(
        f"{_NETS}/theory_gains.py", "gradient values without their sign",
        "[sign * sums / count / n for", "[sums / count / n for",
        "tests/nets/test_nets_theory_gains.py::test_gradient_values_are_the_slopes_of_the_error",
    ),
    Breakage(
        f"{_NETS}/theory_gains.py", "factors always clipped at 0",
        "np.maximum(factor, 0) if clip else factor", "np.maximum(factor, 0)",
        "tests/nets/test_nets_theory_gains.py::test_a_clipped_factor_breaks_the_slope",
    ),
    Breakage(
        f"{_NETS}/refit.py", "labels of each task permuted by themselves",
        "labels.append(np.asarray(target)[:, rng.permutation(target.shape[1])])",
        "labels.append(np.stack([row[rng.permutation(row.size)] for row in np.asarray(target)]))",
        "tests/nets/test_nets_refit.py::test_one_permutation_serves_all_tasks",
    ),
    Breakage(
        f"{_NETS}/refit.py", "read-out fitted to the true labels",
        "sources.append(feature_target[:, rng.permutation(feature_target.shape[1])])",
        "sources.append(feature_target[:, np.sort(rng.permutation(feature_target.shape[1]))])",
        "tests/nets/test_nets_refit.py::test_a_refit_is_an_ordinary_fit_of_permuted_labels",
    ),
    Breakage(
        f"{_NETS}/fold_paths.py", "negative gains pass a ReLU",
        "if bool((gain < 0).any()):", "if bool((gain < -1e9).any()):",
        "tests/nets/test_nets_folding.py::test_negative_gain_behind_a_relu_is_refused",
    ),
    Breakage(
        f"{_NETS}/fold_paths.py", "ReLU6 taken for a ReLU",
        "    nn.PReLU,\n", "    nn.PReLU,\n    nn.ReLU6,\n",
        "tests/nets/test_nets_fold_forward.py::test_relu6_folded_backward_is_another_network_and_refused",
    ),
    Breakage(
        f"{_NETS}/reductions.py", "SD far from zero from a difference that lost its digits",
        "if bool(poor.any()):", "if bool((~poor & poor).any()):",
        "tests/nets/test_nets_recording_selection.py::test_sd_keeps_its_digits_far_from_zero",
    ),
    Breakage(
        f"{_NETS}/reductions.py", "quantile without interpolation",
        "below + (above - below) * (place - low)", "below",
        "tests/nets/test_nets_recording_selection.py::test_reductions_equal_numpy_and_scipy",
    ),
    Breakage(
        f"{_NETS}/channels.py", "flattened maps taken for a sequence of as many features",
        "if last in self.sequence_features and first not in self.map_channels:", "if last in self.sequence_features:",
        "tests/nets/test_nets_recording.py::test_flattened_maps_are_not_taken_for_a_sequence",
    ),
    Breakage(
        f"{_NETS}/channels.py", "maps with channels last taken as channels first",
        "if self.channels_last_seen:", "if self.channels_last_seen and output.shape[1] == 0:",
        "tests/nets/test_nets_recording_faults.py::test_fault_16_an_ambiguous_channel_axis_is_refused",
    ),
    Breakage(
        f"{_NETS}/channels.py", "the colours of the image taken for filters",
        "given_by_a_layer | (set(taken) - set(taken[:1]))", "given_by_a_layer | set(taken)",
        "tests/nets/test_nets_recording_edges.py::test_heads_are_not_filters_also_where_there_are_as_many_as_colours",
    ),
    Breakage(
        f"{_NETS}/passes.py", "as many tokens as images taken for images",
        "if layer in open_ones and len(output) != len(fewer)", "if layer in open_ones and not len(fewer)",
        "tests/nets/test_nets_recording_edges.py::test_as_many_tokens_as_images_do_not_pass_for_images",
    ),
    Breakage(
        f"{_NETS}/passes.py", "noise in the network not looked for",
        "drawn = random_state(self.device) != before", "drawn = False",
        "tests/nets/test_nets_recording_edges.py::test_chance_is_refused_where_it_reaches_what_is_recorded",
    ),
    Breakage(
        f"{_NETS}/permuted_scores.py", "dead filters permuted with the live ones",
        "excess[:, rng.permutation(keep)]", "excess[:, rng.permutation(excess.shape[1])[keep]]",
        "tests/measures/test_measures_localisation.py::test_permuted_gains_are_maps_of_permuted_gains",
    ),
    Breakage(
        f"{_NETS}/permuted_scores.py", "upstream gains left out of the null",
        "with_gains(module, rows.row(0)) if upstream else nullcontext()", "nullcontext()",
        "tests/test_api_saliency.py::test_equal_gains_are_their_own_null",
    ),
    Breakage(
        f"{_NETS}/permuted_scores.py", "every object scored under the cue of the first",
        "shuffled[cued[n, o]] @ flat", "shuffled[cued[n, 0]] @ flat",
        "tests/measures/test_measures_localisation.py::test_permuted_gains_are_maps_of_permuted_gains",
    ),
    Breakage(
        f"{_NETS}/learning.py", "permuted arms keep every gain at its filter",
        "rng.permutation(theta.shape[1]) for _ in", "np.arange(theta.shape[1]) for _ in",
        "tests/jobs/test_jobs_fitting.py"
        "::test_permuted_head_learns_the_read_out_on_gains_shuffled_within_layers",
    ),
    # ---------------------------------------------------------------------------------------------------- measures
    Breakage(
        f"{_MEASURES}/localisation.py", "every cue scored against the mask of the first object",
        "localise(source[task, here], weights[here, o], away)", "localise(source[task, here], weights[here, 0], away)",
        "tests/measures/test_measures_localisation.py::test_scores_are_those_of_the_kernel_for_each_cued_object",
    ),
    Breakage(
        f"{_MEASURES}/localisation.py", "masks joined by position",
        "flags = flags.sel(stimulus=ids)", "flags = flags.isel(stimulus=slice(None))",
        "tests/measures/test_measures_localisation.py::test_the_order_of_stimuli_of_the_masks_does_not_matter",
    ),
    Breakage(
        f"{_MEASURES}/filter_sets.py", "the least selective filters chosen",
        "np.argsort(-score[row, inside]", "np.argsort(score[row, inside]",
        "tests/measures/test_measures_association_tests.py"
        "::test_filter_sets_choose_top_live_filters_and_matched_others",
    ),
    Breakage(
        f"{_MEASURES}/filter_sets.py", "controls drawn among the top filters too",
        "top, rest = order[:count], order[count:]", "top, rest = order[:count], order",
        "tests/measures/test_measures_association_tests.py"
        "::test_filter_sets_choose_top_live_filters_and_matched_others",
    ),
    Breakage(
        f"{_MEASURES}/neural_match.py", "stimuli joined by position",
        "    recorded = recorded.sel(stimulus=reference.ids)\n", "",
        "tests/measures/test_measures_neural.py::test_stimuli_are_matched_by_id",
    ),
    Breakage(
        f"{_MEASURES}/neural_match.py", "layer scored on the half of the stimuli that chose it",
        "float(here[1 - k][one])", "float(here[k][one])",
        "tests/measures/test_measures_match.py::test_the_layer_is_scored_on_stimuli_that_did_not_choose_it",
    ),
    Breakage(
        f"{_MEASURES}/neural_match.py", "jackknife spread without (groups − 1)",
        "(groups - 1) / groups * ((left - left.mean()) ** 2).sum()", "((left - left.mean()) ** 2).mean()",
        "tests/measures/test_measures_match.py::test_the_interval_of_the_difference_covers_the_truth",
    ),
    Breakage(
        f"{_MEASURES}/claims.py", "p of the four claims not adjusted (Holm)",
        'adjust([finding.p for finding in findings], "holm")', "[finding.p for finding in findings]",
        "tests/measures/test_measures_claims.py::test_holm_is_over_the_four_primary_p",
    ),
    Breakage(
        f"{_MEASURES}/claims.py", "T2: the larger of the two areas decides",
        "np.argmin(np.abs(finding.estimates))", "np.argmax(np.abs(finding.estimates))",
        "tests/measures/test_measures_claims.py::test_t2_takes_the_larger_p_and_the_smaller_effect",
    ),
    Breakage(
        f"{_MEASURES}/claim_evidence.py", "T2: the smaller of the two p",
        "np.max([t_test(", "np.min([t_test(",
        "tests/measures/test_measures_claims.py::test_t2_takes_the_larger_p_and_the_smaller_effect",
    ),
    Breakage(
        f"{_MEASURES}/claim_evidence.py", "T2: novel and trained cells of the area that does not decide",
        "smaller = int(np.argmin(", "smaller = int(np.argmax(",
        "tests/measures/test_measures_claims.py::test_novel_and_trained_cells_of_t2_are_of_the_area_that_decides",
    ),
    Breakage(
        f"{_MEASURES}/claim_evidence.py", "T3: mismatched minus matched",
        "found.specific.tolist()", "(-found.specific).tolist()",
        "tests/measures/test_measures_claims.py::test_t3_numbers_are_those_of_the_task_mismatch",
    ),
    Breakage(
        f"{_MEASURES}/claim_evidence.py", "T3: mismatched minus matched in novel and trained cells",
        "xr.DataArray(matched - others", "xr.DataArray(others - matched",
        "tests/measures/test_measures_claims.py"
        "::test_novel_and_trained_cells_of_t3_are_matched_minus_mismatched_by_task",
    ),
    Breakage(
        f"{_MEASURES}/claim_evidence.py", "T4: a half of the cue swap counted under the other cue",
        "str(label).split(CONSTITUENT_SEPARATOR)]", "str(label).split(CONSTITUENT_SEPARATOR)[::-1]]",
        "tests/measures/test_measures_claims.py::test_t4_prints_halves_of_novel_and_of_trained_cues_apart",
    ),
    Breakage(
        f"{_MEASURES}/secondary.py", "contrasts of arms with the wrong sign",
        'one["auc"].sel(arm=arm) - one["auc"].sel(arm=reference)',
        'one["auc"].sel(arm=reference) - one["auc"].sel(arm=arm)',
        "tests/measures/test_measures_secondary.py::test_every_quantity_by_hand",
    ),
    Breakage(
        f"{_MEASURES}/secondary.py", "novel and trained classes exchanged",
        'd.values[one["novel"].values == kind]', 'd.values[one["novel"].values != kind]',
        "tests/measures/test_measures_secondary.py::test_every_quantity_by_hand",
    ),
    Breakage(
        f"{_MEASURES}/secondary.py", "layers that a network does not resolve printed too",
        ' or not int(one["usable"].sel(layer=layer)) for one', " for one",
        "tests/measures/test_measures_secondary.py::test_every_quantity_by_hand",
    ),
    # ---------------------------------------------------------------------------------------------------------- io
    Breakage(
        f"{_IO}/splits.py", "two sources of one class averaged",
        "pairs = _separate(drawn.reshape(2, count).T.copy(), code, rng)", "pairs = drawn.reshape(2, count).T.copy()",
        "tests/io/test_io_splits.py::test_composites_use_each_source_once_and_labels_differ",
    ),
    Breakage(
        f"{_IO}/splits.py", "sets that share sources not refused",
        "shared = one & other", "shared = set[str]()",
        "tests/io/test_io_splits.py::test_a_leak_through_a_source_is_a_leak",
    ),
    Breakage(
        f"{_IO}/neural_windows.py", "the end of a window included",
        "np.searchsorted(ordered, stop)", 'np.searchsorted(ordered, stop, side="right")',
        "tests/io/test_io_neural_formats.py::test_windows_are_half_open",
    ),
    Breakage(
        f"{_IO}/neural_windows.py", "baseline rate subtracted from counts",
        "(rate if rates else rate * lengths[:, None])", "rate",
        "tests/io/test_io_neural_formats.py::test_rates_and_baseline_by_hand",
    ),
    Breakage(
        f"{_IO}/neural_tables.py", "trials in the order of the table's rows",
        ".sort_values(key, ignore_index=True)", "",
        "tests/io/test_io_neural.py::test_row_order_of_a_table_does_not_matter",
    ),
    Breakage(
        f"{_IO}/neural_mat.py", "axes of version 7.3 left reversed",
        "np.asarray(values).T", "np.asarray(values)",
        "tests/io/test_io_neural_formats.py::test_both_versions_of_a_mat_file_are_read_alike",
    ),
    Breakage(
        f"{_IO}/neural_checks.py", "codes among levels not suspected",
        "beyond = (is_code and abs(far) > 10 * scale)", "beyond = (is_code and abs(far) > 1e9 * scale)",
        "tests/io/test_io_neural_formats.py::test_suspected_codes",
    ),
    Breakage(
        f"{_IO}/recording_store.py", "chunks of a killed process believed unread",
        'if all(is_whole(folder / key, *wanted) for key, wanted in entry["chunks"].items()):', "if True:",
        "tests/io/test_io_recording_store.py::test_a_torn_chunk_is_made_again",
    ),
    Breakage(
        f"{_IO}/recording_store.py", "any finished recording taken for the one wanted",
        'if attrs.get("recording_key") == key:', 'if "recording_key" in attrs:',
        "tests/io/test_io_recording_store.py::test_another_recording_is_not_overwritten_unasked",
    ),
    # -------------------------------------------------------------------------------------------------------- jobs
    Breakage(
        f"{_JOBS}/config.py", "ties of choices go to the smaller penalty",
        "sorted(self.penalties, reverse=True)", "sorted(self.penalties)",
        "tests/jobs/test_jobs_fitting.py::test_ties_on_v_go_to_the_smaller_rate_then_to_the_larger_penalty",
    ),
    Breakage(
        f"{_JOBS}/context.py", "rotation of omitted classes off by one",
        "self.classes[(k * self.index + j)", "self.classes[(k * self.index + j + 1)",
        "tests/jobs/test_jobs_fitting.py::test_each_digit_is_novel_to_every_fifth_network",
    ),
    Breakage(
        f"{_JOBS}/context.py", "one partition of the images for all networks",
        "partition_seed + self.index\n        found: dict", "partition_seed\n        found: dict",
        "tests/jobs/test_jobs_fitting.py"
        "::test_every_network_draws_its_own_partition_with_seed_1000_plus_its_own",
    ),
    Breakage(
        f"{_JOBS}/fitting.py", "V takes the worst choice",
        "score > best[0]:  # choices", "score < best[0]:  # choices",
        "tests/jobs/test_jobs_fitting.py::test_the_best_mean_area_on_v_is_chosen",
    ),
    Breakage(
        f"{_JOBS}/fitting.py", "V takes the worst choice of full fine-tuning",
        "score > best[0]:\n            best = (score, index, scores[",
        "score < best[0]:\n            best = (score, index, scores[",
        "tests/jobs/test_jobs_fitting.py::test_the_best_mean_area_on_v_is_chosen",
    ),
    Breakage(
        f"{_JOBS}/fitting.py", "ties of choices go to the last: larger rate, smaller penalty",
        "score > best[0]:  # choices", "score >= best[0]:  # choices",
        "tests/jobs/test_jobs_fitting.py::test_ties_on_v_go_to_the_smaller_rate_then_to_the_larger_penalty",
    ),
    Breakage(
        f"{_JOBS}/fitting.py", "rate of a curve chosen by its area on P",
        "np.trapezoid(curves[0].mean(axis=0), axis)", "np.trapezoid(curves[1].mean(axis=0), axis)",
        "tests/jobs/test_jobs_fitting.py::test_the_rate_of_a_curve_has_the_largest_area_on_v",
    ),
    Breakage(
        f"{_JOBS}/fitting.py", "rate of a curve chosen by the mean of its points",
        "np.trapezoid(curves[0].mean(axis=0), axis)", "curves[0].mean()",
        "tests/jobs/test_jobs_fitting.py::test_the_rate_of_a_curve_has_the_largest_area_on_v",
    ),
    Breakage(
        f"{_JOBS}/fitting.py", "ties of rates of a curve go to the first that is listed",
        "rates = sorted(rates)", "rates = list(rates)",
        "tests/jobs/test_jobs_fitting.py::test_the_smaller_rate_wins_a_tie_between_curves",
    ),
    Breakage(
        f"{_JOBS}/fitting.py", "the curve on V given out for that on P",
        "return found[best][1], rates[best]", "return found[best][0], rates[best]",
        "tests/jobs/test_jobs_fitting.py::test_the_rate_of_a_curve_has_the_largest_area_on_v",
    ),
    Breakage(
        f"{_JOBS}/fitting.py", "examples of a curve of whichever class comes first",
        "np.concatenate([positive[:m], negative[:m]])", "np.arange(2 * m)",
        "tests/jobs/test_jobs_fitting.py::test_first_examples_are_nested_and_of_both_classes",
    ),
)  # fmt: skip
"""In the order of the table."""

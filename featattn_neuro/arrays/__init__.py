"""Arithmetic on plain arrays: last axis = observations, no labels, nothing of ours imported.

discrimination  d' in its forms, ROC area, reason codes; all of them at once for the price of a sort (discriminate)
roc             ROC area, DeLong variance, covariance and interval, paired difference, curves
permutation     floors, permutation p, the maximum statistic; intervals: noncentral t, bootstrap
counting        class sums and pair counts under them: compiled (packed_sort, compiled), NumPy or torch (sorted_counts)
class_selectivity, sparseness, orientation, tuning_fits, variability, choice, signal_detection: as their names say
moments         the same d' in one pass: class-conditional count, mean, M2, extremes, zeros (update / merge / compute)
association     rank correlations within layers, leave-one-task-out gains, the task-mismatch null
resampling      t interval and test, permutation p
multiplicity    Holm, Benjamini-Hochberg, Benjamini-Yekutieli, Bonferroni with NaN
curves          areas under learning curves
agreement       exclusive-ink masks, the cue-swap score and its permuted-gain null
dissimilarity   correlation distance, comparison of matrices, centred kernel alignment
prediction      cross-validated ridge, split-half reliability
"""

"""Arithmetic on plain arrays: last axis = observations, no labels, nothing of ours imported.

discrimination  d', ROC area, DeLong variance and interval, paired difference, permutation floor, reason codes
moments         the same d' in one pass: class-conditional count, mean, M2, extremes, zeros (update / merge / compute)
association     rank correlations within layers, leave-one-task-out gains, the task-mismatch null
resampling      t interval and test, permutation p
multiplicity    Holm, Benjamini-Hochberg, Benjamini-Yekutieli, Bonferroni with NaN
curves          areas under learning curves
agreement       exclusive-ink masks, the cue-swap score and its permuted-gain null
dissimilarity   correlation distance, comparison of matrices, centred kernel alignment
prediction      cross-validated ridge, split-half reliability
"""

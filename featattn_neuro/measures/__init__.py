"""Dataset(s) to Dataset: names, no sums. The arithmetic is in `featattn_neuro.arrays`.

selectivity         how well each unit tells targets from distractors (d', ROC area); contrasts: what with what
streaming           the same d' from moments: unstored recordings, shards, lazily opened files
gain_selectivity    association of gains with selectivity, within layers; pooling over networks
saliency_agreement  does gain-weighted saliency fall on the cued object
arms                paired comparison of the arms of a transfer experiment
claims              verdicts on the claims T1-T4
tuning              tuning curves of neurons or filters
neural_match        layers of a network against recorded neurons
"""

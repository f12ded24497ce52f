"""Public neural data: the profiles over the stages of EfficientNet-Lite0 that independent code found."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import featattn_neuro as fn
from featattn_neuro.io.neural import read_dissimilarity

STAGES = [f"blocks.{stage}" for stage in range(7)]


@pytest.fixture(scope="module")
def network():
    return fn.load_model("efficientnet_lite0")


@pytest.mark.slow
def test_stage_dissimilarities_and_monkey_it(shared_data, network):
    recorded = fn.record(network, fn.load_stimuli("objects92"), STAGES)
    monkey = read_dissimilarity("objects92").sel(subject="monkey_IT")
    found = fn.neural_match(recorded, monkey, methods=["rsa"])["score"].values[:, 0]
    np.testing.assert_allclose(found, [0.14, 0.19, 0.13, 0.20, 0.28, 0.41, 0.26], atol=0.03)


@pytest.mark.slow
def test_ridge_from_stage_means_to_v4(shared_data, network):
    """The images as they are, 112 px: the profile is the same at 224 px (benchmarks/neural.py)."""
    own = replace(network, preprocess=replace(network.preprocess, size=None, crop=None))
    recorded = fn.record(own, fn.load_stimuli("v4_210325"), STAGES)
    neural = fn.read_neural("v4_210325")
    found = fn.neural_match(recorded, neural, methods=["ridge"])
    np.testing.assert_allclose(found["score"].values[:, 0], [0.27, 0.35, 0.37, 0.41, 0.46, 0.47, 0.46], atol=0.03)
    assert float(found["ceiling"][0]) == pytest.approx(0.77, abs=0.02)
    shuffled = recorded.assign_coords(stimulus=np.random.default_rng(1).permutation(recorded["stimulus"].values))
    null = fn.neural_match(shuffled, neural, methods=["ridge"])["score"].values
    assert np.abs(null).max() < 0.08

"""`learn_gains` in all its ways, and what it learned placed again: the public road from labels to gained answers."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import nn

import featattn_neuro as fn
from featattn_neuro.errors import ConfigError
from featattn_neuro.nets.gain_sets import detector_of
from featattn_neuro.nets.training import head_inputs


@pytest.fixture(scope="module")
def problem() -> tuple[nn.Module, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    images = rng.random((24, 1, 12, 12), dtype=np.float32)
    labels = np.array([["cat", "cow", "dog"][k % 3] for k in range(24)])
    images[labels == "cat", :, :6] += 0.5
    images[labels == "dog", :, :, :6] += 0.5
    return fn.load_model("digits_cnn", weights="random", seed=1).module, images, labels


@pytest.mark.parametrize(
    ("layers", "options"),
    [
        ("relu2", {}),
        (["relu2.input", "relu3"], {"parameterisation": "free"}),
        ("relu*", {"per": "layer"}),
        ("relu3", {"per": "position", "parameterisation": "non_negative"}),
        ("relu[23]", {"per": "filter and position", "combination": "additive", "shift": True}),
        ("relu3", {"parameterisation": "bounded(0.7, 1.3)", "penalty": 0.01, "penalty_norm": "l1"}),
    ],
    ids=str,
)
def test_what_is_learned_is_what_is_placed(problem, layers, options):
    net, images, labels = problem
    before = copy.deepcopy(net.state_dict())
    learned = fn.learn_gains(net, images, labels, layers, epochs=20, batch_size=12, rate=0.02, **options)
    assert all(torch.equal(net.state_dict()[key], before[key]) for key in before)
    sets = fn.GainSets(learned)
    assert list(sets) == ["cat", "cow", "dog"]
    plain = head_inputs(net, "head", torch.as_tensor(images))
    for task, name in enumerate(sets):
        with fn.with_gains(net, sets[name]):
            features = head_inputs(net, "head", torch.as_tensor(images))
        assert not np.allclose(features, plain)
        z = detector_of(learned).logits(features)[task]
        target = labels == name
        if name != "cow":  # cats and dogs were given something to be told by
            assert z[target].mean() > z[~target].mean()
    np.testing.assert_array_equal(head_inputs(net, "head", torch.as_tensor(images)), plain)
    with fn.switchable_gains(net, sets) as switch:
        switch("cow")
        first = head_inputs(net, "head", torch.as_tensor(images))
        switch("dog")
        switch("cow")
        np.testing.assert_array_equal(head_inputs(net, "head", torch.as_tensor(images)), first)


def test_options_that_mean_nothing_are_refused(problem):
    net, images, labels = problem
    for options, message in (
        ({"per": "pixel"}, "unknown kind of gain 'pixel'"),
        ({"combination": "additive"}, "is for per='filter and position'"),
        ({"parameterisation": "exp"}, "wanted free, non_negative"),
        ({"penalty_norm": "l0"}, "unknown norm of the penalty"),
    ):
        with pytest.raises(ConfigError, match=message):
            fn.learn_gains(net, images, labels, "relu3", epochs=1, **options)
    with pytest.raises(ConfigError, match="relu7"):
        fn.learn_gains(net, images, labels, "relu7.input", epochs=1)

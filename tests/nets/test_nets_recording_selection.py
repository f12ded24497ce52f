"""Which layers are meant, what is made of their maps, and that it works on the common architectures."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from scipy import stats
from torch import nn
from torchvision.models.feature_extraction import create_feature_extractor, get_graph_node_names

import featattn_neuro as fn
from featattn_neuro.errors import ConfigError, DataError
from featattn_neuro.nets.graph_nodes import NodeGraph
from featattn_neuro.nets.selection import select_layers


def images(n, side, channels=3):
    return np.random.default_rng(n).standard_normal((n, channels, side, side)).astype(np.float32)


@pytest.fixture(scope="module")
def resnet():
    import torchvision

    with torch.random.fork_rng():
        torch.manual_seed(0)
        return torchvision.models.resnet18(weights=None, num_classes=3).eval()


@pytest.mark.parametrize(
    ("layers", "found"),
    [
        ("norm", ["norm"]),
        ("stage:norm", ["norm", "blocks.0.norm1"]),
        ("type:LayerNorm", ["norm", "blocks.0.norm1"]),
        ("Conv2d", ["Conv2d"]),
        ("type:Conv2d", ["conv"]),
    ],
)
def test_a_stage_or_type_is_meant_also_where_a_module_has_that_name(layers, found):
    net = nn.ModuleDict({"conv": nn.Conv2d(3, 2, 1), "norm": nn.LayerNorm(2), "Conv2d": nn.ReLU()})
    net["blocks"] = nn.Sequential(nn.ModuleDict({"norm1": nn.LayerNorm(2)}))
    assert select_layers(net, layers) == found
    with pytest.raises(ConfigError, match="'stage:pool' matches no layer"):
        select_layers(net, "stage:pool")


def test_functions_take_name_and_module(resnet):
    for wrong in (lambda name: True, lambda a, b, c: True):
        with pytest.raises(ConfigError, match=r"function \(name, module\) -> bool.*takes other arguments"):
            fn.record(resnet, images(1, 32), wrong)
    assert select_layers(resnet, lambda *both: both[0] == "conv1") == ["conv1"]


def test_compiled_expressions_are_matched_with_their_flags(resnet):
    assert select_layers(resnet, re.compile("LAYER2[.]0[.]conv1", re.IGNORECASE)) == ["layer2.0.conv1"]
    through_graph = fn.record(resnet, images(1, 32), re.compile(r"layer1\.[01]\.add"), batch_size=1)
    assert sorted(set(through_graph.layer.values)) == ["layer1.0.add", "layer1.1.add"]
    with pytest.raises(ConfigError, match="'conv7' matches no layer"):
        select_layers(resnet, re.compile("conv7"))


def test_two_functions_without_names_are_told_to_be_named(resnet):
    with pytest.raises(ConfigError, match=r"two functions called '<lambda>'; define them with def"):
        fn.record(resnet, images(1, 32), "conv1", reduce=[lambda m: m.amax((2, 3)), lambda m: m.amin((2, 3))])


def test_one_layer_meant_in_every_way(resnet):
    named = select_layers(resnet, "layer2.0.conv1")
    for same in (
        "layer2.0.c*v1",
        r"re:layer2\.0\.conv1",
        ["layer2.0.conv1", "layer2.*.conv1x", "layer2.0.conv1"][:1],
        lambda name, part: name == "layer2.0.conv1",
    ):
        assert select_layers(resnet, same) == named
    convs = select_layers(resnet, "conv")
    assert len(convs) == 20
    assert select_layers(resnet, nn.Conv2d) == select_layers(resnet, "Conv2d") == convs
    assert select_layers(resnet, ["BasicBlock", "conv1"])[0] == "conv1"
    with pytest.raises(ConfigError, match="did you mean 'layer2'"):
        select_layers(resnet, "layer22")
    with pytest.raises(ConfigError, match="regular expression"):
        select_layers(resnet, "re:(")


def test_node_names_are_those_of_torchvision(resnet):
    names = [n for n in get_graph_node_names(resnet)[1] if n != "x"]
    assert NodeGraph(resnet).names == names


def test_graph_values_are_those_of_torchvision(resnet):
    x = images(4, 32)
    nodes = ["layer1.0.add", "layer2.1.relu_1", "flatten"]
    found = fn.record(resnet, x, nodes, batch_size=4)
    for part in resnet.modules():
        if isinstance(part, nn.ReLU):
            part.inplace = False
    try:
        with torch.no_grad():
            wanted = create_feature_extractor(resnet, nodes)(torch.from_numpy(x))
    finally:
        for part in resnet.modules():
            if isinstance(part, nn.ReLU):
                part.inplace = True
    for node, value in wanted.items():
        rows = found.response[:, found.node.values == node]
        np.testing.assert_allclose(rows, value if value.ndim == 2 else value.mean((2, 3)), rtol=1e-5, atol=1e-6)


def test_hooks_and_graph_agree_bit_for_bit(resnet):
    x = images(4, 32)
    hooks = fn.record(resnet, x, ["conv", "block"], batch_size=4)
    graph = fn.record(resnet, x, ["conv", "block", "layer1.0.add"], batch_size=4)
    assert (hooks.attrs["recorded_through"], graph.attrs["recorded_through"]) == ("module hooks", "torch.fx graph")
    common = graph.sel(unit=hooks.unit.values)
    np.testing.assert_array_equal(common.response, hooks.response)
    assert "node" not in hooks.coords


def test_reductions_equal_numpy_and_scipy():
    net = nn.Sequential(nn.Conv2d(3, 5, 3))
    x = images(4, 9)
    maps = fn.record(net, x, "0", reduce="none", batch_size=4)
    cube = maps.response.values.reshape(4, 5, 7, 7).astype(np.float64)
    assert maps.y.values.reshape(5, 7, 7)[0, :, 3].tolist() == list(range(7))
    assert maps.x.values.reshape(5, 7, 7)[2, 4].tolist() == list(range(7))

    def lowest(one):
        return one.amin(dim=(2, 3))

    found = fn.record(net, x, "0", reduce=["mean", "max", "sum", "sd", "centre", "q0.9", "q0", lowest], batch_size=4)
    flat = cube.reshape(4, 5, -1)
    wanted = {
        "mean": flat.mean(-1), "max": flat.max(-1), "sum": flat.sum(-1), "sd": stats.tstd(flat, axis=-1, ddof=0),
        "centre": cube[:, :, 3, 3], "q0.9": np.quantile(flat, 0.9, axis=-1), "q0": flat.min(-1), "lowest": flat.min(-1),
    }  # fmt: skip
    assert found.reduction.values.tolist() == list(wanted)
    for name, value in wanted.items():
        np.testing.assert_allclose(found.response.sel(reduction=name), value, rtol=2e-5, atol=2e-5, err_msg=name)


def test_vectors_are_maps_of_one_position():
    net = nn.Sequential(nn.Flatten(), nn.Linear(27, 4))
    x = images(3, 3)
    plain = fn.record(net, x, "1").response.values

    def tripled(maps):
        return 3 * maps.sum(dim=(2, 3))

    names = ["mean", "sd", "max", "sum", "q0.5", tripled]
    found = fn.record(net, x, "1", reduce=names).response
    for name in ("mean", "max", "sum", "q0.5"):
        np.testing.assert_array_equal(found.sel(reduction=name), plain, err_msg=name)
    assert (found.sel(reduction="sd") == 0).all()
    np.testing.assert_array_equal(found.sel(reduction="tripled"), 3 * plain)
    assert (fn.record(net, x, "1", reduce="sd").response == 0).all()
    np.testing.assert_array_equal(fn.record(net, x, "1", reduce=tripled).response, 3 * plain)
    with pytest.raises(DataError, match=r"takes maps \(32, 4, 1, 1\) to \(N, C\)"):
        fn.record(net, x, "1", reduce=lambda maps: maps[:, 0])
    with torch.no_grad():
        net[1].weight[0] = torch.nan
    lost = fn.record(net, x, "1", reduce="sd").response
    assert lost[:, 0].isnull().all()
    assert (lost[:, 1:] == 0).all()


@pytest.mark.parametrize("offset", [0.0, 1.0, 1e3, -1e5])
def test_sd_keeps_its_digits_far_from_zero(offset):
    net = nn.Sequential(nn.Conv2d(1, 2, 1))
    nn.init.constant_(net[0].weight, 1.0)
    nn.init.constant_(net[0].bias, offset)
    x = images(3, 16, 1)
    with torch.no_grad():
        exact = net(torch.from_numpy(x)).double().std((2, 3), correction=0)
    np.testing.assert_allclose(fn.record(net, x, "0", reduce="sd").response, exact, rtol=1e-4)
    flat = fn.record(net, np.ones((1, 1, 4, 4), np.float32), "0", reduce="sd")
    assert flat.response.values.tolist() == [[0.0, 0.0]]


def test_impossible_reductions_are_refused(resnet):
    with pytest.raises(ConfigError, match="'none' keeps every position"):
        fn.record(resnet, images(2, 32), "conv1", reduce=["mean", "none"])
    with pytest.raises(ConfigError, match=r"unknown reduction 'q1\.5'"):
        fn.record(resnet, images(2, 32), "conv1", reduce="q1.5")
    with pytest.raises(DataError, match="a reduction takes maps"):
        fn.record(resnet, images(2, 32), "conv1", reduce=lambda maps: maps.mean(1))


TORCHVISION = ["alexnet", "vgg11", "resnet18", "mobilenet_v2", "densenet121"]
TIMM = [
    "resnet10t", "mobilenetv3_small_050", "convnext_atto", "vit_tiny_patch16_224", "efficientnet_lite0",
]  # fmt: skip


@pytest.mark.parametrize("name", [f"torchvision:{n}" for n in TORCHVISION] + [f"timm:{n}" for n in TIMM])
def test_the_recorder_works_on(name):
    network = fn.load_model(name, weights="random")
    side = 224 if "vit" in name else 64
    x = images(2, side)
    for layers in ("conv", "activation", ["block", "linear"]):
        found = fn.record(network.module, x, layers, reduce=["mean", "max", "sd"], batch_size=2)
        assert np.isfinite(found.response.values).all()
        assert (found.response.sel(reduction="max") >= found.response.sel(reduction="mean") - 1e-5).all()
        listed = {layer.name: layer for layer in fn.list_layers(network.module, input_shape=(3, side, side))}
        counts = found.layer.to_series().value_counts()
        for layer, count in counts.items():
            assert count == listed[layer].filters * listed[layer].calls, layer
    assert sum(len(part._forward_hooks) for part in network.module.modules()) == 0


def test_tokens_are_pooled_or_kept():
    network = fn.load_model("timm:vit_tiny_patch16_224", weights="random")
    x = images(1, 224)
    kept = fn.record(network.module, x, "blocks.0", reduce="none", batch_size=1)
    assert kept.sizes["unit"] == 192 * 197
    assert kept.y.values[:197].tolist() == list(range(197))
    pooled = fn.record(network.module, x, "blocks.0", batch_size=1)
    np.testing.assert_allclose(kept.response.values.reshape(192, 197).mean(1), pooled.response[0], rtol=1e-4, atol=1e-6)

"""Recording where networks are unusual: axes that mislead, layers that do not run, chance, batches, wrong arguments."""

from __future__ import annotations

from contextlib import contextmanager

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812 - its usual name
import xarray as xr
from torch import nn
from torchvision.models.feature_extraction import get_graph_node_names

import featattn_neuro as fn
from featattn_neuro.api import recording
from featattn_neuro.errors import ConfigError, DataError
from featattn_neuro.nets.adapters import Network
from featattn_neuro.nets.graph_nodes import NodeGraph
from featattn_neuro.nets.operations import Operations
from featattn_neuro.nets.preprocessing import Preprocessing


def images(n=4, side=8, channels=3):
    return np.random.default_rng(n).standard_normal((n, channels, side, side)).astype(np.float32)


class Along(nn.Module):
    """A module, then whatever function is given; `out` shows the result."""

    def __init__(self, first, function, out=None):
        super().__init__()
        self.first, self.out, self.function = first, out or nn.Identity(), function

    def forward(self, x):
        return self.out(self.function(self.first(x)))


def test_layer_norm_over_whole_maps_has_the_channels_of_the_maps():
    net = nn.Sequential(nn.Conv2d(3, 5, 3, padding=1), nn.LayerNorm((5, 8, 8)), nn.ReLU())
    found = fn.record(net, images(), ["1", "2"], reduce="none")
    assert found.layer.to_series().value_counts().to_dict() == {"1": 5 * 64, "2": 5 * 64}
    with torch.no_grad():
        wanted = net[1](net[0](torch.from_numpy(images()))).flatten(1)
    np.testing.assert_allclose(found.response[:, found.layer.values == "1"], wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("heads", [2, 3])
def test_heads_are_not_filters_also_where_there_are_as_many_as_colours(heads):
    net = Along(nn.Conv2d(3, 12, 4, 4), lambda maps: maps.flatten(2).transpose(1, 2), nn.Sequential(nn.LayerNorm(12)))
    net = Along(net, lambda tokens: tokens.unflatten(2, (heads, -1)).transpose(1, 2))
    with pytest.raises(DataError, match="no convolution or norm of this network has as many channels"):
        fn.record(net, images(), "out")
    assert fn.record(net, images(), "out", channel_axis={"out": -1}).sizes["unit"] == 12 // heads


@pytest.mark.parametrize("first", [True, False])
def test_as_many_tokens_as_images_do_not_pass_for_images(first):
    """4 tokens, 4 images: a second look at another number of images says which are which."""
    turned = (0, 1, 2) if first else (1, 0, 2)
    tokens = Along(nn.Conv2d(3, 6, 4, 4), lambda maps: maps.flatten(2).transpose(1, 2).permute(turned))
    net = Along(tokens, lambda value: value, nn.LayerNorm(6))
    if not first:
        with pytest.raises(DataError, match="images on the second axis"):
            fn.record(net, images(4), "out", batch_size=4)
        with pytest.raises(DataError, match=r"gives 4 rows for 3 images.*second axis"):
            fn.record(net, images(4), "out", batch_size=3)
        return
    found = fn.record(net, images(4), "out", batch_size=4, reduce="none")
    np.testing.assert_allclose(
        found.response, fn.record(net, images(4), "out", batch_size=3, reduce="none").response, atol=1e-6
    )


def test_a_layer_before_the_norm_that_tells_its_axis_is_recorded_with_as_many_tokens_as_images():
    """The second look must not overwrite what the first pass took for the axis, before the norm had run."""
    tokens = Along(nn.Conv2d(3, 6, 4, 4), lambda maps: maps.flatten(2).transpose(1, 2), nn.Dropout())
    net = nn.Sequential(tokens, nn.LayerNorm(6), nn.Linear(6, 6)).eval()
    found, other = (fn.record(net, images(8), ["0.out", "2"], batch_size=size) for size in (4, 3))
    assert found.sizes["unit"] == other.sizes["unit"] == 12
    np.testing.assert_allclose(found.response, other.response, atol=1e-6)


class PermutingNorm(nn.LayerNorm):
    """Features on axis 1, as many networks' layer norms of maps have them; nothing in its name says so."""

    def forward(self, x):
        return super().forward(x.movedim(1, -1)).movedim(-1, 1)


class OrdinaryNorm(nn.LayerNorm):
    """A forward of its own, on the last axis."""

    def forward(self, x):
        return F.layer_norm(x, self.normalized_shape, self.weight, self.bias, self.eps)


class TokenMixer(nn.Linear):
    """Works on (N, C, T) from the other side."""

    def forward(self, x):
        return super().forward(x.transpose(1, 2)).transpose(1, 2)


def timm_norms():
    from timm.layers.norm import LayerNorm2d, LayerNorm2dFp32
    from timm.layers.norm_act import LayerNormAct2dFp32

    return LayerNorm2d, LayerNorm2dFp32, LayerNormAct2dFp32


@pytest.mark.parametrize("norm", [*timm_norms(), PermutingNorm])
@pytest.mark.parametrize("name", ["1", "2"])
def test_layer_norms_that_permute_inside_have_their_filters_on_axis_1(norm, name):
    net = nn.Sequential(nn.Conv2d(3, 5, 1), norm(5), nn.ReLU(), nn.Conv2d(5, 2, 1)).eval()
    found = fn.record(net, images(), name)
    with torch.no_grad():
        wanted = net[: int(name) + 1](torch.from_numpy(images())).mean((2, 3))
    np.testing.assert_allclose(found.response, wanted, rtol=1e-5, atol=1e-6)
    listed = {layer.name: layer.filters for layer in fn.list_layers(net, input_shape=(3, 8, 8))}
    assert [listed[part] for part in "0123"] == [5, 5, 5, 2]


def test_classes_with_a_forward_of_their_own_are_held_against_their_outputs():
    def tokens(last, side):
        return Along(nn.Conv2d(3, 6, side, side), lambda maps: maps.flatten(2).transpose(1, 2), last)

    assert fn.record(tokens(OrdinaryNorm(6), 4), images(3), "out").sizes["unit"] == 6
    mixer = Along(nn.Conv2d(3, 4, 4, 4), lambda maps: maps.flatten(2), TokenMixer(4, 7))
    assert fn.record(mixer, images(3), "out").sizes["unit"] == 7
    square = nn.Sequential(nn.Conv2d(3, 8, 1), PermutingNorm(8))  # 8 filters, 8 columns
    with pytest.raises(DataError, match="the sizes do not tell on which axis its class works"):
        fn.record(square, images(3), "1")
    found = fn.record(square, images(3), "1", channel_axis=1)
    with torch.no_grad():
        np.testing.assert_allclose(found.response, square(torch.from_numpy(images(3))).mean((2, 3)), atol=1e-6)
    # torch's own forward leaves nothing open: 4 tokens of 4 features
    plain = Along(nn.Conv2d(3, 4, 4, 4), lambda maps: maps.flatten(2).transpose(1, 2), nn.LayerNorm(4))
    assert "last axis in out" in fn.record(plain, images(3), "out").attrs["channel_rule"]


def test_one_axis_for_all_is_for_layers_that_no_rule_settles():
    net = nn.Sequential(nn.Conv2d(3, 5, 1), Along(nn.Identity(), lambda maps: maps.movedim(1, -1)))
    found = fn.record(net, images(2), ["0", "1"], channel_axis=-1)
    assert found.attrs["channel_rule"] == "axis 1, last axis in 1"
    with torch.no_grad():
        wanted = net[0](torch.from_numpy(images(2))).mean((2, 3))
    for layer in ("0", "1"):
        np.testing.assert_allclose(found.response[:, found.layer.values == layer], wanted, rtol=1e-4, atol=1e-6)
    assert fn.record(net, images(2), "0", channel_axis={"0": -1}).sizes["unit"] == 8


def test_the_channel_axis_is_told_as_it_was():
    net = Along(nn.Identity(), lambda maps: maps.permute(0, 2, 1, 3))
    found = fn.record(net, images(2), ["first", "out"], channel_axis={"first": -1, "out": 2})
    assert found.attrs["channel_rule"] == "axis 1, axis 2 in out, last axis in first"
    np.testing.assert_allclose(
        found.response[:, found.layer.values == "out"], images(2).mean((2, 3)), rtol=1e-4, atol=1e-6
    )


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"frist": 1}, r"unknown layer in channel_axis 'frist'.*did you mean 'first'"),
        ({"out": "last"}, "channel_axis must be a whole number, such as 1 or -1; came 'last'"),
        (1.0, "channel_axis must be a whole number"),
    ],
)
def test_a_channel_axis_that_means_nothing_is_refused(given, message):
    with pytest.raises(ConfigError, match=message):
        fn.record(Along(nn.Identity(), F.relu), images(2), "out", channel_axis=given)


@pytest.mark.parametrize("axis", [0, 4, 9, -4, -5, -7])
def test_an_axis_that_is_not_there_is_not_counted_on_from_the_front(axis):
    net = nn.Sequential(nn.Conv2d(3, 4, 3))
    with pytest.raises(DataError, match=rf"channel axis {axis} is not one of the others; name one of 1 to 3"):
        fn.record(net, images(2), "0", channel_axis={"0": axis})
    assert fn.record(net, images(2), "0", channel_axis={"0": -3}).sizes["unit"] == 4


class Sometimes(nn.Module):
    """An auxiliary head that runs in training only, a block that gives two maps, a list of values."""

    def __init__(self):
        super().__init__()
        self.stem, self.aux, self.pair = nn.Conv2d(3, 2, 1), nn.Conv2d(2, 1, 1), Pair()

    def forward(self, x):
        x = self.stem(x)
        return self.aux(x) if self.training else self.pair(x)[0]


class Pair(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(2, 2, 1)

    def forward(self, x):
        return x, self.conv(x)


def test_patterns_leave_out_what_cannot_be_recorded_and_say_so(tmp_path):
    net = Sometimes()
    found = fn.record(net, images(), "conv", out=tmp_path / "a.zarr")
    assert list(dict.fromkeys(found.layer.values.tolist())) == ["stem", "pair.conv"]
    assert found.attrs["layers_left_out"] == "aux (did not run)"
    both = fn.record(net, images(), ["*", "re:p.*"])
    assert both.attrs["layers_left_out"] == "aux (did not run); pair (gives tuple)"
    xr.testing.assert_equal(both.response.drop_attrs(), found.response.load().drop_attrs())
    assert "layers_left_out" not in fn.record(net, images(), "stem").attrs
    with pytest.raises(DataError, match="'aux' exists but did not run"):
        fn.record(net, images(), ["conv", "aux"])
    with pytest.raises(DataError, match="'pair' must give maps"):
        fn.record(net, images(), ["*", "pair"])
    with pytest.raises(DataError, match=r"none of the 2 layers .* can be recorded \(the first, 'aux', did not run\)"):
        fn.record(net, images(), "re:aux|pair")


def test_patterns_leave_out_what_the_graph_does_not_reach():
    class Adds(Sometimes):
        def forward(self, x):
            return super().forward(x) + 1

    net = Adds()
    found = fn.record(net, images(), ["conv", "block", "add"])
    assert list(dict.fromkeys(found.layer.values.tolist())) == ["stem", "pair.conv", "add"]
    assert found.attrs["layers_left_out"].startswith("aux (does not run, or gives no tensor); pair (")
    with pytest.raises(ConfigError, match="'aux' does not run"):
        fn.record(net, images(), ["aux", "add"])


def test_windows_that_a_pattern_means_are_left_out():
    net = Along(nn.Conv2d(3, 4, 1), lambda maps: maps.flatten(2).flatten(0, 1), nn.Linear(64, 3))
    found = fn.record(net, images(2), ["conv", "linear"], batch_size=2)
    assert found.attrs["layers_left_out"] == "out (gives 8 rows for 2 images)"


class SizeDependent(nn.Conv2d):
    """As TensorFlow's padding: torch.fx cannot follow what hangs on the size of the input."""

    def forward(self, x):
        return super().forward(F.pad(x, (0, 1, 0, 1)) if x.shape[-1] % 2 == 0 else x)


def test_operations_beside_modules_that_cannot_be_traced():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.act = nn.Sequential(SizeDependent(3, 3, 2)), nn.ReLU()

        def forward(self, x):
            return self.act(self.conv(x)) + x

    net = Net().eval()
    assert NodeGraph(net).names == ["conv.0", "act", "add"]
    assert Operations(net).names == ["add"]
    found = fn.record(net, images(), ["add", "act", "conv.0"])
    hooks = fn.record(net, images(), ["act", "conv.0"])
    np.testing.assert_array_equal(found.sel(unit=hooks.unit.values).response, hooks.response)
    act = found.response[:, found.layer.values == "act"].values
    np.testing.assert_allclose(
        found.response[:, found.layer.values == "add"], act + images().mean((2, 3)), rtol=1e-4, atol=1e-6
    )


def test_a_network_that_cannot_be_traced_itself_is_still_refused():
    class Net(nn.Module):
        def forward(self, x):
            return x + 1 if x.sum() > 0 else x

    for traced in (NodeGraph, Operations):
        with pytest.raises(ConfigError, match=r"torch\.fx cannot trace this network"):
            traced(Net())


def test_additions_of_efficientnet_lite0():
    network = fn.load_model("efficientnet_lite0", weights="random")
    found = fn.record(network.module, images(2, 64), ["blocks.1.1.add", "blocks.1.1"], batch_size=2)
    sums = found.response[:, found.layer.values == "blocks.1.1.add"]
    np.testing.assert_array_equal(sums, found.response[:, found.layer.values == "blocks.1.1"])


def test_an_operation_that_is_called_as_a_module_has_a_name_of_its_own(gain_set):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.relu = nn.Conv2d(3, 4, 1), nn.ReLU()

        def forward(self, x):
            return self.relu(F.relu(self.conv(x)) - 0.5)

    net = Net().eval()
    assert NodeGraph(net).names == ["conv", "relu()", "sub", "relu_1"]
    assert Operations(net).names == ["relu()", "sub"]
    found = fn.record(net, images(), ["relu", "relu()"])
    with torch.no_grad():
        first = net.conv(torch.from_numpy(images())).relu()
        second = (first - 0.5).relu()
    for layer, wanted in (("relu()", first), ("relu", second)):
        here = found.layer.values == layer
        np.testing.assert_allclose(found.response[:, here], wanted.mean((2, 3)), rtol=1e-5, atol=1e-6)
    assert found.node.values[found.layer.values == "relu()"][0] == "relu"
    with fn.with_gains(net, gain_set({"relu()": [0.0] * 4})):
        assert not fn.record(net, images(), "relu").response.any()
    with pytest.raises(ConfigError, match=r"did you mean 'relu\(\)'"):
        fn.record(net, images(), "relu(")


def test_statistics_of_the_batch_are_refused_where_there_are_neighbours():
    net = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4, track_running_stats=False), nn.InstanceNorm2d(4))
    with pytest.raises(DataError, match=r"layer '1' normalises by the mean and variance of the batch.*batch_size=1"):
        fn.record(net, images(), "0")
    alone = fn.record(net, images(6), "1", reduce="max", batch_size=1)
    some = fn.record(net, images(6)[[3, 5]], "1", reduce="max", batch_size=1)
    np.testing.assert_array_equal(some.response, alone.response[[3, 5]])


@pytest.mark.parametrize("draw", [torch.rand_like, lambda x: x * float(np.random.rand())])  # noqa: NPY002
def test_chance_is_refused_where_it_reaches_what_is_recorded(draw):
    net = Along(nn.Conv2d(3, 4, 1), lambda maps: maps + draw(maps))
    with pytest.raises(DataError, match=r"layer 'out' gives other values .*draws random numbers.*switch its noise off"):
        fn.record(net, images(), ["first", "out"])
    found = fn.record(net, images(), "first")  # before the noise
    np.testing.assert_array_equal(found.response, fn.record(net, images(), "first").response)
    harmless = Along(nn.Conv2d(3, 4, 1), lambda maps: (draw(maps), maps)[1])
    state = torch.get_rng_state()
    fn.record(harmless, images(), "out")
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("draw", [lambda x: x + torch.rand(1), lambda x: x * float(np.random.rand())])  # noqa: NPY002
def test_chance_that_the_graph_would_hold_fast_is_refused(draw):
    net = Along(nn.Conv2d(3, 4, 1), lambda maps: draw(maps) + 1)
    state = np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()  # noqa: NPY002
    with pytest.raises(ConfigError, match=r"draws random numbers that its .* graph would hold fast"):
        fn.record(net, images(), "add")
    assert (np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()) == state  # noqa: NPY002


def test_a_network_that_keeps_a_tensor_of_its_forward_learns_after_recording():
    class Keeps(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.grid = nn.Conv2d(3, 4, 1), None

        def forward(self, x):
            if self.grid is None:
                self.grid = torch.linspace(0, 1, x.shape[-1])
            return self.conv(x) * self.grid

    net = Keeps()
    fn.record(net, images(), "conv")
    net(torch.from_numpy(images())).sum().backward()
    assert net.conv.weight.grad is not None


def test_a_reduction_that_works_in_place_reaches_no_other_layer():
    net = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1))

    def rectified(maps):
        return maps.relu_().mean((2, 3))

    found = fn.record(net, images(), ["0", "1"], reduce=["mean", rectified, "max"])
    wanted = fn.record(net, images(), ["0", "1"], reduce=["mean", "max"])
    np.testing.assert_array_equal(found.response.sel(reduction=["mean", "max"]), wanted.response)


def test_reductions_may_give_whole_numbers():
    net = nn.Sequential(nn.Conv2d(3, 4, 1))
    found = fn.record(net, images(), "0", reduce=lambda maps: (maps > 0).sum((2, 3)))
    assert found.response.dtype == np.float32
    with pytest.raises(DataError, match="float16"):
        fn.record(net, images(), "0", reduce=lambda maps: (maps.mean((2, 3)) * 0 + 70_000).int(), dtype="float16")


@pytest.mark.parametrize("reduce", ["none", "mean", ["mean", "max"]])
@pytest.mark.parametrize("beside", [float("nan"), float("inf")])
def test_float16_refuses_what_it_cannot_hold_beside_values_that_are_not_finite(reduce, beside):
    def spoilt(maps):
        maps = maps.abs() * 1e6 + 1e5
        maps[0] = beside
        return maps

    net = Along(nn.Conv2d(3, 2, 1), spoilt)
    with pytest.raises(DataError, match=r"'out' exceeds what float16 can hold \(65504\)"):
        fn.record(net, images(), "out", reduce=reduce, dtype="float16")
    small = Along(nn.Conv2d(3, 2, 1), lambda maps: spoilt(maps) / 1e6)
    found = fn.record(small, images(), "out", reduce=reduce, dtype="float16")
    assert not np.isfinite(found.response.values[..., 0, :]).any()
    assert np.isfinite(found.response.values[..., 1:, :]).all()


def test_float32_refuses_what_only_float64_holds():
    net = Along(nn.Conv2d(3, 2, 1), lambda maps: maps.abs() * 1e200 + 1e100).double()
    with pytest.raises(DataError, match="exceeds what float32 can hold"):
        fn.record(net, images(), "out")
    assert np.isfinite(fn.record(net, images(), "out", dtype="float64").response).all()


def test_a_recording_is_the_same_inside_autocast_of_the_caller():
    net = nn.Sequential(nn.Conv2d(3, 4, 3))
    wanted = fn.record(net, images(), "0")
    with torch.autocast("cpu", dtype=torch.bfloat16), torch.inference_mode():
        found = fn.record(net, images(), "0")
        assert torch.is_autocast_enabled("cpu")
    xr.testing.assert_identical(found, wanted)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layers": None}, "wanted layers by name, pattern, type or function; came None"),
        ({"layers": [3]}, "wanted layers by name.*came 3"),
        ({"layers": nn.ReLU()}, r"came a module \(ReLU\); give its name"),
        ({"batch_size": 2.5}, "batch_size must be at least 1, a whole number; came 2.5"),
        ({"batch_size": 0}, "batch_size must be at least 1"),
        ({"workers": -1}, "workers must be a number of processes, 0 or more; came -1"),
        ({"workers": 1.5}, "workers must be a number of processes"),
    ],
)
def test_impossible_arguments_are_refused_in_a_sentence(options, message):
    with pytest.raises(ConfigError, match=message):
        fn.record(nn.Sequential(nn.Conv2d(3, 2, 1)), images(), **{"layers": "0", **options})


@pytest.mark.parametrize("dtype", [torch.float16, torch.float64])
def test_autocast_is_for_float32_networks(dtype):
    net = nn.Sequential(nn.Conv2d(3, 2, 1)).to(dtype)
    with pytest.raises(ConfigError, match="casts a float32 network while it runs; this one holds float"):
        fn.record(net, images(), "0", compute_dtype="bfloat16")


@pytest.mark.filterwarnings("ignore:.*torch.jit")
def test_script_modules_are_refused():
    scripted = torch.jit.trace(nn.Sequential(nn.Conv2d(3, 2, 1)), torch.zeros(1, 3, 8, 8))
    for asked in (lambda: fn.record(scripted, images(), "0"), lambda: fn.list_layers(scripted)):
        with pytest.raises(ConfigError, match="came a ScriptModule; give the module that it was made from"):
            asked()


def test_identical_files_name_the_function_that_drops_them(tmp_path):
    from PIL import Image

    for name in ("a.png", "b.png"):
        Image.new("RGB", (8, 8)).save(tmp_path / name)
    with pytest.raises(
        DataError, match=r"identical; remove one, or load them with load_stimuli\(..., duplicates='drop"
    ):
        fn.record(nn.Sequential(nn.Conv2d(3, 2, 1)), tmp_path, "0")


def test_listed_filters_are_those_that_are_recorded():
    class Last(nn.Module):
        """Maps with channels last, a series, a module that tells nothing."""

        def __init__(self):
            super().__init__()
            self.conv, self.norm, self.open, self.series = (
                nn.Conv2d(3, 6, 1),
                nn.LayerNorm(6),
                nn.GELU(),
                nn.Conv1d(6, 5, 1),
            )

        def forward(self, x):
            return self.series(self.open(self.norm(self.conv(x).permute(0, 2, 3, 1))).flatten(1, 2).transpose(1, 2))

    listed = fn.list_layers(Last(), input_shape=(3, 8, 8))
    assert {layer.name: layer.filters for layer in listed} == {"conv": 6, "norm": 6, "open": None, "series": 5}
    assert {layer.name: layer.output_shape for layer in listed}["norm"] == (8, 8, 6)
    found = fn.record(Last(), images(), ["conv", "norm", "series"])
    assert found.layer.to_series().value_counts().to_dict() == {"conv": 6, "norm": 6, "series": 5}


def test_the_first_batch_is_looked_at_twice_though_the_network_works_on_it_in_place():
    class Centring(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.noise = nn.Conv2d(1, 3, 3), nn.Conv2d(1, 1, 1)

        def forward(self, maps):
            maps = self.conv(maps.sub_(0.5))
            self.noise(torch.rand(1, 1, 2, 2))  # drawn, but nothing that is recorded sees it
            return maps

    torch.manual_seed(0)
    net, given = Centring().eval(), images(channels=1)
    found = fn.record(net, given, ["conv"], batch_size=2)
    with torch.no_grad():
        wanted = net.conv(torch.as_tensor(given) - 0.5).mean((2, 3))
    np.testing.assert_allclose(found["response"].values, wanted.numpy(), rtol=1e-5, atol=1e-6)


class _Aliased(nn.Module):
    """Works in place on a second name of what its head sees."""

    def __init__(self):
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1)

    def forward(self, x):
        a = self.conv(x)
        b = a
        b += 1.0
        b *= 2.0
        b **= 2
        c = torch.relu(b)
        return self.head(a) + c


def test_the_graph_works_in_place_where_the_network_does():
    net = _Aliased()
    alone, beside = fn.record(net, images(), ["head"]), fn.record(net, images(), ["head", "relu"])
    np.testing.assert_array_equal(alone.response, beside.response.where(beside.layer == "head", drop=True))
    assert [name for name in NodeGraph(net).names if name != "x"] == get_graph_node_names(net)[1][1:]


class _InPlace(nn.Module):
    """A block that works in place on what it returns, by a name that it does not return."""

    def __init__(self, work):
        super().__init__()
        self.conv, self.work = nn.Conv2d(3, 4, 1), work

    def forward(self, x):
        y = self.conv(x)
        self.work(y)
        return y


@pytest.mark.parametrize(
    "work",
    [lambda y: F.relu(y, inplace=True), lambda y: y.mul_(2), lambda y: y[:, :2].add_(1), torch.relu_, nn.ReLU(True)],
)
def test_a_block_is_recorded_through_the_graph_as_it_is_by_hooks(work):
    torch.manual_seed(0)
    net = nn.Sequential(_InPlace(work), Along(nn.Identity(), torch.tanh))
    layers = ["0", "0.conv"]
    hooks, graph = fn.record(net, images(), layers), fn.record(net, images(), [*layers, "1.tanh"])
    assert graph.attrs["recorded_through"] == "torch.fx graph"
    np.testing.assert_array_equal(graph.response.sel(unit=hooks.unit.values), hooks.response)
    assert (hooks.response.values[:, :4] != hooks.response.values[:, 4:]).any()
    np.testing.assert_array_equal(fn.record(net, images(), ["0", "1.tanh"]).response, graph.response[:, 4:])


def _with_pre_hook() -> nn.Module:
    net = _Aliased()
    net.register_forward_pre_hook(lambda module, inputs: (inputs[0] * 2,))
    return net


def _with_own_forward() -> nn.Module:
    net = _Aliased()
    net.forward = lambda x: net.head(net.conv(x))
    return net


@pytest.mark.parametrize("make", [_with_pre_hook, _with_own_forward])
def test_a_graph_that_is_not_the_network_is_refused(make):
    net = make()
    with pytest.raises(ConfigError, match=r"gives another output than the network itself.*name modules only"):
        fn.record(net, images(), ["relu", "head"])
    assert fn.record(net, images(), "head").sizes["unit"] == 4


def test_outputs_of_every_shape_are_compared():
    class Several(_Aliased):
        def forward(self, x):
            a = torch.relu(self.conv(x))
            return {"map": a, "more": (self.head(a), [a.mean() * float("nan")])}

    assert fn.record(Several(), images(), "relu").sizes["unit"] == 4
    other = Several()
    other.register_forward_hook(lambda module, inputs, output: {**output, "more": output["more"][:1]})
    with pytest.raises(ConfigError, match="gives another output"):
        fn.record(other, images(), "relu")


class _Keeping(nn.Module):
    """Keeps what it has seen last, counts its passes, and holds a constant that tracing notes on the network."""

    def __init__(self):
        super().__init__()
        self.conv, self.head, self.passes, self.kept = nn.Conv2d(3, 4, 1), nn.Linear(4, 2), 0, None

    def forward(self, x):
        self.passes += 1
        self.last = self.conv(x)
        if self.kept is None:
            self.kept = self.last
        self.conv.shown = self.last
        return self.head((torch.relu(self.last) * torch.tensor(2.0)).mean(dim=(2, 3)))


def _attributes(net):
    return [dict(vars(part)) for part in net.modules()]


@pytest.mark.parametrize("layers", [["conv"], ["conv", "relu"]])
def test_the_network_keeps_nothing_of_its_passes_and_is_known_again(tmp_path, layers):
    net = _Keeping()
    before = _attributes(net)
    assert fn.record(net, images(), layers).attrs["network_name"] == "_Keeping"
    assert _attributes(net) == before
    first = fn.record(net, images(), layers, cache=tmp_path / "cache")
    second = fn.record(net, images(), layers, cache=tmp_path / "cache")
    assert len(list((tmp_path / "cache").glob("*.zarr"))) == 1
    for _ in range(2):  # a second time it is the same recording, not another network's
        again = fn.record(net, images(), layers, out=tmp_path / "out.zarr")
        np.testing.assert_array_equal(again.response, first.response)
    np.testing.assert_array_equal(second.response, first.response)
    assert _attributes(net) == before


def test_what_a_network_has_kept_itself_stays(tmp_path):
    net = _Keeping()
    net(torch.from_numpy(images()))
    passes, last = net.passes, net.last
    fn.record(net, images(), ["conv", "relu"], cache=tmp_path)
    assert (net.passes, net.last is last) == (passes, True)
    net(torch.from_numpy(images(2)))
    assert (net.passes, len(net.last)) == (passes + 1, 2)


def test_looking_for_head_layers_and_operations_leaves_attributes():
    net = _Keeping()
    before = _attributes(net)
    assert fn.load_model(net).head == "head"
    assert [layer.name for layer in fn.list_layers(net)] == ["conv", "head"]
    operations = Operations(net)
    assert operations.find("relu").stage == "activation"
    assert _attributes(net) == before


def test_lazy_layers_stay_what_they_became():
    net = nn.Sequential(nn.LazyConv2d(4, 1))
    assert fn.record(net, images(), "0").sizes["unit"] == 4
    assert (type(net[0]), net[0].in_channels) == (nn.Conv2d, 3)


class _WithBuffer(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 1)
        self.register_buffer("kernel", torch.randn(2, 4, 1, 1))

    def forward(self, x):
        return torch.relu(F.conv2d(self.conv(x), self.kernel))


@pytest.mark.parametrize("call", [fn.record, fn.stream_moments])
def test_the_graph_is_traced_where_the_network_runs(monkeypatch, call):
    """Double precision stands in for a device: it too puts other buffers in the place of those that were there."""

    @contextmanager
    def moved(module, device):
        module.double()
        try:
            yield torch.device("cpu")
        finally:
            module.float()

    net = _WithBuffer()
    stimuli = fn.load_stimuli(images(), label=list("abab"))
    wanted = call(net, stimuli, "relu")
    monkeypatch.setattr(recording, "placed", moved)
    found = call(net, stimuli, "relu")
    name = "response" if call is fn.record else "mean"
    np.testing.assert_allclose(found[name], wanted[name], rtol=1e-5, atol=1e-6)
    assert net.kernel.dtype == torch.float32
    with pytest.raises(ConfigError, match="unknown layer 'rulu'"):
        call(net, "no such folder", "rulu")


@pytest.fixture
def elsewhere():
    """Another default device and dtype, as a caller may have set them."""
    torch.set_default_device("meta")
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_device(None)
    torch.set_default_dtype(torch.float32)


_PICTURES = np.random.default_rng(0).integers(0, 255, (9, 12, 12, 3), np.uint8)


@pytest.mark.parametrize(
    ("stimuli", "layers", "options"),
    [
        (images(), ["conv"], {}),
        (images(), ["conv", "relu"], {}),
        (_PICTURES, ["conv"], {"workers": 0}),
        (_PICTURES, ["conv"], {"workers": 2}),
    ],
)
def test_a_default_device_of_the_caller_reaches_no_image(request, tmp_path, stimuli, layers, options):
    net = Network("net", _Aliased(), Preprocessing(size=8))
    wanted = fn.record(net, stimuli, layers, batch_size=4, **options)
    request.getfixturevalue("elsewhere")
    found = fn.record(net, stimuli, layers, batch_size=4, cache=tmp_path, **options)
    np.testing.assert_array_equal(found.response, wanted.response)
    assert [layer.name for layer in fn.list_layers(net)] == ["conv", "head"]

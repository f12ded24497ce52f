"""Where gains sit, what acts there, and that a network is given back bit for bit."""

from __future__ import annotations

import contextlib
import copy
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from featattn_neuro.errors import ConfigError, DataError
from featattn_neuro.nets.adapters import build_network
from featattn_neuro.nets.fingerprint import network_digest
from featattn_neuro.nets.gain_collections import GainSets, compose_gains, switchable_gains
from featattn_neuro.nets.gains import gains_by_layer, site_gains, with_gains
from featattn_neuro.nets.modulation import Modulation, combined_factor
from featattn_neuro.nets.sites import select_sites, split_site, with_input_modules


def spatial_set(gains: xr.Dataset, layer: str, grid: np.ndarray, combination: str = "multiplicative") -> xr.Dataset:
    y, x = np.indices(grid.shape).reshape(2, -1)
    return gains.assign(spatial=("position", grid.ravel())).assign_coords(
        position=[f"{layer}/{a},{b}" for a, b in zip(y, x, strict=True)], position_layer=("position", [layer] * y.size),
        position_y=("position", y), position_x=("position", x),
    ).assign_attrs(combination=combination)  # fmt: skip


class InPlace(nn.Module):
    """Every operation that may work in place does; a map is used after the operation that follows it."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.relu, self.next = nn.ReLU(inplace=True), nn.Conv2d(4, 4, 3, padding=1)

    def forward(self, images: Tensor) -> Tensor:
        maps = self.relu(self.norm(self.conv(images)))
        out = self.next(maps)
        out += maps
        return self.relu(out).mean(dim=(2, 3))


@pytest.fixture
def images() -> Tensor:
    return torch.rand(3, 1, 6, 6, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("layer", ["conv", "conv.input", "norm", "norm.input", "relu", "relu.input", "next.input"])
def test_in_place_operations_around_the_site_are_safe(layer: str, images: Tensor, gain_set: Any) -> None:
    torch.manual_seed(1)
    net = InPlace().eval()
    safe = copy.deepcopy(net)
    safe.relu.inplace = False
    gain = np.array([2.0]) if layer == "conv.input" else np.array([0.0, 0.5, 2.0, 3.0])
    before = copy.deepcopy(net.state_dict())
    with torch.no_grad():
        plain = net(images)
        with with_gains(net, gain_set({layer: gain})):
            found = net(images)
        with with_gains(safe, gain_set({layer: gain})):
            wanted = safe(images)
        assert torch.equal(found, wanted)
        assert not torch.equal(found, plain)
        assert torch.equal(net(images), plain)  # a lesion is undone bit for bit
    assert all(torch.equal(a, b) for a, b in zip(net.state_dict().values(), before.values(), strict=True))


def test_gradients_pass_gains_before_an_in_place_operation(images: Tensor) -> None:
    net = InPlace().eval()
    theta = torch.ones(1, 4, requires_grad=True)
    handle = net.norm.register_forward_hook(lambda part, inputs, output: Modulation(gain=theta)(output))
    net(images).sum().backward()
    handle.remove()
    step = torch.zeros(1, 4)
    step[0, 1] = 1e-3
    ends = []
    for sign in (1, -1):
        with torch.no_grad():
            handle = net.norm.register_forward_hook(
                lambda part, inputs, output, sign=sign: Modulation(gain=1 + sign * step)(output)
            )
            ends.append(net(images).double().sum().item())
            handle.remove()
    assert theta.grad is not None
    assert theta.grad[0, 1].item() == pytest.approx((ends[0] - ends[1]) / 2e-3, rel=0.02)


def test_before_and_after_a_relu_differ_only_for_negative_gains(images: Tensor, gain_set: Any) -> None:
    net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 3)).eval()
    for gain, same in (([0.0, 0.5, 1.0, 2.0], True), ([-1.0, 0.5, 1.0, 2.0], False)):
        with torch.no_grad():
            with with_gains(net, gain_set({"1": gain})):
                after = net(images)
            with with_gains(net, gain_set({"1.input": gain})):
                before = net(images)
            with with_gains(net, gain_set({"0": gain})):
                assert torch.equal(net(images), before)  # what goes into the ReLU is what the convolution gives
        assert torch.allclose(after, before, atol=1e-6) == same


def test_a_train_mode_batch_norm_cancels_gains_before_it(gain_set: Any) -> None:
    net = nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3))
    batch = torch.randn(8, 1, 6, 6)
    gains = gain_set({"1.input": [0.5, 2.0, 7.0]})
    for training in (True, False):
        net.train(training)
        with torch.no_grad():
            plain = net(batch)
            with with_gains(net, gains):
                assert torch.allclose(net(batch), plain, atol=1e-3) == training


def test_filters_of_sequences_and_of_maps_with_channels_last(gain_set: Any) -> None:
    gain = np.array([2.0, 0.0, 3.0])
    tokens = nn.Sequential(nn.Linear(5, 3), nn.GELU()).eval()
    batch = torch.randn(2, 4, 5)
    with torch.no_grad():
        plain = tokens(batch)
        for layer in ("0", "1"):
            with with_gains(tokens, gain_set({layer: gain})):
                found = tokens(batch)
            if layer == "1":
                torch.testing.assert_close(found, plain * torch.tensor([2.0, 0.0, 3.0]))
        last = nn.Sequential(nn.LayerNorm(3), nn.Linear(3, 3), nn.GELU()).eval()
        maps = torch.randn(2, 4, 5, 3)
        plain = last(maps)
        with with_gains(last, gain_set({"2": gain})):  # the rule leaves the axis open, the number of gains does not
            torch.testing.assert_close(last(maps), plain * torch.tensor([2.0, 0.0, 3.0]))
        square = torch.randn(2, 3, 3, 3)
        with pytest.raises(DataError, match="channels first and"), with_gains(last, gain_set({"2": gain})):
            last(square)
        plain = last(square)
        with with_gains(last, gain_set({"2": gain}), channel_axis=-1):
            torch.testing.assert_close(last(square), plain * torch.tensor([2.0, 0.0, 3.0]))


class _FiltersLast(nn.Module):
    def forward(self, maps: Tensor) -> Tensor:
        return maps.permute(0, 2, 3, 1)


@pytest.mark.parametrize("last", [[nn.LayerNorm(3), nn.Linear(3, 2)], [nn.Linear(3, 2)]], ids=["norm", "linear"])
def test_the_first_pass_acts_on_the_axis_of_the_others(last: list[nn.Module], gain_set: Any) -> None:
    """Before what shows it has run, nothing says that maps have their filters last."""
    net = nn.Sequential(nn.Conv2d(1, 3, 1), _FiltersLast(), *last).eval()
    gain = torch.tensor([2.0, 0.0, 3.0])
    gains = gain_set({"1": gain.numpy()})
    square, oblong = torch.randn(2, 1, 3, 3), torch.randn(2, 1, 4, 5)
    with torch.no_grad():
        for images in (square, oblong) if isinstance(last[0], nn.LayerNorm) else (square,):
            wanted = net[2:](net[:2](images) * gain)
            for axis in (-1, {"1": -1}, None) if images is oblong else (-1, {"1": -1}):
                with with_gains(net, gains, channel_axis=axis):
                    for _ in range(2):
                        torch.testing.assert_close(net(images), wanted)
        with with_gains(net, gains), pytest.raises(DataError, match=r"layer '1' gives .*channels first and.*'1': -1"):
            net(square)
        with with_gains(net, gains):
            copied = copy.deepcopy(net)
        with pytest.raises(DataError, match="channels first and"):
            copied(square)
        net(square)  # given back


def test_maps_are_not_open_because_vectors_are_normed(gain_set: Any) -> None:
    """As many filters as rows, and a layer norm, but of vectors: the filters are on axis 1, in every pass."""
    net = nn.Sequential(nn.Conv2d(1, 3, 1), nn.ReLU(), nn.Flatten(), nn.LayerNorm(27)).eval()
    images, gain = torch.randn(2, 1, 3, 3), torch.tensor([2.0, 0.0, 3.0])
    with torch.no_grad():
        wanted = net[2:](net[:2](images) * gain.view(3, 1, 1))
        with with_gains(net, gain_set({"1": gain.numpy()})):
            for _ in range(2):
                torch.testing.assert_close(net(images), wanted)


def test_the_channel_axis_of_an_input_is_that_of_its_layer(gain_set: Any) -> None:
    net = nn.Sequential(nn.LayerNorm(3), nn.GELU()).eval()
    maps, gain = torch.randn(2, 3, 3, 3), torch.tensor([2.0, 0.0, 3.0])
    gains = gain_set({"1.input": gain.numpy()})
    with torch.no_grad():
        wanted = net[1](net[0](maps) * gain)
        for name in ("1", "1.input"):
            with with_gains(net, gains, channel_axis={name: -1}):
                torch.testing.assert_close(net(maps), wanted)
    both = {"1": 1, "1.input": -1}
    with (
        pytest.raises(ConfigError, match=r"one channel axis for layer '1'; came 1 and -1"),
        with_gains(net, gains, channel_axis=both),
    ):
        pass


def test_the_channel_axis_of_gains_is_in_the_key_of_a_recording(gain_set: Any) -> None:
    net = nn.Sequential(nn.Identity())
    digests = set()
    for axis in (1, -1):
        with with_gains(net, gain_set({"0": [2.0, 0.0, 3.0]}), channel_axis=axis):
            digests.add(network_digest(net))
    assert len(digests) == 2


def test_calls_of_a_module_that_runs_twice(images: Tensor, gain_set: Any) -> None:
    net = InPlace().eval()
    twice = gain_set({"relu": [2.0, 1.0, 1.0, 1.0]})
    second = twice.assign_coords(call=("unit", [1, 1, 1, 1]))
    with torch.no_grad():
        plain = net(images)
        with with_gains(net, second):
            for _ in range(2):  # calls are counted anew in every pass
                torch.testing.assert_close(net(images), plain * torch.tensor([2.0, 1.0, 1.0, 1.0]))
        with with_gains(net, twice):
            assert not torch.allclose(net(images)[:, 1:], plain[:, 1:])  # the first call reaches all filters
    assert not net._forward_pre_hooks
    with pytest.raises(DataError, match="gains of one call too"):
        gains_by_layer(second)


def test_shifts_and_gains_per_position(gain_set: Any) -> None:
    net = nn.Sequential(nn.Identity())
    maps = torch.rand(2, 2, 2, 3)
    gain, shift = np.array([2.0, 0.5]), np.array([1.0, -1.0])
    grid = np.arange(6.0).reshape(2, 3) / 2
    base = gain_set({"0": gain}).assign(shift=("unit", shift))
    g, b = torch.tensor(gain).view(1, 2, 1, 1).float(), torch.tensor(shift).view(1, 2, 1, 1).float()
    for combination, factor in (
        ("multiplicative", g * torch.tensor(grid).float()),
        ("additive", g + torch.tensor(grid).float() - 1),
    ):
        with with_gains(net, spatial_set(base, "0", grid, combination)):
            torch.testing.assert_close(net(maps), maps * factor + b)
    with with_gains(net, base):
        torch.testing.assert_close(net(maps), maps * g + b)
    with pytest.raises(DataError, match="shifts too; use with_gains"):
        gains_by_layer(base)
    with pytest.raises(DataError, match=r"maps of \(2, 3\)"), with_gains(net, spatial_set(base, "0", grid)):
        net(torch.rand(2, 2, 3, 3))
    with (
        pytest.raises(DataError, match=r"maps of \(2, 3\); came \(2, 2, 9\)"),
        with_gains(net, spatial_set(base, "0", grid), channel_axis=1),
    ):
        net(torch.rand(2, 2, 9))
    with pytest.raises(DataError, match="each position once"):
        site_gains(spatial_set(base, "0", grid).isel(position=[0, 1, 5]))


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10_000), combination=st.sampled_from(["multiplicative", "additive"]))
def test_placed_and_learned_modulations_are_the_same_equation(seed: int, combination: str) -> None:
    rng = np.random.default_rng(seed)
    gain, shift, grid = rng.normal(1, 1, 3), rng.normal(0, 1, 3), rng.normal(1, 1, (2, 2))
    unit = {"unit": list("abc"), "layer": ("unit", ["0"] * 3), "channel": ("unit", [0, 1, 2])}
    base = xr.Dataset({"gain": ("unit", gain), "shift": ("unit", shift)}, unit, {"kind": "GAINS"})
    maps = torch.as_tensor(rng.normal(size=(4, 3, 2, 2)), dtype=torch.float32)
    as_rows = [torch.as_tensor(v, dtype=torch.float32)[None] for v in (gain, shift, grid)]
    wanted = Modulation(as_rows[0], as_rows[1], as_rows[2], combination)(maps)
    net = nn.Sequential(nn.Identity())
    with with_gains(net, spatial_set(base, "0", grid, combination)):
        torch.testing.assert_close(net(maps), wanted, rtol=1e-4, atol=1e-5)


def test_factors_add_as_in_the_paper() -> None:
    beta, beta_s, f, f_s = 0.3, 0.2, torch.tensor(-0.5), torch.tensor(1.0)
    wanted = 1 + beta * f + beta_s * f_s
    torch.testing.assert_close(combined_factor(1 + beta * f, 1 + beta_s * f_s, "additive"), wanted)
    assert combined_factor(None, None, "additive") is None
    with pytest.raises(ConfigError, match="unknown combination"):
        combined_factor(f, f, "sum")


def test_sets_are_named_switched_composed_and_nested(images: Tensor, gain_set: Any) -> None:
    net = build_network("digits_cnn", seed=0).module
    rng = np.random.default_rng(0)
    values = {"relu1": rng.uniform(0, 2, (2, 16)), "relu2": rng.uniform(0, 2, (2, 32))}
    sets = GainSets(gain_set(values, tasks=["cat", "dog"]))
    batch = torch.rand(2, 1, 12, 12)
    with torch.no_grad():
        plain = net(batch)
        wanted = {}
        for name in sets:
            with with_gains(net, sets[name]):
                wanted[name] = net(batch)
        with with_gains(net, sets["cat"]), with_gains(net, sets["dog"]):
            nested = net(batch)
        with with_gains(net, sets.compose("cat", "dog")):
            torch.testing.assert_close(net(batch), nested, rtol=1e-5, atol=1e-6)
        with switchable_gains(net, sets) as switch:
            assert torch.equal(net(batch), plain)
            for names in (("cat",), ("dog",), (), ("cat", "dog"), ("dog",)):
                switch(*names)
                found = plain if not names else nested if len(names) == 2 else wanted[names[0]]
                assert torch.equal(net(batch), found)
                assert switch.active == names
            with pytest.raises(ConfigError, match="unknown gain set 'cow'"):
                switch("cow")
            assert torch.equal(net(batch), wanted["dog"])
        assert torch.equal(net(batch), plain)
    with contextlib.suppress(ZeroDivisionError), switchable_gains(net, sets) as switch:
        switch("cat")
        _ = 1 / 0
    assert not any(part._forward_hooks for part in net.modules())


def test_products_join_by_unit(gain_set: Any) -> None:
    one, two = gain_set({"a": [2.0, 3.0]}), gain_set({"b": [5.0], "a": [0.5, 0.0]})
    product = compose_gains(one, two.isel(unit=[2, 1, 0]))
    assert dict(zip(product["unit"].values, product["gain"].values, strict=True)) == {
        "a/000": 1,
        "a/001": 0,
        "b/000": 5,
    }
    with pytest.raises(DataError, match=r"is .* in one set and"):
        compose_gains(one, one.assign_coords(layer=("unit", ["c", "c"])))
    with pytest.raises(DataError, match="'shift' have no product"):
        compose_gains(one.assign(shift=("unit", [0.0, 0.0])))
    with pytest.raises(DataError, match="wanted GAINS with a dimension task"):
        GainSets(one)
    assert set(GainSets({"x": one, "y": two})) == {"x", "y"}


@pytest.mark.parametrize("named", [(0, 1), (1,)], ids=["both calls", "second call"])
@pytest.mark.parametrize("turned", [False, True])
def test_a_set_of_every_call_is_in_the_product_of_each(
    named: tuple[int, ...], turned: bool, images: Tensor, gain_set: Any
) -> None:
    net = InPlace().eval()
    rng = np.random.default_rng(0)
    every = gain_set({"relu": rng.uniform(0.5, 2, 4)})
    by_call = xr.concat(
        [
            gain_set({"relu": rng.uniform(0.5, 2, 4)}).assign_coords(
                call=("unit", [call] * 4), unit=[f"relu{f'@{call}' if call else ''}/{k:03d}" for k in range(4)]
            )
            for call in named
        ],
        "unit",
        combine_attrs="override",
    )
    sets = [by_call, every] if turned else [every, by_call]
    with torch.no_grad():
        with with_gains(net, sets[0]), with_gains(net, sets[1]):
            nested = net(images)
        with with_gains(net, compose_gains(*sets)):
            torch.testing.assert_close(net(images), nested)


def test_one_filter_under_two_ids_is_named_when_sets_are_composed(gain_set: Any) -> None:
    one = gain_set({"a": [2.0, 3.0]})
    with pytest.raises(DataError, match=r"filter \('a', 0, 0\) is unit 'a/000' in one set and 'x' in another"):
        compose_gains(one, one.assign_coords(unit=["x", "y"]))


def test_sites_by_name(images: Tensor) -> None:
    net = build_network("digits_cnn", seed=0).module
    assert select_sites(net, ["relu*.input", "relu1"]) == ["relu1.input", "relu1", "relu2.input", "relu3.input"]
    assert split_site(net, "relu1.input") == ("relu1", True)
    assert with_input_modules(net, ["relu1"]) is net
    copied = with_input_modules(net, ["relu1.input", "conv3.input"])
    with torch.no_grad():
        assert torch.equal(copied(torch.ones(1, 1, 8, 8)), net(torch.ones(1, 1, 8, 8)))
    assert "conv3.input" in dict(copied.named_modules())
    assert not isinstance(net.relu1, type(copied.relu1))
    with pytest.raises(ConfigError, match="together"):
        with_input_modules(net, ["relu1.input", "relu1"])
    with pytest.raises(ConfigError, match="functional"):
        split_site(net, "add")
    with pytest.raises(ConfigError, match="relu7"):
        select_sites(net, "relu7.input")


def test_a_copy_made_inside_with_gains_runs_whatever_tells_its_axes(gain_set: Any) -> None:
    """Linear layers and layer norms are watched; the copy is watched too."""
    for norm in (nn.LayerNorm(6), nn.Identity()):
        net = nn.Sequential(nn.Conv2d(1, 6, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), norm, nn.Linear(6, 2))
        images = torch.rand(2, 1, 8, 8)
        with with_gains(net.eval(), gain_set({"1": np.linspace(0, 2, 6)})), torch.no_grad():
            assert torch.equal(copy.deepcopy(net)(images), net(images))

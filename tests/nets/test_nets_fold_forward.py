"""Folding onward into the weights that read a map, unfolding, and the counter-examples of both directions."""

from __future__ import annotations

import copy
from collections.abc import Callable

import numpy as np
import pytest
import torch
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from featattn_neuro.errors import ConfigError
from featattn_neuro.nets.adapters import build_network
from featattn_neuro.nets.architectures import CifarBlock, GlobalMean
from featattn_neuro.nets.fold_paths import FoldPaths
from featattn_neuro.nets.folding import fold_gains, unfold_gains
from featattn_neuro.nets.gains import with_gains
from featattn_neuro.nets.peft_layout import peft_layout
from featattn_neuro.nets.weights import weights_sha256

IMAGES = torch.randn(3, 4, 10, 10, generator=torch.Generator().manual_seed(2))


def gain_set(per_layer: dict[str, np.ndarray]) -> xr.Dataset:
    layer = [name for name, values in per_layer.items() for _ in values]
    channel = [k for values in per_layer.values() for k in range(len(values))]
    return xr.Dataset(
        {"gain": ("unit", np.concatenate([np.asarray(v, dtype=float) for v in per_layer.values()]))},
        {
            "unit": [f"{name}/{k:03d}" for name, k in zip(layer, channel, strict=True)],
            "layer": ("unit", layer),
            "channel": ("unit", channel),
        },
    )


def signed(width: int, seed: int = 0) -> np.ndarray:
    """Gains of both signs, one of them 0."""
    values = np.exp(np.random.default_rng(seed).normal(0, 0.7, width))
    values[1::2] *= -1
    values[0] = 0
    return values


def gained(module: nn.Module, gains: dict[str, np.ndarray], images: Tensor) -> Tensor:
    """Hooks written without the package."""
    handles = []
    for name, values in gains.items():
        factor = torch.as_tensor(values, dtype=torch.float32)

        def scale(_module: nn.Module, _inputs: object, output: Tensor, factor: Tensor = factor) -> Tensor:
            return output * factor.view(1, -1, *[1] * (output.ndim - 2))

        handles.append(module.get_submodule(name).register_forward_hook(scale))
    with torch.no_grad():
        output = module(images)
    for handle in handles:
        handle.remove()
    return output


def lively(*parts: nn.Module) -> nn.Sequential:
    """The parts with random norms, in evaluation mode."""
    torch.manual_seed(1)
    for part in parts:
        for inner in part.modules():
            if hasattr(inner, "reset_parameters"):
                inner.reset_parameters()
            if isinstance(inner, nn.modules.batchnorm._BatchNorm):
                inner.running_mean.normal_()
                inner.running_var.uniform_(0.5, 1.5)
                if inner.affine:
                    nn.init.normal_(inner.weight)
                    nn.init.normal_(inner.bias)
    return nn.Sequential(*parts).eval()


def check(module: nn.Module, gains: dict[str, np.ndarray], images: Tensor, direction: str = "forward") -> nn.Module:
    before, wanted, plain = weights_sha256(module), gained(module, gains, images), module(images).detach()
    folded = fold_gains(module, gain_set(gains), direction=direction)
    with torch.no_grad():
        came = folded(images)
    scale = float(wanted.abs().max())
    assert float((came - wanted).abs().max()) <= 1e-4 * scale
    assert float((plain - wanted).abs().max()) > 1e-2 * scale, "the gains do nothing"
    assert weights_sha256(module) == before
    again = unfold_gains(folded)
    assert weights_sha256(again) == before
    assert [name for name, _ in again.named_parameters()] == [name for name, _ in module.named_parameters()]
    return folded


class Readers(nn.Module):
    """One map read by two convolutions, a concatenation and, through a norm, a third."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.act = nn.Conv2d(4, 6, 3, padding=1), nn.ReLU6()
        self.one, self.two = nn.Conv2d(6, 3, 1), nn.Conv2d(6, 5, 3, padding=1)
        self.norm, self.three = nn.BatchNorm2d(6), nn.Conv2d(6, 2, 1)
        self.joined = nn.Conv2d(9, 2, 1)

    def forward(self, maps: Tensor) -> Tensor:
        maps = self.act(self.conv(maps))
        one = self.one(maps)
        joined = self.joined(torch.cat([one, maps], 1))
        return torch.cat([one, self.two(maps), self.three(self.norm(maps)), joined], 1)


TAIL = (nn.Conv2d(8, 5, 3), nn.Flatten(), nn.Linear(5 * 64, 3))


@pytest.mark.parametrize(
    ("module", "sites"),
    [
        (lively(nn.Conv2d(4, 8, 3, padding=1), nn.ReLU(), *TAIL), {"1": 8}),
        (lively(nn.Conv2d(4, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU6(), *TAIL), {"2": 8}),
        (lively(nn.Conv2d(4, 8, 3, padding=1), nn.SiLU(), nn.AvgPool2d(3, 1, 1), *TAIL), {"1": 8}),
        (lively(nn.Conv2d(4, 8, 3, padding=1), nn.GELU(), nn.Conv2d(8, 8, 3, padding=1, groups=8), *TAIL), {"1": 8}),
        (lively(nn.Conv2d(4, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1, groups=2), *TAIL), {"1": 8}),
        (lively(nn.Conv2d(4, 8, 3, padding=1), nn.ReLU(), nn.BatchNorm2d(8), *TAIL), {"1": 8}),
        (
            lively(nn.Conv2d(4, 8, 3, padding=1), nn.ReLU(), nn.BatchNorm2d(8, affine=False), nn.ReLU(), *TAIL),
            {"1": 8},
        ),
        (lively(Readers(), nn.Conv2d(12, 3, 1)), {"0.act": 6}),
        (lively(nn.Conv2d(4, 8, 3), nn.Sigmoid(), GlobalMean(), nn.Linear(8, 3)), {"1": 8}),
        (lively(nn.Conv2d(4, 5, 3), nn.Sigmoid(), nn.Flatten(), nn.Linear(5 * 64, 3)), {"1": 5}),
        (lively(nn.Conv2d(4, 6, 3, padding=1), CifarBlock(6, 6, 1), nn.Conv2d(6, 2, 1)), {"1.relu2": 6, "1.relu1": 6}),
    ],
    ids=[
        "conv-relu", "conv-norm-relu6", "silu, average pool", "depthwise", "grouped", "norm", "norm without weights",
        "several readers", "global mean", "flattened", "end of a residual block",
    ],
)  # fmt: skip
def test_onward_is_exact_for_any_sign(module: nn.Module, sites: dict[str, int]) -> None:
    check(module, {name: signed(width, seed=k) for k, (name, width) in enumerate(sites.items())}, IMAGES)


def test_onward_through_max_pooling_needs_gains_of_zero_or_more() -> None:
    module = lively(nn.Conv2d(4, 8, 3, padding=1), nn.SiLU(), nn.MaxPool2d(3, 1, 1), *TAIL)
    check(module, {"1": np.abs(signed(8))}, IMAGES)
    with pytest.raises(ConfigError, match=r"gain of channel \d is negative .* pass MaxPool2d \(2\)"):
        fold_gains(module, gain_set({"1": signed(8)}), direction="forward")
    with pytest.raises(ConfigError, match=r"SiLU \(1\) lies between .*nor into the weights that follow: .*MaxPool2d"):
        fold_gains(module, gain_set({"1": signed(8)}))


def test_a_negative_gain_in_front_of_max_pooling_is_no_plain_network() -> None:
    """The counter-example: max(g a) is not g max(a) for g < 0."""
    module = lively(nn.Conv2d(4, 4, 3, padding=1), nn.SiLU(), nn.MaxPool2d(2), nn.Conv2d(4, 3, 1))
    gains = {"1": np.full(4, -1.0)}
    wrong = copy.deepcopy(module)
    wrong[3].weight.data *= -1
    wanted = gained(module, gains, IMAGES)
    assert float((wrong(IMAGES) - wanted).detach().abs().max()) > 0.05 * float(wanted.abs().max())


def test_relu6_folded_backward_is_another_network_and_refused() -> None:
    """The counter-example: min(max(g x, 0), 6) is not g min(max(x, 0), 6)."""
    module = lively(nn.Conv2d(4, 8, 3, padding=1), nn.ReLU6(), *TAIL)
    module[0].weight.data *= 6
    gains = {"1": np.full(8, 2.0)}
    wrong = copy.deepcopy(module)
    wrong[0].weight.data *= 2
    wrong[0].bias.data *= 2
    wanted = gained(module, gains, IMAGES)
    assert float((wrong(IMAGES) - wanted).detach().abs().max()) > 0.05 * float(wanted.abs().max())
    with pytest.raises(ConfigError, match=r"ReLU6 \(1\) lies between"):
        fold_gains(module, gain_set(gains), direction="backward")
    check(module, gains, IMAGES, direction="auto")


def test_identity_skips_are_refused_in_both_directions() -> None:
    module = lively(CifarBlock(4, 4, 1), CifarBlock(4, 4, 1), nn.Conv2d(4, 3, 1))
    for direction in ("backward", "forward", "auto"):
        with pytest.raises(ConfigError, match=r"layer '0.relu2' cannot be folded.*(identity skip|added to another)"):
            fold_gains(module, gain_set({"0.relu2": np.full(4, 2.0)}), direction=direction)
    check(module, {"1.relu2": signed(4)}, IMAGES, direction="auto")  # nothing skips the last block


def test_what_cannot_go_onward_is_refused_with_the_reason() -> None:
    gains = gain_set({"0": np.full(4, 2.0)})
    for rest, reason in (
        ((), "network returns this map"),
        ((nn.ReLU6(), nn.Conv2d(4, 2, 1)), r"ReLU6 \(1\) lies between"),
        ((nn.GroupNorm(2, 4), nn.Conv2d(4, 2, 1)), r"GroupNorm \(1\) divides by the size"),
        ((nn.Flatten(), nn.ReLU(), nn.Linear(256, 2)), r"ReLU \(1|2\) follows a flattening"),
    ):
        with pytest.raises(ConfigError, match=reason):
            fold_gains(lively(nn.Conv2d(4, 4, 3), *rest), gains, direction="forward")
    with pytest.raises(ConfigError, match="unknown direction of folding 'up'"):
        fold_gains(lively(nn.Conv2d(4, 4, 3)), gains, direction="up")


class UpTo(nn.Module):
    """A network up to one of its layers: random norms drown what happens early in a deep one."""

    def __init__(self, name: str, last: str) -> None:
        super().__init__()
        module = build_network(name, weights="random").module
        self.parts = nn.ModuleDict()
        for child, part in module.named_children():
            self.parts[child] = part
            if child == last:
                break

    def forward(self, images: Tensor) -> Tensor:
        for part in self.parts.values():
            images = part(images)
        return images


@pytest.mark.parametrize(
    ("name", "last", "sites"),
    [
        ("efficientnet_lite0", "blocks", {"parts.blocks.1.0.bn1.act": 96, "parts.blocks.2.1.bn2.act": 240}),
        ("resnet18", "layer2", {"parts.layer1.1": 64, "parts.layer1.0.bn1": 64}),
    ],
)
def test_published_networks_folded_either_way(name: str, last: str, sites: dict[str, int]) -> None:
    module = UpTo(name, last)
    if name == "efficientnet_lite0":
        module.parts["blocks"] = module.parts["blocks"][:3]
    lively(module)
    gains = {site: signed(width) for site, width in sites.items()}
    check(module.eval(), gains, torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0)), "auto")


@given(st.lists(st.floats(-4, 4, width=32), min_size=4, max_size=4), st.sampled_from(["backward", "forward"]))
@settings(max_examples=25, deadline=None)
def test_unfolding_gives_back_every_bit(values: list[float], direction: str) -> None:
    module = lively(nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4), nn.AvgPool2d(2), nn.Conv2d(4, 2, 1))
    twice = fold_gains(fold_gains(module, gain_set({"2": np.array(values)}), direction=direction),
                       gain_set({"0": np.array(values)}), direction=direction)  # fmt: skip
    again = unfold_gains(twice)
    assert weights_sha256(again) == weights_sha256(module)
    assert torch.equal(again(IMAGES), module(IMAGES))


def test_unfolding_ties_what_was_tied_and_keeps_the_folded_copy() -> None:
    module = lively(nn.Conv2d(4, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 4, 3, padding=1))
    module[2].weight = module[0].weight
    folded = fold_gains(module, gain_set({"1": np.array([0.0, 2, 3, 4])}), direction="backward")
    before = weights_sha256(folded)
    again = unfold_gains(folded.double())
    assert again[0].weight.dtype == torch.float64
    folded = fold_gains(module, gain_set({"1": np.array([0.0, 2, 3, 4])}), direction="backward")
    again = unfold_gains(folded)
    assert weights_sha256(folded) == before
    assert again[0].weight is again[2].weight
    assert again[0].weight.requires_grad
    with pytest.raises(ConfigError, match="wanted a network that fold_gains returned"):
        unfold_gains(module)


def test_paths_may_be_limited_to_some_modules() -> None:
    module = lively(nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 2, 1))
    gain = torch.full((4,), 2.0, dtype=torch.float64)
    anywhere, limited = FoldPaths(module), FoldPaths(module, takes=lambda part: isinstance(part, nn.Conv2d))
    assert [(s.module, s.side) for s in anywhere.plan("2", gain)] == [("1", "output")]
    assert [(s.module, s.side) for s in limited.plan("2", gain)] == [("3", "input")]


@pytest.mark.parametrize("by", ["module", "function"])
def test_flattening_that_leaves_positions_apart_is_refused(by: str) -> None:
    class Rows(nn.Module):
        """The linear layer reads the columns of a map, of which there are as many as channels."""

        def __init__(self, end: int) -> None:
            super().__init__()
            self.conv, self.act, self.end = nn.Conv2d(4, 4, 3), nn.Tanh(), end
            self.flat, self.head = nn.Flatten(1, end), nn.Linear(4 if end == 2 else 64, 2)

        def forward(self, maps: Tensor) -> Tensor:
            maps = self.act(self.conv(maps))
            return self.head(self.flat(maps) if by == "module" else torch.flatten(maps, 1, end_dim=self.end))

    gains = {"act": signed(4)}
    with pytest.raises(ConfigError, match=r"[Ff]latten"):
        fold_gains(Rows(2).eval(), gain_set(gains), direction="forward")
    check(Rows(3), gains, torch.randn(2, 4, 6, 6))


TOKENS = torch.randn(3, 5, 6, generator=torch.Generator().manual_seed(3))
SQUARE = torch.randn(3, 4, 6, generator=torch.Generator().manual_seed(3))


class Between(nn.Module):
    """A layer, an activation, anything, a linear layer."""

    def __init__(self, first: nn.Module, act: nn.Module, step: Callable[[Tensor], Tensor], width: int) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.act, self.step, self.head = first, act, step, nn.Linear(width, 3)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.step(self.act(self.first(images))))


def _flat(maps: Tensor) -> Tensor:
    return torch.flatten(maps, 1)


@pytest.mark.parametrize(
    ("module", "images"),
    [
        (Between(nn.Linear(6, 4), nn.GELU(), _flat, 20), TOKENS),
        (Between(nn.Linear(6, 4), nn.ReLU(), _flat, 20), TOKENS),
        (Between(nn.Linear(6, 4), nn.LayerNorm(4), _flat, 20), TOKENS),
        (Between(nn.Linear(6, 4), nn.GELU(), lambda maps: maps.mean(-2), 4), TOKENS),
        (Between(nn.Linear(6, 4), nn.GELU(), lambda maps: maps, 4), TOKENS),
        (Between(nn.Conv2d(4, 4, 3), nn.GELU(), lambda maps: maps.mean(-1).mean(-1), 4), IMAGES),
        (Between(nn.Conv2d(4, 4, 3), nn.GELU(), _flat, 4 * 64), IMAGES),
        (Between(nn.Conv1d(5, 4, 1), nn.GELU(), lambda maps: maps.mean(2), 4), TOKENS),
    ],
    ids=["tokens", "tokens, relu", "layer norm", "mean of tokens", "sequence", "mean twice", "maps", "series"],
)
def test_gains_stay_on_their_axis(module: nn.Module, images: Tensor) -> None:
    gains = gain_set({"act": signed(4)})
    with torch.no_grad(), with_gains(module, gains):
        wanted = module.eval()(images)
    found = fold_gains(module, gains)(images).detach()
    assert float((found - wanted).abs().max()) <= 1e-5 * float(wanted.abs().max())


@pytest.mark.parametrize(
    ("module", "images", "axis"),
    [
        (Between(nn.Conv2d(4, 8, 3), nn.GELU(), lambda maps: maps, 8), IMAGES, 1),
        (Between(nn.Conv2d(4, 8, 3), nn.GELU(), lambda maps: maps.mean(-1), 8), IMAGES, 1),
        (Between(nn.Conv1d(4, 4, 1), nn.GELU(), lambda maps: maps.mean(-2), 6), SQUARE, 1),
        (Between(nn.Linear(6, 4), nn.GELU(), lambda maps: maps.mean(-1), 4), SQUARE, -1),
        (Between(nn.Linear(6, 4), nn.GELU(), lambda maps: torch.cat([maps, maps], 1), 4), SQUARE, -1),
        (Between(nn.Linear(6, 4), nn.GELU(), nn.BatchNorm1d(4), 4), SQUARE, -1),
        (Between(nn.Linear(6, 4), nn.GELU(), nn.AvgPool1d(1), 4), TOKENS, -1),
    ],
)
def test_weights_that_read_another_axis_are_refused(module: nn.Module, images: Tensor, axis: int) -> None:
    gains = gain_set({"act": signed(len(module.eval().first.weight))})  # type: ignore[arg-type]
    with torch.no_grad(), with_gains(module, gains, channel_axis=axis):
        module(images)  # gains that can be placed
    for fold in (fold_gains, peft_layout):
        with pytest.raises(ConfigError, match=r"layer 'act' cannot be .*(another axis|of its filters|not wanted)"):
            fold(module, gains)


def test_an_adapter_scales_flattened_sequences_feature_by_feature() -> None:
    module, gains = Between(nn.Linear(6, 4), nn.GELU(), _flat, 20), signed(4)
    (scaled,) = peft_layout(module.eval(), gain_set({"act": gains}))[0].values()
    np.testing.assert_array_equal(scaled, np.tile(gains, 5)[None].astype(np.float32))


def test_backward_too_gains_stay_on_their_axis() -> None:
    module = lively(nn.Conv2d(4, 4, 3, padding=1), nn.Linear(10, 4), nn.AvgPool2d((5, 2)), nn.Conv2d(4, 3, 1))
    with torch.no_grad(), with_gains(module, gain_set({"2": signed(4)})):
        module(IMAGES)
    with pytest.raises(ConfigError, match=r"filters are on axis 1, .* Linear \(1\) works along another axis"):
        fold_gains(module, gain_set({"2": signed(4)}), direction="backward")


class _Square(nn.Module):
    def forward(self, maps: Tensor) -> Tensor:
        return maps * maps


class _Mean(nn.Module):
    def forward(self, maps: Tensor) -> Tensor:
        return maps.mean((2, 3))


@pytest.mark.parametrize(
    ("parts", "site", "width"),
    [
        ((nn.Conv2d(3, 6, 3), _Square(), nn.Flatten(), nn.Linear(6 * 36, 3)), "1", 6),
        ((nn.Conv2d(3, 6, 3), _Mean(), nn.Linear(6, 3)), "1", 6),
        ((nn.Conv2d(3, 6, 3), _Mean(), nn.BatchNorm1d(6), nn.Linear(6, 3)), "2", 6),
        ((nn.Conv2d(3, 6, 3), _Mean(), nn.Flatten(), nn.Linear(6, 4), nn.GELU(), nn.BatchNorm1d(4)), "4", 4),
    ],
    ids=["activation of one's own", "pooling of one's own", "norm behind it", "norm of vectors"],
)  # fmt: skip
def test_vectors_have_both_axes(parts: tuple[nn.Module, ...], site: str, width: int) -> None:
    images = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    check(lively(*parts), {site: signed(width)}, images)

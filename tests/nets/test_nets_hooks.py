"""A network is given back as it was, whatever happens inside the `with`."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from featattn_neuro.errors import ConfigError, DataError
from featattn_neuro.nets.hooks import channel_axis, evaluating, hooked, placed, preserved, usable_device


def hooks_of(module: nn.Module) -> int:
    return sum(len(part._forward_hooks) + len(part._forward_pre_hooks) for part in module.modules())


def double(module: nn.Module, inputs: object, output: torch.Tensor) -> torch.Tensor:
    return 2 * output


def test_hooks_are_removed_after_success_and_after_an_error() -> None:
    net = nn.Sequential(nn.Identity(), nn.Identity())
    with hooked(net, {"0": double, "1": double}):
        assert net(torch.ones(1)).item() == 4
        assert hooks_of(net) == 2
    assert hooks_of(net) == 0

    def fail() -> None:
        with hooked(net, {"0": double}):
            raise KeyError("inside")

    with pytest.raises(KeyError, match="inside"):
        fail()
    assert hooks_of(net) == 0


def test_foreign_hooks_stay() -> None:
    net = nn.Sequential(nn.Identity())
    net[0].register_forward_hook(double)
    with hooked(net, {"0": double}):
        assert net(torch.ones(1)).item() == 4
    assert net(torch.ones(1)).item() == 2


def test_an_unknown_name_registers_nothing() -> None:
    net = nn.Sequential(nn.Identity())
    with pytest.raises(ConfigError, match="unknown layer 'relu'"), hooked(net, {"0": double, "relu": double}):
        pass
    assert hooks_of(net) == 0


def test_every_part_gets_its_own_mode_back() -> None:
    net = nn.Sequential(nn.Dropout(), nn.BatchNorm2d(1).eval(), nn.Sequential(nn.Dropout().eval()))
    modes = [part.training for part in net.modules()]

    def fail() -> None:
        with evaluating(net):
            assert not any(part.training for part in net.modules())
            raise ValueError("inside")

    with pytest.raises(ValueError, match="inside"):
        fail()
    assert [part.training for part in net.modules()] == modes
    assert modes == [True, True, False, True, False]


def test_gradients_and_flags_are_given_back() -> None:
    net = nn.Linear(2, 1)
    net.bias.requires_grad_(False)
    net(torch.ones(1, 2)).sum().backward()
    grad = net.weight.grad

    def fail() -> None:
        with preserved(net):
            net.requires_grad_(True)
            net.zero_grad(set_to_none=True)
            raise ValueError("inside")

    with pytest.raises(ValueError, match="inside"):
        fail()
    assert net.weight.grad is grad
    assert (net.weight.requires_grad, net.bias.requires_grad) == (True, False)
    assert net.bias.grad is None


@pytest.mark.parametrize("output", [torch.zeros(2, 3, 4), (torch.zeros(2, 3),), torch.zeros(2)])
def test_outputs_without_a_filter_axis_are_refused(output: object) -> None:
    with pytest.raises(DataError, match="layer 'tokens' must give maps"):
        channel_axis(output, "tokens")  # type: ignore[arg-type]


@pytest.mark.parametrize("device", ["gpu", "cdua", "cuda:x", "meta"])
def test_a_device_that_is_none_is_refused(device: str) -> None:
    net = nn.Linear(1, 1)
    with pytest.raises(ConfigError, match=rf"device '{device}'.*choose cpu") as error, placed(net, device):
        pass
    assert "\n" not in str(error.value)
    assert net.weight.device.type == "cpu"


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device here")
@pytest.mark.parametrize("device", ["cuda", "cuda:1"])
def test_a_device_that_is_not_here_is_refused(device: str) -> None:
    with pytest.raises(ConfigError, match=rf"device '{device}' cannot be used here \(.+\); choose cpu"):
        usable_device(device)

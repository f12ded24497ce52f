"""What acts on the maps of several tasks: values, gradients, and what may follow it in place."""

import itertools

import pytest
import torch

from featattn_neuro.nets.cutting import _scale
from featattn_neuro.nets.modulation import Modulation, modulated

TASKS, IMAGES, FILTERS, SIDE = 2, 3, 4, 5


def numbers(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def parts(gain: bool, shift: bool, spatial: bool) -> dict[str, torch.Tensor]:
    made = {
        "gain": numbers(TASKS, FILTERS, seed=1),
        "shift": numbers(TASKS, FILTERS, seed=2),
        "spatial": numbers(TASKS, SIDE, SIDE, seed=3),
    }
    wanted = {"gain": gain, "shift": shift, "spatial": spatial}
    return {name: values.requires_grad_(True) for name, values in made.items() if wanted[name]}


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize(("gain", "shift", "spatial"), list(itertools.product((True, False), repeat=3))[:-1])
def test_values_and_gradients_are_those_of_the_equation_image_by_image(gain, shift, spatial, memory_format):
    own = parts(gain, shift, spatial)
    rows = numbers(TASKS * IMAGES, FILTERS, SIDE, SIDE).to(memory_format=memory_format).requires_grad_(True)
    found = Modulation(**own)(rows)
    expected = []
    for row, task in zip(rows, torch.arange(TASKS).repeat_interleave(IMAGES), strict=True):
        value = row * own["gain"][task, :, None, None] if gain else row
        value = value * own["spatial"][task] if spatial else value
        expected.append(value + own["shift"][task, :, None, None] if shift else value)
    torch.testing.assert_close(found, torch.stack(expected))
    assert found.is_contiguous(memory_format=memory_format)
    weights = numbers(*found.shape, seed=4)
    gradients = torch.autograd.grad((found * weights).sum(), [rows, *own.values()])
    wanted = torch.autograd.grad((torch.stack(expected) * weights).sum(), [rows, *own.values()])
    for one, other in zip(gradients, wanted, strict=True):
        torch.testing.assert_close(one, other)


def test_gradients_and_their_gradients_agree_with_differences():
    rows = numbers(TASKS * IMAGES, FILTERS, 2).requires_grad_(True)
    factor, shift = (numbers(TASKS, 1, FILTERS, 1, seed=seed).requires_grad_(True) for seed in (1, 2))

    def function(*given: torch.Tensor) -> torch.Tensor:
        return modulated(given[0], (TASKS, -1), *given[1:])

    assert torch.autograd.gradcheck(function, (rows, factor, shift))
    assert torch.autograd.gradgradcheck(function, (rows, factor, shift))


@pytest.mark.parametrize("kind", ["gains", "all"])
def test_an_activation_that_works_in_place_copies_nothing(kind):
    """On a view it would copy the whole map three times, forward and backward: a third of an update's time."""
    own = parts(True, True, True)
    site = own["gain"] if kind == "gains" else Modulation(**own)
    rows = numbers(TASKS * IMAGES, FILTERS, SIDE, SIDE)
    made = _scale(rows, site)
    assert not made._is_view()
    after = torch.nn.functional.relu(made, inplace=True)
    assert type(after.grad_fn).__name__ == "ReluBackward0"
    expected = torch.relu(_scale(rows, site))
    torch.testing.assert_close(after, expected)
    torch.testing.assert_close(
        torch.autograd.grad(after.sum(), own["gain"]), torch.autograd.grad(expected.sum(), own["gain"])
    )


def test_maps_of_less_precision_are_not_rounded_by_their_gains():
    rows, gain = torch.ones(TASKS, FILTERS, dtype=torch.bfloat16), torch.full((TASKS, FILTERS), 1 + 2**-10)
    assert torch.equal(_scale(rows, gain), gain)

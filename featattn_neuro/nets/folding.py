"""Gains folded into the weights: a plain network that answers as the gained one does; and back, bit for bit.

Where a gain can go is found in `fold_paths`; here it is multiplied in. Nothing is ever divided: the copy keeps the
numbers that it replaced, so a gain of 0 can be taken back too.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
import xarray as xr
from torch import Tensor, nn

from featattn_neuro.errors import ConfigError
from featattn_neuro.nets.adapters import Network, as_network
from featattn_neuro.nets.channels import OpenAxisError
from featattn_neuro.nets.fold_paths import _AFFINE, FoldPaths, Scaling, width
from featattn_neuro.nets.gains import gains_by_layer, with_gains
from featattn_neuro.nets.hooks import attributes_kept, evaluating
from featattn_neuro.nets.operations import acts_now

TOLERANCE = 1e-3
"""Largest difference, relative to the largest output, that counts as rounding of weights in a deep network."""

_REPLACED = "_weights_before_folding"
"""Attribute of a folded network: names of weights -> what they were before (None: there were none)."""


def fold_gains(
    model: nn.Module | Network, gains: xr.Dataset, *, task: str | None = None, direction: str = "auto"
) -> nn.Module:
    """Return a copy of `model` with `gains` multiplied into its weights; the original is untouched.

    The copy needs nothing of this package and no hooks. In eval mode its output equals that of the gained network
    (relative 1e-4 in float32). A layer whose gains are all 1 is left alone. `unfold_gains` takes the copy back.

    Parameters
    ----------
    model : what the gains were learned on.
    gains : GAINS with `gain(unit)`, no units, any finite value that the place allows; joined by `layer` and `channel`,
        in any order.
    task : which task's gains, where `gains` holds several.
    direction : "backward" = into the weights that make the map (needs g >= 0 behind a ReLU or max pooling, and no
        other activation); "forward" = into all weights that read it (any sign through linear maps and average pooling,
        g >= 0 through max pooling); "auto" = backward where that is exact, forward otherwise.

    Returns
    -------
    nn.Module, of the class and in the train or eval mode of the original.

    Raises
    ------
    ConfigError : unknown layer or task; hooks on the model; a gain that cannot be folded: the message says which layer,
        what is in the way (bounded or smooth activations, a negative gain behind a ReLU or before max pooling, an
        identity skip, an operation that is no module, weights that are used twice) and what to do.
    DataError : channels that are missing or twice, gains that are not finite, or several sets of gains.
    SchemaError : not of kind GAINS.

    Examples
    --------
    >>> network = nn.Sequential(nn.Conv2d(1, 1, 1, bias=False), nn.ReLU())
    >>> gains = xr.Dataset({"gain": ("unit", [2.0])}, {
    ...     "unit": ["1/0"], "layer": ("unit", ["1"]), "channel": ("unit", [0])})
    >>> folded = fold_gains(network, gains)
    >>> (folded[0].weight / network[0].weight).item()
    2.0
    """
    per_layer = gains_by_layer(gains, task)
    original = as_network(model).module
    check_unhooked(original)
    folded = copy.deepcopy(original)
    paths = FoldPaths(folded)
    for layer in per_layer:
        paths.need_site(layer)
    scalings = [
        scaling
        for layer, gain in per_layer.items()
        for scaling in paths.plan(layer, torch.as_tensor(gain, dtype=torch.float64), direction)
    ]
    replaced: dict[str, nn.Parameter | None] = dict(getattr(folded, _REPLACED, {}))
    for scaling in scalings:
        _multiply(paths.parts[scaling.module], scaling, replaced)
    setattr(folded, _REPLACED, replaced)
    return folded


def unfold_gains(folded: nn.Module) -> nn.Module:
    """Return a copy of a folded network with the weights it had before, bit for bit, whatever the gains were.

    Nothing is divided: `fold_gains` keeps the weights that it replaces (beside the state dict, so a file written from
    `state_dict()` does not hold them). Folded several times, all of it is taken back.

    Raises
    ------
    ConfigError : the network was not made by `fold_gains` in this process, or was loaded from a file since.

    Examples
    --------
    >>> network = nn.Sequential(nn.Conv2d(1, 1, 1), nn.ReLU())
    >>> gains = xr.Dataset({"gain": ("unit", [0.0])}, {
    ...     "unit": ["1/0"], "layer": ("unit", ["1"]), "channel": ("unit", [0])})
    >>> bool(unfold_gains(fold_gains(network, gains))[0].weight == network[0].weight)
    True
    """
    if not hasattr(folded, _REPLACED):
        raise ConfigError(
            "wanted a network that fold_gains returned; this one does not hold the weights it had before; "
            "keep the original, which folding leaves as it is"
        )
    plain = copy.deepcopy(folded)
    replaced: dict[str, nn.Parameter | None] = getattr(plain, _REPLACED)
    delattr(plain, _REPLACED)
    for name, old in replaced.items():
        owner, _, parameter = name.rpartition(".")
        part = plain.get_submodule(owner)
        now = getattr(part, parameter)
        if old is None:
            part.register_parameter(parameter, None)
            part.affine = False  # type: ignore[assignment]
        else:
            # the very object, where it was never moved, so that weights tied to it are tied again
            moved = old.device != now.device or old.dtype != now.dtype
            part.register_parameter(parameter, nn.Parameter(old.detach().to(now), old.requires_grad) if moved else old)
    return plain


def check_folded(
    model: nn.Module | Network,
    gains: xr.Dataset,
    folded: nn.Module,
    input_shape: Sequence[int],
    *,
    task: str | None = None,
) -> None:
    """Compare a folded network with the gained one on two images of noise, before it goes where nobody can look.

    Nothing is compared where gains can only be placed with a channel axis of the caller's.

    Raises
    ------
    ConfigError : they answer otherwise, by more than rounding.
    """
    module = as_network(model).module
    place = next(folded.parameters())
    noise = torch.randn(2, *input_shape, generator=torch.Generator().manual_seed(0)).to(place)
    with torch.no_grad(), evaluating(module), evaluating(folded), attributes_kept(module), attributes_kept(folded):
        try:
            with with_gains(module, gains, task=task):
                wanted = module(noise)
        except OpenAxisError:
            return
        found = folded(noise)
    if not isinstance(wanted, Tensor):
        return
    difference = float((found - wanted).abs().max() / wanted.abs().max().clamp(min=torch.finfo(wanted.dtype).tiny))
    if not difference <= TOLERANCE:
        raise ConfigError(
            f"the network with the gains in its weights answers otherwise than the gained one (relative difference "
            f"{difference:.2g} on noise, wanted at most {TOLERANCE:g}); keep the gains as they are (with_gains)"
        )


def check_unhooked(module: nn.Module) -> None:
    """Refuse a network that carries hooks: what they do is in no graph and no weight."""
    for name, part in module.named_modules():
        if part._forward_hooks or part._forward_pre_hooks:
            raise ConfigError(
                f"the network carries hooks (on {name or 'itself'}), which folding would not see; "
                "leave with_gains, or remove them, and fold then"
            )
    if acts_now(module):
        raise ConfigError("gains act on functional operations of the network; leave with_gains, and fold then")


def _multiply(part: nn.Module, scaling: Scaling, replaced: dict[str, nn.Parameter | None]) -> None:
    """Multiply a factor into one side of the numbers of `part`; what was there goes to `replaced`, once."""
    for parameter in ("weight", "bias"):
        replaced.setdefault(f"{scaling.module}.{parameter}", getattr(part, parameter))
    if isinstance(part, _AFFINE) and part.weight is None:
        _make_affine(part)
    if scaling.side == "output":
        for parameter in ("weight", "bias"):
            old = getattr(part, parameter)
            if old is not None:
                _put(part, parameter, old.double() * _along(scaling.gain, old, 0))
    elif isinstance(part, nn.modules.batchnorm._BatchNorm):
        # norm(g x) = w (g x - m)/s + b = (w g)(x - m)/s + b + w m (g - 1)/s
        assert part.running_mean is not None
        assert part.running_var is not None
        gain, weight = scaling.gain.to(part.weight.device), part.weight.double()
        shift = weight * part.running_mean.double() * (gain - 1) / (part.running_var.double() + part.eps).sqrt()
        _put(part, "bias", part.bias.double() + shift)
        _put(part, "weight", weight * gain)
    else:
        assert isinstance(part.weight, Tensor)
        _put(part, "weight", part.weight.double() * _input_factor(part, scaling.gain))


def _input_factor(part: nn.Module, gain: Tensor) -> Tensor:
    """Factors on the weight of a convolution or linear layer, (out or 1, in per group, 1, …), for gains on its input.

    >>> _input_factor(nn.Conv2d(2, 2, 1, groups=2), torch.tensor([3.0, 5.0])).flatten().tolist()  # depthwise
    [3.0, 5.0]
    """
    weight, groups = part.weight, int(getattr(part, "groups", 1))
    assert isinstance(weight, Tensor)
    gain = gain.to(weight.device)
    if groups == 1:
        return _along(gain, weight, 1)
    per_group = gain.view(groups, 1, -1).expand(-1, len(weight) // groups, -1).reshape(len(weight), -1)
    return per_group.view(*per_group.shape, *[1] * (weight.ndim - 2))


def _along(gain: Tensor, like: Tensor, axis: int) -> Tensor:
    shape = [1] * like.ndim
    shape[axis] = -1
    return gain.to(like.device).view(shape)


def _put(part: nn.Module, parameter: str, value: Tensor) -> None:
    old = getattr(part, parameter)
    # a new Parameter, so that weights shared with another module stay what they are there
    setattr(part, parameter, nn.Parameter(value.detach().to(old.dtype), requires_grad=old.requires_grad))


def _make_affine(part: nn.Module) -> None:
    """Give a norm without weights the weights 1 and biases 0."""
    example = getattr(part, "running_mean", None)
    device = None if example is None else example.device
    part.affine = True  # type: ignore[assignment]
    part.weight = nn.Parameter(torch.ones(width(part), device=device), requires_grad=False)
    part.bias = nn.Parameter(torch.zeros(width(part), device=device), requires_grad=False)

"""Arms of a transfer experiment: what each one learns on the frozen network, and the network that it learns on.

All arms start from the un-gained network with the frozen read-out, and learn by the same loop (`nets.learning`); they
differ in the numbers that may change. Those that change the base network (full fine-tuning), or no number at all
(AdaBN), have their own modules.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from featattn_neuro.errors import DataError, choose
from featattn_neuro.nets.batches import own_copy
from featattn_neuro.nets.channels import declared_axis
from featattn_neuro.nets.cutting import CutNetwork
from featattn_neuro.nets.detectors import Detector
from featattn_neuro.nets.hooks import hooked
from featattn_neuro.nets.learning import Trained, start
from featattn_neuro.nets.parameterisations import LOG, Parameterisation
from featattn_neuro.nets.sites import name_in_copy, with_site_modules

FREE = Parameterisation()
PLACES = ("positive", "shifted", "any", "norm")


@dataclass(frozen=True)
class ArmRule:
    """What an arm learns.

    Parameters
    ----------
    gain : None, "filter" (one per filter) or "layer" (one per layer). shift : one number per filter, added after the
        gain. spatial : one factor per position. norm : weight and bias of every norm (`norm_sites`), instead of the
        gained sites. head : the read-out.
    parameterisation : of gains and factors per position; affine weights of norms are free.
    """

    gain: str | None = None
    shift: bool = False
    spatial: bool = False
    norm: bool = False
    head: bool = False
    parameterisation: Parameterisation = LOG
    combination: str = "multiplicative"

    @property
    def on_network(self) -> bool:
        """Whether anything is learned besides the read-out."""
        return bool(self.gain or self.shift or self.spatial or self.norm)

    @property
    def place(self) -> str:
        """Which `arm_network` the arm needs: "positive" (sites may lie behind pooling), "shifted", "any", or "norm"."""
        if self.norm:
            return "norm"
        if self.spatial or not self.parameterisation.positive:
            return "any"
        return "shifted" if self.shift else "positive"

    def with_settings(self, parameterisation: str | None = None, combination: str | None = None) -> ArmRule:
        """The rule with another parameterisation or combination; None leaves it."""
        made = self.parameterisation if parameterisation is None else Parameterisation.parse(parameterisation)
        return replace(self, parameterisation=made, combination=combination or self.combination)


ARM_RULES: Mapping[str, ArmRule] = {
    "probe": ArmRule(head=True),
    "gain": ArmRule("filter"),
    "gain_head": ArmRule("filter", head=True),
    "uniform": ArmRule("layer"),
    "bounded": ArmRule("filter", parameterisation=Parameterisation(low=0.7, high=1.3)),
    "shift": ArmRule(shift=True),
    "shift_head": ArmRule(shift=True, head=True),
    "gain_shift": ArmRule("filter", shift=True),
    "gain_shift_head": ArmRule("filter", shift=True, head=True),
    "norm_affine": ArmRule(norm=True, parameterisation=FREE),
    "norm_affine_head": ArmRule(norm=True, head=True, parameterisation=FREE),
    "spatial": ArmRule(spatial=True),
    "feature_spatial": ArmRule("filter", spatial=True),
}
"""Arms that learn numbers on the frozen network by one loop. "bounded" keeps gains in the range seen in cortex."""


def arm_rule(name: str, *, parameterisation: str | None = None, combination: str | None = None) -> ArmRule:
    """The rule of an arm, perhaps with another parameterisation or combination.

    >>> arm_rule("gain_head").head, arm_rule("gain", parameterisation="bounded(0.9, 1.1)").parameterisation.high
    (True, 1.1)
    """
    return ARM_RULES[choose(name, ARM_RULES, "arm")].with_settings(parameterisation, combination)


def norm_sites(module: nn.Module) -> dict[str, str]:
    """Name of every norm with weights along axis 1, to the site that its affine part gives.

    Batch, instance and group norms, and layer norms of maps (N, C, H, W) such as timm's `LayerNorm2d`; see
    `norm_obstacle` for the others.

    >>> norm_sites(nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2)))
    {'1': '1'}
    """
    found = {}
    for name, part in module.named_modules():
        of_maps = isinstance(part, nn.modules.batchnorm._NormBase | nn.GroupNorm)
        if isinstance(part, nn.LayerNorm):
            of_maps = declared_axis(part) == 1  # over whole maps it has more weights than filters
        if of_maps and part.weight is not None:
            # timm's batch norms hold their activation, behind a dropout that does nothing here
            inner = getattr(part, "drop", None) if hasattr(part, "act") else None
            found[name] = name if inner is None else f"{name}.drop"
    return found


def norm_obstacle(module: nn.Module) -> str:
    """Why affine norms cannot be learned as an arm, though there may be some; empty where nothing is in the way.

    Arms learn on axis 1. To learn some norms and leave others out would be another arm than its name says.

    >>> norm_obstacle(nn.Sequential(nn.LayerNorm(3))), norm_obstacle(nn.Sequential(nn.BatchNorm2d(3)))
    ("layer norm '0' has its weights along the last axis", '')
    """
    for name, part in module.named_modules():
        if not isinstance(part, nn.LayerNorm) or part.weight is None or declared_axis(part) == 1:
            continue
        if declared_axis(part) == -1:
            return f"layer norm {name!r} has its weights along the last axis"
        shape = tuple(part.normalized_shape)
        return f"layer norm {name!r} has a weight for every place of its maps {shape}, not one per filter"
    return ""


def arm_network(
    module: nn.Module,
    sites: Sequence[str],
    head: str,
    place: str,
    device: str | torch.device = "cpu",
    *,
    past_pools: bool = True,
) -> CutNetwork | None:
    """The frozen network that arms of one `place` learn on; None for "norm" without norms, or with a `norm_obstacle`.

    "positive": sites may lie behind pooling; "shifted": too, where pooling commutes with shifts; "any": the sites.

    For "norm" it is a copy whose norms have weight 1 and bias 0: then the affine part is a free gain and a shift on
    what they give, and learning those from the norm's own weight and bias is learning weight and bias.
    """
    choose(place, PLACES, "place")
    if place != "norm":
        changed = with_site_modules(module, sites)
        past_pools = past_pools and place != "any"
        return CutNetwork(
            changed, sites, name_in_copy(changed, head), device, past_pools=past_pools, shifts=place == "shifted"
        )
    norms = norm_sites(module)
    if not norms or norm_obstacle(module):
        return None
    neutral = copy.deepcopy(module)
    with torch.no_grad():
        for name in norms:
            part: Any = neutral.get_submodule(name)
            part.weight.fill_(1.0)
            if part.bias is not None:
                part.bias.zero_()
    return CutNetwork(neutral, list(norms.values()), head, device, past_pools=False)


def arm_start(rule: ArmRule, cut: CutNetwork, detector: Detector, module: nn.Module, images: torch.Tensor) -> Trained:
    """Numbers of an arm before learning: with them the network answers as it does un-gained.

    Parameters
    ----------
    cut : `arm_network(module, ..., rule.place)`, after its first `prefix`. module : the network itself.
    images : (N, C, H, W), N >= 1, of the size that will be learned on; they tell the maps' sizes.
    """
    if rule.norm:
        return _norm_start(cut, detector, module, rule)
    return start(
        cut, detector, per_filter=rule.gain != "layer", gain=rule.gain is not None, shift=rule.shift,
        shapes=map_shapes(cut, images) if rule.spatial else None, parameterisation=rule.parameterisation,
        combination=rule.combination,
    )  # fmt: skip


def _norm_start(cut: CutNetwork, detector: Detector, module: nn.Module, rule: ArmRule) -> Trained:
    state = start(cut, detector, shift=True, parameterisation=rule.parameterisation)
    origin = {}
    for name, site in norm_sites(module).items():
        part: Any = module.get_submodule(name)
        weight = part.weight.detach().to(cut.device)
        bias = torch.zeros_like(weight) if part.bias is None else part.bias.detach().to(cut.device)
        state.theta[site] = weight.expand_as(state.theta[site]).clone()
        state.shift[site] = bias.expand_as(state.shift[site]).clone()
        origin[site] = weight[None].clone(), bias[None].clone()
    return replace(state, origin=origin)


def map_shapes(cut: CutNetwork, images: torch.Tensor) -> dict[str, tuple[int, int]]:
    """Layer to (H, W) of its maps, for images of this size; `DataError` for a layer without positions.

    >>> net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2, 2))
    >>> map_shapes(CutNetwork(net, ["1"], "4"), torch.zeros(1, 1, 5, 6))
    {'1': (3, 4)}
    """
    found: dict[str, tuple[int, int]] = {}

    def note(layer: str) -> Any:
        def hook(part: nn.Module, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
            if output.ndim != 4:
                raise DataError(
                    f"layer {layer!r} gives {tuple(output.shape)}, no maps (N, C, H, W), so it has no positions to "
                    "gain; leave it out of arms with factors per position"
                )
            found[layer] = (output.shape[2], output.shape[3])

        return hook

    with torch.no_grad(), hooked(cut.module, {layer: note(layer) for layer in cut.layers}):
        cut.module(own_copy(images[:1], cut.device))
    return found

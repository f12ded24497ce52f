"""Saliency through gradients of a logit: gain × gradient, change of Grad-CAM, integrated gradients along the gains.

All three explain one logit z (a read-out of the head's input, or one of the network's outputs) and act on every gained
layer at once: M_k = g_k A_k is what a gained layer passes on, so ∂z/∂g_k = Σ_yx A_k ∂z/∂M_k.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from featattn_neuro.errors import DataError
from featattn_neuro.nets.cutting import require_head
from featattn_neuro.nets.excess import finite, finite_logits, maps_of, run_network
from featattn_neuro.nets.gain_rows import GainRows
from featattn_neuro.nets.hooks import hooked
from featattn_neuro.nets.passes import other_rows

FIRST_STEPS, MOST_STEPS = 8, 512
TOLERANCE = 1e-3
"""A path integral is complete when |sum - change of the logit| is at most this share of the sum of |attribution|."""


@dataclass(frozen=True)
class Logits:
    """What is explained, one logit per gain set: read-outs of the head's input, or outputs of the network.

    weight (S, F), bias (S,), scale (F,) : the read-outs. output (S,) : indices of outputs, instead of read-outs.
    """

    head: str | None
    weight: Tensor | None = None
    bias: Tensor | None = None
    scale: Tensor | None = None
    output: Tensor | None = None

    def of(self, features: Tensor | None, outputs: Any) -> Tensor:
        """(B, S) logits."""
        if self.output is not None:
            if not isinstance(outputs, Tensor) or outputs.ndim != 2 or int(self.output.max()) >= outputs.shape[1]:
                came = tuple(outputs.shape) if isinstance(outputs, Tensor) else type(outputs).__name__
                raise DataError(
                    f"wanted output {int(self.output.max())} of the network; its output is {came}; name an output "
                    "that it has"
                )
            return finite_logits(outputs[:, self.output])
        assert self.weight is not None
        assert self.bias is not None
        assert self.scale is not None
        if features is None or features.ndim != 2 or features.shape[1] != self.weight.shape[1]:
            came = "nothing" if features is None else str(tuple(features.shape))
            raise DataError(
                f"the read-out of these gains takes {self.weight.shape[1]} features; the head {self.head!r} is given "
                f"{came}; the gains were learned on another network, or name another head"
            )
        return finite_logits((features / self.scale) @ self.weight.T + self.bias)


def logits_of(rows: GainRows, *, head: str | None, output: int | Sequence[int] | None, device: torch.device) -> Logits:
    """The logit of each gain set: the read-out that the gains carry, or the network's outputs named by `output`.

    Raises
    ------
    DataError : neither is there, several read-outs for one gain set, or another number of outputs than gain sets.
    ConfigError : a read-out without a head.
    """
    if output is not None:
        wanted = np.atleast_1d(np.asarray(output, dtype=np.int64))
        if wanted.size not in (1, rows.count) or (wanted < 0).any():
            raise DataError(
                f"wanted one output of the network for all gain sets, or one for each of the {rows.count}; "
                f"came {wanted.tolist()}; pass that many indices from 0"
            )
        return Logits(head, output=torch.as_tensor(np.broadcast_to(wanted, (rows.count,)).copy(), device=device))
    if "head_weight" not in rows.source:
        raise DataError(
            "this saliency explains a logit: wanted gains that carry their read-out (learn_gains), or output= with the "
            "index of one of the network's outputs; came neither"
        )
    if "output" in rows.source["head_weight"].dims:
        known = rows.source["head_weight"].sizes["output"]
        names = rows.source["output"].values.tolist() if "output" in rows.source.coords else list(range(known))
        raise DataError(
            f"wanted gains with one read-out, whose logit is explained; these serve {known} "
            f"({', '.join(map(str, names[:8]))}{', …' if known > 8 else ''}); select one with gains.sel(output=…), or "
            "pass output= with the index of one of the network's outputs"
        )
    sets = rows.source["gain"].isel(unit=0, drop=True)
    weight = rows.source["head_weight"].broadcast_like(sets).transpose(*rows.dims, "feature")
    bias = rows.source["head_bias"].broadcast_like(sets).transpose(*rows.dims)
    values = weight.values.reshape(rows.count, -1), bias.values.reshape(-1), rows.source["feature_scale"].values
    tensors = [torch.as_tensor(np.array(v), dtype=torch.float32, device=device) for v in values]
    return Logits(require_head(head, "given"), tensors[0], tensors[1], tensors[2])


def class_weights(rows: GainRows, layer: str, module: nn.Module, *, head: str | None, output: Any) -> np.ndarray:
    """(S, C) weight of each filter of `layer` in the logit, where the head's features are the layer's filters.

    Raises
    ------
    DataError : the read-out has another number of features than the layer has filters, or there is none.
    """
    if output is None:
        logits = logits_of(rows, head=head, output=None, device=torch.device("cpu"))
        assert logits.weight is not None
        assert logits.scale is not None
        weight = (logits.weight.double() / logits.scale.double()).numpy()
    else:
        found = module.get_submodule(require_head(head, "given"))
        if not isinstance(found, nn.Linear):
            raise DataError(f"class-weighted maps need a linear head; {head!r} is {type(found).__name__}; name another")
        chosen = logits_of(rows, head=head, output=output, device=torch.device("cpu")).output
        assert chosen is not None
        if int(chosen.max()) >= len(found.weight):
            raise DataError(f"wanted output {int(chosen.max())}; the head {head!r} has {len(found.weight)}; name one")
        weight = found.weight.detach().cpu().double()[chosen].numpy()
    n = rows.values[layer].shape[1]
    if weight.shape[1] != n:
        raise DataError(
            f"class-weighted maps need a layer whose filters are the read-out's features; layer {layer!r} has {n} "
            f"filters and the read-out {weight.shape[1]} features; choose the last maps before the pooling"
        )
    if not np.isfinite(weight).all():
        raise DataError("the weights of the read-out are not finite; check the head, or the gains' read-out")
    return weight


def gained_pass(
    module: nn.Module, images: Tensor, factors: Mapping[str, Tensor], logits: Logits
) -> tuple[Tensor, dict[str, Tensor], dict[str, Tensor]]:
    """One pass with a factor per filter at each gained layer: logits (B, S), maps A before and M = g A after the gain.

    Gradients of the logits reach M and the factors; the caller decides whether a graph is built.
    """
    before: dict[str, Tensor] = {}
    after: dict[str, Tensor] = {}
    features: list[Tensor] = []

    def gain(layer: str) -> Any:
        def hook(part: nn.Module, inputs: tuple[Any, ...], output: Any) -> Tensor:
            if layer in before:
                raise DataError(f"layer {layer!r} must run once per image; it ran twice; choose another layer")
            if not isinstance(output, Tensor) or output.ndim not in (2, 4):
                maps_of(output, layer)
            if output.shape[1] != len(factors[layer]):
                raise DataError(
                    f"layer {layer!r} has {output.shape[1]} filters; came {len(factors[layer])} gains of another "
                    "network"
                )
            before[layer] = output
            after[layer] = output * factors[layer].view(1, -1, *[1] * (output.ndim - 2))
            return after[layer].clone()  # the next step may work in place

        return hook

    hooks: dict[str, Any] = {layer: gain(layer) for layer in factors}
    if logits.head is not None and logits.output is None:
        hooks[logits.head] = lambda part, inputs, output: features.append(inputs[0])
    with hooked(module, hooks):
        outputs = run_network(module, images)
    for layer in factors:
        if layer not in after:
            raise DataError(f"layer {layer!r} exists but did not run; leave its gains out")
        finite(layer, after[layer].detach())
    return logits.of(features[-1] if features else None, outputs), before, after


def _factors(values: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {layer: value.detach().clone().requires_grad_(True) for layer, value in values.items()}


def _slopes(z: Tensor, maps: Mapping[str, Tensor], *, retain: bool = False) -> list[Tensor]:
    """Gradient of each image's logit at the map of each layer; 0 where the logit does not depend on it.

    `DataError` where one is not finite, as that of a root at 0.
    """
    slopes = torch.autograd.grad(z.sum(), list(maps.values()), retain_graph=retain, allow_unused=True)
    found = [
        torch.zeros_like(one) if slope is None else slope for one, slope in zip(maps.values(), slopes, strict=True)
    ]
    for layer, slope in zip(maps, found, strict=True):
        fine = torch.isfinite(slope.flatten(1)).all(dim=1)
        if not bool(fine.all()):
            raise DataError(
                f"the gradient of the logit at layer {layer!r} is not finite for {int((~fine).sum())} of {len(fine)} "
                "images; leave them out, or choose methods without gradients"
            )
    return found


def local_maps(
    module: nn.Module,
    images: Tensor,
    gains: Mapping[str, Tensor],
    excess: Mapping[str, Tensor],
    logits: Logits,
    layers: Sequence[str],
    wanted: Sequence[str],
) -> dict[str, dict[str, Tensor]]:
    """Gain × gradient and Grad-CAM of all sets at `layers`: layer to variable to (S, B, h, w).

    Parameters
    ----------
    gains : gained layer to (S, C). excess : layer to (S, C), g - 1 as it enters gain × gradient.
    wanted : "gain_gradient", "gradcam", or both.

    gain_gradient = Σ_k (g_k - 1) A_k ∂z/∂A_k on the un-gained network: its sum over places is the first-order change
    of z. Grad-CAM (Selvaraju et al. 2017), signed: Σ_k mean_yx(∂z/∂M_k) M_k, with all gains on and without.
    """
    found: dict[str, dict[str, list[Tensor]]] = {layer: {} for layer in layers}

    def keep(layer: str, name: str, value: Tensor) -> None:
        found[layer].setdefault(name, []).append(value)

    sets = next(iter(gains.values())).shape[0]
    z, before, after = gained_pass(
        module, images, _factors({n: torch.ones_like(g[0]) for n, g in gains.items()}), logits
    )
    for row in range(sets):
        slopes = _slopes(z[:, row], {layer: after[layer] for layer in layers}, retain=True)
        for layer, slope in zip(layers, slopes, strict=True):
            maps = before[layer].detach()
            if "gain_gradient" in wanted:
                keep(layer, "gain_gradient", torch.einsum("k,bkyx,bkyx->byx", excess[layer][row], maps, slope))
            if "gradcam" in wanted:
                keep(layer, "cam_ungained", torch.einsum("bk,bkyx->byx", slope.mean(dim=(2, 3)), maps))
    if "gradcam" in wanted:
        for row in range(sets):
            here = _factors({name: g[row] for name, g in gains.items()})
            z, _, after = gained_pass(module, images, here, logits)
            slopes = _slopes(z[:, row], {layer: after[layer] for layer in layers})
            for layer, slope in zip(layers, slopes, strict=True):
                cam = torch.einsum("bk,bkyx->byx", slope.mean(dim=(2, 3)), after[layer].detach())
                keep(layer, "cam_change", cam - found[layer]["cam_ungained"][row])
    return {layer: {name: torch.stack(values) for name, values in one.items()} for layer, one in found.items()}


def path_integrated(
    module: nn.Module,
    images: Tensor,
    gains: Mapping[str, Tensor],
    logits: Logits,
    row: int,
    *,
    most_steps: int = MOST_STEPS,
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Integrated gradients (Sundararajan, Taly & Yan 2017) of logit `row` along the gains, from 1 to `gains` (C,).

    The path is g(α) = 1 + α (g - 1), jointly over all gained layers; a place has
    Σ_k (g_k - 1) ∫ A_k(α) ∂z/∂M_k(α) dα, by the midpoint rule. Steps are doubled, image by image, until
    |Σ - Δz| <= 1e-3 Σ |attribution|, at most to `most_steps`. Exact for gains of the last maps before a linear head.

    Returns
    -------
    (layer to (B, h, w), or (B,) for layers without positions; {"path_sum", "logit_change", "path_steps", "complete"}).
    """
    ones = {name: torch.ones_like(g) for name, g in gains.items()}
    with torch.no_grad():
        change = (
            gained_pass(module, images, gains, logits)[0][:, row] - gained_pass(module, images, ones, logits)[0][:, row]
        ).double()
    todo = torch.arange(len(images), device=images.device)
    facts = {
        "path_sum": torch.zeros_like(change),
        "logit_change": change,
        "path_steps": torch.zeros_like(todo),
        "complete": torch.zeros_like(todo, dtype=torch.bool),
    }
    maps: dict[str, Tensor] = {}
    steps = min(FIRST_STEPS, most_steps)
    while True:
        found = _integrate(module, images[todo], gains, logits, row, steps)
        total = torch.stack([one.flatten(1).sum(dim=1) for one in found.values()]).sum(dim=0)
        mass = torch.stack([one.flatten(1).abs().sum(dim=1) for one in found.values()]).sum(dim=0)
        for layer, one in found.items():
            maps.setdefault(layer, one.new_zeros((len(images), *one.shape[1:])))[todo] = one
        done = (total - change[todo]).abs() <= TOLERANCE * mass
        facts["path_sum"][todo], facts["path_steps"][todo], facts["complete"][todo] = total, steps, done
        todo = todo[~done]
        if not len(todo) or steps >= most_steps:
            return maps, facts
        steps = min(2 * steps, most_steps)


def _integrate(
    module: nn.Module, images: Tensor, gains: Mapping[str, Tensor], logits: Logits, row: int, steps: int
) -> dict[str, Tensor]:
    """Layer to (B, h, w) or (B,): the midpoint rule with `steps` points, summed over filters in float64."""
    found: dict[str, Tensor] = {}
    layers = list(gains)
    for step in range(steps):
        share = (step + 0.5) / steps
        here = _factors({name: 1 + share * (g - 1) for name, g in gains.items()})
        z, before, after = gained_pass(module, images, here, logits)
        for layer in layers:
            if len(before[layer]) != len(images):  # their sum over an image is not known
                raise other_rows(layer, len(before[layer]), len(images))
        slopes = _slopes(z[:, row], {layer: after[layer] for layer in layers})
        for layer, slope in zip(layers, slopes, strict=True):
            excess = (gains[layer] - 1).double()
            product = (before[layer].detach() * slope).double()
            part = torch.tensordot(product, excess, dims=([1], [0])) / steps
            found[layer] = part if layer not in found else found[layer] + part
    return found

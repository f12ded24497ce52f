"""Gains from theory instead of learning: tuning values and gradient values (Lindsay & Miller 2018, eLife 7:e38105)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.nn.functional import binary_cross_entropy_with_logits

from featattn_neuro.errors import ConfigError, DataError, choose
from featattn_neuro.nets.arms import arm_network, map_shapes
from featattn_neuro.nets.batches import own_copy
from featattn_neuro.nets.cutting import CutNetwork
from featattn_neuro.nets.detectors import Detector
from featattn_neuro.nets.hooks import hooked
from featattn_neuro.nets.layers import stage_of
from featattn_neuro.nets.learning import Trained, start
from featattn_neuro.nets.parameterisations import Parameterisation
from featattn_neuro.nets.prefix_cache import check_alive_on
from featattn_neuro.nets.sites import INPUT
from featattn_neuro.schema import ACTIVATIONS, GAINS

if TYPE_CHECKING:
    import xarray as xr

MODES = ("bidirectional", "positive")
"""Of gains that multiply; "additive" ones add to what goes into the nonlinearity."""
ADDITIVE = "additive"
NORMALISATIONS = ("layer", "filter")
QUADRANTS = ("upper left", "upper right", "lower left", "lower right")
METHODS = ("tuning", "gradient")


def tuning_values(activations: xr.Dataset, target: xr.DataArray) -> xr.DataArray:
    """How far each filter's mean response to a category is from its mean over all images, in SDs over all images.

    f_c = (mean of r over images of c - mean of r) / SD of r, with r the spatial mean of the map and the population SD
    (1/N) over *all* images; it is no d'. With balanced categories that every image belongs to one of, the mean of f_c
    over categories is 0.

    Parameters
    ----------
    activations : ACTIVATIONS, `response(stimulus, unit)` of one reduction, spatial means (attribute `reduction`).
    target : boolean (task, stimulus), the images of each category; joined by stimulus id.

    Returns
    -------
    (task, unit), SDs; NaN for a filter without variance.

    Raises
    ------
    DataError : stimuli that do not match, a category without images, another reduction than the spatial mean.
    """
    import xarray as xr

    checked = ACTIVATIONS.check(activations)
    if "reduction" in checked["response"].dims or str(checked.attrs.get("reduction", "mean")) != "mean":
        raise DataError("tuning values are of spatial means; record with reduce='mean'")
    known = checked["stimulus"].values
    missing = set(known.tolist()) ^ set(target["stimulus"].values.tolist())
    if missing:
        raise DataError(f"target and activations differ in {len(missing)} stimuli, one is {min(missing)!r}; match them")
    members = target.sel(stimulus=known).transpose("task", "stimulus").values.astype(bool)
    values = tuning_values_of(checked["response"].values.astype(np.float64), members)
    keep = [name for name in ("unit", "layer", "channel", "stage") if name in checked.coords]
    coords = {**{name: checked[name] for name in keep}, "task": target["task"].values}
    return xr.DataArray(values, coords, ("task", "unit"), name="tuning_value")


def tuning_values_of(responses: np.ndarray, members: np.ndarray) -> np.ndarray:
    """(T, K) tuning values of responses (N, K) for categories (T, N) of images.

    >>> tuning_values_of(np.array([[0.0], [2.0]]), np.array([[True, False], [False, True]])).tolist()
    [[-1.0], [1.0]]
    """
    count = members.sum(axis=1)
    if (count == 0).any():
        raise DataError(f"category {int(np.flatnonzero(count == 0)[0])} has no image; leave it out")
    centred = responses - responses.mean(axis=0)
    sd = centred.std(axis=0)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(sd > 0, (members @ centred) / count[:, None] / sd, np.nan)


def tuning_quality(values: np.ndarray) -> np.ndarray:
    """(K,) largest absolute tuning value of each filter over categories, of values (T, K); NaN stays NaN.

    >>> tuning_quality(np.array([[0.1, -0.2], [-0.4, 0.0]])).tolist()
    [0.4, 0.2]
    """
    return np.abs(values).max(axis=0)


def site_means(cut: CutNetwork, images: torch.Tensor, *, chunk: int = 50) -> np.ndarray:
    """(N, K) mean over positions of every filter's map at the sites of a cut network, un-gained, float64.

    Parameters
    ----------
    images : (N, C, H, W). chunk : images in one pass.

    >>> net = torch.nn.Sequential(torch.nn.Identity(), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten())
    >>> _ = net.append(torch.nn.Linear(1, 1))
    >>> cut = CutNetwork(net, ["0"], "3", past_pools=False)
    >>> site_means(cut, torch.tensor([1.0, 3.0]).view(1, 1, 1, 2)).tolist()
    [[2.0]]
    """
    seen: dict[str, torch.Tensor] = {}

    def note(layer: str) -> Callable[..., None]:
        def hook(part: torch.nn.Module, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
            # at once: what follows may work on the map in place
            seen[layer] = (output.flatten(2).mean(dim=2) if output.ndim > 2 else output).double().cpu()

        return hook

    parts = []
    with torch.no_grad(), hooked(cut.module, {layer: note(layer) for layer in cut.layers}):
        for begin in range(0, len(images), chunk):
            cut.module(own_copy(images[begin : begin + chunk], cut.device))
            parts.append(torch.cat([seen[layer] for layer in cut.layers], dim=1).numpy())
    return np.concatenate(parts)


def with_factors(cut: CutNetwork, detector: Detector, factors: np.ndarray) -> Trained:
    """A frozen read-out with given factors (T, K), of any sign, on the K filters of the sites.

    `cut` after its first `prefix`; made with `past_pools=False` where a factor is negative.
    """
    state = replace(start(cut, detector), parameterisation=Parameterisation())
    widths = [cut.n_filters[layer] for layer in cut.layers]
    parts = torch.as_tensor(factors, dtype=torch.float32, device=cut.device).split(widths, dim=1)
    return replace(state, theta=dict(zip(cut.layers, parts, strict=True)))


def gradient_values(
    cut: CutNetwork,
    images: torch.Tensor,
    target: np.ndarray,
    detector: Detector,
    *,
    normalise: str = "layer",
    sign: int = -1,
    chunk: int = 50,
) -> np.ndarray:
    """(T, K) how much more of each filter would lower the detector's error on images of its category.

    -(mean over images of category c of the spatial mean of dE/dx), E the binary cross-entropy of the detector for c on
    that image (label 1), x the filter's map at the gained site; divided by the largest absolute value of the layer.

    Parameters
    ----------
    cut : network made with `past_pools=False`; its layers are the sites, K filters of all of them.
    images : (N, C, H, W). target : (T, N) bool, images of each category. detector : T read-outs.
    normalise : "layer" as in the paper, or "filter": each filter by its largest absolute value over categories, as the
        authors' script for objects does. sign : -1 as in the paper; +1 as that script.

    Returns
    -------
    float64 in [-1, 1]; NaN where all that it would be divided by is 0.

    Raises
    ------
    ConfigError : a network whose sites may lie behind pooling; an unknown option.
    DataError : a category without images.
    """
    choose(normalise, NORMALISATIONS, "normalisation")
    if sign not in (-1, 1):
        raise ConfigError(f"sign must be -1 (the paper) or 1 (the authors' script); came {sign}")
    members = np.asarray(target, dtype=bool)
    if not members.any(axis=1).all():
        raise DataError(f"category {int(np.flatnonzero(~members.any(axis=1))[0])} has no image; leave it out")
    cut.prefix(images[:1])
    # a shift that is added everywhere on a map has the sum over positions of dE/dx as its gradient
    state = start(cut, detector, gain=False, shift=True)
    shifts = [state.shift[layer].requires_grad_(True) for layer in cut.layers]
    total = [np.zeros(shift.shape) for shift in shifts]
    tasks = len(members)
    for begin in range(0, len(images), chunk):
        rows = cut.prefix(images[begin : begin + chunk])
        repeated = [row.repeat(tasks, *[1] * (row.ndim - 1)) for row in rows]
        z = state.logits(cut.features(repeated, state.modulations()))
        here = torch.as_tensor(members[:, begin : begin + chunk], dtype=z.dtype, device=z.device)
        error = binary_cross_entropy_with_logits(z, torch.ones_like(z), here, reduction="sum")
        for sums, gradient in zip(total, torch.autograd.grad(error, shifts), strict=True):
            sums += gradient.double().cpu().numpy()
    positions = _positions(cut, images)
    count = members.sum(axis=1)[:, None]
    values = [sign * sums / count / n for sums, n in zip(total, positions, strict=True)]
    with np.errstate(invalid="ignore"):
        axis = 1 if normalise == "layer" else 0
        scaled = [v / np.abs(v).max(axis=axis, keepdims=True) for v in values]
    return np.concatenate(scaled, axis=1)


def _positions(cut: CutNetwork, images: torch.Tensor) -> list[int]:
    try:
        shapes = map_shapes(cut, images)
    except DataError:  # vectors: one position, and a sum over it is its mean
        shapes = {}
    return [int(np.prod(shapes.get(layer, (1,)))) for layer in cut.layers]


def theory_factors(
    values: np.ndarray, strength: float, *, mode: str = "bidirectional", clip: bool = False
) -> np.ndarray:
    """1 + strength * f, the factor on a map for tuning or gradient values f; 1 where f is NaN (the filter is dead).

    Parameters
    ----------
    values : f, any shape. strength : beta >= 0, no units.
    mode : "bidirectional", or "positive": negative f become 0.
    clip : factors below 0 become 0 (the authors' code; not the paper's equation).

    >>> theory_factors(np.array([0.5, -2.0, np.nan]), 1.0).tolist()
    [1.5, -1.0, 1.0]
    >>> theory_factors(np.array([0.5, -2.0]), 1.0, clip=True).tolist()
    [1.5, 0.0]
    >>> theory_factors(np.array([0.5, -2.0]), 1.0, mode="positive").tolist()
    [1.5, 1.0]
    """
    choose(mode, MODES, "mode")
    if not strength >= 0:
        raise ConfigError(f"the strength of attention must be 0 or more; came {strength}")
    known = np.nan_to_num(np.asarray(values, dtype=np.float64), nan=0.0)
    factor = 1 + strength * (np.maximum(known, 0) if mode == "positive" else known)
    return np.maximum(factor, 0) if clip else factor


def theory_gains(
    values: xr.DataArray, strength: float, *, mode: str = "bidirectional", clip: bool = False
) -> xr.Dataset:
    """GAINS of tuning or gradient values (task, unit): x -> (1 + beta f) x at the sites that the values are of.

    Placed after a ReLU that is Lindsay & Miller's multiplicative attention. `strength`, `mode` and `clip` as in
    `theory_factors`; they are kept as attributes.
    """
    import xarray as xr

    factor = theory_factors(values.values, strength, mode=mode, clip=clip)
    attrs: dict[str, str | float | int] = {
        "kind": "GAINS", "strength": float(strength), "mode": mode, "clipped": "yes" if clip else "no",
        "parameterisation": "non_negative" if (factor >= 0).all() else "free",
    }  # fmt: skip
    return GAINS.check(xr.Dataset({"gain": (values.dims, factor)}, dict(values.coords), attrs))


def additive_gains(values: xr.DataArray, mean_activity: xr.DataArray, strength: float) -> xr.Dataset:
    """GAINS that add instead of multiply: relu(x + mu beta f), as shifts of what goes into the nonlinearity.

    Parameters
    ----------
    values : f (task, unit), at the outputs of activation modules.
    mean_activity : mu (layer), mean response of the layer over its filters, positions and images; joined by name.

    Returns
    -------
    GAINS at the inputs of those modules ("relu1.input"), gain 1, `shift` in units of the maps.
    """
    import xarray as xr

    names = values["layer"].values.astype(str)
    unknown = sorted(set(names.tolist()) - set(mean_activity["layer"].values.astype(str).tolist()))
    if unknown:
        raise DataError(f"mean_activity names no layer {unknown[0]!r}; give the mean of every layer")
    mu = mean_activity.sel(layer=names).values
    shift = additive_shifts(values.values, mu, strength)
    channel = values["channel"].values
    coords = {
        "task": values["task"].values,
        "unit": [f"{name}.input/{k:03d}" for name, k in zip(names, channel, strict=True)],
        "layer": ("unit", [f"{name}.input" for name in names]),
        "channel": ("unit", channel),
    }
    table = {"gain": (("task", "unit"), np.ones_like(shift)), "shift": (("task", "unit"), shift)}
    return GAINS.check(xr.Dataset(table, coords, {"kind": "GAINS", "strength": float(strength)}))


def additive_shifts(values: np.ndarray, mean_activity: np.ndarray, strength: float) -> np.ndarray:
    """mu * beta * f, what additive attention adds to what goes into a nonlinearity; 0 where f is NaN (a dead filter).

    Parameters
    ----------
    values : f (T, K). mean_activity : mu (K,), mean response of each filter's layer, units of its maps.
    strength : beta >= 0, no units.

    >>> additive_shifts(np.array([[0.5, -2.0, np.nan]]), np.array([3.0, 3.0, 3.0]), 2.0).tolist()
    [[3.0, -12.0, 0.0]]
    """
    if not strength >= 0:
        raise ConfigError(f"the strength of attention must be 0 or more; came {strength}")
    return np.asarray(mean_activity) * strength * np.nan_to_num(np.asarray(values, dtype=np.float64), nan=0.0)


def activation_inputs(module: torch.nn.Module, sites: Sequence[str]) -> list[str]:
    """Where additive attention acts: the inputs of activation modules, named as sites.

    >>> activation_inputs(torch.nn.Sequential(torch.nn.ReLU()), ["0"])
    ['0.input']
    """
    parts = dict(module.named_modules())
    for site in sites:
        if site not in parts or stage_of(parts[site]) != "activation":
            raise ConfigError(
                f"mode 'additive' adds to what goes into a nonlinearity; wanted activation modules such as nn.ReLU; "
                f"came {site!r}; name those, or take another mode"
            )
    return [site + INPUT for site in sites]


def layer_means(cut: CutNetwork, responses: np.ndarray) -> np.ndarray:
    """(K,) mean of responses (N, K) over images and filters of each filter's layer."""
    ends = np.cumsum([cut.n_filters[layer] for layer in cut.layers])
    parts = np.split(responses, ends[:-1], axis=1)
    return np.concatenate([np.full(part.shape[1], part.mean()) for part in parts])


def with_shifts(cut: CutNetwork, detector: Detector, shifts: np.ndarray) -> Trained:
    """A frozen read-out with given numbers (T, K) that are added at the K filters of the sites, after a `prefix`."""
    state = start(cut, detector, gain=False, shift=True)
    widths = [cut.n_filters[layer] for layer in cut.layers]
    parts = torch.as_tensor(shifts, dtype=torch.float32, device=cut.device).split(widths, dim=1)
    return replace(state, shift=dict(zip(cut.layers, parts, strict=True)))


def theory_states(
    cut: CutNetwork,
    detector: Detector,
    images: torch.Tensor,
    target: np.ndarray,
    strengths: Sequence[float],
    *,
    module: torch.nn.Module,
    head: str,
    method: str,
    mode: str = "bidirectional",
    clip: bool = False,
    normalise: str = "layer",
    sign: int = -1,
    values: np.ndarray | None = None,
) -> tuple[CutNetwork, list[Trained]]:
    """Frozen read-outs with the gains of each strength, and the network that they act on.

    Parameters
    ----------
    cut : `arm_network` of place "any"; its layers are the sites. images : (N, C, H, W), single ones; target : (T, N).
    module, head : what `cut` was made of: additive attention acts at the inputs of the sites, on another cut.
    method, mode, clip, normalise, sign : as in `featattn_neuro.theory_gains`.
    values : (T, K) of the method, where they are known already.

    Raises
    ------
    ConfigError : additive attention elsewhere than at activation modules. DataError : a layer whose filters are all
        silent.
    """
    inputs = activation_inputs(module, cut.layers) if mode == ADDITIVE else []
    cut.prefix(images[:1])  # counts the filters
    check_alive_on(cut, images)
    needed = mode == ADDITIVE or (method == "tuning" and values is None)
    responses = site_means(cut, images) if needed else np.empty((0, 0))
    if values is None and method == "tuning":
        values = tuning_values_of(responses, target)
    elif values is None:
        values = gradient_values(cut, images, target, detector, normalise=normalise, sign=sign)
    if mode != ADDITIVE:
        factors = [theory_factors(values, one, mode=mode, clip=clip) for one in strengths]
        return cut, [with_factors(cut, detector, one) for one in factors]
    means = layer_means(cut, responses)
    before = arm_network(module, inputs, head, "any", cut.device)
    assert before is not None  # only norms can be absent
    before.prefix(images[:1])
    return before, [with_shifts(before, detector, additive_shifts(values, means, one)) for one in strengths]


def quadrant_factor(shape: Sequence[int], quadrant: str, strength: float) -> np.ndarray:
    """(H, W) spatial attention 1 + beta_s f_s: f_s = 1 in the attended quadrant, -1 elsewhere.

    The middle row (column) of an odd size belongs to the lower (right) half.

    >>> quadrant_factor((2, 2), "upper left", 0.5).tolist()
    [[1.5, 0.5], [0.5, 0.5]]
    """
    choose(quadrant, QUADRANTS, "quadrant")
    height, width = shape
    vertical, horizontal = quadrant.split()
    f = np.full((height, width), -1.0)
    rows = slice(0, height // 2) if vertical == "upper" else slice(height // 2, None)
    columns = slice(0, width // 2) if horizontal == "left" else slice(width // 2, None)
    f[rows, columns] = 1.0
    return 1 + strength * f


def with_spatial(gains: xr.Dataset, factors: dict[str, np.ndarray], *, combination: str = "additive") -> xr.Dataset:
    """GAINS with factors per position (H, W) of some layers beside the gains per filter.

    `combination` "additive" is the paper's (1 + beta f + beta_s s); of the same factors for all tasks.
    `DataError` where the gains have such factors already.
    """
    known = set(gains["layer"].values.astype(str).tolist())
    for layer in factors:
        choose(layer, known, "gained layer")
    if "spatial" in gains:
        raise DataError(
            "wanted gains per filter alone; these have gains per position already; leave those out (drop_vars), or "
            "nest the two sets"
        )
    places = {layer: np.indices(grid.shape).reshape(2, -1) for layer, grid in factors.items()}
    named = gains.assign(spatial=("position", np.concatenate([grid.ravel() for grid in factors.values()])))
    return GAINS.check(
        named.assign_coords(
            position=[f"{layer}/{y},{x}" for layer, grid in places.items() for y, x in grid.T],
            position_layer=("position", [layer for layer, grid in places.items() for _ in grid.T]),
            position_y=("position", np.concatenate([grid[0] for grid in places.values()])),
            position_x=("position", np.concatenate([grid[1] for grid in places.values()])),
        ).assign_attrs(combination=combination)
    )

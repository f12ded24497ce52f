"""Where in the images gains act: maps, what they are scored against, and the scores."""

from __future__ import annotations

from featattn_neuro.schema.base import Kind, Variable
from featattn_neuro.schema.parts import PARAMETERS, STIMULUS, UNIT, text

_SETS = ("gain_set", "task")
RELATIVE_GAUGE = "gain divided by the layer's mean"
"""The attribute `gauge` of SALIENCY whose g is divided by the layer's mean gain; else its g is the gain as given."""


def _map(meaning: str, dtype: str = "float") -> Variable:
    return Variable(("stimulus", "y", "x"), dtype, meaning, False, extra=_SETS)


def _number(dtype: str, meaning: str) -> Variable:
    return Variable(("stimulus",), dtype, meaning, False, extra=_SETS)


SALIENCY = Kind(
    "SALIENCY",
    "where gains amplify, one layer, signed, in the units of the layer's maps",
    {
        "excess": Variable(
            ("stimulus", "y", "x"), "float", "sum over filters of (g - 1) A", extra=("gain_set", "task")
        ),
        "activation": Variable(
            ("stimulus", "y", "x"),
            "float",
            "sum over filters of A: un-gained, or where upstream_gains is on, with the gains of the other layers",
            False,
        ),
        "relative": _map("sum g A / sum A - 1, no units; only where maps are nowhere negative"),
        "class_weighted": _map(
            "sum over filters of w (g - 1) A, w the read-out's weights; logit units at the last maps"
        ),
        "gain_gradient": _map("sum over filters of (g - 1) A dz/dA on the un-gained network; logit units"),
        "cam_ungained": _map("Grad-CAM without gains, signed: sum over filters of mean(dz/dA) A"),
        "cam_change": _map("the same with all gains on, minus that without"),
        "path_integrated": _map("integrated gradients of the logit along the gains, from 1 to learned; logit units"),
        "path_sum": _number("float", "sum of the attributions of all gained layers; logit units"),
        "logit_change": _number("float", "logit with all gains minus logit without"),
        "path_steps": _number("int", "midpoints that the integral was taken with"),
        "path_status": _number(
            "text", "ok, or incomplete: |sum - change| > 1e-3 sum of |attribution| at 512 midpoints"
        ),
        "top_channel": Variable(
            ("stimulus", "rank"), "int", "filters with the largest |contribution|, largest first", False, _SETS
        ),
        "top_total": Variable(
            ("stimulus", "rank"), "float", "mean over positions of the filter's (g - 1) A", False, _SETS
        ),
        "top_map": Variable(("stimulus", "rank", "y", "x"), "float", "the filter's (g - 1) A", False, _SETS),
        "dominant_channel": _map("filter with the largest |(g - 1) A| at this place; -1 where all are 0", "int"),
    },
    {
        **STIMULUS,
        **PARAMETERS,
        "y": Variable(("y",), "float", "centre of the cell, pixels of the network's input, downwards"),
        "x": Variable(("x",), "float", "centre of the cell, pixels of the network's input, rightwards"),
        "task": text("task", meaning="name of the task"),
        "gain_set": text("gain_set", meaning="name of the gain set"),
    },
)

AGREEMENT = Kind(
    "AGREEMENT",
    "does saliency fall on the cued object: scores per layer and composite",
    {
        "cue_swap": Variable(("layer", "stimulus"), "float", "cue-swap score, SDs of the map", False, ("network",)),
        "cue_swap_by_cue": Variable(
            ("layer", "stimulus", "object"),
            "float",
            "its part under the cue of each object of the label, in that order: the map on the object's ink minus on "
            "the others', SDs of the map; cue_swap is their mean",
            False,
            ("network",),
        ),
        "layer_score": Variable(("layer",), "float", "mean cue swap over composites", extra=("network",)),
        "null_mean": Variable(("layer",), "float", "mean under gains permuted within layer", False, ("network",)),
        "null_sd": Variable(("layer",), "float", "SD under gains permuted within layer", False, ("network",)),
        "p_permuted": Variable(("layer",), "float", "two-sided p of that null (too small)", False, ("network",), 0, 1),
        "mass_in_mask": Variable(("layer",), "float", "mass of excess in cued mask minus area", False, ("network",)),
        "mass_in_mask_plain": Variable(("layer",), "float", "the same of plain sum of A", False, ("network",)),
        "usable": Variable(("layer",), "int", "1 if the grid resolves the masks", extra=("network",)),
        "status": Variable(("layer",), "text", "reason code, see STATUS", False, ("network",)),
        "share_resolved": Variable(
            ("layer",), "float", "composites with >= 5 cells in both masks", False, ("network",)
        ),
        "mask_cells": Variable(
            ("layer",),
            "text",
            "measured = mask cells lie at the layer's receptive fields; tiling = taken to tile",
            False,
            ("network",),
        ),
        "score_low": Variable(("layer",), "float", "lower end of the 95 % t interval over composites", False),
        "score_high": Variable(("layer",), "float", "upper end", False),
        "randomised_score": Variable(("layer",), "float", "mean cue swap in a network of shuffled weights", False),
        "localisation": Variable(
            ("localiser", "map", "layer", "stimulus"),
            "float",
            "score of one map against the masks, image by image",
            False,
        ),
        "localisation_mean": Variable(("localiser", "map", "layer"), "float", "mean over images", False),
        "localisation_low": Variable(("localiser", "map", "layer"), "float", "lower end of its 95 % interval", False),
        "localisation_high": Variable(("localiser", "map", "layer"), "float", "upper end", False),
        "localisation_status": Variable(("localiser", "map", "layer"), "text", "reason code, see STATUS", False),
        "localisation_null": Variable(
            ("localiser", "layer", "permutation"), "float", "mean over images, gains permuted within layer", False
        ),
        "localisation_p": Variable(("localiser", "layer"), "float", "two-sided p of that null", False, (), 0, 1),
    },
    {
        **STIMULUS,
        "stimulus": text("stimulus", meaning="content id of the composite"),
        "localiser": text("localiser", meaning="pointing_game, mass_in_mask, auc_judd or energy"),
        "map": text("map", meaning="excess, activation (plain sum of A), centre (centre bias), or a baseline's name"),
    },
)

MASKED_MAPS = Kind(
    "MASKED_MAPS",
    "what the cue swap needs of the un-gained maps of one layer or several, per filter",
    {
        "contrast": Variable(("stimulus", "unit"), "float", "mean of the map in mask a minus mean in mask b", False),
        "object_mean": Variable(
            ("stimulus", "object", "unit"), "float", "mean of the map in the mask of each object", False
        ),
        "covariance": Variable(
            ("unit", "other_unit"), "float", "covariance of maps over all positions and composites; 0 across layers"
        ),
        "resolved": Variable(("site", "stimulus"), "int", "1 if both masks keep enough cells on the layer's grid"),
        "mask_cells": Variable(
            ("site",), "text", "measured = cells lie at the layer's receptive fields; tiling = taken to tile", False
        ),
    },
    {
        **UNIT,
        **STIMULUS,
        "quadrants": PARAMETERS["quadrants"],
        "other_unit": text("other_unit", meaning="the same ids as unit", required=True),
        "site": text("site", meaning="dotted module names of the layers (unit carries them as layer)"),
    },
)

MASKS = Kind(
    "MASKS",
    "where the objects of each stimulus are, in pixels of the image",
    {"mask": Variable(("stimulus", "object", "y", "x"), "int", "1 where the object is, else 0")},
    {
        **STIMULUS,
        "object_label": Variable(("stimulus", "object"), "text", "class of the object; '' = no such object", False),
    },
)

CAUSAL = Kind(
    "CAUSAL",
    "what masking the most amplified pixels does to the logit of the detector",
    {
        "logit": Variable(
            ("direction", "map", "stimulus", "fraction"),
            "float",
            "logit with that share of pixels changed",
            True,
            _SETS,
        ),
        "area": Variable(
            ("direction", "map", "stimulus"),
            "float",
            "mean over fractions (trapezoid) of the logit minus that at fraction 0; logit units",
            extra=_SETS,
        ),
        "area_mean": Variable(("direction", "map"), "float", "mean of that area over images", False, _SETS),
        "area_low": Variable(
            ("direction", "map"), "float", "lower end of its 95 % t interval over images", False, _SETS
        ),
        "area_high": Variable(("direction", "map"), "float", "upper end", False, _SETS),
        "status": Variable(
            ("map", "stimulus"), "text", "ok, or why the map has no order: dead (0 everywhere), constant", False, _SETS
        ),
    },
    {
        **STIMULUS,
        "direction": text("direction", meaning="deletion: pixels are masked; insertion: they come back"),
        "map": text("map", meaning="what ranks the pixels: excess, activation (plain sum of A), random"),
        "fraction": Variable(("fraction",), "float", "share of the pixels that was changed, 0 to 1", False),
        "task": text("task", meaning="name of the task"),
        "gain_set": text("gain_set", meaning="name of the gain set"),
    },
)

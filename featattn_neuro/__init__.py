"""Learned multiplicative filter gains in frozen convolutional networks, measured like neurons.

Importing this module is free: it loads no torch, matplotlib, xarray, pandas or scipy. A public name is found in
`featattn_neuro.api` when it is first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from featattn_neuro.api import (
        Preprocessing,
        causal_check,
        fold_gains,
        gain_saliency,
        gain_selectivity,
        learn_gains,
        list_layers,
        load_model,
        load_stimuli,
        localisation,
        neural_match,
        open_kind,
        picture_saliency,
        read_neural,
        record,
        saliency_by_layer,
        save_kind,
        score_saliency,
        selectivity,
        with_gains,
    )

__version__ = "0.1.0"

__all__ = [
    "Preprocessing",
    "causal_check",
    "fold_gains",
    "gain_saliency",
    "gain_selectivity",
    "learn_gains",
    "list_layers",
    "load_model",
    "load_stimuli",
    "localisation",
    "neural_match",
    "open_kind",
    "picture_saliency",
    "read_neural",
    "record",
    "saliency_by_layer",
    "save_kind",
    "score_saliency",
    "selectivity",
    "with_gains",
]


def __getattr__(name: str) -> Any:
    if name in __all__:
        value = getattr(importlib.import_module("featattn_neuro.api"), name)
        globals()[name] = value  # found once, then an ordinary attribute
        return value
    raise AttributeError(f"module 'featattn_neuro' has no attribute {name!r}; public names: {', '.join(__all__)}")


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])

"""Learned multiplicative filter gains in frozen convolutional networks, measured like neurons.

Importing this module is free: it loads no torch, matplotlib, xarray, pandas or scipy. A public name is found in
`featattn_neuro.api` when it is first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from featattn_neuro.api import (
        GainSets,
        Preprocessing,
        compose_gains,
        export_gains,
        fold_gains,
        gain_saliency,
        gain_selectivity,
        import_gains,
        learn_gains,
        list_layers,
        load_model,
        load_stimuli,
        neural_match,
        open_kind,
        prefix_cache,
        read_neural,
        record,
        save_kind,
        selectivity,
        switchable_gains,
        unfold_gains,
        with_gains,
    )

__version__ = "0.1.0"

__all__ = [
    "GainSets",
    "Preprocessing",
    "compose_gains",
    "export_gains",
    "fold_gains",
    "gain_saliency",
    "gain_selectivity",
    "import_gains",
    "learn_gains",
    "list_layers",
    "load_model",
    "load_stimuli",
    "neural_match",
    "open_kind",
    "prefix_cache",
    "read_neural",
    "record",
    "save_kind",
    "selectivity",
    "switchable_gains",
    "unfold_gains",
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

"""Gains and selectivity of one network, joined by id and cut into layers of live filters."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import xarray as xr

from featattn_neuro.errors import DataError
from featattn_neuro.measures._join import by_filter, layers_of, single, without_scalars
from featattn_neuro.measures.gain_selectivity import MIN_LIVE, check_sources, joined, live_filters
from featattn_neuro.schema import GAINS, SELECTIVITY


@dataclass(frozen=True)
class PairedLayers:
    """Per layer with enough live filters: gains, |d'| and signed d', each (task, filter); one row without tasks."""

    layers: list[str]
    tasks: list[str]
    gain: dict[str, np.ndarray]
    score: dict[str, np.ndarray]
    signed: dict[str, np.ndarray]
    units: dict[str, np.ndarray]


def paired_layers(gains: xr.Dataset, selectivity: xr.Dataset) -> PairedLayers:
    """Join by filter and task; overlapping sources are refused; layers below `MIN_LIVE` live filters are left out."""
    learned = GAINS.check(single(without_scalars(gains), ("network", "arm", "gain_set"), name="the gains"))
    measured = by_filter(SELECTIVITY.check(without_scalars(selectivity)), name="the selectivity")
    check_sources(learned, measured, "refuse")
    learned, measured = joined(learned, measured)
    gain = np.atleast_2d(learned["gain"].transpose(..., "unit").values.astype(np.float64))
    signed = np.atleast_2d(measured["dprime"].transpose(..., "unit").values)
    live = live_filters(measured) & np.isfinite(gain).all(axis=0)
    names = learned["layer"].values.astype(str)
    inside = {layer: live & (names == layer) for layer in layers_of(learned)}
    kept = [layer for layer, mask in inside.items() if mask.sum() >= MIN_LIVE]
    return PairedLayers(
        layers=kept,
        tasks=[str(task) for task in learned["task"].values] if "task" in learned.dims else [],
        gain={layer: gain[:, inside[layer]] for layer in kept},
        score={layer: np.abs(signed[:, inside[layer]]) for layer in kept},
        signed={layer: signed[:, inside[layer]] for layer in kept},
        units={layer: learned["unit"].values[inside[layer]].astype(str) for layer in kept},
    )


def paired_refits(refits: xr.Dataset, selectivity: xr.Dataset) -> tuple[xr.Dataset, xr.Dataset]:
    """Refits and the selectivity of their filters and tasks, in their order; other layers and tasks are left out."""
    null, measured = GAINS.check(refits), SELECTIVITY.check(without_scalars(selectivity))
    if "gain_set" not in null["gain"].dims:
        raise DataError(
            "wanted refitted gains with a dimension 'gain_set', one set for each relabelling; came one set of gains"
        )
    if ("task" in null["gain"].dims) != ("task" in measured.dims):
        raise DataError("refits and selectivity must both have tasks or neither; select one task")
    # only the layers at hand: calls of another one need not be told apart
    refitted = np.isin(measured["layer"].values.astype(str), layers_of(null))
    measured = by_filter(measured.isel(unit=refitted), name="the selectivity")
    for dim in ("unit", "task") if "task" in measured.dims else ("unit",):
        missing = sorted({str(i) for i in null[dim].values} - {str(i) for i in measured[dim].values})
        if missing:
            raise DataError(
                f"{len(missing)} refitted {dim}s have no selectivity (first: {missing[0]!r}); measure it for them too"
            )
        measured = measured.sel({dim: null[dim].values})
    return null, measured

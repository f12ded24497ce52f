"""Responses of a network's filters: recorded stimulus by stimulus, or summed up per group."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from featattn_neuro.schema.base import Kind, Variable
from featattn_neuro.schema.parts import PARAMETERS, PLACE, STIMULUS, UNIT, text

if TYPE_CHECKING:
    import xarray as xr

ACTIVATIONS = Kind(
    "ACTIVATIONS",
    "responses of units to stimuli",
    {
        "response": Variable(
            ("stimulus", "unit"), "float", "response, units of the recorded site", extra=("reduction",)
        ),
        "leverage": Variable(
            ("stimulus", "unit"),
            "float",
            "sum over positions of map times gradient of the detector's logit = d logit / d gain at gain 1",
            False,
            extra=("task",),
        ),
        "skipped": Variable(("skip",), "text", "path or id of each stimulus left out: it could not be read", False),
    },
    {
        **UNIT,
        **PLACE,
        **STIMULUS,
        **PARAMETERS,
        "reduction": text("reduction", meaning="how positions were reduced"),
    },
)


@dataclass(frozen=True)
class RecordingHeader:
    """All about a recording (ACTIVATIONS) but its values, in plain types: what a recorder tells a store.

    Parameters
    ----------
    widths : units of each recorded layer, in order. steps : units that belong to one filter of it.
    reductions, dtype, batch_size : as recorded.
    coordinates : of `stimulus` and `unit`: name to (dimension, values). attrs : text and numbers.
    """

    widths: tuple[int, ...]
    steps: tuple[int, ...]
    reductions: tuple[str, ...]
    dtype: str
    batch_size: int
    n_stimuli: int
    coordinates: dict[str, tuple[str, Any]]
    attrs: dict[str, str | int | float]

    def dataset(self, response: Any, unreadable: Mapping[int, str]) -> xr.Dataset:
        """ACTIVATIONS of values (reduction, stimulus, unit), without the stimuli that could not be read."""
        import xarray as xr

        dataset = xr.Dataset(
            {"response": (("reduction", "stimulus", "unit"), response)},
            coords={"reduction": list(self.reductions), **self.coordinates},
            attrs={"kind": "ACTIVATIONS", **self.attrs},
        )
        if unreadable:
            skipped = sorted(unreadable)
            names = self.coordinates.get("path", self.coordinates["stimulus"])[1][skipped]
            kept = [i for i in range(self.n_stimuli) if i not in unreadable]
            dataset = dataset.isel(stimulus=kept).assign(skipped=("skip", names))
        if len(self.reductions) == 1:
            dataset = dataset.isel(reduction=0, drop=True).assign_attrs(reduction=self.reductions[0])
        return ACTIVATIONS.check(dataset)


MOMENTS = Kind(
    "MOMENTS",
    "responses summed up per group of stimuli in one pass; parts of one stimulus set merge to the whole",
    {
        "count": Variable(("group",), "int", "number of stimuli"),
        "mean": Variable(("group", "unit"), "float", "mean; NaN where a response was not finite", extra=("reduction",)),
        "m2": Variable(("group", "unit"), "float", "sum of squared deviations from that mean", extra=("reduction",)),
        "minimum": Variable(("group", "unit"), "float", "smallest response; inf without stimuli", extra=("reduction",)),
        "maximum": Variable(("group", "unit"), "float", "largest response; -inf without stimuli", extra=("reduction",)),
        "zeros": Variable(("group", "unit"), "int", "number of responses that are 0", extra=("reduction",)),
        "nonfinite": Variable(("group", "unit"), "int", "number of NaN and infinities", extra=("reduction",)),
        "stimulus_id": text("observation", meaning="content ids of the stimuli", required=True),
        "constituents": text("observation", meaning="ids of the sources of composites, joined by '|'"),
    },
    {
        **UNIT,
        **PLACE,
        "group": text("group", meaning="label of the stimuli, or task and side", required=True),
        "task": text("group", meaning="name of the task, where groups are the two sides of tasks"),
        "side": text("group", meaning="target or distractor, where groups are the two sides of tasks"),
        "reduction": text("reduction", meaning="how positions were reduced"),
    },
)

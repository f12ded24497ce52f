"""The table of kinds by name."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from featattn_neuro.errors import SchemaError
from featattn_neuro.schema.base import Kind
from featattn_neuro.schema.claims import CLAIMS
from featattn_neuro.schema.gains import CURVES, DOSES, GAINS, SCORES
from featattn_neuro.schema.neural import ATTENTION, DISSIMILARITY, MATCH, NEURAL, TUNING
from featattn_neuro.schema.recordings import ACTIVATIONS, MOMENTS
from featattn_neuro.schema.saliency import AGREEMENT, CAUSAL, MASKED_MAPS, MASKS, SALIENCY
from featattn_neuro.schema.selectivity import ASSOCIATION, POPULATION, SELECTIVITY

if TYPE_CHECKING:
    import xarray as xr

KINDS = {
    kind.name: kind
    for kind in (
        ACTIVATIONS,
        GAINS,
        SCORES,
        CURVES,
        MOMENTS,
        SELECTIVITY,
        ASSOCIATION,
        POPULATION,
        SALIENCY,
        AGREEMENT,
        MASKED_MAPS,
        DOSES,
        MASKS,
        CAUSAL,
        NEURAL,
        TUNING,
        MATCH,
        ATTENTION,
        DISSIMILARITY,
        CLAIMS,
    )
}


def kind_of(dataset: xr.Dataset) -> Kind:
    """The declared kind that `dataset` says it is; `SchemaError` if it says none or an unknown one."""
    name: Any = getattr(dataset, "attrs", {}).get("kind")
    if name not in KINDS:
        raise SchemaError(
            f"wanted a Dataset with attribute kind, one of {', '.join(KINDS)}; came {name!r}; "
            "use what the package's functions return"
        )
    return KINDS[name]

"""The data dictionary: dimension names and the declared kinds of Dataset. Every arrow of the package is one of these.

A *filter is a neuron*: CNN filters and recorded neurons share `response(stimulus, unit)`, so every measure works on
both. Stages meet only in Datasets; `KIND.check(dataset)` is the first line of every public function that takes one.

Dimensions
----------
stimulus   text ids: sha256 of the file's bytes, or of dtype + shape + bytes of an array
unit       text ids that survive reordering: "layer/channel" for filters, "area/electrode/unit" for neurons
trial      one presentation; the coordinate `stimulus` says of what (repeats are not unique stimuli)
task       name of a detection task; `selectivity_task` is the same names where tasks meet tasks
network    name of a replicate network
layer, arm, reduction, gain_set, updates, examples, feature, claim, group, y, x, source (see
the kinds)
"""

from __future__ import annotations

from featattn_neuro.schema.base import CONSTITUENT_SEPARATOR, SCHEMA_VERSION, STATUS, UNREADABLE, Kind, Variable
from featattn_neuro.schema.claims import CLAIMS
from featattn_neuro.schema.gains import CURVES, DOSES, GAINS, SCORES
from featattn_neuro.schema.kinds import KINDS, kind_of
from featattn_neuro.schema.metadata import metadata_name
from featattn_neuro.schema.neural import ATTENTION, DISSIMILARITY, MATCH, NEURAL, TUNING
from featattn_neuro.schema.recordings import ACTIVATIONS, MOMENTS, RecordingHeader
from featattn_neuro.schema.saliency import AGREEMENT, CAUSAL, MASKED_MAPS, MASKS, SALIENCY
from featattn_neuro.schema.selectivity import ASSOCIATION, POPULATION, SELECTIVITY

__all__ = [
    "ACTIVATIONS",
    "AGREEMENT",
    "ASSOCIATION",
    "ATTENTION",
    "CAUSAL",
    "CLAIMS",
    "CONSTITUENT_SEPARATOR",
    "CURVES",
    "DISSIMILARITY",
    "DOSES",
    "GAINS",
    "KINDS",
    "MASKED_MAPS",
    "MASKS",
    "MATCH",
    "MOMENTS",
    "NEURAL",
    "POPULATION",
    "SALIENCY",
    "SCHEMA_VERSION",
    "SCORES",
    "SELECTIVITY",
    "STATUS",
    "TUNING",
    "UNREADABLE",
    "Kind",
    "RecordingHeader",
    "Variable",
    "kind_of",
    "metadata_name",
]

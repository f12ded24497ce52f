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

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from featattn_neuro.errors import SchemaError

if TYPE_CHECKING:
    import xarray as xr

SCHEMA_VERSION = 1

STATUS = ("ok", "dead", "constant", "too_few", "single_class", "nonfinite")
"""Closed list of reasons: why a value is defined ("ok") or NaN (the rest)."""

CONSTITUENT_SEPARATOR = "|"
"""Joins the source ids of a composite in the text coordinate `constituents`."""

_DTYPES = {"float": "f", "int": "iu", "text": "UOT", "flag": "b"}


@dataclass(frozen=True)
class Variable:
    """One variable or coordinate of a kind.

    Parameters
    ----------
    dims : dimensions that must be there, in this order after any `extra` ones.
    dtype : "float", "int", "text" or "flag".
    meaning : definition and units, one line.
    required : whether a Dataset of the kind must have it.
    extra : further dimensions that it may have, in front.
    low, high : closed range of finite values, or None.
    """

    dims: tuple[str, ...]
    dtype: str
    meaning: str
    required: bool = True
    extra: tuple[str, ...] = ()
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Kind:
    """A declared kind of Dataset: its variables and coordinates, and `check`."""

    name: str
    meaning: str
    variables: Mapping[str, Variable]
    coordinates: Mapping[str, Variable] = field(default_factory=dict)

    def check(self, dataset: xr.Dataset) -> xr.Dataset:
        """Return `dataset` with each declared variable's dimensions in the declared order; raise `SchemaError` if not.

        The Dataset that is given is not altered. Variables that the kind does not declare are refused, so that a
        misspelt name cannot pass as an optional one.
        """
        import xarray as xr

        if not isinstance(dataset, xr.Dataset):
            raise SchemaError(
                f"wanted an xarray Dataset of kind {self.name}; came {type(dataset).__name__}; "
                "pass what the package's functions return, or open a file with open_kind(path)"
            )
        came = dataset.attrs.get("kind", self.name)
        if came != self.name:
            raise SchemaError(f"wanted a Dataset of kind {self.name}; came kind {came}; pass the {self.name} Dataset")
        self._check_attributes(dataset)
        self._check_indexes(dataset)
        ordered = {}
        for section, table, present in (
            ("variable", self.variables, dataset.data_vars),
            ("coordinate", self.coordinates, dataset.coords),
        ):
            for name in present:
                if name not in table and not (section == "coordinate" and name in dataset.dims):
                    raise SchemaError(
                        f"kind {self.name} has no {section} {name!r}; it has: {', '.join(table)}; rename or drop it"
                    )
            for name, spec in table.items():
                if name in present:
                    order = self._check_variable(section, name, spec, dataset[name])
                    if section == "variable":
                        ordered[name] = dataset[name].transpose(*order)
                elif spec.required:
                    raise SchemaError(
                        f"kind {self.name} needs the {section} {name!r} ({spec.meaning}); came "
                        f"{sorted(map(str, present))}; add it"
                    )
        return dataset.assign(ordered).assign_attrs(kind=self.name, schema_version=SCHEMA_VERSION)

    def _check_attributes(self, dataset: xr.Dataset) -> None:
        for owner, attrs in [("dataset", dataset.attrs), *((str(n), v.attrs) for n, v in dataset.variables.items())]:
            for key, value in attrs.items():
                if isinstance(value, bool) or not isinstance(value, str | int | float):
                    raise SchemaError(
                        f"attribute {key!r} of {owner} must be text or a number; came {type(value).__name__}; "
                        "make it a variable or a coordinate"
                    )

    def _check_indexes(self, dataset: xr.Dataset) -> None:
        for name, index in dataset.indexes.items():
            if index.nlevels > 1:
                raise SchemaError(f"kind {self.name} takes no MultiIndex; {name!r} is one; call reset_index({name!r})")
            if not index.is_unique:
                twice = index[index.duplicated()][0]
                raise SchemaError(f"ids along {name!r} must be unique; {twice!r} came more than once; drop the copies")

    def _check_variable(self, section: str, name: str, spec: Variable, array: xr.DataArray) -> list[str]:
        dims = [str(d) for d in array.dims]
        if section == "coordinate" and not dims and spec.dims == (name,):
            dims = [name]  # what selecting one label of a dimension leaves behind
        missing = [d for d in spec.dims if d not in dims]
        unknown = [d for d in dims if d not in spec.dims and d not in spec.extra]
        if missing or unknown:
            allowed = f"({', '.join(spec.dims)})" + (f" and perhaps ({', '.join(spec.extra)})" if spec.extra else "")
            raise SchemaError(
                f"{section} {name!r} of kind {self.name} has dimensions {allowed}; came ({', '.join(dims)}); "
                "transpose, select or rename"
            )
        if array.dtype.kind not in _DTYPES[spec.dtype]:
            raise SchemaError(f"{section} {name!r} of kind {self.name} is {spec.dtype}; came {array.dtype}; convert it")
        # lazily opened recordings can be larger than memory: their values are checked where they are computed
        if (spec.low is not None or spec.high is not None) and array.chunks is None and array.size:
            low, high = float(array.min()), float(array.max())
            if (spec.low is not None and low < spec.low) or (spec.high is not None and high > spec.high):
                raise SchemaError(
                    f"{section} {name!r} of kind {self.name} lies in [{spec.low}, {spec.high}]; came [{low}, {high}]"
                )
        return [d for d in dims if d not in spec.dims] + list(spec.dims)


def _text(*dims: str, meaning: str, required: bool = False) -> Variable:
    return Variable(dims, "text", meaning, required)


def _int(*dims: str, meaning: str, required: bool = False) -> Variable:
    return Variable(dims, "int", meaning, required)


_UNIT = {
    "unit": _text("unit", meaning="id of the unit", required=True),
    "layer": _text("unit", meaning="dotted module name of the layer", required=True),
    "channel": _int("unit", meaning="index of the filter in its layer", required=True),
    "call": _int("unit", meaning="which call of a module that runs more than once"),
    "stage": _text("unit", meaning="conv, norm, activation, pool, linear or other"),
}
_PLACE = {
    "y": _int("unit", meaning="row of the position in the layer's map, downwards, or token; -1 = no positions"),
    "x": _int("unit", meaning="column of the position in the layer's map, rightwards; -1 = no positions"),
    "node": _text("unit", meaning="name of the operation in the network's torch.fx graph"),
}
_STIMULUS = {
    "stimulus": _text("stimulus", meaning="content id of the stimulus", required=True),
    "label": Variable(("stimulus",), "text", "class of the stimulus", False),
    "split": _text("stimulus", meaning="R, G, V, S or P (see io.stimuli)"),
    "constituents": _text("stimulus", meaning="ids of the sources of a composite, joined by '|'; itself otherwise"),
    "path": _text("stimulus", meaning="file name relative to the stimulus folder"),
}
_TASKS = ("network", "arm", "task", "gain_set")

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
        **_UNIT,
        **_PLACE,
        **_STIMULUS,
        "reduction": _text("reduction", meaning="how positions were reduced"),
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


GAINS = Kind(
    "GAINS",
    "one multiplicative gain per filter, with the detector they were learned for",
    {
        "gain": Variable(("unit",), "float", "factor on the filter's map, no units; 1 = unchanged", extra=_TASKS),
        "shift": Variable(("unit",), "float", "added to the filter's gained map, units of the map", False, _TASKS),
        "spatial": Variable(("position",), "float", "factor on all maps of a layer at a position", False, _TASKS),
        "head_weight": Variable(("feature",), "float", "read-out weight per scaled feature", False, extra=_TASKS),
        "head_bias": Variable((), "float", "read-out bias, logit units", False, extra=_TASKS),
        "feature_scale": Variable(("feature",), "float", "divisor of the feature before the read-out", False),
        "training_source": _text("source", meaning="ids of the source stimuli that the gains were learned from"),
    },
    {
        **_UNIT,
        "task": _text("task", meaning="name of the task"),
        "arm": _text("arm", meaning="name of the arm"),
        "position": _text("position", meaning="layer and place, layer/y,x"),
        "position_layer": _text("position", meaning="dotted module name of the layer of a position"),
        "position_y": _int("position", meaning="row of the position in the layer's map, downwards"),
        "position_x": _int("position", meaning="column of the position in the layer's map, rightwards"),
    },
)

_AGAINST = {
    f"{name}_{reference}": Variable(("arm", "task"), "float", f"{meaning} {reference}, paired by image", False)
    for reference in ("probe", "ungained")
    for name, meaning in (
        ("difference", "ROC area minus that of arm"),
        ("difference_low", "lower end of the 95 % DeLong interval of the difference from arm"),
        ("difference_high", "upper end of the 95 % DeLong interval of the difference from arm"),
    )
}
_SPEED = {
    f"{name}_{axis}": Variable(("arm", "task") if name != "criterion" else ("task",), "float", meaning, False)
    for axis, unit in (("updates", "updates"), ("examples", "examples per class"))
    for name, meaning in (
        ("criterion", f"ROC area on P that counts as learned, one for all arms, of curves over {unit}"),
        ("to_criterion", f"{unit} at which the curve first reaches the criterion; NaN = never"),
        ("area", f"area under the curve over {unit}, ROC area on P"),
    )
}
_BESIDE_ARMS = {**_AGAINST, **_SPEED}

SCORES = Kind(
    "SCORES",
    "performance of the arms of one or more networks on the test split P",
    {
        "auc": Variable(("arm", "task"), "float", "ROC area of the logit on P", extra=("network",), low=0, high=1),
        "logit": Variable(("arm", "task", "stimulus"), "float", "logit of the detector on P", False),
        "target": Variable(("task", "stimulus"), "int", "1 where the stimulus is a target of the task", False),
        "trained_numbers": Variable(("arm",), "int", "numbers trained per task, head included", False),
        "novel": Variable(("task",), "int", "1 if reference training omitted the class", False, extra=("network",)),
        "rate": Variable(("arm",), "float", "learning rate used", False, extra=("network",)),
        "penalty": Variable(("arm",), "float", "penalty used", False, extra=("network",)),
        "arm_status": Variable(
            ("arm",), "text", "ok, or not_applicable: the network has not what the arm needs", False
        ),
        "strength": Variable(("arm",), "float", "strength of gains from theory, chosen on V", False),
        "strength_best_on_test": Variable(("arm",), "float", "the strength that is best on P: circular", False),
        "auc_best_on_test": Variable(
            ("arm", "task"), "float", "ROC area on P at that strength: circular, for comparison", False, (), 0, 1
        ),
        "reference_score": Variable(
            ("arm", "task"), "float", "accuracy on the reference task with the arm's changes on", False, (), 0, 1
        ),
        "reference_score_off": Variable(
            ("arm", "task"), "float", "the same with them off again; NaN where they cannot be", False, (), 0, 1
        ),
        **_BESIDE_ARMS,
    },
    {**_STIMULUS, "stimulus": _text("stimulus", meaning="content id of the stimulus")},
)

CURVES = Kind(
    "CURVES",
    "learning curves: ROC area on P over updates, or over examples per class",
    {
        "auc_updates": Variable(
            ("arm", "task", "updates"), "float", "ROC area on P", False, extra=("network",), low=0, high=1
        ),
        "auc_examples": Variable(
            ("arm", "task", "examples"), "float", "ROC area on P", False, extra=("network",), low=0, high=1
        ),
        "auc_choice": Variable(
            ("arm", "task", "choice"), "float", "ROC area on V per choice", False, extra=("network",), low=0, high=1
        ),
    },
    {
        "updates": _int("updates", meaning="number of optimiser updates"),
        "examples": _int("examples", meaning="composites per class (m targets and m distractors)"),
        "rate": Variable(("choice",), "float", "learning rate of the choice", False),
        "penalty": Variable(("choice",), "float", "penalty of the choice", False),
        "strength": Variable(("choice",), "float", "strength of gains from theory of the choice", False),
    },
)

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
        "stimulus_id": _text("observation", meaning="content ids of the stimuli", required=True),
        "constituents": _text("observation", meaning="ids of the sources of composites, joined by '|'"),
    },
    {
        **_UNIT,
        **_PLACE,
        "group": _text("group", meaning="label of the stimuli, or task and side", required=True),
        "task": _text("group", meaning="name of the task, where groups are the two sides of tasks"),
        "side": _text("group", meaning="target or distractor, where groups are the two sides of tasks"),
        "reduction": _text("reduction", meaning="how positions were reduced"),
    },
)

SELECTIVITY = Kind(
    "SELECTIVITY",
    "how well each unit tells targets from distractors",
    {
        "dprime": Variable(("unit",), "float", "(mean target - mean distractor) / rms SD; SDs", extra=("task",)),
        "auc": Variable(("unit",), "float", "P(target > distractor) + P(equal)/2", extra=("task",), low=0, high=1),
        "status": Variable(("unit",), "text", "reason code, see STATUS", extra=("task",)),
        "dprime_floor": Variable(("unit",), "float", "mean |d'| over label permutations", False, extra=("task",)),
        "auc_low": Variable(("unit",), "float", "lower end of the 95 % DeLong interval", False, extra=("task",)),
        "auc_high": Variable(("unit",), "float", "upper end of the 95 % DeLong interval", False, extra=("task",)),
        "interval_status": Variable(
            ("unit",), "text", "why the interval is NaN: constant = area 0 or 1, else status", False, extra=("task",)
        ),
        "n_target": Variable((), "int", "number of target stimuli", False, extra=("task",)),
        "n_distractor": Variable((), "int", "number of distractor stimuli", False, extra=("task",)),
        "mean_response": Variable(("unit",), "float", "mean response over all stimuli", False),
        "sd_response": Variable(("unit",), "float", "SD of the response over all stimuli", False),
        "zero_fraction": Variable(("unit",), "float", "fraction of stimuli with response 0", False, low=0, high=1),
        "leverage_dprime": Variable(("unit",), "float", "d' of the leverage (optimiser check)", False, extra=("task",)),
        "live": Variable(("unit",), "int", "1 if the filter has variance in each class of every task", False),
        "selection_source": _text("source", meaning="ids of the source stimuli that selectivity was measured on"),
    },
    {**_UNIT, **_PLACE, "task": _text("task", meaning="name of the task")},
)

_PAIR = ("network", "measure", "task", "selectivity_task")
ASSOCIATION = Kind(
    "ASSOCIATION",
    "association of gain with selectivity, within layers",
    {
        "rho": Variable(("layer",), "float", "Spearman over live filters", extra=_PAIR, low=-1, high=1),
        "n_live": Variable(("layer",), "int", "live filters", extra=("network",)),
        "status": Variable(("layer",), "text", "reason code, see STATUS", extra=("network",)),
        "z": Variable((), "float", "mean over layers of atanh rho", extra=_PAIR),
        "matched": Variable((), "float", "mean over tasks of z(t, t)", False, extra=("network", "measure")),
        "specific": Variable((), "float", "matched minus mismatched", False, extra=("network", "measure")),
        "p_task_permutation": Variable(
            (), "float", "joint permutation of tasks", False, extra=("network", "measure"), low=0, high=1
        ),
        "p_pooled": Variable((), "float", "the same over all networks", False, extra=("measure",), low=0, high=1),
        "partial": Variable(
            ("layer", "covariate"), "float", "partial Spearman given the covariate", False, extra=("network", "task")
        ),
        "gain_reliability": Variable(
            ("layer",), "float", "Spearman of gains from disjoint halves of G", False, extra=("network",)
        ),
        "selectivity_reliability": Variable(
            ("layer",), "float", "Spearman of |d'| from disjoint halves of S", False, extra=("network",)
        ),
        "refit_null": Variable(
            ("layer", "refit"), "float", "atanh rho of gains refitted to permuted labels", False, extra=("network",)
        ),
    },
)

SALIENCY = Kind(
    "SALIENCY",
    "where gains amplify, one layer, signed, in the units of the layer's maps",
    {
        "excess": Variable(
            ("stimulus", "y", "x"), "float", "sum over filters of (g - 1) A", extra=("gain_set", "task")
        ),
        "activation": Variable(("stimulus", "y", "x"), "float", "sum over filters of A, un-gained", False),
        "relative": Variable(
            ("stimulus", "y", "x"), "float", "sum g A / sum A - 1, no units", False, extra=("gain_set", "task")
        ),
    },
    {
        **_STIMULUS,
        "y": Variable(("y",), "float", "centre of the cell, pixels of the network's input, downwards"),
        "x": Variable(("x",), "float", "centre of the cell, pixels of the network's input, rightwards"),
        "task": _text("task", meaning="name of the task"),
        "gain_set": _text("gain_set", meaning="name of the gain set"),
    },
)

AGREEMENT = Kind(
    "AGREEMENT",
    "does saliency fall on the cued object: scores per layer and composite",
    {
        "cue_swap": Variable(("layer", "stimulus"), "float", "cue-swap score, SDs of the map", False, ("network",)),
        "layer_score": Variable(("layer",), "float", "mean cue swap over composites", extra=("network",)),
        "null_mean": Variable(("layer",), "float", "mean under gains permuted within layer", False, ("network",)),
        "null_sd": Variable(("layer",), "float", "SD under gains permuted within layer", False, ("network",)),
        "p_permuted": Variable(("layer",), "float", "two-sided p of that null", False, ("network",), 0, 1),
        "mass_in_mask": Variable(("layer",), "float", "mass of excess in cued mask minus area", False, ("network",)),
        "mass_in_mask_plain": Variable(("layer",), "float", "the same of plain sum of A", False, ("network",)),
        "usable": Variable(("layer",), "int", "1 if the grid resolves the masks", extra=("network",)),
        "status": Variable(("layer",), "text", "reason code, see STATUS", False, ("network",)),
        "share_resolved": Variable(
            ("layer",), "float", "composites with >= 5 cells in both masks", False, ("network",)
        ),
    },
    {**_STIMULUS, "stimulus": _text("stimulus", meaning="content id of the composite")},
)

MASKED_MAPS = Kind(
    "MASKED_MAPS",
    "what the cue swap needs of the un-gained maps of one layer or several, per filter",
    {
        "contrast": Variable(("stimulus", "unit"), "float", "mean of the map in mask a minus mean in mask b"),
        "covariance": Variable(
            ("unit", "other_unit"), "float", "covariance of maps over all positions and composites; 0 across layers"
        ),
        "resolved": Variable(("site", "stimulus"), "int", "1 if both masks keep enough cells on the layer's grid"),
    },
    {
        **_UNIT,
        **_STIMULUS,
        "other_unit": _text("other_unit", meaning="the same ids as unit", required=True),
        "site": _text("site", meaning="dotted module names of the layers (unit carries them as layer)"),
    },
)

DOSES = Kind(
    "DOSES",
    "performance with learned log gains scaled by doses, and how large the gains then are",
    {
        "auc": Variable(("dose", "task"), "float", "ROC area on P", extra=("network",), low=0, high=1),
        "sd_log_gain": Variable(
            ("dose", "layer", "task"), "float", "population SD of log gain over the filters", extra=("network",), low=0
        ),
    },
    {
        "dose": Variable(("dose",), "float", "factor on log gain; 0 = un-gained, 1 = as learned", True),
        "layer": _text("layer", meaning="dotted module name of the layer", required=True),
        "task": _text("task", meaning="name of the task", required=True),
    },
)

NEURAL = Kind(
    "NEURAL",
    "responses of recorded neurons, one row per presentation; NaN where a unit was not recorded",
    {"response": Variable(("trial", "unit"), "float", "response; attribute units says spikes or spikes/s")},
    {
        "trial": _int("trial", meaning="index of the presentation", required=True),
        "unit": _text("unit", meaning="id of the neuron", required=True),
        "stimulus": _text("trial", meaning="id of the stimulus shown", required=True),
        "condition": _text("trial", meaning="attention or other condition"),
        "repetition": _int("trial", meaning="how many times the stimulus had been shown before"),
        "session": _text("trial", meaning="recording session"),
        "level": Variable(("trial",), "float", "value of the stimulus parameter (disparity in degrees, …)", False),
        "area": _text("unit", meaning="brain area"),
        "subject": _text("unit", meaning="animal"),
    },
)

TUNING = Kind(
    "TUNING",
    "tuning curves of units over a stimulus parameter",
    {
        "curve": Variable(("unit", "level"), "float", "mean response at the level"),
        "sem": Variable(("unit", "level"), "float", "standard error of that mean over trials", False),
        "n_trials": Variable(("unit", "level"), "int", "trials (or samples) at the level", False),
        "status": Variable(("unit",), "text", "reason code, see STATUS"),
    },
    {
        "unit": _text("unit", meaning="id of the unit", required=True),
        "level": Variable(("level",), "float", "value of the stimulus parameter", True),
        "area": _text("unit", meaning="brain area"),
        "subject": _text("unit", meaning="animal"),
    },
)

MATCH = Kind(
    "MATCH",
    "how well units of a network match recorded neurons",
    {
        "score": Variable(("layer", "measure"), "float", "score, see the measure's name", extra=("neural_unit",)),
        "ceiling": Variable(("measure",), "float", "named noise ceiling of the score", False, extra=("neural_unit",)),
    },
    {"layer": _text("layer", meaning="layer of the network"), "measure": _text("measure", meaning="name of the score")},
)

DISSIMILARITY = Kind(
    "DISSIMILARITY",
    "dissimilarity matrices over stimuli",
    {
        "dissimilarity": Variable(
            ("stimulus", "other_stimulus"), "float", "0 on the diagonal, symmetric", extra=("subject", "layer")
        )
    },
    {
        "stimulus": _text("stimulus", meaning="id of the stimulus", required=True),
        "other_stimulus": _text("other_stimulus", meaning="the same ids", required=True),
        "subject": _text("subject", meaning="subject"),
        "layer": _text("layer", meaning="layer of the network"),
    },
)

CLAIMS = Kind(
    "CLAIMS",
    "verdicts on the claims T1-T4",
    {
        "estimate": Variable(("claim",), "float", "mean over networks; units of the claim's score"),
        "ci_low": Variable(("claim",), "float", "lower end of the 95 % t interval over networks"),
        "ci_high": Variable(("claim",), "float", "upper end"),
        "p": Variable(("claim",), "float", "two-sided p of the primary test", low=0, high=1),
        "p_holm": Variable(("claim",), "float", "the same after Holm over the four claims", low=0, high=1),
        "bound": Variable(("claim",), "float", "smallest effect of interest, fixed before the data"),
        "n_networks": Variable(("claim",), "int", "replicate networks"),
        "n_tasks": Variable(("claim",), "int", "tasks"),
        "n_undefined": Variable(("claim",), "int", "undefined cells left out"),
        "condition_met": Variable(("claim",), "int", "1 if the claim's further condition holds"),
        "verdict": Variable(("claim",), "text", "negligible, supported, contradicted, inconclusive or not_applicable"),
        "sentence": Variable(("claim",), "text", "the finding in plain words"),
        "per_network": Variable(("claim", "network"), "float", "the claim's number per network"),
        "ci90_low": Variable(("claim",), "float", "lower end of the 90 % t interval (equivalence)", False),
        "ci90_high": Variable(("claim",), "float", "upper end", False),
        "condition": Variable(("claim",), "float", "mean over networks of the further condition's number", False),
        "condition_low": Variable(("claim",), "float", "lower end of its 95 % t interval", False),
        "condition_high": Variable(("claim",), "float", "upper end", False),
        "condition_per_network": Variable(("claim", "network"), "float", "the same per network", False),
        "p_per_network": Variable(("claim", "network"), "float", "task-permutation p of one network", False, (), 0, 1),
        "novel": Variable(("claim",), "float", "estimate over novel cells (class not in reference training)", False),
        "trained": Variable(("claim",), "float", "estimate over trained cells", False),
    },
    {"claim": _text("claim", meaning="T1, T2, T3, T4", required=True)},
)

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
        SALIENCY,
        AGREEMENT,
        MASKED_MAPS,
        DOSES,
        NEURAL,
        TUNING,
        MATCH,
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

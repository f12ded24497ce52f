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

STATUS = ("ok", "dead", "constant", "too_few", "single_class", "nonfinite", "incomplete")
"""Closed list of reasons: why a value is defined ("ok") or NaN (the rest).

"incomplete" (path-integrated saliency only): the value is there, but does not add up to the change of the logit.
"""

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
_PARAMETERS = {
    "orientation": Variable(
        ("stimulus",), "float", "of a grating's bars, degrees anticlockwise from horizontal", False
    ),
    "spatial_frequency": Variable(("stimulus",), "float", "of a grating, cycles per image", False),
    "phase": Variable(("stimulus",), "float", "of a grating, degrees; 0 = a crest on the centre", False),
    "contrast": Variable(("stimulus",), "float", "of a grating, in the measure that was asked for", False),
    "rms_contrast": Variable(("stimulus",), "float", "SD over pixels / mean luminance", False),
    "colour": _text("stimulus", meaning="direction in RGB along which a grating departs from mean grey"),
    "quadrants": _text("stimulus", meaning="what lies where in a 2 × 2 array"),
}
_TASKS = ("network", "arm", "task", "gain_set")
_READ_OUTS = (*_TASKS, "output")

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
        **_PARAMETERS,
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
        "head_weight": Variable(("feature",), "float", "read-out weight per scaled feature", False, extra=_READ_OUTS),
        "head_bias": Variable((), "float", "read-out bias, logit units", False, extra=_READ_OUTS),
        "feature_scale": Variable(("feature",), "float", "divisor of the feature before the read-out", False),
        "training_source": _text("source", meaning="ids of the source stimuli that the gains were learned from"),
    },
    {
        **_UNIT,
        "task": _text("task", meaning="name of the task"),
        "output": _text("output", meaning="class or label of a read-out, where one set of gains serves several"),
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
        "placement": Variable(
            ("arm", "task", "stimulus"),
            "float",
            "share of the other class that the image is on the right side of",
            False,
        ),
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
    {
        **_STIMULUS,
        "quadrants": _PARAMETERS["quadrants"],
        "stimulus": _text("stimulus", meaning="content id of the stimulus"),
    },
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
        "auc_low": Variable(("unit",), "float", "lower end of its 95 % interval", False, extra=("task",)),
        "auc_high": Variable(("unit",), "float", "upper end of its 95 % interval", False, extra=("task",)),
        "interval_status": Variable(
            ("unit",), "text", "why the interval is NaN: constant = area 0 or 1, else status", False, extra=("task",)
        ),
        "n_target": Variable((), "int", "number of target stimuli", False, extra=("task", "unit")),
        "n_distractor": Variable((), "int", "number of distractor stimuli", False, extra=("task", "unit")),
        "auc_floor": Variable(("unit",), "float", "mean |area - .5| over label permutations", False, extra=("task",)),
        "dprime_low": Variable(("unit",), "float", "lower end of the 95 % interval of d'", False, extra=("task",)),
        "dprime_high": Variable(
            ("unit",), "float", "upper end; the attribute dprime_interval says how", False, ("task",)
        ),
        "dprime_p": Variable(("unit",), "float", "two-sided permutation p of d'", False, ("task",), 0, 1),
        "auc_p": Variable(("unit",), "float", "two-sided permutation p of the ROC area", False, ("task",), 0, 1),
        "dprime_p_corrected": Variable(
            ("unit",), "float", "the p of d' corrected over `family`", False, ("task",), 0, 1
        ),
        "auc_p_corrected": Variable(
            ("unit",), "float", "the p of the area corrected over `family`", False, ("task",), 0, 1
        ),
        "family": Variable(("unit",), "text", "which tests are corrected together", False, extra=("task",)),
        "family_size": Variable(("unit",), "int", "defined tests in the family (m)", False, extra=("task",)),
        "eta_squared": Variable(("unit",), "float", "share of variance between labels", False, low=0, high=1),
        "n_nonfinite": Variable(("unit",), "int", "responses that are NaN or infinite", False),
        "first_nonfinite": _text("unit", meaning="first stimulus whose response is NaN or infinite; empty: none"),
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
        "rho": Variable(("layer",), "float", "correlation over live filters (see method)", extra=_PAIR, low=-1, high=1),
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
        "rho_standard_error": Variable(
            ("layer",),
            "float",
            "SD of rho from the covariance of refitted gain ranks",
            False,
            ("network", "task"),
            0,
            1,
        ),
        "p_filter_permutation": Variable(
            ("layer",), "float", "filters permuted within layer; anticonservative", False, ("network", "task"), 0, 1
        ),
    },
)

POPULATION = Kind(
    "POPULATION",
    "what a linear read-out of all units of a layer tells",
    {
        "dprime": Variable(("layer",), "float", "cross-validated d' of the best linear read-out, SDs", extra=("task",)),
        "ungained": Variable(("layer",), "float", "the same without gains, same folds", False, extra=("task",)),
        "change": Variable(("layer",), "float", "dprime minus ungained", False, extra=("task",)),
        "n_units": Variable(("layer",), "int", "units that were read out"),
        "status": Variable(("layer",), "text", "reason code, see STATUS", extra=("task",)),
    },
    {"layer": _text("layer", meaning="layer, downstream last"), "task": _text("task", meaning="name of the task")},
)

_SETS = ("gain_set", "task")


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
        "activation": Variable(("stimulus", "y", "x"), "float", "sum over filters of A, un-gained", False),
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
        **_STIMULUS,
        **_PARAMETERS,
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
        "p_permuted": Variable(("layer",), "float", "two-sided p of that null (too small)", False, ("network",), 0, 1),
        "mass_in_mask": Variable(("layer",), "float", "mass of excess in cued mask minus area", False, ("network",)),
        "mass_in_mask_plain": Variable(("layer",), "float", "the same of plain sum of A", False, ("network",)),
        "usable": Variable(("layer",), "int", "1 if the grid resolves the masks", extra=("network",)),
        "status": Variable(("layer",), "text", "reason code, see STATUS", False, ("network",)),
        "share_resolved": Variable(
            ("layer",), "float", "composites with >= 5 cells in both masks", False, ("network",)
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
        "localisation_low": Variable(("localiser", "map", "layer"), "float", "lower end of its 95 % t interval", False),
        "localisation_high": Variable(("localiser", "map", "layer"), "float", "upper end", False),
        "localisation_status": Variable(("localiser", "map", "layer"), "text", "reason code, see STATUS", False),
        "localisation_null": Variable(
            ("localiser", "layer", "permutation"), "float", "mean over images, gains permuted within layer", False
        ),
        "localisation_p": Variable(("localiser", "layer"), "float", "two-sided p of that null", False, (), 0, 1),
    },
    {
        **_STIMULUS,
        "stimulus": _text("stimulus", meaning="content id of the composite"),
        "localiser": _text("localiser", meaning="pointing_game, mass_in_mask, auc_judd or energy"),
        "map": _text("map", meaning="excess, activation (plain sum of A), centre (centre bias), or a baseline's name"),
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
    },
    {
        **_UNIT,
        **_STIMULUS,
        "quadrants": _PARAMETERS["quadrants"],
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

MASKS = Kind(
    "MASKS",
    "where the objects of each stimulus are, in pixels of the image",
    {"mask": Variable(("stimulus", "object", "y", "x"), "int", "1 where the object is, else 0")},
    {
        **_STIMULUS,
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
    },
    {
        **_STIMULUS,
        "direction": _text("direction", meaning="deletion: pixels are masked; insertion: they come back"),
        "map": _text("map", meaning="what ranks the pixels: excess, activation (plain sum of A), random"),
        "fraction": Variable(("fraction",), "float", "share of the pixels that was changed, 0 to 1", False),
        "task": _text("task", meaning="name of the task"),
        "gain_set": _text("gain_set", meaning="name of the gain set"),
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
        "label": _text("trial", meaning="class of the stimulus shown"),
        **{
            name: Variable(
                ("trial",), "float", f"{name.replace('_', ' ')} of the grating shown, as in ACTIVATIONS", False
            )
            for name in ("orientation", "spatial_frequency", "phase", "contrast")
        },
        "onset": Variable(("trial",), "float", "time of the event that windows are counted from, s", False),
        "duration": Variable(("trial",), "float", "length of the window that spikes were counted in, s", False),
        "area": _text("unit", meaning="brain area"),
        "subject": _text("unit", meaning="animal"),
        "true_gain": Variable(("unit",), "float", "simulated neurons: factor of attention", False),
        "true_shift": Variable(("unit",), "float", "simulated neurons: response that attention adds", False),
        "true_exponent": Variable(("unit",), "float", "simulated neurons: power of the tuning under attention", False),
    },
)

_INDICES = {
    "modulation_depth": "(max - min)/(max + min) of the mean responses",
    "sparseness": "lifetime sparseness of the mean responses (Vinje & Gallant 2000)",
    "orientation_index": "length of the mean vector of orientations, 1 - circular variance",
    "direction_index": "length of the mean vector of directions",
}

TUNING = Kind(
    "TUNING",
    "tuning curves of units over a stimulus parameter",
    {
        "curve": Variable(("unit", "level"), "float", "mean response at the level"),
        "sem": Variable(("unit", "level"), "float", "standard error of that mean over trials", False),
        "n_trials": Variable(("unit", "level"), "int", "trials (or samples) at the level", False),
        "status": Variable(("unit",), "text", "reason code, see STATUS"),
        "low": Variable(
            ("unit", "level"), "float", "lower end of the t interval of the mean (attribute confidence)", False
        ),
        "high": Variable(("unit", "level"), "float", "upper end", False),
        "p_selective": Variable(("unit",), "float", "that the response is the same at all levels", False, (), 0, 1),
        "preferred_level": Variable(("unit",), "float", "level with the largest mean response", False),
        **{
            f"{name}{end}": Variable(("unit",), "float", f"{meaning}{more}", False, (), 0, 1)
            for name, meaning in _INDICES.items()
            for end, more in (("", ""), ("_floor", ", mean over permutations of the levels"))
        },
        "reliability": Variable(("unit",), "float", "Spearman–Brown split-half reliability over stimuli", False),
        "fano_level": Variable(("unit", "level"), "float", "variance over mean of the counts at the level", False),
        "fano": Variable(("unit",), "float", "median over the unit's levels with mean count above min_mean", False),
        "noise_correlation": Variable(
            ("unit", "other_unit"), "float", "of trials of one stimulus, z-scored within it; NaN: not together", False
        ),
        "fit": Variable(
            ("unit", "fit_level"), "float", "fitted curve (attribute fit_form), units of the responses", False
        ),
        "fit_baseline": Variable(("unit",), "float", "of the fitted curve, units of the responses", False),
        "fit_amplitude": Variable(("unit",), "float", "height above the baseline, units of the responses", False),
        "fit_preferred": Variable(("unit",), "float", "level of the fitted peak", False),
        "fit_width": Variable(("unit",), "float", "kappa of von Mises, SD of a Gaussian or of the log level", False),
        "fit_half_width": Variable(("unit",), "float", "half width at half height from the trough", False),
        "fit_r2": Variable(("unit",), "float", "share of the variance of the means that the curve explains", False),
        "fit_status": _text("unit", meaning="reason code of the fit, see STATUS"),
        "n_shared": Variable(("unit", "other_unit"), "int", "trials that the pair was recorded in together", False),
    },
    {
        "unit": _text("unit", meaning="id of the unit", required=True),
        "level": Variable(("level",), "float", "value of the stimulus parameter; counts levels that are names", True),
        "level_name": _text("level", meaning="the level where it is a name"),
        "other_unit": _text("other_unit", meaning="the same ids as unit"),
        "fit_level": Variable(("fit_level",), "float", "levels at which the fitted curve is given", False),
        "area": _text("unit", meaning="brain area"),
        "subject": _text("unit", meaning="animal"),
        "layer": _text("unit", meaning="dotted module name of the layer"),
        "channel": _int("unit", meaning="index of the filter in its layer"),
    },
)

_MATCHED = ("layer", "measure")
MATCH = Kind(
    "MATCH",
    "how well units of a network match recorded neurons",
    {
        "score": Variable(("layer", "measure"), "float", "score, see the measure's name", extra=("neural_unit",)),
        "ceiling": Variable(("measure",), "float", "named noise ceiling of the score", False, extra=("neural_unit",)),
        "ceiling_name": _text("measure", meaning="what `ceiling`, or `ceiling_low` and `ceiling_high`, is"),
        "ceiling_low": Variable(("measure",), "float", "lower noise ceiling, in the units of the score", False),
        "ceiling_high": Variable(("measure",), "float", "upper noise ceiling, in the units of the score", False),
        "neuron_score": Variable((*_MATCHED, "neural_unit"), "float", "cross-validated r of each neuron", False),
        "neuron_reliability": Variable(("neural_unit",), "float", "Spearman–Brown split-half reliability", False),
        "explained": Variable(_MATCHED, "float", "median over neurons of r|r| / reliability", False),
        "corrected": Variable(_MATCHED, "float", "median over neurons of r / square root of reliability", False),
        "chosen_layer": _text("measure", "half", meaning="layer with the best score on this half of the stimuli"),
        "chosen_score": Variable(("measure", "half"), "float", "score of that layer on the other half", False),
        "score_gained": Variable(_MATCHED, "float", "the score with gains on", False),
        "difference": Variable(_MATCHED, "float", "score with gains on minus without", False),
        "difference_low": Variable(_MATCHED, "float", "lower end of its 95 % jackknife interval over stimuli", False),
        "difference_high": Variable(_MATCHED, "float", "upper end", False),
        "n_values": _int("layer", meaning="filters whose tuning value was compared"),
    },
    {
        "layer": _text("layer", meaning="layer of the network"),
        "measure": _text("measure", meaning="name of the score"),
        "neural_unit": _text("neural_unit", meaning="id of the neuron"),
        "half": _text("half", meaning="half of the stimuli that chose the layer"),
    },
)

_EFFECT = ("unit",)
ATTENTION = Kind(
    "ATTENTION",
    "what attention, or a set of gains, does to each unit's responses",
    {
        "index": Variable(("stimulus", "unit"), "float", "(attended - unattended) / their sum, per stimulus", False),
        "mean_index": Variable(_EFFECT, "float", "the same of the mean responses over stimuli; NaN for 0/0"),
        "model": _text("unit", meaning="model that the criterion chose", required=True),
        "gain": Variable(("model_name", "unit"), "float", "factor g of the model; 1 where it has none"),
        "gain_low": Variable(("model_name", "unit"), "float", "lower end of its interval", False),
        "gain_high": Variable(("model_name", "unit"), "float", "upper end", False),
        "shift": Variable(("model_name", "unit"), "float", "added response b, units of the responses; 0 if none"),
        "shift_low": Variable(("model_name", "unit"), "float", "lower end of its interval", False),
        "shift_high": Variable(("model_name", "unit"), "float", "upper end", False),
        "exponent": Variable(("model_name", "unit"), "float", "power of the tuning; > 1 is narrower; 1 if none"),
        "exponent_low": Variable(("model_name", "unit"), "float", "lower end of its interval", False),
        "exponent_high": Variable(("model_name", "unit"), "float", "upper end", False),
        "width_change": Variable(_EFFECT, "float", "width attended / unattended - 1, width model", False),
        "log_likelihood": Variable(("model_name", "unit"), "float", "maximised; additive constant dropped", False),
        "bic": Variable(("model_name", "unit"), "float", "Bayesian information criterion minus that of the best"),
        "aic": Variable(("model_name", "unit"), "float", "Akaike's, likewise; overfits, for information", False),
        "held_out": Variable(("model_name", "unit"), "float", "leave-stimuli-out log likelihood - the best's", False),
        "p_both": Variable(
            _EFFECT, "float", "likelihood ratio: both against the better of gain and shift", False, low=0, high=1
        ),
        "dispersion": Variable(_EFFECT, "float", "phi of variance = mean + phi mean^2; 0 = Poisson", False),
        "converged": Variable(("model_name", "unit"), "int", "1 if the maximum was found", False),
        "status": _text("unit", meaning="reason code, see STATUS", required=True),
        "preference_slope": Variable(
            _EFFECT, "float", "ratio on rank of the stimulus, 0 = preferred … 1 = least; expected negative", False
        ),
        "similarity_slope": Variable(
            ("stimulus",), "float", "ratio on tuning value over units, per image; beta for tuning gains", False,
            extra=("layer",),
        ),
        "selectivity_slope": Variable(("layer",), "float", "mean index on selectivity over units", False),
        "selectivity_rho": Variable(("layer",), "float", "Spearman of the same", False, low=-1, high=1),
    },
    {
        "unit": _text("unit", meaning="id of the unit", required=True),
        "layer": Variable(("layer",), "text", "layer of the network, or brain area", False),
        "unit_layer": _text("unit", meaning="layer, or brain area, of the unit"),
        "stimulus": _text("stimulus", meaning="id of the stimulus"),
        "model_name": _text("model_name", meaning="none, multiplicative, additive, both, width", required=True),
        "true_gain": Variable(("unit",), "float", "factor that a simulated neuron was given", False),
        "true_shift": Variable(("unit",), "float", "added response that it was given", False),
        "true_exponent": Variable(("unit",), "float", "power that it was given", False),
    },
)  # fmt: skip

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

"""Gains, and how well the detectors do that they were learned for: scores, learning curves, doses."""

from __future__ import annotations

from featattn_neuro.schema.base import Kind, Variable
from featattn_neuro.schema.parts import PARAMETERS, STIMULUS, UNIT, integer, text

_TASKS = ("network", "arm", "task", "gain_set")
_READ_OUTS = (*_TASKS, "output")

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
        "training_source": text("source", meaning="ids of the source stimuli that the gains were learned from"),
    },
    {
        **UNIT,
        "task": text("task", meaning="name of the task"),
        "output": text("output", meaning="class or label of a read-out, where one set of gains serves several"),
        "arm": text("arm", meaning="name of the arm"),
        "gain_set": text("gain_set", meaning="name of the gain set"),
        "position": text("position", meaning="layer and place, layer/y,x"),
        "position_layer": text("position", meaning="dotted module name of the layer of a position"),
        "position_y": integer("position", meaning="row of the position in the layer's map, downwards"),
        "position_x": integer("position", meaning="column of the position in the layer's map, rightwards"),
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
            ("arm",),
            "text",
            "ok, or not_applicable, perhaps followed by ': ' and the reason: the network has not what the arm needs",
            False,
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
        **STIMULUS,
        "quadrants": PARAMETERS["quadrants"],
        "stimulus": text("stimulus", meaning="content id of the stimulus"),
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
        "updates": integer("updates", meaning="number of optimiser updates"),
        "examples": integer("examples", meaning="composites per class (m targets and m distractors)"),
        "rate": Variable(("choice",), "float", "learning rate of the choice", False, extra=("arm",)),
        "penalty": Variable(("choice",), "float", "penalty of the choice", False, extra=("arm",)),
        "strength": Variable(
            ("choice",), "float", "strength of gains from theory of the choice", False, extra=("arm",)
        ),
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
        "layer": text("layer", meaning="dotted module name of the layer", required=True),
        "task": text("task", meaning="name of the task", required=True),
    },
)

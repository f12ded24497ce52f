"""The command gains: learned from labelled images, or derived."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from featattn_neuro.cli.options import (
    Images,
    Labels,
    Layers,
    Limit,
    Model,
    Output,
    Seed,
    Weights,
    read_images,
    split_layers,
    split_names,
    split_numbers,
    was_given,
)
from featattn_neuro.cli.printing import save
from featattn_neuro.errors import ConfigError

if TYPE_CHECKING:
    import xarray as xr

_OF_LEARNING = ("epochs", "batch_size", "penalty", "rate", "cache")
_OF_METHOD: dict[str, tuple[str, ...]] = {
    "learned": (
        *_OF_LEARNING, "head_images", "head_labels", "train_head", "per", "shift", "parameterisation", "combination",
        "penalty_norm", "task", "class_weight", "checkpoint", "checkpoint_every",
    ),
    "tuning": ("strength", "mode", "clip", "choice_images", "choice_labels"),
    "gradient": ("strength", "mode", "clip", "choice_images", "choice_labels", "normalise", "sign"),
    "target-importance": (*_OF_LEARNING, "importance", "outputs", "checkpoint", "checkpoint_every"),
}  # fmt: skip
"""Options of `gains` that not every method has."""


def gains(
    context: typer.Context,
    model: Model,
    images: Images,
    layers: Layers,
    out: Output,
    target: Annotated[str, typer.Option(help="Labels to detect, one task each, comma-separated.")],
    method: Annotated[
        str, typer.Option(help="learned; from theory: tuning or gradient; or target-importance (own softmax).")
    ] = "learned",
    head_images: Annotated[
        str | None, typer.Option(help="Other labelled images, on which a read-out is fitted first and then frozen.")
    ] = None,
    head_labels: Annotated[Path | None, typer.Option(help="As --labels, for --head-images.")] = None,
    train_head: Annotated[
        bool | None,
        typer.Option("--train-head/--frozen-head", help="Learn the read-out too; unless said, where none is given."),
    ] = None,
    weights: Weights = None,
    seed: Seed = 0,
    labels: Labels = None,
    limit: Limit = None,
    device: Annotated[str | None, typer.Option(help="Where to compute: cpu, cuda, cuda:1.")] = None,
    rate: Annotated[
        float | None, typer.Option(min=0, help="Learning rate; 0.03, target-importance 0.0003 unless given.")
    ] = None,
    penalty: Annotated[float, typer.Option(min=0, help="Pull towards gain 1: weight of --penalty-norm.")] = 0.0,
    penalty_norm: Annotated[str, typer.Option(help="l2 (mean square) or l1 (mean absolute value).")] = "l2",
    epochs: Annotated[int, typer.Option(min=1, help="Passes over the images.")] = 30,
    batch_size: Annotated[int, typer.Option(min=1, help="Images of one update.")] = 60,
    per: Annotated[
        str, typer.Option(help="A gain per filter, per layer, per position, or per 'filter and position'.")
    ] = "filter",
    shift: Annotated[bool, typer.Option("--shift", help="Also a number per filter that is added.")] = False,
    parameterisation: Annotated[
        str, typer.Option(help="log, free, non_negative, 'bounded(0.7, 1.3)', 'log(0.5, 2)'; log+layer_mean.")
    ] = "log",
    combination: Annotated[
        str, typer.Option(help="Of filter and position: multiplicative, or additive 1 + (g - 1) + (s - 1).")
    ] = "multiplicative",
    task: Annotated[
        str, typer.Option(help="detection (gains for each target), multiclass or multilabel (one set for all).")
    ] = "detection",
    class_weight: Annotated[
        str, typer.Option(help="balanced, equal, or declared: target=2,distractor=1 (multiclass: each class).")
    ] = "balanced",
    strength: Annotated[
        str, typer.Option(help="Theory: strength beta, or several, comma-separated, for --choice-images.")
    ] = "1",
    mode: Annotated[
        str, typer.Option(help="Theory: bidirectional, positive (no filter is weakened), or additive (before a ReLU).")
    ] = "bidirectional",
    normalise: Annotated[
        str, typer.Option(help="Gradient: by the largest value of the layer, or of each filter over tasks.")
    ] = "layer",
    sign: Annotated[int, typer.Option(help="Gradient: -1 (the paper), or 1 (the authors' script for objects).")] = -1,
    clip: Annotated[bool, typer.Option("--clip", help="Theory: no factor below 0.")] = False,
    choice_images: Annotated[
        str | None, typer.Option(help="Theory: other labelled images, on which the strength is chosen.")
    ] = None,
    choice_labels: Annotated[Path | None, typer.Option(help="As --labels, for --choice-images.")] = None,
    importance: Annotated[
        float | None, typer.Option(help="Target importance: weight of images of other classes, 0 to 1.")
    ] = None,
    outputs: Annotated[
        str | None, typer.Option(help="Target importance: class=INDEX of the head, comma-separated, for every class.")
    ] = None,
    cache: Annotated[Path | None, typer.Option(help="Folder that keeps the frozen part, for further tasks.")] = None,
    checkpoint: Annotated[Path | None, typer.Option(help="Folder from which interrupted learning goes on.")] = None,
    checkpoint_every: Annotated[int, typer.Option(min=1, help="Updates between two checkpoints.")] = 50,
) -> None:
    """Learn one gain per filter for the detection of each target label, or for several classes together (GAINS).

    Without --head-images the read-out is learned together with the gains, and gains should not be compared with
    selectivity. Other methods derive gains instead: from tuning or gradient values, or from the network's own softmax.
    """
    from featattn_neuro import api

    _only_of_method(context, method)
    if head_images is None and head_labels is not None:
        raise ConfigError("--head-labels names the labels of --head-images; came alone; give both or neither")
    if choice_images is None and choice_labels is not None:
        raise ConfigError("--choice-labels names the labels of --choice-images; came alone; give both or neither")
    if checkpoint is None and was_given(context, "checkpoint_every"):
        raise ConfigError("--checkpoint-every is for learning with --checkpoint FOLDER; give both or neither")
    if method == "target-importance" and importance is None:
        raise ConfigError("--method target-importance wants --importance, from 0 (excluded) to 1; came none; give it")
    several = task == "multilabel"
    network = api.load_model(model, weights=weights, seed=seed)
    stimuli = read_images(images, labels, limit, unlabelled=several)
    wanted, sites = _task_labels(stimuli, images, target, task), split_layers(layers)
    if method in ("tuning", "gradient"):
        chosen: dict[str, Any] = {}
        if choice_images is not None:
            others = read_images(choice_images, choice_labels, None)
            chosen = {"choice_stimuli": others, "choice_labels": _targets(others, choice_images, target)}
        strengths = split_numbers(strength, "--strength")
        found = api.theory_gains(
            network, stimuli, wanted, sites, method=method, mode=mode, clip=clip,
            normalise=normalise, sign=sign, strength=strengths[0] if len(strengths) == 1 else strengths,
            device=device, **chosen,
        )  # fmt: skip
        if "choice_auc" in found.attrs:
            typer.echo(f"strength {found.attrs['strength']:g} (ROC area by strength: {found.attrs['choice_auc']})")
        save(found, out)
        return
    learning: dict[str, Any] = {
        "penalty": penalty, "epochs": epochs, "batch_size": batch_size, "seed": seed, "device": device, "cache": cache,
        **({} if rate is None else {"rate": rate}),
    }  # fmt: skip
    if method == "target-importance":
        named = None if outputs is None else _indices(outputs)
        assert importance is not None
        found = api.target_importance_gains(
            network, stimuli, stimuli.label, sites, targets=split_names(target), importance=importance,
            outputs=named, checkpoint=checkpoint, checkpoint_every=checkpoint_every, **learning,
        )  # fmt: skip
        save(found, out)
        return
    heads: dict[str, Any] = {}
    if head_images is not None:
        others = read_images(head_images, head_labels, None, unlabelled=several)
        heads = {"head_stimuli": others, "head_labels": _task_labels(others, head_images, target, task)}
    learned = api.learn_gains(
        network,
        stimuli,
        wanted,
        sites,
        train_head=train_head,
        per=per,
        shift=shift,
        parameterisation=parameterisation,
        combination=combination,
        penalty_norm=penalty_norm,
        task=task,
        class_weight=_class_weight(class_weight),
        checkpoint=checkpoint,
        checkpoint_every=checkpoint_every,
        **learning,
        **heads,
    )
    save(learned, out)


def _only_of_method(context: typer.Context, method: str) -> None:
    """Refuse options that the chosen method would ignore."""
    from featattn_neuro.errors import choose

    own = _OF_METHOD[choose(method, _OF_METHOD, "method")]
    others = dict.fromkeys(option for options in _OF_METHOD.values() for option in options if option not in own)
    wrong = [option for option in others if was_given(context, option)]
    if wrong:
        flag = "--train-head or --frozen-head" if wrong[0] == "train_head" else "--" + wrong[0].replace("_", "-")
        has = [name for name, options in _OF_METHOD.items() if wrong[0] in options]
        raise ConfigError(f"--method {method} has no {flag}, which is for {', '.join(has)}; leave it out")


def _indices(text: str) -> dict[str, int]:
    """class=INDEX texts, comma-separated, as a table."""
    pairs = [part.rpartition("=") for part in split_names(text)]
    if not all(name and index.strip().isdigit() for name, _, index in pairs):
        raise ConfigError(f"wanted --outputs class=INDEX, comma-separated, for example cat=3,dog=5; came {text!r}")
    return {name.strip(): int(index) for name, _, index in pairs}


def _targets(stimuli: Any, images: str, text: str) -> xr.DataArray:
    """Which stimuli are targets: over stimulus for one label, over (task, stimulus) for several."""
    import xarray as xr

    from featattn_neuro.measures.selectivity import targets_from_labels

    if stimuli.label is None:
        raise ConfigError(
            f"wanted labelled images; {images!r} has no labels; use sub-folders, --labels CSV or --head-labels CSV"
        )
    found = xr.DataArray(stimuli.label, {"stimulus": stimuli.id}, "stimulus", name="label")
    tasks = split_names(text)
    targets = targets_from_labels(found, tasks)
    return targets.isel(task=0, drop=True) if len(tasks) == 1 else targets


def _task_labels(stimuli: Any, images: str, text: str, task: str) -> Any:
    """What `learn_gains` wants: the class of every image for multiclass, who is a target otherwise."""
    if task != "multiclass":
        return _targets(stimuli, images, text)
    names = split_names(text)
    _targets(stimuli, images, text)  # refuses names that no image has
    odd = [label for label in stimuli.label.tolist() if label not in names]
    if odd:
        raise ConfigError(
            f"--task multiclass wants every image in one of {', '.join(names)}; one is {odd[0]!r}; name it too"
        )
    return stimuli.label


def _class_weight(text: str) -> str | dict[str, float]:
    """The words balanced and equal, or name=weight, comma-separated."""
    if "=" not in text:
        return text
    try:
        pairs = [part.split("=") for part in text.split(",")]
        return {name.strip(): float(weight) for name, weight in pairs}
    except ValueError as error:
        raise ConfigError(f"wanted --class-weight name=number, comma-separated; came {text!r}") from error

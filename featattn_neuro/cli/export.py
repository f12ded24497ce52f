"""Commands that take gains to other tools and back: export, fold, import-gains."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from featattn_neuro.cli.options import Model, Output, Seed, Weights, one_arm, only_with, split_names
from featattn_neuro.cli.printing import save
from featattn_neuro.errors import ConfigError


def export(
    context: typer.Context,
    gains: Annotated[Path, typer.Argument(help="GAINS file.")],
    out: Annotated[Path, typer.Option(help=".safetensors, .onnx (folded network), or a folder (peft IA3 adapter).")],
    model: Annotated[str | None, typer.Option(help="Network, for .onnx and peft; as in the other commands.")] = None,
    weights: Weights = None,
    seed: Seed = 0,
    task: Annotated[str | None, typer.Option(help="Which task, for .onnx and peft; a .safetensors holds all.")] = None,
    arm: Annotated[str | None, typer.Option(help="Which arm, where the gains have several.")] = None,
    input_shape: Annotated[
        str | None, typer.Option(help="CHANNELS,HEIGHT,WIDTH of the images, for .onnx, unless the network says it.")
    ] = None,
) -> None:
    """Write gains for other tools: safetensors, ONNX of the folded network, or a peft adapter."""
    from featattn_neuro import api

    if out.suffix == ".safetensors":
        only_with(context, ("model", "weights", "seed", "task", "input_shape"), "is for .onnx and peft")
    elif out.suffix != ".onnx":
        only_with(context, ("input_shape",), "is for .onnx")
    shape = None if input_shape is None else _shape(input_shape)
    learned = one_arm(api.open_kind(gains, "GAINS").load(), arm)
    network = None if model is None else api.load_model(model, weights=weights, seed=seed)
    typer.echo(str(api.export_gains(learned, out, model=network, task=task, input_shape=shape)))


def fold(
    model: Model,
    gains: Annotated[Path, typer.Argument(help="GAINS file.")],
    out: Annotated[Path, typer.Option(help="Weight file of the folded network, .safetensors.")],
    weights: Weights = None,
    seed: Seed = 0,
    task: Annotated[str | None, typer.Option(help="Which task, where the gains have several.")] = None,
    arm: Annotated[str | None, typer.Option(help="Which arm, where the gains have several.")] = None,
    direction: Annotated[
        str, typer.Option(help="auto; backward, into the weights that make the map; forward, into those that read it.")
    ] = "auto",
) -> None:
    """Fold gains into the weights: a plain network, to be loaded with --weights FILE, that answers as the gained one.

    Where folding is impossible (an identity skip, a negative gain behind a ReLU) it says where, and why.
    """
    from featattn_neuro import api

    learned = one_arm(api.open_kind(gains, "GAINS").load(), arm)
    network = api.load_model(model, weights=weights, seed=seed)
    typer.echo(str(api.save_folded(network, learned, out, task=task, direction=direction)))


def import_gains(
    context: typer.Context,
    source: Annotated[Path, typer.Argument(help=".safetensors of featattn export, or the folder of a peft adapter.")],
    out: Output,
    model: Annotated[str | None, typer.Option(help="Network that a peft adapter is for.")] = None,
    weights: Weights = None,
    seed: Seed = 0,
) -> None:
    """Read gains of other tools into a file of this package (GAINS)."""
    from featattn_neuro import api

    if source.suffix == ".safetensors":
        only_with(context, ("model", "weights", "seed"), "is for a peft adapter")
    elif model is None:
        only_with(context, ("weights", "seed"), "is of the network that --model names")
    network = None if model is None else api.load_model(model, weights=weights, seed=seed)
    save(api.import_gains(source, model=network), out)


def _shape(text: str) -> tuple[int, int, int]:
    parts = split_names(text)
    if len(parts) != 3 or not all(part.isdigit() and int(part) > 0 for part in parts):
        raise ConfigError(f"wanted --input-shape CHANNELS,HEIGHT,WIDTH, for example 3,224,224; came {text!r}")
    channels, height, width = map(int, parts)
    return channels, height, width

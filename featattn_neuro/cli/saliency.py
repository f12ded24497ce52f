"""The command saliency: maps, and scores, causal check and pictures of them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from featattn_neuro.cli.options import (
    Images,
    Labels,
    Limit,
    Model,
    Output,
    Seed,
    Weights,
    maybe_output,
    one_arm,
    only_with,
    read_images,
    split_names,
)
from featattn_neuro.cli.printing import save
from featattn_neuro.errors import ConfigError


def saliency(
    context: typer.Context,
    model: Model,
    gains: Annotated[Path, typer.Argument(help="GAINS file.")],
    images: Images,
    layer: Annotated[str, typer.Option(help="Layer whose maps are shown.")],
    out: Output,
    weights: Weights = None,
    seed: Seed = 0,
    arm: Annotated[str | None, typer.Option(help="Which arm, where the gains have several.")] = None,
    task: Annotated[str | None, typer.Option(help="Only these tasks, comma-separated.")] = None,
    methods: Annotated[
        str, typer.Option(help="Maps: excess, class_weighted, gain_gradient, gradcam, path; comma-separated.")
    ] = "excess",
    output: Annotated[int | None, typer.Option(min=0, help="Explain this output, not the gains' read-out.")] = None,
    top: Annotated[int, typer.Option(min=0, help="Also the maps of so many strongest filters.")] = 0,
    boxes: Annotated[
        Path | None, typer.Option(help="CSV of boxes (path or stimulus, top, left, bottom, right).")
    ] = None,
    segments: Annotated[Path | None, typer.Option(help="Folder with a PNG of segments for each image.")] = None,
    scores: Annotated[Path | None, typer.Option(callback=maybe_output, help="File for the scores (AGREEMENT).")] = None,
    permutations: Annotated[int, typer.Option(min=0, help="Permuted gains for the null of the scores.")] = 1000,
    causal: Annotated[
        Path | None, typer.Option(callback=maybe_output, help="File for deletion and insertion curves (CAUSAL).")
    ] = None,
    figures: Annotated[Path | None, typer.Option(help="Folder for overlays and a contact sheet per task.")] = None,
    pictured: Annotated[int, typer.Option(min=1, help="How many images each picture shows.")] = 12,
    which: Annotated[str, typer.Option(help="Which: most or least changed by the gains.")] = "most",
    show: Annotated[
        str | None, typer.Option(help="These images instead: ids, beginnings of ids, or paths, comma-separated.")
    ] = None,
    svg: Annotated[bool, typer.Option("--svg", help="Pictures as SVG instead of PNG.")] = False,
    labels: Labels = None,
    limit: Limit = None,
) -> None:
    """Where the gains amplify, and where they suppress (SALIENCY); scores, causal check and pictures if asked for."""
    from featattn_neuro import api

    marked = [name for name, given in {"--boxes": boxes, "--segments": segments}.items() if given is not None]
    if (scores is None) != (not marked) or len(marked) > 1:
        raise ConfigError("scores need masks, and masks make scores: give --scores with --boxes or with --segments")
    if scores is None:
        only_with(context, ("permutations",), "is for --scores")
    if figures is None:
        only_with(context, ("show", "which", "pictured", "svg"), "is for --figures")
    elif show is not None:
        only_with(context, ("which", "pictured"), "chooses images, and --show names them")
    network = api.load_model(model, weights=weights, seed=seed)
    learned, stimuli = one_arm(api.open_kind(gains, "GAINS"), arm), read_images(images, labels, limit)
    tasks = split_names(task) if task is not None else None
    found = api.gain_saliency(
        network, learned, stimuli, layer=layer, task=tasks, methods=split_names(methods), output=output,
        top=max(top, 3) if figures is not None else top, out=out, overwrite=True,
    )  # fmt: skip
    typer.echo(str(out))
    if scores is not None:
        result = api.score_saliency(
            network, learned, stimuli, found, boxes=boxes, segments=segments, permutations=permutations, seed=seed
        )
        save(result, scores)
    if causal is not None:
        chosen = learned.sel(task=tasks) if tasks is not None and "task" in learned.dims else learned
        save(api.causal_check(network, chosen, stimuli, found, output=output, seed=seed), causal)
    if figures is not None:
        chosen_images = None if show is None else split_names(show)
        for path in api.picture_saliency(
            stimuli, found, figures, count=pictured, which=which, show=chosen_images, svg=svg
        ):
            typer.echo(str(path))

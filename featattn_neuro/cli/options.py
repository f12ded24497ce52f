"""Options that several commands share, and what their texts mean."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from featattn_neuro.errors import ConfigError, DataError, StoreError

if TYPE_CHECKING:
    import xarray as xr


def _output(path: Path) -> Path:
    """Refuse a name that nothing can be saved under before anything is computed for it."""
    if path.suffix not in (".nc", ".zarr"):
        raise ConfigError(f"wanted --out to end in .nc or .zarr; came {str(path)!r}; rename it")
    if not path.parent.is_dir():
        raise StoreError(f"wanted a folder to write {path.name!r} in; there is none at {str(path.parent)!r}; make it")
    if not os.access(path.parent, os.W_OK):
        raise StoreError(f"the folder {str(path.parent)!r} cannot be written; choose another --out")
    return path


def maybe_output(path: Path | None) -> Path | None:
    """The same of a file that need not be written."""
    return None if path is None else _output(path)


Model = Annotated[str, typer.Argument(help="Network: a name, torchvision:NAME, timm:NAME, or module:function.")]
Images = Annotated[str, typer.Argument(help="Name in the manifest, folder (sub-folders = labels), or zip of images.")]
Weights = Annotated[str | None, typer.Option(help="Weight file, 'pretrained' or 'random'.")]
Seed = Annotated[int, typer.Option(help="Seed of everything that is drawn.")]
Labels = Annotated[Path | None, typer.Option(help="CSV with columns path and label, instead of folder names.")]
Limit = Annotated[int | None, typer.Option(min=1, help="At most so many images, spread over the classes.")]
Layers = Annotated[
    str,
    typer.Option(
        help="Layers, comma-separated: names, patterns (layer3.*, re:layer[12].*), stages (conv) or types (Conv2d); "
        "stage:norm or type:Conv2d where a layer has that name."
    ),
]
Output = Annotated[Path, typer.Option("--out", callback=_output, help="File to write: .nc (netCDF-4) or .zarr.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
Folder = Annotated[Path, typer.Argument(help="Result folder.")]

Tables = Annotated[Path | None, typer.Option(help="Folder to write the numbers to as tables, too.")]
Reduction = Annotated[
    str | None, typer.Option(help="Which reduction, where the recording has several (record --reduce mean,sd).")
]
TableFormat = Annotated[str | None, typer.Option(help="Of --tables: csv (unless given), parquet, md or tex.")]


def split_names(text: str) -> list[str]:
    """One name or more, separated by commas."""
    names = [part.strip() for part in text.split(",") if part.strip()]
    if not names:
        raise ConfigError(f"wanted one name or more, separated by commas; came {text!r}")
    return names


def split_layers(text: str) -> list[str]:
    """Layers, separated by commas; those inside brackets of a regular expression ("re:conv{1,2}") separate nothing."""
    parts, start, closing, escaped = [], 0, "", False
    for place, letter in enumerate(text):
        expression = text[start:place].lstrip().startswith("re:")
        if escaped or (not expression and letter != ","):
            escaped = False
        elif letter == "\\":
            escaped = True
        elif closing.endswith("]"):  # in a set of characters every other bracket is one of them
            closing = closing[:-1] if letter == "]" else closing
        elif letter in "([{":
            closing += {"(": ")", "[": "]", "{": "}"}[letter]
        elif letter == closing[-1:]:
            closing = closing[:-1]
        elif letter == "," and not closing:
            parts.append(text[start:place])
            start = place + 1
    names = [part.strip() for part in (*parts, text[start:]) if part.strip()]
    return names or split_names(text)


def split_numbers(text: str, option: str) -> list[float]:
    """Numbers separated by commas; `option` is named where one is none."""
    try:
        return [float(part) for part in text.split(",") if part.strip()]
    except ValueError as error:
        raise ConfigError(f"wanted numbers in {option}, separated by commas; came {text!r}") from error


def was_given(context: typer.Context, option: str) -> bool:
    """Whether an option was given, be it with its default."""
    source = context.get_parameter_source(option)
    return source is not None and source.name == "COMMANDLINE"


def only_with(context: typer.Context, options: Iterable[str], what: str) -> None:
    """Refuse options that were given where they would be ignored."""
    for option in options:
        if was_given(context, option):
            raise ConfigError(f"--{option.replace('_', '-')} {what}; leave it out")


def read_images(
    images: str, labels: Path | None, limit: int | None, *, corrupt: str = "error", unlabelled: bool = False
) -> Any:
    """Stimuli of the arguments images, --labels and --limit; `unlabelled`: labels in the file may be empty."""
    from featattn_neuro import api

    if labels is not None and labels.is_file():
        try:
            with open(labels, encoding="utf-8-sig") as table:
                by_id = "id" in [name.strip().strip('"') for name in table.readline().split(",")]
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
            raise DataError(
                f"wanted labels in a CSV file; {str(labels)!r} cannot be read ({reason}); name a table with columns "
                "path (or id) and label"
            ) from None
        if by_id:
            from dataclasses import replace

            from featattn_neuro.io.labels import read_labels
            from featattn_neuro.io.stimuli import limited_positions

            # ids are known once all are loaded, and classes once the ids are: only then can some be chosen
            stimuli = api.load_stimuli(images, label=None, corrupt=corrupt)
            stimuli = replace(stimuli, label=read_labels(labels, stimuli, unlabelled=unlabelled).values)
            return stimuli.select(limited_positions(stimuli.label, len(stimuli), limit))
    return api.load_stimuli(
        images, label="folder" if labels is None else labels, limit=limit, corrupt=corrupt, unlabelled=unlabelled
    )


def one_arm(gains: xr.Dataset, arm: str | None) -> xr.Dataset:
    """The arm that was named, or the only one there is."""
    from featattn_neuro.errors import choose

    names = [str(name) for name in gains["arm"].values] if "arm" in gains.dims else []
    if not names:
        if arm is not None:
            raise ConfigError(f"wanted arm {arm!r}; the gains have no arms; leave --arm out")
        return gains
    if arm is None and len(names) > 1:
        raise ConfigError(f"wanted one arm; the gains have several: {', '.join(names)}; say which with --arm")
    return gains.sel(arm=names[0] if arm is None else choose(arm, names, "arm")).drop_vars("arm")


def one_reduction(recorded: xr.Dataset, reduction: str | None) -> xr.Dataset:
    """The reduction that was named, or the only one there is."""
    from featattn_neuro.errors import choose

    names = [str(name) for name in recorded["reduction"].values] if "reduction" in recorded.dims else []
    if not names:
        own = recorded.attrs.get("reduction")
        if reduction not in (None, own):
            raise ConfigError(
                f"wanted reduction {reduction!r}; the recording has {own or 'none'}; leave --reduction out"
            )
        return recorded
    if reduction is None and len(names) > 1:
        raise ConfigError(
            f"wanted one reduction; the recording has several: {', '.join(names)}; say which with --reduction"
        )
    chosen = names[0] if reduction is None else choose(reduction, names, "reduction")
    return recorded.sel(reduction=chosen).drop_vars("reduction").assign_attrs(reduction=chosen)

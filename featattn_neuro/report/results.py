"""Read a result folder: which files there are, what they say. Nothing is computed and nothing else is looked at.

Layout (every part but `claims.nc` may be absent, e.g. while a run is going on)::

    claims.nc                       CLAIMS
    scores/NETWORK.nc               SCORES        curves/NETWORK.nc      CURVES
    gains/NETWORK.nc                GAINS         selectivity/NETWORK.nc SELECTIVITY
    association/NETWORK.nc, association/pooled.nc                        ASSOCIATION
    agreement/NETWORK.nc            AGREEMENT     saliency/NAME.nc       SALIENCY
    sheets/NAME.nc                  SALIENCY, of the composites of the contact sheets
    doses/NETWORK.nc                DOSES         choices/NETWORK.nc     CURVES, of what V chose among
    facts.json                      what the run did, in words and rows (see `Results.facts`)
    stimuli/shown.json + images     the stimuli that are shown, with their ids; sheets.json: those of contact sheets
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from featattn_neuro.errors import StoreError
from featattn_neuro.schema import (
    AGREEMENT,
    ASSOCIATION,
    CLAIMS,
    CURVES,
    DOSES,
    GAINS,
    SALIENCY,
    SCORES,
    SELECTIVITY,
    Kind,
)

PER_NETWORK: dict[str, Kind] = {
    "scores": SCORES,
    "curves": CURVES,
    "choices": CURVES,
    "gains": GAINS,
    "selectivity": SELECTIVITY,
    "association": ASSOCIATION,
    "agreement": AGREEMENT,
    "doses": DOSES,
    "saliency": SALIENCY,
    "sheets": SALIENCY,
}
"""Sub-folder of a result folder → kind of the files in it."""

POOLED = "pooled"


@dataclass(frozen=True)
class Results:
    """The result files of one run.

    Attributes
    ----------
    folder : where they are.
    claims : CLAIMS, or None before the last stage.
    scores, curves, choices, gains, selectivity, association, agreement, doses, saliency, sheets : Dataset by network
        (file name).
    pooled : ASSOCIATION over all networks, or None.
    facts : contents of facts.json: `title`, `lead` (one sentence), `command` (text); `config`, `provenance` (name →
        value); `networks`, `splits`, `timings`, `arms_summary`, `secondary` (lists of rows with the same keys; in the
        last two, the columns of the tables of that name); `limits` (list of sentences). Every key may be absent.
    shown : rows of stimuli/shown.json: `id`, `file` (relative to stimuli/), perhaps `label`, `network`, `split`,
        `constituents`. sheet_stimuli : those of stimuli/sheets.json.
    outdated : whether verdicts were left out because they are of an earlier state of the rest.
    """

    folder: Path
    claims: xr.Dataset | None = None
    scores: dict[str, xr.Dataset] = field(default_factory=dict)
    curves: dict[str, xr.Dataset] = field(default_factory=dict)
    choices: dict[str, xr.Dataset] = field(default_factory=dict)
    gains: dict[str, xr.Dataset] = field(default_factory=dict)
    selectivity: dict[str, xr.Dataset] = field(default_factory=dict)
    association: dict[str, xr.Dataset] = field(default_factory=dict)
    agreement: dict[str, xr.Dataset] = field(default_factory=dict)
    doses: dict[str, xr.Dataset] = field(default_factory=dict)
    saliency: dict[str, xr.Dataset] = field(default_factory=dict)
    sheets: dict[str, xr.Dataset] = field(default_factory=dict)
    pooled: xr.Dataset | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)
    shown: tuple[Mapping[str, Any], ...] = ()
    sheet_stimuli: tuple[Mapping[str, Any], ...] = ()
    outdated: bool = False


def read_results(folder: Path | str, *, outdated: bool = False) -> Results:
    """Read every result file in `folder` into memory.

    Parameters
    ----------
    outdated : whether what the last stage wrote (claims, pooled association, facts) is of an earlier state of the rest;
        it is left out then.

    Raises
    ------
    StoreError : the folder is missing, holds no result file, or a file cannot be read or is of another kind.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise StoreError(f"wanted a folder with results; {str(folder)!r} is none; start one with featattn run CONFIG")
    parts: dict[str, dict[str, xr.Dataset]] = {
        name: {path.stem: load_result(path, kind) for path in sorted((folder / name).glob("*.nc"))}
        for name, kind in PER_NETWORK.items()
    }
    claims = load_result(folder / "claims.nc", CLAIMS) if (folder / "claims.nc").is_file() else None
    if claims is None and not any(parts.values()):
        raise StoreError(
            f"wanted result files in {str(folder)!r} (claims.nc, scores/*.nc, …); found none; "
            "let featattn run CONFIG --out FOLDER finish its first stages"
        )
    pooled = parts["association"].pop(POOLED, None)
    shown, sheets = (read_json(folder / "stimuli" / f"{name}.json", list) for name in ("shown", "sheets"))
    facts = read_json(folder / "facts.json", dict)
    if outdated:
        claims, pooled, facts = None, None, {key: facts[key] for key in ("title",) if key in facts}
    return Results(
        folder=folder,
        outdated=outdated,
        claims=claims,
        pooled=pooled,
        facts=facts,
        shown=tuple(shown),
        sheet_stimuli=tuple(sheets),
        **parts,
    )


def load_result(path: Path, kind: Kind) -> xr.Dataset:
    """A result file in memory, checked against its kind."""
    try:
        with xr.open_dataset(path, engine="h5netcdf") as opened:
            dataset = opened.load()
    except (OSError, ValueError, KeyError) as error:
        raise StoreError(
            f"wanted a netCDF-4 file of kind {kind.name} at {str(path)!r}; it cannot be read ({error}); "
            "delete it and run the job again"
        ) from error
    for attrs in (dataset.attrs, *(dataset[name].attrs for name in dataset.variables)):
        # HDF5 gives numbers back as numpy scalars; the schema wants plain ones
        attrs.update({k: v.item() for k, v in attrs.items() if isinstance(v, np.generic)})
    return kind.check(dataset)


def read_json(path: Path, wanted: type) -> Any:
    """Contents of a JSON file, empty where there is none; `StoreError` if it is no `wanted`."""
    if not path.is_file():
        return wanted()
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise StoreError(f"wanted JSON in {str(path)!r}; came {error}; delete it and run the job again") from error
    if not isinstance(value, wanted):
        raise StoreError(
            f"wanted a JSON {wanted.__name__} in {str(path)!r}; came {type(value).__name__}; delete it and run again"
        )
    return value

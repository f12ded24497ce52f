"""The last stage: verdicts over networks, facts for the page, the page itself."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from featattn_neuro.io.store import load_kind, provenance, save_kind, write_text_atomic
from featattn_neuro.jobs.config import RunConfig
from featattn_neuro.jobs.context import SPLITS, NetworkJob
from featattn_neuro.jobs.ledger import Ledger
from featattn_neuro.jobs.stages import shown_stimuli
from featattn_neuro.measures.arms_summary import arms_summary
from featattn_neuro.measures.claims import claims
from featattn_neuro.measures.gain_selectivity import pool_networks
from featattn_neuro.measures.secondary import secondary_quantities
from featattn_neuro.report.page import verdict_lines, write_page_files
from featattn_neuro.report.results import PER_NETWORK

LIMITS = [
    "Only the abstract of the 2017 thesis is public: its claims are tested here, not its network, data or numbers.",
    "Tasks are fixed: the claims are about networks of this architecture on these classes, not about new tasks.",
    "An association of gain with selectivity is not a cause; silencing filters would be the test of that.",
    "The sites of one network are an ordered fixed set, not a sample of layers.",
]


def summarise(
    config: RunConfig, folder: Path, ledger: Ledger, stages: list[str], *, command: str, say: Callable[[str], None]
) -> tuple[list[str], list[str]]:
    """Write claims.nc, association/pooled.nc, facts.json, timings.csv, the shown stimuli and the page.

    `stages` are the ids of the stages of this run. Returns the files that belong to the record, and the verdict lines.
    """
    _clear(folder, ledger, stages)
    made: list[str] = []
    names = config.network_names()
    scores = {n: load_kind(folder / "scores" / f"{n}.nc", "SCORES") for n in names}
    associations = {n: load_kind(folder / "association" / f"{n}.nc", "ASSOCIATION") for n in names}
    curves = {n: load_kind(folder / "curves" / f"{n}.nc", "CURVES") for n in names} if config.curves else {}
    agreements = {n: load_kind(folder / "agreement" / f"{n}.nc", "AGREEMENT") for n in names} if config.saliency else {}
    replicated = config.networks.train is not None and len(names) > 1
    settings = config.statistics
    verdicts = claims(
        scores, curves or None, associations, agreements or None, permutations=settings.permutations,
        seed=settings.seed, interval="network" if replicated else "none",
    )  # fmt: skip
    save_kind(verdicts, folder / "claims.nc")
    pooled = pool_networks(associations, permutations=settings.permutations, seed=settings.seed)
    save_kind(pooled, folder / "association" / "pooled.nc")
    beside = secondary_quantities(scores, curves, associations, agreements, replicated=replicated)
    write_text_atomic(folder / "tables" / "secondary.csv", beside.to_csv(index=False))
    tried = {n: folder / "choices" / f"{n}.nc" for n in names}
    choices = {n: load_kind(path, "CURVES") for n, path in tried.items() if path.is_file()}
    arms = arms_summary(scores, choices, replicated=replicated)
    for part, rows in shown_stimuli(NetworkJob(config, folder, names[0])).items():
        write_text_atomic(folder / "stimuli" / f"{part}.json", json.dumps(rows, indent=1) + "\n")
        made += [f"stimuli/{part}.json", *(f"stimuli/{row['file']}" for row in rows)]
    timings = write_timings(folder, ledger, stages)
    facts = _facts(
        config,
        folder,
        names,
        {"arms_summary": _rows(arms), "secondary": _rows(beside)},
        timings,
        scores,
        command,
    )
    write_text_atomic(folder / "facts.json", json.dumps(facts, indent=1, default=_plain) + "\n")
    say("writing tables, figures and the page")
    made += [path.relative_to(folder).as_posix() for path in write_page_files(folder)]
    return ["claims.nc", "association/pooled.nc", "facts.json", *sorted(set(made))], verdict_lines(verdicts)


def _clear(folder: Path, ledger: Ledger, stages: list[str]) -> None:
    """Remove what an earlier configuration left where the page looks; what was learned for it stays, and so does what
    somebody else put beside tables and figures.
    """
    kept = {name for stage in stages for name in (ledger.record(stage) or {"outputs": {}})["outputs"]}
    old = [folder / name for name in (ledger.record("report") or {"outputs": {}})["outputs"] if "/" in name]
    old += [path for part in PER_NETWORK for path in (folder / part).glob("*.nc")]
    for path in old:
        if path.is_file() and path.relative_to(folder).as_posix() not in kept:
            path.unlink()


def write_timings(folder: Path, ledger: Ledger, stages: list[str]) -> list[dict[str, Any]]:
    """timings.csv: seconds of every stage, outside every identity check."""
    rows = []
    for name in sorted(stages):
        record = ledger.record(name)
        if record is not None:
            stage, _, network = name.partition(".")
            rows.append({"stage": stage, "network": network, "seconds": record["seconds"]})
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, ["stage", "network", "seconds"], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text_atomic(folder / "timings.csv", buffer.getvalue())
    return rows


def _filters(said: str) -> str:
    """Sites and filters in words; long lists are summed."""
    parts = said.split(", ")
    total = sum(int(part.rsplit(" ", 1)[1]) for part in parts)
    return said if len(parts) <= 3 else f"{len(parts)} sites, {total} filters"


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else str(value)


def _facts(
    config: RunConfig, folder: Path, names: list[str], tables: dict[str, list[dict[str, Any]]],
    timings: list[dict[str, Any]], scores: dict[str, xr.Dataset], command: str,
) -> dict[str, Any]:  # fmt: skip
    networks = [json.loads((folder / "networks" / f"{n}.json").read_text(encoding="utf-8")) for n in names]
    shown = []
    for row in networks:
        accuracy = row.get("reference_accuracy")
        shown.append(
            {
                "network": row["network"],
                "seed": row["seed"],
                "omitted classes": row["omitted"] or "none",
                "reference accuracy": "not applicable" if accuracy is None else f"{accuracy:.3f}",
                "filters": _filters(row["filters"]),
                "near-duplicates (across)": f"{row['near_duplicates']} ({row['near_duplicates_across_splits']})",
                "prefix cached": row["prefix_cached"],
            }
        )
    per_stage: dict[str, float] = {}
    for timing in timings:
        per_stage[timing["stage"]] = per_stage.get(timing["stage"], 0.0) + timing["seconds"]
    flat = {k: _flat(v) for k, v in config.model_dump(mode="json", exclude_none=True).items()}
    purpose = {"R": "reference training, read-out", "G": "gains", "V": "choices", "S": "selectivity", "P": "test"}
    first = next(iter(scores.values()))
    return {
        "title": config.title or config.name,
        "lead": f"{len(names)} networks, {first.sizes['task']} detection tasks, {first.sizes['arm']} arms; "
        f"images: {config.stimuli}.",
        "command": command,
        "config": flat,
        "provenance": {k: _flat(v) for k, v in json.loads(provenance()).items()},
        "networks": shown,
        "splits": [
            {
                "split": split,
                "purpose": purpose[split],
                "single images per class": config.splits[split].per_class,
                "composites": config.composites.get(split, 0),
            }
            for split in SPLITS
        ],
        **tables,
        "timings": [{"stage": k, "seconds, summed over networks": round(v, 1)} for k, v in sorted(per_stage.items())],
        "limits": LIMITS
        + (
            ["Writers of the digits are not known, so one writer may appear in several splits."]
            if config.stimuli == "digits"
            else []
        ),
    }


def _rows(table: pd.DataFrame) -> list[dict[str, Any]]:
    """Rows for JSON, which has no NaN."""
    return [{str(k): (None if v != v else v) for k, v in row.items()} for row in table.to_dict(orient="records")]


def _flat(value: Any) -> str | float | int:
    return value if isinstance(value, str | int | float) and not isinstance(value, bool) else json.dumps(value)

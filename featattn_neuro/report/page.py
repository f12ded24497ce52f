"""One self-contained page for a result folder: the verdicts first, then what was done, figures, tables, limits.

Everything on the page is read from result files in the folder; nothing is computed and nothing outside it is looked at.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import pandas as pd
import xarray as xr
from matplotlib.figure import Figure
from PIL import Image

from featattn_neuro.errors import StoreError
from featattn_neuro.report import association_figures, figures, saliency_figures, saliency_overlays
from featattn_neuro.report.arms_rows import arms_rows, at_end_sentence, trained_numbers
from featattn_neuro.report.columns import COLUMNS, TABLES_VERSION
from featattn_neuro.report.results import Results, read_results
from featattn_neuro.report.style import VERDICT_COLOURS, number, objects_title, png_bytes, probability
from featattn_neuro.report.tables import all_tables, write_atomic, write_table
from featattn_neuro.schema import CLAIMS

SHOWN_PANELS = 6
OVERLAYS = 4
DPI = 170
QUESTIONS = {
    "T1": "Does multiplying filters, on top of a new head, improve a new task?",
    "T2": "Is it learned faster than the whole network?",
    "T3": "Are the filters that already told the classes apart the ones amplified?",
    "T4": "Do the gains amplify the cued object in the image?",
}
CAPTIONS = {
    "claims": "Each dot is one network, the diamond their mean with its 95 % interval; the grey band holds effects "
    "too small to matter, fixed before the data.",
    "arms": "Detection performance of every arm on images that nothing was fitted or chosen on. Dots are networks, "
    "bars their mean.",
    "curves": "How fast each arm learns. Thin lines are networks, thick lines their mean.",
    "gains": "How large the learned gains are (arm gain, frozen head). Grey: 5–30 % up or down, the size reported for "
    "attention in visual cortex.",
    "doses": "Performance with the learned log gains scaled: how much gain is needed. Grey: a SD of log gain as in "
    "visual cortex, 5–30 % up or down.",
    "live_filters": "Filters that respond with any variance in each class of every task. The others are counted and "
    "left out.",
    "gain_selectivity": "One network ({network}): gain of every live filter against its |d′|, colours are tasks. "
    "Below, the rank correlation for the own task and for other tasks; the claim is about their difference.",
    "forest": "Association of gain with selectivity, per network: for the own task, and in excess of other tasks. "
    "Grey band: too small to matter.",
    "task_matrix": "If gains were specific, the outlined diagonal would stand out from the rest.",
    "refit_null": "Where the correlation lies when every fitted step is redone on permuted labels: a diagnostic of "
    "location, never a yardstick.",
    "agreement": "The cue swap asks whether the map of the cued class falls on the cued object rather than on the "
    "other one. It cancels ink, centre and brightness.",
    "localisation": "The usual scores, of the gains' excess map beside plain activation, a map that only knows the "
    "centre, and the excess map of the same gains where weights are shuffled. Brightness alone scores well: the "
    "distance between the first two is what counts. Dots are networks.",
}


def write_page(folder: Path | str, *, outdated: bool = False) -> Path:
    """Write `report.html`, `figures/*.png` and `tables/*.csv` from the results in `folder`; return the page's path.

    Parameters
    ----------
    folder : a result folder, see `featattn_neuro.report.results`. Parts whose files are absent are left out.
    outdated : whether the verdicts there are of an earlier state of the rest: then they are left out, which the page
        says.

    Raises
    ------
    StoreError : no result file in `folder`, an unreadable one, or a folder that cannot be written.
    """
    return write_page_files(folder, outdated=outdated)[0]


def write_page_files(folder: Path | str, *, outdated: bool = False) -> list[Path]:
    """As `write_page`; returns the page and all tables and figures that were written."""
    results = read_results(folder, outdated=outdated)
    tables, written = all_tables(results), []
    for name, table in tables.items():
        written.append(results.folder / "tables" / f"{name}.csv")
        write_table(table, written[-1])
    pictures: dict[str, dict[str, Any]] = {}
    for name, draw in _figures(results).items():
        data = png_bytes(draw(), dpi=DPI)
        written.append(write_atomic(results.folder / "figures" / f"{name}.png", data))
        pictures[name] = {"data": embedded(data), "width": shown_width(data)}
    page = page_environment().get_template("report.html.j2").render(_context(results, tables, pictures))
    return [write_atomic(results.folder / "report.html", page.encode("utf-8")), *written]


def verdict_lines(claims: xr.Dataset) -> list[str]:
    """One line per claim for a terminal: verdict, what was found in plain words, effect, interval, n and p.

    Parameters
    ----------
    claims : CLAIMS.
    """
    return [str(text) for text in CLAIMS.check(claims)["sentence"].values]


def _figures(r: Results) -> dict[str, Callable[[], Figure]]:
    """Name → drawing of every figure for which the files are there, in the order of the page."""
    first = next(iter(r.association), "")
    square = bool(r.association) and all("selectivity_task" in ds["z"].dims for ds in r.association.values())
    square = square and any(bool(np.isfinite(ds["z"]).any()) for ds in r.association.values())
    summarised = bool(r.association) and all("specific" in ds for ds in r.association.values())
    live = bool(r.selectivity) and all("live" in ds for ds in r.selectivity.values())
    one = first in r.gains and first in r.selectivity
    refitted = any("refit_null" in ds and bool(np.isfinite(ds["refit_null"]).any()) for ds in r.association.values())
    made: dict[str, tuple[bool, Callable[[], Figure]]] = {
        "claims": (r.claims is not None, lambda: figures.claims_figure(_there(r.claims))),
        "arms": (bool(r.scores), lambda: figures.arms_figure(r.scores)),
        "curves": (_drawable_curves(r), lambda: figures.curves_figure(r.curves)),
        "gain_selectivity": (
            one,
            lambda: association_figures.gain_selectivity_figure(
                r.gains[first], r.selectivity[first], r.association[first]
            ),
        ),
        "forest": (summarised, lambda: association_figures.forest_figure(r.association, r.claims)),
        "task_matrix": (square, lambda: association_figures.task_matrix_figure(r.association)),
        "refit_null": (refitted, lambda: association_figures.refit_null_figure(r.association)),
        "gains": (bool(r.gains), lambda: figures.gains_figure(r.gains)),
        "doses": (bool(r.doses), lambda: figures.doses_figure(r.doses)),
        "live_filters": (live, lambda: figures.live_filters_figure(r.selectivity)),
        "agreement": (bool(r.agreement), lambda: saliency_figures.agreement_figure(r.agreement)),
        "localisation": (
            any("localisation_mean" in ds for ds in r.agreement.values()),
            lambda: saliency_figures.localisation_figure(r.agreement),
        ),
    }
    drawn = {name: draw for name, (there, draw) in made.items() if there}
    for name, dataset in r.saliency.items():
        if _panel_rows(r, dataset):
            drawn[f"saliency_{name}"] = _saliency_drawing(r, dataset)
            if "activation" in dataset:
                drawn[f"overlays_{name}"] = _overlay_drawing(r, dataset)
    for name, dataset in r.sheets.items():
        sheets = _sheet_rows(r, dataset)
        # of all sheets of a dataset, so that they can be compared
        scales = saliency_overlays.common_scales((dataset, task, [e["id"] for e in s]) for task, s in sheets.items())
        for task, rows in sheets.items():
            drawn[f"sheet_{name}_{_in_file_name(task)}"] = _sheet_drawing(r, dataset, task, rows, scales)
    return drawn


def _there(dataset: xr.Dataset | None) -> xr.Dataset:
    assert dataset is not None
    return dataset


def _drawable_curves(r: Results) -> bool:
    return any(all(f"auc_{a}" in ds for ds in r.curves.values()) for a in ("updates", "examples")) and bool(r.curves)


def _panel_rows(r: Results, dataset: xr.Dataset) -> list[tuple[Mapping[str, Any], list[str]]]:
    """Shown stimuli that have maps in `dataset`, each with the classes that it can be cued for."""
    here, tasks = set(dataset["stimulus"].values), [str(t) for t in np.atleast_1d(dataset.get("task", []))]
    rows = []
    for entry in r.shown:
        cued = [c for c in str(entry.get("label", "")).split("|") if c in tasks]
        if entry["id"] in here and len(cued) >= 2:
            rows.append((entry, cued))
    return rows[:SHOWN_PANELS]


def _saliency_drawing(r: Results, dataset: xr.Dataset) -> Callable[[], Figure]:
    def draw() -> Figure:
        rows = _panel_rows(r, dataset)
        excess = dataset["excess"].squeeze([d for d in ("gain_set",) if d in dataset["excess"].dims])
        images = [_picture(r.folder / "stimuli" / entry["file"]) for entry, _ in rows]
        return saliency_figures.saliency_panels(
            images,
            [[excess.sel(stimulus=entry["id"], task=c).values for c in cued] for entry, cued in rows],
            [objects_title(cued) for _, cued in rows],
            map_titles=[[f"cued {c}" for c in cued] for _, cued in rows],
            extents=[saliency_overlays.placed_extent(dataset, image, raw=True) for image in images],
            label=f"excess  Σ ({saliency_overlays.gain_symbol(dataset)} − 1) A",
        )

    return draw


def _overlay_drawing(r: Results, dataset: xr.Dataset) -> Callable[[], Figure]:
    def draw() -> Figure:
        rows = _panel_rows(r, dataset)[:OVERLAYS]
        # each image under the cue of its first object
        cued = xr.concat(
            [dataset.sel(stimulus=[entry["id"]], task=names[0]).drop_vars("task") for entry, names in rows],
            "stimulus", combine_attrs="drop_conflicts",
        )  # fmt: skip
        return saliency_overlays.saliency_overlays(
            {entry["id"]: _picture(r.folder / "stimuli" / entry["file"]) for entry, _ in rows},
            cued,
            titles={entry["id"]: f"cued {names[0]}" for entry, names in rows},
            raw=True,  # networks may be shown the same images each in its way
        )

    return draw


def _sheet_rows(r: Results, dataset: xr.Dataset) -> dict[str, list[Mapping[str, Any]]]:
    """Task to the stimuli of its contact sheet: those that hold the class, in the order of the run."""
    here, most = set(dataset["stimulus"].values), int(dataset.attrs.get("images_per_task", SHOWN_PANELS))
    found = {}
    for task in map(str, np.atleast_1d(dataset.get("task", []))):
        rows = [e for e in r.sheet_stimuli if e["id"] in here and task in str(e.get("label", "")).split("|")]
        if rows:
            found[task] = rows[:most]
    return found


def _sheet_drawing(
    r: Results,
    dataset: xr.Dataset,
    task: str,
    rows: Sequence[Mapping[str, Any]],
    scales: saliency_overlays.Scales,
) -> Callable[[], Figure]:
    def draw() -> Figure:
        return saliency_overlays.contact_sheet(
            {entry["id"]: _picture(r.folder / "stimuli" / entry["file"]) for entry in rows},
            dataset,
            task=task,
            titles={entry["id"]: str(entry.get("label", "")) for entry in rows},
            scales=scales,
            raw=True,
        )

    return draw


def _gauge(r: Results, picture: str) -> str:
    """What a caption says of the gains in a picture of maps: nothing where they are as learned."""
    kind, _, rest = picture.partition("_")
    shown = [(rest == name, ds) for name, ds in r.saliency.items() if kind in ("saliency", "overlays")]
    shown += [(rest.startswith(f"{name}_"), ds) for name, ds in r.sheets.items() if kind == "sheet"]
    relative = any(here and saliency_overlays.gain_symbol(ds) != "g" for here, ds in shown)
    return ", relative to the layer's mean gain ḡ" if relative else ""


def _in_file_name(text: str) -> str:
    """A class as part of a file name.

    >>> _in_file_name("traffic light/2")
    'traffic_light_2'
    """
    return "".join(c if c.isalnum() or c in "-." else "_" for c in text)


def _picture(path: Path) -> np.ndarray:
    try:
        with Image.open(path) as image:
            return np.asarray(image if image.mode in ("L", "RGB") else image.convert("RGB"))
    except OSError as error:
        raise StoreError(
            f"wanted the shown stimulus {str(path)!r}; it cannot be read ({error}); run the job again"
        ) from error


def _claim_rows(claims: xr.Dataset) -> list[dict[str, Any]]:
    rows = []
    for name in map(str, claims["claim"].values):
        claim = claims.sel(claim=name)
        verdict = str(claim["verdict"].item())
        headline, details = _headline(str(claim["sentence"].item()), name, verdict)
        estimate, low, high = (float(claim[v]) for v in ("estimate", "ci_low", "ci_high"))
        interval = f" [{number(low)}, {number(high)}]" if math.isfinite(low) else ""
        rows.append(
            {
                "claim": name,
                "title": figures.CLAIM_TITLES.get(name, ""),
                "question": QUESTIONS.get(name, ""),
                "unit": figures.CLAIM_UNITS.get(name, ""),
                "verdict": verdict.replace("_", " "),
                "colour": VERDICT_COLOURS[verdict],
                "headline": headline,
                "details": details,
                "effect": f"{number(estimate)}{interval}" if math.isfinite(estimate) else "",
                "p_holm": probability(float(claim["p_holm"])) if math.isfinite(float(claim["p_holm"])) else "",
                "bound": number(float(claim["bound"]), 2),
                "per_network": [number(float(v)) for v in claim["per_network"].values],
            }
        )
    return rows


def _headline(sentence: str, claim: str, verdict: str) -> tuple[str, str]:
    """The finding and its details: the claim and verdict stand in the card's head already.

    >>> _headline("T1 supported: gains help. Effect +0.03, N = 5.", "T1", "supported")
    ('Gains help.', 'Effect +0.03, N = 5.')
    """
    text = sentence.removeprefix(f"{claim} {verdict.replace('_', ' ')}: ")
    first, dot, rest = text.partition(". ")
    return first[:1].upper() + first[1:] + dot.strip(), rest


def _context(
    r: Results, tables: Mapping[str, pd.DataFrame], pictures: Mapping[str, Mapping[str, Any]]
) -> dict[str, Any]:
    first = next(iter(r.association), "")
    return {
        "facts": r.facts,
        "claims": _claim_rows(r.claims) if r.claims is not None else [],
        "outdated": r.outdated,
        "networks": [str(n) for n in r.claims["network"].values] if r.claims is not None else [],
        "pictures": pictures,
        "captions": {name: text.format(network=first) for name, text in CAPTIONS.items()},
        "saliency": {name: name.removeprefix("saliency_") for name in pictures if name.startswith("saliency_")},
        "overlays": {name: name.removeprefix("overlays_") for name in pictures if name.startswith("overlays_")},
        "sheets": {name: name.removeprefix("sheet_") for name in pictures if name.startswith("sheet_")},
        "gauge": {name: _gauge(r, name) for name in pictures},
        "arms": arms_rows(tables),
        "at_end": at_end_sentence(tables),
        "replicated": r.claims is not None and r.claims.attrs.get("interval") == "network",
        "trained": trained_numbers(r),
        "association": _filled_rows(tables, "association_summary"),
        "agreement": _filled_rows(tables, "saliency"),
        "checks": _reliability_rows(tables),
        "shown": [{**entry, "data": _embedded_file(r.folder / "stimuli" / entry["file"])} for entry in r.shown],
        "tables": {name: COLUMNS[name] for name in COLUMNS if name in tables},
        "lengths": {name: len(table) for name, table in tables.items()},
        "tables_version": TABLES_VERSION,
    }


def _filled_rows(tables: Mapping[str, pd.DataFrame], name: str) -> list[dict[str, Any]]:
    """Rows of a table without the columns that this run has nothing for."""
    table = tables.get(name)
    return _rows(table.dropna(axis="columns", how="all") if table is not None else None)


def _reliability_rows(tables: Mapping[str, pd.DataFrame]) -> list[dict[str, Any]]:
    table = tables.get("association_checks")
    if table is None:
        return []
    kept = table[table["check"].isin(["gain_reliability", "selectivity_reliability"])]
    return _rows(kept[["network", "check", "layer", "value"]])


def _rows(table: pd.DataFrame | None) -> list[dict[str, Any]]:
    """Rows for people: rounded numbers, dashes for the undefined."""
    if table is None:
        return []
    rows: list[dict[str, Any]] = [{str(key): value for key, value in row.items()} for row in table.to_dict("records")]
    return [
        {
            key: probability(value).removeprefix("p = ").removeprefix("p ")
            if key.startswith("p_") and isinstance(value, float)
            else number(value)
            if isinstance(value, float)
            else value
            for key, value in row.items()
        }
        for row in rows
    ]


def shown_width(png: bytes) -> int:
    """CSS pixels at which a figure's text has the size of the page's text: the PNG header's width over its density."""
    return round(int.from_bytes(png[16:20], "big") / DPI * 104)


def embedded(data: bytes, kind: str = "image/png") -> str:
    """An image as a data address, so that the page needs no other file."""
    return f"data:{kind};base64,{base64.b64encode(data).decode('ascii')}"


def _embedded_file(path: Path) -> str:
    try:
        return embedded(path.read_bytes(), "image/jpeg" if path.suffix.lower() in (".jpg", ".jpeg") else "image/png")
    except OSError as error:
        raise StoreError(
            f"wanted the shown stimulus {str(path)!r}; came {error.strerror}; run the job again"
        ) from error


def _shown(value: Any) -> Any:
    """A table cell for people: rounded, and a dash for what JSON calls null."""
    return "–" if value is None else number(value) if isinstance(value, float) else value


def page_environment() -> jinja2.Environment:
    """Templates of the package, escaped; an unknown name in one is an error."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("featattn_neuro.report"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters["shown"] = _shown
    return environment

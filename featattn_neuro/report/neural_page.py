"""One self-contained page for a comparison with neurons. Everything on it is read from result files in the folder."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import xarray as xr
from matplotlib.figure import Figure

from featattn_neuro.errors import StoreError
from featattn_neuro.report.page import DPI, embedded, page_environment, shown_width
from featattn_neuro.report.results import load_result, read_json
from featattn_neuro.report.style import number, png_bytes
from featattn_neuro.report.tables import write_atomic
from featattn_neuro.report.tuning_figures import distribution_figure, match_figure, tuning_gallery
from featattn_neuro.schema import MATCH, TUNING, Kind

Results = dict[str, xr.Dataset]

FILES: dict[str, Kind] = {"tuning_neurons": TUNING, "tuning_filters": TUNING, "match": MATCH}
"""Result files of a comparison and their kinds; each may be absent."""

COMPARED = ("modulation_depth", "sparseness", "orientation_index", "reliability", "fano")
"""Quantities of tuning that are shown on one axis where both files have them."""


@dataclass(frozen=True)
class Section:
    """A part of the page: which files it needs, what it draws, what is said below."""

    title: str
    needs: tuple[str, ...]
    draw: Callable[[Results], Figure]
    caption: str
    wanted: Callable[[Results], bool] = lambda results: True


def _distribution(quantity: str) -> Section:
    return Section(
        f"Network and brain: {quantity.replace('_', ' ')}",
        ("tuning_neurons", "tuning_filters"),
        lambda results: distribution_figure(results["tuning_neurons"], results["tuning_filters"], quantity=quantity),
        "Each dot is a neuron (blue) or a filter (red); black: quartiles and median. In brackets, how many have "
        "a value.",
        lambda results: all(_has(results[name], quantity) for name in ("tuning_neurons", "tuning_filters")),
    )


SECTIONS: dict[str, Section] = {
    "match": Section(
        "Match over depth", ("match",), lambda results: match_figure(results["match"]),
        "Layers in the order of processing. What each measure is stands in the table.",
    ),
    **{f"distribution_{name}": _distribution(name) for name in COMPARED},
    "gallery_neurons": Section(
        "Tuning of neurons", ("tuning_neurons",), lambda results: tuning_gallery(results["tuning_neurons"]),
        "Means over trials with their 95 % intervals, and the fitted curve (red); the surest tuned neurons of "
        "each stretch of the recording.",
        lambda results: _any_ok(results["tuning_neurons"]),
    ),
    "gallery_filters": Section(
        "Tuning of filters", ("tuning_filters",), lambda results: tuning_gallery(results["tuning_filters"]),
        "The same of filters: means over the images of a level, with the interval that their spread gives.",
        lambda results: _any_ok(results["tuning_filters"]),
    ),
}  # fmt: skip
"""The page, in order."""


def write_neural_page(folder: Path | str) -> Path:
    """Write `neurons.html` and `figures/*.png` from the comparison in `folder`; return the page's path.

    Parameters
    ----------
    folder : holds some of tuning_neurons.nc, tuning_filters.nc, match.nc, and facts.json (title, lead, rows, methods,
        limits), as `jobs.neurons.compare_with_neurons` writes them. Parts whose files are absent are left out.

    Raises
    ------
    StoreError : no result file in `folder`, an unreadable one, or a folder that cannot be written.
    """
    folder = Path(folder)
    results = {
        name: load_result(folder / f"{name}.nc", kind)
        for name, kind in FILES.items()
        if (folder / f"{name}.nc").is_file()
    }
    if not results:
        raise StoreError(
            f"wanted results of a comparison in {str(folder)!r} ({', '.join(f'{name}.nc' for name in FILES)}); "
            "found none; "
            "run featattn neurons first"
        )
    facts = read_json(folder / "facts.json", dict)
    pictures = {}
    for name, section in SECTIONS.items():
        if set(section.needs) <= set(results) and section.wanted(results):
            data = png_bytes(section.draw(results), dpi=DPI)
            write_atomic(folder / "figures" / f"{name}.png", data)
            pictures[name] = {
                "data": embedded(data), "width": shown_width(data), "title": section.title, "caption": section.caption
            }  # fmt: skip
    page = (
        page_environment()
        .get_template("neurons.html.j2")
        .render(facts=facts, pictures=pictures, scores=_scores(results.get("match")), units=_units(results))
    )
    return write_atomic(folder / "neurons.html", page.encode("utf-8"))


def _scores(match: xr.Dataset | None) -> list[dict[str, str]]:
    """A row per layer: the score by each measure."""
    if match is None or "neural_unit" in match["score"].dims:
        return []
    return [
        {"layer": str(layer)}
        | {str(one): number(float(match["score"].sel(layer=layer, measure=one))) for one in match["measure"].values}
        for layer in match["layer"].values
    ]


def _units(results: Results) -> list[dict[str, Any]]:
    """How many units of each status there are."""
    rows = []
    for name, what in (("tuning_neurons", "neurons"), ("tuning_filters", "filters")):
        if name in results:
            status = results[name]["status"].values.astype(str).tolist()
            rows.append({"units": what, "all": len(status)} | {one: status.count(one) for one in sorted(set(status))})
    keys = list(dict.fromkeys(key for row in rows for key in row))
    return [{key: row.get(key, 0) for key in keys} for row in rows]


def _has(dataset: xr.Dataset, quantity: str) -> bool:
    return quantity in dataset and bool(dataset[quantity].notnull().any())


def _any_ok(tuning: xr.Dataset) -> bool:
    return bool((tuning["status"] == "ok").any())

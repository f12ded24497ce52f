"""One self-contained page for a comparison with neurons. Everything on it is read from result files in the folder."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import xarray as xr
from matplotlib.figure import Figure

from featattn_neuro.errors import StoreError
from featattn_neuro.report.attention_figures import attention_profile_figure
from featattn_neuro.report.neural_figures import attention_figure, similarity_figure
from featattn_neuro.report.page import DPI, embedded, page_environment, shown_width
from featattn_neuro.report.results import load_result, read_json
from featattn_neuro.report.style import number, png_bytes
from featattn_neuro.report.tables import write_atomic
from featattn_neuro.report.tuning_figures import distribution_figure, match_figure, tuning_gallery
from featattn_neuro.schema import ATTENTION, MATCH, TUNING, Kind

Results = dict[str, xr.Dataset]

Rows = list[dict[str, Any]]

FILES: dict[str, Kind] = {"tuning_neurons": TUNING, "tuning_filters": TUNING, "match": MATCH, "attention": ATTENTION}
"""Result files of a comparison and their kinds; each may be absent."""

COMPARED = ("modulation_depth", "sparseness", "orientation_index", "reliability", "fano")
"""Quantities of tuning that are shown on one axis where both files have them."""

FILES |= {f"tuning_match_{quantity}": MATCH for quantity in COMPARED}

LISTED = 200
"""Units of the table of attention effects, at most; the rest is in the file."""


@dataclass(frozen=True)
class Section:
    """A part of the page: which files it needs, what it draws, what is said below, and a table of stored values."""

    title: str
    needs: tuple[str, ...]
    draw: Callable[[Results], Figure]
    caption: str
    wanted: Callable[[Results], bool] = lambda results: True
    rows: Callable[[Results], Rows] = lambda results: []


def _distribution(quantity: str) -> Section:
    scores = f"tuning_match_{quantity}"
    return Section(
        f"Network and brain: {quantity.replace('_', ' ')}",
        ("tuning_neurons", "tuning_filters"),
        lambda results: distribution_figure(
            results["tuning_neurons"], results["tuning_filters"], quantity=quantity, match=results.get(scores)
        ),
        "Each dot is a neuron (blue) or a filter (red); black: quartiles and median. In brackets, how many have "
        "a value. Likeness of a layer's distribution to the neurons' is 1 − KS, of samples as large as half of the "
        "neurons; its ceiling is that of the neurons' own halves.",
        lambda results: all(_has(results[name], quantity) for name in ("tuning_neurons", "tuning_filters")),
        lambda results: _likeness(results.get(scores)),
    )


def _likeness(match: xr.Dataset | None) -> Rows:
    """A row per layer: 1 − KS of whole samples, of samples as large as the halves, and the ceiling of those."""
    if match is None:
        return []
    whole, matched = (match["score"].sel(measure=name) for name in ("1 - KS", "1 - KS, matched size"))
    ceiling = float(match["ceiling"].sel(measure="1 - KS, matched size"))
    counts = match["n_values"].values if "n_values" in match else [""] * match.sizes["layer"]
    return [
        {"layer": str(layer), "filters": int(count), "1 − KS": number(float(whole.sel(layer=layer)), 2),
         "1 − KS, matched size": number(float(matched.sel(layer=layer)), 2), "ceiling": number(ceiling, 2)}
        for layer, count in zip(match["layer"].values, counts, strict=True)
    ]  # fmt: skip


def _effects(results: Results) -> Rows:
    """A row per unit of what attention does to it."""
    effects = results["attention"].isel(unit=slice(LISTED))
    rows = []
    for unit in effects["unit"].values.astype(str):
        one = effects.sel(unit=unit)
        factor, both = (one.sel(model_name=name) if name in one["model_name"].values else None
                        for name in ("multiplicative", "both"))  # fmt: skip
        row = {"unit": unit, "status": str(one["status"].item()), "index": number(float(one["mean_index"]), 2),
               "model": str(one["model"].item()) or "–"}  # fmt: skip
        if factor is not None:
            row["factor g alone"] = _ranged(factor, "gain")
        if both is not None:
            row |= {"g of both": _ranged(both, "gain"), "b of both": _ranged(both, "shift")}
        if "preference_slope" in one:
            row["slope on rank"] = number(float(one["preference_slope"]), 2)
        if "curve_width_change" in one:
            row |= {
                "change of width": _ranged(one, "curve_width_change"),
                "p of width": number(float(one["p_width"]), 2),
            }
        rows.append(row)
    return rows


def _ranged(one: xr.Dataset, name: str) -> str:
    digits = 3 if name == "gain" else 2  # factors lie near 1
    text = number(float(one[name]), digits)
    if f"{name}_low" not in one or text == "–":
        return text
    return f"{text} [{number(float(one[f'{name}_low']), digits)}, {number(float(one[f'{name}_high']), digits)}]"


def _has_profile(results: Results) -> bool:
    effects = results["attention"]
    return any(name in effects and bool(effects[name].notnull().any()) for name in ("profile_ratio", "curve_width"))


SECTIONS: dict[str, Section] = {
    "match": Section(
        "Match over depth", ("match",), lambda results: match_figure(results["match"]),
        "Layers in the order of processing. What each measure is stands in the table.",
    ),
    "attention": Section(
        "Attention: index and model", ("attention",), lambda results: attention_figure(results["attention"]),
        "Attention index of each neuron; factor and added response of the model with both, with their 95 % intervals; "
        "how many neurons each model was chosen for; slope of attended / unattended on the rank of the stimulus "
        "in the neuron's preference (feature-similarity gain: negative). Black: median of the index and mean of the "
        "slopes, which the first table gives too (its slopes on tuning value are medians over images).",
        rows=_effects,
    ),
    "attention_slopes": Section(
        "Attention slopes", ("attention",), lambda results: similarity_figure(results["attention"]),
        "Left: for each image, slope over neurons of attended / unattended on their tuning value for it (equals β for "
        "gains 1 + β · tuning value). Right: slope over neurons of the attention index on selectivity. Both from "
        "other trials than the tuning and the selectivity.",
        lambda results: any(name in results["attention"] for name in ("similarity_slope", "selectivity_slope")),
    ),
    "attention_profile": Section(
        "Attention: fall-off and width", ("attention",), lambda results: attention_profile_figure(results["attention"]),
        "Attended / unattended by distance from the preferred stimulus, mean over neurons and its standard error, with "
        "the shapes that are compared (the title names the one that BIC and left-out neurons both prefer); half width "
        "of tuning in the two conditions, baseline and amplitude free in each.",
        _has_profile,
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
    folder : holds some of tuning_neurons.nc, tuning_filters.nc, tuning_match_*.nc, match.nc, attention.nc, and
        facts.json (title, lead, rows, methods, attention, limits), as `jobs.neurons.compare_with_neurons` writes them.
        Parts whose files are absent are left out.

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
                "data": embedded(data), "width": shown_width(data), "title": section.title, "caption": section.caption,
                "rows": section.rows(results),
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

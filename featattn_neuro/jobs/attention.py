"""What attention did in a recording with two conditions, for the page that compares neurons with a network."""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr

from featattn_neuro.arrays.width_models import FEWEST
from featattn_neuro.errors import DataError, choose
from featattn_neuro.measures.attention_effects import attention_effects
from featattn_neuro.measures.simulated_population import CONDITIONS
from featattn_neuro.measures.spike_counts import NOTHING_SUBTRACTED, spike_counts

SELECTIVITY = "sparseness"
_SHARED = 3


def compared_conditions(
    neural: xr.Dataset, conditions: tuple[str, str] | None
) -> tuple[tuple[str, str] | None, list[str]]:
    """The unattended and the attended condition, None where there are no two; and what the page must say.

    Parameters
    ----------
    neural : NEURAL. conditions : their names; None = the usual ones, if the trials have both. Other names are not
        guessed.

    Raises
    ------
    DataError : conditions were named, but the trials have none. ConfigError : an unknown name.
    """
    known = sorted(set(neural["condition"].values.astype(str).tolist())) if "condition" in neural.coords else []
    if conditions is not None:
        if not known:
            raise DataError(f"the trials have no condition; came {', '.join(conditions)}; say columns condition=…")
        pair = choose(conditions[0], known, "condition"), choose(conditions[1], known, "condition")
        if pair[0] == pair[1]:
            raise DataError(f"wanted two conditions; came {pair[0]} twice; name the attended one second")
        return pair, []
    if len(known) < 2:
        return None, []
    if set(CONDITIONS) <= set(known):
        return CONDITIONS, []
    return None, [
        f"The conditions are called {', '.join(known)}; which is unattended and which attended was not said "
        "(conditions=, --conditions), so that attention is not looked at."
    ]


def attention_in(
    neural: xr.Dataset, parameter: str, conditions: tuple[str, str]
) -> tuple[xr.Dataset | None, list[str]]:
    """Attention effects between two conditions of a recording, and what the page must say about them.

    Parameters
    ----------
    neural : NEURAL with both conditions. parameter : coordinate of the trials that tuning is measured over; widths are
        compared where it is a number.

    Returns
    -------
    ATTENTION, or None where too few stimuli were shown in both; and sentences.
    """
    notes = []
    trials, alone = _of_shared_stimuli(neural, conditions)
    if alone:
        notes.append(f"{alone} stimuli were shown in one of the two conditions only and are left out of attention.")
    if trials is None:
        return None, [*notes, f"Fewer than {_SHARED} stimuli were shown in both conditions: no attention effects."]
    counts = are_counts(trials)
    if not counts:
        notes.append(
            "The responses are not known to be plain counts (rates, a subtracted baseline, or units that were not "
            "said, response_units=): models of attention's effect take the same variance everywhere."
        )
    repeats = _repeats(trials, conditions[0])
    if not repeats:
        notes.append("No stimulus was repeated unattended: no slope of the attention index on selectivity.")
    values = trials[parameter].values
    numbers = values.dtype.kind in "fiu" and np.unique(values[np.isfinite(values)]).size >= FEWEST
    effects = attention_effects(
        trials,
        conditions=conditions,
        noise=None if counts else "gaussian",
        selectivity=SELECTIVITY if repeats else None,
        tuning_value="shown",
        parameter=parameter if numbers else None,
        form=form_over_blanks(parameter, values),
    )
    return effects, notes


def form_over_blanks(parameter: str, values: np.ndarray) -> str | None:
    """Form of tuning curves where the usual one cannot be: no logarithm of the frequency 0 of a blank."""
    return "gaussian" if parameter == "spatial_frequency" and np.nanmin(values) <= 0 else None


def effects_by_area(effects: xr.Dataset) -> list[dict[str, Any]]:
    """A row per area: medians over its neurons (over images: slope on tuning value), and how many have which model.

    Of the slope on rank the mean and its standard error: slopes of few spikes are skewed, their median is below 0
    without any effect of attention.
    """
    rows = []
    for layer in effects["layer"].values.astype(str):
        units = effects.isel(unit=np.flatnonzero(effects["unit_layer"].values == layer)).sel(layer=layer)
        chosen = units["model"].values.astype(str).tolist()
        row: dict[str, Any] = {"area": str(layer), "neurons": len(chosen), "index": _median(units, "mean_index")}
        row["slope on rank, mean"], row["SE of that mean"] = _mean(units["preference_slope"].values)
        row["slope on tuning value"] = _median(units, "similarity_slope")
        row["slope on selectivity"] = _median(units, "selectivity_slope")
        row["its Spearman"] = _median(units, "selectivity_rho")
        row["fall-off"] = str(units["profile_shape"].item()) or "undecided"
        row["change of width"] = _median(units, "curve_width_change")
        row["models"] = ", ".join(f"{name} {chosen.count(name)}" for name in dict.fromkeys(sorted(chosen)) if name)
        rows.append(row)
    known = [name for name in rows[0] if any(row[name] is not None for row in rows)]
    return [{name: row[name] for name in known} for row in rows]


def _median(units: xr.Dataset, name: str) -> float | None:
    """Over whatever there is; None where nothing is defined."""
    values = units[name].values if name in units else np.array([np.nan])
    seen = values[np.isfinite(values)]
    return float(np.median(seen)) if seen.size else None


def _mean(values: np.ndarray) -> tuple[float | None, float | None]:
    """Over whatever is defined, and its standard error."""
    seen = values[np.isfinite(values)]
    error = float(seen.std(ddof=1) / np.sqrt(seen.size)) if seen.size > 1 else None
    return (float(seen.mean()) if seen.size else None), error


def _of_shared_stimuli(neural: xr.Dataset, conditions: tuple[str, str]) -> tuple[xr.Dataset | None, int]:
    """Trials of stimuli that were shown in both conditions, None if too few; and how many were shown in one only."""
    condition, stimulus = (neural[name].values.astype(str) for name in ("condition", "stimulus"))
    shown = [set(stimulus[condition == one].tolist()) for one in conditions]
    both = shown[0] & shown[1]
    if len(both) < _SHARED:
        return None, len(shown[0] ^ shown[1])
    keep = np.isin(condition, conditions) & np.isin(stimulus, sorted(both))
    return spike_counts(neural.isel(trial=np.flatnonzero(keep))), len(shown[0] ^ shown[1])


def are_counts(neural: xr.Dataset) -> bool:
    """Whether the responses are spike counts: said to be, nothing subtracted, whole numbers and none negative."""
    values = neural["response"].values
    seen = values[np.isfinite(values)]
    plain = neural.attrs.get("units") == "spikes" and neural.attrs.get("baseline", "none") in NOTHING_SUBTRACTED
    return bool(plain and (seen >= 0).all() and (seen == np.round(seen)).all())


def _repeats(neural: xr.Dataset, condition: str) -> bool:
    """Whether some stimulus was shown more than once in the condition."""
    stimulus = neural["stimulus"].values[neural["condition"].values.astype(str) == condition]
    return bool(np.unique(stimulus).size < stimulus.size)

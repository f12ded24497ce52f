"""Does `attention_effects` find what simulated neurons were given? Recovery, false alarms and power.

    python benchmarks/attention_recovery.py [--neurons 2000] [--quick]

Each row is a population with one true effect, 12 stimuli, 20 repeats of each in each condition, 10 spikes on average,
from 20 sessions. g is the factor, b the added response of the model that is true (of "both" where the truth is simpler,
under "slope bias": an added response invented from noise would pull the slope down). Coverage is that of 95 %
intervals. "both" where the truth is none, a factor or an added response is a false alarm. Repeats are varied below for
the power. Last, the width of tuning above a baseline, by curves fitted to both conditions and by the exponent.
"""

from __future__ import annotations

import argparse
import os
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import xarray as xr

from featattn_neuro.arrays.tuning_fits import von_mises_half_width
from featattn_neuro.measures.attention_effects import attention_effects
from featattn_neuro.measures.simulated_population import simulate_population

EFFECTS: dict[str, dict[str, Any]] = {
    "none": {"gain": 1.0},
    "multiplicative": {"gain": 1.25},
    "additive": {"gain": 1.0, "shift": 2.5},
    "both": {"gain": 1.2, "shift": 2.0},
    "width": {"gain": 1.1, "exponent": 1.4},
}
NOISES = {
    "Poisson": {},
    "φ = .1": {"dispersion": 0.1},
    "φ = .1, noise correlation .2": {"dispersion": 0.1, "correlation": 0.2},
}
SESSIONS = 20
SIMPLER = ("none", "multiplicative", "additive")


def population(truth: str, neurons: int, seed: int, **more: Any) -> xr.Dataset:
    """Fitted effects of neurons with one true effect, from sessions of their own: noise is shared within a session."""
    parts = []
    for session in range(SESSIONS):
        drawn = simulate_population(neurons // SESSIONS, seed=seed + session, **EFFECTS[truth], **more)
        found = attention_effects(drawn, held_out=False, profile=False)
        parts.append(found.assign_coords(unit=[f"{session}/{name}" for name in found["unit"].values]))
    return xr.concat(parts, "unit", data_vars="minimal", coords="minimal", compat="override", join="exact")


def covered(fit: xr.Dataset, name: str, truth: xr.DataArray) -> float:
    """Share of intervals that hold the truth."""
    return float(((fit[f"{name}_low"] <= truth) & (truth <= fit[f"{name}_high"])).mean())


def row(truth: str, noise: str, neurons: int) -> tuple[str, bool]:
    """One line of the table, and whether it is within the promised bounds."""
    found = population(truth, neurons, seed=1, **NOISES[noise])
    fit, both = found.sel(model_name=truth), found.sel(model_name="both")
    gain, chosen = EFFECTS[truth]["gain"], found["model"]
    error = float(fit["gain"].mean() / gain - 1)
    shares = [covered(fit, "gain", found["true_gain"])] if truth not in ("none", "additive") else []
    shares += [covered(fit, "shift", found["true_shift"])] if truth in ("additive", "both") else []
    shares += [covered(fit, "exponent", found["true_exponent"])] if truth == "width" else []
    slope = float(both["gain"].mean() / gain - 1) if truth in SIMPLER else float("nan")
    false = float((chosen == "both").mean()) if truth in SIMPLER else float("nan")
    aic = float((found["model_name"][found["aic"].argmin("model_name").values] == "both").mean())
    ratio = float((found["p_both"] <= 0.05).mean())
    fine = abs(error) < 0.01 and min(shares, default=1) >= 0.92 and not false > 0.05 and not abs(slope) > 0.01
    cells = [truth, noise, _percent(error, "+.2f"), ", ".join(f"{one:.3f}" for one in shares) or "–"]
    cells += [_percent(slope, "+.2f"), _percent(false, ".1f"), _percent(float((chosen == truth).mean()), ".0f")]
    cells += [_percent(aic, ".1f"), _percent(ratio, ".1f"), "yes" if fine else "NO"]
    return "| " + " | ".join(cells) + " |", fine


def power(neurons: int) -> None:
    """How often the right model is chosen, by repeats and size of the effect."""
    print("\nPower (BIC), Poisson, neurons whose true model is chosen:\n")
    repeats = (5, 10, 20, 40)
    print("| truth | " + " | ".join(f"{n} repeats" for n in repeats) + " |\n|---|" + "---|" * len(repeats))
    cases = {
        "factor 1.1": {"gain": 1.1}, "factor 1.25": {"gain": 1.25}, "added 1": {"gain": 1, "shift": 1.0},
        "added 2.5": {"gain": 1, "shift": 2.5}, "both 1.2, 2": {"gain": 1.2, "shift": 2.0},
        "both 1.3, −.5": {"gain": 1.3, "shift": -0.5}, "width e 1.4": {"gain": 1.1, "exponent": 1.4},
    }  # fmt: skip
    names = {"f": "multiplicative", "a": "additive", "b": "both", "w": "width"}
    for label, effect in cases.items():
        shares = []
        for n in repeats:
            neural = simulate_population(neurons, repeats=n, seed=2, **effect)
            found = attention_effects(neural, held_out=False, profile=False)
            shares.append(_percent(float((found["model"] == names[label[0]]).mean()), ".0f"))
        print(f"| {label} | " + " | ".join(shares) + " |")


def widths(neurons: int) -> None:
    """What is found on the width of tuning above a baseline: curves fitted to both conditions, and the exponent."""
    print("\nWidth of tuning (baseline a fifth of the peak, κ 2, φ = .05, 20 repeats):\n")
    print("| truth | true change | median change of half width | coverage | width p ≤ .05 | undefined "
          "| median change by the exponent |\n|---|---|---|---|---|---|---|")  # fmt: skip
    cases = {
        "none": {"gain": 1.0}, "factor 1.25": {"gain": 1.25}, "factor 1.2, added 2": {"gain": 1.2, "shift": 2.0},
        "κ × 1.5": {"gain": 1.0, "narrowing": 1.5}, "κ × 2, factor 1.2": {"gain": 1.2, "narrowing": 2.0},
    }  # fmt: skip
    for label, effect in cases.items():
        neural = simulate_population(neurons, seed=3, modulation=0.8, dispersion=0.05, **effect)
        found = attention_effects(neural, held_out=False, profile=False, parameter="level", form="direction")
        kappa = 2.0 * float(effect.get("narrowing", 1.0))
        truth = float(von_mises_half_width(kappa) / von_mises_half_width(2.0)) - 1
        known = found.isel(unit=np.flatnonzero(found["p_width"].notnull().values))
        inside = (known["curve_width_change_low"] <= truth) & (truth <= known["curve_width_change_high"])
        cells = [label, _percent(truth, "+.1f"), _percent(float(known["curve_width_change"].median()), "+.1f")]
        cells += [f"{float(inside.mean()):.3f}", _percent(float((known["p_width"] <= 0.05).mean()), ".1f")]
        cells += [str(neurons - known.sizes["unit"]), _percent(float(known["width_change"].median()), "+.1f")]
        print("| " + " | ".join(cells) + " |", flush=True)


def _percent(value: float, form: str) -> str:
    return "–" if value != value else f"{100 * value:{form}} %"


def main() -> None:
    """Print the tables; exit status 1 if a row of the first misses its bounds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--neurons", type=int, default=2000)
    parser.add_argument("--quick", action="store_true", help="200 neurons, Poisson only: to see that it works")
    given = parser.parse_args()
    neurons = 200 if given.quick else given.neurons
    print(f"{neurons} neurons per row\n")
    print("| truth | noise | error of mean g | coverage | slope bias | false 'both' | right (BIC) | 'both' by AIC "
          "| LR both p ≤ .05 | within bounds |\n|---|---|---|---|---|---|---|---|---|---|")  # fmt: skip
    fine = []
    for noise in list(NOISES)[: 1 if given.quick else None]:
        for truth in EFFECTS:
            line, good = row(truth, noise, neurons)
            print(line, flush=True)
            fine.append(good)
    power(100 if given.quick else 500)
    widths(100 if given.quick else 500)
    raise SystemExit(0 if given.quick or all(fine) else 1)


if __name__ == "__main__":
    main()

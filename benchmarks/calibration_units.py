"""Calibration cases of single units, filters or neurons: selectivity, tuning, attention, neurometric function.

Units that are drawn independently are simulations of each other: one call serves many. Where units depend on each
other, as the filters of a layer do, every simulation is a call of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import xarray as xr
from calibration_outcomes import BAD, BEYOND, OFFERED, Case, Float, Outcome, Rng, Simulate, decided
from numpy.typing import NDArray
from scipy import stats

from featattn_neuro.arrays.choice import neurometric_function
from featattn_neuro.arrays.class_selectivity import eta_squared
from featattn_neuro.arrays.multiplicity import METHODS, adjust
from featattn_neuro.arrays.permutation import permutation_test
from featattn_neuro.measures.attention_effects import attention_effects
from featattn_neuro.measures.selectivity import selectivity
from featattn_neuro.measures.tuning import tuning

CORRECTIONS = tuple(METHODS)


def activations(values: Float, labels: Sequence[str], layers: int = 1) -> xr.Dataset:
    """ACTIVATIONS of values (unit, stimulus)."""
    units, stimuli = values.shape
    layer = [f"layer{k * layers // units}" for k in range(units)]
    return xr.Dataset(
        {"response": (("stimulus", "unit"), np.ascontiguousarray(values.T))},
        {
            "stimulus": [f"s{i:04d}" for i in range(stimuli)],
            "label": ("stimulus", list(labels)),
            "unit": [f"{name}/{k:03d}" for k, name in enumerate(layer)],
            "layer": ("unit", layer),
            "channel": ("unit", np.arange(units)),
        },
        {"kind": "ACTIVATIONS"},
    )


def rectified(rng: Rng, units: int, n: int, *, correlated: bool = True) -> Float:
    """Responses of filters to n stimuli: cut at 0, so skewed and full of ties, and correlated with each other."""
    mixing = rng.normal(size=(units, 3)) if correlated else np.zeros((units, 3))
    return mixing @ rng.normal(size=(3, n)) + rng.normal(size=(units, n)) - 0.3


def families(units: int, counts: Sequence[int]) -> Simulate:
    """`selectivity` with p-values: one filter alone, and the family of all filters × labels against the rest."""
    labels = np.repeat([f"c{k}" for k in range(len(counts))], counts)

    def simulate(rng: Rng, sims: int, effect: float) -> dict[str, Outcome]:
        names = [f"selectivity: p of {what}, one filter" for what in ("d'", "ROC area")]
        names += [
            f"selectivity: {how}, any rejection ({what})" for how in ("max-T", *CORRECTIONS) for what in ("d'", "area")
        ]
        p = {name: np.empty(sims) for name in names}
        for i in range(sims):
            values = rectified(rng, units, labels.size)
            values[0] += effect * (labels == "c0")
            found = selectivity(
                activations(np.maximum(values, 0), labels.tolist()), permutations=999,
                seed=int(rng.integers(2**31)), family="all",
            )  # fmt: skip
            for variable, one, many in (("dprime", "d'", "d'"), ("auc", "ROC area", "area")):
                raw = found[f"{variable}_p"].values
                p[f"selectivity: p of {one}, one filter"][i] = raw[0, 0]
                p[f"selectivity: max-T, any rejection ({many})"][i] = found[f"{variable}_p_corrected"].values.min()
                for how in CORRECTIONS:
                    p[f"selectivity: {how}, any rejection ({many})"][i] = adjust(raw, how).min()
        return {name: Outcome(OFFERED, p=values) for name, values in p.items()}

    return simulate


def unequal_spread(targets: int, distractors: int, sd: float) -> Simulate:
    """Equal means, targets `sd` times as variable: no difference in mean, but labels are not exchangeable."""

    def simulate(rng: Rng, sims: int, effect: float) -> dict[str, Outcome]:
        wanted = np.arange(targets + distractors) < targets
        values = rng.normal(size=(sims, wanted.size)) * np.where(wanted, sd, 1.0) + effect * wanted
        found = selectivity(
            activations(values, np.where(wanted, "a", "b").tolist()), "a", permutations=999,
            seed=int(rng.integers(2**31)), family="all", correction="holm",
        )  # fmt: skip
        return {
            f"selectivity: p of {name} read as a difference in mean": Outcome(BEYOND, p=found[f"{variable}_p"].values)
            for variable, name in (("dprime", "d'"), ("auc", "ROC area"))
        }

    return simulate


def shared_trials(stimuli: int, repeats: int) -> Simulate:
    """Stimuli shown `repeats` times, classes of several stimuli: trials exchanged one by one. `selectivity` refuses."""

    def simulate(rng: Rng, sims: int, effect: float) -> dict[str, Outcome]:
        shown = np.repeat(np.arange(stimuli), repeats)
        wanted = shown < stimuli // 2
        values = rng.normal(size=(sims, stimuli))[:, shown] + rng.normal(size=(sims, shown.size)) + effect * wanted
        found = permutation_test(values, wanted, permutations=499, rng=rng)
        return {"label permutation over trials of repeated stimuli": Outcome(BAD, p=found.auc_p)}

    return simulate


def shared_sources(composites: int, reuse: int) -> Simulate:
    """Composites of two sources each, every source in `reuse` of them: labels exchanged. `selectivity` refuses."""

    def simulate(rng: Rng, sims: int, effect: float) -> dict[str, Outcome]:
        sources = 2 * composites // reuse
        pairs = np.concatenate([rng.permutation(sources) for _ in range(reuse)]).reshape(composites, 2)
        wanted = (np.arange(sources) % 10 == 0)[pairs].any(axis=1)
        values = rng.normal(size=(sims, sources))[:, pairs].sum(axis=-1) + effect * wanted
        found = permutation_test(values, wanted, permutations=499, rng=rng)
        return {"label permutation over composites that share sources": Outcome(BAD, p=found.auc_p)}

    return simulate


def moments_of_rectified(mean: float, sd: float) -> tuple[float, float]:
    """Mean and variance of max(0, N(mean, sd²))."""
    z = mean / sd
    first = mean * stats.norm.cdf(z) + sd * stats.norm.pdf(z)
    second = (mean**2 + sd**2) * stats.norm.cdf(z) + mean * sd * stats.norm.pdf(z)
    return float(first), float(second - first**2)


def true_dprime(shift: float, sd: float, *, cut: bool) -> float:
    """d' (rms) of N(shift, sd²) against N(0, 1), both cut at 0 or not."""
    if not cut:
        return shift / float(np.sqrt((sd**2 + 1) / 2))
    (m1, v1), (m0, v0) = moments_of_rectified(shift, sd), moments_of_rectified(0.0, 1.0)
    return (m1 - m0) / float(np.sqrt((v1 + v0) / 2))


def dprime_intervals(targets: int, distractors: int, shift: float, *, sd: float = 1.0, cut: bool) -> Simulate:
    """Intervals of d' as `selectivity` prints them: noncentral t (for classes about Gaussian), and bootstrap."""

    def simulate(rng: Rng, sims: int, effect: float) -> dict[str, Outcome]:
        wanted = np.arange(targets + distractors) < targets
        values = rng.normal(size=(sims, wanted.size)) * np.where(wanted, sd, 1.0) + (shift + effect) * wanted
        data = activations(np.maximum(values, 0) if cut else values, np.where(wanted, "a", "b").tolist())
        truth = true_dprime(shift + effect, sd, cut=cut)
        found = {}
        for kind, name in (("noncentral_t", "noncentral t"), ("bootstrap", "bootstrap (BCa)")):
            table = selectivity(data, "a", interval=kind, seed=int(rng.integers(2**31)))
            role = BEYOND if cut and kind == "noncentral_t" else OFFERED
            found[f"interval of d', {name}"] = Outcome(
                role, low=table["dprime_low"].values, high=table["dprime_high"].values, truth=truth
            )
        return found

    return simulate


def omnibus(counts: Sequence[int], *, cut: bool) -> Simulate:
    """`eta_squared`: p of F that no class differs from another, for classes of unequal size."""
    labels = np.repeat(np.arange(len(counts)), counts)

    def simulate(rng: Rng, sims: int, effect: float) -> dict[str, Outcome]:
        values = rng.normal(size=(sims, labels.size)) + effect * (labels == 0)
        found = eta_squared(np.maximum(values, 0) if cut else values, labels)
        return {"eta_squared: p of F": Outcome(OFFERED, p=found.p)}

    return simulate


def neural(values: Float, stimulus: Sequence[str], **coordinates: Any) -> xr.Dataset:
    """NEURAL of values (unit, trial)."""
    units, trials = values.shape
    return xr.Dataset(
        {"response": (("trial", "unit"), np.ascontiguousarray(values.T))},
        {
            "trial": np.arange(trials),
            "unit": [f"u{k:03d}" for k in range(units)],
            "stimulus": ("trial", list(stimulus)),
            **{name: ("trial", value) for name, value in coordinates.items()},
        },
        {"kind": "NEURAL", "units": "spikes"},
    )


def flat_tuning(levels: int, trials: int, mean: float) -> Simulate:
    """Poisson counts of neurons that are not tuned: the tests of `tuning`, and the interval of the mean at a level."""

    def simulate(rng: Rng, sims: int, effect: float) -> dict[str, Outcome]:
        level = np.repeat(np.arange(levels), trials)
        counts = rng.poisson(mean * (1 + effect * (level == 0)), size=(sims, level.size)).astype(float)
        data = neural(counts, [f"s{k}" for k in level], level=level.astype(float))
        found = {}
        for test, name in (("kruskal", "Kruskal–Wallis"), ("anova", "analysis of variance")):
            curves = tuning(data, test=test)
            found[f"tuning: {name}"] = Outcome(OFFERED, p=curves["p_selective"].values)
        found["tuning: t interval of the mean at a level"] = Outcome(
            OFFERED, low=curves["low"].values[:, -1], high=curves["high"].values[:, -1], truth=mean
        )
        return found

    return simulate


def attention(truth: dict[str, float], *, repeats: int, noise: str, stimuli: int = 12) -> Simulate:
    """`attention_effects`: p of the model with factor and added response, its choice by likelihood, Wald intervals.

    truth : g and b of h = g μ + b; the null is that one of factor and added response is enough. `effect` adds to the
    simpler one the response (or the factor) that it lacks, to none both.
    """
    model = "multiplicative" if "g" in truth else "additive" if "b" in truth else "none"

    def simulate(rng: Rng, sims: int, effect: float) -> dict[str, Outcome]:
        peak = rng.uniform(10, 20, size=(sims, 1))
        tuned = 2 + peak * np.exp(-0.5 * ((np.arange(stimuli) - stimuli / 2) / 2.0) ** 2)
        attended = truth.get("g", 1.0) * tuned + truth.get("b", 0.0)
        if model != "additive":
            attended = attended + 3 * effect
        if model != "multiplicative":
            attended = attended + 0.3 * effect * tuned
        means = np.repeat(np.concatenate([tuned, attended], axis=1), repeats, axis=1)
        if noise == "gaussian":
            values = means + rng.normal(size=means.shape)
        else:
            values = rng.poisson(means * (rng.gamma(10, 0.1, size=means.shape) if noise == "overdispersed" else 1.0))
        shown = np.repeat([f"s{k:02d}" for k in range(stimuli)], repeats).tolist()
        condition = np.repeat(["unattended", "attended"], stimuli * repeats)
        data = neural(values.astype(float), shown * 2, condition=condition)
        fitted = attention_effects(
            data, noise=noise, models=("none", "multiplicative", "additive", "both"), held_out=False,
            criterion="likelihood_ratio",
        )  # fmt: skip
        label = f"attention ({noise}): "
        found = {
            label + "p that factor and added response are both needed": Outcome(OFFERED, p=fitted["p_both"].values)
        }
        if model == "none":
            chosen = fitted["model"].values
            found[label + "any effect, chosen by likelihood ratio"] = Outcome(OFFERED, p=decided(chosen != "none"))
        for parameter, variable, neutral in (("g", "gain", 1.0), ("b", "shift", 0.0)):
            for one in (model, "both"):
                if one in ("none", "additive" if parameter == "g" else "multiplicative"):
                    continue
                ends = [fitted[f"{variable}_{end}"].sel(model_name=one).values for end in ("low", "high")]
                found[f"{label}interval of the {variable}, model {one}"] = Outcome(
                    OFFERED, low=ends[0], high=ends[1], truth=truth.get(parameter, neutral)
                )
        return found

    return simulate


def attended_curves(repeats: int, stimuli: int = 12) -> Simulate:
    """Change of the half width of fitted curves of a neuron that attention multiplies, adds to, and does not narrow."""

    def simulate(rng: Rng, sims: int, effect: float) -> dict[str, Outcome]:
        level = np.arange(stimuli) - stimuli / 2
        peak = rng.uniform(10, 20, size=(sims, 1))
        plain = 2 + peak * np.exp(-0.5 * (level / 2.0) ** 2)
        attended = 3 + 1.2 * peak * np.exp(-0.5 * (level / (2.0 * (1 - 0.4 * effect))) ** 2)
        means = np.repeat(np.concatenate([plain, attended], axis=1), repeats, axis=1)
        data = neural(
            rng.poisson(means).astype(float),
            np.repeat([f"s{k:02d}" for k in range(stimuli)], repeats).tolist() * 2,
            condition=np.repeat(["unattended", "attended"], stimuli * repeats),
            level=np.tile(np.repeat(level, repeats), 2),
        )
        fitted = attention_effects(
            data, noise="poisson", models=("none", "multiplicative"), held_out=False, parameter="level",
            form="gaussian", profile=False,
        )  # fmt: skip
        ends = [fitted[f"curve_width_change_{end}"].values for end in ("low", "high")]
        return {
            "attention (poisson): p of a change of the fitted width": Outcome(OFFERED, p=fitted["p_width"].values),
            "attention (poisson): interval of the change of the fitted width": Outcome(
                OFFERED, low=ends[0], high=ends[1], truth=0.0
            ),
        }

    return simulate


def attended_width(repeats: int, stimuli: int = 12) -> Simulate:
    """Interval of the exponent (change of width) of a neuron whose tuning attention multiplies and does not narrow."""

    def simulate(rng: Rng, sims: int, effect: float) -> dict[str, Outcome]:
        tuned = 2 + rng.uniform(10, 20, size=(sims, 1)) * np.exp(-0.5 * ((np.arange(stimuli) - stimuli / 2) / 2.0) ** 2)
        means = np.repeat(np.concatenate([tuned, 1.2 * tuned ** (1 + effect)], axis=1), repeats, axis=1)
        shown = np.repeat([f"s{k:02d}" for k in range(stimuli)], repeats).tolist()
        condition = np.repeat(["unattended", "attended"], stimuli * repeats)
        data = neural(rng.poisson(means).astype(float), shown * 2, condition=condition)
        fitted = attention_effects(data, noise="poisson", models=("multiplicative", "width"), held_out=False)
        ends = [fitted[f"exponent_{end}"].sel(model_name="width").values for end in ("low", "high")]
        return {"attention (poisson): interval of the exponent": Outcome(OFFERED, low=ends[0], high=ends[1], truth=1.0)}

    return simulate


def flat_neurometric(levels: int, trials: int) -> Simulate:
    """Share of neurons that tell nothing of the signal whose neurometric function is called identifiable."""

    def simulate(rng: Rng, sims: int, effect: float) -> dict[str, Outcome]:
        strength = np.repeat(2.0 ** np.arange(levels), trials)
        signed = np.concatenate([strength, -strength])
        called: NDArray[np.bool_] = np.empty(sims, dtype=bool)
        for i in range(sims):
            counts = rng.poisson(8 + effect * np.maximum(signed, 0))
            called[i] = neurometric_function(counts, signed).fit.status == "ok"
        return {"neurometric function: threshold given for a flat curve": Outcome(OFFERED, p=decided(called))}

    return simulate


UNIT_CASES = (
    Case("selectivity-families", "6 correlated rectified filters × 4 labels of 20, 20, 20, 40 stimuli",
         families(6, (20, 20, 20, 40)), 1.0, 6),
    Case("selectivity-spread", "20 targets with twice the SD of 180 distractors, equal means",
         unequal_spread(20, 180, 2.0), 0.5, 1),
    Case("selectivity-spread-many", "180 targets with twice the SD of 20 distractors, equal means",
         unequal_spread(180, 20, 2.0), 0.5, 1),
    Case("selectivity-trials", "two classes of 10 stimuli, each shown 10 times", shared_trials(20, 10), 0.5, 1),
    Case("selectivity-sources", "100 composites, each source in five", shared_sources(100, 5), 0.5, 1),
    Case("dprime-gauss", "30 + 30 stimuli, Gaussian, d' .8", dprime_intervals(30, 30, 0.8, cut=False), 0.0, 2),
    Case("dprime-few", "15 + 15 stimuli, Gaussian, d' 1", dprime_intervals(15, 15, 1.0, cut=False), 0.0, 2),
    Case("dprime-rectified-few", "15 + 15 rectified responses, d' 2.0",
         dprime_intervals(15, 15, 2.0, cut=True), 0.0, 2),
    Case("dprime-unequal", "15 + 60 stimuli, Gaussian, SDs 1.5 and 1, d' .78",
         dprime_intervals(15, 60, 1.0, sd=1.5, cut=False), 0.0, 2),
    Case("dprime-rectified-null", "20 + 180 rectified responses, d' 0",
         dprime_intervals(20, 180, 0.0, cut=True), 0.0, 2),
    Case("dprime-rectified", "20 + 180 rectified responses, d' 1.0", dprime_intervals(20, 180, 1.0, cut=True), 0.0, 2),
    Case("dprime-rectified-strong", "20 + 180 rectified responses, d' 2.0",
         dprime_intervals(20, 180, 2.0, cut=True), 0.0, 2),
    Case("omnibus", "5 classes of 8 to 40 stimuli, normal", omnibus((8, 12, 20, 30, 40), cut=False), 0.7, 1),
    Case("omnibus-rectified", "5 classes of 8 to 40 stimuli, rectified",
         omnibus((8, 12, 20, 30, 40), cut=True), 0.7, 1),
    Case("tuning", "Poisson counts, mean 4, 8 levels × 5 trials", flat_tuning(8, 5, 4.0), 1.0, 1),
    Case("tuning-sparse", "Poisson counts, mean .5, 8 levels × 10 trials", flat_tuning(8, 10, 0.5), 2.0, 1),
    Case("attention-none", "Poisson, 12 stimuli × 8 trials, no effect",
         attention({}, repeats=8, noise="poisson"), 1.0, 2),
    Case("attention-factor", "Poisson, 12 stimuli × 8 trials, factor 1.26",
         attention({"g": 1.26}, repeats=8, noise="poisson"), 1.0, 2),
    Case("attention-added", "Poisson, 12 stimuli × 8 trials, 2 spikes added",
         attention({"b": 2.0}, repeats=8, noise="poisson"), 1.0, 2),
    Case("attention-overdispersed", "variance mean + .1 mean², 12 stimuli × 12 trials, factor 1.26",
         attention({"g": 1.26}, repeats=12, noise="overdispersed"), 1.0, 2),
    Case("attention-gaussian", "rates with Gaussian noise, 12 stimuli, one mean each, factor 1.26",
         attention({"g": 1.26}, repeats=1, noise="gaussian"), 1.0, 2),
    Case("attention-width", "Poisson, 12 stimuli × 8 trials, factor 1.2, same width", attended_width(8), 0.0, 2),
    Case("neurometric", "6 levels × 20 trials a side, Poisson counts, no signal", flat_neurometric(6, 20), 0.1, 20),
)  # fmt: skip

CURVE_CASES = (
    Case("attention-curves", "Poisson, 12 levels × 8 trials, factor 1.2 and 1 spike added, same width",
         attended_curves(8), 1.0, 6),
)  # fmt: skip

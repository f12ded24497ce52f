"""The cases of the calibration battery: each draws data under a null (effect 0) or with a planted effect.

A case returns outcomes by method: p-values, or interval ends with the truth they should cover, one per simulation.
Where the package has the method, the package's function is called; vectorised copies are tested to equal it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
from calibration_contrasts import CONTRAST_CASES
from calibration_networks import Design, draw, matched, spearman_p, specific, t_ends, t_p
from calibration_outcomes import BAD, BEYOND, DIAGNOSTIC, OFFERED, Case, Float, Outcome, Rng, decided
from calibration_units import CURVE_CASES, UNIT_CASES
from numpy.typing import NDArray
from scipy import integrate, stats

from featattn_neuro.arrays.agreement import cue_swap, cue_swap_null, excess_gain
from featattn_neuro.arrays.area_interval import roc_area_interval
from featattn_neuro.arrays.association import atanh_clipped, cross_correlation, task_mismatch
from featattn_neuro.arrays.crossed import crossed_test
from featattn_neuro.arrays.discrimination import delong_interval, paired_delong, roc_area
from featattn_neuro.arrays.equivalence import equivalence_test
from featattn_neuro.arrays.gain_covariance import centred_ranks, spearman_standard_error
from featattn_neuro.arrays.multiplicity import adjust, max_statistic
from featattn_neuro.arrays.resampling import bootstrap_t_interval, permutation_p, t_test
from featattn_neuro.arrays.u_shape import two_sides, u_shape_test
from featattn_neuro.measures.mixed_model import fit_slopes

PERMUTATIONS = 499


def mismatch(design: Design) -> Callable[[Rng, int, float], dict[str, Outcome]]:
    """Task-mismatch test per layer and for the mean of layers; the intervals over networks."""

    def simulate(rng: Rng, sims: int, effect: float) -> dict[str, Outcome]:
        names = [f"layer {k + 1}" for k in range(len(design.layers))] + ["mean of layers"]
        p = {name: np.empty(sims) for name in names}
        u, m = np.empty((sims, design.networks)), np.empty((sims, design.networks))
        for i in range(sims):
            z = draw(design, rng, effect).z
            for name, table in zip(names, [*z, z.mean(axis=0)], strict=True):
                p[name][i] = task_mismatch(table, permutations=PERMUTATIONS, rng=rng).p
            u[i], m[i] = specific(z.mean(axis=0)), matched(z.mean(axis=0))
        found = {f"T3 task mismatch, {name}": Outcome(OFFERED, p=values) for name, values in p.items()}
        if design.networks == 1:
            return found
        role = OFFERED if not (design.shared_images or design.common) else BAD
        for label, values in (("matched − mismatched", u), ("matched", m)):
            low, high = t_ends(values)
            found[f"t interval over networks, {label}"] = Outcome(
                role, low=low, high=high, truth=float("nan"), estimate=values.mean(axis=1)
            )
        return found

    return simulate


def naive_association(design: Design) -> Callable[[Rng, int, float], dict[str, Outcome]]:
    """What is not used: ρ against 0, cells or filters as N, pooled layers, filter permutation. And the SE that is."""

    def simulate(rng: Rng, sims: int, effect: float) -> dict[str, Outcome]:
        names = ("t of ρ over networks", "cells (network × task) as N", "filters as N, one layer",
                 "filters as N, layers pooled", "filter permutation within layer")  # fmt: skip
        p = {name: np.empty(sims) for name in names}
        low, high = np.empty(sims), np.empty(sims)
        for i in range(sims):
            one = draw(design, rng, effect)
            own = np.diagonal(one.z.mean(axis=0), axis1=1, axis2=2)
            p[names[0]][i], p[names[1]][i] = t_p(own.mean(axis=1)), t_p(own.ravel())
            gain, score = one.gains[-1][0, 0], one.scores[-1][0, 0]
            rho = float(cross_correlation(gain[None], score[None])[0, 0])
            p[names[2]][i] = spearman_p(np.array(rho), gain.size)
            pooled = [np.concatenate([layer[0, 0] for layer in part]) for part in (one.gains, one.scores)]
            together = float(cross_correlation(pooled[0][None], pooled[1][None])[0, 0])
            p[names[3]][i] = spearman_p(np.array(together), pooled[0].size)
            orders = rng.random((199, gain.size)).argsort(axis=1)
            null = centred_ranks(gain)[orders] @ centred_ranks(score)
            p[names[4]][i] = permutation_p(rho, null, centre=0.0)
            # gains of refits: other directions through the same filters
            mixing = one.mixing[-1][0]
            refits = rng.normal(size=(200, mixing.shape[1])) @ mixing.T + 0.3 * rng.normal(size=(200, gain.size))
            half = 1.96 * float(spearman_standard_error(score, refits))
            low[i], high[i] = rho - half, rho + half
        roles = dict.fromkeys(names, BAD) | {names[4]: DIAGNOSTIC}
        found = {name: Outcome(roles[name], p=values) for name, values in p.items()}
        if design.calibration == 0:  # with it ρ is not centred at 0, which no standard error can mend
            found["gain-covariance standard error, ρ ± 1.96 SE"] = Outcome(OFFERED, low=low, high=high)
        return found

    return simulate


def arms(networks: int, *, shared: bool) -> Callable[[Rng, int, float], dict[str, Outcome]]:
    """T1, T4, secondary quantities: t over networks of a difference of two arms' ROC areas on P."""

    def simulate(rng: Rng, sims: int, effect: float) -> dict[str, Outcome]:
        sets, n = (1 if shared else networks), 150
        target = np.arange(n) < 30
        image = rng.normal(size=(sims, sets, 1, n)) + 0.7 * rng.normal(size=(sims, sets, 2, n))
        noise = np.exp(0.5 * rng.normal(size=(sims, networks, 2, n)))  # skewed
        logit = np.array([1.0 + effect, 1.0])[:, None] * target + image + 0.7 * noise
        area = roc_area(logit, target)
        u = area[..., 0] - area[..., 1]
        low, high = t_ends(u)
        role = BAD if shared else OFFERED
        return {"t over networks (T1, T4, secondary)": Outcome(
            role, p=t_p(u), low=low, high=high, truth=float("nan"), estimate=u.mean(axis=1)
        )}  # fmt: skip

    return simulate


def replicate_means(networks: int, kind: str) -> Callable[[Rng, int, float], dict[str, Outcome]]:
    """Few networks: t test and interval, larger of two p (T2), equivalence at its bound, Holm over four claims.

    kind : of a network's number: "normal"; "heavy" = t with 3 degrees of freedom; "cells" = mean over ten skewed tasks
        (skewness 2 each, so .63); "skewed" = skewness 1. Under the nulls of T1-T4 a number is a difference of two
        things that are alike, hence symmetric: the skewed kinds show how far the tests bend, not what is claimed.
    """

    def simulate(rng: Rng, sims: int, effect: float) -> dict[str, Outcome]:
        shape = (sims, 4, networks)
        if kind == "cells":
            u = (rng.exponential(size=(*shape, 10)) - 1).mean(axis=-1) * np.sqrt(10)
        elif kind == "heavy":
            u = rng.standard_t(3, size=shape) / np.sqrt(3)
        else:
            u = rng.normal(size=shape) if kind == "normal" else (rng.gamma(4.0, size=shape) - 4) / 2
        u = u + effect
        role = OFFERED if kind in ("normal", "heavy") else BEYOND
        low, high = t_ends(u[:, 0])
        found = {"t over networks": Outcome(role, p=t_p(u[:, 0]), low=low, high=high, truth=effect)}
        both = np.maximum(t_p(u[:, 0]), t_p(u[:, 1] + (3.0 if effect == 0 else 0.0)))
        found["T2: larger of two p, one effect real"] = Outcome(role, p=both)
        bound = 1.5
        at_bound = u[:, 2] + (bound if effect == 0 else -effect)
        found["equivalence (TOST), truth at the bound"] = Outcome(
            role, p=np.array([equivalence_test(row, bound).p for row in at_bound])
        )
        family = np.array([adjust(row, "holm").min() for row in t_p(u)])
        found["Holm over four claims, any rejection"] = Outcome(role, p=family)
        return found

    return simulate


def one_area(targets: int, distractors: int, shift: float) -> Callable[[Rng, int, float], dict[str, Outcome]]:
    """DeLong interval of the ROC area of a filter whose responses are cut at 0 (half of them ties)."""

    def simulate(rng: Rng, sims: int, effect: float) -> dict[str, Outcome]:
        target = np.arange(targets + distractors) < targets
        values = np.maximum(rng.normal(size=(sims, target.size)) + (shift + effect) * target, 0.0)
        low, high = delong_interval(values, target)
        truth = rectified_area(shift + effect)
        ends = roc_area_interval(values, target)
        return {
            "interval of a filter's ROC area (logit, one observation added per class)": Outcome(
                OFFERED, low=ends[0], high=ends[1], truth=truth
            ),
            "plain DeLong interval of a filter's ROC area": Outcome(DIAGNOSTIC, low=low, high=high, truth=truth),
        }

    return simulate


def rectified_area(shift: float) -> float:
    """ROC area of max(0, N(shift, 1)) against max(0, N(0, 1)), ties counting half."""
    above = integrate.quad(lambda a: stats.norm.pdf(a - shift) * stats.norm.cdf(a), 0, np.inf)[0]
    return float(above + 0.5 * stats.norm.cdf(-shift) * 0.5)


def two_arms(*, reuse: int) -> Callable[[Rng, int, float], dict[str, Outcome]]:
    """Paired DeLong between two arms on composites whose sources are used `reuse` times."""

    def simulate(rng: Rng, sims: int, effect: float) -> dict[str, Outcome]:
        n = 200
        sources = 2 * n // reuse
        pairs = np.resize(np.arange(sources), 2 * n)
        pairs = np.concatenate([rng.permutation(sources) for _ in range(reuse)])[: 2 * n].reshape(n, 2)
        kind = np.arange(sources) % 5 == 0
        target = kind[pairs].any(axis=1)
        source = rng.normal(size=(2, sims, sources))
        logit = source[:, :, pairs].sum(axis=-1) + 0.3 * rng.normal(size=(2, sims, n)) + 1.5 * target
        logit[0] += effect * target
        difference, variance = paired_delong(logit[0], logit[1], target)
        error = np.sqrt(variance)
        role = OFFERED if reuse == 1 else BAD
        return {"paired DeLong between arms": Outcome(
            role, p=2 * stats.norm.sf(np.abs(difference) / error), low=difference - 1.96 * error,
            high=difference + 1.96 * error, truth=0.0 if effect == 0 else float("nan"), estimate=difference,
        )}  # fmt: skip

    return simulate


def crossed(networks: int, tasks: int, sds: tuple[float, float]) -> Callable[[Rng, int, float], dict[str, Outcome]]:
    """Networks × tasks with random effects of the given SDs (networks, tasks) and cells of SD 1."""

    def simulate(rng: Rng, sims: int, effect: float) -> dict[str, Outcome]:
        table = effect + rng.normal(size=(sims, networks, tasks))
        table += sds[0] * rng.normal(size=(sims, networks, 1)) + sds[1] * rng.normal(size=(sims, 1, tasks))
        made = [crossed_test(one) for one in table]
        p, low, high = (np.array([getattr(one, key) for one in made]) for key in ("p", "ci_low", "ci_high"))
        found = {"conservative crossed test": Outcome(OFFERED, p=p, low=low, high=high, truth=effect)}
        role = BAD if sds[1] else OFFERED
        found["t over networks" + (" read as a claim on new tasks" if sds[1] else "")] = Outcome(
            role, p=t_p(table.mean(axis=2))
        )
        found["cells (network × task) as N"] = Outcome(BAD, p=t_p(table.reshape(sims, -1)))
        return found

    return simulate


def u_shape(networks: int, right: float) -> Callable[[Rng, int, float], dict[str, Outcome]]:
    """Two lines over networks; correlated filters; the right side may rise while the left side is flat."""

    def simulate(rng: Rng, sims: int, effect: float) -> dict[str, Outcome]:
        p, naive, side = np.empty(sims), np.empty(sims), np.empty(sims)
        for i in range(sims):
            mixing = rng.normal(size=(networks, 64, 5))
            x = (mixing @ rng.normal(size=(networks, 5, 1)))[..., 0]
            y = (mixing @ rng.normal(size=(networks, 5, 1)))[..., 0] + rng.normal(size=x.shape)
            y = y + right * np.maximum(x, 0) + effect * np.abs(x)
            sides = two_sides(x, y)
            p[i] = u_shape_test(*sides).p_u
            side[i] = t_test(atanh_clipped(sides[0]))
            counts = [(x[0] < 0).sum(), (x[0] >= 0).sum()]
            each = [_one_sided(sign * rho, n) for sign, rho, n in zip((-1, 1), sides[:, 0], counts, strict=True)]
            naive[i] = max(each)
        return {
            "gain with signed d' on the left side, t over networks": Outcome(OFFERED, p=side),
            "U-shape, two lines over networks": Outcome(OFFERED, p=p),
            "U-shape, two lines, filters as N": Outcome(BAD, p=naive),
        }

    return simulate


def _one_sided(rho: float, n: int) -> float:
    if not np.isfinite(rho) or n < 5:
        return 1.0
    return float(stats.t.sf(rho * np.sqrt((n - 2) / max(1 - rho**2, 1e-12)), n - 2))


def layers_as_groups(networks: int) -> Callable[[Rng, int, float], dict[str, Outcome]]:
    """Slopes of gain on |d'| in the layers of each network; true slopes differ by layer, around 0 on average."""

    def simulate(rng: Rng, sims: int, effect: float) -> dict[str, Outcome]:
        filters, groups = 24, networks * 3
        full, intercept, layer = np.empty(sims), np.empty(sims), np.empty(sims)
        ends = np.empty((sims, 2))
        for i in range(sims):
            mixing = rng.normal(size=(groups, filters, 4))
            x = np.abs((mixing @ rng.normal(size=(groups, 4, 1)))[..., 0])
            y = (mixing @ rng.normal(size=(groups, 4, 1)))[..., 0] + rng.normal(size=x.shape)
            y = (
                y / y.std(axis=1, keepdims=True)
                + rng.normal(size=(groups, 1))
                + np.tile([0.0, 0.5, 1.0], networks)[:, None]
            )
            x = (x - x.mean(axis=1, keepdims=True)) / x.std(axis=1, keepdims=True)
            y = y + (effect + 0.4 * rng.normal(size=(groups, 1))) * x
            group = np.repeat(np.arange(groups), filters)
            fit = fit_slopes(y.ravel(), x.ravel(), group)
            full[i] = fit.p
            half = stats.t.ppf(0.975, fit.df) * fit.standard_error if fit.status == "ok" else np.nan
            ends[i] = fit.slope - half, fit.slope + half
            intercept[i] = fit_slopes(y.ravel(), x.ravel(), group, random_slope=False).p
            slopes = (x * y).mean(axis=1).reshape(networks, 3).mean(axis=1)
            layer[i] = t_p(slopes)
        return {
            "mixed model, random intercept and slope (t, groups − 1)": Outcome(
                DIAGNOSTIC, p=full, low=ends[:, 0], high=ends[:, 1], truth=effect
            ),
            "mixed model, random intercept only": Outcome(BAD, p=intercept),
            "t over networks of mean layer slopes": Outcome(OFFERED, p=layer),
        }

    return simulate


def bootstrap(networks: int, *, skewed: bool) -> Callable[[Rng, int, float], dict[str, Outcome]]:
    """Bootstrap over networks: percentile (not used), studentised, and the disattenuated value's interval."""

    def simulate(rng: Rng, sims: int, effect: float) -> dict[str, Outcome]:
        x = (rng.gamma(4.0, size=(sims, networks)) - 4) / 2 if skewed else rng.normal(size=(sims, networks))
        x = x + effect
        index = rng.integers(0, networks, size=(sims, 999, networks))
        means = np.take_along_axis(x[:, None], index.reshape(sims, 1, -1), axis=2).reshape(index.shape).mean(axis=2)
        low, high = np.quantile(means, [0.025, 0.975], axis=1)
        found = {"percentile bootstrap over networks": Outcome(
            BAD, p=_p_of(low, high), low=low, high=high, truth=effect
        )}  # fmt: skip
        if networks < 10:
            return found
        ends = np.array([bootstrap_t_interval(row, resamples=999, rng=rng) for row in x])
        found["studentised bootstrap over networks"] = Outcome(
            OFFERED, p=_p_of(*ends.T), low=ends[:, 0], high=ends[:, 1], truth=effect
        )
        return found

    return simulate


def disattenuation(networks: int) -> Callable[[Rng, int, float], dict[str, Outcome]]:
    """Interval of mean(ρ)/sqrt(mean reliabilities), with reliabilities estimated in the same networks."""
    from featattn_neuro.arrays.disattenuation import disattenuated

    def simulate(rng: Rng, sims: int, effect: float) -> dict[str, Outcome]:
        true = 0.4 + effect
        reliability = np.clip(np.array([0.7, 0.8]) + 0.06 * rng.normal(size=(sims, networks, 2)), 0.05, 0.99)
        rho = true * np.sqrt(0.7 * 0.8) + 0.1 * rng.normal(size=(sims, networks))
        made = [
            disattenuated(r, q[:, 0], q[:, 1], resamples=999, rng=rng) for r, q in zip(rho, reliability, strict=True)
        ]
        return {"disattenuated association": Outcome(
            OFFERED, low=np.array([one.ci_low for one in made]), high=np.array([one.ci_high for one in made]),
            truth=true,
        )}  # fmt: skip

    return simulate


def _p_of(low: Float, high: Float) -> Float:
    """0 where an interval excludes 0, else 1: enough for a rejection rate at the interval's own level."""
    return decided((low > 0) | (high < 0))


def permuted_gains(*, correlated: bool) -> Callable[[Rng, int, float], dict[str, Outcome]]:
    """Cue swap of one network against gains permuted over the filters of the layer."""

    def simulate(rng: Rng, sims: int, effect: float) -> dict[str, Outcome]:
        filters, tasks, n = 32, 4, 60
        p = np.empty(sims)
        for i in range(sims):
            mixing = rng.normal(size=(filters, 4))
            covariance = mixing @ mixing.T + np.eye(filters)
            first = rng.integers(0, tasks, size=n)
            second = (first + rng.integers(1, tasks, size=n)) % tasks
            means = rng.normal(size=(tasks, 4)) @ mixing.T
            contrast = means[first] - means[second] + rng.normal(size=(n, 4)) @ mixing.T + rng.normal(size=(n, filters))
            gain = rng.normal(size=(tasks, 4)) @ mixing.T if correlated else rng.normal(size=(tasks, filters))
            gain = np.exp(0.2 * (gain + rng.normal(size=gain.shape) + effect * means))
            parts = contrast, covariance, excess_gain(gain), first, second
            p[i] = permutation_p(float(cue_swap(*parts).mean()), cue_swap_null(*parts, permutations=99, rng=rng))
        role = DIAGNOSTIC if correlated else OFFERED
        return {"cue swap against permuted gains, one network": Outcome(role, p=p)}

    return simulate


def many_units(*, correlated: bool) -> Callable[[Rng, int, float], dict[str, Outcome]]:
    """max-T over 40 filters with label permutation: any false rejection in the family."""

    def simulate(rng: Rng, sims: int, effect: float) -> dict[str, Outcome]:
        units, n, wanted = 40, 100, np.arange(100) < 20
        p, plain = np.empty(sims), np.empty(sims)
        for i in range(sims):
            mixing = rng.normal(size=(units, 3)) if correlated else np.zeros((units, 3))
            values = np.maximum(mixing @ rng.normal(size=(3, n)) + rng.normal(size=(units, n)), 0.0)
            values[0] += effect * wanted
            ranks = stats.rankdata(values, axis=1)
            ranks = (ranks - ranks.mean(axis=1, keepdims=True)) / ranks.std(axis=1, keepdims=True)
            shuffled = wanted[rng.random((199, n)).argsort(axis=1)]
            observed, null = np.abs(ranks @ wanted), np.abs(shuffled @ ranks.T)
            adjusted = max_statistic(observed, null)
            each = (1 + (null >= observed - 1e-9).sum(axis=0)) / 200
            p[i], plain[i] = adjusted.min(), each.min()
        return {
            "max-T over filters, any rejection": Outcome(OFFERED, p=p),
            "uncorrected over filters, any rejection": Outcome(BAD, p=plain),
        }

    return simulate


def refits(*, informed: bool) -> Callable[[Rng, int, float], dict[str, Outcome]]:
    """One-step gains; true gains owe nothing to |d'|, refits permute the labels of G and keep, or redo, the head."""

    def simulate(rng: Rng, sims: int, effect: float) -> dict[str, Outcome]:
        filters, n, count = 32, 200, 39
        p = np.empty(sims)
        for i in range(sims):
            wanted = np.arange(n) < n // 2
            mixing = rng.normal(size=(filters, 4)) / 2
            shift = mixing @ rng.normal(size=4)
            responses = np.maximum(
                mixing @ rng.normal(size=(4, n)) + rng.normal(size=(filters, n)) + shift[:, None] * wanted, 0
            )
            dprime = np.abs(responses[:, wanted].mean(1) - responses[:, ~wanted].mean(1)) / responses.std(1)
            observed = mixing @ rng.normal(size=4) + 0.3 * rng.normal(size=filters) + effect * dprime
            heads = _head(responses, wanted)[None].repeat(count, 0)
            null = np.empty((count, filters))
            for b in range(count):
                labels = rng.permutation(wanted)
                head = heads[b] if informed else _head(responses, rng.permutation(wanted))
                null[b] = _first_step(responses, labels, head)
            rho = centred_ranks(null) @ centred_ranks(dprime)
            p[i] = permutation_p(float(centred_ranks(observed) @ centred_ranks(dprime)), rho)
        name = "refit null, informed head kept" if informed else "refit null, everything refitted"
        return {name + ": p of ρ": Outcome(BAD if informed else DIAGNOSTIC, p=p)}

    return simulate


def _head(responses: Float, wanted: NDArray[np.bool_]) -> Float:
    """A read-out of independent filters: mean difference over variance."""
    return (responses[:, wanted].mean(1) - responses[:, ~wanted].mean(1)) / responses.var(1)


def _first_step(responses: Float, labels: NDArray[np.bool_], head: Float) -> Float:
    """First gradient step on gains under cross-entropy: head times covariance of filter and residual."""
    logit = head @ responses
    residual = labels - 1 / (1 + np.exp(-(logit - logit.mean())))
    return head * (responses * (residual - residual.mean())).mean(axis=1)


OWN = Design()
CASES = (
    Case("mismatch-5", "5 networks, own images, calibration gain, layer trend", mismatch(OWN), 0.25, 5),
    Case("mismatch-10", "10 networks, own images, calibration gain, layer trend",
         mismatch(replace(OWN, networks=10)), 0.2, 6),
    Case("mismatch-5-shared", "5 networks, shared images, gains and classes half in common",
         mismatch(replace(OWN, shared_images=True, common=0.5, alike=0.5)), 0.25, 5),
    Case("mismatch-10-shared", "10 networks, shared images, gains and classes half in common",
         mismatch(replace(OWN, networks=10, shared_images=True, common=0.5, alike=0.5)), 0.2, 6),
    Case("one-network", "1 network, own images, calibration gain, layer trend",
         mismatch(replace(OWN, networks=1)), 0.4, 3),
    Case("mismatch-few-tasks", "5 networks, own images, 5 tasks", mismatch(replace(OWN, tasks=5)), 0.4, 5),
    Case("naive-own", "5 networks, own images, no calibration gain",
         naive_association(replace(OWN, calibration=0.0)), 0.0, 5),
    Case("naive-shared", "5 networks, shared images, gains and classes half in common, no calibration gain",
         naive_association(replace(OWN, calibration=0.0, shared_images=True, common=0.5, alike=0.5)), 0.0, 5),
    Case("naive-calibration", "5 networks, own images, gains of all tasks follow mean |d'|",
         naive_association(OWN), 0.0, 5),
    Case("arms-5", "5 networks, own images, equal arms, 30 targets of 150", arms(5, shared=False), 0.3),
    Case("arms-10", "10 networks, own images, equal arms, 30 targets of 150", arms(10, shared=False), 0.3),
    Case("arms-5-shared", "5 networks, one set of images, equal arms", arms(5, shared=True), 0.3),
    Case("means-5", "5 networks, normal", replicate_means(5, "normal"), 1.0),
    Case("means-5-heavy", "5 networks, heavy tails (t, 3 df)", replicate_means(5, "heavy"), 1.0),
    Case("means-10", "10 networks, normal", replicate_means(10, "normal"), 1.0),
    Case("means-5-cells", "5 networks, means over ten skewed tasks", replicate_means(5, "cells"), 1.0),
    Case("means-10-cells", "10 networks, means over ten skewed tasks", replicate_means(10, "cells"), 1.0),
    Case("means-5-skewed", "5 networks, skewness 1", replicate_means(5, "skewed"), 1.0),
    Case("means-10-skewed", "10 networks, skewness 1", replicate_means(10, "skewed"), 1.0),
    Case("area-balanced", "50 targets, 50 distractors, area .5", one_area(50, 50, 0.0)),
    Case("area-unbalanced", "20 targets, 180 distractors, area .75", one_area(20, 180, 1.0)),
    Case("area-few", "10 targets, 90 distractors, area .94", one_area(10, 90, 2.2)),
    Case("area-job", "70 targets, 280 distractors, area .94", one_area(70, 280, 2.2)),
    Case("area-high", "20 targets, 180 distractors, area .94", one_area(20, 180, 2.2)),
    Case("pairs-once", "two equal arms, each source in one composite", two_arms(reuse=1), 0.5),
    Case("pairs-reused", "two equal arms, each source in five composites", two_arms(reuse=5), 0.5),
    Case("crossed-5-networks", "5 × 10, networks vary, tasks do not", crossed(5, 10, (1.0, 0.0)), 1.5),
    Case("crossed-5-tasks", "5 × 10, tasks vary, networks do not", crossed(5, 10, (0.0, 1.0)), 1.5),
    Case("crossed-5-both", "5 × 10, both vary", crossed(5, 10, (1.0, 1.0)), 1.5),
    Case("crossed-5-none", "5 × 10, neither varies", crossed(5, 10, (0.0, 0.0)), 0.5),
    Case("crossed-10-both", "10 × 10, both vary", crossed(10, 10, (1.0, 1.0)), 1.5),
    Case("crossed-10-weak", "10 × 10, both vary a third as much as cells", crossed(10, 10, (0.33, 0.33)), 0.5),
    Case("u-5", "5 networks, both sides flat", u_shape(5, 0.0), 1.0, 2),
    Case("u-5-j", "5 networks, right side rises, left side flat", u_shape(5, 3.0), 0.0, 2),
    Case("u-10-j", "10 networks, right side rises, left side flat", u_shape(10, 3.0), 0.0, 2),
    Case("mixed-5", "5 networks × 3 layers of 24 filters, layer slopes vary around 0 (SD .4)",
         layers_as_groups(5), 0.5, 20),
    Case("bootstrap-5", "5 networks", bootstrap(5, skewed=False), 1.0),
    Case("bootstrap-10", "10 networks", bootstrap(10, skewed=False), 0.8, 2),
    Case("bootstrap-10-skewed", "10 networks, skewness 1", bootstrap(10, skewed=True), 0.8, 2),
    Case("disattenuated-10", "10 networks, ρ = .4 at reliabilities .7 and .8", disattenuation(10), 0.0, 4),
    Case("permuted-gains", "gains independent over filters", permuted_gains(correlated=False), 0.3, 2),
    Case("permuted-gains-correlated", "gains as correlated as the filters", permuted_gains(correlated=True), 0.3, 2),
    Case("max-t", "40 independent rectified filters, 20 targets of 100", many_units(correlated=False), 1.0, 2),
    Case("max-t-correlated", "40 correlated rectified filters, 20 targets of 100", many_units(correlated=True), 1.0, 2),
    Case("refit-informed", "gains owe nothing to |d'|; labels of G permuted, head kept", refits(informed=True), 0.0, 4),
    Case("refit-everything", "gains owe nothing to |d'|; labels permuted for head and gains",
         refits(informed=False), 0.0, 4),
    *UNIT_CASES,
    *CONTRAST_CASES,
    *CURVE_CASES,
)  # fmt: skip

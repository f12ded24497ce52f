"""Calibration cases of comparisons: saliency (T4), arms, filter sets, rivals, partial correlations, model and brain."""

from __future__ import annotations

import numpy as np
import xarray as xr
from calibration_outcomes import BAD, BEYOND, DIAGNOSTIC, OFFERED, Case, Float, Outcome, Rng, Simulate
from calibration_units import activations, neural
from scipy import stats

from featattn_neuro.arrays.agreement import cue_swap, excess_gain, mass_in_mask
from featattn_neuro.arrays.association import partial_spearman
from featattn_neuro.arrays.resampling import permutation_p, share_interval, t_interval, t_test
from featattn_neuro.measures.arms import compare_arms
from featattn_neuro.measures.filter_matching import gain_selectivity_in
from featattn_neuro.measures.filter_sets import filter_sets, pool_set_effects, set_effects
from featattn_neuro.measures.neural_match import neural_match
from featattn_neuro.measures.rivals import compare_rivals, head_to_head

# ---------------------------------------------------------------------------------------------------- saliency


def _saliency_layer(rng: Rng, filters: int, rank: int, means: Float, pairs: tuple[Float, Float]) -> tuple[Float, ...]:
    """Mixing, class means over filters (task, filter), covariance of the maps, and contrasts (composite, filter)."""
    mixing = rng.normal(size=(filters, rank)) / np.sqrt(rank)
    covariance = mixing @ mixing.T + 0.5 * np.eye(filters)
    signal = 0.3 * means[:, :rank] @ mixing.T
    first, second = pairs
    noise = rng.normal(size=(first.size, rank)) @ mixing.T + rng.normal(size=(first.size, filters))
    return mixing, signal, covariance, signal[first] - signal[second] + 0.5 * noise


def saliency_claim(networks: int, gains: str, *, tasks: int = 10, composites: int = 120) -> Simulate:
    """T4: Student's t over networks of the cue swap, mean over two layers, when gains do not know the objects.

    gains : "permuted" = learned gains that follow the objects' filters, permuted over the filters of each layer, as the
        claim's null says; "covarying" = directions through the filters that have nothing to do with the objects, plus
        what every task amplifies.
    """

    def simulate(rng: Rng, sims: int, effect: float) -> dict[str, Outcome]:
        u = np.empty((sims, networks))
        for i in range(sims):
            for network in range(networks):
                first = rng.integers(0, tasks, size=composites)
                pairs = first, (first + rng.integers(1, tasks, size=composites)) % tasks
                means = rng.normal(size=(tasks, 10))
                scores = []
                for filters, rank in ((32, 10), (64, 6)):
                    mixing, signal, covariance, contrast = _saliency_layer(rng, filters, rank, means, pairs)
                    own = rng.normal(size=(tasks, rank)) @ mixing.T + rng.normal(size=(1, rank)) @ mixing.T
                    learned = signal / 0.3 if gains == "permuted" else own
                    learned = learned + 0.5 * rng.normal(size=learned.shape)
                    if gains == "permuted":
                        learned = learned[:, rng.permutation(filters)]
                    gain = np.exp(0.3 * (learned + effect * signal / 0.3))
                    scores.append(float(cue_swap(contrast, covariance, excess_gain(gain), *pairs).mean()))
                u[i, network] = np.mean(scores)
        ends = np.array([t_interval(row) for row in u])
        return {"T4: t over networks of the cue swap": Outcome(
            OFFERED, p=np.array([t_test(row) for row in u]), low=ends[:, 0], high=ends[:, 1],
            truth=float("nan"), estimate=u.mean(axis=1),
        )}  # fmt: skip

    return simulate


def composites_interval(composites: int, *, tasks: int = 10, filters: int = 32, rank: int = 6) -> Simulate:
    """One network: t interval of the mean cue swap over composites drawn anew, as `saliency_agreement` prints it."""

    def simulate(rng: Rng, sims: int, effect: float) -> dict[str, Outcome]:
        ends = np.empty((sims, 2))
        for i in range(sims):
            first = rng.integers(0, tasks, size=composites)
            pairs = first, (first + rng.integers(1, tasks, size=composites)) % tasks
            means = rng.normal(size=(tasks, rank))
            _, signal, covariance, contrast = _saliency_layer(rng, filters, rank, means, pairs)
            gain = np.exp(0.3 * (signal / 0.3 + rng.normal(size=signal.shape)))
            a, b = (one.ravel() for one in np.meshgrid(np.arange(tasks), np.arange(tasks), indexing="ij"))
            every = cue_swap((signal[a] - signal[b])[a != b], covariance, excess_gain(gain), a[a != b], b[a != b])
            ends[i] = t_interval(cue_swap(contrast, covariance, excess_gain(gain), *pairs))
            ends[i] -= every.mean()
        return {"t interval of the cue swap over composites, one network": Outcome(
            OFFERED, low=ends[:, 0], high=ends[:, 1], truth=0.0
        )}  # fmt: skip

    return simulate


def images_interval(images: int, hits: float) -> Simulate:
    """Intervals over images: of scores between 0 and 1 that are skewed (t), and of a share of hits (pointing game)."""

    def simulate(rng: Rng, sims: int, effect: float) -> dict[str, Outcome]:
        pointed = (rng.random((sims, images)) < hits).astype(float)
        share, plain = (np.array([make(row) for row in pointed]) for make in (share_interval, t_interval))
        # a score near its bound, as AUC-Judd of a good map, and an area between curves of logits with heavy tails
        skewed = rng.beta(8, 1.5, size=(sims, images))
        heavy = np.exp(rng.normal(size=(sims, images)) * 0.7)
        found = {
            "interval of the pointing game over images (share)": Outcome(
                OFFERED, low=share[:, 0], high=share[:, 1], truth=hits
            ),
            "t interval of the pointing game over images": Outcome(BAD, low=plain[:, 0], high=plain[:, 1], truth=hits),
        }
        for name, values, truth in (
            ("t interval over images, scores near 1", skewed, 8 / 9.5),
            ("t interval over images, skewed areas", heavy, float(np.exp(0.245))),
        ):
            ends = np.array([t_interval(row) for row in values])
            found[name] = Outcome(OFFERED, low=ends[:, 0], high=ends[:, 1], truth=truth)
        return found

    return simulate


def permuted_localisation(*, correlated: bool) -> Simulate:
    """Mean mass of excess in a mask against gains permuted over filters: the null of localisation scores."""

    def simulate(rng: Rng, sims: int, effect: float) -> dict[str, Outcome]:
        filters, images, cells = 24, 30, 16
        p = np.empty(sims)
        for i in range(sims):
            mixing = rng.normal(size=(filters, 3))
            inside = np.arange(cells) < 5
            # the object has features: filters that are alike have alike preferences for it
            latent = rng.normal(size=(images, 3, cells)) + 0.5 * rng.normal(size=(3, 1)) * inside
            maps = np.maximum(mixing @ latent + rng.normal(size=(images, filters, cells)), 0)
            gain = mixing @ rng.normal(size=3) if correlated else rng.normal(size=filters)
            liking = maps[:, :, inside].mean((0, 2)) - maps[:, :, ~inside].mean((0, 2))
            gain = np.exp(0.3 * (gain + effect * liking / liking.std()))
            mask = np.broadcast_to(inside.astype(float), (images, 1, cells))

            def score(one: Float, maps: Float = maps, mask: Float = mask) -> float:
                excess = np.einsum("k,nkc->nc", one / one.mean() - 1, maps)
                return float(np.nanmean(mass_in_mask(excess[:, None], mask)))

            null = [score(rng.permutation(gain)) for _ in range(99)]
            p[i] = permutation_p(score(gain), null)
        role = DIAGNOSTIC if correlated else OFFERED
        return {"localisation against permuted gains, one network": Outcome(role, p=p)}

    return simulate


# ---------------------------------------------------------------------------------------------------- arms


def arms_by_image(targets: int, images: int, shift: float, *, tasks: int = 4) -> Simulate:
    """`compare_arms`: two arms equally good at several tasks on the same images; one task, and Holm over the tasks."""

    def simulate(rng: Rng, sims: int, effect: float) -> dict[str, Outcome]:
        p, family = np.empty(sims), np.empty(sims)
        low, high = np.empty(sims), np.empty(sims)
        ids = [f"s{k}" for k in range(images)]
        for i in range(sims):
            target = np.stack([rng.permutation(images) < targets for _ in range(tasks)])
            shared = rng.normal(size=(1, 1, images)) + 0.5 * rng.normal(size=(1, tasks, images))
            logit = shift * target + shared + 0.7 * rng.normal(size=(2, tasks, images))
            logit[1] += effect * target
            scores = xr.Dataset(
                {
                    "auc": (("arm", "task"), np.full((2, tasks), 0.5)),
                    "logit": (("arm", "task", "stimulus"), logit),
                    "target": (("task", "stimulus"), target.astype(np.int64)),
                },
                {"arm": ["probe", "gain"], "task": [f"t{k}" for k in range(tasks)], "stimulus": ids},
                {"kind": "SCORES"},
            )
            table = compare_arms(scores, references=("probe",))
            p[i], family[i] = table["p"][0], table["p_holm"].min()
            low[i], high[i] = table["ci_low"][0], table["ci_high"][0]
        return {
            "compare_arms: paired DeLong, one task": Outcome(OFFERED, p=p, low=low, high=high, truth=0.0),
            "compare_arms: Holm over tasks, any rejection": Outcome(OFFERED, p=family),
        }

    return simulate


# ---------------------------------------------------------------------------------------------------- filters


def _units(layers: int, filters: int) -> dict[str, object]:
    names = [f"layer{k}/{j:03d}" for k in range(layers) for j in range(filters)]
    return {
        "unit": names,
        "layer": ("unit", [name.split("/")[0] for name in names]),
        "channel": ("unit", np.tile(np.arange(filters), layers)),
    }


def _measured(dprime: Float, coordinates: dict[str, object], tasks: list[str], **more: object) -> xr.Dataset:
    values = {
        "dprime": (("task", "unit"), dprime),
        "auc": (("task", "unit"), stats.norm.cdf(dprime / np.sqrt(2))),
        "status": (("task", "unit"), np.full(dprime.shape, "ok")),
        **more,
    }
    return xr.Dataset(values, {**coordinates, "task": tasks}, {"kind": "SELECTIVITY"})


def lesions(networks: int, *, covarying: bool, repeats: int) -> Simulate:
    """Silencing the filters with the highest |d'| against controls, where d' has nothing to do with what filters do.

    covarying : whether filters that respond alike also have alike d' and alike effects on performance.
    """
    layers, filters = 1, 40

    def one(rng: Rng, effect: float) -> object:
        mixing = rng.normal(size=(layers * filters, 3)) * (1.0 if covarying else 0.0)
        dprime = mixing @ rng.normal(size=3) + rng.normal(size=layers * filters)
        mean = np.exp(0.5 * rng.normal(size=layers * filters))
        harm = mixing @ rng.normal(size=3) + rng.normal(size=layers * filters) + mean + effect * np.abs(dprime)
        measured = _measured(dprime[None], _units(layers, filters), ["a"], mean_response=("unit", mean))
        sets = filter_sets(
            measured, controls=("random", "activation"), repeats=repeats, share=0.1, seed=int(rng.integers(2**31))
        )
        lost = (sets["gain"].values[:, 0] == 0) @ harm
        auc = np.clip(np.r_[0.9, 0.9 - 0.01 * lost + 0.002 * rng.normal(size=lost.size)], 0, 1)
        arms = ["ungained", *sets["gain_set"].values.tolist()]
        return set_effects(xr.Dataset({"auc": (("arm", "task"), auc[:, None])}, {"arm": arms, "task": ["a"]}))

    def simulate(rng: Rng, sims: int, effect: float) -> dict[str, Outcome]:
        kinds = ("random", "activation")
        p, ends = np.empty((2, sims)), np.empty((2, sims, 2))
        for i in range(sims):
            if networks == 1:
                p[:, i] = one(rng, effect)["p"]
                continue
            pooled = pool_set_effects({f"n{k}": one(rng, effect) for k in range(networks)})
            p[:, i] = pooled["p"]
            ends[:, i] = pooled[["ci_low", "ci_high"]]
        if networks == 1:
            return {f"filter sets, one network: rank among {kind} sets": Outcome(DIAGNOSTIC, p=p[k])
                    for k, kind in enumerate(kinds)}  # fmt: skip
        return {f"filter sets, t over networks against {kind} sets": Outcome(
            OFFERED, p=p[k], low=ends[k, :, 0], high=ends[k, :, 1], truth=0.0
        ) for k, kind in enumerate(kinds)}  # fmt: skip

    return simulate


def chosen_filters(*, covarying: bool) -> Simulate:
    """`gain_selectivity_in`: is the association among chosen filters another than among as many random ones?"""
    layers, filters, tasks = 1, 50, ["a", "b", "c"]

    def simulate(rng: Rng, sims: int, effect: float) -> dict[str, Outcome]:
        p = np.empty(sims)
        for i in range(sims):
            mixing = rng.normal(size=(layers * filters, 3))
            quantity = mixing @ rng.normal(size=3) if covarying else rng.normal(size=layers * filters)
            chosen = quantity > np.median(quantity)
            dprime = (mixing @ rng.normal(size=(3, 3))).T + rng.normal(size=(3, layers * filters))
            follow = 0.3 + effect * chosen
            gain = np.exp(0.2 * (follow * np.abs(dprime) + (mixing @ rng.normal(size=(3, 3))).T))
            coordinates = _units(layers, filters)
            gains = xr.Dataset({"gain": (("task", "unit"), gain)}, {**coordinates, "task": tasks}, {"kind": "GAINS"})
            flags = xr.DataArray(chosen.astype(int), {"unit": coordinates["unit"]}, "unit")
            found = gain_selectivity_in(
                gains,
                _measured(dprime, coordinates, tasks),
                flags,
                draws=99,
                permutations=1,
                seed=int(rng.integers(2**31)),
            )
            p[i] = found.attrs["p_random"]
        return {"gain_selectivity_in: chosen against random filters": Outcome(
            DIAGNOSTIC if covarying else OFFERED, p=p
        )}  # fmt: skip

    return simulate


def rivals(networks: int) -> Simulate:
    """|d'| and Fisher weights that tell equally much of the gains: their difference over networks."""
    layers, filters, tasks = 1, 40, ["a", "b", "c", "d"]

    def simulate(rng: Rng, sims: int, effect: float) -> dict[str, Outcome]:
        p, ends = np.empty(sims), np.empty((sims, 2))
        coordinates = _units(layers, filters)
        count = layers * filters
        for i in range(sims):
            found = {}
            for network in range(networks):
                mixing = rng.normal(size=(count, 4))
                first, second = (
                    np.abs((mixing @ rng.normal(size=(4, len(tasks)))).T + rng.normal(size=(len(tasks), count)))
                    for _ in range(2)
                )
                gain = np.exp(0.1 * ((1 + effect) * first + second + (mixing @ rng.normal(size=(4, len(tasks)))).T))
                table = xr.Dataset(
                    {"gain": (("task", "unit"), gain)}, {**coordinates, "task": tasks}, {"kind": "GAINS"}
                )
                fisher = xr.DataArray(second, {**coordinates, "task": tasks}, ("task", "unit"))
                found[f"n{network}"] = head_to_head(table, _measured(first, coordinates, tasks), fisher)
            row = compare_rivals(found).iloc[-1]
            p[i], ends[i] = row["p"], (row["ci_low"], row["ci_high"])
        return {"|d'| against Fisher weights, t over networks": Outcome(
            OFFERED, p=p, low=ends[:, 0], high=ends[:, 1], truth=0.0
        )}  # fmt: skip

    return simulate


def partials(networks: int, *, reliability: float, tasks: int = 5, filters: int = 40) -> Simulate:
    """Mean partial ρ over networks: gains and |d'| both follow mean activation, measured with this reliability."""

    def simulate(rng: Rng, sims: int, effect: float) -> dict[str, Outcome]:
        u = np.empty((sims, networks))
        for i in range(sims):
            for network in range(networks):
                mixing = rng.normal(size=(filters, 4))
                active = rng.normal(size=filters)
                shown = np.sqrt(reliability) * active + np.sqrt(1 - reliability) * rng.normal(size=filters)
                own = np.abs((mixing @ rng.normal(size=(4, tasks))).T)
                score = active + own
                gain = active + (mixing @ rng.normal(size=(4, tasks))).T + effect * own
                u[i, network] = np.mean([partial_spearman(g, s, shown[None]) for g, s in zip(gain, score, strict=True)])
        ends = np.array([t_interval(row) for row in u])
        return {
            "t interval over networks, partial ρ given a covariate": Outcome(
                OFFERED, low=ends[:, 0], high=ends[:, 1], truth=float("nan"), estimate=u.mean(axis=1)
            ),
            "partial ρ read as an association beyond the covariate": Outcome(
                BEYOND, p=np.array([t_test(row) for row in u])
            ),
        }

    return simulate


# ---------------------------------------------------------------------------------------------------- brain


def match_change(methods: tuple[str, ...], *, stimuli: int, neurons: int = 8, filters: int = 10) -> Simulate:
    """`neural_match(gained=...)`: recordings with and without gains that are equally like the neurons."""

    def simulate(rng: Rng, sims: int, effect: float) -> dict[str, Outcome]:
        ends = np.empty((len(methods), sims, 2))
        for i in range(sims):
            latent = rng.normal(size=(stimuli, 4))
            brain = latent @ rng.normal(size=(4, neurons)) + 0.7 * rng.normal(size=(stimuli, neurons))
            weights = rng.normal(size=(4, filters))
            off, on = (latent @ weights + noise * rng.normal(size=(stimuli, filters)) for noise in (1.0, 1.0))
            ids = [f"s{k:04d}" for k in range(stimuli)]
            recorded = [activations(one.T, ["x"] * stimuli).drop_vars("label") for one in (off, on)]
            found = neural_match(
                recorded[0], neural(brain.T, ids), methods=methods, gained=recorded[1], seed=int(rng.integers(2**31))
            )
            ends[:, i] = np.stack([found["difference_low"].values[0], found["difference_high"].values[0]], axis=-1)
        return {f"change of match with gains, {name}: jackknife over stimuli": Outcome(
            OFFERED, low=ends[k, :, 0], high=ends[k, :, 1], truth=0.0
        ) for k, name in enumerate(methods)}  # fmt: skip

    return simulate


CONTRAST_CASES = (
    Case("saliency-5-permuted", "5 networks, own images, learned gains permuted over filters",
         saliency_claim(5, "permuted"), 0.3, 6),
    Case("saliency-10-permuted", "10 networks, own images, learned gains permuted over filters",
         saliency_claim(10, "permuted"), 0.2, 6),
    Case("saliency-5-covarying", "5 networks, own images, gains as correlated as the filters, unrelated to the objects",
         saliency_claim(5, "covarying"), 0.3, 6),
    Case("saliency-10-covarying", "10 networks, own images, gains as correlated as the filters, unrelated",
         saliency_claim(10, "covarying"), 0.2, 6),
    Case("saliency-composites", "100 composites of one network", composites_interval(100), 0.0, 1),
    Case("images", "60 images, 90 % of them hits", images_interval(60, 0.9), 0.0, 1),
    Case("images-most", "60 images, 97 % of them hits", images_interval(60, 0.97), 0.0, 1),
    Case("localisation-permuted", "gains independent over filters", permuted_localisation(correlated=False), 1.0, 6),
    Case("localisation-permuted-correlated", "gains as correlated as the filters",
         permuted_localisation(correlated=True), 1.0, 20),
    Case("compare-arms", "two equal arms, 4 tasks on the same 200 images, 40 targets each, area .85",
         arms_by_image(40, 200, 2.0), 0.5, 6),
    Case("compare-arms-high", "two equal arms, 4 tasks on the same 200 images, 40 targets each, area .97",
         arms_by_image(40, 200, 3.6), 0.7, 6),
    Case("lesions-one", "one network, 39 sets a control, filters independent",
         lesions(1, covarying=False, repeats=39), 1.0, 20),
    Case("lesions-one-covarying", "one network, 39 sets a control, filters covary",
         lesions(1, covarying=True, repeats=39), 1.0, 20),
    Case("lesions-5", "5 networks, 5 sets a control, filters covary", lesions(5, covarying=True, repeats=5), 1.0, 10),
    Case("chosen-filters", "filters chosen by what has nothing to do with their responses",
         chosen_filters(covarying=False), 1.0, 10),
    Case("chosen-filters-covarying", "filters chosen by a property that alike filters share",
         chosen_filters(covarying=True), 1.0, 20),
    Case("rivals-5", "5 networks, |d'| and Fisher weights equally related to gains", rivals(5), 1.0, 10),
    Case("partials-5", "5 networks, gains and |d'| both follow mean activation", partials(5, reliability=1.0), 0.5, 20),
    Case("partials-5-noisy", "5 networks, the same, mean activation measured with reliability .7",
         partials(5, reliability=0.7), 0.5, 20),
    Case("match-change", "60 stimuli, equal match with and without gains",
         match_change(("rsa", "cka", "ridge"), stimuli=60), 0.0, 20),
)  # fmt: skip

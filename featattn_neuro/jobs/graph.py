"""Which stages a configuration has, what each needs, what it costs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from featattn_neuro.jobs.config import THEORY_ARMS, RunConfig

STEPS = ("network", "record", "gains", "selectivity", "associate", "saliency", "report")
"""Steps of a run in order, as the scripts in analyses/ name them; `until=` stops after one."""


@dataclass(frozen=True)
class Stage:
    """One unit of work: a function of `jobs.stages`, a network, perhaps an arm.

    Attributes
    ----------
    id : name of its record. step : the step it belongs to. needs : ids that come first. settings : the part of the
    configuration it depends on. code : groups of source files it depends on. *_images : images times passes of arms
    with gains behind pooling (each task its own batches, or all the same), full fine-tuning, arms at the very sites,
    and arms of affine norms.
    """

    id: str
    step: str
    function: str
    network: str
    arm: str | None
    needs: tuple[str, ...]
    settings: Mapping[str, Any]
    code: tuple[str, ...]
    gain_images: float = 0.0
    shared_images: float = 0.0
    full_images: float = 0.0
    any_images: float = 0.0
    norm_images: float = 0.0
    fixed_seconds: float = 1.0
    fits: int = 0


def _sections(config: RunConfig, *names: str) -> dict[str, Any]:
    whole = config.model_dump(mode="json")
    found = {name: whole[name] for name in names}
    if "networks" in found and found["networks"]["train"] is not None:
        # how many networks there are changes none of them
        train = {k: v for k, v in found["networks"]["train"].items() if k not in ("count", "first_seed")}
        found["networks"] = {**found["networks"], "train": train}
    return found


def _network_settings(config: RunConfig, name: str) -> dict[str, Any]:
    found = _sections(config, "stimuli", "classes", "networks", "duplicates", "corrupt", "splits", "composites")
    found["networks"]["pretrained"] = [p for p in found["networks"]["pretrained"] if p["name"] == name]
    if found["networks"]["pretrained"]:  # seeds follow from the place in the list
        found["place"] = config.network_names().index(name)
    return {**found, "network": name}


def stages_of(config: RunConfig, content: Mapping[str, str], n_tasks: int) -> list[Stage]:
    """All stages of a run but the last (the report), in an order in which they could be done one after the other.

    Parameters
    ----------
    content : network name to a hash of what the configuration cannot show: stimulus ids, given weights.
    n_tasks : number of classes of the stimuli; only costs depend on it.
    """
    found: list[Stage] = []
    for name in config.network_names():
        found += _network_stages(config, name, content[name], n_tasks)
    return found


def _network_stages(config: RunConfig, name: str, content: str, n_tasks: int) -> list[Stage]:
    return _NetworkStages(config, name, n_tasks).all(content)


class _NetworkStages:
    """What one network goes through, from its weights to the rows that the statistics over networks gather."""

    def __init__(self, config: RunConfig, name: str, n_tasks: int) -> None:
        self.config, self.name, self.n_tasks = config, name, n_tasks
        self.whole = config.model_dump(mode="json")
        self.learning = _sections(config, "learning")
        self.images = config.composites["G"] * config.learning.epochs * n_tasks
        self.base, self.gain = f"network.{name}", f"arm_gain.{name}"
        self.seed = {"seed": config.statistics.seed}

    def stage(
        self, id_: str, step: str, function: str, needs: list[str], settings: dict[str, Any], **more: Any
    ) -> Stage:
        code = more.pop("code", ("learn",))
        arm = more.pop("arm", None)
        return Stage(f"{id_}.{self.name}", step, function, self.name, arm, tuple(needs), settings, code, **more)

    def measured(self, id_: str, step: str, function: str, needs: list[str], settings: dict[str, Any]) -> Stage:
        """A stage of statistics, seconds long."""
        return self.stage(id_, step, function, needs, settings, code=("learn", "measure"), fixed_seconds=3.0)

    def all(self, content: str) -> list[Stage]:
        network = {**_network_settings(self.config, self.name), "content": content}
        found = [
            self.stage("network", "network", "train_network", [], network, fixed_seconds=8.0),
            self.stage("record", "record", "record", [self.base], {}, fixed_seconds=3.0),
        ]
        return [*found, *self.arms(), *self.curves(), *self.of_gains(), *self.association(), *self.ends()]

    def arms(self) -> Iterator[Stage]:
        config, n_tasks = self.config, self.n_tasks
        for arm in config.arm_names():
            settings = {**self.learning, "arm": self.whole["arms"].get(arm)}
            choices = len(config.arms[arm].choices()) if arm in config.arms else 1
            origin = {"permuted": "arm_gain", "permuted_head": "arm_gain_head"}
            needs = [f"{origin[arm]}.{self.name}"] if arm in origin else [self.base]
            cost = cost_of(config, arm)
            more = {cost: float(self.images * choices)} if cost else {}
            fits = choices * n_tasks if cost or arm == "probe" else 0
            if arm in THEORY_ARMS:  # a forward pass over V and P for every strength
                splits = config.composites["V"] + config.composites["P"]
                more = {"any_images": float(splits * n_tasks * len(config.arms[arm].strengths))}
            yield self.stage(f"arm_{arm}", "gains", "learn_arm", needs, settings, arm=arm, fits=fits, **more)

    def curves(self) -> Iterator[Stage]:
        config, n_tasks = self.config, self.n_tasks
        if config.curves is None:
            return
        curves = _sections(config, "curves")
        sizes = [min(2 * m, config.curves.batch_size) for m in config.curves.examples]
        per_rate = (
            n_tasks * config.curves.updates * sum(sizes),
            n_tasks * config.curves.updates * config.curves.batch_size,
        )
        for arm in config.curve_arms():
            rates = len(config.curves.rates_examples[arm]), len(config.curves.rates_updates[arm])
            own = {axis: {arm: curves["curves"][axis][arm]} for axis in ("rates_examples", "rates_updates")}
            made = {key: self.whole["arms"][arm][key] for key in ("parameterisation", "combination")}
            yield self.stage(
                f"curve_{arm}", "gains", "learn_curves", [self.base], {"curves": {**curves["curves"], **own}, **made},
                arm=arm, fits=n_tasks * (rates[0] * len(config.curves.examples) + rates[1]),
                **_curve_costs(config, arm, per_rate[0] * rates[0], per_rate[1] * rates[1]),
            )  # fmt: skip

    def of_gains(self) -> Iterator[Stage]:
        """Further learning that starts from what the arm of gains has chosen."""
        config, needs = self.config, [self.base, self.gain]
        cost = cost_of(config, "gain") or "shared_images"
        made = {key: self.whole["arms"]["gain"][key] for key in ("parameterisation", "penalty_norm")}
        if config.doses:
            yield self.stage("doses", "gains", "measure_doses", needs, {"doses": self.whole["doses"]})
        yield self.stage(
            "halves", "gains", "learn_halves", needs, {**self.learning, **made}, fits=2 * self.n_tasks,
            **{cost: float(self.images)},
        )  # fmt: skip
        if config.statistics.reference_gain:
            singles = config.splits["G"].per_class * self.n_tasks * config.learning.epochs * self.n_tasks
            yield self.stage(
                "reference_gain", "gains", "learn_reference_gain", needs, {**self.learning, **made},
                shared_images=float(singles), fits=1,
            )  # fmt: skip
        if config.statistics.refit_layers:
            refits, choices = config.statistics.refits, config.arms["gain"].choices()
            made |= {"refits": refits, "refit_layers": list(config.statistics.refit_layers), "choices": choices}
            yield self.stage(
                "refits", "associate", "learn_refits", needs, {**self.learning, **self.seed, **made},
                fits=refits * self.n_tasks * len(choices), fixed_seconds=2.0 + refits * 0.02 * len(choices),
                **{cost: float(self.images * refits * len(choices) * _early(config, self.name))},
            )  # fmt: skip

    def association(self) -> Iterator[Stage]:
        statistics = self.config.statistics
        yield self.measured("selectivity", "selectivity", "measure_selectivity", [f"record.{self.name}"], self.seed)
        needs = ["arm_gain", "selectivity", "halves"]
        needs += ["reference_gain"] if statistics.reference_gain else []
        needs += ["refits"] if statistics.refit_layers else []
        settings = {
            **self.seed,
            "permutations": statistics.permutations,
            "refit_layers": list(statistics.refit_layers),
            "reference_gain": statistics.reference_gain,
        }
        yield self.measured("association", "associate", "associate", [f"{one}.{self.name}" for one in needs], settings)

    def ends(self) -> Iterator[Stage]:
        config = self.config
        if config.saliency is not None:
            needs = [self.gain, f"selectivity.{self.name}"]
            settings = {**_sections(config, "saliency"), **self.seed}
            yield self.measured("saliency", "saliency", "measure_saliency", needs, settings)
        done = [f"arm_{arm}.{self.name}" for arm in config.arm_names()]
        done += [f"curve_{arm}.{self.name}" for arm in config.curve_arms()]
        yield self.stage("gather", "report", "gather", done, {"arms": config.arm_names()}, code=("learn", "measure"))


def cost_of(config: RunConfig, arm: str) -> str | None:
    """Which cost of a `Stage` an arm has; None for arms that learn nothing per image on the network."""
    if arm == "full":
        return "full_images"
    if arm not in config.arms or arm in ("probe", "adabn", *THEORY_ARMS):
        return None
    from featattn_neuro.nets.arms import arm_rule

    place = arm_rule(arm, parameterisation=config.arms[arm].parameterisation).place
    return {"positive": "shared_images", "shifted": "shared_images"}.get(place, f"{place}_images")


def _curve_costs(config: RunConfig, arm: str, examples: int, updates: int) -> dict[str, float]:
    """Images times passes of the two learning curves of an arm; nothing for a read-out, whose features are fixed."""
    cost = cost_of(config, arm)
    if cost is None:
        return {}
    own = "gain_images" if cost == "shared_images" else cost  # few examples: each task has its own
    return {cost: float(examples + updates)} if own == cost else {own: float(examples), cost: float(updates)}


def _early(config: RunConfig, name: str) -> float:
    """1 where the refit null asks for more than the last layer, which alone is cheap."""
    del name
    last = config.networks.layers[-1:] if config.networks.train is not None else []
    return 0.0 if list(config.statistics.refit_layers) == list(last) else 1.0

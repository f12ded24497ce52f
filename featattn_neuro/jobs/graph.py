"""Which stages a configuration has, what each needs, what it costs."""

from __future__ import annotations

from collections.abc import Mapping
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
    learning = _sections(config, "learning")
    whole = config.model_dump(mode="json")
    images = config.composites["G"] * config.learning.epochs * n_tasks
    base = f"network.{name}"
    learn, measure = ("learn",), ("learn", "measure")

    def stage(id_: str, step: str, function: str, needs: list[str], settings: dict[str, Any], **more: Any) -> Stage:
        code = more.pop("code", learn)
        arm = more.pop("arm", None)
        return Stage(f"{id_}.{name}", step, function, name, arm, tuple(needs), settings, code, **more)

    found = [
        stage(
            "network",
            "network",
            "train_network",
            [],
            {**_network_settings(config, name), "content": content},
            fixed_seconds=8.0,
        ),
        stage("record", "record", "record", [base], {}, fixed_seconds=3.0),
    ]
    for arm in config.arm_names():
        settings = {**learning, "arm": whole["arms"].get(arm)}
        choices = len(config.arms[arm].choices()) if arm in config.arms else 1
        needs = {"permuted": [f"arm_gain.{name}"], "permuted_head": [f"arm_gain_head.{name}"]}.get(arm, [base])
        cost = cost_of(config, arm)
        more = {cost: float(images * choices)} if cost else {}
        fits = choices * n_tasks if cost or arm == "probe" else 0
        if arm in THEORY_ARMS:  # a forward pass over V and P for every strength
            splits = config.composites["V"] + config.composites["P"]
            more = {"any_images": float(splits * n_tasks * len(config.arms[arm].strengths))}
        found.append(stage(f"arm_{arm}", "gains", "learn_arm", needs, settings, arm=arm, fits=fits, **more))
    if config.curves is not None:
        curves = _sections(config, "curves")
        per_rate = (
            n_tasks * config.curves.updates * sum(min(2 * m, config.curves.batch_size) for m in config.curves.examples),
            n_tasks * config.curves.updates * config.curves.batch_size,
        )
        for arm in config.curve_arms():
            rates = len(config.curves.rates_examples[arm]), len(config.curves.rates_updates[arm])
            own = {axis: {arm: curves["curves"][axis][arm]} for axis in ("rates_examples", "rates_updates")}
            made = {key: whole["arms"][arm][key] for key in ("parameterisation", "combination")}
            settings = {"curves": {**curves["curves"], **own}, **made}
            found.append(
                stage(f"curve_{arm}", "gains", "learn_curves", [base], settings, arm=arm,
                      fits=n_tasks * (rates[0] * len(config.curves.examples) + rates[1]),
                      **_curve_costs(config, arm, per_rate[0] * rates[0], per_rate[1] * rates[1]))
            )  # fmt: skip
    gain = f"arm_gain.{name}"
    if config.doses:
        found.append(stage("doses", "gains", "measure_doses", [base, gain], {"doses": whole["doses"]}))
    found.append(
        stage(
            "halves",
            "gains",
            "learn_halves",
            [base, gain],
            learning,
            shared_images=float(images),
            fits=2 * n_tasks,
        )
    )
    seed = {"seed": config.statistics.seed}
    permutations = {**seed, "permutations": config.statistics.permutations}
    refit_layers = list(config.statistics.refit_layers)
    found.append(
        stage(
            "selectivity",
            "selectivity",
            "measure_selectivity",
            [f"record.{name}"],
            seed,
            code=measure,
            fixed_seconds=3.0,
        )
    )
    association_needs = [gain, f"selectivity.{name}", f"halves.{name}"]
    if config.statistics.reference_gain:
        singles = config.splits["G"].per_class * n_tasks * config.learning.epochs * n_tasks
        found.append(
            stage("reference_gain", "gains", "learn_reference_gain", [base, gain], learning,
                  shared_images=float(singles), fits=1)
        )  # fmt: skip
        association_needs.append(f"reference_gain.{name}")
    if refit_layers:
        refits = config.statistics.refits
        refit_choices = len(config.arms["gain"].choices())
        refitted = {"refits": refits, "refit_layers": refit_layers, "choices": config.arms["gain"].choices()}
        found.append(
            stage("refits", "associate", "learn_refits", [base, gain], {**learning, **seed, **refitted},
                  fits=refits * n_tasks * refit_choices, fixed_seconds=2.0 + refits * 0.02 * refit_choices,
                  shared_images=float(images * refits * refit_choices * _early(config, name)))
        )  # fmt: skip
        association_needs.append(f"refits.{name}")
    found.append(
        stage(
            "association",
            "associate",
            "associate",
            association_needs,
            {**permutations, "refit_layers": refit_layers, "reference_gain": config.statistics.reference_gain},
            code=measure,
            fixed_seconds=3.0,
        )
    )
    if config.saliency is not None:
        settings = {**_sections(config, "saliency"), **seed}
        found.append(
            stage(
                "saliency",
                "saliency",
                "measure_saliency",
                [gain, f"selectivity.{name}"],
                settings,
                code=measure,
                fixed_seconds=3.0,
            )
        )
    arms = [f"arm_{arm}.{name}" for arm in config.arm_names()]
    curves_done = [f"curve_{arm}.{name}" for arm in config.curve_arms()]
    found.append(stage("gather", "report", "gather", arms + curves_done, {"arms": config.arm_names()}, code=measure))
    return found


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

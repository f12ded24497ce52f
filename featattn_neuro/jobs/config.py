"""Configurations of runs: what may be said in the YAML file, validated before anything is computed."""

from __future__ import annotations

import difflib
from collections.abc import Hashable, Iterable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from featattn_neuro.errors import ConfigError

GAIN_ARMS = ("gain", "gain_head", "uniform")
ARMS = ("ungained", "probe", "gain", "gain_head", "full", "uniform", "permuted", "permuted_head")
"""The arms that every run may have, in the order of tables and figures; `ungained` is the frozen detector itself."""
THEORY_ARMS = ("tuning", "gradient")
"""Arms whose gains are derived and not learned; their strength is chosen on V."""
MORE_ARMS = (
    "bounded", "shift", "shift_head", "gain_shift", "gain_shift_head", "norm_affine", "norm_affine_head", "adabn",
    "spatial", "feature_spatial", *THEORY_ARMS,
)  # fmt: skip
"""Further arms, which a configuration may name under `arms`; they come behind the others."""
CURVE_ARMS = tuple(arm for arm in (*ARMS, *MORE_ARMS) if arm not in ("ungained", "permuted", "permuted_head"))
"""Arms that `curves` may name, where they learn."""

Positive = Annotated[int, Field(gt=0)]
Rate = Annotated[float, Field(gt=0)]
Penalty = Annotated[float, Field(ge=0)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


def _no_layer_twice(layers: list[str]) -> list[str]:
    for layer in layers:
        if layers.count(layer) > 1:
            raise ValueError(f"{layer!r} is there twice; name each layer once")
    return layers


LayerNames = Annotated[list[str], AfterValidator(_no_layer_twice)]


class TrainConfig(_Strict):
    """Small networks trained here, one per seed, on single images of R with some classes left out."""

    architecture: str = "digits_cnn"
    count: Positive = 5
    first_seed: int = 0
    omitted_classes: Annotated[int, Field(ge=0)] = 2
    epochs: Positive = 20
    batch_size: Positive = 50
    rate: Rate = 0.002


class PretrainedConfig(_Strict):
    """One network with given weights. `model` is a name, or module:function of the user's own code."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")]
    model: str
    weights: str = "pretrained"
    layers: LayerNames
    pixels: Positive | None = None
    head: str | None = None
    detector: Literal["logistic", "head"] = "logistic"


class NetworksConfig(_Strict):
    """Networks of the run: trained here, or given. `layers`: modules; gained is what they give."""

    train: TrainConfig | None = None
    pretrained: list[PretrainedConfig] = []
    layers: LayerNames = []
    partition_seed: int = 1000

    @model_validator(mode="after")
    def _one_of(self) -> NetworksConfig:
        if (self.train is None) == (not self.pretrained):
            raise ValueError("give `train` or `pretrained`, one of them")
        if self.train is not None and not self.layers:
            raise ValueError("trained networks need `layers`, the gained sites")
        names = [one.name for one in self.pretrained]
        twice = [name for name in names if names.count(name) > 1]
        if twice:
            raise ValueError(f"two networks are called {twice[0]!r}; results are filed by name, so rename one")
        if "pooled" in names:
            raise ValueError("results over all networks are filed as 'pooled'; call the network otherwise")
        return self


class SplitConfig(_Strict):
    """Images per class of one split; `path` keeps only files whose relative path matches this glob."""

    per_class: Positive
    path: str | None = None


class ArmConfig(_Strict):
    """Choices of learning rate and penalty of one arm; with more than one the best mean ROC area on V is taken.

    `parameterisation` and `combination` of gains, `penalty_norm` l2 or l1. Arms from theory have `strengths` instead of
    rates, `mode` (bidirectional, positive, or additive: before the activations that are gained) and `clip` (no factor
    below 0; true unless given, and not for additive ones); the gradient arm `normalise` and `sign` too. AdaBN has
    nothing to choose.
    """

    rates: list[Rate] = []
    penalties: list[Penalty] = [0.0]
    penalty_norm: Literal["l2", "l1"] = "l2"
    parameterisation: str | None = None
    combination: Literal["multiplicative", "additive"] | None = None
    strengths: list[Penalty] = []
    mode: Literal["bidirectional", "positive", "additive"] = "bidirectional"
    clip: bool | None = None
    normalise: Literal["layer", "filter"] = "layer"
    sign: Literal[-1, 1] = -1

    @model_validator(mode="after")
    def _some(self) -> ArmConfig:
        if not self.penalties:
            raise ValueError("give at least one rate and one penalty")
        if self.parameterisation is not None:
            from featattn_neuro.nets.parameterisations import Parameterisation

            try:
                Parameterisation.parse(self.parameterisation)
            except ConfigError as error:
                raise ValueError(str(error)) from None
        return self

    def choices(self) -> list[tuple[float, float]]:
        """(rate, penalty), in the order that settles ties: smaller rate first, then larger penalty."""
        return [(rate, penalty) for rate in sorted(self.rates) for penalty in sorted(self.penalties, reverse=True)]


class LearningConfig(_Strict):
    """Batches and length of learning, the same for all arms; `shuffles` of the permuted arms.

    `reference`: whether every arm's score on the reference task (naming single images of P) is measured afterwards.
    """

    batch_size: Positive = 60
    epochs: Positive = 30
    shuffles: Positive = 5
    reference: bool = False


class CurvesConfig(_Strict):
    """Learning curves: over examples per class after `updates`, and over updates with all of G.

    T2 is about those of gain_head and full; without either it is not judged, and its line says which is missing.
    """

    examples: list[Positive] = [1, 2, 5, 10, 20, 50, 100]
    updates: Positive = 120
    every: Positive = 10
    batch_size: Positive = 50
    rates_examples: dict[str, list[Rate]]
    rates_updates: dict[str, list[Rate]]

    @model_validator(mode="after")
    def _both(self) -> CurvesConfig:
        for name in ("rates_examples", "rates_updates"):
            rates: dict[str, list[float]] = getattr(self, name)
            for arm in rates:
                if arm not in CURVE_ARMS:
                    raise ValueError(_unknown_key(f"curves.{name}.{arm}", arm, CURVE_ARMS))
            if not rates or not all(rates.values()):
                raise ValueError(f"{name} needs at least one arm, and at least one rate for each")
        if set(self.rates_examples) != set(self.rates_updates):
            only = sorted(set(self.rates_examples) ^ set(self.rates_updates))
            raise ValueError(f"rates_examples and rates_updates must name the same arms; {only[0]} is in one of them")
        if self.updates % self.every:
            raise ValueError(f"updates ({self.updates}) must be a multiple of every ({self.every})")
        ascending = all(a < b for a, b in pairwise(self.examples))
        if len(self.examples) < 2 or not ascending or self.examples[0] != 1:
            came = self.examples or "none"
            raise ValueError(f"examples must ascend from 1, two or more; came {came}; name some, for example [1, 2, 5]")
        return self


class StatisticsConfig(_Strict):
    """Permutations of the tests, and the refit null: how many relabellings, at which layers (empty: none).

    `reference_gain`: whether gains are also learned on the reference task, and given to partial correlations.
    """

    permutations: Positive = 9999
    seed: int = 0
    refits: Positive = 50
    refit_layers: LayerNames = []
    reference_gain: bool = False


class SaliencyConfig(_Strict):
    """Cue swap: what it is measured on, permutations of gains within layer, and how many composites the page shows.

    `composites`: "pairs" = averaged pairs of P, ink above `threshold` that only one has; "arrays" = 2 × 2 arrays of P,
    each object in its quarter, shown at twice the side (`arrays`: how many; none = as many as P allows).
    `localisation_permutations`: of the null of the scores that are printed beside (0 = no null).
    `sheet`: composites of each class on the page's contact sheets (0 = no sheets).
    """

    composites: Literal["pairs", "arrays"] = "pairs"
    arrays: Positive | None = None
    threshold: Annotated[float, Field(gt=0, lt=1)] = 0.25
    permutations: Positive = 1000
    localisation_permutations: Annotated[int, Field(ge=0)] = 1000
    shown: Positive = 6
    sheet: Annotated[int, Field(ge=0)] = 6


def _keys(section: str, came: Mapping[str, object], needed: Iterable[str], allowed: Iterable[str] = ()) -> None:
    wanted, more = list(needed), list(allowed)
    for name in came:
        if name not in wanted and name not in more:
            raise ValueError(_unknown_key(f"{section}.{name}", name, [*wanted, *more]))
    missing = [name for name in wanted if name not in came]
    if missing:
        also = f" and may have {', '.join(more)}" if more else ""
        raise ValueError(f"{section} needs {', '.join(wanted)}{also}; missing {', '.join(missing)}")


class RunConfig(_Strict):
    """A whole run."""

    name: str
    title: str = ""
    stimuli: str
    classes: list[str] = []
    networks: NetworksConfig
    duplicates: Literal["error", "drop"] = "error"
    corrupt: Literal["error", "skip"] = "error"
    splits: dict[str, SplitConfig]
    composites: dict[str, Positive]
    learning: LearningConfig = LearningConfig()
    arms: dict[str, ArmConfig]
    curves: CurvesConfig | None = None
    statistics: StatisticsConfig = StatisticsConfig()
    saliency: SaliencyConfig | None = None
    doses: list[Annotated[float, Field(ge=0)]] = []
    workers: Positive = 2

    @model_validator(mode="after")
    def _complete(self) -> RunConfig:
        _keys("splits", self.splits, "RGVSP")
        _keys("composites", self.composites, "GVSP")
        _keys("arms", self.arms, ("probe", "gain", "gain_head", "uniform"), ("full", *MORE_ARMS))
        for name, arm in self.arms.items():
            _check_arm(name, arm)
        if len(set(self.doses)) < len(self.doses):
            raise ValueError(f"doses: {max(self.doses, key=self.doses.count)} is there twice; name each dose once")
        for what, wanted in {"doses": self.doses, "statistics.reference_gain": self.statistics.reference_gain}.items():
            made = self.arms["gain"].parameterisation
            if wanted and made is not None and not _has_logarithm(made):
                raise ValueError(
                    f"arms.gain: gains that are {made} may be 0 or less, and {what} takes their logarithm; choose "
                    f"log or bounded above 0, or leave {what} out"
                )
        for name in self.curves.rates_examples if self.curves is not None else ():
            if name not in self.arms or not self.arms[name].rates:
                raise ValueError(f"curves: {name} has no learning curve; name arms that learn and are under `arms`")
        return self

    def network_names(self) -> list[str]:
        """Names of the run's networks, in order."""
        if self.networks.train is not None:
            first = self.networks.train.first_seed
            return [f"network_{first + k}" for k in range(self.networks.train.count)]
        return [one.name for one in self.networks.pretrained]

    def arm_names(self) -> list[str]:
        """Arms of this run in table order."""
        learned = [*self.arms, "ungained", "permuted", "permuted_head"]
        return [arm for arm in (*ARMS, *MORE_ARMS) if arm in learned]

    def curve_arms(self) -> list[str]:
        """Arms that have learning curves, in table order."""
        return [] if self.curves is None else [arm for arm in self.arm_names() if arm in self.curves.rates_examples]


def _check_arm(name: str, arm: ArmConfig) -> None:
    """Refuse settings that an arm would ignore, and an arm that has nothing to choose from."""
    theory, adapted = name in THEORY_ARMS, name == "adabn"
    if not (theory or adapted) and not arm.rates:
        raise ValueError(f"arms.{name}: give at least one rate and one penalty")
    if theory and not arm.strengths:
        raise ValueError(f"arms.{name}: give at least one of the strengths")
    given = [key for key, field in ArmConfig.model_fields.items() if getattr(arm, key) != field.default]
    learns_gains = not (theory or adapted or name in ("probe", "full", "shift", "shift_head")) and "norm" not in name
    unused = {
        "rates": theory or adapted, "penalties": theory or adapted, "penalty_norm": theory or adapted or name == "full",
        "strengths": not theory, "mode": not theory, "clip": not theory,
        "normalise": name != "gradient", "sign": name != "gradient",
        "parameterisation": not learns_gains, "combination": name != "feature_spatial",
    }  # fmt: skip
    if name == "uniform" and (arm.parameterisation or "").endswith("+layer_mean"):
        raise ValueError(f"arms.{name}: the mean gain of a layer is all that this arm learns; leave +layer_mean out")
    if theory and arm.mode == "additive" and arm.clip is not None:
        raise ValueError(f"arms.{name}: clip is of factors, and mode additive multiplies nothing; leave clip out")
    wrong = sorted(key for key in given if unused.get(key))
    if wrong:
        raise ValueError(f"arms.{name}: this arm has no {wrong[0]}; leave it out")


def _has_logarithm(parameterisation: str) -> bool:
    """Whether no gain of this parameterisation can be 0 or less."""
    from featattn_neuro.nets.parameterisations import Parameterisation

    made = Parameterisation.parse(parameterisation)
    return made.log or made.low > 0


def _known_keys(where: tuple[str | int, ...]) -> list[str]:
    """Keys that are allowed at a place of the configuration, to name the nearest one."""
    model: Any = RunConfig
    for part in where:
        if isinstance(part, int) or not (isinstance(model, type) and issubclass(model, BaseModel)):
            continue
        if part not in model.model_fields:
            continue
        annotation = model.model_fields[part].annotation
        model = next((t for t in _inside(annotation) if isinstance(t, type) and issubclass(t, BaseModel)), None)
    if isinstance(model, type) and issubclass(model, BaseModel):
        return list(model.model_fields)
    return []


def _inside(annotation: Any) -> list[Any]:
    arguments = getattr(annotation, "__args__", ())
    return [annotation] if not arguments else [t for a in arguments for t in _inside(a)]


def parse_config(text: str, origin: str) -> RunConfig:
    """Validate YAML text; one sentence naming field and reason, and the nearest known key for an unknown one."""
    try:
        raw = yaml.load(text, Loader=_OnceLoader)  # noqa: S506 - a safe loader
    except yaml.YAMLError as error:
        where = getattr(error, "problem_mark", None)
        line = f" (line {where.line + 1})" if where else ""
        raise ConfigError(f"{origin} is not valid YAML{line}: {getattr(error, 'problem', error)}; mend it") from None
    if not isinstance(raw, dict):
        raise ConfigError(
            f"{origin} must be a YAML mapping of settings; came {type(raw).__name__}; see analyses/configs"
        )
    try:
        return RunConfig.model_validate(raw)
    except ValidationError as error:
        problems = error.errors()
        # a misspelt key is the reason of the key that is missing, so it is told first
        first = next((one for one in problems if one["type"] == "extra_forbidden"), problems[0])
        place = ".".join(str(p) for p in first["loc"])
        if first["type"] == "extra_forbidden":
            *parents, key = first["loc"]
            raise ConfigError(f"{origin}: {_unknown_key(place, str(key), _known_keys(tuple(parents)))}") from None
        reason, came = first["msg"].removeprefix("Value error, "), first.get("input")
        where = "" if not place or reason.startswith("unknown key") else f"{place}: "
        tail = "" if isinstance(came, dict) else f"; came {_short(came)}"  # a whole section says nothing
        raise ConfigError(f"{origin}: {where}{reason}{tail}") from None


class _OnceLoader(yaml.SafeLoader):
    """Refuses a key that a mapping has twice, of which YAML would silently keep the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value in seen:
                problem = f"the key {key.value!r} is there twice, and only one of them would count"
                raise yaml.constructor.ConstructorError(None, None, problem, key.start_mark)
            seen.add(key.value if isinstance(key, yaml.ScalarNode) else None)
        return super().construct_mapping(node, deep)


def _unknown_key(place: str, key: str, known: Sequence[str]) -> str:
    """Which key is unknown, and the nearest known one."""
    close = difflib.get_close_matches(key, known, n=1, cutoff=0.4)
    hint = f"did you mean {close[0]!r}?" if close else f"known keys here: {', '.join(known)}"
    return f"unknown key {place!r}; {hint}"


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "…"


def load_config(path: str | Path) -> RunConfig:
    """Read and validate a configuration file."""
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ConfigError(
            f"wanted a configuration file; there is none at {path}; those that come with the package are in "
            "analyses/configs"
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise ConfigError(f"wanted a configuration file; {path} cannot be read ({reason}); name a YAML file") from None
    return parse_config(text, str(path))

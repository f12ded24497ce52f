"""Configurations: what is accepted, and what a mistake is told."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from featattn_neuro.errors import ConfigError
from featattn_neuro.jobs.config import ARMS, RunConfig, load_config, parse_config
from featattn_neuro.jobs.runner import resolve, shown_command
from tests.jobs.conftest import TINY, changed, write_config

CONFIGS = sorted((Path(__file__).resolve().parents[2] / "analyses" / "configs").glob("*.yaml"))
DIGITS = {**TINY, "stimuli": "digits"}


def parse(config: dict[str, Any]) -> RunConfig:
    return parse_config(yaml.safe_dump(config), "mine.yaml")


def test_the_configurations_that_come_with_the_package():
    assert {path.stem for path in CONFIGS} >= {"digits", "natural"}
    for path in CONFIGS:
        config = load_config(path)
        assert config.name == path.stem
        assert config.title


THREE, PENALTIES = {0.01, 0.03, 0.1}, {0.0, 0.001, 0.01}
"""Rates and penalties that V chooses among, for every arm but full fine-tuning."""


@pytest.mark.parametrize(("name", "networks"), [("digits", 5), ("digits_full", 10)])
def test_the_digits_jobs_have_the_numbers_that_were_fixed_before_the_data(name: str, networks: int):
    """A number that moves here moves what the verdicts are about."""
    config = load_config(next(path for path in CONFIGS if path.stem == name))
    train = config.networks.train
    assert train is not None
    assert (train.count, train.first_seed, train.omitted_classes) == (networks, 0, 2)
    assert config.networks.partition_seed == 1000
    assert config.networks.layers == ["relu1", "relu2", "relu3"]
    assert config.stimuli == "digits"
    assert config.classes == []
    assert {split: one.per_class for split, one in config.splits.items()} == {
        "R": 200, "G": 120, "V": 40, "S": 70, "P": 70
    }  # fmt: skip
    assert all(one.path is None for one in config.splits.values())
    assert config.composites == {"G": 600, "V": 200, "S": 350, "P": 350}
    assert (config.learning.batch_size, config.learning.epochs) == (60, 30)
    assert set(config.arms) == {"probe", "gain", "gain_head", "full", "uniform"}
    assert all(arm.penalty_norm == "l2" and arm.parameterisation is None for arm in config.arms.values())
    curves = config.curves
    assert curves is not None
    assert curves.examples == [1, 2, 5, 10, 20, 50, 100]
    assert (curves.updates, curves.every, curves.batch_size) == (120, 10, 50)
    assert set(curves.rates_examples) == set(curves.rates_updates) == {"gain_head", "full"}
    assert (config.statistics.permutations, config.statistics.refit_layers) == (9999, ["relu3"])
    assert config.saliency is not None
    assert (config.saliency.composites, config.saliency.threshold) == ("pairs", 0.25)


def test_digits_full_chooses_among_nine_and_digits_takes_one_of_them():
    full, quick = (load_config(next(path for path in CONFIGS if path.stem == n)) for n in ("digits_full", "digits"))
    for name, arm in full.arms.items():
        # full fine-tuning has smaller rates and the probe larger ones, which README declares
        own = {"full": {0.001, 0.003, 0.01}, "probe": {0.1, 0.3, 1.0}}
        assert set(arm.rates) == own.get(name, THREE), name
        assert set(arm.penalties) == PENALTIES, name
        assert len(arm.choices()) == 9
        assert len(quick.arms[name].choices()) == 1
        assert quick.arms[name].choices()[0] in arm.choices(), name
    for of_full, of_quick in zip(
        (full.curves.rates_examples, full.curves.rates_updates),
        (quick.curves.rates_examples, quick.curves.rates_updates),
        strict=True,
    ):
        assert of_full == {"gain_head": [0.01, 0.03, 0.1], "full": [0.0003, 0.001, 0.003]}
        assert all(len(rates) == 1 and rates[0] in of_full[arm] for arm, rates in of_quick.items())


def test_arms_and_networks_in_order():
    config = parse(DIGITS)
    assert config.arm_names() == list(ARMS)
    assert parse(changed(DIGITS, curves=None, arms__full=None)).arm_names() == [a for a in ARMS if a != "full"]
    assert parse(changed(DIGITS, networks__train__first_seed=7)).network_names() == ["network_7", "network_8"]
    rates = {"probe": [0.1], "gain": [0.1]}
    some = changed(DIGITS, arms__full=None, curves__rates_examples=rates, curves__rates_updates=rates)
    assert parse(some).curve_arms() == ["probe", "gain"], "curves need not be those that T2 compares"


def test_choices_settle_ties_by_smaller_rate_then_larger_penalty():
    arm = parse(changed(DIGITS, arms__gain={"rates": [0.1, 0.01], "penalties": [0.0, 0.1]})).arms["gain"]
    assert arm.choices() == [(0.01, 0.1), (0.01, 0.0), (0.1, 0.1), (0.1, 0.0)]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"workrs": 2}, "mine.yaml: unknown key 'workrs'; did you mean 'workers'?"),
        ({"learning__epoch": 2}, "unknown key 'learning.epoch'; did you mean 'epochs'?"),
        ({"networks__train__sed": 2}, "unknown key 'networks.train.sed'"),
        ({"splits__T": {"per_class": 2}}, "unknown key 'splits.T'; known keys here: R, G, V, S, P$"),
        ({"splits__R": {"per_clas": 2}}, r"unknown key 'splits\.R\.per_clas'; did you mean 'per_class'\?$"),
        ({"splits__R": None}, "splits needs R, G, V, S, P; missing R$"),
        ({"composites__R": 3}, "unknown key 'composites.R'; known keys here: G, V, S, P$"),
        ({"composits": {"G": 3}, "composites": None}, r"unknown key 'composits'; did you mean 'composites'\?$"),
        ({"arms__porbe": {"rates": [0.1]}, "arms__probe": None}, r"unknown key 'arms\.porbe'; did you mean 'probe'\?$"),
        ({"arms__gain": {"rate": [0.1]}}, r"unknown key 'arms\.gain\.rate'; did you mean 'rates'\?$"),
        (
            {"curves__rates_examples": {"ful": [0.1], "gain_head": [0.1]}},
            r"mine\.yaml: unknown key 'curves\.rates_examples\.ful'; did you mean 'full'\?$",
        ),
        (
            {"curves__rates_updates": {"full": [0.1], "gain_haed": [0.1]}},
            r"unknown key 'curves\.rates_updates\.gain_haed'; did you mean 'gain_head'\?$",
        ),
        (
            {"arms__probe": None},
            "arms needs probe, gain, gain_head, uniform and may have full, .*adabn.*; missing probe$",
        ),
        ({"arms__full": None}, "curves: full has no learning curve; name arms that learn and are under `arms`"),
        ({"arms__gain": {"rates": []}}, "arms.gain: give at least one rate"),
        ({"arms__gain": {}}, "arms.gain: give at least one rate"),
        ({"arms__adabn": {"rates": [0.1]}}, "arms.adabn: this arm has no rates"),
        ({"arms__tuning": {}}, "arms.tuning: give at least one of the strengths"),
        ({"arms__tuning": {"strengths": [1.0], "parameterisation": "free"}}, "arms.tuning: this arm has no param"),
        (
            {"arms__tuning": {"strengths": [1.0], "mode": "additive", "clip": True}},
            "arms.tuning: clip is of factors, and mode additive multiplies nothing; leave clip out",
        ),
        ({"arms__gradient": {"strengths": [1.0], "mode": "additive", "clip": False}}, "arms.gradient: clip is of fac"),
        ({"arms__shift": {"rates": [0.1], "parameterisation": "free"}}, "arms.shift: this arm has no parameterisation"),
        ({"arms__gain": {"rates": [0.1], "combination": "additive"}}, "arms.gain: this arm has no combination"),
        ({"arms__gain": {"rates": [0.1], "parameterisation": "exp"}}, "arms.gain: wanted free, non_negative"),
        ({"arms__gain": {"rates": [0.1], "strengths": [1.0]}}, "arms.gain: this arm has no strengths"),
        ({"curves__rates_updates": {"full": [0.1], "gain_head": [0.1], "shift": [0.1]}}, "must name the same arms"),
        (
            {
                f"curves__rates_{axis}": {"full": [0.1], "gain_head": [0.1], "adabn": [0.1]}
                for axis in ("updates", "examples")
            },
            "curves: adabn has no learning curve",
        ),
        ({"doses": [-1.0]}, "doses.0: "),
        (
            {"arms__gain": {"rates": [0.1], "parameterisation": "free"}, "doses": [0.5]},
            r"arms\.gain: gains that are free may be 0 or less, and doses takes their logarithm; .*leave doses out$",
        ),
        (
            {"arms__gain": {"rates": [0.1], "parameterisation": "non_negative"}, "statistics__reference_gain": True},
            r"statistics\.reference_gain takes their logarithm",
        ),
        (
            {"arms__uniform": {"rates": [0.1], "parameterisation": "log+layer_mean"}},
            r"arms\.uniform: the mean gain .* leave \+layer_mean out",
        ),
        ({"arms__gain": {"rates": [-1.0]}}, "arms.gain.rates.0"),
        ({"workers": 0}, r"workers: Input should be greater than 0; came 0"),
        ({"workers": "two"}, "workers: .*came 'two'"),
        ({"curves__every": 7}, r"updates \(2\) must be a multiple of every \(7\)"),
        ({"curves__examples": [2, 1]}, "ascend from 1"),
        (
            {"curves__examples": []},
            r"curves: examples must ascend from 1, two or more; came none; name some, for example \[1, 2, 5\]",
        ),
        ({"curves__examples": [1]}, r"two or more; came \[1\]"),
        ({"curves__examples": [1, 1, 2]}, r"ascend from 1, two or more; came \[1, 1, 2\]"),
        ({"doses": [0.5, 1.0, 0.5]}, "doses: 0.5 is there twice"),
        (
            {"networks": {"pretrained": [{"name": "pooled", "model": "cifar_resnet20", "layers": ["layer3"]}]}},
            "filed as 'pooled'; call the network otherwise",
        ),
        (
            {"curves__rates_updates": {"full": []}},
            "rates_updates needs at least one arm, and at least one rate for each",
        ),
        ({"curves__rates_examples": {}}, "rates_examples needs at least one arm"),
        ({"networks__layers": []}, "trained networks need `layers`"),
        ({"networks": {}}, "give `train` or `pretrained`"),
        ({"saliency__threshold": 1.0}, "saliency.threshold: .*came 1.0"),
        ({"duplicates": "keep"}, "duplicates: "),
        ({"name": None}, "name: Field required$"),
        ({"networks__layers": ["relu1", "relu1"]}, "networks.layers: 'relu1' is there twice; name each layer once"),
        ({"statistics__refit_layers": ["relu3", "relu3"]}, "statistics.refit_layers: 'relu3' is there twice"),
    ],
    ids=str,
)
def test_mistakes_name_place_and_reason(changes: dict[str, Any], said: str):
    with pytest.raises(ConfigError, match=said) as error:
        parse(changed(DIGITS, **changes))
    assert "\n" not in str(error.value)


def test_networks_need_names_of_their_own():
    one = {"name": "one", "model": "cifar_resnet20", "layers": ["layer3"]}
    assert parse(changed(DIGITS, networks={"pretrained": [one]})).network_names() == ["one"]
    with pytest.raises(ConfigError, match="two networks are called 'one'"):
        parse(changed(DIGITS, networks={"pretrained": [one, one]}))
    for name in ("a/b", "", ".hidden", "../up"):
        with pytest.raises(ConfigError, match=r"pretrained\.0\.name"):
            parse(changed(DIGITS, networks={"pretrained": [{**one, "name": name}]}))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("name: one\nstimuli: digits\nname: two\n", r"mine\.yaml is not valid YAML \(line 3\): the key 'name'"),
        ("arms:\n  gain: {rates: [0.1], rates: [0.2]}\n", r"\(line 2\): the key 'rates' is there twice"),
    ],
)
def test_a_key_that_is_there_twice(text: str, said: str):
    with pytest.raises(ConfigError, match=said):
        parse_config(text, "mine.yaml")


@pytest.mark.parametrize("text", ["", "- a\n- b\n", "just words"])
def test_not_a_mapping(text: str):
    with pytest.raises(ConfigError, match="must be a YAML mapping"):
        parse_config(text, "mine.yaml")


def test_the_resolved_text_says_the_same_again(tmp_path: Path):
    path = write_config(tmp_path, DIGITS)
    resolved, text = resolve(path, full=True, workers=3)
    assert resolved == parse_config(text, "again")
    assert resolved.workers == 3
    assert resolved.statistics.refit_layers == ["*"]
    assert parse(DIGITS) == load_config(path)


def test_shown_command_has_no_folder_of_this_machine(tmp_path: Path):
    assert shown_command(Path("a b.yaml"), Path("results/x")) == "featattn run 'a b.yaml' --out results/x"
    assert shown_command(tmp_path / "c.yaml", Path("../x")) == "featattn run c.yaml --out x"

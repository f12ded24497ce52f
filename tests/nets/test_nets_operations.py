"""Gains on functional operations: the same as on modules that do the same, and nothing else of the network changes."""

from __future__ import annotations

import contextlib
import copy
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as functional
from torch import Tensor, nn

import featattn_neuro as fa
from featattn_neuro.errors import ConfigError, DataError
from featattn_neuro.nets.cutting import CutNetwork
from featattn_neuro.nets.folding import fold_gains
from featattn_neuro.nets.gains import with_gains
from featattn_neuro.nets.graph_nodes import NodeGraph
from featattn_neuro.nets.operations import Operations, acting_on, acts_now
from featattn_neuro.nets.sites import select_sites, with_site_modules

WIDTH = 4


class Block(nn.Module):
    """A residual block written with operations; what may work in place does."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm = nn.Conv2d(WIDTH, WIDTH, 3, padding=1), nn.BatchNorm2d(WIDTH)
        self.second = nn.Conv2d(WIDTH, WIDTH, 3, padding=1)

    def forward(self, maps: Tensor, scale: float = 1.0, *, mask: Any = None) -> Tensor:
        if mask is not None:
            raise ValueError("never")
        out = functional.relu(self.norm(self.first(maps)), inplace=True)
        out = self.second(out)
        out += maps
        return functional.relu(out)


class Functional(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.block, self.head = nn.Conv2d(1, WIDTH, 3), Block(), nn.Linear(WIDTH, 3)

    def forward(self, images: Tensor) -> Tensor:
        maps = functional.relu(self.stem(images))
        return self.head(self.block(maps, scale=1.0).mean(dim=(2, 3)))


class Add(nn.Module):
    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        return first + second


class ModuleBlock(Block):
    def __init__(self) -> None:
        super().__init__()
        self.relu, self.add, self.relu_1 = nn.ReLU(), Add(), nn.ReLU()

    def forward(self, maps: Tensor, scale: float = 1.0, *, mask: Any = None) -> Tensor:
        return self.relu_1(self.add(self.second(self.relu(self.norm(self.first(maps)))), maps))


class Modules(nn.Module):
    """The same network, each operation a module of the name that the operation has."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.block, self.head = nn.Conv2d(1, WIDTH, 3), ModuleBlock(), nn.Linear(WIDTH, 3)
        self.relu = nn.ReLU()

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.block(self.relu(self.stem(images)), scale=1.0).mean(dim=(2, 3)))


SITES = ("relu", "block.relu", "block.add", "block.relu_1")


@pytest.fixture
def net() -> Functional:
    torch.manual_seed(2)
    made = Functional()
    made.block.norm.running_mean.normal_(0, 0.1)
    made.block.norm.running_var.uniform_(0.5, 2)
    return made.eval()


@pytest.fixture
def twin(net: Functional) -> Modules:
    made = Modules().eval()
    made.load_state_dict(net.state_dict())
    return made


@pytest.fixture
def images() -> Tensor:
    return torch.rand(5, 1, 9, 9, generator=torch.Generator().manual_seed(3))


def answer(module: nn.Module, images: Tensor) -> Tensor:
    with torch.no_grad():
        return module(images)


def test_operations_have_the_names_that_recording_gives_them(net: Functional, images: Tensor) -> None:
    names = Operations(net).names
    graph = NodeGraph(net)
    assert names == [n for n in graph.names if graph.sites_of(n)[0][1].layer == n and n not in graph.returned]
    assert set(SITES) < set(names)
    recorded = fa.record(net, images.numpy(), list(SITES))
    assert recorded["layer"].values[::WIDTH].tolist() == list(SITES)
    assert select_sites(net, ["conv", "block.relu*"]) == [
        "stem", "block.first", "block.second", "block.relu", "block.relu_1"
    ]  # fmt: skip


@pytest.mark.parametrize("site", SITES)
@pytest.mark.parametrize("training", [False, True])
def test_gains_act_as_on_modules(net: Any, twin: Any, images: Tensor, gain_set: Any, site: str, training: bool) -> None:
    gains = gain_set({site: [0.0, -1.0, 0.5, 3.0]})
    before = copy.deepcopy(net.state_dict())
    plain = answer(net, images)
    net.block.norm.momentum = twin.block.norm.momentum = 0.0  # passes in training mode move no statistic
    net.train(training), twin.train(training)
    with with_gains(net, gain_set({site: np.ones(WIDTH)})):
        assert torch.equal(answer(net, images), answer(twin, images))
    with with_gains(net, gains), with_gains(twin, gains):
        found, wanted = answer(net, images), answer(twin, images)
    assert torch.equal(found, wanted)
    assert not torch.equal(found, plain)
    net.eval()
    assert torch.equal(answer(net, images), plain)
    counts = "block.norm.num_batches_tracked"
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items() if k != counts)


def test_the_network_is_given_back(net: Functional, images: Tensor, gain_set: Any) -> None:
    kinds, keys = [type(part) for part in net.modules()], [set(vars(part)) for part in net.modules()]
    doubled = gain_set({site: np.full(WIDTH, 2.0) for site in SITES})
    with contextlib.suppress(ZeroDivisionError), with_gains(net, doubled):
        assert list(net.state_dict()) == list(Functional().state_dict())
        assert isinstance(net.block, Block)
        _ = 1 / 0
    assert [type(part) for part in net.modules()] == kinds
    assert [set(vars(part)) for part in net.modules()] == keys
    with pytest.raises(DataError, match="4 filters; came 5"), with_gains(net, gain_set({"relu": np.ones(5) * 2})):
        answer(net, images)
    assert not acts_now(net)


def test_sets_are_nested_with_each_other_and_with_hooks(net: Any, twin: Any, images: Tensor, gain_set: Any) -> None:
    one = gain_set({"block.add": [1.0, 2.0, 0.5, 1.0]})
    two = gain_set({"block.add": [3.0, 1.0, 1.0, 0.0], "block": [2.0] * 4})
    three = gain_set({"relu": [0.5, 1.0, 1.0, 2.0], "block.second": [1.0, 1.5, 1.0, 1.0]})
    found = []
    for module in (net, twin):
        seen: list[Tensor] = []
        handle = module.block.register_forward_hook(lambda part, inputs, output, seen=seen: seen.append(output))
        with with_gains(module, one), with_gains(module, two), with_gains(module, three):
            found.append(answer(module, images))
        handle.remove()
        found.append(seen[0])
    assert torch.equal(found[0], found[2])
    assert torch.equal(found[1], found[3])
    outer, inner = with_gains(net, one), with_gains(net, three)
    outer.__enter__()
    inner.__enter__()
    outer.__exit__(None, None, None)  # in another order than they came
    with with_gains(twin, three):
        assert torch.equal(answer(net, images), answer(twin, images))
    inner.__exit__(None, None, None)
    assert not acts_now(net)


def test_recording_and_copies_inside(net: Any, twin: Any, images: Tensor, gain_set: Any, tmp_path: Any) -> None:
    gains = gain_set({"block.relu": [2.0, 0.0, 1.0, 1.0]})
    pixels = images.numpy()
    plain = fa.record(net, pixels, "block.second", cache=tmp_path)["response"].values
    with with_gains(net, gains), with_gains(twin, gains):
        inside = fa.record(net, pixels, "block.second", cache=tmp_path)["response"].values
        np.testing.assert_array_equal(inside, fa.record(twin, pixels, "block.second")["response"].values)
        assert torch.equal(answer(copy.deepcopy(net), images), answer(net, images))
        assert torch.equal(answer(copy.deepcopy(twin), images), answer(twin, images))
        with pytest.raises(ConfigError, match="cannot trace"):
            fa.record(net, pixels, "block.add")
        with pytest.raises(ConfigError, match=r"leave with_gains, .*and fold then"):
            fold_gains(net, gain_set({"stem": np.full(WIDTH, 2.0)}))
    assert not np.array_equal(inside, plain)
    np.testing.assert_array_equal(fa.record(net, pixels, "block.second", cache=tmp_path)["response"].values, plain)


def learned(module: nn.Module, sites: list[str], **options: Any) -> Any:
    rng = np.random.default_rng(0)
    pixels = rng.random((24, 1, 9, 9), dtype=np.float32)
    pixels[::2, :, ::2] += 0.5
    labels = np.arange(24) % 2 == 0
    return fa.learn_gains(module, pixels, labels, sites, epochs=3, batch_size=8, rate=0.1, **options)


@pytest.mark.parametrize("options", [{}, {"shift": True, "parameterisation": "free"}, {"per": "filter and position"}])
def test_gains_learned_at_operations_are_those_learned_at_modules(net: Any, twin: Any, options: Any) -> None:
    sites = ["relu", "block.relu", "block.add"]
    before = copy.deepcopy(net.state_dict())
    found, wanted = learned(net, sites, **options), learned(twin, sites, **options)
    assert found["unit"].values.tolist() == [f"{site}/{k:03d}" for site in sites for k in range(WIDTH)]
    assert found["stage"].values[::WIDTH].tolist() == ["activation", "activation", "other"]
    assert found.attrs["frozen_part_cached"] == "yes"
    by_unit = wanted.sel({dim: found[dim].values for dim in ("unit", "position") if dim in found.dims})
    for name in ("gain", "shift", "spatial"):
        if name in found:
            assert float(abs(found[name] - 1).max()) > 1e-3
            np.testing.assert_allclose(found[name], by_unit[name], rtol=1e-4, atol=1e-5)
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())
    image = torch.rand(2, 1, 9, 9)
    with with_gains(net, found), with_gains(twin, wanted):
        torch.testing.assert_close(answer(net, image), answer(twin, image), rtol=1e-4, atol=1e-5)


def test_learning_behind_gains_that_act(net: Any, twin: Any, gain_set: Any) -> None:
    fixed = gain_set({"block.first": [2.0, 1.0, 1.0, 0.0]})
    with with_gains(net, fixed):
        behind = learned(net, ["block.add"])
        np.testing.assert_array_equal(behind["gain"], learned(net, ["block.add"])["gain"])
    assert not np.allclose(behind["gain"], learned(net, ["block.add"])["gain"])
    with with_gains(net, gain_set({"relu": [2.0] * 4})), pytest.raises(ConfigError, match="leave with_gains before"):
        learned(net, ["block.add"])


def test_the_copy_to_learn_on_answers_as_the_network(net: Functional, images: Tensor) -> None:
    changed = with_site_modules(net, [*SITES, "block.second.input"])
    assert torch.equal(answer(changed, images), answer(net, images))
    assert {*SITES, "block.second.input"} <= set(dict(changed.named_modules()))
    assert type(net.block) is Block
    assert with_site_modules(net, ["stem"]) is net
    cut = CutNetwork(changed, ["block.add"], "head")
    assert cut.cached, cut.reason
    torch.testing.assert_close(answer(cut.module, images), answer(net, images))  # in another memory layout
    with pytest.raises(ConfigError, match=r"'block.add' and the input of layer 'block'"):
        with_site_modules(net, ["block.add", "block.input"])


def test_folding_at_operations(net: Functional, images: Tensor, gain_set: Any) -> None:
    positive, signed = np.array([0.0, 0.5, 2.0, 3.0]), np.array([-1.0, 0.5, 2.0, 3.0])
    for site, gain in (("relu", positive), ("block.relu", positive), ("block.add", positive), ("block.relu_1", signed)):
        gains = gain_set({site: gain})
        with with_gains(net, gains):
            wanted = answer(net, images)
        if site == "relu":
            with pytest.raises(ConfigError, match=r"'relu' cannot be folded: .*added"):
                fold_gains(net, gains, direction="forward")
        folded = fold_gains(net, gains)
        torch.testing.assert_close(answer(folded, images), wanted, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(answer(fa.unfold_gains(folded), images), answer(net, images), rtol=0, atol=0)
    with pytest.raises(ConfigError, match=r"'block.relu' cannot be folded: .*negative.*relu"):
        fold_gains(net, gain_set({"block.relu": signed}), direction="backward")
    for gain, direction in ((positive, "backward"), (signed, "auto")):
        with pytest.raises(ConfigError, match=r"'block.add' cannot be folded: an identity skip"):
            fold_gains(net, gain_set({"block.add": gain}), direction=direction)
    with pytest.raises(ConfigError, match=r"did you mean 'block.relu"):
        fold_gains(net, gain_set({"block.reluu": positive}))


class Twice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.block, self.head = Block(), nn.Linear(WIDTH, 2)

    def forward(self, maps: Tensor) -> Tensor:
        return self.head(self.block(self.block(maps)).mean(dim=(2, 3)))


class Choosing(nn.Module):
    def forward(self, images: Tensor) -> Tensor:
        return functional.relu(images) if images.sum() > 0 else images


class InList(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.join = _Join()

    def forward(self, images: Tensor) -> Tensor:
        return self.join([images, images])


class _Join(nn.Module):
    def forward(self, both: list[Tensor]) -> Tensor:
        return torch.cat(both, dim=1) * 2


def test_what_cannot_be_gained_says_why(net: Functional, images: Tensor, gain_set: Any) -> None:
    two = np.full(WIDTH, 2.0)
    for module, site, reason in (
        (Twice(), "block.add", "runs 2 times in one pass; gain a module"),
        (Choosing(), "relu", "nor is it a functional operation: torch.fx cannot trace"),
        (InList(), "join.cat", "takes tensors inside lists"),
        (net, "block.add.input", "no gain sits on what goes into"),
        (net, "block.ad", "did you mean 'block.add'"),
    ):
        with pytest.raises(ConfigError, match=reason), with_gains(module, gain_set({site: two})):
            pass
    calls = gain_set({"relu": two}).assign_coords(call=("unit", [1] * WIDTH))
    with pytest.raises(ConfigError, match="leave the coordinate call out"), with_gains(net, calls):
        pass
    with with_gains(net, gain_set({"block.add": two})), pytest.raises(ConfigError, match="called with other arguments"):
        net.block(torch.rand(1, WIDTH, 5, 5), 2.0)
    by_hand = copy.deepcopy(net)
    by_hand.block.forward = lambda maps, scale: maps
    with pytest.raises(ConfigError, match="put there by hand"), with_gains(by_hand, gain_set({"block.add": two})):
        pass


class _Noise(nn.Module):
    """What is drawn while the forward is traced would be the same ever after; with `training`, in that mode alone."""

    def __init__(self, *, training: bool = False) -> None:
        super().__init__()
        self.conv, self.only_training = nn.Conv2d(1, WIDTH, 1), training

    def forward(self, images: Tensor) -> Tensor:
        maps = self.conv(images)
        drawn = self.training or not self.only_training
        return functional.relu(maps + torch.randn(1, WIDTH, 1, 1)) if drawn else functional.relu(maps + 1)


def test_noise_that_the_graph_would_hold_fast_is_refused(images: Tensor, gain_set: Any) -> None:
    noisy, gains = _Noise().eval(), gain_set({"relu": np.full(WIDTH, 2.0)})
    state = torch.get_rng_state()
    for call in (lambda: Operations(noisy), lambda: select_sites(noisy, "relu")):
        with pytest.raises(ConfigError, match=r"draws random numbers that its torch.fx graph would hold fast.*noise"):
            call()
    with pytest.raises(ConfigError, match="draws random numbers"), with_gains(noisy, gains):
        pass
    assert torch.equal(torch.get_rng_state(), state)
    in_training = _Noise(training=True).eval()
    with with_gains(in_training, gains):
        in_training(images)
        with pytest.raises(ConfigError, match=r"draws random numbers in training mode.*evaluation mode"):
            in_training.train()(images)


def test_operations_that_work_in_place_stay_so() -> None:
    class Alias(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            first = images + 0
            kept = first
            first *= 2
            return kept + functional.relu(first)

    net = Alias()
    images = torch.tensor([[1.0, -1.0]])
    assert answer(net, images).tolist() == [[4.0, -2.0]]
    with acting_on(net, Operations(net).find("relu"), lambda value: value * 10):
        assert answer(net, images).tolist() == [[22.0, -2.0]]


def test_theory_gains_at_operations(net: Any, twin: Any) -> None:
    pixels = np.random.default_rng(1).random((12, 1, 9, 9), dtype=np.float32)
    labels = np.arange(12) % 3 == 0
    for method in ("tuning", "gradient"):
        found, wanted = (
            fa.theory_gains(module, pixels, labels, ["block.relu", "block.add"], method=method, strength=0.5)
            for module in (net, twin)
        )
        np.testing.assert_allclose(found["gain"], wanted.sel(unit=found["unit"].values)["gain"], rtol=1e-4, atol=1e-5)
        assert float(abs(found["gain"] - 1).max()) > 0.05

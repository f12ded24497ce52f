"""Faults that other recorders have: one test each, named after the fault."""

from __future__ import annotations

import copy
import random
import threading

import numpy as np
import pytest
import torch
import xarray as xr
from torch import nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

import featattn_neuro as fn
from featattn_neuro.errors import ConfigError, DataError
from featattn_neuro.nets.recording import record_activations


def images(n=6, side=32, channels=3, seed=0):
    return np.random.default_rng(seed).standard_normal((n, channels, side, side)).astype(np.float32)


def not_in_place(module):
    copied = copy.deepcopy(module)
    for part in copied.modules():
        if hasattr(part, "inplace"):
            part.inplace = False
    return copied


class Reuses(nn.Module):
    """One ReLU called twice, an in-place addition, functional operations."""

    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 4, 3, padding=1)
        self.conv2 = nn.Conv2d(4, 4, 3, padding=1)
        self.relu = nn.ReLU(inplace=True)
        self.head = nn.Linear(4, 2)

    def forward(self, x):
        a = self.relu(self.conv1(x))
        b = self.relu(self.conv2(a))
        b += a
        b = nn.functional.relu_(b - 1)
        return self.head(b.mean(dim=(2, 3)))


@pytest.fixture
def reuses():
    torch.manual_seed(1)
    return Reuses().eval()


@pytest.mark.parametrize("name", ["alexnet", "vgg11", "resnet18", "mobilenet_v2", "efficientnet_b0"])
def test_fault_1_aliasing_under_in_place_operations(name):
    import torchvision

    torch.manual_seed(0)
    module = getattr(torchvision.models, name)(weights=None, num_classes=3)
    side = 64 if name == "alexnet" else 32
    with torch.random.fork_rng():
        for reduce in ("none", ["mean", "max", "sd", "q0.25"]):
            found = fn.record(module, images(2, side), "conv", reduce=reduce, batch_size=2)
            wanted = fn.record(not_in_place(module), images(2, side), "conv", reduce=reduce, batch_size=2)
            xr.testing.assert_identical(found, wanted)
    maps = fn.record(module, images(2, side), "conv", reduce="none", batch_size=2)
    for layer in np.unique(maps.layer.values):
        assert float(maps.response[:, maps.layer.values == layer].min()) < 0, layer


def test_fault_1_aliasing_through_the_graph(reuses):
    x = torch.from_numpy(images(2))
    found = fn.record(reuses, x.numpy(), ["add", "sub", "conv2"], reduce="none", batch_size=2)
    with torch.no_grad():
        a = reuses.conv1(x).relu()
        conv2 = reuses.conv2(a)
        added = conv2.relu() + a
    for layer, wanted in {"add": added, "sub": added - 1, "conv2": conv2}.items():
        np.testing.assert_allclose(found.response[:, found.layer.values == layer], wanted.flatten(1), atol=1e-6)
    assert float(found.response[:, found.layer.values == "sub"].min()) < 0
    assert found.attrs["recorded_through"] == "torch.fx graph"


def test_fault_2_reused_modules_keep_every_call(reuses):
    hooks = fn.record(reuses, images(), "relu")
    assert hooks.unit.values.tolist()[::4] == ["relu@0/000", "relu@1/000"]
    assert hooks.call.values.tolist() == [0] * 4 + [1] * 4
    graph = fn.record(reuses, images(), ["relu", "sub"])
    both = graph.sel(unit=graph.layer == "relu")
    np.testing.assert_array_equal(both.response, hooks.response)
    assert both.unit.values.tolist() == hooks.unit.values.tolist()
    assert both.node.values.tolist()[::4] == ["relu", "relu_1"]
    second = fn.record(reuses, images(), "relu_1")
    np.testing.assert_array_equal(second.response, hooks.response[:, 4:])
    assert second.unit.values.tolist() == hooks.unit.values.tolist()[4:]


def test_fault_2_a_module_under_two_names_is_one_module():
    module = nn.Sequential(nn.Conv2d(3, 2, 1), nn.ReLU(), nn.Conv2d(2, 2, 1))
    module.add_module("3", module[1])
    assert fn.record(module, images(), "3").unit.values.tolist() == [f"1@{c}/00{k}" for c in (0, 1) for k in (0, 1)]


class Fails(nn.Module):
    def __init__(self, error, after=1):
        super().__init__()
        self.conv, self.error, self.left = nn.Conv2d(3, 2, 1), error, after

    def forward(self, x):
        y = self.conv(x)
        self.left -= 1
        if self.left < 0:
            raise self.error
        return y


class FailingSet(Dataset):
    def __init__(self, error):
        self.error, self.reads = error, 0

    def __len__(self):
        return 8

    def __getitem__(self, i):
        self.reads += 1
        if self.reads > 12:
            raise self.error
        return torch.full((3, 4, 4), float(i))


def state_of(module):
    return (
        [len(part._forward_hooks) + len(part._forward_pre_hooks) for part in module.modules()],
        [part.training for part in module.modules()],
        [(p.requires_grad, None if p.grad is None else p.grad.clone()) for p in module.parameters()],
        [sorted(k for k in vars(part) if k != "left") for part in module.modules()],
        torch.get_rng_state().tolist(),
        random.getstate(),
        np.random.get_state()[1].tolist(),  # noqa: NPY002 - what must not be drawn from
        torch.is_grad_enabled(),
        torch.is_inference_mode_enabled(),
        [thread.name for thread in threading.enumerate() if "recording" in thread.name],
    )


@pytest.mark.parametrize(
    ("model", "source", "error"),
    [
        (Fails(RuntimeError("x"), 100), images(8, 4), None),
        (Fails(RuntimeError("network broke"), 2), images(8, 4), RuntimeError),
        (Fails(KeyboardInterrupt(), 2), images(8, 4), KeyboardInterrupt),
        (Fails(RuntimeError("x"), 100), FailingSet(RuntimeError("disk broke")), DataError),
        (Fails(RuntimeError("x"), 100), FailingSet(KeyboardInterrupt()), KeyboardInterrupt),
    ],
    ids=["success", "network", "ctrl-c", "loader", "ctrl-c in loader"],
)
@pytest.mark.parametrize("stored", [False, True], ids=["memory", "store"])
def test_faults_3_and_5_nothing_is_left_behind(tmp_path, model, source, error, stored):
    model, source = copy.deepcopy(model), copy.deepcopy(source)
    model.train()
    model.conv.weight.requires_grad_(False)
    model.conv.bias.grad = torch.ones(2)
    before = state_of(model)
    out = {"out": tmp_path / "a.zarr"} if stored else {}
    if error is None:
        fn.record(model, source, "conv", batch_size=2, **out)
    else:
        with pytest.raises(error):
            fn.record(model, source, "conv", batch_size=2, workers=0, **out)
    assert str(state_of(model)) == str(before)


def test_fault_5_loader_workers_do_not_draw_from_the_global_generator():
    torch.manual_seed(3)
    before = torch.get_rng_state()
    model = nn.Conv2d(3, 2, 1)
    torch.set_rng_state(before)
    fn.record(nn.Sequential(model), images(20, 4), "0", batch_size=2, workers=2)
    assert torch.equal(torch.get_rng_state(), before)


def test_fault_3_unknown_layers_fail_before_the_first_batch(reuses):
    class Counts(FailingSet):
        pass

    source = Counts(RuntimeError())
    with pytest.raises(ConfigError, match="conv1"):
        record_activations(reuses, source, ["conv2", "comv1"])  # type: ignore[arg-type]
    assert source.reads == 0
    with pytest.raises(ConfigError, match="re:nothing"):
        fn.record(reuses, images(), "re:nothing.*")


def test_fault_4_no_names_are_stored_on_modules(reuses):
    first = fn.record(reuses, images(), "relu")
    outer = nn.Sequential(reuses)
    fn.record(outer, images(), "0.relu")
    xr.testing.assert_identical(fn.record(reuses, images(), "relu"), first)


def test_fault_6_labels_and_rows_belong_to_ids_not_to_order(tmp_path):
    from PIL import Image

    rng = np.random.default_rng(0)
    for name in ("a.1", "a.2", "b"):  # names that others cut at the first dot
        (tmp_path / name[0]).mkdir(exist_ok=True)
        Image.fromarray(rng.integers(0, 255, (8, 8, 3), np.uint8)).save(tmp_path / name[0] / f"{name}.png")
    model = nn.Conv2d(3, 2, 1)
    net = nn.Sequential(model)
    found = fn.record(net, tmp_path, "0", batch_size=2)
    assert found.sizes["stimulus"] == 3
    paths = [tmp_path / path for path in found.path.values]
    turned = fn.record(net, [str(path) for path in reversed(paths)], "0", batch_size=2)
    turned = turned.sel(stimulus=found.stimulus.values)
    np.testing.assert_array_equal(turned.response, found.response)
    assert found.label.values.tolist() == [path.parent.name for path in paths]


def test_fault_6_a_shuffled_loader_gives_the_same_rows():
    x, y = torch.from_numpy(images(7, 4)), torch.arange(7)
    net = nn.Sequential(nn.Conv2d(3, 2, 1))
    data = TensorDataset(x, y)
    plain = fn.record(net, data, "0", batch_size=4)
    mixed = fn.record(net, DataLoader(data, batch_size=3, shuffle=True), "0", batch_size=4)
    xr.testing.assert_identical(plain, mixed)
    assert plain.label.values.tolist() == list("0123456")
    np.testing.assert_array_equal(plain.response, fn.record(net, x, "0", batch_size=4).response)


def test_a_network_that_works_on_its_input_in_place_does_not_reach_the_stimuli():
    x = images(5, 4)
    kept = x.copy()
    fn.record(nn.Sequential(nn.ReLU(inplace=True), nn.Conv2d(3, 2, 1)), x, "0", batch_size=5)
    np.testing.assert_array_equal(x, kept)


def test_random_transforms_are_refused():
    class Noisy(Dataset):
        def __len__(self):
            return 3

        def __getitem__(self, i):
            return torch.rand(3, 4, 4)

    with pytest.raises(DataError, match="another image each time"):
        fn.record(nn.Sequential(nn.Conv2d(3, 2, 1)), Noisy(), "0")


def test_fault_16_an_ambiguous_channel_axis_is_refused():
    class Mixed(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.norm = nn.Conv2d(3, 4, 1), nn.LayerNorm(4)
            self.act = nn.ReLU()

        def forward(self, x):
            return self.act(self.norm(self.conv(x).permute(0, 2, 3, 1)))

    net = Mixed()
    with pytest.raises(DataError, match="channel_axis"):
        fn.record(net, images(2, 8), "act")
    said = fn.record(net, images(2, 8), ["conv", "norm", "act"], channel_axis={"act": -1})
    assert said.sizes["unit"] == 12
    assert said.attrs["channel_rule"] == "axis 1, last axis in act, norm"


def test_windows_folded_into_the_batch_are_refused():
    class Windows(nn.Module):
        def __init__(self):
            super().__init__()
            self.inside = nn.Linear(4, 4)

        def forward(self, x):
            n = x.shape[0]
            return self.inside(x.reshape(n * 4, -1, 4)).reshape(n, -1)

    with pytest.raises(DataError, match="rows for"):
        fn.record(Windows(), images(2, 8), "inside")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_half_precision_networks_are_recorded(dtype):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 4, 3))
    wanted = fn.record(net, images(), "0")
    found = fn.record(copy.deepcopy(net).to(dtype), images(), "0")
    assert found.response.dtype == np.float32
    np.testing.assert_allclose(found.response, wanted.response, atol=2e-2)
    cast = fn.record(net, images(), "0", compute_dtype="bfloat16", dtype="float16")
    assert cast.response.dtype == np.float16
    assert not np.array_equal(cast.response, wanted.response.astype(np.float16))
    np.testing.assert_allclose(cast.response, wanted.response, atol=2e-2)
    assert net[0].weight.dtype == torch.float32


def test_float16_storage_refuses_what_it_cannot_hold():
    net = nn.Sequential(nn.Conv2d(3, 1, 1))
    nn.init.constant_(net[0].weight, 1e6)
    with pytest.raises(DataError, match="float16"):
        fn.record(net, np.ones((1, 3, 4, 4), np.float32), "0", dtype="float16")

"""Faults that other recorders have, one test each or more; the number in a name groups those of one fault.

The first line of a test says the fault, its name what happens instead. Others are in `io/test_io_recording_store`.
"""

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
    """A later in-place operation changes what was recorded before it."""
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
    """The same of operations that are recorded through the graph."""
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
    """Only one call of a module that runs several times is kept."""
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
    """A module under two names is recorded twice or joined wrongly."""
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
    """Recording changes the caller's random numbers."""
    torch.manual_seed(3)
    before = torch.get_rng_state()
    model = nn.Conv2d(3, 2, 1)
    torch.set_rng_state(before)
    fn.record(nn.Sequential(model), images(20, 4), "0", batch_size=2, workers=2)
    assert torch.equal(torch.get_rng_state(), before)


def test_fault_3_unknown_layers_fail_before_the_first_batch(reuses):
    """A misspelt layer is passed over, or found after hours."""

    class Counts(FailingSet):
        pass

    source = Counts(RuntimeError())
    with pytest.raises(ConfigError, match="conv1"):
        record_activations(reuses, source, ["conv2", "comv1"])  # type: ignore[arg-type]
    assert source.reads == 0
    with pytest.raises(ConfigError, match="re:nothing"):
        fn.record(reuses, images(), "re:nothing.*")


def test_fault_4_no_names_are_stored_on_modules(reuses):
    """Names kept on modules are stale once the network is part of another."""
    first = fn.record(reuses, images(), "relu")
    outer = nn.Sequential(reuses)
    fn.record(outer, images(), "0.relu")
    xr.testing.assert_identical(fn.record(reuses, images(), "relu"), first)


def test_fault_6_labels_and_rows_belong_to_ids_not_to_order(tmp_path):
    """Rows and labels are joined by position."""
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
    """The same of a loader that shuffles."""
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
    """An axis is taken for the filters by guess."""

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


def test_fault_6_files_come_sorted_whatever_the_folder_says(tmp_path, monkeypatch):
    """The same of files in the order of the disk."""
    import os

    from PIL import Image

    rng = np.random.default_rng(0)
    for name in ("10.png", "9.png", "b.png", "a.png"):
        Image.fromarray(rng.integers(0, 255, (8, 8, 3), np.uint8)).save(tmp_path / name)
    net = nn.Sequential(nn.Conv2d(3, 2, 1))
    plain = fn.record(net, tmp_path, "0")
    walk, turned = os.walk, []

    def backwards(*args, **options):
        for top, folders, files in walk(*args, **options):
            turned.append(top)
            yield top, folders, sorted(files, reverse=True)

    monkeypatch.setattr(os, "walk", backwards)
    xr.testing.assert_identical(fn.record(net, tmp_path, "0"), plain)
    assert turned
    assert plain.path.values.tolist() == ["10.png", "9.png", "a.png", "b.png"]


class Logarithm(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.log = nn.Conv2d(3, 2, 1, bias=False), nn.Identity()

    def forward(self, x):
        return self.log(self.conv(x).log())


def test_fault_8_values_are_recorded_as_they_are_neither_squashed_nor_scaled():
    """Values are squashed or scaled unasked."""
    net = nn.Sequential(nn.Conv2d(3, 2, 1))
    nn.init.constant_(net[0].weight, 30.0)
    nn.init.constant_(net[0].bias, 500.0)
    found = fn.record(net, images(), "0")
    assert float(found.response.min()) > 400
    with torch.no_grad():
        wanted = net(torch.from_numpy(images())).double().mean(dim=(2, 3))
    np.testing.assert_allclose(found.response, wanted, rtol=1e-6)
    assert len(np.unique(found.response)) == found.response.shape[0], "no ties by saturation"


def test_fault_9_one_class_gives_nan_with_a_reason():
    """With one class alone, d' comes out as a number or an error without reason."""
    stimuli = fn.load_stimuli(images(), label=["cat"] * 6)
    moments = fn.stream_moments(nn.Sequential(nn.Conv2d(3, 2, 1)), stimuli, "0")
    found = fn.selectivity_from_moments(moments, "cat")
    assert found.dprime.isnull().all()
    assert found.status.values.tolist() == ["single_class"] * 2


def test_fault_15_nan_stays_nan_in_every_reduction_and_in_the_store(tmp_path):
    """NaN becomes a number on the way."""
    net = Logarithm()
    nn.init.constant_(net.conv.weight, 1.0)
    x = np.abs(images(4, 6)) + 0.1
    x[2, :, 3, 3] = -1.0  # one position has no logarithm
    kept = x.copy()
    reduce = ["mean", "max", "sum", "sd", "q0.5"]
    found = fn.record(net, x, "log", reduce=reduce, out=tmp_path / "a.zarr")
    assert np.isnan(found.response.values[:, 2]).all()
    assert np.isfinite(found.response.values[:, [0, 1, 3]]).all()
    maps = fn.record(net, x, "log", reduce="none")
    assert int(maps.response.isnull().sum()) == 2
    np.testing.assert_array_equal(x, kept)


class Sequence(nn.Module):
    """Maps to tokens, tokens to tokens; an undeclared module at every step."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 2, 2)
        self.rows, self.tokens, self.norm, self.act = nn.Flatten(2), nn.Identity(), nn.LayerNorm(6), nn.GELU()
        self.heads = nn.Identity()

    def forward(self, x):
        tokens = self.norm(self.tokens(self.rows(self.conv(x)).transpose(1, 2)))
        heads = self.heads(tokens.unflatten(2, (2, 3)).transpose(1, 2))
        return self.act(heads.transpose(1, 2).flatten(2))


def test_fault_16_three_dimensions_are_a_sequence_only_where_the_network_says_so():
    """The same of three-dimensional outputs."""
    net, x = Sequence(), images(2, 8)
    found = fn.record(net, x, ["conv", "tokens", "norm", "act"])
    assert found.layer.to_series().value_counts().to_dict() == {"conv": 6, "tokens": 6, "norm": 6, "act": 6}
    assert found.attrs["channel_rule"] == "axis 1, last axis in act, norm, tokens"
    flat, maps = found.layer.values == "tokens", found.layer.values == "conv"
    np.testing.assert_allclose(found.response[:, flat], found.response[:, maps], rtol=1e-5, atol=1e-6)
    for open_one in ("rows", "heads"):  # (N, C, H W); (N, heads, T, C / heads)
        with pytest.raises(DataError, match=f"layer '{open_one}'.*say where the filters are"):
            fn.record(net, x, open_one)
    assert fn.record(net, x, "rows", channel_axis={"rows": 1}).sizes["unit"] == 6
    assert fn.record(net, x, "heads", channel_axis={"heads": -1}).sizes["unit"] == 3


def test_fault_16_series_of_one_dimensional_convolutions_have_their_channels_in_front():
    """The same of one-dimensional convolutions."""

    class Series(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.norm, self.act = nn.Conv1d(24, 5, 3), nn.BatchNorm1d(5), nn.ReLU()

        def forward(self, x):
            return self.act(self.norm(self.conv(x.flatten(1, 2))))

    found = fn.record(Series(), images(2, 8), ["conv", "norm", "act"], reduce="none")
    assert found.layer.to_series().value_counts().to_dict() == {"conv": 30, "norm": 30, "act": 30}
    act = found.response[:, found.layer.values == "act"]
    norm = found.response[:, found.layer.values == "norm"]
    np.testing.assert_array_equal(act, np.maximum(norm, 0))
    assert act.unit.values[0] == "act/000/0,0"


def test_fault_17_batch_norm_neither_drifts_nor_normalises_by_the_batch():
    """Recording in training mode moves or uses batch statistics."""
    net = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)).train()
    nn.init.uniform_(net[1].running_mean)
    state = copy.deepcopy(net.state_dict())
    found = fn.record(net, images(8, 8), ["0", "1"], batch_size=4)
    assert all(torch.equal(value, state[name]) for name, value in net.state_dict().items())
    assert net.training
    np.testing.assert_array_equal(
        found.response, fn.record(net.eval(), images(8, 8), ["0", "1"], batch_size=4).response
    )


def test_fault_23_a_recording_in_netcdf_is_netcdf_4_with_its_types(tmp_path):
    """Files come out as netCDF-3, with other types."""
    net = nn.Sequential(nn.Conv2d(3, 4, 1))
    fn.record(net, images(), "0", reduce=["mean", "sd"], out=tmp_path / "a.nc").close()
    assert (tmp_path / "a.nc").read_bytes()[:8] == b"\x89HDF\r\n\x1a\n"
    found = fn.open_kind(tmp_path / "a.nc", "ACTIVATIONS").load()
    assert (found.response.dtype, found.channel.dtype, found.unit.dtype.kind) == (np.float32, np.int64, "U")
    np.testing.assert_array_equal(found.response, fn.record(net, images(), "0", reduce=["mean", "sd"]).response)


def test_fault_24_dependencies_have_lower_bounds_only():
    """Pinned versions keep the package out of other environments."""
    import tomllib
    from pathlib import Path

    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    wanted = list(project["dependencies"])
    assert len(wanted) > 10
    assert [one for one in wanted if "==" in one or "<" in one.split(";")[0] or "~=" in one] == []

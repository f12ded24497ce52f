"""Saliency of many sets and layers in one pass, and through gradients: identities, captum, finite differences."""

from __future__ import annotations

import gc
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr
from torch import nn

from featattn_neuro.errors import ConfigError, DataError
from featattn_neuro.nets.adapters import build_network
from featattn_neuro.nets.architectures import GlobalMean
from featattn_neuro.nets.batches import as_tensor
from featattn_neuro.nets.causal import causal_check
from featattn_neuro.nets.gains import with_gains
from featattn_neuro.nets.permuted_scores import permuted_scores
from featattn_neuro.nets.saliency import METHODS, gain_saliency, saliency_by_layer

WIDTHS = {"relu1": 16, "relu2": 32, "relu3": 64}
GRADIENTS = ["gain_gradient", "gradcam", "path"]


@pytest.fixture(scope="module")
def digits() -> nn.Module:
    return build_network("digits_cnn", seed=2).module


@pytest.fixture
def smooth() -> nn.Module:
    torch.manual_seed(5)
    return nn.Sequential(
        nn.Conv2d(1, 6, 3, padding=1), nn.Softplus(), nn.MaxPool2d(2), nn.Conv2d(6, 8, 3, padding=1), nn.Softplus(),
        GlobalMean(), nn.Linear(8, 3),
    )  # fmt: skip


def random_gains(widths: dict[str, int], *lead: int, seed: int = 0, size: float = 0.5) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {name: np.exp(size * rng.standard_normal((*lead, n))) for name, n in widths.items()}


def untouched(net: nn.Module) -> bool:
    return not any(part._forward_hooks for part in net.modules()) and all(
        p.grad is None and p.requires_grad for p in net.parameters()
    )


def logits(net: nn.Module, gains: xr.Dataset, stimuli: Any, output: int) -> np.ndarray:
    with torch.no_grad(), with_gains(net, gains):
        return net(as_tensor(stimuli, None))[:, output].double().numpy()


def test_many_sets_and_layers_are_each_alone(digits: nn.Module, noise: Any, gain_set: Any) -> None:
    stimuli, values = noise(5), random_gains(WIDTHS, 3)
    gains = gain_set(values, tasks=["a", "b", "c"])
    several = xr.concat([gains, gains.assign(gain=gains["gain"] * 1.5)], "gain_set").assign_coords(gain_set=["s", "t"])
    found = saliency_by_layer(digits, several, stimuli, list(WIDTHS), batch_size=2, dtype="float64")
    assert list(found) == list(WIDTHS)
    for layer in WIDTHS:
        assert found[layer]["excess"].dims == ("gain_set", "task", "stimulus", "y", "x")
        for k, name in enumerate(["s", "t"]):
            alone = gain_set({layer: values[layer][1] * (1 + 0.5 * k)})
            one = gain_saliency(digits, alone, stimuli, layer=layer)
            for variable in ("excess", "relative"):
                got = found[layer][variable].sel(gain_set=name, task="b")
                np.testing.assert_allclose(got, one[variable], atol=1e-6, rtol=1e-6)
            np.testing.assert_allclose(found[layer]["activation"], one["activation"], rtol=1e-6)
    single = saliency_by_layer(digits, several, stimuli, list(WIDTHS), dtype="float32")
    for layer in WIDTHS:
        scale = float(abs(found[layer]["excess"]).max())
        np.testing.assert_allclose(single[layer]["excess"], found[layer]["excess"], atol=1e-6 * scale)
        assert single[layer]["excess"].dtype == np.float32
    assert untouched(digits)


def test_one_pass_serves_all_sets_and_layers(digits: nn.Module, noise: Any, gain_set: Any) -> None:
    runs: list[int] = []
    handle = digits.conv1.register_forward_hook(lambda part, inputs, output: runs.append(len(inputs[0])))
    gains = gain_set(random_gains(WIDTHS, 4), tasks=list("abcd"))
    saliency_by_layer(digits, gains, noise(6), list(WIDTHS), batch_size=3)
    handle.remove()
    assert runs == [1, 3, 3]  # one image for the shapes, then every image once


class Counting:
    """A sink that keeps nothing: the sizes of what comes, and the most numbers in tensors that are there meanwhile."""

    def __init__(self) -> None:
        self.most, self.sizes = 0, set[int]()

    def begin(self, header: Any) -> None:
        pass

    def write(self, name: str, start: int, block: np.ndarray, row: int | None = None) -> None:
        self.sizes.add(block.shape[0 if row is None else 1])
        if name in ("excess", "path_sum"):  # looking through all objects takes long
            self.most = max(self.most, sum(one.numel() for one in gc.get_objects() if type(one) is torch.Tensor))

    def finish(self, **said: Any) -> xr.Dataset:
        return xr.Dataset()


def test_memory_does_not_grow_with_the_images(digits: nn.Module, noise: Any, gain_set: Any) -> None:
    gains, most = gain_set({"relu1": random_gains(WIDTHS)["relu1"]}), []
    for count in (4, 12):
        sink = Counting()
        stimuli = noise(count, size=12)
        gain_saliency(digits, gains, stimuli, layer="relu1", methods="path", output=0, top=2, batch_size=2, sink=sink)
        assert sink.sizes == {2}  # a batch at a time
        most.append(sink.most)
    assert most[1] <= 1.05 * most[0]


@pytest.mark.parametrize("methods", [list(METHODS), ["path"]])
def test_gains_of_one_are_zero_in_every_map(digits: nn.Module, noise: Any, gain_set: Any, methods: list[str]) -> None:
    gains = gain_set({layer: np.ones(n) for layer, n in WIDTHS.items()})
    found = gain_saliency(digits, gains, noise(3), layer="relu3", methods=methods, head="head", output=2, top=2)
    for name in {v for m in methods for v in METHODS[m]} - {"cam_ungained", "path_steps", "path_status"}:
        assert (found[name].values == 0).all(), name
    assert (found["top_map"].values == 0).all()
    assert (found["dominant_channel"].values == -1).all()
    if "path" in methods:
        assert set(found["path_status"].values) == {"ok"}
    assert untouched(digits)


@pytest.mark.parametrize("output", [0, 7])
def test_class_weighted_excess_is_the_change_of_the_logit(
    digits: nn.Module, noise: Any, gain_set: Any, output: int
) -> None:
    stimuli, gains = noise(3), random_gains(WIDTHS)
    found = gain_saliency(
        digits, gain_set(gains), stimuli, layer="relu3", methods="class_weighted", upstream=True, head="head",
        output=output,
    )  # fmt: skip
    upstream = gain_set({**gains, "relu3": np.ones(64)})
    change = logits(digits, gain_set(gains), stimuli, output) - logits(digits, upstream, stimuli, output)
    assert np.abs(change).min() > 1e-4
    np.testing.assert_allclose(found["class_weighted"].mean(("y", "x")), change, atol=1e-5)


def test_the_read_out_of_the_gains_is_the_logit(digits: nn.Module, noise: Any, gain_set: Any) -> None:
    """Two tasks, each with its own read-out on scaled features."""
    stimuli, rng = noise(3), np.random.default_rng(3)
    gains = gain_set({"relu3": random_gains(WIDTHS, 2)["relu3"]}, tasks=["a", "b"])
    weight, scale = rng.standard_normal((2, 64)), rng.uniform(0.1, 1, 64)
    gains = gains.assign(
        head_weight=(("task", "feature"), weight), head_bias=("task", rng.standard_normal(2)),
        feature_scale=("feature", scale),
    )  # fmt: skip
    found = gain_saliency(
        digits, gains, stimuli, layer="relu3", methods=["class_weighted", "gain_gradient", "path"], head="head"
    )
    captured: list[torch.Tensor] = []
    handle = digits.relu3.register_forward_hook(lambda part, inputs, output: captured.append(output))
    with torch.no_grad():
        digits(as_tensor(stimuli, None))
    handle.remove()
    pooled = captured[0].double().mean(dim=(2, 3)).numpy()
    change = np.einsum("nk,tk,tk->tn", pooled, weight / scale, gains["gain"].values - 1)
    np.testing.assert_allclose(found["class_weighted"].mean(("y", "x")), change, rtol=1e-4, atol=1e-5)
    for name in ("gain_gradient", "path_integrated"):  # linear in the gains of the last maps
        np.testing.assert_allclose(found[name].sum(("y", "x")), change, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(found["logit_change"], change, rtol=1e-3, atol=1e-4)
    assert (found["path_steps"].values == 8).all()


def test_gain_gradient_is_what_finite_differences_give(smooth: nn.Module, noise: Any, gain_set: Any) -> None:
    stimuli, gains = noise(3, size=8), random_gains({"1": 6, "4": 8})
    net, step = smooth.double(), 1e-4
    for layer in gains:
        only = {name: g if name == layer else np.ones_like(g) for name, g in gains.items()}
        found = gain_saliency(net.float(), gain_set(only), stimuli, layer=layer, methods="gain_gradient", output=1)
        net.double()
        z = []
        for sign in (-1, 1):
            near = {name: 1 + sign * step * (g - 1) for name, g in only.items()}
            with torch.no_grad(), with_gains(net, gain_set(near)):
                z.append(net(as_tensor(stimuli, None).double())[:, 1].numpy())
        slope = (z[1] - z[0]) / (2 * step)
        assert np.abs(slope).min() > 1e-3
        np.testing.assert_allclose(found["gain_gradient"].sum(("y", "x")), slope, rtol=1e-4, atol=1e-5)


def test_path_attributions_add_up_on_a_smooth_network(smooth: nn.Module, noise: Any, gain_set: Any) -> None:
    stimuli, gains = noise(4, size=8), random_gains({"1": 6, "4": 8}, size=0.8)
    found = saliency_by_layer(smooth, gain_set(gains), stimuli, ["1", "4"], methods="path", output=2)
    change = logits(smooth, gain_set(gains), stimuli, 2) - logits(
        smooth, gain_set({n: np.ones_like(g) for n, g in gains.items()}), stimuli, 2
    )
    total = sum(one["path_integrated"].sum(("y", "x")) for one in found.values())
    mass = sum(abs(one["path_integrated"]).sum(("y", "x")) for one in found.values())
    assert (np.abs(total - change) <= 1e-3 * mass).all()
    for one in found.values():
        assert set(one["path_status"].values) == {"ok"}
        np.testing.assert_allclose(one["logit_change"], change, atol=1e-5)
        np.testing.assert_allclose(one["path_sum"], total, atol=1e-6)
    # the jointly gained layer above matters: alone, each layer explains something else
    alone = gain_saliency(smooth, gain_set({"1": gains["1"]}), stimuli, layer="1", methods="path", output=2)
    assert abs(alone["path_integrated"] - found["1"]["path_integrated"]).max() > 1e-4


def test_the_path_is_integrated_as_a_dense_sum_is(smooth: nn.Module, noise: Any, gain_set: Any) -> None:
    """Against 2,000 left-right averaged points by hand, per place."""
    stimuli, gains = noise(1, size=8), random_gains({"1": 6, "4": 8}, size=0.8)
    found = gain_saliency(smooth, gain_set(gains), stimuli, layer="1", methods="path", output=0)
    image, wanted = as_tensor(stimuli, None), np.zeros((8, 8))
    maps: dict[str, torch.Tensor] = {}

    def scaled(name: str, g: np.ndarray) -> Any:
        def hook(part: nn.Module, inputs: Any, output: torch.Tensor) -> torch.Tensor:
            maps[name + " before"] = output
            maps[name] = (output * torch.as_tensor(g, dtype=torch.float32)[:, None, None]).requires_grad_(True)
            return maps[name]

        return hook

    for alpha in (np.arange(500) + 0.5) / 500:
        handles = [
            smooth.get_submodule(n).register_forward_hook(scaled(n, 1 + alpha * (g - 1))) for n, g in gains.items()
        ]
        z = smooth(image)[0, 0]
        for handle in handles:
            handle.remove()
        (slope,) = torch.autograd.grad(z, maps["1"])
        product = (maps["1 before"].detach() * slope)[0].double().numpy()
        wanted += np.einsum("k,kyx->yx", gains["1"] - 1, product) / 500
    np.testing.assert_allclose(found["path_integrated"][0], wanted, atol=1e-3 * np.abs(wanted).max())


def test_a_path_that_does_not_add_up_is_said(digits: nn.Module, noise: Any, gain_set: Any) -> None:
    gains = gain_set(random_gains(WIDTHS, size=1.5))
    rough = saliency_by_layer(digits, gains, noise(4), ["relu1"], methods="path", output=0, head="head", most_steps=1)
    one = rough["relu1"]
    assert "incomplete" in set(one["path_status"].values)
    assert (one["path_steps"].values == 1).all()
    fine = saliency_by_layer(digits, gains, noise(4), ["relu1"], methods="path", output=0, head="head")["relu1"]
    gap_rough, gap_fine = (abs(d["path_sum"] - d["logit_change"]).values for d in (one, fine))
    assert gap_fine.max() < gap_rough.max()
    assert (fine["path_steps"].values >= 8).all()


def test_steps_are_doubled_where_the_path_does_not_add_up(digits: nn.Module, noise: Any, gain_set: Any) -> None:
    """Strong gains through rectifiers: some images need more than the first eight midpoints, and get them."""
    gains = gain_set(random_gains(WIDTHS, size=1.5))

    found = gain_saliency(digits, gains, noise(4), layer="relu1", methods="path", output=0, head="head")
    steps = found["path_steps"].values
    assert steps.min() == 8
    assert steps.max() > 8
    assert (np.log2(steps / 8) % 1 == 0).all()
    assert set(found["path_status"].values) == {"ok"}
    few = saliency_by_layer(
        digits, gains, noise(4), ["relu1"], methods="path", output=0, head="head", most_steps=8, dtype="float64"
    )["relu1"]  # fmt: skip
    np.testing.assert_array_equal(few["path_status"] == "incomplete", steps > 8)
    # images that were done are not made again
    done = steps == 8
    np.testing.assert_allclose(few["path_integrated"][done], found["path_integrated"][done], atol=1e-6)


def test_channels_of_captum_are_ours_where_definitions_coincide(digits: nn.Module, noise: Any, gain_set: Any) -> None:
    captum = pytest.importorskip("captum.attr", reason="captum is not installed: nothing to compare Grad-CAM with")
    stimuli, gains = noise(3), random_gains(WIDTHS)
    images = as_tensor(stimuli, None)
    found = gain_saliency(digits, gain_set(gains), stimuli, layer="relu2", methods="gradcam", output=4)
    cam = captum.LayerGradCam(digits, digits.relu2)
    plain = cam.attribute(images, target=4, attr_dim_summation=False).detach().double().numpy()
    np.testing.assert_allclose(found["cam_ungained"], plain.sum(axis=1), atol=1e-5)
    with with_gains(digits, gain_set(gains)):
        gained = captum.LayerGradCam(digits, digits.relu2).attribute(images, target=4).detach().double().numpy()
    np.testing.assert_allclose(found["cam_change"], gained[:, 0] - plain.sum(axis=1), atol=1e-5)
    # at the last maps a channel of Grad-CAM is w A / places, so the weighted excess is (g - 1) times that, summed
    last = gain_saliency(
        digits, gain_set(gains), stimuli, layer="relu3", methods="class_weighted", head="head", output=4
    )
    channels = captum.LayerGradCam(digits, digits.relu3).attribute(images, target=4, attr_dim_summation=False)
    weighted = np.einsum("k,nkyx->nyx", gains["relu3"] - 1, channels.detach().double().numpy()) * 49
    np.testing.assert_allclose(last["class_weighted"], weighted, atol=1e-5)


def test_strongest_filters_by_hand(digits: nn.Module, noise: Any, gain_set: Any) -> None:
    stimuli, gains = noise(3), random_gains(WIDTHS, 2)["relu2"]
    found = gain_saliency(digits, gain_set({"relu2": gains}, tasks=["a", "b"]), stimuli, layer="relu2", top=3)
    captured: list[torch.Tensor] = []
    handle = digits.relu2.register_forward_hook(lambda part, inputs, output: captured.append(output))
    with torch.no_grad():
        digits(as_tensor(stimuli, None))
    handle.remove()
    each = np.einsum("tk,nkyx->tnkyx", gains - 1, captured[0].double().numpy())
    assert found["top_map"].dims == ("task", "stimulus", "rank", "y", "x")
    for t in range(2):
        for n in range(3):
            order = np.argsort(-np.abs(each[t, n].mean(axis=(1, 2))), kind="stable")[:3]
            assert found["top_channel"].values[t, n].tolist() == order.tolist()
            np.testing.assert_allclose(found["top_map"][t, n], each[t, n, order], atol=1e-6)
            np.testing.assert_allclose(found["top_total"][t, n], each[t, n, order].mean(axis=(1, 2)), atol=1e-6)
            leads = np.abs(each[t, n]).argmax(axis=0)
            silent = np.abs(each[t, n]).max(axis=0) == 0
            assert (found["dominant_channel"].values[t, n] == np.where(silent, -1, leads)).all()
    whole = gain_saliency(digits, gain_set({"relu2": gains[0]}), stimuli, layer="relu2", top=99)
    np.testing.assert_allclose(whole["top_map"].sum("rank"), whole["excess"], atol=1e-6)


def test_relative_amplification_is_refused_at_signed_sites(digits: nn.Module, noise: Any, gain_set: Any) -> None:
    gains = gain_set({"conv2": np.full(32, 2.0), "relu2": np.full(32, 3.0)})
    with pytest.raises(DataError, match=r"layer 'conv2' are negative somewhere \(signed units\); choose a layer after"):
        gain_saliency(digits, gains, noise(2), layer="conv2", relative=True)
    assert "relative" not in gain_saliency(digits, gains, noise(2), layer="relu2", relative=False)
    found = gain_saliency(digits, gains, noise(2), layer="relu2", relative=True)["relative"].values
    np.testing.assert_allclose(found[np.isfinite(found)], 2.0, rtol=1e-6)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"methods": "gradcam"}, DataError, "explains a logit: wanted gains that carry their read-out"),
        ({"methods": "lrp"}, ConfigError, "unknown saliency method 'lrp'"),
        ({"methods": "path", "output": [0, 1]}, DataError, "one output of the network for all gain sets"),
        ({"methods": "path", "output": 10}, DataError, "wanted output 10 of the network"),
        ({"methods": "path", "output": 1, "relative_to_mean": True}, ConfigError, "'path' explains the logit"),
        ({"methods": "class_weighted", "output": 1, "head": "head"}, DataError, "'relu2' has 32 filters and the read-"),
        ({"top": -1}, ConfigError, "top must be at least 0"),
        ({"dtype": "float16"}, ConfigError, "unknown dtype of the maps 'float16'"),
    ],
)
def test_what_cannot_be_explained(
    digits: nn.Module, noise: Any, gain_set: Any, options: dict[str, Any], error: type, message: str
) -> None:
    with pytest.raises(error, match=message):
        gain_saliency(digits, gain_set({"relu2": np.ones(32)}), noise(1), layer="relu2", **options)
    assert untouched(digits)


def test_images_of_a_size_that_the_network_does_not_take(noise: Any, gain_set: Any) -> None:
    net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(2 * 6 * 6, 3))
    gains = gain_set({"1": np.ones(2)})
    gain_saliency(net, gains, noise(1, size=8), layer="1")
    with pytest.raises(DataError, match=r"the network does not take images of shape \(1, 9, 9\) .*; resize them"):
        gain_saliency(net, gains, noise(1, size=9), layer="1")
    with pytest.raises(DataError, match=r"the network does not take images of shape \(3, 8, 8\) .*; resize them"):
        gain_saliency(net, gains, noise(1, channels=3, size=8), layer="1")
    assert untouched(net)


def test_nothing_is_left_behind_when_a_gradient_fails(digits: nn.Module, noise: Any, gain_set: Any) -> None:
    digits.train()
    gains = gain_set({**random_gains({"relu2": 32}), "relu3": np.ones(63)})
    with pytest.raises(DataError, match="'relu3' has 64 filters; came 63 gains; these gains were learned on another"):
        gain_saliency(digits, gains, noise(2), layer="relu2", methods=GRADIENTS, output=0)
    with pytest.raises(DataError, match="wanted output 10 of the network"):  # known when its gradient is to be taken
        gain_saliency(digits, gain_set(random_gains({"relu2": 32})), noise(2), layer="relu2", methods="path", output=10)
    assert untouched(digits)
    assert all(part.training for part in digits.modules())
    digits.eval()


def test_all_zero_maps_have_undefined_relative_and_no_leader(noise: Any, gain_set: Any) -> None:
    net = nn.Sequential(nn.Conv2d(1, 2, 1), nn.ReLU())
    nn.init.constant_(net[0].bias, -9.0)
    found = gain_saliency(net, gain_set({"1": [2.0, 3.0]}), noise(2), layer="1", top=1)
    assert np.isnan(found["relative"]).all()
    assert (found["dominant_channel"].values == -1).all()
    assert (found["top_total"].values == 0).all()


def test_in_place_steps_after_a_gained_layer_do_not_disturb_gradients(noise: Any, gain_set: Any) -> None:
    torch.manual_seed(1)
    net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(inplace=True), nn.Conv2d(4, 4, 3), nn.ReLU(inplace=True),
                        GlobalMean(), nn.Linear(4, 2))  # fmt: skip
    torch.manual_seed(1)
    plain = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.ReLU(), GlobalMean(), nn.Linear(4, 2))
    gains = gain_set(random_gains({"0": 4, "2": 4}))
    found, wanted = (
        gain_saliency(one, gains, noise(2, size=9), layer="0", methods=GRADIENTS, output=1) for one in (net, plain)
    )
    for name in found.data_vars:
        if name != "path_status":
            np.testing.assert_allclose(found[name], wanted[name], atol=1e-6, err_msg=str(name))


@pytest.mark.parametrize("beside", ["shift", "spatial"])
def test_gains_with_more_than_a_factor_per_filter_are_refused(noise: Any, gain_set: Any, beside: str) -> None:
    """A shift of 2 changes the logit while all g are 1: maps of (g - 1) A would say that nothing happens."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), GlobalMean(), nn.Linear(4, 2)).eval()
    stimuli, plain = noise(2, size=6), gain_set({"1": np.ones((2, 4))}, tasks=["a", "b"])

    def having(value: float) -> xr.Dataset:
        if beside == "shift":
            return plain.assign(shift=(("task", "unit"), np.array([[value] * 4, [0.0] * 4])))
        places = [(y, x) for y in range(6) for x in range(6)]
        grid = np.ones((2, 36))
        grid[0, 7] = value
        return plain.assign(spatial=(("task", "position"), grid)).assign_coords(
            position=[f"1/{y},{x}" for y, x in places], position_layer=("position", ["1"] * 36),
            position_y=("position", [y for y, _ in places]), position_x=("position", [x for _, x in places]),
        )  # fmt: skip

    given, what = having(2.0), {"shift": "shifts", "spatial": "gains per position"}[beside]
    assert np.abs(logits(net, given.sel(task="a"), stimuli, 0) - logits(net, plain.sel(task="a"), stimuli, 0)).min() > 0
    maps = gain_saliency(net, plain, stimuli, layer="1")
    flags = np.ones((2, 1, 6, 6), np.uint8)
    masks = xr.Dataset(
        {"mask": (("stimulus", "object", "y", "x"), flags)},
        {"stimulus": stimuli.id, "object_label": (("stimulus", "object"), [["a"], ["b"]])}, {"kind": "MASKS"},
    )  # fmt: skip
    for make in (
        lambda: gain_saliency(net, given, stimuli, layer="1", methods=["path", "gradcam"], output=0),
        lambda: saliency_by_layer(net, given, stimuli, ["1"]),
        lambda: causal_check(net, given, stimuli, maps, output=0),
        lambda: permuted_scores(net, given, stimuli, ["1"], masks, permutations=2),
    ):
        with pytest.raises(DataError, match=f"layer '1' has {what} too, so maps and curves would not be"):
            make()
    # what acts on no chosen task, or nowhere, changes no bit
    for same in (having({"shift": 0.0, "spatial": 1.0}[beside]), given):
        found = gain_saliency(net, same, stimuli, layer="1", task="b", methods=["path", "gradcam"], output=0)
        wanted = gain_saliency(net, plain, stimuli, layer="1", task="b", methods=["path", "gradcam"], output=0)
        xr.testing.assert_identical(found, wanted)


@pytest.mark.parametrize("method", ["class_weighted", "path", "gradcam", "causal"])
def test_one_of_several_read_outs_must_be_chosen(smooth: nn.Module, noise: Any, gain_set: Any, method: str) -> None:
    """Gains of a task of three classes: one set, three read-outs."""
    stimuli, rng = noise(2), np.random.default_rng(0)
    gains = gain_set(random_gains({"4": 8})).assign(
        head_weight=(("output", "feature"), rng.standard_normal((3, 8))), head_bias=("output", np.arange(3.0)),
        feature_scale=("feature", np.ones(8)),
    ).assign_coords(output=["cat", "dog", "fox"])  # fmt: skip
    maps = gain_saliency(smooth, gains, stimuli, layer="4")

    def explained(one: xr.Dataset) -> xr.Dataset:
        if method == "causal":
            return causal_check(smooth, one, stimuli, maps, head="6", fractions=[0, 0.5, 1])
        return gain_saliency(smooth, one, stimuli, layer="4", methods=method, head="6")

    with pytest.raises(DataError, match=r"these serve 3 \(cat, dog, fox\); select one with gains\.sel\(output=…\)"):
        explained(gains)
    chosen = explained(gains.sel(output="dog"))
    alone = gains.isel(output=1, drop=True)
    for name, values in explained(alone).data_vars.items():
        np.testing.assert_array_equal(chosen[name], values)

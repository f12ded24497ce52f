"""Streaming a network's responses: the d' of the stored recording, without the recording."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import xarray as xr
from torch import nn

import featattn_neuro as fn
from featattn_neuro.errors import ConfigError, DataError
from featattn_neuro.io.stimuli import load_stimuli
from featattn_neuro.measures.selectivity import selectivity, targets_from_labels
from featattn_neuro.measures.streaming import class_moments, merge_moments, selectivity_from_moments
from featattn_neuro.nets.adapters import Network
from featattn_neuro.nets.recording import record_activations
from featattn_neuro.nets.streaming import MomentsSink, stream_moments

N = 50


def make_network():
    torch.manual_seed(0)
    # the same in-place ReLU twice: calls are kept apart, and the convolution keeps its negative values
    relu = nn.ReLU(inplace=True)
    return nn.Sequential(nn.Conv2d(1, 4, 3), relu, nn.Conv2d(4, 6, 3), relu).eval()


@pytest.fixture
def network():
    return make_network()


@pytest.fixture
def stimuli():
    pixels = np.random.default_rng(0).normal(size=(N, 1, 8, 8)).astype(np.float32)
    return load_stimuli(pixels, label=[str(i % 3) for i in range(N)])


def assert_agree(found, wanted):
    for name in ("dprime", "mean_response", "sd_response", "zero_fraction"):
        np.testing.assert_allclose(found[name].values, wanted[name].values, rtol=0, atol=1e-10, err_msg=name)
    for name in ("status", "live", "n_target", "n_distractor", "selection_source", "unit", "layer", "call"):
        np.testing.assert_array_equal(found[name].values, wanted[name].values, err_msg=name)


@pytest.mark.parametrize("reduce", ["mean", "max", "none"])
def test_streamed_equals_stored(network, stimuli, reduce):
    layers = ["0", "1", "2"]
    stored = record_activations(network, stimuli, layers, reduce=reduce, batch_size=16)
    streamed = stream_moments(network, stimuli, layers, reduce=reduce, batch_size=16)
    # the convolution before the in-place ReLU keeps its negative values
    assert reduce == "max" or (streamed["minimum"].sel(unit=streamed["layer"] == "0") < 0).any()
    assert_agree(selectivity_from_moments(streamed, "1"), selectivity(stored, "1"))
    again = class_moments(stored, block=16)
    for name in again.data_vars:
        np.testing.assert_array_equal(streamed[name].values, again[name].values, err_msg=name)


def test_tasks_and_reductions_in_one_pass(network, stimuli):
    stored = record_activations(network, stimuli, "conv", reduce=["mean", "sd"], batch_size=8)
    targets = targets_from_labels(stored, ["2", "0"])
    shuffled = targets.isel(stimulus=np.random.default_rng(1).permutation(N))
    streamed = stream_moments(network, stimuli, "conv", target=shuffled, reduce=["mean", "sd"], batch_size=8)
    for name in ("mean", "sd"):
        found = selectivity_from_moments(streamed.sel(reduction=name))
        assert_agree(found, selectivity(stored.sel(reduction=name), targets))
    one = stream_moments(network, stimuli, "conv", target=targets.sel(task="2"), batch_size=8)
    assert_agree(selectivity_from_moments(one), selectivity(stored.sel(reduction="mean"), "2"))


def test_shards_of_the_stimuli_merge_to_the_whole(network, stimuli):
    index = np.arange(N)
    parts = [
        stream_moments(network, stimuli.select(part), "conv", batch_size=16)
        for part in (index[:7], index[7:30], index[30:])
    ]
    stored = record_activations(network, stimuli, "conv", batch_size=16)
    assert_agree(selectivity_from_moments(merge_moments(*parts), "0"), selectivity(stored, "0"))
    with pytest.raises(DataError, match="more than once"):
        merge_moments(parts[0], parts[0])


def _other_weights(network):
    with torch.no_grad():
        network[0].weight[0, 0, 0, 0] += 1


@pytest.mark.parametrize(
    ("options", "alter", "attribute"),
    [
        ({"reduce": "max"}, None, "reduction"),
        ({"network_name": "another"}, None, "network_name"),
        ({"compute_dtype": "bfloat16"}, None, "compute_dtype"),
        ({}, _other_weights, "weights_sha256"),
        ({"batch_size": 16}, None, None),
    ],
)
@pytest.mark.parametrize("stored", [False, True])
def test_parts_that_were_made_in_other_ways_do_not_merge(network, stimuli, tmp_path, options, alter, attribute, stored):
    first, second = stimuli.select(np.arange(20)), stimuli.select(np.arange(20, N))
    one = stream_moments(network, first, "0", batch_size=8)
    if stored:  # moments of a recording say by its inputs of which weights they are
        one = class_moments(fn.record(Network("network", network), first, "0", batch_size=8, out=tmp_path / "a.nc"))
    if alter is not None:
        alter(network)
    other = stream_moments(network, second, "0", **{"batch_size": 8, **options})
    if attribute is None:
        assert int(merge_moments(one, other)["count"].sum()) == N
        return
    with pytest.raises(DataError, match=f"made alike; the attribute '{attribute}' is"):
        merge_moments(one, other)


class _Torn(torch.utils.data.Dataset):
    """Two classes; item 3 cannot be read."""

    def __init__(self, seed):
        self.seed = seed

    def __len__(self):
        return 10

    def __getitem__(self, i):
        if i == 3:
            raise OSError("truncated")
        return torch.from_numpy(np.random.default_rng(self.seed + i).random((1, 8, 8), np.float32)), ("cat", "dog")[
            i % 2
        ]


def test_items_that_cannot_be_read_are_counted_and_make_no_class(network):
    parts = [fn.stream_moments(network, _Torn(seed), "0", corrupt="skip") for seed in (0, 100)]
    assert parts[0].group.values.tolist() == ["cat", "dog"]
    assert parts[0]["count"].values.tolist() == [5, 4]
    whole = merge_moments(*parts)
    assert (whole.attrs["n_skipped"], whole["count"].values.tolist()) == (2, [10, 8])
    assert selectivity_from_moments(whole).task.values.tolist() == ["cat", "dog"]


def test_memory_does_not_grow_with_the_stimuli(network, stimuli):
    held = []

    class Watched(MomentsSink):
        def write(self, start, values, unreadable):
            super().write(start, values, unreadable)
            held.append(sum(array.nbytes for array in self.moments.arrays().values()))

    from featattn_neuro.nets.plan import make_plan
    from featattn_neuro.nets.recording import run_plan

    run_plan(network, make_plan(network, "conv", batch_size=5), stimuli, Watched())
    assert len(held) == 10
    assert len(set(held)) == 1


def test_the_network_is_left_as_it_was_also_when_it_raises(network, stimuli):
    network.train()
    stream_moments(network, stimuli, "conv")
    unlabelled = load_stimuli(stimuli.pixels(), label=None)
    with pytest.raises(DataError, match="no labels"):
        stream_moments(network, unlabelled, "conv")
    assert all(part.training and not part._forward_hooks for part in network.modules())


def test_user_mistakes(network, stimuli):
    with pytest.raises(ConfigError, match="unknown rule for corrupt images 'ignore'"):
        stream_moments(network, stimuli, "conv", corrupt="ignore")
    target = xr.DataArray(np.ones(N, bool), {"stimulus": stimuli.id}, "stimulus")
    with pytest.raises(DataError, match="does not name 1 of the stimuli"):
        stream_moments(network, stimuli, "conv", target=target[1:])
    with pytest.raises(DataError, match="must be boolean"):
        stream_moments(network, stimuli, "conv", target=target.astype(int))
    with pytest.raises(DataError, match="without names"):
        stream_moments(network, stimuli, "conv", target=target.drop_vars("stimulus"))
    with pytest.raises(DataError, match="more than once"):
        stream_moments(network, stimuli, "conv", target=xr.concat([target, target[:1]], "stimulus"))


def test_unreadable_images_are_left_out_of_the_sums(network, stimuli):
    class Broken:
        """The same stimuli, of which one cannot be read."""

        id = stimuli.id

        def __len__(self):
            return N

        def __getitem__(self, index):
            if index == 4:
                raise OSError("truncated")
            return stimuli[index]

        def coordinates(self):
            return stimuli.coordinates()

    found = stream_moments(network, Broken(), "conv", corrupt="skip", batch_size=16)
    rest = record_activations(network, stimuli, "conv", batch_size=16).isel(stimulus=np.arange(N) != 4)
    assert found.attrs["n_skipped"] == 1
    assert stimuli.id[4] not in found["stimulus_id"].values
    assert_agree(selectivity_from_moments(found, "1"), selectivity(rest, "1"))
    with pytest.raises(DataError, match="cannot be read"):
        stream_moments(network, Broken(), "conv")


def test_the_public_name_takes_what_record_takes(tmp_path):
    from PIL import Image

    import featattn_neuro as fn

    rng = np.random.default_rng(0)
    for i in range(24):
        place = tmp_path / "images" / "ab"[i % 2]
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 255, (20, 24, 3), np.uint8)).save(place / f"{i}.png")
    torch.manual_seed(0)
    made = fn.load_model(nn.Sequential(nn.Conv2d(3, 5, 3), nn.ReLU()), preprocess=fn.Preprocessing(size=16, crop=12))
    stored = fn.record(made, tmp_path / "images", ["0", "1"], reduce=["mean", "max"], batch_size=8)
    moments = fn.stream_moments(
        made, tmp_path / "images", ["0", "1"], reduce=["mean", "max"], batch_size=8, workers=2, device="cpu"
    )
    assert moments.attrs["preprocessing"] == stored.attrs["preprocessing"] == made.preprocess.describe()
    for name in ("mean", "max"):
        assert_agree(
            fn.selectivity_from_moments(moments.sel(reduction=name), "a"),
            fn.selectivity(stored.sel(reduction=name), "a"),
        )
    images = fn.load_stimuli(tmp_path / "images")
    halves = [fn.stream_moments(made, images.select(half), "0") for half in (np.arange(10), np.arange(10, 24))]
    whole = fn.stream_moments(made, images, "0")
    np.testing.assert_allclose(fn.merge_moments(*halves)["m2"], whole["m2"], rtol=1e-12)
    (tmp_path / "images" / "a" / "0.png").write_bytes(b"no picture")
    with pytest.raises(DataError, match=r"0\.png"):
        fn.stream_moments(made, tmp_path / "images", "0")
    assert fn.stream_moments(made, tmp_path / "images", "0", corrupt="skip").attrs["n_skipped"] == 1

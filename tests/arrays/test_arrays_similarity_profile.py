"""Linear fall-off against a surround: the truth is found, and noise is not taken for a shape."""

from __future__ import annotations

import numpy as np
import pytest

from featattn_neuro.arrays.similarity_profile import profile_curve, similarity_profiles

DISTANCE = np.tile(np.linspace(0, 180, 13), 12)


def winners(ratio):
    fits = similarity_profiles(DISTANCE, ratio)
    return min(fits, key=lambda n: fits[n].bic), min(fits, key=lambda n: fits[n].error), fits


def test_a_surround_is_found():
    rng = np.random.default_rng(0)
    truth = 1 + 0.4 * np.exp(-0.5 * (DISTANCE / 30) ** 2) - 0.2 * np.exp(-0.5 * (DISTANCE / 80) ** 2)
    by_bic, by_error, fits = winners(truth + 0.05 * rng.normal(size=truth.size))
    assert (by_bic, by_error) == ("surround", "surround")
    exact = similarity_profiles(DISTANCE, truth)["surround"]
    np.testing.assert_allclose(exact.parameters, [1, 0.4, 30, 0.2, 80], rtol=0.02)
    assert fits["surround"].error == pytest.approx(0.05**2, rel=0.3)


def test_a_line_is_found_and_equals_least_squares():
    rng = np.random.default_rng(1)
    ratio = 1.2 - 0.002 * DISTANCE + 0.05 * rng.normal(size=DISTANCE.size)
    by_bic, by_error, fits = winners(ratio)
    assert (by_bic, by_error) == ("linear", "linear")
    np.testing.assert_allclose(fits["linear"].parameters[::-1], np.polyfit(DISTANCE, ratio, 1))


def test_noise_has_no_shape():
    rng = np.random.default_rng(2)
    found = [winners(1.1 + 0.1 * rng.normal(size=DISTANCE.size))[0] for _ in range(15)]
    assert found.count("constant") >= 13  # one parameter too many passes BIC in 2.5 % of cases here
    assert found.count("surround") <= 1


def test_gaps_and_too_few_points():
    ratio = 1.2 - 0.002 * DISTANCE
    ratio[::3] = np.nan
    np.testing.assert_allclose(similarity_profiles(DISTANCE, ratio)["linear"].parameters, [1.2, -0.002])
    with pytest.raises(ValueError, match="10 finite ratios or more"):
        similarity_profiles(DISTANCE[:5], ratio[:5])


def test_points_of_a_unit_are_left_out_together():
    """Units that differ in their level: points of the same unit would give away the one that is left out."""
    rng = np.random.default_rng(3)
    unit = np.repeat(np.arange(12), 13)
    own = rng.normal(0, 0.3, 12)[unit]
    ratio = 1.2 + own - 0.0005 * DISTANCE
    together = similarity_profiles(DISTANCE, ratio, group=unit)["linear"].error
    by_hand = 0.0
    for fold in range(10):
        out = unit % 10 == fold
        line = np.polyfit(DISTANCE[~out], ratio[~out], 1)
        by_hand += ((np.polyval(line, DISTANCE[out]) - ratio[out]) ** 2).sum()
    assert together == pytest.approx(by_hand / ratio.size)
    assert similarity_profiles(DISTANCE, ratio, group=np.zeros(ratio.size))["linear"].error == pytest.approx(
        similarity_profiles(DISTANCE, ratio)["linear"].error
    )
    with pytest.raises(ValueError, match="group must be of the length"):
        similarity_profiles(DISTANCE, ratio, group=unit[:5])


@pytest.mark.parametrize("shape", ["constant", "linear", "surround"])
def test_the_curve_of_a_shape(shape):
    at = np.array([0.0, 30.0])
    wanted = {
        "constant": [1.2, 1.2], "linear": [1.2, 0.9],
        "surround": [1 + 0.4 - 0.2, 1 + 0.4 * np.exp(-0.5) - 0.2 * np.exp(-0.125)],
    }  # fmt: skip
    parameters = {"constant": [1.2], "linear": [1.2, -0.01], "surround": [1, 0.4, 30, 0.2, 60]}
    np.testing.assert_allclose(profile_curve(shape, parameters[shape], at), wanted[shape])


def test_distances_count_as_often_as_they_come():
    rng = np.random.default_rng(4)
    kept = rng.random(DISTANCE.size) < np.linspace(1, 0.2, DISTANCE.size)
    kept &= rng.random(DISTANCE.size) < 1 - DISTANCE / 250
    x, y = DISTANCE[kept], (1.2 - 0.002 * DISTANCE + 0.1 * rng.normal(size=DISTANCE.size))[kept]
    found = similarity_profiles(x, y)
    np.testing.assert_allclose(found["linear"].parameters[::-1], np.polyfit(x, y, 1))
    residual = profile_curve("surround", found["surround"].parameters, x) - y
    assert found["surround"].bic == pytest.approx(x.size * np.log(np.mean(residual**2)) + 5 * np.log(x.size))
    for name in ("linear", "surround"):  # a least-squares fit with a constant leaves no mean behind
        assert abs(np.mean(profile_curve(name, found[name].parameters, x) - y)) < 1e-6

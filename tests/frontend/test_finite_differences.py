"""What is made of differences by step size, for functions whose derivative is known."""

import numpy as np
import pytest

from metagrad.diagnostics.finite_differences import (
    AGREES,
    CANNOT_TELL,
    DISAGREES,
    NOT_SMOOTH,
    DirectionCheck,
    judge,
    together,
)

SLOPE = float(np.cos(1.3))


def smooth(h):
    return np.sin(1.3 + h)


def tents(scales):
    """A sum of tents, each half as wide and as high as the one before: slopes, not values, add up.

    Up to the narrowest of them it has kinks at every scale.
    """
    phases = np.random.default_rng(0).uniform(0, 2, scales)
    wave = lambda x: np.abs(x % 2 - 1)
    f = lambda h: 2 + h + sum(wave(phases[i] + h * 2.0**i) / 2.0**i for i in range(scales))
    return f, 1 + float(np.sum(np.sign(phases - 1)))


def check(f, metagradient, single=False, least=0.0):
    dtype = np.float32 if single else np.float64
    sizes = tuple(np.geomspace(1e-1, 1e-5 if single else 1e-9, 9 if single else 17))
    rounded = lambda h: float(dtype(f(dtype(h))))
    return judge("random 1", rounded, metagradient, sizes, float(np.finfo(dtype).eps), least)


@pytest.mark.parametrize("single, error", [(False, 1e-9), (True, 1e-4)])
def test_a_smooth_function(single, error):
    result = check(smooth, SLOPE, single)
    assert result.verdict == AGREES and result.relative_error < error
    assert abs(result.estimate - SLOPE) <= result.error and result.predicts_to == 0.1
    low, high = result.settled
    assert low <= 1e-3 < high and result.kink == 0


@pytest.mark.parametrize("single", [False, True])
@pytest.mark.parametrize("factor", [0, -1, 0.98, 1.02, 7])
def test_a_wrong_derivative(factor, single):
    result = check(smooth, factor * SLOPE, single)
    assert result.verdict == DISAGREES
    np.testing.assert_allclose(result.estimate, SLOPE, rtol=1e-3)


def test_a_slightly_wrong_derivative_is_seen_in_double_precision_only():
    assert check(smooth, SLOPE * (1 + 1e-5)).verdict == DISAGREES
    assert check(smooth, SLOPE * (1 + 1e-5), single=True).verdict == AGREES


@pytest.mark.parametrize("single", [False, True])
def test_a_constant(single):
    assert check(lambda h: 1.3 + 0 * h, 0.0, single).verdict == AGREES
    assert check(lambda h: 1.3 + 0 * h, 1.0, single).verdict == DISAGREES


def test_a_derivative_that_rounding_covers():
    f = lambda h: 1.3 + 1e-9 * np.sin(h)
    assert check(f, 1e-9, single=True).verdict == CANNOT_TELL
    assert check(f, 1e-9).verdict == AGREES


@pytest.mark.parametrize("single", [False, True])
def test_one_kink_far_away(single):
    result = check(lambda h: smooth(h) + max(h - 0.03, 0), SLOPE, single)
    assert result.verdict == AGREES and 0.02 < result.predicts_to < 0.1


@pytest.mark.parametrize("single", [False, True])
@pytest.mark.parametrize("metagradient", [SLOPE, SLOPE + 1])
def test_a_kink_at_the_point(metagradient, single):
    """Both slopes are derivatives that JAX may give; the central difference is their mean."""
    result = check(lambda h: smooth(h) + max(h, 0), metagradient, single)
    assert result.verdict == NOT_SMOOTH
    np.testing.assert_allclose(result.kink, 1, rtol=1e-2)


def test_the_mean_of_the_slopes_at_a_kink():
    result = check(lambda h: smooth(h) + abs(h), SLOPE)
    assert result.verdict == AGREES and result.kink > 1.9


def test_a_flat_piece_of_a_function_that_moves():
    """A network whose units are dead here and not nearby."""
    f = lambda h: 1 + sum(max(abs(h) - k, 0) * (-1) ** i for i, k in enumerate((1e-4, 2e-3, 0.05)))
    result = check(lambda h: f(h) + max(h - 3e-4, 0), 0.0)
    assert result.verdict == NOT_SMOOTH and result.estimate == 0 and result.predicts_to > 9e-5
    assert check(f, 0.5).verdict == DISAGREES


def test_a_jump_at_the_point():
    assert check(lambda h: float(h > 0) + h, 1.0).verdict == NOT_SMOOTH


@pytest.mark.parametrize("scales", [14, 20, 40])
@pytest.mark.parametrize("factor", [1, 3])
def test_kinks_at_every_scale(scales, factor):
    """Where they go below the smallest step size, right and wrong look alike; else not."""
    f, slope = tents(scales)
    verdict = check(f, factor * slope).verdict
    assert verdict == (DISAGREES if factor == 3 and scales < 40 else NOT_SMOOTH)


def test_strong_curvature_is_not_taken_for_kinks():
    """The derivative predicts steps up to 3e-5 only, and the error grows with their square."""
    result = check(lambda h: np.sin(1e4 * h), 1e4)
    assert result.verdict == AGREES and result.predicts_to < 1e-4


def test_a_staircase():
    """Its derivative is zero, and over many stairs its slope is one."""
    result = check(lambda h: 1 + np.round(h * 1e6 + 0.3) / 1e6, 0.0)
    assert result.verdict == NOT_SMOOTH


def test_where_the_function_is_not_finite():
    result = check(lambda h: np.sqrt(max(h + 1e-4, -1)) if h >= -1e-4 else np.nan, 50.0)
    assert result.verdict == AGREES
    assert np.isnan(result.differences[0]) and result.settled[1] < 1e-4


def test_little_movement_in_one_direction_is_not_judged_by_itself():
    """Off by half, of a number that is small beside the other directions'."""
    f = lambda h: np.sin(1.3) + 1e-3 * h
    assert check(f, 1.5e-3).verdict == DISAGREES
    assert check(f, 1.5e-3, single=True, least=10.0).verdict == AGREES


@pytest.mark.parametrize(
    "verdicts, expected",
    [
        ([AGREES, AGREES, NOT_SMOOTH], AGREES),
        ([AGREES, NOT_SMOOTH], NOT_SMOOTH),
        ([DISAGREES, AGREES, AGREES], DISAGREES),
        ([DISAGREES, DISAGREES, NOT_SMOOTH], DISAGREES),
        ([DISAGREES, NOT_SMOOTH], NOT_SMOOTH),
        ([CANNOT_TELL, AGREES], AGREES),
        ([CANNOT_TELL], CANNOT_TELL),
    ],
)
def test_several_directions(verdicts, expected):
    of = lambda verdict: DirectionCheck("", 0, (), (), (), 0, 0, 0, None, 0, 0, verdict)
    assert together(list(map(of, verdicts))) == expected

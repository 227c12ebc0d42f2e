"""Beside metasmoothness: routines from steps, Definition 1 of a number, and landscapes."""

import doctest
import importlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import metagrad
from metagrad import smoothness


@metagrad.compile
def step(w, meta, x):
    return w - meta["rate"] * metagrad.grad(lambda w: jnp.sum((w - x) ** 2) / 2)(w)


STATE0, BATCHES = jnp.zeros(2), jnp.ones((3, 2))
OUTER = lambda w: jnp.sum((w - 1) ** 2)


def after_three(rate):
    """The outer value of the run in closed form: w ends at 1 - (1 - rate)^3."""
    return 2 * (1 - rate) ** 6


@pytest.mark.parametrize("given", [step, step.metagradient(OUTER), lambda *a: step(*a)])
def test_a_routine_is_the_loop_of_the_step(given):
    train = smoothness.training(given, STATE0, BATCHES)
    np.testing.assert_allclose(train({"rate": 0.5}), 1 - 0.5**3, rtol=1e-6)


def test_a_routine_drops_aux_and_takes_what_counts_as_parameters():
    def with_key(state, meta, x):
        key, drawn = jax.random.split(state["key"])
        w = state["w"] - meta * (state["w"] - x) + 0 * jax.random.normal(drawn)
        return {"w": w, "key": key}, jnp.sum(w)

    state0 = {"w": 0.0, "key": jax.random.key(0)}
    decorated = metagrad.compile(has_aux=True)(with_key)
    train = smoothness.training(decorated, state0, jnp.ones(3), params=lambda s: s["w"])
    assert float(train(0.5)) == pytest.approx(0.875)
    assert metagrad.metasmoothness(train, 0.5, 1.0, 0.1, x64=True).dtype == "float64"


def test_a_routine_refuses_streams_and_what_is_no_step():
    with pytest.raises(TypeError, match="jit=False"):
        smoothness.training(step, STATE0, metagrad.Stream(np.ones((3, 2))))
    with pytest.raises(TypeError, match="step must be"):
        smoothness.training(3, STATE0, BATCHES)


def test_a_routine_that_cannot_be_jitted():
    def train(z):
        return np.full(3, np.asarray(z)) ** 2

    assert metagrad.metasmoothness(train, 0.5, 1.0, 0.1, jit=False).value == 1


def test_definition_one_from_a_metagradient_is_exact():
    """|f'(z + h) - f'(z)| / h, where f' = -12 (1 - z)^5."""
    mg = step.metagradient(OUTER)
    slope = lambda rate: -12 * (1 - rate) ** 5
    with jax.enable_x64(True):
        state0, batches = jnp.zeros(2), jnp.ones((3, 2))
        gradient = lambda z: mg(state0, z, batches).grad
        z, v = {"rate": jnp.float64(0.2)}, {"rate": 1.0}
        entries = smoothness.of_gradient(gradient, z, v, [0.1, 0.01])
    for entry in entries:
        expected = abs(slope(0.2 + entry.h) - slope(0.2)) / entry.h
        assert entry.value == pytest.approx(expected, rel=1e-11)
        assert entry.derivatives[0] == pytest.approx(slope(0.2), rel=1e-11)
        assert entry.value > entry.resolution
        assert 0 < entry.relative_change < 1


def test_definition_one_by_differences():
    train = smoothness.training(step, STATE0, BATCHES)
    with jax.enable_x64(True):
        train, z, traces = train.in_double(), {"rate": jnp.float64(0.2)}, []

        def f(z):
            traces.append(1)
            return OUTER(train(z))

        (entry,) = smoothness.of_function(f, z, {"rate": 1.0}, 0.1)
    values = [after_three(0.2 + 0.1 * k) for k in range(3)]
    assert len(traces) == 1
    assert entry.value == pytest.approx((values[2] - 2 * values[1] + values[0]) / 0.01, rel=1e-9)
    assert "along v, h = 0.1" in str(entry)


def test_definition_one_says_where_rounding_decides():
    (entry,) = smoothness.of_function(lambda z: 1 + 1e-3 * z, 0.5, 1.0, 1e-4)
    assert entry.value <= entry.resolution
    assert "which rounding decides" in str(entry)


@pytest.mark.parametrize(
    ("f", "error", "text"),
    [
        (lambda z: jnp.array([z, z]), ValueError, "must return a scalar"),
        (lambda z: jnp.log(-z), FloatingPointError, "f is nan at z"),
    ],
)
def test_what_definition_one_refuses(f, error, text):
    with pytest.raises(error, match=text):
        smoothness.of_function(f, 0.5, 1.0, 0.1)


def test_definition_one_refuses_a_gradient_that_is_not_finite():
    with pytest.raises(FloatingPointError, match="the gradient at z is not finite"):
        smoothness.of_gradient(lambda z: z * jnp.nan, 0.5, 1.0, 0.1)


def test_a_landscape_is_the_outcome_over_the_plane(tmp_path):
    traces = []

    def outcome(z):
        traces.append(1)
        return jnp.sum(z["x"] ** 2) + z["y"]

    z = {"x": jnp.array([1.0, 2.0]), "y": 3.0}
    u, v = {"x": np.array([1.0, 0.0]), "y": 0.0}, {"x": np.array([0.0, 1.0]), "y": -1.0}
    seen = smoothness.landscape(outcome, z, u, v, reach=(0.5, 1.0), points_per_axis=(3, 5))
    expected = (1 + seen.a[:, None]) ** 2 + (2 + seen.b) ** 2 + 3 - seen.b
    assert len(traces) == 1
    assert seen.a.tolist() == [-0.5, 0.0, 0.5]
    np.testing.assert_allclose(seen.values, expected, rtol=1e-6)
    seen.save(tmp_path / "picture.png")
    assert (tmp_path / "picture.png").stat().st_size > 1000


def test_roughness_of_a_plane_and_of_a_chessboard():
    a = np.arange(5.0)
    plane = smoothness.Landscape(a, a, a[:, None] + 2 * a)
    board = smoothness.Landscape(a, a, (a[:, None] + a) % 2)
    assert plane.roughness == 0
    assert board.roughness == 1
    assert np.isnan(smoothness.Landscape(a[:2], a, plane.values[:2]).roughness)


def test_what_a_landscape_refuses():
    z, u = jnp.ones(2), np.ones(2)
    with pytest.raises(ValueError, match="u has the shape"):
        smoothness.landscape(jnp.sum, z, np.ones(3), u)
    with pytest.raises(ValueError, match="reach must be positive"):
        smoothness.landscape(jnp.sum, z, u, u, reach=0.0)


@pytest.mark.parametrize("name", ["measure", "routine", "derivative_change"])
def test_the_examples_in_docstrings(name):
    module = importlib.import_module(f"metagrad.smoothness.{name}")
    failed, tried = doctest.testmod(module)
    assert (failed, tried > 0) == (0, True)


@pytest.mark.parametrize(
    ("gradient", "message"),
    [
        ((jnp.ones(2), 1.0), "gradient returned"),
        (
            {"a": jnp.ones((2, 1)), "b": 1.0},
            r"gradient\['a'\] has the shape \(2, 1\), and z\['a'\]",
        ),
        ({"a": 1.0, "b": 1.0}, r"gradient\['a'\] has the shape \(\), and z\['a'\] has \(2,\)"),
    ],
)
def test_a_gradient_that_is_not_like_z_is_refused(gradient, message):
    z = {"a": jnp.ones(2), "b": 0.5}
    with pytest.raises(ValueError, match=message):
        smoothness.of_gradient(lambda z: gradient, z, z, 0.1)

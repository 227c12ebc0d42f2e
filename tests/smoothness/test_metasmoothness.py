"""`metagrad.metasmoothness`: Definition 2, what rounding decides, and what is refused."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import metagrad
from metagrad.smoothness import random_directions, training


def curve(z):
    """Parameters that move each in a way of its own."""
    return {"a": jnp.stack([z, 3 * z, -(z**2)]), "b": jnp.array([jnp.sin(8 * z), (z - 0.3) ** 2])}


def definition(first, second, third):
    """Definition 2 as the paper writes it: sign(d)^T diag(|d| / ||d||_1) sign(e)."""
    first, second, third = (
        np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree)])
        for tree in (first, second, third)
    )
    d, e = second - first, third - second
    return np.sign(d) @ np.diag(np.abs(d) / np.abs(d).sum()) @ np.sign(e)


@pytest.mark.parametrize("h", [0.05, 0.2, 0.4])
def test_it_is_the_definition(h):
    result = metagrad.metasmoothness(curve, 0.1, 1.0, h, x64=True)
    with jax.enable_x64(True):
        expected = definition(*(curve(jnp.float64(0.1 + k * h)) for k in range(3)))
    assert -1 < expected < 1 or h == 0.05
    assert result.value == pytest.approx(expected, abs=1e-12)


def test_one_where_movements_go_on_and_minus_one_where_they_turn_back():
    straight = lambda z: z * jnp.array([1.0, -2.0, 3.0])
    assert metagrad.metasmoothness(straight, 0.5, 1.0, 0.1).value == 1
    turning = lambda z: jnp.abs(z - 0.1) * jnp.array([1.0, -2.0, 3.0])
    assert metagrad.metasmoothness(turning, 0.0, 1.0, 0.1).value == -1


def test_about_minus_one_half_where_trainings_have_nothing_in_common():
    """Then the correlation of b - a and c - b is -1/2, and so is the mean of the agreement."""

    def train(z):
        bits = jax.lax.bitcast_convert_type(z, jnp.uint32)
        return jax.random.normal(jax.random.key(bits), (20_000,))

    with pytest.warns(RuntimeWarning, match="rounding may decide"):
        result = metagrad.metasmoothness(train, 1.0, 1.0, 0.1)
    assert result.value == pytest.approx(-0.5, abs=0.02)
    assert result.is_decided_by_rounding
    # That the noise was measured is what tells: the rounding of the parameters is far smaller.
    assert not metagrad.metasmoothness(train, 1.0, 1.0, 0.1, noise=False).is_decided_by_rounding


def test_values_of_leaves_and_their_shares_make_up_the_value():
    (entry,) = metagrad.metasmoothness(curve, 0.1, 1.0, 0.2).entries
    assert set(entry.leaves) == {"params['a']", "params['b']"}
    assert entry.leaves["params['a']"] == 1
    assert sum(entry.shares.values()) == pytest.approx(1)
    total = sum(entry.leaves[path] * entry.shares[path] for path in entry.leaves)
    assert total == pytest.approx(entry.value, abs=1e-6)


def test_it_compiles_once_for_all_directions_and_steps():
    traces, z = [], {"x": jnp.ones(3), "count": 4}

    def train(z):
        traces.append(1)
        return jnp.outer(z["x"], jnp.arange(3.0)) * z["count"]

    result = metagrad.metasmoothness(train, z, 3, [0.1, 0.2])
    assert len(traces) == 1
    assert result.trainings == 1 + 3 * (2 * 2 + 1)
    assert result.values.shape == (3, 2)
    assert result.directions == ("random 0", "random 1", "random 2")
    assert result.steps == (0.1, 0.2)
    assert result.standard_error == 0
    assert len(result.rows()) == 6


def test_rounding_decides_small_steps_in_float32_and_not_in_float64():
    def train(z):
        w = jnp.linspace(1.0, 2.0, 50) + z
        for _ in range(30):
            w = w - 0.01 * jnp.sin(w) * z
        return w

    with pytest.warns(RuntimeWarning, match="x64=True"):
        single = metagrad.metasmoothness(train, 0.5, 1.0, 2e-7)
    assert single.dtype == "float32"
    assert "Warning: rounding may decide" in str(single)
    double = metagrad.metasmoothness(train, 0.5, 1.0, 2e-7, x64=True)
    assert (double.dtype, double.value) == ("float64", 1)
    assert double.undecided.max() == 0
    assert not jax.config.jax_enable_x64
    low, high = single.entries[0].bounds
    assert low <= double.value <= high


def test_the_outcomes_definition_one_comes_with_it():
    train = lambda z: jnp.array([z, 2 * z])
    result = metagrad.metasmoothness(train, 1.0, 1.0, 0.25, outcome=lambda p: p[0] ** 3, x64=True)
    outcome = result.entries[0].outcome
    values = [(1 + 0.25 * k) ** 3 for k in range(3)]
    assert outcome.value == pytest.approx((values[2] - 2 * values[1] + values[0]) / 0.25**2)
    assert "of slope" in str(result)
    assert "~" not in str(result)


def test_narrow_products_and_kinks_are_named():
    weights = jnp.ones((4, 4))

    def train(z):
        product = (z.astype(jnp.bfloat16) @ weights.astype(jnp.bfloat16)).astype(jnp.float32)
        return jax.nn.relu(product)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        result = metagrad.metasmoothness(train, jnp.ones(4), 1, 0.1)
    assert any("bfloat16" in place.kind for place in result.narrow)
    assert any("relu" in place.kind or place.kind == "max" for place in result.kinks)
    assert "flip signs" in str(result)
    assert "kink" in str(result)


def test_a_rough_training_is_less_smooth_than_a_calm_one():
    random = np.random.default_rng(0)
    x = jnp.asarray(random.normal(size=(40, 5)), jnp.float32)
    y = jnp.asarray(random.integers(0, 2, 40), jnp.float32)
    start = {"a": jnp.asarray(random.normal(size=(5, 8)), jnp.float32), "b": jnp.ones(8)}

    def routine(rate):
        def loss(w, weight):
            score = jax.nn.relu(x @ w["a"]) @ w["b"]
            return jnp.mean(weight * jnp.logaddexp(0.0, score * (1 - 2 * y)))

        @metagrad.compile
        def step(w, weight, _):
            gradient = metagrad.grad(loss)(w, weight)
            return jax.tree.map(lambda p, g: p - rate * g, w, gradient)

        return training(step, start, jnp.zeros(100))

    calm, rough = (
        metagrad.metasmoothness(routine(rate), jnp.ones(40), 3, 0.05, noise=False).value
        for rate in (0.03, 3.0)
    )
    assert calm > 0.95
    assert rough < 0.9


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        ((curve, 0.1, {"x": 1.0}, 0.1), ValueError, "Give a direction like z"),
        ((curve, 0.1, np.zeros(3), 0.1), ValueError, r"v has the shape \(3,\)"),
        ((curve, 0.1, 0.0, 0.1), ValueError, "v is zero"),
        ((curve, 0.1, [1.0, np.nan], 0.1), ValueError, r"v\[1\] is not finite"),
        ((curve, 0.1, 0, 0.1), ValueError, "count must be at least 1"),
        ((curve, 0.1, 1.0, -0.1), ValueError, "h must be a positive number"),
        ((curve, 0.1, 1.0, []), ValueError, "h must be a positive number"),
        ((curve, 1, 1.0, 0.1), TypeError, "no floating-point leaf"),
        ((None, 0.1, 1.0, 0.1), TypeError, "train must be a function"),
        ((lambda z: jnp.ones(2) + 0 * z, 0.1, 1.0, 0.1), ValueError, "no parameter moves"),
        ((lambda z: {"w": jnp.log(-z)}, 0.1, 1.0, 0.1), FloatingPointError, r"params\['w'\]"),
        ((lambda z: 3, 0.1, 1.0, 0.1), ValueError, "no floating-point parameters"),
    ],
)
def test_what_is_refused(arguments, error, text):
    with pytest.raises(error, match=text):
        metagrad.metasmoothness(*arguments)


def test_float64_needs_parameters_in_float64():
    single = jnp.ones(2, jnp.float32)
    with pytest.raises(ValueError, match=r"params is float32 .* Cast what train closes over"):
        metagrad.metasmoothness(
            lambda z: (single * z).astype(single.dtype), 0.1, 1.0, 0.1, x64=True
        )


def test_directions_of_signs_and_of_normals():
    z = {"x": jnp.zeros((2, 3)), "count": 1}
    signs, _ = random_directions(z, 2)
    assert set(np.unique(signs["x"])) <= {-1.0, 1.0}
    assert signs["count"] == 0
    normal, other = random_directions(z, 2, seed=1, kind="normal")
    assert not np.array_equal(normal["x"], other["x"])
    again, _ = random_directions(z, 2, seed=1, kind="normal")
    assert np.array_equal(normal["x"], again["x"])
    with pytest.raises(ValueError, match="kind must be"):
        random_directions(z, 1, kind="uniform")

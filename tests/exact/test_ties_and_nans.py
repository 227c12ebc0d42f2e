"""What JAX says at ties and edges, and NaN where JAX has NaN and nowhere else."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import runs
from jax import lax
from losses import EVERYTHING, check, check_gradient, mean_loss, surrogate
from unrolled import assert_exact, who

import metagrad
from metagrad import LazyKary

# The result is a NaN, as JAX's is, and the warning about it is not what these tests are about.
A_NAN_IS_MEANT = pytest.mark.filterwarnings("ignore:the metagradient has:RuntimeWarning")

# --- Ties and edges -------------------------------------------------------------------------------

# Entries that cancel to exactly zero, are equal, or lie on the bounds.
EDGES = {
    "relu": lambda x: jax.nn.relu(x),
    "maximum with zero": lambda x: jnp.maximum(x, 0.0),
    "where": lambda x: jnp.where(x > 0, x, 0.0),
    "leaky relu": lambda x: jax.nn.leaky_relu(x),
    "relu6": lambda x: jax.nn.relu6(x + 6.0),
    "clip": lambda x: jnp.clip(x, 0.0, 1.0),
    "abs": lambda x: jnp.abs(x),
    "sign": lambda x: jnp.sign(x) * x,
    "max": lambda x: jnp.max(x, axis=-1, keepdims=True) * x,
    "minimum": lambda x: jnp.minimum(x, -x),
    "max of all": lambda x: x - jnp.max(x),
    "sort": lambda x: jnp.sort(x, axis=-1) * jnp.arange(x.shape[-1]),
    "square root": lambda x: jnp.sqrt(jnp.abs(x) + 1e-3),
}


def tied(p, x, z, edge):
    """Hidden units that are exactly 0, equal, or 1 for all examples at first, and then differ."""
    h = jnp.concatenate(
        [
            x @ p["w1"],
            jnp.zeros((len(x), 2)) * p["b1"][:2],
            jnp.ones((len(x), 2)) * z["rate"] / z["rate"],
        ],
        axis=1,
    )
    h = h.at[:, 0].set(x @ (p["w1"][:, 0] - p["w1"][:, 0]) + (p["b1"][1] - p["b1"][1]))
    return (edge(h) @ jnp.concatenate([p["w2"], p["w2"][:4]])) + 0.1 * runs.predict(p, x)


@pytest.mark.parametrize("name", EDGES)
def test_tie(name):
    lowered = check(mean_loss(lambda p, x, z: tied(p, x, z, EDGES[name])), T=2)
    assert who(lowered)[1] == "enzyme"


def test_relu_network_that_starts_at_zero():
    """All pre-activations are exactly 0 at the first step."""
    params = jax.tree.map(jnp.zeros_like, runs.params()) | {"w2": runs.params()["w2"]}
    lowered = check(mean_loss(lambda p, x, z: runs.predict(p, x, jax.nn.relu)), params=params)
    assert who(lowered) == ["enzyme"] * 3


def test_ties_in_the_update():
    """Signs and clipped gradients, some exactly zero."""

    def gradient(p, z, batch):
        g = metagrad.grad(runs.loss)(p | {"w2": p["w2"].at[0].set(0.0)}, z, batch)
        return jax.tree.map(
            lambda g: jnp.maximum(g, 0.0) + jnp.abs(g) * z["rate"] + jnp.clip(g, -0.1, 0.1), g
        )

    check_gradient(gradient, T=3)


# The same operation twice, where only one of the two carries a derivative: its lowering must not be
# taken for the other's.
TWICE = {
    "relu, then maximum": lambda x: jax.nn.relu(x) ** 2 + lax.max(x, jnp.zeros_like(x)),
    "maximum, then relu": lambda x: lax.max(x, jnp.zeros_like(x)) + jax.nn.relu(x) ** 2,
    "logsumexp, then max": lambda x: (
        jax.nn.logsumexp(x, axis=-1, keepdims=True) * x + jnp.max(x, axis=-1, keepdims=True) ** 3
    ),
    "stopped max, then max": lambda x: (
        (x - lax.stop_gradient(jnp.max(x, axis=-1, keepdims=True))) ** 2
        + jnp.max(x, axis=-1, keepdims=True) ** 3
    ),
    "max, then stopped max": lambda x: (
        jnp.max(x, axis=-1, keepdims=True) ** 3
        + (x - lax.stop_gradient(jnp.max(x, axis=-1, keepdims=True))) ** 2
    ),
}


@pytest.mark.parametrize("name", TWICE)
def test_tie_of_an_operation_that_occurs_twice(name):
    check(mean_loss(lambda p, x, z: tied(p, x, z, TWICE[name])), T=2)


# --- NaN where JAX has NaN, and nowhere else ------------------------------------------------------


def dead(p, z, batch):
    """Its gradient in `b1[0]` is exactly zero."""
    return runs.loss(p | {"b1": p["b1"].at[0].set(0.0)}, z, batch)


@A_NAN_IS_MEANT
@pytest.mark.parametrize("eps_root", [0.0, 1e-8])
def test_adam_where_a_gradient_is_exactly_zero(eps_root):
    step, state = runs.with_optax(optax.adam(0.05, eps_root=eps_root), dead)
    result, _ = assert_exact(
        step, runs.outer, EVERYTHING, state, runs.meta(), runs.data(3), schedule=LazyKary(2)
    )
    nan = any(
        np.isnan(leaf).any()
        for leaf in jax.tree.leaves(result.grad)
        if leaf.dtype != jax.dtypes.float0
    )
    assert nan == (eps_root == 0.0)


@A_NAN_IS_MEANT
def test_norm_of_zeros():
    result, _ = assert_exact(
        runs.sgd(),
        lambda s: jnp.linalg.norm(s["params"]["w1"] * 0.0),
        "meta",
        {"params": runs.params()},
        runs.meta(),
        runs.data(2),
    )
    assert np.isnan(result.grad["weights"]).all()


def rooted(x):
    """The root of zero is zero; only its derivative is infinite, and that is stopped."""
    return jnp.sqrt(lax.stop_gradient(x - x))


ROOTS = {
    "in the loss": (
        lambda p, z, b: p - 0.1 * metagrad.grad(lambda p: jnp.sum((p * z) ** 3 + p * rooted(p)))(p),
        jnp.sum,
    ),
    "beside a custom rule in the loss": (
        lambda p, z, b: (
            p - 0.1 * metagrad.grad(lambda p: jnp.sum(surrogate(p * z) ** 3 + p * rooted(p)))(p)
        ),
        jnp.sum,
    ),
    "in the update": (lambda p, z, b: p * z + rooted(p), jnp.sum),
    "beside a custom rule in the update": (lambda p, z, b: surrogate(p * z) + rooted(p), jnp.sum),
    "in the outer function": (lambda p, z, b: p * z, lambda p: jnp.sum(p + rooted(p))),
    "beside a custom rule in the outer function": (
        lambda p, z, b: p * z,
        lambda p: jnp.sum(surrogate(p) + rooted(p)),
    ),
    "where nothing is differentiated": (lambda p, z, b: p * z, lambda p: jnp.sum(rooted(p))),
    "in a value that the step uses": (
        lambda p, z, b: (
            p * z
            - 0.1 * metagrad.value_and_grad(lambda p: jnp.sum(p**2) + jnp.sum(rooted(p)))(p)[0]
        ),
        jnp.sum,
    ),
}


@pytest.mark.parametrize("name", ROOTS)
def test_square_root_of_zero(name):
    step, outer = ROOTS[name]
    result, _ = assert_exact(
        metagrad.compile(step),
        outer,
        ("meta", "state"),
        jnp.asarray([1.0, 2.0]),
        jnp.asarray(0.9),
        jnp.arange(3),
    )
    assert np.isfinite(result.value) and np.isfinite(result.grad[0])


@A_NAN_IS_MEANT
def test_training_that_overflows():
    step = metagrad.compile(lambda s, z, b: s * s * z * b)
    assert_exact(
        step,
        jnp.sum,
        "meta",
        jnp.asarray([1.5, 1e60]),
        jnp.asarray([1.0, 2.0]),
        jnp.ones((6, 1)),
        schedule=LazyKary(2),
    )


def test_a_number_where_reverse_over_reverse_has_none():
    """0 ** 0 with an array of exponents: the inner gradient is differentiated forward."""
    exponents = jnp.asarray([0, 2])
    loss = lambda w: jnp.sum(w**exponents)
    w, direction = jnp.zeros(2), jnp.asarray([1.0, 3.0])
    step = metagrad.compile(lambda w, z, batch: w - 0.1 * metagrad.grad(loss)(w))
    mg = step.metagradient(lambda w: jnp.sum(direction * w), "state")
    _, product = jax.jvp(jax.grad(loss), (w,), (direction,))
    np.testing.assert_allclose(mg(w, 0.0, jnp.zeros(1)).grad, direction - 0.1 * product, rtol=1e-11)
    twice = jax.grad(lambda w: jnp.sum(direction * (w - 0.1 * jax.grad(loss)(w))))(w)
    assert np.isnan(twice[0]) and twice[1] == pytest.approx(3 * 0.8)

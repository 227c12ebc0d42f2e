"""Losses with loops and conditionals, through the public interface: the metagradient is what
`jax.grad` of the whole run gives.

Everything is done twice: in f64, where JAX's loop counters have 64 bits, and in f32, where they
have 32 and `widen-counters` has to see to them.
"""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import metagrad

STEPS, LAYERS, WIDTH = 5, 3, 4

TOLERANCE = {"float64": 1e-11, "float32": 1e-5}


def over_layers(w, z, x):
    return lax.scan(lambda h, layer: (jnp.tanh(layer @ h), None), x, w)[0] * z


def last_layer_first(w, z, x):
    return lax.scan(lambda h, layer: (jnp.sin(layer @ h), None), x, w, reverse=True)[0] * z


def with_outputs(w, z, x):
    """A scan that eats xs and makes ys."""

    def body(h, inputs):
        layer, scale = inputs
        h = jnp.tanh(layer @ h) * scale / 2
        return h, (h * z, jnp.sum(h))

    h, (rows, sums) = lax.scan(body, x, (w, jnp.arange(1.0, LAYERS + 1, dtype=x.dtype)))
    return h + jnp.sum(rows, 0) * jnp.mean(jnp.cos(sums)) / 4


def counted(w, z, x):
    return lax.fori_loop(0, LAYERS, lambda i, h: jnp.tanh(w[0] @ h) * z + h, x)


def counter_read(w, z, x):
    """The body computes with the counter: as an index, as a number, and in a comparison."""

    def body(i, h):
        return jnp.where(i % 2 == 0, jnp.tanh(w[i] @ h), h * z) * (1 + 0.1 * i) + h

    return lax.fori_loop(0, LAYERS, body, x)


def from_the_third(w, z, x):
    return lax.fori_loop(1, LAYERS, lambda i, h: jnp.tanh(w[LAYERS - 1 - i] @ h) + z * i, x)


def counter_of_ones_own(w, z, x):
    """An integer that the user carries beside JAX's own counter."""

    def body(carry, layer):
        h, n = carry
        return (jnp.tanh(layer @ h) * (1 + 0.1 * n) + z, n + 2), None

    return lax.scan(body, (x, jnp.int32(1)), w)[0][0]


def integer_read(w, z, x):
    """An integer scalar that the loop reads; JAX carries it before its counter."""
    n = jnp.sum(x > 0.5)
    return lax.scan(lambda h, layer: (jnp.tanh(layer @ h) * z * (1 + 0.1 * n), None), x, w)[0]


def nested(w, z, x):
    def outer(h, layer):
        return lax.scan(lambda h, row: (jnp.tanh(h * row) + z * h, None), h, layer)[0], None

    return lax.scan(outer, x, w)[0]


def nested_with_both_counters(w, z, x):
    def outer(i, h):
        return lax.fori_loop(
            0, WIDTH, lambda j, h: jnp.tanh(w[i, j] * h) + z * h * (i + 0.5 * j) / 10, h
        )

    return lax.fori_loop(0, LAYERS, outer, x)


def mapped(w, z, x):
    return jnp.sum(lax.map(lambda layer: jnp.tanh(layer @ x) * z, w), 0)


def checkpointed(w, z, x):
    return lax.scan(jax.checkpoint(lambda h, layer: (jnp.tanh(layer @ h), None)), x, w)[0] * z


def unrolled(w, z, x):
    return lax.scan(lambda h, layer: (jnp.tanh(layer @ h) * z, None), x, w, unroll=2)[0]


def one_turn(w, z, x):
    return lax.scan(lambda h, layer: (jnp.tanh(layer @ h) * z, None), x, w[:1])[0]


def on_condition(w, z, x):
    return lax.cond(x[0] > 0.5, lambda h: jnp.tanh(w[0] @ h) * z, lambda h: jnp.sin(w[1] @ h), x)


def one_of_three(w, z, x):
    branches = [lambda h: jnp.tanh(w[0] @ h), lambda h: jnp.sin(w[1] @ h) * z, lambda h: h * z]
    return lax.switch(jnp.int32(3 * x[0]), branches, x)


def conditions_in_a_loop(w, z, x):
    def body(h, layer):
        return lax.cond(h[0] > 0.3, lambda: jnp.tanh(layer @ h), lambda: h * z), None

    return lax.scan(body, x, w)[0]


def stopped_by_a_condition(w, z, x):
    """A loop without a counter.

    No derivative goes through it, so Enzyme has to leave it as it is.
    """
    small = lax.while_loop(
        lambda v: jnp.sum(v**2) > 0.01, lambda v: v / 2, lax.stop_gradient(w[1] @ x)
    )
    return jnp.tanh(w[0] @ x) * z + small


def turns_from_the_data(w, z, x):
    """The number of turns is known when it runs only; no derivative goes through either."""
    scale = lax.fori_loop(
        0, jnp.sum(x > 0.5), lambda i, v: v * (1 + 0.1 * i), jnp.ones((), x.dtype)
    )
    return jnp.tanh(w[0] @ x) * z * scale


CASES = [
    over_layers,
    last_layer_first,
    with_outputs,
    counted,
    counter_read,
    from_the_third,
    counter_of_ones_own,
    integer_read,
    nested,
    nested_with_both_counters,
    mapped,
    checkpointed,
    unrolled,
    one_turn,
    on_condition,
    one_of_three,
    conditions_in_a_loop,
    stopped_by_a_condition,
    turns_from_the_data,
]


def run(model, dtype):
    """(metagradient, JAX's own, lowered) of a few steps on `model`."""

    def loss(w, z, x):
        return jnp.sum(model(w, z, x) ** 2)

    # Enzyme for all of them: left to "auto", JAX differentiates what has `jax.checkpoint` in it.
    @metagrad.compile(ad="enzyme")
    def step(w, z, x):
        return w - 0.05 * metagrad.grad(loss)(w, z, x)

    def outer(w):
        return jnp.sum(jnp.sin(w))

    random = np.random.default_rng(0)
    w0 = jnp.asarray(random.normal(size=(LAYERS, WIDTH, WIDTH)) / 2, dtype)
    z = jnp.asarray(random.uniform(0.5, 1.5, WIDTH), dtype)
    batches = jnp.asarray(random.uniform(0, 1, (STEPS, WIDTH)), dtype)

    def whole_run(w, z):
        return outer(lax.scan(lambda w, x: (step(w, z, x), None), w, batches)[0])

    lowered = step.metagradient(outer, wrt=("meta", "state"), schedule=metagrad.LazyKary(2)).lower(
        w0, z, batches
    )
    got = lowered.compile()(w0, z, batches).grad
    want = jax.jit(jax.grad(whole_run, (1, 0)))(w0, z)
    return got, want, lowered


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("model", CASES, ids=lambda model: model.__name__)
def test_metagradient_is_that_of_the_whole_run(model, dtype):
    with jax.enable_x64(dtype == "float64"), warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        got, want, lowered = run(model, dtype)
    for ours, theirs in zip(got, want):
        assert ours.dtype == dtype
        error = np.linalg.norm(ours - theirs) / np.linalg.norm(theirs)
        assert error < TOLERANCE[dtype], f"{error}\n{lowered.explain()}"
    assert lowered.decisions[0].rule == "enzyme", lowered.explain()


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_loops_in_the_update_and_the_outer_function(dtype):
    """An update that orthogonalises the gradient by Newton-Schulz iterations, as Muon does, and an
    outer function that scans over its data.
    """

    def loss(w, z, x):
        return jnp.sum(jnp.tanh(w @ x) * z)

    @metagrad.compile
    def step(w, z, x):
        g = metagrad.grad(loss)(w, z, x)
        g = g / jnp.linalg.norm(g)
        g = lax.fori_loop(0, 3, lambda i, g: 1.5 * g - 0.5 * g @ g.T @ g, g)
        return w - 0.1 * g

    def outer(w, held_out):
        return lax.scan(
            lambda total, x: (total + jnp.sum(jnp.sin(w @ x)), None),
            jnp.zeros((), w.dtype),
            held_out,
        )[0]

    with jax.enable_x64(dtype == "float64"):
        random = np.random.default_rng(0)
        w0 = jnp.asarray(random.normal(size=(WIDTH, WIDTH)), dtype)
        z = jnp.asarray(random.uniform(0.5, 1.5, WIDTH), dtype)
        batches, held_out = (jnp.asarray(random.normal(size=(n, WIDTH)), dtype) for n in (STEPS, 3))

        def whole_run(z):
            return outer(lax.scan(lambda w, x: (step(w, z, x), None), w0, batches)[0], held_out)

        lowered = step.metagradient(outer, wrt="meta", schedule=metagrad.LazyKary(2)).lower(
            w0, z, batches, held_out
        )
        got, want = (
            lowered.compile()(w0, z, batches, held_out).grad,
            jax.jit(jax.grad(whole_run))(z),
        )
    assert np.linalg.norm(got - want) / np.linalg.norm(want) < TOLERANCE[dtype], lowered.explain()
    assert lowered.explain().count(": Enzyme") == 3, lowered.explain()

"""Functions of the user that have the names of ours, or of what a pass makes of them."""

import jax
import jax.numpy as jnp
import pytest
from unrolled import assert_exact

import metagrad


def jitted(name, function):
    function.__name__ = function.__qualname__ = name
    return jax.jit(function)


@pytest.mark.parametrize(
    "names",
    [
        ("inner", "inner"),
        ("update", "user_update"),
        ("step_vjp_3", "outer_vjp_1"),
        ("loss_0_vjp_0", "loss_0"),
        ("inputs_0", "update_run"),
        ("main", "prints"),
        ("counters", "counters_0"),
    ],
    ids="-".join,
)
def test_no_two_names_meet(names):
    """Each function occurs twice, with two shapes, so JAX numbers its name."""
    first = jitted(names[0], lambda x: jnp.sin(x))
    second = jitted(names[1], lambda x: x * jnp.cos(x))

    def loss(w, x):
        return jnp.sum(first(first(w) * jnp.sum(first(w[0]))) * second(w) * x)

    def step(w, rate, x):
        return first(w) - rate * second(metagrad.grad(loss)(w, x))

    def outer(w):
        return jnp.sum(first(w) * second(w))

    arguments = jnp.array([0.3, -0.7]), jnp.array(0.1), jnp.array([1.0, 2.0, 0.5])
    assert_exact(metagrad.compile(step), outer, ("meta", "state", "batches"), *arguments)

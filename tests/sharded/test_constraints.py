"""Sharding constraints in a step, a loss and an outer function reach the program, on the value, its
tangent and its cotangent; the results are JAX's.
"""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

import metagrad
from sharded import networks

MESH = networks.mesh_of("data")


def rows(x):
    return lax.with_sharding_constraint(x, NamedSharding(MESH, P("data")))


def by_jax(step, outer, state, weights, batches, *held_out):
    """Value and gradient of the run in the weights, unrolled."""

    def run(weights):
        after = state
        for t in range(len(jax.tree.leaves(batches)[0])):
            after = step(after, weights, jax.tree.map(lambda x, t=t: x[t], batches))
        return outer(after, *held_out)

    return jax.jit(jax.value_and_grad(run))(weights)


def assert_is_jaxs(result, step, outer, arguments):
    value, gradient = by_jax(step, outer, *arguments)
    np.testing.assert_allclose(result.value, value, rtol=1e-12)
    np.testing.assert_allclose(result.grad, gradient, rtol=0, atol=1e-11 * np.abs(gradient).max())


def constraints(lowered, function):
    """The constraints in a function of the finished pieces, as text."""
    text = lowered.ir("pieces")
    (body,) = re.findall(rf"func.func \w+ @{function}\(.*?\n  }}", text, re.DOTALL)
    return re.findall(r"sdy.sharding_constraint %\S+ (<.*?>) :", body)


@pytest.mark.parametrize("placed", [False, True], ids=["on the host", "sharded"])
def test_in_a_loss(placed):
    """Enzyme takes it along: on the value, on the tangent, on both cotangents."""
    with jax.enable_x64(True):
        arguments = networks.arguments(np.float64)
        if placed:
            arguments = networks.place("data", arguments)
        mg = metagrad.compile(networks.make_step(metagrad.grad, rows)).metagradient(networks.outer)
        lowered = mg.lower(*arguments)
        assert lowered.decisions[0].rule == "enzyme"
        assert constraints(lowered, "inner") == 2 * ['<mesh<["data"=8]>, [{"data"}, {}]>']
        assert len(constraints(lowered, "step_vjp")) == 4
        result = mg(*arguments)
        assert_is_jaxs(result, networks.make_step(jax.grad, rows), networks.outer, arguments)
        assert result.grad.sharding.device_set == set(MESH.devices.flat)


def test_what_is_constrained_is_divided():
    """The largest array of the loss lies on eight devices because the user says so."""
    size = 8 * 1024
    spread = lambda x: lax.with_sharding_constraint(x, NamedSharding(MESH, P(None, "data")))

    def temporaries(inside):
        def step(w, m, b):
            loss = lambda w: jnp.mean(jnp.tanh(inside(jnp.tanh(inside(jnp.outer(b, w) * m)))) ** 2)
            return w - metagrad.grad(loss)(w)

        replicated = NamedSharding(MESH, P())
        shape = lambda *shape: jax.ShapeDtypeStruct(shape, jnp.float32, sharding=replicated)
        mg = metagrad.compile(step).metagradient(jnp.sum, schedule=metagrad.Binomial(1))
        lowered = mg.lower(shape(size), shape(), shape(4, 64))
        return lowered.compile().memory_analysis().temp_size_in_bytes

    assert temporaries(spread) < temporaries(lambda x: x) / 4


def test_in_a_step_and_in_an_outer_function():
    with jax.enable_x64(True):
        arguments = networks.place("data", networks.arguments(np.float64))
        divided = lambda tree: jax.tree.map(lambda x: rows(x) if x.ndim else x, tree)

        def step_of(grad):
            step = networks.make_step(lambda loss: lambda params: divided(grad(loss)(params)))
            return lambda state, weights, batch: step(divided(state), weights, batch)

        outer = lambda state, x, y: networks.outer(divided(state), rows(x), y)
        mg = metagrad.compile(step_of(metagrad.grad)).metagradient(outer)
        lowered = mg.lower(*arguments)
        assert constraints(lowered, "update") and constraints(lowered, "outer_vjp")
        assert_is_jaxs(mg(*arguments), step_of(jax.grad), outer, arguments)


def test_names_of_axes_alone():
    """With a mesh in context, as in a user's training script."""
    with jax.enable_x64(True), jax.set_mesh(MESH):
        arguments = networks.place("data", networks.arguments(np.float64))
        inside = lambda x: lax.with_sharding_constraint(x, P("data"))
        mg = metagrad.compile(networks.make_step(metagrad.grad, inside)).metagradient(
            networks.outer
        )
        step = networks.make_step(jax.grad, inside)
        assert_is_jaxs(mg(*arguments), step, networks.outer, arguments)
        assert_is_jaxs(jax.jit(mg)(*arguments), step, networks.outer, arguments)


def test_integers_and_what_is_not_differentiated():
    step = lambda w, m, b: w - m * rows(b)[rows(jnp.arange(8) % 8)] * jnp.sum(w)
    arguments = jnp.linspace(0.1, 0.8, 8), jnp.float32(0.3), jnp.ones((3, 8))
    result = metagrad.compile(step).metagradient(jnp.sum)(*arguments)
    value, gradient = by_jax(step, jnp.sum, *arguments)
    np.testing.assert_allclose(result.value, value, rtol=1e-6)
    np.testing.assert_allclose(result.grad, gradient, rtol=1e-6)


def test_a_vector_of_queries():
    """The loop over queries (pass `queries`) has constraints in it."""
    with jax.enable_x64(True):
        arguments = networks.place("data", networks.arguments(np.float64))
        both = lambda state, x, y: jnp.stack(
            [networks.outer(state, x, y), networks.outer(state, y, x)]
        )
        mg = metagrad.compile(networks.make_step(metagrad.grad, rows)).metagradient(both)
        result = mg(*arguments)
        step = networks.make_step(jax.grad, rows)
        for query in range(2):
            outer = lambda state, x, y, query=query: both(state, x, y)[query]
            value, gradient = by_jax(step, outer, *arguments)
            np.testing.assert_allclose(result.value[query], value, rtol=1e-12)
            np.testing.assert_allclose(result.grad[query], gradient, atol=1e-13)

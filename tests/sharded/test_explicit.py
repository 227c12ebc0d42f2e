"""Meshes whose axes are `Explicit`, which `jax.make_mesh` makes if it is not asked for others.

Types have shardings, and the user says with `reshard` and `out_sharding` where something goes.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, NamedSharding, reshard
from jax.sharding import PartitionSpec as P

import metagrad
from sharded import networks
from sharded.test_constraints import assert_is_jaxs


def make_step(grad, mesh):
    """Parameters are gathered before they are used, and gradients come back divided."""
    whole = lambda x: reshard(x, NamedSharding(mesh, P(*x.ndim * [None])))

    def step(state, weights, batch):
        params, moments = state
        x, y, examples = batch

        def loss(params):
            outputs = networks.network(jax.tree.map(whole, params), x)
            errors = jnp.sum((outputs - y) ** 2, -1)
            of_examples = weights.at[examples].get(out_sharding=jax.typeof(errors).sharding)
            return jnp.mean(of_examples * errors)

        gradient = grad(loss)(params)
        alike = lambda g, p: jax.typeof(g).sharding == jax.typeof(p).sharding
        assert all(jax.tree.leaves(jax.tree.map(alike, gradient, params)))
        updates, moments = networks.OPTIMISER.update(gradient, moments, params)
        return optax.apply_updates(params, updates), moments

    def outer(state, x, y):
        return jnp.mean((networks.network(jax.tree.map(whole, state[0]), x) - y) ** 2)

    return step, outer


@pytest.mark.parametrize(
    "layout, in_context", [("data", False), ("fsdp", True), ("fsdp", False), ("both", True)]
)
def test_shardings_in_types(layout, in_context):
    mesh = networks.mesh_of(layout, AxisType.Explicit)
    context = jax.set_mesh(mesh) if in_context else jax.enable_x64(True)
    with jax.enable_x64(True), context:
        arguments = networks.place(layout, networks.arguments(np.float64), AxisType.Explicit)
        step, outer = make_step(metagrad.grad, mesh)
        mg = metagrad.compile(step).metagradient(outer)
        of_jax = make_step(jax.grad, mesh)
        typed = lambda tree: jax.tree.map(lambda x: jax.typeof(x).sharding.spec, tree)
        lowered = mg.lower(*arguments)
        calls = [mg] if layout != "fsdp" else [jax.jit(mg), lowered.compile()]
        for call in calls:
            result = call(*arguments)
            assert_is_jaxs(result, *of_jax, arguments)
            assert typed(result.state) == typed(arguments[0])
            assert typed(result.grad) == typed(arguments[1])
        assert "sdy.sharding_constraint" in lowered.ir("pieces")


def test_products_that_say_where_they_go():
    mesh = networks.mesh_of("tensor", AxisType.Explicit)
    with jax.enable_x64(True), jax.set_mesh(mesh):
        put = lambda x, *spec: jax.device_put(x, NamedSharding(mesh, P(*spec)))
        w = put(np.linspace(-1, 1, 128).reshape(16, 8), "model", None)
        batches = put(np.linspace(0, 1, 3 * 4 * 16).reshape(3, 4, 16), None, None, "model")

        def step_of(grad):
            def step(w, m, x):
                def loss(w):
                    # The axis that is summed over is divided, so the user has to say.
                    return jnp.mean(jnp.tanh(jnp.matmul(x, w, out_sharding=P(None, None))) ** 2)

                return w - m * grad(loss)(w)

            return step

        outer = lambda w: jnp.sum(w**2)
        arguments = w, put(0.3), batches
        mg = metagrad.compile(step_of(metagrad.grad)).metagradient(outer)
        assert_is_jaxs(mg(*arguments), step_of(jax.grad), outer, arguments)


def test_one_program_does_not_serve_another_type():
    """What a function may ask of a type decides what it does."""
    mesh = networks.mesh_of("data", AxisType.Explicit)
    seen = []

    def step(w, m, b):
        seen.append(jax.typeof(w).sharding.spec)
        return w - m * b * w

    mg = metagrad.compile(step).metagradient(jnp.sum)
    w, m, b = np.ones(8, np.float32), np.float32(0.1), np.ones(3, np.float32)
    expected = mg(w, m, b).grad
    put = lambda x, *spec: jax.device_put(x, NamedSharding(mesh, P(*spec)))
    result = mg(put(w, "data"), put(m), put(b))
    np.testing.assert_allclose(result.grad, expected)
    assert seen[-1] == P("data") and seen[0] == P(None)


@jax.custom_jvp
def cubed(x):
    return x**3


cubed.defjvp(lambda primals, tangents: (cubed(*primals), 3 * primals[0] ** 2 * tangents[0]))


@pytest.mark.parametrize("function", [jax.nn.relu, jax.nn.softplus, cubed])
def test_custom_jvp(function):
    """JAX traces a rule late, and for types with shardings."""
    mesh = networks.mesh_of("data", AxisType.Explicit)
    with jax.enable_x64(True):
        put = lambda x, *spec: jax.device_put(x, NamedSharding(mesh, P(*spec)))
        batches = put(np.linspace(-1, 2, 24).reshape(3, 8), None, "data")

        def step_of(grad):
            return lambda w, m, b: w - m * grad(lambda w: jnp.mean(function(b * w) ** 2))(w)

        arguments = put(np.linspace(0.5, 1.5, 8), "data"), put(0.3), batches
        outer = lambda w: jnp.sum(function(w) ** 2)
        result = metagrad.compile(step_of(metagrad.grad)).metagradient(outer)(*arguments)
        assert_is_jaxs(result, step_of(jax.grad), outer, arguments)

"""`shard_map` and its collectives in a step, a loss and an outer function: JAX differentiates what
has one in it, and the results are JAX's.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.sharding import PartitionSpec as P

import metagrad
from sharded import networks
from sharded.test_constraints import assert_is_jaxs

MESH = networks.mesh_of("data")
NEXT = [(i, (i + 1) % 8) for i in range(8)]


DIVIDED = P("data")


def mapped(function, out=DIVIDED):
    return jax.shard_map(function, mesh=MESH, in_specs=DIVIDED, out_specs=out)


COLLECTIVES = {
    "psum": mapped(lambda x: x * jnp.tanh(lax.psum(jnp.sum(x), "data"))),
    "pmean": mapped(lambda x: x - lax.pmean(jnp.mean(x**2, 0), "data")),
    "all_gather": mapped(lambda x: x * jnp.mean(lax.all_gather(x, "data"))),
    "psum_scatter": mapped(
        lambda x: x + lax.psum_scatter(jnp.tile(x, (8, 1)), "data", tiled=True) / 8
    ),
    "ppermute": mapped(lambda x: x * lax.ppermute(jnp.sin(x), "data", NEXT)),
    "all_to_all": mapped(
        lambda x: x + lax.all_to_all(x.reshape(8, -1), "data", 0, 0).reshape(x.shape)
    ),
    "axis_index": mapped(lambda x: x * (1 + lax.axis_index("data"))),
    "a scan in it": mapped(
        lambda x: lax.scan(lambda c, _: (jnp.sin(c) + lax.pmean(c, "data"), None), x, length=2)[0]
    ),
    "a jit and a checkpoint in it": mapped(
        jax.checkpoint(lambda x: jax.jit(jnp.tanh)(x) * lax.psum(x, "data"))
    ),
}


def squared(w, x, y):
    return jnp.mean((jnp.tanh(x @ w) - y) ** 2)


def descent(grad, inside):
    """A small step of descent on weighted examples; `inside` is applied to the outputs."""

    def step(w, weights, batch):
        x, y, examples = batch

        def loss(w):
            errors = jnp.sum((inside(jnp.tanh(x @ w)) - y) ** 2, -1)
            return jnp.mean(weights[examples] * errors)

        return w - 0.1 * grad(loss)(w)

    return step


def small_arguments():
    _, weights, batches, x, y = networks.arguments(np.float64)
    w0 = np.linspace(-1, 1, 256).reshape(16, 16)
    return w0, weights, jax.tree.map(lambda leaf: leaf[:2], batches), x, y


@pytest.mark.parametrize("name", COLLECTIVES)
def test_in_a_loss(name):
    with jax.enable_x64(True):
        arguments = small_arguments()
        inside = COLLECTIVES[name]
        mg = metagrad.compile(descent(metagrad.grad, inside)).metagradient(squared)
        lowered = mg.lower(*arguments)
        assert lowered.decisions[0].rule.startswith("jax")
        assert "shard_map" in lowered.explain()
        result = lowered.compile()(*arguments)
        assert_is_jaxs(result, descent(jax.grad, inside), squared, arguments)


@pytest.mark.parametrize("check", [True, False])
def test_a_mean_of_gradients(check):
    """Data parallel training by hand: the gradient inside, the mean around it."""
    with jax.enable_x64(True):

        def step_of(grad):
            def step(w, weights, batch):
                x, y, examples = batch

                def of_part(w, x, y, weight):
                    loss = lambda w: jnp.mean(weight * jnp.sum((jnp.tanh(x @ w) - y) ** 2, -1))
                    w = lax.pcast(w, "data", to="varying") if check else w
                    return lax.pmean(grad(loss)(w), "data")

                gradient = jax.shard_map(
                    of_part,
                    mesh=MESH,
                    in_specs=(P(), P("data"), P("data"), P("data")),
                    out_specs=P(),
                    check_vma=check,
                )
                return w - 0.1 * gradient(w, x, y, weights[examples])

            return step

        arguments = small_arguments()
        result = metagrad.compile(step_of(metagrad.grad)).metagradient(squared)(*arguments)
        assert_is_jaxs(result, step_of(jax.grad), squared, arguments)


def test_in_a_step_and_in_an_outer_function():
    with jax.enable_x64(True):
        arguments = networks.place("fsdp", networks.arguments(np.float64))
        halved = mapped(lambda x: x / 2 + lax.pmean(x, "data") / 2)
        norm = mapped(lambda x: lax.psum(jnp.sum(x**2), "data"), P())

        def step_of(grad):
            step = networks.make_step(grad)

            def with_mean(state, weights, batch):
                params, moments = step(state, weights, batch)
                return params | {"last": halved(params["last"])}, moments

            return with_mean

        outer = lambda state, x, y: networks.outer(state, x, y) + norm(state[0]["last"])
        mg = metagrad.compile(step_of(metagrad.grad)).metagradient(outer)
        assert_is_jaxs(mg(*arguments), step_of(jax.grad), outer, arguments)


def test_an_array_that_it_captures():
    """A large one is an argument of the program, in a shard_map too."""
    with jax.enable_x64(True):
        table = jnp.asarray(np.linspace(0, 1, 16 * 64).reshape(16, 64))
        arguments = small_arguments()
        inside = mapped(lambda x: x + x @ (table @ table.T) / 100)
        result = metagrad.compile(descent(metagrad.grad, inside)).metagradient(squared)(*arguments)
        assert_is_jaxs(result, descent(jax.grad, inside), squared, arguments)


def test_a_metagradient_inside():
    """Its derivative would leave out what devices share, so it is refused; not under
    check_vma=False, where JAX leaves it to the user as well.
    """
    mg = metagrad.compile(lambda w, m, b: w - m * b * w).metagradient(lambda w: jnp.sum(w**2))
    inside = lambda w, m, b: lax.psum(mg(w, m, b).value, "data")
    specs = {"mesh": MESH, "in_specs": (P("data"), P(), P()), "out_specs": P()}
    arguments = np.arange(8.0, dtype=np.float32), np.float32(0.1), np.ones(3, np.float32)
    with pytest.raises(NotImplementedError, match="was given values that differ"):
        jax.jit(jax.shard_map(inside, **specs))(*arguments)
    value = jax.jit(jax.shard_map(inside, **specs, check_vma=False))(*arguments)
    np.testing.assert_allclose(value, mg(*arguments).value, rtol=1e-6)

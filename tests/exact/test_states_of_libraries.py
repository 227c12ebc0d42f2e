"""States that are modules and train states of flax and Equinox."""

import functools

import jax
import jax.numpy as jnp
import optax
import pytest
import runs
from unrolled import assert_exact

import metagrad
from metagrad import LazyKary

EVERYTHING = ("meta", "state", "batches")
check = functools.partial(assert_exact, schedule=LazyKary(2))


def descend(params, grads, z):
    return jax.tree.map(lambda p, g: p - jnp.exp(z["rate"]) * g, params, grads)


@pytest.mark.filterwarnings("ignore:the step .* never reads")
def test_flax_linen_train_state():
    linen = pytest.importorskip("flax.linen")
    from flax.training import train_state

    class Network(linen.Module):
        @linen.compact
        def __call__(self, x):
            return linen.Dense(1)(linen.LayerNorm()(linen.gelu(linen.Dense(runs.WIDTH)(x))))[:, 0]

    network = Network()
    x = runs.data(1)["x"][0]
    params = network.init(jax.random.key(0), x)
    params = jax.tree.map(lambda leaf: leaf.astype(jnp.float64), params)
    state = train_state.TrainState.create(
        apply_fn=network.apply, params=params, tx=optax.adam(0.05, eps_root=1e-8)
    )

    def loss(p, z, batch):
        return jnp.mean(z["weights"] * (network.apply(p, batch["x"]) - batch["y"]) ** 2)

    @metagrad.compile
    def step(s, z, batch):
        return s.apply_gradients(grads=metagrad.grad(loss)(s.params, z, batch))

    result, _ = check(
        step,
        lambda s: jnp.mean(s.apply_fn(s.params, x) ** 2),
        EVERYTHING,
        state,
        runs.meta(),
        runs.data(3),
    )
    assert isinstance(result.state, train_state.TrainState) and result.state.step == 3


def test_flax_nnx_split_state():
    nnx = pytest.importorskip("flax.nnx")

    class Network(nnx.Module):
        def __init__(self, rngs):
            self.inner = nnx.Linear(
                runs.FEATURES, runs.WIDTH, rngs=rngs, param_dtype=jnp.float64, dtype=jnp.float64
            )
            self.outer = nnx.Linear(
                runs.WIDTH, 1, rngs=rngs, param_dtype=jnp.float64, dtype=jnp.float64
            )

        def __call__(self, x):
            return self.outer(jnp.tanh(self.inner(x)))[:, 0]

    graph, params = nnx.split(Network(nnx.Rngs(0)), nnx.Param)

    def loss(p, z, batch):
        return jnp.mean(z["weights"] * (nnx.merge(graph, p)(batch["x"]) - batch["y"]) ** 2)

    step = metagrad.compile(lambda s, z, batch: descend(s, metagrad.grad(loss)(s, z, batch), z))
    x = runs.data(1, seed=7)["x"][0]
    result, _ = check(
        step,
        lambda s: jnp.mean(nnx.merge(graph, s)(x) ** 2),
        ("state", "meta"),
        params,
        runs.meta(),
        runs.data(3),
    )
    assert jax.tree.structure(result.state) == jax.tree.structure(params)


def test_equinox_module_as_state():
    """Its activation function is not an array but a constant of the compilation, returned as is."""
    eqx = pytest.importorskip("equinox")
    model = eqx.nn.MLP(
        runs.FEATURES,
        "scalar",
        runs.WIDTH,
        1,
        activation=jnp.tanh,
        key=jax.random.key(0),
        dtype=jnp.float64,
    )

    def loss(arrays, static, z, batch):
        predicted = jax.vmap(eqx.combine(arrays, static))(batch["x"])
        return jnp.mean(z["weights"] * (predicted - batch["y"]) ** 2)

    @metagrad.compile
    def step(model, z, batch):
        arrays, static = eqx.partition(model, eqx.is_array)
        grads = metagrad.grad(loss)(arrays, static, z, batch)
        return eqx.apply_updates(model, jax.tree.map(lambda g: -jnp.exp(z["rate"]) * g, grads))

    x = runs.data(1, seed=7)["x"][0]
    result, _ = check(
        step,
        lambda m: jnp.mean(jax.vmap(m)(x) ** 2),
        ("meta", "state"),
        model,
        runs.meta(),
        runs.data(3),
    )
    assert isinstance(result.state, eqx.nn.MLP) and result.state.activation is model.activation
    assert jax.vmap(result.state)(x).shape == (runs.EXAMPLES,)


def test_equinox_module_that_is_an_operand_of_the_loss():
    """`metagrad.grad` takes the module; Equinox filters out the leaves that are not arrays."""
    eqx = pytest.importorskip("equinox")
    model = eqx.nn.Linear(runs.FEATURES, "scalar", key=jax.random.key(0), dtype=jnp.float64)
    loss = lambda m, z, batch: jnp.mean(z["weights"] * (jax.vmap(m)(batch["x"]) - batch["y"]) ** 2)
    step = metagrad.compile(lambda m, z, batch: descend(m, metagrad.grad(loss)(m, z, batch), z))
    check(step, lambda m: jnp.sum(m.weight**2), ("meta", "state"), model, runs.meta(), runs.data(3))

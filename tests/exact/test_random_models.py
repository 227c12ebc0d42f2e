"""Random small models, optimisers, schedules, numbers of steps and `wrt`, against JAX in f64."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from unrolled import assert_exact

import metagrad
from metagrad import Binomial, LazyKary, Periodic, StoreAll

ACTIVATIONS = {
    "tanh": jnp.tanh,
    "relu": jax.nn.relu,
    "gelu": jax.nn.gelu,
    "silu": jax.nn.silu,
    "softplus": jax.nn.softplus,
    "elu": jax.nn.elu,
    "sine": jnp.sin,
    "softmax": jax.nn.softmax,
    "layer norm": lambda h: (
        (h - h.mean(-1, keepdims=True)) * jax.lax.rsqrt(h.var(-1, keepdims=True) + 1e-3)
    ),
}
OPTIMISERS = {
    "sgd": lambda: optax.sgd(0.1),
    "momentum": lambda: optax.sgd(0.05, momentum=0.9),
    "adam": lambda: optax.adam(0.03, eps_root=1e-6),
    "adamw": lambda: optax.adamw(0.03, eps_root=1e-6, weight_decay=0.01),
    "clipped": lambda: optax.chain(optax.clip_by_global_norm(1.0), optax.sgd(0.1)),
}
LOSSES = {
    "squares": lambda out, y: jnp.sum((out - y) ** 2, axis=-1),
    "cross-entropy": lambda out, y: -jnp.sum(jax.nn.softmax(y) * jax.nn.log_softmax(out), axis=-1),
    "huber": lambda out, y: jnp.sum(optax.huber_loss(out, y, delta=0.5), axis=-1),
}
schedules = st.one_of(
    st.builds(LazyKary, st.integers(2, 5), st.booleans()),
    st.builds(Binomial, st.integers(1, 5), st.just(True), st.integers(1, 3)),
    st.builds(Periodic, st.integers(1, 5), st.just(True), st.integers(1, 2)),
    st.builds(StoreAll, st.booleans()),
)
wrts = st.permutations(["meta", "state", "batches"]).flatmap(
    lambda names: st.integers(1, 3).map(lambda count: tuple(names[:count]))
)


@settings(
    max_examples=15,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    widths=st.lists(st.integers(1, 5), min_size=2, max_size=4),
    activation=st.sampled_from(sorted(ACTIVATIONS)),
    optimiser=st.sampled_from(sorted(OPTIMISERS)),
    loss=st.sampled_from(sorted(LOSSES)),
    schedule=schedules,
    steps=st.integers(1, 9),
    wrt=wrts,
    gradients=st.integers(1, 2),
    seed=st.integers(0, 1000),
)
def test_random_model(widths, activation, optimiser, loss, schedule, steps, wrt, gradients, seed):
    random = np.random.default_rng(seed)
    normal = lambda *shape: jnp.asarray(random.normal(size=shape))
    layers = [
        {"w": normal(m, n) / np.sqrt(m), "b": normal(n) / 10} for m, n in itertools.pairwise(widths)
    ]
    optimiser = OPTIMISERS[optimiser]()
    held_out = normal(3, widths[0]), normal(3, widths[-1])

    def predict(layers, x):
        for layer in layers[:-1]:
            x = ACTIVATIONS[activation](x @ layer["w"] + layer["b"])
        return x @ layers[-1]["w"] + layers[-1]["b"]

    def objective(layers, z, batch):
        x, y = batch
        return jnp.mean(z["weights"] * LOSSES[loss](predict(layers, x), y)) + z["decay"] * sum(
            jnp.sum(layer["w"] ** 2) for layer in layers
        )

    @metagrad.compile
    def step(state, z, batch):
        layers, opt = state
        for _ in range(gradients):
            updates, opt = optimiser.update(metagrad.grad(objective)(layers, z, batch), opt, layers)
            layers = optax.apply_updates(layers, updates)
        return layers, opt

    def outer(state, held_out):
        return jnp.mean(LOSSES[loss](predict(state[0], held_out[0]), held_out[1]))

    z = {"weights": jnp.asarray(random.uniform(0.5, 1.5, 3)), "decay": jnp.asarray(0.01)}
    batches = normal(steps, 3, widths[0]), normal(steps, 3, widths[-1])
    assert_exact(
        step, outer, wrt, (layers, optimiser.init(layers)), z, batches, held_out, schedule=schedule
    )

"""Control flow and structure inside the loss and the step.

Loops, branches, vmap, recomputation, derivatives inside the loss, calls of the host.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import runs
from jax import lax
from unrolled import assert_exact, who

import metagrad
from metagrad import LazyKary, StoreAll

EVERYTHING = ("meta", "state", "batches")


def check(loss, *, wrt=EVERYTHING, T=3):
    step = runs.sgd(metagrad.grad(loss))
    return assert_exact(
        step,
        runs.outer,
        wrt,
        {"params": runs.params()},
        runs.meta(),
        runs.data(T),
        schedule=LazyKary(2),
    )[1]


def weighed(z, predicted, batch):
    return jnp.mean(z["weights"] * (predicted - batch["y"]) ** 2)


def square(p):
    """A square matrix out of the parameters, to apply again and again."""
    return jnp.tanh(p["w1"].T @ p["w1"]) / 2


def hidden(p, batch):
    return jnp.tanh(batch["x"] @ p["w1"] + p["b1"])


# --- Loops and branches that Enzyme differentiates ------------------------------------------------


def layers_in_a_scan(p, z, batch):
    stacked = jnp.stack([square(p), square(p).T, 2 * square(p)])
    h = lax.scan(lambda h, w: (jnp.tanh(h @ w), None), hidden(p, batch), stacked)[0]
    return weighed(z, h @ p["w2"], batch)


def time_in_a_scan(p, z, batch):
    """A recurrence over the features; each moment's output counts."""
    start = jnp.zeros((runs.EXAMPLES, runs.WIDTH))
    cell = lambda h, x: (jnp.tanh(h @ square(p) + x[:, None] * p["b1"]), h)
    last, every = lax.scan(cell, start, batch["x"].T)
    return weighed(z, (last + jnp.sum(every, 0)) @ p["w2"], batch)


def backwards_in_a_scan(p, z, batch):
    h, every = lax.scan(
        lambda h, x: (jnp.sin(h + x), h * x),
        hidden(p, batch)[:, 0],
        batch["x"].T,
        reverse=True,
        unroll=2,
    )
    return weighed(z, h + jnp.sum(every, 0), batch)


def fori_loop(p, z, batch):
    h = lax.fori_loop(0, 4, lambda i, h: jnp.tanh(h @ square(p)) * (1 + 0.1 * i), hidden(p, batch))
    return weighed(z, h @ p["w2"], batch)


def branch(p, z, batch):
    h = lax.cond(
        jnp.sum(batch["y"]) > 0, jnp.tanh, lambda h: h * jax.nn.relu(h), batch["x"] @ p["w1"]
    )
    return weighed(z, h @ p["w2"], batch)


def switch(p, z, batch):
    index = jnp.argmax(batch["y"])
    h = lax.switch(index, [jnp.sin, jnp.tanh, jnp.square, lambda h: 0.5 * h], batch["x"] @ p["w1"])
    return weighed(z, h @ p["w2"], batch)


def branch_in_a_scan(p, z, batch):
    turn = lambda h, i: (
        lax.cond(i % 2 == 0, lambda h: jnp.tanh(h @ square(p)), lambda h: h * h, h),
        None,
    )
    return weighed(z, lax.scan(turn, hidden(p, batch), jnp.arange(4))[0] @ p["w2"], batch)


def mapped(p, z, batch):
    hidden = jax.vmap(lambda x: jax.vmap(lambda w: jnp.tanh(x @ w), in_axes=1)(p["w1"]))(batch["x"])
    return weighed(z, hidden @ p["w2"], batch)


def mapped_branch(p, z, batch):
    """Under vmap a branch becomes a selection."""
    hidden = jax.vmap(lambda x: lax.cond(x[0] > 0, jnp.sin, jnp.tanh, x @ p["w1"]))(batch["x"])
    return weighed(z, hidden @ p["w2"], batch)


def bounded_while_loop(p, z, batch):
    """Equinox's: a scan with a choice in it, of the integers in the carry too."""
    import equinox.internal as eqxi

    _, h = eqxi.while_loop(
        lambda c: c[0] < 3,
        lambda c: (c[0] + 1, jnp.tanh(c[1] @ square(p))),
        (0, hidden(p, batch)),
        max_steps=4,
        kind="bounded",
    )
    return weighed(z, h @ p["w2"], batch)


def integers_in_a_scan(p, z, batch):
    """What is carried beside the floats is chosen, divided, sorted and counted."""

    def turn(carry, i):
        h, chosen, going = carry
        chosen = jnp.where(going, chosen[::-1] + i, lax.rem(chosen * 3, i + 2))
        h = jnp.where(going, jnp.tanh(h @ square(p)), h)
        return (h, jnp.sort(chosen), going & (chosen.sum() < 9)), None

    start = hidden(p, batch), jnp.arange(3), batch["x"][0, 0] > -9
    (h, chosen, _), _ = lax.scan(turn, start, jnp.arange(4))
    return weighed(z, (h * chosen[0]) @ p["w2"], batch)


@pytest.mark.parametrize(
    "loss",
    [
        bounded_while_loop,
        integers_in_a_scan,
        layers_in_a_scan,
        time_in_a_scan,
        backwards_in_a_scan,
        fori_loop,
        branch,
        switch,
        branch_in_a_scan,
        mapped,
        mapped_branch,
    ],
    ids=lambda loss: loss.__name__,
)
def test_enzyme_differentiates(loss):
    assert who(check(loss))[0] == "enzyme"


# --- Loops and calls on data alone ----------------------------------------------------------------


def doublings(batch):
    """How often the sum must be doubled to pass ten: the data alone say how long the loop is."""
    return lax.while_loop(
        lambda c: c[0] < 10, lambda c: (2 * c[0], c[1] + 1.0), (1 + jnp.sum(batch["y"] ** 2), 0.0)
    )


def while_loop_on_data(p, z, batch):
    total, count = doublings(batch)
    return weighed(z, runs.predict(p, batch["x"]) * (1 + count / 10) + total / 100, batch)


def from_the_host(p, z, batch):
    shape = jax.ShapeDtypeStruct(batch["y"].shape, batch["y"].dtype)
    ranks = jax.pure_callback(
        lambda y: np.argsort(np.argsort(y)).astype(y.dtype), shape, batch["y"]
    )
    return weighed(z, runs.predict(p, batch["x"]) + 0.1 * ranks, batch)


def test_a_while_loop_on_data():
    check(while_loop_on_data, wrt=("meta", "state"))


def test_a_while_loop_on_data_beside_a_custom_rule():
    """JAX differentiates this one, and is not asked for derivatives in the data."""

    @jax.custom_jvp
    def rule(x):
        return jnp.sin(x)

    rule.defjvps(lambda t, y, x: 2 * jnp.cos(x) * t)
    lowered = check(
        lambda p, z, batch: jnp.sum(rule(p["w2"])) + while_loop_on_data(p, z, batch), wrt="meta"
    )
    assert who(lowered)[0] == "jax"


def test_a_while_loop_on_what_is_differentiated_is_refused_by_name():
    with pytest.raises(
        NotImplementedError,
        match=r"JAX cannot differentiate while_loop_on_data \(test_control_flow.py:\d+\)(.|\n"
        r")*while \(\S*test_control_flow.py:\d+",
    ):
        check(while_loop_on_data, wrt="batches")


# --- Recomputation --------------------------------------------------------------------------------


def test_checkpoint_is_left_to_jax():
    def loss(p, z, batch):
        h = jax.checkpoint(lambda p, x: jnp.sin(jnp.tanh(x @ p["w1"])))(p, batch["x"])
        return weighed(z, h @ p["w2"], batch)

    lowered = check(loss)
    assert who(lowered)[0] == "jax-mixed"
    assert (
        "jax.checkpoint: JAX computes again what Enzyme would keep (" in lowered.explain()
        and "test_control_flow.py:" in lowered.explain()
    )


@pytest.mark.parametrize(
    "policy",
    [None, jax.checkpoint_policies.dots_saveable, jax.checkpoint_policies.everything_saveable],
)
def test_checkpoint_with_a_policy_in_a_scan(policy):
    def loss(p, z, batch):
        layer = jax.checkpoint(
            lambda h, w: (jnp.sin(jnp.tanh(h @ w)), None), policy=policy, prevent_cse=False
        )
        h = lax.scan(layer, hidden(p, batch), jnp.stack([square(p)] * 3))[0]
        return weighed(z, h @ p["w2"], batch)

    check(loss)


def test_what_is_to_be_computed_again_is_not_kept():
    """The temporaries of the whole metagradient, as XLA counts them.

    They are compared with those of one product with the Hessian that JAX makes, without and with
    `jax.checkpoint`.

    Layers in a scan, because XLA's CPU compiler finds equal computations again where they stand
    side by side, also those of plain JAX.
    """
    width, wide, examples, layers = 16, 1024, 512, 8

    def layer(x, w):
        return jnp.tanh(jnp.tanh(jnp.sin(x @ w[0])) @ w[1]), None

    def loss_of(layer):
        return lambda p, x: jnp.mean(lax.scan(layer, x, p)[0] ** 2)

    def temporaries(lowered):
        return lowered.compile().memory_analysis().temp_size_in_bytes

    def product(loss):
        return jax.jit(lambda p, x, v: jax.jvp(lambda p: jax.grad(loss)(p, x), (p,), (v,))[1])

    kept, computed_again = loss_of(layer), loss_of(jax.checkpoint(layer, prevent_cse=False))
    step = metagrad.compile(
        lambda p, rate, x: jax.tree.map(
            lambda p, g: p - rate * g, p, metagrad.grad(computed_again)(p, x)
        )
    )
    p = (
        jax.ShapeDtypeStruct((layers, width, wide), jnp.float32),
        jax.ShapeDtypeStruct((layers, wide, width), jnp.float32),
    )
    x = jax.ShapeDtypeStruct((examples, width), jnp.float32)
    rate, batches = (
        jax.ShapeDtypeStruct((), jnp.float32),
        jax.ShapeDtypeStruct((2, *x.shape), x.dtype),
    )
    ours = temporaries(
        step.metagradient(lambda p: jnp.sum(p[0] ** 2), schedule=StoreAll()).lower(p, rate, batches)
    )
    without, wanted = (
        temporaries(product(kept).lower(p, x, p)),
        temporaries(product(computed_again).lower(p, x, p)),
    )
    assert ours - wanted < (without - wanted) / 4


def test_what_is_to_be_computed_again_is_fenced():
    """Outside of loops it is a function of its own, so that XLA cannot reuse the first computation.

    XLA's CPU backend takes out the barrier that JAX would put there.
    """
    loss = jax.checkpoint(runs.loss)
    lowered = (
        runs.sgd(metagrad.grad(loss))
        .metagradient(runs.outer)
        .lower({"params": runs.params()}, runs.meta(), runs.data(2))
    )
    product = lowered.ir("differentiated")
    assert "no_inline" in product[product.index("@loss_0_grad_vjp") :]
    assert 'inlineable = "false"' in lowered.ir("scheduled")


def test_checkpoint_in_the_update_and_outside():
    """In what is differentiated once it is honoured as well."""

    @metagrad.compile
    def step(s, z, batch):
        g = metagrad.grad(runs.loss)(s["params"], z, batch)
        shrink = jax.checkpoint(lambda p, g: p - jnp.sin(jnp.exp(z["rate"]) * g))
        return {"params": jax.tree.map(shrink, s["params"], g)}

    arguments = {"params": runs.params()}, runs.meta(), runs.data(3)
    _, lowered = assert_exact(
        step, jax.checkpoint(runs.outer), EVERYTHING, *arguments, schedule=LazyKary(2)
    )
    assert who(lowered) == ["enzyme", "jax", "jax"]


# --- Derivatives inside the loss ------------------------------------------------------------------


def of_the_input(p, x):
    return jnp.sum(jnp.sin(runs.predict(p, x)))


def gradient_penalty(p, z, batch):
    """The norm of the gradient in the data, as in physics-informed and adversarial training."""
    return runs.loss(p, z, batch) + 0.1 * jnp.mean(
        jax.grad(of_the_input, argnums=1)(p, batch["x"]) ** 2
    )


def tangent_penalty(p, z, batch):
    return (
        runs.loss(p, z, batch)
        + jax.jvp(functools.partial(of_the_input, p), (batch["x"],), (jnp.cos(batch["x"]),))[1]
    )


def curvature(p, z, batch):
    hessian = jax.hessian(lambda x: of_the_input(p, x[None]))(batch["x"][0])
    return runs.loss(p, z, batch) + 0.1 * jnp.sum(hessian**2)


@pytest.mark.parametrize(
    "loss", [gradient_penalty, tangent_penalty, curvature], ids=lambda loss: loss.__name__
)
def test_derivatives_inside_the_loss(loss):
    check(loss)


# --- Randomness -----------------------------------------------------------------------------------


def dropped(p, key, z, batch):
    kept = jax.random.bernoulli(key, 0.7, (runs.EXAMPLES, runs.WIDTH))
    return weighed(z, jnp.where(kept, hidden(p, batch) / 0.7, 0.0) @ p["w2"], batch)


@pytest.mark.parametrize("legacy", [False, True], ids=["typed key", "raw key"])
def test_dropout_with_the_key_in_the_state(legacy):
    @metagrad.compile
    def step(s, z, batch):
        key, now = jax.random.split(s["key"])
        g = metagrad.grad(dropped)(s["params"], now, z, batch)
        return {
            "params": jax.tree.map(lambda p, g: p - jnp.exp(z["rate"]) * g, s["params"], g),
            "key": key,
        }

    state = {"params": runs.params(), "key": (jax.random.PRNGKey if legacy else jax.random.key)(3)}
    _, lowered = assert_exact(
        step, runs.outer, EVERYTHING, state, runs.meta(), runs.data(4), schedule=LazyKary(2)
    )
    assert who(lowered)[0] == "enzyme"


def test_augmentation_with_the_key_in_the_batch():
    """Shifted, mirrored and noisy data; the keys come with the batches."""

    def loss(p, z, batch):
        first, second = jax.random.split(batch["key"])
        x = jnp.where(
            jax.random.bernoulli(first, 0.5, (runs.EXAMPLES, 1)), batch["x"][:, ::-1], batch["x"]
        )
        x = jnp.roll(x, jax.random.randint(second, (), 0, 3), 1) + 0.1 * jax.random.normal(
            second, x.shape
        )
        return weighed(z, runs.predict(p, x), batch)

    batches = runs.data(4) | {"key": jax.random.split(jax.random.key(0), 4)}
    arguments = {"params": runs.params()}, runs.meta(), batches
    _, lowered = assert_exact(
        runs.sgd(metagrad.grad(loss)), runs.outer, EVERYTHING, *arguments, schedule=LazyKary(2)
    )
    assert who(lowered)[0] == "enzyme"

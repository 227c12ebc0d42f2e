"""Forward mode is the derivative that JAX defines, as reverse mode is, to rounding."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from exact import runs
from exact.unrolled import DOUBLE, assert_close, unrolled
from jax import lax

import metagrad

EVERYTHING = ("meta", "state", "batches")


def check(
    step, state, meta, batches, *outer_args, outer=runs.outer, wrt="meta", has_aux=False, aux=False
):
    """Value, gradient and final state against `jax.grad` of a Python loop. Gives the result."""
    mg = step.metagradient(outer, wrt, mode="forward", has_aux=has_aux)
    result = mg(state, meta, batches, *outer_args)
    value, grad, final = unrolled(
        step, outer, wrt, state, meta, batches, *outer_args, step_has_aux=aux, has_aux=has_aux
    )
    assert_close(result.value[0] if has_aux else result.value, value, DOUBLE, "value")
    assert_close(result.grad, grad, DOUBLE)
    assert_close(result.state, final, DOUBLE, "state")
    return result


OPTIMISERS = {
    "adam": optax.adam(0.05, eps_root=1e-8),
    "clipped": optax.chain(optax.clip_by_global_norm(0.3), optax.sgd(0.1, momentum=0.9)),
}


@pytest.mark.parametrize("name", OPTIMISERS)
def test_optimiser(name):
    """Its state has integer leaves, whose gradients are float0."""
    step, state = runs.with_optax(OPTIMISERS[name])
    check(step, state, runs.meta(), runs.data(4), wrt=EVERYTHING if name == "adam" else "meta")


def test_one_learning_rate():
    """A single number: one direction."""
    step = runs.sgd(lambda p, z, batch: metagrad.grad(runs.loss)(p, {"weights": 1.0}, batch))
    lowered = step.metagradient(runs.outer, mode="forward").lower(
        {"params": runs.params()}, {"rate": -1.5}, runs.data(4)
    )
    assert lowered.plan.directions == 1
    check(step, {"params": runs.params()}, {"rate": -1.5}, runs.data(4))


def test_schedule_in_the_batches():
    """Entry t of a rate for each step matters from step t on."""

    @metagrad.compile
    def step(w, meta, batch):
        rate, x = batch
        return w - rate * metagrad.grad(lambda w: jnp.sum(jnp.tanh(w * x) ** 2))(w)

    batches = jnp.linspace(0.1, 0.5, 6), jnp.linspace(-1.0, 1.0, 12).reshape(6, 2)
    check(step, jnp.array([0.3, -0.8]), None, batches, outer=jnp.sum, wrt="batches")


def test_pieces_of_a_schedule_with_aux_on_both_sides():
    @metagrad.compile(has_aux=True)
    def step(state, pieces, batch):
        value, g = metagrad.value_and_grad(runs.loss)(state["p"], runs.meta(), batch)
        rate = pieces[state["t"] // 2]
        p = jax.tree.map(lambda p, g: p - rate * g, state["p"], g)
        return {"p": p, "t": state["t"] + 1}, {"loss": value, "t": state["t"]}

    outer = lambda s, scale: (runs.outer({"params": s["p"]}) * scale, s["t"])
    result = check(
        step,
        {"p": runs.params(), "t": 0},
        jnp.array([0.3, 0.2, 0.1]),
        runs.data(6),
        2.0,
        outer=outer,
        has_aux=True,
        aux=True,
    )
    assert result.value[1] == 6
    assert result.aux["t"].tolist() == list(range(6)) and result.aux["loss"].shape == (6,)


def custom_vjp(rule):
    """sin, whose backward rule is `rule` times the cotangent."""

    @jax.custom_vjp
    def f(x):
        return jnp.sin(x)

    f.defvjp(lambda x: (jnp.sin(x), x), lambda x, cotangent: (cotangent * rule(x),))
    return f


@jax.custom_jvp
def softened(x):
    return jnp.abs(x)


softened.defjvp(lambda x, t: (jnp.abs(x[0]), jnp.tanh(x[0]) * t[0]))

ACTIVATIONS = {
    "checkpoint": jax.checkpoint(jnp.tanh),
    "custom_vjp of another function": custom_vjp(lambda x: 1.5 * x),
    "custom_jvp": softened,
    "scan": lambda x: lax.scan(lambda c, a: (jnp.tanh(c + a), None), x, jnp.ones(3))[0],
}


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_loss_with(name):
    def loss(p, z, batch):
        error = runs.predict(p, batch["x"], ACTIVATIONS[name]) - batch["y"]
        return jnp.mean(z["weights"] * error**2)

    step = runs.sgd(metagrad.grad(loss))
    check(step, {"params": runs.params()}, runs.meta(), runs.data(3))


def test_gradients_in_a_scan_and_of_a_gradient():
    """Microbatches; and an inner run inside the loss."""

    def adapted(p, z, batch):
        g = metagrad.grad(runs.loss)(p, z, batch)
        return runs.loss(jax.tree.map(lambda p, g: p - 0.1 * g, p, g), z, batch)

    def gradient(p, z, batch):
        def add(total, scale):
            g = metagrad.grad(adapted)(p, z, {"x": batch["x"] * scale, "y": batch["y"]})
            return jax.tree.map(jnp.add, total, g), None

        return lax.scan(add, jax.tree.map(jnp.zeros_like, p), jnp.array([1.0, 0.5]))[0]

    check(runs.sgd(gradient), {"params": runs.params()}, runs.meta(), runs.data(2))


def test_step_without_metagrad_grad_and_with_a_while_loop():
    """A while_loop on what is differentiated has no reverse mode; in forward mode it has one."""

    @metagrad.compile
    def step(w, rate, x):
        turn = lambda c: (c[0] + 1, c[1] - rate * jax.grad(lambda w: jnp.sum((w - x) ** 4))(c[1]))
        return lax.while_loop(lambda c: c[0] < 2, turn, (0, w))[1]

    w, rate, xs = jnp.array([0.3, -0.2]), 0.1, jnp.linspace(0.0, 1.0, 3)
    got = step.metagradient(jnp.sum, mode="forward")(w, rate, xs)

    def run(rate):
        state = w
        for x in xs:
            state = step(state, rate, x)
        return jnp.sum(state)

    assert_close(got.grad, jax.jacfwd(run)(rate), DOUBLE)
    with pytest.raises(NotImplementedError, match="while_loop"):
        step.metagradient(jnp.sum)(w, rate, xs)


def test_keys_and_other_leaves_of_the_state():
    @metagrad.compile
    def step(state, meta, batch):
        key, used = jax.random.split(state["key"])
        noise = jax.random.normal(used, state["w"].shape)
        g = metagrad.grad(lambda w: jnp.sum((w - batch) ** 2) * meta["scale"])(state["w"])
        return state | {"key": key, "w": state["w"] - 0.1 * g + meta["noise"] * noise}

    state = {"key": jax.random.key(3), "w": jnp.ones(2), "name": "sgd", "frozen": jnp.arange(3)}
    meta = {"scale": 0.7, "noise": 0.1, "steps": 3}
    outer = lambda s: jnp.sum(s["w"] ** 2)
    check(step, state, meta, jnp.linspace(0.0, 1.0, 4), outer=outer, wrt=("state", "meta"))


@pytest.mark.parametrize("queries", [2, 9])
def test_queries(queries):
    """Fewer than directions, and more: the outer function goes backward or forward."""
    rows = np.linspace(-1.0, 1.0, queries * 5).reshape(queries, 5)
    step = runs.sgd()
    outer = lambda s: jnp.tanh(rows @ s["params"]["w2"])
    meta = runs.meta() | {"weights": runs.meta()["weights"][:4]}
    check(step, {"params": runs.params()}, meta, runs.data(2), outer=outer)


def test_single_precision():
    with jax.enable_x64(False):
        step = runs.sgd()
        arguments = {"params": runs.params()}, runs.meta(), runs.data(4)
        ours = step.metagradient(runs.outer, mode="forward")(*arguments)
        theirs = step.metagradient(runs.outer)(*arguments)
        assert_close(ours.grad, theirs.grad, 1e-5)


def test_memory_does_not_grow_with_the_steps():
    """One learning rate, 100,000 steps: XLA's temporaries are those of 100 steps."""

    def loss(w, batch):
        x, y = batch
        return jnp.mean((jnp.tanh(x @ w) - y) ** 2)

    @metagrad.compile
    def step(w, rate, batch):
        return w - rate * metagrad.grad(loss)(w, batch)

    def lowered(steps):
        random = np.random.default_rng(0)
        batches = random.normal(size=(steps, 4, 3)), random.normal(size=(steps, 4))
        arguments = jnp.ones(3), jnp.asarray(0.01), batches
        compiled = step.metagradient(jnp.sum, mode="forward").lower(*arguments).compile()
        return compiled.memory_analysis().temp_size_in_bytes, compiled, arguments

    short, *_ = lowered(100)
    long, compiled, (w, rate, batches) = lowered(100_000)
    assert long <= short
    result = compiled(w, rate, batches)

    def run(rate):
        advance = lambda w, batch: (w - rate * jax.grad(loss)(w, batch), None)
        return jnp.sum(lax.scan(advance, w, batches)[0])

    _, slope = jax.jit(lambda rate: jax.jvp(run, (rate,), (1.0,)))(rate)
    np.testing.assert_allclose(result.grad, slope, rtol=DOUBLE)


def test_no_tangent_where_jax_has_none():
    """Zero times an infinite derivative is NaN, where there is a zero: a root of a moment that is
    zero before the first step, and a leaf that the outer function does not read.
    """

    @metagrad.compile
    def step(state, rate, x):
        w, moment, lost, _ = state
        g = metagrad.grad(lambda w: jnp.sum((w - x) ** 2))(w)
        new = w - rate * g / (1.0 + jnp.sqrt(moment))
        return new, moment + g**2, lost + jnp.sqrt(moment - moment), False

    state = jnp.array([0.3, -0.5]), jnp.zeros(2), jnp.zeros(2), True
    outer = lambda state: jnp.sum(state[0] ** 2)
    check(step, state, 0.1, jnp.linspace(0.0, 1.0, 4), outer=outer)

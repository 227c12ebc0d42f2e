"""Second derivatives of a run: `jax.jvp` of a metagradient, and what is made of it.

The oracle is JAX's own second derivative of the unrolled run.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import metagrad

RANDOM = np.random.default_rng(0)
TABLE = RANDOM.normal(size=(3, 200))  # more than what stays a constant


def step(state, meta, x):
    def loss(w):
        wave = jnp.sum(jnp.cos(w @ TABLE)) * 1e-3
        return meta["scale"] * jnp.mean(jnp.tanh(x @ w) ** 2) + wave

    value, gradient = metagrad.value_and_grad(loss)(state["w"])
    return {
        "w": state["w"] - meta["rate"] * gradient * state["mask"],
        "mask": state["mask"],
        "t": state["t"] + meta["power"],
    }, {"loss": value, "t": state["t"]}


def outer(state, v):
    return jnp.sum(jnp.sin(state["w"] * v)), {"norm": jnp.sum(state["w"] ** 2), "t": state["t"]}


STATE = {"w": RANDOM.normal(size=3), "mask": np.array([1.0, 0.0, 1.0]), "t": np.int32(0)}
META = {"rate": np.float64(0.3), "scale": np.float64(1.2), "power": np.int32(2)}
XS = RANDOM.normal(size=(5, 4, 3))
V = np.float64(1.3)

mg = metagrad.compile(step, has_aux=True).metagradient(
    outer, ("state", "meta", "batches"), has_aux=True
)


def with_floats(rate, scale, w, xs, v):
    return STATE | {"w": w}, META | {"rate": rate, "scale": scale}, xs, v


ARGUMENTS = META["rate"], META["scale"], STATE["w"], XS, V


def floats(tree):
    return [x for x in jax.tree.leaves(tree) if jnp.issubdtype(x.dtype, jnp.floating)]


def ours(*arguments):
    """All results, floats only: value, aux, gradients, final state, aux of the step."""
    return floats(mg(*with_floats(*arguments)))


def by_jax(rate, scale, w, xs, v):
    def run(mask, w, rate, scale, xs):
        state = {"w": w, "mask": mask, "t": STATE["t"]}
        meta = META | {"rate": rate, "scale": scale}
        final, aux = jax.lax.scan(lambda s, x: step(s, meta, x), state, xs)
        value, outer_aux = outer(final, v)
        return value, (outer_aux, final, aux)

    (value, (outer_aux, final, aux)), gradients = jax.value_and_grad(
        run, (0, 1, 2, 3, 4), has_aux=True
    )(STATE["mask"], w, rate, scale, xs)
    return floats([value, outer_aux, gradients, final, aux])


def directions(seed=1):
    random = np.random.default_rng(seed)
    return tuple(np.asarray(random.normal(size=np.shape(x))) for x in ARGUMENTS)


def assert_same(got, want):
    got, want = jax.tree.leaves(got), jax.tree.leaves(want)
    assert len(got) == len(want)
    for g, w in zip(got, want):
        np.testing.assert_allclose(g, w, rtol=1e-10, atol=1e-11 * np.abs(w).max(initial=0))


@pytest.mark.parametrize("which", [(0,), (1, 2), (3,), (4,), (0, 1, 2, 3, 4)], ids=str)
def test_tangents_of_all_results(which):
    def along(run):
        def moved(*values):
            filled = list(ARGUMENTS)
            for i, value in zip(which, values):
                filled[i] = value
            return run(*filled)

        primals, tangents = [[all_of[i] for i in which] for all_of in (ARGUMENTS, directions())]
        return jax.jvp(moved, primals, tangents)

    assert_same(along(ours), along(by_jax))


SMALL = metagrad.compile(
    lambda w, m, b: w - m[0] * metagrad.grad(lambda w: jnp.sum(jnp.sin(w * b) ** 2) * m[1])(w)
)
RATES = np.array([0.2, 0.7])
BATCHES = RANDOM.normal(size=(4, 3))
START = RANDOM.normal(size=3)


def run(rates):
    final = jax.lax.scan(lambda w, b: (SMALL(w, rates, b), None), START, BATCHES)[0]
    return jnp.sum(final**2)


@pytest.mark.parametrize("schedule", [None, metagrad.LazyKary(2), metagrad.StoreAll()], ids=str)
def test_hessian(schedule):
    of_rates = SMALL.metagradient(lambda w: jnp.sum(w**2), schedule=schedule)
    gradient = lambda rates: of_rates(START, rates, BATCHES).grad
    value = lambda rates: of_rates(START, rates, BATCHES).value
    want = jax.hessian(run)(RATES)
    assert_same(jax.jacfwd(gradient)(RATES), want)
    assert_same(jax.jit(jax.jacfwd(gradient))(RATES), want)
    assert_same(jax.hessian(value)(RATES), want)


def test_newton_step():
    """One Newton step on the logarithms of two rates, the value as a by-product."""
    of_rates = SMALL.metagradient(lambda w: jnp.sum(w**2))

    @jax.jit
    def newton(logs):
        gradient = jax.grad(lambda logs: of_rates(START, jnp.exp(logs), BATCHES).value)
        return logs - jnp.linalg.solve(jax.jacfwd(gradient)(logs), gradient(logs))

    logs = jnp.log(RATES)
    by_hand = lambda logs: run(jnp.exp(logs))
    want = logs - jnp.linalg.solve(jax.hessian(by_hand)(logs), jax.grad(by_hand)(logs))
    assert_same(newton(logs), want)


def test_third_derivative():
    of_rates = SMALL.metagradient(lambda w: jnp.sum(w**2))
    gradient = lambda rates: of_rates(START, rates, BATCHES).grad
    assert_same(
        jax.jacfwd(jax.jacfwd(gradient))(RATES), jax.jacfwd(jax.jacfwd(jax.grad(run)))(RATES)
    )


def test_vector_of_queries():
    queries = lambda w: jnp.stack([jnp.sum(w**2), jnp.prod(w)])
    of_rates = SMALL.metagradient(queries)

    def run_of_queries(rates):
        return queries(jax.lax.scan(lambda w, b: (SMALL(w, rates, b), None), START, BATCHES)[0])

    got = jax.jacfwd(lambda rates: of_rates(START, rates, BATCHES).grad)(RATES)
    assert_same(got, jax.hessian(run_of_queries)(RATES))


def test_optimiser_state():
    optimiser = optax.adam(1e-1, eps_root=1e-8)

    def one(state, logs, x):
        w, opt = state
        gradient = metagrad.grad(lambda w: jnp.exp(logs[0]) * jnp.sum(jnp.tanh(w * x) ** 2))(w)
        updates, opt = optimiser.update(gradient, opt)
        return w + jnp.exp(logs[1]) * updates, opt

    of_logs = metagrad.compile(one).metagradient(lambda s: jnp.sum(s[0] ** 2))
    start = START, optimiser.init(START)

    def by_hand(logs):
        final = jax.lax.scan(lambda s, x: (one(s, logs, x), None), start, BATCHES)[0]
        return jnp.sum(final[0] ** 2)

    logs, v = jnp.array([0.1, -0.3]), jnp.array([0.7, 1.1])
    got = jax.jvp(lambda z: of_logs(start, z, BATCHES).grad, (logs,), (v,))
    assert_same(got, jax.jvp(jax.grad(by_hand), (logs,), (v,)))


def test_metagradient_of_a_gradient_of_a_run():
    """The gradient of one run's value inside a step of another."""
    inner = metagrad.compile(lambda w, m, b: w - m * b * jnp.sin(w)).metagradient(lambda w: w**2)
    bs = np.array([0.3, 0.8])

    def inner_by_hand(m):
        w = 1.0
        for b in bs:
            w = w - m * b * jnp.sin(w)
        return w**2

    outer_run = metagrad.compile(
        lambda m, z, b: m - z * metagrad.grad(lambda m: inner(1.0, m, bs).value)(m)
    ).metagradient(lambda m: m)

    def by_hand(z):
        m = 0.4
        for _ in range(3):
            m = m - z * jax.grad(inner_by_hand)(m)
        return m

    got = outer_run(0.4, 0.5, np.arange(3))
    assert_same([got.value, got.grad], jax.value_and_grad(by_hand)(0.5))


def test_one_program_serves_all_directions(monkeypatch):
    """A second product traces no step again."""
    traced = []

    def counted(w, rate, b):
        traced.append(1)
        return w - rate * metagrad.grad(lambda w: jnp.sum(jnp.sin(w * b)))(w)

    of_rate = metagrad.compile(counted).metagradient(lambda w: jnp.sum(w**2))
    product = jax.jit(
        lambda rate, v: jax.jvp(lambda r: of_rate(START, r, BATCHES).grad, (rate,), (v,))[1]
    )
    first = product(0.1, 1.0)
    count = len(traced)
    np.testing.assert_allclose(product(0.1, 2.0), 2 * first)
    eager = lambda v: jax.jvp(lambda r: of_rate(START, r, BATCHES).grad, (0.1,), (v,))[1]
    np.testing.assert_allclose(eager(3.0), 3 * first)
    assert len(traced) == count


def test_reverse_over_a_gradient_is_refused():
    of_rates = SMALL.metagradient(lambda w: jnp.sum(w**2))
    of_first = lambda r: of_rates(START, jnp.stack([r, RATES[1]]), BATCHES).grad[0]
    with pytest.raises(NotImplementedError, match=r"jax.jvp\(lambda z: mg\(state0, z, batches\)"):
        jax.grad(of_first)(RATES[0])


def test_many_runs_in_one_direction():
    """A direction that is a Python number, the same for all runs."""
    of_rates = SMALL.metagradient(lambda w: jnp.sum(w**2))

    def tangent(rate):
        gradient = lambda rate: of_rates(START, jnp.stack([rate, RATES[1]]), BATCHES).grad
        return jax.jvp(gradient, (rate,), (1.0,))[1]

    rates = RATES[0] * jnp.array([1.0, 0.5])
    want = jnp.stack([jax.hessian(run)(jnp.stack([rate, RATES[1]]))[0] for rate in rates])
    for mapped in (jax.vmap(tangent), jax.jit(jax.vmap(tangent))):
        np.testing.assert_allclose(mapped(rates), want, rtol=1e-12)


def test_custom_vjp_outside_of_the_loss_is_refused():
    """Its rule is for reverse mode alone, and tangents come first here. In a loss it is exact."""

    @jax.custom_vjp
    def clipped(g):
        return jnp.clip(g, -1, 1)

    clipped.defvjp(lambda g: (jnp.clip(g, -1, 1), None), lambda _, bar: (bar,))

    @metagrad.compile
    def step(w, rate, b):
        return w - rate * clipped(metagrad.grad(lambda w: jnp.sum((w - b) ** 2))(w))

    mg = step.metagradient(lambda w: jnp.sum(w**2))
    of_rate = lambda rate: mg(jnp.ones(2), rate, jnp.ones((3, 2))).value
    line = r"goes through a custom_vjp function in the update of step \(.*test_second_deriv.*step\)"
    with pytest.raises(NotImplementedError, match=line):
        jax.hessian(of_rate)(0.1)

    def inside(grad, w, rate, b):
        return w - rate * grad(lambda w: jnp.sum(clipped(w * w - b) ** 2))(w)

    mg = metagrad.compile(functools.partial(inside, metagrad.grad)).metagradient(jnp.sum)
    w, bs = jnp.array([0.5, 1.2]), jnp.ones((3, 2)) * 0.4

    def by_jax(rate):
        return jnp.sum(functools.reduce(lambda w, b: inside(jax.grad, w, rate, b), bs, w))

    got = jax.jacfwd(lambda rate: mg(w, rate, bs).grad)(0.1)
    np.testing.assert_allclose(got, jax.jacfwd(jax.grad(by_jax))(0.1), rtol=1e-11)


def test_argument_without_a_gradient():
    """Forward mode has tangents of all arguments; reverse mode of what `wrt` names."""
    of_rates = SMALL.metagradient(lambda w, v: jnp.sum(w**2 * v))
    value = lambda v: of_rates(START, RATES, BATCHES, v).value
    np.testing.assert_allclose(jax.jvp(value, (2.0,), (1.0,))[1], value(1.0))
    with pytest.raises(NotImplementedError, match=r"in outer_args\[0\] is asked for"):
        jax.grad(value)(2.0)

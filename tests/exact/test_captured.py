"""Arrays and traced values that step, loss and outer function close over are arguments of the
program: the number is right, and no text holds the array.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import metagrad
from metagrad.frontend import captured

ROWS = np.random.default_rng(0).normal(size=(20, 8))
W = np.linspace(-0.5, 0.7, 8)
RATE = 0.05
BATCHES = np.array([3, 17, 5])


def custom_jvp(f):
    @jax.custom_jvp
    def g(x):
        return f(x)

    g.defjvp(lambda primals, tangents: jax.jvp(f, primals, tuple(1.5 * t for t in tangents)))
    return g


def custom_vjp(f):
    @jax.custom_vjp
    def g(x):
        return f(x)

    def backward(x, cotangent):
        return (1.5 * jax.vjp(f, x)[1](cotangent)[0],)

    g.defvjp(lambda x: (f(x), x), backward)
    return g


AROUND = {
    "plain": lambda f: f,
    "jit": lambda f: jax.jit(jax.jit(f)),
    "jit in a scan": lambda f: (
        lambda x: lax.scan(lambda c, t: (c + jax.jit(f)(x * t), None), 0.0, jnp.arange(2.0))[0]
    ),
    "cond": lambda f: lambda x: lax.cond(x[0] > 9, lambda x: -f(x), jax.jit(f), x),
    "fori_loop": lambda f: lambda x: lax.fori_loop(0, 2, lambda i, c: c + jax.jit(f)(x * i), 0.0),
    "checkpoint": lambda f: jax.checkpoint(jax.jit(f)),
    "vmap": lambda f: lambda x: jax.vmap(jax.jit(f))(jnp.stack([x, x * 2])).sum(),
    "custom_jvp": custom_jvp,
    "custom_vjp": custom_vjp,
}


def functions(rows, around, grad):
    """A step and an outer function, each of which closes over `rows` in several places."""
    read = around(lambda x: jnp.sum(jnp.tanh(rows @ x)))

    def loss(w, i):
        return (jnp.asarray(rows)[i] @ w - 1) ** 2 + read(w)

    def step(w, rate, i):
        return w - rate * grad(loss)(w, i) + 1e-2 * read(w * rate)

    return step, lambda w: jnp.sum((rows @ w) ** 2) + read(w)


def by_jax(rows, around):
    step, outer = functions(rows, around, jax.grad)

    def run(rate):
        w = jnp.asarray(W)
        for i in BATCHES:
            w = step(w, rate, i)
        return outer(w)

    return jax.value_and_grad(run)(RATE)


def by_metagrad(rows, around, **options):
    step, outer = functions(rows, around, metagrad.grad)
    result = metagrad.compile(step, **options).metagradient(outer)(W, RATE, BATCHES)
    return result.value, result.grad


def assert_equal(actual, expected):
    np.testing.assert_allclose(actual[0], expected[0], rtol=1e-11)
    np.testing.assert_allclose(actual[1], expected[1], rtol=1e-10)


@pytest.mark.parametrize("name", AROUND)
def test_traced_values(name):
    around = AROUND[name]
    run = jax.jit(lambda scale: by_metagrad(scale * ROWS, around))
    assert_equal(run(1.5), jax.jit(lambda scale: by_jax(scale * ROWS, around))(1.5))


@pytest.mark.parametrize("name", AROUND)
@pytest.mark.parametrize("kind", [np.asarray, jnp.asarray])
def test_arrays(name, kind):
    step, outer = functions(kind(ROWS), AROUND[name], metagrad.grad)
    lowered = metagrad.compile(step).metagradient(outer).lower(W, RATE, BATCHES)
    result = lowered.compile()(W, RATE, BATCHES)
    assert_equal((result.value, result.grad), by_jax(ROWS, AROUND[name]))
    for stage in lowered.stages[:-1]:
        lines = [line for line in lowered.ir(stage).splitlines() if "tensor<20x8xf64>" in line]
        assert lines, f"the array is read in {stage}"
        assert not any("stablehlo.constant" in line for line in lines), stage


@pytest.mark.parametrize("kind", ["array", "traced"])
def test_differentiated_by_jax(kind):
    around = AROUND["jit in a scan"]
    run = lambda rows: by_metagrad(rows, around, ad="jax")
    result = run(ROWS) if kind == "array" else jax.jit(run)(ROWS)
    assert_equal(result, by_jax(ROWS, around))


def test_one_array_is_one_argument():
    rows = jnp.asarray(ROWS)
    step, outer = functions(rows, AROUND["jit"], metagrad.grad)
    program = metagrad.compile(step).metagradient(outer).lower(W, RATE, BATCHES)._program
    (array,) = program.captured.arrays_beside([])
    assert array.unsafe_buffer_pointer() == rows.unsafe_buffer_pointer(), "it is not copied"


def test_a_small_array_is_a_constant():
    small = np.arange(8.0)
    assert small.nbytes <= captured.SMALL
    step = lambda w, rate, i: w - rate * metagrad.grad(lambda w: jnp.sum(w * small) ** 2)(w)
    lowered = metagrad.compile(step).metagradient(jnp.sum).lower(W, RATE, BATCHES)
    assert not lowered._program.captured.arrays_beside([])


def test_a_numpy_array_is_taken_as_it_is_when_the_program_is_lowered():
    """As `jax.jit` does: what is written into it afterwards changes nothing."""
    rows = ROWS.copy()
    step, outer = functions(rows, AROUND["plain"], metagrad.grad)
    compiled = metagrad.compile(step).metagradient(outer).lower(W, RATE, BATCHES).compile()
    rows[:] = 0
    result = compiled(W, RATE, BATCHES)
    assert_equal((result.value, result.grad), by_jax(ROWS, AROUND["plain"]))


def test_another_trace_gets_its_own_values():
    """The metagradient outlives the trace whose value its step closes over."""
    scale = None
    step = lambda w, rate, i: w - rate * metagrad.grad(lambda w: jnp.sum(w * scale) ** 2)(w)
    mg = metagrad.compile(step).metagradient(lambda w: jnp.sum(w * scale))

    def run(value, call):
        nonlocal scale
        scale = value
        return call(W, RATE, BATCHES).grad

    results = [
        *(jax.jit(functools.partial(run, call=mg))(v) for v in (1.0, 2.0)),
        jax.lax.map(functools.partial(run, call=mg), jnp.asarray([3.0]))[0],
    ]

    def expected(value):
        def final(rate):
            w = jnp.asarray(W)
            for _ in BATCHES:
                w = w - rate * jax.grad(lambda w: jnp.sum(w * value) ** 2)(w)
            return jnp.sum(w * value)

        return jax.grad(final)(RATE)

    np.testing.assert_allclose(results, [expected(v) for v in (1.0, 2.0, 3.0)], rtol=1e-11)


def test_a_traced_key():
    def run(key, grad):
        noise = lambda w, i: w + jax.random.normal(jax.random.fold_in(key, i), w.shape)
        step = lambda w, rate, i: w - rate * grad(lambda w: jnp.sum(noise(w, i) ** 2))(w)
        if grad is metagrad.grad:
            return metagrad.compile(step).metagradient(jnp.sum)(W, RATE, BATCHES).grad

        def final(rate):
            return jnp.sum(functools.reduce(lambda w, i: step(w, rate, i), BATCHES, jnp.asarray(W)))

        return jax.grad(final)(RATE)

    results = [
        jax.jit(lambda seed, grad=grad: run(jax.random.key(seed), grad))(7)
        for grad in (metagrad.grad, jax.grad)
    ]
    np.testing.assert_allclose(*results, rtol=1e-11)


def test_no_derivative_in_a_value_that_is_closed_over():
    step = lambda w, rate, i: w - rate * w
    with pytest.raises(
        NotImplementedError,
        match=r"derivative of a metagradient's value in a value that .* close over.*in meta.*`wrt`",
    ):
        jax.grad(
            lambda v: (
                metagrad.compile(step)
                .metagradient(lambda w: v * jnp.sum(w))(W, RATE, BATCHES)
                .value
            )
        )(2.0)


@pytest.mark.parametrize("kind", [np.asarray, jnp.asarray])
@pytest.mark.parametrize(
    "first", [jax.jit, lambda f: lambda: lax.map(lambda _: f(), jnp.ones(2))[0]]
)
def test_the_first_call_is_traced(kind, first):
    """What it takes is there for the calls after it, traced or not."""
    step, outer = functions(kind(ROWS), AROUND["plain"], metagrad.grad)
    mg = metagrad.compile(step).metagradient(outer)
    run = lambda: mg(W, RATE, BATCHES).grad
    gradients = [first(run)(), run(), jax.jit(lambda: run() + run())() / 2, run()]
    expected = by_jax(ROWS, AROUND["plain"])[1]
    np.testing.assert_allclose(gradients, [expected] * 4, rtol=1e-10)

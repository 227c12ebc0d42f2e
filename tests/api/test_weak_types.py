"""Calls that differ in which types are weak: one program where that changes nothing.

A Python number and an array made of one have a weak type: it takes the dtype of what it meets. The
number is always that of `jax.jit` of the run with the same arguments.
"""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import metagrad
from metagrad.api import driver


@pytest.fixture
def lowerings(monkeypatch):
    """How often something was lowered and compiled."""
    count = []
    lower = driver.lower
    monkeypatch.setattr(
        driver, "lower", lambda *args, **options: count.append(1) or lower(*args, **options)
    )
    return count


def by_jax(step, outer, state, meta, batches, *outer_args):
    """Value and gradient of the run, as JAX gives them for these very arguments."""

    def value(meta):
        final, _ = jax.lax.scan(lambda s, b: (step(s, meta, b), None), state, batches)
        return outer(final, *outer_args)

    return jax.value_and_grad(value)(meta)


def assert_as_jax(mg, step, outer, *arguments):
    value, grad = jax.jit(lambda *a: by_jax(step, outer, *a))(*arguments)
    result = mg(*arguments)
    for ours, jaxs in zip(
        jax.tree.leaves((result.value, result.grad)), jax.tree.leaves((value, grad))
    ):
        assert ours.dtype == jaxs.dtype
        np.testing.assert_allclose(
            np.asarray(ours, np.float64), np.asarray(jaxs, np.float64), rtol=1e-6
        )
    return sum(float(leaf.sum()) for leaf in jax.tree.leaves(grad))


RATES = {
    "a float": 0.05,
    "a weak array": jnp.asarray(0.05),
    "an array": jnp.float32(0.05),
    "a NumPy scalar": np.float32(0.05),
    "a NumPy array": np.asarray(0.05, np.float32),
    "a double": np.float64(0.05),
}


def descend(w, meta, x):
    """With helpers that are jitted apart for a weak and a strong operand."""
    helper = jax.jit(lambda a, w: jnp.where(w > 0, a * w, a))
    loss = lambda w: jnp.sum((w - x) ** 2 * meta["weight"]) + jnp.clip(meta["rate"], 0, 1)
    return w - helper(meta["rate"], metagrad.grad(loss)(w)) + helper(meta["weight"][0], w)


@pytest.mark.parametrize("first", ["a float", "an array"])
def test_one_program_serves_a_leaf_of_any_kind(first, lowerings):
    step = metagrad.compile(descend)
    mg = step.metagradient(lambda w: jnp.sum(w**2))
    xs = jnp.arange(4.0).reshape(2, 2)
    for rate in (RATES[first], *RATES.values()):
        meta = {"weight": jnp.ones(2), "rate": rate}
        assert_as_jax(mg, step, lambda w: jnp.sum(w**2), jnp.ones(2), meta, xs)
    assert len(lowerings) == 1


def test_descent_from_a_python_rate_compiles_once(lowerings):
    """The README's: the rate is a Python float at first, and what descent makes of it after."""

    def step(w, meta, batch):
        x, y, i = batch
        loss = lambda w: jnp.mean(meta["weight"][i] * (x @ w - y) ** 2)
        return w - meta["rate"] * metagrad.grad(loss)(w)

    outer = lambda w: jnp.mean((w - 1.0) ** 2)
    mg = metagrad.compile(step).metagradient(outer)
    x = jax.random.normal(jax.random.key(0), (4, 3))
    order = jnp.asarray([[0, 1], [2, 3], [1, 2]])
    batches = x[order], jnp.sum(x, 1)[order], order
    meta = {"weight": jnp.ones(4), "rate": 0.05}
    for _ in range(3):
        assert_as_jax(mg, step, outer, jnp.zeros(3), meta, batches)
        gradient = mg(jnp.zeros(3), meta, batches).grad
        meta = jax.tree.map(lambda leaf, slope: leaf - 0.01 * slope, meta, gradient)
    assert len(lowerings) == 1


def test_it_is_traced_again_once_for_each_kind():
    """Not in each call that differs from the one before."""
    traces = []

    def step(w, z, x):
        traces.append(z)
        return w * z

    mg = metagrad.compile(step).metagradient(jnp.sum)
    mg(jnp.ones(2), 0.5, jnp.arange(2))
    once = len(traces)
    for _ in range(3):
        for rate in (jnp.float32(0.5), np.float32(0.4), 0.3, jnp.asarray(0.2)):
            mg(jnp.ones(2), rate, jnp.arange(2))
    assert len(traces) == 2 * once


def test_every_argument_may_be_weak(lowerings):
    """State, meta, batches and outer arguments, weak and not, in all combinations."""
    step = lambda s, z, x: {"w": s["w"] * z + x, "n": s["n"] + 1}
    outer = lambda s, target: (s["w"] * s["n"] - target) ** 2
    mg = metagrad.compile(step).metagradient(outer)
    kinds = (lambda value: value, jnp.float32)
    for of_state, of_meta, of_outer in itertools.product(kinds, kinds, kinds):
        for xs in (jnp.full(2, 0.5), jnp.full(2, 0.5, jnp.float32)):
            state = {"w": of_state(1.5), "n": of_state(1) if of_state is kinds[0] else jnp.int32(1)}
            assert_as_jax(mg, step, outer, state, of_meta(0.7), xs, of_outer(2.0))
    assert len(lowerings) == 1


def test_a_state_that_settles_on_another_dtype(lowerings):
    """An integer that becomes a float in the first step, and the float itself."""
    step = lambda s, z, x: s * z + x
    mg = metagrad.compile(step).metagradient(lambda s: s**2)
    for state in (1, jnp.float32(1), 1.0):
        assert_as_jax(mg, step, lambda s: s**2, state, 0.5, jnp.ones(2))
    assert len(lowerings) == 1


def test_the_gradient_in_an_integer_that_became_a_float():
    """It is no integer: 0.6 is not 0."""
    step = lambda s, z, x: s * z + x
    mg = metagrad.compile(step).metagradient(lambda s: s**2, wrt=("state", "meta"))
    xs = jnp.full(2, 0.1)
    expected = mg(jnp.float32(1), jnp.float32(0.5), xs).grad
    of_state, of_meta = mg(1, jnp.float32(0.5), xs).grad
    assert of_state.dtype == of_meta.dtype == jnp.float32
    np.testing.assert_array_equal(of_state, expected[0])

    compiled = mg.lower(jnp.float32(1), jnp.float32(0.5), xs).compile()
    gradients = [compiled(jnp.float32(1), rate, xs).grad[1] for rate in (1.0, 1)]
    np.testing.assert_array_equal(*gradients)
    assert all(g.dtype == jnp.float32 and abs(g) > 0.1 for g in gradients)


def weigh(x):
    """Makes a great difference of a small one."""
    return x * (2.0 if x.dtype == jnp.float32 else 3.0)


@jax.custom_vjp
def ruled(z, w):
    return (z * w).astype(w.dtype)


def ruled_bwd(residuals, cotangent):
    z, w = residuals
    slope = weigh(z * jnp.float32(1))  # depends on whether z is weak
    return jnp.sum(w * cotangent * slope.astype(w.dtype)).astype(z.dtype), cotangent * 0.3


ruled.defvjp(lambda z, w: (ruled(z, w), (z, w)), ruled_bwd)

WHERE_IT_MATTERS = {
    "the update": lambda w, z, x: w - (weigh(z * w) + x).astype(w.dtype),
    "the loss": lambda w, z, x: (
        w - metagrad.grad(lambda w: jnp.sum(w**2 * weigh(z * w).astype(w.dtype) * x))(w)
    ),
    "a captured NumPy number": lambda w, z, x: w - (z * np.float16(1.1)).astype(w.dtype) * w * x,
    "a backward rule": lambda w, z, x: w - ruled(z, w) * x,
}


@pytest.mark.parametrize("name", WHERE_IT_MATTERS)
@pytest.mark.parametrize("first", ["weak", "strong"])
def test_another_program_where_a_weak_type_matters(name, first, lowerings):
    """In double precision `0.3 * w` of a single-precision w is single, and double if 0.3 is an
    array.
    """
    step, outer = WHERE_IT_MATTERS[name], lambda w: jnp.sum(w**2)
    mg = metagrad.compile(step).metagradient(outer)
    with jax.enable_x64(True):
        state, xs = jnp.asarray([1.1, -0.7], jnp.float32), jnp.full((2, 2), 0.5, jnp.float32)
        weak, strong = 0.3, jnp.float64(0.3)
        gradients = [
            assert_as_jax(mg, step, outer, state, rate, xs)
            for rate in ((weak, strong) if first == "weak" else (strong, weak)) * 2
        ]
    assert len(lowerings) == 2
    assert gradients[:2] == gradients[2:] and gradients[0] != pytest.approx(gradients[1], rel=1e-4)


def test_a_step_that_asks_whether_a_type_is_weak(lowerings):
    step = lambda w, z, x: w * z * (2.0 if z.weak_type else 3.0)
    mg = metagrad.compile(step).metagradient(lambda w: w)
    values = [float(mg(1.0, z, jnp.ones(1)).value) for z in (1.0, jnp.float32(1), 1.0)]
    assert values == [2, 3, 2] and len(lowerings) == 2


def test_weak_batches_are_weak_in_the_step():
    """As in `lax.scan`."""
    xs = jnp.full(3, 1.3)
    assert xs.weak_type
    step, outer = lambda s, z, x: s * z * x, lambda s: s.astype(jnp.float32)
    mg = metagrad.compile(step).metagradient(outer)
    assert_as_jax(mg, step, outer, jnp.bfloat16(1.0), jnp.bfloat16(0.9), xs)


def test_a_state_that_stays_weak_is_weak_in_the_outer_function():
    """As in `lax.scan`."""
    step, outer = lambda s, z, x: {"w": s["w"] * 0.5, "v": s["v"] * z}, lambda s: s["w"] * s["v"]
    mg = metagrad.compile(step).metagradient(outer)
    assert_as_jax(
        mg, step, outer, {"w": 1.1, "v": jnp.bfloat16(3)}, jnp.bfloat16(0.7), jnp.arange(2)
    )


def test_what_strict_promotion_refuses_is_refused_in_a_later_call_too():
    mg = metagrad.compile(lambda w, z, x: (w * z).astype(w.dtype)).metagradient(
        lambda w: w.astype(jnp.float32)
    )
    with jax.numpy_dtype_promotion("strict"):
        mg(jnp.bfloat16(1), 0.5, jnp.arange(1))
        with pytest.raises(
            ValueError,
            match="no available implicit dtype promotion",
        ):
            mg(jnp.bfloat16(1), jnp.float32(0.5), jnp.arange(1))


def test_in_double_precision(lowerings):
    """There a Python float is double, and a strong one makes a single-precision state double."""
    step, outer = lambda w, z, x: (w * z).astype(w.dtype), lambda w: w**2
    mg = metagrad.compile(step).metagradient(outer)
    with jax.enable_x64(True):
        for rate in (0.3, jnp.float64(0.3), jnp.float32(0.3), 0.3):
            assert_as_jax(mg, step, outer, jnp.float32(1.1), rate, jnp.arange(2))
    assert len(lowerings) == 3


def test_a_program_with_prints_serves_both(lowerings, capfd):
    def step(w, z, x):
        jax.debug.print("z = {z}", z=z)
        return w * z

    mg = metagrad.compile(step).metagradient(lambda w: w, schedule=metagrad.StoreAll())
    for z in (0.5, jnp.float32(0.5)):
        mg(1.0, z, jnp.arange(2))
    jax.effects_barrier()
    assert capfd.readouterr().out.count("z = 0.5") == 4 and len(lowerings) == 1


@pytest.mark.parametrize("double", [False, True])
@pytest.mark.parametrize(
    "first, dtype",
    [
        (0.0, jnp.float32),
        (0.0, jnp.bfloat16),
        (0, jnp.float32),
        (0, jnp.bfloat16),
        (jnp.float32(0), jnp.float32),  # a strong type, which stays
    ],
)
def test_a_weak_state_takes_the_dtype_that_the_step_gives_it(first, dtype, double):
    """As in `lax.scan`. A weak float64 beside a float32 is a float32, in double precision too."""

    def step(s, z, x):
        w = s["w"] - z * metagrad.grad(lambda w: jnp.sum(w**2 * x))(s["w"])
        return {
            "w": w.astype(dtype),
            "largest": jnp.maximum(s["largest"], jnp.sum(w).astype(dtype)),
        }

    outer = lambda s: (jnp.sum(s["w"]) * s["largest"]).astype(jnp.float32)
    with jax.enable_x64(double):
        state = {"w": jnp.ones(3, dtype), "largest": jnp.asarray(first) if double else first}
        batches = jnp.ones((2, 3), dtype)
        result = metagrad.compile(step).metagradient(outer)(state, jnp.asarray(0.1, dtype), batches)
        plain = jax.lax.scan(
            lambda s, x: (step(s, jnp.asarray(0.1, dtype), x), None), state, batches
        )
        assert jax.typeof(result.state["largest"]) == jax.typeof(plain[0]["largest"])
        np.testing.assert_array_equal(result.state["largest"], plain[0]["largest"])


def settling(state, z, x):
    """A step in which a leaf of a weak float64 becomes a float32."""
    w = state["w"] * (1 - z * x / (1 + jnp.square(state["largest"]))).astype(jnp.float32)
    return {"w": w, "largest": jnp.maximum(state["largest"], w)}


def of_all(step, outer, state, z, xs):
    """The gradient in state, meta and batches, as JAX gives it."""

    def value(state, z, xs):
        return outer(jax.lax.scan(lambda s, x: (step(s, z, x), None), state, xs)[0])

    return jax.grad(value, argnums=(0, 1, 2))(state, z, xs)


@pytest.mark.parametrize("way", ["fused", "jit", "streamed", "exported", "exported stream"])
@pytest.mark.parametrize("largest", ["a float", "a weak array", "a double", "an array"])
def test_the_gradient_in_a_leaf_has_the_dtype_that_the_leaf_has(way, largest, tmp_path):
    """The program settles on a float32, JAX's derivative goes back to the float64."""
    outer = lambda s: s["w"] * s["largest"]
    mg = metagrad.compile(settling).metagradient(outer, ("state", "meta", "batches"))
    with jax.enable_x64(True):
        weak = jnp.asarray(0.05)
        of_state = weak if largest == "a weak array" else RATES[largest]
        state = {"w": jnp.float32(0.5), "largest": of_state}
        arguments = state, weak, jnp.ones(2, jnp.float32)
        stacked = jax.tree.map(jnp.asarray, arguments)
        expected = of_all(settling, outer, *stacked)
        if "stream" in way:
            arguments = *arguments[:2], metagrad.Stream(arguments[2])
        call = mg
        if way == "jit":
            call = jax.jit(mg)
        elif "exported" in way:
            mg.lower(*arguments).compile().export(tmp_path / "run.mg", platforms=("cpu",))
            call = metagrad.load(tmp_path / "run.mg")
        grad = call(*arguments).grad
        for ours, jaxs in zip(jax.tree.leaves(grad), jax.tree.leaves(expected)):
            assert ours.dtype == jaxs.dtype
            np.testing.assert_allclose(ours, jaxs, rtol=1e-6)

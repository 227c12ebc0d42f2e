"""`jax.grad` of a function around a metagradient: its value alone has a derivative."""

import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import metagrad

W = {"w": np.array([0.3, -0.7]), "n": np.int32(0)}
META = {"rate": np.float64(0.1), "scale": np.array([1.2, 0.8]), "power": np.int32(2)}
XS = np.array([[0.5, 1.0], [-0.3, 0.2], [0.9, -0.4]])
V = np.float64(1.3)


def step(state, meta, x):
    loss = lambda w: jnp.sum(jnp.tanh(w * x * meta["scale"]) ** 2)
    gradient = metagrad.grad(loss)(state["w"])
    return {"w": state["w"] - meta["rate"] * gradient ** meta["power"], "n": state["n"] + 1}


def outer(state, v):
    return jnp.sum(jnp.sin(state["w"] * v)), state["w"] * 2


def by_hand(state, meta, xs, v):
    final, _ = jax.lax.scan(lambda s, x: (step(s, meta, x), None), state, xs)
    return outer(final, v)[0]


mg = metagrad.compile(step).metagradient(outer, ("meta", "state", "batches"), has_aux=True)


def value(state, meta, xs, v):
    return mg(state, meta, xs, v).value[0]


def around(run):
    """A function of floats around a run: into each argument, and out of the value."""

    def function(rate, scale, w, xs):
        meta = META | {"rate": jnp.exp(rate), "scale": scale * 2}
        return jnp.log(run({"w": w, "n": W["n"]}, meta, jnp.sin(xs), V) ** 2 + 1)

    return function


ARGUMENTS = (np.float64(-2.0), META["scale"], W["w"], XS)


def assert_equal(actual, expected):
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-11, atol=1e-13), actual, expected
    )


@pytest.mark.parametrize("wrap", [lambda f: f, jax.jit, lambda f: jax.checkpoint(jax.jit(f))])
def test_gradient(wrap):
    argnums = (0, 1, 2, 3)
    expected = jax.value_and_grad(around(by_hand), argnums)(*ARGUMENTS)
    assert_equal(jax.value_and_grad(wrap(around(value)), argnums)(*ARGUMENTS), expected)
    assert_equal(jax.jit(jax.value_and_grad(wrap(around(value)), argnums))(*ARGUMENTS), expected)


def test_vjp_and_linearize():
    expected = jax.jvp(around(by_hand), ARGUMENTS, ARGUMENTS)
    primal, linear = jax.linearize(around(value), *ARGUMENTS)
    assert_equal((primal, linear(*ARGUMENTS)), expected)
    primal, back = jax.vjp(around(value), *ARGUMENTS)
    assert_equal(back(2.0), jax.vjp(around(by_hand), *ARGUMENTS)[1](2.0))


def test_in_a_loop():
    def descend(run):
        def total(rate):
            one = lambda c, s: (c + run(W, META | {"rate": rate * s}, XS, V), None)
            return jax.lax.scan(one, 0.0, jnp.array([0.5, 1.0]))[0]

        return jax.grad(total)(0.3)

    assert_equal(descend(value), descend(by_hand))


def test_lower_precision_of_a_leaf():
    """The cotangent takes the dtype of its leaf, the value keeps its own."""
    run = metagrad.compile(lambda w, z, x: w - z.astype(w.dtype) * x).metagradient(
        lambda w: jnp.sum(w**2)
    )
    w, z = jnp.ones(2), jnp.array([0.5, 0.25], jnp.bfloat16)
    gradient = jax.grad(lambda z: run(w, z, XS).value)(z)
    assert gradient.dtype == jnp.bfloat16
    np.testing.assert_array_equal(gradient, run(w, z, XS).grad)


COTANGENTS = [
    (jnp.float32, jnp.float64, 1e5),
    (jnp.float64, jnp.float32, 1e5),
    (jnp.float16, jnp.float64, 1e5),
    (jnp.float16, jnp.bfloat16, 1e5),
    (jnp.float8_e4m3fn, jnp.float32, 1e4),
]
"""Dtypes of a leaf and of the value, and a cotangent of the value. The last three leaves have no
number that large.
"""


def scaled_value(dtype):
    """A run whose value has a dtype: the metagradient and the same run by JAX."""
    step = metagrad.compile(lambda w, z, x: w + z.astype(w.dtype) * x.astype(w.dtype))
    outer = lambda w: jnp.mean(w) / 64
    run = step.metagradient(outer)
    w, xs = jnp.ones(2, dtype), jnp.ones(2)
    return lambda z: run(w, z, xs).value, lambda z: outer(step(step(w, z, xs[0]), z, xs[1]))


@pytest.mark.parametrize("promotion", ["standard", "strict"])
@pytest.mark.parametrize("leaf, value, cotangent", COTANGENTS)
def test_dtypes_of_leaf_and_value(leaf, value, cotangent, promotion):
    z = jnp.array([0.5, 0.25], leaf)
    with jax.numpy_dtype_promotion(promotion):
        ours, by_jax = (
            jax.grad(lambda z, run=run: jnp.asarray(cotangent, value) * run(z))(z)
            for run in scaled_value(value)
        )
    assert ours.dtype == by_jax.dtype == leaf
    tolerance = max(jnp.finfo(leaf).eps, jnp.finfo(value).eps)
    actual, expected = np.float64(ours), np.float64(by_jax)
    np.testing.assert_allclose(actual, expected, rtol=4 * float(tolerance))


def test_a_python_number():
    """As `jax.grad` has it: the dtype of the number, though the value is f32."""
    ours, by_jax = scaled_value(jnp.float32)
    number = lambda run: jax.grad(lambda z: jnp.sin(run(z)))(0.5)
    assert number(ours).dtype == number(by_jax).dtype == jnp.float64
    np.testing.assert_allclose(number(ours), number(by_jax), rtol=1e-6)


@pytest.mark.parametrize(
    "result, name",
    [
        (lambda r: r.grad[0]["rate"], r"gradient in meta\['rate'\]"),
        (lambda r: r.grad[2].sum(), "gradient in batches"),
        (lambda r: r.state["w"].sum(), r"final state\['w'\]"),
        (lambda r: r.value[1].sum(), r"aux \(aux\)"),
    ],
    ids=["gradient", "gradient in batches", "state", "aux"],
)
@pytest.mark.parametrize("wrap", [lambda f: f, jax.jit])
def test_other_results_have_none_in_reverse_mode(result, name, wrap):
    function = wrap(lambda scale: result(mg(W, META | {"scale": scale}, XS, V)))
    with pytest.raises(NotImplementedError, match=f"the derivative of a metagradient's {name}"):
        jax.grad(function)(META["scale"])


def test_second_derivative_in_reverse_mode():
    with pytest.raises(NotImplementedError, match="A second derivative of a run"):
        jax.grad(jax.grad(lambda rate: value(W, META | {"rate": rate}, XS, V)))(0.1)


def test_forward_mode():
    move = lambda run: jax.jvp(lambda rate: run(W, META | {"rate": rate}, XS, V), (0.1,), (1.0,))
    assert_equal(move(value), move(by_hand))


def test_what_wrt_does_not_name():
    only_meta = metagrad.compile(step).metagradient(lambda s, v: outer(s, v)[0])
    with pytest.raises(NotImplementedError, match=r"value in state\['w'\] .* in meta\['rate'\]"):
        jax.grad(lambda w: only_meta({"w": w, "n": W["n"]}, META, XS, V).value)(W["w"])
    with pytest.raises(NotImplementedError, match=r"value in outer_args\[0\]"):
        jax.grad(lambda v: only_meta(W, META, XS, v).value)(V)


def test_exported():
    function = jax.jit(lambda scale: mg(W, META | {"scale": scale}, XS, V))
    exported = jax.export.deserialize(jax.export.export(function)(META["scale"]).serialize())
    result = exported.call(META["scale"])
    assert type(result) is metagrad.Result
    expected = mg(W, META, XS, V)
    assert_equal(result.value, expected.value)
    assert_equal(result.grad[2], expected.grad[2])


def test_a_program_is_exported_and_not_pickled():
    lowered = mg.lower(W, META, XS, V)
    for program in (lowered, lowered.compile()):
        with pytest.raises(TypeError, match=r"cannot be pickled.*compiled\.export"):
            pickle.dumps(program)


def test_a_metagradient_that_has_been_called_is_pickled_without_its_programs():
    expected = mg(W, META, XS, V)
    again = pickle.loads(pickle.dumps(mg))
    assert not again._programs
    np.testing.assert_array_equal(again(W, META, XS, V).grad[2], expected.grad[2])

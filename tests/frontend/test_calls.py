"""Calling a metagradient.

It is compiled once for each shape, also inside `jax.jit`, and a compiled program checks its
arguments.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import metagrad
from metagrad.api import metagradient


@pytest.fixture
def lowerings(monkeypatch):
    """How often something was lowered."""
    count = []
    lower = metagradient.driver.lower
    monkeypatch.setattr(
        metagradient.driver,
        "lower",
        lambda *args, **options: count.append(1) or lower(*args, **options),
    )
    return count


def test_second_call_does_not_compile_again(step, outer, arguments, lowerings):
    mg = step.metagradient(outer)
    w, decay, xs = arguments
    first = mg(w, decay, xs)
    again = mg(2 * w, decay, xs)
    assert len(lowerings) == 1 and not np.allclose(first.grad, again.grad)
    mg(np.asarray(w), decay, np.asarray(xs))
    assert len(lowerings) == 1, "a NumPy array is as good as a JAX array"
    mg(w, decay, xs[:2])
    assert len(lowerings) == 2, "another number of steps is another program"


def test_python_scalars_do_not_compile_again(step, outer, arguments, lowerings):
    mg = step.metagradient(outer)
    w, _, xs = arguments
    assert not np.allclose(mg(w, 0.5, xs).grad, mg(w, 0.1, xs).grad)
    assert len(lowerings) == 1


def test_another_constant_is_another_program(arguments, lowerings):
    """A leaf that is not an array belongs to the program."""
    mg = metagrad.compile(lambda s, z, x: {"w": s["f"](s["w"]) * z, "f": s["f"]}).metagradient(
        lambda s: jnp.sum(s["w"])
    )
    w, z, xs = arguments
    sine, cosine = mg({"w": w, "f": jnp.sin}, z, xs), mg({"w": w, "f": jnp.cos}, z, xs)
    assert len(lowerings) == 2 and not np.allclose(sine.grad, cosine.grad)
    assert sine.state["f"] is jnp.sin


def test_inside_jit(step, outer, arguments):
    mg = step.metagradient(outer, ("meta", "state"))
    expected = mg(*arguments)

    @jax.jit
    def descend(w, decay, xs):
        result = mg(w, decay, xs)
        return result.value, decay - 0.1 * result.grad[0], result.state

    value, decay, state = descend(*arguments)
    np.testing.assert_allclose(value, expected.value, rtol=1e-6)
    np.testing.assert_allclose(decay, arguments[1] - 0.1 * expected.grad[0], rtol=1e-6)
    np.testing.assert_allclose(state, expected.state, rtol=1e-6)


def test_inside_jit_with_keys_and_integers():
    step = metagrad.compile(
        lambda s, z, b: (s[0] + z * jax.random.normal(jax.random.fold_in(s[1], b)), s[1])
    )
    mg = step.metagradient(lambda s: s[0], ("meta", "state"))
    arguments = (jnp.asarray(0.0), jax.random.key(1)), jnp.asarray(2.0), jnp.arange(3)
    expected = mg(*arguments)
    value, grad, state = jax.jit(
        lambda *args: (mg(*args).value, mg(*args).grad[0], mg(*args).state)
    )(*arguments)
    np.testing.assert_allclose([value, grad], [expected.value, expected.grad[0]], rtol=1e-6)
    assert (jax.random.key_data(state[1]) == jax.random.key_data(expected.state[1])).all()


def test_descent_in_a_loop_on_the_device(step, outer, arguments):
    mg = step.metagradient(outer)
    w, decay, xs = arguments

    def round(decay, _):
        value, grad, _ = mg(w, decay, xs)
        return decay - 0.05 * grad, value

    _, values = jax.jit(lambda decay: jax.lax.scan(round, decay, length=4))(decay)
    assert (jnp.diff(values) < 0).all()


# --- A compiled program checks what it is given ---------------------------------------------------


@pytest.fixture(scope="module")
def compiled():
    step = metagrad.compile(
        lambda s, z, x: {"w": s["w"] - z["rate"] * (s["w"] - x), "n": s["n"] + 1, "f": s["f"]}
    )
    arguments = (
        {"w": jnp.ones(2), "n": jnp.asarray(0), "f": jnp.sin},
        {"rate": jnp.asarray(0.1)},
        jnp.ones((3, 2)),
    )
    return step.metagradient(lambda s, target: jnp.sum((s["w"] - target) ** 2)).lower(
        *arguments, jnp.ones(2)
    ).compile(), (*arguments, jnp.ones(2))


WRONG = {
    "shape": (
        lambda s, z, b, t: ({**s, "w": jnp.ones(3)}, z, b, t),
        r"state\['w'\] has shape \(3,\), and this program was compiled for \(2,\)",
    ),
    "steps": (
        lambda s, z, b, t: (s, z, jnp.ones((4, 2)), t),
        r"batches has shape \(4, 2\), and this program was compiled for \(3, 2\)",
    ),
    "dtype": (
        lambda s, z, b, t: ({**s, "n": jnp.asarray(0.5)}, z, b, t),
        r"state\['n'\] is float32, and this program was compiled for int32",
    ),
    "outer argument": (
        lambda s, z, b, t: (s, z, b, jnp.ones(5)),
        r"outer_args\[0\] has shape \(5,\)",
    ),
    "outer argument missing": (
        lambda s, z, b, t: (s, z, b),
        "outer_args has the structure .*, and this program was compiled for",
    ),
    "structure": (
        lambda s, z, b, t: (s, {"speed": z["rate"]}, b, t),
        r"meta has the structure .*speed.*, and this program was compiled for .*rate",
    ),
    "constant": (
        lambda s, z, b, t: ({**s, "f": jnp.cos}, z, b, t),
        r"state\['f'\] is .*cos.*, and this program was compiled for .*sin",
    ),
    "no array": (
        lambda s, z, b, t: ({**s, "w": "ones"}, z, b, t),
        r"state\['w'\] is 'ones', and this program was compiled for float32\[2\]",
    ),
    "an array": (
        lambda s, z, b, t: ({**s, "f": jnp.ones(2)}, z, b, t),
        r"state\['f'\] is .*, and this program was compiled for .*sin",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_arguments(compiled, name):
    program, arguments = compiled
    change, message = WRONG[name]
    with pytest.raises(TypeError, match=message):
        program(*change(*arguments))


def test_right_arguments(compiled):
    program, arguments = compiled
    state, _, _, target = arguments
    python_scalars = program({**state, "n": 0}, {"rate": 0.1}, np.ones((3, 2), np.float32), target)
    np.testing.assert_allclose(program(*arguments).grad["rate"], python_scalars.grad["rate"])

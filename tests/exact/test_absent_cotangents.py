"""Where JAX has no cotangent at all, no zero may stand in for it.

Times an infinite derivative, here that of a norm at zero, such a zero would be NaN.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from unrolled import assert_exact, unrolled

import metagrad
from metagrad.frontend.jaxprs.cotangent_flow import reaching_inputs

BATCHES = np.arange(3.0)


def stopped_in_the_loss(s, z, b):
    distance = jnp.linalg.norm(s["w"] * z)
    g = metagrad.grad(lambda w: jnp.sum((w * z - 1 - b) ** 2) / lax.stop_gradient(1 + distance))(
        s["w"]
    )
    return {"w": s["w"] - 0.1 * g}


def compared_in_the_loss(s, z, b):
    distance = jnp.linalg.norm(s["w"] * z)
    g = metagrad.grad(lambda w: jnp.sum(jnp.where(distance > 0.5, w**2, (w * z - 1 - b) ** 2)))(
        s["w"]
    )
    return {"w": s["w"] - 0.1 * g}


def signs_of_the_gradient(s, z, b):
    """The auxiliary result of the loss has a cotangent, its gradient has none."""
    (_, aux), g = metagrad.value_and_grad(
        lambda w: (jnp.sum(w) * jnp.linalg.norm(s["w"] * z), z * b), has_aux=True
    )(s["w"])
    return {"w": s["w"] + 0.1 * jnp.sign(g) + aux}


def stopped_in_a_scan(s, z, b):
    distance = jnp.linalg.norm(s["w"] * z)
    return {
        "w": lax.scan(
            lambda c, x: (c * z + lax.stop_gradient(distance) * x, None),
            s["w"] + b,
            jnp.arange(2.0),
        )[0]
    }


def carried_and_stopped(s, z, b):
    """A leaf of the state that reaches the outer value through a stop alone."""
    w, _ = lax.scan(
        lambda c, x: (c * z + lax.stop_gradient(s["norm"]) * x, None), s["w"] + b, jnp.arange(2.0)
    )
    return {"w": w, "norm": jnp.linalg.norm(s["w"] * z)}


def signs_in_a_branch(s, z, b):
    w = lax.cond(b < 5, lambda w, d: w * z + jnp.sign(d) + b, lambda w, d: w + b, s["w"], s["norm"])
    return {"w": w, "norm": jnp.linalg.norm(s["w"] * z)}


def signs_under_checkpoint(s, z, b):
    w = s["w"] * z + b + jax.checkpoint(lambda d: jnp.sign(d) + z)(s["norm"])
    return {"w": w, "norm": jnp.linalg.norm(s["w"] * z)}


def not_read_by_a_second_gradient(s, z, b):
    g = metagrad.grad(lambda w: jnp.sum(w**2) * jnp.linalg.norm(s["w"] * z))(s["w"])
    h = metagrad.grad(lambda w: jnp.sum((w * z - b - 1 - jnp.sign(g)) ** 2))(s["w"])
    return {"w": s["w"] - 0.1 * h}


STEPS = [
    stopped_in_the_loss,
    compared_in_the_loss,
    signs_of_the_gradient,
    stopped_in_a_scan,
    carried_and_stopped,
    signs_in_a_branch,
    signs_under_checkpoint,
    not_read_by_a_second_gradient,
]
CARRYING = {carried_and_stopped, signs_in_a_branch, signs_under_checkpoint}


@pytest.mark.parametrize("ad", ["auto", "jax"])
@pytest.mark.parametrize("step", STEPS)
def test_no_zero_stands_in(step, ad):
    state = {"w": jnp.zeros(2)} | ({"norm": jnp.zeros(())} if step in CARRYING else {})
    # From zero on: the norm's derivative is infinite at the first step.
    result, _ = assert_exact(
        metagrad.compile(step, ad=ad),
        lambda s: jnp.sum((s["w"] - 2) ** 2),
        "meta",
        state,
        jnp.asarray(0.5),
        BATCHES,
    )
    assert jnp.isfinite(result.grad)


def scaled_by_a_root(s, z, b):
    """As in D-Adaptation: what is divided by the root of a second moment, which starts at zero."""
    g = metagrad.grad(lambda w: jnp.sum((w * z - b - 1) ** 2))(s["w"])
    return {
        "w": s["w"] - 0.1 * g / (s["second"] + 1) - s["scaled"],
        "second": 0.9 * s["second"] + 0.1 * g**2,
        "scaled": g * z / (jnp.sqrt(s["second"]) + 0.1),
    }


def scaled_by_nan(s, z, b):
    """As in Rprop if the gradient is NaN: its sign times a size."""
    return {"w": s["w"] + z * b * s["size"], "size": s["size"] * jnp.sign(jnp.log(b - 2))}


ONLY_STEPS = {
    scaled_by_a_root: {"w": np.ones(2), "second": np.zeros(2), "scaled": np.zeros(2)},
    scaled_by_nan: {"w": np.ones(2), "size": np.full(2, 0.1)},
}


@pytest.mark.filterwarnings("ignore:the metagradient has a NaN in the final state:RuntimeWarning")
@pytest.mark.parametrize("ad", ["auto", "jax"])
@pytest.mark.parametrize("step", ONLY_STEPS)
def test_what_the_outer_function_does_not_read_after_an_only_step(step, ad):
    """No step comes after the first, so nothing reads such a leaf of its state."""
    result, _ = assert_exact(
        metagrad.compile(step, ad=ad),
        lambda s: jnp.sum((s["w"] - 2) ** 2),
        ("meta", "state", "batches"),
        ONLY_STEPS[step],
        jnp.asarray(0.5),
        np.ones(1),
    )
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(result.grad))


def test_what_no_step_reads_after_the_last():
    """The one case that is left: after several steps such a leaf's cotangent is a zero.

    The unrolled run has none, a scan of it has the zero.
    """

    def step(s, z, b):
        return {
            "w": s["w"] * z + b + s["norm"],
            "norm": jnp.linalg.norm(s["v"] * z),
            "v": 0 * s["v"] + (b < 1),
        }

    outer = lambda s: jnp.sum(s["w"] ** 2)
    state, z = {"w": jnp.ones(2), "norm": jnp.zeros(()), "v": jnp.ones(2)}, jnp.asarray(0.5)
    assert jnp.isfinite(unrolled(step, outer, "meta", state, z, BATCHES)[1])
    assert jnp.isnan(
        jax.grad(lambda z: outer(lax.scan(lambda s, b: (step(s, z, b), None), state, BATCHES)[0]))(
            z
        )
    )
    assert jnp.isnan(
        metagrad.compile(step).metagradient(outer, check_nans=False)(state, z, BATCHES).grad
    )


# --- Gradients that lowering or a rule drops ------------------------------------------------------


@jax.custom_vjp
def the_first(x, g):
    return 2 * x


the_first.defvjp(lambda x, g: (2 * x, g), lambda g, bar: (2 * bar, jnp.zeros_like(g)))


def given_to_a_rule_that_ignores_it(s, z, b):
    return the_first(s * z + b, metagrad.grad(lambda w: jnp.sum(w**3 * z))(s))


def overwritten(s, z, b):
    g = metagrad.grad(lambda w: w**3 * z)(s[0])
    return s * z + lax.dynamic_update_slice(g, jnp.sum(s) * z * b, ())


def beside_an_unused_value(s, z, b):
    value, g = metagrad.value_and_grad(lambda w: jnp.sum(w**3 * z))(s)
    return s - 0.1 * lax.optimization_barrier((g, value))[0]


@pytest.mark.parametrize("ad", ["auto", "jax"])
@pytest.mark.parametrize(
    "step", [given_to_a_rule_that_ignores_it, overwritten, beside_an_unused_value]
)
def test_results_that_are_dropped_on_the_way(step, ad):
    assert_exact(
        metagrad.compile(step, ad=ad),
        jnp.sum,
        ("meta", "state"),
        jnp.asarray([1.0, 0.3]),
        jnp.asarray(0.5),
        BATCHES,
    )


# --- What reaches a result ------------------------------------------------------------------------


def turns(body, *carry):
    return lax.scan(lambda carry, _: (body(*carry), None), carry, None, length=3)[0]


REACHING = {
    "a product": (lambda a, b: a * b, [True, True]),
    "a stop": (lambda a, b: a * lax.stop_gradient(b), [True, False]),
    "a comparison": (lambda a, b: jnp.where(b > 0, a, 0.0), [True, False]),
    "a sign": (lambda a, b: a + jnp.sign(b), [True, False]),
    "a call": (lambda a, b: jax.jit(lambda x, y: (y, x))(a, b)[0], [False, True]),
    "a literal": (lambda a, b: jax.jit(lambda x, y: x * y)(a, 2.0), [True, False]),
    "a checkpoint": (
        lambda a, b: jax.checkpoint(lambda x, y: x * jnp.round(y))(a, b),
        [True, False],
    ),
    "an index": (lambda a, b: (a * jnp.ones(3))[b.astype(int)], [True, False]),
    "a branch": (
        lambda a, b: lax.cond(a > 0, lambda x, y: y, lambda x, y: 2 * y, a, b),
        [False, True],
    ),
    "either branch": (
        lambda a, b: lax.cond(a > 0, lambda x, y: x, lambda x, y: y, a, b),
        [True, True],
    ),
    "a carry that stays": (
        lambda a, b: turns(lambda x, y: (2 * x, jnp.sin(y)), a, b)[0],
        [True, False],
    ),
    "a carry that turns": (
        lambda a, b: turns(lambda x, y, z: (y, z, x), a, 1.0, b)[0],
        [True, True],
    ),
    "a stacked result": (
        lambda a, b: lax.scan(lambda c, x: (c * x, jnp.sign(c)), a, b * jnp.ones(3))[1].sum(),
        [False, False],
    ),
    "a Fourier transform": (lambda a, b: jnp.real(jnp.fft.fft(a * jnp.ones(3)))[0], [True, False]),
}


@pytest.mark.parametrize("name", REACHING)
def test_reaching_inputs(name):
    function, expected = REACHING[name]
    jaxpr = jax.make_jaxpr(function)(0.5, 0.7).jaxpr
    assert reaching_inputs(jaxpr, [True]) == expected
    assert reaching_inputs(jaxpr, [False]) == [False, False]

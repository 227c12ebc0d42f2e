"""Losses that hold inner gradients of their own, and losses called on the gradient of another."""

import jax
import jax.numpy as jnp
import pytest
from jax import lax

import metagrad
from metagrad import LazyKary

W, M, BATCHES = [0.3, -0.7], [1.1, 0.5], [0.0, 0.1]


@jax.custom_jvp
def mixing(x):
    return jnp.tanh(x)


@mixing.defjvp
def _not_the_derivative(primals, tangents):
    y = mixing(primals[0])
    return y, tangents[0] * (1 - y**2) + 0.3 * y * tangents[0][::-1]


@jax.custom_vjp
def halved(x):
    return jnp.sin(x)


halved.defvjp(
    lambda x: (halved(x), halved(x)), lambda residual, cotangent: (0.5 * cotangent * residual,)
)


def with_a_rule_inside(rule):
    """The custom rule is in the inner of two gradients: the loss's own equations do not show it."""

    def step(w, m, b):
        inner = lambda v: jnp.sum(rule(v * m) ** 2)
        return w - 0.1 * metagrad.grad(lambda w: jnp.sum(jnp.sin(metagrad.grad(inner)(w))))(w)

    return step


def with_a_rule_of_the_metaparameter(w, m, b):
    """The inner gradient does not go through the rule; only the metagradient does."""
    inner = lambda v: jnp.sum(v**3 * halved(m))
    penalised = lambda w: inner(w) + jnp.sum(metagrad.grad(inner)(w) ** 2)
    return w - 0.1 * metagrad.grad(penalised)(w)


def called_on_a_gradient(passed):
    def step(w, m, b):
        g = metagrad.grad(lambda w: jnp.sum(w**3))(w)
        return w - m * metagrad.grad(lambda u: jnp.sum(passed(g) * u**2))(w)

    return step


@pytest.mark.parametrize(
    ("step", "rule"),
    [
        (with_a_rule_inside(mixing), "jax"),
        (with_a_rule_inside(halved), "jax"),
        (with_a_rule_of_the_metaparameter, "jax"),
        (called_on_a_gradient(lambda g: g), "enzyme"),
        (called_on_a_gradient(lax.stop_gradient), "enzyme"),
    ],
    ids=[
        "custom_jvp inside",
        "custom_vjp inside",
        "custom_vjp outside",
        "gradient as operand",
        "stopped gradient as operand",
    ],
)
def test_equals_jax(step, rule):
    w, m, batches = map(jnp.asarray, (W, M, BATCHES))
    outer = lambda w: jnp.sum(w**3)
    lowered = metagrad.compile(step).metagradient(outer, schedule=LazyKary(2)).lower(w, m, batches)
    got = lowered.compile()(w, m, batches).grad
    want = jax.grad(lambda m: outer(lax.scan(lambda w, b: (step(w, m, b), None), w, batches)[0]))(m)
    assert jnp.linalg.norm(got - want) < 1e-11 * jnp.linalg.norm(want)
    assert lowered.decisions[0].rule == rule

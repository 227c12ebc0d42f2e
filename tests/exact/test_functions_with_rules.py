"""Functions of JAX's that bring their own derivative: from 0.12 on one equation each
(frontend/jaxprs/hi_primitives.py).
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import metagrad

W = jnp.asarray([0.3, -0.7, 1.2])
Z = jnp.asarray([0.5, 0.2, -1.0])
BATCHES = jnp.linspace(-1.0, 1.0, 9).reshape(3, 3)
EDGES = jnp.linspace(-1.0, 1.0, 5)


def root(v):
    """The cube root of each entry, by `lax.custom_root`: its derivative is a solve that JAX sets
    up.
    """
    solve = lambda f, start: lax.fori_loop(0, 30, lambda _, r: r - f(r) / (3 * r**2), start)
    tangent = lambda g, y: y / g(jnp.ones_like(y))
    return lax.custom_root(lambda r: r**3 - (v**2 + 1), jnp.ones_like(v) * 1.2, solve, tangent)


FUNCTIONS = {
    "searchsorted": lambda v: v * EDGES[jnp.searchsorted(EDGES, v)],
    "nonzero": lambda v: v[jnp.nonzero(v, size=2)[0]] ** 2,
    "frexp": lambda v: jnp.frexp(v)[0] * v,
    "ldexp": lambda v: jnp.ldexp(v, -1) * v,
    "custom_root": root,
}
BY_ENZYME = {"searchsorted", "nonzero", "frexp", "ldexp"}
AROUND = {
    "plain": lambda f: f,
    "jit": jax.jit,
    "scan": lambda f: (
        lambda v: lax.scan(lambda c, x: (c + f(x * v), None), f(v), jnp.ones(2, v.dtype))[0]
    ),
    "cond": lambda f: lambda v: lax.cond(v[0] > 9, lambda v: 0 * f(v), f, v),
}
# JAX 0.10.2's own second derivative of ldexp in a scan is not that of finite differences: the loop
# is written out.
WRITTEN_OUT = AROUND | {"scan": lambda f: lambda v: f(v) + f(v) + f(v)}


def step_of(gradient, f, where):
    inside = f if where == "loss" else lambda v: v

    def step(w, z, x):
        g = gradient(lambda w: jnp.sum(inside(w * z - x) ** 2))(w)
        return w - 0.02 * (g + jnp.sum(f(z * g)) if where == "step" else g)

    return step


def jax_own(f, where, outer):
    def run(z):
        w = W
        for x in BATCHES:
            w = step_of(jax.grad, f, where)(w, z, x)
        return outer(w)

    return jax.grad(run)(Z)


@pytest.mark.parametrize("around", AROUND)
@pytest.mark.parametrize("where", ["loss", "step", "outer"])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_metagradient_is_jaxs(name, where, around):
    f = AROUND[around](FUNCTIONS[name])
    outer = (lambda w: jnp.sum(f(w) ** 2)) if where == "outer" else (lambda w: jnp.sum(w**2))
    step = metagrad.compile(step_of(metagrad.grad, f, where))
    lowered = step.metagradient(outer).lower(W, Z, BATCHES)
    got = lowered.compile()(W, Z, BATCHES).grad
    f = WRITTEN_OUT[around](FUNCTIONS[name])
    np.testing.assert_allclose(got, jax_own(f, where, outer), rtol=2e-5, atol=1e-6)
    if name in BY_ENZYME and jax.__version_info__ >= (0, 12):
        assert {decision.rule for decision in lowered.decisions} == {"enzyme"}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_an_inner_gradient_in_a_loop(name):
    """JAX's rules for the gradient meet the function there."""
    f = FUNCTIONS[name]

    def step_with(gradient):
        def step(w, z, x):
            part = lambda c, s: (c + gradient(lambda w: jnp.sum(f(s * w * z - x) ** 2))(w), None)
            return w - 0.05 * lax.scan(part, jnp.zeros_like(w), jnp.asarray([1.0, 0.5], w.dtype))[0]

        return step

    def run(z):
        w = W
        for x in BATCHES:
            w = step_with(jax.grad)(w, z, x)
        return jnp.sum(w**2)

    mg = metagrad.compile(step_with(metagrad.grad)).metagradient(lambda w: jnp.sum(w**2))
    np.testing.assert_allclose(mg(W, Z, BATCHES).grad, jax.grad(run)(Z), rtol=2e-5, atol=1e-6)

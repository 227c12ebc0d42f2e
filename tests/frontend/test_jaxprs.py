"""The table of calls, the interpreter and the walk, on each kind of call."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from metagrad.frontend.jaxprs.calls import call, map_functions, plain
from metagrad.frontend.jaxprs.cotangent_flow import reaching_inputs
from metagrad.frontend.jaxprs.interpret import bind, equations, interpret

X, Y = jnp.asarray([0.3, -0.7]), jnp.asarray([1.5, 2.0])


@jax.custom_jvp
def by_jvp(x, y):
    return jnp.sin(x) * y


by_jvp.defjvps(lambda t, a, x, y: t, lambda t, a, x, y: t)


@jax.custom_vjp
def by_vjp(x, y):
    return jnp.sin(x) * y


by_vjp.defvjp(lambda x, y: (x * y, None), lambda _, g: (g, g))

FUNCTIONS = {
    "jit": jax.jit(lambda x, y: jnp.sin(x) * y),
    "remat": jax.checkpoint(lambda x, y: jnp.sin(x) * y),
    "custom_jvp": by_jvp,
    "custom_vjp": by_vjp,
    "cond": lambda x, y: lax.cond(x[0] > 0, lambda x, y: jnp.sin(x) * y, lambda x, y: y, x, y),
    "scan": lambda x, y: lax.scan(lambda c, v: (jnp.sin(c) * y + v, c), x, jnp.stack([y, x, y])),
    "while": lambda x, y: lax.while_loop(
        lambda c: c[0] < y[0], lambda c: (c[0] + 1, jnp.sin(c[1]) * y), (0.0, x)
    ),
}


def call_in(name):
    """The jaxpr of a function, and the equation in it that is the call."""
    closed = jax.make_jaxpr(FUNCTIONS[name])(X, Y)
    (eqn,) = (eqn for eqn in closed.jaxpr.eqns if call(eqn) is not None)
    return closed, eqn


@pytest.mark.parametrize("name", FUNCTIONS)
def test_operands_and_results_of_a_call_are_those_of_its_bodies(name):
    _, eqn = call_in(name)
    for body in call(eqn).bodies:
        inputs, outputs = body.jaxpr.in_avals, body.jaxpr.out_avals
        operands = [eqn.invars[i].aval for i in body.operands]
        assert len(operands) == len(inputs)
        # What a scan takes and gives one entry of in each turn.
        turned = [a.shape != b.shape for a, b in zip(operands, inputs)]
        assert name == "scan" or not any(turned)
        assert [a.dtype for a in operands] == [a.dtype for a in inputs]
        results = [eqn.outvars[i].aval.dtype for i in body.results]
        assert results == [a.dtype for a in outputs][: len(results)]
        for output, into in body.carry:
            assert outputs[output].shape == inputs[into].shape


@pytest.mark.parametrize("name", FUNCTIONS)
def test_what_kind_of_call_it_is(name):
    _, eqn = call_in(name)
    called = call(eqn)
    assert called.has_rule == name.startswith("custom")
    assert (called.straight is not None) == (name in ("jit", "remat"))
    assert (plain(eqn) is not None) == (name == "jit")
    assert len(called.bodies) == (2 if name in ("cond", "while") else 1)
    assert bool(called.bodies[-1].carry) == (name in ("scan", "while"))


@pytest.mark.parametrize("name", FUNCTIONS)
def test_interpreting_evaluates(name):
    closed, _ = call_in(name)
    want = jax.tree.leaves(FUNCTIONS[name](X, Y))
    for got, wanted in zip(
        interpret(closed, [X, Y], lambda eqn, operands: None), want, strict=True
    ):
        np.testing.assert_allclose(got, wanted, rtol=1e-6)


def test_a_rule_gives_the_results():
    closed = jax.make_jaxpr(lambda x, y: jnp.cos(jnp.sin(x)) + y)(X, Y)
    seen = []

    def rule(eqn, operands):
        seen.append(eqn.primitive.name)
        return [jnp.zeros_like(operands[0])] if eqn.primitive.name == "sin" else None

    (result,) = interpret(closed, [X, Y], rule)
    np.testing.assert_array_equal(result, 1.0 + Y)
    assert seen == ["sin", "cos", "add"]


def test_values_of_any_kind_are_interpreted():
    """Names of what a value is computed from, say; constants have none."""
    closed = jax.make_jaxpr(lambda x, y: jnp.sin(x) * 2.0 + y * np.asarray([1.0, 2.0]))(X, Y)

    def rule(eqn, operands):
        values, names = zip(*operands)
        return [(value, frozenset().union(*names)) for value in bind(eqn, values)]

    pairs = [(X, frozenset("x")), (Y, frozenset("y"))]
    ((value, names),) = interpret(closed, pairs, rule, lambda value: (value, frozenset()))
    np.testing.assert_allclose(value, jnp.sin(X) * 2.0 + Y * np.asarray([1.0, 2.0]), rtol=1e-6)
    assert names == {"x", "y"}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_equations_are_found_inside(name):
    closed, eqn = call_in(name)
    names = [e.primitive.name for e in equations(closed.jaxpr)]
    assert "sin" in names and names.index(eqn.primitive.name) < names.index("sin")
    outside = equations(closed.jaxpr, into=lambda eqn: False)
    assert list(outside) == list(closed.jaxpr.eqns)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions_in_parameters_are_rewritten(name):
    _, eqn = call_in(name)
    assert map_functions(eqn.params, lambda function: function) is eqn.params
    seen = []
    map_functions(eqn.params, lambda function: seen.append(function) or function)
    assert len(seen) == len(call(eqn).bodies)


def test_from_where_a_derivative_reaches_a_result():
    def of(function, wanted, *operands):
        return reaching_inputs(jax.make_jaxpr(function)(*operands).jaxpr, wanted)

    # A carry: y reaches the first result by way of the second.
    swapped = lambda x, y: lax.scan(lambda c, _: ((c[1], c[0]), None), (x, y), None, length=3)[0]
    assert of(swapped, [True, False], 1.0, 2.0) == [True, True]
    kept = lambda x, y: lax.scan(lambda c, _: (c, None), (x, y), None, length=3)[0]
    assert of(kept, [True, False], 1.0, 2.0) == [True, False]
    # A branch that drops what another reads; the choice itself carries none.
    chosen = lambda i, x, y: lax.cond(i > 0, lambda x, y: (x, 0.0), lambda x, y: (0.0, y), x, y)
    assert of(chosen, [True, False], 1.0, 2.0, 3.0) == [False, True, False]
    # Custom rules and while loops are taken whole.
    assert of(lambda x, y: by_vjp(x, y), [True], X, Y) == [True, True]

"""`metagrad.FirstOrder`: JAX's gradient of a run whose gradients' parameters are stopped."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from approximate_runs import arguments, oracle, step
from exact import runs
from exact.unrolled import DOUBLE, assert_close
from jax import lax

import metagrad
from metagrad import FirstOrder

EVERYTHING = ("meta", "state", "batches")


@pytest.mark.parametrize("mode", ["reverse", "forward"])
def test_is_the_gradient_with_stopped_parameters(mode):
    """Cross derivatives stay: those of the weights of examples, and of the data."""
    mg = step.metagradient(runs.outer, EVERYTHING, mode=mode, approximation=FirstOrder())
    result = mg(*arguments())
    assert_close(result.grad, oracle(EVERYTHING, first_order=True), DOUBLE)
    assert np.abs(result.grad[0]["weights"]).max() > 0
    exact = step.metagradient(runs.outer)(*arguments())
    assert_close((result.value, result.state), (exact.value, exact.state), DOUBLE)
    assert np.abs(result.grad[0]["rate"] - exact.grad["rate"]) > 1e-3 * np.abs(exact.grad["rate"])


def test_first_order_maml():
    """With gradient descent: the outer gradient at the adapted parameters."""
    mg = runs.sgd().metagradient(runs.outer, "state", approximation=FirstOrder())
    result = mg({"params": runs.params()}, runs.meta(), runs.data(3))
    assert_close(result.grad, jax.grad(runs.outer)(result.state), DOUBLE)


def products(lowered):
    """The products of matrices in the VJP of the step."""
    text = lowered.ir("pieces")
    (function,) = re.findall(r"func.func private @step_vjp\(.*?\n  }", text, re.DOTALL)
    return function.count("dot_general")


def test_no_product_with_a_hessian():
    """Of initial parameters the VJP has no product at all: the loss is not in it."""
    state, meta, batches = {"params": runs.params()}, runs.meta(), runs.data(3)
    count = {
        (wrt, approximation): products(
            runs.sgd()
            .metagradient(runs.outer, wrt, approximation=approximation)
            .lower(state, meta, batches)
        )
        for wrt in ("state", "meta")
        for approximation in (None, FirstOrder())
    }
    assert count["state", FirstOrder()] == 0 < count["state", None]
    # Weights of examples enter by a tangent of the loss, without its backward pass.
    assert 0 < count["meta", FirstOrder()] < count["meta", None]


def test_value_and_auxiliary_results_keep_their_derivative():
    """Polyak's step length: the loss over the squared norm of its gradient, which is stopped."""

    def with_gradient(gradient):
        def step(state, z, batch):
            (value, aux), g = gradient(state["p"], z, batch)
            length = value / sum(jnp.sum(g**2) for g in jax.tree.leaves(g))
            p = jax.tree.map(lambda p, g: p - length * g, state["p"], g)
            return {"p": p, "total": state["total"] + aux}

        return step

    def loss(p, z, batch):
        value = runs.loss(p, z, batch)
        return value, value**2

    def by_hand(p, z, batch):
        (value, aux) = loss(p, z, batch)
        return (value, aux), jax.grad(loss, has_aux=True)(lax.stop_gradient(p), z, batch)[0]

    state, outer = {"p": runs.params(), "total": 0.0}, lambda s: s["total"]
    mg = metagrad.compile(with_gradient(metagrad.value_and_grad(loss, has_aux=True))).metagradient(
        outer, ("state", "meta"), approximation=FirstOrder()
    )
    theirs = metagrad.compile(with_gradient(by_hand)).metagradient(outer, ("state", "meta"))
    rest = {"weights": runs.meta()["weights"]}, runs.data(3)
    assert_close(mg(state, *rest).grad, theirs(state, *rest).grad, DOUBLE)


def test_gradients_in_a_scan_but_not_in_a_loss():
    """Microbatches; and an inner step in the loss, which makes the training run what it is."""

    def adapted(p, z, batch):
        g = metagrad.grad(runs.loss)(p, z, batch)
        return runs.loss(jax.tree.map(lambda p, g: p - 0.1 * g, p, g), z, batch)

    def summed(gradient):
        def add(p, z, batch):
            def one(total, scale):
                g = gradient(p, z, {"x": batch["x"] * scale, "y": batch["y"]})
                return jax.tree.map(jnp.add, total, g), None

            zeros = jax.tree.map(jnp.zeros_like, p)
            return lax.scan(one, zeros, jnp.array([1.0, 0.5]))[0]

        return add

    by_hand = lambda p, z, batch: jax.grad(adapted)(lax.stop_gradient(p), z, batch)
    arguments = {"params": runs.params()}, runs.meta(), runs.data(2)
    approximate = runs.sgd(summed(metagrad.grad(adapted)))
    ours = approximate.metagradient(runs.outer, EVERYTHING, approximation=FirstOrder())
    theirs = runs.sgd(summed(by_hand)).metagradient(runs.outer, EVERYTHING)
    got, want = ours(*arguments), theirs(*arguments)
    assert_close((got.value, got.grad), (want.value, want.grad), DOUBLE)


def test_queries_and_a_stream():
    rows = np.linspace(-1.0, 1.0, 10).reshape(2, 5)
    outer = lambda s: rows @ s["params"]["w2"]
    mg = runs.sgd().metagradient(outer, approximation=FirstOrder())
    state, meta, batches = {"params": runs.params()}, runs.meta(), runs.data(3)
    result = mg(state, meta, batches)
    for query in range(2):
        one = runs.sgd().metagradient(lambda s, q=query: outer(s)[q], approximation=FirstOrder())
        assert_close(
            jax.tree.map(lambda g, q=query: g[q], result.grad),
            one(state, meta, batches).grad,
            DOUBLE,
        )
    stream = metagrad.Stream(jax.tree.map(np.asarray, batches))
    assert_close(mg(state, meta, stream).grad, result.grad, DOUBLE)
    assert "APPROXIMATE, FirstOrder()" in mg.lower(state, meta, stream).explain()


def test_under_vmap_and_without_second_derivatives():
    mg = runs.sgd().metagradient(runs.outer, approximation=FirstOrder())
    state, meta, batches = {"params": runs.params()}, runs.meta(), runs.data(2)
    of_rate = lambda rate: mg(state, meta | {"rate": rate}, batches).grad["rate"]
    rates = jnp.array([-1.5, -1.0])
    assert_close(jax.vmap(of_rate)(rates), jnp.stack([*map(of_rate, rates)]), DOUBLE)
    with pytest.raises(NotImplementedError, match="tangents of an approximate metagradient"):
        jax.jvp(of_rate, (-1.5,), (1.0,))


def test_refused():
    by_jax = runs.sgd(jax.grad(runs.loss)).metagradient(runs.outer, approximation=FirstOrder())
    with pytest.raises(ValueError, match=r"finds no metagrad\.grad in the step `step`"):
        by_jax({"params": runs.params()}, runs.meta(), runs.data(2))

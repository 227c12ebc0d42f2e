"""flax nnx stops the running statistics of its BatchNorm, and so the metagradient through them.

The derivative is JAX's, and not what finite differences show. `explain()` and `metagrad.check` say
why.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import metagrad

X = np.random.default_rng(0).normal(size=(4, 6, 3)).astype(np.float32) * 2 + 1
Y = np.sin(X.sum(-1, keepdims=True))


class Model(nnx.Module):
    def __init__(self, rngs):
        self.first = nnx.Linear(3, 4, rngs=rngs)
        self.norm = nnx.BatchNorm(4, momentum=0.9, rngs=rngs)
        self.last = nnx.Linear(4, 1, rngs=rngs)

    def __call__(self, x):
        return self.last(jnp.tanh(self.norm(self.first(x))))


def split(model):
    return nnx.split(model, nnx.Param, ...)


@pytest.fixture(scope="module")
def training():
    """A metagradient of an outer function that reads the running statistics, and its arguments."""
    model = Model(nnx.Rngs(0))
    model.eval()
    of_evaluation, *_ = split(model)
    model.train()
    of_training, params, statistics = split(model)

    @metagrad.compile
    def step(state, rate, batch):
        x, y = batch

        def loss(params):
            model = nnx.merge(of_training, params, state["statistics"], copy=True)
            return jnp.mean((model(x) - y) ** 2), split(model)[2]

        gradient, statistics = metagrad.grad(loss, has_aux=True)(state["params"])
        moved = jax.tree.map(lambda p, g: p - rate * g, state["params"], gradient)
        return {"params": moved, "statistics": statistics}

    def outer(state):
        model = nnx.merge(of_evaluation, state["params"], state["statistics"], copy=True)
        return jnp.mean((model(X[0]) - Y[0]) ** 2)

    state = {"params": params, "statistics": statistics}
    return step.metagradient(outer), (state, jnp.float32(0.3), (X, Y))


def test_explain_names_both_statistics(training):
    mg, arguments = training
    _, _, cut = mg.lower(*arguments).explain().partition("finite differences):\n")
    lines = [line for line in cut.splitlines() if line.startswith("    ")]
    assert len(lines) == 2
    for line in lines:
        assert line.startswith("    stop_gradient in BatchNorm.__call__ (nnx/nn/normalization.py:")
        assert "called at tests/models/test_stopped_statistics.py:" in line


@pytest.mark.parametrize("x64, rtol", [(None, 1e-6), (False, 1e-2)])
def test_check_says_that_they_are_the_difference(training, x64, rtol):
    mg, arguments = training
    report = metagrad.check(mg, *arguments, x64=x64)
    assert report.verdict == "disagrees" and len(report.cuts) == 2
    (direction,) = report.directions
    np.testing.assert_allclose(report.without_cuts[0], direction.estimate, rtol=rtol)
    assert "BatchNorm.__call__ (nnx/nn/normalization.py:" in str(report)

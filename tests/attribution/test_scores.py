"""Scores are the derivative of the unrolled run, whatever holds the weights."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from attribution_runs import losses, retrained_by_hand, small_run

import metagrad
from metagrad import attribution


@pytest.fixture(autouse=True)
def in_double():
    with jax.enable_x64(True):
        yield


def test_are_the_gradient_of_the_unrolled_run():
    run = small_run()
    scores = attribution.scores(run.training.metagradient(losses), *run.arguments, run.queries)
    want = jax.jit(jax.jacrev(lambda weight: retrained_by_hand(run, weight)))(jnp.ones(16))
    assert scores.values.dtype == np.float64
    assert scores.values.shape == (3, 16)
    np.testing.assert_allclose(scores.values, want, rtol=0, atol=1e-11 * np.abs(want).max())
    np.testing.assert_allclose(scores.outcomes, retrained_by_hand(run, jnp.ones(16)), rtol=1e-11)
    assert scores.metadata["weights"] == "meta['weight']"


def test_of_tokens_are_the_gradient_of_the_unrolled_run():
    """A loss for each token, and a scalar outcome."""
    random = np.random.default_rng(1)
    x, order = jnp.asarray(random.normal(size=(5, 3, 2))), random.integers(0, 5, (6, 2))
    of_tokens = lambda w, x: jnp.sin(x @ w) ** 2
    training = attribution.WeightedTraining(of_tokens, optax.sgd(0.5))
    outcome = lambda w: jnp.sum(w**3)
    w0 = jnp.array([0.3, -0.4])
    state, meta, batches = training.arguments(w0, x, order)
    assert meta["weight"].shape == (5, 3)
    scores = attribution.scores(training.metagradient(outcome), state, meta, batches)

    def unrolled(weight):
        w = w0
        for rows in order:
            w = w - 0.5 * jax.grad(lambda w: jnp.mean(weight[rows] * of_tokens(w, x[rows])))(w)  # noqa: B023
        return outcome(w)

    want = jax.grad(unrolled)(meta["weight"])
    np.testing.assert_allclose(scores.values[0], want, rtol=0, atol=1e-11 * np.abs(want).max())
    np.testing.assert_allclose(scores.of_examples()[0], want.sum(1), rtol=1e-10)


@metagrad.compile(has_aux=True)
def step_of_a_user(w, meta, batch):
    """Weights inside a tree, beside other metaparameters, and an auxiliary output."""
    x, i = batch
    gradient = metagrad.grad(lambda w: jnp.sum(meta["loss"]["weight"][i] * (w - x) ** 2))(w)
    return w - meta["rates"][0] * gradient, w


def users_run():
    i = jnp.arange(8).reshape(4, 2) % 5
    x = jnp.linspace(0.0, 1.0, 5)
    meta = {"loss": {"weight": jnp.full(5, 0.5)}, "rates": jnp.array([0.1])}
    return 0.2, meta, (x[i], i)


@pytest.mark.parametrize("weights", ["weight", "meta['loss']['weight']"])
def test_find_the_weights_in_a_users_meta(weights):
    mg = step_of_a_user.metagradient(lambda w: (w**2, "aux"), ("state", "meta"), has_aux=True)
    arguments = users_run()
    scores = attribution.scores(mg, *arguments, weights=weights)
    want = mg(*arguments).grad[1]["loss"]["weight"]
    np.testing.assert_array_equal(scores.values[0], want)
    assert scores.weights.tolist() == [0.5] * 5


def test_at_other_weights_than_one():
    """Leaving an example out takes its whole weight away."""
    mg = step_of_a_user.metagradient(lambda w: w)
    scores = attribution.scores(mg, *users_run(), weights="weight")
    change = scores.predict(np.arange(5)[None] != 3)[0] - scores.outcomes
    np.testing.assert_allclose(change, -0.5 * scores.values[:, 3])


def test_say_which_argument_is_wrong():
    state, meta, batches = users_run()
    mg = step_of_a_user.metagradient(lambda w: w)
    with pytest.raises(TypeError, match=r"scores takes a metagradient, .* and mg is TrainStep"):
        attribution.scores(step_of_a_user, state, meta, batches)
    with pytest.raises(ValueError, match=r"wrt=\('state',\)"):
        attribution.scores(step_of_a_user.metagradient(lambda w: w, "state"), *users_run())
    with pytest.raises(ValueError, match=r"several \(meta\['loss'\]\['weight'\], meta\['rates'\]"):
        attribution.scores(mg, state, meta, batches)
    with pytest.raises(ValueError, match=r"weights='wieght' names no leaf of meta, which has meta"):
        attribution.scores(mg, state, meta, batches, weights="wieght")
    with pytest.raises(TypeError, match="weights=3 is not the name"):
        attribution.scores(mg, state, meta, batches, weights=3)
    with pytest.raises(ValueError, match=r"meta\['rate'\] is float64\[\]. Weights are an array"):
        attribution.scores(mg, state, {"rate": jnp.array(1.0)}, batches, weights="rate")


def test_that_are_not_finite_are_refused():
    step = metagrad.compile(lambda w, weight, x: w - weight[0] * x)
    mg = step.metagradient(lambda w: jnp.sqrt(w - w), check_nans=False)
    with pytest.raises(
        FloatingPointError, match=r"the gradient of meta has a NaN .* queries \[0\]"
    ):
        attribution.scores(mg, 1.0, jnp.ones(1), jnp.ones(2))


def test_a_training_says_what_is_wrong_with_its_arguments():
    run = small_run()
    arguments = run.params, run.examples
    with pytest.raises(ValueError, match=r"order is int64\[6\]; it must be integers \[T, B\]"):
        run.training.arguments(*arguments, np.arange(6))
    with pytest.raises(ValueError, match="order names examples from 0 to 16 of n=16"):
        run.training.arguments(*arguments, np.array([[0, 16]]))
    mean = attribution.WeightedTraining(lambda p, e: losses(p, e).mean(), optax.sgd(0.1))
    with pytest.raises(ValueError, match=r"losses returns the shape \(\) for 16 examples"):
        mean.arguments(*arguments, np.array([[0, 1]]))
    with pytest.raises(ValueError, match="checkpoints=5 does not divide the 6 steps"):
        run.training.train(*run.arguments, checkpoints=5)


def test_a_training_keeps_checkpoints_of_the_same_run():
    run = small_run()
    state, checkpoints = run.training.train(*run.arguments, checkpoints=3)
    want = retrained_by_hand(run, jnp.ones(16))
    np.testing.assert_allclose(losses(state.params, run.queries), want, rtol=1e-12)
    last = jax.tree.map(lambda x: x[-1], checkpoints)
    assert jax.tree.all(jax.tree.map(lambda a, b: (a == b).all(), last, state.params))
    assert {len(x) for x in jax.tree.leaves(checkpoints)} == {3}

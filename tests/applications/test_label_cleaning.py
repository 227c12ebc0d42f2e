"""Cleaning labels: harmful examples are found and dropped while the held-out loss falls."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import metagrad
from metagrad.applications import label_cleaning

EXAMPLES, WRONG, STEPS, BATCH = 60, 9, 60, 10
TRUTH = jnp.array([2.0, -1.0, 0.5])


def step(w, weights, batch):
    x, y, rows = batch
    loss = lambda w: jnp.mean(weights[rows] * jax.nn.softplus(-y * (x @ w)))
    return w - 0.5 * metagrad.grad(loss)(w)


def outer(w, x, y):
    return jnp.mean(jax.nn.softplus(-y * (x @ w)))


x = jax.random.normal(jax.random.key(0), (EXAMPLES, 3))
y = jnp.sign(x @ TRUTH).at[:WRONG].multiply(-1)
clean_x = jax.random.normal(jax.random.key(1), (100, 3))
wrong = np.arange(EXAMPLES) < WRONG


def problem(round, key):
    rows = jax.random.randint(jax.random.key(2), (STEPS, BATCH), 0, EXAMPLES)
    return jnp.zeros(3), (x[rows], y[rows], rows), clean_x, jnp.sign(clean_x @ TRUTH)


@pytest.fixture(scope="module")
def mg():
    return metagrad.compile(step).metagradient(outer)


def test_the_wrong_labels_go(mg):
    cleaning = label_cleaning.clean(mg, EXAMPLES, problem, drop=3, rounds=6)
    values = cleaning.descent.history.column("value")
    assert values[-1] < values[0]
    assert cleaning.kept.sum() + len(cleaning.dropped) == EXAMPLES
    assert not cleaning.kept[cleaning.dropped].any()
    assert wrong[cleaning.dropped[:6]].mean() >= 5 / 6
    assert label_cleaning.precision(cleaning.scores, wrong) > 0.6
    # What is kept is what was measured in the best round.
    assert (np.asarray(cleaning.descent.best.meta) > 0).tolist() == cleaning.kept.tolist()


def test_scores_are_the_metagradient(mg):
    cleaning = label_cleaning.clean(mg, EXAMPLES, problem, drop=3, rounds=1)
    assert repr(cleaning) == f"<Cleaning: {EXAMPLES} of {EXAMPLES} examples kept, 1 rounds>"
    state, *rest = problem(0, None)
    exact = mg(state, jnp.ones(EXAMPLES), *rest)
    np.testing.assert_array_equal(cleaning.scores, exact.grad)
    assert cleaning.kept.all() and len(cleaning.dropped) == 0, "nothing has been measured yet"


def test_ends_by_itself_and_resumes(mg, tmp_path):
    options = {"drop": 5, "rounds": 12, "patience": 2}
    whole = label_cleaning.clean(mg, EXAMPLES, problem, **options)
    assert whole.descent.reason == "patience" and not whole.kept.all()

    def stop(round):
        return round.record.round == 1

    label_cleaning.clean(mg, EXAMPLES, problem, callback=stop, resume_dir=tmp_path, **options)
    resumed = label_cleaning.clean(mg, EXAMPLES, problem, resume_dir=tmp_path, **options)
    np.testing.assert_array_equal(resumed.dropped, whole.dropped)
    np.testing.assert_array_equal(resumed.scores, whole.scores)


def test_the_transformation_drops_the_most_harmful():
    drop = label_cleaning.drop_most_harmful(2)
    weights = jnp.array([1.0, 0.0, 1.0, 1.0, 1.0])
    changes, state = drop.update(jnp.array([0.3, 9.0, 0.1, -1.0, 0.2]), drop.init(weights), weights)
    np.testing.assert_array_equal(weights + changes, [0, 0, 1, 1, 0])
    weights = weights + changes
    changes, state = drop.update(jnp.array([7.0, 7.0, -0.5, -0.1, 7.0]), state, weights)
    np.testing.assert_array_equal(changes, 5 * [0.0]), "the others do no harm"
    np.testing.assert_array_equal(state.dropped_in, [0, -1, -1, -1, 0])
    np.testing.assert_allclose(state.scores, [0.3, 0.0, -0.5, -0.1, 0.2])


def test_suspects_and_precision():
    scores = [0.1, 0.5, 0.5, -1.0]
    assert label_cleaning.suspects(scores, 3).tolist() == [1, 2, 0]
    assert label_cleaning.precision(scores, [False, True, False, True]) == 0.5


def test_refused(mg):
    with pytest.raises(ValueError, match="count=0 must be at least 1"):
        label_cleaning.clean(mg, EXAMPLES, problem, drop=0)
    with pytest.raises(ValueError, match="examples=0 must be at least 1"):
        label_cleaning.clean(mg, 0, problem, drop=1)
    drop = label_cleaning.drop_most_harmful(1)
    with pytest.raises(ValueError, match="needs the weights"):
        drop.update(jnp.ones(2), drop.init(jnp.ones(2)))


def test_there_is_no_precision_without_wrong_labels():
    with pytest.raises(ValueError, match="wrong names no example"):
        label_cleaning.precision(np.arange(4.0), np.zeros(4, bool))

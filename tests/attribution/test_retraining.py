"""Training on subsets, and what is measured with it."""

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


def linear_run():
    """A run whose outcomes are linear in the weights: the sum of weighted rows."""
    rows = jnp.asarray(np.random.default_rng(0).normal(size=(12, 3)))
    step = metagrad.compile(lambda w, weight, i: w + weight[i] * rows[i])
    mg = step.metagradient(lambda w: w)
    return mg, (jnp.zeros(3), jnp.ones(12), jnp.arange(24) % 12)


def test_is_training_with_weights_of_zero():
    run = small_run()
    mg, subsets = run.training.metagradient(losses), attribution.random_subsets(16, 3, 0.5)
    calls = []
    retrained = attribution.retrain(
        mg, *run.arguments, run.queries, subsets=subsets, callback=lambda *a: calls.append(a)
    )
    by_hand = jax.jit(lambda weight: retrained_by_hand(run, weight))
    for subset, outcomes in zip(subsets, retrained.outcomes):
        np.testing.assert_allclose(outcomes, by_hand(jnp.asarray(subset, float)), rtol=1e-11)
    np.testing.assert_allclose(retrained.full, by_hand(jnp.ones(16)), rtol=1e-11)
    assert [i for i, _ in calls] == [0, 1, 2]
    assert retrained.seconds > 0


def test_compiles_once(monkeypatch):
    mg, arguments = linear_run()
    compiled = []
    real = jax.stages.Lowered.compile
    monkeypatch.setattr(
        jax.stages.Lowered, "compile", lambda *a, **k: compiled.append(1) or real(*a, **k)
    )
    attribution.retrain(mg, *arguments, subsets=attribution.random_subsets(12, 5))
    assert len(compiled) == 1


def test_of_a_linear_run_is_predicted_exactly():
    mg, arguments = linear_run()
    scores = attribution.scores(mg, *arguments)
    retrained = attribution.retrain(mg, *arguments, subsets=attribution.random_subsets(12, 20))
    score = attribution.lds(scores, retrained)
    assert score.value == pytest.approx(1)
    assert score.interval == pytest.approx((1, 1))
    assert score.per_query == pytest.approx(np.ones(3))
    report = attribution.leave_k_out(scores, retrained)
    for measure, want in ((report.correlation, 1), (report.slope, 1), (report.relative_error, 0)):
        assert measure == pytest.approx(np.full(3, want), abs=1e-12)
    assert str(report) == "correlation 1.000, slope 1.000, relative error 0.000"


def test_leave_k_out_sees_a_wrong_scale():
    mg, arguments = linear_run()
    exact = attribution.scores(mg, *arguments)
    half = attribution.Scores(exact.values / 2, exact.outcomes, exact.weights, "half")
    subsets = attribution.leave_out(12, 2, 10)
    report = attribution.leave_k_out(half, attribution.retrain(mg, *arguments, subsets=subsets))
    assert report.correlation == pytest.approx(np.ones(3))
    assert report.slope == pytest.approx(np.full(3, 2.0))
    assert report.relative_error == pytest.approx(np.full(3, 0.5))


def test_lds_is_spearmans_correlation():
    from scipy import stats

    random = np.random.default_rng(1)
    subsets = attribution.random_subsets(9, 40, seed=2)
    scores = attribution.Scores(random.normal(size=(2, 9)), np.zeros(2), np.ones(9), "noise")
    outcomes = scores.predict(subsets) + 2 * random.normal(size=(40, 2))
    retrained = attribution.Retrained(subsets, outcomes, np.zeros(2))
    score = attribution.lds(scores, retrained, seed=3)
    each = [stats.spearmanr(a, b).statistic for a, b in zip(scores.predict(subsets).T, outcomes.T)]
    assert score.per_query == pytest.approx(np.array(each))
    assert score.value == pytest.approx(np.mean(each))
    low, high = score.interval
    assert low < score.value < high
    wider = attribution.lds(scores, retrained, seed=3, confidence=0.99).interval
    assert wider[0] < low and high < wider[1]
    assert attribution.lds(scores, retrained, seed=3).interval == score.interval


def test_lds_of_few_subsets_has_an_interval():
    """Some resamples draw one subset three times, and have no variation."""
    scores = attribution.Scores(np.eye(1, 4), np.zeros(1), np.ones(4), "first")
    outcomes = np.array([[0.0], [0.5], [1.0]])
    subsets = np.array([[0, 1, 1, 1], [0.5, 1, 1, 1], [1, 1, 1, 1]])
    score = attribution.lds(scores, attribution.Retrained(subsets, outcomes, np.zeros(1)))
    assert score.value == 1
    assert score.interval == (0, 1)


def test_subsets_have_the_sizes_asked_for():
    subsets = attribution.random_subsets(20, 50, 0.3, seed=1)
    assert subsets.shape == (50, 20)
    assert set(subsets.sum(1)) == {6}
    assert len({row.tobytes() for row in subsets}) == 50
    assert set((~attribution.leave_out(20, 3, 50)).sum(1)) == {3}


def test_says_what_is_wrong():
    mg, arguments = linear_run()
    subsets = attribution.random_subsets(12, 4)
    with pytest.raises(ValueError, match=r"subsets has the shape \(2, 5\); it must be \[m, 12\]"):
        attribution.retrain(mg, *arguments, subsets=np.ones((2, 5)))
    stream = metagrad.Stream(np.arange(24))
    with pytest.raises(TypeError, match="batches is a Stream"):
        attribution.retrain(mg, *arguments[:2], stream, subsets=subsets)
    with pytest.raises(TypeError, match="retrain takes a metagradient"):
        attribution.retrain(len, *arguments, subsets=subsets)
    with pytest.raises(ValueError, match=r"keep=1\.5 must lie between 0 and 1"):
        attribution.random_subsets(12, 4, 1.5)
    with pytest.raises(ValueError, match=r"keep=0\.01 of n=12 examples leaves 0"):
        attribution.random_subsets(12, 4, 0.01)
    with pytest.raises(ValueError, match="k=12 must be at least 1 and less than n=12"):
        attribution.leave_out(12, 12, 4)
    with pytest.raises(ValueError, match="count=0"):
        attribution.leave_out(12, 2, 0)
    scores = attribution.scores(mg, *arguments)
    two = attribution.retrain(mg, *arguments, subsets=subsets[:2])
    with pytest.raises(ValueError, match="retrained has 2 subsets"):
        attribution.lds(scores, two)
    alike = attribution.retrain(mg, *arguments, subsets=np.ones((3, 12)))
    with pytest.raises(ValueError, match=r"the queries \[0, 1, 2\] have one outcome for all"):
        attribution.lds(scores, alike)
    other = attribution.Retrained(subsets, np.ones((4, 1)), np.ones(1))
    with pytest.raises(ValueError, match="scores has 3 queries, and retrained 1"):
        attribution.leave_k_out(scores, other)
    with pytest.raises(ValueError, match="at least one method"):
        attribution.compare({}, {"two": two})


def test_compares_methods():
    run = small_run(optimizer=optax.sgd(0.02))
    mg = run.training.metagradient(losses)
    subsets = attribution.leave_out(16, 2, 12)
    retrained = attribution.retrain(mg, *run.arguments, run.queries, subsets=subsets)
    state, _ = run.training.train(*run.arguments)
    arguments = losses, losses, state.params, run.examples, run.queries
    comparison = attribution.compare(
        {
            "metagradient": lambda: attribution.scores(mg, *run.arguments, run.queries),
            "cosine": lambda: attribution.baselines.gradient_similarity(*arguments),
        },
        {"two left out": retrained},
        repeat=1,
    )
    exact, cosine = comparison.rows
    assert exact.lds["two left out"].value > max(0.95, cosine.lds["two left out"].value)
    assert exact.slope["two left out"] == pytest.approx(1, abs=0.1)
    assert exact.trainings == pytest.approx(exact.seconds / retrained.seconds)
    assert exact.as_dict()["two left out"]["lds"] == exact.lds["two left out"].value
    assert "metagradient" in str(comparison) and "two left out" in str(comparison)

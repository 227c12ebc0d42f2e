"""Learned learning-rate schedules: key points, and a descent on them through a user's step."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import metagrad
from metagrad.applications import learning_rate_schedule as schedules

STEPS = 12


def step(w, rate, batch):
    loss = lambda w: jnp.sum(jnp.array([1.0, 9.0]) * (w - batch) ** 2)
    return w - rate * metagrad.grad(loss)(w)


def outer(w):
    return jnp.sum(w**2)


def problem(round, key):
    return jnp.ones(2), 0.1 * jax.random.normal(key, (STEPS, 2))


def test_rates_are_linear_between_key_points():
    points = np.array([0.1, 1.0, 0.01], np.float32)
    rates = schedules.rate_at(np.log(points), jnp.arange(11), 11)
    np.testing.assert_allclose(rates, np.interp(np.arange(11), [0, 5, 10], points), rtol=1e-5)
    assert schedules.rate_at(np.log(points), 99, 11) == pytest.approx(0.01, rel=1e-5)
    flat = schedules.rate_at(jnp.log(jnp.array([0.3])), jnp.arange(4), 4)
    np.testing.assert_allclose(flat, 4 * [0.3], rtol=1e-6)
    one_step = schedules.rate_at(np.log(points), jnp.arange(1), 1)
    np.testing.assert_allclose(one_step, points[:1], rtol=1e-5)


def test_the_gradient_of_the_key_points_is_jaxs():
    with jax.enable_x64(True):
        state, batches = problem(0, jax.random.key(0))

        def by_jax(log_rates):
            w = state
            for t in range(STEPS):
                slope = jnp.array([1.0, 9.0]) * 2 * (w - batches[t])
                w = w - schedules.rate_at(log_rates, t, STEPS) * slope
            return outer(w)

        seen = []
        schedules.learn(
            step,
            outer,
            problem,
            steps=STEPS,
            start=0.05,
            points=3,
            rounds=1,
            callback=lambda round: seen.append((round.meta, round.gradient)),
        )
        (log_rates, gradient), key = seen[0], jax.random.key(0)
        state, batches = problem(0, jax.random.fold_in(jax.random.fold_in(key, 0), 0))
        np.testing.assert_allclose(gradient, jax.grad(by_jax)(log_rates), rtol=1e-11)


def test_learns_from_a_flat_start():
    """High rates first, then low ones against the noise: lower than any constant."""
    learned = schedules.learn(
        step, outer, problem, steps=STEPS, start=0.02, points=4, rounds=40, seeds=4
    )
    assert learned.rates.shape == (STEPS,) and (learned.rates > 0).all()
    assert learned.rates[-1] < learned.rates.max() / 3
    assert len(learned.descent.history) == 40

    def run(rates, key):
        state, batches = problem(0, key)
        advance = lambda w, at: (step(w, *at), None)
        return outer(jax.lax.scan(advance, state, (rates, batches))[0])

    keys = jax.random.split(jax.random.key(9), 64)
    mean = jax.jit(lambda rates: jnp.mean(jax.vmap(run, (None, 0))(rates, keys)))
    constants = [float(mean(jnp.full(STEPS, rate))) for rate in np.geomspace(0.005, 0.2, 40)]
    assert float(mean(jnp.asarray(learned.rates))) < min(constants)
    optimizer = optax.sgd(learned.schedule)
    updates, _ = optimizer.update(jnp.ones(2), optimizer.init(jnp.ones(2)))
    np.testing.assert_allclose(updates, -learned.rates[0], rtol=1e-6)


def test_plots_itself():
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    learned = schedules.LearnedSchedule(np.array([0.1, 0.2]), jnp.zeros(2), None)
    axes = learned.plot()
    assert axes.get_yscale() == "log" and axes.lines[0].get_ydata().tolist() == [0.1, 0.2]
    pyplot.close(axes.figure)


@pytest.mark.parametrize(
    "change, error, message",
    [
        ({"step": metagrad.compile(step)}, TypeError, r"undecorated function of \(state, rate"),
        ({"start": 0.0}, ValueError, "start=0.0 must be a positive rate"),
        ({"steps": 0}, ValueError, "steps=0 and points=8 must be at least 1"),
        ({"points": 0}, ValueError, "points=0 must be at least 1"),
    ],
)
def test_refused(change, error, message):
    arguments = {"step": step, "outer": outer, "problem": problem, "steps": STEPS, "start": 0.1}
    with pytest.raises(error, match=message):
        schedules.learn(**arguments | change)


def test_rates_in_narrow_floats_know_every_step():
    key_points = jnp.log(jnp.array([1.0, 3.0, 2.0]))
    steps = jnp.arange(995, 1000)
    wide = schedules.rate_at(key_points, steps, 1000)
    narrow = schedules.rate_at(key_points.astype(jnp.bfloat16), steps, 1000)
    assert narrow.dtype == jnp.bfloat16
    np.testing.assert_allclose(narrow.astype(jnp.float32), wide, rtol=2**-7)


def test_rates_before_and_after_the_run_and_with_more_points_than_steps():
    log_rates = np.log([1.0, 3.0, 2.0])
    for count in (1, 2, 3, 5):
        steps = np.arange(-2, 8)
        places = np.linspace(0, max(count - 1, 1), 3)
        rates = schedules.rate_at(jnp.asarray(log_rates), steps, count)
        np.testing.assert_allclose(rates, np.interp(steps, places, [1, 3, 2]), rtol=1e-6)


@pytest.mark.parametrize(
    ("drawn", "error", "message"),
    [
        ((jnp.zeros(2), jnp.ones((4, 2))), ValueError, "steps=7, and the problem has 4 batches"),
        ([jnp.zeros(2), jnp.ones((7, 2))], TypeError, "problem returned list"),
        (None, TypeError, "problem returned NoneType"),
        ((), TypeError, "problem returned tuple"),
    ],
)
def test_problems_that_do_not_fit(drawn, error, message):
    step = lambda w, rate, x: w - rate * metagrad.grad(lambda w: jnp.sum((w - x) ** 2))(w)
    with pytest.raises(error, match=message):
        schedules.learn(step, jnp.sum, lambda round, key: drawn, steps=7, start=0.1, rounds=1)

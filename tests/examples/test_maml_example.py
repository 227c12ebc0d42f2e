"""examples/maml on a few rounds: its tasks, its gradients, and the whole of it."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from examples.maml import digits, run, sinusoids, training

SMALL = sinusoids.SETTING._replace(steps=2, tasks=3, shots=4)


def unrolled(setting, params, support, query, grad=jax.grad):
    """The mean loss after the inner steps, as JAX differentiates it."""

    def of_one(params, support, query):
        for _ in range(setting.steps):
            params = training.adapt(setting.loss, params, setting.rate, *support, grad=grad)
        return setting.loss(params, *query)

    return jnp.mean(jax.vmap(of_one, (None, 0, 0))(params, support, query))


def apart(a, b):
    pairs = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    return max(float(np.abs(x - y).max() / np.abs(y).max()) for x, y in pairs)


def test_both_vmaps_give_the_gradient_of_the_mean_over_tasks():
    with jax.enable_x64(True):
        params = jax.tree.map(lambda p: p.astype(float), sinusoids.initial(jax.random.key(0)))
        tasks = training.drawn(SMALL, jax.random.key(1))
        value, want = jax.value_and_grad(unrolled, 1)(SMALL, params, *tasks)
        for across in ("step", "metagradient"):
            got_value, got = training.metagradient(SMALL, across)(params, *tasks)
            assert float(got_value) == pytest.approx(float(value), rel=1e-11)
            assert apart(got, want) < 1e-11
        _, first_order = training.metagradient(SMALL, first_order=True)(params, *tasks)
        assert 1e-3 < apart(first_order, want) < 1
        stopped = lambda loss: lambda *args: jax.lax.stop_gradient(jax.grad(loss)(*args))
        want = jax.grad(unrolled, 1)(SMALL, params, *tasks, stopped)
        assert apart(first_order, want) < 1e-11


def test_an_outer_step_is_adams():
    params, key = sinusoids.initial(jax.random.key(0)), jax.random.key(1)
    tasks = training.drawn(SMALL, jax.random.split(key, 1)[0])
    value, gradient = jax.value_and_grad(unrolled, 1)(SMALL, params, *tasks)
    after, values = training.learn(SMALL, params, key, rounds=1)
    assert float(values[0]) == pytest.approx(float(value), rel=1e-5)
    for new, old, g in zip(*map(jax.tree.leaves, (after, params, gradient)), strict=True):
        clear = np.abs(g) > 1e-3  # the others are near Adam's epsilon
        np.testing.assert_allclose((old - new)[clear], 2e-3 * np.sign(g)[clear], rtol=1e-2)


def test_sinusoids_are_those_of_the_paper():
    (x, y), (other_x, _) = jax.vmap(lambda key: sinusoids.draw(key, 10))(
        jax.random.split(jax.random.key(0), 500)
    )
    assert x.shape == y.shape == (500, 10, 1)
    assert float(jnp.abs(x).max()) <= 5 and not np.isin(x, other_x).any()
    amplitude = jnp.abs(y).max(1)
    assert 4.5 < float(amplitude.max()) <= 5
    # sin(x - phase) with a phase below pi falls from zero at x = 0.
    assert float(y[jnp.abs(x) < 1e-2].max()) < 0.05 * 5


def test_digits_of_a_test_task_are_of_no_training_task():
    rows = {row.tobytes() for row in digits.trained_on().reshape(-1, 64)}
    (x, labels), (query, _) = digits.draw_unseen(jax.random.key(0), 5)
    assert x.shape == (20, 64) and np.bincount(labels).tolist() == [5] * 4
    assert not rows & {np.asarray(row).tobytes() for row in np.concatenate([x, query])}
    assert len(digits.trained_on()) == 48
    support = {np.asarray(row).tobytes() for row in x}
    assert not support & {np.asarray(row).tobytes() for row in query}


def test_a_short_run(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(training, "RATES", (0.01,))
    monkeypatch.setattr(run, "SHOTS", {"sinusoids": (10,)})
    monkeypatch.setattr(run.prices, "__defaults__", (2,))
    monkeypatch.setattr(sinusoids, "SETTING", SMALL)
    options = ["--seeds", "1", "--sinusoid-rounds", "5", "--digit-rounds", "0", "--tests", "20"]
    run.main([*options, "--out", str(tmp_path)])
    record = json.loads((tmp_path / "results.json").read_text())
    rows = record["seeds"][0]["sinusoids"]["10"]
    assert set(rows) == set(run.WAYS)
    assert all(len(row["curve"]) == 11 and np.isfinite(row["curve"]).all() for row in rows.values())
    assert record["a metagradient, vmap of"]["sinusoids"]["difference"] < 1e-3
    assert (tmp_path / "maml.png").stat().st_size > 5000
    assert "| first-order MAML |" in capsys.readouterr().out

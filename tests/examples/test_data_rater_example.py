"""examples/data_rater on a few rounds: its text, its gradients, and the whole of it."""

import json

import jax
import numpy as np
import pytest

from examples import language_model
from examples.data_rater import rating, run, text


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr(language_model, "LAYERS", 1)
    for name, value in {"POOL": 400, "HELD_OUT": 60, "TEST": 60}.items():
        monkeypatch.setattr(text, name, value)
    for name, value in {"STEPS": 2, "BATCH": 12, "MODELS": 2, "LIFETIME": 8}.items():
        monkeypatch.setattr(rating, name, value)


def test_the_pool_is_as_corrupted_as_it_says(small):
    data = text.make(0)
    clean = {bytes(row) for row in language_model.sequences(language_model.manual(), 0)}
    intact = np.array([bytes(row) in clean for row in data.pool])
    assert intact[data.level == 0].all()
    assert intact[data.level > 0].mean() < 0.1
    assert [np.mean(data.level == level) for level in text.LEVELS] == list(text.SHARES)
    assert not {bytes(row) for row in data.held_out} & {bytes(row) for row in data.pool}
    replaced = text.corrupted(np.zeros((500, 33), int), np.full(500, 0.3), np.random.default_rng(0))
    assert np.mean(replaced != 0) == pytest.approx(0.3, abs=0.02)


def test_the_metagradient_is_jaxs(small):
    """With respect to the rating network, for one model."""
    data = text.make(0)
    with jax.enable_x64(True):
        double = lambda tree: jax.tree.map(lambda x: x.astype(float), tree)
        rater = double(rating.initial(jax.random.key(0)))
        rater["rating"] = jax.random.normal(jax.random.key(1), rater["rating"].shape)
        params = double(language_model.initial(jax.random.key(2)))
        state, batches = (params, rating.OPTIMISER.init(params)), data.pool[:24].reshape(2, 12, -1)
        mg = rating.step.metagradient(rating.held_out_loss)
        result = mg(state, rater, batches, data.held_out)

        def at_end(rater):
            after, _ = jax.lax.scan(
                lambda s, pieces: (rating.step(s, rater, pieces), None), state, batches
            )
            return rating.held_out_loss(after, data.held_out)

        # A float64 model, but for the softmax of its attention, which is float32 in JAX.
        for got, want in zip(
            *map(jax.tree.leaves, (result.grad, jax.jit(jax.grad(at_end))(rater)))
        ):
            assert np.abs(got - want).max() <= 1e-5 * np.abs(want).max()


def test_a_model_is_made_new_when_it_is_old(small):
    states = jax.vmap(rating.new_model)(jax.random.split(jax.random.key(0), 2))
    ages = np.array([rating.LIFETIME, 3])
    after, left = rating.renewed(states, ages, jax.random.key(1))
    assert left.tolist() == [0, 3]
    head, before = after[0]["head"], states[0]["head"]
    assert (head[1] == before[1]).all() and not (head[0] == before[0]).any()


def test_a_short_run(small, tmp_path, capsys):
    run.main(["--seeds", "1", "--rounds", "20", "--steps", "8", "--out", str(tmp_path)])
    record = json.loads((tmp_path / "results.json").read_text())
    (seed,) = record["seeds"]
    assert seed["rank correlation"]["rated"] > 0.3
    assert seed["rank correlation"]["oracle"] == 1
    assert seed["clean kept"]["oracle"] == 1 and seed["clean kept"]["rated"] > 0.45
    assert set(seed["held-out loss"]) == set(run.WAYS)
    assert (tmp_path / "data_rater.png").stat().st_size > 5000
    assert "| clean (oracle) |" in capsys.readouterr().out

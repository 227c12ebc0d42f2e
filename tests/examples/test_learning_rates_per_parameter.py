"""examples/learning_rates_per_parameter on a few rounds: its gradients, and the whole of it."""

import json

import jax
import numpy as np
import pytest

from examples import language_model
from examples.learning_rates_per_parameter import run, training


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr(language_model, "LAYERS", 1)
    for name, value in {"STEPS": 4, "BATCH": 4}.items():
        monkeypatch.setattr(training, name, value)
    # Default arguments keep the full length.
    monkeypatch.setattr(training.Task.batches, "__defaults__", (4,))
    monkeypatch.setattr(run.losses, "__defaults__", (4, None))
    monkeypatch.setattr(run, "GRID", np.array([1e-3, 1e-2]))
    monkeypatch.setattr(run, "FRESH", 1)


def test_the_gradients_are_jaxs(small):
    task = training.make(0, sizes=(128, 20))
    state, batches, held_out = task.problem(0, jax.random.key(0))
    meta = training.flat(task.params, own=True)
    result = run.metagradient()(state, meta, batches, held_out)
    at_end = lambda meta: training.outer(training.run_with(state, meta, batches), held_out)
    want = jax.jit(jax.grad(at_end))(meta)
    for got, wanted in zip(jax.tree.leaves(result.grad), jax.tree.leaves(want), strict=True):
        assert np.abs(got - wanted).max() <= 1e-3 * np.abs(wanted).max()
    # A layer's rate multiplies all of its parameters' rates.
    total = result.grad["own"]["head"].sum()
    assert result.grad["layer"]["head"] == pytest.approx(float(total), rel=1e-3)


def test_a_short_run(small, tmp_path, capsys):
    run.main(["--seeds", "1", "--rounds", "4", "--out", str(tmp_path)])
    record = json.loads((tmp_path / "results.json").read_text())
    (seed,) = record["seeds"]
    start = seed["the rate of the start"]["as learned"]
    for name in ("a rate for each layer", "a rate for each parameter"):
        assert seed[name]["as learned"] < start
        assert seed[name]["price"] == pytest.approx(
            4 * record["metagradient in plain runs"], rel=1e-3
        )
    assert seed["one rate, searched"]["price"] >= 2
    assert set(seed["a rate for each parameter"]["spread"]) == set(
        seed["a rate for each layer"]["rates"]
    )
    assert (tmp_path / "learning_rates.png").stat().st_size > 5000
    assert "a metagradient costs" in capsys.readouterr().out

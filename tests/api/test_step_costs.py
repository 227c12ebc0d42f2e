"""The costs of a real step: measured on its kernel once, and kept."""

import jax.numpy as jnp
import numpy as np
import pytest

import metagrad
from metagrad.api import step_costs as module
from metagrad.runtime.schedules.costs import predict


def loss(w, batch):
    x, y = batch
    return jnp.mean((jnp.tanh(x @ w) - y) ** 2)


@metagrad.compile
def step(state, rate, batch):
    return state - rate * metagrad.grad(loss)(state, batch)


@pytest.fixture
def metagradient():
    def outer(state):
        return jnp.sum(state**2)

    return lambda **options: step.metagradient(outer, wrt="meta", **options)


def arguments(steps=12):
    rng = np.random.default_rng(0)
    batches = rng.normal(size=(steps, 8, 16)), rng.normal(size=(steps, 8, 4))
    return jnp.ones((16, 4)), 0.1, tuple(jnp.asarray(b, jnp.float32) for b in batches)


def test_a_budget_is_met_from_costs_measured_once(metagradient, monkeypatch, tmp_path):
    monkeypatch.setenv("METAGRAD_CACHE_DIR", str(tmp_path))
    monkeypatch.setenv("METAGRAD_CACHE", "1")
    made, make = [], module._probe
    monkeypatch.setattr(module, "_probe", lambda *given: made.append(1) or make(*given))
    lowered = metagradient(schedule=metagrad.Auto("1MB")).lower(*arguments())
    plan = lowered.plan
    plan.validate()
    assert plan.bytes <= 1_000_000
    assert plan.predicted_seconds == predict(plan, plan.estimate.costs) > 0
    assert "measured on this machine" in str(plan)
    again = metagradient(schedule=metagrad.Auto("900kB")).lower(*arguments()).plan
    assert len(made) == 1 and again.estimate.costs.vjp == plan.estimate.costs.vjp
    stored = metagradient(schedule=metagrad.StoreAll())(*arguments())
    np.testing.assert_allclose(lowered.compile()(*arguments()).grad, stored.grad, rtol=1e-6)


def test_a_budget_that_nothing_fits(metagradient):
    with pytest.raises(ValueError, match=r"Auto\(memory='1kB'\): no plan for 12 steps fits"):
        metagradient(schedule=metagrad.Auto("1kB"), runtime="fused").lower(*arguments())

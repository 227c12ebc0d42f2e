"""Which plan a metagradient gets: by default, with a budget, and where one program does not fit."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import metagrad
from metagrad.api.streamed_stages import StreamedLowered

STEPS = 40


@metagrad.compile
def step(w, weight, batch):
    return w - 0.1 * metagrad.grad(lambda w: jnp.mean(weight * jnp.tanh(batch @ w) ** 2))(w)


def outer(w):
    return jnp.sum(w**2)


@pytest.fixture(scope="module")
def arguments():
    rng = np.random.default_rng(0)
    w = jnp.asarray(rng.normal(size=(64, 64)), jnp.float32) / 8
    return w, jnp.ones(()), jnp.asarray(rng.normal(size=(STEPS, 8, 64)), jnp.float32)


@pytest.fixture(scope="module")
def gradient(arguments):
    """JAX's, of the run as a scan."""

    def run(w, weight, batches):
        return outer(jax.lax.scan(lambda w, b: (step(w, weight, b), None), w, batches)[0])

    return jax.grad(run, argnums=1)(*arguments)


def taken(compiled) -> int:
    analysis = compiled.memory_analysis()
    return (
        analysis.temp_size_in_bytes
        + analysis.argument_size_in_bytes
        + analysis.output_size_in_bytes
    )


def test_the_default_is_estimated_and_says_so(arguments):
    lowered = step.metagradient(outer).lower(*arguments)
    assert lowered.plan.schedule == "Auto()"
    assert "estimated, not measured" in str(lowered.plan)
    assert lowered.plan.predicted_seconds > 0
    # The temporaries of a step are not known before anything is compiled; here they are small.
    assert 0.8 * taken(lowered.compile()) < lowered.plan.bytes < 1.2 * taken(lowered.compile())


def test_a_budget_is_kept(arguments, gradient, monkeypatch, tmp_path):
    monkeypatch.setenv("METAGRAD_CACHE_DIR", str(tmp_path))
    monkeypatch.setenv("METAGRAD_CACHE", "1")
    mg = step.metagradient(outer, schedule=metagrad.Auto(memory="700KiB"))
    lowered = mg.lower(*arguments)
    assert "measured on this machine" in str(lowered.plan)
    assert lowered.plan.bytes <= 700 * 1024
    assert taken(lowered.compile()) <= 1.05 * 700 * 1024
    np.testing.assert_allclose(mg(*arguments).grad, gradient, rtol=1e-5)


def test_what_does_not_fit_as_one_program_is_streamed(arguments, gradient, monkeypatch, tmp_path):
    monkeypatch.setenv("METAGRAD_CACHE_DIR", str(tmp_path))
    monkeypatch.setenv("METAGRAD_CACHE", "1")
    schedule = metagrad.Auto(memory="180KiB", host="1MiB")
    mg = step.metagradient(outer, schedule=schedule)
    assert isinstance(mg.lower(*arguments), StreamedLowered)
    for _ in range(2):
        np.testing.assert_allclose(mg(*arguments).grad, gradient, rtol=1e-5)
    with pytest.raises(ValueError, match=r"no plan for 40 steps fits 180 KiB; the smallest needs"):
        step.metagradient(outer, schedule=schedule, runtime="fused").lower(*arguments)
    with pytest.raises(ValueError, match="the smallest, with segments of one step, needs"):
        step.metagradient(outer, schedule=metagrad.Auto(memory="20KiB")).lower(*arguments)

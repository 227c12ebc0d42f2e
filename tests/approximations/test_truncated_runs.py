"""`metagrad.Truncated`: the gradient of the last steps, as one program."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from approximate_runs import T, arguments, oracle, step
from exact import runs
from exact.unrolled import DOUBLE, assert_close

import metagrad
from metagrad import FirstOrder, Truncated

WRT = ("meta", "batches")


@pytest.mark.parametrize("mode", ["reverse", "forward"])
@pytest.mark.parametrize("last", [1, 3])
def test_is_the_gradient_of_the_last_steps(last, mode):
    """Batches of the first steps have zeros."""
    approximation = (FirstOrder(), Truncated(last)) if last == 1 else Truncated(steps=last)
    mg = step.metagradient(runs.outer, WRT, mode=mode, approximation=approximation)
    result = mg(*arguments())
    want = oracle(WRT, first_order=last == 1, last=last)
    assert_close(result.grad, want, DOUBLE)
    assert not np.any(result.grad[1]["x"][: T - last])
    exact = step.metagradient(runs.outer)(*arguments())
    assert_close((result.value, result.state), (exact.value, exact.state), DOUBLE)


def test_of_no_more_steps_it_is_the_metagradient():
    mg = step.metagradient(runs.outer, approximation=Truncated(T))
    exact = mg.with_approximation(None)
    ours, theirs = mg(*arguments()), exact(*arguments())
    assert jax.tree.all(jax.tree.map(lambda a, b: np.array_equal(a, b), ours.grad, theirs.grad))
    assert "APPROXIMATE" not in mg.lower(*arguments()).explain()


ROWS = np.linspace(-1.0, 1.0, 600).reshape(200, 3)


def with_everything(w, z, x):
    """Aux, a key, prints, a large constant that is captured."""
    key, used = jax.random.split(w["key"])
    loss = lambda v: jnp.mean(z["scale"] * jnp.tanh(ROWS @ v - x) ** 2)
    value, g = metagrad.value_and_grad(loss)(w["v"])
    jax.debug.print("step {}", value)
    noise = jax.random.normal(used, g.shape)
    return {"key": key, "v": w["v"] - z["rate"] * g + 0.01 * noise}, {"value": value, "key": key}


def test_one_program_with_all_that_a_step_may_have(capfd, tmp_path):
    mg = metagrad.compile(with_everything, has_aux=True).metagradient(
        lambda w: jnp.stack([jnp.sum(w["v"] ** 2), w["v"][0]]), ("meta", "batches")
    )
    run = {"key": jax.random.key(3), "v": np.array([0.3, -0.2, 0.5])}, {"rate": 0.1, "scale": 0.8}
    batches = np.linspace(0.1, 0.9, 6)
    truncated = mg.with_approximation(Truncated(2))
    ours = truncated(*run, batches)
    jax.block_until_ready(ours)
    jax.effects_barrier()
    assert capfd.readouterr().out.count("step") == 6
    exact = mg(*run, batches)
    as_data = lambda aux: (aux["value"], jax.random.key_data(aux["key"]))
    assert_close(as_data(ours.aux), as_data(exact.aux), DOUBLE)
    # Queries have an axis in front; batches do not reach each other but through the state.
    assert_close(ours.grad[1][:, 4:], exact.grad[1][:, 4:], DOUBLE)
    assert not np.any(ours.grad[1][:, :4])
    lowered = truncated.lower(*run, batches)
    assert lowered.plan.steps == 2
    assert "through 6 steps" in repr(lowered)
    assert "only the last 2 of 6 steps are differentiated" in lowered.explain()


def test_memory_is_that_of_the_last_steps():
    """Nothing is stored for the others."""

    @metagrad.compile
    def wide(w, rate, x):
        return w - rate * metagrad.grad(lambda w: jnp.sum(jnp.sin(w * x) ** 2))(w)

    def temporaries(steps, approximation=None):
        mg = wide.metagradient(jnp.sum, schedule=metagrad.StoreAll(), approximation=approximation)
        compiled = mg.lower(np.ones(4000), 0.1, np.ones(steps)).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    few, many = (temporaries(steps, Truncated(4)) for steps in (8, 200))
    assert many <= few + 10_000 < temporaries(200) / 20


def test_exported(tmp_path):
    mg = runs.sgd().metagradient(runs.outer, WRT, approximation=Truncated(2))
    arguments = {"params": runs.params()}, runs.meta(), runs.data(4)
    compiled = mg.lower(*arguments).compile()
    compiled.export(tmp_path / "run.mg", ("cpu", "cuda"))
    loaded = metagrad.load(tmp_path / "run.mg")
    text = loaded.explain()
    assert "through 4 steps" in text and "APPROXIMATE, Truncated(steps=2): only the last 2" in text
    assert_close(loaded(*arguments).grad, compiled(*arguments).grad, DOUBLE)


def test_under_jit_and_with_a_budget():
    """A traced call; and a plan of `Auto` for the last steps alone."""
    mg = runs.sgd().metagradient(
        runs.outer, schedule=metagrad.Auto(memory="1MiB"), approximation=Truncated(2)
    )
    arguments = {"params": runs.params()}, runs.meta(), runs.data(4)
    assert_close(jax.jit(lambda *a: mg(*a).grad)(*arguments), mg(*arguments).grad, DOUBLE)


def test_streams():
    mg = runs.sgd().metagradient(runs.outer, approximation=Truncated(2))
    state, meta, batches = {"params": runs.params()}, runs.meta(), runs.data(4)
    want = mg(state, meta, batches)
    stream = metagrad.Stream(jax.tree.map(np.asarray, batches))
    got = mg(state, meta, stream)
    assert_close((got.value, got.grad), (want.value, want.grad), DOUBLE)
    with pytest.raises(ValueError, match="cannot be lowered: call it"):
        mg.lower(state, meta, stream)
    of_batches = runs.sgd().metagradient(runs.outer, "batches", approximation=Truncated(2))
    with pytest.raises((ValueError, TypeError), match=r"Stream"):
        of_batches(state, meta, stream)


REFUSED = {
    "steps=0": (lambda: Truncated(0), ValueError, "must be at least 1"),
    "steps=2.5": (lambda: Truncated(2.5), TypeError, "steps must be an int"),
    "the class": (lambda: mg_with(FirstOrder), TypeError, "Write FirstOrder with parentheses"),
    "a name": (lambda: mg_with("first order"), TypeError, r"none of metagrad.FirstOrder\(\)"),
    "twice": (lambda: mg_with((Truncated(1), Truncated(2))), ValueError, "names one kind twice"),
    "the initial state": (lambda: mg_with(Truncated(1), "state"), ValueError, "leaves nothing"),
}


def mg_with(approximation, wrt="meta"):
    return runs.sgd().metagradient(runs.outer, wrt, approximation=approximation)


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name):
    make, error, message = REFUSED[name]
    with pytest.raises(error, match=message):
        make()


def test_repr():
    assert re.search(r"APPROXIMATE: Truncated\(steps=1\)\)$", repr(mg_with(Truncated(1))))

"""Truncated metagradients: exact for all steps, an approximation that says so for fewer."""

import descent_runs as run
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import metagrad
from metagrad import mgd


@pytest.fixture(scope="module")
def mg():
    return metagrad.compile(run.step).metagradient(run.outer)


@pytest.fixture(scope="module")
def arguments():
    state, *rest = run.problem(0, jax.random.key(1))
    return state, run.meta0(), *rest


def test_of_all_steps_is_the_metagradient(mg, arguments):
    exact = mg(*arguments)
    for last in (run.STEPS, run.STEPS + 5):
        ours = mgd.truncated(mg, last)(*arguments)
        same = jax.tree.map(lambda a, b: (a == b).all(), tuple(ours), tuple(exact))
        assert jax.tree.all(same)


@pytest.mark.parametrize("streamed", [False, True])
def test_is_the_gradient_of_the_last_steps(streamed):
    """JAX's, of a run whose first steps are behind a stop_gradient."""
    last = 3
    with jax.enable_x64(True):
        state, *rest = run.problem(0, jax.random.key(1))
        batches, *outer_args = rest

        def stopped(meta):
            now = state
            for t in range(run.STEPS):
                if t == run.STEPS - last:
                    now = jax.lax.stop_gradient(now)
                batch = tuple(leaf[t] for leaf in batches)
                now = run.advance(jax.grad, now, meta, batch)
            return run.outer(now, *outer_args)

        mg = metagrad.compile(run.step).metagradient(run.outer)
        given = metagrad.Stream(jax.tree.map(np.asarray, batches)) if streamed else batches
        value, grad, final = mgd.truncated(mg, last)(state, run.meta0(), given, *outer_args)
        expected = jax.value_and_grad(stopped)(run.meta0())
        for ours, theirs in zip(jax.tree.leaves((value, grad)), jax.tree.leaves(expected)):
            np.testing.assert_allclose(ours, theirs, rtol=1e-11, atol=1e-13)
        whole = mg(state, run.meta0(), batches, *outer_args)
        np.testing.assert_allclose(final["w"], whole.state["w"], rtol=1e-12)
        assert not np.allclose(grad["weight"], whole.grad["weight"], rtol=1e-2)


def test_a_step_with_auxiliary_output():
    """That of all steps, of a stream too."""

    def with_aux(state, meta, batch):
        return run.step(state, meta, batch), jnp.sum(state["w"])

    with jax.enable_x64(True):
        state, batches, *outer_args = run.problem(0, jax.random.key(1))
        mg = metagrad.compile(with_aux, has_aux=True).metagradient(run.outer)
        exact = mg(state, run.meta0(), batches, *outer_args)
        stream = metagrad.Stream(jax.tree.map(np.asarray, batches))
        for given in (batches, stream):
            ours = mgd.truncated(mg, 2)(state, run.meta0(), given, *outer_args)
            np.testing.assert_allclose(ours.aux, exact.aux, rtol=1e-12)


def test_the_table(mg, arguments):
    table = mgd.compare_windows(mg, *arguments, last=[8, 2])
    assert table[8] == mgd.Agreement(pytest.approx(1), 0.0, 1.0, 1.0)
    assert 0 < table[2].relative_error < 1 and table[2].cosine < 1
    first, _, all_steps, two = str(table).splitlines()
    assert first.startswith("APPROXIMATE")
    assert all_steps.split() == ["8", "1.0000", "0.00e+00", "100.0%"]
    assert two.split()[0] == "2"


def test_the_agreement_of_two_gradients():
    ours = {"a": jnp.array([3.0, 0.0]), "n": jnp.array([7])}
    exact = {"a": jnp.array([4.0, -3.0]), "n": jnp.array([8])}
    agreement = mgd.agreement(ours, exact)
    assert agreement.cosine == pytest.approx(0.8)
    assert agreement.relative_error == pytest.approx(10**0.5 / 5)
    assert agreement.same_signs == 0.5
    assert str(agreement) == "cosine 0.8000, relative error 6.32e-01, same signs 50.0%"
    with pytest.raises(ValueError, match="differ in structure or shape"):
        mgd.agreement(ours, {"a": jnp.zeros(3), "n": 1})
    with pytest.raises(ValueError, match="no floating-point entry"):
        mgd.agreement({}, {})


def test_descends(mg):
    """It stands in the place of a metagradient, and a directory tells the two apart."""
    result = metagrad.descent(
        mgd.truncated(mg, 4), run.meta0(), run.problem, optax.sgd(0.01), rounds=2
    )
    assert len(result.history) == 2


def test_refused(mg):
    of_state = metagrad.compile(run.step).metagradient(run.outer, wrt="state")
    with pytest.raises(ValueError, match=r"truncated is for wrt=\"meta\", .* 'state'"):
        mgd.truncated(of_state, 2)
    with pytest.raises(ValueError, match="last=0 must be at least 1"):
        mgd.truncated(mg, 0)
    with pytest.raises(TypeError, match="mg must be a metagradient"):
        mgd.truncated(3, 2)

"""`metagrad.descent` is the loop that it says it is."""

import jax
import numpy as np
import optax
import pytest
import regression as run

import metagrad

PROJECTION = lambda meta: (
    meta | {"weight": optax.projections.projection_box(meta["weight"], 0.5, 1.2)}
)


def assert_close(ours, theirs, tolerance=1e-11):
    for one, other in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        scale = np.abs(other).max()
        np.testing.assert_allclose(one, other, rtol=tolerance, atol=tolerance * scale)


def by_hand(optimizer, rounds, seeds, projection, key=0):
    """The same descent, written out with JAX's gradient of the unrolled run."""
    meta, values, norms = run.meta0(), [], []
    memory = optimizer.init(meta)
    oracle = jax.jit(jax.value_and_grad(run.unrolled))
    for number in range(rounds):
        outcomes = []
        for seed in range(seeds):
            own = jax.random.fold_in(jax.random.fold_in(jax.random.key(key), number), seed)
            outcomes.append(oracle(meta, *run.problem(number, own)))
        value = sum(value for value, _ in outcomes) / seeds
        gradient = jax.tree.map(lambda *g: sum(g) / seeds, *[grad for _, grad in outcomes])
        changes, memory = optimizer.update(gradient, memory, meta)
        meta = projection(optax.apply_updates(meta, changes))
        values.append(float(value))
        norms.append(float(optax.tree.norm(gradient)))
    return meta, values, norms


@pytest.mark.parametrize(
    "optimizer",
    [
        optax.adam(0.1, eps_root=1e-8),
        optax.sgd(optax.cosine_decay_schedule(0.1, 5), momentum=0.9),
        optax.sign_sgd(0.05),
    ],
    ids=["adam", "momentum with a schedule", "sign"],
)
def test_is_the_loop_by_hand(optimizer):
    with jax.enable_x64(True):
        mg = metagrad.compile(run.step).metagradient(run.outer)
        result = metagrad.descent(
            mg, run.meta0(), run.problem, optimizer, rounds=5, seeds=2, projection=PROJECTION, key=3
        )
        meta, values, norms = by_hand(optimizer, 5, 2, PROJECTION, key=3)
        assert_close(result.meta, meta)
        assert_close(result.history.column("value"), np.array(values))
        assert_close(result.history.column("gradient_norm"), np.array(norms))
        assert result.best.round == int(np.argmin(values))
        assert result.reason == "rounds"

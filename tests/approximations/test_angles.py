"""`metagrad.check` of an approximation prints its angle to the exact gradient."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from exact import runs

import metagrad
from metagrad import FirstOrder, Truncated

ARGUMENTS = lambda: ({"params": runs.params()}, runs.meta(), runs.data(4))


def flat(tree):
    return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree)])


def test_the_angle():
    mg = runs.sgd().metagradient(runs.outer, ("meta", "state"), approximation=FirstOrder())
    report = metagrad.check(mg, *ARGUMENTS())
    assert isinstance(report, metagrad.ApproximationReport) and report.verdict == "approximate"
    ours, exact = mg(*ARGUMENTS()).grad, mg.with_approximation(None)(*ARGUMENTS()).grad
    lengths = [np.linalg.norm(flat(tree)) for tree in (ours, exact)]
    cosine = flat(ours) @ flat(exact) / math.prod(lengths)
    assert report.overall.cosine == pytest.approx(cosine, rel=1e-12)
    assert report.overall.degrees == pytest.approx(math.degrees(math.acos(cosine)), rel=1e-6)
    assert report.overall.norm_ratio == pytest.approx(lengths[0] / lengths[1], rel=1e-12)
    assert report.overall.degrees > 1
    a, b = (np.asarray(grad[1]["params"]["w1"]) for grad in (ours, exact))
    of_leaf = report.leaves["state['params']['w1']"]
    assert of_leaf.cosine == pytest.approx(
        np.vdot(a, b) / np.linalg.norm(a) / np.linalg.norm(b), rel=1e-12
    )
    assert set(report.leaves) == {
        "meta['rate']",
        "meta['weights']",
        *(f"state['params']['{name}']" for name in ("b1", "w1", "w2")),
    }
    parts = (flat(grad[1]["params"]) for grad in (ours, exact))
    assert list(report.parts) == ["state['params']"]
    assert report.parts["state['params']"].cosine == pytest.approx(
        (lambda a, b: a @ b / np.linalg.norm(a) / np.linalg.norm(b))(*parts), rel=1e-12
    )
    text = str(report)
    assert text.startswith("metagrad.check: approximate. FirstOrder(): inner gradients are taken")
    assert "all of state['params']" in text
    assert f"at {report.overall.degrees:.2f} degrees to the exact one" in text
    assert "meta['weights']" in text and "norm ratio" in text and "disagrees" not in text


def test_of_a_vector_and_where_nothing_is_left():
    """The rate of the first step alone: the truncated gradient is zero, and has no angle."""
    step = runs.sgd(lambda p, z, batch: metagrad.grad(runs.loss)(p, {"weights": 1.0}, batch))
    outer = lambda s: s["params"]["w2"] ** 2
    mg = step.metagradient(outer, approximation=Truncated(1))
    state, _, batches = ARGUMENTS()
    report = metagrad.check(mg, state, {"rate": -1.5}, batches)
    assert "Truncated(steps=1): only the last of 4 steps is" in str(report)
    assert report.overall.norm_ratio < 1

    @metagrad.compile
    def early(w, z, t):
        return w - jnp.where(t == 0, z, 0.0) * metagrad.grad(lambda w: jnp.sum(w**2))(w)

    mg = early.metagradient(jnp.sum, approximation=Truncated(1))
    report = metagrad.check(mg, jnp.ones(2), 0.1, jnp.arange(3))
    assert math.isnan(report.overall.cosine) and report.overall.norm_ratio == 0
    assert "nan" in str(report)


def test_nothing_left_out():
    mg = runs.sgd().metagradient(runs.outer, approximation=Truncated(9))
    report = metagrad.check(mg, *ARGUMENTS())
    assert report.overall.degrees == pytest.approx(0, abs=1e-5)
    assert "leaves nothing out of a run of 4 steps" in str(report)


def test_options_of_differences_are_refused():
    mg = runs.sgd().metagradient(runs.outer, approximation=FirstOrder())
    with pytest.raises(ValueError, match=r"leaf=.* compared with the exact metagradient"):
        metagrad.check(mg, *ARGUMENTS(), leaf="meta['rate']")

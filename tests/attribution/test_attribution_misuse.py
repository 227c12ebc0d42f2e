"""Arguments of the wrong kind, and how results print."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metagrad import attribution
from metagrad.attribution import Retrained, Scores, baselines

SUBSETS = np.array([[1, 0], [0, 1], [1, 1]], bool)
RETRAINED = Retrained(SUBSETS, np.array([[1.0], [2.0], [3.5]]), np.array([3.5]))
SCORES = Scores(np.array([[1.0, 2.0]]), np.array([3.0]), np.ones(2), "by hand", {})


@pytest.mark.parametrize("function", [attribution.lds, attribution.leave_k_out])
def test_scores_and_trainings_are_not_mistaken(function):
    with pytest.raises(TypeError, match="scores must be Scores, and is a Retrained"):
        function(RETRAINED, SCORES)
    with pytest.raises(TypeError, match="retrained must be Retrained, and is a ndarray"):
        function(SCORES, RETRAINED.outcomes)


def test_compare_takes_functions_and_names():
    with pytest.raises(TypeError, match=r"retrained must be a dict .* is a Retrained"):
        attribution.compare({"by hand": lambda: SCORES}, RETRAINED)
    with pytest.raises(TypeError, match=r"methods\['by hand'\] must be a function .* a Scores"):
        attribution.compare({"by hand": SCORES}, {"all": RETRAINED})


def test_tracin_says_how_checkpoints_are_stacked():
    losses = lambda params, x: (params["w"] * x - 1) ** 2
    outcome = lambda params: params["w"] ** 2
    checkpoints = [{"w": jnp.float32(w)} for w in (0.5, 1.0)]
    examples = jnp.arange(3.0)
    with pytest.raises(ValueError, match=r"checkpoints is a list .*jnp\.stack"):
        baselines.tracin(losses, outcome, checkpoints, [0.1, 0.2], examples)
    stacked = jax.tree.map(lambda *rows: jnp.stack(rows), *checkpoints)
    scores = baselines.tracin(losses, outcome, stacked, [0.1, 0.2], examples)
    by_hand = [
        -sum(r * 2 * (w * x - 1) * x * 2 * w for r, w in ((0.1, 0.5), (0.2, 1.0))) for x in examples
    ]
    np.testing.assert_allclose(scores.values[0], by_hand, rtol=1e-6)


def test_results_print_in_a_line():
    assert repr(RETRAINED) == "Retrained(3 subsets of 2 examples, 1 queries)"
    assert repr(attribution.leave_k_out(SCORES, RETRAINED)).startswith(
        "LeaveKOut(3 subsets, 1 queries: correlation "
    )

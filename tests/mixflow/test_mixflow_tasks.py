"""The tasks of MixFlow-MG: every contender has the gradient of the unrolled run, in f64."""

import jax
import numpy as np
import pytest

import metagrad
from benchmarks.contenders.contender import Problem
from benchmarks.contenders.metagrad_schedules import metagradient
from benchmarks.mixflow.contenders import AUTO, BY_HAND, CONTENDERS, DEFAULT, OURS, OURS_BLOCKS
from benchmarks.mixflow.tasks import TASKS, drawn, task
from benchmarks.models.model import as_dtype

STEPS, CONTEXT, BATCH = 3, 5, 2
DOUBLE = 1e-11


JUDGED = {
    "rates": ["checkpoint + blocks", BY_HAND, OURS, OURS_BLOCKS],
    "maml": [BY_HAND, OURS_BLOCKS],
    "weighting": [BY_HAND, OURS_BLOCKS],
}


def problem(name: str, blocks: bool = False) -> Problem:
    of = task(name, "tiny", CONTEXT, BATCH, blocks=blocks)
    return Problem(of, STEPS, *as_dtype(drawn(of, STEPS), np.float64))


@pytest.mark.parametrize(
    "name, contenders",
    [
        pytest.param(*judged, marks=() if judged[0] == "rates" else pytest.mark.long)
        for judged in JUDGED.items()
    ],
)
def test_contenders_have_the_gradient_of_the_unrolled_run(name, contenders):
    of = problem(name)
    with jax.enable_x64(True):
        results = {
            each: CONTENDERS[each].build(of).run(*of.arguments) for each in (DEFAULT, *contenders)
        }
    value, gradient = results.pop(DEFAULT)
    wanted = floats(gradient)
    assert sum(np.max(np.abs(leaf)) > 0 for leaf in wanted) > 2
    for each, (its_value, its_gradient) in results.items():
        assert abs(float(its_value) - float(value)) <= DOUBLE * abs(float(value)), each
        for leaf, of_default in zip(floats(its_gradient), wanted, strict=True):
            difference = np.max(np.abs(leaf - of_default), initial=0)
            assert difference <= DOUBLE * np.max(np.abs(of_default)), each


@pytest.mark.parametrize("name", TASKS)
def test_torchopt_has_the_gradient_of_the_unrolled_run(name):
    torch = pytest.importorskip("torch")
    pytest.importorskip("torchopt")
    of = problem(name)
    with jax.enable_x64(True):
        value, gradient = CONTENDERS[DEFAULT].build(of).run(*of.arguments)
        before = torch.get_default_dtype()
        # TorchOpt computes Adam's bias correction in the default dtype.
        torch.set_default_dtype(torch.float64)
        try:
            its_value, its_gradient = CONTENDERS["TorchOpt"].build(of).run(*of.arguments)
        finally:
            torch.set_default_dtype(before)
    assert abs(float(its_value) - float(value)) <= DOUBLE * abs(float(value))
    # Of a state TorchOpt differentiates the parameters, its first part.
    wanted = floats(gradient[0] if of.model.wrt == "state" else gradient)
    for leaf, of_default in zip(floats(its_gradient), wanted, strict=True):
        assert np.max(np.abs(leaf - of_default)) <= DOUBLE * np.max(np.abs(of_default))


def test_the_final_state_is_a_result_or_a_temporary():
    """So metagrad's memory includes it: dropped, it moves from the results to the temporaries."""
    of = problem("rates")
    with jax.enable_x64(True):
        lowered = metagradient(of, metagrad.StoreAll()).lower(*of.arguments)
        fused, signature = lowered.program.fused, lowered.program.signature

        def dropping(*inputs):
            result = signature.unflatten(fused.call(*inputs))
            return result.value, result.grad

        kept = lowered.compile().memory_analysis()
        dropped = jax.jit(dropping).lower(*fused.inputs).compile().memory_analysis()
        counted = CONTENDERS[OURS].build(of).memory.bytes
        plain = AUTO.build(of).memory.bytes
    moved = dropped.temp_size_in_bytes - kept.temp_size_in_bytes
    assert abs(moved - of.state_bytes) <= 0.02 * of.state_bytes
    assert counted - plain == of.state_bytes


def floats(tree) -> list[np.ndarray]:
    leaves = [np.asarray(leaf) for leaf in jax.tree.leaves(tree)]
    return [leaf for leaf in leaves if leaf.dtype == np.float64]

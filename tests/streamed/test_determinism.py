"""`verify="replay"`: a replay that computes another state is caught."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from exact.unrolled import assert_close

import metagrad

from . import plans, small

STEPS = 10


def run(step, slots, *, steps=STEPS, within=None, verify="replay"):
    mg = step.metagradient(small.outer, verify=verify)
    stream = metagrad.Stream(small.stacked(steps))
    arguments = *small.arguments(), stream
    return plans.compiled(mg, *arguments, length=small.LENGTH, slots=slots, within=within)(
        *arguments
    )


@pytest.mark.parametrize("slots", [1, 3])
@pytest.mark.parametrize("within", [None, metagrad.Binomial(2)], ids=str)
def test_good_runs_pass(slots, within):
    checked = run(small.step, slots, within=within)
    # With checksums it is another program, which XLA may round otherwise.
    unchecked = run(small.step, slots, within=within, verify=None)
    assert_close(tuple(checked), tuple(unchecked), 1e-12)


def test_the_step_and_the_leaf_are_named():
    """The host answers otherwise when step 4 is run for the second time."""
    # XLA calls the host in a thread of its own, where the test's double precision is off.
    asked = []

    def noise(t):
        asked.append(int(t))
        return np.float32(1e-12 * (int(t) == 4 and asked.count(4) > 1))

    @metagrad.compile(ad="jax")
    def step(state, z, batch):
        new = {"w": state["w"] * (1 - z["rate"]), "m": state["m"], "t": state["t"] + 1}
        shift = jax.pure_callback(noise, jax.ShapeDtypeStruct((), jnp.float32), state["t"])
        new["w"] += jax.lax.stop_gradient(shift) + 0 * jnp.sum(batch["x"]) * z["weights"][0]
        return new

    with pytest.raises(metagrad.ReplayError) as caught:
        run(step, slots=2)
    assert str(caught.value).startswith(
        "the replay of steps 3 to 5 does not end in the state of the training run: at step 6, "
        "state['w'] differs. The gradient would be that of another run. Usual causes: a step that "
        "calls the host (jax.pure_callback, io_callback) and gets other answers"
    )

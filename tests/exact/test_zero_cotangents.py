"""Float leaves of which the gradient is zero for what the step is.

Their zeros are made when the run is over. No loop carries them, and nobody asks whether they are
finite: XLA would compute the answer when it compiles, for minutes if the leaf is large.
"""

import re

import jax
import jax.numpy as jnp
import pytest
from unrolled import assert_exact

import metagrad
from metagrad import LazyKary
from metagrad.diagnostics import not_finite

pytestmark = pytest.mark.filterwarnings("ignore:the step .* never reads meta:UserWarning")

UNREAD, OF_LOSS, STOPPED, BATCH, STATE = 1009, 1013, 1019, 1021, 1031
"""Sizes that nothing else in a program has."""

SIZES = re.compile("|".join(map(str, (UNREAD, OF_LOSS, STOPPED, BATCH, STATE))))


def arguments():
    meta = {
        "rate": jnp.asarray(0.1),
        "unread": jnp.ones(UNREAD),
        "of_loss": jnp.ones(OF_LOSS),
        "stopped": jnp.ones(STOPPED),
    }
    batches = {"x": jnp.arange(4.0), "unread": jnp.ones((4, BATCH))}
    return {"w": jnp.ones(2), "unread": jnp.ones(STATE)}, meta, batches


def loss(w, z, batch):
    """It is given all metaparameters, and reads two."""
    return jnp.sum((w * batch["x"] - jax.lax.stop_gradient(z["stopped"])[:2]) ** 2)


def train(s, z, batch):
    g = metagrad.grad(loss)(s["w"], z, batch)
    return {"w": s["w"] - z["rate"] * g, "unread": s["unread"] + 1}


@pytest.mark.parametrize("ad", ["auto", "jax"])
def test_zeros_are_made_at_the_end(ad):
    step = metagrad.compile(train, ad=ad)
    wrt = "meta", "state", "batches"
    result, lowered = assert_exact(
        step, lambda s: jnp.sum(s["w"] ** 2), wrt, *arguments(), schedule=LazyKary(2)
    )
    meta, state, batches = result.grad
    zeros = [meta[name] for name in ("unread", "of_loss", "stopped")]
    for zero in (*zeros, state["unread"], batches["unread"]):
        assert not zero.any()

    program = lowered.ir("scheduled").split("@main(")[1]
    loops = [line for line in program.splitlines() if "stablehlo.while(" in line]
    carried = [SIZES.findall(line.split(") : ")[1]) for line in loops]
    # The state's leaf itself is carried, and in slots.
    assert {size for sizes in carried for size in sizes} == {str(STATE)}
    # Five arrays of zeros, broadcast from one number when all is done.
    last_loop = program.rindex("stablehlo.while(")
    made = re.findall(r"broadcast_in_dim .*-> tensor<(\S+)xf64>", program[last_loop:])
    sizes = STATE, UNREAD, OF_LOSS, STOPPED
    assert sorted(made) == sorted([*map(str, sizes), f"4x{BATCH}"])


def test_they_are_not_looked_at(monkeypatch):
    """Neither is a leaf of the state that no step changes."""
    shapes = []
    is_finite = not_finite.is_finite

    def record(gradients, state):
        shapes.append([array.shape for array in (*gradients, *state)])
        return is_finite(gradients, state)

    monkeypatch.setattr(not_finite, "is_finite", record)
    step = metagrad.compile(lambda s, z, batch: train(s, z, batch) | {"frozen": s["frozen"]})
    state, meta, batches = arguments()
    mg = step.metagradient(lambda s: jnp.sum(s["w"] ** 2), ("meta", "state", "batches"))
    mg.lower(state | {"frozen": jnp.ones(5)}, meta, batches).compile()
    # The value; the gradients of w, rate and x; w and `unread` of the final state, which moves.
    assert sorted(shapes[0]) == sorted([(), (2,), (), (4,), (2,), (STATE,)])


def warning(w):
    """What a run from `w` warns of."""
    step = metagrad.compile(
        lambda s, z, b: {
            "w": s["w"] - z["rate"] * jnp.sqrt(s["w"] * jax.lax.stop_gradient(z["scale"]) * b),
            "frozen": s["frozen"],
        }
    )
    mg = step.metagradient(lambda s: jnp.sum(s["w"]), ("meta", "state"))
    meta = {"rate": jnp.asarray(0.1), "scale": jnp.ones(2)}
    with pytest.warns(RuntimeWarning) as caught:
        mg({"w": jnp.asarray(w), "frozen": jnp.ones(2)}, meta, jnp.ones(2))
    return str(caught[0].message)


def test_what_is_not_zero_is_still_looked_at():
    """Beside a gradient of zeros, and beside a leaf of the state that no step changes."""
    assert "NaN or infinity in the gradient of meta['rate']" in warning([1.0, 0.0])
    assert "Training itself gave the first: at step 0, in state['w']" in warning([1.0, -1.0])

"""An error from inside the user's function stays what it is, and says what the function got."""

import jax
import jax.numpy as jnp
import pytest

import metagrad

X, Y = jnp.ones((64, 3)), jnp.ones(64)
STATE, META = {"w": jnp.zeros((3, 2))}, {"rate": jnp.float32(0.1)}


def step(state, meta, batch):
    x, y = batch
    loss = lambda w: jnp.mean((x @ w)[:, 0] - y)
    return {"w": state["w"] - meta["rate"] * metagrad.grad(loss)(state["w"])}


def note_of(error, step, *arguments, outer=lambda s: jnp.sum(s["w"]), **options):
    with pytest.raises(error) as caught:
        metagrad.compile(step).metagradient(outer, **options)(*arguments)
    notes = [note for note in caught.value.__notes__ if note.startswith("metagrad")]
    assert len(notes) == 1
    return str(caught.value), notes[0]


def test_a_batch_that_is_not_stacked():
    """Its rows are taken for steps."""
    message, note = note_of(IndexError, step, STATE, META, (X, Y))
    assert "Too many indices" in message
    assert note == (
        "metagrad called the step as step(state, meta, batch), the arguments of "
        "mg(state0, meta, batches) in that order, with\n"
        "  state: state['w'] float32[3,2]\n"
        "  meta: meta['rate'] float32[]\n"
        "  batch: batch[0] float32[3], batch[1] float32[]\n"
        "The leading axis of batches, of length 64, counts the steps: batch is one entry of it."
    )


def test_state_and_meta_in_each_others_place():
    message, note = note_of(KeyError, step, META, STATE, (X[None], Y[None]))
    assert message in ("'w'", "'rate'")
    assert "  state: state['rate'] float32[]\n  meta: meta['w'] float32[3,2]\n" in note


def test_a_state_of_another_shape():
    """The error is metagrad's: a row of a batch broadcasts into the state."""
    broadcasts = lambda s, z, x: {"w": s["w"][:, 0] * x[:, None]}
    message, note = note_of(TypeError, broadcasts, STATE, META, jnp.ones((2, 5)))
    assert "must not change the shape" in message and "  batch: float32[5]\n" in note


def test_the_users_own_error():
    class Own(Exception):
        pass

    def raises(state, meta, batch):
        raise Own("mine")

    message, note = note_of(Own, raises, STATE, META, (X[None], Y[None]))
    assert message == "mine" and "step(state, meta, batch)" in note


def test_the_outer_function():
    outer = lambda state, x, y: jnp.mean((x @ state["w"] - y) ** 2)
    one = (X[None], Y[None])
    with pytest.raises((TypeError, ValueError)) as caught:
        good = lambda s, z, b: {"w": s["w"] * z["rate"]}
        metagrad.compile(good).metagradient(outer)(STATE, META, one, X, Y)
    note = "\n".join(caught.value.__notes__)
    assert "outer(state, *outer_args)" in note
    assert "  state: state['w'] float32[3,2]\n" in note
    assert "  outer_args: outer_args[0] float32[64,3], outer_args[1] float32[64]" in note


def test_long_lists_are_cut():
    state = {f"w{i}": jnp.ones(2) for i in range(9)}
    _, note = note_of(KeyError, lambda s, z, b: s["missing"], state, None, jnp.arange(2))
    assert "state['w5'] float32[2] and 3 more arrays\n  meta: no arrays\n  batch: int32[]\n" in note


def test_an_error_of_a_later_call_has_one_note():
    """It comes from tracing again, for an array in the place of a Python number."""

    def checks(state, meta, batch):
        if not meta["rate"].weak_type:
            raise RuntimeError("an array")
        return {"w": state["w"] * meta["rate"]}

    mg = metagrad.compile(checks).metagradient(lambda s: jnp.sum(s["w"]))
    mg(STATE, {"rate": 0.1}, jnp.arange(2))
    with pytest.raises(RuntimeError, match="an array") as caught:
        mg(STATE, META, jnp.arange(2))
    assert sum(note.startswith("metagrad") for note in caught.value.__notes__) == 1
    assert jax.numpy.isfinite(mg(STATE, {"rate": 0.1}, jnp.arange(2)).value)

"""Batches one by one are refused; pytrees of stacked arrays that are lists or tuples are not."""

import typing

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import metagrad

X, Y = jnp.arange(24.0).reshape(2, 4, 3), jnp.arange(8.0).reshape(2, 4)
STACK = "jax.tree.map(lambda *rows: jnp.stack(rows), *batches)"


def lower(batches, step=lambda w, z, b: w * z):
    return metagrad.compile(step).metagradient(jnp.sum).lower(jnp.ones(3), 0.5, batches)


REFUSED = {
    "pairs": (
        [(X[0], Y[0]), (X[1], Y[1])],
        "a list of 2 entries that are alike (each float32[4,3]",
    ),
    "arrays": ([X[0]] * 20, "a list of 20 entries that are alike (each float32[4,3])"),
    "dicts of NumPy arrays": (
        [{"x": np.ones((4, 3), np.float32)} for _ in range(3)],
        "a list of 3 entries that are alike (each float32[4,3])",
    ),
    "shapes": ([jax.ShapeDtypeStruct((4,), jnp.int32)] * 2, "(each int32[4])"),
    "numbers": ([0.1, 0.2, 0.3], "(each float32[])"),
    "a long tuple": ((X[0],) * 9, "a tuple of 9 entries that are alike"),
    "many arrays": ([[X[0]] * 5] * 2, "float32[4,3] and 2 more arrays)"),
    "a smaller last one": ([(X[0], Y[0]), (X[1, :3], Y[1, :3])], "of different sizes"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_batches_one_by_one(name):
    batches, says = REFUSED[name]
    with pytest.raises(ValueError) as error:
        lower(batches)
    message = str(error.value)
    assert says in message and f"stack them: batches = {STACK}" in message


def test_what_the_message_says_to_do():
    """Stacked as it says, they are the run of as many steps."""
    batches = [(X[0], Y[0]), (X[1], Y[1])]
    stacked = jax.tree.map(lambda *rows: jnp.stack(rows), *batches)
    step = lambda w, z, b: w - z * metagrad.grad(lambda w: jnp.mean((b[0] @ w - b[1]) ** 2))(w)
    outer = lambda w: jnp.sum(w**2)
    result = metagrad.compile(step).metagradient(outer)(jnp.ones(3), 0.01, stacked)

    def value(z):
        w = jnp.ones(3)
        for batch in batches:
            w = step(w, z, batch)
        return outer(w)

    expected = jax.value_and_grad(value)(0.01)
    np.testing.assert_allclose((result.value, result.grad), expected, rtol=1e-5)


class Pair(typing.NamedTuple):
    inputs: jax.Array
    targets: jax.Array


ACCEPTED = {
    "inputs and targets": (X, X),
    "training and validation": ((X, Y), (X, Y)),
    "eight arrays": (Y,) * 8,
    "a named tuple": Pair(X, X),
    "a dict": dict.fromkeys(range(20), Y),
    "a list of two kinds": [X, Y],
    "a list of two dtypes": [Y, jnp.zeros((2, 4), jnp.int32)],
    "a list in a dict": {"views": [X, X]},
    "a list of one": [X],
}


@pytest.mark.parametrize("name", ACCEPTED)
def test_stacked_arrays_in_a_container(name):
    assert lower(ACCEPTED[name]).plan.steps == 2


def test_a_short_tuple_of_batches_is_named_where_the_step_fails():
    step = lambda w, z, b: w - z * jnp.sum(b[0] @ w - b[1])
    with pytest.raises(TypeError) as error:
        lower(((X[0], Y[0]), (X[1], Y[1])), step)
    notes = "\n".join(error.value.__notes__)
    assert (
        "batches is a tuple of 2 entries that are alike. If each entry is the batch of one step, "
        f"stack them: batches = {STACK}." in notes
    )

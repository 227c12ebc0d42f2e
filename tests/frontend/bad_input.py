"""A metagradient that is lowered with one thing wrong, for the tests of what is refused."""

import jax
import jax.experimental
import jax.numpy as jnp
import pytest

import metagrad

W, Z, XS = jnp.ones(2), jnp.asarray(0.5), jnp.ones((3, 2))
STATE = {"w": W, "n": jnp.asarray(0, jnp.int32)}


def descend(w, z, x):
    return w - 0.1 * metagrad.grad(lambda w: jnp.sum((w * z - x) ** 2))(w)


def total(state):
    return sum(
        jnp.sum(leaf) for leaf in jax.tree.leaves(state) if jnp.issubdtype(leaf.dtype, jnp.floating)
    )


def lower(
    step=descend,
    state=W,
    meta=Z,
    batches=XS,
    *outer_args,
    outer=total,
    step_has_aux=False,
    **options,
):
    return (
        metagrad.compile(step, has_aux=step_has_aux)
        .metagradient(outer, **options)
        .lower(state, meta, batches, *outer_args)
    )


def refused(error, *says, **arguments):
    """The message has each of `says`, in this order."""
    with pytest.raises(error) as caught:
        lower(**arguments)
    message, rest = str(caught.value), str(caught.value)
    for part in says:
        assert part in rest, f"{part!r} is missing, or too early, in:\n{message}"
        rest = rest.split(part, 1)[1]

"""What a metagradient gives back."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import metagrad


def test_it_unpacks_to_three(step, outer, arguments):
    value, grad, state = result = step.metagradient(outer)(*arguments)
    assert isinstance(result, metagrad.Result) and result._fields == ("value", "grad", "state")
    assert result.value is value and result.grad is grad and result.state is state
    np.testing.assert_allclose(value, outer(state), rtol=1e-6)


def test_with_aux_it_unpacks_to_four(outer, arguments):
    @metagrad.compile(has_aux=True)
    def step(w, decay, x):
        value, g = metagrad.value_and_grad(lambda w: jnp.sum((w - x) ** 2) + decay * jnp.sum(w**2))(
            w
        )
        return w - 0.1 * g, {"loss": value}

    _, _, _, aux = result = step.metagradient(outer)(*arguments)
    assert isinstance(result, metagrad.ResultWithAux)
    assert aux["loss"].shape == (3,)


def test_outer_with_aux(step, arguments):
    (value, aux), _, state = step.metagradient(
        lambda w: (jnp.sum(w), {"w": w, "n": 2}), has_aux=True
    )(*arguments)
    np.testing.assert_array_equal(aux["w"], state)
    np.testing.assert_allclose(value, jnp.sum(state), rtol=1e-6)
    assert aux["n"] == 2


def test_float0_where_a_leaf_is_no_float():
    """As `jax.grad(..., allow_int=True)` gives them, shapes and all."""
    step = metagrad.compile(
        lambda s, z, b: {"w": s["w"] * z["scale"] + b["x"], "n": s["n"] + z["by"], "key": s["key"]}
    )
    state = {"w": jnp.ones(2), "n": jnp.zeros(3, int), "key": jax.random.key(0)}
    meta, batches = {"scale": 2.0, "by": 1}, {"x": jnp.ones((2, 2)), "index": jnp.arange(2)}
    result = step.metagradient(lambda s: jnp.sum(s["w"]), ("state", "meta", "batches"))(
        state, meta, batches
    )
    shapes = {
        "n": (result.grad[0], (3,)),
        "key": (result.grad[0], ()),
        "by": (result.grad[1], ()),
        "index": (result.grad[2], (2,)),
    }
    for name, (tree, shape) in shapes.items():
        assert (
            isinstance(tree[name], np.ndarray)
            and tree[name].dtype == jax.dtypes.float0
            and tree[name].shape == shape
        )
    np.testing.assert_allclose(result.grad[0]["w"], [4.0, 4.0])
    np.testing.assert_allclose(result.grad[2]["x"], [[2.0, 2.0], [1.0, 1.0]])


@pytest.mark.parametrize(
    "wrt, kind", [("meta", jax.Array), (("meta",), tuple), (["state", "meta"], tuple)]
)
def test_a_tuple_for_a_tuple(step, outer, arguments, wrt, kind):
    assert isinstance(step.metagradient(outer, wrt)(*arguments).grad, kind)


def test_repr(step, outer):
    mg = step.metagradient(outer, ("meta", "state"), schedule=metagrad.LazyKary(3))
    assert (
        repr(mg)
        == "Metagradient(train_step, validation, wrt=('meta', 'state'), schedule=LazyKary(k=3))"
    )
    assert "schedule=Auto()" in repr(step.metagradient(outer))

"""Collectives over axes that nobody binds, or that someone else does, are refused with their line.

Axes inside the step and meshes of one device are allowed; tests/sharded has meshes of several.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

import metagrad

W, Z, XS = jnp.asarray([0.3, -0.7]), jnp.asarray(0.5), jnp.linspace(-1.0, 1.0, 6).reshape(3, 2)
ONE = Mesh(np.array(jax.devices()[:1]), "d")


def gradient(w, z, x, inside=lambda v: v):
    return metagrad.grad(lambda w: jnp.sum(inside(w * z - x) ** 2))(w)


def summed(mesh):
    return jax.shard_map(lambda v: lax.psum(v, "d"), mesh=mesh, in_specs=P("d"), out_specs=P())


def placed(mesh):
    return lambda v: lax.with_sharding_constraint(v, NamedSharding(mesh, P("d")))


def jitted(mesh):
    return jax.jit(
        lambda v: 2 * v,
        in_shardings=NamedSharding(mesh, P("d")),
        out_shardings=NamedSharding(mesh, P("d")),
    )


UNBOUND = {
    "psum": lambda w, z, x: w - lax.psum(gradient(w, z, x), "d"),
    "pmean in the loss": lambda w, z, x: w - gradient(w, z, x, lambda v: lax.pmean(v, "d")),
    "axis_index": lambda w, z, x: w - gradient(w, z, x) * lax.axis_index("d"),
}


@pytest.mark.parametrize("name", UNBOUND)
def test_axes_that_nobody_binds(name):
    with pytest.raises(
        NotImplementedError,
        match=r"the training step has a collective over an axis that is not bound in it at "
        r".*test_named_axes.py:\d+ .*jax.shard_map or jax.vmap around",
    ):
        metagrad.compile(UNBOUND[name]).metagradient(jnp.sum).lower(W, Z, XS)


def test_an_unbound_axis_in_the_outer_function():
    with pytest.raises(
        NotImplementedError,
        match=r"the outer function `<lambda>` has a collective .* at .*test_named_axes.py:\d+",
    ):
        metagrad.compile(lambda w, z, x: w - z * x).metagradient(
            lambda w: lax.psum(jnp.sum(w), "d")
        ).lower(W, Z, XS)


def test_other_names_that_are_not_defined():
    """Python's own error stays what it is."""
    with pytest.raises(NameError, match="name 'undefined' is not defined"):
        metagrad.compile(lambda w, z, x: undefined).metagradient(jnp.sum).lower(W, Z, XS)  # noqa: F821


def test_an_axis_of_the_callers():
    """Each device would need the others' parts in the middle of its run."""
    mg = metagrad.compile(UNBOUND["psum"]).metagradient(jnp.sum)
    outside = jax.shard_map(
        lambda w, z, x: mg(w, z, x).grad[None],
        mesh=ONE,
        in_specs=(P(), P(), P()),
        out_specs=P("d"),
        check_vma=False,
    )
    with pytest.raises(
        NotImplementedError,
        match=r"the training step has a collective over an axis of a shard_map or a vmap "
        r"around the metagradient: psum at .*test_named_axes.py",
    ):
        outside(W, Z, XS)


ASKING = {"shard_map": summed, "sharding_constraint": placed, "jit": jitted}


def test_a_mean_of_gradients_over_one_device():
    """Data parallel training as for many devices: the gradient inside, the collective around it."""

    def step(mean):
        return lambda w, z, x: (
            w
            - 0.1
            * mean(lambda w, x: metagrad.grad(lambda w: jnp.sum(jnp.tanh(w * x * z)))(w))(w, x)
        )

    sharded = lambda f: jax.shard_map(
        lambda w, x: lax.pmean(f(w, x), "d"),
        mesh=ONE,
        in_specs=(P(), P()),
        out_specs=P(),
        check_vma=False,
    )
    result = lambda mean: metagrad.compile(step(mean)).metagradient(jnp.sum)(W, Z, XS).grad
    np.testing.assert_allclose(result(sharded), result(lambda f: f), rtol=1e-6)


@pytest.mark.parametrize("where", ["step", "loss"])
@pytest.mark.parametrize("name", [*ASKING, "vmap"])
def test_one_device(name, where):
    """The code of a user who has but one device now: as if the mesh were not there."""
    ask, plain = {
        "shard_map": (summed(ONE), lambda v: v),
        "sharding_constraint": (placed(ONE), lambda v: v),
        "jit": (jitted(ONE), lambda v: 2 * v),
        "vmap": (jax.vmap(lambda v: v * lax.psum(v, "i"), axis_name="i"), lambda v: v * jnp.sum(v)),
    }[name]

    def result(ask):
        step = (
            (lambda w, z, x: w - 0.1 * ask(gradient(w, z, x)))
            if where == "step"
            else (lambda w, z, x: w - 0.1 * gradient(w, z, x, ask))
        )
        return metagrad.compile(step).metagradient(
            jnp.sum, wrt=("meta", "batches"), schedule=metagrad.LazyKary(2)
        )(W, Z, XS)

    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6),
        tuple(result(ask)),
        tuple(result(plain)),
    )

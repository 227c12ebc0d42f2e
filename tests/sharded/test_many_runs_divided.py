"""Runs side by side whose axis is divided over devices: each device takes its own runs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import metagrad

RUNS, STEPS = 8, 4


def step(w, scale, x):
    return w - 0.1 * metagrad.grad(lambda w: scale * jnp.sum(jnp.sin(w * x) ** 2))(w)


def by_jax(scale, xs):
    def run(scale):
        final, _ = jax.lax.scan(lambda w, x: (step(w, scale, x), None), jnp.ones(3), xs)
        return jnp.sum(final**2)

    return jax.value_and_grad(run)(scale)


@pytest.mark.parametrize("kind", [AxisType.Auto, AxisType.Explicit], ids=str)
@pytest.mark.parametrize("around", [jax.jit, lambda f: f], ids=["jit", "eager"])
def test_runs_on_several_devices(kind, around):
    mesh = jax.make_mesh((4,), ("runs",), axis_types=(kind,))
    random = np.random.default_rng(0)
    with jax.enable_x64(True):
        mg = metagrad.compile(step).metagradient(lambda w: jnp.sum(w**2))
        divided = NamedSharding(mesh, P("runs"))
        scales = jax.device_put(random.uniform(1.0, 2.0, size=RUNS), divided)
        xs = jax.device_put(random.normal(size=(RUNS, STEPS, 3)), divided)
        with jax.set_mesh(mesh):
            got = around(jax.vmap(lambda s, x: mg(jnp.ones(3), s, x)[:2]))(scales, xs)
        want = jax.vmap(by_jax)(np.asarray(scales), np.asarray(xs))
        for g, w in zip(got, want):
            np.testing.assert_allclose(g, w, rtol=1e-12)
        assert got[1].sharding.spec == P("runs")


def test_tangents_inside_shard_map_are_refused():
    """In words, where JAX ends in an assertion without any."""
    mesh = jax.make_mesh((4,), ("runs",))
    mg = metagrad.compile(step).metagradient(lambda w: jnp.sum(w**2))
    gradient = lambda scale: mg(jnp.ones(3), scale, jnp.ones((STEPS, 3))).grad
    of_one = lambda scales: jax.jacfwd(gradient)(scales[0])[None]
    mapped = jax.shard_map(
        of_one, mesh=mesh, in_specs=P("runs"), out_specs=P("runs"), check_vma=False
    )
    scales = jax.device_put(jnp.linspace(1.0, 2.0, 4), NamedSharding(mesh, P("runs")))
    with pytest.raises(NotImplementedError, match=r"inside jax\.shard_map.*Take them outside"):
        jax.jit(mapped)(scales)
    outside = jax.jit(jax.vmap(jax.jacfwd(gradient)))
    np.testing.assert_allclose(outside(scales), outside(np.asarray(scales)), rtol=1e-5)

"""Sharded arguments: results are those of one device, memory is divided, and no more is sent
between devices than JAX's own training step and its VJP send.
"""

import functools

import jax
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

import metagrad
from sharded import networks

BINOMIAL = metagrad.Binomial(3)


def metagradient(schedule=BINOMIAL, wrt="meta"):
    step = metagrad.compile(networks.make_step(metagrad.grad))
    return step.metagradient(networks.outer, wrt, schedule=schedule)


@functools.cache
def on_one_device(dtype):
    with jax.enable_x64(dtype == np.float64):
        return metagradient(wrt=("meta", "state", "batches"))(*networks.arguments(dtype))


def assert_equal(result, expected, tolerance):
    for got, wanted in zip(jax.tree.leaves(result), jax.tree.leaves(expected), strict=True):
        if wanted.dtype == jax.dtypes.float0:
            continue
        scale = np.max(np.abs(wanted), initial=1e-30)
        np.testing.assert_allclose(got, wanted, rtol=0, atol=tolerance * scale)


@pytest.mark.parametrize("layout", networks.LAYOUTS)
def test_results_are_those_of_one_device(layout):
    with jax.enable_x64(True):
        arguments = networks.place(layout, networks.arguments(np.float64))
        result = metagradient(wrt=("meta", "state", "batches"))(*arguments)
        assert_equal(result, on_one_device(np.float64), 1e-12)
        same = lambda got, given: got.sharding.is_equivalent_to(given.sharding, got.ndim)
        assert all(jax.tree.leaves(jax.tree.map(same, result.state, arguments[0])))


def test_single_precision():
    """Sums are taken in another order. That costs no more than the order on one device does."""
    arguments = networks.place("both", networks.arguments(np.float32))
    result = metagradient(wrt=("meta", "state", "batches"))(*arguments)
    exact, on_one = on_one_device(np.float64), on_one_device(np.float32)
    for got, single, right in zip(*map(jax.tree.leaves, (result, on_one, exact)), strict=True):
        if right.dtype != jax.dtypes.float0:
            error = lambda x, right=right: np.linalg.norm(x - np.asarray(right))
            scale = np.linalg.norm(right)
            assert error(np.asarray(got)) <= 1e-6 * scale + 2 * error(np.asarray(single))


@pytest.mark.parametrize("schedule", [metagrad.StoreAll(), metagrad.Binomial(2, False)])
def test_other_schedules_under_jit(schedule):
    with jax.enable_x64(True):
        arguments = networks.place("fsdp", networks.arguments(np.float64))
        mg = metagradient(schedule, wrt=("meta", "state", "batches"))
        assert_equal(jax.jit(mg)(*arguments), on_one_device(np.float64), 1e-12)


def shapes(arguments):
    return jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), arguments
    )


def test_compiled_from_shapes():
    """Lowered and compiled before there are arrays, for arguments that are sharded as they say."""
    with jax.enable_x64(True):
        arguments = networks.place("fsdp", networks.arguments(np.float64))
        compiled = metagradient().lower(*shapes(arguments)).compile()
        result = compiled(*arguments)
        np.testing.assert_allclose(result.grad, on_one_device(np.float64).grad[0], atol=1e-14)
        assert result.state[0]["last"].sharding.spec[0] == "data"


def slots(layout, arguments):
    """Bytes on a device that a slot takes, by the difference that some slots make."""
    few, many = (
        metagradient(metagrad.Binomial(n)).lower(*arguments).compile().memory_analysis()
        for n in (1, 4)
    )
    return (many.temp_size_in_bytes - few.temp_size_in_bytes) / 3


def test_slots_are_divided():
    on_host = networks.arguments(np.float32)
    state, params = (
        sum(leaf.nbytes for leaf in jax.tree.leaves(tree)) for tree in (on_host[0], on_host[0][0])
    )
    whole = slots("data", networks.place("data", on_host))
    assert whole == pytest.approx(state + params, rel=0.1)
    assert slots("fsdp", networks.place("fsdp", on_host)) <= 1.1 * (state + params) / 8


def test_the_plan_counts_bytes_of_one_device():
    on_host = networks.arguments(np.float32)
    plan = metagradient().lower(*networks.place("data", on_host)).plan
    divided = metagradient().lower(*networks.place("fsdp", on_host)).plan
    assert divided.bytes < plan.bytes / 4


def test_auto_measures_on_sharded_arguments():
    with jax.enable_x64(True):
        arguments = networks.place("fsdp", networks.arguments(np.float64))
        mg = metagradient(metagrad.Auto(memory="1MiB"))
        np.testing.assert_allclose(
            mg(*arguments).grad, on_one_device(np.float64).grad[0], atol=1e-14
        )


def jax_collectives(arguments):
    """What JAX sends in one training step and in its VJP, results sharded as they are given."""
    state, weights, batches, *_ = arguments
    step = networks.make_step(jax.grad)

    def row(x):
        sharding = NamedSharding(x.sharding.mesh, P(*x.sharding.spec[1:]))
        return jax.ShapeDtypeStruct(x.shape[1:], x.dtype, sharding=sharding)

    floats = lambda tree: [
        x for x in jax.tree.leaves(tree) if jax.dtypes.issubdtype(x.dtype, np.floating)
    ]

    def vjp(state, weights, batch, state_bar):
        _, pullback = jax.vjp(step, state, weights, batch)
        zeros = lambda x: np.zeros(x.shape, jax.dtypes.float0)
        remaining = iter(state_bar)
        bar = jax.tree.map(
            lambda x: next(remaining) if jax.dtypes.issubdtype(x.dtype, np.floating) else zeros(x),
            state,
        )
        state_bar, weights_bar, _ = pullback(bar)
        return floats(state_bar), weights_bar

    placement = lambda tree: jax.tree.map(lambda x: x.sharding, tree)
    batch = jax.tree.map(row, batches)
    programs = (
        jax.jit(step, out_shardings=placement(state)).lower(state, weights, batch),
        jax.jit(vjp, out_shardings=(placement(floats(state)), weights.sharding)).lower(
            state, weights, batch, floats(state)
        ),
    )
    return [networks.collectives(program.compile().as_text()) for program in programs]


@pytest.mark.parametrize("layout", networks.LAYOUTS)
def test_what_is_sent_between_devices(layout):
    """The loop has three bodies with a step: two of training (with and without a kept gradient),
    and the VJP.
    """
    arguments = networks.place(layout, networks.arguments(np.float32))
    hlo = metagradient().lower(*arguments).compile().as_text()
    sent = networks.collectives_by_computation(hlo)
    in_loops = [count for name, count in sent.items() if not name.startswith("ENTRY")]
    training, vjp = jax_collectives(arguments)
    for kind in networks.KINDS:
        assert max(count[kind] for count in in_loops) <= max(training[kind], vjp[kind])
        assert sum(count[kind] for count in in_loops) <= 2 * training[kind] + vjp[kind]
    if not (training + vjp)["all-to-all"]:
        assert not networks.collectives(hlo)["all-to-all"]


def test_a_program_that_was_compiled_for_another_layout():
    on_host = networks.arguments(np.float32)
    compiled = metagradient().lower(*networks.place("fsdp", on_host)).compile()
    with pytest.raises(ValueError, match=r"state\[0\]\['first'\]\['w'\] of the metagradient"):
        compiled(*networks.place("tensor", on_host))

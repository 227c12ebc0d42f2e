"""Streamed runs on eight devices: the numbers of one device, and nothing is compiled twice."""

import logging

import jax
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import metagrad
from tests.sharded import small
from tests.streamed import plans

WRT = ("meta", "state", "batches")


@pytest.fixture(autouse=True)
def double_precision():
    with jax.enable_x64(True):
        yield


STEP = metagrad.compile(has_aux=True)(small.make_step(metagrad.grad))


@pytest.fixture(scope="module")
def one_device():
    """The result of the fused program, on one device."""
    with jax.enable_x64(True):
        state, meta, rows, held_out = small.arguments()
        batches = tuple(array[small.order()] for array in rows)
        return STEP.metagradient(small.outer, WRT)(state, meta, batches, held_out)


def mesh(axes=AxisType.Auto, devices=8):
    return jax.make_mesh((devices,), ("data",), axis_types=(axes,), devices=jax.devices()[:devices])


def sharded_state(on):
    """Parameters and momentum cut by rows (FSDP), the counter on each device."""
    state = small.arguments()[0]
    place = lambda x: jax.device_put(x, NamedSharding(on, P("data") if np.ndim(x) else P()))
    return jax.tree.map(place, state)


def agree(result, expected):
    for got, wanted in zip(jax.tree.leaves(result), jax.tree.leaves(expected), strict=True):
        if wanted.dtype != jax.dtypes.float0:
            np.testing.assert_allclose(got, wanted, rtol=1e-12, atol=1e-13)


def same_places(tree, like):
    for array, other in zip(jax.tree.leaves(tree), jax.tree.leaves(like), strict=True):
        if array.dtype != jax.dtypes.float0:
            assert array.sharding.is_equivalent_to(other.sharding, other.ndim)


def stream_of(sharding, **options):
    return metagrad.Stream(small.arguments()[2], small.order(), sharding=sharding, **options)


def prepared(stream, state, *, step=STEP, on=None, wrt=WRT, outer=small.outer, **options):
    """A lowered metagradient with segments of two steps, and its arguments; all of them on a mesh,
    if there is one.
    """
    _, meta, _, held_out = small.arguments()
    if on is not None:
        meta, held_out = jax.device_put((meta, held_out), NamedSharding(on, P()))
    mg = step.metagradient(outer, wrt, **options)
    arguments = state, meta, stream, held_out
    return plans.with_plan(mg.lower(*arguments), 2, 2, ("disk", "device")), arguments


def test_state_and_batches_are_sharded(one_device):
    on = mesh()
    state = sharded_state(on)
    lowered, arguments = prepared(stream_of(NamedSharding(on, P("data"))), state)
    result = lowered.compile()(*arguments)
    agree(result, one_device)
    same_places(result.state, state)
    same_places(result.grad[1], state)


def test_explicit_axes(one_device):
    on = mesh(AxisType.Explicit)
    by_rows = NamedSharding(on, P("data"))
    entries = lambda array, index: array.at[index].get(out_sharding=by_rows)
    step = metagrad.compile(has_aux=True)(small.make_step(metagrad.grad, entries))
    # The parameters are on each device: JAX asks what to do of a product of two sharded axes.
    state = jax.device_put(small.arguments()[0], NamedSharding(on, P()))
    lowered, arguments = prepared(stream_of(by_rows), state, on=on, step=step)
    result = lowered.compile()(*arguments)
    agree(result, one_device)
    same_places(result.state, state)


def test_one_sharding_for_each_leaf(one_device):
    on = mesh()
    by_rows, everywhere = NamedSharding(on, P("data")), NamedSharding(on, P())
    stream = stream_of((NamedSharding(on, P(None, "data")), by_rows, everywhere))
    lowered, arguments = prepared(stream, small.arguments()[0])
    agree(lowered.compile()(*arguments), one_device)


def test_without_a_sharding_each_device_has_the_batches(one_device):
    lowered, arguments = prepared(stream_of(None), sharded_state(mesh()))
    agree(lowered.compile()(*arguments), one_device)


def compilations(run):
    """What `run` gives, and how many programs of the executor were compiled."""
    messages = []
    handler = logging.Handler()
    handler.emit = lambda record: messages.append(record.getMessage())
    logging.getLogger("jax").addHandler(handler)
    try:
        with jax.log_compiles():
            result = run()
    finally:
        logging.getLogger("jax").removeHandler(handler)
    return result, sum(
        text.startswith("Finished XLA compilation of jit(call)") for text in messages
    )


def test_each_program_is_compiled_once(one_device):
    on = mesh()
    stream = stream_of(NamedSharding(on, P("data")))
    lowered, (state, meta, _, held_out) = prepared(stream, sharded_state(on))
    call = STEP.metagradient(small.outer, WRT)
    call._lowered = lambda *_: lowered
    for expected in (3, 0):
        result, compiled = compilations(lambda: call(state, meta, stream, held_out))
        assert compiled == expected
        agree(result, one_device)


def test_replays_are_compared(one_device):
    on = mesh(devices=4)
    stream = stream_of(NamedSharding(on, P("data")))
    lowered, arguments = prepared(stream, sharded_state(on), verify="replay")
    agree(lowered.compile()(*arguments), one_device)


def test_queries():
    """An axis of queries is in front of the axes that are sharded."""
    outer = lambda state, x: small.outer(state, x) * np.array([1.0, -2.0])
    state, meta, rows, held_out = small.arguments()
    batches = tuple(array[small.order()] for array in rows)
    expected = STEP.metagradient(outer, WRT)(state, meta, batches, held_out)
    on = mesh()
    state = sharded_state(on)
    stream = stream_of(NamedSharding(on, P("data")))
    lowered, arguments = prepared(stream, state, outer=outer)
    result = lowered.compile()(*arguments)
    agree(result, expected)
    assert result.grad[1]["w"].sharding.spec == P(None, "data")


def test_a_resumed_run_has_the_same_bits(tmp_path):
    class Stop(Exception):
        pass

    def stop(now):
        if now.reversed >= 2:
            raise Stop

    on = mesh(devices=4)
    stream = stream_of(NamedSharding(on, P("data")))
    wrt = ("meta", "state")
    lowered, arguments = prepared(stream, sharded_state(on), wrt=wrt)
    expected = lowered.compile()(*arguments)
    options = {"wrt": wrt, "resume_dir": tmp_path, "save_every": 0}
    lowered, arguments = prepared(stream, sharded_state(on), progress=stop, **options)
    with pytest.raises(Stop):
        lowered.compile()(*arguments)
    seen = []
    lowered, arguments = prepared(stream, sharded_state(on), progress=seen.append, **options)
    result = lowered.compile()(*arguments)
    assert seen[0].advanced + seen[0].reversed > 0, "it went on"
    for got, wanted in zip(jax.tree.leaves(result), jax.tree.leaves(expected), strict=True):
        if wanted.dtype != jax.dtypes.float0:
            assert np.array_equal(got, wanted)
    same_places(result.state, arguments[0])


def test_another_sharding_is_another_run(tmp_path):
    def stop(now):
        if now.reversed:
            raise KeyboardInterrupt

    options = {"wrt": "meta", "resume_dir": tmp_path, "save_every": 0, "progress": stop}
    on = mesh(devices=2)
    lowered, arguments = prepared(stream_of(None), sharded_state(on), **options)
    with pytest.raises(KeyboardInterrupt):
        lowered.compile()(*arguments)
    stream = stream_of(NamedSharding(on, P("data")))
    lowered, arguments = prepared(stream, sharded_state(on), **options)
    with pytest.raises(metagrad.JournalError, match="the shardings is"):
        lowered.compile()(*arguments)


def test_what_a_sharding_must_be():
    on = mesh()
    with pytest.raises(TypeError, match=r"a jax\.sharding\.NamedSharding of one batch"):
        stream_of(P("data"))
    with pytest.raises(ValueError, match="is not a prefix of a batch"):
        _ = stream_of((NamedSharding(on, P()), NamedSharding(on, P()))).aval
    with pytest.raises(ValueError, match=r"batches\[1\] of a batch has shape \(8,\)"):
        _ = stream_of(NamedSharding(on, P(None, "data"))).aval
    with pytest.raises(ValueError, match=r"batches\[0\] of a batch has shape \(9, 8\)"):
        rows = small.arguments()[2]
        order = np.zeros((2, 9), int)
        _ = metagrad.Stream(rows, order, sharding=NamedSharding(on, P("data"))).aval


def test_devices_must_be_the_same():
    state = sharded_state(mesh(devices=4))
    lowered, arguments = prepared(stream_of(None), state)
    stream = stream_of(NamedSharding(mesh(devices=2), P("data")))
    with pytest.raises(ValueError, match=r"batches\[0\] is on 2 devices that are not those of the"):
        lowered.compile()(*arguments[:2], stream, *arguments[3:])

"""Exported programs on several devices: they go by the shardings of their arguments."""

import jax
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import metagrad
from tests.sharded import small


@pytest.fixture(autouse=True)
def double_precision():
    with jax.enable_x64(True):
        yield


def mesh(devices):
    axes = (AxisType.Auto,)
    return jax.make_mesh((devices,), ("data",), axis_types=axes, devices=jax.devices()[:devices])


def placed(on):
    """State, meta, stacked batches and the held-out data: FSDP, and batches by rows."""
    state, meta, rows, held_out = small.arguments()
    put = lambda x, *axes: jax.device_put(x, NamedSharding(on, P(*axes)))
    state = jax.tree.map(lambda x: put(x, *["data"] * min(1, np.ndim(x))), state)
    batches = tuple(put(array[small.order()], None, "data") for array in rows)
    return state, put(meta), batches, put(held_out, "data")


def agree(result, expected):
    for got, wanted in zip(jax.tree.leaves(result), jax.tree.leaves(expected), strict=True):
        if wanted.dtype != jax.dtypes.float0:
            np.testing.assert_allclose(got, wanted, rtol=1e-12, atol=1e-13)


STEP = metagrad.compile(has_aux=True)(small.make_step(metagrad.grad))
MG = STEP.metagradient(small.outer, ("meta", "state"))


def test_a_fused_program(tmp_path):
    """What was lowered for four devices runs on as many as the arguments are on."""
    arguments = placed(mesh(4))
    compiled = MG.lower(*arguments).compile()
    expected = compiled(*arguments)
    compiled.export(tmp_path / "run", platforms=("cpu",))
    run = metagrad.load(tmp_path / "run")
    for on in (mesh(4), mesh(2)):
        result = run(*placed(on))
        agree(result, expected)
        assert result.state["w"].sharding.device_set == set(on.devices.flat)


def test_a_streamed_run(tmp_path):
    on = mesh(4)
    state, meta, _, held_out = placed(on)
    by_rows = NamedSharding(on, P("data"))
    stream = metagrad.Stream(small.arguments()[2], small.order(), sharding=by_rows)
    compiled = MG.lower(state, meta, stream, held_out).compile()
    expected = compiled(state, meta, stream, held_out)
    compiled.export(tmp_path / "run", platforms=("cpu",))
    result = metagrad.load(tmp_path / "run")(state, meta, stream, held_out)
    agree(result, expected)
    assert result.state["w"].sharding.is_equivalent_to(state["w"].sharding, 2)


def test_a_constraint_is_refused(tmp_path):
    on = mesh(4)
    by_rows = NamedSharding(on, P("data"))
    pinned = lambda array, index: jax.lax.with_sharding_constraint(array[index], by_rows)
    step = metagrad.compile(has_aux=True)(small.make_step(metagrad.grad, pinned))
    arguments = placed(on)
    compiled = step.metagradient(small.outer, "meta").lower(*arguments).compile()
    with pytest.raises(ValueError, match="it says where values lie on a mesh of devices"):
        compiled.export(tmp_path / "run", platforms=("cpu",))

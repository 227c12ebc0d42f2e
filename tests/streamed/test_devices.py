"""Arguments that are on another device than the default one, or on several."""

import os
import pathlib
import subprocess
import sys

import pytest
from fast_xla import FAST

ROOT = pathlib.Path(__file__).parent.parent.parent

_PROGRAM = """
import sys
sys.path.insert(0, "tests")
import logging
import jax, numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec, SingleDeviceSharding
import metagrad
from metagrad.api.flat_arguments import flatten_streamed
from streamed import plans, small

messages = []
handler = logging.Handler()
handler.emit = lambda record: messages.append(record.getMessage())
logging.getLogger("jax").addHandler(handler)

def compilations():
    return sum(text.startswith("Finished XLA compilation of jit(call)") for text in messages)

mesh = Mesh(np.array(jax.devices()), "x")
place = {
    "the default": SingleDeviceSharding(jax.devices()[0]),
    "another": SingleDeviceSharding(jax.devices()[1]),
    "both": NamedSharding(mesh, PartitionSpec()),
}[sys.argv[1]]

def check(got, wanted):
    np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-6)

stream = metagrad.Stream(small.stacked(11))
state, meta = small.arguments()
mg = small.step.metagradient(small.outer, ("meta", "batches"))
lowered = plans.with_plan(mg.lower(state, meta, stream), 3, 2, ("disk", "device"))
expected = lowered.compile()(state, meta, stream)
lowered.program._kernels.clear()
placed = flatten_streamed(*jax.device_put((state, meta), place), stream, ())
for _ in range(3):
    before = compilations()
    with jax.log_compiles():
        result = lowered.run(placed)
    print(compilations() - before, end=" ")
    for part in (lambda r: (r.value, r.state, r.grad[0]), lambda r: r.grad[1]["x"]):
        jax.tree.map(check, part(result), part(expected))
    assert result.state["w"].sharding.device_set == place.device_set
"""


@pytest.mark.parametrize("place", ["the default", "another", "both"])
def test_each_program_is_compiled_once(place):
    flags = f"{FAST} --xla_force_host_platform_device_count=2"
    process = subprocess.run(
        [sys.executable, "-c", _PROGRAM, place],
        capture_output=True,
        text=True,
        timeout=180,
        env=os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"},
        cwd=ROOT,
    )
    assert process.returncode == 0, process.stderr
    assert process.stdout.split() == ["3", "0", "0"]

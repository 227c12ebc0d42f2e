"""A metagradient runs where its arguments are, as a function under `jax.jit` does; so does one that
was exported and loaded.

In a process of its own, since the number of CPU devices is set before JAX starts.
"""

import os
import subprocess
import sys
import textwrap

import pytest

SETUP = """
import jax, jax.numpy as jnp, numpy as np
import metagrad

CPUS = jax.devices()
ROWS = np.linspace(0, 1, 2000, dtype=np.float32).reshape(400, 5)
ON_FIRST = jax.device_put(ROWS, CPUS[0])

@metagrad.compile
def step(w, rate, i):
    loss = lambda w: jnp.sum(jnp.tanh(jnp.asarray(ROWS)[i] @ w + ON_FIRST[i[0]] @ w) ** 2)
    return w - rate * metagrad.grad(loss)(w)

mg = step.metagradient(jnp.sum)
ARGUMENTS = np.ones(5, np.float32), np.float32(0.1), np.arange(24).reshape(3, 8)
expected = mg(*ARGUMENTS)
assert expected.grad.devices() == {CPUS[0]}

def check(result, devices):
    np.testing.assert_allclose(result.grad, expected.grad, rtol=1e-6)
    np.testing.assert_allclose(result.state, expected.state, rtol=1e-6)
    assert result.grad.devices() == result.state.devices() == set(devices), result.grad.devices()
"""

PROGRAMS = {
    "all on one": """
        check(mg(*jax.device_put(ARGUMENTS, CPUS[1])), CPUS[1:2])
        check(jax.jit(mg)(*jax.device_put(ARGUMENTS, CPUS[1])), CPUS[1:2])
        check(mg(*ARGUMENTS), CPUS[:1])
        """,
    "one argument decides": """
        w, rate, batches = ARGUMENTS
        check(mg(w, jax.device_put(rate, CPUS[2]), jnp.asarray(batches)), CPUS[2:3])
        """,
    "the default device": """
        with jax.default_device(CPUS[3]):
            check(mg(*ARGUMENTS), CPUS[3:4])
        check(mg(*ARGUMENTS), CPUS[:1])
        """,
    "sharded": """
        auto = (jax.sharding.AxisType.Auto,)
        mesh = jax.make_mesh((4,), ("x",), axis_types=auto)
        place = lambda x, *axes: jax.device_put(
            x, jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(*axes)))
        w, rate, batches = ARGUMENTS
        arguments = place(w), place(rate), place(batches, None, "x")
        check(mg(*arguments), CPUS)
        check(jax.jit(mg)(*arguments), CPUS)
        """,
    "on two at once": """
        w, rate, batches = ARGUMENTS
        try:
            mg({"w": jax.device_put(w, CPUS[1])}["w"], jax.device_put(rate, CPUS[2]), batches)
        except ValueError as error:
            assert "argument state of the metagradient" in str(error), error
            assert "argument meta of the metagradient" in str(error), error
        else:
            raise AssertionError("it ran")
        """,
}


LOADED = """
mg.lower(*ARGUMENTS).compile().export(f"{FOLDER}/run", platforms=("cpu",))
mg = metagrad.load(f"{FOLDER}/run")
"""


@pytest.mark.parametrize("loaded", [False, True], ids=["", "loaded"])
@pytest.mark.parametrize("name", PROGRAMS)
def test_devices(name, loaded, tmp_path):
    code = f"FOLDER = {str(tmp_path)!r}\n" + SETUP + LOADED * loaded
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=4"
    done = subprocess.run(
        [sys.executable, "-c", code + textwrap.dedent(PROGRAMS[name])],
        env=os.environ | {"XLA_FLAGS": flags},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr

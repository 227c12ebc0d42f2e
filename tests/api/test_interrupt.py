"""Ctrl-C ends a process that runs a metagradient, when the present call of XLA is over."""

import signal
import subprocess
import sys
import time

import pytest

_PROGRAM = """
import signal
import jax, jax.numpy as jnp, metagrad

# What a shell runs in the background ignores it, and so do the processes that it starts.
signal.signal(signal.SIGINT, signal.default_int_handler)
step = lambda w, z, b: w - z * metagrad.grad(lambda w: jnp.sum(jnp.tanh(w @ w) * b))(w)
mg = metagrad.compile(step).metagradient(lambda w: jnp.sum(w**2), check_nans={check_nans})
arguments = jnp.eye(64), 1e-3, jnp.ones(20)
mg(*arguments)
print("running", flush=True)
while True:
    jax.block_until_ready(mg(*arguments))
"""


@pytest.mark.parametrize("check_nans", [None, False])
def test_it_ends_within_two_seconds(check_nans):
    with subprocess.Popen(
        [sys.executable, "-c", _PROGRAM.format(check_nans=check_nans)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            assert process.stdout.readline() == "running\n"
            time.sleep(0.3)
            began = time.monotonic()
            process.send_signal(signal.SIGINT)
            _, error = process.communicate(timeout=30)
        finally:
            process.kill()
    # Each call takes some milliseconds.
    assert time.monotonic() - began < 2
    assert process.returncode == -signal.SIGINT and error.rstrip().endswith("KeyboardInterrupt")

"""Passes for XLA's CPU backend run only in programs for a CPU."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import metagrad
from metagrad.runtime import jax_internals

# The gradient in w contracts two dimensions; flatten-contractions makes one of them.
X = jnp.linspace(-1.0, 1.0, 2 * 3 * 4 * 5).reshape(2, 3, 4, 5)
W = jnp.linspace(0.0, 1.0, 10).reshape(5, 2)
RATE = jnp.float32(0.1)
FLAT, AS_IT_CAME = "contracting_dims = [0] x [0]", "contracting_dims = [0, 1] x [0, 1]"


@metagrad.compile
def step(w, rate, x):
    return w - rate * metagrad.grad(lambda w: jnp.sum(jnp.tanh(x @ w) ** 2))(w)


mg = step.metagradient(jnp.sum, schedule=metagrad.StoreAll())


@pytest.mark.parametrize(
    "platform, has, has_not", [("cpu", FLAT, AS_IT_CAME), ("cuda", AS_IT_CAME, FLAT)]
)
def test_lowered_for_a_platform(platform, has, has_not):
    lowered = jax.jit(mg).trace(W, RATE, X).lower(lowering_platforms=(platform,))
    products = [line for line in lowered.as_text().splitlines() if "dot_general" in line]
    assert any(has in line for line in products)
    assert not any(has_not in line for line in products)


def test_exported_for_two_platforms():
    exported = jax.export.export(jax.jit(mg), platforms=("cpu", "cuda"))(W, RATE, X)
    text = str(exported.mlir_module())
    assert FLAT in text and AS_IT_CAME in text
    result, expected = exported.call(W, RATE, X), mg(W, RATE, X)
    np.testing.assert_array_equal(result.grad, expected.grad)


@pytest.mark.parametrize(
    "default, there, platform",
    [("cpu", ["cpu"], "cpu"), ("gpu", ["cpu", "cuda"], "cuda"), ("gpu", ["rocm", "cpu"], "rocm")],
)
def test_the_default_platform_has_the_name_of_its_lowerings(monkeypatch, default, there, platform):
    """JAX calls both kinds of GPU "gpu" where it does not lower for them."""
    bridge = jax_internals._xla_bridge
    monkeypatch.setattr(bridge, "default_backend", lambda: default)
    monkeypatch.setattr(bridge, "backends", lambda: dict.fromkeys(there))
    assert jax_internals.default_platform() == platform


def test_lowered_for_the_default_platform(monkeypatch):
    monkeypatch.setattr(jax_internals, "default_platform", lambda: "cuda")
    on_cuda = step.metagradient(jnp.sum, schedule=metagrad.StoreAll()).lower(W, RATE, X)
    assert AS_IT_CAME in on_cuda.ir("scheduled") and FLAT not in on_cuda.ir("scheduled")

"""What is said of kernels whose gradient has no derivative. Only traced: nothing runs on a GPU."""

import re

import jax
import jax.numpy as jnp
import pytest
from jax.experimental import pallas as pl

import metagrad
from metagrad.frontend import partition

CUDNN = "jax._src.cudnn.fused_attention_stablehlo.check_cudnn_version"
SHAPE = (2, 16, 2, 8)
ARGUMENTS = jnp.ones(SHAPE, jnp.bfloat16), jnp.ones(()), jnp.ones((3, *SHAPE), jnp.bfloat16)


@pytest.fixture
def cudnn(monkeypatch):
    """A cuDNN that is there as far as tracing goes."""
    monkeypatch.setattr(CUDNN, lambda: 91000)


def attend(w, x, implementation="cudnn"):
    return jax.nn.dot_product_attention(w, x, x, implementation=implementation)


def loss(w, z, x):
    return z * jnp.sum(attend(w, x).astype(jnp.float32) ** 2)


def line_of(function) -> str:
    code = function.__code__
    return rf"test_fused_kernels.py:{code.co_firstlineno + 1}"


def microbatches(w, z, xs):
    return jax.lax.scan(lambda w, x: (w - metagrad.grad(loss)(w, z, x), None), w, xs[None])[0]


STEPS = {
    "the loss": lambda w, z, x: w - metagrad.grad(loss)(w, z, x),
    "a gradient by JAX": lambda w, z, x: w - jax.grad(loss)(w, z, x),
    "a gradient in a loop": microbatches,
}


@pytest.mark.parametrize("ad", ["auto", "jax"])
@pytest.mark.parametrize("name", STEPS)
def test_cudnns_attention_in_a_step(cudnn, name, ad):
    mg = metagrad.compile(STEPS[name], ad=ad).metagradient(lambda w: jnp.sum(w.astype(float)))
    with pytest.raises(NotImplementedError) as error:
        mg.lower(*ARGUMENTS)
    message = str(error.value)
    assert "cuDNN's fused attention" in message and "differentiated once more" in message
    assert re.search(line_of(attend), message)
    assert "Use metagrad.dot_product_attention" in message
    assert "implementation='xla'" in message


def test_cudnns_attention_where_one_derivative_is_enough(cudnn):
    """In an outer function, its gradient is what is wanted."""
    outer = jax.make_jaxpr(lambda w: jnp.sum(attend(w, w).astype(jnp.float32)))(ARGUMENTS[0])
    decision = partition.decide_first_order("the outer function", outer, [True], "auto")
    assert decision.rule == "jax"
    vjp = partition.vjp(outer, [True], [0], "the outer function")
    assert "dot_product_attention_bwd" in str(vjp)


def test_cudnns_attention_on_what_does_not_move(cudnn):
    """A frozen part of a loss has no derivative at all, and needs none."""
    frozen = lambda w, z, x: z * jnp.sum(w * attend(x, x))
    jaxpr = jax.make_jaxpr(frozen)(*ARGUMENTS[:2], ARGUMENTS[2][0])
    assert partition.decide_first_order("loss", jaxpr, [True, True, False], "auto").rule == "enzyme"


def double(x):
    def kernel(x_ref, out_ref):
        out_ref[...] = 2 * x_ref[...]

    return pl.pallas_call(kernel, out_shape=jax.ShapeDtypeStruct(x.shape, x.dtype), interpret=True)(
        x
    )


@jax.custom_vjp
def with_backward_kernel(x):
    return double(x)


with_backward_kernel.defvjp(lambda x: (double(x), None), lambda _, ct: (double(ct),))


@pytest.mark.parametrize("function", [double, with_backward_kernel])
def test_pallas_kernels(function):
    step = lambda w, z, x: w - metagrad.grad(lambda w: z * jnp.sum(function(w - x) ** 3))(w)
    mg = metagrad.compile(step).metagradient(jnp.sum)
    with pytest.raises(NotImplementedError) as error:
        mg.lower(jnp.ones(8), jnp.ones(()), jnp.ones((3, 8)))
    message = str(error.value)
    assert "a Pallas kernel" in message and "test_fused_kernels.py:" in message
    assert "Say it in jax.numpy" in message and "jax.custom_jvp" in message


def test_other_refusals_are_as_they_were(cudnn):
    """A function with such a kernel that JAX refuses for another reason is refused for that."""

    def loop(w, z, x):
        looped = jax.lax.while_loop(lambda v: jnp.sum(v) < 3, lambda v: 2 * v, w * z)
        return jnp.sum(looped) + jnp.sum(attend(x, x))

    step = lambda w, z, x: w - metagrad.grad(loop)(w, z.astype(w.dtype), x)
    with pytest.raises(NotImplementedError, match="while") as error:
        metagrad.compile(step).metagradient(lambda w: jnp.sum(w.astype(float))).lower(*ARGUMENTS)
    assert "cuDNN" not in str(error.value)

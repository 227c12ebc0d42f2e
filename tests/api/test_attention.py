"""`metagrad.dot_product_attention`: its memory, and what it refuses."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import metagrad
from metagrad import dot_product_attention

B, N, H, WIDTH = 1, 2, 4, 8
LENGTHS = 256, 1024, 2048
LAYERS = 2


def heads(w, x):
    """Queries, keys and values."""
    return jnp.einsum("bsd,pdnh->pbsnh", x, w)


def temporaries(attention, length: int, ad: str, gradient=metagrad.grad) -> int:
    """Bytes of temporaries of a metagradient of two steps through a scan over layers, compiled
    only. (JAX loses a custom rule inside of a scan, in reverse over reverse.)
    """

    def layer(x, w):
        return x + attention(*heads(w, x)).reshape(x.shape), None

    def loss(w, z, x):
        return z * jnp.mean(lax.scan(layer, x, w)[0] ** 2)

    step = metagrad.compile(lambda w, z, x: w - gradient(loss)(w, z, x), ad=ad)
    mg = step.metagradient(jnp.sum, schedule=metagrad.StoreAll())
    shapes = (LAYERS, 3, WIDTH, N, H), (), (2, B, length, WIDTH)
    arguments = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
    return mg.lower(*arguments).compile().memory_analysis().temp_size_in_bytes


def exponent(attention, ad="auto", gradient=metagrad.grad) -> float:
    """p of the fit: temporaries ~ length ** p."""
    sizes = [temporaries(attention, length, ad, gradient) for length in LENGTHS]
    return float(np.polyfit(np.log(LENGTHS), np.log(sizes), 1)[0])


def blockwise(q, k, v, **options):
    return dot_product_attention(q, k, v, block_size=64, **options)


def causal(q, k, v):
    return blockwise(q, k, v, is_causal=True)


@pytest.mark.parametrize("attention, ad", [(blockwise, "auto"), (causal, "auto"), (causal, "jax")])
def test_memory_grows_linearly_with_the_context(attention, ad):
    assert exponent(attention, ad) < 1.1


def test_memory_grows_linearly_where_jax_expands_the_gradient():
    assert exponent(blockwise, gradient=jax.grad) < 1.1


def test_memory_of_jaxs_attention_grows_with_the_square():
    """So that the tests above can fail."""
    assert exponent(jax.nn.dot_product_attention) > 1.8


Q, KEY = jnp.ones((2, 6, 4, 3)), jnp.ones((2, 8, 2, 3))


@pytest.mark.parametrize(
    "changed, message",
    [
        ({"query": jnp.ones((2, 6, 3, 3))}, "query: it has 3 heads, which must be a multiple"),
        ({"query": jnp.ones((1, 2, 6, 4, 3))}, "query: it must have at most 4 axes"),
        ({"query": jnp.ones((2, 6, 4, 3), int)}, "query: its dtype must be a float"),
        ({"key": jnp.ones((2, 8, 2, 5))}, r"key: its shape must be \[B, S, K, H\]"),
        ({"value": jnp.ones((2, 8, 4, 3))}, r"value: its shape must be the key's"),
        ({"value": KEY.astype(jnp.bfloat16)}, "value: its dtype must be the query's, float32"),
        ({"bias": jnp.ones((6, 7))}, r"bias: .* broadcast to \[B, N, T, S\] = \[2, 4, 6, 8\]"),
        ({"mask": jnp.ones((2, 2, 6, 8), bool)}, "mask: its shape must broadcast"),
        ({"mask": jnp.ones((6, 8))}, "mask: its dtype must be bool, and it is float32"),
        ({"query_seq_lengths": jnp.ones(2)}, "query_seq_lengths: it must be int32"),
        ({"key_value_seq_lengths": jnp.ones(3, jnp.int32)}, "key_value_seq_lengths: .* shape"),
        ({"block_size": 0}, "block_size: it must be positive"),
        ({"block_size": (4, 2.5)}, "block_size: it must be an integer or two"),
        ({"implementation": "cudnn"}, "implementation='cudnn': .* no second derivative"),
        ({"return_residual": True}, "return_residual=True: .* the output alone"),
    ],
)
def test_what_is_refused_is_named(changed, message):
    with pytest.raises((ValueError, NotImplementedError), match=message):
        dot_product_attention(**({"query": Q, "key": KEY, "value": KEY} | changed))


def test_enzyme_alone_refuses_it():
    """And says why it is JAX's."""
    loss = lambda w, z, x: z * jnp.sum(blockwise(*heads(w, x)))
    step = metagrad.compile(lambda w, z, x: w - metagrad.grad(loss)(w, z, x), ad="enzyme")
    arguments = jnp.ones((3, WIDTH, N, H)), jnp.ones(()), jnp.ones((2, B, 6, WIDTH))
    with pytest.raises(NotImplementedError, match="whose blocks JAX computes again") as error:
        step.metagradient(jnp.sum).lower(*arguments)
    assert "test_attention.py:" in str(error.value)


def test_the_line_is_the_users():
    loss = lambda w, z, x: z * jnp.sum(blockwise(*heads(w, x)))
    step = metagrad.compile(lambda w, z, x: w - metagrad.grad(loss)(w, z, x))
    arguments = jnp.ones((3, WIDTH, N, H)), jnp.ones(()), jnp.ones((2, B, 6, WIDTH))
    explained = step.metagradient(jnp.sum).lower(*arguments).explain()
    assert "JAX (forward over reverse)" in explained
    assert "metagrad.dot_product_attention" in explained and "test_attention.py:" in explained

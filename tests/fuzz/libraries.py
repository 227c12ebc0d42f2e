"""Layers of flax linen and Equinox. `{0}` is the input; the parameters are made of `{1}`."""

from .templates import many

LAYERS = many(
    "ff",
    """
    linen(flax.linen.Dense(3), {0}, {1})
    linen(flax.linen.DenseGeneral((2, 2)), {0}, {1})
    linen(flax.linen.LayerNorm(epsilon=1e-3), {0}, {1})
    linen(flax.linen.RMSNorm(epsilon=1e-3), {0}, {1})
    linen(flax.linen.GroupNorm(num_groups=1, epsilon=1e-3), {0}, {1})
    linen(flax.linen.InstanceNorm(epsilon=1e-3), {0}[None], {1})
    linen(flax.linen.BatchNorm(use_running_average=False, epsilon=1e-3), {0}, {1})
    linen(flax.linen.BatchNorm(use_running_average=True), {0}, {1})
    linen(flax.linen.Conv(2, (2,)), {0}[None], {1})
    linen(flax.linen.Conv(2, (2,), strides=2, kernel_dilation=2), {0}[None], {1})
    linen(flax.linen.ConvTranspose(2, (2,)), {0}[None], {1})
    linen(flax.linen.MultiHeadDotProductAttention(num_heads=2, qkv_features=4), {0}, {1})
    linen(flax.linen.RNN(flax.linen.LSTMCell(2, param_dtype=jnp.float64)), {0}[None], {1})
    linen(flax.linen.RNN(flax.linen.GRUCell(2, param_dtype=jnp.float64), reverse=True), \
        {0}[None], {1})
    linen(flax.linen.RNN(flax.linen.SimpleCell(2, param_dtype=jnp.float64)), {0}[None], {1})
    linen(flax.linen.PReLU(), {0}, {1})
    linen(flax.linen.WeightNorm(flax.linen.Dense(2)), {0}, {1})
    linen(flax.linen.remat(flax.linen.Dense)(2), {0}, {1})
    linen(flax.linen.Sequential([flax.linen.Dense(3), flax.linen.relu, flax.linen.Dense(2)]), \
        {0}, {1})
    linen(flax.linen.Dense(2, dtype=jnp.bfloat16), {0}, {1})
    linen(flax.linen.Einsum((2, {0}.shape[-1], 2), "...d,hdk->...hk"), {0}, {1})
    flax.linen.avg_pool({0}[None] * {1}.size, ({window},), padding="{padding}")
    flax.linen.max_pool({0}[None] + jnp.mean({1}), ({window},), padding="{padding}")
    equinox(lambda n, key: eqx.nn.Linear(n, 3, key=key), {0}, {1})
    equinox(lambda n, key: eqx.nn.Linear(n, "scalar", key=key), {0}, {1})
    equinox(lambda n, key: eqx.nn.MLP(n, 2, 3, 1, key=key), {0}, {1})
    equinox(lambda n, key: eqx.nn.LayerNorm(n, eps=1e-3), {0}, {1})
    equinox(lambda n, key: eqx.nn.RMSNorm(n, eps=1e-3), {0}, {1})
    equinox(lambda n, key: eqx.nn.PReLU(), {0}, {1})
    equinox(lambda n, key: eqx.nn.Sequential([eqx.nn.Linear(n, 2, key=key), \
        eqx.nn.Lambda(jax.nn.gelu), eqx.nn.Linear(2, 2, key=key)]), {0}, {1})
    equinox(lambda n, key: recurrent(eqx.nn.GRUCell(1, 2, key=key), n), {0}, {1})
    whole_equinox(lambda s, key: eqx.nn.Conv1d(s[0], 2, 2, padding=1, key=key), {0}, {1})
    whole_equinox(lambda s, key: eqx.nn.MultiheadAttention(1, s[1], key=key), {0}, {1})
    whole_equinox(lambda s, key: eqx.nn.AvgPool1d({window}, padding=0), {0}, {1})
    whole_equinox(lambda s, key: eqx.nn.MaxPool1d({window}, use_ceil=True), {0}, {1})
    whole_equinox(lambda s, key: eqx.nn.AdaptiveAvgPool1d(2), {0}, {1})
    whole_equinox(lambda s, key: eqx.nn.GroupNorm(1, s[0], eps=1e-3), {0}, {1})
    eqx.filter_jit(lambda x, y: x * jnp.mean(y))({0}, {1})
    eqx.filter_checkpoint(lambda x, y: jnp.sin(x) * jnp.mean(y))({0}, {1})
    eqx.filter_vmap(lambda x, y: jnp.mean(x) * y, in_axes=(0, None))({0}, jnp.mean({1}))
    eqx.filter_grad(lambda x: jnp.mean(jnp.sin(x) * jnp.mean({1})))({0})
    eqx.filter_value_and_grad(lambda x: jnp.mean(x ** 3) * jnp.mean({1}))({0})[1]
    eqx.internal.while_loop(lambda c: c[1] < 3, lambda c: (jnp.sin(c[0]) * jnp.mean({1}), \
        c[1] + 1), ({0}, 0), max_steps=4, kind="checkpointed")[0]
""",
)

SUPPORT = {
    "flax.linen": "import flax.linen",
    "linen(": """
def linen(layer, x, w):
    x = jnp.atleast_2d(x)
    shapes = jax.eval_shape(lambda: layer.init(jax.random.key(0), x))
    return layer.apply(filled(shapes, w), x, mutable=list(shapes))[0]
""",
    "eqx.": "import equinox as eqx",
    "equinox(": """
def equinox(make, x, w):
    x = jnp.atleast_2d(x)
    return jax.vmap(whole_layer(make, x.shape[-1], w))(x)
""",
    "whole_equinox(": """
def whole_equinox(make, x, w):
    x = jnp.resize(x, (2, 3)) if x.ndim != 2 else x
    layer = whole_layer(make, x.shape, w)
    return layer(x, x, x) if isinstance(layer, eqx.nn.MultiheadAttention) else layer(x)
""",
    "recurrent(": """
def recurrent(cell, n):
    class Recurrent(eqx.Module):
        cell: eqx.Module
        def __call__(self, x):
            step = lambda h, u: (self.cell(u[None], h), None)
            return jax.lax.scan(step, jnp.zeros(2, x.dtype), x)[0]
    return Recurrent(cell)
""",
    "filled(": """
def filled(shapes, w):
    made = lambda s: jnp.resize(w, s.shape) + 0.3 * np.cos(1.0 + np.arange(s.size)).reshape(s.shape)
    return jax.tree.map(lambda s: made(s).astype(s.dtype), shapes)
""",
    "whole_layer(": """
def whole_layer(make, size, w):
    layer = eqx.filter_eval_shape(lambda: make(size, jax.random.key(0)))
    shapes, rest = eqx.partition(layer, lambda x: isinstance(x, jax.ShapeDtypeStruct))
    return eqx.combine(filled(shapes, w), rest)
""",
}
"""What a program defines if its text, or another of these definitions, has these letters."""

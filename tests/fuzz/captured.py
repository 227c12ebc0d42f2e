"""Operations that read arrays and values from around the program: tables of more than 1 KiB, which
are arguments of the compiled program, and `closed`, which is a traced value if the program asks for
it (its field "closure").
"""

from .templates import Operation, many

TABLES = {
    "rows_of_numpy": "rows_of_numpy = normal(21, 40, 4)",
    "rows_of_jax": "rows_of_jax = jnp.asarray(normal(22, 40, 4))",
    "ties_of_numpy": "ties_of_numpy = ties(23, 40, 4)",
    "rows_in_f32": "rows_in_f32 = jnp.asarray(normal(24, 80, 4), jnp.float32)",
    "labels_of_numpy": "labels_of_numpy = integers(25, 200)",
    "labels_of_jax": "labels_of_jax = jnp.asarray(integers(26, 200))",
    "mask_of_jax": "mask_of_jax = jnp.asarray(booleans(27, 1200))",
    "closed": "closed = jnp.asarray(normal(28, 3))",
}
"""What a program defines if it names it."""

_FLOATS = ["rows_of_numpy", "rows_of_jax", "ties_of_numpy", "rows_in_f32"]
_INTEGERS = ["labels_of_numpy", "labels_of_jax"]

ATTRIBUTES = {
    "table": lambda rng, shape: rng.choice(_FLOATS),
    "labels": lambda rng, shape: rng.choice(_INTEGERS),
}

CAPTURED = [
    *many(
        "f",
        """
    table entry :: {0} * jnp.asarray({table})[3, 1].astype({0}.dtype)
    table column :: jnp.tanh({table} @ jnp.resize({0}, (4,)))[:3]
    table mean :: {0} + jnp.mean({table}, 0)[{window}].astype({0}.dtype)
    table row chosen by data :: jnp.asarray({table})[jnp.argmax(jnp.ravel({0}))] * jnp.mean({0})
    table sliced :: jax.lax.dynamic_slice(jnp.asarray({table}), \
        (jnp.argmax(jnp.ravel({0})), 0), (2, 4)) @ jnp.resize({0}, (4,))
    table in a jit :: jax.jit(lambda x: jnp.mean({table} * jnp.resize(x, (4,)), 0))({0})
    table in a jit in a jit :: jax.jit(lambda x: x * jax.jit(lambda y: \
        jnp.mean(jnp.cos({table} * jnp.mean(y))))(x))({0})
    table in a scan :: jax.lax.scan(lambda c, x: (0.9 * c + 0.1 * jnp.mean({table} * x).astype(\
        c.dtype), None), {0}, jnp.arange(2))[0]
    table scanned :: jax.lax.scan(lambda c, row: (0.9 * c + jnp.sin(c) * \
        jnp.mean(row).astype(c.dtype), None), {0}, {table})[0]
    table in a fori_loop :: jax.lax.fori_loop(0, 3, lambda i, c: 0.5 * c + \
        jnp.asarray({table})[i, 0].astype(c.dtype), {0})
    table in a cond :: jax.lax.cond(jnp.sum({0}) > 0, lambda x: x * \
        jnp.mean({table}).astype(x.dtype), lambda x: x - {table}[0, 0].astype(x.dtype), {0})
    table in a vmap :: jax.vmap(lambda x: jnp.max({table} @ jnp.resize(x, (4,))))({0})
    table in a checkpoint :: jax.checkpoint(lambda x: \
        jnp.sin({table} @ jnp.resize(x, (4,)))[1:3])({0})
    table in a custom_jvp :: with_doubled_derivative(lambda x: x * jnp.mean({table}))({0})
    table in a custom_vjp :: with_its_pullback(lambda x: jnp.sin(x) * jnp.max({table}))({0})
    table in an inner gradient :: jax.grad(lambda x: jnp.mean(jnp.cos({table} @ \
        jnp.resize(x, (4,)))))({0})
    labels as indices :: {0} * jnp.bincount({labels}, length=3)[1] / 100
    labels of a loss :: optax.softmax_cross_entropy_with_integer_labels(\
        jnp.resize({0}, (3, 3)), {labels}[4:7])
    mask of many :: {0} * jnp.mean(mask_of_jax.astype({0}.dtype))
    mask of some :: jnp.where(jnp.resize(mask_of_jax, {0}.shape), {0}, jnp.sin({0}))
    closed factor :: {0} * closed[0].astype({0}.dtype)
    closed vector :: jnp.resize({0}, (3,)) @ jnp.outer(closed, closed)
    closed in a jit :: jax.jit(lambda x: jnp.sin(x) * jnp.mean(closed))({0})
    closed in a scan :: jax.lax.scan(lambda c, x: (0.5 * c + x.astype(c.dtype), None), {0}, \
        closed)[0]
    closed in a cond :: jax.lax.cond(closed[0] > 0, lambda x: x * closed[1].astype(x.dtype), \
        jnp.sin, {0})
    closed in a custom_jvp :: with_its_derivative(lambda x: x * jnp.mean(closed))({0})
    closed in a custom_vjp :: with_clipped_pullback(lambda x: jnp.sin(x * closed[2]))({0})
""",
    ),
    Operation(
        "table rows by integers", "jnp.asarray({table})[{1} % 40] @ jnp.resize({0}, (4,))", "fi"
    ),
    Operation("labels by integers", "{0} * jnp.mean(jnp.asarray({labels})[{1} % 200])", "fi"),
]

READS = [
    "jnp.mean(closed)",
    "closed[0] * closed[1]",
    "jnp.mean(rows_of_numpy)",
    "jnp.max(rows_of_jax)",
    "jnp.mean(jnp.tanh(rows_in_f32)).astype(float)",
    "jax.jit(lambda: jnp.mean(ties_of_numpy[:, 1]))()",
    "jnp.asarray(labels_of_numpy)[3]",
    "jnp.mean(mask_of_jax)",
]
"""Scalars by which the value of a loss or of the outer function, or a step's gradient, is scaled.
"""

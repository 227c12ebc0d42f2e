"""Operations that look at more than one element: reductions, orderings, shapes, contractions,
windows, gathers and scatters, losses.
"""

from .elementwise import ACTIVATIONS, CASTS, EDGED, SMOOTH
from .templates import Operation, many

REDUCTIONS = many(
    "f",
    """
    jnp.sum({0}, axis={axis}, keepdims={keep})
    jnp.mean({0}, axis={axis}, keepdims={keep})
    jnp.max({0}, axis={axis}, keepdims={keep})
    jnp.min({0}, axis={axis}, keepdims={keep})
    jnp.prod({0}, axis={axis}, keepdims={keep})
    jnp.var({0}, axis={axis})
    jnp.std({0} + jnp.arange({0}.size).reshape({0}.shape), axis={axis})
    jnp.sum({0}, axis={axes})
    jnp.max({0}, axis={axes})
    jnp.max({0})
    jnp.prod({0})
    jnp.ptp({0}, axis={axis})
    jnp.median({0}, axis={axis})
    jnp.quantile({0}, 0.3, axis={axis})
    jnp.nansum({0}, axis={axis})
    jnp.nanmax({0}, axis={axis})
    jnp.average({0}, axis={axis}, weights=jnp.exp({0}))
    jnp.linalg.norm(1.0 + jnp.square({0}), axis={axis})
    jnp.linalg.norm({0}, ord=1, axis={axis})
    jnp.linalg.norm({0}, ord=jnp.inf, axis={axis})
    jnp.linalg.norm({0})
    jnp.sum({0}, axis={axis}, where={0} > 0)
    jnp.max({0}, axis={axis}, where={0} < 1, initial=-1.0)
    jnp.cumsum({0}, axis={axis})
    jnp.cumprod({0}, axis={axis})
    jax.lax.cumsum({0}, axis=0, reverse={back})
    jax.lax.cummax({0}, axis=0, reverse={back})
    jax.lax.cummin({0}, axis=0, reverse={back})
    jax.lax.cumlogsumexp({0}, axis=0, reverse={back})
    jax.lax.associative_scan(jnp.add, {0}, reverse={back})
    jax.lax.associative_scan(jnp.multiply, {0})
    jax.lax.associative_scan(jnp.maximum, {0})
    jnp.sort({0}, axis={axis})
    jnp.sort({0}, axis={axis}, descending=True)
    jnp.take_along_axis({0}, jnp.argsort({0}, axis={axis}), axis={axis})
    jnp.take_along_axis({0}, jnp.argmax({0}, axis={axis}, keepdims=True), axis={axis})
    jax.lax.top_k({0}, {k})[0]
    sort with rank :: jax.lax.sort(({0}, jnp.sin({0})), dimension=0, num_keys=1)[1]
    top_k mask :: jnp.where({0} >= jax.lax.top_k({0}, {k})[0][..., -1:], {0}, 0.0)
    argmax weight :: {0} * (1.0 + jnp.argmax({0}, axis={axis}, keepdims=True))
    jnp.diff({0}, axis={axis})
    jnp.trapezoid({0}, axis={axis})
    jnp.convolve(jnp.ravel({0}), jnp.array([0.5, 0.2]), mode="same")
    jnp.cov(jnp.reshape({0}, (-1, 1)) * jnp.ones(2) + jnp.arange(2), rowvar=False)
""",
)

SHAPES = many(
    "f",
    """
    jnp.reshape({0}, {shape})
    jnp.transpose({0}, {perm})
    jnp.ravel({0})
    jnp.flip({0}, axis={axis})
    jnp.roll({0}, {shift}, axis={axis})
    jnp.expand_dims({0}, {axis})
    jnp.squeeze({0})
    {0}[{slices}]
    jnp.concatenate([{0}, 0.5 * {0}], axis={axis})
    jnp.stack([{0}, jnp.sin({0})], axis={axis})
    jnp.tile({0}, 2)
    jnp.repeat({0}, 2, axis={axis})
    jnp.pad({0}, 1)
    jnp.pad({0}, 1, mode="{padmode}")
    jax.lax.pad({0}, 0.5, [(1, 0, 1)] * {0}.ndim)
    jax.lax.pad({0}, 0.0, [(-1, 1, 0)] * {0}.ndim)
    jnp.tril(jnp.atleast_2d({0}))
    jnp.triu(jnp.atleast_2d({0}), 1)
    jnp.diag(jnp.ravel({0}))
    jnp.trace(jnp.atleast_2d({0}))
    jnp.diagonal(jnp.atleast_2d({0}))
    jnp.split({0}, 1, axis={axis})[0]
    jnp.array_split({0}, 2, axis={axis})[0]
    jnp.broadcast_to({0}, (2,) + {0}.shape)
    jnp.moveaxis({0}, {axis}, 0)
    jnp.unstack({0}, axis={axis})[0]
    jnp.zeros((2,) + {0}.shape).at[1].set({0})
    jnp.resize({0}, (2, 2))
    jax.image.resize(jnp.atleast_2d({0}), (3, 3), "linear")
""",
)

BINARY = [
    *many(
        "ff",
        """
    {0} + {1}
    {0} - {1}
    {0} * {1}
    {0} / (1.5 + jnp.square({1}))
    jnp.sin({0}) * {1}
    """,
        3.0,
    ),
    *many(
        "ff",
        """
    jnp.maximum({0}, {1})
    jnp.minimum({0}, {1})
    jnp.where({0} > {1}, {0}, {1})
    jnp.where({0} > {1}, {0} * {1}, jnp.sin({0}))
    jnp.logaddexp({0}, {1})
    jnp.logaddexp2({0}, {1})
    jnp.arctan2({0}, 1.5 + jnp.square({1}))
    jnp.arctan2({0}, {1})
    jnp.hypot({0}, 1.0 + {1})
    (0.5 + jnp.square({0})) ** {1}
    jnp.power(jnp.abs({0}), jnp.abs({1}))
    jnp.fmod({0}, 1.5 + jnp.square({1}))
    jnp.remainder({0}, 1.5 + jnp.square({1}))
    jnp.clip({0}, {1} - 0.5, {1} + 0.5)
    jnp.copysign({0}, {1})
    jnp.outer({0}, {1})
    jnp.inner({0}, {1})
    jnp.vdot(jnp.ravel({0}), jnp.resize({1}, ({0}.size,)))
    jnp.kron({0}, {1})
    jnp.concatenate([{0}, {1}], axis=0)
    jnp.stack([{0}, {1}])
    jnp.linalg.norm({0} - {1} + 2.0, axis={axis})
    optax.losses.cosine_similarity({0}, {1}, epsilon=1e-2)
    jnp.zeros_like({0}).at[::2].set({0}[::2] * jnp.mean({1}))
    jax.lax.dynamic_update_slice({0}, jnp.resize({1}, (1,) * {0}.ndim), (1,) * {0}.ndim)
    jnp.polyval(jnp.ravel({0}), jnp.tanh(jnp.mean({1})))
    jnp.interp(jnp.tanh({0}), jnp.array([-1.0, 0.0, 1.0]), jnp.resize({1}, (3,)))
    jnp.convolve(jnp.ravel({0}), jnp.ravel({1}))
    jnp.cross(jnp.resize({0}, (3,)), jnp.resize({1}, (3,)))
    """,
    ),
    *many(
        "ff",
        """
    {0} @ {1}
    {0} @ {1}.T
    {0}.T @ {1}
    jnp.tensordot({0}, {1}, axes=1)
    jnp.einsum("...i,...i->...", {0}, {1})
    jnp.einsum("ij,kj->ik", {0}, {1})
    jnp.einsum("bij,bjk->bik", {0}, {1})
    linear layer :: jnp.tanh({0} @ jnp.resize({1}, ({0}.shape[-1], 3)))
    linear layer, relu :: jax.nn.relu({0} @ jnp.resize({1}, ({0}.shape[-1], 2)) - 0.5)
    attention :: jax.nn.softmax({0} @ {1}.T) @ {1}
    causal attention :: jax.nn.softmax(jnp.where(jnp.tril(jnp.ones(({0}.shape[0], {1}.shape[0]), \
        bool)), {0} @ {1}.T, -jnp.inf)) @ {1}
    jax.nn.dot_product_attention({0}[:, :, None], {0}[:, :, None], jnp.sin({0})[:, :, None], \
        is_causal={back})
    """,
        2.0,
    ),
    *many(
        "ff",
        """
    conv 1d :: jax.lax.conv_general_dilated(jnp.resize({0}, (2, 2, 4)), \
        jnp.resize({1}, (3, 2, 2)), ({stride},), "{padding}")
    conv 2d :: jax.lax.conv_general_dilated(jnp.resize({0}, (1, 4, 3, 2)), \
        jnp.resize({1}, (2, 2, 2, 2)), ({stride}, 1), "{padding}", \
        dimension_numbers=("NHWC", "HWIO", "NHWC"))
    conv grouped :: jax.lax.conv_general_dilated(jnp.resize({0}, (1, 2, 5)), \
        jnp.resize({1}, (2, 1, 2)), ({stride},), "{padding}", feature_group_count=2)
    conv dilated :: jax.lax.conv_general_dilated(jnp.resize({0}, (1, 2, 5)), \
        jnp.resize({1}, (2, 2, 2)), (1,), ((1, 2),), rhs_dilation=({window},))
    conv transposed :: jax.lax.conv_transpose(jnp.resize({0}, (1, 3, 2)), \
        jnp.resize({1}, (2, 2, 2)), ({stride},), "{padding}")
    """,
    ),
]

WINDOWS = many(
    "f",
    """
    max pool :: jax.lax.reduce_window({0}, -jnp.inf, jax.lax.max, ({window},) * {rank}, \
        ({stride},) * {rank}, "{padding}")
    min pool :: jax.lax.reduce_window({0}, jnp.inf, jax.lax.min, ({window},) * {rank}, \
        ({stride},) * {rank}, "{padding}")
    sum pool :: jax.lax.reduce_window({0}, 0.0, jax.lax.add, ({window},) * {rank}, ({stride},) * \
        {rank}, "{padding}")
    max pool of ties :: jax.lax.reduce_window(jnp.round({0}) * {0}, -jnp.inf, jax.lax.max, \
        ({window},) * {rank}, (1,) * {rank}, "{padding}")
    moving average :: jax.lax.reduce_window({0}, 0.0, jax.lax.add, (2,) * {rank}, (1,) * {rank}, \
        "SAME") / 2
""",
)

INDEXED = [
    *many(
        "f",
        """
    {0}[jnp.array({index})]
    {0}.at[jnp.array({index})].set(0.5)
    {0}.at[jnp.array({index})].add(0.5)
    {0}.at[jnp.array({index})].multiply(0.5)
    {0}.at[jnp.array({index})].{set}({0}[jnp.array({index})] * 0.5)
    {0}.at[0].{set}(jnp.sum({0}))
    {0}.at[jnp.array([0, 1])].{set}(0.25, unique_indices=True, mode="drop")
    jnp.sum({0}.at[jnp.array({index})].get(mode="fill", fill_value=0.5), axis=0)
    jax.ops.segment_sum({0}, jnp.arange({0}.shape[0]) // 2, num_segments=3)
    jax.ops.segment_max({0}, jnp.zeros({0}.shape[0], int), num_segments=1)
    {0}[jnp.argmax({0}, axis=0)]
    jax.lax.dynamic_slice_in_dim({0}, jnp.argmax(jnp.ravel({0})), 1, axis={axis})
    jax.lax.dynamic_index_in_dim({0}, {shift}, axis={axis})
    jnp.compress(jnp.arange({0}.shape[0]) % 2 == 0, {0}, axis=0)
    """,
    ),
    *many(
        "fi",
        """
    jnp.take({0}, {1}, axis=0, mode="{mode}")
    {0}[{1}]
    {0}[{1} % {0}.shape[0], 0]
    {0}.at[{1}].add(0.5)
    {0}.at[{1}].{set}(0.3)
    {0}.at[{1}].{set}(jnp.take({0}, {1}, axis=0, mode="clip") * 0.5, mode="{mode}")
    {0}.at[jnp.ravel({1})[0]].set(jnp.mean({0}))
    {0} * jnp.mean({1})
    jax.nn.one_hot({1}, {0}.shape[0]) @ {0}
    jnp.take_along_axis({0}, jnp.resize({1} % {0}.shape[-1], {0}.shape[:-1] + (1,)), axis=-1)
    jax.lax.dynamic_slice_in_dim({0}, jnp.ravel({1})[0], 1, axis={axis})
    jax.lax.dynamic_update_slice_in_dim({0}, jnp.sin({0}), jnp.ravel({1})[0], axis={axis})
    jax.ops.segment_sum(jnp.resize({0}, ({1}.size, 2)), jnp.ravel({1}), num_segments=3)
    jnp.resize({0}, {1}.shape) ** jnp.clip({1}, 0, 3)
    cross entropy of labels :: optax.softmax_cross_entropy_with_integer_labels(jnp.resize({0}, \
        {1}.shape + (3,)), {1} % 3)
    jnp.where({1} > 0, jnp.resize({0}, {1}.shape), jnp.cos(jnp.resize({0}, {1}.shape)))
    """,
    ),
    *many(
        "fb",
        """
    jnp.where(jnp.resize({1}, {0}.shape), {0}, jnp.square({0}))
    jnp.where(jnp.resize({1}, {0}.shape), {0}, 0.0)
    {0} * jnp.resize({1}, {0}.shape)
    jnp.sum({0}, where=jnp.resize({1}, {0}.shape))
    masked mean :: jnp.sum({0} * jnp.resize({1}, {0}.shape)) / \
        jnp.maximum(jnp.sum(jnp.resize({1}, {0}.shape)), 1)
    masked logits :: jax.nn.log_softmax(jnp.where(jnp.resize({1}, {0}.shape), {0}, -1e9), \
        axis={axis})
    """,
    ),
    *many(
        "fk",
        """
    dropout :: jnp.where(jax.random.bernoulli({1}, 0.7, {0}.shape), {0} / 0.7, 0.0)
    noise :: {0} + 0.1 * jax.random.normal({1}, {0}.shape)
    uniform :: {0} * jax.random.uniform(jax.random.fold_in({1}, 3), {0}.shape)
    permuted :: jax.random.permutation({1}, {0})
    gumbel softmax :: jax.nn.softmax({0} + jax.random.gumbel({1}, {0}.shape))
    reparameterised :: jax.random.normal({1}, (2,)) * jnp.exp(0.3 * jnp.mean({0}))
    random choice :: jax.random.choice({1}, jnp.ravel({0}), (2,))
    """,
        2.0,
    ),
]

LOSSES = many(
    "ff",
    """
    optax.losses.squared_error({0}, {1})
    optax.losses.huber_loss({0}, {1}, delta=0.5)
    optax.losses.log_cosh({0}, {1})
    optax.losses.sigmoid_binary_cross_entropy({0}, jax.nn.sigmoid({1}))
    optax.losses.softmax_cross_entropy({0}, jax.nn.softmax({1}))
    optax.losses.kl_divergence(jax.nn.log_softmax({0}), jax.nn.softmax({1}))
    optax.losses.hinge_loss({0}, jnp.sign({1}))
    optax.losses.sigmoid_focal_loss({0}, jax.nn.sigmoid({1}))
    optax.losses.poly_loss_cross_entropy({0}, jax.nn.softmax({1}))
    optax.losses.cosine_distance({0}, {1}, epsilon=1e-2)
    optax.losses.ranking_softmax_loss({0}, {1})
    info nce :: optax.losses.softmax_cross_entropy_with_integer_labels({0} @ {1}.T, \
        jnp.arange({0}.shape[0]) % {1}.shape[0])
""",
)

LINEAR_ALGEBRA = many(
    "f",
    """
    jnp.linalg.inv(jnp.resize({0}, (2, 2)) * 0.2 + 2 * jnp.eye(2))
    jnp.linalg.det(jnp.resize({0}, (2, 2)) + 2 * jnp.eye(2))
    jnp.linalg.slogdet(jnp.resize({0}, (2, 2)) * 0.2 + 2 * jnp.eye(2))[1]
    jnp.linalg.cholesky(jnp.resize({0}, (2, 2)) @ jnp.resize({0}, (2, 2)).T + jnp.eye(2))
    jnp.linalg.solve(jnp.resize({0}, (2, 2)) * 0.2 + 2 * jnp.eye(2), jnp.ones(2))
    jnp.linalg.matrix_power(jnp.resize({0}, (2, 2)) * 0.5, 3)
    jax.scipy.linalg.expm(jnp.resize({0}, (2, 2)) * 0.1)
    jnp.abs(jnp.fft.rfft({0}, axis={axis}) + 3.0)
    jnp.fft.irfft(jnp.fft.rfft({0}, n=4, axis={axis}), n=4, axis={axis})
""",
    0.4,
)

# Not chosen: what generate.py joins loose ends with.
JOINTS = [
    Operation("joined", "jnp.mean({0}) * {1}", "ff"),
    Operation("fitted", "0.5 * {0} + 0.1 * jnp.mean({1}).astype({0}.dtype)", "ff"),
    Operation("damped", "0.5 * {0} + 0.2 * {1}", "ff"),
]

OPERATIONS = {
    op.name: op
    for op in [
        *JOINTS,
        *SMOOTH,
        *EDGED,
        *ACTIVATIONS,
        *REDUCTIONS,
        *SHAPES,
        *BINARY,
        *WINDOWS,
        *INDEXED,
        *LOSSES,
        *LINEAR_ALGEBRA,
        *CASTS,
    ]
}

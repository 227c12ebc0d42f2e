"""Operations on one operand, element by element, and normalisations.

Values are kept near one, so that most programs stay finite.
"""

from .templates import Operation, many

SMOOTH = many(
    "f",
    """
    jnp.sin({0})
    jnp.cos({0})
    jnp.tanh({0})
    jnp.sinh({0} * 0.5)
    jnp.cosh({0} * 0.5)
    jnp.exp({0} * 0.3)
    jnp.exp(-jnp.square({0}))
    jnp.exp2({0} * 0.3)
    jnp.expm1({0} * 0.3)
    jnp.log(1.5 + jnp.sin({0}))
    jnp.log1p(jnp.square({0}))
    jnp.sqrt(1.0 + jnp.square({0}))
    jax.lax.rsqrt(0.1 + jnp.square({0}))
    jnp.cbrt({0})
    jnp.square({0})
    {0} ** 3
    1.0 / (1.0 + {0} ** 2)
    ({0} + 3.0) ** -2
    jnp.abs({0}) ** 1.5
    0.9 ** {0}
    jnp.arctan({0})
    jnp.arcsinh({0})
    jnp.arcsin(0.9 * jnp.tanh({0}))
    jnp.arccos(0.9 * jnp.tanh({0}))
    jnp.arctanh(0.5 * jnp.tanh({0}))
    jnp.arccosh(1.5 + jnp.square({0}))
    jnp.tan({0} * 0.5)
    jax.lax.erf({0})
    jax.lax.erfc({0})
    jax.lax.erf_inv(0.9 * jnp.tanh({0}))
    jax.lax.lgamma(1.0 + jnp.square({0}))
    jax.lax.digamma(1.0 + jnp.square({0}))
    jnp.sinc({0})
    jax.lax.logistic({0})
    jax.scipy.special.xlogy(1.0 + jnp.square({0}), 2.0 + {0})
    jax.scipy.special.entr(jnp.square({0}))
    jax.scipy.special.logit(0.5 + 0.4 * jnp.tanh({0}))
    jax.scipy.stats.norm.cdf({0})
    jax.scipy.stats.norm.logcdf({0})
    jax.scipy.stats.norm.logpdf({0})
    jax.lax.bessel_i0e({0})
    jnp.i0({0})
    jnp.polyval(jnp.array([0.1, -0.2, 0.3]), {0})
    jax.lax.integer_pow({0}, 3)
    jnp.float_power(1.0 + jnp.square({0}), 0.5)
    jnp.deg2rad({0})
    jnp.log10(1.0 + jnp.square({0}))
    jnp.log2(1.0 + jnp.square({0}))
    jnp.reciprocal(2.0 + jnp.sin({0}))
    -{0}
    {0} * 0.5
    2.0 * {0} - 1.0
""",
)

EDGED = many(
    "f",
    """
    jnp.abs({0})
    jnp.sign({0}) * {0}
    jnp.floor({0}) * 0.1 + {0}
    jnp.ceil({0}) * {0}
    jnp.round({0}) * {0}
    jnp.trunc({0}) + {0}
    jnp.fix({0}) * {0}
    jnp.modf({0})[0]
    {0} % 1.0
    jnp.remainder({0}, 0.7)
    jnp.fmod({0}, 0.7)
    jnp.maximum({0}, {const})
    jnp.minimum({0}, {const})
    jnp.clip({0}, -0.5, 0.5)
    jnp.clip({0}, -1.0, 1.0)
    jax.lax.clamp(-0.5, {0}, 0.5)
    jnp.where({0} > {const}, {0}, 0.1 * {0})
    jnp.where({0} >= 0, jnp.square({0}), 0.0)
    jnp.where({0} > 0, jnp.sqrt(jnp.where({0} > 0, {0}, 1.0)), 0.0)
    jnp.where({0} == 0, 0.0, jnp.sin({0}) / jnp.where({0} == 0, 1.0, {0}))
    jnp.where({0} > 0, jnp.log(jnp.where({0} > 0, {0}, 1.0)), {0})
    jnp.sqrt(jnp.maximum({0}, 1e-3))
    jnp.sqrt(jnp.square({0}) + 1e-12)
    jnp.nan_to_num({0})
    jnp.heaviside({0}, 0.5) * {0}
    jnp.select([{0} < -0.5, {0} < 0.5], [jnp.sin({0}), {0}], jnp.square({0}))
    jnp.piecewise({0}, [{0} < 0, {0} >= 0], [lambda x: -x, lambda x: x * x])
    jax.lax.reduce_precision({0}, 8, 23) * {0}
    {0} + jax.lax.stop_gradient(jnp.round({0}) - {0})
    jax.lax.stop_gradient({0}) * {0}
    jax.lax.stop_gradient(jnp.abs({0})) + {0}
    jnp.where(jnp.isfinite({0}), {0}, 0.0)
    jax.lax.optimization_barrier({0}) * {0}
    jnp.sqrt(jnp.square({0}))
    jax.lax.max({0}, -{0})
    jnp.exp(jnp.minimum({0}, 1.0))
    ({0} > 0) * {0}
    {0} * ({0} < 1)
    jnp.unwrap(jnp.ravel({0})) * 0.5
    jnp.real(jnp.abs({0} + 0j))
    jnp.interp({0}, jnp.array([-1.0, 0.0, 1.0]), jnp.array([0.0, 0.5, -0.5]))
""",
)

ACTIVATIONS = [
    *(
        Operation(f"jax.nn.{name}", f"jax.nn.{name}({{0}})")
        for name in [
            "relu",
            "relu6",
            "gelu",
            "silu",
            "softplus",
            "elu",
            "selu",
            "celu",
            "leaky_relu",
            "hard_tanh",
            "hard_sigmoid",
            "hard_swish",
            "mish",
            "log_sigmoid",
            "soft_sign",
            "squareplus",
            "sigmoid",
            "sparse_plus",
            "sparse_sigmoid",
            "tanh",
            "hard_silu",
            "swish",
            "identity",
        ]
    ),
    *many(
        "f",
        """
    jax.nn.gelu({0}, approximate=False)
    jax.nn.softmax({0}, axis={axis})
    jax.nn.log_softmax({0}, axis={axis})
    jax.nn.logsumexp({0}, axis={axis}, keepdims={keep})
    jax.nn.standardize({0}, axis={axis}, epsilon=1e-3)
    jax.nn.glu(jnp.concatenate([{0}, {0} * 0.5], axis={axis}), axis={axis})
    jax.nn.softmax({0}, axis={axis}, where={0} > -0.5, initial=-jnp.inf)
    jax.nn.logmeanexp({0}, axis={axis})
    masked softmax :: jax.nn.softmax(jnp.where({0} > 0, {0}, -1e9), axis={axis})
    softmax of -inf :: jax.nn.softmax(jnp.where(jnp.arange({0}.shape[-1]) < 2, {0}, -jnp.inf), \
        axis=-1)
    layer norm :: ({0} - jnp.mean({0}, {axis}, keepdims=True)) * \
        jax.lax.rsqrt(jnp.var({0}, {axis}, keepdims=True) + 1e-3)
    rms norm :: {0} * jax.lax.rsqrt(jnp.mean(jnp.square({0}), {axis}, keepdims=True) + 1e-3)
    weight norm :: {0} / (1e-2 + jnp.linalg.norm({0}, axis={axis}, keepdims=True))
    unit norm guarded :: {0} / jnp.maximum(jnp.linalg.norm({0}), 1e-2)
    """,
    ),
]

CASTS = many(
    "f",
    """
    {0}.astype(jnp.float32).astype({0}.dtype)
    {0}.astype(jnp.float32) * 2
    {0}.astype(jnp.bfloat16)
    jnp.astype({0}, jnp.float64)
    {0}.astype(jnp.int32).astype({0}.dtype) * {0}
""",
    0.1,
)

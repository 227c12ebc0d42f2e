"""Parts of models, optimisers and samplers."""

import jax
import jax.numpy as jnp
import numpy as np

from metagrad.runtime import jax_internals

from .case import A, case, inf, normal

LOGITS = np.array(
    [[1.0, -1.0, 0.5, 0.0], [0.0, 0.0, 0.0, 0.0], [1e9, 0.0, -1e9, 1.0], [3.0, 3.0, -1e9, -1e9]]
)
case("softmax", jax.nn.softmax, LOGITS, proves="models", rounded=True)
case(
    "softmax by its rule",
    lambda x: jax_internals.function("nn.functions", "_softmax")(x, -1),
    LOGITS,
    proves="models",
    rounded=True,
)
case("log_softmax", jax.nn.log_softmax, LOGITS, proves="models", rounded=True)
case("logsumexp", lambda x: jax.nn.logsumexp(x, 1), LOGITS, proves="models", rounded=True)
case(
    "masked softmax",
    lambda x: jax.nn.softmax(jnp.where(jnp.tril(jnp.ones((4, 4), bool)), x, -inf), -1),
    LOGITS,
    proves="models",
    rounded=True,
)
case(
    "softmax where",
    lambda x: jax.nn.softmax(x, where=jnp.tril(jnp.ones((4, 4), bool))),
    LOGITS,
    proves="models",
    rounded=True,
)
case(
    "logsumexp masked",
    lambda x: jax.nn.logsumexp(x, 1, where=jnp.tril(jnp.ones((4, 4), bool))),
    LOGITS,
    proves="models",
    rounded=True,
)
case(
    "cross entropy",
    lambda x, i: -jnp.take_along_axis(jax.nn.log_softmax(x), i[:, None], 1).mean(),
    LOGITS[:2],
    np.int32([1, 3]),
    proves="models",
    rounded=True,
)
case("standardize", lambda x: jax.nn.standardize(x), A, proves="models", rounded=True)
case(
    "dropout",
    lambda x, k: jnp.where(jax.random.bernoulli(k, 0.5, x.shape), x / 0.5, 0.0) ** 2,
    A,
    np.uint32([0, 7]),
    proves="models",
    rounded=True,
)
case(
    "noise",
    lambda x, k: x * jax.random.normal(k, x.shape, x.dtype) ** 2,
    A,
    np.uint32([0, 7]),
    proves="models",
    rounded=True,
)
case(
    "typed key",
    lambda x, k: (
        x * jax.random.uniform(jax.random.fold_in(jax.random.wrap_key_data(k), 3), x.shape, x.dtype)
    ),
    A,
    np.uint32([0, 7]),
    proves="models",
    rounded=True,
)
case(
    "attention",
    lambda q, k, v: (
        jax.nn.softmax(jnp.where(jnp.tril(jnp.ones((3, 3), bool)), q @ k.T / 2, -1e9)) @ v
    ),
    normal(3, 4),
    normal(3, 4),
    normal(3, 4),
    proves="models",
    rounded=True,
)
case(
    "adam",
    lambda g, m, v, b, n: (
        (0.1 * (b * m + (1 - b) * g) / (1 - b**n))
        / (jnp.sqrt((0.99 * v + 0.01 * g * g) / (1 - 0.99**n)) + 1e-8)
    ),
    normal(4),
    normal(4),
    normal(4) ** 2,
    np.float64(0.9),
    np.int32(3),
    proves="models",
    rounded=True,
)
case(
    "adam dead parameter",
    lambda g, v: g / (jnp.sqrt(0.99 * v + 0.01 * g * g) + 1e-8),
    np.array([0.0, 1.0]),
    np.array([0.0, 1.0]),
    proves="models",
    rounded=True,
)
case(
    "cosine schedule",
    lambda x, n: x * 0.5 * (1 + jnp.cos(jnp.pi * jnp.minimum(n.astype(x.dtype), 10.0) / 10)),
    normal(3),
    np.int32(4),
    proves="models",
)

for name, sample in {
    "gamma": lambda k, a: jax.random.gamma(k, a),
    "loggamma": lambda k, a: jax.random.loggamma(k, a),
    "beta": lambda k, a: jax.random.beta(k, a, a + 1),
    "dirichlet": lambda k, a: jax.random.dirichlet(k, a),
    "student": lambda k, a: jax.random.t(k, a, a.shape, a.dtype),
}.items():
    case(
        f"random {name}",
        lambda a, k, s=sample: s(jax.random.wrap_key_data(k), a),
        np.array([0.5, 1.0, 2.5]),
        np.uint32([0, 7]),
        orders=1,
        proves="random_gamma",
        rounded=True,
    )

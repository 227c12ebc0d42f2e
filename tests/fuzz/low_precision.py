"""Products of 16 bits and of integers, with the element type of the result that is asked for."""

from .templates import many

ATTRIBUTES = {
    "low": lambda rng, shape: rng.choice(["bfloat16", "bfloat16", "float16"]),
    "precision": lambda rng, shape: rng.choice(['"highest"', '"high"', '"default"', "None"]),
}

PRODUCTS = many(
    "ff",
    """
    low product :: jnp.matmul({0}.astype(jnp.{low}), {1}.astype(jnp.{low}), \
        preferred_element_type=jnp.float32)
    low product of its own type :: jnp.matmul({0}.astype(jnp.{low}), {1}.astype(jnp.{low}))
    low product, transposed :: jnp.matmul({0}.astype(jnp.{low}), {1}.T.astype(jnp.{low}), \
        preferred_element_type=jnp.float32, precision={precision})
    low dot_general :: jax.lax.dot_general(jnp.resize({0}, (2, 3)).astype(jnp.{low}), \
        jnp.resize({1}, (2, 3)).astype(jnp.{low}), (((1,), (1,)), ((0,), (0,))), \
        preferred_element_type=jnp.float32)
    low layer :: jax.nn.relu(jax.lax.dot(jnp.resize({0}, (2, 3)).astype(jnp.{low}), \
        jnp.resize({1}, (3, 2)).astype(jnp.{low}), precision={precision}, \
        preferred_element_type=jnp.float32))
    low einsum :: jnp.einsum("ij,kj->ik", jnp.resize({0}, (2, 3)).astype(jnp.{low}), \
        jnp.resize({1}, (2, 3)).astype(jnp.{low}), preferred_element_type=jnp.float32)
    low attention :: jax.nn.softmax(jnp.matmul(jnp.resize({0}, (2, 3)).astype(jnp.{low}), \
        jnp.resize({1}, (3, 2)).astype(jnp.{low}), preferred_element_type=jnp.float32))
    mixed product :: jnp.resize({0}, (2, 3)).astype(jnp.{low}) @ \
        jnp.resize({1}, (3, 2)).astype(jnp.float32)
    f32 product to f64 :: jax.lax.dot(jnp.resize({0}, (2, 3)).astype(jnp.float32), \
        jnp.resize({1}, (3, 2)).astype(jnp.float32), preferred_element_type=jnp.float64)
    precise product :: jax.lax.dot(jnp.resize({0}, (2, 3)), jnp.resize({1}, (3, 2)), \
        precision={precision})
    int8 product :: jnp.mean({1}) * jax.lax.dot((4 * jnp.resize({0}, (2, 3))).astype(jnp.int8), \
        (4 * jnp.resize({1}, (3, 2))).astype(jnp.int8), preferred_element_type=jnp.int32)
    quantised layer :: jnp.resize({0}, (2, 3)) @ (jnp.resize({1}, (3, 2)) + jax.lax.stop_gradient(\
        jnp.round(8 * jnp.resize({1}, (3, 2))) / 8 - jnp.resize({1}, (3, 2))))
    low conv :: jax.lax.conv_general_dilated(jnp.resize({0}, (1, 2, 4)).astype(jnp.{low}), \
        jnp.resize({1}, (2, 2, 2)).astype(jnp.{low}), (1,), "{padding}", \
        preferred_element_type=jnp.float32)
""",
)

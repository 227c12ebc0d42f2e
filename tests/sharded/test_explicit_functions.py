"""Functions that JAX or metagrad writes anew, over arrays whose types have shardings."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import metagrad
from sharded import networks
from sharded.test_constraints import assert_is_jaxs


@pytest.fixture
def put():
    """Lays an array out on eight devices, in f64."""
    mesh = networks.mesh_of("data", AxisType.Explicit)
    with jax.enable_x64(True), jax.set_mesh(mesh):
        yield lambda x, *spec: jax.device_put(x, NamedSharding(mesh, P(*spec)))


def small_arguments(put):
    batches = put(np.linspace(-1, 2, 24).reshape(3, 8), None, "data")
    return put(np.linspace(0.5, 1.5, 8), "data"), put(0.1), batches


def assert_exact(step_of, outer, arguments):
    result = metagrad.compile(step_of(metagrad.grad)).metagradient(outer)(*arguments)
    assert_is_jaxs(result, step_of(jax.grad), outer, arguments)


@jax.custom_vjp
def clipped(x, low):
    """Its cotangent is cut off, so it is no function's derivative; `low` has none."""
    return jnp.maximum(x, low)


clipped.defvjp(
    lambda x, low: (jnp.maximum(x, low), (x, jnp.sin(x))),
    lambda kept, bar: (jnp.where(kept[0] > 0, bar * kept[1], 0.5 * bar), None),
)


@jax.custom_vjp
def tripled(x):
    return 3 * x


tripled.defvjp(lambda x: (3 * x, None), lambda _, bar: (3 * bar,))


@pytest.mark.parametrize("low", [0.0, np.zeros(8)], ids=["number", "array"])
def test_custom_vjp(put, low):
    low = low if isinstance(low, float) else put(low, "data")

    def step_of(grad):
        loss = lambda w, b: jnp.sum(jnp.tanh(clipped(b * w, low) + tripled(w)) ** 2)
        return lambda w, m, b: w - m * grad(loss)(w, b)

    assert_exact(step_of, lambda w: jnp.sum(clipped(w, 0.0) ** 2), small_arguments(put))


def test_custom_vjp_in_a_scan(put):
    def step_of(grad):
        def loss(w, b):
            body = lambda x, _: (clipped(x * b, 0.0) + x, None)
            return jnp.sum(jax.lax.scan(body, w, None, 3)[0] ** 2)

        return lambda w, m, b: w - m * grad(loss)(w, b)

    assert_exact(step_of, lambda w: jnp.sum(w**2), small_arguments(put))


@pytest.mark.parametrize("rows", [2, 1000], ids=["a constant", "an operand"])
def test_captured_arrays(put, rows):
    """In the step, in the loss and in the outer function; small and large."""
    table = put(np.linspace(0, 1, rows * 8).reshape(rows, 8), None, "data")

    def step_of(grad):
        loss = lambda w, b: jnp.sum(jnp.tanh(table * b * w) ** 2) / rows
        return lambda w, m, b: w - m * grad(loss)(w, b) * jnp.mean(table, 0)

    outer = lambda w: jnp.sum((table * w) ** 2) / rows
    assert_exact(step_of, outer, small_arguments(put))


def test_gradients_of_examples(put):
    """`vmap` of `metagrad.grad` along an axis that is divided."""
    examples = put(np.linspace(-1, 1, 3 * 16 * 5).reshape(3, 16, 5), None, "data", None)

    def step_of(grad):
        of_example = grad(lambda w, x: jnp.sum(jnp.tanh(x * w) ** 2))

        def step(w, m, b):
            return w - m * jnp.mean(jax.vmap(of_example, in_axes=(None, 0))(w, b), 0)

        return step

    outer = lambda w: jnp.sum(w**2)
    assert_exact(step_of, outer, (put(np.linspace(0.5, 1.5, 5)), put(0.1), examples))


@pytest.mark.parametrize("is_causal", [False, True])
def test_attention(put, is_causal):
    tokens = put(np.linspace(-1, 1, 2 * 8 * 6 * 2 * 4).reshape(2, 8, 6, 2, 4), None, "data")

    def step_of(grad):
        def loss(w, b):
            attend = metagrad.dot_product_attention
            return jnp.mean(attend(b * w, b, b + w, is_causal=is_causal, block_size=4) ** 2)

        return lambda w, m, b: w - m * grad(loss)(w, b)

    outer = lambda w: jnp.sum(w**2)
    assert_exact(step_of, outer, (put(np.linspace(0.5, 1.5, 4)), put(0.1), tokens))


def test_check(put):
    table = put(np.linspace(0, 1, 8000).reshape(1000, 8), None, "data")
    step = lambda w, m, b: w - m * metagrad.grad(lambda w: jnp.mean((table * b * w) ** 2))(w)
    mg = metagrad.compile(step).metagradient(lambda w: jnp.mean((table * w) ** 2))
    assert metagrad.check(mg, *small_arguments(put)).verdict == "agrees"


def test_a_root_of_zero_is_named(put):
    table = put(np.zeros((1000, 8)), None, "data")

    def step(w, m, b):
        return w - m * jnp.sqrt(metagrad.grad(lambda w: jnp.sum((table * b * w) ** 2))(w))

    mg = metagrad.compile(step).metagradient(lambda w: jnp.sum(w**2))
    with pytest.warns(RuntimeWarning, match=r"At step 0 .* takes a root .* of zero"):
        mg(*small_arguments(put))


def test_arrays_that_are_closed_over_under_jit(put):
    """They are traced, and have shardings in their types."""
    w, m, b = small_arguments(put)

    def value(scale, grad):
        step = lambda w, m, b: w - m * grad(lambda w: jnp.sum(jnp.tanh(b * w * scale) ** 2))(w)
        outer = lambda w: jnp.sum((w * scale) ** 2)
        if grad is metagrad.grad:
            return metagrad.compile(step).metagradient(outer)(w, m, b).grad

        def run(m):
            after, _ = jax.lax.scan(lambda w, b: (step(w, m, b), None), w, b)
            return outer(after)

        return jax.grad(run)(m)

    scale = put(np.linspace(1, 2, 8), "data")
    ours, jaxs = (jax.jit(lambda s, g=g: value(s, g))(scale) for g in (metagrad.grad, jax.grad))
    np.testing.assert_allclose(ours, jaxs, rtol=1e-12)


@jax.custom_vjp
def with_symbolic_zeros(x):
    return x / 2


with_symbolic_zeros.defvjp(
    lambda x: (x.value / 2, None), lambda _, bar: (bar / 2,), symbolic_zeros=True
)


def test_a_rule_with_symbolic_zeros_is_refused(put):
    """It is called with zeros that have types, and those have shardings."""
    loss = lambda w, b: jnp.sum(with_symbolic_zeros(b * w) ** 2)
    step = lambda w, m, b: w - m * metagrad.grad(loss)(w, b)
    mg = metagrad.compile(step).metagradient(lambda w: jnp.sum(w**2))
    with pytest.raises(NotImplementedError, match=r"has a custom rule .* mesh with Auto axes"):
        mg(*small_arguments(put))


def test_a_constraint_where_axes_are_auto_for_a_while(put):
    def constrained(x):
        return jax.lax.with_sharding_constraint(jnp.tanh(x), P("data"))

    def step_of(grad):
        def loss(w, b):
            inside = jax.sharding.auto_axes(constrained, out_sharding=P("data"))
            return jnp.sum(inside(b * w) ** 2)

        return lambda w, m, b: w - m * grad(loss)(w, b)

    assert_exact(step_of, lambda w: jnp.sum(w**2), small_arguments(put))


def test_a_mesh_of_which_one_axis_is_auto():
    types = AxisType.Explicit, AxisType.Auto
    mesh = jax.make_mesh((4, 2), ("data", "model"), axis_types=types)
    with jax.enable_x64(True), jax.set_mesh(mesh):
        put = lambda x, *spec: jax.device_put(x, NamedSharding(mesh, P(*spec)))
        batches = put(np.linspace(-1, 2, 3 * 8 * 6).reshape(3, 8, 6), None, "data", "model")

        def step_of(grad):
            def loss(w, b):
                kept = jax.lax.with_sharding_constraint(jnp.tanh(b * w), P(None, "model"))
                return jnp.mean(kept**2)

            return lambda w, m, b: w - m * grad(loss)(w, b)

        arguments = put(np.linspace(0.5, 1.5, 6), "model"), put(0.1), batches
        assert_exact(step_of, lambda w: jnp.sum(w**2), arguments)

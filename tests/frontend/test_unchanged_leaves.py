"""Which leaves of the state the step is seen to return as they came, and which not."""

import jax
import jax.numpy as jnp
import optax
import pytest

import metagrad
from metagrad.frontend.grad_primitive import TRACING
from metagrad.frontend.jaxprs.unchanged_leaves import unchanged_leaves
from metagrad.frontend.split_step import mark_gradients

W, B = jnp.arange(6.0).reshape(2, 3), jnp.ones(3, jnp.bfloat16)


def unchanged(step, state, *arguments):
    """Paths of the leaves that are found to be unchanged by `step(state, *arguments)`."""
    paths = [
        jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_flatten_with_path(state)[0]
    ]
    with TRACING(True):
        jaxpr = jax.make_jaxpr(lambda *args: jax.tree.leaves(step(*args)))(state, *arguments)
    marked, _ = mark_gradients(jaxpr)
    return [paths[i] for i in unchanged_leaves(marked, len(paths))]


@jax.custom_vjp
def reversed_gradient(x):
    return x


reversed_gradient.defvjp(lambda x: (x, None), lambda _, bar: (-bar,))


@jax.custom_jvp
def scaled_tangent(x):
    return x


scaled_tangent.defjvp(lambda primals, tangents: (primals[0], 2 * tangents[0]))

KEPT = {
    "itself": lambda x, flag: x,
    "jit": lambda x, flag: jax.jit(lambda x: x)(x),
    "a call that computes too": lambda x, flag: jax.jit(lambda x: (jnp.sin(x), x))(x)[1],
    "checkpoint": lambda x, flag: jax.checkpoint(lambda x: (jnp.sin(x), x))(x)[1],
    "custom_vjp": lambda x, flag: reversed_gradient(x),
    "custom_jvp": lambda x, flag: scaled_tangent(x),
    "stop_gradient": lambda x, flag: jax.lax.stop_gradient(x),
    "copy": lambda x, flag: jnp.copy(x),
    "a barrier": lambda x, flag: jax.lax.optimization_barrier((x, x + 1))[0],
    "both branches": lambda x, flag: jax.lax.cond(flag, lambda x: x, lambda x: 1 * x, x),
    "a branch in a call": lambda x, flag: jax.jit(
        lambda x: jax.lax.cond(flag, lambda x: (x, x.sum()), lambda x: (x, x.max()), x)[0]
    )(x),
    "where of the same": lambda x, flag: jnp.where(flag, x, x),
    "the carry of a scan": lambda x, flag: jax.lax.scan(
        lambda c, i: ((c[0], c[1] + i), None), (x, 0.0), jnp.arange(3.0)
    )[0][0],
    "a carry, over a call and a branch": lambda x, flag: jax.lax.fori_loop(
        0, 3, lambda i, c: (jax.lax.cond(i == 1, lambda x: x, lambda x: x + 0, c[0]), i), (x, 0)
    )[0],
    "the carry of a while_loop": lambda x, flag: jax.lax.while_loop(
        lambda c: c[1] < 3, lambda c: (c[0], c[1] + 1), (x, 0)
    )[0],
    "rows of a scan": lambda x, flag: jax.lax.scan(lambda c, row: (c + row.sum(), row), 0.0, x)[1],
    "rows of a scan that goes back": lambda x, flag: jax.lax.scan(
        lambda c, row: (c + row.sum(), row), 0.0, x, reverse=True
    )[1],
    "rows of rows": lambda x, flag: jax.lax.scan(
        lambda _, row: (None, jax.lax.scan(lambda c, entry: (c, entry), 0.0, row)[1]), None, x
    )[1],
    "adding zeros": lambda x, flag: x + jnp.zeros_like(x),
    "zeros that were scaled": lambda x, flag: x - (-0.1 * (jnp.zeros((3,)) * 2.0)),
    "times one": lambda x, flag: x * 1.0 / 1,
    "to the power of one": lambda x, flag: jax.lax.integer_pow(x, 1),
    "a wider dtype and back": lambda x, flag: x.astype(jnp.float64).astype(x.dtype),
    "a reshape that does nothing": lambda x, flag: x.reshape(x.shape).transpose((0, 1)),
}


@pytest.mark.parametrize("name", KEPT)
def test_unchanged(name):
    step = lambda s, flag: {"x": KEPT[name](s["x"], flag), "y": s["y"] + 1}
    with jax.enable_x64(True):
        assert unchanged(step, {"x": W.astype(jnp.float32), "y": 0.0}, True) == ["['x']"]


CHANGED = {
    "one branch": lambda x, flag: jax.lax.cond(flag, lambda x: x, lambda x: x + 1, x),
    "a where": lambda x, flag: jnp.where(flag, x, 0),
    "a carry that changes at last": lambda x, flag: jax.lax.fori_loop(
        0, 3, lambda i, c: (c[1], c[2], c[2] + 1), (x, x, x)
    )[0],
    "a while_loop": lambda x, flag: jax.lax.while_loop(lambda x: x.sum() < 100, lambda x: x + 1, x),
    "the carry written row by row": lambda x, flag: jax.lax.scan(
        lambda c, _: (c, c), x[0], None, length=2
    )[1],
    "rows of another order": lambda x, flag: jax.lax.scan(
        lambda c, row: (c, row), 0.0, x[::-1], reverse=True
    )[1],
    "a row of each": lambda x, flag: jnp.stack([x[0], x[0]]),
    "reversed": lambda x, flag: x[::-1],
    "zeros by a number that may be infinite": lambda x, flag: x + jnp.zeros_like(x) * x[0, 0],
    "zeros by infinity": lambda x, flag: x + jnp.zeros_like(x) * jnp.inf,
    "zero minus it": lambda x, flag: 0.0 - x,
    "one by it": lambda x, flag: 1.0 / x,
    "a narrower dtype and back": lambda x, flag: x.astype(jnp.bfloat16).astype(x.dtype),
    "a dtype of eight bits and back": lambda x, flag: (
        x.astype(jnp.float8_e4m3fn).astype(x.dtype) + 0
    ),
    "an integer dtype and back": lambda x, flag: x.astype(jnp.int32).astype(x.dtype),
    "a small number": lambda x, flag: x + 1e-30,
    "a number times ones": lambda x, flag: x[0, 0] * jnp.ones_like(x),
}


@pytest.mark.parametrize("name", CHANGED)
def test_changed(name):
    step = lambda s, flag: {"x": CHANGED[name](s["x"], flag), "y": s["y"]}
    assert unchanged(step, {"x": W, "y": 0.0}, True) == ["['y']"]


def test_leaves_that_exchange_places():
    assert unchanged(lambda s, b: (s[1], s[0], s[2], s[2]), (W, W, W, W), 0) == ["[2]"]


def test_a_leaf_that_is_a_metaparameter_is_none():
    """It has the metaparameter's value from the second state on, but not in the first."""
    assert unchanged(lambda s, z: (z, s[1]), (W, W), W) == ["[1]"]


def test_zeros_of_optax_for_frozen_weights():
    """In bf16 too, which apply_updates may add in f32."""
    labels = {"base": "frozen", "half": "frozen", "lora": "trained"}
    params = {"base": W, "half": B, "lora": W}
    optimiser = optax.multi_transform(
        {"trained": optax.adam(0.1), "frozen": optax.set_to_zero()}, labels
    )

    def step(s, batch):
        loss = lambda p: jnp.sum((p["base"] + p["lora"] - batch) ** 2) + p["half"].sum()
        updates, opt = optimiser.update(metagrad.grad(loss)(s["p"]), s["opt"], s["p"])
        updates["half"] = updates["half"].astype(jnp.float32)
        return {"p": optax.apply_updates(s["p"], updates), "opt": opt}

    found = unchanged(step, {"p": params, "opt": optimiser.init(params)}, 1.0)
    assert found == ["['p']['base']", "['p']['half']"]


def test_nnx_lora():
    """The module's base, its key and what else is no LoRA parameter."""
    nnx = pytest.importorskip("flax.nnx")
    model = nnx.Sequential(
        nnx.LoRA(3, 2, 4, base_module=nnx.Linear(3, 4, rngs=nnx.Rngs(0)), rngs=nnx.Rngs(1)),
        nnx.Dropout(0.5, rngs=nnx.Rngs(2)),
    )
    graph, lora, rest = nnx.split(model, nnx.LoRAParam, ...)

    def loss(lora, rest, batch):
        model = nnx.merge(graph, lora, rest, copy=True)
        value = jnp.mean(model(batch) ** 2)
        return value, nnx.split(model, nnx.LoRAParam, ...)[2]

    def step(s, batch):
        (_, rest), g = metagrad.value_and_grad(loss, has_aux=True)(s["lora"], s["rest"], batch)
        return {"lora": jax.tree.map(lambda p, g: p - 0.1 * g, s["lora"], g), "rest": rest}

    found = unchanged(step, {"lora": lora, "rest": rest}, jnp.ones((2, 3)))
    assert [path for path in found if "kernel" in path] and [
        path for path in found if "key" in path
    ]
    assert not [path for path in found if "lora_a" in path or "count" in path]


def test_auxiliary_results_of_a_gradient():
    """Where the loss is called, and where it is called in a loop."""

    def loss(w, frozen, x):
        return jnp.sum((w * frozen - x) ** 2), (frozen, frozen + 1)

    def step(s, x):
        (_, (frozen, _)), g = metagrad.value_and_grad(loss, has_aux=True)(s["w"], s["frozen"], x)
        return {"w": s["w"] - g, "frozen": frozen}

    def looped(s, xs):
        return jax.lax.scan(lambda s, x: (step(s, x), None), s, xs)[0]

    state = {"w": W, "frozen": W}
    assert unchanged(step, state, 1.0) == unchanged(looped, state, jnp.ones(2)) == ["['frozen']"]


def test_such_a_result_is_not_kept():
    """A slot for the inner gradient would hold it."""

    def loss(w, frozen, x):
        return jnp.sum((w * frozen - x) ** 2), {"frozen": frozen, "x": x, "mean": jnp.mean(w)}

    def step(w, frozen, x):
        (_, aux), g = metagrad.value_and_grad(loss, has_aux=True)(w, frozen, x)
        return w - g * aux["mean"] * aux["x"], aux["frozen"]

    with TRACING(True):
        _, (site,) = mark_gradients(jax.make_jaxpr(step)(W, W, 1.0))
    assert [site.results[i].shape for i in site.kept] == [(), W.shape]


def test_a_function_that_is_called_often_is_walked_once():
    """Each level calls the one below twice: 2 ** 40 calls of the innermost."""
    twice = jax.jit(lambda x: x)
    for _ in range(40):
        twice = jax.jit(lambda x, inner=twice: inner(inner(x)))
    assert unchanged_leaves(jax.make_jaxpr(lambda x, y: (twice(x), y + 1))(W, W), 2) == [0]

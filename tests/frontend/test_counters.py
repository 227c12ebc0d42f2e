"""Which leaves of the state are counters, and what the function that advances them computes."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.extend.core import jaxpr_as_fun

import metagrad
from metagrad.compiler.dialect.metagrad import Layout
from metagrad.frontend.grad_primitive import TRACING
from metagrad.frontend.jaxprs import counters
from metagrad.frontend.jaxprs.unchanged_leaves import unchanged_leaves
from metagrad.frontend.split_step import mark_gradients


def find(step, state, meta=(), batch=()):
    """(paths of the counters, their new values); (paths, None) if there are none."""
    trees = state, meta, batch
    with TRACING(True):
        jaxpr = jax.make_jaxpr(lambda *args: jax.tree.leaves(step(*args)))(*trees)
    marked, _ = mark_gradients(jaxpr)
    layout = Layout(*(len(jax.tree.leaves(tree)) for tree in trees), outer=0)
    found = counters.find_counters(marked, layout, unchanged_leaves(marked, layout.state))
    if found is None:
        return [], None
    with_paths = jax.tree_util.tree_flatten_with_path(state)[0]
    paths = [jax.tree_util.keystr(with_paths[i][0]) for i in found.leaves]
    return paths, jaxpr_as_fun(found.advance)(*jax.tree.leaves((state, meta)))


COUNT = jnp.asarray(5, jnp.int32)

ADVANCED = {
    "by one": (lambda s, z, b: s + 1, 6),
    "optax's": (lambda s, z, b: optax.safe_increment(s), 6),
    "in a cycle": (lambda s, z, b: (s + 2) % 6, 1),
    "by a metaparameter": (lambda s, z, b: s + z["n"], 7),
    "by a jitted function": (lambda s, z, b: jax.jit(lambda s: s * 2)(s), 10),
    "in a branch": (lambda s, z, b: jax.lax.cond(s < 6, lambda s: s + 1, lambda s: 0 * s, s), 6),
    "in a loop that does more": (
        lambda s, z, b: jax.lax.fori_loop(
            0, 3, lambda i, c: (c[0] + 1, jnp.sin(c[1]) * b), (s, jnp.ones(3))
        )[0],
        8,
    ),
    "set": (lambda s, z, b: jnp.asarray(3, jnp.int32), 3),
}


@pytest.mark.parametrize("name", ADVANCED)
def test_counter(name):
    step, value = ADVANCED[name]
    paths, new = find(step, COUNT, {"n": jnp.asarray(2, jnp.int32)}, jnp.ones(3))
    assert paths == [""] and new[0] == value and new[0].dtype == jnp.int32


def of_params(s, z, b):
    return {"w": s["w"] * b, "n": s["n"] + jnp.isfinite(s["w"]).all()}


NONE = {
    "of the weights": (of_params, {"w": jnp.ones(3), "n": COUNT}),
    "of the batch": (lambda s, z, b: s + (b[0] > 0), COUNT),
    "of another that is none": (
        lambda s, z, b: (s[1] + 1, s[0] + (b[0] > 0).astype(jnp.int32)),
        (COUNT, COUNT),
    ),
    "a float": (lambda s, z, b: s * 0.9, jnp.asarray(1.0)),
    "by way of a float": (lambda s, z, b: (s * 1.5).astype(jnp.int32), COUNT),
    "a key": (lambda s, z, b: jax.random.split(s)[0], jax.random.key(0)),
    "an old key": (lambda s, z, b: jax.random.split(s)[0], jax.random.PRNGKey(0)),
    "large": (lambda s, z, b: s + 1, jnp.zeros(17, jnp.int32)),
    "by way of something large": (
        lambda s, z, b: s + (jnp.arange(100) * s).max(),
        COUNT,
    ),
    "by a while_loop": (
        lambda s, z, b: jax.lax.while_loop(lambda s: s % 7 != 0, lambda s: s + 1, s),
        COUNT,
    ),
    "by the host": (
        lambda s, z, b: jax.pure_callback(lambda s: s, jax.ShapeDtypeStruct((), jnp.int32), s),
        COUNT,
    ),
    "in a branch that the batch chooses": (
        lambda s, z, b: jax.lax.cond(b[0] > 0, lambda s: s + 1, lambda s: s, s),
        COUNT,
    ),
    "in a loop, of what is none": (
        lambda s, z, b: jax.lax.fori_loop(
            0, 3, lambda i, c: (c[0] + c[1], c[1] + (b[0] > 0)), (s, s)
        )[0],
        COUNT,
    ),
    "unchanged": (lambda s, z, b: s, COUNT),
}


@pytest.mark.parametrize("name", NONE)
def test_no_counter(name):
    step, state = NONE[name]
    assert find(step, state, (), jnp.ones(3)) == ([], None)


def test_counters_that_depend_on_each_other_and_on_unchanged_leaves():
    """A place in a list that never changes, and a flag that is flipped."""
    state = {"at": COUNT, "list": jnp.arange(100) ** 2, "flag": jnp.asarray(True), "w": jnp.ones(3)}
    step = lambda s, z, b: {
        "at": jnp.where(s["flag"], s["list"][s["at"]], 0).astype(jnp.int32),
        "list": s["list"],
        "flag": ~s["flag"],
        "w": s["w"] - b,
    }
    paths, new = find(step, state, (), 1.0)
    assert paths == ["['at']", "['flag']"] and list(map(int, new)) == [25, 0]


def test_multi_steps_of_optax():
    """Its counters are in a branch, beside sums of gradients."""
    optimiser = optax.MultiSteps(optax.adam(0.1), 3)

    def step(s, z, b):
        g = metagrad.grad(lambda w: jnp.sum((w * b) ** 2))(s["w"])
        updates, opt = optimiser.update(g, s["opt"], s["w"])
        return {"w": optax.apply_updates(s["w"], updates), "opt": opt}

    state = {"w": jnp.ones(2), "opt": optimiser.init(jnp.ones(2))}
    for _ in range(4):
        paths, new = find(step, state, (), 1.0)
        state = step(state, (), 1.0)
        want = state["opt"].mini_step, state["opt"].gradient_step, state["opt"][2][0].count
        np.testing.assert_array_equal(new, want)
    assert [path.split(".")[-1] for path in paths] == ["mini_step", "gradient_step", "count"]

"""Which blocks are found in models of all kinds, and that recomputing them changes no number."""

import functools
import re
import time

import equinox as eqx
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.extend.core import jaxpr_as_fun, primitives

from metagrad.frontend.jaxprs.blocks import recompute_blocks
from metagrad.frontend.jaxprs.interpret import equations
from metagrad.frontend.jaxprs.repeats import Repeat, cut, heaviest_repeat

EXAMPLES, LENGTH, WIDTH, LAYERS = 2, 4, 4, 3


@pytest.fixture(autouse=True)
def precision():
    with jax.enable_x64(True):
        yield


def normal(seed, *shape):
    return np.random.default_rng(seed).normal(size=shape) / 2


def block(x, p):
    """A layer of a transformer without its normalisations' parameters."""
    normed = (x - x.mean(-1, keepdims=True)) * lax.rsqrt(x.var(-1, keepdims=True) + 1e-3)
    query, key, value = jnp.split(normed @ p["qkv"], 3, -1)
    x = x + jax.nn.softmax(query @ key.swapaxes(-1, -2), -1) @ value
    return x + jax.nn.gelu(x @ p["up"]) @ p["down"]


def layers(count=LAYERS):
    return [
        {
            "qkv": normal(i, WIDTH, 3 * WIDTH),
            "up": normal(i + 1, WIDTH, 8),
            "down": normal(i + 2, 8, WIDTH),
        }
        for i in range(0, 10 * count, 10)
    ]


def stacked(count=LAYERS):
    return jax.tree.map(lambda *leaves: np.stack(leaves), *layers(count))


def by_scan(p, x, layer=block):
    return lax.scan(lambda x, q: (layer(x, q), None), x, p)[0]


def by_loop(p, x, layer=block):
    for q in p:
        x = layer(x, q)
    return x


def by_calls(p, x):
    """One function, with something else between its calls."""
    called = jax.jit(block)
    x = called(x, p[0])
    x = called(jnp.sin(x), p[1])
    return called(jnp.tanh(x * 2), p[2])


def by_nested_scans(p, x):
    groups = jax.tree.map(lambda leaf: leaf.reshape(2, 4, *leaf.shape[1:]), p)
    return lax.scan(lambda x, group: (by_scan(group, x), None), x, groups)[0]


def of_examples(p, x):
    """`vmap` over examples, each of which goes through the layers alone."""
    return jax.vmap(functools.partial(by_loop, p))(x)


def perceptron(p, x):
    for w, b in p:
        x = jax.nn.relu(jnp.sin(x @ w) + b)
    return x


def convolutional(p, x):
    for kernel in p:
        y = lax.conv_general_dilated(
            x, kernel, (1,), "SAME", dimension_numbers=("NWC", "WIO", "NWC")
        )
        x = x + jax.nn.gelu(y) * jnp.tanh(y)
    return x


def recurrent(p, x):
    def cell(h, x):
        gate = jax.nn.sigmoid(x @ p["in"] + h @ p["again"])
        h = gate * h + (1 - gate) * jnp.tanh(x @ p["in"])
        return h, h

    return lax.scan(cell, jnp.zeros_like(x[:, 0]), x.swapaxes(0, 1))[1]


class Encoder(nn.Module):
    @nn.compact
    def __call__(self, x):
        for _ in range(2):
            x = x + nn.MultiHeadDotProductAttention(2)(nn.LayerNorm()(x))
            x = x + nn.Dense(WIDTH)(nn.gelu(nn.Dense(8)(nn.LayerNorm()(x))))
        return x


def linen_params():
    params = Encoder().init(jax.random.key(0), jnp.zeros((EXAMPLES, LENGTH, WIDTH)))
    return jax.tree.map(lambda leaf: np.asarray(leaf, float), params)


def equinox_model():
    keys = jax.random.split(jax.random.key(0), LAYERS)
    mlps = [eqx.nn.MLP(WIDTH, WIDTH, 8, 2, jax.nn.gelu, key=key) for key in keys]
    params, static = eqx.partition(mlps, eqx.is_array)

    def apply(params, x):
        for mlp in eqx.combine(params, static):
            x = x + jax.vmap(jax.vmap(mlp))(x)
        return x

    return apply, jax.tree.map(lambda leaf: np.asarray(leaf, float), params)


X = normal(5, EXAMPLES, LENGTH, WIDTH)
CASES = {
    "scan": lambda: (by_scan, stacked(), ["3 turns of a scan"]),
    "loop": lambda: (by_loop, layers(), [r"3 repeats of \d+ equations"]),
    "calls": lambda: (by_calls, layers(), ["3 calls of block"]),
    "nested scans": lambda: (by_nested_scans, stacked(8), ["4 turns of a scan"]),
    "vmap": lambda: (of_examples, layers(), [r"3 repeats of \d+ equations"]),
    "mlp": lambda: (
        perceptron,
        [(normal(i, WIDTH, WIDTH), normal(i, WIDTH)) for i in range(4)],
        [r"4 repeats of \d+ equations"],
    ),
    "convnet": lambda: (
        convolutional,
        [normal(i, 3, WIDTH, WIDTH) for i in range(4)],
        [r"4 repeats of \d+ equations"],
    ),
    "rnn": lambda: (
        recurrent,
        {"in": normal(1, WIDTH, WIDTH), "again": normal(2, WIDTH, WIDTH)},
        ["4 turns of a scan"],
    ),
    "flax linen": lambda: (Encoder().apply, linen_params(), [r"2 repeats of \d+ equations"]),
    "equinox": lambda: (*equinox_model(), [r"3 repeats of \d+ equations"]),
}


def loss_of(apply):
    return lambda p, x: jnp.mean(jnp.sin(apply(p, x)) ** 2)


def traced(function, *arguments):
    return jax.make_jaxpr(function)(*jax.tree.leaves(arguments))


def checkpoints(jaxpr):
    return [eqn for eqn in equations(jaxpr) if eqn.primitive is primitives.remat_p]


def second_order(function, arguments):
    """Value, gradient and the gradient's derivative along the arguments."""
    gradient = jax.value_and_grad(function, argnums=tuple(range(len(arguments))))
    return jax.jit(lambda *xs: jax.jvp(gradient, xs, xs))(*arguments)


def assert_same(function, wrapped, arguments):
    want, got = (second_order(f, arguments) for f in (function, wrapped))
    for w, g in zip(jax.tree.leaves(want), jax.tree.leaves(got), strict=True):
        np.testing.assert_allclose(g, w, rtol=0, atol=1e-12 * max(1.0, np.abs(w).max()))


def flat(function, tree):
    structure = jax.tree.structure(tree)
    return lambda *leaves: function(*jax.tree.unflatten(structure, leaves))


@pytest.mark.parametrize("name", CASES)
def test_blocks_are_found_and_change_no_number(name):
    apply, p, found = CASES[name]()
    arguments = jax.tree.map(jnp.asarray, (p, X))
    loss = flat(loss_of(apply), arguments)
    closed = traced(loss, arguments)
    recomputing = recompute_blocks(closed)
    assert len(recomputing.blocks) == len(found), recomputing.blocks
    for blocks, pattern in zip(recomputing.blocks, found):
        assert re.match(pattern, str(blocks)), recomputing.blocks
        assert "test_blocks.py" in blocks.line or "site-packages" in blocks.line
    assert_same(
        lambda *xs: jaxpr_as_fun(closed)(*xs)[0],
        lambda *xs: jaxpr_as_fun(recomputing.function)(*xs)[0],
        jax.tree.leaves(arguments),
    )


def test_a_function_without_blocks_stays_the_same_object():
    closed = traced(lambda w, x: jnp.mean(jnp.tanh(x @ w) ** 2), normal(0, 4, 4), X)
    assert recompute_blocks(closed).function is closed
    assert recompute_blocks(closed).blocks == ()


def test_what_the_user_wrapped_stays_with_its_policy():
    policy = jax.checkpoint_policies.dots_saveable
    wrapped = jax.checkpoint(block, policy=policy)
    for apply, p in ((by_loop, layers()), (by_scan, stacked())):
        loss = flat(loss_of(functools.partial(apply, layer=wrapped)), (p, X))
        closed = traced(loss, p, X)
        assert recompute_blocks(closed).function is closed
    # A part of a layer too: nothing is put around what has a policy.
    part = lambda x, q: jnp.tanh(block(wrapped(x, q), q))
    closed = traced(
        flat(loss_of(functools.partial(by_scan, layer=part)), (stacked(), X)), stacked(), X
    )
    (only,) = checkpoints(recompute_blocks(closed).function.jaxpr)
    assert only.params["policy"] is policy


def test_what_prints_stays_outside():
    def printing(x, q):
        jax.debug.print("{}", x[0, 0, 0])
        return block(x, q)

    closed = traced(
        flat(loss_of(functools.partial(by_scan, layer=printing)), (stacked(), X)), stacked(), X
    )
    assert recompute_blocks(closed).function is closed


def test_groups_of_layers_are_recomputed_twice_where_that_halves_the_memory():
    """16 groups of 16: the layers' entrances would take as much as the groups'."""
    p = {"w": np.zeros((16, 16, WIDTH, WIDTH))}

    def layer(x, q):
        for _ in range(6):
            x = jnp.sin(jnp.tanh(x @ q["w"]) * jnp.cos(x))
        return x

    group = lambda x, q: by_scan(q, x, layer)
    closed = traced(flat(loss_of(functools.partial(by_scan, layer=group)), (p, X)), p, X)
    recomputing = recompute_blocks(closed)
    assert [blocks.count for blocks in recomputing.blocks] == [16, 16]
    assert len(checkpoints(recomputing.function.jaxpr)) == 2


def random_stack(seed):
    """A stack of layers made by chance, in a loop, with something before and behind."""
    random = np.random.default_rng(seed)
    count, width = int(random.integers(2, 5)), int(random.integers(2, 5))
    ops = random.choice(
        [jnp.tanh, jnp.sin, jax.nn.relu, jax.nn.softmax, jax.nn.silu, lambda x: x * x.mean()],
        size=int(random.integers(1, 4)),
    )
    skip, named = random.random() < 0.5, random.random() < 0.3
    ws = [random.normal(size=(width, width)) for _ in range(count)]

    def layer(x, w):
        y = x
        for op in ops:
            y = op(y @ w) + jnp.cos(y)
        return x + y if skip else y

    layer = jax.jit(layer) if named else layer

    def loss(x, *ws):
        x = jnp.sin(x)
        for w in ws:
            x = layer(x, w)
        return jnp.sum(x[:, : width - 1] ** 2)

    return loss, [random.normal(size=(3, width)), *ws]


@pytest.mark.parametrize("seed", range(5))
def test_random_stacks(seed):
    loss, arguments = random_stack(seed)
    closed = jax.make_jaxpr(loss)(*arguments)
    recomputing = recompute_blocks(closed)
    arguments = list(map(jnp.asarray, arguments))
    assert_same(loss, lambda *xs: jaxpr_as_fun(recomputing.function)(*xs)[0], arguments)


# --- Repeats --------------------------------------------------------------------------------------


def by_hand(numbers, weights):
    """The heaviest repeat, from its definition."""
    best, n = (0.0, 0, None), len(numbers)
    for period in range(1, n // 2 + 1):
        for start in range(n):
            stop = start + period
            while stop < n and numbers[stop] == numbers[stop - period]:
                stop += 1
            if stop - start >= 2 * period:
                weight = weights[start:stop].sum()
                if weight > best[0]:
                    best = weight, -period, Repeat(start, stop, period)
    return best


@pytest.mark.parametrize("seed", range(20))
def test_the_heaviest_repeat(seed):
    random = np.random.default_rng(seed)
    numbers = random.integers(0, 3, 24)
    weights = random.integers(0, 2, 24).astype(float)
    found, best = heaviest_repeat(numbers, weights), by_hand(numbers, weights)
    if found is None:
        # The period that is looked for is a distance between equal entries with a weight.
        assert best[0] <= 1 or best[2] is None
        return
    inside = numbers[found.start : found.stop]
    assert (inside[found.period :] == inside[: -found.period]).all()
    assert weights[found.start : found.stop].sum() >= best[0] / 1.1


def test_a_repeat_is_cut_where_least_is_handed_on():
    cost = np.array([9, 9, 1, 9, 9, 1, 9, 9, 1, 9], float)
    spans = cut(Repeat(0, 9, 3), cost, np.ones(9))
    assert [tuple(span) for span in spans] == [(0, 2), (2, 5), (5, 8), (8, 9)]


def test_ten_thousand_equations_take_a_second():
    def loss(x, *ws):
        for w in ws:
            y = jnp.tanh(x @ w)
            for _ in range(10):
                y = jnp.sin(y) * jnp.cos(x)
            x = x + y @ w
        return x.sum()

    ws = [normal(i, 4, 4) for i in range(300)]
    closed = jax.make_jaxpr(loss)(normal(0, 2, 4), *ws)
    assert len(closed.eqns) > 9000
    start = time.perf_counter()
    (blocks,) = recompute_blocks(closed).blocks
    assert time.perf_counter() - start < 5
    assert blocks.count == 300

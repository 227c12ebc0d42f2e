"""remat="blocks" changes no number: whole metagradients, against JAX.

tests/frontend/test_blocks.py has the models of all kinds in which blocks are found.
"""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.ad_checkpoint import checkpoint_name
from unrolled import DOUBLE, assert_close, assert_exact, who

import metagrad

STEPS, EXAMPLES, WIDTH, LAYERS = 2, 2, 3, 3


def normal(seed, *shape):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), float) / 2


def block(x, w):
    return x + jnp.tanh(checkpoint_name(jnp.sin(x @ w), "hidden") @ w.T) * jnp.cos(x)


def by_scan(ws, x, layer=block):
    return lax.scan(lambda x, w: (layer(x, w), None), x, jnp.stack(ws))[0]


def by_loop(ws, x, layer=block):
    for w in ws:
        x = layer(x, w)
    return x


def layers():
    return [normal(i, WIDTH, WIDTH) for i in range(LAYERS)]


def meta():
    return {"weight": jnp.asarray(1.5, float), "rate": jnp.asarray(0.7, float)}


def batches():
    return normal(9, STEPS, EXAMPLES, WIDTH)


def loss_of(apply):
    def loss(p, z, x):
        return jnp.mean(z["weight"] * apply(p, x) ** 2)

    return loss


def sgd(gradient):
    @metagrad.compile
    def step(p, z, x):
        return jax.tree.map(lambda a, g: a - z["rate"] * g, p, gradient(p, z, x))

    return step


def outer_of(apply):
    return lambda p: jnp.mean(apply(p, normal(7, EXAMPLES, WIDTH)) ** 3)


@pytest.mark.parametrize(
    "apply, found", [(by_scan, "3 turns of a scan"), (by_loop, r"3 repeats of \d+ equations")]
)
def test_the_numbers_are_jaxs(apply, found):
    step = sgd(metagrad.grad(loss_of(apply)))
    arguments = layers(), meta(), batches()
    _, lowered = assert_exact(step, outer_of(apply), ("meta", "state"), *arguments, remat="blocks")
    for name in ("loss", "outer"):
        assert re.search(rf"in {name}.*: {found}", lowered.explain()), lowered.explain()
    assert who(lowered) == ["jax-mixed", "enzyme", "jax"]
    assert "3 blocks of loss" in str(lowered.plan)


def test_a_step_that_takes_jax_grad_itself():
    step = sgd(jax.grad(loss_of(by_scan)))
    arguments = layers(), meta(), batches()
    _, lowered = assert_exact(step, outer_of(by_scan), "meta", *arguments, remat="blocks")
    assert re.search(r"in step: 2 times 3 turns of a scan", lowered.explain()), lowered.explain()


def test_a_gradient_in_a_loop_over_microbatches():
    loss = loss_of(by_loop)

    def gradient(p, z, x):
        def add(total, x):
            return jax.tree.map(jnp.add, total, metagrad.grad(loss)(p, z, x[None])), None

        return lax.scan(add, jax.tree.map(jnp.zeros_like, p), x)[0]

    arguments = layers(), meta(), batches()
    _, lowered = assert_exact(sgd(gradient), outer_of(by_loop), "meta", *arguments, remat="blocks")
    assert who(lowered)[0] == "nested-mixed"
    assert re.search(r"in loss.*: 3 repeats", lowered.explain()), lowered.explain()


def test_a_gradient_in_a_loss():
    """A loss behind an inner step, as in MAML: the blocks of both losses are found."""
    inner = lambda p, x: jnp.mean(by_loop(p, x) ** 2)

    def loss(p, z, x):
        adapted = jax.tree.map(lambda a, g: a - 0.1 * g, p, metagrad.grad(inner)(p, x))
        return jnp.mean(z["weight"] * by_loop(adapted, jnp.cos(x)) ** 3)

    arguments = layers(), meta(), batches()
    step = sgd(metagrad.grad(loss))
    _, lowered = assert_exact(step, outer_of(by_loop), "meta", *arguments, remat="blocks")
    found = re.search(r"in loss.*", lowered.explain())[0]
    assert "2 times 3 repeats of" in found, found


def test_queries_and_random_keys():
    """A vector of queries, and dropout whose mask is drawn again from the same key."""

    def dropped(p, x, key):
        for i, w in enumerate(p):
            keep = jax.random.bernoulli(jax.random.fold_in(key, i), 0.8, x.shape)
            x = jnp.where(keep, block(x, w), 0.0)
        return x

    def loss(p, z, x, key):
        return jnp.mean(z["weight"] * dropped(p, x, key) ** 2)

    @metagrad.compile
    def step(state, z, x):
        p, key = state
        key, own = jax.random.split(key)
        gradient = metagrad.grad(loss)(p, z, x, own)
        return jax.tree.map(lambda a, g: a - z["rate"] * g, p, gradient), key

    outer = lambda state: by_loop(state[0], normal(7, EXAMPLES, WIDTH)).mean(0)
    arguments = (layers(), jax.random.key(3)), meta(), batches()
    _, lowered = assert_exact(step, outer, "meta", *arguments, remat="blocks")
    assert "repeats" in lowered.explain()
    assert "no_inline" in lowered.ir("pieces")


@pytest.mark.parametrize(
    "policy",
    [
        jax.checkpoint_policies.nothing_saveable,
        jax.checkpoint_policies.save_only_these_names("hidden"),
        jax.checkpoint_policies.everything_saveable,
    ],
    ids=["nothing", "only names", "everything"],
)
def test_the_users_policies_stay(policy):
    wrapped = jax.checkpoint(block, policy=policy)
    apply = lambda p, x: by_loop(p, x, wrapped)
    step = sgd(metagrad.grad(loss_of(apply)))
    arguments = layers(), meta(), batches()
    _, lowered = assert_exact(step, outer_of(by_loop), "meta", *arguments, remat="auto")
    assert who(lowered) == ["jax-mixed", "enzyme", "enzyme"]


def test_an_offloading_policy():
    """JAX refuses it at second order, reverse over reverse; so the oracle is without it."""
    policy = jax.checkpoint_policies.save_and_offload_only_these_names(
        names_which_can_be_saved=[],
        names_which_can_be_offloaded=["hidden"],
        offload_src="device",
        offload_dst="pinned_host",
    )
    wrapped = jax.checkpoint(block, policy=policy)
    arguments = layers(), meta(), batches()
    got, want = (
        sgd(metagrad.grad(loss_of(apply))).metagradient(outer_of(by_loop))(*arguments)
        for apply in (lambda p, x: by_loop(p, x, wrapped), by_loop)
    )
    assert_close(got.grad, want.grad, DOUBLE)
    assert_close(got.value, want.value, DOUBLE)

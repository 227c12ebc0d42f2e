"""States of every kind.

Integers, booleans, random keys, bf16, NamedTuples, dataclasses, flax and Equinox modules, leaves
that are not arrays.
"""

import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import runs
from unrolled import SINGLE, assert_exact, unrolled, who

import metagrad
from metagrad import LazyKary

EVERYTHING = ("meta", "state", "batches")
FLOAT0 = jax.dtypes.float0
check = functools.partial(assert_exact, schedule=LazyKary(2))


def descend(params, grads, z):
    return jax.tree.map(lambda p, g: p - jnp.exp(z["rate"]) * g, params, grads)


# --- Leaves that carry no derivative --------------------------------------------------------------


def test_integers_and_booleans():
    """A counter, a flag that is flipped, and a frozen leaf; the flag decides what is computed."""

    @metagrad.compile
    def step(s, z, batch):
        g = metagrad.grad(runs.loss)(s["params"], z, batch)
        g = jax.tree.map(lambda g: jnp.where(s["flag"], g, 0.5 * g), g)
        return {
            "params": descend(s["params"], g, z),
            "count": s["count"] + 1,
            "flag": ~s["flag"],
            "history": s["history"].at[s["count"]].set(jnp.sign(batch["y"][0]).astype(jnp.int8)),
            "frozen": s["frozen"],
        }

    state = {
        "params": runs.params(),
        "count": jnp.asarray(0, jnp.int32),
        "flag": jnp.asarray(True),
        "history": jnp.zeros(5, jnp.int8),
        "frozen": jnp.ones(2),
    }
    result, _ = check(step, runs.outer, EVERYTHING, state, runs.meta(), runs.data(5))
    _, grad, _ = result.grad
    assert [grad[name].dtype for name in ("count", "flag", "history")] == [FLOAT0] * 3
    assert grad["history"].shape == (5,) and not grad["frozen"].any()
    assert result.state["count"] == 5 and result.state["history"].dtype == jnp.int8


def test_python_scalars():
    """They take the dtype that the step gives them."""

    @metagrad.compile
    def step(s, z, batch):
        value, g = metagrad.value_and_grad(runs.loss)(s["params"], z, batch)
        return {
            "params": descend(s["params"], g, z),
            "count": s["count"] + 1,
            "average": 0.9 * s["average"] + 0.1 * value,
            "on": not False,
        }

    state = {"params": runs.params(), "count": 0, "average": 0.5, "on": True}
    outer = lambda s: runs.outer(s) + s["average"] ** 2 + s["count"]
    result, _ = check(step, outer, ("meta", "state"), state, runs.meta(), runs.data(4))
    assert result.state["count"] == 4 and result.grad[1]["average"].shape == ()


def test_metaparameters_that_are_python_scalars():
    step = metagrad.compile(
        lambda s, z, batch: (
            s
            - z["rate"]
            * metagrad.grad(lambda s: jnp.sum((s * z["scale"] - batch) ** 2))(s)
            * z["times"]
        )
    )
    result, _ = check(
        step,
        jnp.sum,
        "meta",
        jnp.ones(2),
        {"rate": 0.1, "scale": 0.5, "times": 2},
        jnp.ones((3, 2)),
    )
    assert result.grad["times"].dtype == FLOAT0


# --- Random keys ----------------------------------------------------------------------------------


def dropout_loss(p, z, batch, key):
    h = jnp.tanh(batch["x"] @ p["w1"] + p["b1"])
    kept = jax.random.bernoulli(key, 0.7, h.shape)
    return jnp.mean(z["weights"] * (jnp.where(kept, h / 0.7, 0.0) @ p["w2"] - batch["y"]) ** 2)


KEYS = {
    "typed": lambda: jax.random.key(3),
    "old": lambda: jax.random.PRNGKey(3),
    "rbg": lambda: jax.random.key(3, impl="rbg"),
}


@pytest.mark.parametrize("kind", KEYS)
def test_key_in_the_state(kind):
    @metagrad.compile
    def step(s, z, batch):
        key, used = jax.random.split(s["key"])
        return {
            "params": descend(
                s["params"], metagrad.grad(dropout_loss)(s["params"], z, batch, used), z
            ),
            "key": key,
        }

    key = KEYS[kind]()
    result, lowered = check(
        step,
        runs.outer,
        EVERYTHING,
        {"params": runs.params(), "key": key},
        runs.meta(),
        runs.data(4),
    )
    assert result.state["key"].dtype == key.dtype
    assert result.grad[1]["key"].dtype == FLOAT0 and result.grad[1]["key"].shape == key.shape
    assert who(lowered) == ["enzyme"] * 3


@pytest.mark.parametrize("kind", ["typed", "old"])
def test_key_in_the_batch(kind):
    step = runs.sgd(lambda p, z, batch: metagrad.grad(dropout_loss)(p, z, batch, batch["key"]))
    keys = jax.random.split(KEYS[kind](), 4)
    result, _ = check(
        step,
        runs.outer,
        EVERYTHING,
        {"params": runs.params()},
        runs.meta(),
        runs.data(4) | {"key": keys},
    )
    assert result.grad[2]["key"].dtype == FLOAT0 and result.grad[2]["key"].shape == keys.shape


def test_key_folded_into_a_counter_and_noise_that_is_scaled():
    """Langevin steps, whose noise a metaparameter scales.

    The key is a metaparameter too, and gets a float0.
    """

    @metagrad.compile
    def step(s, z, batch):
        x, t = s
        noise = jax.random.normal(jax.random.fold_in(z["key"], t), x.shape)
        return x - 0.1 * metagrad.grad(lambda x: jnp.sum(x**4))(x) + z["temperature"] * noise, t + 1

    z = {"key": jax.random.key(0), "temperature": jnp.asarray(0.3)}
    result, _ = check(
        step, lambda s: jnp.sum(s[0] ** 2), "meta", (jnp.ones(3), 0), z, jnp.arange(5)
    )
    assert result.grad["key"].dtype == FLOAT0


# --- bf16 -----------------------------------------------------------------------------------------


def worst(got, want):
    """The largest relative error of a leaf."""
    of_leaf = jax.tree.map(
        lambda g, w: float(jnp.abs(g.astype(w.dtype) - w).max() / jnp.abs(w).max()), got, want
    )
    return max(jax.tree.leaves(of_leaf))


def test_bfloat16_model():
    """Master weights in f32, the model in bf16.

    Each product is rounded to 8 bits, and differently: as near to the exact gradient as JAX's own
    is.
    """

    def loss(p, z, batch):
        half = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), (p, batch["x"]))
        return jnp.mean(z["weights"] * (runs.predict(*half).astype(jnp.float32) - batch["y"]) ** 2)

    arguments = (
        {"params": runs.params(jnp.float32)},
        runs.meta(jnp.float32),
        runs.data(4, jnp.float32),
    )
    step, by_jax = runs.sgd(metagrad.grad(loss)), runs.sgd(metagrad.grad(loss), ad="jax")
    _, exact, _ = unrolled(
        runs.sgd(),
        runs.outer,
        "meta",
        *jax.tree.map(lambda leaf: leaf.astype(jnp.float64), arguments),
    )
    _, jax_own, _ = unrolled(step, runs.outer, "meta", *arguments)
    assert (
        worst(step.metagradient(runs.outer)(*arguments).grad, exact)
        < 1.5 * worst(jax_own, exact)
        < 0.07
    )
    assert worst(by_jax.metagradient(runs.outer)(*arguments).grad, jax_own) < SINGLE


def test_bfloat16_throughout():
    arguments = (
        {"params": runs.params(jnp.bfloat16)},
        runs.meta(jnp.bfloat16),
        runs.data(3, jnp.bfloat16),
    )
    result = runs.sgd().metagradient(runs.outer, ("meta", "state"))(*arguments)
    assert {leaf.dtype for leaf in jax.tree.leaves(result.grad)} == {jnp.dtype(jnp.bfloat16)}
    _, jax_own, _ = unrolled(runs.sgd(), runs.outer, ("meta", "state"), *arguments)
    double = jax.tree.map(lambda leaf: leaf.astype(jnp.float64), arguments)
    _, exact, _ = unrolled(runs.sgd(), runs.outer, ("meta", "state"), *double)
    assert worst(result.grad, exact) < 2 * worst(jax_own, exact)


# --- Pytrees --------------------------------------------------------------------------------------


class TrainState(NamedTuple):
    params: Any
    opt: Any
    step: Any


@pytest.mark.filterwarnings("ignore:the step .* never reads")
def test_named_tuple():
    optimiser = optax.adam(0.05, eps_root=1e-8)

    @metagrad.compile
    def step(s, z, batch):
        updates, opt = optimiser.update(metagrad.grad(runs.loss)(s.params, z, batch), s.opt)
        return TrainState(optax.apply_updates(s.params, updates), opt, s.step + 1)

    state = TrainState(runs.params(), optimiser.init(runs.params()), jnp.asarray(0))
    result, _ = check(
        step,
        lambda s: runs.outer({"params": s.params}),
        ("state", "meta"),
        state,
        runs.meta(),
        runs.data(4),
    )
    assert isinstance(result.grad[0], TrainState) and isinstance(result.state, TrainState)


@functools.partial(
    jax.tree_util.register_dataclass, data_fields=["params", "count"], meta_fields=["name"]
)
@dataclasses.dataclass
class Model:
    params: Any
    count: Any
    name: str = "model"


def test_registered_dataclass():
    @metagrad.compile
    def step(s, z, batch):
        return Model(
            descend(s.params, metagrad.grad(runs.loss)(s.params, z, batch), z), s.count + 1
        )

    result, _ = check(
        step,
        lambda s: runs.outer({"params": s.params}),
        "state",
        Model(runs.params(), jnp.asarray(0)),
        runs.meta(),
        runs.data(3),
    )
    assert isinstance(result.grad, Model) and result.grad.name == "model"


def test_a_bare_array_and_none():
    """The smallest state; None is an empty subtree."""
    step = metagrad.compile(
        lambda s, z, batch: (
            s[0] - 0.1 * metagrad.grad(lambda w: jnp.sum((w - z * batch["x"]) ** 2))(s[0]),
            None,
        )
    )
    result, _ = check(
        step,
        lambda s: jnp.sum(s[0] ** 2),
        EVERYTHING,
        (jnp.ones(2), None),
        jnp.asarray(2.0),
        {"x": jnp.ones((3, 2)), "unused": None},
    )
    assert result.state[1] is None


def test_numpy_arrays():
    arguments = jax.tree.map(np.asarray, ({"params": runs.params()}, runs.meta(), runs.data(3)))
    check(runs.sgd(), runs.outer, EVERYTHING, *arguments)


def test_empty_and_scalar_leaves():
    step = metagrad.compile(
        lambda s, z, batch: {
            "w": s["w"] - 0.1 * metagrad.grad(lambda w: (w * z - batch) ** 2)(s["w"]),
            "empty": s["empty"],
        }
    )
    state = {"w": jnp.asarray(1.0), "empty": jnp.zeros((0, 3))}
    result, _ = check(
        step, lambda s: s["w"] ** 2, EVERYTHING, state, jnp.asarray(0.5), jnp.arange(3.0)
    )
    assert result.grad[1]["empty"].shape == (0, 3)

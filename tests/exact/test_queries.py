"""Outer functions that return a vector: the gradient of each entry, from one run."""

import operator

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import runs
from jax import lax
from unrolled import SINGLE, assert_close, assert_exact, unrolled, who

import metagrad
from metagrad.compiler.dialect import context, functions

EVERYTHING = ("meta", "state", "batches")
SCHEDULE = metagrad.LazyKary(2)


def queries(count, dtype=None):
    """The squared error on `count` examples that training has not seen, each by itself."""

    def outer(state):
        x = jnp.asarray(np.random.default_rng(7).normal(size=(count, runs.FEATURES)), dtype)
        return (runs.predict(state["params"], x) - jnp.arange(count)) ** 2

    return outer


def check(step, state=None, *, count=3, wrt=EVERYTHING, outer=None, T=4, **options):
    state = {"params": runs.params()} if state is None else state
    return assert_exact(
        step,
        outer or queries(count),
        wrt,
        state,
        runs.meta(),
        runs.data(T),
        schedule=SCHEDULE,
        **options,
    )


def entry(tree, i):
    return jax.tree.map(operator.itemgetter(i), tree)


# --- Steps ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 3, 8])
@pytest.mark.parametrize("ad", ["auto", "jax"])
def test_as_many_queries_as_there_are(count, ad):
    result, lowered = check(runs.sgd(ad=ad), count=count)
    assert result.value.shape == (count,)
    assert {leaf.shape[0] for leaf in jax.tree.leaves(result.grad)} == {count}
    assert who(lowered)[0] == {"auto": "enzyme", "jax": "jax"}[ad]


@pytest.mark.parametrize("wrt", [*EVERYTHING, ("batches",), ("batches", "meta")])
def test_whatever_the_gradient_is_with_respect_to(wrt):
    check(runs.sgd(), wrt=wrt)


@pytest.mark.parametrize(
    "optimiser",
    [optax.adam(0.05, eps_root=1e-8), optax.sgd(0.1, momentum=0.9, nesterov=True)],
    ids=["adam", "nesterov"],
)
def test_optimisers(optimiser):
    check(*runs.with_optax(optimiser))


def recurrent(p, z, batch):
    """A loss with a loop that parameters and data go through."""

    def turn(h, x):
        return jnp.tanh(h + x @ p["w1"] + p["b1"]), jnp.sum(h)

    h, sums = lax.scan(turn, jnp.zeros(runs.WIDTH), batch["x"])
    return jnp.mean(z["weights"] * (h @ p["w2"] - batch["y"]) ** 2) + jnp.mean(sums**2)


def stopped(p, z, batch):
    error = runs.predict(p, batch["x"]) - batch["y"]
    return jnp.mean(z["weights"] * error * lax.stop_gradient(error) ** 2)


def clipped(p, z, batch):
    return runs.loss(jax.tree.map(clip, p), z, batch)


@jax.custom_vjp
def clip(x):
    return x


clip.defvjp(lambda x: (x, None), lambda _, bar: (jnp.clip(bar, -0.1, 0.2),))


def recomputed(p, z, batch):
    return jax.checkpoint(runs.loss)(p, z, batch)


LOSSES = {
    "scan": (recurrent, "enzyme"),
    "stop_gradient": (stopped, "enzyme"),
    "custom rule": (clipped, "jax"),
    "checkpoint": (recomputed, "jax-mixed"),
}


@pytest.mark.parametrize("name", LOSSES)
def test_losses(name):
    loss, rule = LOSSES[name]
    _, lowered = check(runs.sgd(metagrad.grad(loss)))
    assert who(lowered)[0] == rule


def test_gradients_in_a_loop():
    def gradient(p, z, batch):
        def add_row(total, i):
            part = {name: lax.dynamic_slice_in_dim(leaf, i, 1) for name, leaf in batch.items()}
            g = metagrad.grad(runs.loss)(p, {"weights": z["weights"][i]}, part)
            return jax.tree.map(jnp.add, total, g), None

        return lax.scan(add_row, jax.tree.map(jnp.zeros_like, p), jnp.arange(runs.EXAMPLES))[0]

    _, lowered = check(runs.sgd(gradient))
    assert who(lowered)[0] == "nested-mixed"


def test_two_gradients_of_which_one_depends_on_the_other():
    def gradient(p, z, batch):
        first = metagrad.grad(runs.loss)(p, z, batch)
        return metagrad.grad(runs.loss)(jax.tree.map(lambda p, g: p + 0.1 * g, p, first), z, batch)

    check(runs.sgd(gradient))


def test_a_step_without_a_gradient():
    @metagrad.compile
    def step(state, z, batch):
        w1 = jnp.sin(state["params"]["w1"] * z["rate"]) + batch["x"].mean(0)[:, None]
        w1 *= jnp.mean(z["weights"])
        return {"params": state["params"] | {"w1": w1}}

    check(step)


def test_auxiliary_outputs_of_step_and_outer_function():
    @metagrad.compile(has_aux=True)
    def step(state, z, batch):
        value, g = metagrad.value_and_grad(runs.loss)(state["params"], z, batch)
        return {"params": jax.tree.map(lambda p, g: p + z["rate"] * g, state["params"], g)}, value

    outer = lambda state: (queries(3)(state), {"norm": jnp.sum(state["params"]["w1"] ** 2)})
    result, _ = check(step, outer=outer, has_aux=True, step_has_aux=True)
    (_, aux), steps_aux = result.value, result.aux
    assert_close(aux["norm"], jnp.sum(result.state["params"]["w1"] ** 2), 1e-12)
    assert steps_aux.shape == (4,)


def test_leaves_without_a_derivative():
    """A counter, a key and a leaf that stays: float0 zeros and zeros with an axis for queries."""

    @metagrad.compile
    def step(state, z, batch):
        noise = jax.random.normal(state["key"], (runs.WIDTH,))
        g = metagrad.grad(runs.loss)(state["params"], z, batch)
        params = jax.tree.map(lambda p, g: p - jnp.exp(z["rate"]) * g, state["params"], g)
        params["b1"] += 0.01 * noise * state["scale"]
        return state | {
            "params": params,
            "key": jax.random.split(state["key"])[0],
            "count": state["count"] + 1,
        }

    state = {
        "params": runs.params(),
        "key": jax.random.PRNGKey(0),
        "count": jnp.int32(0),
        "scale": jnp.float64(0.7),
    }
    result, _ = check(step, state)
    grad = result.grad[1]
    assert grad["key"].dtype == grad["count"].dtype == jax.dtypes.float0
    assert (grad["key"].shape, grad["count"].shape) == ((3, 2), (3,))


# --- Outer functions ------------------------------------------------------------------------------


def test_queries_that_read_some_leaves():
    check(runs.sgd(), outer=lambda state: state["params"]["w2"][:2] ** 3)


def test_a_constant_among_the_queries_has_a_gradient_of_zeros():
    outer = lambda state: jnp.stack([jnp.sum(state["params"]["w1"] ** 2), 1.5])
    result, _ = check(runs.sgd(), outer=outer)
    assert all((leaf[1] == 0).all() for leaf in jax.tree.leaves(result.grad))


@pytest.mark.filterwarnings("ignore:the step")
def test_nothing_but_constants():
    result, _ = check(runs.sgd(), outer=lambda state: jnp.arange(3.0))
    assert all((leaf == 0).all() for leaf in jax.tree.leaves(result.grad))


def test_an_outer_function_that_jax_differentiates():
    def outer(state):
        return jnp.stack([clip(state["params"]["w2"]).sum() ** 2, state["params"]["b1"][0]])

    _, lowered = check(runs.sgd(), outer=outer)
    assert who(lowered)[-1] == "jax"


def test_an_infinity_stays_in_its_query():
    outer = lambda state: jnp.stack([jnp.sqrt(0.0 * state["params"]["w2"][0]), 3.0])
    arguments = {"params": runs.params()}, runs.meta(), runs.data(2)
    mg = runs.sgd().metagradient(outer, check_nans=False)
    _, want, _ = unrolled(runs.sgd(), outer, "meta", *arguments)
    assert_close(mg(*arguments).grad, want, 1e-11)


def test_outer_arguments():
    def outer(state, x, y):
        return (runs.predict(state["params"], x) - y) ** 2

    x, y = runs.data(1, seed=3)["x"][0], runs.data(1, seed=3)["y"][0]
    assert_exact(
        runs.sgd(), outer, "meta", {"params": runs.params()}, runs.meta(), runs.data(3), x, y
    )


# --- Schedules, precision, transformations --------------------------------------------------------


@pytest.mark.parametrize(
    "schedule",
    [metagrad.StoreAll(), metagrad.Binomial(2), metagrad.Periodic(3), metagrad.LazyKary(3)],
    ids=str,
)
def test_every_schedule(schedule):
    arguments = {"params": runs.params()}, runs.meta(), runs.data(9)
    assert_exact(runs.sgd(), queries(2), EVERYTHING, *arguments, schedule=schedule)


@pytest.mark.single
def test_single_precision():
    step, state = runs.with_optax(optax.adam(0.05, eps_root=1e-8))
    result, _ = check(step, state, tolerance=SINGLE, outer=queries(3, jnp.float32))
    dtypes = {leaf.dtype for leaf in jax.tree.leaves(result.grad)}
    assert dtypes == {np.dtype(np.float32), jax.dtypes.float0}


def test_gradients_are_those_of_single_queries():
    arguments = {"params": runs.params()}, runs.meta(), runs.data(4)
    together = runs.sgd().metagradient(queries(3), EVERYTHING)(*arguments)
    for q in range(3):
        alone = runs.sgd().metagradient(lambda s, q=q: queries(3)(s)[q], EVERYTHING)(*arguments)
        assert_close(entry(together.grad, q), alone.grad, 1e-13)


@pytest.mark.parametrize("wrap", [lambda f: f, jax.jit])
def test_derivative_of_the_value(wrap):
    state, meta, batches = {"params": runs.params()}, runs.meta(), runs.data(3)
    mg = runs.sgd().metagradient(queries(3), ("meta", "state"))
    weights = jnp.array([0.3, -1.0, 2.0])

    def along(run):
        return lambda z, s: jnp.sum(jnp.sin(run(s, jax.tree.map(jnp.tanh, z))) * weights)

    def plain(s, z):
        for t in range(3):
            s = runs.sgd()(s, z, entry(batches, t))
        return queries(3)(s)

    got = jax.grad(wrap(along(lambda s, z: mg(s, z, batches).value)), (0, 1))(meta, state)
    want = jax.grad(along(plain), (0, 1))(meta, state)
    assert_close(got, want, 1e-11)


def test_in_a_loop_of_jax():
    arguments = {"params": runs.params()}, runs.meta(), runs.data(3)
    mg = runs.sgd().metagradient(queries(2))
    scales = jnp.array([0.5, 1.0])
    scaled = lambda c: mg(arguments[0], jax.tree.map(lambda z: c * z, arguments[1]), arguments[2])
    got = jax.jit(lambda: lax.map(lambda c: scaled(c).grad, scales))()
    for i, c in enumerate(scales):
        assert_close(entry(got, i), scaled(c).grad, 1e-13)


# --- What it costs --------------------------------------------------------------------------------


def pieces(outer, **options):
    """The pieces of a metagradient's program, and the program."""
    arguments = {"params": runs.params()}, runs.meta(), runs.data(16)
    lowered = runs.sgd().metagradient(outer, **options).lower(*arguments)
    return context.parse(lowered.ir("pieces")), lowered


def products(op):
    return len(functions.operations(op, "stablehlo.dot_general".__eq__))


def test_what_does_not_depend_on_the_query_is_computed_once():
    module, _ = pieces(queries(8))
    step_vjp = functions.get(module, "step_vjp")
    (loop,) = functions.operations(step_vjp, "stablehlo.while".__eq__)
    of_one, _ = pieces(lambda state: queries(8)(state)[0])
    alone = functions.get(of_one, "step_vjp")
    assert products(step_vjp) == products(alone)
    # The products of the loss, and the derivative in what goes into the second of them.
    assert products(loop) == products(alone) - 3


def test_slots_do_not_grow_with_the_queries():
    """Sixteen steps are kept, with a slot for the state of each."""
    temporary = {}
    for count in (8, 64):
        _, lowered = pieces(queries(count), schedule=metagrad.StoreAll())
        temporary[count] = lowered.compile().memory_analysis().temp_size_in_bytes
    slots = 16 * sum(leaf.nbytes for leaf in jax.tree.leaves(runs.params()))
    assert (temporary[64] - temporary[8]) / 56 < slots / 2

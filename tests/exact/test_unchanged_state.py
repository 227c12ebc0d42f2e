"""Leaves of the state that no slot holds: those that no step changes, and counters.

The derivative is the same, in them too, and memory is that of the leaves that change.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import runs
import unrolled
from unrolled import assert_exact

import metagrad
from metagrad import Binomial, LazyKary, Periodic, StoreAll

EVERYTHING = ("meta", "state", "batches")
check = functools.partial(assert_exact, schedule=LazyKary(2))


def held(lowered):
    """The lines of `explain` on what a slot holds."""
    lines = lowered.explain().splitlines()
    first = next(i for i, line in enumerate(lines) if line.startswith("a slot holds"))
    return [line.strip() for line in lines[first:]]


# --- One run with all kinds -----------------------------------------------------------------------


@functools.cache
def fine_tuning(**options):
    """Adam on what is added to frozen weights, with data, a mask and a key in the state."""
    optimiser = optax.adam(0.05, eps_root=1e-8)

    def loss(p, s, z, x):
        h = jnp.tanh(x @ (s["base"] + p["w1"] * s["mask"]) + p["b1"])
        noise = jax.random.normal(jax.random.fold_in(s["key"], s["count"]), h.shape)
        return jnp.mean(z["weights"] * ((h + 0.1 * noise) @ p["w2"]) ** 2)

    @metagrad.compile(**options)
    def step(s, z, batch):
        x = s["data"][s["count"]] + batch["x"]
        value, g = metagrad.value_and_grad(loss)(s["params"], s, z, x)
        updates, opt = optimiser.update(g, s["opt"], s["params"])
        updates = jax.tree.map(lambda u: u * jnp.exp(z["rate"]), updates)
        new = s | {"params": optax.apply_updates(s["params"], updates), "opt": opt}
        new["count"] = s["count"] + 1
        return (new, {"value": value, "count": s["count"]}) if options else new

    return step, {
        "params": runs.params(),
        "opt": optimiser.init(runs.params()),
        "base": jnp.linspace(-1, 1, runs.FEATURES * runs.WIDTH).reshape(runs.FEATURES, runs.WIDTH),
        "data": jnp.sin(jnp.arange(9.0 * runs.EXAMPLES * runs.FEATURES)).reshape(
            9, runs.EXAMPLES, runs.FEATURES
        ),
        "mask": jnp.arange(runs.WIDTH) % 2 == 0,
        "key": jax.random.key(1),
        "count": jnp.asarray(3),
    }


def of_run(s):
    return runs.outer(s) + jnp.sum(s["base"] ** 3) + s["data"][s["count"]].sum()


@pytest.mark.parametrize(
    "schedule, steps",
    [
        (StoreAll(), 5),
        (StoreAll(), 1),
        (Periodic(2), 5),
        (LazyKary(2), 5),
        (LazyKary(2, keep_gradients=False), 4),
        (Binomial(2, rebuild=2), 5),
        (None, 1),
    ],
    ids=str,
)
def test_schedules(schedule, steps):
    step, state = fine_tuning()
    _, lowered = assert_exact(
        step, of_run, EVERYTHING, state, runs.meta(), runs.data(steps), schedule=schedule
    )
    assert held(lowered) == [
        "a slot holds 9 of the state's 15 leaves, 600 bytes",
        "not changed by the step: state['base'], state['data'], state['key'], state['mask'] "
        "(997 bytes)",
        "counters: state['count'], state['opt'][0].count (12 bytes)",
    ]


@pytest.mark.parametrize("wrt", ["meta", "state"])
def test_with_auxiliary_results(wrt):
    step, state = fine_tuning(has_aux=True)
    arguments = state, runs.meta(), runs.data(4)
    result, _ = check(step, of_run, wrt, *arguments, step_has_aux=True)
    np.testing.assert_array_equal(result.aux["count"], [3, 4, 5, 6])


def test_no_loop_carries_them():
    step, state = fine_tuning()
    lowered = step.metagradient(of_run, schedule=LazyKary(3)).lower(
        state, runs.meta(), runs.data(9)
    )
    slots = lowered.plan.state_slots
    program = lowered.ir("scheduled").split("@main(")[1]
    loops = [line for line in program.splitlines() if "stablehlo.while(" in line]
    carried = [line.split(") : ")[1].split(", ") for line in loops]
    assert f"tensor<{slots + 1}x3x5xf64>" in carried[1]
    # The counters' tables are filled first; of the rest no loop carries any.
    assert carried[0] == ["tensor<i32>", "tensor<i64>", "tensor<i32>", "tensor<10xi64>"] + [
        "tensor<10xi32>"
    ]
    stacked = {f"tensor<{slots + 1}x{leaf}>" for leaf in ("9x4x3xf64", "5xi1", "2xui32")}
    others = {"tensor<9x4x3xf64>", "tensor<5xi1>", "tensor<2xui32>", "tensor<10xi64>"} | stacked
    assert not [types for types in carried[1:] if others & set(types)]


# --- States of which nothing, or all, is left -----------------------------------------------------


@pytest.mark.filterwarnings("ignore:the step .* never reads meta:UserWarning")
def test_a_state_that_no_step_changes():
    step = metagrad.compile(lambda s, z, batch: s)
    result, lowered = check(
        step, lambda s: jnp.sum(s["w"] ** 2), EVERYTHING, {"w": jnp.ones(3)}, 2.0, jnp.ones(4)
    )
    assert held(lowered)[0] == "a slot holds 0 of the state's 1 leaves, 0 bytes"
    assert result.grad[0] == 0 and (result.grad[1]["w"] == 2).all()


@pytest.mark.parametrize("schedule", [StoreAll(), LazyKary(2)], ids=str)
def test_a_state_of_counters(schedule):
    """The auxiliary results are those of the run."""

    @metagrad.compile(has_aux=True)
    def step(s, z, batch):
        g = metagrad.grad(lambda z: jnp.sum((z * s["table"][s["n"]] - batch) ** 2))(z)
        return {"n": (s["n"] + 3) % 7, "table": s["table"]}, g

    state = {"n": jnp.asarray(1), "table": jnp.arange(7.0)}
    result, _ = assert_exact(
        step,
        lambda s: s["table"][s["n"]] ** 2,
        ("meta", "state"),
        state,
        jnp.asarray(0.5),
        jnp.arange(5.0),
        schedule=schedule,
        step_has_aux=True,
    )
    np.testing.assert_allclose(
        result.aux, 2 * np.array([1, 4, 0, 3, 6]) * (0.5 * np.array([1, 4, 0, 3, 6]) - np.arange(5))
    )


# --- The value is unchanged and the derivative is not ---------------------------------------------


@jax.custom_vjp
def negated(x):
    return x


negated.defvjp(lambda x: (x, None), lambda _, bar: (-bar,))


@jax.custom_vjp
def of_another(x, y):
    return x


of_another.defvjp(lambda x, y: (x, None), lambda _, bar: (0.5 * bar, 2 * bar))


RULES = {
    "custom_vjp": negated,
    "stop_gradient": jax.lax.stop_gradient,
    "of one in two": lambda x: jnp.concatenate([x[:1], jax.lax.stop_gradient(x[1:])]),
    "in a scan": lambda x: jax.lax.scan(lambda x, _: (negated(x), None), x, None, length=3)[0],
    "in a branch": lambda x: jax.lax.cond(x[0] > 0, negated, lambda x: x, x),
    "added zeros": lambda x: x + jnp.zeros_like(x),
}


@pytest.mark.parametrize("name", RULES)
def test_derivative_of_a_leaf_of_unchanged_value(name):
    """Each step reads the leaf, and hands it on by a rule of its own."""

    @metagrad.compile
    def step(s, z, batch):
        g = metagrad.grad(lambda w: jnp.sum((w * s["frozen"] - batch) ** 2))(s["w"])
        return {"w": s["w"] - z * g, "frozen": RULES[name](s["frozen"])}

    state = {"w": jnp.ones(2), "frozen": jnp.asarray([0.5, 1.5])}
    outer = lambda s: jnp.sum(s["w"] ** 2 + s["frozen"] ** 3)
    _, lowered = check(step, outer, ("meta", "state"), state, 0.1, jnp.arange(4.0))
    assert ("state['frozen']" in lowered.explain()) == (name != "of one in two")


def test_a_rule_that_hands_a_cotangent_to_another_leaf():
    @metagrad.compile
    def step(s, z, batch):
        g = metagrad.grad(lambda w: jnp.sum((w * s["frozen"] - batch) ** 2))(s["w"])
        return {"w": s["w"] - z * g, "frozen": of_another(s["frozen"], s["w"])}

    state = {"w": jnp.ones(2), "frozen": jnp.asarray([0.5, 1.5])}
    outer = lambda s: jnp.sum(s["frozen"] ** 3)
    check(step, outer, ("meta", "state"), state, 0.1, jnp.arange(4.0))


def test_operands_of_a_loss_that_a_rule_hands_on():
    """The inner gradient is called on arguments of the step, or so it looks in the program."""

    @metagrad.compile
    def step(w, z, batch):
        loss = lambda w, p, q, b: jnp.sum((w * p - q * b) ** 2)
        return w - 0.1 * metagrad.grad(loss)(w, negated(z["p"]), of_another(z["q"], w), batch)

    z = {"p": jnp.asarray(1.5), "q": jnp.asarray([0.5, 2.0])}
    check(step, lambda w: jnp.sum(w**2), EVERYTHING, jnp.ones(2), z, jnp.arange(1.0, 4.0))


def test_through_auxiliary_results_of_the_loss():
    """What the loss returns as it came has the derivative of what it is."""

    def loss(w, frozen, batch):
        return jnp.sum((w * frozen - batch) ** 2), (frozen, w * frozen)

    @metagrad.compile
    def step(s, z, batch):
        (_, (frozen, product)), g = metagrad.value_and_grad(loss, has_aux=True)(
            s["w"], s["frozen"], batch
        )
        return {"w": s["w"] - z * g * frozen + 0.1 * product, "frozen": frozen}

    state = {"w": jnp.ones(2), "frozen": jnp.asarray([0.5, 1.5])}
    outer = lambda s: jnp.sum(s["w"] ** 2 + s["frozen"] ** 3)
    _, lowered = check(step, outer, EVERYTHING, state, 0.1, jnp.arange(4.0))
    assert held(lowered)[1] == "not changed by the step: state['frozen'] (16 bytes)"


# --- Counters -------------------------------------------------------------------------------------


def test_a_counter_that_stops_at_the_largest_integer():
    """optax's; the learning rate is a schedule of it."""
    optimiser = optax.chain(
        optax.scale_by_adam(eps_root=1e-8),
        optax.scale_by_learning_rate(lambda count: 0.1 / (2**31 - count).astype(float)),
    )
    step, state = runs.with_optax(optimiser)
    last = jnp.asarray(2**31 - 3, jnp.int32)
    adam, by_schedule = state["opt"]
    state["opt"] = adam._replace(count=last), by_schedule._replace(count=last)
    result, lowered = check(step, runs.outer, EVERYTHING, state, runs.meta(), runs.data(5))
    assert result.state["opt"][1].count == 2**31 - 1
    assert held(lowered)[1].startswith("counters: state['opt'][0].count, state['opt'][1].count")


def test_multi_steps():
    """Gradients of two batches make one update; the counters say when."""
    step, state = runs.with_optax(optax.MultiSteps(optax.adam(0.05, eps_root=1e-8), 2))
    _, lowered = check(step, runs.outer, ("meta", "state"), state, runs.meta(), runs.data(5))
    assert "mini_step" in lowered.explain() and "gradient_step" in lowered.explain()


# --- Memory ---------------------------------------------------------------------------------------


def size(tree):
    return sum(leaf.nbytes for leaf in jax.tree.leaves(tree))


WIDTH, LAYERS, RANK, EXAMPLES = 64, 4, 2, 8


def adapted(base, lora, x):
    """Layers of width 64, each with a product of two thin matrices added to its frozen one."""
    for w, (a, b) in zip(base, lora):
        x = jnp.tanh(x @ w + (x @ a) @ b)
    return x


def lora_problem(apart, schedule=None):
    """(step, outer, state, the frozen part of it): the base in the state, or among the params."""
    normal = lambda seed, *shape: jax.random.normal(jax.random.key(seed), shape) / shape[0] ** 0.5
    base = [normal(i, WIDTH, WIDTH) for i in range(LAYERS)]
    lora = [(jnp.zeros((WIDTH, RANK)), normal(9 + i, RANK, WIDTH)) for i in range(LAYERS)]
    x = normal(99, EXAMPLES, WIDTH)

    def loss(p, z, i):
        return jnp.mean(z[i] * (adapted(p["base"], p["lora"], x[i]) - 1).mean(1) ** 2)

    optimiser = optax.adam(1e-2, eps_root=1e-8)
    if not apart:
        optimiser = optax.multi_transform(
            {"frozen": optax.set_to_zero(), "lora": optimiser}, {"base": "frozen", "lora": "lora"}
        )

    @metagrad.compile
    def step(s, z, i):
        if apart:
            of_lora = lambda lora, z, i: loss({"base": s["p"]["base"], "lora": lora}, z, i)
            g = metagrad.grad(of_lora)(s["p"]["lora"], z, i)
            updates, opt = optimiser.update(g, s["opt"], s["p"]["lora"])
            p = s["p"] | {"lora": optax.apply_updates(s["p"]["lora"], updates)}
        else:
            updates, opt = optimiser.update(metagrad.grad(loss)(s["p"], z, i), s["opt"], s["p"])
            p = optax.apply_updates(s["p"], updates)
        return {"p": p, "opt": opt}

    p = {"base": base, "lora": lora}
    state = {"p": p, "opt": optimiser.init(lora if apart else p)}
    outer = lambda s: loss(s["p"], jnp.ones(EXAMPLES), jnp.arange(EXAMPLES))
    return step, outer, state, base


@pytest.mark.parametrize("apart", [True, False], ids=["base apart", "base among the parameters"])
def test_slots_of_lora_hold_the_lora_state(apart):
    """Slots take what 24 states and gradients without the base take, to a tenth of one base."""
    steps = 32
    step, outer, state, base = lora_problem(apart)
    order = jnp.arange(4 * steps).reshape(steps, 4) % EXAMPLES
    arguments = state, jnp.ones(EXAMPLES), order
    compiled = step.metagradient(outer, schedule=Binomial(24)).lower(*arguments).compile()
    trained = size(state) - size(base)
    slots = compiled.plan.slot_bytes(trained, size(state["p"]["lora"]))
    memory = compiled.memory_analysis()
    assert compiled.plan.state_slots == 24
    assert memory.temp_size_in_bytes < slots + size(base)
    value, grad, _ = unrolled.unrolled(step, outer, "meta", *arguments)
    result = compiled(*arguments)
    unrolled.assert_close(result.value, value, unrolled.DOUBLE, "value")
    unrolled.assert_close(result.grad, grad, unrolled.DOUBLE)


def test_data_in_the_state_cost_what_data_in_meta_cost():
    data = jnp.sin(jnp.arange(200_000.0)).reshape(-1, 10)

    def run(w, n, data, z, i):
        loss = lambda w: jnp.mean((data[i + n] @ w - 1) ** 2)
        return w - z * metagrad.grad(loss)(w), n + 1

    @metagrad.compile
    def in_state(s, z, i):
        w, n = run(s["w"], s["n"], s["data"], z, i)
        return {"w": w, "n": n, "data": s["data"]}

    @metagrad.compile
    def in_meta(s, z, i):
        w, n = run(s["w"], s["n"], jax.lax.stop_gradient(z["data"]), z["rate"], i)
        return {"w": w, "n": n}

    outer = lambda s: jnp.sum(s["w"] ** 2)
    w, n, rate = jnp.ones(10), jnp.asarray(0), jnp.asarray(0.1)
    order = jnp.arange(320).reshape(40, 8) * 7
    state, meta = (
        step.metagradient(outer, schedule=Binomial(24)).lower(*arguments, order).compile()
        for step, arguments in (
            (in_state, ({"w": w, "n": n, "data": data}, rate)),
            (in_meta, ({"w": w, "n": n}, {"rate": rate, "data": data})),
        )
    )
    temporaries = [c.memory_analysis().temp_size_in_bytes for c in (state, meta)]
    assert temporaries[0] <= temporaries[1] < size(data) / 100
    a = state({"w": w, "n": n, "data": data}, rate, order)
    b = meta({"w": w, "n": n}, {"rate": rate, "data": data}, order)
    unrolled.assert_close(a.grad, b.grad["rate"], unrolled.DOUBLE)
    assert not b.grad["data"].any()

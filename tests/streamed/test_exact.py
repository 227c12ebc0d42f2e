"""Streamed runs give JAX's own gradient of the unrolled run, and the fused program's numbers."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from exact import runs, unrolled
from exact.unrolled import assert_close

import metagrad

from . import plans

EVERYTHING = ("meta", "state", "batches")
STEPS, LENGTH = 7, 3  # segments of 3, 3 and 1
CAPTURED = np.linspace(0.5, 1.5, runs.FEATURES)


@dataclasses.dataclass
class Case:
    """A training run, and what `metagradient` and `unrolled` are told of it."""

    step: Callable
    outer: Callable = runs.outer
    state: Any = None
    batches: Any = None
    outer_args: tuple = ()
    wrt: Any = EVERYTHING
    has_aux: bool = False
    step_has_aux: bool = False
    within: Any = None
    slots: int = 2

    @property
    def arguments(self):
        state = {"params": runs.params()} if self.state is None else self.state
        return state, runs.meta(), runs.data(STEPS) if self.batches is None else self.batches


def sgd(**options):
    return Case(runs.sgd(**options))


def adam():
    step, state = runs.with_optax(optax.adam(0.05))
    return Case(step, state=state)


def frozen_leaves():
    @metagrad.compile
    def step(state, z, batch):
        scaled = lambda p, z, batch: runs.loss(
            p, z, {"x": batch["x"] * state["frozen"], "y": batch["y"]}
        )
        g = metagrad.grad(scaled)(state["params"], z, batch)
        params = jax.tree.map(lambda p, g: p - jnp.exp(z["rate"]) * g, state["params"], g)
        return {"params": params, "frozen": state["frozen"], "name": "frozen"}

    return Case(step, state={"params": runs.params(), "frozen": CAPTURED, "name": "frozen"})


def keys_in_the_state():
    @metagrad.compile
    def step(state, z, batch):
        key, mine = jax.random.split(state["key"])
        noisy = {"x": batch["x"] + 0.1 * jax.random.normal(mine, batch["x"].shape), "y": batch["y"]}
        g = metagrad.grad(runs.loss)(state["params"], z, noisy)
        params = jax.tree.map(lambda p, g: p - jnp.exp(z["rate"]) * g, state["params"], g)
        return {"params": params, "key": key}

    return Case(step, state={"params": runs.params(), "key": jax.random.key(3)})


def keys_in_the_batches():
    @metagrad.compile
    def step(state, z, batch):
        noise = jax.random.normal(batch["key"], batch["x"].shape)
        noisy = {"x": batch["x"] + 0.1 * noise, "y": batch["y"]}
        g = metagrad.grad(runs.loss)(state["params"], z, noisy)
        return {"params": jax.tree.map(lambda p, g: p - jnp.exp(z["rate"]) * g, state["params"], g)}

    keys = jax.random.split(jax.random.key(5), STEPS)
    return Case(step, batches=runs.data(STEPS) | {"key": keys})


def aux_of_the_step():
    @metagrad.compile(has_aux=True)
    def step(state, z, batch):
        g = metagrad.grad(runs.loss)(state["params"], z, batch)
        params = jax.tree.map(lambda p, g: p - jnp.exp(z["rate"]) * g, state["params"], g)
        norms = {"norm": jnp.sum(g["w1"] ** 2), "count": batch["x"].shape[0], "all": g["b1"]}
        return {"params": params}, norms

    return Case(step, step_has_aux=True)


def outer_arguments_and_aux():
    def outer(state, held_out, scale):
        error = runs.predict(state["params"], held_out["x"]) - held_out["y"]
        return scale * jnp.mean(error**2), {"error": error}

    held_out = jax.tree.map(lambda leaf: leaf[0], runs.data(1, seed=7))
    return Case(runs.sgd(), outer, outer_args=(held_out, 2.0), has_aux=True)


def captured_arrays():
    scale, shift = jnp.asarray(CAPTURED), jnp.asarray(CAPTURED[::-1] / 10)

    @metagrad.compile
    def step(state, z, batch):
        seen = {"x": batch["x"] * scale + shift, "y": batch["y"]}
        g = metagrad.grad(runs.loss)(state["params"], z, seen)
        return {"params": jax.tree.map(lambda p, g: p - jnp.exp(z["rate"]) * g, state["params"], g)}

    def outer(state):
        return jnp.sum(runs.predict(state["params"], scale[None] * 0.3) ** 2)

    return Case(step, outer)


def no_inner_gradients():
    @metagrad.compile
    def step(state, z, batch):
        push = jnp.tanh(batch["x"].T @ (z["weights"] * batch["y"]))
        w = state["w"] * (1 - jnp.exp(z["rate"])) + push
        return {"w": w, "t": state["t"] + 1}

    return Case(step, lambda state: jnp.sum(state["w"] ** 3), {"w": jnp.ones(3), "t": 0})


def queries():
    def outer(state):
        x = np.random.default_rng(7).normal(size=(3, runs.FEATURES))
        return (runs.predict(state["params"], x) - jnp.arange(3)) ** 2

    return Case(runs.sgd(), outer)


def replays_within_segments():
    """The plan of the last segment, of two steps, keeps more gradients than that of three."""
    return dataclasses.replace(
        sgd(), within=metagrad.Binomial(2), slots=1, batches=runs.data(STEPS + 1)
    )


CASES = [
    sgd,
    adam,
    frozen_leaves,
    keys_in_the_state,
    keys_in_the_batches,
    aux_of_the_step,
    outer_arguments_and_aux,
    captured_arrays,
    no_inner_gradients,
    queries,
    replays_within_segments,
]


def run(case, stream=None, tiers=("device", "host", "disk"), **options):
    """The streamed result."""
    state, meta, batches = case.arguments
    stream = metagrad.Stream(batches) if stream is None else stream
    mg = case.step.metagradient(case.outer, case.wrt, has_aux=case.has_aux, **options)
    arguments = state, meta, stream, *case.outer_args
    compiled = plans.compiled(
        mg, *arguments, length=LENGTH, slots=case.slots, tiers=tiers, within=case.within
    )
    return compiled(*arguments)


def fused(case):
    mg = case.step.metagradient(case.outer, case.wrt, has_aux=case.has_aux, runtime="fused")
    return mg(*case.arguments, *case.outer_args)


def check_against_jax(case, result, tolerance=unrolled.DOUBLE):
    value, grad, state = unrolled.unrolled(
        case.step,
        case.outer,
        case.wrt,
        *case.arguments,
        *case.outer_args,
        step_has_aux=case.step_has_aux,
        has_aux=case.has_aux,
    )
    assert_close(result.value[0] if case.has_aux else result.value, value, tolerance, "value")
    assert_close(result.grad, grad, tolerance)
    assert_close(result.state, state, tolerance, "state")


@pytest.mark.parametrize("make", CASES, ids=lambda make: make.__name__)
def test_equal_to_jax_and_to_the_fused_program(make):
    case = make()
    result = run(case)
    check_against_jax(case, result)
    assert_close(tuple(result), tuple(fused(case)), 1e-12, "fused")


def test_steps_that_jax_differentiates():
    case = sgd(ad="jax")
    result = run(case)
    check_against_jax(case, result)
    assert_close(tuple(result), tuple(fused(case)), 1e-12, "fused")


def test_leaves_that_no_step_changes_are_the_very_arrays():
    case = frozen_leaves()
    frozen = jnp.asarray(CAPTURED)
    case.state["frozen"] = frozen
    result = run(case)
    assert result.state["frozen"] is frozen and result.state["name"] == "frozen"


def test_aux_is_that_of_each_step():
    case = aux_of_the_step()
    result, one_program = run(case), fused(case)
    assert_close(result.aux, one_program.aux, 1e-12, "aux")
    assert result.aux["norm"].shape == (STEPS,)


@pytest.mark.parametrize(
    "wrt", ["meta", "state", "batches", ("batches", "meta"), ("state", "batches")], ids=str
)
def test_each_group(wrt):
    case = dataclasses.replace(sgd(), wrt=wrt)
    check_against_jax(case, run(case))


@pytest.mark.single
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16], ids=str)
def test_other_precisions(dtype):
    """The state has the dtype; what is else is float32."""

    @metagrad.compile
    def step(state, z, batch):
        g = metagrad.grad(runs.loss)(state["params"], z, batch)
        new = lambda p, g: (p - jnp.exp(z["rate"]) * g).astype(p.dtype)
        return {"params": jax.tree.map(new, state["params"], g)}

    case = Case(step, state={"params": runs.params(dtype)})
    result = run(case)
    assert result.grad[1]["params"]["w1"].dtype == dtype
    assert_close(tuple(result), tuple(fused(case)), 1e-6, "fused")


def test_prints_of_the_first_pass(capfd):
    @metagrad.compile
    def step(state, z, batch):
        jax.debug.print("<step>")
        g = metagrad.grad(runs.loss)(state["params"], z, batch)
        return {"params": jax.tree.map(lambda p, g: p - jnp.exp(z["rate"]) * g, state["params"], g)}

    def outer(state):
        jax.debug.print("<outer>")
        return runs.outer(state)

    capfd.readouterr()
    run(Case(step, outer, wrt="meta"))
    jax.effects_barrier()
    first_pass, _, second_pass = capfd.readouterr().out.partition("<outer>")
    assert first_pass.count("<step>") == STEPS
    assert second_pass.count("<step>") >= STEPS, "what is run again prints again"

"""A step with annotations: its types come through to the result."""

from typing import NamedTuple, assert_type

import jax.numpy as jnp
from jax import Array

import metagrad


class State(NamedTuple):
    w: Array
    steps: Array


class Meta(NamedTuple):
    rate: Array


def loss(w: Array, x: Array) -> Array:
    return jnp.sum((w - x) ** 2)


def loss_and_state(w: Array, state: State) -> tuple[Array, State]:
    return jnp.sum(w**2), state


@metagrad.compile
def step(state: State, meta: Meta, batch: Array) -> State:
    gradient = metagrad.grad(loss)(state.w, batch)
    assert_type(gradient, Array)
    assert_type(metagrad.value_and_grad(loss)(state.w, batch), tuple[Array, Array])
    assert_type(metagrad.grad(loss_and_state, has_aux=True)(state.w, state), tuple[Array, State])
    assert_type(
        metagrad.value_and_grad(loss_and_state, has_aux=True)(state.w, state),
        tuple[tuple[Array, State], Array],
    )
    for inline in (
        metagrad.grad(lambda w: jnp.sum((w - batch) ** 2))(state.w),
        metagrad.grad(loss, 1)(state.w, batch),
        metagrad.grad(loss, argnums=(0, 1))(state.w, batch)[0],
        metagrad.value_and_grad(loss, argnums=(0, 1), allow_int=True)(state.w, batch)[1][0],
        metagrad.grad(lambda w: (jnp.sum(w - batch), 1), has_aux=True)(state.w)[0],
    ):
        gradient = gradient + inline
    return State(state.w - meta.rate * gradient, state.steps + 1)


def outer(state: State, target: Array) -> Array:
    return jnp.sum((state.w - target) ** 2)


arguments = State(jnp.ones(2), jnp.zeros((), int)), Meta(jnp.asarray(0.1)), jnp.ones((3, 2))
target = jnp.ones(2)

result = step.metagradient(outer)(*arguments, target)
assert_type(result, metagrad.Result[Array, Meta, State])
assert_type(result.value, Array)
assert_type(result.grad.rate, Array)
assert_type(result.state.w, Array)
value, grad, state = result
assert_type(grad, Meta)
assert_type(step(*arguments[:2], jnp.ones(2)), State)

of_state = step.metagradient(
    outer, wrt="state", schedule=metagrad.LazyKary(2), runtime="fused", check_nans=False
)
assert_type(of_state(*arguments, target).grad, State)
assert_type(step.metagradient(outer, "batches")(*arguments, target).grad, Array)

compiled = of_state.lower(*arguments, target).compile()
assert_type(compiled(*arguments, target).grad, State)
assert_type(compiled.plan, metagrad.Plan | metagrad.ForwardPlan)


def outer_with_aux(state: State) -> tuple[Array, dict[str, Array]]:
    return jnp.sum(state.w), {"w": state.w}


with_aux = step.metagradient(outer_with_aux, has_aux=True)(*arguments)
assert_type(with_aux.value, tuple[Array, dict[str, Array]])
assert_type(with_aux.grad, Meta)


@metagrad.compile(has_aux=True, ad="jax")
def step_with_aux(state: State, meta: Meta, batch: Array) -> tuple[State, Array]:
    return state, jnp.sum(batch) * meta.rate


four = step_with_aux.metagradient(outer)(*arguments, target)
assert_type(four, metagrad.ResultWithAux[Array, Meta, State, Array])
assert_type(four.aux, Array)
assert_type(step_with_aux(*arguments[:2], jnp.ones(2)), tuple[State, Array])


class Trainer:
    scale = 2.0

    @metagrad.compile
    def step(self, state: State, meta: Meta, batch: Array) -> State:
        return State(state.w - self.scale * meta.rate * batch, state.steps)

    @metagrad.compile(has_aux=True)
    def step_with_aux(self, state: State, meta: Meta, batch: Array) -> tuple[State, Array]:
        return state, self.scale * batch * meta.rate


assert_type(Trainer().step.metagradient(outer)(*arguments, target).grad, Meta)
assert_type(Trainer().step_with_aux.metagradient(outer)(*arguments, target).aux, Array)

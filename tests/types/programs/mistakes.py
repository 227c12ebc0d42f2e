"""Mistakes. A line that ends in `# error` is one for each type checker, and no other line is."""

# ruff: noqa: B018

from typing import NamedTuple

import jax.numpy as jnp
from jax import Array

import metagrad


class State(NamedTuple):
    w: Array


class Meta(NamedTuple):
    rate: Array


@metagrad.compile
def step(state: State, meta: Meta, batch: Array) -> State:
    return State(state.w - meta.rate * batch)


def outer(state: State) -> Array:
    return jnp.sum(state.w)


def of_meta(meta: Meta) -> Array:
    return meta.rate


def returns_meta(state: State, meta: Meta, batch: Array) -> Meta:
    return meta


state, meta, batches = State(jnp.ones(2)), Meta(jnp.asarray(0.1)), jnp.ones((3, 2))
mg = step.metagradient(outer)
result = mg(state, meta, batches)

step.metagradient(outer, "metta")  # error
step.metagradient(outer, wrt=("meta", "stat"))  # error
step.metagradient(outer, shedule=metagrad.StoreAll())  # error
step.metagradient(outer, runtime="fast")  # error
step.metagradient(of_meta)  # error
step.metagradient(3)  # error
step.metagradiant(outer)  # error
result.gradd  # error
result.grad.speed  # error
result.aux  # error
mg(meta, state, batches)  # error
mg(state, meta)  # error
mg.lower(state, meta, batches).comple()  # error
mg.lower(state, meta, batches).compile()(meta, meta, batches)  # error
step(state, state, batches)  # error
metagrad.compile(step, ad="enzime")  # error
metagrad.compile(has_ax=True)  # error
metagrad.compile(lambda state, meta: state)  # error
metagrad.compile(returns_meta)  # error
metagrad.compile(has_aux=True)(step)  # error
metagrad.grad(outer)(state, meta)  # error
metagrad.grad(outer, has_auxx=True)  # error
metagrad.Binomial(slot=24)  # error
metagrad.compil  # error

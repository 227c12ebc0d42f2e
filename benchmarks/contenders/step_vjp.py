"""The vector-Jacobian product of one training step, by metagrad and by hand in JAX.

    (state, meta, batch, inner, cotangent of state') -> (cotangent of state, cotangent of meta)

`inner` is the step's gradient (and, where the loss has them, its auxiliary outputs), which is at
hand in most of metagrad's schedules. Cotangents are those of float leaves. Both programs are jitted
alone, with the same operands and results.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.contenders.contender import Problem
from benchmarks.contenders.metagrad_schedules import imported, metagradient
from benchmarks.contenders.mixed_mode import ComputedGradient
from benchmarks.models.model import Model


class Operands(NamedTuple):
    """What the programs take.

    `inner` is ((value, aux), gradient); `seeds` has a leaf for each float leaf of the state.
    """

    state: Any
    meta: Any
    batch: Any
    inner: Any
    seeds: list


class Recording:
    """JAX's gradients; it records the results of the step's one gradient."""

    def grad(self, loss):
        return lambda *arguments: self.value_and_grad(loss)(*arguments)[1]

    def value_and_grad(self, loss, has_aux=False):
        def recorded(*arguments):
            outputs, gradient = jax.value_and_grad(loss, has_aux=has_aux)(*arguments)
            self.inner = (outputs if has_aux else (outputs, ())), gradient
            return outputs, gradient

        return recorded


def operands(model: Model, problem: Problem) -> Operands:
    """The operands at step `problem.steps - 1` of a training run.

    In the first step Adam's moments are zero, which is not typical.
    """

    def with_inner(state, meta, batch):
        recording = Recording()
        return model.make_step(recording)(state, meta, batch), recording.inner

    step = jax.jit(with_inner)
    state = problem.state0
    for t in range(problem.steps):
        before, batch = state, jax.tree.map(operator.itemgetter(t), problem.batches)
        state, inner = step(before, problem.meta, batch)
    rng = np.random.default_rng(2)
    seeds = [
        jnp.asarray(rng.standard_normal(x.shape, np.float32))
        for x in jax.tree.leaves(state)
        if is_float(x)
    ]
    return Operands(before, problem.meta, batch, inner, seeds)


def is_float(x) -> bool:
    return jnp.issubdtype(x.dtype, jnp.floating)


def vjp_of(make_step: Callable[[Any], Callable], operands: Operands):
    """(cotangents of the state's float leaves, cotangent of meta), by `jax.vjp`.

    They are those of the step that `make_step(inner)` makes.
    """
    leaves, structure = jax.tree.flatten(operands.state)
    step = make_step(operands.inner)

    def of_floats(floats, meta):
        floats = iter(floats)
        state = jax.tree.unflatten(
            structure, [next(floats) if is_float(leaf) else leaf for leaf in leaves]
        )
        return [
            leaf for leaf in jax.tree.leaves(step(state, meta, operands.batch)) if is_float(leaf)
        ]

    return jax.vjp(of_floats, [leaf for leaf in leaves if is_float(leaf)], operands.meta)[1](
        operands.seeds
    )


def by_hand(model: Model, example: Operands):
    """Reverse mode through the optimiser, forward over reverse through the gradient.

    mixed_mode.py has the latter.
    """

    def make_step(inner):
        (value, aux), gradient = inner
        return model.make_step(
            ComputedGradient((value, aux) if jax.tree.leaves(aux) else value, gradient)
        )

    return jax.jit(lambda *args: vjp_of(make_step, Operands(*args))).lower(*example)


def by_jax(model: Model, example: Operands):
    """Reverse mode through the whole step, its inner gradient too: reverse over reverse.

    It computes the inner gradient itself.
    """
    return jax.jit(lambda *args: vjp_of(lambda _: model.make_step(jax), Operands(*args))).lower(
        *example
    )


def by_metagrad(problem: Problem, example: Operands, **options):
    """@step_vjp of the metagradient's program; `options` are the metagradient's."""
    imported()
    from jaxlib.mlir import ir

    import metagrad
    from metagrad.compiler import pipeline
    from metagrad.compiler.dialect import context, functions
    from metagrad.runtime import jax_internals
    from metagrad.runtime.executors.fused import FusedProgram, Gradients

    lowered = metagradient(problem, metagrad.StoreAll(), **options).lower(*problem.arguments)
    active = context.parse(lowered.ir("differentiated")).operation.attributes[
        "metagrad.between_steps"
    ]
    floats = [i for i, leaf in enumerate(jax.tree.leaves(example.state)) if is_float(leaf)]
    if [attribute.value for attribute in active] != floats:
        raise ValueError(
            f"@step_vjp of {problem.model.name} takes cotangents of the leaves {active} of the "
            f"state, not of {floats}"
        )
    module = context.parse(lowered.ir("scheduled"))
    with module.context, ir.Location.unknown():
        functions.drop_unreachable(module, ["step_vjp"])
        functions.rename(module, {"step_vjp": "main"})
        main = functions.find(module, "main")
        main.attributes["sym_visibility"] = ir.StringAttr.get("public")

    flat = lambda args: [*jax.tree.leaves(args[:3]), *_read(args[3]), *args[4]]
    shape = lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype)
    bytecode = pipeline.bytecode_of(module)
    program = FusedProgram(
        lambda platform: bytecode,
        jax_internals.default_platform(),
        tuple(shape(x) for x in flat(example)),
        tuple(shape(x) for x in (*example.seeds, *jax.tree.leaves(example.meta))),
        (),
        Gradients({}, (), ()),
    )

    def run(*args):
        results = program.call(*flat(args))
        return list(results[: len(example.seeds)]), jax.tree.unflatten(
            jax.tree.structure(example.meta), results[len(example.seeds) :]
        )

    return jax.jit(run).lower(*example)


def _read(inner) -> list:
    """What the models' steps read of a gradient's results: not the value."""
    (_, aux), gradient = inner
    return jax.tree.leaves((aux, gradient))

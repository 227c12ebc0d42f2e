"""Replay by hand (Engstrom et al. 2025, arXiv 2503.13751).

A lazy k-ary tree is walked in Python, over a jitted step and its jitted VJP. A segment of the run
is split in k parts of near-equal length. The states at their starts are held while running through,
and the parts are reversed from right to left, each split again. At most
(k - 1) * ceil(log_k T) + 1 states are held, and each level of the tree runs (k - 1) / k of the
steps once more.

It is written for speed: batches are sliced inside the programs, nothing waits for the device before
the end, a state that is not held is overwritten by the next one, and the cotangents are accumulated
in place.
"""

from __future__ import annotations

import itertools
import time

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.contenders import mixed_mode
from benchmarks.contenders.contender import (
    Built,
    Contender,
    Memory,
    Problem,
    Unavailable,
    tree_bytes,
)
from benchmarks.models.model import Autodiff


def split(start: int, stop: int, k: int) -> list[int]:
    """The bounds of at most k parts of near-equal length, none empty."""
    parts = min(k, stop - start)
    return [start + (stop - start) * part // parts for part in range(parts + 1)]


def contender(name: str, k: int, autodiff: Autodiff) -> Contender:
    def build(problem: Problem) -> Built:
        try:
            import equinox as eqx
        except ImportError:
            raise Unavailable("equinox is not installed: pip install 'metagrad[bench]'") from None
        model, steps = problem.model, problem.steps
        step = model.make_step(autodiff)

        def step_at(state, meta, batches, t):
            return step(
                state,
                meta,
                jax.tree.map(lambda x: jax.lax.dynamic_index_in_dim(x, t, keepdims=False), batches),
            )

        def outer_vjp(state, held_out):
            floats, rest = eqx.partition(state, eqx.is_inexact_array)
            return jax.value_and_grad(
                lambda floats: model.outer(eqx.combine(floats, rest), held_out)
            )(floats)

        def step_vjp(state, meta, batches, t, state_bar, meta_bar):
            floats, rest = eqx.partition(state, eqx.is_inexact_array)

            def floats_at(floats, meta):
                return eqx.filter(
                    step_at(eqx.combine(floats, rest), meta, batches, t), eqx.is_inexact_array
                )

            _, pull_back = jax.vjp(floats_at, floats, meta)
            state_bar, contribution = pull_back(state_bar)
            return state_bar, jax.tree.map(jnp.add, meta_bar, contribution)

        start = time.perf_counter()
        step_arguments = problem.state0, problem.meta, problem.batches, np.int32(0)
        state_bar = jax.eval_shape(
            lambda state: eqx.filter(state, eqx.is_inexact_array), problem.state0
        )
        advance = jax.jit(step_at).lower(*step_arguments).compile()
        advance_in_place = jax.jit(step_at, donate_argnums=0).lower(*step_arguments).compile()
        outer_vjp = jax.jit(outer_vjp).lower(problem.state0, problem.held_out).compile()
        step_vjp = (
            jax.jit(step_vjp, donate_argnums=(4, 5))
            .lower(*step_arguments, state_bar, problem.meta)
            .compile()
        )
        zeros = jax.jit(lambda: jax.tree.map(jnp.zeros_like, problem.meta)).lower().compile()
        seconds = time.perf_counter() - start

        def run(state0, meta, batches, held_out):
            segments = [(0, steps, state0)]
            state_bar, meta_bar = None, zeros()
            while segments:
                start, stop, state = segments.pop()
                while stop - start > 1:
                    bounds = split(start, stop, k)
                    for left, right in itertools.pairwise(bounds[:-1]):
                        segments.append((left, right, state))
                        state = advance(state, meta, batches, np.int32(left))
                        for t in range(left + 1, right):
                            state = advance_in_place(state, meta, batches, np.int32(t))
                    start = bounds[-2]
                if state_bar is None:
                    value, state_bar = outer_vjp(
                        advance(state, meta, batches, np.int32(start)), held_out
                    )
                state_bar, meta_bar = step_vjp(
                    state, meta, batches, np.int32(start), state_bar, meta_bar
                )
            return value, meta_bar

        slots, advances = count(steps, k)
        state_bytes = problem.state_bytes
        temporaries = {
            "step": max(
                program.memory_analysis().temp_size_in_bytes
                for program in (advance, advance_in_place)
            ),
            "outer VJP": outer_vjp.memory_analysis().temp_size_in_bytes,
            "step VJP": step_vjp.memory_analysis().temp_size_in_bytes,
        }
        # s_0 is the caller's, so it is not counted, like the arguments of an XLA program. While a
        # step runs, one state more is there: the one that the step makes.
        bytes_held = (slots - 1) * state_bytes + tree_bytes(state_bar)
        memory = Memory(
            bytes_held
            + max(
                state_bytes + temporaries["step"], temporaries["outer VJP"], temporaries["step VJP"]
            ),
            "counted",
        )
        return Built(
            run,
            memory,
            seconds,
            {"state_slots": slots, "advances": advances, "temporaries": temporaries},
        )

    return Contender(f"{name}({k})", build)


def count(steps: int, k: int) -> tuple[int, int]:
    """(the most states held at a time, steps run): the walk of `run` without the work.

    s_0 and the state that is being reversed are counted.
    """
    segments, slots, advances = [(0, steps)], 1, 1
    while segments:
        start, stop = segments.pop()
        while stop - start > 1:
            bounds = split(start, stop, k)
            segments.extend(itertools.pairwise(bounds[:-1]))
            advances += bounds[-2] - start
            start = bounds[-2]
        slots = max(slots, len(segments) + 1)
    return slots, advances


def by_jax(k: int) -> Contender:
    """The step's VJP is `jax.vjp`: reverse over reverse, as in the paper."""
    return contender("replay", k, jax)


def by_mixed_mode(k: int) -> Contender:
    """The step's inner gradients are those of mixed_mode.py: both papers put together by hand."""
    return contender("replay+mixflow", k, mixed_mode)

"""`python -m benchmarks.inner_optimisers`: what optimisers cost beside Adam, with metagradients.

The GPT of benchmarks/models with one layer (`--layers`), T steps, the gradient of the held-out loss
with respect to the weights of the examples. For each optimiser three programs: plain training, the
metagradient by metagrad, and `jax.grad` through the scan of the run (the default in JAX). They run
in turn, with those of Adam, in an order that is reversed from round to round. Printed are medians:
a plain step in units of Adam's plain step of the same round, a metagradient in units of the same
optimiser's plain training, and JAX's time over ours; memory is XLA's temporaries.

    adam           the unit
    adam-rates    a rate for each parameter, which are the metaparameters (and a penalty on them)
    muon           optax.contrib.muon: five steps of Newton-Schulz
    mechanize      optax.contrib.mechanize of Adam
    schedule-free  optax.contrib.schedule_free of AdamW
    prodigy        optax.contrib.prodigy (this one and the last only if they are named)
    sophia         optax.contrib.sophia, curvature in every fourth step
    shampoo        blocks of 128, inverse fourth roots in every fourth step, by Newton's iteration
    soap           blocks of 128, a QR decomposition in every fourth step (only if it is named: on
                   two cores XLA:CPU does not return from its metagradient, docs/models.md)
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import shlex
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from rich.console import Console
from rich.progress import track
from rich.table import Table

from benchmarks import record
from benchmarks.__main__ import RESULTS, positive, words
from benchmarks.contenders import plain, unrolled
from benchmarks.contenders.contender import Built, Memory, Problem, compile_program, place
from benchmarks.models import gpt
from benchmarks.models.model import OPTIMISER, Autodiff, Model
from benchmarks.models.preconditioners import by_newton, grafted_shampoo, soap
from benchmarks.rounds import in_turns, median_ratio

EVERY = 4
CLOSE = 1e-2
"""How far ours may be from JAX's in f32 before the row says so, relative to the largest entry."""

ADAM = {"b2": 1 - 2**-10, "eps_root": 1e-8}
NAMES = {
    "adam": lambda: OPTIMISER,
    "adam-rates": lambda: OPTIMISER,
    "muon": lambda: optax.contrib.muon(1e-3, adam_eps_root=1e-8),
    "mechanize": lambda: optax.contrib.mechanize(optax.adam(1.0, **ADAM)),
    "schedule-free": lambda: optax.contrib.schedule_free(optax.adamw(1e-3, b1=0.0, **ADAM), 1e-3),
    "prodigy": lambda: optax.contrib.prodigy(1e-2),
    "sophia": lambda: optax.contrib.sophia(1e-3, update_interval=EVERY),
    "shampoo": lambda: grafted_shampoo(
        1e-3, functools.partial(by_newton, iterations=12), every=EVERY
    ),
    "soap": lambda: soap(1e-3, every=EVERY),
}

DEFAULT = tuple(name for name in NAMES if name not in ("schedule-free", "prodigy", "soap"))
"""What is measured if nothing is named: compiling takes most of the time."""


def trained_with(name: str, layers: int) -> Model:
    """The GPT with an optimiser in place of Adam."""
    model = gpt.model(layers)
    params, optimiser = model.state0[0], optax.with_extra_args_support(NAMES[name]())
    opt = optimiser.init(params)
    if name == "mechanize":  # a root of zero in the first step, whose derivative is NaN
        opt = opt._replace(v=jnp.full_like(opt.v, 1e-12))
    make = rated_step if name == "adam-rates" else weighted_step
    state0, meta = (params, opt), model.meta
    if name == "adam-rates":
        meta = jax.tree.map(lambda p: np.zeros(p.shape, np.float32), params)
        state0 = (*state0, meta)
    return dataclasses.replace(
        model,
        name=name,
        state0=jax.tree.map(np.asarray, state0),
        meta=meta,
        make_step=functools.partial(make, optimiser),
        outer=penalised if name == "adam-rates" else model.outer,
    )


def weighted_step(optimiser: Any, autodiff: Autodiff) -> Callable:
    def step(state, weights, batch):
        params, opt = state
        inputs, index = batch
        loss = lambda params: jnp.mean(weights[index] * gpt.losses(params, inputs))
        value, gradient = autodiff.value_and_grad(loss)(params)
        updates, opt = optimiser.update(gradient, opt, params, value=value, obj_fn=loss)
        return optax.apply_updates(params, updates), opt

    return step


def rated_step(optimiser: Any, autodiff: Autodiff) -> Callable:
    """A factor for each parameter's rate; its logarithm is the metaparameter."""

    def step(state, log_rates, batch):
        params, opt, _ = state
        gradient = autodiff.grad(lambda p: jnp.mean(gpt.losses(p, batch[0])))(params)
        updates, opt = optimiser.update(gradient, opt, params)
        updates = jax.tree.map(lambda u, rate: u * jnp.exp(rate), updates, log_rates)
        return optax.apply_updates(params, updates), opt, log_rates

    return step


def penalised(state: Any, held_out: Any) -> jax.Array:
    """The held-out loss, and a penalty on the logarithms of the rates, which the state carries."""
    squares = sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(state[2]))
    return jnp.mean(gpt.losses(state[0], held_out)) + 1e-6 * squares


def by_metagrad(problem: Problem) -> Built:
    import metagrad

    model = problem.model
    start = time.perf_counter()
    mg = metagrad.compile(model.make_step(metagrad)).metagradient(model.outer, progress=False)
    lowered = mg.lower(*problem.arguments)
    middle = time.perf_counter()
    compiled = lowered.compile()
    seconds = time.perf_counter() - middle
    result = lambda *arguments: (lambda r: (r.value, r.grad))(compiled(*arguments))
    memory = compiled.memory_analysis().temp_size_in_bytes
    rules = [decision.rule for decision in lowered.decisions]
    details = {"lowering": middle - start, "xla": seconds, "who": rules, "plan": str(lowered.plan)}
    return Built(result, Memory(memory, "xla"), seconds, details)


PROGRAMS: dict[str, Callable[[Problem], Built]] = {
    "plain": lambda problem: compile_program(plain.training(problem.model), problem),
    "metagrad": by_metagrad,
    "jax": unrolled.build,
}


def build(name: str, steps: int, layers: int) -> tuple[Problem, dict[str, Built]]:
    problem = place(trained_with(name, layers), steps)
    built = {}
    for program, compiled in PROGRAMS.items():
        jax.clear_caches()
        built[program] = compiled(problem)
    return problem, built


def difference(gradient: Any, other: Any) -> float:
    """The largest entry of the difference over the largest entry, of all leaves."""
    flat = lambda tree: np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree)])
    ours, theirs = flat(gradient), flat(other)
    return float(np.abs(ours - theirs).max() / np.abs(theirs).max())


def measure(cases: dict[str, tuple[Problem, dict[str, Built]]], rounds: int) -> dict[str, dict]:
    """Name -> program -> seconds of each round, all in one process."""
    bound = {
        (name, program): functools.partial(built[program].run, *problem.arguments)
        for name, (problem, built) in cases.items()
        for program in PROGRAMS
    }
    times = in_turns(bound, track(range(rounds), "rounds", transient=True))
    return {name: {program: times[name, program] for program in PROGRAMS} for name in cases}


def row(name: str, built: dict[str, Built], times: dict, problem: Problem) -> dict:
    own, adam = times[name], times["adam"]
    _, gradient = built["metagrad"].run(*problem.arguments)
    _, by_jax = built["jax"].run(*problem.arguments)
    return {
        "optimiser": name,
        "plain step of Adam's": median_ratio(own["plain"], adam["plain"]),
        "metagradient of Adam's": median_ratio(own["metagrad"], adam["metagrad"]),
        "metagradient of plain": median_ratio(own["metagrad"], own["plain"]),
        "time, JAX over ours": median_ratio(own["jax"], own["metagrad"]),
        "memory, JAX over ours": built["jax"].memory[0] / built["metagrad"].memory[0],
        "seconds": {program: statistics.median(own[program]) for program in own},
        "bytes": {program: each.memory[0] for program, each in built.items()},
        "JAX compiles": built["jax"].compile_seconds,
        "difference": difference(gradient, by_jax),
        "times": own,
        **built["metagrad"].details,
    }


def table(rows: list[dict], steps: int, layers: int) -> Table:
    shown = Table(title=f"GPT, {layers} layers, T = {steps}", title_justify="left")
    headings = (
        "optimiser",
        "plain step / Adam's",
        "metagradient / Adam's",
        "metagradient / plain",
        "JAX's time / ours",
        "MiB",
        "JAX's memory / ours",
        "lowering",
        "XLA",
        "JAX compiles",
        "update by",
        "difference",
    )
    for heading in headings:
        shown.add_column(heading, justify="left" if heading == "optimiser" else "right")
    for each in rows:
        shown.add_row(
            each["optimiser"],
            *(
                f"{each[key]:.2f}"
                for key in (
                    "plain step of Adam's",
                    "metagradient of Adam's",
                    "metagradient of plain",
                    "time, JAX over ours",
                )
            ),
            f"{each['bytes']['metagrad'] / 2**20:.0f}",
            f"{each['memory, JAX over ours']:.2f}",
            f"{each['lowering']:.1f} s",
            f"{each['xla']:.1f} s",
            f"{each['JAX compiles']:.1f} s",
            each["who"][-2],
            f"{each['difference']:.0e}" + ("" if each["difference"] < CLOSE else " (!)"),
        )
    return shown


def main(argv: list[str] | None = None) -> int:
    top = argparse.ArgumentParser(
        prog="python -m benchmarks.inner_optimisers",
        description=__doc__.split(": ", 1)[1].split("\n")[0],
    )
    top.add_argument(
        "--optimisers",
        type=words(),
        default=DEFAULT,
        help=f"names between commas, with Adam always: {', '.join(NAMES)} "
        "(default: all but schedule-free, prodigy and soap)",
    )
    top.add_argument("--layers", type=positive, default=1, help="of the GPT (default: %(default)s)")
    top.add_argument("--steps", type=positive, default=8, help="T (default: %(default)s)")
    top.add_argument("--repeat", type=positive, default=5, help="rounds (default: %(default)s)")
    top.add_argument("--out", metavar="DIR", type=Path, default=RESULTS, help="folder for the JSON")
    arguments = top.parse_args(argv)
    names = tuple(dict.fromkeys(("adam", *arguments.optimisers)))
    if unknown := set(names) - set(NAMES):
        top.error(f"--optimisers: {', '.join(sorted(unknown))} is not one of {', '.join(NAMES)}")
    console = Console() if sys.stdout.isatty() else Console(width=160)
    cases = {
        name: build(name, arguments.steps, arguments.layers)
        for name in track(names, "compiling", console=console, transient=True)
    }
    times = measure(cases, arguments.repeat)
    rows = [row(name, built, times, problem) for name, (problem, built) in cases.items()]
    console.print(table(rows, arguments.steps, arguments.layers))
    command = shlex.join(sys.argv[1:] if argv is None else argv)
    written = record.provenance(f"python -m benchmarks.inner_optimisers {command}".strip())
    settings = {"steps": arguments.steps, "layers": arguments.layers, "every": EVERY}
    record.write(
        arguments.out / "inner_optimisers.json", written | {"settings": settings, "results": rows}
    )
    console.print(f"written: {arguments.out / 'inner_optimisers.json'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""`python -m benchmarks.attention`: memory and time of attention at both orders, by the context.

The step is gradient descent on one layer of causal self-attention, whose loss has a weight that is
differentiated. What is measured is the step's VJP, the program of forward over reverse, and a whole
metagradient of two steps: with `jax.nn.dot_product_attention` and with
`metagrad.dot_product_attention`. Memory is XLA's `temp_size_in_bytes`: compiled from shapes, not
run. Times are medians of rounds that run each program once. The last table times block sizes.
"""

from __future__ import annotations

import argparse
import functools
import shlex
import statistics
import sys
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from rich.console import Console
from rich.progress import track
from rich.table import Table

from benchmarks import record
from benchmarks.__main__ import RESULTS, positive, words
from benchmarks.contenders.metagrad_schedules import imported
from benchmarks.rounds import in_turns

HEADS, LENGTH, WIDTH = 4, 32, 128
NAMES = "jax.nn", "metagrad"
PROGRAMS = "step_vjp", "metagradient"
CONTEXTS = 256, 512, 1024, 2048, 4096
BLOCK = 256
"""That of the comparisons with `jax.nn`."""
BLOCKS = 64, 128, 256, 512, 1024


def attention_of(name: str, block_size: int = BLOCK) -> Callable:
    import metagrad

    if name == "jax.nn":
        return functools.partial(jax.nn.dot_product_attention, is_causal=True)
    return functools.partial(metagrad.dot_product_attention, is_causal=True, block_size=block_size)


def shapes(context: int, steps: int = 2) -> tuple:
    """(parameters, meta, batches)."""
    f32 = functools.partial(jax.ShapeDtypeStruct, dtype=jnp.float32)
    params = {"in": f32((3, WIDTH, HEADS, LENGTH)), "out": f32((HEADS, LENGTH, WIDTH))}
    return params, f32(()), f32((steps, 1, context, WIDTH))


def lower(attention: Callable, context: int):
    """The lowered metagradient of two steps."""
    import metagrad

    def predict(params, x):
        q, k, v = jnp.einsum("bsd,pdnh->pbsnh", x, params["in"])
        return jnp.einsum("bsnh,nhd->bsd", attention(q, k, v), params["out"])

    def loss(params, weight, x):
        return weight * jnp.mean((predict(params, x) - jnp.roll(x, 1, axis=1)) ** 2)

    @metagrad.compile
    def step(params, weight, x):
        gradient = metagrad.grad(loss)(params, weight, x)
        return jax.tree.map(lambda p, g: p - 0.1 * g, params, gradient)

    def outer(params):
        return sum(jnp.sum(p**2) for p in jax.tree.leaves(params))

    return step.metagradient(outer, schedule=metagrad.StoreAll()).lower(*shapes(context))


def step_vjp(lowered, context: int):
    """@step_vjp of the metagradient's program, compiled, and the shapes of its operands.

    (parameters, weight, batch, their gradient, cotangents) -> (cotangents, that of the weight)
    """
    imported()
    from jaxlib.mlir import ir

    from metagrad.compiler import pipeline
    from metagrad.compiler.dialect import context as mlir_context
    from metagrad.compiler.dialect import functions
    from metagrad.runtime.executors.fused import FusedProgram, Gradients

    module = mlir_context.parse(lowered.ir("scheduled"))
    with module.context, ir.Location.unknown():
        functions.drop_unreachable(module, ["step_vjp"])
        functions.rename(module, {"step_vjp": "main"})
        functions.find(module, "main").attributes["sym_visibility"] = ir.StringAttr.get("public")
    params, weight, batches = shapes(context)
    leaves = jax.tree.leaves(params)
    batch = jax.ShapeDtypeStruct(batches.shape[1:], batches.dtype)
    operands = (*leaves, weight, batch, *leaves, *leaves)
    bytecode = pipeline.bytecode_of(module)
    program = FusedProgram(
        lambda platform: bytecode,
        jax.default_backend(),
        operands,
        (*leaves, weight),
        (),
        Gradients({}, (), ()),
    )
    return jax.jit(lambda *args: program.call(*args)).lower(*operands).compile(), operands


def temporaries(name: str, context: int) -> dict[str, int]:
    lowered = lower(attention_of(name), context)
    programs = step_vjp(lowered, context)[0], lowered.compile()
    return {
        program: compiled.memory_analysis().temp_size_in_bytes
        for program, compiled in zip(PROGRAMS, programs)
    }


def exponent(contexts: tuple[int, ...], sizes: list[int]) -> float:
    """p of the fit: size ~ context ** p."""
    return float(np.polyfit(np.log(contexts), np.log(sizes), 1)[0])


def timed(context: int, attentions: dict[str, Callable], rounds: int) -> dict:
    """Seconds and temporaries of the step's VJP."""
    programs = {
        who: step_vjp(lower(attention, context), context) for who, attention in attentions.items()
    }
    rng = np.random.default_rng(0)
    operands = [
        jnp.asarray(rng.standard_normal(x.shape, np.float32))
        for x in next(iter(programs.values()))[1]
    ]
    compiled = {who: program for who, (program, _) in programs.items()}
    bound = {who: functools.partial(p, *operands) for who, p in compiled.items()}
    times = in_turns(bound, range(rounds))
    return {
        "context": context,
        "seconds": {who: statistics.median(taken) for who, taken in times.items()},
        "temporaries": {
            who: program.memory_analysis().temp_size_in_bytes for who, program in compiled.items()
        },
        "times": times,
    }


def memory_table(memory: list[dict], exponents: dict) -> Table:
    rich_table = Table(title="temporaries, MiB", title_justify="left")
    rich_table.add_column("context", justify="right")
    columns = [(program, name) for program in PROGRAMS for name in NAMES]
    for program, name in columns:
        rich_table.add_column(f"{program}, {name}", justify="right")
    for row in memory:
        cells = (f"{row[name][program] / 2**20:.2f}" for program, name in columns)
        rich_table.add_row(str(row["context"]), *cells)
    rich_table.add_row(
        "exponent", *(f"{exponents[name][program]:.2f}" for program, name in columns)
    )
    return rich_table


def time_table(title: str, rows: list[dict]) -> Table:
    rich_table = Table(title=title, title_justify="left")
    rich_table.add_column("context", justify="right")
    for who in rows[0]["seconds"]:
        rich_table.add_column(who, justify="right")
    for row in rows:
        cells = (
            f"{seconds * 1e3:.1f} ms, {row['temporaries'][who] / 2**20:.1f} MiB"
            for who, seconds in row["seconds"].items()
        )
        rich_table.add_row(str(row["context"]), *cells)
    return rich_table


def main(argv: list[str] | None = None) -> int:
    top = argparse.ArgumentParser(
        prog="python -m benchmarks.attention",
        description=__doc__.split(": ", 1)[1].split("\n")[0],
    )
    numbers = words(positive)
    top.add_argument(
        "--contexts", type=numbers, default=CONTEXTS, help="contexts whose memory is compared"
    )
    top.add_argument("--timed", type=numbers, default=(512, 2048), help="contexts that are timed")
    top.add_argument("--blocks", type=numbers, default=BLOCKS, help="block sizes that are timed")
    top.add_argument("--repeat", type=positive, default=7, help="rounds (default: %(default)s)")
    top.add_argument("--out", metavar="DIR", type=Path, default=RESULTS, help="folder for the JSON")
    arguments = top.parse_args(argv)
    console = Console() if sys.stdout.isatty() else Console(width=120)
    progress = functools.partial(track, console=console, transient=True)
    path = arguments.out / "attention.json"
    command = shlex.join(sys.argv[1:] if argv is None else argv)
    written = record.provenance(f"python -m benchmarks.attention {command}".strip())
    written["layer"] = {"batch": 1, "heads": HEADS, "head length": LENGTH, "width": WIDTH}

    written["memory"] = memory = []
    for context in progress(arguments.contexts, "memory"):
        memory.append({"context": context} | {name: temporaries(name, context) for name in NAMES})
        # After each context, so that a run that is stopped leaves what it has.
        record.write(path, written)
    written["exponents"] = exponents = {
        name: {
            program: exponent(arguments.contexts, [row[name][program] for row in memory])
            for program in PROGRAMS
        }
        for name in NAMES
    }
    console.print(memory_table(memory, exponents))

    written["times"], written["blocks"] = times, blocks = [], []
    for context in progress(arguments.timed, "times"):
        both = {name: attention_of(name) for name in NAMES}
        times.append(timed(context, both, arguments.repeat))
        sizes = {str(size): attention_of("metagrad", size) for size in arguments.blocks}
        blocks.append(timed(context, sizes, arguments.repeat))
        record.write(path, written)
    console.print(time_table("the step's VJP", times))
    console.print(time_table("the step's VJP, by block size", blocks))
    console.print(f"written: {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

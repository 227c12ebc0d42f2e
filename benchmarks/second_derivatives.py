"""A product with the Hessian of a run: forward over metagrad's reverse, and JAX's own.

    python -m benchmarks.second_derivatives

The metaparameters are the learning rate and the weight decay of a multilayer perceptron's training
run with momentum. The rows are `jax.jvp` of the metagradient, `jax.jvp` over `jax.grad` of the run
as a scan, and the same with `jax.checkpoint` around the step. Times are interleaved medians, in
units of one metagradient; memory is XLA's temporaries.
"""

from __future__ import annotations

import argparse
import functools
import shlex
import sys
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from rich.console import Console
from rich.table import Table

import metagrad
from benchmarks import record
from benchmarks.__main__ import RESULTS, positive
from benchmarks.rounds import in_turns, median_ratio

UNIT = "one metagradient"
EQUAL = 1e-4
"""Of products in f32, relative."""
WIDTH, BATCH, CLASSES = 256, 64, 10
RATES = {"log_rate": jnp.float32(-3.0), "decay": jnp.float32(1e-3)}
DIRECTION = {"log_rate": jnp.float32(1.0), "decay": jnp.float32(0.5)}


def main(argv: list[str] | None = None) -> None:
    top = argparse.ArgumentParser(
        prog="python -m benchmarks.second_derivatives", description=(__doc__ or "").split("\n")[0]
    )
    top.add_argument("--steps", type=positive, default=64, help="T (default: %(default)s)")
    top.add_argument("--repeat", type=positive, default=9, help="rounds (default: %(default)s)")
    arguments = top.parse_args(argv)
    compiled = programs(arguments.steps)
    written = record.provenance(
        "python -m benchmarks.second_derivatives "
        + shlex.join(sys.argv[1:] if argv is None else argv)
    )
    written |= {"steps": arguments.steps, "rows": measure(compiled, arguments.repeat)}
    record.write(RESULTS / "second_derivatives.json", written)
    Console().print(table(written["rows"]))


def programs(steps: int) -> dict[str, Any]:
    """The compiled programs: of the rates, and of a direction."""
    state, batches, held_out = _data(steps)
    mg = metagrad.compile(functools.partial(step, metagrad.grad)).metagradient(outer)
    gradients = {
        "metagrad": lambda rates: mg(state, rates, batches, held_out).grad,
        "jax, checkpointed steps": jax.grad(_run(jax.checkpoint, state, batches, held_out)),
        "jax": jax.grad(_run(lambda f: f, state, batches, held_out)),
    }

    def product(gradient: Callable) -> Callable:
        return lambda rates, v: jax.jvp(gradient, (rates,), (v,))[1]

    functions = {UNIT: lambda rates, v: gradients["metagrad"](rates)}
    functions |= {f"product, {name}": product(gradient) for name, gradient in gradients.items()}
    return {
        name: jax.jit(function).lower(RATES, DIRECTION).compile()
        for name, function in functions.items()
    }


def measure(compiled: dict[str, Any], rounds: int) -> list[dict[str, Any]]:
    """One row for each program.

    Raises:
      ValueError: the products differ.
    """
    bound = {name: functools.partial(p, RATES, DIRECTION) for name, p in compiled.items()}
    products = {name: _numbers(run()) for name, run in bound.items() if name != UNIT}
    reference = products["product, jax"]
    errors = {
        name: float(np.abs(numbers / reference - 1).max()) for name, numbers in products.items()
    }
    if max(errors.values()) > EQUAL:
        raise ValueError(f"the products differ: {errors}")
    times = in_turns(bound, range(rounds))
    return [
        {
            "program": name,
            "time": median_ratio(times[name], times[UNIT]),
            "memory_bytes": program.memory_analysis().temp_size_in_bytes,
            "error": errors.get(name),
            "times": times[name],
        }
        for name, program in compiled.items()
    ]


def _numbers(tree: Any) -> np.ndarray:
    return np.array([float(leaf) for leaf in jax.tree.leaves(tree)])


def table(rows: list[dict[str, Any]]) -> Table:
    rich_table = Table()
    for heading in ("", "x metagradient", "MiB", "agrees to"):
        rich_table.add_column(heading, justify="right" if heading else "left")
    for row in rows:
        rich_table.add_row(
            row["program"],
            f"{row['time']:.2f}",
            f"{row['memory_bytes'] / 2**20:.0f}",
            "" if row["error"] is None else f"{row['error']:.0e}",
        )
    return rich_table


def step(gradient, state, rates, batch):
    parameters, momentum = state
    g = gradient(loss)(parameters, batch)
    momentum = jax.tree.map(lambda m, g: 0.9 * m + g, momentum, g)
    rate, decay = jnp.exp(rates["log_rate"]), rates["decay"]
    new = jax.tree.map(lambda p, m: p - rate * (m + decay * p), parameters, momentum)
    return new, momentum


def loss(parameters, batch):
    x, y = batch
    for w in parameters[:-1]:
        x = jnp.tanh(x @ w)
    return -jnp.mean(jax.nn.log_softmax(x @ parameters[-1])[jnp.arange(len(y)), y])


def outer(state, batch):
    return loss(state[0], batch)


def _run(around, state, batches, held_out):
    def run(rates):
        body = around(lambda s, b: (step(jax.grad, s, rates, b), None))
        return outer(jax.lax.scan(body, state, batches)[0], held_out)

    return run


def _data(steps: int):
    random = np.random.default_rng(0)
    normal = lambda *shape: jnp.asarray(random.normal(size=shape), jnp.float32)
    parameters = [normal(WIDTH, WIDTH) / 16 for _ in range(3)] + [normal(WIDTH, CLASSES) / 16]
    labels = lambda *shape: jnp.asarray(random.integers(CLASSES, size=shape))
    state = parameters, jax.tree.map(jnp.zeros_like, parameters)
    return (
        state,
        (normal(steps, BATCH, WIDTH), labels(steps, BATCH)),
        (normal(BATCH, WIDTH), labels(BATCH)),
    )


if __name__ == "__main__":
    main()

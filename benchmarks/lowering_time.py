"""`python -m benchmarks.lowering_time`: lowering against XLA, in steps with many inner gradients.

Lowering is all that metagrad does before XLA gets the program, without a cache; XLA's time is that
of compiling it. The steps are small in numbers and large in equations, which is what lowering
depends on:

    gan-N         the generator of a GAN, through N unrolled updates of its discriminator
    updates-N     N unrolled Adam updates, all differentiated
    unreached-N   N unrolled updates by SGD of what `wrt` does not reach, and one that it does
    layers-N      one Adam update of a network of N unrolled layers
    roots-N       one update of N layers by Shampoo: 2N loops of Newton's iteration
    muon-N        one update of N layers by Muon: 5N unrolled turns of Newton-Schulz

Rounds are interleaved; the medians are printed. Nothing is run: shapes are enough.
"""

from __future__ import annotations

import argparse
import os
import shlex
import statistics
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import optax
from rich.console import Console
from rich.progress import track
from rich.table import Table

from benchmarks import record
from benchmarks.__main__ import RESULTS, positive, words
from benchmarks.compile_time import lowering_and_xla
from benchmarks.models.preconditioners import by_newton, shampoo

WIDTH, BATCH, STEPS = 8, 16, 32
OPTIMISER = optax.adam(1e-3, eps_root=1e-8)
DEFAULT = "gan-4,updates-16,unreached-16,unreached-32,unreached-64,layers-24,roots-20,muon-20"


def weights(*layers: str) -> dict[str, jax.Array]:
    """A square matrix and a bias for each layer."""
    parameters = {f"w{name}": jnp.zeros((WIDTH, WIDTH)) for name in layers}
    return parameters | {f"b{name}": jnp.zeros(WIDTH) for name in layers}


def network(parameters: dict[str, jax.Array], x: jax.Array) -> jax.Array:
    for layer in range(len(parameters) // 2):
        x = jnp.tanh(x @ parameters[f"w{layer}"] + parameters[f"b{layer}"])
    return x


def squared_error(parameters, rate, batch):
    return rate * jnp.mean((network(parameters, batch) - batch) ** 2)


def adam(parameters, state, gradients):
    changes, state = OPTIMISER.update(gradients, state, parameters)
    return optax.apply_updates(parameters, changes), state


def sgd(parameters, gradients, rate):
    return jax.tree.map(lambda p, g: p - rate * g, parameters, gradients)


def gan(count: int) -> tuple[Callable, Any]:
    """The discriminator's updates are unrolled inside the loss of the generator."""
    import metagrad

    def discriminate(discriminator, generator, batch):
        score = lambda x: jnp.mean(network(discriminator, x), -1)
        return jnp.mean(
            jax.nn.softplus(-score(batch)) + jax.nn.softplus(score(network(generator, batch)))
        )

    def trained(discriminator, generator, rate, batch):
        for _ in range(count):
            gradients = jax.grad(discriminate)(discriminator, generator, batch)
            discriminator = sgd(discriminator, gradients, rate)
        return discriminator

    def generate(generator, discriminator, rate, batch):
        return -discriminate(trained(discriminator, generator, rate, batch), generator, batch)

    def step(state, rate, batch):
        gradients = metagrad.grad(generate)(state["g"], state["d"], rate, batch)
        generator, optimiser = adam(state["g"], state["opt"], gradients)
        gradients = metagrad.grad(discriminate)(state["d"], state["g"], batch)
        return {"g": generator, "opt": optimiser, "d": sgd(state["d"], gradients, rate)}

    generator = weights("0", "1")
    state = {"g": generator, "opt": OPTIMISER.init(generator), "d": weights("0", "1")}
    return step, state


def updates(count: int) -> tuple[Callable, Any]:
    import metagrad

    def step(state, rate, batch):
        parameters, optimiser = state["g"], state["opt"]
        for _ in range(count):
            gradients = metagrad.grad(squared_error)(parameters, rate, batch)
            parameters, optimiser = adam(parameters, optimiser, gradients)
        return {"g": parameters, "opt": optimiser}

    return step, {"g": weights("0", "1"), "opt": OPTIMISER.init(weights("0", "1"))}


def unreached(count: int) -> tuple[Callable, Any]:
    import metagrad

    def step(state, rate, batch):
        aside = state["aside"]
        for _ in range(count):
            aside = sgd(aside, metagrad.grad(squared_error)(aside, 1.0, batch), 0.1)
        gradients = metagrad.grad(squared_error)(state["g"], rate, batch)
        return {"g": sgd(state["g"], gradients, 0.1), "aside": aside}

    return step, {"g": weights("0", "1"), "aside": weights("0", "1")}


def layers(count: int) -> tuple[Callable, Any]:
    """A network of `count` layers, one update of it in each step."""
    return one_update(count, OPTIMISER)


def roots(count: int) -> tuple[Callable, Any]:
    return one_update(count, shampoo(1e-3, by_newton))


def muon(count: int) -> tuple[Callable, Any]:
    return one_update(count, optax.contrib.muon(1e-3, adam_eps_root=1e-8))


def one_update(count: int, optimiser: optax.GradientTransformation) -> tuple[Callable, Any]:
    import metagrad

    def step(state, rate, batch):
        gradients = metagrad.grad(squared_error)(state["g"], rate, batch)
        changes, opt = optimiser.update(gradients, state["opt"], state["g"])
        return {"g": optax.apply_updates(state["g"], changes), "opt": opt}

    parameters = weights(*map(str, range(count)))
    return step, {"g": parameters, "opt": optimiser.init(parameters)}


PROGRAMS = {
    "gan": gan,
    "updates": updates,
    "unreached": unreached,
    "layers": layers,
    "roots": roots,
    "muon": muon,
}


def case_name(text: str) -> tuple[str, int]:
    """A program and its number of gradients or layers: "updates-16"."""
    name, _, count = text.partition("-")
    if name not in PROGRAMS:
        raise argparse.ArgumentTypeError(
            f"{text!r}: write a program and a number, as updates-16; programs are "
            f"{', '.join(PROGRAMS)}"
        )
    return name, positive(count)


def measure(name: str, count: int) -> tuple[float, float]:
    """(lowering, XLA) in seconds."""
    import metagrad

    step, state = PROGRAMS[name](count)
    mean = lambda state: jnp.mean(state["g"]["w0"] ** 2)
    metagradient = metagrad.compile(step).metagradient(
        mean, schedule=metagrad.LazyKary(k=4), progress=False
    )
    batches = jnp.zeros((STEPS, BATCH, WIDTH))
    return lowering_and_xla(lambda: metagradient.lower(state, 0.1, batches))


def main(argv: list[str] | None = None) -> int:
    top = argparse.ArgumentParser(
        prog="python -m benchmarks.lowering_time", description=__doc__.split("\n\n")[0]
    )
    top.add_argument(
        "--programs",
        type=words(case_name),
        default=[case_name(text) for text in DEFAULT.split(",")],
        help=f"programs between commas (default: {DEFAULT})",
    )
    top.add_argument("--repeat", type=positive, default=3, help="rounds (default: %(default)s)")
    top.add_argument("--out", metavar="DIR", type=Path, default=RESULTS, help="folder for the JSON")
    arguments = top.parse_args(argv)
    os.environ["METAGRAD_CACHE"] = "0"
    console = Console() if sys.stdout.isatty() else Console(width=120)
    # Unmeasured: what starts once in a process.
    measure("layers", 1)
    times: dict = {case: ([], []) for case in arguments.programs}
    rounds = [case for _ in range(arguments.repeat) for case in times]
    for case in track(rounds, "compiling", console=console, transient=True):
        for taken, number in zip(times[case], measure(*case)):
            taken.append(number)
    shown = Table(
        title=f"T = {STEPS}: seconds, medians of {arguments.repeat}", title_justify="left"
    )
    for heading in ("program", "lowering", "XLA", "lowering / XLA"):
        shown.add_column(heading, justify="left" if heading == "program" else "right")
    rows = []
    for (name, count), taken in times.items():
        lowering, xla = map(statistics.median, taken)
        rows.append(
            {
                "program": name,
                "count": count,
                "lowering": taken[0],
                "xla": taken[1],
                "lowering_over_xla": lowering / xla,
            }
        )
        numbers = (lowering, xla, lowering / xla)
        shown.add_row(f"{name}-{count}", *(f"{number:.2f}" for number in numbers))
    console.print(shown)
    command = shlex.join(sys.argv[1:] if argv is None else argv)
    written = record.provenance(f"python -m benchmarks.lowering_time {command}".strip())
    record.write(arguments.out / "lowering_time.json", written | {"results": rows})
    console.print(f"written: {arguments.out / 'lowering_time.json'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

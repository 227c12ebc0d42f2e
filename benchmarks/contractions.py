"""`python -m benchmarks.contractions`: the smallest example of flatten_contractions.

It shows what compiler/passes/for_xla/flatten_contractions.py is for. An activation is computed
elementwise, multiplied by a matrix, and also meets a cotangent in a weight gradient that contracts
batch and sequence. It is timed twice: with the weight gradient as it is traced, and as a product of
matrices.
"""

from __future__ import annotations

import statistics
import time

import jax
import jax.numpy as jnp

BATCH, SEQUENCE, WIDE, NARROW = 4, 64, 512, 128
ROUNDS = 200


def activation(a, b):
    return jnp.maximum(a, 0) * b + a * b


def as_traced(a, b, cotangent, weights):
    x = activation(a, b)
    return jnp.einsum("bsk,bsn->kn", x, cotangent), x @ weights


def flattened(a, b, cotangent, weights):
    x = activation(a, b)
    rows = BATCH * SEQUENCE
    return jnp.einsum(
        "mk,mn->kn", x.reshape(rows, WIDE), cotangent.reshape(rows, NARROW)
    ), x @ weights


def main() -> None:
    keys = jax.random.split(jax.random.key(0), 4)
    shapes = [(BATCH, SEQUENCE, WIDE)] * 2 + [(BATCH, SEQUENCE, NARROW), (WIDE, NARROW)]
    arguments = [jax.random.normal(key, shape) for key, shape in zip(keys, shapes)]
    compiled = {f.__name__: jax.jit(f).lower(*arguments).compile() for f in (as_traced, flattened)}
    seconds = {name: [] for name in compiled}
    for _ in range(ROUNDS):
        for name, run in compiled.items():
            start = time.perf_counter()
            jax.block_until_ready(run(*arguments))
            seconds[name].append(time.perf_counter() - start)
    medians = {name: statistics.median(times) for name, times in seconds.items()}
    for name, median in medians.items():
        print(f"{name:10} {median * 1e3:.3f} ms")
    print(f"flattened / as_traced: {medians['flattened'] / medians['as_traced']:.2f}")


if __name__ == "__main__":
    main()

"""A descent that the tests kill: python killed_descent.py DIRECTORY OUTPUT.

Prints a line for each round, and writes all of the result, in full precision, to OUTPUT.
"""

import pathlib
import sys
import time

import descent_runs as run
import jax
import optax

import metagrad

ROUNDS = 30


def report(round):
    print(round.record.round, flush=True)
    time.sleep(0.01)  # so that the disk keeps up


def main(directory, output):
    mg = metagrad.compile(run.step).metagradient(run.outer)
    result = metagrad.descent(
        mg,
        run.meta0(),
        run.problem,
        optax.chain(optax.add_noise(1e-3, 0.5, key=1), optax.adam(0.05, eps_root=1e-8)),
        rounds=ROUNDS,
        seeds=2,
        key=jax.random.key(5),
        projection=lambda meta: meta | {"weight": meta["weight"].clip(0, 2)},
        callback=report,
        resume_dir=directory,
        save_every=0,
    )
    trees = result.meta, result.best.meta, result.optimizer_state
    is_key = lambda leaf: jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)
    arrays = [jax.random.key_data(a) if is_key(a) else a for a in jax.tree.leaves(trees)]
    leaves = [array.tolist() for array in arrays]
    rows = [(row.round, row.value.hex(), row.values, row.step_norm.hex()) for row in result.history]
    text = repr((leaves, rows, result.best.value, result.best.round))
    pathlib.Path(output).write_text(text)


if __name__ == "__main__":
    main(*sys.argv[1:])

"""Training runs as programs of their own, which are killed and go on.

    python -m tests.streamed.training DIRECTORY OUTPUT [--sink none|memory|folder|function]
                                      [--steps T] [--change WHAT] [--die KIND:COUNT] [--pause S]

The run goes on from what it finds in DIRECTORY/journal, and writes the digest of its result to
OUTPUT. `--die save:3` kills the process by itself at its third save of a point; tests/journal has
the other kinds. `--change` makes one thing another than it was.
"""

import argparse
import hashlib
import os
import pathlib
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np

import metagrad
from metagrad.runtime.executors import saver, streamed
from metagrad.runtime.journal import Journal
from tests.fast_xla import FAST
from tests.journal import simulated_run
from tests.streamed import plans

STEPS, LENGTH, SLOTS = 22, 3, 3
TIERS = ("disk", "host", "device")
CHANGES = ("meta", "batch 0", "a later batch", "program", "plan", "wrt", "verify", "state")


class Data:
    """Batches by number. It is slow enough for a kill to come between two of them."""

    def __init__(self, steps, pause, changed):
        self.steps, self.pause, self.changed = steps, pause, changed

    def __len__(self):
        return self.steps

    def __getitem__(self, t):
        if not 0 <= t < self.steps:
            raise IndexError(t)
        time.sleep(self.pause)
        random = np.random.default_rng([self.changed == t, t])
        return {"x": random.normal(size=(4, 6)), "t": np.int32(t)}


def step_and_outer(change=None):
    """A step with a counter, momentum, and aux; its outer function is a sum."""
    factor = 0.9 if change != "program" else 0.8

    @metagrad.compile(has_aux=True)
    def step(state, z, batch):
        loss = lambda w: jnp.mean(z["weights"] * jnp.tanh(batch["x"] @ w - 0.1 * batch["t"]) ** 2)
        g = metagrad.grad(loss)(state["w"])
        momentum = factor * state["m"] + g
        new = {"w": state["w"] - z["rate"] * momentum, "m": momentum, "t": state["t"] + 1}
        return new, {"norm": jnp.sum(g**2)}

    return step, lambda state: jnp.sum(state["w"] ** 3)


def arguments(change=None):
    state = {"w": jnp.linspace(-1.0, 1.0, 6), "m": jnp.zeros(6), "t": jnp.int32(0)}
    if change == "state":
        state["w"] += 0.5
    rate = 0.25 if change == "meta" else 0.2
    return state, {"weights": jnp.linspace(0.5, 1.5, 4), "rate": jnp.float32(rate)}


def run(directory=None, *, sink="none", steps=STEPS, change=None, pause=0.0, progress=False):
    """The result, as a list of arrays. `directory` is where it saves points."""
    step, outer = step_and_outer(change)
    changed = {"batch 0": 0, "a later batch": 4}.get(change, -1)
    rows = {}
    gradients = None
    if sink == "folder":
        gradients = directory / "gradients"
    elif sink == "function":
        gradients = lambda t, gradient: rows.update({t: gradient["x"]})
        if directory is not None:
            gradients = lambda t, gradient: _to_file(directory / "rows", t, gradient["x"])
    stream = metagrad.Stream(Data(steps, pause, changed), gradients=gradients)
    wrt = ("meta", "state") if sink == "none" else "batches"
    if change == "wrt":
        wrt = "meta"
    mg = step.metagradient(
        outer,
        wrt,
        resume_dir=None if directory is None else directory / "journal",
        save_every=0,
        verify="replay" if change == "verify" else None,
        progress=progress,
    )
    state, meta = arguments(change)
    slots = SLOTS - (change == "plan")
    compiled = plans.compiled(mg, state, meta, stream, length=LENGTH, slots=slots, tiers=TIERS)
    result = compiled(state, meta, stream)
    arrays = [np.asarray(leaf) for leaf in jax.tree.leaves((result.value, result.state))]
    arrays += [np.asarray(leaf) for leaf in jax.tree.leaves(result.aux)]
    if sink == "function":
        assert result.grad is None
        if directory is not None:
            rows = {t: np.load(directory / "rows" / f"{t}.npy") for t in range(steps)}
        arrays.append(np.stack([rows[t] for t in range(steps)]))
    elif sink != "none":
        arrays.append(np.asarray(result.grad["x"]))
    else:
        arrays += [np.asarray(leaf) for leaf in jax.tree.leaves(result.grad)]
    return arrays


def _to_file(folder, t, row):
    folder.mkdir(exist_ok=True)
    np.save(folder / f"{t}.new.npy", row)
    os.replace(folder / f"{t}.new.npy", folder / f"{t}.npy")


def digest(arrays):
    text = b"".join(f"{a.dtype}{a.shape}".encode() + a.tobytes() for a in arrays)
    return hashlib.sha256(text).hexdigest()


DEATHS = simulated_run.DEATHS | {
    "save": (saver.Saver, "_commit"),  # an action is over, its point is not begun
    "action": (streamed.StreamedRun, "_prefetch"),  # before an action
    "outer": (streamed.StreamedRun, "_outer"),  # right before the outer function
    "finish": (Journal, "_remove"),  # all is done but the removal of the journal
}


def die_at(kind, count):
    simulated_run.DEATHS.update(DEATHS)
    if kind == "after outer":  # the action that follows it
        original = streamed.StreamedRun._outer

        def outer(run, action):
            result = original(run, action)
            die_at("action", count)
            return result

        streamed.StreamedRun._outer = outer
    else:
        simulated_run.die_at(kind, count)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("directory", type=pathlib.Path)
    parser.add_argument("output", type=pathlib.Path)
    parser.add_argument("--sink", choices=["none", "memory", "folder", "function"], default="none")
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--change", choices=CHANGES)
    parser.add_argument("--die", metavar="KIND:COUNT")
    parser.add_argument("--pause", type=float, default=0.0, metavar="SECONDS")
    options = parser.parse_args()
    if options.die:
        kind, count = options.die.split(":")
        die_at(kind, int(count))
    options.directory.mkdir(exist_ok=True)
    os.environ["XLA_FLAGS"] = FAST
    positions = []

    def report(now):
        if not positions:
            print(now.advanced + now.reversed, flush=True)
        positions.append(now.advanced + now.reversed)

    arrays = run(
        options.directory,
        sink=options.sink,
        steps=options.steps,
        change=options.change,
        pause=options.pause,
        progress=report,
    )
    assert positions == sorted(positions), "progress does not go back"
    options.output.write_text(digest(arrays))


if __name__ == "__main__":
    sys.exit(main())

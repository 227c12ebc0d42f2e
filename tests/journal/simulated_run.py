"""A run as the executors make it, on NumPy arrays, with a journal: what the kills are tried on.

    python -m tests.journal.simulated_run DIRECTORY OUTPUT [--die KIND:COUNT] [--pause SECONDS]

It goes on from what it finds in DIRECTORY, writes the digest of its result to OUTPUT, and removes
the journal. `--die write:7` kills the process by itself in the middle of its seventh write.
"""

import argparse
import hashlib
import os
import pathlib
import signal
import sys
import time

import ml_dtypes
import numpy as np

from metagrad.runtime.journal import Journal, database, journal, payload_files
from metagrad.runtime.schedules.binomial import Binomial

STEPS, SLOTS, EVERY = 40, 4, 5
IDENTITY = {"program": "simulated", "steps": STEPS, "schedule": f"Binomial({SLOTS})"}


def actions():
    """(kind, number) for all that a plan says, in order."""
    plan = Binomial(SLOTS).plan(STEPS, gradients=False)
    listed = []
    for r in range(plan.steps + 1):
        listed.append(("load", int(plan.load[r])))
        for q in range(plan.segment[r], plan.segment[r + 1]):
            listed += [("advance", 1)] * int(plan.run_steps[q])
            if plan.run_save[q] >= 0:
                listed.append(("save", int(plan.run_save[q])))
        listed.append(("outer", 0) if r == 0 else ("reverse", plan.steps - r))
    return listed


def initial_state():
    weights = np.random.default_rng(0).normal(size=(64, 64))
    return [weights, np.linspace(0, 1, 300).astype(ml_dtypes.bfloat16), np.int32(0)]


def advance(state):
    weights, low, t = state
    batch = np.random.default_rng(int(t)).normal(size=(64, 64))
    weights = np.tanh(weights + 0.1 * batch) * 1.01
    return [weights, (low * ml_dtypes.bfloat16(0.99)).astype(low.dtype), np.int32(t + 1)]


def reverse(state, bar):
    weights, low, _ = state
    return [bar[0] * (1 - np.tanh(weights) ** 2) + 1e-3, bar[1] + low]


def run(saved=None, pause=0.0):
    """The result: the value and the last cotangents. `saved` is a Journal."""
    listed = actions()
    slots, refs = {0: initial_state()}, {}
    state = bar = value = None
    first = 0
    point = saved.latest() if saved is not None else None
    if point is not None:
        first, value = point.position, point.record["value"]
        arrays = {name: saved.load(ref) for name, ref in point.payloads.items()}
        state, bar = arrays.pop("state", None), arrays.pop("bar", None)
        slots = {int(name): content for name, content in arrays.items()}
        refs = {int(name): ref for name, ref in point.payloads.items() if name.isdigit()}
    for position in range(first, len(listed)):
        kind, number = listed[position]
        if kind == "load":
            state = slots[number]
        elif kind == "advance":
            state = advance(state)
        elif kind == "save":
            slots[number], _ = state, refs.pop(number, None)
        elif kind == "outer":
            value, bar = float(np.sum(state[0])), [np.ones((64, 64)), np.zeros_like(state[1])]
        else:
            bar, state = reverse(state, bar), None
        time.sleep(pause)
        if saved is not None and position % EVERY == EVERY - 1:
            refs |= {slot: saved.store(slots[slot]) for slot in slots.keys() - refs.keys()}
            payloads = {str(slot): ref for slot, ref in refs.items()}
            if state is not None:
                payloads["state"] = saved.store(state)
            if bar is not None:
                payloads["bar"] = saved.store(bar)
            saved.commit(position + 1, {"value": value}, payloads)
    return value, bar


def digest(result):
    value, bar = result
    return hashlib.sha256(repr(value).encode() + b"".join(a.tobytes() for a in bar)).hexdigest()


DEATHS = {
    "write": (payload_files, "_write_all"),  # half of a write is done
    "sync": (journal, "_sync"),  # payloads are on the disk, the point is not
    "commit": (database._Transaction, "__exit__"),  # in the middle of a transaction
    "sweep": (os, "unlink"),  # the point is saved, what it replaces is not removed
}


def die_at(kind, count):
    """Makes the process kill itself at the `count`-th call of a function, half-way."""
    owner, name = DEATHS[kind]
    original = getattr(owner, name)
    calls = 0

    def dying(*arguments):
        nonlocal calls
        calls += 1
        if calls == count:
            if kind == "write":
                os.write(arguments[0], arguments[1][: len(arguments[1]) // 2])
            os.kill(os.getpid(), signal.SIGKILL)
        return original(*arguments)

    setattr(owner, name, dying)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("directory")
    parser.add_argument("output", type=pathlib.Path)
    parser.add_argument("--die", metavar="KIND:COUNT")
    parser.add_argument("--pause", type=float, default=0.0, metavar="SECONDS")
    options = parser.parse_args()
    if options.die:
        kind, count = options.die.split(":")
        die_at(kind, int(count))
    with Journal.open(options.directory, IDENTITY) as saved:
        point = saved.latest()
        print(point.position if point else 0, flush=True)
        options.output.write_text(digest(run(saved, options.pause)))
        saved.finish()


if __name__ == "__main__":
    sys.exit(main())

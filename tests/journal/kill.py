"""Kills a simulated run again and again, and compares its result with that of a run left alone.

python -m tests.journal.kill --kills 200
"""

import argparse
import collections
import dataclasses
import os
import pathlib
import random
import signal
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).parent.parent.parent
PAUSE = 0.002
"""Seconds that each action of the run takes beside its work, so that a run meets some kills."""


@dataclasses.dataclass
class Outcome:
    """What happened.

    Attributes:
      kills: how many processes were killed, by where.
      positions: where the killed processes had gone on from.
      digests: of the results.
    """

    kills: collections.Counter = dataclasses.field(default_factory=collections.Counter)
    positions: list[int] = dataclasses.field(default_factory=list)
    digests: list[str] = dataclasses.field(default_factory=list)


def kill_and_resume(folder, kills, seed=0):
    """Runs and kills processes until `kills` have died and the last run is complete."""
    chance = random.Random(seed)
    outcome = Outcome()
    while outcome.kills.total() < kills:
        output = pathlib.Path(folder) / f"output {len(outcome.digests)}"
        directory = pathlib.Path(folder) / f"run {len(outcome.digests)}"
        while not _attempt(directory, output, outcome, chance, outcome.kills.total() < kills):
            pass
        assert not os.listdir(directory), "a finished run leaves nothing"
        outcome.digests.append(output.read_text())
    return outcome


def start(directory, output, *options, stdout=subprocess.DEVNULL):
    """A process that runs, or goes on with the run in `directory`."""
    command = [sys.executable, "-m", "tests.journal.simulated_run", directory, output, *options]
    return subprocess.Popen(command, stdout=stdout, text=True, cwd=ROOT)


def _attempt(directory, output, outcome, chance, kill):
    """Whether a process came to the end of the run."""
    options = ["--pause", str(PAUSE)]
    # A third of them die by their own hand, at a place that a clock seldom meets.
    place = chance.choice(["write", "sync", "commit", "sweep"]) if chance.random() < 1 / 3 else None
    if kill and place:
        count = chance.randint(1, {"write": 120, "sync": 12, "commit": 8, "sweep": 16}[place])
        options += ["--die", f"{place}:{count}"]
    process = start(directory, output, *options, stdout=subprocess.PIPE)
    try:
        position = process.stdout.readline()
        if kill and not place:
            time.sleep(chance.expovariate(1 / 0.1))
            process.send_signal(signal.SIGKILL)
        process.wait(timeout=60)
    finally:
        process.kill()
        process.stdout.close()
    if process.returncode == 0:
        return True
    assert process.returncode == -signal.SIGKILL, f"{process.args} failed"
    outcome.kills[place or "anywhere"] += 1
    outcome.positions.append(int(position or 0))
    return False


def main():
    from tests.journal import simulated_run

    parser = argparse.ArgumentParser(prog="python -m tests.journal.kill", description=__doc__)
    parser.add_argument("--kills", type=int, default=200, metavar="N", help="processes to kill")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    alone = simulated_run.digest(simulated_run.run())
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        outcome = kill_and_resume(folder, options.kills, options.seed)
    different = sum(digest != alone for digest in outcome.digests)
    print(
        f"{outcome.kills.total()} processes killed ({dict(outcome.kills)}), "
        f"{sum(position > 0 for position in outcome.positions)} of them had gone on from a point "
        f"({len(set(outcome.positions) - {0})} different ones); {len(outcome.digests)} runs came "
        f"to their end, {different} with another result; {time.monotonic() - began:.0f} s"
    )
    return different > 0


if __name__ == "__main__":
    sys.exit(main())

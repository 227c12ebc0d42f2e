"""Kills streamed runs again and again, and compares their results with those of runs left alone.

python -m tests.streamed.kill --kills 200
"""

import argparse
import collections
import dataclasses
import json
import os
import pathlib
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).parent.parent.parent
SINKS = ("none", "memory", "folder", "function")
OWN_HAND = {
    "write": 60,
    "sync": 8,
    "commit": 5,
    "sweep": 8,
    "save": 5,
    "action": 30,
    "outer": 1,
    "after outer": 3,
    "finish": 1,
}
"""Places at which a process dies by its own hand, and up to which time it comes there."""


@dataclasses.dataclass
class Outcome:
    """What happened.

    Attributes:
      kills: how many processes were killed, by where.
      resumed: how many of them had gone on from a point.
      ends: (sink, digest) of each run that came to its end.
    """

    kills: collections.Counter = dataclasses.field(default_factory=collections.Counter)
    resumed: int = 0
    ends: list[tuple[str, str]] = dataclasses.field(default_factory=list)


def environment(cache):
    """Compilations are kept in a folder, since each process needs the same ones."""
    return os.environ | {
        "METAGRAD_CACHE": "1",
        "METAGRAD_CACHE_DIR": str(pathlib.Path(cache) / "enzyme"),
        "JAX_COMPILATION_CACHE_DIR": str(pathlib.Path(cache) / "xla"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
        "JAX_PLATFORMS": "cpu",
    }


def start(cache, directory, output, *options, **kwargs):
    """A process that runs, or goes on with the run in `directory`."""
    command = [sys.executable, "-m", "tests.streamed.training", directory, output, *options]
    return subprocess.Popen(
        [*map(str, command)], text=True, cwd=ROOT, env=environment(cache), **kwargs
    )


def alone(cache, folder, sink):
    """The digest of a run that nobody disturbs."""
    output = pathlib.Path(folder) / f"alone {sink}"
    directory = pathlib.Path(folder) / f"run {sink}"
    process = start(cache, directory, output, "--sink", sink, stdout=subprocess.DEVNULL)
    assert process.wait(timeout=120) == 0
    return output.read_text()


def kill_and_resume(cache, folder, sink, kills, seed=0, by_hand=1 / 3):
    """Runs and kills processes until `kills` have died and the last run is complete."""
    chance = random.Random(f"{seed} {sink}")
    outcome = Outcome()
    while outcome.kills.total() < kills:
        number = len(outcome.ends)
        output = pathlib.Path(folder) / f"output {sink} {number}"
        directory = pathlib.Path(folder) / f"killed {sink} {number}"
        while not _attempt(
            cache, directory, output, sink, outcome, chance, outcome.kills.total() < kills, by_hand
        ):
            pass
        journal = directory / "journal"
        assert not os.listdir(journal), "a finished run leaves nothing"
        outcome.ends.append((sink, output.read_text()))
    return outcome


def _attempt(cache, directory, output, sink, outcome, chance, kill, by_hand):
    """Whether a process came to the end of the run."""
    options = ["--sink", sink]
    place = chance.choice([*OWN_HAND]) if chance.random() < by_hand else None
    if kill and place:
        options += ["--die", f"{place}:{chance.randint(1, OWN_HAND[place])}"]
    if kill:
        options += ["--pause", "0.01"]
    process = start(cache, directory, output, *options, stdout=subprocess.PIPE)
    try:
        done = process.stdout.readline()
        if kill and not place:
            time.sleep(chance.uniform(0, 0.5))
            process.send_signal(signal.SIGKILL)
        process.wait(timeout=120)
    finally:
        process.kill()
        process.stdout.close()
    if process.returncode == 0:
        return True
    assert process.returncode == -signal.SIGKILL, f"{process.args} failed"
    outcome.kills[place or "anywhere"] += 1
    outcome.resumed += int(done or 0) > 0
    index = directory / "gradients" / "index.json"
    if index.exists() and json.loads(index.read_text())["complete"]:
        # Killed after its end, in the folder's eyes: as a user would, begin anew.
        shutil.rmtree(directory)
    return False


def main():
    parser = argparse.ArgumentParser(prog="python -m tests.streamed.kill", description=__doc__)
    parser.add_argument("--kills", type=int, default=200, metavar="N", help="processes to kill")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    began, different = time.monotonic(), 0
    with tempfile.TemporaryDirectory() as folder:
        for sink in SINKS:
            expected = alone(folder, folder, sink)
            count = -(-options.kills // len(SINKS))
            outcome = kill_and_resume(folder, folder, sink, count, options.seed)
            wrong = sum(digest != expected for _, digest in outcome.ends)
            different += wrong
            print(
                f"{sink}: {outcome.kills.total()} processes killed ({dict(outcome.kills)}), "
                f"{outcome.resumed} of them had gone on from a point; {len(outcome.ends)} runs "
                f"came to their end, {wrong} with another result; "
                f"{time.monotonic() - began:.0f} s",
                flush=True,
            )
    return different > 0


if __name__ == "__main__":
    sys.exit(main())

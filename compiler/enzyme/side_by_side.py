"""Several functions for Enzyme at once: the longest in one process, the others in a second.

The VJP of a step takes longest, so more than two would not help. A second process is started for
long texts only, since it takes time to start, and memory.

All MLIR is built and read in the thread that calls. The threads here wait for a process.
"""

from __future__ import annotations

import os
from collections.abc import Generator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import NamedTuple

from metagrad.compiler.enzyme.error import EnzymeError
from metagrad.compiler.enzyme.worker import SECOND_WORKER, WORKER, EnzymeWorker
from metagrad.runtime.stage_reports import stage

LONG = 100_000
"""Characters of a text that is worth a second process."""


class Request(NamedTuple):
    """What `EnzymeWorker.run` takes."""

    function: str
    module: str
    pipeline: str


Job = Generator[Request, str, None]
"""Yields requests, and is sent the answers."""


def run(jobs: Mapping[str, Job]) -> None:
    """Runs every job to its end.

    Args:
      jobs: by the function that each is about.

    Raises:
      EnzymeError: a job failed. Of several, the first in the order of `jobs`; its `function` is
        set. No request is started after a failure.
    """
    requests: dict[str, Request] = {}
    errors: dict[str, EnzymeError] = {}

    def advance(name: str, answer: str | None) -> None:
        try:
            requests[name] = next(jobs[name]) if answer is None else jobs[name].send(answer)
        except StopIteration:
            pass
        except EnzymeError as error:
            errors[name] = error

    for name in jobs:
        advance(name, None)
    idle = _workers(requests)
    longest_first = len(idle) > 1
    running: dict[Future, tuple[str, EnzymeWorker]] = {}
    with ThreadPoolExecutor(len(idle)) as threads:
        try:
            while running or (requests and not errors):
                while idle and requests and not errors:
                    waiting = [name for name in jobs if name in requests]
                    if longest_first:
                        waiting.sort(key=lambda name: -len(requests[name].module))
                    name = waiting[0]
                    worker = idle.pop(0)
                    future = threads.submit(worker.run, *requests.pop(name))
                    running[future] = name, worker
                names = " and ".join(f"@{name}" for name, _ in running.values())
                stage(f"differentiating {names} with Enzyme")
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    name, worker = running.pop(future)
                    idle.append(worker)
                    try:
                        advance(name, future.result())
                    except EnzymeError as error:
                        errors[name] = error
        except BaseException:
            # A Ctrl-C while waiting: the threads end with their processes.
            for _, worker in running.values():
                worker.kill()
            raise
    for name in jobs:
        if name in errors:
            errors[name].function = name
            raise errors[name]


def _workers(requests: Mapping[str, Request]) -> list[EnzymeWorker]:
    is_long = any(len(request.module) >= LONG for request in requests.values())
    if is_long and len(requests) > 1 and len(os.sched_getaffinity(0)) > 1:
        return [WORKER, SECOND_WORKER]
    return [WORKER]

"""Enzyme's processes side by side: which is asked for what, failures, and Ctrl-C."""

import threading
import time

import pytest

from metagrad.compiler.enzyme import side_by_side
from metagrad.compiler.enzyme.error import EnzymeError
from metagrad.compiler.enzyme.side_by_side import Request


class Fake:
    """Answers with the request's module; a test may hold it until others have been asked."""

    def __init__(self, name, asked):
        self.name, self.asked, self.before, self.killed = name, asked, lambda: None, False

    def run(self, function, module, pipeline):
        self.asked.append((self.name, function, pipeline))
        self.before()
        if "broken" in module:
            raise EnzymeError(f"broken {function}")
        return module + "'"

    def kill(self):
        self.killed = True


@pytest.fixture
def asked(monkeypatch):
    asked = []
    monkeypatch.setattr(side_by_side, "LONG", 10)
    for name in ("WORKER", "SECOND_WORKER"):
        monkeypatch.setattr(side_by_side, name, Fake(name, asked))
    monkeypatch.setattr(side_by_side.os, "sched_getaffinity", lambda _: {0, 1})
    return asked


def job(name, module, results, runs=1):
    for i in range(runs):
        module = yield Request(name, module, f"run {i}")
    results[name] = module


def test_the_longest_goes_first_and_alone(asked):
    both = threading.Barrier(2, timeout=20)
    others_done = threading.Event()

    def first():
        if len(asked) <= 2:
            both.wait()
            assert others_done.wait(20)

    side_by_side.WORKER.before = first
    done = []

    def second():
        if not done:
            both.wait()
        done.append(None)
        if len(done) == 2:
            others_done.set()

    side_by_side.SECOND_WORKER.before = second
    results = {}
    jobs = {"a": job("a", "short", results), "b": job("b", "b" * 20, results, 2)}
    jobs["c"] = job("c", "tiny", results)
    side_by_side.run(jobs)
    assert results == {"a": "short'", "b": "b" * 20 + "''", "c": "tiny'"}
    assert next(function for worker, function, _ in asked if worker == "WORKER") == "b"
    assert [f for worker, f, _ in asked if worker == "SECOND_WORKER"][:2] == ["a", "c"]


def test_short_texts_go_one_after_the_other_to_one_process(asked):
    results = {}
    side_by_side.run({"a": job("a", "short", results, 2), "b": job("b", "longer", results)})
    assert asked == [
        ("WORKER", "a", "run 0"),
        ("WORKER", "a", "run 1"),
        ("WORKER", "b", "run 0"),
    ]


@pytest.mark.parametrize("cores, several", [({0}, True), ({0, 1}, False)])
def test_one_core_or_one_function_is_one_process(asked, monkeypatch, cores, several):
    monkeypatch.setattr(side_by_side.os, "sched_getaffinity", lambda _: cores)
    results = {}
    jobs = {"a": job("a", "a" * 20, results)} | (
        {"b": job("b", "b" * 20, results)} if several else {}
    )
    side_by_side.run(jobs)
    assert {worker for worker, *_ in asked} == {"WORKER"} and len(results) == len(asked)


def test_the_first_failure_is_raised_and_nothing_started_after_it(asked):
    results = {}
    jobs = {name: job(name, f"broken {name}" * 4, results, 2) for name in "abc"}
    with pytest.raises(EnzymeError, match="broken a") as raised:
        side_by_side.run(jobs)
    assert raised.value.function == "a"
    assert len(asked) == 2 and not results


def test_nothing_to_do(asked):
    side_by_side.run({})
    assert not asked


def test_an_interrupt_kills_the_processes(asked, monkeypatch):
    over = threading.Event()
    for worker in (side_by_side.WORKER, side_by_side.SECOND_WORKER):
        worker.before = lambda: over.wait(20)
        worker.kill = lambda worker=worker: (setattr(worker, "killed", True), over.set())

    def interrupted(*_, **__):
        time.sleep(0.1)
        raise KeyboardInterrupt

    monkeypatch.setattr(side_by_side, "wait", interrupted)
    with pytest.raises(KeyboardInterrupt):
        side_by_side.run({name: job(name, name * 20, {}) for name in "ab"})
    assert side_by_side.WORKER.killed and side_by_side.SECOND_WORKER.killed

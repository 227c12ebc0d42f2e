"""What a streamed run reports, and what it leaves behind."""

import gc
import os
import threading
import time

import jax
import jax.numpy as jnp
import pytest

import metagrad

from . import plans, small

STEPS = 10


def reports(*, slots=2, pause=0.0, stop_at=None, **options):
    """The reports of a run, as they come. `stop_at` ends it after so many."""
    seen = []

    def progress(now):
        seen.append(now)
        if len(seen) == stop_at:
            raise InterruptedError

    mg = small.step.metagradient(small.outer, progress=progress, **options)
    stream = metagrad.Stream(small.Data(STEPS, lambda t: time.sleep(pause)))
    arguments = *small.arguments(), stream
    compiled = plans.compiled(mg, *arguments, length=small.LENGTH, slots=slots)
    if stop_at is None:
        compiled(*arguments)
    else:
        with pytest.raises(InterruptedError):
            compiled(*arguments)
    return seen


@pytest.fixture
def at_every_report(monkeypatch):
    from metagrad.runtime import progress_reports

    monkeypatch.setattr(progress_reports, "INTERVAL", 0.0)


def check(seen):
    for name in ("advanced", "reversed", "fraction", "elapsed"):
        values = [getattr(now, name) for now in seen]
        assert values == sorted(values), name
    phases = [now.phase for now in seen]
    assert phases == sorted(phases, key=["training", "outer", "reversing"].index)
    last = seen[-1]
    assert (last.advanced, last.reversed, last.fraction) == (last.advances, last.vjps, 1.0)
    assert last.vjps == STEPS
    assert {(now.advances, now.vjps) for now in seen} == {(last.advances, last.vjps)}


@pytest.mark.parametrize("slots", [1, 3])
def test_counts_go_up_and_end_complete(at_every_report, slots):
    seen = reports(slots=slots)
    check(seen)
    assert {now.phase for now in seen} == {"training", "outer", "reversing"}
    assert max(now.bytes["host"] for now in seen) > 0


def test_counts_after_a_resume(at_every_report, tmp_path):
    options = {"resume_dir": tmp_path, "save_every": 0}
    seen = reports(stop_at=12, pause=0.03, **options)
    rest = reports(**options)
    assert 0 < rest[0].advanced <= seen[-1].advanced
    check(rest)


def test_a_line_for_each_stage_and_then_the_run(capfd):
    """What is shown of the compilation ends before what is shown of the run begins."""
    order = []
    mg = small.step.metagradient(small.outer, progress=True, schedule=metagrad.Binomial(2))

    class Watched(small.Data):
        def __getitem__(self, t):
            if t == 1:  # batch 0 is also read to see what a batch looks like
                order.append(capfd.readouterr().err)
            return super().__getitem__(t)

    mg(*small.arguments(), metagrad.Stream(Watched(20)))
    assert "metagrad: compiling reverse with XLA" in order[0]
    assert order[0].splitlines()[-1].startswith("metagrad: done in ")
    # A run of milliseconds prints no line, and neither does a second one.
    mg(*small.arguments(), metagrad.Stream(small.Data(20)))
    assert capfd.readouterr().err == ""


# --- Growth ---------------------------------------------------------------------------------------


def footprint():
    gc.collect()
    with open("/proc/self/statm") as file:
        resident = int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return {
        "threads": threading.active_count(),
        "descriptors": len(os.listdir("/proc/self/fd")),
        "arrays": len(jax.live_arrays()),
    }, resident


@pytest.mark.usefixtures("others_stay")
def test_two_hundred_calls_leave_nothing(tmp_path):
    mg = small.step.metagradient(small.outer, ("meta", "batches"))
    stream = metagrad.Stream(small.stacked(STEPS))
    state, meta = small.arguments()
    compiled = plans.compiled(
        mg, state, meta, stream, length=small.LENGTH, slots=3, tiers=("disk", "host", "device")
    )

    def calls(count):
        for _ in range(count):
            jax.block_until_ready(compiled(state, meta, stream).value)

    calls(50)
    before, resident = footprint()
    calls(200)
    after, resident_after = footprint()
    assert after == before
    assert resident_after - resident < 8 * 2**20


def test_programs_go_with_the_metagradient():
    """A metagradient that is dropped takes its programs along."""
    import weakref

    mg = small.step.metagradient(small.outer)
    stream = metagrad.Stream(small.stacked(STEPS))
    lowered = mg.lower(*small.arguments(), stream)
    compiled = plans.with_plan(lowered, small.LENGTH).compile()
    compiled(*small.arguments(), stream)
    reference = weakref.ref(lowered.program)
    del mg, lowered, compiled
    gc.collect()
    assert reference() is None


def test_few_states_are_on_the_device():
    """States lie in slots on disk. On the device is what is under way, whatever T is."""
    size = 50_000
    most = []

    class Watched:
        def __init__(self, steps):
            self.steps = steps

        def __len__(self):
            return self.steps

        def __getitem__(self, t):
            if not 0 <= t < self.steps:
                raise IndexError(t)
            arrays = [array for array in jax.live_arrays() if array.size == size]
            most.append(len({array.unsafe_buffer_pointer() for array in arrays}))
            return {"x": jnp.ones(())}

    @metagrad.compile
    def step(w, z, batch):
        return w * (1 - z * batch["x"])

    mg = step.metagradient(lambda w: jnp.sum(w**2))
    peaks = {}
    for steps in (8, 40):
        stream = metagrad.Stream(Watched(steps))
        arguments = jnp.ones(size), jnp.full((), 0.01), stream
        lowered = plans.with_plan(mg.lower(*arguments), 1, slots=steps, tiers=("disk",))
        most.clear()
        lowered.compile()(*arguments)
        peaks[steps] = max(most)
    # The first state; those under way, in two actions and the one that begins; cotangents as many;
    # two on their way out to the disk and two back in, and what is handed on. How many of these
    # meet depends on how fast the disk is, so the bound is their sum.
    assert max(peaks.values()) <= 12

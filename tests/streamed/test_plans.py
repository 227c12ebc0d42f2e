"""One compiled program serves every number of steps and every plan of its segments."""

import collections
import logging

import jax
import pytest
from exact.unrolled import DOUBLE, assert_close, unrolled

import metagrad

from . import plans, small

WRT = ("meta", "state", "batches")


@pytest.fixture(scope="module")
def lowered():
    with jax.enable_x64(True):
        mg = small.step.metagradient(small.outer, WRT, schedule=metagrad.Binomial(2))
        lowered = mg.lower(*small.arguments(), metagrad.Stream(small.stacked(10)))
        plans.with_plan(lowered, small.LENGTH).compile()
        return lowered


@pytest.fixture
def compilations(caplog):
    """Counts what XLA compiles."""
    with caplog.at_level(logging.WARNING, "jax"), jax.log_compiles():
        yield lambda: [m for m in caplog.messages if m.startswith("Finished XLA compilation")]


def run(lowered, steps, plan=None):
    lowered._plan = plan or plans.two_level(lowered, steps, small.LENGTH)
    stream = metagrad.Stream(small.stacked(steps))
    return lowered.compile()(*small.arguments(), stream)


@pytest.mark.parametrize("steps", [1, 2, 3, 4, 7, 9, 16])
def test_any_number_of_steps(lowered, steps):
    result = run(lowered, steps)
    value, grad, state = unrolled(
        small.step, small.outer, WRT, *small.arguments(), small.stacked(steps)
    )
    assert_close(result.value, value, DOUBLE, "value")
    assert_close(result.grad, grad, DOUBLE)
    assert_close(result.state, state, DOUBLE, "state")


def test_another_number_of_steps_or_another_plan_compiles_nothing(lowered, compilations):
    run(lowered, 10)
    before = len(compilations())
    for steps in (1, 5, 13, 20):
        run(lowered, steps)
    for slots, tiers in [(1, ("disk",)), (3, ("disk", "device")), (4, ("host",))]:
        run(lowered, 10, plans.two_level(lowered, 10, small.LENGTH, slots, tiers))
    state, meta = jax.device_put(small.arguments(), jax.devices()[0])
    lowered.compile()(state, meta, metagrad.Stream(small.stacked(10)))
    assert compilations()[before:] == []


def test_all_plans_give_the_same_bits(lowered):
    results = [
        run(lowered, 14, plans.two_level(lowered, 14, small.LENGTH, slots, tiers))
        for slots in (1, 2, 5)
        for tiers in [("device",), ("host",), ("disk",), ("disk", "host", "device")]
    ]
    assert len({tuple(small.bits(result)) for result in results}) == 1


def test_the_public_call_compiles_once(compilations):
    mg = small.step.metagradient(small.outer, schedule=metagrad.Binomial(2))
    jax.block_until_ready(mg(*small.arguments(), metagrad.Stream(small.stacked(20))))
    first = len(compilations())
    assert first > 0
    for steps in (20, 3, 33):
        mg(*small.arguments(), metagrad.Stream(small.stacked(steps)))
    assert compilations()[first:] == []


def test_stacked_arrays_where_the_user_asks_for_it():
    mg = small.step.metagradient(small.outer, runtime="streamed")
    batches = small.stacked(9)
    result = mg(*small.arguments(), batches)
    of_stream = mg(*small.arguments(), metagrad.Stream(batches))
    assert small.bits(result) == small.bits(of_stream)
    fused = small.step.metagradient(small.outer)(*small.arguments(), batches)
    assert_close(tuple(result), tuple(fused), 1e-12, "fused")


# --- What moves -----------------------------------------------------------------------------------


class Log:
    """Slots that note what is asked of them."""

    def __init__(self, slots):
        self.slots, self.moves = slots, []
        self.contents = set()
        self.most = 0

    def write(self, slot, arrays):
        self.moves.append(("write", slot))
        self.contents.add(slot)
        self.most = max(self.most, len(self.contents))
        self.slots.write(slot, arrays)

    def read(self, slot):
        self.moves.append(("read", slot))
        return self.slots.read(slot)

    def free(self, slot):
        self.moves.append(("free", slot))
        self.contents.discard(slot)
        self.slots.free(slot)

    def __getattr__(self, name):
        return getattr(self.slots, name)


@pytest.mark.parametrize("steps, slots", [(1, 1), (10, 1), (10, 2), (25, 3), (25, 9)])
def test_what_moves_is_what_the_plan_says(lowered, monkeypatch, steps, slots):
    from metagrad.runtime.executors import streamed, walk

    logs, data = [], small.Data(steps)
    original = streamed.StreamedRun.__init__

    def init(run, *args, slots, **kwargs):
        logs.append(Log(slots))
        original(run, *args, slots=logs[0], **kwargs)

    monkeypatch.setattr(streamed.StreamedRun, "__init__", init)
    plan = plans.two_level(lowered, steps, small.LENGTH, slots)
    lowered._plan = plan
    lowered.compile()(*small.arguments(), metagrad.Stream(data))
    expected, batches = [], []
    for action in walk.actions(plan.outer):
        if action.kind is walk.Kind.SAVE:
            expected.append(("write", action.slot))
        elif action.kind is walk.Kind.LOAD:
            expected.append(("read", action.slot))
            if action.is_last_read:
                expected.append(("free", action.slot))
        elif action.kind is not walk.Kind.OUTER:
            first, count = walk.bounds(action.segment, small.LENGTH, steps)
            batches += range(first, first + count)
    assert logs[0].moves == expected
    assert logs[0].contents == set(), "all slots are given back"
    assert logs[0].most <= slots
    assert data.asked[-len(batches) :] == batches, "batches are read in the order of the walk"
    # An independent count: each segment is reversed once, in the order from the last to the first.
    counts = collections.Counter(batches)
    assert set(counts) == set(range(steps)) and min(counts.values()) >= 2

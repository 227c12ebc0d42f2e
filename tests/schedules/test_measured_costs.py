"""Costs are found from the times of a few plans, kept on disk, and read again."""

import dataclasses
import os
import random
import types

import numpy as np
import pytest

from metagrad.runtime import user_cache
from metagrad.runtime.schedules import Auto, Binomial, LazyKary, Periodic
from metagrad.runtime.schedules import kept_costs as kept_on_disk
from metagrad.runtime.schedules import measured_costs as measured
from metagrad.runtime.schedules.costs import Costs, Sizes, predict
from metagrad.runtime.tiers.host import HostBuffers

SIZES = Sizes(3_000_000, 1_000_000, workspace=5_000_000, step=1_000)
TRUE = Costs(
    SIZES, inner=10e-3, update=1.3e-3, vjp=26.7e-3, slot_write=5e9, slot_read=5e9, call=2e-4
)


class Machine:
    """A machine with known costs, noise, and now and then a disturbance; its clock is its own."""

    def __init__(self, costs, noise, gradients=True):
        self.costs, self.noise, self.random = costs, noise, random.Random(0)
        self.now, self.runs = 0.0, 0
        self.probe = measured.Probe(self.run, 8, 8, 8 if gradients else 0, gradients)

    def run(self, plan):
        assert max(plan.steps, plan.state_slots, plan.gradient_slots) <= 8
        disturbed = 2.0 if self.random.random() < 0.05 else 1.0
        factor = disturbed * (1 + self.noise * self.random.uniform(-1, 1))
        self.now += factor * predict(plan, self.costs)
        self.runs += 1

    def clock(self):
        return self.now


def test_known_costs_are_found():
    machine = Machine(TRUE, noise=0.0)
    found = measured.measure(machine.probe, SIZES, clock=machine.clock)
    assert found.measured
    for name in ("inner", "update", "vjp", "call", "slot_write"):
        assert getattr(found, name) == pytest.approx(getattr(TRUE, name), rel=1e-6), name


@pytest.mark.parametrize("seed", range(5))
def test_predictions_stand_noise(seed):
    machine = Machine(TRUE, noise=0.02)
    machine.random.seed(seed)
    found = measured.measure(machine.probe, SIZES, clock=machine.clock)
    for schedule in (Binomial(8), Binomial(4, rebuild=3), LazyKary(4), Periodic(8, False)):
        plan = schedule.plan(64, gradients=True)
        assert predict(plan, found) == pytest.approx(predict(plan, TRUE), rel=0.05)


def test_making_slots_is_told_apart_from_a_call():
    costs = dataclasses.replace(TRUE, slot_make=2e9)
    machine = Machine(costs, noise=0.0)
    large, small = 36_000_000, 8_000_000

    def run(slot_bytes, plan):
        # As predicted, but every run makes all the slots of its program.
        counted = predict(plan, costs) - plan.slot_bytes(SIZES.state, SIZES.gradient) / 2e9
        machine.now += counted + slot_bytes / 2e9

    probe = dataclasses.replace(
        machine.probe,
        run=lambda plan: run(large, plan),
        slot_bytes=large,
        run_small=lambda plan: run(small, plan),
        small_slot_bytes=small,
    )
    found = measured.measure(probe, SIZES, clock=machine.clock)
    assert found.slot_make == pytest.approx(2e9) and found.call == pytest.approx(costs.call)
    assert found.vjp == pytest.approx(costs.vjp)


def test_a_step_without_inner_gradients():
    costs = dataclasses.replace(TRUE, sizes=Sizes(3_000_000, 0), inner=0.0, update=11e-3)
    machine = Machine(costs, noise=0.0, gradients=False)
    found = measured.measure(machine.probe, costs.sizes, clock=machine.clock)
    plan = Binomial(3).plan(30, gradients=False)
    assert predict(plan, found) == pytest.approx(predict(plan, costs), rel=1e-6)


def test_slow_steps_are_run_less_often():
    slow = Machine(dataclasses.replace(TRUE, vjp=3.0), noise=0.0)
    measured.measure(slow.probe, SIZES, clock=slow.clock)
    plans = len(measured.probe_plans(slow.probe))
    assert slow.runs == plans * 4  # the first, and three that count


def test_costs_are_measured_once_and_kept(monkeypatch, tmp_path):
    monkeypatch.setenv("METAGRAD_CACHE_DIR", str(tmp_path))
    monkeypatch.setenv("METAGRAD_CACHE", "1")
    made = []

    def make_probe():
        made.append(Machine(TRUE, noise=0.0))
        return measured.Probe(lambda plan: None, 4, 4, 4, True, workspace=7_000_000)

    first = kept_on_disk.measured_costs("a program", make_probe, SIZES)
    again = kept_on_disk.measured_costs("a program", make_probe, SIZES)
    assert first == again and len(made) == 1
    assert first.sizes == dataclasses.replace(SIZES, workspace=7_000_000)
    larger = dataclasses.replace(SIZES, step=6_000)
    sizes = kept_on_disk.measured_costs("a program", make_probe, larger).sizes
    assert sizes == dataclasses.replace(larger, workspace=7_000_000)
    assert len(made) == 1
    kept_on_disk.measured_costs("another program", make_probe, SIZES)
    assert len(made) == 2
    (file, _) = sorted((tmp_path / "costs").iterdir())
    for damage in (b"", b"{}", b"[1", b'{"format": 1}', b"\xff"):
        for kept in (tmp_path / "costs").iterdir():
            kept.write_bytes(damage)
        assert kept_on_disk.kept_costs("a program") is None
    assert file.suffix == ".json"


def test_costs_of_another_machine_are_not_taken(monkeypatch, tmp_path):
    monkeypatch.setenv("METAGRAD_CACHE_DIR", str(tmp_path))
    monkeypatch.setenv("METAGRAD_CACHE", "1")
    kept_on_disk.keep_costs("a program", TRUE)
    assert kept_on_disk.kept_costs("a program") == TRUE
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(97), raising=False)
    assert kept_on_disk.kept_costs("a program") is None


def test_without_a_cache_nothing_is_kept(monkeypatch, tmp_path):
    monkeypatch.setenv("METAGRAD_CACHE", "0")
    kept_on_disk.keep_costs("a program", TRUE)
    assert kept_on_disk.kept_costs("a program") is None and user_cache.folder("costs") is None
    monkeypatch.setenv("METAGRAD_CACHE", "1")
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("METAGRAD_CACHE_DIR", str(tmp_path / "file"))
    with pytest.warns(RuntimeWarning, match="the costs of this step cannot be kept"):
        kept_on_disk.keep_costs("a program", TRUE)


def test_workspace_is_what_xla_says_without_slots():
    analysis = types.SimpleNamespace(
        argument_size_in_bytes=100,
        output_size_in_bytes=50,
        temp_size_in_bytes=1000,
        alias_size_in_bytes=10,
    )
    assert measured.workspace(analysis, 600, 4, Sizes(1, 1, step=5)) == 520
    assert measured.workspace(analysis, 6000, 4, Sizes(1, 1)) == 0


def test_a_tier_is_timed():
    state = [np.zeros((1000, 100), np.float32), np.zeros(7, np.int32)]
    with HostBuffers() as tier:
        write, read = measured.tier_seconds(tier, state)
        assert write > 0 and read > 0 and tier.bytes_in_use == 0
    costs = measured.with_tier(TRUE, "disk", 3e-3, 1e-3)
    assert costs.disk_write == 1e9 and costs.disk_read == 3e9
    assert costs.write_seconds("disk") == pytest.approx(3e-3)


def test_estimated_costs_say_so():
    costs = measured.estimated_costs(
        SIZES, inner_operations=1e9, update_operations=1e7, vjp_operations=2.7e9
    )
    plan = Auto("60MB").plan(64, gradients=True, sizes=SIZES, measure=lambda: costs)
    assert "estimated, not measured" in str(plan)

"""What a user sees of a run: the estimate, the bar, plain lines, and calls of a function."""

import io
import sys
import threading
import time
import types

import pytest
from rich.console import Console
from terminal import screen, terminal

import metagrad
from metagrad.api import progress, refreshed, run_progress
from metagrad.api.progress import check_progress
from metagrad.runtime import progress_reports
from metagrad.runtime.executors.walk import Kind, actions
from metagrad.runtime.executors.walk_progress import counts
from metagrad.runtime.pace import Pace
from metagrad.runtime.progress_reports import Progress, Reporter


class Clock:
    """A clock for the reporter that goes when it is told to."""

    def __init__(self, monkeypatch):
        self.now = 1000.0
        monkeypatch.setattr(progress_reports.time, "monotonic", lambda: self.now)


@pytest.fixture
def clock(monkeypatch):
    return Clock(monkeypatch)


# The estimate.


def test_a_pace_is_that_of_each_kind():
    pace = Pace()
    assert pace.estimate() is None
    pace.add(2.0, 10, 0)
    assert pace.estimate() == pytest.approx((0.2, 0.6))  # a VJP counts as three steps at first
    pace.add(10.0, 0, 10)
    assert pace.estimate() == pytest.approx((0.2, 1.0))


def test_what_is_predicted_serves_until_it_is_measured():
    pace = Pace((0.1, 0.5))
    assert pace.estimate() == (0.1, 0.5)
    pace.add(2.0, 10, 0)  # this machine is half as fast, in VJPs too
    assert pace.estimate() == pytest.approx((0.2, 1.0))


def test_steps_and_vjps_that_are_reported_together_are_told_apart():
    pace = Pace()
    for segment in range(200):
        pace.add(10 * 0.1, 10, 0)
        steps = 4 + segment % 3
        pace.add(steps * 0.1 + 5 * 0.7, steps, 5)
    step, vjp = pace.estimate()
    assert step == pytest.approx(0.1, rel=0.1) and vjp == pytest.approx(0.7, rel=0.1)


def test_a_machine_that_became_slower_is_noticed():
    pace = Pace()
    for _ in range(1000):
        pace.add(1.0, 10, 0)
    for _ in range(100):
        pace.add(2.0, 10, 0)
    assert pace.estimate()[0] == pytest.approx(0.2, rel=0.15)
    for hours in (24, 24 * 365):
        pace.add(hours * 3600.0, 10, 0)  # a machine that slept
        assert pace.estimate()[0] > 0


def test_a_run_that_goes_on_counts_from_where_it_was(clock):
    reporter = Reporter(100, 50, advanced=60, reversed=10)
    clock.now += 4
    reporter.update("reversing", 62, 11)
    now = reporter.progress()
    assert now.elapsed == 4 and now.phase == "reversing"
    # 2 steps and 1 VJP took 4 s; there are 38 and 39 to do.
    assert now.remaining == pytest.approx(38 * 0.8 + 39 * 2.4)
    assert now.fraction == pytest.approx((62 + 33) / (100 + 150))
    clock.now += 1
    assert reporter.progress().remaining == pytest.approx(now.remaining - 1)
    clock.now += 10**6
    assert reporter.progress().remaining == 0


def test_nothing_is_estimated_before_anything_is_known(clock):
    assert Reporter(100, 50).progress().remaining is None
    assert Reporter(100, 50, predicted=(1.0, 2.0)).progress().remaining == 200


def test_a_report_costs_microseconds():
    reporter = Reporter(10**6, 10**6)

    def seconds():
        began = time.perf_counter()
        for count in range(1000):
            reporter.update("training", count, 0)
        return (time.perf_counter() - began) / 1000

    assert min(seconds() for _ in range(20)) < 10e-6


def test_the_counts_of_a_streamed_run():
    plan = metagrad.Binomial(2).plan(4, gradients=False)  # 4 segments of 10 steps, the last of 7
    walk = actions(plan)
    listed = counts(walk, 10, 37, replay=lambda n: 2 * n)
    assert len(listed) == len(walk) + 1
    phases = [phase for phase, _, _ in listed]
    assert [*dict.fromkeys(phases)] == ["training", "outer", "reversing"]
    assert phases.count("outer") == 1 and walk[phases.index("outer")].kind is Kind.OUTER
    assert listed[0] == ("training", 0, 0)
    assert listed[phases.index("outer")] == ("outer", 37, 0)
    replays = sum(10 for action in walk if action.kind is Kind.ADVANCE and action.is_replay)
    assert listed[-1] == ("reversing", 37 + replays + 2 * 37, 37)  # no replay goes to the end


# A function.


def reports(clock, callback):
    with run_progress.reported(callback, 1000, 500) as reporter:
        for advanced in range(1, 601):
            clock.now += 0.01
            reporter.update("training", advanced, 0, {"host": 7})
        reporter.update("outer", 600, 0)
        for vjps in range(1, 501):
            clock.now += 0.01
            reporter.update("reversing", 600 + vjps * 400 // 500, vjps, {"host": 9})


def test_a_function_is_called_a_few_times_a_second_and_at_the_end(clock, capsys):
    seen = []
    reports(clock, seen.append)
    assert all(isinstance(now, metagrad.Progress) for now in seen)
    assert 100 <= len(seen) <= 120  # 11 s
    assert [*dict.fromkeys(now.phase for now in seen)] == [
        "training",
        "outer",
        "reversing",
    ]
    fractions = [now.fraction for now in seen]
    assert fractions == sorted(fractions) and fractions[-1] == 1
    last = seen[-1]
    assert (last.advanced, last.advances, last.reversed, last.vjps) == (1000, 1000, 500, 500)
    assert last.remaining == 0 and last.bytes == {"host": 9} and last.elapsed > 10
    assert capsys.readouterr().err == ""


def test_what_a_function_raises_stops_the_run(clock):
    class Enough(Exception):
        pass

    def stop(now):
        if now.phase == "reversing":
            raise Enough

    with pytest.raises(Enough):
        reports(clock, stop)


def test_other_options_are_refused():
    for option in (None, True, False, print):
        check_progress(option)
    with pytest.raises(ValueError, match=r"progress='yes' is none of None, True and False, and no"):
        check_progress("yes")


# The bar.

NOW = Progress("training", 1200, 5000, 0, 1000, 65.4, 3725.0, 0.15, {"device": 2**30, "disk": 0})


def drawn(width, now=NOW):
    output = io.StringIO()
    Console(file=output, width=width, color_system=None).print(run_progress.Bar(now), end="")
    return output.getvalue().rstrip("\n")


def test_the_bar_says_what_it_has_room_for():
    assert drawn(160).endswith(
        "  15%, 0:01:05 elapsed, 1:02:05 left, 1,200 of 5,000 steps, 0 of 1,000 VJPs, "
        "device 1.00 GiB, disk 0 B"
    )
    assert drawn(80).endswith("   15%, 0:01:05 elapsed, 1:02:05 left")
    for width in (30, 60, 80, 100, 120, 160):
        assert "\n" not in drawn(width) and len(drawn(width)) == width
        assert drawn(width).startswith("metagrad: training ")


def pretend_to_run(option, seconds=1.2, stop=None, steps=40):
    with run_progress.reported(option, steps, 20) as reporter:
        for count in range(1, 41):
            time.sleep(seconds / 40)
            phase = "training" if count <= 20 else "reversing"
            reporter.update(phase, count, max(count - 20, 0))
            if count == stop:
                raise KeyboardInterrupt


def test_the_bar_shows_and_disappears(monkeypatch):
    monkeypatch.setattr(progress, "WAIT", 0.1)
    with terminal(monkeypatch) as seen:
        pretend_to_run(None)
    seen = "".join(seen)
    assert screen(seen) == []
    for text in ("metagrad: training ", "metagrad: reversing ", " of 40 steps", " left, "):
        assert text in seen, text


def test_nothing_shows_for_a_run_that_is_quick(monkeypatch):
    with terminal(monkeypatch) as seen:
        pretend_to_run(None, seconds=0)
    assert seen == []


def test_it_can_be_switched_off(monkeypatch, capsys):
    monkeypatch.setattr(progress, "WAIT", 0.0)
    with terminal(monkeypatch) as seen:
        pretend_to_run(False, seconds=0.2)
        monkeypatch.setenv("METAGRAD_PROGRESS", "0")
        pretend_to_run(None, seconds=0.2)
    assert seen == []
    monkeypatch.delenv("METAGRAD_PROGRESS")
    pretend_to_run(None, seconds=0.2)  # not on a terminal
    assert capsys.readouterr() == ("", "")


def test_control_c_leaves_a_clean_terminal(monkeypatch):
    with terminal(monkeypatch) as seen, pytest.raises(KeyboardInterrupt):
        pretend_to_run(True, stop=30)
    seen = "".join(seen)
    assert "reversing" in seen and screen(seen) == []
    assert seen.rindex("\x1b[?25h") > seen.rindex("\x1b[?25l"), "the cursor is shown again"


class Shown:
    """What IPython's `display` returns: an output that can be replaced."""

    def __init__(self):
        self.updates = []

    def update(self, data, raw):
        assert raw
        self.updates.append(data)


@pytest.mark.parametrize("listens", [True, False])
def test_a_notebook(monkeypatch, listens):
    shown = Shown() if listens else None
    ipython = types.ModuleType("IPython.display")
    ipython.display = lambda data, raw, display_id: shown
    monkeypatch.setitem(sys.modules, "IPython.display", ipython)
    monkeypatch.setattr(refreshed, "_is_notebook", lambda: True)
    pretend_to_run(True, seconds=0.7)
    if listens:
        assert len(shown.updates) >= 2
        assert shown.updates[0]["text/plain"].startswith("metagrad: training ")
        assert shown.updates[0]["text/html"].startswith("<pre")
        assert shown.updates[-1] == {"text/plain": "", "text/html": ""}, "it disappears"


# Lines.


def test_plain_lines(monkeypatch, capsys):
    monkeypatch.setattr(run_progress, "LINE_EVERY", 0.2)
    pretend_to_run(True)
    lines = capsys.readouterr().err.splitlines()
    assert 2 <= len(lines) <= 7
    assert all(line.startswith("metagrad: ") for line in lines)
    assert " of 40 steps, " in lines[0] and lines[0].endswith(" of 20 VJPs")
    assert lines[-1].startswith("metagrad: the run is complete after 0:00:0")


def test_a_line_now_and_then_though_little_is_done(monkeypatch, capsys):
    monkeypatch.setattr(run_progress, "LINE_EVERY", 0.1)
    monkeypatch.setattr(run_progress, "QUIET", 0.3)
    pretend_to_run(True, steps=10**6)
    lines = capsys.readouterr().err.splitlines()
    assert 2 <= len(lines) <= 5 and "metagrad: training, 0%, 0:00:0" in lines[0]
    assert lines[-1].startswith("metagrad: the run ended at 0% after 0:00:0")


def test_no_line_of_a_quick_run(capsys):
    pretend_to_run(True, seconds=0)
    assert capsys.readouterr().err == ""


@pytest.mark.usefixtures("others_stay")
@pytest.mark.parametrize("option", [None, True, False, print])
def test_no_thread_is_left(option):
    before = threading.active_count()
    with run_progress.reported(option, 1, 1):
        pass
    assert threading.active_count() == before

"""A run that is killed goes on, and its result has the bits of a run that was left alone."""

import pytest

from . import kill, simulated_run


def test_twenty_kills(tmp_path):
    outcome = kill.kill_and_resume(tmp_path, kills=20, seed=3)
    alone = simulated_run.digest(simulated_run.run())
    assert outcome.digests and set(outcome.digests) == {alone}
    assert len(set(outcome.positions) - {0}) >= 5, "they went on from points"


@pytest.mark.parametrize("place", ["write:9", "sync:3", "commit:2", "sweep:2"])
def test_a_death_at_this_very_place(tmp_path, place):
    directory, output = tmp_path / "run", tmp_path / "output"
    death = kill.start(directory, output, "--die", place)
    assert death.wait(timeout=30) == -9
    assert kill.start(directory, output).wait(timeout=30) == 0
    assert output.read_text() == simulated_run.digest(simulated_run.run())

"""What is shown while a descent goes on."""

import descent_runs as run
import optax
import pytest

import metagrad
from metagrad.mgd import display


@pytest.fixture(scope="module")
def mg():
    return metagrad.compile(run.step).metagradient(run.outer)


def descend(mg, **options):
    return metagrad.descent(mg, run.meta0(), run.problem, optax.sgd(0.01), rounds=3, **options)


def test_a_function_is_called_with_each_round(mg):
    seen = []
    result = descend(mg, progress=seen.append)
    assert [now.done for now in seen] == [1, 2, 3] and seen[0].rounds == 3
    assert [now.value for now in seen] == result.history.column("value").tolist()
    assert seen[-1].remaining == 0 and seen[0].remaining > 0
    assert seen[-1].best.value == result.best.value


def test_a_resumed_descent_counts_all_rounds(mg, tmp_path):
    descend(mg, resume_dir=tmp_path)
    seen = []
    optimizer = optax.sgd(0.01)
    arguments = (mg, run.meta0(), run.problem, optimizer)
    metagrad.descent(*arguments, rounds=5, resume_dir=tmp_path, progress=seen.append)
    assert [now.done for now in seen] == [4, 5]


def test_lines(mg, capsys, monkeypatch):
    monkeypatch.setattr(display, "LINE_EVERY", 0)
    descend(mg, progress=True)
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(",")[0] for line in lines] == [
        f"metagrad: round {done} of 3" for done in (1, 2, 3)
    ]
    assert "lowest" in lines[0] and lines[-1].endswith("0:00:00 left")
    descend(mg)
    assert capsys.readouterr().err == "", "no terminal, and nobody asked"


def test_one_line_on_a_terminal(monkeypatch):
    """The stages of the compilation are in the line of the descent."""
    shown = []

    class Drawn:
        def __init__(self, line, wait):
            self.line = line
            shown.append(self)

        def close(self):
            self.closed = True

    monkeypatch.setattr(display, "medium", lambda progress: "refreshed")
    monkeypatch.setattr(display, "Refreshed", Drawn)
    texts = []

    def problem(number, key):
        texts.append(str(shown[0].line()) if shown else "")
        return run.problem(number, key)

    def step(*arguments):
        texts.append(str(shown[0].line()))
        return run.step(*arguments)

    own = metagrad.compile(step).metagradient(run.outer)
    metagrad.descent(own, run.meta0(), problem, optax.sgd(0.01), rounds=2, progress=True)
    assert len(shown) == 1 and shown[0].closed
    assert any("tracing" in text and "round 0 of 2" in text for text in texts)
    assert "round 1 of 2" in texts[-1]

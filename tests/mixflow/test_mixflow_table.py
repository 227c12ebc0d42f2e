"""The table of MixFlow-MG's tasks: rows, aims, Markdown, and the page that shows it."""

import json
import pathlib

import jax
import pytest

from benchmarks.__main__ import RESULTS
from benchmarks.gpu_compile import programs
from benchmarks.mixflow import __main__ as command
from benchmarks.mixflow import markdown
from benchmarks.mixflow.aims import AIMS, counts, judge
from benchmarks.mixflow.contenders import BY_HAND, CONTENDERS, DEFAULT, OURS
from benchmarks.mixflow.plot import LOOKS, draw
from benchmarks.mixflow.resident import peak_of
from benchmarks.mixflow.rows import ROWS
from benchmarks.mixflow.sizes import TRANSFORMERS
from benchmarks.mixflow.tasks import TASKS, task

MIB = 2**20
PAGE = pathlib.Path(__file__).parents[2] / "docs" / "mixed_mode.md"


def entry(mib, *times, resident=None):
    return {
        "memory_bytes": mib * MIB,
        "memory_source": "xla",
        "resident_bytes": resident,
        "times": list(times),
        "seconds": sorted(times)[len(times) // 2] if times else None,
        "note": "",
    }


def row(name="a", steps=8, **contenders):
    names = {"default": DEFAULT, "by_hand": BY_HAND, "ours": OURS}
    return {
        "name": name,
        "task": "rates",
        "transformer": "0.1M",
        "batch": 4,
        "context": 128,
        "steps": steps,
        "timed": any(each["times"] for each in contenders.values()),
        "contenders": {names[key]: each for key, each in contenders.items()},
    }


def test_rows_are_of_known_tasks_and_have_names_of_their_own():
    assert len({each.name for each in ROWS}) == len(ROWS)
    for each in ROWS:
        assert each.task in TASKS and each.transformer in TRANSFORMERS
    assert {each.steps for each in ROWS} == {2, 4, 8, 32, 128}
    assert min(each.context for each in ROWS) == 128 and max(each.context for each in ROWS) == 4096


def test_a_large_task_is_of_shapes():
    of = task("rates", "355M", 1024, 2)
    count = sum(leaf.size for leaf in jax.tree.leaves(of.meta))
    assert 350e6 < count < 360e6
    assert of.draw_batches(3).shape == (3, 2, 1025)


def test_aims_are_ratios_within_a_round():
    judged = row(
        default=entry(100, 4.0, 8.0, 6.0), by_hand=entry(12, 2.0, 4.0, 3.0), ours=entry(9, 2, 5, 3)
    )
    of_default, time_of_default, of_hand, time_of_hand = (judge(aim, judged, OURS) for aim in AIMS)
    assert of_default == pytest.approx(0.09)
    assert time_of_default == pytest.approx(0.5)
    assert of_hand == pytest.approx(0.75)
    assert time_of_hand == pytest.approx(1.0)


def test_short_runs_are_not_judged_against_default_jax():
    judged = row(steps=2, default=entry(100), by_hand=entry(12), ours=entry(13))
    assert judge(AIMS[0], judged, OURS) is None
    assert judge(AIMS[1], judged, OURS) is None
    assert judge(AIMS[2], judged, OURS) > 1


def test_a_contender_that_did_not_finish_its_rounds_is_not_judged():
    judged = row(default=entry(100, 1.0), by_hand=entry(12, 1.0, 1.0), ours=entry(9, 1.0, 1.0))
    assert judge(AIMS[1], judged, OURS) is None


def test_counts_name_the_rows_that_miss():
    rows = [
        row("good", default=entry(100), by_hand=entry(12), ours=entry(9)),
        row("bad", default=entry(100), by_hand=entry(12), ours=entry(15)),
    ]
    lines = counts(rows, OURS)
    assert "NO: metagrad: a tenth of default JAX's memory at T >= 8: 1 of 2 rows" in lines[0]
    assert "bad (0.15)" in lines[0] and "good" not in lines[0]
    assert "no row" in lines[1]


def test_the_markdown_has_both_numbers_of_memory():
    rows = [row(default=entry(100, 1.5, resident=120 * MIB), ours=entry(9, 0.5))]
    text = markdown.lines(rows)
    assert "| rates | 0.1M | 4 x 128 | 8 | 100, 120 | 9.0 |" in text
    assert "| rates | 0.1M | 4 x 128 | 8 | 1.50 | 0.500 |" in text


def test_the_plot_draws_every_contender(tmp_path):
    pytest.importorskip("matplotlib")
    assert set(LOOKS) == set(CONTENDERS)
    rows = [row(default=entry(100, 1.5), ours=entry(9, 0.5)), row("b", ours=entry(3))]
    draw(rows, tmp_path / "plot.png")
    assert (tmp_path / "plot.png").stat().st_size > 1000


def test_the_peak_of_a_call_is_seen():
    def hold():
        return len(bytearray(b"x" * (64 * MIB)))

    for _ in range(2):
        result, peak = peak_of(hold)
        assert result == 64 * MIB
        if peak is None:
            pytest.skip("this kernel does not let a process reset its peak")
        assert 60 * MIB < peak < 200 * MIB


@pytest.mark.parametrize(
    "argv, message",
    [
        (["--rows", "nothing*"], "no row is called 'nothing"),
        (["--contenders", "nobody"], "nothing is called 'nobody'"),
    ],
)
def test_unknown_names_are_refused(argv, message, capsys):
    with pytest.raises(SystemExit):
        command.main(argv)
    assert message in capsys.readouterr().err


def test_rows_that_are_there_are_not_measured_again(tmp_path, capsys):
    path = tmp_path / "mixflow.json"
    command.main(["--list", "--out", str(tmp_path)])
    first = capsys.readouterr().out.splitlines()
    path.write_text(json.dumps({"rows": [{"name": ROWS[0].name}]}))
    command.main(["--list", "--out", str(tmp_path)])
    assert [ROWS[0].name, *capsys.readouterr().out.splitlines()] == first


def test_a_worker_that_fails_is_a_note(tmp_path, monkeypatch):
    monkeypatch.setattr(command.sys, "executable", "/bin/false")
    arguments = command.parser().parse_args(["--out", str(tmp_path)])
    measured = command.run(ROWS[0], [OURS], arguments)
    assert measured["note"].startswith("ended with 1")
    assert measured["contenders"] == {}


def test_the_page_has_places_for_the_results():
    text = PAGE.read_text()
    if not (RESULTS / "mixflow.json").is_file():
        assert markdown.page(text, [], [])
        return
    assert markdown.page(text, *markdown.results()) == text


def test_programs_for_a_gpu_are_known_by_name():
    of = programs.problem("rates-124M", 2, "f32")
    ours, *by_hand = programs.names("rates-124M", 2)
    assert ours.startswith(programs.METAGRAD)
    for name in by_hand:
        assert callable(programs.build(name, of).function)
    with pytest.raises(ValueError, match="no program 'mixflow \\+ something'"):
        programs.build("mixflow + something", of)


def test_the_table_of_programs_for_a_gpu():
    rows = [
        {
            "model": "a",
            "steps": 8,
            "program": "mixflow",
            "memory": {"temporaries": 2_300_000_000, "outputs": 200_000_000},
        },
        {"model": "a", "steps": 2, "program": "unrolled", "note": "stopped"},
    ]
    assert markdown.compiled_for_gpu(rows)[2:] == ["| a | 2 |  | stopped |", "| a | 8 | 2.50 |  |"]

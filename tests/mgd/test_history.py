"""The history of a descent: a table that prints, plots and exports itself."""

import matplotlib
import numpy as np
import pytest

from metagrad.mgd import History, Record

matplotlib.use("Agg")

ROWS = [
    Record(i, value, 2.0, 0.1 * i, 0.5, (value - 1, value + 1))
    for i, value in enumerate([3.0, 1.0, 2.0])
]


def test_is_a_sequence_of_records():
    history = History(ROWS)
    assert len(history) == 3 and history[1] is ROWS[1] and list(history) == ROWS
    assert history[1:].rows == tuple(ROWS[1:]) and history[:3] == history
    assert history.column("value").tolist() == [3, 1, 2]
    assert history.column("round").dtype.kind == "i"
    assert history.column("values").shape == (3, 2)
    with pytest.raises(ValueError, match="no column 'loss'; there are round, value"):
        history.column("loss")


def test_prints_a_table():
    header, *rows = str(History(ROWS)).splitlines()
    assert header.split() == ["round", "value", "gradient", "norm", "step", "norm", "seconds"]
    assert rows[2].split() == ["2", "2", "2", "0.2", "0.50"]
    assert repr(History(ROWS)) == "<History of 3 rounds>"


def test_is_a_table_of_pandas():
    table = History(ROWS).to_pandas()
    assert table.index.name == "round"
    assert [*table] == ["value", "gradient_norm", "step_norm", "seconds", "value_0", "value_1"]
    assert table["value_1"].tolist() == [4, 2, 3]
    assert History([]).to_pandas().empty


def test_plots_itself():
    from matplotlib import pyplot

    axes = History(ROWS).plot()
    lines = {line.get_label(): line.get_ydata() for line in axes.lines}
    np.testing.assert_array_equal(lines["mean value over seeds"], [3, 1, 2])
    np.testing.assert_array_equal(lines["lowest so far"], [3, 1, 1])
    assert len(axes.lines) == 4, "and the values of two seeds"
    assert axes.get_xlabel() == "round"
    pyplot.close(axes.figure)
    figure, mine = pyplot.subplots()
    assert History(ROWS[:1]).plot(mine) is mine
    pyplot.close(figure)


@pytest.mark.parametrize("name, method", [("pandas", "to_pandas"), ("matplotlib", "plot")])
def test_a_missing_package_is_named(monkeypatch, name, method):
    monkeypatch.setitem(__import__("sys").modules, name, None)
    with pytest.raises(ImportError, match=f'needs {name}: pip install "metagrad'):
        getattr(History(ROWS), method)()

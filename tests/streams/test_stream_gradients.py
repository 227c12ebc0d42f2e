"""The gradients of batches go to memory, to a function of the user's, or to files."""

import json
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metagrad import Stream

STEPS = 7
SOURCE = {
    "x": np.zeros((STEPS, 2, 3), np.float32),
    "label": np.zeros((STEPS, 2), np.int32),
    "opt": [{"scale/√": np.zeros(STEPS, np.float32)}, np.zeros((STEPS, 4), jnp.bfloat16)],
    "key": jax.random.split(jax.random.key(0), STEPS),
}
FLOATS = [SOURCE["opt"][0]["scale/√"], SOURCE["opt"][1], SOURCE["x"]]  # in a pytree's order
VALUES = [
    (np.arange(float(leaf.size)).reshape(leaf.shape) + 1).astype(leaf.dtype) for leaf in FLOATS
]


def written(gradients, values=VALUES, convert=np.asarray, source=SOURCE):
    """The sink that took the segments of a run in reverse, L = 3, the last one ragged."""
    sink = Stream(source, gradients=gradients).gradient_sink()
    for first in (6, 3, 0):
        count = min(3, STEPS - first)
        rows = [np.full((3, *leaf.shape[1:]), 99).astype(leaf.dtype) for leaf in values]
        for row, value in zip(rows, values):
            row[:count] = value[first : first + count]
        sink.write(first, count, list(map(convert, rows)))
    return sink


def check(gradient):
    assert gradient["x"].tolist() == VALUES[2].tolist()
    assert gradient["opt"][0]["scale/√"].tolist() == VALUES[0].tolist()
    assert gradient["opt"][1].tolist() == VALUES[1].tolist()
    assert gradient["opt"][1].dtype == jnp.bfloat16
    for name, shape in ("label", (STEPS, 2)), ("key", (STEPS,)):
        assert gradient[name].dtype == jax.dtypes.float0 and gradient[name].shape == shape


@pytest.mark.parametrize("convert", [np.asarray, jnp.asarray])
def test_a_stack(convert):
    sink = written(None, convert=convert)
    sink.flush()
    check(sink.result())
    sink.close()


def test_zeros_of_integers_take_no_memory():
    gradient = written(None).result()
    assert gradient["label"].strides == (0, 0)


def test_a_function_gets_each_batch_from_the_last_to_the_first():
    calls = []
    sink = written(lambda t, gradient: calls.append((t, gradient)), convert=jnp.asarray)
    assert sink.result() is None
    assert [t for t, _ in calls] == list(range(STEPS))[::-1]
    assert all(jax.tree.structure(gradient) == jax.tree.structure(SOURCE) for _, gradient in calls)
    for t, gradient in calls:
        assert gradient["x"].tolist() == VALUES[2][t].tolist()
        assert gradient["opt"][1].tolist() == VALUES[1][t].tolist()
        assert gradient["label"].dtype == jax.dtypes.float0 and gradient["label"].shape == (2,)
    # What the user keeps is the user's: no part of a segment hangs on it, and it may be written to.
    kept = calls[0][1]["x"]
    assert kept.base is None
    kept[:] = 0


def test_an_error_of_the_function_comes_as_it_is():
    def fails(t, gradient):
        raise LookupError("full")

    with pytest.raises(LookupError, match="full") as caught:
        written(fails)
    assert caught.value.__notes__ == ["in Stream(gradients=...), called for batch 6"]


def test_files(tmp_path):
    sink = written(tmp_path / "new" / "gradients", convert=jnp.asarray)
    result = sink.result()
    sink.close()
    check(result)
    folder = tmp_path / "new" / "gradients"
    names = {"index.json", "x.npy", "opt.0.scale.npy", "opt.1.npy"}
    assert {path.name for path in folder.iterdir()} == names
    assert np.load(folder / "x.npy").tolist() == VALUES[2].tolist()
    assert isinstance(result["x"], np.memmap) and result["x"].mode == "r"
    index = json.loads((folder / "index.json").read_text())
    assert index["complete"] and index["steps"] == STEPS
    assert index["leaves"][0] == {
        "path": "batches['opt'][0]['scale/√']",
        "file": "opt.0.scale.npy",
        "shape": [STEPS],
        "dtype": "float32",
    }


@pytest.mark.parametrize(
    "source, names",
    [
        (np.zeros((STEPS, 2)), ["batch.npy"]),
        ({"a": {"b": np.zeros(STEPS)}, "a.b": np.zeros(STEPS)}, ["a.b-2.npy", "a.b.npy"]),
        ({"X": np.zeros(STEPS), "x": np.zeros(STEPS)}, ["X.npy", "x-2.npy"]),
        ({"../../up": np.zeros(STEPS)}, ["up.npy"]),
        ({"n" * 300: np.zeros(STEPS)}, ["n" * 100 + ".npy"]),
        ((np.zeros((STEPS, 0, 2)),), ["0.npy"]),
    ],
)
def test_file_names(tmp_path, source, names):
    values = [np.zeros((STEPS, *leaf.shape[1:]), np.float32) for leaf in jax.tree.leaves(source)]
    sink = written(tmp_path, values, source=source)
    sink.result()
    sink.close()
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(["index.json", *names])


def test_finished_gradients_are_not_overwritten(tmp_path):
    sink = written(tmp_path)
    sink.result()
    sink.close()
    with pytest.raises(FileExistsError, match="the gradients of an earlier run; name a new folder"):
        Stream(SOURCE, gradients=tmp_path).gradient_sink()
    assert np.load(tmp_path / "x.npy").tolist() == VALUES[2].tolist()


def test_a_run_that_was_cut_off_goes_on(tmp_path):
    stream = Stream(SOURCE, gradients=tmp_path)
    sink = stream.gradient_sink()
    sink.write(4, 3, [value[4:] for value in VALUES])
    sink.flush()
    sink.close()  # as the end of the process would
    other = Stream(jax.tree.map(lambda rows: rows[:5], SOURCE), gradients=tmp_path)
    with pytest.raises(FileExistsError, match="of a run with other batches, which was cut off"):
        other.gradient_sink()
    sink = stream.gradient_sink()
    sink.write(0, 4, [value[:4] for value in VALUES])
    check(sink.result())
    sink.close()


def test_a_folder_with_other_files(tmp_path):
    (tmp_path / "thesis.tex").write_text("")
    with pytest.raises(FileExistsError, match="holds other files; name a new folder"):
        Stream(SOURCE, gradients=tmp_path).gradient_sink()
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_two_runs_on_one_folder(tmp_path):
    sink = Stream(SOURCE, gradients=tmp_path).gradient_sink()
    with pytest.raises(BlockingIOError, match="another run is writing to"):
        Stream(SOURCE, gradients=tmp_path).gradient_sink()
    sink.close()
    Stream(SOURCE, gradients=tmp_path).gradient_sink().close()


@pytest.mark.usefixtures("others_stay")
def test_no_descriptor_is_left(tmp_path):
    before = os.listdir("/proc/self/fd")
    sink = written(tmp_path)
    result = sink.result()
    sink.close()
    sink.close()
    with pytest.raises(FileExistsError):
        Stream(SOURCE, gradients=tmp_path).gradient_sink()
    del result, sink
    assert os.listdir("/proc/self/fd") == before


_LIMITED = """
import resource, signal, sys
import numpy as np
from metagrad import Stream

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
source = np.zeros((STEPS, 10_000), np.float32)
try:
    Stream(source, gradients=sys.argv[1]).gradient_sink()
except OSError as error:
    print(error.strerror, *error.__notes__)
"""


def test_no_room_is_found_before_the_run(tmp_path):
    code = _LIMITED.replace("STEPS", str(STEPS))
    done = subprocess.run(
        [sys.executable, "-c", code, tmp_path / "g"], capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith("File too large Stream(gradients=...): while making room in ")


def test_a_write_that_fails_comes_with_the_file(tmp_path):
    sink = Stream(SOURCE, gradients=tmp_path).gradient_sink()
    for file in sink._files:
        os.close(file.descriptor)
        file.descriptor = os.open("/dev/full", os.O_WRONLY)
    with pytest.raises(OSError, match="No space left") as caught:
        sink.write(4, 3, [value[4:] for value in VALUES])
    assert caught.value.__notes__ == [
        f"Stream(gradients=...): while writing batch 4 to {tmp_path / 'opt.0.scale.npy'}"
    ]
    sink.close()


def test_the_folder_is_where_it_was_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    stream = Stream(SOURCE, gradients="here")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    stream.gradient_sink().close()
    assert (tmp_path / "here" / "index.json").exists()


def test_a_folder_knows_whose_gradients_it_holds(tmp_path):
    """A run that goes on does not take the rows of another for its own."""

    def sink():
        return Stream(SOURCE, gradients=tmp_path).gradient_sink()

    first = sink()
    of_first = first.arrays()
    first.close()
    resumed = sink()
    resumed.restore(of_first)
    resumed.write(0, STEPS, VALUES)
    assert np.array_equal(resumed.arrays()[0], of_first[0])
    resumed.close()
    other = sink()
    other.write(0, 1, VALUES)
    other.close()
    late = sink()
    with pytest.raises(FileNotFoundError, match="and they are not there any more"):
        late.restore(of_first)
    late.close()


def test_a_folder_whose_first_index_was_cut_off(tmp_path):
    (tmp_path / "index.json.new").write_text('{"format": "meta')
    sink = Stream(SOURCE, gradients=tmp_path).gradient_sink()
    sink.write(0, STEPS, VALUES)
    check(sink.result())
    sink.close()


def test_rows_of_queries(tmp_path):
    """Each row has the queries in front."""
    rows = [np.stack([value, 2 * value], 1) for value in VALUES]
    for gradients in (None, tmp_path):
        sink = Stream(SOURCE, gradients=gradients).gradient_sink((2,))
        sink.write(0, STEPS, rows)
        result = sink.result()
        assert result["x"].tolist() == rows[2].tolist()
        assert result["label"].shape == (STEPS, 2, 2)
        sink.close()

"""Some rows of each leaf, as a process reads them whose devices hold no others."""

import pickle

import jax
import numpy as np
import pytest

from metagrad import Stream

X, Y = np.arange(60.0, dtype=np.float32).reshape(10, 6), np.arange(10, dtype=np.int32)
ORDER = np.array([[0, 3, 9, 3], [5, 1, 2, 8], [7, 7, 6, 4]])
OWN = [np.array([1, 2]), None], [np.array([0, 3]), np.array([2])]


class Rows:
    def __init__(self):
        self.asked = []

    def __len__(self):
        return len(X)

    def __getitem__(self, row):
        self.asked.append(int(row))
        return X[row], Y[row]


def read(stream, rows):
    """Batches 1 and 2, of each leaf these rows."""
    layout = stream.layout()
    shapes = [leaf.stored.shape for leaf in layout.leaves]
    buffers = [
        np.full((2, *(shape if own is None else (len(own), *shape[1:]))), -1, leaf.stored.dtype)
        for shape, own, leaf in zip(shapes, rows, layout.leaves)
    ]
    stream.read(1, layout, buffers, rows)
    return buffers


def stacked(leaf, rows):
    return leaf if rows is None else leaf[:, rows]


@pytest.mark.parametrize("rows", OWN)
@pytest.mark.parametrize("kind", ["arrays", "memmaps", "dataset"])
def test_with_an_order(tmp_path, kind, rows):
    source = Rows() if kind == "dataset" else (X, Y)
    if kind == "memmaps":
        for name, array in (("x", X), ("y", Y)):
            np.save(tmp_path / f"{name}.npy", array)
        source = tuple(np.load(tmp_path / f"{name}.npy", mmap_mode="r") for name in "xy")
    for got, leaf, own in zip(read(Stream(source, ORDER), rows), (X, Y), rows):
        assert np.array_equal(got, stacked(leaf[ORDER[1:]], own))


def test_a_dataset_is_asked_for_no_other_rows():
    source = Rows()
    stream = Stream(source, ORDER)
    stream.layout()
    source.asked.clear()
    read(stream, OWN[1])
    assert source.asked == [*ORDER[1, [0, 2, 3]], *ORDER[2, [0, 2, 3]]]


@pytest.mark.parametrize("order", [None, [2, 0, 1]])
@pytest.mark.parametrize("as_list", [False, True])
def test_batches_that_are_sliced(order, as_list):
    batches = (X[ORDER], Y[ORDER])
    source = list(zip(*batches)) if as_list else batches
    steps = [1, 2] if order is None else order[1:]
    for got, leaf, own in zip(read(Stream(source, order), OWN[0]), batches, OWN[0]):
        assert np.array_equal(got, stacked(leaf[steps], own))


def test_a_stream_with_devices_is_not_pickled():
    on = jax.make_mesh((2,), ("data",), devices=jax.devices()[:2])
    sharding = jax.sharding.NamedSharding(on, jax.sharding.PartitionSpec("data"))
    with pytest.raises(TypeError, match="since devices belong to a process"):
        pickle.dumps(Stream((X, Y), ORDER, sharding=sharding))

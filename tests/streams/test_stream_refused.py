"""What cannot be a stream is refused with the reason, and so is a batch unlike the first."""

import re
import types

import jax
import numpy as np
import pytest

from metagrad import Stream

X, Y = np.zeros((6, 2), np.float32), np.arange(6)
AGAIN = "a replay asks for a batch again"


def raises(error, *parts):
    return pytest.raises(error, match="(?s)" + ".*".join(map(re.escape, parts)))


@pytest.mark.parametrize(
    "source",
    [(x for x in X), iter([X, X]), zip(X, Y), map(abs, X), enumerate(X)],
    ids=lambda source: type(source).__name__,
)
def test_iterators(source):
    with raises(TypeError, "is an iterator", type(source).__name__, AGAIN, "a list of batches"):
        Stream(source)


def test_what_has_no_index_or_no_length():
    class Iterable:
        def __iter__(self):
            return iter([X])

    class Endless:
        def __getitem__(self, t):
            return X

    class LengthFails(Endless):
        def __len__(self):
            raise NotImplementedError("how long is a stream?")

    for source, parts in [
        (Iterable(), ("Iterable, without source[t]", AGAIN)),
        ({1, 2}, ("set, without source[t]",)),
        (7, ("int, without source[t]",)),
        (Endless(), ("Endless, without a length",)),
        (LengthFails(), ("len(source) fails for this LengthFails", "how long is a stream?")),
        ("text", ("source is of type str", "a list of batches")),
        (
            types.MappingProxyType({"x": X}),
            ("source is a mapping", "a dict of arrays, or one of its datasets"),
        ),
    ]:
        with raises(TypeError, *parts):
            Stream(source)


def test_a_loader_by_its_name():
    class MyDataLoader:
        def __iter__(self):
            return iter([X])

        def __len__(self):
            return 1

    with raises(TypeError, "is a loader", AGAIN, "Stream(loader.dataset, order)"):
        Stream(MyDataLoader())


def test_labels_are_not_positions():
    class Series:  # as pandas has them
        shape, dtype, iloc = (6,), np.dtype(np.float32), None

        def __getitem__(self, label):
            raise AssertionError

    with raises(TypeError, "indexed by labels", "source.to_numpy()"):
        Stream(Series())
    with raises(TypeError, "source['y'] is indexed by labels"):
        Stream({"x": X, "y": Series()})


def test_endless_repetition():
    class Repeated:
        def __len__(self):
            return 2**63 - 1

        def __getitem__(self, t):
            return X[t % 6]

    with raises(ValueError, "9,223,372,036,854,775,807 entries", "repeated without end"):
        Stream(Repeated())
    assert len(Stream(Repeated(), [[10**12, 2]])) == 1


@pytest.mark.parametrize(
    "source, error, parts",
    [
        ([], ValueError, ("source is empty",)),
        ((), ValueError, ("source has no arrays",)),
        (X[:0], ValueError, ("source has no rows",)),
        ((X, Y[:5]), ValueError, ("source[1] has 5 rows, and source[0] has 6",)),
        ({"x": X, "scale": np.float32(2)}, ValueError, ("source['scale'] has no leading axis",)),
        ({"x": X, "scale": 2.0}, TypeError, ("source['scale'] is of type float", "give a list")),
        ({"x": X, "y": [1, 2]}, TypeError, ("source['y'][0] is of type int",)),
        ((X, X * 1j), TypeError, ("source[1] is of type ndarray, with dtype complex64",)),
        (
            {"name": np.array(["a"] * 6)},
            TypeError,
            ("source['name'] is of type ndarray, with dtype <U1",),
        ),
        ((np.ma.array(X),), TypeError, ("source[0] is a masked array", "array.filled(...)")),
        ([np.ma.array(X)], TypeError, ("batches of batch 0", "is a masked array")),
        (tuple([X] * 9), ValueError, ("tuple of 9 entries that are alike", "Stream(list(source))")),
        (
            [{"x": "text"}],
            TypeError,
            ("batches['x'] of batch 0 of the stream is of type str: 'text'",),
        ),
        ([{"x": None}], ValueError, ("batch 0 of the stream has no arrays",)),
        ([{"x": object()}], TypeError, ("batches['x'] of batch 0", "dtype object")),
        ([{"x": np.array(["2020-01-01"], "M8[D]")}], TypeError, ("dtype datetime64[D]",)),
        ([[[1, 2], [3]]], ValueError, ("batches of batch 0", "different lengths, pad or crop")),
    ],
)
def test_sources_that_are_no_arrays(source, error, parts):
    with raises(error, *parts):
        _ = Stream(source).aval


@pytest.mark.parametrize(
    "order, error, parts",
    [
        ([[0, 6]], ValueError, ("order", "names row 6 in batch 0, and the source has 6 rows")),
        ([[0, 1], [2, -1]], ValueError, ("row -1 in batch 1", "for padding", "write 5")),
        ([0, -9], ValueError, ("row -9 in batch 1", "Negative indices are refused")),
        ([0.0, 1.0], TypeError, ("must hold integers", "float64")),
        ([True, False], TypeError, ("must hold integers", "bool", "np.flatnonzero(mask)")),
        (np.zeros((2, 2, 2), int), ValueError, ("[T] or [T, B], got [2, 2, 2]",)),
        (3, ValueError, ("[T] or [T, B], got []",)),
        ([], ValueError, ("is empty: its shape is [0]",)),
        (np.zeros((4, 0), int), ValueError, ("is empty: its shape is [4, 0]",)),
        ("abc", TypeError, ("must hold integers",)),
    ],
)
def test_orders(order, error, parts):
    for source in ((X, Y), list(X)):
        with raises(error, *parts):
            Stream(source, order)


def test_a_late_index_of_a_long_order_is_found_at_once():
    order = np.zeros((2**20 + 5, 2), np.int32)
    order[2**20 + 3, 1] = 6
    with raises(ValueError, f"row 6 in batch {2**20 + 3}"):
        Stream((X, Y), order)


def test_a_list_of_arrays_with_an_order_of_their_rows():
    with pytest.raises(ValueError, match="names row 5 in batch 0") as caught:
        Stream([X, X], [[5, 1]])
    assert "A list is a sequence of rows" in caught.value.__notes__[0]


@pytest.mark.parametrize(
    "options, error, parts",
    [
        ({"workers": 0}, ValueError, ("Stream(workers=...) must be at least 1",)),
        ({"workers": None}, TypeError, ("Stream(workers=...) must be an int",)),
        ({"gradients": 3}, TypeError, ("a folder, a function of (t, gradient), or None, got 3",)),
    ],
)
def test_options(options, error, parts):
    with raises(error, *parts):
        Stream((X, Y), **options)


@pytest.mark.parametrize(
    "third, error, parts",
    [
        ({"x": X[:3], "n": 1}, ValueError, ("batches['x'] of batch 2", "(3, 2)", "(2, 2)")),
        ({"x": X[:2], "n": 1.5}, ValueError, ("batches['n'] of batch 2", "float64", "int32")),
        ({"x": X[:2]}, ValueError, ("batch 2 of the stream has the structure", "batch 0 has")),
        ({"x": X[:2], "n": 2**35}, OverflowError, ("batches['n'] of batch 2", "beyond int32")),
        ({"x": X[:2], "n": "1"}, TypeError, ("batches['n'] of batch 2", "is of type str")),
        ({"x": [[1.0, 2.0], [3.0]], "n": 1}, ValueError, ("batches['x'] of batch 2", "pad or")),
    ],
)
def test_batches_that_differ_from_batch_0(third, error, parts):
    stream = Stream([{"x": X[:2], "n": 1}] * 2 + [third])
    assert stream[1]["n"] == 1
    with raises(error, *parts):
        stream[2]


def test_rows_that_differ_from_the_first():
    rows = [{"tokens": [1, 2, 3]}, {"tokens": [4, 5, 6]}, {"tokens": [7, 8]}]
    stream = Stream(rows, [[0, 1], [1, 2]])
    with raises(
        ValueError, "batches['tokens'] of row 2 of the source, in batch 1,", "(2,)", "(3,)"
    ):
        stream[1]


def test_rows_of_several_at_once_that_are_too_few():
    class Forgetful(list):
        def __getitems__(self, indices):
            return [self[index] for index in indices[:1]]

    with raises(ValueError, "was asked for 2 rows of batch 0, and gave 1"):
        _ = Stream(Forgetful([X[0], X[1]]), [[0, 1]])[0]


def test_traced_arrays():
    with raises(TypeError, "traced by JAX", "outside of jax.jit"):
        jax.jit(lambda x: Stream((x,)).aval)(X)

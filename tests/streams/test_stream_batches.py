"""Batch t of a stream: which rows it has, and what they are converted to."""

import dataclasses
import pickle
import typing

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metagrad import Stream
from metagrad.runtime.streams import Prefetcher

RNG = np.random.default_rng(0)
X = RNG.normal(size=(10, 3)).astype(np.float32)
Y = RNG.integers(0, 5, 10)
ORDER = np.array([[1, 2], [9, 0], [3, 3]])


class Pair(typing.NamedTuple):
    x: np.ndarray
    y: np.ndarray


class Squares:
    """A dataset by PyTorch's rules, without PyTorch."""

    def __len__(self):
        return 10

    def __getitem__(self, i):
        assert type(i) is int  # not every dataset takes NumPy's
        if not 0 <= i < 10:
            raise IndexError(i)
        return {"x": X[i], "i": i, "tokens": [[i, i + 1], [i + 2, i + 3]], "is_even": i % 2 == 0}


def same(batch, expected):
    """Whether two pytrees have equal structures, shapes, dtypes and values."""
    assert jax.tree.structure(batch) == jax.tree.structure(expected)
    for one, other in zip(jax.tree.leaves(batch), jax.tree.leaves(expected)):
        assert type(one) is np.ndarray and one.dtype == other.dtype and one.shape == other.shape
        assert one.tobytes() == np.ascontiguousarray(other).tobytes()


@pytest.mark.parametrize(
    "source",
    [
        (X, Y),
        {"x": X, "y": Y},
        Pair(X, Y),
        ({"x": jnp.asarray(X)}, Y),
        (np.asfortranarray(X), Y[::-1]),
        (X.astype(">f4"), Y.astype(">i8")),
        (X[:, None, :, None], Y),
    ],
    ids=["tuple", "dict", "named", "jax", "strides", "byte order", "axes"],
)
def test_stacked_arrays(source):
    x64 = jax.config.jax_enable_x64
    native = lambda a: np.asarray(a).astype(np.dtype(a.dtype).newbyteorder("="))
    converted = lambda a: a if x64 or a.dtype.itemsize < 8 else a.astype(np.int32)
    at = lambda index: jax.tree.map(lambda a: converted(native(a))[index], source)
    stacked = Stream(source)
    assert len(stacked) == 10
    for t in (0, 7):
        same(stacked[t], at(t))
    ordered = Stream(source, ORDER)
    assert len(ordered) == 3
    for t, batch in enumerate(ordered):
        same(batch, at(ORDER[t]))
    same(Stream(source, ORDER[:, 1])[1], at(0))


def test_the_rows_of_a_dataset():
    stream = Stream(Squares(), ORDER)
    assert stream.aval == {
        "x": jax.ShapeDtypeStruct((2, 3), np.float32),
        "i": jax.ShapeDtypeStruct((2,), np.int32),
        "tokens": jax.ShapeDtypeStruct((2, 2, 2), np.int32),
        "is_even": jax.ShapeDtypeStruct((2,), np.bool_),
    }
    batch = stream[1]
    assert batch["x"].tolist() == X[[9, 0]].tolist()
    assert batch["i"].tolist() == [9, 0] and batch["is_even"].tolist() == [False, True]
    assert batch["tokens"].tolist() == [[[9, 10], [11, 12]], [[0, 1], [2, 3]]]


def test_entries_of_a_dataset_are_batches_without_an_order():
    stream = Stream(Squares())
    assert len(stream) == 10 and stream[3]["tokens"].tolist() == [[3, 4], [5, 6]]
    assert stream.aval["i"] == jax.ShapeDtypeStruct((), np.int32)
    assert Stream(Squares(), [4, 2])[1]["i"] == 2


def test_a_list_is_a_sequence_of_batches_or_rows():
    batches = [{"x": X[2 * t : 2 * t + 2]} for t in range(5)]
    assert len(Stream(batches)) == 5
    same(Stream(batches)[4], {"x": X[8:10]})
    same(Stream(batches, [[4, 0]])[0], {"x": X[[8, 9, 0, 1]].reshape(2, 2, 3)})


def test_objects_with_shape_dtype_and_index_are_asked_for_rows_and_not_whole():
    class File:
        def __init__(self, rows):
            self.rows, self.shape, self.dtype = rows, rows.shape, rows.dtype

        def __getitem__(self, index):
            asked.append(index)
            return self.rows[index]

    asked = []
    numbers = X[:, 1]
    same(Stream(File(numbers), ORDER)[1], numbers[[9, 0]])
    same(Stream(File(numbers), ORDER[:, 0])[1], numbers[9])
    asked.clear()
    same(Stream({"x": File(X)}, ORDER)[1], {"x": X[[9, 0]]})
    assert asked == [9, 0]
    same(Stream({"x": File(X)})[3], {"x": X[3]})
    assert asked[2:] == [slice(3, 4)]


def test_an_error_of_such_an_object_names_the_batches():
    class Broken:
        shape, dtype = X.shape, X.dtype

        def __getitem__(self, index):
            raise OSError("the file is damaged")

    with pytest.raises(OSError, match="damaged") as caught:
        Stream(Broken(), ORDER)[2]
    assert caught.value.__notes__ == ["batch 2 of the stream"]
    with (
        pytest.raises(OSError, match="damaged") as caught,
        Prefetcher(Stream(Broken(), ORDER), [(0, 3)], 3) as prefetcher,
    ):
        prefetcher.take()
    assert caught.value.__notes__ == ["batch 0 of the stream, or one up to 2"]


def test_a_pytree_class_of_arrays():
    @jax.tree_util.register_dataclass
    @dataclasses.dataclass
    class Examples:
        x: np.ndarray

    assert Stream(Examples(X), ORDER)[0].x.tolist() == X[[1, 2]].tolist()


def test_keys_are_keys():
    keys = jax.random.split(jax.random.key(3), 6)
    for stream in (Stream({"key": keys}), Stream([{"key": key} for key in keys])):
        assert stream.aval["key"] == jax.ShapeDtypeStruct((), keys.dtype)
        batch = stream[2]["key"]
        assert batch.dtype == keys.dtype
        assert (jax.random.key_data(batch) == jax.random.key_data(keys[2])).all()
    assert Stream({"key": keys}, [[0, 1]]).aval["key"].shape == (2,)


def test_narrow_floats():
    x = jnp.arange(6, dtype=jnp.bfloat16).reshape(3, 2)
    for stream in (Stream((x,), [[2, 0]]), Stream([(row,) for row in x], [[2, 0]])):
        same(stream[0], (np.asarray(x)[[2, 0]],))


def test_dtypes_follow_the_x64_setting_of_the_thread_that_asks():
    doubles = Stream([{"x": 0.1, "n": 2**40}])
    with pytest.raises(
        OverflowError, match=r"batches\['n'\] of batch 0 .*beyond int32; enable jax_"
    ):
        doubles[0]
    assert Stream([0.1])[0] == np.float32(0.1)
    with jax.enable_x64(True):
        assert doubles.aval["x"].dtype == np.float64
        assert doubles[0] == {"x": np.float64(0.1), "n": 2**40}
        # A reading thread has settings of its own.
        with Prefetcher(doubles, [(0, 1)], 1, place=jax.device_put) as prefetcher:
            assert {leaf.dtype.name for leaf in prefetcher.take()} == {"float64", "int64"}
        for stream in (Stream(Squares(), ORDER), Stream(Squares()), Stream((X, Y))):
            with Prefetcher(stream, [(0, 3)], 3) as prefetcher:
                dtypes = [leaf.dtype for leaf in prefetcher.take()]
            assert dtypes == [leaf.dtype for leaf in jax.tree.leaves(stream.aval)]
            assert np.int64 in dtypes


def test_a_thread_without_double_precision_where_all_others_have_it():
    before = jax.config.jax_enable_x64
    jax.config.update("jax_enable_x64", True)
    try:
        with (
            jax.enable_x64(False),
            Prefetcher(
                Stream([{"x": 0.1, "n": 3}]), [(0, 1)], 1, place=jax.device_put
            ) as prefetcher,
        ):
            assert {leaf.dtype.name for leaf in prefetcher.take()} == {"float32", "int32"}
    finally:
        jax.config.update("jax_enable_x64", before)


def test_wide_integers_of_numpy_wrap_as_they_do_in_jax():
    assert Stream([np.array([2**32 + 5])])[0].tolist() == [5]
    assert jnp.asarray(np.array([2**32 + 5])).tolist() == [5]


def test_it_is_a_sequence():
    stream = Stream((X, Y), ORDER)
    same(stream[-1], stream[2])
    assert len(list(stream)) == 3
    with pytest.raises(IndexError):
        stream[3]


def test_batch_0_is_asked_for_once():
    class Counted(Squares):
        def __getitem__(self, i):
            asked.append(i)
            return super().__getitem__(i)

    asked = []
    stream = Stream(Counted(), [[5, 6]])
    assert stream.aval == stream.aval and asked == [5]
    asked.clear()
    stream = Stream(Counted())
    assert stream.aval == stream.aval and asked == [0]


def test_the_order_is_a_copy():
    order = ORDER.copy()
    stream = Stream((X, Y), order)
    order[:] = 99
    same(stream[0][0], X[[1, 2]])
    assert Stream((X, Y), jnp.asarray(ORDER))[2][0].tolist() == X[[3, 3]].tolist()
    assert Stream((X, Y), range(10))[2][0].tolist() == X[2].tolist()


def test_pickles():
    stream = pickle.loads(pickle.dumps(Stream(Squares(), ORDER, workers=3)))
    assert stream.workers == 3
    same(stream[1], Stream(Squares(), ORDER)[1])


def test_prints():
    assert repr(Stream((X, Y), ORDER)) == "Stream(tuple, order): 3 batches"
    assert repr(Stream(Squares())) == "Stream(Squares): 10 batches"

"""Datasets of PyTorch, grain and Hugging Face, by the packages themselves."""

import pickle

import jax
import numpy as np
import pytest

from metagrad import Stream
from metagrad.runtime.streams import Checksums, Prefetcher

RNG = np.random.default_rng(0)
X = RNG.normal(size=(12, 3)).astype(np.float32)
Y = RNG.integers(0, 5, 12)
TOKENS = RNG.integers(0, 100, (12, 4))
ORDER = np.array([[1, 2], [11, 0], [3, 3], [7, 8], [1, 0]])


def read_in_full(stream, segment=2):
    """The batches as leaves [T, ...], read by a prefetcher, twice and checked."""
    sums = Checksums(stream.layout(), len(stream))
    requests = [(t, min(segment, len(stream) - t)) for t in range(0, len(stream), segment)]
    with Prefetcher(stream, requests + requests[::-1], segment, checksums=sums) as prefetcher:
        parts = [[leaf[:count] for leaf in prefetcher.take()] for _, count in requests]
        for _ in requests:
            prefetcher.take()
    return jax.tree.unflatten(stream.layout().structure, map(np.concatenate, zip(*parts)))


def check(batches, **expected):
    assert batches.keys() == expected.keys()
    for name, rows in expected.items():
        assert batches[name].dtype == jax.numpy.asarray(rows).dtype
        assert batches[name].tolist() == rows[ORDER].tolist()


class TestTorch:
    @pytest.fixture
    def torch(self):
        return pytest.importorskip("torch", exc_type=ImportError)

    def test_a_map_style_dataset(self, torch):
        class Examples(torch.utils.data.Dataset):
            def __len__(self):
                return 12

            def __getitem__(self, i):
                return {"x": torch.from_numpy(X[i]), "y": int(Y[i]), "tokens": TOKENS[i].tolist()}

        stream = Stream(Examples(), ORDER)
        check(read_in_full(stream), x=X, y=Y, tokens=TOKENS)

    def test_tensor_datasets_and_subsets(self, torch):
        data = torch.utils.data.TensorDataset(torch.from_numpy(X), torch.from_numpy(Y))
        x, y = read_in_full(Stream(data, ORDER))
        check({"x": x, "y": y}, x=X, y=Y)
        rows = RNG.permutation(12)
        subset = torch.utils.data.Subset(data, rows.tolist())
        x, y = read_in_full(Stream(subset, ORDER))
        check({"x": x, "y": y}, x=X[rows], y=Y[rows])

    def test_tensors_are_read_where_they_are(self, torch):
        x = torch.from_numpy(X.copy())
        stream = Stream({"x": x.requires_grad_(False), "y": torch.from_numpy(Y)}, ORDER)
        check(read_in_full(stream), x=X, y=Y)
        x[1] = 7
        assert stream[0]["x"][0].tolist() == [7, 7, 7]

    def test_bfloat16_and_tensors_with_gradients(self, torch):
        x = torch.from_numpy(X).to(torch.bfloat16)
        rounded = X.astype(jax.numpy.bfloat16)
        check(read_in_full(Stream({"x": x}, ORDER)), x=rounded)
        check(read_in_full(Stream([{"x": row} for row in x], ORDER)), x=rounded)
        watched = torch.from_numpy(X).requires_grad_()
        check(read_in_full(Stream([{"x": row} for row in watched], ORDER)), x=X)

    def test_loaders_and_iterable_datasets_are_refused(self, torch):
        class Iterable(torch.utils.data.IterableDataset):
            def __iter__(self):
                return iter(X)

            def __len__(self):
                return 12

        data = torch.utils.data.TensorDataset(torch.from_numpy(X))
        loader = torch.utils.data.DataLoader(data, batch_size=4)
        with pytest.raises(TypeError, match=r"is a loader \(torch.* Stream\(loader.dataset, order"):
            Stream(loader)
        with pytest.raises(TypeError, match="is an iterator"):
            Stream(iter(loader))
        with pytest.raises(TypeError, match=r"is an iterable dataset .*asks for a batch again"):
            Stream(Iterable())

    def test_an_error_in_a_dataset(self, torch):
        class Fails(torch.utils.data.Dataset):
            def __len__(self):
                return 12

            def __getitem__(self, i):
                return X[i] if i != 8 else 1 / 0

        with pytest.raises(ZeroDivisionError) as caught:
            read_in_full(Stream(Fails(), ORDER))
        assert caught.value.__notes__ == ["batch 3 of the stream"]


class TestGrain:
    @pytest.fixture
    def grain(self):
        return pytest.importorskip("grain")

    def test_map_datasets(self, grain):
        rows = [{"x": X[i], "y": Y[i], "tokens": TOKENS[i]} for i in range(12)]
        data = grain.MapDataset.source(rows)
        check(read_in_full(Stream(data, ORDER)), x=X, y=Y, tokens=TOKENS)
        doubled = data.map(lambda row: row | {"x": 2 * row["x"]})
        check(read_in_full(Stream(doubled, ORDER)), x=2 * X, y=Y, tokens=TOKENS)

    def test_shuffled_augmented_batches_are_the_same_each_time(self, grain):
        def jitter(row, rng):
            return row + rng.normal(size=row.shape)

        data = grain.MapDataset.source(X).seed(3).shuffle().random_map(jitter).batch(4)
        stream = Stream(data)
        assert len(stream) == 3 and stream.aval.shape == (4, 3)
        batches = read_in_full(stream)
        assert batches.tolist() == [stream[t].tolist() for t in range(3)]
        assert read_in_full(Stream(data.repeat(2))).shape == (6, 4, 3)

    def test_random_access_data_sources(self, grain):
        class Source(grain.sources.RandomAccessDataSource):
            def __len__(self):
                return 12

            def __getitem__(self, i):
                return {"x": X[i]}

        check(read_in_full(Stream(Source(), ORDER)), x=X)

    def test_what_cannot_be_asked_again(self, grain):
        data = grain.MapDataset.source(X)
        with pytest.raises(TypeError, match=r"is an iterable dataset .*asks for a batch again"):
            Stream(data.to_iter_dataset())
        loader = grain.DataLoader(data_source=X, sampler=grain.samplers.SequentialSampler(12))
        with pytest.raises(TypeError, match="is a loader"):
            Stream(loader)
        with pytest.raises(ValueError, match="repeated without end"):
            Stream(data.repeat())

    def test_rows_that_were_filtered_out(self, grain):
        data = grain.MapDataset.source(X).filter(lambda row: row[0] == X[1, 0])
        with pytest.raises(ValueError, match="row 2 of the source, in batch 0, has the structure"):
            Stream(data, ORDER)[0]


class TestHuggingFace:
    @pytest.fixture
    def data(self):
        datasets = pytest.importorskip("datasets")
        features = datasets.Features(
            x=datasets.List(datasets.Value("float32")),
            y=datasets.Value("int64"),
            tokens=datasets.List(datasets.Value("int32")),
        )
        columns = {"x": X.tolist(), "y": Y.tolist(), "tokens": TOKENS.tolist()}
        return datasets.Dataset.from_dict(columns, features)

    @pytest.mark.parametrize("form", [None, "numpy", "torch", "jax"])
    def test_formats(self, data, form):
        if form == "torch":
            pytest.importorskip("torch", exc_type=ImportError)
        check(read_in_full(Stream(data.with_format(form), ORDER)), x=X, y=Y, tokens=TOKENS)

    def test_columns_rows_and_files(self, data, tmp_path):
        data.save_to_disk(tmp_path / "data")
        datasets = pytest.importorskip("datasets")
        loaded = datasets.load_from_disk(tmp_path / "data").select_columns(["x"])
        stream = pickle.loads(pickle.dumps(Stream(loaded, ORDER)))
        check(read_in_full(stream), x=X)
        assert stream[0]["x"].tolist() == X[ORDER[0]].tolist()
        assert Stream(loaded)[5]["x"].tolist() == X[5].tolist()

    def test_strings_are_named(self, data):
        named = data.add_column("name", [f"row {i}" for i in range(12)])
        with pytest.raises(
            TypeError, match=r"batches\['name'\] of row 1 of the source is of type s"
        ):
            _ = Stream(named, ORDER).aval

    def test_iterable_datasets_and_splits_are_refused(self, data):
        datasets = pytest.importorskip("datasets")
        with pytest.raises(TypeError, match=r"is an iterable dataset .*asks for a batch again"):
            Stream(data.to_iterable_dataset())
        with pytest.raises(
            TypeError, match=r"a mapping \(datasets's DatasetDict\)\. .* one of its d"
        ):
            Stream(datasets.DatasetDict(train=data), ORDER)

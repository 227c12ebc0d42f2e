"""The linear datamodelling score of few subsets, of ties and of NaN; files that are damaged."""

import numpy as np
import pytest
from scipy import stats

from metagrad import attribution
from metagrad.attribution import Retrained, Scores

RANDOM = np.random.default_rng(0)
VALUES = RANDOM.normal(size=(2, 10))
SUBSETS = attribution.random_subsets(10, 20, 0.5)
OUTCOMES = SUBSETS @ VALUES.T


def scores(values=VALUES):
    return Scores(values, np.zeros(len(values)), np.ones(values.shape[1]), "by hand")


def retrained(outcomes=OUTCOMES, count=20):
    return Retrained(SUBSETS[:count], outcomes[:count], np.zeros(2))


@pytest.mark.parametrize("count", [3, 4, 5])
def test_few_subsets_have_an_interval(count):
    """Among three subsets, one resample in nine is the same subset three times."""
    noisy = OUTCOMES + RANDOM.normal(size=OUTCOMES.shape)
    result = attribution.lds(scores(), retrained(noisy, count))
    low, high = result.interval
    assert -1 <= low <= result.value <= high <= 1


def test_ties_and_the_interval_are_those_of_scipy():
    ties = np.round(OUTCOMES + 0.5 * RANDOM.normal(size=OUTCOMES.shape))
    result = attribution.lds(scores(), retrained(ties), resamples=200, seed=3)
    by_scipy = [stats.spearmanr(ties[:, q], OUTCOMES[:, q]).statistic for q in range(2)]
    np.testing.assert_allclose(result.per_query, by_scipy, rtol=1e-12)

    ranks = [stats.rankdata(table, axis=0) for table in (OUTCOMES, ties)]

    def mean_correlation(rows):
        pairs = zip(*(table[rows].T for table in ranks))
        return np.mean([np.corrcoef(*pair)[0, 1] for pair in pairs])

    interval = stats.bootstrap(
        (np.arange(20),),
        mean_correlation,
        vectorized=False,
        n_resamples=200,
        method="percentile",
        rng=np.random.default_rng(3),
    ).confidence_interval
    # Other draws of the same distribution.
    np.testing.assert_allclose(result.interval, interval, atol=0.1)


def test_nan_is_no_score():
    diverged = OUTCOMES.copy()
    diverged[3, 1] = np.nan
    with pytest.raises(FloatingPointError, match=r"subsets \[3\] in the queries \[1\]"):
        attribution.lds(scores(), retrained(diverged))
    with pytest.raises(FloatingPointError, match=r"subsets \[3\] in the queries \[1\]"):
        attribution.leave_k_out(scores(), retrained(diverged))
    unknown = VALUES.copy()
    unknown[0, 0] = np.nan
    with pytest.raises(FloatingPointError, match=r"NaN in the queries \[0\]"):
        attribution.lds(scores(unknown), retrained())


@pytest.mark.parametrize("options", [{"confidence": 1.5}, {"confidence": 0}, {"resamples": 0}])
def test_options_out_of_range(options):
    with pytest.raises(ValueError, match="must lie between 0 and 1, and resamples"):
        attribution.lds(scores(), retrained(), **options)


@pytest.mark.parametrize("suffix", ["npz", "safetensors"])
@pytest.mark.parametrize("content", [b"", b"garbage", b"PK\x03\x04 cut off", b"\x93NUMPY"])
def test_damaged_files(tmp_path, suffix, content):
    path = tmp_path / f"scores.{suffix}"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=rf"scores.{suffix} is damaged, or no file of the format"):
        Scores.load(path)


def test_files_that_are_cut_off(tmp_path):
    for suffix in ("npz", "safetensors"):
        path = tmp_path / f"scores.{suffix}"
        scores().save(path)
        path.write_bytes(path.read_bytes()[:-100])
        with pytest.raises(ValueError, match="is damaged"):
            Scores.load(path)

"""Metagradient descent: what `metagrad.descent` is made of, and what is used with it."""

from metagrad.diagnostics.agreements import Agreement, agreement
from metagrad.mgd.counts import IntegerCountsState, integer_counts
from metagrad.mgd.display import DescentProgress
from metagrad.mgd.history import History, Record
from metagrad.mgd.results import Best, DescentResult, NotFiniteError, Round
from metagrad.mgd.surrogates import Surrogate, no_extra, surrogate
from metagrad.mgd.windows import Truncated, Windows, compare_windows, truncated

__all__ = [
    "Agreement",
    "Best",
    "DescentProgress",
    "DescentResult",
    "History",
    "IntegerCountsState",
    "NotFiniteError",
    "Record",
    "Round",
    "Surrogate",
    "Truncated",
    "Windows",
    "agreement",
    "compare_windows",
    "integer_counts",
    "no_extra",
    "surrogate",
    "truncated",
]

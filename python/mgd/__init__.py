"""Metagradient descent: what `metagrad.descent` is made of."""

from metagrad.mgd.counts import IntegerCountsState, integer_counts
from metagrad.mgd.history import History, Record
from metagrad.mgd.results import Best, DescentResult, NotFiniteError, Round
from metagrad.mgd.surrogates import Surrogate, no_extra, surrogate

__all__ = [
    "Best",
    "DescentResult",
    "History",
    "IntegerCountsState",
    "NotFiniteError",
    "Record",
    "Round",
    "Surrogate",
    "integer_counts",
    "no_extra",
    "surrogate",
]

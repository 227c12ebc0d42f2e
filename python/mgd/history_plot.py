"""The picture of a history. It is apart from it, since it needs matplotlib."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from metagrad.mgd.history import History


def plot(history: History, ax: Any) -> Any:
    """See `History.plot`."""
    ax = ax if ax is not None else _new_axes()
    rounds, values = history.column("round"), history.column("value")
    each = history.column("values")
    if each.ndim == 2 and each.shape[1] > 1:
        ax.plot(rounds, each, ".", color="0.7", markersize=3)
    ax.plot(rounds, values, label="value" if each.shape[-1:] == (1,) else "mean value over seeds")
    if len(values):
        ax.plot(rounds, np.minimum.accumulate(values), "--", label="lowest so far")
    ax.set_xlabel("round")
    ax.set_ylabel("outer value")
    ax.legend()
    return ax


def _new_axes() -> Any:
    try:
        from matplotlib import pyplot
    except ImportError:
        raise ImportError(
            'History.plot needs matplotlib: pip install "metagrad[examples]"'
        ) from None
    return pyplot.subplots(figsize=(5, 3.2), layout="constrained")[1]

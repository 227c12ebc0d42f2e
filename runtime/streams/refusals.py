"""What cannot be a stream: whatever cannot be asked for a batch again.

A replay asks for a batch again, hours after it was first used. So a source has a length, and gives
what stands at an index.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import jax
from jax.tree_util import treedef_is_leaf

_AGAIN = "A metagradient runs steps again, so a replay asks for a batch again"
_INSTEAD = (
    "Give what has len(source) and source[t]: a list of batches, arrays or memmaps, or a "
    "map-style dataset with an order of rows"
)


def check_source(source: Any) -> None:
    """Refuses what cannot be asked for a batch again.

    Raises:
      TypeError: the message says what the source is, and what to give in its place.
    """
    reason = _reason(source)
    if reason is not None:
        raise TypeError(f"Stream(source): {reason}")


def _reason(source: Any) -> str | None:
    kind = f"{type(source).__module__.split('.')[0]}'s {type(source).__name__}"
    if isinstance(source, (str, bytes)):
        return f"source is of type {type(source).__name__}. {_INSTEAD}."
    if isinstance(source, Iterator):
        return f"source is an iterator ({kind}). {_AGAIN}, and it is used up. {_INSTEAD}."
    if _is_iterable_dataset(source):
        return (
            f"source is an iterable dataset ({kind}). {_AGAIN}, and it gives them in a row only. "
            "Give the map-style dataset that it is made from."
        )
    if _is_loader(source):
        return (
            f"source is a loader ({kind}). {_AGAIN}, and a loader shuffles anew and gives batches "
            "in a row only. Give its dataset, and which rows are in which batch: "
            "Stream(loader.dataset, order) with order [T, B]."
        )
    if isinstance(source, Mapping) and treedef_is_leaf(jax.tree.structure(source)):
        return f"source is a mapping ({kind}). Give a dict of arrays, or one of its datasets."
    if hasattr(source, "iloc"):
        return f"source is indexed by labels ({kind}). Give arrays: source.to_numpy()."
    return None


def check_indexable(source: Any) -> None:
    """Refuses what has no `source[i]` or no length.

    Raises:
      TypeError: as `check_source`.
    """
    kind = type(source).__name__
    if not hasattr(source, "__getitem__"):
        raise TypeError(
            f"Stream(source): source is of type {kind}, without source[t]. {_AGAIN}. {_INSTEAD}."
        )
    if not hasattr(source, "__len__"):
        raise TypeError(
            f"Stream(source): source is of type {kind}, without a length, and a run has a known "
            f"number of steps. {_INSTEAD}."
        )


def _is_iterable_dataset(source: Any) -> bool:
    """PyTorch's have a `__getitem__` that raises, so it is the class that tells."""
    return any(
        base.__name__ in ("IterableDataset", "IterDataset")
        and base.__module__.split(".")[0] in ("torch", "datasets", "grain")
        for base in type(source).__mro__
    )


def _is_loader(source: Any) -> bool:
    return any("DataLoader" in base.__name__ for base in type(source).__mro__) and not hasattr(
        source, "__getitem__"
    )

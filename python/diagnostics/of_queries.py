"""Which queries of a metagradient a message is about, where the outer value is a vector of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from metagrad.frontend.dtypes import is_float


def faulty_queries(
    value: jax.Array, gradients: dict[str, Any], is_faulty: Callable[[Any], Any]
) -> list[int]:
    """The queries whose value or gradient has a fault, by index; none where the value is a scalar.

    Args:
      value: the outer value.
      gradients: by the name of what they are of. The leading axis is that of the queries.
      is_faulty: for each entry of an array, whether it is a fault (`jnp.isnan`).
    """
    if not value.shape:
        return []
    faulty = np.zeros(value.shape, bool)
    for leaf in (value, *jax.tree.leaves(gradients)):
        if is_float(leaf):
            faulty |= np.asarray(is_faulty(leaf).reshape(len(faulty), -1).any(1))
    return np.flatnonzero(faulty).tolist()


def enumerate_queries(queries: list[int]) -> str:
    """For a message: " (query 2)", " (queries 2, 5, 6, 7 and 3 more)", or nothing for none."""
    if not queries:
        return ""
    named = ", ".join(map(str, queries[:4]))
    more = f" and {len(queries) - 4} more" if len(queries) > 4 else ""
    return f" ({'queries' if len(queries) > 1 else 'query'} {named}{more})"

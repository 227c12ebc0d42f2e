"""What is said where a metagradient meets `jax.vmap`."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from metagrad.runtime import jax_internals


@contextlib.contextmanager
def refusing_vmap() -> Iterator[None]:
    """Says in our words that a program has no batching rule, and what does instead.

    Raises:
      NotImplementedError: the call in the context is under `jax.vmap`.
    """
    try:
        yield
    except NotImplementedError as error:
        if not jax_internals.speaks_of_no_batching_rule(error):
            raise
        raise NotImplementedError(
            "a metagradient cannot be put under jax.vmap. jax.lax.map without batch_size takes "
            "one after the other, in one program. (jax.hessian, jax.jacfwd and jax.jacrev use "
            "vmap. A run's second derivatives: docs/patterns.md.)"
        ) from None

"""A program is lowered, compiled and called under settings of JAX that are its own.

`jax.disable_jit` is one of them: a metagradient is one compiled program, which cannot be taken
apart. Double precision is another: a program that was lowered with it is called with it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import jax

from metagrad.runtime import jax_internals

_AS_IS = contextlib.nullcontext()


def jit_enabled() -> contextlib.AbstractContextManager:
    """A context in which `jax.disable_jit()` has no effect."""
    return jax.disable_jit(False) if jax_internals.setting("jax_disable_jit") else _AS_IS


def lowered_with(x64: bool) -> contextlib.AbstractContextManager:
    """`jit_enabled`, with double precision as it was when a program was lowered."""
    return (
        jit_enabled()
        if jax_internals.setting("jax_enable_x64") == x64
        else _with_double_precision(x64)
    )


@contextlib.contextmanager
def _with_double_precision(x64: bool) -> Iterator[None]:
    with jit_enabled(), jax.enable_x64(x64):
        yield

"""Axes that a step, a loss or an outer function names: it binds them itself, with `jax.shard_map`
or `jax.vmap`, or the collective over them is refused with the user's line.

A metagradient is a program over whole arrays. Inside someone else's `shard_map` it would see one
device's part of them, and a collective in the middle of its run would need the other parts.
"""

from __future__ import annotations

import contextlib
import traceback
from collections.abc import Iterator

from jax.extend import core, source_info_util

from metagrad.frontend.jaxprs.calls import inside
from metagrad.frontend.jaxprs.interpret import equations
from metagrad.runtime import jax_errors, jax_internals
from metagrad.runtime.jax_internals import NamedAxisEffect

_INSTEAD = (
    "Bind the axis inside, with jax.shard_map or jax.vmap around what needs it, and call the "
    "metagradient outside of shard_map, with arrays that are sharded: it follows their shardings."
)


def check(jaxpr: core.ClosedJaxpr, what: str) -> None:
    """Refuses collectives over axes from outside.

    Raises:
      NotImplementedError: there is one; the message has its line.
    """
    outside = _axes(jaxpr)
    lines = dict.fromkeys(
        f"{eqn.primitive.name}{_place(eqn)}" for eqn in _collectives(jaxpr.jaxpr, outside)
    )
    if lines:
        raise NotImplementedError(
            f"{what} has a collective over an axis of a shard_map or a vmap around the "
            f"metagradient: {'; '.join(lines)}. {_INSTEAD}"
        )


@contextlib.contextmanager
def tracing(what: str) -> Iterator[None]:
    """Says of a collective over an axis that nobody binds where it is, and what to do."""
    try:
        yield
    except NameError as error:
        if not jax_errors.speaks_of_an_unbound_axis(error):
            raise
        users = [
            frame
            for frame in traceback.extract_tb(error.__traceback__)
            if jax_internals.is_user_file(frame.filename)
        ]
        where = f" at {users[-1].filename}:{users[-1].lineno} ({users[-1].name})" if users else ""
        raise NotImplementedError(
            f"{what} has a collective over an axis that is not bound in it{where}: {error} "
            f"{_INSTEAD}"
        ) from None


def _collectives(jaxpr: core.Jaxpr, outside: set) -> Iterator[core.JaxprEqn]:
    """The innermost equations over axes that the function does not bind, `outside`."""
    for eqn in equations(jaxpr):
        if _axes(eqn) & outside and not any(_axes(inner) & outside for inner in inside(eqn)):
            yield eqn


def _axes(has_effects: core.JaxprEqn | core.Jaxpr | core.ClosedJaxpr) -> set:
    """The named axes of the collectives in it."""
    return {e.name for e in has_effects.effects if isinstance(e, NamedAxisEffect)}


def _place(eqn: core.JaxprEqn) -> str:
    """The user's line; of something inside, where the equation itself is not the user's."""
    if where := source_info_util.summarize(eqn.source_info):
        return f" at {where}"
    lines = (
        source_info_util.summarize(inner.source_info)
        for jaxpr in inside(eqn)
        for inner in equations(jaxpr)
    )
    return next((f" at {line}" for line in lines if line), "")

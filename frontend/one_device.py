"""A metagradient is a run on one device: what asks for several is refused, with the user's line.

Axes that the step binds itself (`jax.vmap` with an `axis_name`) are allowed, since they are not
devices. So is a mesh of one device.
"""

from __future__ import annotations

import contextlib
import traceback
from collections.abc import Iterator

import jax
from jax.extend import core, source_info_util

from metagrad.frontend.jaxprs.calls import inside
from metagrad.frontend.jaxprs.interpret import equations
from metagrad.runtime import jax_internals
from metagrad.runtime.jax_internals import NamedAxisEffect

_INSTEAD = (
    "metagrad differentiates a training run on one device: take collectives, shard_map, pmap and "
    "shardings out of what it is given. A collective over the axis of a jax.vmap inside the step "
    "is fine."
)


def check(jaxpr: core.ClosedJaxpr, what: str) -> None:
    """Refuses collectives over axes from outside, and meshes of several devices.

    Raises:
      NotImplementedError: there is one; the message has its line.
    """
    outside = _axes(jaxpr)
    lines = dict.fromkeys(f"{why}{_place(eqn)}" for eqn, why in _asking(jaxpr.jaxpr, outside))
    if lines:
        raise NotImplementedError(f"{what} is for several devices: {'; '.join(lines)}. {_INSTEAD}")


@contextlib.contextmanager
def tracing(what: str) -> Iterator[None]:
    """Says of a collective over an axis that nobody binds where it is, and what to do."""
    try:
        yield
    except NameError as error:
        if not jax_internals.speaks_of_an_unbound_axis(error):
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


def _asking(jaxpr: core.Jaxpr, outside: set) -> Iterator[tuple[core.JaxprEqn, str]]:
    """The equations that concern several devices, and in which way.

    `outside` are the names of axes that the step does not bind.
    """
    for eqn in equations(jaxpr, into=lambda eqn: _devices(eqn) == 1):
        if _devices(eqn) > 1:
            yield eqn, f"{eqn.primitive.name} on {_devices(eqn)} devices"
        elif _axes(eqn) & outside and not any(_axes(inner) & outside for inner in inside(eqn)):
            yield eqn, eqn.primitive.name


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


def _is_placement(value) -> bool:
    return isinstance(value, (jax.sharding.Sharding, jax.sharding.Mesh, jax.sharding.AbstractMesh))


def _devices(eqn: core.JaxprEqn) -> int:
    placements = jax.tree.leaves(list(eqn.params.values()), is_leaf=_is_placement)
    return max(map(_size, placements), default=1)


def _size(value) -> int:
    if isinstance(value, jax.sharding.Sharding):
        return value.num_devices
    return value.size if _is_placement(value) else 1

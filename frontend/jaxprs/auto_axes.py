"""A function over arrays whose types have shardings (axes of a mesh that are `Explicit`), as one
over arrays whose types have none (`Auto` axes).

Shardings in types help to write a program: JAX refuses what would move data unasked. They move
nothing themselves. So when the user's function has been traced, and is right, what it asks for in
so many words stays as constraints, which the compiler keeps (compiler/dialect/placements.py):
`jax.sharding.reshard`, and the `out_sharding` of a product, a gather, a scatter or a convolution.
The rest XLA's partitioner finds from the shardings of the arguments. Behind this file no type has a
sharding, so a rewrite may make a zero, or add two arrays, without asking where they lie.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator, Sequence
from typing import Any

import jax
from jax.extend import core
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding, PartitionSpec

from metagrad.frontend.jaxprs import typed_rules
from metagrad.frontend.jaxprs.calls import map_functions
from metagrad.frontend.jaxprs.interpret import bind, equations, interpret

_MOVES, _CASTS = "reshard", "mesh_cast"
_OUT = ("out_sharding", "sharding")
"""Parameters that say how a result is sharded. JAX writes there what it infers, too; only in the
primitives of `_FILLED_BY_USERS` is it always what the user asked for."""


def with_auto_axes(closed: core.ClosedJaxpr) -> core.ClosedJaxpr:
    """The function with all axes of meshes `Auto`; the same object if no type has a sharding."""
    jaxpr = closed.jaxpr
    of_all = [*jaxpr.constvars, *jaxpr.invars, *jaxpr.outvars]
    if not any(_is_typed(var.aval) for var in of_all) and not any(
        _is_typed(var.aval) for eqn in equations(jaxpr) for var in eqn.outvars
    ):
        return closed
    # What is captured is an argument of the trace, and then captured again.
    count, avals = len(closed.consts), [var.aval for var in (*jaxpr.constvars, *jaxpr.invars)]

    def function(*args):
        return interpret(core.ClosedJaxpr(jaxpr, args[:count]), args[count:], _rule)

    traced = jax.make_jaxpr(function)(*map(without_sharding, avals))
    variables = traced.jaxpr.invars
    constvars = [*traced.jaxpr.constvars, *variables[:count]]
    return core.ClosedJaxpr(
        traced.jaxpr.replace(constvars=constvars, invars=variables[count:]),
        [*traced.consts, *map(on_auto_axes, closed.consts)],
    )


@contextlib.contextmanager
def auto_context() -> Iterator[None]:
    """A context whose mesh has `Auto` axes, for what looks at functions that are without shardings
    in their types. JAX compares the meshes of types and context.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if AxisType.Explicit in mesh.axis_types:
        with jax.sharding.use_abstract_mesh(auto_mesh(mesh)):
            yield
    else:
        yield


def without_sharding(aval: Any) -> Any:
    """The type of an array without the sharding in it."""
    if not _is_typed(aval):
        return aval
    return jax.ShapeDtypeStruct(aval.shape, aval.dtype, weak_type=getattr(aval, "weak_type", False))


def on_auto_axes(array: Any) -> Any:
    """The same array, where it is, of a type without a sharding.

    One that is traced has none to be asked for, and stays.
    """
    if isinstance(array, jax.core.Tracer) or not _is_typed(jax.typeof(array)):
        return array
    return jax.device_put(array, _auto(array.sharding))


def explicit_sharding(aval: Any) -> NamedSharding | None:
    """The sharding in an array's type; None if it has none, or if all axes are `Auto`."""
    return aval.sharding if _is_typed(aval) else None


def _is_typed(aval: Any) -> bool:
    sharding = getattr(aval, "sharding", None)
    return isinstance(sharding, NamedSharding) and AxisType.Explicit in sharding.mesh.axis_types


def _rule(eqn: core.JaxprEqn, operands: list) -> Sequence[Any]:
    name = eqn.primitive.name
    with _context(eqn):
        if name == _CASTS:
            return operands
        if name == _MOVES:
            return [_constrained(operands[0], eqn.params["dst_sharding"])]
        asked = [eqn.params[key] for key in _OUT if isinstance(eqn.params.get(key), NamedSharding)]
        kept = _OUT if name != "sharding_constraint" else ()
        params = {key: None if key in kept else _auto(value) for key, value in eqn.params.items()}
        params = map_functions(params, with_auto_axes)
        if name in _RULES:
            params |= _RULES[name](eqn, with_auto_axes)
        results = bind(eqn.replace(params=params), operands)
        if asked and name in _FILLED_BY_USERS:
            results = [_constrained(x, asked[0]) for x in results]
        return results


_FILLED_BY_USERS = {"dot_general", "gather", "scatter", "scatter-add", "conv_general_dilated"}

_RULES = {
    "custom_jvp_call": typed_rules.of_custom_jvp,
    "custom_vjp_call": typed_rules.of_custom_vjp,
}


def _context(eqn: core.JaxprEqn):
    """The mesh of the equation's context, with `Auto` axes."""
    typed: list[Any] = [var.aval for var in eqn.outvars if _is_typed(var.aval)]
    mesh = typed[0].sharding.mesh if typed else jax.sharding.get_abstract_mesh()
    return jax.sharding.use_abstract_mesh(auto_mesh(mesh))


def _constrained(x: Any, sharding: NamedSharding) -> Any:
    spec = PartitionSpec(*sharding.spec)
    return jax.lax.with_sharding_constraint(x, NamedSharding(auto_mesh(sharding.mesh), spec))


def _auto(value: Any) -> Any:
    """A parameter with the meshes in it of `Auto` axes."""
    if isinstance(value, NamedSharding):
        return NamedSharding(auto_mesh(value.mesh), value.spec)
    if isinstance(value, (Mesh, AbstractMesh)):
        return auto_mesh(value)
    if type(value) in (tuple, list):
        return type(value)(map(_auto, value))
    return value


@functools.cache
def auto_mesh(mesh: Any) -> Any:
    """A mesh, or an abstract one, with `Auto` axes in the place of `Explicit` ones."""
    if AxisType.Explicit not in mesh.axis_types:
        return mesh
    types = tuple(AxisType.Auto if ty == AxisType.Explicit else ty for ty in mesh.axis_types)
    if isinstance(mesh, Mesh):
        return Mesh(mesh.devices, mesh.axis_names, axis_types=types)
    return mesh.update(axis_types=types)

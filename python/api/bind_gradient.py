"""Binds a call of `metagrad.grad` inside a step that is being traced, as one operation.

The operation holds the loss. frontend/grad_primitive.py defines it, and what JAX's transformations
make of it.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.extend import core

from metagrad.frontend import prints
from metagrad.frontend.dtypes import is_complex, is_float
from metagrad.frontend.grad_primitive import grad_p
from metagrad.runtime import jax_internals


def bind(fun, argnums, has_aux, allow_int, by_jax, args, kwargs):
    """Binds `grad_p` on the flattened call.

    A call that JAX would refuse is handed to JAX, so that the user gets the message they know, and
    so is one that names an argument twice.

    Args:
      argnums: an int or a tuple of ints.
    """
    chosen = (argnums,) if isinstance(argnums, int) else argnums
    if not chosen or any(not -len(args) <= i < len(args) for i in chosen):
        return by_jax(*args, **kwargs)
    chosen_set = {i % len(args) for i in chosen}
    if len(chosen_set) < len(chosen):
        return by_jax(*args, **kwargs)
    leaves, tree = jax.tree.flatten((args, kwargs))
    # The argument of each leaf: a position or a keyword.
    owner = [
        path[1].idx if path[0].idx == 0 else path[1].key
        for path, _ in jax.tree_util.tree_flatten_with_path((args, kwargs))[0]
    ]
    differentiated = {i: None for i, arg in enumerate(owner) if arg in chosen_set}
    # The other leaves stay what they are, as in JAX: a flag, a number of layers or a NumPy mask may
    # decide what the loss computes.
    traced = [
        i
        for i, leaf in enumerate(leaves)
        if i in differentiated or isinstance(leaf, jax.Array) or hasattr(leaf, "__jax_array__")
    ]
    if any(not _can_differentiate(leaves[i], allow_int) for i in differentiated):
        return by_jax(*args, **kwargs)
    aux_tree, aux_others, is_scalar = None, [], True

    # It keeps the names of the loss and of its arguments, since JAX's errors use them.
    @functools.wraps(fun)
    def flat(*arguments, **keywords):
        nonlocal aux_tree, aux_others, is_scalar
        filled = list(leaves)
        for i, array in zip(traced, jax.tree.leaves((arguments, keywords))):
            filled[i] = array
        filled_args, filled_kwargs = jax.tree.unflatten(tree, filled)
        out = fun(*filled_args, **filled_kwargs)
        value, aux = out if has_aux else (out, ())
        is_scalar = _is_array(value)
        aux_leaves, aux_tree = jax.tree.flatten(aux)
        aux_others = [_ARRAY if _is_array(leaf) else leaf for leaf in aux_leaves]
        return [value if is_scalar else 0.0, *filter(_is_array, aux_leaves)]

    def of(argument):
        return [leaves[i] for i in traced if owner[i] == argument]

    try:
        jaxpr = jax.make_jaxpr(flat)(
            *map(of, range(len(args))), **{name: of(name) for name in kwargs}
        )
    except jax.errors.JAXTypeError:
        # A traced value had to be known. Tracing by JAX would name the step around the loss.
        raise
    except (TypeError, ValueError):
        # A loss that does not return (scalar, aux), say: JAX's error is the better one.
        by_jax(*args, **kwargs)
        raise
    value = jaxpr.out_avals[0]
    if any(isinstance(effect, jax_internals.NamedAxisEffect) for effect in jaxpr.effects):
        # A collective over an axis of a vmap around the call. One over devices is refused where the
        # step is checked.
        return by_jax(*args, **kwargs)
    prints.check_effects(jaxpr, f"the loss {_label(fun)}")
    if not is_scalar or value.shape or not is_float(value):
        return by_jax(*args, **kwargs)
    if any(
        is_complex(aval)
        for aval in (*jaxpr.in_avals, *jaxpr.out_avals, *map(jax.typeof, jaxpr.consts))
    ):
        # The compiler's rules for an inner gradient are for real operands and results.
        return by_jax(*args, **kwargs)
    if prints.prints(jaxpr):
        prints.prints_inside_p.bind()
        jaxpr = prints.silence(jaxpr)
    consts = list(jaxpr.consts)
    wrt = tuple(
        len(consts) + traced.index(i)
        for i in differentiated
        if jax.numpy.issubdtype(_dtype(leaves[i]), np.inexact)
    )
    # Values that the loss closes over become operands, so that derivatives flow to them.
    closed = core.ClosedJaxpr(jax_internals.constants_to_operands(jaxpr.jaxpr), ())
    operands = [*consts, *(leaves[i] for i in traced)]
    results = grad_p.bind(*operands, jaxpr=closed, wrt=wrt, label=_label(fun))
    outputs = len(jaxpr.out_avals)
    gradients = dict(zip(wrt, results[outputs:]))
    per_leaf = {
        i: gradients.get(
            len(consts) + traced.index(i), np.zeros(np.shape(leaves[i]), jax.dtypes.float0)
        )
        for i in differentiated
    }
    per_argument = tuple(
        jax.tree.unflatten(
            jax.tree.structure(args[i]),
            [per_leaf[j] for j in differentiated if owner[j] == i % len(args)],
        )
        for i in chosen
    )
    derivative = per_argument[0] if isinstance(argnums, int) else per_argument
    value = results[0]
    if has_aux:
        arrays = iter(results[1:outputs])
        value = (
            value,
            jax.tree.unflatten(
                aux_tree, [next(arrays) if leaf is _ARRAY else leaf for leaf in aux_others]
            ),
        )
    return value, derivative


_ARRAY = object()
"""Where an array was among the auxiliary leaves; the others (a string, say) are kept."""


def _is_array(leaf: Any) -> bool:
    return isinstance(
        leaf, (jax.Array, np.ndarray, np.generic, bool, int, float, complex)
    ) or hasattr(leaf, "__jax_array__")


def _dtype(leaf: Any):
    return jax.dtypes.result_type(leaf) if not hasattr(leaf, "dtype") else leaf.dtype


def _can_differentiate(leaf: Any, allow_int: bool) -> bool:
    if not _is_array(leaf):
        return False
    dtype = _dtype(leaf)
    return jax.numpy.issubdtype(dtype, np.floating) or (
        allow_int and not jax.numpy.issubdtype(dtype, np.inexact)
    )


def _label(fun: Callable) -> str:
    name = getattr(fun, "__name__", None) or type(fun).__name__
    code = getattr(fun, "__code__", None)
    return f"{name} ({os.path.basename(code.co_filename)}:{code.co_firstlineno})" if code else name

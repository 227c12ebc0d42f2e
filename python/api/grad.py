"""`metagrad.grad` and `metagrad.value_and_grad`: inner gradients that the compiler can see.

Outside of a step that is being compiled they are `jax.grad` and `jax.value_and_grad`. While
metagrad traces a decorated step they bind one operation that holds the loss, not its expanded
gradient (bind_gradient.py). This lets the compiler differentiate the optimiser and the loss by
different rules.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable, Sequence
from typing import Any, Concatenate, Literal, ParamSpec, overload

import jax

from metagrad.api import bind_gradient
from metagrad.api.type_variables import ArgT, AuxT, ValueT
from metagrad.frontend.grad_primitive import TRACING

P = ParamSpec("P")


@overload
def grad(
    fun: Callable[Concatenate[ArgT, P], ValueT],
    argnums: Literal[0] = 0,
    has_aux: Literal[False] = False,
    holomorphic: Literal[False] = False,
    allow_int: bool = False,
) -> Callable[Concatenate[ArgT, P], ArgT]: ...
# An argument is differentiated by its position, so the fourth overload says less about these calls.
@overload
def grad(  # type: ignore[overload-overlap]
    fun: Callable[Concatenate[ArgT, P], tuple[ValueT, AuxT]],
    argnums: Literal[0] = 0,
    *,
    has_aux: Literal[True],
    holomorphic: Literal[False] = False,
    allow_int: bool = False,
) -> Callable[Concatenate[ArgT, P], tuple[ArgT, AuxT]]: ...
@overload
def grad(
    fun: Callable[P, ValueT],
    argnums: int,
    has_aux: Literal[False] = False,
    holomorphic: Literal[False] = False,
    allow_int: bool = False,
) -> Callable[P, Any]: ...
@overload
def grad(
    fun: Callable[P, tuple[ValueT, AuxT]],
    argnums: int,
    *,
    has_aux: Literal[True],
    holomorphic: Literal[False] = False,
    allow_int: bool = False,
) -> Callable[P, tuple[Any, AuxT]]: ...
@overload
def grad(
    fun: Callable[P, ValueT],
    argnums: Sequence[int],
    has_aux: Literal[False] = False,
    holomorphic: Literal[False] = False,
    allow_int: bool = False,
) -> Callable[P, tuple[Any, ...]]: ...
@overload
def grad(
    fun: Callable[P, tuple[ValueT, AuxT]],
    argnums: Sequence[int],
    *,
    has_aux: Literal[True],
    holomorphic: Literal[False] = False,
    allow_int: bool = False,
) -> Callable[P, tuple[tuple[Any, ...], AuxT]]: ...
@overload
def grad(
    fun: Callable[..., Any],
    argnums: int | Sequence[int] = 0,
    has_aux: bool = False,
    holomorphic: Literal[False] = False,
    allow_int: bool = False,
) -> Callable[..., Any]: ...
def grad(
    fun: Callable,
    argnums: int | Sequence[int] = 0,
    has_aux: bool = False,
    holomorphic: bool = False,
    allow_int: bool = False,
) -> Callable[..., Any]:
    """The gradient of a scalar function. The arguments are those of `jax.grad`.

    Inside a step decorated with `metagrad.compile` the call becomes one operation that the compiler
    differentiates in mixed mode.

    Args:
      fun: returns a real scalar, or `(scalar, aux)` with `has_aux`.
      argnums: which positional arguments are differentiated: an integer, or a sequence of them.
      has_aux: whether `fun` returns auxiliary data beside the scalar.
      holomorphic: must be False.
      allow_int: whether integer arguments are allowed in `argnums`; their gradients are float0
          zeros.

    Returns:
      A function that returns the gradient, or `(gradient, aux)`.

    Raises:
      ValueError: `holomorphic` is true.

    >>> import jax.numpy as jnp, metagrad
    >>> metagrad.grad(lambda x: jnp.sum(x ** 2))(jnp.array([1.0, 2.0]))
    Array([2., 4.], dtype=float32)
    """
    differentiated = _differentiated(fun, argnums, has_aux, holomorphic, allow_int)

    @functools.wraps(fun)
    def gradient(*args, **kwargs):
        value, derivative = differentiated(*args, **kwargs)
        return (derivative, value[1]) if has_aux else derivative

    return gradient


@overload
def value_and_grad(
    fun: Callable[Concatenate[ArgT, P], ValueT],
    argnums: Literal[0] = 0,
    has_aux: Literal[False] = False,
    holomorphic: Literal[False] = False,
    allow_int: bool = False,
) -> Callable[Concatenate[ArgT, P], tuple[ValueT, ArgT]]: ...
# An argument is differentiated by its position, so the fourth overload says less about these calls.
@overload
def value_and_grad(  # type: ignore[overload-overlap]
    fun: Callable[Concatenate[ArgT, P], tuple[ValueT, AuxT]],
    argnums: Literal[0] = 0,
    *,
    has_aux: Literal[True],
    holomorphic: Literal[False] = False,
    allow_int: bool = False,
) -> Callable[Concatenate[ArgT, P], tuple[tuple[ValueT, AuxT], ArgT]]: ...
@overload
def value_and_grad(
    fun: Callable[P, ValueT],
    argnums: int,
    has_aux: Literal[False] = False,
    holomorphic: Literal[False] = False,
    allow_int: bool = False,
) -> Callable[P, tuple[ValueT, Any]]: ...
@overload
def value_and_grad(
    fun: Callable[P, tuple[ValueT, AuxT]],
    argnums: int,
    *,
    has_aux: Literal[True],
    holomorphic: Literal[False] = False,
    allow_int: bool = False,
) -> Callable[P, tuple[tuple[ValueT, AuxT], Any]]: ...
@overload
def value_and_grad(
    fun: Callable[P, ValueT],
    argnums: Sequence[int],
    has_aux: Literal[False] = False,
    holomorphic: Literal[False] = False,
    allow_int: bool = False,
) -> Callable[P, tuple[ValueT, tuple[Any, ...]]]: ...
@overload
def value_and_grad(
    fun: Callable[P, tuple[ValueT, AuxT]],
    argnums: Sequence[int],
    *,
    has_aux: Literal[True],
    holomorphic: Literal[False] = False,
    allow_int: bool = False,
) -> Callable[P, tuple[tuple[ValueT, AuxT], tuple[Any, ...]]]: ...
@overload
def value_and_grad(
    fun: Callable[..., Any],
    argnums: int | Sequence[int] = 0,
    has_aux: bool = False,
    holomorphic: Literal[False] = False,
    allow_int: bool = False,
) -> Callable[..., Any]: ...
def value_and_grad(
    fun: Callable,
    argnums: int | Sequence[int] = 0,
    has_aux: bool = False,
    holomorphic: bool = False,
    allow_int: bool = False,
) -> Callable[..., Any]:
    """The value and gradient of a scalar function. The arguments are those of `metagrad.grad`.

    Returns:
      A function that returns `(value, gradient)`, or `((value, aux), gradient)`.

    Raises:
      ValueError: `holomorphic` is true.

    >>> import jax.numpy as jnp, metagrad
    >>> metagrad.value_and_grad(lambda x: jnp.sum(x ** 2))(jnp.array([1.0, 2.0]))
    (Array(5., dtype=float32), Array([2., 4.], dtype=float32))
    """
    return _differentiated(fun, argnums, has_aux, holomorphic, allow_int)


def _differentiated(
    fun: Callable[..., Any],
    argnums: int | Sequence[int],
    has_aux: bool,
    holomorphic: bool,
    allow_int: bool,
) -> Callable[..., Any]:
    """Value and gradient, by JAX or as one operation of the step that is being traced."""
    if holomorphic:
        raise ValueError(
            "metagrad does not differentiate holomorphic functions (holomorphic=True): a "
            "metagradient is the gradient of a real scalar. Write the loss as a real function of "
            "real and imaginary parts."
        )
    by_jax = jax.value_and_grad(fun, argnums, has_aux=has_aux, allow_int=allow_int)
    positions = _positions(argnums)

    @functools.wraps(fun)
    def value_and_gradient(*args, **kwargs):
        if not TRACING.value:
            return by_jax(*args, **kwargs)
        return bind_gradient.bind(fun, positions, has_aux, allow_int, by_jax, args, kwargs)

    return value_and_gradient


def _positions(argnums: int | Sequence[int]) -> int | tuple[int, ...]:
    """An int, or a tuple of ints, from integers of any kind (NumPy's too)."""
    try:
        return operator.index(argnums)  # type: ignore[arg-type]
    except TypeError:
        return tuple(map(operator.index, argnums))  # type: ignore[arg-type]

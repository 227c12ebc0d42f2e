"""One evaluation of the metagradient: the user's problem, drawn for a round and a seed."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from metagrad.api.request import check_wrt
from metagrad.mgd.variables import Variables

_NAMES = {"state": "state0", "meta": "meta", "batches": "batches"}
"""What users call the arguments of a metagradient, by the names in `wrt`, in their order."""


class Evaluation:
    """Calls the problem and the metagradient.

    Args:
      mg: a metagradient, or what is called and answers like one.
      problem: `problem(round, key)`, see `metagrad.descent`.
      variables: what is optimised.
      key: of all random draws.

    Attributes:
      mg, key: as they were given.
      wrt: the names of what the metagradient is with respect to.
    """

    def __init__(self, mg: Callable, problem: Callable, variables: Variables, key: jax.Array):
        self.mg, self.key = mg, key
        self._problem, self._variables = problem, variables
        self.wrt, self._single = wrt_of(mg)
        request = getattr(mg, "request", None)
        self._has_aux = getattr(request, "has_aux", False)
        self._first: tuple | None = None
        self._takes_meta = "meta" in _parameters(problem)
        self._check_parts()

    def _check_parts(self) -> None:
        """Checks that there is an entry of meta0 for each name in `wrt`, if that is a tuple.

        Raises:
          TypeError: there is not.
        """
        meta0 = self._variables.start
        fits = isinstance(meta0, tuple) and len(meta0) == len(self.wrt)
        if not (self._single or fits):
            parts = ", ".join(_NAMES[name] for name in self.wrt)
            raise TypeError(
                f"mg is with respect to {self.wrt}, so meta0 has to be the tuple ({parts}), and it "
                f"is {_described(meta0)}"
            )

    def first(self) -> tuple:
        """The arguments of the first seed of round 0, which need not be drawn again then."""
        self._first = self._draw(0, 0, self._variables.start)
        return self._first

    def arguments(self, round: int, seed: int, meta: Any) -> tuple:
        """What the metagradient is called with: (state0, meta, batches, *outer_args).

        Raises:
          TypeError: the problem did not return what it has to.
        """
        first, self._first = self._first, None
        return first if first and (round, seed) == (0, 0) else self._draw(round, seed, meta)

    def _draw(self, round: int, seed: int, meta: Any) -> tuple:
        key = jax.random.fold_in(jax.random.fold_in(self.key, round), seed)
        drawn = self._problem(round, key, **({"meta": meta} if self._takes_meta else {}))
        needed = [called for name, called in _NAMES.items() if name not in self.wrt]
        if not isinstance(drawn, tuple) or len(drawn) < len(needed):
            raise TypeError(
                f"problem({round}, key) returned {_described(drawn)}, and it has to return the "
                f"tuple ({', '.join([*needed, '*outer_args'])})"
            )
        mine = {self.wrt[0]: meta} if self._single else dict(zip(self.wrt, meta))
        rest = iter(drawn)
        first = [mine[name] if name in mine else next(rest) for name in _NAMES]
        return (*first, *rest)

    def __call__(self, arguments: tuple) -> tuple[jax.Array, Any, Any]:
        """The value (a scalar), the gradient's floating-point leaves, and the result itself.

        Raises:
          ValueError: the value is not a scalar, or a gradient's shape is not that of its leaf.
          TypeError: the gradient has another structure than what is optimised, or it is traced.
        """
        result = self.mg(*arguments)
        value = result[0][0] if self._has_aux else result[0]
        if isinstance(value, jax.core.Tracer):
            raise TypeError(
                "descent cannot be traced (jit, vmap, grad): it is a loop in Python, around one "
                "compiled program. Call it outside, with arrays."
            )
        if jnp.shape(value) != ():
            raise ValueError(
                f"the outer function returns a vector of shape {jnp.shape(value)}, and descent "
                "needs one value to lower: return its mean, or the entry that is meant"
            )
        try:
            gradient = self._variables.of(result[1])
        except ValueError as error:
            raise TypeError(
                f"the metagradient's gradient does not have the structure of meta0: {error}"
            ) from None
        self._variables.check_shapes(gradient, "the metagradient's gradient")
        return jnp.asarray(value), gradient, result


def wrt_of(mg: Any) -> tuple[tuple[str, ...], bool]:
    """What a metagradient is with respect to, and whether that is one and not a tuple.

    What does not say it (a compiled one, or one from a file) is taken to be with respect to "meta".
    """
    request = getattr(mg, "request", None)
    if request is not None:
        return request.wrt, request.single
    return check_wrt(getattr(mg, "wrt", "meta"))


def _parameters(function: Callable) -> tuple[str, ...]:
    try:
        return tuple(inspect.signature(function).parameters)
    except (TypeError, ValueError):  # a builtin has none to see
        return ()


def _described(drawn: Any) -> str:
    return f"{len(drawn)} values" if isinstance(drawn, tuple) else f"a {type(drawn).__name__}"

"""A training run in forward mode, as a function of JAX.

    (s, S)  ->  (step(s, z, b),  d step(s, z, b) [S, Z, B])        S, Z, B: K tangents each
    value' [K]  =  d outer(s_T) [S_T]

The state's tangents go along with it, and nothing is stored: memory does not grow with the number
of steps. In each step the primal part is computed once. It is linearised where it stands, and K
tangents are pushed through that by `vmap`, which leaves alone what does not depend on a tangent.
Inner gradients are expanded first, so a tangent goes forward over the reverse pass of the loss.

A leaf of the state has tangents if what `wrt` names reaches it and it reaches the outer value.

An entry of a batch matters from its step on. Until then its direction's tangents are zeros.

The first step stands before the loop where the state has no tangents yet: in the loop they would be
zeros, and zero times an infinite derivative (of a root of a moment that is zero, say) is NaN.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend import core
from jax.extend.core import jaxpr_as_fun

from metagrad.compiler.dialect.metagrad import Layout
from metagrad.frontend import fused_kernels
from metagrad.frontend.dtypes import is_float
from metagrad.frontend.forward.directions import Place, count
from metagrad.frontend.jaxprs.cotangent_flow import reaching_inputs
from metagrad.runtime.moving_operands import filled

Leaves = Sequence[Any]


class NotForward(NotImplementedError):
    """A function has no forward mode."""


@dataclasses.dataclass(frozen=True, eq=False)
class ForwardRun:
    """A run over flat leaves.

    Attributes:
      step: (state, meta, batch) -> (state, aux), its inner gradients expanded.
      outer: (state, outer arguments) -> (value, aux).
      prints, outer_prints: what they print, as functions of the same operands; None if nothing.
      layout: sizes of the argument groups.
      places: the directions.
      moving: the leaves of the state that have tangents, by index.
      names: what the user calls the step and the outer function.
    """

    step: core.ClosedJaxpr
    outer: core.ClosedJaxpr
    prints: core.ClosedJaxpr | None
    outer_prints: core.ClosedJaxpr | None
    layout: Layout
    places: tuple[Place, ...]
    moving: tuple[int, ...]
    names: tuple[str, str]

    @property
    def directions(self) -> int:
        """K."""
        return count(self.places)

    def __call__(self, state: Leaves, meta: Leaves, batches: Leaves, outer_args: Leaves) -> list:
        """[value, outer's aux, gradients, final state, aux], each a flat list behind the other."""
        final, tangents, aux = self._trained(state, meta, batches)
        if self.directions == 1:
            tangents = [tangent[None] for tangent in tangents]
        operands = [*final, *outer_args]
        _print(self.outer_prints, operands)
        results, products = self.finish(operands, tangents)
        gradients = [place.gradient(products) for place in self.places]
        return [*results, *gradients, *final, *aux]

    def _trained(self, state: Leaves, meta: Leaves, batches: Leaves) -> tuple[list, list, list]:
        """(the final state, its tangents, aux stacked over the steps)."""
        of_meta = self._tangents("meta", self.layout.state)

        def turn(carry: tuple, _: None) -> tuple[tuple, list]:
            # The step's number is carried: an array of numbers would take memory for each step.
            state, tangents, t = carry
            moving = dict(zip(self.moving, tangents)) | of_meta
            *new, aux = self._advance(state, meta, batches, moving, t)
            return (*new, t + 1), aux

        before, steps = self._tangents("state", 0), len(batches[0])
        if all(i in before for i in self.moving):
            carry = (list(state), [before[i] for i in self.moving], jnp.asarray(0))
            (final, tangents, _), aux = jax.lax.scan(turn, carry, None, steps)
            return final, tangents, aux
        # Before the first step no tangent of some leaves is there, not even a zero.
        final, tangents, first = self._advance(list(state), meta, batches, before | of_meta, 0)
        aux = [jnp.asarray(row)[None] for row in first]
        if steps > 1:
            carry = (final, tangents, jnp.asarray(1))
            (final, tangents, _), rows = jax.lax.scan(turn, carry, None, steps - 1)
            aux = [jnp.concatenate(both) for both in zip(aux, rows)]
        return final, tangents, aux

    def _advance(
        self, state: Leaves, meta: Leaves, batches: Leaves, moving: dict[int, Any], t: Any
    ) -> tuple[list, list, list]:
        """(the new state, its tangents, aux) of step t.

        Args:
          moving: the tangents of state and meta, by the number of the step's operand.
        """
        batch = [jax.lax.dynamic_index_in_dim(leaf, t, keepdims=False) for leaf in batches]
        operands = [*state, *meta, *batch]
        _print(self.prints, operands)
        first = len(state) + len(meta)
        of_batch = {
            first + place.index: self._carried(place.tangents_of_step(self.directions, t))
            for place in self._of("batches")
        }
        new, tangents = self.push(operands, moving | of_batch)
        return list(map(settled, new, state)), tangents, new[len(state) :]

    def _of(self, group: str) -> list[Place]:
        return [place for place in self.places if place.group == group]

    def _tangents(self, group: str, first: int) -> dict[int, Any]:
        """The tangents of a group's leaves, by the number of the step's operand."""
        tangents = {p.index: p.tangents(self.directions) for p in self._of(group)}
        return {first + i: self._carried(tangent) for i, tangent in tangents.items()}

    def _carried(self, tangent: Any) -> Any:
        """A single one has no axis for it: with one XLA copies tangents in each step."""
        return tangent[0] if self.directions == 1 else tangent

    def push(self, operands: Leaves, tangents: dict[int, Any]) -> tuple[list, list]:
        """(what the step returns, tangents of the new state's moving leaves).

        Args:
          tangents: [K, *shape] or, if K is 1, without that axis; by the operand's index. The others
            have none at all, which differs from zero: zero times an infinite derivative is NaN.
        """
        if self.directions == 0:
            return jaxpr_as_fun(self.step)(*operands), []
        where = [i for i in tangents if is_float(self.step.in_avals[i])]

        def of_moving(*values):
            results = jaxpr_as_fun(self.step)(*filled(operands, where, values))
            return [results[i] for i in self.moving], results

        def along(direction):
            primals = [operands[i] for i in where]
            _, moved, results = jax.jvp(of_moving, primals, direction, has_aux=True)
            return moved, results

        directions = [tangents[i] for i in where]
        with _errors_named(self.names[0], self.step):
            push = along if self.directions == 1 else jax.vmap(along, out_axes=(0, None))
            moved, results = push(directions)
        return results, [x.astype(operands[i].dtype) for x, i in zip(moved, self.moving)]

    def finish(self, operands: Leaves, tangents: Leaves) -> tuple[list, jax.Array]:
        """(value and aux of the outer function, derivatives [*queries, K] of the value)."""
        value = self.outer.out_avals[0]
        queries = value.shape[0] if value.shape else 1
        # A leaf that the value does not read has no cotangent, whatever its tangent is.
        of_value = [i == 0 for i in range(len(self.outer.out_avals))]
        reaching = reaching_inputs(self.outer.jaxpr, of_value)
        read = {i: t for i, t in zip(self.moving, tangents) if reaching[i]}
        if not read:
            results = jaxpr_as_fun(self.outer)(*operands)
            return results, jnp.zeros((*value.shape, self.directions), value.dtype)

        def of_moving(*values):
            result, *aux = jaxpr_as_fun(self.outer)(*filled(operands, list(read), values))
            return result, aux

        primals = [operands[i] for i in read]
        ways: list[Callable] = [_products_by_reverse, _products_by_forward]
        # One has a pass for each query, the other one for each direction.
        if queries > self.directions:
            ways.reverse()
        with _errors_named(self.names[1], self.outer):
            return _first_that_works(ways, of_moving, primals, list(read.values()))


def settled(new: Any, like: Any) -> Any:
    """A leaf of a new state in the dtype of the state's; a step may return a Python number."""
    is_key = jax.dtypes.issubdtype(like.dtype, jax.dtypes.prng_key)
    return new if is_key else jnp.asarray(new, like.dtype)


def _first_that_works(ways: list[Callable], *arguments) -> Any:
    """JAX has no reverse mode of a `while_loop`, and no forward mode of a `custom_vjp`."""
    try:
        return ways[0](*arguments)
    except (TypeError, ValueError, NotImplementedError):
        return ways[1](*arguments)


def _products_by_reverse(function: Callable, primals: list, tangents: list) -> tuple:
    value, pullback, aux = jax.vjp(function, *primals, has_aux=True)
    if not value.shape:
        return [value, *aux], _contracted(pullback(jnp.ones_like(value)), tangents, value)
    queries = jnp.eye(value.shape[0], dtype=value.dtype)
    of_query = lambda seed: _contracted(pullback(seed), tangents, value)
    return [value, *aux], jax.vmap(of_query)(queries)


def _contracted(cotangents: Sequence, tangents: Sequence, value: jax.Array) -> jax.Array:
    """[K]: the sum of <cotangent, tangent> over leaves, in the wider of their float types."""
    total = jnp.zeros(tangents[0].shape[0], jnp.promote_types(value.dtype, jnp.float32))
    for cotangent, tangent in zip(cotangents, tangents):
        wide = jnp.promote_types(total.dtype, tangent.dtype)
        axes = cotangent.ndim
        product = jnp.tensordot(
            tangent.astype(wide), cotangent.astype(wide), axes, precision=jax.lax.Precision.HIGHEST
        )
        total = total + product
    return total


def _products_by_forward(function: Callable, primals: list, tangents: list) -> tuple:
    def along(direction):
        value, product, aux = jax.jvp(function, primals, direction, has_aux=True)
        return product, value, aux

    products, value, aux = jax.vmap(along, out_axes=(-1, None, None))(tangents)
    return [value, *aux], products


def _print(prints: core.ClosedJaxpr | None, operands: Leaves) -> None:
    if prints is not None:
        jaxpr_as_fun(prints)(*operands)


@contextlib.contextmanager
def _errors_named(label: str, jaxpr: core.ClosedJaxpr) -> Iterator[None]:
    """Refuses what JAX cannot push a tangent through, in the user's names."""
    try:
        yield
    except (TypeError, ValueError, NotImplementedError) as error:
        kernels = fused_kernels.kernels_in(jaxpr, error)
        why = fused_kernels.refusal(label, kernels) if kernels else f"JAX says: {error}"
        raise NotForward(
            f"mode='forward': JAX cannot push tangents through {label}. {why}\nUse mode='reverse'."
        ) from error

"""Optimisers that multiply a matrix's gradient by matrices: Shampoo and SOAP.

optax has neither. They are written as their papers have them, as optax transformations, so that a
metagradient can go through training with them. Parameters that are not matrices get Adagrad's or
Adam's update.

What a derivative through them needs:

- The derivative of an eigenvector has the differences of eigenvalues in its denominators
  (`jnp.linalg.eigh`), and statistics that start as a multiple of the identity have equal ones. So
  has g g^T of a tall g. With respect to the statistics JAX's derivative is NaN or rounding there,
  and ours with it. `by_newton` uses products of matrices alone: its derivative is finite wherever
  its value is. `by_divided_differences` has a rule of its own.
- SOAP's basis comes from a QR decomposition, whose derivative needs a matrix of full rank; the
  statistics start as `epsilon` times the identity for that.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

Root = Callable[[jax.Array], jax.Array]
"""The inverse fourth root of a symmetric positive definite matrix."""


def by_eigenvalues(matrix: jax.Array) -> jax.Array:
    values, vectors = jnp.linalg.eigh(matrix)
    return (vectors * values**-0.25) @ vectors.T


@jax.custom_jvp
def by_divided_differences(matrix: jax.Array) -> jax.Array:
    """As `by_eigenvalues`, with a derivative that is finite at equal eigenvalues as well.

    With A = V diag(w) V^T and E = V^T dA V, the derivative of f(A) is V (F * E) V^T, where F[i, j]
    is the divided difference (f(w_i) - f(w_j)) / (w_i - w_j) (Daleckii, Krein; Higham, Functions of
    Matrices, theorem 3.11). Of w^(-1/4) it can be written without a difference.
    """
    return by_eigenvalues(matrix)


@by_divided_differences.defjvp
def _(primals, tangents):
    (matrix,), (change,) = primals, tangents
    values, vectors = jnp.linalg.eigh(matrix)
    a, b = values[:, None], values[None, :]
    slopes = -1 / ((a * b) ** 0.25 * (a**0.25 + b**0.25) * (a**0.5 + b**0.5))
    turned = vectors.T @ change @ vectors
    return (vectors * values**-0.25) @ vectors.T, vectors @ (slopes * turned) @ vectors.T


def by_newton(matrix: jax.Array, iterations: int = 24, unroll: bool = False) -> jax.Array:
    """The coupled Newton iteration of Shampoo's implementations, with a fixed number of turns.

    Those stop when the residual is small, in a `while_loop`, which JAX does not differentiate in
    reverse. Higham, Functions of Matrices, equation 7.18.
    """
    identity = jnp.eye(len(matrix), dtype=matrix.dtype)
    z = 5 / (2 * jnp.linalg.norm(matrix))

    def turn(_, pair):
        m, h = pair
        factor = (5 * identity - m) / 4
        squared = factor @ factor
        return squared @ squared @ m, h @ factor

    start = matrix * z, identity * z**0.25
    return jax.lax.fori_loop(0, iterations, turn, start, unroll=unroll or None)[1]


class ShampooState(NamedTuple):
    statistics: Any


def shampoo(learning_rate: float, root: Root, epsilon: float = 1e-2) -> Any:
    """Shampoo (Gupta, Koren, Singer 2018, Algorithm 1).

    A matrix is multiplied by the inverse fourth roots of the sums of g g^T and g^T g, a vector by
    an inverse square root, as Adagrad does.
    """

    def init(params):
        return ShampooState(
            jax.tree.map(
                lambda p: (
                    [epsilon * jnp.eye(n, dtype=p.dtype) for n in p.shape]
                    if p.ndim == 2
                    else [jnp.full_like(p, epsilon)]
                ),
                params,
            )
        )

    def update(updates, state, params=None):
        def add(g, sums):
            return [sums[0] + g @ g.T, sums[1] + g.T @ g] if g.ndim == 2 else [sums[0] + g**2]

        def precondition(g, sums):
            return -learning_rate * (
                root(sums[0]) @ g @ root(sums[1]) if g.ndim == 2 else g / jnp.sqrt(sums[0])
            )

        statistics = jax.tree.map(add, updates, state.statistics)
        return jax.tree.map(precondition, updates, statistics), ShampooState(statistics)

    return optax.GradientTransformation(init, update)


class GraftedState(NamedTuple):
    count: jax.Array
    statistics: Any
    roots: Any
    graft: Any
    momentum: Any


def grafted_shampoo(
    learning_rate: float,
    root: Root = by_newton,
    *,
    every: int = 2,
    block: int = 128,
    decay: float = 0.95,
    momentum: float = 0.9,
    ridge: float = 1e-4,
    graft: optax.GradientTransformation | None = None,
) -> Any:
    """Shampoo as it is used at scale (Anil, Gupta, Koren, Regan, Singer 2021).

    Matrices are cut into blocks; statistics decay; roots are taken in every `every`-th step, of the
    statistics with a ridge relative to their largest eigenvalue; the step has the length of another
    optimiser's (grafting), and momentum comes last.

    Args:
      learning_rate: of the grafted step.
      root: of the statistics.
      every: steps between two computations of the roots, under `lax.cond`.
      block: the longest side of a block.
      decay, momentum: of the statistics and of the step.
      ridge: what is added to the diagonal, as a part of the largest eigenvalue.
      graft: gives each step its length; Adam without a rate by default.
    """
    graft = graft or optax.scale_by_adam(eps_root=1e-8)

    def init(params):
        return GraftedState(
            jnp.zeros((), jnp.int32),
            jax.tree.map(lambda p: _identities(p, block, 1e-2), params),
            jax.tree.map(lambda p: _identities(p, block), params),
            graft.init(params),
            jax.tree.map(jnp.zeros_like, params),
        )

    def update(updates, state, params=None):
        statistics = _averaged(updates, state.statistics, decay, block)
        roots_of = jax.vmap(lambda matrix: root(_with_ridge(matrix, ridge)))
        fresh = lambda: _together(roots_of, statistics)
        roots = jax.lax.cond(state.count % every == 0, fresh, lambda: state.roots)
        lengths, grafted = graft.update(updates, state.graft, params)

        def step(g, sides, like):
            if not sides:
                return like
            direction = _whole(sides[0] @ _blocks(g, block) @ sides[1], g.shape)
            return direction * jnp.sqrt(_squared(like) / (_squared(direction) + 1e-16))

        steps = jax.tree.map(step, updates, roots, lengths)
        average = jax.tree.map(lambda m, s: momentum * m + s, state.momentum, steps)
        new = GraftedState(state.count + 1, statistics, roots, grafted, average)
        return jax.tree.map(lambda m: -learning_rate * m, average), new

    return optax.GradientTransformation(init, update)


def _with_ridge(matrix: jax.Array, ridge: float, iterations: int = 8) -> jax.Array:
    """The matrix plus `ridge` times its largest eigenvalue, which a power iteration finds."""
    # Not ones: the gradients of a softmax sum to zero, so ones would be an eigenvector.
    start = np.random.default_rng(0).uniform(-1, 1, len(matrix))

    def turn(vector, _):
        vector = matrix @ vector
        return vector / jnp.sqrt(_squared(vector)), None

    vector, _ = jax.lax.scan(turn, jnp.asarray(start, matrix.dtype), None, iterations)
    largest = vector @ matrix @ vector / (vector @ vector)
    return matrix + ridge * largest * jnp.eye(len(matrix), dtype=matrix.dtype)


class SoapState(NamedTuple):
    count: jax.Array
    statistics: Any
    bases: Any
    first: Any
    second: Any


def soap(
    learning_rate: float,
    *,
    b1: float = 0.95,
    b2: float = 1 - 2**-5,
    eps: float = 1e-8,
    eps_root: float = 1e-8,
    every: int = 2,
    block: int = 128,
) -> Any:
    """SOAP: Adam in the eigenbasis of Shampoo's statistics (Vyas et al. 2024, Algorithm 3).

    A basis starts as the identity, and a step of power iteration (a product and a QR
    decomposition) brings it nearer to the eigenvectors in every `every`-th step. The published
    algorithm starts from `eigh`, whose derivative is not finite at equal eigenvalues.

    Args:
      learning_rate: of the step.
      b1, b2, eps, eps_root: as Adam's; `b2` is also the decay of the statistics.
      every: steps between two refinements of the bases, under `lax.cond`.
      block: the longest side of a block, into which matrices are cut.
    """

    def init(params):
        zeros = jax.tree.map(jnp.zeros_like, params)
        return SoapState(
            jnp.zeros((), jnp.int32),
            jax.tree.map(lambda p: _identities(p, block, 1e-2), params),
            jax.tree.map(lambda p: _identities(p, block), params),
            zeros,
            zeros,
        )

    def update(updates, state, params=None):
        statistics = _averaged(updates, state.statistics, b2, block)

        def refine():
            turned = jax.tree.map(jnp.matmul, statistics, state.bases)
            return _together(lambda matrices: jnp.linalg.qr(matrices)[0], turned)

        bases = jax.lax.cond(state.count % every == every - 1, refine, lambda: state.bases)
        first = optax.tree.update_moment(updates, state.first, b1, 1)
        turned = jax.tree.map(lambda g, sides: _turned(g, sides, block), updates, bases)
        second = optax.tree.update_moment_per_elem_norm(turned, state.second, b2, 2)
        count = state.count + 1
        unbiased = lambda moment, decay: optax.tree.bias_correction(moment, decay, count)

        def step(mean, square, sides):
            scaled = _turned(mean, sides, block) / (jnp.sqrt(square + eps_root) + eps)
            return -learning_rate * _turned(scaled, [side.mT for side in sides], block)

        steps = jax.tree.map(step, unbiased(first, b1), unbiased(second, b2), bases)
        return steps, SoapState(count, statistics, bases, first, second)

    return optax.GradientTransformation(init, update)


# --- Blocks of matrices ---------------------------------------------------------------------------


def _side(length: int, block: int) -> int:
    """The largest divisor of a side that is not above `block`."""
    return max(part for part in range(1, block + 1) if length % part == 0)


def _blocks(matrix: jax.Array, block: int) -> jax.Array:
    """[blocks, rows, columns] of a matrix."""
    rows, columns = (_side(length, block) for length in matrix.shape)
    cut = matrix.reshape(matrix.shape[0] // rows, rows, -1, columns)
    return cut.transpose(0, 2, 1, 3).reshape(-1, rows, columns)


def _whole(blocks: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """The matrix that was cut into blocks."""
    _, rows, columns = blocks.shape
    cut = blocks.reshape(shape[0] // rows, shape[1] // columns, rows, columns)
    return cut.transpose(0, 2, 1, 3).reshape(shape)


def _identities(p: jax.Array, block: int, scale: float = 1.0) -> list[jax.Array]:
    """For both sides of the blocks of a matrix; nothing for what is not a matrix."""
    if p.ndim != 2:
        return []
    count, *sides = _blocks(p, block).shape
    return [scale * jnp.tile(jnp.eye(n, dtype=p.dtype), (count, 1, 1)) for n in sides]


def _together(function: Callable[[jax.Array], jax.Array], matrices: Any) -> Any:
    """`function` of stacked matrices, called once for each size of matrix in a tree.

    A dozen stacks that go through `qr` side by side do not end on two cores: XLA:CPU's threads wait
    for one another (jaxlib 0.10.2).
    """
    leaves, structure = jax.tree.flatten(matrices)
    done: dict[int, jax.Array] = {}
    for size in {leaf.shape[-1] for leaf in leaves}:
        of_size = [i for i, leaf in enumerate(leaves) if leaf.shape[-1] == size]
        ends = np.cumsum([len(leaves[i]) for i in of_size])[:-1]
        results = function(jnp.concatenate([leaves[i] for i in of_size]))
        done |= zip(of_size, jnp.split(results, ends))
    return jax.tree.unflatten(structure, [done[i] for i in range(len(leaves))])


def _averaged(updates: Any, statistics: Any, decay: float, block: int) -> Any:
    """The decaying averages of g g^T and g^T g of each block."""

    def add(g, sums):
        if not sums:
            return []
        blocks = _blocks(g, block)
        products = [blocks @ blocks.mT, blocks.mT @ blocks]
        return [decay * s + (1 - decay) * p for s, p in zip(sums, products, strict=True)]

    return jax.tree.map(add, updates, statistics)


def _turned(x: jax.Array, sides: list[jax.Array], block: int) -> jax.Array:
    return _whole(sides[0].mT @ _blocks(x, block) @ sides[1], x.shape) if sides else x


def _squared(x: jax.Array) -> jax.Array:
    return jnp.sum(x**2) + 1e-16

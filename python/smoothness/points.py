"""Points z + h v of a configuration, and directions to move it in."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from metagrad.frontend.dtypes import is_float
from metagrad.frontend.pytrees import is_array_leaf


class Named(NamedTuple):
    """A direction, and what the report calls it."""

    name: str
    tree: Any


def as_arrays(z: Any) -> Any:
    """z with its numbers as arrays of a fixed type, so that all points have the same one.

    Raises:
      TypeError: no leaf is a float.
    """
    fixed = jax.tree.map(as_array, z)
    if not any(map(is_float, jax.tree.leaves(fixed))):
        raise TypeError("z has no floating-point leaf to move; write 1.0 for 1")
    return fixed


def as_array(leaf: Any) -> Any:
    """A number as an array whose type is not weak; other leaves as they are."""
    return jnp.array(leaf) if is_array_leaf(leaf) else leaf


def in_double(tree: Any) -> Any:
    """The tree with its floats in float64. x64 mode has to be on."""
    return jax.tree.map(
        lambda leaf: (
            jnp.asarray(leaf, jnp.float64)
            if is_array_leaf(leaf) and is_float(jax.typeof(leaf))
            else leaf
        ),
        tree,
    )


def random_directions(z: Any, count: int, seed: int = 0, kind: str = "signs") -> list[Any]:
    """Random directions over the float leaves of z.

    Args:
      z: a pytree of arrays and numbers.
      count: how many.
      seed: of the draws.
      kind: "signs": every entry is -1 or 1, as the steps of descent by signs are. "normal": every
        entry is drawn from a standard normal distribution.

    Returns:
      A list of pytrees like z, in float64 NumPy arrays; zeros for leaves that are not floats.

    Raises:
      ValueError: an argument is not one of the above.
    """
    if kind not in ("signs", "normal"):
        raise ValueError(f'kind must be "signs" or "normal", not {kind!r}')
    if count < 1:
        raise ValueError(f"count must be at least 1, not {count}")
    random = np.random.default_rng(seed)
    draw = random.standard_normal if kind == "normal" else lambda s: random.choice([-1.0, 1.0], s)
    return [jax.tree.map(lambda leaf: _drawn(leaf, draw), as_arrays(z)) for _ in range(count)]


def _drawn(leaf: Any, draw: Any) -> np.ndarray:
    shape = np.shape(leaf) if is_array_leaf(leaf) else ()
    return np.asarray(draw(shape)) if is_float(leaf) else np.zeros(shape)


def named_directions(z: Any, v: Any, seed: int) -> list[Named]:
    """The directions that the user names: how many random ones, one pytree, or a list of them.

    An integer is a count always: a direction is made of floats.

    Raises:
      ValueError: one does not fit z.
    """
    structure: Any = jax.tree.structure(z)
    if isinstance(v, int) and not isinstance(v, bool):
        drawn = random_directions(z, v, seed)
        return [Named(f"random {i}", tree) for i, tree in enumerate(drawn)]
    if jax.tree.structure(v) == structure:
        return [Named("v", checked(z, v, "v"))]
    if isinstance(v, (list, tuple)) and v:
        return [Named(f"v[{i}]", checked(z, tree, f"v[{i}]")) for i, tree in enumerate(v)]
    raise ValueError(
        f"v has the structure {jax.tree.structure(v)}, and z has {structure}. Give a direction "
        "like z, a list of such directions, or the number of random ones."
    )


def checked(z: Any, v: Any, name: str) -> Any:
    """The direction, whose leaves have the shapes of z's.

    Raises:
      ValueError: they have not, or nothing moves.
    """
    structure: Any = jax.tree.structure(z)
    if jax.tree.structure(v) != structure:
        raise ValueError(f"{name} has the structure {jax.tree.structure(v)}, and z has {structure}")
    moves = False
    for (path, leaf), entry in zip(jax.tree_util.tree_leaves_with_path(z), jax.tree.leaves(v)):
        if not is_float(leaf):
            continue
        if np.shape(entry) != np.shape(leaf):
            where = jax.tree_util.keystr(path)
            raise ValueError(
                f"{name}{where} has the shape {np.shape(entry)}, and z{where} has {np.shape(leaf)}"
            )
        if not np.all(np.isfinite(np.asarray(entry, float))):
            raise ValueError(f"{name}{jax.tree_util.keystr(path)} is not finite")
        moves = moves or bool(np.any(np.asarray(entry, float)))
    if not moves:
        raise ValueError(f"{name} is zero, so nothing moves")
    return v


def checked_steps(h: float | Sequence[float]) -> list[float]:
    """The step sizes.

    Raises:
      ValueError: one is not a positive number.
    """
    steps = [float(each) for each in np.ravel(np.asarray(h, float))]
    if not steps or not all(math.isfinite(each) and each > 0 for each in steps):
        raise ValueError(f"h must be a positive number, or a list of them, not {h!r}")
    return steps


def moved(z: Any, v: Any, h: float) -> Any:
    """z + h v, in the dtypes of z. Leaves that are not floats stay."""
    add = lambda leaf, entry: leaf + (h * np.asarray(entry, float)).astype(leaf.dtype)
    return jax.tree.map(lambda leaf, entry: add(leaf, entry) if is_float(leaf) else leaf, z, v)


def nudged(z: Any, seed: int) -> Any:
    """z with every entry of its floats moved to the next number, up or down by chance."""
    random = np.random.default_rng(seed)

    def nudge(leaf: Any) -> Any:
        if not is_float(leaf):
            return leaf
        towards = np.where(random.random(leaf.shape) < 0.5, -np.inf, np.inf)
        return jnp.nextafter(leaf, jnp.asarray(towards, leaf.dtype))

    return jax.tree.map(nudge, z)

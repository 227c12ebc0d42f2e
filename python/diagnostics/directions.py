"""The directions along which `metagrad.check` moves the arguments of a run."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from metagrad.diagnostics.plain_run import PlainRun
from metagrad.frontend.pytrees import Leaf


@dataclasses.dataclass(frozen=True)
class Direction:
    """One direction.

    Attributes:
      name: "gradient", or "random 1", ...
      entries: by argument and by position among its array leaves, how far each entry moves in a
        step of size 1.
      metagradient: the product with the metagradient.
      unit: what derivatives along `entries` are divided by: where one leaf moves, its size, so that
        they are in the leaf's own units; 1 where several do.
      paths: of the leaves that move.
    """

    name: str
    entries: dict[str, dict[int, np.ndarray]]
    metagradient: float
    unit: float
    paths: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class _Moving:
    """One leaf that moves: where it is, its gradient, its size, and which of its entries move."""

    path: str
    name: str
    position: int
    gradient: np.ndarray
    scale: float
    mask: np.ndarray


def choose_directions(
    run: PlainRun,
    wrt: tuple[str, ...],
    gradients: dict[str, list[np.ndarray]],
    count: int,
    seed: int,
    leaf: str | None,
    index: Any,
    fixed: Sequence[str] = (),
) -> list[Direction]:
    """The metagradient's own direction, and `count` random ones.

    Only one, where a single entry moves or the metagradient is zero.

    Args:
      fixed: the paths of leaves that do not move.

    Raises:
      ValueError: `leaf` or `index` names nothing that moves.
    """
    moving = _moving(run, wrt, gradients, leaf, index, fixed)
    entries = int(sum(each.mask.sum() for each in moving))
    if entries == 1:
        return [_direction("the entry", moving, [each.mask for each in moving])]
    random = np.random.default_rng(seed)
    directions = [
        _direction(f"random {i + 1}", moving, [random.normal(size=m.mask.shape) for m in moving])
        for i in range(count)
    ]
    # Uphill, when each leaf is measured in its own size.
    uphill = [each.gradient * each.scale * each.mask for each in moving]
    if any(part.any() for part in uphill):
        directions.insert(0, _direction("gradient", moving, uphill))
    return directions


def _direction(name: str, moving: list[_Moving], parts: list[np.ndarray]) -> Direction:
    """The direction of these parts, of which a moving entry has the root mean square of 1."""
    parts = [part * each.mask for part, each in zip(parts, moving)]
    largest = max(float(np.abs(part).max(initial=0)) for part in parts)
    parts = [part / largest for part in parts]  # so that no square is out of range
    squares = sum(float((part**2).sum()) for part in parts)
    size = np.sqrt(squares / sum(float(each.mask.sum()) for each in moving))
    entries: dict[str, dict[int, np.ndarray]] = {}
    product = 0.0
    for part, each in zip(parts, moving):
        moves = part / size * each.scale
        entries.setdefault(each.name, {})[each.position] = moves
        product += float(np.vdot(moves, each.gradient))
    unit = moving[0].scale if len(moving) == 1 else 1.0
    return Direction(name, entries, product, unit, tuple(each.path for each in moving))


def leaves_to_fix(
    run: PlainRun,
    wrt: Sequence[str],
    direction: Direction,
    is_finite: Callable[[Direction], bool],
) -> tuple[str, ...]:
    """The paths of the float leaves with a zero in them next to which the run is not finite.

    Each leaf with a zero is moved in turn, together with those before it that leave the run finite.
    So no more leaves are named than have to stay for the others to move. None are if they are all
    the float leaves, since nothing would move then.

    Args:
      direction: it moves all float leaves.
      is_finite: whether the run is finite a small step along a direction, to both sides.
    """
    arrays, floats = run.arrays(), _floats(run, wrt)
    zeros = {key: leaf for key, leaf in floats.items() if not np.all(arrays[key[0]][key[1]])}
    moving: set[tuple[str, int]] = set()
    for key in zeros:
        if is_finite(_only(direction, moving | {key})):
            moving.add(key)
    fixed = tuple(leaf.path for key, leaf in zeros.items() if key not in moving)
    return fixed if len(fixed) < len(floats) else ()


def _only(direction: Direction, moving: set[tuple[str, int]]) -> Direction:
    """The direction in which all other leaves stay. It has the same arrays: nothing recompiles."""
    entries = {
        name: {i: move if (name, i) in moving else np.zeros_like(move) for i, move in moves.items()}
        for name, moves in direction.entries.items()
    }
    return dataclasses.replace(direction, entries=entries)


def _floats(run: PlainRun, wrt: Sequence[str]) -> dict[tuple[str, int], Leaf]:
    """The float leaves of what `wrt` names, by argument and position."""
    return {
        (name, i): described
        for name in wrt
        for i, described in enumerate(run.trees[name].leaves)
        if described.is_float
    }


def _moving(run: PlainRun, wrt, gradients, leaf, index, fixed) -> list[_Moving]:
    arrays, floats = run.arrays(), _floats(run, wrt)
    chosen = [
        key
        for key, each in floats.items()
        if each.path not in fixed and (leaf is None or _is_in(each.path, leaf))
    ]
    if not chosen:
        raise ValueError(_unknown(leaf, wrt, [each.path for each in floats.values()], run))
    values = {key: np.asarray(arrays[key[0]][key[1]], float) for key in chosen}
    masks = {key: np.ones(value.shape) for key, value in values.items()}
    if index is not None:
        if len(chosen) > 1:
            paths = ", ".join(floats[key].path for key in chosen[:8])
            raise ValueError(
                f"index={index!r} needs one leaf, and leaf={leaf!r} has several: {paths}"
            )
        masks = {chosen[0]: _mask(floats[chosen[0]], index)}
    everything = np.concatenate([value.ravel() for value in values.values()])
    fallback = _size(everything) or 1.0
    return [
        _Moving(
            floats[key].path,
            *key,
            gradients[key[0]][key[1]],
            _size(values[key]) or fallback,
            masks[key],
        )
        for key in chosen
    ]


def _size(array: np.ndarray) -> float:
    """The root mean square of the finite entries; 0 if there are none."""
    finite = array[np.isfinite(array)]
    return float(np.sqrt(np.mean(finite**2))) if finite.size else 0.0


def _is_in(path: str, leaf: str) -> bool:
    """Whether a leaf is the one of this path, or in the part of the tree that the path names."""
    return path == leaf or (path.startswith(leaf) and path[len(leaf)] in "[.")


def _mask(leaf: Leaf, index: Any) -> np.ndarray:
    mask = np.zeros(leaf.aval.shape)
    try:
        mask[index] = 1
    except IndexError as error:
        raise ValueError(
            f"index={index!r} is no index into {leaf.path}, of shape {leaf.aval.shape}: {error}"
        ) from None
    if not mask.any():
        raise ValueError(f"index={index!r} chooses no entry of {leaf.path}, {leaf.aval.shape}")
    return mask


def _unknown(leaf: str | None, wrt: tuple[str, ...], paths: list[str], run: PlainRun) -> str:
    listed = ", ".join(paths[:8]) + (f" and {len(paths) - 8} more" if len(paths) > 8 else "")
    others = [each for tree in run.trees.values() for each in tree.leaves if each.path == leaf]
    names = " and ".join(map(repr, wrt))
    if others and not others[0].is_float and others[0].path.startswith(wrt):
        return (
            f"leaf={leaf!r} is {others[0].aval.dtype}, and only float leaves can be moved: {listed}"
        )
    return f"leaf={leaf!r} is no float leaf of what wrt names ({names}). There are: {listed}"

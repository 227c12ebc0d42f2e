"""The least that any reversal takes, and the least that a tree takes: two oracles of `Auto`.

Both are written from the definitions alone. Seconds are beside those that every plan takes, which
are its VJPs and one gradient of each step.
"""

from __future__ import annotations

import functools
import heapq
import itertools
import math
from typing import NamedTuple


class Weights(NamedTuple):
    """Seconds.

    Attributes:
      advance: a step.
      kept: a step whose gradient is kept, beside that gradient.
      update: a step from a kept gradient.
      save: a state written to a slot.
    """

    advance: float
    kept: float
    update: float
    save: float = 0.0


def fastest_tree(steps, states, gradients, weights):
    """The recursion in runtime/schedules/native/fastest.h."""

    @functools.cache
    def plain(n, s):
        if n == 1 or s == 0:
            return 0.0 if n == 1 else math.inf
        leaf = (n - 1) * (weights.kept - weights.update) + kept(n, s)
        return min(
            leaf if n - 1 <= gradients else math.inf,
            *(
                j * weights.advance + weights.save * (n - j > 1) + plain(j, s) + plain(n - j, s - 1)
                for j in range(1, n)
            ),
        )

    @functools.cache
    def kept(n, s):
        if n == 1 or s == 0:
            return 0.0 if n == 1 else math.inf
        return min(
            j * weights.update + weights.save * (n - j > 1) + kept(j, s) + kept(n - j, s - 1)
            for j in range(1, n)
        )

    @functools.cache
    def training(n, s):
        if n == 0 or s == 0:
            return 0.0 if n == 0 else math.inf
        leaf = n * (weights.kept - weights.update) + kept_training(n, s)
        return min(
            leaf if n <= gradients else math.inf,
            *(
                j * weights.advance + weights.save * (n > j) + plain(j, s) + training(n - j, s - 1)
                for j in range(1, n + 1)
            ),
        )

    @functools.cache
    def kept_training(n, s):
        if n == 0 or s == 0:
            return 0.0 if n == 0 else math.inf
        return min(
            j * weights.update + weights.save * (n > j) + kept(j, s) + kept_training(n - j, s - 1)
            for j in range(1, n + 1)
        )

    return training(steps, states)


def fastest_reversal(steps, states, gradients, weights):
    """Dijkstra's search over all that a machine with these slots can do."""
    gradient = 1.0  # any: every plan takes `steps` of them
    step = weights.advance - gradient

    def moves(at, held, kept, after):
        """Cost and what follows: where the run stands, what slots hold, the last VJP taken."""
        for state in held:
            yield 0.0, (state, held, kept, after)
        if at < 0:
            return
        if at not in held:
            for rest in itertools.combinations(held, min(len(held), states - 1)):
                yield weights.save, (at, tuple(sorted((*rest, at))), kept, after)
        if at == after - 1:  # `after` is steps + 1 before the outer function
            needs_gradient = at < steps and at not in kept
            yield gradient * needs_gradient, (-1, held, tuple(k for k in kept if k < at), at)
            if needs_gradient:
                return
        if at == steps:
            return
        if at in kept:
            yield weights.update, (at + 1, held, kept, after)
        else:
            yield gradient + step, (at + 1, held, kept, after)
            if gradients:
                for rest in itertools.combinations(kept, min(len(kept), gradients - 1)):
                    both = tuple(sorted((*rest, at)))
                    yield gradient + weights.kept, (at + 1, held, both, after)

    start = (0, (0,), (), steps + 1)
    queue, best = [(0.0, start)], {start: 0.0}
    while queue:
        seconds, here = heapq.heappop(queue)
        if seconds > best[here]:
            continue
        if here[3] == 0:
            return seconds - steps * gradient
        for cost, there in moves(*here):
            if seconds + cost < best.get(there, math.inf):
                best[there] = seconds + cost
                heapq.heappush(queue, (seconds + cost, there))
    raise AssertionError("there is no reversal")

"""The blocks of a function: what it repeats, layer by layer. Each is put into a `jax.checkpoint`.

A derivative of the function then keeps what goes into each block, and computes the rest again when
it comes to the block: the memory for activations is that of one block and of the entrances to all.
Values stay the same, whatever is taken for a block. What is:

    scan      a turn, if products of matrices or convolutions are taken in it
    repeats   equations that repeat themselves at once (repeats.py): a Python loop over layers
              traces to such. A block begins where least is handed on from equation to equation.
    calls     a function that is called several times with arrays of the same types

Where such repeats are in others (a scan over groups of layers), those are taken that leave fewer
bytes; both, which computes the inner ones again twice, only if that is half of it. Blocks that save
less than a quarter are left alone. worth.py counts the bytes.

Blocks that the user has put into a `jax.checkpoint` stay as they are, with the user's policy; so
does what has effects.
"""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Callable, Iterator, Sequence

import jax
import numpy as np
from jax.extend import core
from jax.extend.core import primitives

from metagrad.frontend.grad_primitive import EXPANSIONS
from metagrad.frontend.jaxprs.activations import (
    kept,
    last_reads,
    live_bytes,
    operations_of,
    sizes,
)
from metagrad.frontend.jaxprs.calls import Body, call, map_functions
from metagrad.frontend.jaxprs.interpret import equations
from metagrad.frontend.jaxprs.lines import users_line
from metagrad.frontend.jaxprs.repeats import Repeat, Span, cut, heaviest_repeat
from metagrad.frontend.jaxprs.structure import Structure, stays_apart
from metagrad.frontend.jaxprs.worth import BOTH, INNER, NEITHER, which_repeats


@dataclasses.dataclass(frozen=True)
class Blocks:
    """Blocks of one kind.

    Attributes:
      kind: "turns of a scan", "repeats of N equations" or "calls of NAME".
      count: how many there are.
      line: where the first is in the user's code.
    """

    kind: str
    count: int
    line: str

    def __str__(self) -> str:
        where = f" ({self.line})" if self.line else ""
        return f"{self.count} {self.kind}{where}"


@dataclasses.dataclass(frozen=True)
class Recomputing:
    """A function whose blocks are computed again.

    Attributes:
      function: the function; the same object if nothing was found.
      blocks: what was found, in the order of the code.
    """

    function: core.ClosedJaxpr
    blocks: tuple[Blocks, ...]


def recompute_blocks(function: core.ClosedJaxpr) -> Recomputing:
    """The function with each of its blocks in a `jax.checkpoint`."""
    search = _Search(Structure())
    wrapped = search.in_function(function)
    return Recomputing(wrapped, tuple(search.blocks))


@dataclasses.dataclass(frozen=True)
class _Search:
    """Looks for blocks, and lists what it found.

    Attributes:
      structure: tells which equations are equal.
      blocks: what was found.
    """

    structure: Structure
    blocks: list[Blocks] = dataclasses.field(default_factory=list)

    def in_function(self, function: core.ClosedJaxpr) -> core.ClosedJaxpr:
        """The function with its blocks in `jax.checkpoint`s; the same object if it has none."""
        old = function.jaxpr.eqns
        spans = _Spans(self, function.jaxpr).found()
        eqns: list[core.JaxprEqn] = []
        at = 0
        for span, checkpoint in spans:
            eqns += [*map(self._in_equation, old[at : span.start]), checkpoint]
            at = span.stop
        eqns += map(self._in_equation, old[at:])
        if len(eqns) == len(old) and all(new is eqn for new, eqn in zip(eqns, old)):
            return function
        return core.ClosedJaxpr(function.jaxpr.replace(eqns=eqns), function.consts)

    def _in_equation(self, eqn: core.JaxprEqn) -> core.JaxprEqn:
        called = call(eqn)
        is_gradient = eqn.primitive in EXPANSIONS
        if called is None and not is_gradient:
            return eqn
        if called is not None and (called.has_rule or eqn.primitive is primitives.remat_p):
            return eqn
        if called is not None and eqn.primitive is primitives.scan_p:
            body = self._of_scan(eqn, called.bodies[0])
            return eqn if body is None else eqn.replace(params=eqn.params | {"jaxpr": body})
        params = map_functions(eqn.params, self.in_function)
        return eqn if params is eqn.params else eqn.replace(params=params)

    def _of_scan(self, scan: core.JaxprEqn, loop: Body) -> core.ClosedJaxpr | None:
        """The body of a scan with what is computed again in it; None if that is nothing."""
        body, turns = scan.params["jaxpr"], scan.params["length"]
        within, blocks = self.beside(body)
        which = INNER
        if may_be_block(body.jaxpr.eqns):
            entrance = sizes([body.jaxpr.outvars[i] for i, _ in loop.carry])
            which = which_repeats(turns, entrance, body.jaxpr, within.jaxpr)
        if which in (INNER, NEITHER):
            self.blocks.extend(blocks)
            return None if within is body else within
        self.list("turns of a scan", turns, body.jaxpr.eqns)
        if which == BOTH:
            self.blocks.extend(blocks)
        # Inside a scan a block and its repetition are in different loops, which XLA does not merge.
        block = _as_block(core.jaxpr_as_fun(within if which == BOTH else body))
        return jax.make_jaxpr(jax.checkpoint(block, prevent_cse=False))(*body.in_avals)

    def beside(self, function: core.ClosedJaxpr) -> tuple[core.ClosedJaxpr, list[Blocks]]:
        """`in_function`, and what it found, which is not listed yet."""
        search = _Search(self.structure)
        return search.in_function(function), search.blocks

    def list(self, kind: str, count: int, eqns: Sequence[core.JaxprEqn]) -> None:
        """Adds to what was found."""
        first = next(eqn for eqn in eqns if operations_of(eqn))
        self.blocks.append(Blocks(kind, count, users_line(first)))


class _Spans:
    """The blocks among the equations of one function: repeats and calls.

    Args:
      search: what this is a part of.
      jaxpr: the function.
    """

    def __init__(self, search: _Search, jaxpr: core.Jaxpr):
        self._search, self._jaxpr = search, jaxpr
        weights = [0.0 if stays_apart(eqn) else operations_of(eqn) for eqn in jaxpr.eqns]
        self._weights = np.array(weights)

    def found(self) -> list[tuple[Span, core.JaxprEqn]]:
        """Where blocks are, in order, and the `jax.checkpoint` that takes the place of each."""
        heavy = np.flatnonzero(self._weights)
        if len(heavy) < 2:
            return []
        self._numbers = self._search.structure.numbers(self._jaxpr)
        self._live, self._last_reads = live_bytes(self._jaxpr), last_reads(self._jaxpr)
        spans = list(self._repeats(Span(0, len(self._weights))))
        taken = {i for span, _ in spans for i in range(*span)}
        spans += self._calls([int(i) for i in heavy if i not in taken])
        return sorted(spans, key=lambda each: each[0])

    def _repeats(self, part: Span) -> Iterator[tuple[Span, core.JaxprEqn]]:
        """The blocks of the heaviest repeat in a part, and of what is beside it."""
        inside = slice(*part)
        repeat = heaviest_repeat(self._numbers[inside], self._weights[inside])
        if repeat is None:
            return
        repeat = Repeat(repeat.start + part.start, repeat.stop + part.start, repeat.period)
        yield from self._repeats(Span(part.start, repeat.start))
        spans = cut(repeat, self._live, self._weights)
        chosen = list(self._worth(spans, f"repeats of {repeat.period} equations"))
        yield from chosen
        if not chosen:
            for span in spans:
                yield from self._repeats(span)
        yield from self._repeats(Span(repeat.stop, part.stop))

    def _calls(self, heavy: Sequence[int]) -> Iterator[tuple[Span, core.JaxprEqn]]:
        """Calls of one function with arrays of the same types."""
        alike = collections.defaultdict(list)
        for i in heavy:
            called = call(self._jaxpr.eqns[i])
            if called is not None and (called.is_plain or called.has_rule):
                alike[self._numbers[i]].append(Span(i, i + 1))
        for spans in alike.values():
            eqn = self._jaxpr.eqns[spans[0].start]
            yield from self._worth(spans, f"calls of {eqn.params.get('name', eqn.primitive.name)}")

    def _worth(self, spans: Sequence[Span], kind: str) -> Iterator[tuple[Span, core.JaxprEqn]]:
        """Those of some spans that are blocks, if to compute them again is worth it."""
        eqns = self._jaxpr.eqns
        spans = [span for span in spans if may_be_block(eqns[slice(*span)])]
        if len(spans) < 2:
            return
        blocks = [self._function(span) for span in spans]
        entrance = sum(sizes(block.outvars) for block in blocks) // len(blocks)
        largest = max(blocks, key=kept)
        within, listed = self._search.beside(core.ClosedJaxpr(largest, ()))
        which = which_repeats(len(blocks), entrance, largest, within.jaxpr)
        if which in (INNER, NEITHER):
            return
        self._search.list(kind, len(spans), eqns[slice(*spans[0])])
        if which == BOTH:
            self._search.blocks.extend(listed)
            blocks = [self._search.beside(core.ClosedJaxpr(b, ()))[0].jaxpr for b in blocks]
        for span, block in zip(spans, blocks):
            yield span, _checkpoint(block, eqns[span.start])

    def _function(self, span: Span) -> core.Jaxpr:
        """Some equations as a function of its own."""
        eqns = self._jaxpr.eqns[slice(*span)]
        made = [var for eqn in eqns for var in eqn.outvars]
        read = (atom for eqn in eqns for atom in eqn.invars if isinstance(atom, core.Var))
        inner = set(made)
        return self._jaxpr.replace(
            constvars=[],
            invars=list(dict.fromkeys(var for var in read if var not in inner)),
            outvars=[var for var in made if self._last_reads.get(var, -1) >= span.stop],
            eqns=eqns,
            debug_info=_CHECKPOINT.params["jaxpr"].debug_info.with_unknown_names(),
        )


def may_be_block(eqns: Sequence[core.JaxprEqn]) -> bool:
    """Whether equations may be computed again: products are taken in them, and none stays apart."""
    return any(map(operations_of, eqns)) and not any(map(_stays_apart_inside, eqns))


def _stays_apart_inside(eqn: core.JaxprEqn) -> bool:
    inside = (each for body in core.jaxprs_in_params(eqn.params) for each in equations(body))
    return stays_apart(eqn) or any(map(stays_apart, inside))


def _checkpoint(block: core.Jaxpr, first: core.JaxprEqn) -> core.JaxprEqn:
    """A block as one equation of a `jax.checkpoint`, at the line of the first in it."""
    return _CHECKPOINT.replace(
        invars=block.invars,
        outvars=block.outvars,
        params=_CHECKPOINT.params | {"jaxpr": block},
        source_info=first.source_info,
    )


# --- What tells a block from a `jax.checkpoint` of the user's -------------------------------------


def _as_block(function: Callable) -> Callable:
    """The function under the name by which `is_block` knows a block."""

    def metagrad_block(*operands):
        return function(*operands)

    return metagrad_block


def is_block(eqn: core.JaxprEqn) -> bool:
    """Whether an equation is a `jax.checkpoint` that was put around a block here."""
    if eqn.primitive is not primitives.remat_p:
        return False
    return eqn.params["jaxpr"].debug_info.func_name == "metagrad_block"


_CHECKPOINT = jax.make_jaxpr(jax.checkpoint(_as_block(lambda x: x)))(0.0).jaxpr.eqns[0]
"""An equation of a `jax.checkpoint`, to make others of."""

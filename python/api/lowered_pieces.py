"""From traced functions to the finished pieces: who differentiates what, lowering, the passes."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Callable

from jaxlib.mlir import ir

from metagrad.api.request import Request
from metagrad.api.traced_run import TracedRun
from metagrad.api.user_frame import users_level
from metagrad.compiler import pipeline
from metagrad.compiler.enzyme.worker import EnzymeError
from metagrad.frontend import emit_mlir
from metagrad.frontend.captured import Captured
from metagrad.frontend.divide import Division, divide
from metagrad.frontend.jaxprs.auto_axes import auto_context
from metagrad.frontend.partition import Decision
from metagrad.runtime import jax_internals
from metagrad.runtime.stage_reports import stage


@dataclasses.dataclass(frozen=True)
class LoweredPieces:
    """A step's pieces, final: what programs of every kind are made of.

    Attributes:
      traced: the traced functions.
      platform: what the pieces are for.
      ad: who differentiates; "jax" if Enzyme failed.
      decisions: who differentiates each function, and why.
      snapshots: the module as it was at each stage.
      emitted: the module itself, after the last stage, and its callbacks.
      captured: the arrays that the functions capture.
    """

    traced: TracedRun
    platform: str
    ad: str
    decisions: tuple[Decision, ...]
    snapshots: pipeline.Snapshots
    emitted: emit_mlir.Traced
    captured: Captured


def lower_pieces(
    request: Request, traced: TracedRun, captured: Captured | None = None
) -> LoweredPieces:
    """The pieces of a step.

    If Enzyme fails and the user left the choice, JAX differentiates all, with a warning.

    Args:
      captured: where the arrays that the functions capture are collected; none so far if None.

    Raises:
      EnzymeError: Enzyme failed, and `ad` is "enzyme".
    """
    platform = jax_internals.default_platform()
    try:
        return pieces_for(traced, request.ad, platform, captured)
    except EnzymeError as error:
        if request.ad != "auto":
            raise
        meant = {
            "inner": "the gradient of " + " and of ".join(site.label for site in traced.sites),
            "step_vjp": f"the VJP of {traced.names[0]}",
            "outer_vjp": traced.names[1],
        }
        which = (
            f" (@{error.function} is {meant[error.function]})"
            if error.function is not None and f"@{error.function}" in str(error)
            else ""
        )
        warnings.warn(
            f"{str(error).removesuffix('.')}{which}. "
            "JAX differentiates this step instead; lowered.explain() says so.",
            stacklevel=users_level(),
        )
        pieces = pieces_for(traced, "jax", platform, captured)
        why = (str(error),)
        decisions = tuple(dataclasses.replace(each, why=why) for each in pieces.decisions)
        return dataclasses.replace(pieces, decisions=decisions)


def pieces_for(
    traced: TracedRun, ad: str, platform: str, captured: Captured | None = None
) -> LoweredPieces:
    """The pieces for a platform, with derivatives as `ad` says."""
    with auto_context():
        emitter, division, emitted = emit(traced, ad, platform, captured)

    def whole():
        with auto_context():
            return emitter.whole(traced.marked, traced.outer.jaxpr)

    snapshots = pipeline.run(
        emitted.module, platform=platform, devices=traced.devices, traced=whole
    )
    return LoweredPieces(
        traced, platform, ad, tuple(division.decisions), snapshots, emitted, emitter.captured
    )


def whole_step(traced: TracedRun, platform: str) -> ir.Module:
    """The step in one piece, which is only for reading."""
    of_site: list[emit_mlir.Derivatives] = [{} for _ in traced.sites]
    emitter = emit_mlir.Emitter(
        traced.sites, of_site, traced.active, traced.layout, traced.signature.wrt, platform
    )
    with auto_context():
        return emitter.whole(traced.marked, traced.outer.jaxpr)


def emit(
    traced: TracedRun, ad: str, platform: str, captured: Captured | None = None
) -> tuple[emit_mlir.Emitter, Division, emit_mlir.Traced]:
    """The module of the pieces, before any pass."""
    stage("tracing derivatives")
    division = divide(
        traced.marked, traced.sites, traced.outer.jaxpr, traced.names, traced.active, ad
    )
    stage("lowering to MLIR")
    emitter = emit_mlir.Emitter(
        traced.sites,
        division.of_site,
        traced.active,
        traced.layout,
        traced.signature.wrt,
        platform,
        traced.unchanged,
        traced.counters,
        traced.devices,
        Captured() if captured is None else captured,
    )
    pieces = _with_prints(division.pieces, traced, lambda function: function.printing)
    emitted = emitter.pieces(pieces)
    if emitted.muted and not (traced.step.printing and traced.outer.printing):
        # A backward rule prints, which shows only when JAX has made the backward pass.
        emitted = emitter.pieces(_with_prints(division.pieces, traced, lambda function: True))
    return emitter, division, emitted


def _with_prints(
    pieces: emit_mlir.Pieces, traced: TracedRun, chosen: Callable[..., bool]
) -> emit_mlir.Pieces:
    """The pieces, with what the step and the outer function print, if they are `chosen`."""
    return dataclasses.replace(
        pieces,
        prints=traced.step.prints() if chosen(traced.step) else None,
        outer_prints=traced.outer.prints() if chosen(traced.outer) else None,
    )

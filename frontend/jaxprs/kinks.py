"""Where a run has a kink or a jump, or narrows its floats, so that it is not smooth.

A relu or a maximum has a kink, a comparison a jump, and a narrower float makes a staircase. They
make finite differences of the run scatter, and say nothing against its derivative.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
from jax.extend import core
from jax.extend.core import primitives as P

from metagrad.compiler.dialect.metagrad import Layout
from metagrad.frontend import capabilities
from metagrad.frontend.capabilities import STEPS
from metagrad.frontend.dtypes import is_float
from metagrad.frontend.jaxprs.calls import plain
from metagrad.frontend.jaxprs.cuts import Place, file_and_name, places, rule_name
from metagrad.frontend.jaxprs.lines import is_in_packages
from metagrad.frontend.jaxprs.on_the_way import Passed
from metagrad.runtime import jax_internals

SMOOTH = {
    ("special.py", "logsumexp"),  # The maximum is subtracted and added again.
    ("reductions.py", "_logsumexp"),
    ("functions.py", "log_softmax"),
    ("functions.py", "_softmax"),
    ("functions.py", "_softmax_deprecated"),
    ("functions.py", "softplus"),  # Its rule looks for infinities ..
    ("ufuncs.py", "sinc"),  # .. and this one for zero.
    ("_classification.py", "safe_softmax_cross_entropy"),  # optax's
}
"""Functions of JAX and optax that are smooth, though they are made of operations with kinks."""

_KINKS = {
    P.abs_p,
    P.max_p,
    P.min_p,
    P.clamp_p,
    P.reduce_max_p,
    P.reduce_min_p,
    P.reduce_window_max_p,
    P.cummax_p,
    P.cummin_p,
    P.sort_p,
    P.top_k_p,
    *STEPS,
}

_PRODUCTS = {P.dot_general_p, P.conv_general_dilated_p}

_CHOICES = {P.select_n_p, P.cond_p}
"""These have one if what they choose by depends on what moves, and is not a mask of the data."""


def find_kinks(
    step: core.ClosedJaxpr, outer: core.ClosedJaxpr, layout: Layout, wrt: Sequence[str]
) -> tuple[Place, ...]:
    """The operations on the way that have a kink or a jump (`max`, `select_n`, `round`, a relu)."""
    return places(step, outer, layout, wrt, _kink_kind)


def find_narrow(
    step: core.ClosedJaxpr, outer: core.ClosedJaxpr, layout: Layout, wrt: Sequence[str]
) -> tuple[Place, ...]:
    """Where the floats on the way have less precision than what they are made of or make.

    These are conversions to a narrower float, and products of operands in one. Each rounds, so that
    the run is a staircase.
    """
    return places(step, outer, layout, wrt, _narrow_kind)


# --- Which equations are looked for ---------------------------------------------------------------


def _kink_kind(passed: Passed) -> str | None:
    kind = _kink_name(passed)
    return kind if kind and not _is_in_smooth_function(passed.eqn, passed.enclosing) else None


def _kink_name(passed: Passed) -> str | None:
    eqn = passed.eqn
    if eqn.primitive in _KINKS or (eqn.primitive in _CHOICES and passed.is_decided):
        return eqn.primitive.name
    if eqn.primitive is P.custom_jvp_call_p and capabilities.true_rule(eqn.params):
        name = rule_name(eqn)
        return name if name in ("relu", "relu6") else None
    return None


def _narrow_kind(passed: Passed) -> str | None:
    eqn = passed.eqn
    before: Any = eqn.invars[0].aval if eqn.invars else None
    after: Any = eqn.outvars[0].aval
    if before is None or not is_float(before) or not is_float(after):
        return None
    if eqn.primitive is P.convert_element_type_p and _is_narrower(after, before):
        return f"a conversion to {after.dtype}"
    if eqn.primitive is P.reduce_precision_p:
        bits, given = eqn.params["mantissa_bits"], jax.numpy.finfo(before.dtype).nmant
        return f"a rounding to {bits} bits of mantissa" if bits < given else None
    if eqn.primitive in _PRODUCTS:
        # One that is wider is what moves, where the other is an array that the step captures.
        if all(_is_narrower(operand.aval, after) for operand in eqn.invars):
            return f"a product of {before.dtype} operands"
        return f"a product in {after.dtype}" if _is_narrower(after, before) else None
    return None


def _is_narrower(aval: Any, other: Any) -> bool:
    return aval.dtype.itemsize < other.dtype.itemsize


# --- Functions whose kinks cancel -----------------------------------------------------------------


def _is_in_smooth_function(eqn: core.JaxprEqn, enclosing: Sequence[core.JaxprEqn]) -> bool:
    """Whether a kink is one that a smooth function of JAX's own (`SMOOTH`) cancels."""
    around = enclosing[-1] if enclosing else None
    jitted = _library_function(around)
    for frame in jax_internals.frames(eqn):
        name = file_and_name(frame)
        if _is_of_user(frame.file_name):
            return False
        if name in SMOOTH:
            return True
        if jitted and (frame.file_name, name[1]) == jitted:
            break
    # JAX keeps what a jitted function was traced to, so the frames beyond it may be those of an
    # earlier call. Those of the equation that calls it are right.
    return around is not None and bool(jitted) and _is_in_smooth_function(around, enclosing[:-1])


def _library_function(eqn: core.JaxprEqn | None) -> tuple[str, str] | None:
    """File and name of the function that an equation calls as it is, unless it is the user's."""
    called = None if eqn is None else plain(eqn)
    if called is None:
        return None
    info = called.jaxpr.debug_info
    file = info.func_filename
    return (file, info.func_name) if file and not _is_of_user(file) else None


def _is_of_user(file: str) -> bool:
    return jax_internals.is_user_file(file) and not is_in_packages(file)

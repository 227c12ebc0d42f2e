"""Where a run cuts or replaces its derivative.

    m' = stop_gradient(0.9 * m + 0.1 * mean(x @ w));  w' = w - z * g(w, m)

The derivative of w' in z through m is cut in JAX, and so in the metagradient. A finite difference
sees m move. `find_cuts` names such places: each stop_gradient, and each custom rule that is not
known to be the derivative of its function.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Sequence
from typing import Any

import jax
from jax.extend import core
from jax.extend.core import primitives as P

from metagrad.compiler.dialect.metagrad import Layout
from metagrad.frontend import capabilities
from metagrad.frontend.jaxprs.calls import call, map_functions, plain
from metagrad.frontend.jaxprs.expand_gradients import expand_gradients
from metagrad.frontend.jaxprs.interpret import bind, equations, interpret
from metagrad.frontend.jaxprs.lines import is_in_packages
from metagrad.frontend.jaxprs.on_the_way import Passed, on_the_way
from metagrad.runtime import jax_internals

HARMLESS = {
    ("special.py", "logsumexp"),  # The maximum is subtracted and added again, ..
    ("reductions.py", "_logsumexp"),
    ("functions.py", "log_softmax"),
    ("functions.py", "_softmax"),
    ("functions.py", "_softmax_deprecated"),
    ("ufuncs.py", "sinc"),  # .. what is rounded has no derivative, ..
    ("core.py", "_truncated_normal"),  # .. nor has a value that is clipped, ..
    ("linalg.py", "_solve"),  # .. the factors give a solution whose derivative is another solve, ..
    ("conditionals.py", "_cond_batching_rule"),  # .. and a branch that is not taken has none.
}
"""JAX's own functions whose stop_gradient leaves the derivative as it is: file and function."""

STOP = "stop_gradient"

_CUSTOM_RULES = {"custom_derivatives.py", "hijax.py"}
"""Where JAX calls a function with a custom rule."""


@dataclasses.dataclass(frozen=True)
class Place:
    """One equation of the user's program, in the user's terms.

    Attributes:
      kind: "stop_gradient", "custom_jvp", "custom_vjp", "custom rule", or a primitive.
      function: the function that it stands in; for a custom rule, the function that has the rule.
      line: file and line of that function; empty where JAX does not know it.
      caller: file and line of the user's code that calls it, where `line` is in a library.
    """

    kind: str
    function: str
    line: str
    caller: str

    def __str__(self) -> str:
        where = ", called at ".join(filter(None, [self.line, self.caller]))
        name = f"{self.kind} in {self.function}" if self.kind == STOP else self._of_function
        return f"{name} ({where})" if where else name

    @property
    def _of_function(self) -> str:
        return f"{self.kind} of {self.function}" if self.kind.startswith("custom") else self.kind


def find_cuts(
    step: core.ClosedJaxpr, outer: core.ClosedJaxpr, layout: Layout, wrt: Sequence[str]
) -> tuple[Place, ...]:
    """The stop_gradients and custom rules between what `wrt` names and the outer value.

    They are where the metagradient, which is JAX's derivative, may differ from what finite
    differences show. A stop that cuts nothing is not among them: no value that `wrt` reaches goes
    in, or nothing that reaches the outer value comes out.

    Args:
      step, outer: the traced functions over flat leaves.
    """
    everything = [*equations(step.jaxpr), *equations(outer.jaxpr)]
    if not any(map(cut_kind, everything)):
        return ()
    return places(step, outer, layout, wrt, lambda passed: cut_kind(passed.eqn))


def places(
    step: core.ClosedJaxpr,
    outer: core.ClosedJaxpr,
    layout: Layout,
    wrt: Sequence[str],
    kind_of: Callable[[Passed], str | None],
) -> tuple[Place, ...]:
    """The equations between what `wrt` names and the outer value that are of some kind, once each.

    Args:
      kind_of: the kind of place that an equation is, or None.
    """
    named: dict[Place, None] = {}
    for passed in on_the_way(step, outer, layout, wrt):
        if kind := kind_of(passed):
            named[_place(kind, passed.eqn, passed.enclosing)] = None
    return tuple(named)


# --- Which equations are looked for ---------------------------------------------------------------


def cut_kind(eqn: core.JaxprEqn) -> str | None:
    """ "stop_gradient" or the kind of rule, if an equation is a cut; else None."""
    if eqn.primitive is P.stop_gradient_p:
        return None if _is_harmless(eqn) else STOP
    if capabilities.has_true_derivative(eqn):
        return None
    names = {P.custom_jvp_call_p: "custom_jvp", P.custom_vjp_call_p: "custom_vjp"}
    return names.get(eqn.primitive, "custom rule")


def _is_harmless(stop: core.JaxprEqn) -> bool:
    """Whether a stop_gradient is one of JAX's own that leaves the derivative as it is."""
    frames = jax_internals.frames(stop)
    of_jax = []
    for frame in frames:
        if jax_internals.is_user_file(frame.file_name):
            break
        if not frame.function_name.endswith(">"):  # a lambda or, before 3.12, a comprehension
            of_jax.append(frame)
    stops = [i for i, frame in enumerate(of_jax) if STOP in frame.function_name]
    if not stops:
        # In a rule, since that has the frames of what it is the rule of. A primitive's is right
        # (that of asinh has a stop), a user's need not be.
        files = {os.path.basename(frame.file_name) for frame in of_jax}
        return bool(frames) and files.isdisjoint(_CUSTOM_RULES)
    caller = of_jax[stops[-1] + 1 : stops[-1] + 2]
    return any(file_and_name(frame) in HARMLESS for frame in caller)


def file_and_name(frame: Any) -> tuple[str, str]:
    return os.path.basename(frame.file_name), frame.function_name.split(".")[-1]


# --- Where they are -------------------------------------------------------------------------------


def _place(kind: str, eqn: core.JaxprEqn, enclosing: Sequence[core.JaxprEqn]) -> Place:
    """The place of an equation, of which `enclosing` are those around it."""
    nearest = (jax_internals.user_frames(inner) for inner in (eqn, *reversed(enclosing)))
    frames = next(filter(None, nearest), [])
    if kind.startswith("custom"):
        name = rule_name(eqn)
    else:
        name = _function_name(frames[0]) if frames else "the step"
    if not frames:
        return Place(kind, name, "", "")
    caller = ""
    if _is_library(frames[0]):
        # JAX keeps what a jitted function was traced to, so the frames inside of it may be those
        # of an earlier call.
        jits = [jax_internals.user_frames(outer) for outer in enclosing if plain(outer) is not None]
        of_user = [f for f in next(filter(None, jits), frames) if not _is_library(f)]
        caller = _line(of_user[0]) if of_user else ""
    return Place(kind, name, _line(frames[0]), caller)


def rule_name(eqn: core.JaxprEqn) -> str:
    function = eqn.params.get("call_jaxpr")
    if function is None:
        return jax_internals.kind_of_hi_primitive(eqn.params).__name__
    jaxpr = function.jaxpr if isinstance(function, core.ClosedJaxpr) else function
    return jaxpr.debug_info.func_name


def _function_name(frame: Any) -> str:
    """The user's function by its own name, a closure of a library by the function that makes it.

    optax's transformations are closures: `scale_by_lbfgs.<locals>.update_fn`.
    """
    names = frame.function_name.split(".<locals>.")
    name = names[0] if _is_library(frame) else names[-1]
    return "a lambda" if name == "<lambda>" else name


def _line(frame: Any) -> str:
    file = os.sep.join(frame.file_name.split(os.sep)[-3:])
    return f"{file}:{frame.start_line}"


def _is_library(frame: Any) -> bool:
    return is_in_packages(frame.file_name)


# --- The function without them --------------------------------------------------------------------


def take_out_cuts(closed: core.ClosedJaxpr) -> core.ClosedJaxpr:
    """The same function, whose derivative goes through each cut as through what it computes.

    Inner gradients are those of the function as it was: their stops are part of what it computes.
    """
    return _without_cuts(expand_gradients(closed))


def _without_cuts(closed: core.ClosedJaxpr) -> core.ClosedJaxpr:
    if not any(map(cut_kind, equations(closed.jaxpr))):
        return closed
    return jax.make_jaxpr(lambda *args: interpret(closed, args, _take_out))(*closed.in_avals)


def _take_out(eqn: core.JaxprEqn, operands: Sequence[Any]) -> list | None:
    if cut_kind(eqn) == STOP:
        return list(operands)
    called = call(eqn)
    if called is None:
        return None
    if called.has_rule:
        if cut_kind(eqn) is None or not called.bodies:
            return None
        return interpret(called.bodies[0].jaxpr, operands, _take_out)
    params = map_functions(eqn.params, _without_cuts)
    return None if params is eqn.params else bind(eqn.replace(params=params), operands)

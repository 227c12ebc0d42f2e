"""`metagrad.check`: a metagradient against finite differences of its run."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from metagrad.api.check_approximation import check_approximation
from metagrad.api.check_options import check_options, check_values
from metagrad.api.metagradient import Metagradient
from metagrad.diagnostics import finite_differences
from metagrad.diagnostics.approximation_report import ApproximationReport
from metagrad.diagnostics.check_report import CheckReport
from metagrad.diagnostics.directions import Direction, choose_directions, leaves_to_fix
from metagrad.diagnostics.finite_differences import DISAGREES, NOT_SMOOTH, DirectionCheck
from metagrad.diagnostics.plain_run import PlainRun, in_double, plain_run
from metagrad.frontend.jaxprs import cuts, kinks
from metagrad.frontend.jaxprs.auto_axes import auto_context

DOUBLE_SIZES = tuple(float(f"{h:.2g}") for h in np.geomspace(1e-1, 1e-9, 17))
SINGLE_SIZES = DOUBLE_SIZES[:9]


def check(
    mg: Metagradient,
    state0: Any,
    meta: Any,
    batches: Any,
    *outer_args: Any,
    directions: int = 3,
    seed: int = 0,
    leaf: str | None = None,
    index: Any = None,
    step_sizes: Sequence[float] | None = None,
    x64: bool | None = None,
) -> CheckReport | ApproximationReport:
    """Compares a metagradient with finite differences of its training run.

    The run is a plain `lax.scan` of the step, and then the outer function. It is made at points
    along the metagradient and along random directions, at a range of step sizes, and the central
    differences are compared with the metagradient's product with the direction. A step of size h
    moves each entry by about h times the root mean square of its leaf (of all that moves, for a
    leaf of zeros). A leaf with zeros next to which the run is not finite stays, as an optimiser's
    second moments do; the verdict says which, and is not about them.

    The numbers in the report are derivatives along the direction: where one entry moves, that of
    the metagradient is its own entry, as `mg(...).grad` has it; where one leaf moves, the sum of
    the gradient times entries with the root mean square 1; where several do, the entries for each
    leaf are scaled by its root mean square.

    An approximate metagradient (`approximation=` of `TrainStep.metagradient`) is compared with the
    exact one instead, and the report is a `metagrad.ApproximationReport`: the angle between the
    two, overall and in each leaf. It costs both metagradients, and takes none of the options.

    It costs one metagradient, and for each direction two plain runs for each step size and nine
    more; and, if the run is not finite next to these arguments, two for each leaf with zeros. They
    are compiled once.

    Args:
      mg: a metagradient: `train_step.metagradient(outer)`.
      state0, meta, batches, outer_args: what `mg` is called with.
      directions: how many random directions over the float leaves that `wrt` names. One more
        direction is the metagradient's own. Where a single entry moves, there is one direction.
      seed: of the random directions.
      leaf: the path of one leaf or part of a tree, as errors print it: "meta['rate']". Nothing else
        moves.
      index: an index into that leaf, as NumPy takes it: one example's weight, say.
      step_sizes: at least four, positive. By default 17 from 1e-1 to 1e-9 in float64, and 9 from
        1e-1 to 1e-5 in other floats.
      x64: whether the arguments are cast to float64 and the run and the metagradient made in x64
        mode, where rounding hides least. None: if all of the run is in float64 then, and as the
        arguments are otherwise; the report says why. Random draws differ between the two.

    Returns:
      A `CheckReport`. Its `verdict` is "agrees", "disagrees", "not smooth" or "cannot tell", and
      printing it shows the numbers and what they mean. Of an approximation it is an
      `ApproximationReport`, whose verdict is "approximate".

    Raises:
      TypeError: `mg` is not a metagradient, `leaf` is not a path, or an argument has no value
        (under `jax.jit`, say).
      ValueError: an option is not one of the above, `leaf` names nothing that `wrt` names,
        `x64=True` and the run cannot be in float64, or the outer value is a vector.
      FloatingPointError: the run's value or the metagradient is not finite.

    >>> import jax.numpy as jnp, metagrad
    >>> step = metagrad.compile(lambda w, rate, x: w - rate * (w - x))
    >>> mg = step.metagradient(lambda w: jnp.sum(w**2))
    >>> metagrad.check(mg, jnp.zeros(2), 0.1, jnp.ones((3, 2))).verdict
    'agrees'
    """
    check_options(mg, directions, index, leaf, step_sizes, x64)
    arguments = (state0, meta, batches, outer_args)
    check_values(arguments)
    if mg.request.approximations:
        differences = {"leaf": leaf, "index": index, "step_sizes": step_sizes, "x64": x64}
        return check_approximation(mg, arguments, differences)
    run, precision = _run_of(mg, arguments, x64)
    with run.precision():
        gradients = _gradients(mg, run)
    with run.precision(), auto_context():
        choose = functools.partial(
            choose_directions,
            run,
            mg.request.wrt,
            gradients,
            directions,
            seed,
            leaf,
            index,
        )
        chosen = choose()
        fixed: tuple[str, ...] = ()
        value_at = _value_at(run)
        sizes = _sizes(run, step_sizes)
        value = _value(value_at(chosen[0], 0.0))
        is_finite = functools.partial(_is_finite_at, value_at, sizes[-1])
        if leaf is None and not all(map(is_finite, chosen)):
            # An optimiser's second moments start at zero, and have no square root below.
            fixed = leaves_to_fix(run, mg.request.wrt, chosen[-1], is_finite)
            chosen = choose(fixed)
        checks = _differences(run, chosen, sizes, value_at)
        flows = run.step, run.outer, run.layout, mg.request.wrt
        places = cuts.find_cuts(*flows)
        kinked, narrow = kinks.find_kinks(*flows), kinks.find_narrow(*flows)
        without: tuple[float, ...] = ()
        if places or any(each.verdict != finite_differences.AGREES for each in checks):
            without = _derivatives_without_cuts(run, chosen)
            checks = [
                _with_evidence(c, w, bool(kinked or narrow), bool(narrow))
                for c, w in zip(checks, without)
            ]
    return CheckReport(
        finite_differences.together(checks),
        tuple(checks),
        _name(mg.request.wrt, leaf, index, chosen[0].paths),
        chosen[0].paths,
        value,
        str(run.dtype),
        precision,
        fixed,
        places,
        kinked,
        narrow,
        without,
    )


# --- The run and its metagradient -----------------------------------------------------------------


def _run_of(mg: Metagradient, arguments: tuple, x64: bool | None) -> tuple[PlainRun, str]:
    """The run, in float64 if that is possible and wanted; and why not, in words."""

    request = mg.request

    def trace_run(arguments: tuple) -> PlainRun:
        return plain_run(
            request.step, request.outer, arguments, request.step_has_aux, request.has_aux
        )

    run = trace_run(arguments)
    if run.outer.out_avals[0].shape:
        name = mg.request.outer_name
        raise ValueError(
            f"metagrad.check compares the gradient of one value, and the outer function `{name}` "
            f"returns a vector of {run.outer.out_avals[0].shape[0]}. Check one query at a time: "
            "give it the metagradient of an outer function that returns an entry of the vector."
        )
    leaves = [leaf for tree in run.trees.values() for leaf in tree.leaves if leaf.is_float]
    if run.dtype == np.float64 and all(leaf.aval.dtype == np.float64 for leaf in leaves):
        return run, ""
    if x64 is False:
        return run, "x64=False was given"
    run, reason = in_double(run, trace_run, mg.request.wrt)
    if reason and x64:
        raise ValueError(f"x64=True, but {reason}. x64=None checks it as it is.")
    return run, reason


def _gradients(mg: Metagradient, run: PlainRun) -> dict[str, list[np.ndarray]]:
    """The metagradient's leaves by the name of what they are of.

    Raises:
      FloatingPointError: an entry is not finite.
    """
    grad = mg(*run.arguments[:3], *run.arguments[3]).grad
    trees = {mg.request.wrt[0]: grad} if mg.request.single else dict(zip(mg.request.wrt, grad))
    gradients = {}
    for name, tree in trees.items():
        described = run.trees[name]
        gradients[name] = [
            np.asarray(array, float) if leaf.is_float else np.zeros(leaf.aval.shape)
            for leaf, array in zip(described.leaves, described.arrays(tree))
        ]
        for leaf, array in zip(described.leaves, gradients[name]):
            if not np.isfinite(array).all():
                raise FloatingPointError(
                    f"the metagradient has a NaN or infinity in the gradient of {leaf.path}, so "
                    "there is nothing to compare. metagradient(check_nans=True) says where it "
                    "comes from."
                )
    return gradients


# --- The differences ------------------------------------------------------------------------------


def _sizes(run: PlainRun, step_sizes: Sequence[float] | None) -> tuple[float, ...]:
    """The step sizes, from large to small."""
    if step_sizes is not None:
        return tuple(sorted(map(float, step_sizes), reverse=True))
    return DOUBLE_SIZES if run.dtype == np.float64 else SINGLE_SIZES


def _value_at(run: PlainRun) -> Callable[[Direction, float], float]:
    """The run's value at a step of some size along a direction."""
    arrays = run.arrays()
    moved = jax.jit(lambda h, arrays, entries: run.value(_moved(arrays, entries, h)))
    return lambda direction, h: float(moved(h, arrays, direction.entries))


def _value(value: float) -> float:
    """The value that the run has without a step.

    Raises:
      FloatingPointError: it is not finite.
    """
    if not math.isfinite(value):
        raise FloatingPointError(
            f"the run's value is {value} at these arguments, so there is nothing to compare"
        )
    return value


def _is_finite_at(
    value_at: Callable[[Direction, float], float], h: float, direction: Direction
) -> bool:
    return all(math.isfinite(value_at(direction, step)) for step in (-h, h))


def _differences(
    run: PlainRun,
    chosen: list[Direction],
    sizes: tuple[float, ...],
    value_at: Callable[[Direction, float], float],
) -> list[DirectionCheck]:
    """The check of each direction."""
    epsilon = float(jax.numpy.finfo(run.dtype).eps)
    # Along its own direction a gradient is larger than along others by the root of their number.
    typical = [d.metagradient for d in chosen if d.name != "gradient"] or [0.0]
    least = 0.1 * float(np.sqrt(np.mean(np.square(typical))))

    def along(direction: Direction) -> DirectionCheck:
        f = functools.cache(functools.partial(value_at, direction))
        judged = finite_differences.judge(
            direction.name, f, direction.metagradient, sizes, epsilon, least
        )
        return judged.divided_by(direction.unit)

    return list(map(along, chosen))


def _moved(arrays: dict[str, list], entries: dict[str, dict[int, Any]], h: Any) -> dict[str, list]:
    return arrays | {
        name: [
            array + (h * moves[i]).astype(array.dtype) if i in moves else array
            for i, array in enumerate(arrays[name])
        ]
        for name, moves in entries.items()
    }


def _derivatives_without_cuts(run: PlainRun, chosen: list[Direction]) -> tuple[float, ...]:
    """JAX's derivative along each direction, in forward mode, with all cuts taken out.

    NaN where JAX has none: a rule may stand before something that JAX does not differentiate.
    """
    try:
        uncut = run.without_cuts()
        arrays = uncut.arrays()
        slope = jax.jit(
            lambda entries, arrays: jax.jvp(
                lambda h: uncut.value(_moved(arrays, entries, h)), (0.0,), (1.0,)
            )[1]
        )
        return tuple(float(slope(each.entries, arrays)) / each.unit for each in chosen)
    # What a rule stood before may fail in any way: the differences stand all the same.
    except Exception:
        return (math.nan,) * len(chosen)


def _with_evidence(
    judged: DirectionCheck, without_cuts: float, rough: bool, narrow: bool
) -> DirectionCheck:
    """The check, where JAX itself can say more than the differences.

    Over many kinks differences may settle on an average slope, which no derivative is, and on a
    step of a staircase on zero. If JAX's derivative in forward mode, with nothing cut, is the
    metagradient, then that is the derivative where it has one.
    """
    # Forward and reverse mode round differently. The unit in the last place of bfloat16 is 0.008.
    slack = 0.03 if narrow else 0.01
    near = abs(without_cuts - judged.metagradient) <= slack * abs(judged.metagradient)
    if judged.verdict == DISAGREES and near and rough:
        return dataclasses.replace(judged, verdict=NOT_SMOOTH)
    return judged


# --- What was moved ------------------------------------------------------------------------------


def _name(wrt: tuple[str, ...], leaf: str | None, index: Any, moved: tuple[str, ...]) -> str:
    """What was moved, in words: of `wrt` only the trees of which a leaf was."""
    if leaf is None:
        return " and ".join(name for name in wrt if any(path.startswith(name) for path in moved))
    return leaf if index is None else f"{leaf}[{index!r}]"

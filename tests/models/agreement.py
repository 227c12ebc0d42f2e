"""Compares a metagradient in f64 and f32 with JAX's gradient of the same run.

The oracle is `jax.grad` through a `lax.scan` of the plain step, in f64; a scan's derivative is that
of the unrolled loop. Both runs start from the same numbers, rounded to f32 once. Where the f32 run
is further than 1e-5 from f64, JAX's own f32 gradient is measured too, and ours must be no further
off than twice that. The comparison also says who differentiated what.
"""

import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np
import problems
from exact import unrolled

import metagrad

TINY = 1e-9  # of its group: what a leaf that has no effect may have for a gradient in f64


@dataclasses.dataclass(frozen=True)
class Agreement:
    """How far the gradient is from JAX's.

    Errors are the largest of any leaf, relative to the leaf's largest entry.

    Attributes:
      value: the error of the outer function's value and of the final state in f64, relative
          likewise.
      double, single: the errors of the f64 and f32 runs, both against JAX in f64.
      by_jax: the error of JAX's own f32 gradient; None if it was not needed.
      loss, update, outer: the rules by which they are differentiated; `loss` has one for each inner
          gradient.
      reasons: why something is not differentiated by Enzyme.
    """

    value: float
    double: float
    single: float
    by_jax: float | None
    loss: tuple[str, ...]
    update: str
    outer: str
    reasons: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Run:
    step: metagrad.TrainStep
    outer: object
    wrt: tuple[str, ...]
    arguments: tuple
    no_effect: str


def compare(make, optimiser, steps=4, schedule=None):
    """Runs everything and checks structures and types; the errors are for `check`.

    Args:
      make: gives the `Problem`; called in f32 and in x64 mode, because a model may fix a type when
          it is made.
      optimiser: gives the optimiser, likewise.
      steps: T.
    """
    with jax.enable_x64(False):
        single = _run(make(), optimiser(), steps)
        lowered32, result32 = _metagradient(single, schedule)
    with jax.enable_x64(True):
        double = _run(_like(make(), single), optimiser(), steps)
        lowered, result = _metagradient(double, schedule)
        want = oracle(double)
        errors = _errors(_floats(result.grad, double), want[1], double)
        of_value = _largest(
            {"value": abs(float(result.value / want[0] - 1))}
            | _final_state_errors(result.state, want[2], double)
        )
    of_single = _errors(_floats(result32.grad, single), want[1], double)
    by_jax = None
    if _largest(of_single) > unrolled.SINGLE:
        with jax.enable_x64(False):
            of_jax = oracle(single)[1]
        by_jax = _largest(_errors(of_jax, want[1], double))
    rules = [decision.rule for decision in lowered.decisions]
    assert rules == [decision.rule for decision in lowered32.decisions]
    *losses, update, outer = rules
    reasons = tuple(reason for decision in lowered.decisions for reason in decision.why)
    return Agreement(
        of_value,
        _largest(errors),
        _largest(of_single),
        by_jax,
        tuple(losses),
        update,
        outer,
        reasons,
    )


def check(agreement):
    """The bounds: 1e-11 in f64, and 1e-5 in f32 or what rounding makes of JAX's own."""
    assert agreement.value <= unrolled.DOUBLE
    assert agreement.double <= unrolled.DOUBLE
    assert agreement.single <= unrolled.SINGLE or agreement.single <= 2 * agreement.by_jax


def all_by_enzyme(agreement, but_for=()):
    """Whether Enzyme differentiates every function, but for the operations that are named."""
    return all(reason.split(":")[0] in but_for for reason in agreement.reasons) and (
        bool(agreement.reasons)
        or {*agreement.loss, agreement.update, agreement.outer} == {"enzyme"}
    )


def _largest(errors):
    return float(np.max(list(errors.values())))  # a NaN among them is the largest


def _run(problem, optimiser, steps):
    step, outer, state, meta = problems.training(problem, optimiser)
    random = np.random.default_rng(0)
    batches, held_out = problem.task.draw(random, steps), problem.task.draw(random)
    arguments = jax.tree.map(_in_precision, (state, meta, batches, held_out))
    names = (
        ("meta", "state", "batches")
        if any(map(unrolled.is_float, jax.tree.leaves(batches)))
        else ("meta", "state")
    )
    return Run(step, outer, names, arguments, problem.no_effect)


def _like(problem, run):
    """The problem with the real numbers of the f32 run.

    Counters and keys stay the problem's, since their types differ with the mode.
    """
    state = run.arguments[0]
    leaf = lambda new, old: _in_precision(old) if unrolled.is_float(old) else new
    take = lambda tree, old: jax.tree.unflatten(
        jax.tree.structure(tree), map(leaf, jax.tree.leaves(tree), jax.tree.leaves(old))
    )
    return problem._replace(
        params=take(problem.params, state["params"]),
        carried=take(problem.carried, state["carried"]),
    )


def _in_precision(leaf):
    return jnp.asarray(leaf, jnp.result_type(float)) if unrolled.is_float(leaf) else leaf


def _metagradient(run, schedule):
    lowered = run.step.metagradient(run.outer, run.wrt, schedule=schedule).lower(*run.arguments)
    return lowered, lowered.compile()(*run.arguments)


def oracle(run):
    """(value, gradient, final state) by JAX."""
    state, meta, batches, held_out = run.arguments
    arguments = {"state": state, "meta": meta, "batches": batches}
    parts = {name: unrolled.split(arguments[name], unrolled.is_float) for name in run.wrt}

    def phi(floats):
        trees = arguments | {name: parts[name][1](floats[name]) for name in run.wrt}
        final, _ = jax.lax.scan(
            lambda s, batch: (run.step(s, trees["meta"], batch), None),
            trees["state"],
            trees["batches"],
        )
        return run.outer(final, held_out), final

    (value, final), gradients = jax.jit(jax.value_and_grad(phi, has_aux=True))(
        {name: parts[name][0] for name in run.wrt}
    )
    return value, [gradients[name] for name in run.wrt], final


def _floats(grad, run):
    """The gradient's float leaves, group by group; the others must be float0 zeros."""
    arguments = dict(zip(("state", "meta", "batches"), run.arguments))
    groups = []
    for name, tree in zip(run.wrt, grad, strict=True):
        leaves, argument_leaves = jax.tree.leaves(tree), jax.tree.leaves(arguments[name])
        for leaf, like in zip(leaves, argument_leaves, strict=True):
            assert leaf.dtype == (like.dtype if unrolled.is_float(like) else jax.dtypes.float0), (
                name
            )
        groups.append(list(filter(unrolled.is_float, leaves)))
    return groups


def _errors(grad, want, run):
    """The relative error of each float leaf of the gradient, by path."""
    grad, want = jax.device_get((grad, want))
    arguments = dict(zip(("state", "meta", "batches"), run.arguments))
    errors = {}
    for name, got, wanted in zip(run.wrt, grad, want, strict=True):
        errors |= _relative(name, arguments[name], got, wanted, run.no_effect)
    return errors


def _final_state_errors(got, want, run):
    """The same for the final state, whose other leaves must be equal."""
    for g, w in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        if not unrolled.is_float(w):
            np.testing.assert_array_equal(unrolled.numbers(g), unrolled.numbers(w))
    floats = [
        jax.device_get(list(filter(unrolled.is_float, jax.tree.leaves(state))))
        for state in (got, want)
    ]
    return _relative("state", run.arguments[0], *floats, run.no_effect)


def _relative(name, tree, got, want, no_effect):
    """Errors relative to each leaf's largest entry.

    A leaf without effect is compared on the scale of the whole gradient, since it is only rounding.
    """
    paths = [
        name + jax.tree_util.keystr(path)
        for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]
        if unrolled.is_float(leaf)
    ]
    largest = max(np.abs(leaf).max() for leaf in want)
    errors = {}
    for path, g, w in zip(paths, got, want, strict=True):
        assert g.shape == w.shape and np.isfinite(w).all() and np.isfinite(g).all(), path
        scale = np.abs(w).max()
        if no_effect and re.search(no_effect, path):
            assert scale <= TINY * largest, f"{path} has an effect"
            scale = largest
        error = np.abs(np.asarray(g, np.float64) - w).max()
        errors[path] = float(error / scale if scale else error)
    return errors

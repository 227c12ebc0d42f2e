"""`metagrad.descent`: metagradient descent, with any optimiser of optax."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from typing import Any

from metagrad.mgd import options
from metagrad.mgd.display import shown
from metagrad.mgd.identity import identity
from metagrad.mgd.problems import Evaluation
from metagrad.mgd.results import DescentResult, Round
from metagrad.mgd.rounds import Position, Rounds
from metagrad.mgd.saved import opened
from metagrad.mgd.stopping import StoppingRules
from metagrad.mgd.updates import Updates
from metagrad.mgd.variables import Variables
from metagrad.runtime.streams import Stream


def descent(
    mg: Callable[..., Any],
    meta0: Any,
    problem: Callable[..., tuple],
    optimizer: Any,
    *,
    rounds: int,
    key: Any = 0,
    seeds: int = 1,
    projection: Callable[[Any], Any] | None = None,
    seconds: float | None = None,
    patience: int | None = None,
    min_gain: float = 0.0,
    callback: Callable[[Round], object] | None = None,
    progress: Any = None,
    resume_dir: str | os.PathLike | None = None,
    save_every: float = 10.0,
) -> DescentResult:
    """Metagradient descent: lowers the outer value by steps on the metaparameters.

    A round draws the problem, takes the metagradient of the whole run, and makes one step of the
    optimiser. All rounds and seeds are calls of one compiled program, as long as the problem's
    shapes stay the same.

    Args:
      mg: `train_step.metagradient(outer)`, or what is called and answers like one: a compiled or
        loaded metagradient, `metagrad.mgd.truncated`, `metagrad.mgd.surrogate`.
      meta0: the metaparameters of round 0, any pytree. Its floating-point leaves are optimised.
        With `wrt` of "state" or "batches" it is what that names, and for a tuple a tuple of them.
      problem: `problem(round, key)`, round an int from 0, key a key of `jax.random`. It returns
        the tuple (state0, batches, *outer_args): what `mg` is called with, without what is
        optimised. (So with wrt="state" it is (meta, batches, *outer_args).) The same round and key
        must give the same again. Batches may be a `metagrad.Stream`. A problem with a parameter
        named `meta` is called with `meta=` the metaparameters too.
      optimizer: any `optax.GradientTransformation`; its steps lower the value. `update` is also
        passed `value` and `grad`, for the transformations that use them. A line search, as in
        `optax.lbfgs()`, does not work: it wants to evaluate between rounds. A schedule over rounds
        is optax's own: `optax.adam(optax.cosine_decay_schedule(0.1, rounds))`.
      rounds: how many, at most. A round costs `seeds` metagradients.
      key: of all draws, an integer or a key of `jax.random`. Seed s of round r is given
        `fold_in(fold_in(key, r), s)`.
      seeds: problems per round, whose values and gradients are averaged.
      projection: called with the metaparameters after each step, returns them in the set that is
        allowed: `lambda meta: optax.projections.projection_box(meta, 0.0, 1.0)` for one array.
        (optax wants bounds of the structure of what it projects: of a dict, project each leaf.)
      seconds: stop after the round in which the rounds have taken this long in all.
      patience: stop when the value has not fallen for this many rounds.
      min_gain: by how much a value must be lower to count as fallen.
      callback: called with a `metagrad.mgd.Round` after each round; True ends the descent.
      progress: None shows a line on a terminal or in a notebook after two seconds, unless
        METAGRAD_PROGRESS=0; True shows it at once, and as plain lines where there is no terminal;
        False shows nothing. A function is called with a `metagrad.mgd.DescentProgress`.
      resume_dir: a directory that is kept up to date, so that the same call goes on after a kill,
        with the same bits. A call with more rounds goes on from the last one, too.
      save_every: seconds between two savings, at least. The end is saved in any case.

    Returns:
      A `metagrad.mgd.DescentResult`: `meta`, `best`, `history`, `reason`.

    Raises:
      metagrad.mgd.NotFiniteError: a round's value or gradient is not finite. Its `descent` is the
        result so far. All exceptions that end a descent carry it so, KeyboardInterrupt too.
      metagrad.JournalError: `resume_dir` holds another descent, or cannot be used.
      TypeError, ValueError: an argument is not one of the above.

    >>> import jax.numpy as jnp, optax, metagrad
    >>> @metagrad.compile
    ... def step(w, rate, x):
    ...     return w - rate * metagrad.grad(lambda w: jnp.sum((w - x) ** 2))(w)
    >>> mg = step.metagradient(lambda w: jnp.sum((w - 1) ** 2))
    >>> problem = lambda round, key: (jnp.zeros(2), jnp.ones((3, 2)))
    >>> result = metagrad.descent(mg, 0.1, problem, optax.sgd(0.02), rounds=20)
    >>> result.history[0].value > 100 * result.best.value
    True
    """
    options.check_functions(mg, problem, projection, callback)
    options.check_optimizer(optimizer)
    options.check_numbers(rounds, seeds, patience, seconds, min_gain)
    options.check_saving(resume_dir, save_every, progress)
    variables = Variables(meta0, "meta0")
    update = Updates(optimizer, projection, variables, seeds)
    evaluation = Evaluation(mg, problem, variables, options.as_key(key))
    rules = StoppingRules(rounds, seconds, patience, min_gain)
    position = Position(variables.floats, update.init(variables.floats))
    first = evaluation.first()
    with contextlib.ExitStack() as stack:
        listeners = []
        if resume_dir is not None:
            same = identity(evaluation, first, variables, update, seeds)
            saved = stack.enter_context(opened(resume_dir, same, position, save_every))
            position = saved.position()
            listeners.append(saved.report)
        display = stack.enter_context(shown(progress, rounds, isinstance(first[2], Stream)))
        display.begin(position)
        made = Rounds(
            evaluation, update, variables, seeds, rules, callback, [*listeners, display.report]
        )
        return made.run(position)

"""`metagrad.metasmoothness`: how smooth a training routine is in its configuration."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from metagrad.api.metagradient import Metagradient
from metagrad.api.train_step import TrainStep
from metagrad.api.user_frame import users_level
from metagrad.frontend.dtypes import is_float
from metagrad.frontend.pytrees import is_array_leaf
from metagrad.smoothness import points
from metagrad.smoothness.agreement import agreement, rounding_noise
from metagrad.smoothness.derivative_change import second_difference
from metagrad.smoothness.places import find_places
from metagrad.smoothness.report import DirectionSmoothness, Metasmoothness
from metagrad.smoothness.routine import Training


def metasmoothness(
    train: Callable[[Any], Any],
    z: Any,
    v: Any,
    h: float | Sequence[float],
    *,
    outcome: Callable[[Any], Any] | None = None,
    x64: bool = False,
    noise: bool = True,
    jit: bool = True,
    seed: int = 0,
) -> Metasmoothness:
    """How smooth a training routine is in its configuration (empirical metasmoothness).

    It trains at z, z + hv and z + 2hv. With d = theta(z + hv) - theta(z) and
    e = theta(z + 2hv) - theta(z + hv) it is

        sign(d)^T diag(|d| / ||d||_1) sign(e),

    the agreement in sign of the two movements of the parameters, weighted by the first movement: 1
    where every parameter moves on as it did, -1 where all turn back. Trainings that have nothing in
    common give about -1/2, which is the correlation of b - a and c - b for independent a, b and c.
    Where it is far below 1, the metagradient says little about the next step of descent.
    Source: Definition 2 of Engstrom et al. 2025 (arXiv 2503.13751).

    It costs one training, two for each direction and step size, and one for each direction to
    measure rounding. They are one compiled program.

    Args:
      train: from a pytree like z to the parameters, any pytree. It is jitted once.
        `metagrad.smoothness.training` makes one of a step.
      z: the configuration, a pytree of arrays and numbers. Only its floats move.
      v: a direction like z, a list of them, or how many random ones: entries of -1 and 1
        (`metagrad.smoothness.random_directions`).
      h: the step size, or several. It should be that of the descent: the step of its first rounds.
      outcome: from the parameters to a scalar, a validation loss, say. Its Definition 1 (by
        differences of the same trainings) is then in each entry's `outcome`.
      x64: whether to train in float64, in x64 mode. z is cast, and what a `Training` holds; a
        function of your own has to follow z's dtype.
      noise: whether to train once more for each direction, at a point that differs from z + hv in
        the last bits, to see how the training amplifies rounding. Without it only the rounding of
        the parameters themselves is counted.
      jit: False for a function that cannot be jitted, such as one that streams its data.
      seed: of random directions and of the last bits.

    Returns:
      A `Metasmoothness`. Printing it shows the numbers and what they mean.

    Raises:
      TypeError: train is no function of the configuration, or z has no float leaf.
      ValueError: v or h does not fit, no parameter moves, or x64=True and the parameters are not
        float64.
      FloatingPointError: a parameter or the outcome is not finite at one of the points.

    Warns:
      RuntimeWarning: rounding may decide the signs of more than 5% of the movement.

    >>> import jax.numpy as jnp, metagrad
    >>> step = metagrad.compile(lambda w, rate, x: w - rate * (w - x))
    >>> train = metagrad.smoothness.training(step, jnp.zeros(2), jnp.ones((3, 2)))
    >>> metagrad.metasmoothness(train, 0.1, 1.0, 0.05).value
    1.0
    """
    if not callable(train):
        raise TypeError(f"train must be a function of the configuration, not {train!r}")
    if isinstance(train, (Metagradient, TrainStep)):
        raise TypeError(
            "train must be a function of the configuration that trains, and is "
            f"{train!r}. metagrad.smoothness.training(step, state0, batches) makes one of it."
        )
    steps = points.checked_steps(h)
    with jax.enable_x64(True) if x64 else contextlib.nullcontext():
        z = points.as_arrays(points.in_double(z) if x64 else z)
        named = points.named_directions(z, v, seed)
        if x64 and isinstance(train, Training):
            train = train.in_double()
        # One function under jax.jit, so that what looks for places and what runs share its trace.
        routine = jax.jit(train) if jit else train
        places = find_places(routine, z) if jit else ((), ())
        runs = _Runs(routine, outcome, jit, x64)
        at_z = runs("z", z)
        entries = []
        for i, direction in enumerate(named):
            entries += _along(runs, z, at_z, direction, steps, seed + i if noise else None)
    result = Metasmoothness(tuple(entries), runs.dtype, x64, *places, runs.count)
    if text := result.warning():
        warnings.warn(f"metasmoothness: {text}", RuntimeWarning, stacklevel=users_level())
    return result


class _Trained(NamedTuple):
    """What a training ended up with: float64 arrays leaf by leaf, and the outcome."""

    params: list[np.ndarray]
    outcome: float | None

    def outcome_difference(self, other: _Trained) -> float:
        if self.outcome is None or other.outcome is None:
            return 0.0
        return abs(self.outcome - other.outcome)


class _Runs:
    """Trains at a point. It counts the trainings."""

    def __init__(self, train: Callable, outcome: Callable | None, jit: bool, is_double: bool):
        def run(z: Any) -> tuple[Any, Any]:
            params = train(z)
            return params, None if outcome is None else outcome(params)

        self._run = jax.jit(run) if jit else run
        self._is_double = is_double
        self.count = 0
        self.paths: list[str] = []
        self.epsilons: list[float] = []
        self.dtype = ""

    def __call__(self, where: str, z: Any) -> _Trained:
        params, outcome = self._run(z)
        self.count += 1
        leaves = [
            (jax.tree_util.keystr(path), leaf)
            for path, leaf in jax.tree_util.tree_leaves_with_path(params)
            if is_array_leaf(leaf) and is_float(jax.typeof(leaf))
        ]
        if not self.paths:
            self._describe(leaves)
        arrays = [np.asarray(leaf, np.float64) for _, leaf in leaves]
        for path, array in zip(self.paths, arrays):
            if not np.isfinite(array).all():
                raise FloatingPointError(
                    f"the training at {where} ends with a NaN or infinity in {path}. Take a "
                    "smaller h, or a configuration with which the training is stable."
                )
        return _Trained(arrays, None if outcome is None else _outcome(outcome, where))

    def _describe(self, leaves: list[tuple[str, Any]]) -> None:
        """Notes the paths and the precision of the parameters.

        Raises:
          ValueError: there are none, or they are not in float64 where they should be.
        """
        if not leaves:
            raise ValueError("train returned no floating-point parameters")
        dtypes = [jnp.dtype(jax.typeof(leaf).dtype) for _, leaf in leaves]
        self.paths = [f"params{path}" for path, _ in leaves]
        self.epsilons = [float(jnp.finfo(dtype).eps) for dtype in dtypes]
        self.dtype = dtypes[int(np.argmax(self.epsilons))].name
        for path, dtype in zip(self.paths, dtypes):
            if self._is_double and dtype != np.float64:
                raise ValueError(
                    f"x64=True, and {path} is {dtype} for a configuration in float64. Cast what "
                    "train closes over (initial parameters, data) to the dtype of z, or use "
                    "metagrad.smoothness.training, which does."
                )


def _along(
    runs: _Runs,
    z: Any,
    at_z: _Trained,
    direction: points.Named,
    steps: Sequence[float],
    seed: int | None,
) -> list[DirectionSmoothness]:
    """The entries of one direction."""
    pairs = []
    for h in steps:
        once, twice = (points.moved(z, direction.tree, k * h) for k in (1, 2))
        pairs.append((runs("z + h v", once), runs("z + 2 h v", twice)))
    nudged = None
    if seed is not None:
        last = points.moved(z, direction.tree, steps[-1])
        nudged = runs("z + h v", points.nudged(last, seed))
    middle = pairs[-1][0]
    noise = rounding_noise(middle.params, nudged and nudged.params, runs.epsilons)
    outcome_noise = 0.0 if nudged is None else nudged.outcome_difference(middle)
    return [
        _entry(direction.name, h, (at_z, *pair), noise, outcome_noise, runs)
        for h, pair in zip(steps, pairs)
    ]


def _entry(
    name: str,
    h: float,
    trained: tuple[_Trained, _Trained, _Trained],
    noise: list[np.ndarray],
    outcome_noise: float,
    runs: _Runs,
) -> DirectionSmoothness:
    first, second, third = (each.params for each in trained)
    found = agreement(first, second, third, noise)
    if not found.movement[0]:
        raise ValueError(
            f"no parameter moves between z and z + h v (direction {name}, h = {h:g}). Does train "
            "read what v moves? Is h larger than the rounding of z?"
        )
    outcomes = [each.outcome for each in trained if each.outcome is not None]
    epsilon = max(runs.epsilons)
    return DirectionSmoothness(
        name,
        h,
        found.value,
        dict(zip(runs.paths, found.leaves)),
        dict(zip(runs.paths, found.shares)),
        found.movement,
        found.undecided,
        second_difference(name, h, outcomes, epsilon, outcome_noise) if outcomes else None,
    )


def _outcome(outcome: Any, where: str) -> float:
    if np.shape(outcome) != ():
        raise ValueError(f"outcome must return a scalar, not one of shape {np.shape(outcome)}")
    if not np.isfinite(float(outcome)):
        raise FloatingPointError(f"the outcome is {float(outcome)} at {where}")
    return float(outcome)

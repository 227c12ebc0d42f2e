"""Training again on subsets: what attribution is held against."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from metagrad.api.metagradient import Metagradient
from metagrad.attribution import clock, plain_files
from metagrad.attribution.weights_leaf import as_numpy, check_metagradient, find_weights
from metagrad.diagnostics.plain_run import PlainRun, plain_run
from metagrad.runtime.streams import Stream


@dataclasses.dataclass(frozen=True)
class Retrained:
    """The outcomes of trainings on subsets.

    Attributes:
      subsets: [m, n], what each example's weight was multiplied with; 0 for one left out.
      outcomes: [m, Q], of the training on each subset.
      full: [Q], of the training on all examples.
      seconds: of one training, the fastest of all, without compilation. On a CPU they are the
        processor's, on all threads.
    """

    subsets: np.ndarray
    outcomes: np.ndarray
    full: np.ndarray
    seconds: float = float("nan")

    def __post_init__(self) -> None:
        want = (len(self.subsets), *np.shape(self.full))
        if self.outcomes.shape != want or len(want) != 2:
            raise ValueError(
                f"outcomes has the shape {self.outcomes.shape}, subsets {self.subsets.shape} and "
                f"full {np.shape(self.full)}; they must be [m, Q], [m, n] and [Q]"
            )

    def __repr__(self) -> str:
        rows, examples = self.subsets.shape
        return f"Retrained({rows} subsets of {examples} examples, {len(self.full)} queries)"

    def save(self, path: str | os.PathLike) -> None:
        """Writes them into one file, .npz or .safetensors.

        Raises:
          ValueError: `path` ends in something else.
          ImportError: the package safetensors is needed and not installed.
        """
        arrays = {"subsets": self.subsets, "outcomes": self.outcomes, "full": self.full}
        plain_files.save(path, arrays, {"seconds": self.seconds})

    @classmethod
    def load(cls, path: str | os.PathLike) -> Retrained:
        """What `save` wrote.

        Raises:
          FileNotFoundError: there is no such file.
          ValueError: it is not such a file.
        """
        arrays, about = plain_files.load(path)
        if set(arrays) != {"subsets", "outcomes", "full"}:
            raise ValueError(f"{os.fspath(path)} does not hold trainings, but {', '.join(arrays)}")
        return cls(**arrays, seconds=about["seconds"])


def retrain(
    mg: Metagradient,
    state0: Any,
    meta: Any,
    batches: Any,
    *outer_args: Any,
    subsets: np.ndarray,
    weights: str | None = None,
    callback: Callable[[int, np.ndarray], object] | None = None,
) -> Retrained:
    """Trains on each subset, and on all examples: one compiled program, run m + 1 times.

    A training on a subset is the same run, with the same batches, in which the weights of the
    examples that are left out are 0. It is plain training, without a metagradient.

    Args:
      mg, state0, meta, batches, outer_args, weights: as of `scores`.
      subsets: [m, n], bool or float: what each example's weight is multiplied with.
      callback: called after each training with its position, from 0 to m - 1, and the outcomes [Q].

    Returns:
      `Retrained`: the outcomes [m, Q], and those of all examples [Q].

    Raises:
      TypeError: `mg` is not a metagradient, or `batches` is a Stream.
      ValueError: `weights` names no array of weights, or subsets has another shape.
    """
    check_metagradient(mg, "retrain")
    if isinstance(batches, Stream):
        raise TypeError(
            "retrain runs one compiled program, which has all batches as arrays, and batches is a "
            "Stream. Give stacked arrays; or train on the subsets yourself and make a "
            "Retrained(subsets, outcomes, full)."
        )
    leaf = find_weights(meta, weights)
    at_full = jnp.asarray(leaf.of(meta))
    factors = _factors(subsets, at_full)
    arguments = (state0, meta, batches, outer_args)
    request = mg.request
    run = plain_run(request.step, request.outer, arguments, request.step_has_aux, request.has_aux)
    train = _compiled(run, leaf.position)
    full = train(at_full)
    outcomes, seconds = [], []
    for i, factor in enumerate(factors):
        began = clock.now()
        outcomes.append(train(at_full * factor))
        seconds.append(clock.now() - began)
        if callback is not None:
            callback(i, outcomes[-1])
    return Retrained(np.asarray(subsets), np.stack(outcomes), full, min(seconds))


def _factors(subsets: Any, weights: jax.Array) -> np.ndarray:
    """[m, n] or [m, n, 1], to be multiplied with the weights."""
    subsets = np.asarray(subsets)
    if subsets.ndim != 2 or subsets.shape[1] != weights.shape[0] or not len(subsets):
        raise ValueError(
            f"subsets has the shape {subsets.shape}; it must be [m, {weights.shape[0]}], one row "
            "for each subset and one column for each training example"
        )
    columns = subsets.reshape(*subsets.shape, *(1,) * (weights.ndim - 1))
    return columns.astype(weights.dtype)


def _compiled(run: PlainRun, position: int) -> Callable[[jax.Array], np.ndarray]:
    """The run as a function of the weights, compiled: [Q] outcomes."""
    arrays = run.arrays()

    def outcomes(weights, arrays):
        meta = [*arrays["meta"]]
        meta[position] = weights
        return jnp.ravel(run.value(arrays | {"meta": meta}))

    program = jax.jit(outcomes).lower(arrays["meta"][position], arrays).compile()
    return lambda weights: as_numpy(program(weights, arrays))

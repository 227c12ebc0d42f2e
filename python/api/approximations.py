"""Gradients that leave something out, by an option of `TrainStep.metagradient`."""

from __future__ import annotations

import dataclasses
from typing import Any, TypeAlias


@dataclasses.dataclass(frozen=True)
class FirstOrder:
    """An approximation: each inner gradient is taken for independent of its own parameters.

    A gradient `metagrad.grad(loss, argnums)(...)` in the step is taken as if it did not depend on
    the arguments `argnums`, in which it is the gradient. Its dependence on all else that the loss
    reads is kept: weights of examples, the data, a loss network. So no Hessian of the loss enters,
    and no product with one is computed. The update is differentiated as it is, with its moments,
    its weight decay and its schedule; and so are the value and the auxiliary results of
    `metagrad.value_and_grad`.

    - For initial parameters (`wrt="state"`) that is first-order MAML (Finn et al. 2017, arXiv
      1703.03400; Nichol et al. 2018, arXiv 1803.02999): with gradient descent the
      metagradient is the outer gradient at the adapted parameters.
    - For metaparameters it drops the Hessian from the path between steps, (I - lr H) -> I, and
      keeps each step's own cross derivative, in all steps. Luketina et al. 2016 (arXiv 1511.06727)
      keep the last one alone: `(FirstOrder(), Truncated(steps=1))`.

    Only gradients by `metagrad.grad` are found; one by `jax.grad` stays exact. A gradient inside
    the loss of another one stays exact too, as it makes the training run what it is.
    """


@dataclasses.dataclass(frozen=True)
class Truncated:
    """An approximation: only the last steps are differentiated.

    The run is the whole run. But the state before its last `steps` steps is taken for a constant:
    what metaparameters do in earlier steps is left out. Nothing is stored for those, and they cost
    what plain training costs. (Shaban et al. 2019, arXiv 1810.10667: truncated back-propagation.)

    With `wrt="batches"` the gradient is exact for the batches of the last steps, and zero for the
    others. If there are no more steps than `steps`, all of it is exact.

    Attributes:
      steps: how many steps are differentiated, at least 1.

    Raises:
      TypeError, ValueError: `steps` is not an int, or less than 1.
    """

    steps: int

    def __post_init__(self):
        if isinstance(self.steps, bool) or not isinstance(self.steps, int):
            raise TypeError(f"Truncated(steps={self.steps!r}): steps must be an int")
        if self.steps < 1:
            raise ValueError(f"Truncated(steps={self.steps}) must be at least 1")


Approximation: TypeAlias = FirstOrder | Truncated


def _meaning(approximation: Approximation, steps: int) -> str:
    """What is left out of a run of `steps` steps."""
    if isinstance(approximation, FirstOrder):
        return "inner gradients are taken for independent of their own parameters"
    if approximation.steps == 1:
        return f"only the last of {steps} steps is differentiated"
    return f"only the last {approximation.steps} of {steps} steps are differentiated"


def check_approximation(approximation: Any, wrt: tuple[str, ...]) -> tuple[Approximation, ...]:
    """The option as a tuple; empty for None.

    Raises:
      TypeError: it holds something else than approximations.
      ValueError: it names one twice, or leaves out all of the gradient.
    """
    if approximation is None:
        return ()
    chosen = approximation if isinstance(approximation, tuple) else (approximation,)
    for each in chosen:
        if not isinstance(each, (FirstOrder, Truncated)):
            is_class = each in (FirstOrder, Truncated)
            hint = f". Write {each.__name__} with parentheses" if is_class else ""
            raise TypeError(
                f"approximation={approximation!r} is none of metagrad.FirstOrder(), "
                f"metagrad.Truncated(steps=K), a tuple of the two, and None{hint}"
            )
    if len({type(each) for each in chosen}) < len(chosen):
        raise ValueError(f"approximation={approximation!r} names one kind twice")
    if "state" in wrt and truncation(chosen) is not None:
        raise ValueError(
            f"approximation={approximation!r} leaves nothing of a gradient with respect to "
            '"state": the initial state enters before the first step, and only the last steps are '
            'differentiated. Use wrt="meta" or "batches"'
        )
    return tuple(sorted(chosen, key=lambda each: type(each).__name__))


def truncation(approximations: tuple[Approximation, ...]) -> int | None:
    """How many of the last steps are differentiated; None for all."""
    return next((each.steps for each in approximations if isinstance(each, Truncated)), None)


def approximation_notes(approximations: tuple[Approximation, ...], steps: int) -> tuple[str, ...]:
    """A line for each approximation that leaves something out in a run of `steps` steps."""
    return tuple(
        f"APPROXIMATE, {each}: {_meaning(each, steps)}"
        for each in approximations
        if not (isinstance(each, Truncated) and each.steps >= steps)
    )

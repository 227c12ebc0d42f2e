"""The attack by metagradient descent with signs."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from metagrad.applications.poisoning.box import Box
from metagrad.mgd.descent import descent
from metagrad.mgd.problems import wrt_of
from metagrad.mgd.results import DescentResult


@dataclasses.dataclass(frozen=True)
class Poisoning:
    """What `poison` returns.

    Attributes:
      data: the training data of the round with the highest held-out loss.
      box: which entries could move, and how far.
      descent: the `metagrad.mgd.DescentResult` behind it; its values are minus the held-out loss.
    """

    data: Any
    box: Box
    descent: DescentResult

    @property
    def losses(self) -> np.ndarray:
        """The held-out loss of each round, mean over seeds; float64 [rounds]."""
        return np.array([-record.value for record in self.descent.history])

    @property
    def examples(self) -> np.ndarray:
        """Which examples were perturbed."""
        return self.box.examples

    def __repr__(self) -> str:
        losses = self.losses
        if not losses.size:
            return f"<Poisoning of {len(self.examples)} examples in 0 rounds>"
        return (
            f"<Poisoning of {len(self.examples)} examples in {len(losses)} rounds: held-out loss "
            f"{losses[0]:.4g}, at most {losses.max():.4g}>"
        )


def poison(
    mg: Callable[..., Any],
    data: Any,
    problem: Callable[..., tuple],
    examples: Sequence[int] | np.ndarray,
    *,
    rounds: int,
    step_size: Any = 0.1,
    leaf: str | None = None,
    limits: tuple[float, float] | None = (0.0, 1.0),
    radius: float | None = None,
    optimizer: Any = None,
    **options: Any,
) -> Poisoning:
    """Perturbs some training examples so that training ends with a high held-out loss.

    A round trains, takes the metagradient of the held-out loss with respect to the training data,
    moves the chosen examples by the signs of it, and puts them back into the box.

    Args:
      mg: the metagradient of the held-out loss with respect to the data, which are the step's
        metaparameters: `train_step.metagradient(held_out_loss)`.
      data: the clean data, a pytree of arrays.
      problem: `problem(round, key)`, which returns (state0, batches, *outer_args), as for
        `metagrad.descent`. If it draws initial parameters and orders by the key, the poison is not
        made for one of them.
      examples: which rows of the leaf may be perturbed; labels stay as they are.
      rounds: of descent, at most.
      step_size: of the signs, in the units of the data, or an optax schedule over rounds.
      leaf: the path of the leaf that is perturbed, "['image']", say; needed where data has several
        float leaves.
      limits: the lowest and the highest value that an entry may have. None: any.
      radius: how far an entry may be from what it was. None: any.
      optimizer: an optax transformation in place of `optax.sign_sgd(step_size)`.
      **options: `seeds`, `key`, `seconds`, `patience`, `callback`, `progress`, `resume_dir` and
        others of `metagrad.descent`.

    Returns:
      A `Poisoning`.

    Raises:
      ValueError: leaf, examples, limits or radius does not fit the data.
      ImportError: optax is not installed.
      Exception: others, as `metagrad.descent`.
    """
    box = Box.of(data, examples, leaf, limits, radius)
    result = descent(
        _Raised(mg),
        data,
        problem,
        _updates(box, step_size, optimizer),
        rounds=rounds,
        projection=box.project,
        **options,
    )
    return Poisoning(result.best.meta if result.best else result.meta, box, result)


class _Raised:
    """A metagradient of minus the value: what lowers it raises the value.

    Attributes:
      request, settings: of the metagradient, by which a directory to resume knows the run.
    """

    def __init__(self, mg: Callable):
        self._mg = mg
        self.request = getattr(mg, "request", None)
        self.settings = f"{type(mg).__name__} {getattr(mg, 'settings', '')}".rstrip()
        wrt, _ = wrt_of(mg)
        if wrt != ("meta",):
            raise ValueError(
                f"the metagradient is with respect to {' and '.join(wrt)}, and the data that "
                "are perturbed have to be the step's metaparameters: let the step read them as "
                'data["image"][batch], and take metagradient(held_out_loss)'
            )

    def __call__(self, *arguments: Any) -> Any:
        result = self._mg(*arguments)
        if isinstance(result.value, tuple) or jnp.ndim(result.value):
            raise ValueError("the held-out loss must be one number, without auxiliary data")
        return result._replace(value=-result.value, grad=jax.tree.map(_minus, result.grad))


def _minus(leaf: Any) -> Any:
    return leaf if leaf.dtype == jax.dtypes.float0 else -leaf


def _updates(box: Box, step_size: Any, optimizer: Any) -> Any:
    """The optimiser, on gradients that are zero but for what may move."""
    try:
        import optax
    except ImportError as error:
        raise ImportError('poison needs optax: pip install "metagrad[examples]"') from error
    masked = optax.stateless(lambda gradients, _: box.mask(gradients))
    # After it too: a step of zero is no sign's, but weight decay would move what must not.
    return optax.chain(masked, optimizer or optax.sign_sgd(step_size), masked)

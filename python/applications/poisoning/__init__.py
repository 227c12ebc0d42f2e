"""Accuracy-degrading poisoning: how much harm a few training examples can do.

`poison` perturbs a fraction of the training examples, within a box, by metagradient descent with
signs on minus a held-out loss (Engstrom et al. 2025, arXiv 2503.13751). It is meant
for measuring how robust a training routine is. The attacks that it is compared with are
`random_noise`, `flip_labels`, and `cancel_gradients` with `corrupt_parameters` (the gradient
cancelling attack of Lu, Kamath and Yu 2023, arXiv 2303.03592).
"""

from metagrad.applications.poisoning.baselines import (
    cancel_gradients,
    corrupt_parameters,
    flip_labels,
    random_noise,
)
from metagrad.applications.poisoning.box import Box
from metagrad.applications.poisoning.descent_attack import Poisoning, poison

__all__ = [
    "Box",
    "Poisoning",
    "cancel_gradients",
    "corrupt_parameters",
    "flip_labels",
    "poison",
    "random_noise",
]

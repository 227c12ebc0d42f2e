"""How smooth a training run is in its configuration.

`metagrad.metasmoothness` measures a training routine. What stands beside it is here: routines from
training steps (`training`), directions (`random_directions`), smoothness of one number
(`of_function`, `of_gradient`), and pictures (`landscape`). The definitions are those of Engstrom et
al. 2025, arXiv 2503.13751.
"""

from metagrad.smoothness.derivative_change import FunctionSmoothness, of_function, of_gradient
from metagrad.smoothness.landscape import Landscape, landscape
from metagrad.smoothness.points import random_directions
from metagrad.smoothness.routine import Training, training

__all__ = [
    "FunctionSmoothness",
    "Landscape",
    "Training",
    "landscape",
    "of_function",
    "of_gradient",
    "random_directions",
    "training",
]

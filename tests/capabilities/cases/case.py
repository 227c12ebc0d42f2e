"""A comparison as data, and the edge values over which elementwise functions run.

Elementwise functions run over a grid: each operand over `EDGES`, each combination with each
cotangent of `COTANGENTS`. Float inputs are written in float64 and cast to the dtype under test.
"""

import dataclasses
from collections.abc import Callable

import numpy as np

inf, nan = np.inf, np.nan

EDGES = [
    0.0,
    -0.0,
    1.0,
    -1.0,
    0.5,
    -0.5,
    2.5,
    -3.0,
    1e-5,
    40.0,
    -100.0,
    100.0,
    -1000.0,
    1000.0,
    1e-12,
    1e12,
    inf,
    -inf,
    nan,
]
MILD = [e for e in EDGES if abs(e) <= 100 or not np.isfinite(e)]
FINITE = [e for e in EDGES if np.isfinite(e)]
LARGE = [e for e in FINITE if abs(e) > 1e-4]  # where JAX subtracts numbers that are nearly equal
POSITIVE = [e for e in FINITE if e > 0]
COTANGENTS = [1.3, -0.7, 0.0, inf, nan]
NUMBERS = np.random.default_rng(0)


@dataclasses.dataclass(frozen=True)
class Case:
    """One comparison.

    Attributes:
        proves: names of the primitives that this is evidence for.
        orders: 2 for both modes, 1 for reverse mode alone.
        cotangents: the cotangent of every output, or None for random numbers.
        elementwise: each output element depends on the same element of each input, and no other.
        loosen: factor on the tolerance, for functions whose rounding JAX amplifies.
        rounded: the value may differ from JAX's by rounding (sums taken in another order).
    """

    name: str
    fn: Callable
    inputs: tuple
    proves: tuple[str, ...]
    orders: int = 2
    cotangents: object = None
    elementwise: bool = False
    loosen: float = 1.0
    rounded: bool = False


CASES: dict[str, Case] = {}


def case(name, fn, *inputs, proves=None, **options):
    assert name not in CASES, name
    CASES[name] = Case(name, fn, inputs, tuple((proves or name).split()), **options)


def elementwise(name, fn, *edges, **options):
    grid = np.meshgrid(*edges, COTANGENTS, indexing="ij")
    case(name, fn, *grid[:-1], cotangents=grid[-1], elementwise=True, **options)


def normal(*shape):
    return NUMBERS.normal(size=shape)


A, B = normal(2, 3, 4), normal(2, 3, 4)

"""Templates of Python source: what an operation without functions in it is.

`{0}`, `{1}` are operands; `{axis}`, `{k}`, `{shape}` and so on are attributes that ATTRIBUTES
chooses for the first operand's shape. Kinds of operands, one letter each: "f" floating point, "i"
integers, "b" booleans, "k" a PRNG key.
"""

import math
from typing import NamedTuple


class Operation(NamedTuple):
    """One template. `weight` is how often it is chosen, relative to 1."""

    name: str
    template: str
    kinds: str = "f"
    weight: float = 1.0


def _axis(rng, shape):
    return rng.randrange(-len(shape), len(shape)) if shape else None


def _permutation(rng, shape):
    order = list(range(len(shape)))
    rng.shuffle(order)
    return tuple(order) if len(shape) > 1 else None


def _reshape(rng, shape):
    size = math.prod(shape)
    pairs = [(d, size // d) for d in range(1, size + 1) if size % d == 0] + [(size,), (1, size, 1)]
    return rng.choice(pairs) if size else None


def _k(rng, shape):
    return rng.randint(1, shape[-1]) if shape and shape[-1] else None


def _slices(rng, shape):
    if not shape:
        return None
    return ", ".join(
        rng.choice([":", "::-1", "1:", ":-1", "::2", "-1:", ":2"])
        for _ in range(rng.randint(1, len(shape)))
    )


ATTRIBUTES = {
    "axis": _axis,
    "perm": _permutation,
    "shape": _reshape,
    "k": _k,
    "slices": _slices,
    "rank": lambda rng, shape: len(shape) or None,
    "keep": lambda rng, shape: rng.random() < 0.5,
    "back": lambda rng, shape: rng.random() < 0.5,
    "axes": lambda rng, shape: (
        tuple(sorted(rng.sample(range(len(shape)), rng.randint(1, len(shape))))) if shape else None
    ),
    "shift": lambda rng, shape: rng.randint(-2, 2),
    "mode": lambda rng, shape: rng.choice(["fill", "clip", "wrap"]),
    "set": lambda rng, shape: rng.choice(["set", "add", "multiply", "min", "max", "subtract"]),
    "const": lambda rng, shape: rng.choice([0.0, 0.5, 1.0, -1.0, 0.3]),
    "exponent": lambda rng, shape: rng.choice([2, 3, 0, 1, 4, 2.0, 0.5, 1.5]),
    "index": lambda rng, shape: rng.choice(
        ["0", "[0, 0]", "[-1, 0, 0]", "[0, 7]", "[[0], [1]]", "-1"]
    ),
    "padding": lambda rng, shape: rng.choice(["SAME", "VALID"]),
    "stride": lambda rng, shape: rng.randint(1, 2),
    "window": lambda rng, shape: rng.randint(1, 3),
    "padmode": lambda rng, shape: rng.choice(["constant", "edge", "reflect", "symmetric", "wrap"]),
}


def many(kinds, text, weight=1.0):
    """One operation a line: `name :: template`, or a template alone that is its own name."""
    operations = []
    for line in text.splitlines():
        # Where a backslash joins two lines of the source, the second line's indentation stays.
        line = " ".join(line.split())
        if line:
            name, _, template = line.rpartition(" :: ")
            operations.append(Operation(name or line, template or line, kinds, weight))
    return operations

"""What is compared: a function, its inputs with the values where rules part, and what it proves.

`CASES` holds them by name. A new one goes into the file of its kind, with the edges of its
function; `python -m tests.capabilities` measures it.
"""

from . import calls, contractions, indexing, models, one_operand, reductions, shapes, two_operands
from .case import CASES, Case

__all__ = [
    "CASES",
    "Case",
    "calls",
    "contractions",
    "indexing",
    "models",
    "one_operand",
    "reductions",
    "shapes",
    "two_operands",
]

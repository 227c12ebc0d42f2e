"""The scores of training examples, whatever method they are from."""

from __future__ import annotations

import dataclasses
import os
from typing import Any, Literal

import numpy as np

from metagrad.attribution import plain_files

Order = Literal["lowers", "raises", "absolute"]


@dataclasses.dataclass(frozen=True)
class Scores:
    """What more weight on each training example, or token, does to each outcome.

    Attributes:
      values: [Q, n] for examples or [Q, n, L] for tokens, float32 or float64. Entry [q, i] is the
        derivative of outcome q with respect to the weight of example i, or what a method has in its
        place. If the outcome is a loss, helpful examples have negative scores.
      outcomes: [Q], of the run with all weights.
      weights: [n] or [n, L], where the derivative was taken: ones, usually.
      method: what they are from: "metagradient", "tracin", ...
      metadata: words and numbers about the run, which json can hold.
    """

    values: np.ndarray
    outcomes: np.ndarray
    weights: np.ndarray
    method: str
    metadata: dict[str, Any] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.values.shape != (len(self.outcomes), *self.weights.shape):
            raise ValueError(
                f"values has the shape {self.values.shape}; for {len(self.outcomes)} outcomes and "
                f"weights of the shape {self.weights.shape} it must be "
                f"{(len(self.outcomes), *self.weights.shape)}"
            )

    def __repr__(self) -> str:
        queries, examples, *tokens = self.values.shape
        of_tokens = f" of {tokens[0]} tokens" if tokens else ""
        return f"Scores({self.method}, {queries} queries, {examples} examples{of_tokens})"

    def of_examples(self) -> np.ndarray:
        """[Q, n]: the scores of examples. An example's score is the sum over its tokens.

        That is the derivative with respect to a factor on all weights of the example, which is what
        leaving it out changes.
        """
        scaled = self.values * self.weights
        return scaled.reshape(*scaled.shape[:2], -1).sum(-1)

    def predict(self, subsets: np.ndarray) -> np.ndarray:
        """The outcomes of trainings on subsets, predicted to first order.

        Args:
          subsets: [m, n], bool or float, what each example's weight is multiplied with: 0 for an
            example that is left out.

        Returns:
          [m, Q]: outcome + sum over i of (subsets[i] - 1) weights[i] values[i].

        Raises:
          ValueError: subsets has another shape.
        """
        subsets = np.asarray(subsets, float)
        if subsets.ndim != 2 or subsets.shape[1] != self.weights.shape[0]:
            raise ValueError(
                f"subsets has the shape {subsets.shape}; it must be [m, {self.weights.shape[0]}], "
                "one row for each subset and one column for each training example"
            )
        return self.outcomes + (subsets - 1) @ self.of_examples().T.astype(float)

    def top(
        self, k: int = 10, query: int | None = None, order: Order = "lowers"
    ) -> list[tuple[int, float]]:
        """The examples that matter most, the first first: [(index, score)] of length k.

        Args:
          k: how many.
          query: of which outcome. None: of the mean over the queries.
          order: "lowers": more weight on them lowers the outcome, as a helpful example lowers a
            loss. "raises": it raises the outcome. "absolute": either.

        Raises:
          ValueError: `k`, `query` or `order` is not one of the above.
        """
        signs = {"lowers": lambda x: x, "raises": lambda x: -x, "absolute": lambda x: -np.abs(x)}
        if order not in signs:
            raise ValueError(f"order={order!r} is none of {', '.join(map(repr, signs))}")
        if k < 1:
            raise ValueError(f"k={k!r}: ask for at least one example")
        if query is not None and not -len(self.outcomes) <= query < len(self.outcomes):
            raise ValueError(f"query={query!r}, and there are {len(self.outcomes)} queries")
        scores = self.of_examples()
        chosen = scores.mean(0) if query is None else scores[query]
        first = np.argsort(signs[order](chosen), kind="stable")[:k]
        return [(int(i), float(chosen[i])) for i in first]

    def save(self, path: str | os.PathLike) -> None:
        """Writes the scores into one file, .npz or .safetensors.

        Raises:
          ValueError: `path` ends in something else.
          ImportError: the package safetensors is needed and not installed.
        """
        arrays = {"values": self.values, "outcomes": self.outcomes, "weights": self.weights}
        plain_files.save(path, arrays, {"method": self.method, "metadata": self.metadata})

    @classmethod
    def load(cls, path: str | os.PathLike) -> Scores:
        """What `save` wrote.

        Raises:
          FileNotFoundError: there is no such file.
          ValueError: it is not a file of scores.
        """
        arrays, about = plain_files.load(path)
        if set(arrays) != {"values", "outcomes", "weights"} or "method" not in about:
            raise ValueError(f"{os.fspath(path)} does not hold scores, but {', '.join(arrays)}")
        return cls(**arrays, method=about["method"], metadata=about["metadata"])

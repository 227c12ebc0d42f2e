"""Synthetic data and initial parameters, from fixed seeds. Float arrays are f32."""

from __future__ import annotations

import numpy as np


class Draw:
    """A generator of what a model starts with."""

    def __init__(self, seed: int = 0):
        self.rng = np.random.default_rng(seed)

    def normal(self, *shape, scale=1.0):
        return np.float32(scale) * self.rng.standard_normal(shape, np.float32)

    def matrix(self, fan_in, fan_out):
        return self.normal(fan_in, fan_out) / np.float32(np.sqrt(fan_in))

    def kernel(self, fan_in, fan_out, size=3):
        return self.normal(size, size, fan_in, fan_out) * np.float32(
            np.sqrt(2 / (size * size * fan_in))
        )

    @staticmethod
    def unit(width):
        """Scale and shift of a normalisation."""
        return {"scale": np.ones(width, np.float32), "shift": np.zeros(width, np.float32)}

    @staticmethod
    def statistics(channels):
        """Running statistics of a batch normalisation before training."""
        return {"mean": np.zeros(channels, np.float32), "variance": np.ones(channels, np.float32)}

    def block(self, width):
        """Parameters of a transformer block (layers.py)."""
        return {
            "before_attention": self.unit(width),
            "qkv": self.normal(width, 3 * width, scale=0.02),
            "out": self.normal(width, width, scale=0.02),
            "before_mlp": self.unit(width),
            "up": self.normal(width, 4 * width, scale=0.02),
            "down": self.normal(4 * width, width, scale=0.02),
        }

    def pictures(self, classes, side, colours, *counts):
        """(images[count, side, side, colours], labels) for each count.

        Every class is a picture, and an example is its class's picture under noise.
        """
        pictures = self.normal(classes, side, side, colours)

        def examples(count):
            labels = self.rng.integers(0, classes, count, np.int32)
            return pictures[labels] + 2 * self.normal(count, side, side, colours), labels

        return [examples(count) for count in counts]

    def text(self, vocabulary, tokens, *counts):
        """int32[count, tokens + 1] for each count, of a Markov chain.

        Every token has a few likely successors.
        """
        transitions = self.rng.dirichlet(np.full(vocabulary, 0.1), vocabulary).cumsum(-1)

        def write(count):
            text = np.empty((count, tokens + 1), np.int32)
            text[:, 0] = self.rng.integers(0, vocabulary, count)
            for position in range(tokens):
                draws = self.rng.random((count, 1))
                # A row's cumulated sum may end a rounding error below one.
                text[:, position + 1] = np.minimum(
                    (transitions[text[:, position]] < draws).sum(-1), vocabulary - 1
                )
            return text

        return [write(count) for count in counts]

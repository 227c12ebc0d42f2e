"""The transformers: three that run here, and two that are compiled only.

They are GPT-2's architecture (benchmarks/models/gpt2.py): the layers are one `lax.scan` over
stacked parameters, and the embedding is tied. MixFlow-MG's authors take the Chinchilla family,
whose positions are rotary; what a layer computes and keeps is otherwise of the same kind.
"""

from __future__ import annotations

from benchmarks.models.gpt2 import Size

PLAIN_ATTENTION_UP_TO = 512
"""Contexts beyond take blockwise attention, whoever differentiates."""


def size(name: str, context: int, batch: int) -> Size:
    """The transformer of this name, with batches of `batch` sequences of `context` tokens."""
    layers, width, heads, vocabulary, sequences = TRANSFORMERS[name]
    return Size(
        layers=layers,
        width=width,
        heads=heads,
        vocabulary=vocabulary,
        positions=context,
        batch=batch,
        tokens=context,
        sequences=min(sequences, batch),
    )


TRANSFORMERS = {
    "tiny": (2, 16, 2, 31, 1),
    "0.1M": (2, 64, 2, 256, 8),
    "0.8M": (4, 128, 4, 256, 8),
    "6M": (8, 256, 8, 256, 8),
    "124M": (12, 768, 12, 50257, 1),
    "355M": (24, 1024, 16, 50257, 1),
}
"""(layers, width, heads, vocabulary, sequences whose logits are computed at a time). "tiny" is for
tests."""

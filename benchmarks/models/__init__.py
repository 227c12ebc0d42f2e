"""The training runs that are benchmarked. Each file makes one `Model`."""

from __future__ import annotations

from benchmarks.models import convnet, gpt, mlp

MODELS = {"mlp": mlp.model, "convnet": convnet.model, "gpt": gpt.model}

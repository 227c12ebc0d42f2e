"""The training runs that are benchmarked. Each file makes one `Model`."""

from __future__ import annotations

from benchmarks.models import clip, convnet, gpt, lstm, mlp, resnet9, unet, vit

MODELS = {
    file.__name__.rpartition(".")[2]: file.model
    for file in (mlp, convnet, gpt, resnet9, vit, lstm, unet, clip)
}

# The models whose whole runs are benchmarked by default. Of the others it is one step
# (benchmarks/step_vjp.py).
RUNS = "mlp", "convnet", "gpt"

"""Real models, unchanged from their libraries, each with an optimiser of its kind."""

import equinox_models
import linen_models
import nnx_models
import optax
import pytest
from agreement import all_by_enzyme, check, compare
from matrix import record

LIBRARIES = {
    "linen": linen_models.MODELS,
    "nnx": nnx_models.MODELS,
    "equinox": equinox_models.MODELS,
}

OPTIMISERS = {
    "linen": ("adamw", lambda: optax.adamw(0.01, b2=0.95, eps_root=1e-6)),
    "nnx": ("momentum", lambda: optax.sgd(0.05, momentum=0.9)),
    "equinox": (
        "clipped nesterov",
        lambda: optax.chain(
            optax.clip_by_global_norm(1.0), optax.sgd(0.05, momentum=0.9, nesterov=True)
        ),
    ),
}


IN_CI = {
    ("linen", "MLP"),
    ("nnx", "MLP"),
    ("nnx", "GPT"),
    ("nnx", "ViT"),
    ("nnx", "CLIP"),
    ("nnx", "ResNet-9"),
    ("nnx", "U-Net"),
    ("equinox", "MLP"),
    ("equinox", "LSTM"),
}
"""Every library once, and every model once. The others take up to two minutes each."""


@pytest.mark.parametrize(
    ("library", "model"),
    [
        pytest.param(library, model, marks=() if (library, model) in IN_CI else pytest.mark.long)
        for library in LIBRARIES
        for model in linen_models.MODELS
    ],
)
def test_model(library, model, record_property):
    name, optimiser = OPTIMISERS[library]
    agreement = compare(LIBRARIES[library][model], optimiser)
    record(record_property, f"{library} {model}", name, agreement)
    check(agreement)
    assert all_by_enzyme(agreement), agreement.reasons

"""Real models, unchanged from their libraries, each with an optimiser of its kind."""

import equinox_models
import linen_models
import nnx_models
import optax
import pytest
from agreement import check, compare
from matrix import record

LIBRARIES = {"linen": linen_models.MODELS, "nnx": nnx_models.MODELS, "equinox": equinox_models.MODELS}

OPTIMISERS = {
    "linen": ("adamw", lambda: optax.adamw(0.01, b2=0.95, eps_root=1e-6)),
    "nnx": ("momentum", lambda: optax.sgd(0.05, momentum=0.9)),
    "equinox": ("clipped adam", lambda: optax.chain(optax.clip_by_global_norm(1.0), optax.adam(0.01, b2=0.95, eps_root=1e-6))),
}

# What Enzyme does not differentiate, and the operation that keeps it from it.
BY_JAX = {("equinox", "ResNet-9"): ("loss", "jax-mixed", "psum")}


@pytest.mark.parametrize("model", linen_models.MODELS)
@pytest.mark.parametrize("library", LIBRARIES)
def test_model(library, model, record_property):
    name, optimiser = OPTIMISERS[library]
    agreement = compare(LIBRARIES[library][model], optimiser)
    record(record_property, f"{library} {model}", name, agreement)
    check(agreement)
    if (library, model) in BY_JAX:
        assert any(reason.startswith(BY_JAX[library, model][2] + ":") for reason in agreement.reasons)
    else:
        assert (*agreement.loss, agreement.update, agreement.outer) == ("enzyme",) * 3, agreement.reasons

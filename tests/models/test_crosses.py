"""Some models with some of the other optimisers, each under another schedule."""

import equinox_models
import linen_models
import nnx_models
import pytest
from agreement import check, compare
from matrix import record
from optimisers import OPTIMISERS

from metagrad import Binomial, LazyKary, StoreAll

CROSSES = {
    "linen ResNet-9": (linen_models.MODELS["ResNet-9"], "lamb", LazyKary(2)),
    "linen LSTM": (linen_models.MODELS["LSTM"], "shampoo, newton", Binomial(3, rebuild=2)),
    "nnx GPT": (nnx_models.MODELS["GPT"], "muon", StoreAll()),
    "nnx CLIP": (nnx_models.MODELS["CLIP"], "multi_transform", LazyKary(2)),
    "equinox ViT": (equinox_models.MODELS["ViT"], "adafactor", Binomial(2)),
    "equinox U-Net": (equinox_models.MODELS["U-Net"], "lion", StoreAll()),
}


@pytest.mark.parametrize("model", CROSSES)
def test_cross(model, record_property):
    make, name, schedule = CROSSES[model]
    agreement = compare(make, OPTIMISERS[name], schedule=schedule)
    record(record_property, model, name, agreement)
    check(agreement)
    assert (*agreement.loss, agreement.update, agreement.outer) == ("enzyme",) * 3, agreement.reasons

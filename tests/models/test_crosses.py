"""Some models with some of the other optimisers, each under another schedule."""

import equinox_models
import linen_models
import nnx_models
import pytest
from agreement import all_by_enzyme, check, compare
from matrix import record
from optimisers import OPTIMISERS

from metagrad import Binomial, LazyKary, StoreAll

# A model with a bias of attention's keys has no optimiser here that brings every entry of an update
# to one size: the bias's gradient is rounding alone, and such an optimiser makes large updates of
# it, in JAX as well.
CROSSES = {
    "linen LSTM": (linen_models.MODELS["LSTM"], "shampoo, newton", Binomial(3, rebuild=2)),
    "nnx GPT": (nnx_models.MODELS["GPT"], "nesterov", StoreAll()),
    "nnx CLIP": (nnx_models.MODELS["CLIP"], "multi_transform", LazyKary(2)),
    "equinox ViT": (equinox_models.MODELS["ViT"], "muon", Binomial(2)),
}


@pytest.mark.parametrize(
    "model",
    [pytest.param(each, marks=() if each == "nnx GPT" else pytest.mark.long) for each in CROSSES],
)
def test_cross(model, record_property):
    make, name, schedule = CROSSES[model]
    agreement = compare(make, OPTIMISERS[name], schedule=schedule)
    record(record_property, model, name, agreement)
    check(agreement)
    assert all_by_enzyme(agreement), agreement.reasons

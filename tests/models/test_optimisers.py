"""Every optimiser, unchanged from optax, on one small model."""

import linen_models
import optimisers
import pytest
from agreement import check, compare
from matrix import record

BY_JAX = {"shampoo, eigh": ("update", "jax", "eigh")}


@pytest.mark.parametrize("name", optimisers.OPTIMISERS)
def test_optimiser(name, record_property):
    agreement = compare(linen_models.SMALL, optimisers.OPTIMISERS[name], steps=8)
    record(record_property, "small", name, agreement)
    check(agreement)
    rules = dict(loss=set(agreement.loss), update={agreement.update}, outer={agreement.outer})
    part, _, operation = BY_JAX.get(name, (None, None, None))
    assert all(rule == {"enzyme"} for of, rule in rules.items() if of != part), agreement.reasons
    assert part is None or all(reason.startswith(operation + ":") for reason in agreement.reasons)

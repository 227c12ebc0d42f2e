"""Every optimiser, unchanged from optax, on one small model."""

import linen_models
import optimisers
import pytest
from agreement import all_by_enzyme, check, compare
from matrix import record


@pytest.mark.parametrize("name", optimisers.OPTIMISERS)
def test_optimiser(name, record_property):
    agreement = compare(linen_models.SMALL, optimisers.OPTIMISERS[name], steps=8)
    record(record_property, "small", name, agreement)
    check(agreement)
    assert all_by_enzyme(agreement), agreement.reasons

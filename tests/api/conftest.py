"""Double precision for a whole module, where files are compared bit for bit."""

import jax
import pytest


@pytest.fixture(scope="module")
def double():
    with jax.enable_x64(True):
        yield

"""Equality is judged in f64."""

import jax
import pytest


@pytest.fixture(autouse=True)
def precision():
    with jax.enable_x64(True):
        yield

"""Equality is judged in f64: every test here runs in x64 mode, unless it is marked `single`."""

import jax
import pytest


def pytest_configure(config):
    config.addinivalue_line("markers", "single: runs in JAX's default mode, where floats are f32")


@pytest.fixture(autouse=True)
def precision(request):
    with jax.enable_x64(request.node.get_closest_marker("single") is None):
        yield

"""The smallest training run that has everything: two parameters, a learned decay, three steps."""

import jax.numpy as jnp
import pytest

import metagrad


def loss(w, decay, x):
    return jnp.sum((w - x) ** 2) + decay * jnp.sum(w**2)


@metagrad.compile
def train_step(w, decay, x):
    """One step of gradient descent."""
    return w - 0.1 * metagrad.grad(loss)(w, decay, x)


def validation(w):
    return jnp.sum(w**3)


ARGUMENTS = (
    jnp.asarray([1.0, 2.0]),
    jnp.asarray(0.5, jnp.float32),
    jnp.asarray([[1.0, 0.0], [0.5, 1.0], [2.0, 2.0]]),
)


@pytest.fixture
def step():
    return train_step


@pytest.fixture
def outer():
    return validation


@pytest.fixture
def arguments():
    return ARGUMENTS


@pytest.fixture(scope="module")
def lowered():
    """Lowered once for each file that looks into it."""
    return train_step.metagradient(validation, schedule=metagrad.LazyKary(2)).lower(*ARGUMENTS)

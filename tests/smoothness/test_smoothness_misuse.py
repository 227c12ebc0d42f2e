"""What is given in the place of a training routine or an outcome, and how results print."""

import jax.numpy as jnp
import pytest

import metagrad
from metagrad import smoothness


def step(w, rate, x):
    return w - rate * metagrad.grad(lambda w: jnp.sum((w - x) ** 2))(w)


BATCHES = jnp.ones((3, 2))
START = jnp.zeros(2)


def test_a_step_or_a_metagradient_is_no_training_routine():
    decorated = metagrad.compile(step)
    for given in (decorated, decorated.metagradient(jnp.sum)):
        with pytest.raises(TypeError, match=r"smoothness\.training\(step, state0, batches\)"):
            metagrad.metasmoothness(given, 0.1, 1, 0.05)


def test_a_landscape_is_of_scalars():
    train = smoothness.training(step, START, BATCHES)
    z, u, v = jnp.full(2, 0.1), jnp.array([1.0, 0.0]), jnp.array([0.0, 1.0])
    for outcome in (train, lambda z: {"w": train(z)}):
        with pytest.raises(ValueError, match=r"outcome must return a real scalar.*\(2,\)"):
            smoothness.landscape(outcome, z, u, v, reach=0.1, points_per_axis=2)


def test_results_print_in_a_line():
    train = smoothness.training(step, START, BATCHES)
    assert repr(train) == "<Training of step, 3 steps>"
    z, u, v = jnp.full(2, 0.1), jnp.array([1.0, 0.0]), jnp.array([0.0, 1.0])
    seen = smoothness.landscape(lambda z: jnp.sum(z), z, u, v, reach=0.1, points_per_axis=3)
    assert repr(seen) == "<Landscape of 3 x 3 points, outcome 0 to 0.4, roughness 0.000>"

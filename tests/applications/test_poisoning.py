"""`metagrad.applications.poisoning`: the attack raises the loss and stays in its box."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import metagrad
from metagrad.applications import poisoning

RANDOM = np.random.default_rng(0)
IMAGE = RANDOM.uniform(size=(40, 6)).astype(np.float32)
LABEL = (IMAGE[:, 0] > 0.5).astype(np.int32)
HELD_OUT = RANDOM.uniform(size=(60, 6)).astype(np.float32)
CLEAN = {"image": IMAGE, "label": LABEL}
EXAMPLES = [3, 17, 28]
STEPS = 40


def losses(w, image, label):
    return jnp.logaddexp(0.0, (image @ w[:6] + w[6]) * (1 - 2 * label))


@metagrad.compile
def step(w, data, batch):
    loss = lambda w: jnp.mean(losses(w, data["image"][batch], data["label"][batch]))
    return w - 1.0 * metagrad.grad(loss)(w)


def held_out_loss(w):
    return jnp.mean(losses(w, HELD_OUT, HELD_OUT[:, 0] > 0.5))


def problem(round, key):
    return jnp.zeros(7), jnp.arange(STEPS * 10).reshape(STEPS, 10) % 40


MG = step.metagradient(held_out_loss)


def attack(**options):
    given = {"rounds": 6, "step_size": 0.2, "leaf": "['image']", "progress": False} | options
    return poisoning.poison(MG, CLEAN, problem, EXAMPLES, **given)


def train(data):
    return metagrad.smoothness.training(step, *problem(0, None))(data)


def test_it_raises_the_held_out_loss_more_than_noise_in_the_same_box():
    poisoned = attack()
    assert poisoned.losses[0] == pytest.approx(float(held_out_loss(train(CLEAN))), rel=1e-5)
    assert poisoned.losses.max() == pytest.approx(float(held_out_loss(train(poisoned.data))))
    noises = [
        float(held_out_loss(train(poisoning.random_noise(CLEAN, poisoned.box, seed))))
        for seed in range(10)
    ]
    assert poisoned.losses.max() > max(noises)
    assert "Poisoning of 3 examples in 6 rounds" in repr(poisoned)


def test_only_the_examples_move_and_only_within_the_box():
    poisoned = attack(radius=0.3, optimizer=optax.adamw(0.2, weight_decay=0.1))
    image = np.asarray(poisoned.data["image"])
    others = np.setdiff1d(np.arange(40), EXAMPLES)
    assert np.array_equal(image[others], IMAGE[others])
    assert np.array_equal(poisoned.data["label"], LABEL)
    assert not np.array_equal(image[EXAMPLES], IMAGE[EXAMPLES])
    assert np.abs(image - IMAGE).max() <= 0.3 + 1e-6
    assert (image.min(), image.max()) >= (0.0, 0.0)
    assert image.max() <= 1
    assert poisoned.examples.tolist() == EXAMPLES


def test_noise_fills_the_box():
    box = poisoning.Box.of(CLEAN, EXAMPLES, "['image']", radius=0.1)
    image = np.asarray(poisoning.random_noise(CLEAN, box, 1)["image"])
    moved = np.flatnonzero((image != IMAGE).any(axis=1))
    assert moved.tolist() == EXAMPLES
    assert 0 < np.abs(image - IMAGE).max() <= 0.1 + 1e-6


def test_flipped_labels_are_other_labels():
    labels = RANDOM.integers(0, 10, 200)
    flipped = poisoning.flip_labels(labels, np.arange(50), 10)
    assert (flipped[:50] != labels[:50]).all()
    assert np.array_equal(flipped[50:], labels[50:])
    assert set(flipped.tolist()) <= set(range(10))


def test_corrupted_parameters_are_near_and_bad():
    w = train(CLEAN)
    worse = poisoning.corrupt_parameters(held_out_loss, w, 0.5)
    assert float(held_out_loss(worse)) > float(held_out_loss(w))
    distance = jnp.linalg.norm(worse - w) / jnp.linalg.norm(w)
    assert float(distance) == pytest.approx(0.5, rel=1e-3)


def test_cancelling_makes_the_gradient_at_the_target_small():
    box = poisoning.Box.of(CLEAN, EXAMPLES, "['image']")
    of_each = lambda w, data: losses(w, data["image"], data["label"])
    training_loss = lambda w, data: jnp.mean(of_each(w, data))
    target = poisoning.corrupt_parameters(held_out_loss, train(CLEAN), 0.1)
    data, norms = poisoning.cancel_gradients(of_each, target, CLEAN, box, steps=100)
    left = float(jnp.linalg.norm(jax.grad(training_loss)(target, data)))
    assert left <= norms[-1] * 1.01 < norms[0]
    image = np.asarray(data["image"])
    assert np.array_equal(np.delete(image, EXAMPLES, 0), np.delete(IMAGE, EXAMPLES, 0))
    assert image.min() >= 0
    assert image.max() <= 1


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"leaf": "['label']"}, r"There are: \"\['image'\]\""),
        ({"limits": (0.5, 1.0)}, "outside of limits"),
        ({"limits": (1.0, 0.0)}, "limits must be"),
        ({"radius": 0.0}, "radius positive"),
    ],
)
def test_what_does_not_fit_the_data_is_refused(change, text):
    with pytest.raises(ValueError, match=text):
        attack(**change)


@pytest.mark.parametrize("examples", [[], [1.5], [40], [-1], [2, 2]])
def test_examples_are_different_rows(examples):
    with pytest.raises(ValueError, match="examples must be"):
        poisoning.Box.of(CLEAN, examples, "['image']")


def test_the_data_have_to_be_the_metaparameters():
    mg = step.metagradient(held_out_loss, wrt="state")
    with pytest.raises(ValueError, match="with respect to state"):
        poisoning.poison(mg, CLEAN, problem, EXAMPLES, rounds=1)


def test_noise_needs_bounds():
    box = poisoning.Box.of(CLEAN, EXAMPLES, "['image']", limits=None)
    with pytest.raises(ValueError, match="no bounds"):
        poisoning.random_noise(CLEAN, box)


def test_a_directory_of_another_training_is_refused(tmp_path):
    options = {"rounds": 1, "leaf": "['image']", "limits": None, "progress": False}
    options["resume_dir"] = tmp_path / "attack"
    poisoning.poison(MG, CLEAN, problem, EXAMPLES, **options)
    other = step.metagradient(lambda w: held_out_loss(w) + jnp.sum(w**2))
    with pytest.raises(metagrad.JournalError, match="the training step or the outer function"):
        poisoning.poison(other, CLEAN, problem, EXAMPLES, **options | {"rounds": 2})
    truncated = metagrad.mgd.truncated(MG, 3)
    with pytest.raises(metagrad.JournalError, match="mg is"):
        poisoning.poison(truncated, CLEAN, problem, EXAMPLES, **options | {"rounds": 2})


def test_no_rounds():
    assert "in 0 rounds" in repr(attack(rounds=0))

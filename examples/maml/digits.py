"""Few-shot classification of scikit-learn's digits: four classes of which none was trained on.

There are ten classes of 8 x 8 pixels. Training tasks are four classes of the digits 0 to 5, each in
the eight ways in which a square can be turned and mirrored (48 classes), under labels in random
order; test tasks are the digits 6 to 9 as they are, in random order. With so few classes this is no
Omniglot: the numbers compare the ways to learn with one another.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax

from examples.maml import sinusoids
from examples.maml.training import Setting

WAYS, QUERIES, EACH = 4, 8, 174
"""Classes of a task, queries of each class, images of each class (as many as the rarest has)."""
WIDTHS = 64, 64, 64, WAYS


@functools.cache
def images():
    """float32 [class, image, 8, 8], pixels from 0 to 1."""
    from sklearn.datasets import load_digits

    data, labels = load_digits(return_X_y=True)
    scaled = (data / 16).astype(np.float32).reshape(-1, 8, 8)
    return np.stack([scaled[labels == digit][:EACH] for digit in range(10)])


def classes(digits, turns=(0,), mirrored=(False,)):
    """float32 [class, image, 64]: the digits, turned by quarters of a circle and mirrored."""
    sides = [images()[digits].swapaxes(2, 3) if mirror else images()[digits] for mirror in mirrored]
    turned = [np.rot90(side, turn, (2, 3)) for side in sides for turn in turns]
    return np.concatenate(turned).reshape(-1, EACH, 64)


@functools.cache
def trained_on():
    return classes(range(6), range(4), (False, True))


def draw_from(classes, key, shots):
    """(support, query) of four of the classes, [WAYS * shots, 64] and labels."""
    of_classes, of_images = jax.random.split(key)
    chosen = jax.random.permutation(of_classes, len(classes))[:WAYS]
    pick = lambda key, one: jax.random.permutation(key, one)[: shots + QUERIES]
    x = jax.vmap(pick)(jax.random.split(of_images, WAYS), jnp.asarray(classes)[chosen])
    labels = lambda count: jnp.repeat(jnp.arange(WAYS), count)
    support, query = x[:, :shots].reshape(-1, 64), x[:, shots:].reshape(-1, 64)
    return (support, labels(shots)), (query, labels(QUERIES))


def draw(key, shots):
    return draw_from(trained_on(), key, shots)


def draw_unseen(key, shots):
    return draw_from(classes(range(6, 10)), key, shots)


def initial(key):
    return sinusoids.initial(key, WIDTHS)


def logits(params, x):
    return sinusoids.network(params, x)


def loss(params, x, labels):
    of_each = optax.softmax_cross_entropy_with_integer_labels(logits(params, x), labels)
    return jnp.mean(of_each)


def error(params, x, labels):
    return jnp.mean(jnp.argmax(logits(params, x), -1) != labels)


# --- Plain training on all classes -------------------------------------------------------------


def initial_of_all(key):
    return sinusoids.initial(key, (*WIDTHS[:-1], len(trained_on())))


def of_all_classes(key, batch=100):
    """Images of the classes that are trained on, and which each is of."""
    of_class, of_image = jax.random.split(key)
    label = jax.random.randint(of_class, (batch,), 0, len(trained_on()))
    image = jax.random.randint(of_image, (batch,), 0, EACH)
    return jnp.asarray(trained_on())[label, image], label


def with_a_new_head(params):
    """The hidden layers, and a last one for four classes that starts at zero."""
    zeros = {"w": jnp.zeros((WIDTHS[-2], WAYS)), "b": jnp.zeros(WAYS)}
    return [*params[:-1], zeros]


SETTING = Setting(draw, loss, rate=0.1, steps=5, tasks=16, shots=1)

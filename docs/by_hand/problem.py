"""What both programs share: data, network, run."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
from sklearn.datasets import load_digits

images, true_labels = load_digits(return_X_y=True)
images, true_labels = (
    jnp.asarray(images / 16, jnp.float32),
    jnp.asarray(true_labels),
)
random = np.random.default_rng(0)
wrong = random.choice(500, 50, replace=False)
labels = true_labels.at[wrong].set(
    (true_labels[wrong] + random.integers(1, 10, 50)) % 10
)

x, y = images[:500], labels[:500]
x_validation, y_validation = (
    images[500:900],
    true_labels[500:900],
)
optimiser = optax.adam(1e-2, eps_root=1e-8)


def cross_entropy(params, x, y):
    logits = jnp.tanh(x @ params["w1"]) @ params["w2"]
    return optax.softmax_cross_entropy_with_integer_labels(
        logits, y
    )


def validation_loss(state, x, y):
    return jnp.mean(cross_entropy(state[0], x, y))


keys = jax.random.split(jax.random.key(0))
params = {
    "w1": 0.2 * jax.random.normal(keys[0], (64, 32)),
    "w2": 0.2 * jax.random.normal(keys[1], (32, 10)),
}
state0 = params, optimiser.init(params)
weights = jnp.ones(500)
epochs = [
    random.permutation(500)[:400].reshape(8, 50)
    for _ in range(8)
]
batches = jnp.asarray(np.concatenate(epochs))  # [64, 50]

"""A small residual network on 8x8 images, with the switches that make its training smooth or not.

Three convolutions before and in one residual block, a pooling after the first and one at the end,
and a dense layer. Plain JAX. Normalisation is over each example's own pixels and channels (group
normalisation with one group), so that examples meet in the mean of the loss only.
"""

import dataclasses

import jax
import jax.numpy as jnp
import optax

import metagrad

CLASSES = 10


@dataclasses.dataclass(frozen=True)
class Routine:
    """One way to train.

    Attributes:
      width: channels of the first convolution; the others have twice as many.
      norm: "before" the activation, or "after" it.
      pool: "average" or "max".
      activation: "gelu" or "relu".
      output_scale: the logits are multiplied by it.
      eps_root: what Adam adds to the second moment inside its square root.
      batch: examples in a batch.
      rate: the peak learning rate, after a linear rise over a quarter of the steps; it then falls
        linearly to zero.
    """

    width: int = 8
    norm: str = "before"
    pool: str = "average"
    activation: str = "gelu"
    output_scale: float = 1.0
    eps_root: float = 1e-7
    batch: int = 64
    rate: float = 1e-2


SMOOTH = Routine()
ROUGH = Routine(6, "after", "max", "relu", 4.0, 1e-12, 32, 2e-2)


def initial(routine, key):
    """Parameters with kernels of variance 2 / fan-in, float32."""
    w = routine.width
    shapes = {
        "stem": (3, 3, 1, w),
        "widen": (3, 3, w, 2 * w),
        "first": (3, 3, 2 * w, 2 * w),
        "second": (3, 3, 2 * w, 2 * w),
        "dense": (2 * w, CLASSES),
    }
    keys = jax.random.split(key, len(shapes))
    return {
        name: {
            "kernel": jax.random.normal(k, shape) * (2 / jnp.prod(jnp.array(shape[:-1]))) ** 0.5,
            "bias": jnp.zeros(shape[-1]),
        }
        for k, (name, shape) in zip(keys, shapes.items())
    }


def logits(routine, params, image):
    """[n, 8, 8] -> [n, 10]."""
    unit = lambda name, x: _unit(routine, params[name], x)
    x = _halve(routine, unit("stem", image[..., None]))
    x = unit("widen", x)
    x = x + unit("second", unit("first", x))
    x = jnp.mean(x, (1, 2)) if routine.pool == "average" else jnp.max(x, (1, 2))
    dense = params["dense"]
    return routine.output_scale * (x @ dense["kernel"] + dense["bias"])


def losses(routine, params, image, label):
    """Cross-entropy of each example, in nats."""
    scores = logits(routine, params, image)
    return optax.softmax_cross_entropy_with_integer_labels(scores, label)


def accuracy(routine, params, image, label):
    return jnp.mean(jnp.argmax(logits(routine, params, image), axis=1) == label)


def _unit(routine, params, x):
    """A convolution with normalisation and activation, in the routine's order."""
    x = _convolve(x, params["kernel"]) + params["bias"]
    activation = {"gelu": jax.nn.gelu, "relu": jax.nn.relu}[routine.activation]
    return activation(_norm(x)) if routine.norm == "before" else _norm(activation(x))


def _convolve(x, kernel):
    """A 3x3 convolution as one product: XLA's CPU backend trains through it 10 times faster."""
    _, height, width, channels = x.shape
    padded = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    shifted = [padded[:, i : i + height, j : j + width] for i in range(3) for j in range(3)]
    return jnp.concatenate(shifted, axis=-1) @ kernel.reshape(9 * channels, -1)


def _norm(x):
    mean = jnp.mean(x, (1, 2, 3), keepdims=True)
    variance = jnp.mean((x - mean) ** 2, (1, 2, 3), keepdims=True)
    return (x - mean) * jax.lax.rsqrt(variance + 1e-5)


def _halve(routine, x):
    """2x2 pooling."""
    n, height, width, channels = x.shape
    x = x.reshape(n, height // 2, 2, width // 2, 2, channels)
    return jnp.mean(x, (2, 4)) if routine.pool == "average" else jnp.max(x, (2, 4))


# --- Training -------------------------------------------------------------------------------------


def adam(routine, steps):
    rise = max(steps // 4, 1)
    rate = optax.join_schedules(
        [
            optax.linear_schedule(0.1 * routine.rate, routine.rate, rise),
            optax.linear_schedule(routine.rate, 0.0, steps - rise),
        ],
        [rise],
    )
    return optax.adam(rate, eps_root=routine.eps_root)


def state0(routine, steps, key):
    params = initial(routine, key)
    return {"params": params, "adam": adam(routine, steps).init(params)}


def train_step(routine, steps):
    """The step. Its metaparameters are {"image": [n, 8, 8]}, the training images themselves.

    A batch is {"example": indices [b], "label": [b]}.
    """
    optimiser = adam(routine, steps)

    @metagrad.compile
    def step(state, data, batch):
        def loss(params):
            return jnp.mean(
                losses(routine, params, data["image"][batch["example"]], batch["label"])
            )

        grad = metagrad.grad(loss)(state["params"])
        updates, moments = optimiser.update(grad, state["adam"], state["params"])
        return {"params": optax.apply_updates(state["params"], updates), "adam": moments}

    return step

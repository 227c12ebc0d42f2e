"""What the models are trained on, and the training step of a model, a task and an optimiser."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

import metagrad

RATE = np.float32(0.2)
"""The rate of dropout. It is f32 also in x64 mode, so that a key drops the same entries in both."""

EXAMPLES, SIDE, CLASSES, VOCABULARY, LENGTH = 3, 8, 3, 7, 5


class Task(NamedTuple):
    """Random data of one kind and the loss of each example.

    Attributes:
      draw: `draw(random, *lead)`: a batch with leading axes `lead` before the one of the examples.
      inputs: what of a batch the model sees.
      losses: `losses(model's output, batch)`: one number for each example.
    """

    draw: Callable
    inputs: Callable
    losses: Callable

    def sample(self):
        return self.draw(np.random.default_rng(0))


def _images(random, *lead):
    return random.normal(size=(*lead, EXAMPLES, SIDE, SIDE, 2)).astype(np.float32)


def _tokens(random, *lead):
    return random.integers(0, VOCABULARY, (*lead, EXAMPLES, LENGTH)).astype(np.int32)


def _labels(random, *lead):
    return random.integers(0, CLASSES, (*lead, EXAMPLES)).astype(np.int32)


IMAGES = Task(
    lambda random, *lead: {"image": _images(random, *lead), "label": _labels(random, *lead)},
    lambda batch: batch["image"],
    lambda logits, batch: optax.softmax_cross_entropy_with_integer_labels(logits, batch["label"]),
)
FEATURES = Task(
    lambda random, *lead: {
        "x": random.normal(size=(*lead, EXAMPLES, 4)).astype(np.float32),
        "label": _labels(random, *lead),
    },
    lambda batch: batch["x"],
    lambda logits, batch: optax.softmax_cross_entropy_with_integer_labels(logits, batch["label"]),
)
TEXT = Task(
    lambda random, *lead: {"tokens": _tokens(random, *lead)},
    lambda batch: batch["tokens"],
    lambda logits, batch: optax.softmax_cross_entropy_with_integer_labels(
        logits[:, :-1], batch["tokens"][:, 1:]
    ).mean(-1),
)
DENOISING = Task(
    lambda random, *lead: {"noisy": _images(random, *lead), "clean": _images(random, *lead)},
    lambda batch: batch["noisy"],
    lambda out, batch: jnp.mean((out - batch["clean"]) ** 2, (1, 2, 3)),
)
PAIRS = Task(
    lambda random, *lead: {"image": _images(random, *lead), "tokens": _tokens(random, *lead)},
    lambda batch: (batch["image"], batch["tokens"]),
    lambda logits, batch: contrastive(logits),
)


def contrastive(logits):
    """CLIP's loss: each image must find its text, and each text its image."""
    of_images, of_texts = jax.nn.log_softmax(logits, 1), jax.nn.log_softmax(logits, 0)
    return -(jnp.diagonal(of_images) + jnp.diagonal(of_texts)) / 2


class Problem(NamedTuple):
    """A model to be trained.

    Attributes:
      params: what the optimiser updates.
      carried: what else the model changes from step to step: statistics of batch normalisation.
      losses: `losses(params, carried, key, batch, train) -> (one loss for each example, carried)`.
      task: where batches come from.
      no_effect: a pattern of the paths of parameters that the loss does not depend on. The bias of
        the keys of an attention is one: it adds the same to all scores of a query, and the softmax
        takes that away.
    """

    params: Any
    carried: Any
    losses: Callable
    task: Task
    no_effect: str = ""


TASKS = {
    "MLP": IMAGES,
    "ResNet-9": IMAGES,
    "ViT": IMAGES,
    "GPT": TEXT,
    "LSTM": TEXT,
    "U-Net": DENOISING,
    "CLIP": PAIRS,
}


def of_library(problem, *modules):
    """Model -> what makes its problem. `modules` are a library's, in the order of TASKS."""
    return {
        name: functools.partial(problem, module, task)
        for (name, task), module in zip(TASKS.items(), modules, strict=True)
    }


def training(problem, optimiser):
    """(step, outer, state, meta) of a training run.

    The metaparameters are a weight for each example and the logarithm of a factor of the updates.
    """

    optimiser = optax.with_extra_args_support(optimiser)

    @metagrad.compile
    def step(state, meta, batch):
        key, of_step = jax.random.split(state["key"])

        def loss(params, carried):
            losses, carried = problem.losses(params, carried, of_step, batch, True)
            return jnp.mean(meta["weights"] * losses), carried

        gradient, carried = metagrad.grad(loss, has_aux=True)(state["params"], state["carried"])
        again = lambda params, _: metagrad.grad(loss, has_aux=True)(params, state["carried"])[
            0
        ]  # what SAM's opaque mode asks for
        updates, opt = optimiser.update(gradient, state["opt"], state["params"], grad_fn=again)
        updates = jax.tree.map(lambda u: jnp.exp(meta["rate"]) * u, updates)
        return {
            "params": optax.apply_updates(state["params"], updates),
            "carried": carried,
            "opt": opt,
            "key": key,
        }

    def outer(state, held_out):
        losses, _ = problem.losses(state["params"], state["carried"], None, held_out, False)
        return jnp.mean(losses)

    state = {
        "params": problem.params,
        "carried": problem.carried,
        "opt": optimiser.init(problem.params),
        "key": jax.random.key(3),
    }
    meta = {"weights": np.linspace(0.5, 1.5, EXAMPLES).astype(np.float32), "rate": np.float32(-0.1)}
    return step, outer, state, meta

"""The classifier: 64 pixels, 64 tanh units, 10 classes, in plain JAX.

Parameters are {"hidden" | "output": {"kernel", "bias"}}. The units are tanh and not relu, because
the validation loss is then a smooth function of the metaparameters, which metagradient descent
needs (Engstrom et al. 2025, "metasmoothness").
"""

import jax
import jax.numpy as jnp

from metagrad.demo.data import CLASSES

PIXELS, HIDDEN = 64, 64


def initial(key):
    """Parameters with kernels of variance 1/fan-in and zero biases, float32."""

    def dense(key, inputs, outputs):
        return {
            "kernel": jax.random.normal(key, (inputs, outputs), jnp.float32) / inputs**0.5,
            "bias": jnp.zeros(outputs, jnp.float32),
        }

    hidden, output = jax.random.split(key)
    return {"hidden": dense(hidden, PIXELS, HIDDEN), "output": dense(output, HIDDEN, CLASSES)}


def logits(params, image):
    hidden = jnp.tanh(image @ params["hidden"]["kernel"] + params["hidden"]["bias"])
    return hidden @ params["output"]["kernel"] + params["output"]["bias"]


def losses(params, image, label):
    """Cross-entropy of each example, in nats: [n]."""
    likelihood = jax.nn.log_softmax(logits(params, image))
    return -jnp.sum(likelihood * jax.nn.one_hot(label, CLASSES, dtype=likelihood.dtype), axis=1)


def accuracy(params, image, label):
    """The share of examples whose most likely class is their label."""
    return jnp.mean(jnp.argmax(logits(params, image), axis=1) == label)

"""Influence functions with EK-FAC, for the dense layers of a classifier or a language model."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from metagrad.attribution.baselines.products import as_scores, products, query_gradients
from metagrad.attribution.score_table import Scores

Name = str | tuple
"""Of a layer: where it is in the parameters, "hidden" or ("layers", 0, "up")."""


def ekfac(
    network: Callable,
    losses: Callable,
    outcome: Callable,
    params: Any,
    examples: Any,
    *outer_args: Any,
    damping: float = 0.1,
    seed: int = 0,
) -> Scores:
    """Influence functions with an eigenvalue-corrected Kronecker factorisation of the curvature.

    George et al. 2018 (arXiv 1806.03884), for influence functions as in Grosse et al. 2023 (arXiv
    2308.03296). For each dense layer the curvature is taken to be diagonal in the eigenvectors of
    the second moments of its inputs and of the gradients in its outputs. Those gradients are of
    labels that are drawn from what the network predicts.

    The restrictions: the loss is the cross entropy of logits, and dense layers are all that counts.
    Other parameters (embeddings, normalisations, convolutions) are taken not to change.

    Args:
      network: `network(params, examples, probe) -> logits`, [n, C] or [n, L, C]. It calls
        `y = probe(name, x, y)` at each dense layer, with the inputs x and the outputs
        y = x @ kernel (+ bias). `name` is where the layer is in params: "hidden" or
        ("layers", 0, "up"). There is the kernel [in, out] itself, or {"kernel": ..., "bias": ...}.
      losses: `losses(params, examples) -> [n]` or [n, L].
      outcome: `outcome(params, *outer_args)`, a scalar or a vector of Q.
      params: at the end of training.
      examples: of the training set, with a leading axis of length n. They are taken at once.
      outer_args: further arguments of the outcome.
      damping: times the mean eigenvalue of a layer, added to its eigenvalues.
      seed: of the labels that are drawn.

    Returns:
      `Scores`.

    Raises:
      ValueError: the network calls no probe, or a layer is not what its name says.
    """
    functions = (network, losses, outcome)
    key = jax.random.key(seed)
    values, outcomes = _ekfac(*functions, params, examples, outer_args, damping, key)
    return as_scores(values, outcomes, "influence (ek-fac)", {"damping": damping})


@jax.jit(static_argnums=(0, 1, 2))
def _ekfac(network, losses, outcome, params, examples, outer_args, damping, key):
    layers = _layers(network, params, examples, key)
    outcomes, gradients = query_gradients(outcome, params, outer_args)
    directions = jax.tree.map(jnp.zeros_like, gradients)
    for name, (inputs, cotangents) in layers.items():
        basis = _basis(inputs, cotangents)
        solve = jax.vmap(functools.partial(_solve, basis, damping))
        directions = _put(directions, name, solve(_matrix(_at(gradients, name), name)))
    values = -products(losses, params, examples, directions)
    return values / values[0].size, outcomes


# --- What goes through the layers -----------------------------------------------------------------


def _layers(
    network: Callable, params: Any, examples: Any, key: jax.Array
) -> dict[Name, tuple[jax.Array, jax.Array]]:
    """The inputs [n, L, in] of each layer, with a column of ones for a bias, and the gradients
    [n, L, out] of the loss in its outputs, for labels that are drawn."""
    shapes = _output_shapes(network, params, examples)
    names = list(shapes)

    def shifted(shifts):
        inputs = dict.fromkeys(names)

        def probe(name, x, y):
            inputs[name] = x
            return y + shifts[names.index(name)]

        # Lists: the keys of a dict would be sorted, and texts and tuples have no order.
        return network(params, examples, probe), [inputs[name] for name in names]

    shifts = [jnp.zeros(y.shape, y.dtype) for y in shapes.values()]
    logits, pull_back, inputs = jax.vjp(shifted, shifts, has_aux=True)
    (cotangents,) = pull_back(_drawn_cotangents(key, logits))
    return {
        name: (_with_ones(_tokens(x), _at(params, name)), _tokens(cotangent))
        for name, x, cotangent in zip(names, inputs, cotangents)
    }


def _output_shapes(network: Callable, params: Any, examples: Any) -> dict[Name, Any]:
    """The outputs of each layer that the network probes, in order."""
    shapes: dict[Name, Any] = {}

    def probe(name, x, y):
        if name in shapes:
            raise ValueError(f"the network calls probe({name!r}, ...) twice")
        shapes[name] = y
        return y

    jax.eval_shape(lambda p, e: network(p, e, probe), params, examples)
    if not shapes:
        raise ValueError("the network calls no probe, so there is no layer to factorise")
    return shapes


def _drawn_cotangents(key: jax.Array, logits: jax.Array) -> jax.Array:
    """The gradient of the cross entropy in the logits, for labels drawn from them."""
    labels = jax.random.categorical(key, logits)
    return jax.nn.softmax(logits) - jax.nn.one_hot(labels, logits.shape[-1], dtype=logits.dtype)


def _tokens(x: jax.Array) -> jax.Array:
    """[n, L, features]; L is 1 without tokens."""
    return x.reshape(len(x), -1, x.shape[-1])


def _with_ones(x: jax.Array, layer: Any) -> jax.Array:
    return jnp.concatenate([x, jnp.ones_like(x[..., :1])], -1) if _has_bias(layer) else x


# --- The curvature --------------------------------------------------------------------------------


class _Basis(NamedTuple):
    """Eigenvectors of both factors, and the curvature along their products, [in, out]."""

    inputs: jax.Array
    outputs: jax.Array
    eigenvalues: jax.Array


def _basis(inputs: jax.Array, cotangents: jax.Array) -> _Basis:
    moment = lambda x: jnp.einsum("nli,nlj->ij", x, x) / (x.shape[0] * x.shape[1])
    (_, of_inputs), (_, of_outputs) = map(jnp.linalg.eigh, (moment(inputs), moment(cotangents)))
    gradients = jnp.einsum("nli,nlo->nio", inputs @ of_inputs, cotangents @ of_outputs)
    # The mean loss is over tokens too.
    return _Basis(of_inputs, of_outputs, jnp.mean(gradients**2, 0) / inputs.shape[1])


def _solve(basis: _Basis, damping: jax.Array, gradient: jax.Array) -> jax.Array:
    """The damped inverse curvature times a gradient [in, out]."""
    along = basis.inputs.T @ gradient @ basis.outputs
    along /= basis.eigenvalues + damping * basis.eigenvalues.mean()
    return basis.inputs @ along @ basis.outputs.T


# --- Layers in a tree of parameters ---------------------------------------------------------------


def _keys(name: Name) -> tuple:
    return name if isinstance(name, tuple) else (name,)


def _at(tree: Any, name: Name) -> Any:
    for key in _keys(name):
        try:
            tree = tree[key]
        except (KeyError, IndexError, TypeError):
            raise ValueError(f"probe({name!r}, ...): params has nothing at {name!r}") from None
    return tree


def _has_bias(layer: Any) -> bool:
    return isinstance(layer, dict) and layer.get("bias") is not None


def _matrix(layer: Any, name: Name) -> jax.Array:
    """Kernels [Q, in, out]; with a bias it is the last row."""
    kernel = layer["kernel"] if isinstance(layer, dict) else layer
    if kernel.ndim != 3:
        raise ValueError(
            f"probe({name!r}, ...): a kernel is [in, out], and that of params has "
            f"{kernel.ndim - 1} axes"
        )
    return jnp.concatenate([kernel, layer["bias"][:, None]], 1) if _has_bias(layer) else kernel


def _put(tree: Any, name: Name, matrix: jax.Array) -> Any:
    """The tree with one layer from its matrices."""
    layer = _at(tree, name)
    if _has_bias(layer):
        new = layer | {"kernel": matrix[:, :-1], "bias": matrix[:, -1]}
    else:
        new = layer | {"kernel": matrix} if isinstance(layer, dict) else matrix
    return _replaced(tree, _keys(name), new)


def _replaced(tree: Any, keys: tuple, new: Any) -> Any:
    if not keys:
        return new
    inner = _replaced(tree[keys[0]], keys[1:], new)
    if isinstance(tree, dict):
        return tree | {keys[0]: inner}
    return type(tree)(inner if i == keys[0] else entry for i, entry in enumerate(tree))

"""TorchOpt (Ren et al. 2022, arXiv 2211.06934): its differentiable Adam, and PyTorch's autograd.

The same tasks from the same numbers, as its users write them: a Python loop over steps, gradients
with `create_graph=True`, updates with `inplace=False`, one `torch.autograd.grad` at the end. Every
intermediate value of the run is kept. Inner models are a Python loop too.

PyTorch does not say how much memory a program needs: it is known from the process alone.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from benchmarks.contenders.contender import Built, Contender, Memory, Problem, Unavailable
from benchmarks.mixflow.sizes import PLAIN_ATTENTION_UP_TO
from benchmarks.mixflow.tasks import RATE

MOST_STEPS = 8
"""Longer runs keep more than this machine has, on most rows."""


def build(problem: Problem) -> Built:
    try:
        import torchopt  # noqa: F401
    except ImportError:
        raise Unavailable("torchopt is not installed: pip install torch torchopt") from None
    if problem.steps > MOST_STEPS:
        raise Unavailable(f"more than {MOST_STEPS} steps are not tried: all values are kept")
    of = problem.model
    if of.size.tokens > PLAIN_ATTENTION_UP_TO:
        raise Unavailable("PyTorch's blockwise attention has no second derivative")
    run = RUNS[of.name]

    def metagradient(state0, meta, batches, held_out):
        arguments = (state0[0], meta, batches, held_out)
        tensors = jax.tree.map(_tensor, arguments)
        value, gradient = run(_Transformer(of.size), *tensors)
        return value.detach().numpy(), jax.tree.map(lambda leaf: leaf.detach().numpy(), gradient)

    return Built(metagradient, Memory(0, "resident"), 0.0)


TORCHOPT = Contender("TorchOpt", build)


class _Transformer:
    """models/gpt2.py in PyTorch."""

    def __init__(self, size):
        self.size = size

    def losses(self, params: Any, tokens: Any) -> Any:
        """[batch]; tokens are int64[batch, length + 1]."""
        import torch

        inputs, targets = tokens[:, :-1], tokens[:, 1:]
        x = params["embedding"][inputs] + params["position"][: inputs.shape[1]]
        layers = jax.tree.map(lambda leaf: leaf.unbind(0), params["layers"])
        for i in range(self.size.layers):
            is_layer = lambda leaf: isinstance(leaf, tuple)
            x = self._block(x, jax.tree.map(lambda leaf: leaf[i], layers, is_leaf=is_layer))  # noqa: B023
        logits = _layer_norm(x, params["last"]) @ params["embedding"].T
        entropy = torch.nn.functional.cross_entropy(
            logits.flatten(0, 1), targets.flatten(), reduction="none"
        )
        return entropy.reshape(targets.shape).mean(-1)

    def _block(self, x: Any, layer: Any) -> Any:
        import torch

        x = x + self._attend(_layer_norm(x, layer["before_attention"]), layer)
        hidden = torch.nn.functional.gelu(
            _layer_norm(x, layer["before_mlp"]) @ layer["up"], approximate="tanh"
        )
        return x + hidden @ layer["down"]

    def _attend(self, x: Any, layer: Any) -> Any:
        import torch

        batch, length, width = x.shape
        apart = lambda a: a.reshape(batch, length, self.size.heads, -1).transpose(1, 2)
        query, key, value = map(apart, (x @ layer["qkv"]).chunk(3, -1))
        scores = query @ key.transpose(-1, -2) / (width // self.size.heads) ** 0.5
        causal = torch.ones(length, length, dtype=torch.bool).tril()
        mixed = scores.where(causal, -1e9).softmax(-1) @ value
        return mixed.transpose(1, 2).reshape(batch, length, width) @ layer["out"]


def _layer_norm(x: Any, layer: Any) -> Any:
    mean = x.mean(-1, keepdim=True)
    variance = ((x - mean) ** 2).mean(-1, keepdim=True)
    return (x - mean) * (variance + 1e-5).rsqrt() * layer["scale"] + layer["shift"]


def _train(params: Any, batches: Any, loss: Callable, rates: Any) -> Any:
    """The parameters after training; `loss(params, batch)`, `rates` a tensor or a list of them."""
    import torch
    import torchopt

    leaves, structure = jax.tree.flatten(params)
    adam = torchopt.transform.scale_by_adam(b1=0.9, b2=1 - 2**-10, eps=1e-8, eps_root=1e-8)
    moments = adam.init(leaves)
    for batch in batches:
        value = loss(jax.tree.unflatten(structure, leaves), batch)
        gradient = torch.autograd.grad(value, leaves, create_graph=True)
        direction, moments = adam.update(list(gradient), moments, inplace=False)
        steps = rates if isinstance(rates, list) else [rates] * len(leaves)
        leaves = [p - r * d for p, r, d in zip(leaves, steps, direction)]
    return jax.tree.unflatten(structure, leaves)


def _of_rates(model: _Transformer, params: Any, rates: Any, batches: Any, held_out: Any):
    _need_gradients(params)
    rates_leaves = _need_gradients(rates)
    loss = lambda params, tokens: model.losses(params, tokens).mean()
    value = loss(_train(params, batches, loss, rates_leaves), held_out)
    return value, jax.tree.unflatten(jax.tree.structure(rates), _gradient(value, rates_leaves))


def _of_maml(model: _Transformer, params: Any, rate: Any, batches: Any, held_out: Any):
    loss = lambda params, tokens: model.losses(params, tokens).mean()
    leaves = _need_gradients(params)
    value = 0
    for i in range(len(held_out)):
        task = jax.tree.map(lambda leaf: leaf[i], params)  # noqa: B023
        value = value + loss(_train(task, batches[:, i], loss, rate), held_out[i]) / len(held_out)
    return value, jax.tree.unflatten(jax.tree.structure(params), _gradient(value, leaves))


def _of_weighting(model: _Transformer, params: Any, network: Any, batches: Any, held_out: Any):
    leaves = _need_gradients(network)
    _need_gradients(params)

    def loss(params, tokens):
        features = network["embedding"][tokens].mean(-2)
        scores = ((features @ network["hidden"]).tanh() @ network["out"])[..., 0]
        return (scores.softmax(-1) * model.losses(params, tokens)).sum()

    population = batches.shape[1]
    value = 0
    for i in range(population):
        inner = jax.tree.map(lambda leaf: leaf[i], params)  # noqa: B023
        value = value + model.losses(_train(inner, batches[:, i], loss, RATE), held_out).mean()
    gradient = _gradient(value / population, leaves)
    return value / population, jax.tree.unflatten(jax.tree.structure(network), gradient)


RUNS = {"rates": _of_rates, "maml": _of_maml, "weighting": _of_weighting}


def _need_gradients(tree: Any) -> list:
    return [leaf.requires_grad_() for leaf in jax.tree.leaves(tree)]


def _gradient(value: Any, leaves: list) -> list:
    import torch

    return list(torch.autograd.grad(value, leaves))


def _tensor(array: Any) -> Any:
    import torch

    array = np.array(array)
    return torch.from_numpy(array.astype(np.int64) if array.dtype == np.int32 else array)

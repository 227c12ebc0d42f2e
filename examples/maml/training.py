"""Initial parameters, learned through the inner steps of a batch of tasks.

The inner step is what a user writes: SGD on one task's examples. A batch of tasks is made by
`jax.vmap`, around the step or around the metagradient, which come to the same. The metagradient
with respect to the state has one gradient for the initial parameters of each task. All tasks start
from the same ones, so the gradient of what is learned is their sum.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

import metagrad


class Setting(NamedTuple):
    """A family of tasks and how it is learned.

    Attributes:
      draw: `draw(key, shots) -> (support, query)`, each (inputs, targets) of one training task.
      loss: `loss(params, inputs, targets)`, the mean over one task's examples.
      rate: of the inner steps of SGD.
      steps: T, inner steps through which the initial parameters are learned.
      tasks: in one outer step.
      shots: examples that a training task adapts to.
    """

    draw: Callable
    loss: Callable
    rate: float
    steps: int
    tasks: int
    shots: int


def adapt(loss, params, rate, inputs, targets, grad=metagrad.grad):
    """One inner step of SGD on one task."""
    gradient = grad(loss)(params, inputs, targets)
    return jax.tree.map(lambda p, g: p - rate * g, params, gradient)


def metagradient(setting: Setting, across: str = "step", first_order: bool = False):
    """`gradient(params, support, query) -> (mean loss of the queries, its gradient)`.

    Args:
      setting: the tasks and the loss.
      across: what runs over tasks: "step" is a step under `jax.vmap`, and "metagradient" the
        metagradient of one task under `jax.vmap`.
      first_order: leaves out the derivative of the inner gradients, as first-order MAML does.
    """
    options = {"wrt": "state", "schedule": metagrad.StoreAll(), "progress": False}
    if first_order:
        options["approximation"] = metagrad.FirstOrder()
    one = lambda params, rate, batch: adapt(setting.loss, params, rate, *batch)

    if across == "step":
        outer = lambda params, x, y: jnp.mean(jax.vmap(setting.loss)(params, x, y))
        step = metagrad.compile(jax.vmap(one, (0, None, 0)))
        mg = step.metagradient(outer, **options)
    else:
        of_one = metagrad.compile(one).metagradient(setting.loss, **options)
        mg = jax.vmap(of_one, (0, None, 1, 0, 0))

    def gradient(params, support, query):
        starts = each_of(params, setting.tasks)
        result = mg(starts, setting.rate, each_of(support, setting.steps), *query)
        # Of the mean over tasks each gradient is a part; of single tasks the mean is still to take.
        total = jnp.sum if across == "step" else jnp.mean
        return jnp.mean(result.value), jax.tree.map(lambda g: total(g, 0), result.grad)

    return gradient


def each_of(tree: Any, count: int) -> Any:
    """`count` equal copies along a new leading axis."""
    return jax.tree.map(lambda x: jnp.broadcast_to(x, (count, *x.shape)), tree)


def drawn(setting: Setting, key: jax.Array):
    """(support, query) of one batch of tasks, with a leading axis of tasks."""
    draw = lambda key: setting.draw(key, setting.shots)
    return jax.vmap(draw)(jax.random.split(key, setting.tasks))


def learn(setting: Setting, params: Any, key: jax.Array, rounds: int, first_order: bool = False):
    """The initial parameters after `rounds` outer steps of Adam, and the outer loss of each."""
    metagradient_of = metagradient(setting, first_order=first_order)
    decay = optax.cosine_decay_schedule(2e-3, rounds)
    optimiser = optax.chain(optax.clip_by_global_norm(10.0), optax.adam(decay))

    def outer_step(carry, key):
        params, moments = carry
        value, gradient = metagradient_of(params, *drawn(setting, key))
        updates, moments = optimiser.update(gradient, moments)
        return (optax.apply_updates(params, updates), moments), value

    @jax.jit
    def run(params, key):
        keys = jax.random.split(key, rounds)
        (params, _), values = jax.lax.scan(outer_step, (params, optimiser.init(params)), keys)
        return params, values

    return run(params, key)


def pretrain(loss, draw, params: Any, key: jax.Array, rounds: int):
    """Plain training on examples of all tasks: `draw(key) -> (inputs, targets)`, one batch."""
    optimiser = optax.adam(optax.cosine_decay_schedule(2e-3, rounds))

    def step(carry, key):
        params, moments = carry
        gradient = jax.grad(loss)(params, *draw(key))
        updates, moments = optimiser.update(gradient, moments)
        return (optax.apply_updates(params, updates), moments), None

    @jax.jit
    def run(params, key):
        keys = jax.random.split(key, rounds)
        return jax.lax.scan(step, (params, optimiser.init(params)), keys)[0][0]

    return run(params, key)


@functools.partial(jax.jit, static_argnums=(0, 1, 5))
def after_steps(loss, measure, params, rate, tasks, steps):
    """`measure(params, *query)` of each task before and after each step: [tasks, steps + 1].

    Args:
      loss, measure: of one task's examples.
      params: initial parameters, of all tasks.
      rate: of SGD.
      tasks: (support, query), each with a leading axis of tasks.
      steps: that are made.
    """

    def one(support, query):
        def step(params, _):
            after = adapt(loss, params, rate, *support, grad=jax.grad)
            return after, measure(params, *query)

        last, measured = jax.lax.scan(step, params, None, steps)
        return jnp.append(measured, measure(last, *query))

    return jax.vmap(one)(*tasks)


RATES = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0)


def best_rate(loss, measure, params, tasks, steps) -> float:
    """The rate with the lowest measure after the last step: what the baselines adapt with."""
    ends = [float(after_steps(loss, measure, params, r, tasks, steps)[:, -1].mean()) for r in RATES]
    finite = [end if end == end else float("inf") for end in ends]
    return RATES[finite.index(min(finite))]

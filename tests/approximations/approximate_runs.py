"""JAX's gradient of a run with `stop_gradient`s where an approximation leaves something out."""

import jax
import jax.numpy as jnp
import optax
from exact import runs

import metagrad

T = 5
OPTIMISER = optax.adam(0.05, eps_root=1e-8)


def stopped(tree):
    return jax.tree.map(jax.lax.stop_gradient, tree)


def update(state, g, z):
    updates, opt = OPTIMISER.update(g, state["opt"], state["params"])
    updates = jax.tree.map(lambda u: u * jnp.exp(z["rate"]), updates)
    return {"params": optax.apply_updates(state["params"], updates), "opt": opt}


@metagrad.compile
def step(state, z, batch):
    return update(state, metagrad.grad(runs.loss)(state["params"], z, batch), z)


def arguments():
    params = runs.params()
    return {"params": params, "opt": OPTIMISER.init(params)}, runs.meta(), runs.data(T)


def oracle(wrt, *, first_order, last=T, outer=runs.outer):
    """The gradient, in the structure that the metagradient has."""
    trees = dict(zip(("state", "meta", "batches"), arguments()))

    def run(moving):
        state, z, batches = (trees | moving).values()
        for t in range(T):
            state = stopped(state) if 0 < t == T - last else state
            batch = jax.tree.map(lambda leaf, t=t: leaf[t], batches)
            params = stopped(state["params"]) if first_order else state["params"]
            state = update(state, jax.grad(runs.loss)(params, z, batch), z)
        return outer(state)

    gradient = jax.grad(run, allow_int=True)({name: trees[name] for name in wrt})
    return tuple(gradient[name] for name in wrt)

"""Optimisers with roots of matrices, tuned rates and curvature, on a transformer and an MLP.

Metaparameters are a rate for every parameter, a weight decay for every layer, and a weight for
every example. The rates are regularised: the state carries them to the outer function, which adds
their mean square and the entropy of the decays. JAX's gradient of the unrolled run is the oracle,
with respect to the metaparameters and the whole initial state, NaN where it has NaN.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import plain_networks
import pytest
from exact.unrolled import assert_exact, unrolled, who
from optax import contrib

import metagrad
from benchmarks.models.preconditioners import (
    by_divided_differences,
    by_eigenvalues,
    by_newton,
    grafted_shampoo,
    shampoo,
    soap,
)
from metagrad import Binomial, LazyKary, StoreAll


@pytest.fixture(autouse=True)
def double():
    with jax.enable_x64(True):
        yield


def training(network, optimiser, start=lambda opt: opt):
    """(step, outer, arguments but for the batches); `start` changes the optimiser's state."""
    optimiser = optax.with_extra_args_support(optimiser)

    @metagrad.compile
    def step(state, meta, batch):
        loss = lambda params: jnp.mean(meta["weights"] * network.losses(params, batch))
        value, gradient = metagrad.value_and_grad(loss)(state["params"])
        updates, opt = optimiser.update(
            gradient, state["opt"], state["params"], value=value, obj_fn=loss
        )
        updates = jax.tree.map(
            lambda u, p, rate, decay: jnp.exp(rate) * (u - 1e-2 * jax.nn.sigmoid(decay) * p),
            updates,
            state["params"],
            meta["rates"],
            meta["decays"],
        )
        params = optax.apply_updates(state["params"], updates)
        return {"params": params, "opt": opt, "regularised": (meta["rates"], meta["decays"])}

    def outer(state, held_out):
        rates, decays = state["regularised"]
        squares = sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(rates))
        chances = jax.nn.softmax(jnp.stack(jax.tree.leaves(decays)))
        entropy = -jnp.sum(chances * jnp.log(chances))
        return jnp.mean(network.losses(state["params"], held_out)) + 1e-2 * (squares - entropy)

    meta = {
        "weights": jnp.linspace(0.5, 1.5, plain_networks.EXAMPLES),
        "rates": jax.tree.map(lambda p: jnp.full(p.shape, -0.1), network.params),
        "decays": jax.tree.map(lambda p: jnp.asarray(0.3), network.params),
    }
    state = {
        "params": network.params,
        "opt": start(optimiser.init(network.params)),
        "regularised": (meta["rates"], meta["decays"]),
    }
    return step, outer, state, meta


def compared(network, optimiser, steps, schedule, **options):
    """(result, who differentiates what), once the result is that of JAX."""
    step, outer, state, meta = training(network, optimiser, **options)
    arguments = state, meta, network.batches(steps), network.batches(1)[0]
    result, lowered = assert_exact(step, outer, ("meta", "state"), *arguments, schedule=schedule)
    return result, who(lowered)


def all_finite(grad):
    return all(np.isfinite(x).all() for x in jax.tree.leaves(grad) if x.dtype == jnp.float64)


ENZYME = ["enzyme"] * 3
MLP, TRANSFORMER = plain_networks.mlp, plain_networks.transformer
CASES = {
    "shampoo, at scale": (MLP, lambda: grafted_shampoo(0.02, block=3), 5, Binomial(2)),
    "shampoo, divided differences": (MLP, lambda: shampoo(0.1, by_divided_differences), 3, None),
    "soap": (MLP, lambda: soap(0.02, block=4), 6, LazyKary(2)),
    "muon": (TRANSFORMER, lambda: contrib.muon(0.05, adam_eps_root=1e-8), 2, Binomial(2)),
    "muon, Schatten norm": (
        MLP,
        lambda: contrib.muon(0.05, adam_eps_root=1e-8, preconditioning="schatten"),
        1,
        StoreAll(),
    ),
    "sophia": (MLP, lambda: contrib.sophia(0.02, update_interval=2), 4, Binomial(2, rebuild=2)),
    "ademamix": (MLP, lambda: contrib.ademamix(0.02, eps_root=1e-8), 3, LazyKary(3)),
}
BY_JAX = {
    "soap": ["enzyme", "jax", "enzyme"],  # qr is computed by LAPACK
    "shampoo, divided differences": ["enzyme", "jax", "enzyme"],  # a custom rule
}


@pytest.mark.parametrize("name", CASES)
def test_is_jaxs(name):
    network, optimiser, steps, schedule = CASES[name]
    result, rules = compared(network(), optimiser(), steps, schedule)
    assert rules == BY_JAX.get(name, ENZYME)
    assert all_finite(result.grad)
    assert np.abs(result.grad[0]["decays"]["w2" if network is MLP else "up"]) > 1e-6


def with_small(name, amount=1e-12):
    """Moves a field of an optimiser's state away from the value at which a root is of zero."""

    def start(opt):
        field = optax.tree.get(opt, name)
        return optax.tree.set(opt, **{name: jax.tree.map(lambda leaf: leaf + amount, field)})

    return start


# What takes a root of zero in the first step, and a start of its state that does not.
AT_ZERO = {
    "mechanize": (
        lambda: contrib.mechanize(optax.adam(1.0, eps_root=1e-8)),
        with_small("v"),
    ),
    "adopt": (lambda: contrib.adopt(0.02), with_small("nu")),
    "dog": (
        lambda: contrib.dog(init_step=("learning_rate", 0.02)),
        with_small("init_params", 1e-4),
    ),
    "dadapt_adamw": (lambda: contrib.dadapt_adamw(1.0), with_small("exp_avg_sq")),
}


@pytest.mark.parametrize("name", AT_ZERO)
def test_optimisers_that_start_at_a_root_of_zero(name):
    """Unchanged they are NaN in JAX too; with a small number in place of the zero they are not."""
    optimiser, start = AT_ZERO[name]
    step, outer, state, meta = training(MLP(), optimiser())
    arguments = state, meta, MLP().batches(2), MLP().batches(1)[0]
    assert not all_finite(unrolled(step, outer, ("meta", "state"), *arguments)[1])
    result, rules = compared(MLP(), optimiser(), 3, StoreAll(), start=start)
    assert rules == ENZYME
    assert all_finite(result.grad)


def test_nan_where_jax_has_nan():
    with pytest.warns(RuntimeWarning, match=r"At step 0 mechanize .* takes a root"):
        result, _ = compared(MLP(), AT_ZERO["mechanize"][0](), 2, StoreAll())
    assert not all_finite(result.grad)


def test_eigenvectors_of_equal_eigenvalues():
    """Their derivative is not defined: what JAX gives with respect to the statistics is rounding.

    The gradient with respect to everything else is exact, since what is undefined cancels, and all
    three roots agree on it. `by_newton` and divided differences agree on the statistics too.
    """
    grads = {}
    for root in (by_eigenvalues, by_newton, by_divided_differences):
        step, outer, state, meta = training(MLP(), shampoo(0.1, root))
        batches = MLP().batches(2)
        arguments = state, meta, batches, batches[0]
        grads[root] = step.metagradient(outer, ("meta", "state"))(*arguments).grad
        if root is by_eigenvalues:
            of_jax = unrolled(step, outer, ("meta", "state"), *arguments)[1]
    statistics = lambda grad: [
        0.5 * (m + m.T) for m in map(np.asarray, grad[1]["opt"].statistics["w2"])
    ]
    apart = lambda a, b: max(
        np.abs(x - y).max() / np.abs(y).max() for x, y in zip(a, b, strict=True)
    )
    right = statistics(grads[by_divided_differences])
    assert apart(statistics(grads[by_newton]), right) < 1e-11
    assert apart(statistics(of_jax), right) > 1e-3
    assert apart(statistics(grads[by_eigenvalues]), right) > 1e-3
    for root in (by_newton, by_eigenvalues):
        leaves = zip(*(jax.tree.leaves(grads[r][0]) for r in (root, by_divided_differences)))
        assert all(apart([a], [b]) < 1e-10 for a, b in leaves)


def test_an_iteration_that_stops_by_itself_is_refused_as_in_jax():
    """`while_loop` has no reverse derivative; the message is JAX's, and `by_newton` the remedy."""

    def until_close(matrix):
        still = lambda pair: jnp.abs(pair[0] - jnp.eye(len(matrix))).max() > 1e-6
        turn = lambda pair: (pair[0] @ pair[0], pair[1] @ pair[0])
        return jax.lax.while_loop(still, turn, (matrix / 2, jnp.eye(len(matrix))))[1]

    step, outer, state, meta = training(MLP(), shampoo(0.1, until_close))
    with pytest.raises(NotImplementedError, match="Reverse-mode differentiation does not work"):
        step.metagradient(outer).lower(state, meta, MLP().batches(2), MLP().batches(1)[0])

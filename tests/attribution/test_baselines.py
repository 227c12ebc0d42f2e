"""Baselines against the formulas that they are named after, with whole matrices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from attribution_runs import criterion, logits, losses, small_run
from jax.flatten_util import ravel_pytree

from metagrad.attribution import baselines


@pytest.fixture(autouse=True)
def in_double():
    with jax.enable_x64(True):
        yield


@pytest.fixture
def run():
    return small_run(n=10)


def matrices(run):
    """(gradients of the examples [n, P], of the queries [Q, P], flat parameters, unravel)."""
    flat, unravel = ravel_pytree(run.params)
    of = lambda examples: jax.jacrev(lambda p: losses(unravel(p), examples))(flat)
    return of(run.examples), of(run.queries), flat, unravel


def close(scores, want):
    np.testing.assert_allclose(scores.values, want, rtol=0, atol=1e-10 * np.abs(want).max())


def test_gradient_similarity(run):
    of_examples, of_queries, *_ = matrices(run)
    arguments = losses, losses, run.params, run.examples, run.queries
    products = of_queries @ of_examples.T
    close(baselines.gradient_similarity(*arguments, cosine=False), -products)
    norms = [jnp.linalg.norm(g, axis=1) for g in (of_queries, of_examples)]
    close(baselines.gradient_similarity(*arguments), -products / jnp.outer(*norms))


def test_gradient_similarity_of_tokens(run):
    """The example's loss is the sum of its tokens', and so is its product."""
    halves = lambda params, examples: jnp.stack(
        [losses(params, examples) * c for c in (0.25, 0.75)], -1
    )
    whole = losses, losses, run.params, run.examples, run.queries
    parts = baselines.gradient_similarity(halves, *whole[1:], cosine=False)
    assert parts.values.shape == (3, 10, 2)
    close(baselines.gradient_similarity(*whole, cosine=False), parts.values.sum(-1))
    cosines = baselines.gradient_similarity(halves, *whole[1:])
    close(baselines.gradient_similarity(*whole), cosines.values[..., 1])


def test_similarity_to_an_example_without_gradient_is_zero(run):
    none = lambda params, examples: 0 * losses(params, examples)
    scores = baselines.gradient_similarity(none, losses, run.params, run.examples, run.queries)
    assert not scores.values.any()


def test_tracin_sums_over_checkpoints(run):
    _, checkpoints = run.training.train(*run.arguments, checkpoints=3)
    rates = [0.3, 0.2, 0.1]
    scores = baselines.tracin(losses, losses, checkpoints, rates, run.examples, run.queries)
    at = lambda k: baselines.gradient_similarity(
        losses,
        losses,
        jax.tree.map(lambda x: x[k], checkpoints),
        run.examples,
        run.queries,
        cosine=False,
    )
    close(scores, sum(rate * at(k).values for k, rate in enumerate(rates)))
    np.testing.assert_allclose(scores.outcomes, at(2).outcomes)
    with pytest.raises(ValueError, match=r"rates has the shape \(2,\); for 3 checkpoints"):
        baselines.tracin(losses, losses, checkpoints, [1.0, 2.0], run.examples, run.queries)


@pytest.mark.parametrize("curvature", ["hessian", "fisher", "gauss-newton"])
def test_influence_solves_with_the_curvature(run, curvature):
    of_examples, of_queries, flat, unravel = matrices(run)
    if curvature == "hessian":
        matrix = jax.hessian(lambda p: losses(unravel(p), run.examples).mean())(flat)
    elif curvature == "fisher":
        matrix = of_examples.T @ of_examples / 10
    else:
        outputs = logits(run.params, run.examples)
        jacobian = jax.jacrev(lambda p: logits(unravel(p), run.examples))(flat)
        of_outputs = jax.vmap(lambda o, y: jax.hessian(criterion)(o, {"y": y}))
        inner = of_outputs(outputs, run.examples["y"])
        matrix = jnp.einsum("ncp,ncd,ndq->pq", jacobian, inner, jacobian) / 10
    damping = 0.1 - min(0.0, float(jnp.linalg.eigvalsh(matrix)[0]))
    damped = matrix + damping * jnp.eye(len(flat))
    scores = baselines.influence(
        losses,
        losses,
        run.params,
        run.examples,
        run.queries,
        damping=damping,
        curvature=baselines.GaussNewton(logits, criterion) if "gauss" in curvature else curvature,
    )
    want = -(of_queries @ jnp.linalg.solve(damped, of_examples.T)) / 10
    np.testing.assert_allclose(scores.values, want, rtol=0, atol=1e-4 * np.abs(want).max())
    assert max(scores.metadata["residuals"]) < 1e-4


def test_influence_says_what_is_wrong(run):
    arguments = losses, losses, run.params, run.examples, run.queries
    with pytest.warns(RuntimeWarning, match="conjugate gradients left a relative residual"):
        baselines.influence(*arguments, damping=1e-6, curvature="fisher", iterations=1)
    with pytest.raises(ValueError, match="curvature='newton' is none of 'hessian', 'fisher'"):
        baselines.influence(*arguments, damping=0.1, curvature="newton")
    with pytest.raises(ValueError, match="damping=-1 must not be negative"):
        baselines.influence(*arguments, damping=-1)


def one_layer(tokens):
    """A linear classifier, at four inputs."""
    random = np.random.default_rng(0)
    x = jnp.asarray(random.normal(size=(4, *tokens, 2)))
    y = jnp.asarray(random.integers(0, 3, (4, *tokens)))
    params = {"out": {"kernel": jnp.zeros((2, 3)), "bias": jnp.zeros(3)}, "other": jnp.ones(2)}

    def network(params, examples, probe=lambda name, x, y: y):
        layer = params["out"]
        x = examples["x"]
        return probe("out", x, x @ layer["kernel"] + layer["bias"])

    return network, params, {"x": x, "y": y}


@pytest.mark.parametrize("tokens", [(), (5,)], ids=["examples", "tokens"])
def test_ekfac_inverts_the_diagonal_in_its_eigenvectors(tokens):
    """Of its diagonal in the eigenvectors of the two factors, with whole matrices."""
    network, params, examples = one_layer(tokens)
    losses_here = lambda params, examples: criterion(network(params, examples), examples)
    outcome = lambda params: losses_here(params, jax.tree.map(lambda x: x[:2], examples))
    flat_outcome = lambda params: jnp.ravel(outcome(params))
    scores = baselines.ekfac(
        network, losses_here, flat_outcome, params, examples, damping=0.5, seed=3
    )
    drawn = jax.random.categorical(jax.random.key(3), network(params, examples))
    residual = jax.nn.softmax(network(params, examples)) - jax.nn.one_hot(drawn, 3)
    ones = jnp.ones((4, *tokens, 1))
    inputs = jnp.concatenate([examples["x"], ones], -1)
    gradients = jnp.einsum("n...i,n...o->nio", inputs, residual).reshape(4, -1)
    count = residual.size // 3
    moments = [
        jnp.einsum("...i,...j->ij", v.reshape(count, -1), v.reshape(count, -1)) / count
        for v in (inputs, residual)
    ]
    basis = jnp.kron(*(jnp.linalg.eigh(moment)[1] for moment in moments))
    diagonal = ((gradients @ basis) ** 2).mean(0) / (count // 4)
    inverse = basis @ jnp.diag(1 / (diagonal + 0.5 * diagonal.mean())) @ basis.T
    of = lambda function: jax.jacrev(function)(params)["out"]
    rows = lambda g: jnp.concatenate([g["kernel"], g["bias"][..., None, :]], -2)
    of_queries = rows(of(flat_outcome)).reshape(-1, 9)
    of_examples = rows(of(lambda p: losses_here(p, examples))).reshape(-1, 9)
    want = -(of_queries @ inverse @ of_examples.T) / of_examples.shape[0]
    np.testing.assert_allclose(
        scores.values.reshape(want.shape), want, rtol=0, atol=1e-8 * np.abs(want).max()
    )


def test_ekfac_finds_layers_inside_trees(run):
    arguments = losses, losses, run.params, run.examples, run.queries
    scores = baselines.ekfac(logits, *arguments)
    assert scores.values.shape == (3, 10)
    assert (
        np.corrcoef(
            scores.values.ravel(),
            baselines.influence(
                *arguments, damping=0.05, curvature=baselines.GaussNewton(logits, criterion)
            ).values.ravel(),
        )[0, 1]
        > 0.8
    )


def test_ekfac_says_what_is_wrong(run):
    arguments = losses, losses, run.params, run.examples, run.queries
    with pytest.raises(ValueError, match="the network calls no probe"):
        baselines.ekfac(lambda p, e, probe: logits(p, e), *arguments)
    wrong = lambda p, e, probe: logits(p, e, lambda name, x, y: probe("hiden", x, y))
    with pytest.raises(ValueError, match=r"the network calls probe\('hiden', ...\) twice"):
        baselines.ekfac(wrong, *arguments)
    unknown = lambda p, e, probe: probe("nowhere", e["x"], logits(p, e))
    with pytest.raises(ValueError, match=r"probe\('nowhere', ...\): params has nothing"):
        baselines.ekfac(unknown, *arguments)
    bias = lambda p, e, probe: probe(("hidden", "bias"), e["x"], logits(p, e))
    with pytest.raises(ValueError, match=r"a kernel is \[in, out\], and that of params has 1 axes"):
        baselines.ekfac(bias, *arguments)

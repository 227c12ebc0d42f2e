"""The pieces of a step: what each gradient is called on, and the update."""

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import jaxpr_as_fun

import metagrad
from metagrad.frontend import split_step
from metagrad.frontend.grad_primitive import TRACING


def loss(w, scale):
    return scale * jnp.sum(jnp.sin(w) ** 2), w.sum()


def step(w, z):
    """Three gradients, of which the last depends on both before it."""
    (value, aux), first = metagrad.value_and_grad(loss, has_aux=True)(w, z)
    second = metagrad.grad(lambda w: loss(w, 2.0)[0])(w - first)
    third = metagrad.grad(lambda w: loss(w, aux)[0])(w * second - value)
    return w - third * first


W, Z = jnp.array([0.3, -0.7]), jnp.float32(0.5)


def marked_step():
    with TRACING(True):
        return split_step.mark_gradients(jax.make_jaxpr(step)(W, Z))


def test_the_pieces_make_the_step():
    marked, sites = marked_step()
    assert [site.index for site in sites] == [0, 1, 2]
    results: list = []
    for site in sites:
        reader = split_step.inputs_of(marked, sites, site.index)
        operands = jaxpr_as_fun(reader)(W, Z, *results)
        value, *aux = jaxpr_as_fun(site.loss)(*operands)
        gradients = jax.grad(
            lambda *moving, operands=operands, site=site: jaxpr_as_fun(site.loss)(
                *(
                    moving[site.wrt.index(i)] if i in site.wrt else operand
                    for i, operand in enumerate(operands)
                )
            )[0],
            tuple(range(len(site.wrt))),
        )(*(operands[i] for i in site.wrt))
        everything = [value, *aux, *gradients]
        results += [everything[i] for i in site.kept]
    (new,) = jaxpr_as_fun(split_step.update_of(marked, sites))(W, Z, *results)
    np.testing.assert_allclose(new, step(W, Z), rtol=1e-6)


def test_a_piece_has_only_what_it_needs():
    marked, sites = marked_step()
    first, second, _ = (split_step.inputs_of(marked, sites, i) for i in range(3))
    assert not first.jaxpr.eqns
    assert [eqn.primitive.name for eqn in second.jaxpr.eqns] == ["sub"]


def test_pieces_are_not_traced_again(monkeypatch):
    """A trace for each of them would take a time that is quadratic in their number."""
    marked, sites = marked_step()
    monkeypatch.setattr(jax, "make_jaxpr", None)
    for site in sites:
        split_step.inputs_of(marked, sites, site.index)
    split_step.update_of(marked, sites)

"""Steps without annotations, lambdas and partials: no types are known, so there are no errors."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

import metagrad


@metagrad.compile
def step(w, rate, x):
    return w - rate * metagrad.grad(lambda w: jnp.sum((w - x) ** 2))(w)


@metagrad.compile(has_aux=True)
def step_with_aux(w, rate, x):
    (value, norm), gradient = metagrad.value_and_grad(
        lambda w: (jnp.sum((w - x) ** 2), jnp.sum(w)), has_aux=True
    )(w)
    return w - rate * gradient, {"value": value, "norm": norm}


class Trainer:
    @metagrad.compile
    def step(self, w, rate, x):
        return w - rate * x

    @metagrad.compile(ad="jax")
    def other(self, w, rate, x):
        return w - rate * x


arguments = np.zeros(2), 0.1, np.ones((3, 2))
steps = (
    step,
    metagrad.compile(lambda w, rate, x: w - rate * x),
    metagrad.compile(ad="enzyme")(lambda w, rate, x: w - rate * x),
    metagrad.compile(functools.partial(lambda scale, w, rate, x: w - scale * rate * x, 2.0)),
    metagrad.compile(jax.jit(lambda w, rate, x: w - rate * x)),
    Trainer().step,
    Trainer().other,
)
for training_step in steps:
    value, grad, w = training_step.metagradient(lambda w: jnp.sum(w**2))(*arguments)
    print(value + grad, w)
    print(
        training_step.metagradient(lambda w, target: jnp.sum((w - target) ** 2))(*arguments, w).grad
    )
    of_both = training_step.metagradient(
        jnp.sum, wrt=("meta", "state"), schedule=metagrad.StoreAll()
    )
    print(of_both(*arguments).grad[1])
    shapes = jax.eval_shape(lambda *trees: trees, *arguments)
    print(of_both.lower(*shapes).compile()(*arguments).value)
    print(jax.jit(training_step)(w, 0.1, jnp.ones(2)))

value, grad, w, aux = step_with_aux.metagradient(jnp.sum)(*arguments)
print(aux["value"], aux["norm"])
(value, extra), grad, w = step.metagradient(lambda w: (jnp.sum(w), w), has_aux=True)(*arguments)
print(value + extra)

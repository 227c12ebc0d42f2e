"""JAX functions that stand in for primitives whose derivative by Enzyme is not the one by JAX.

Enzyme differentiates an op by its own rule, and in places that rule is not JAX's: at ties of `max`
it picks a side where JAX halves, at `sqrt(0)` it has 0 where JAX has infinity, `sigmoid(-100)` is
lowered by JAX to `1 / (1 + exp(100))` and has a NaN for a derivative, `sort` has none. Each
function here computes the same value from ops whose derivatives compose to JAX's rule, at first and
second order. `capabilities/table.py` says which primitive uses which; tests/capabilities/ holds the
evidence.

    value_and_derivative.py  a value apart from its derivative: the devices that the others use
    choices.py      select, max, min, clamp, reduce_max
    powers.py       negative powers, logistic
    orderings.py    sort, top_k
    indexing.py     gather, scatter
    prefixes.py     cumsum and its kin, products, negative padding, sums over an axis of vmap
    windows.py      reduce_window, select_and_scatter_add
    contractions.py dot_general and convolutions of mixed types
    jaxs_rules.py   JAX's own rule of a primitive or of a custom function, lowered beside its value
    activations.py  relu, relu6, logaddexp

Two devices do most of the work.

*A value with the derivative of something else*: `attach(v, d)` of value_and_derivative.py. It is
what `jaxs_rules.py` is built on, with which any function can be lowered for which JAX has a rule.

*A branch chosen by `select`.* The derivative follows the branch that is taken. What the other
branch computes must stay finite, or 0 * inf makes it NaN: its operand is replaced by a harmless
number first. The condition is stopped too, or a simplifier that knows only values would make
`max(x, 0)` of `where(x > 0, x, 0)`, with another derivative at 0.
"""

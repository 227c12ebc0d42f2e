"""Operations with functions in them: loops, conditionals, transformations, custom rules.

`{f}` and `{g}` are functions that generate.py writes, `{0}`, `{1}` operands, `inputs` what the
functions are called on. A function with `keeps` returns the shape and dtype of its first input, as
a loop's carry must; one with `closes` may use values of the function around it.
"""

from typing import NamedTuple


class Structured(NamedTuple):
    name: str
    template: str
    inputs: tuple[str, ...] = ("{0}",)
    keeps: bool = False
    closes: bool = True
    weight: float = 1.0


_ROWS = ("{0}", "{1}[0]")
_TWICE = ("{0}", "{0}")

STRUCTURED = {
    op.name: op
    for op in [
        Structured(
            "scan", "jax.lax.scan(lambda c, x: ({f}(c, x), None), {0}, {1})[0]", _ROWS, keeps=True
        ),
        Structured(
            "scan, stacked",
            "jax.lax.scan(lambda c, x: ({f}(c, x), c), {0}, {1})[1]",
            _ROWS,
            keeps=True,
        ),
        Structured(
            "scan of layers",
            "jax.lax.scan(lambda c, x: ({f}(c, x), None), {0}, jnp.stack([{0}, 0.5 * {0}, "
            "jnp.sin({0})]))[0]",
            _TWICE,
            keeps=True,
        ),
        Structured(
            "scan, reversed",
            "jax.lax.scan(lambda c, x: ({f}(c, x), c * 2), {0}, {1}, reverse=True)[1]",
            _ROWS,
            keeps=True,
        ),
        Structured(
            "scan, unrolled twice",
            "jax.lax.scan(lambda c, x: ({f}(c, x), c), {0}, {1}, unroll=2)[1]",
            _ROWS,
            keeps=True,
        ),
        Structured(
            "scan of checkpoints",
            "jax.lax.scan(jax.checkpoint(lambda c, x: ({f}(c, x), None)), {0}, {1})[0]",
            _ROWS,
            keeps=True,
        ),
        Structured(
            "scan with a counter",
            "jax.lax.scan(lambda c, x: (({f}(c[0], x), c[1] + 1), c[0] * c[1]), ({0}, 0), {1})[1]",
            _ROWS,
            keeps=True,
        ),
        Structured(
            "scan without operands",
            "jax.lax.scan(lambda c, _: ({f}(c), c), {0}, None, length={window})[0]",
            keeps=True,
        ),
        Structured(
            "scan of no turns",
            "jax.lax.scan(lambda c, _: ({f}(c), None), {0}, None, length=0)[0]",
            keeps=True,
            weight=0.3,
        ),
        Structured(
            "scan with a key",
            "jax.lax.scan(lambda c, k: ({f}(c) * jax.random.bernoulli(k, 0.7, c.shape), None), "
            "{0}, jax.random.split(jax.random.key(1), 2))[0]",
            keeps=True,
        ),
        Structured(
            "fori_loop",
            "jax.lax.fori_loop(0, 3, lambda i, c: {f}(c, c * i), {0})",
            _TWICE,
            keeps=True,
        ),
        Structured(
            "fori_loop into rows",
            "jax.lax.fori_loop(0, {0}.shape[0], "
            "lambda i, c: c.at[i].set(jnp.mean({f}(c[i]))), {0})",
            ("{0}[0]",),
        ),
        Structured(
            "while, held",
            "{0} * jax.lax.while_loop(lambda c: jnp.max(jnp.abs(c)) > 0.5, lambda c: 0.5 * c, "
            "jax.lax.stop_gradient({f}({0})))",
            keeps=True,
        ),
        Structured(
            "while of integers",
            "{f}({0}) * jax.lax.while_loop(lambda i: i < 3, lambda i: i + 1, jnp.argmax({0}))",
        ),
        Structured("map", "jax.lax.map({f}, {0})", ("{0}[0]",)),
        Structured("vmap", "jax.vmap({f})({0})", ("{0}[0]",)),
        Structured(
            "vmap, one shared", "jax.vmap({f}, in_axes=(0, None))({0}, {1})", ("{0}[0]", "{1}")
        ),
        Structured(
            "vmap, last axis", "jax.vmap({f}, in_axes=-1, out_axes=-1)({0})", ("{0}[..., 0]",)
        ),
        Structured("checkpoint", "jax.checkpoint({f})({0})"),
        Structured(
            "checkpoint, dots saved",
            "jax.checkpoint({f}, policy=jax.checkpoint_policies.dots_saveable)({0}, {1})",
            ("{0}", "{1}"),
        ),
        Structured(
            "checkpoint, nothing saved",
            "jax.checkpoint({f}, policy=jax.checkpoint_policies.nothing_saveable)({0})",
        ),
        Structured("jit", "jax.jit({f})({0})"),
        Structured("jit, twice", "jax.jit({f})({0}) + jax.jit({f})(0.5 * {0})"),
        Structured(
            "jit, two shapes", "jax.jit({f})({0}) * jnp.mean(jax.jit({f})(jnp.stack([{0}, {0}])))"
        ),
        Structured(
            "jits, one in the other",
            "jax.jit(lambda x: jax.jit({f})(jax.jit({g})(x)))({0})",
            keeps=True,
        ),
        Structured("cond", "jax.lax.cond(jnp.sum({0}) > 0, {f}, {g}, {0})", keeps=True),
        Structured(
            "cond on values of two",
            "jax.lax.cond(jnp.max({0}) > jnp.max({1}), {f}, {g}, {0}, {1})",
            ("{0}", "{1}"),
            keeps=True,
        ),
        Structured(
            "cond, else constant",
            "jax.lax.cond(jnp.mean({0}) > 0, {f}, lambda x: jnp.ones_like(x), {0})",
            keeps=True,
        ),
        Structured(
            "switch",
            "jax.lax.switch(jnp.argmax(jnp.ravel({0})) % 3, [{f}, {g}, jnp.sin], {0})",
            keeps=True,
        ),
        Structured(
            "vmap of cond",
            "jax.vmap(lambda x: jax.lax.cond(jnp.sum(x) > 0, {f}, {g}, x))({0})",
            ("{0}[0]",),
            keeps=True,
        ),
        Structured("held", "{0} * jax.lax.stop_gradient({f}({0}))", keeps=True),
        Structured("inner gradient", "jax.grad(lambda x: jnp.mean({f}(x)))({0})", weight=1.5),
        Structured("inner metagrad.grad", "metagrad.grad(lambda x: jnp.mean({f}(x)))({0})"),
        Structured("jvp", "jax.jvp({f}, ({0},), (jnp.cos({0}),))[1]"),
        Structured("vjp", "jax.vjp({f}, {0})[1](jnp.ones_like({f}({0})))[0]"),
        Structured("linearize", "jax.linearize({f}, {0})[1]({0})"),
        Structured(
            "Hessian times vector",
            "jax.jvp(jax.grad(lambda x: jnp.mean({f}(x))), ({0},), ({0},))[1]",
            weight=0.5,
        ),
        Structured("jacrev", "jax.jacrev(lambda x: jnp.mean({f}(x)))({0})", weight=0.5),
        Structured("jacfwd", "jnp.sum(jax.jacfwd({f})({0}))", weight=0.5),
        Structured("custom_jvp, the derivative", "with_its_derivative({f})({0})", closes=False),
        Structured("custom_jvp, doubled", "with_doubled_derivative({f})({0})", closes=False),
        Structured("custom_vjp, the derivative", "with_its_pullback({f})({0})", closes=False),
        Structured("custom_vjp, clipped", "with_clipped_pullback({f})({0})", closes=False),
        Structured("residual", "{0} + 0.5 * {f}({0})", keeps=True),
        Structured("named scope", "jax.named_call({f}, name='block')({0})"),
        Structured(
            "vectorize",
            "jnp.vectorize({f}, signature='(n)->(n)')({0})",
            ("{0}[0]",),
            keeps=True,
            weight=0.5,
        ),
    ]
}

# Functions that a program defines if it uses them.
SUPPORT = {
    "with_its_derivative": """
def with_its_derivative(f):
    g = jax.custom_jvp(f)
    g.defjvp(lambda primals, tangents: jax.jvp(f, primals, tangents))
    return g
""",
    "with_doubled_derivative": """
def with_doubled_derivative(f):
    g = jax.custom_jvp(f)
    @g.defjvp
    def rule(primals, tangents):
        value, tangent = jax.jvp(f, primals, tangents)
        return value, 2 * tangent * jnp.cos(value)
    return g
""",
    "with_its_pullback": """
def with_its_pullback(f):
    g = jax.custom_vjp(f)
    g.defvjp(lambda x: (f(x), x), lambda x, cotangent: jax.vjp(f, x)[1](cotangent))
    return g
""",
    "with_clipped_pullback": """
def with_clipped_pullback(f):
    g = jax.custom_vjp(f)
    clipped = lambda pullback, cotangent: (jnp.clip(pullback(cotangent)[0], -0.1, 0.1),)
    g.defvjp(lambda x: jax.vjp(f, x), clipped)
    return g
""",
}

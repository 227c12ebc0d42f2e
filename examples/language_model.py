"""A small language model over characters, and text that ships with Python: what two examples share.

The network has two layers of width 32, 32,000 parameters in all, and reads 32 characters. The text
differs a little between versions of Python, and so do the figures.
"""

import ast
import functools
import sysconfig
import textwrap
import tokenize
import unicodedata
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax

LAYERS, WIDTH, HEADS, CONTEXT = 2, 32, 4, 32
CHARACTERS = "\n" + "".join(map(chr, range(32, 127)))
"""The vocabulary; every other character is a question mark."""


# --- Text -----------------------------------------------------------------------------------------


def encode(text):
    """int32 [characters]"""
    places = {character: i for i, character in enumerate(CHARACTERS)}
    unknown = places["?"]
    return np.array([places.get(character, unknown) for character in text], np.int32)


def decode(tokens):
    return "".join(CHARACTERS[i] for i in tokens)


def sequences(text, seed):
    """All pieces of CONTEXT + 1 characters, in an order that `seed` fixes: int32 [pieces, 33]."""
    tokens = encode(text)
    pieces = tokens[: len(tokens) // (CONTEXT + 1) * (CONTEXT + 1)].reshape(-1, CONTEXT + 1)
    return np.random.default_rng(seed).permutation(pieces)


def manual():
    """The language reference that `help("if")` reads from: prose."""
    from pydoc_data.topics import topics

    return "\n".join(textwrap.dedent(topics[name]) for name in sorted(topics))


@functools.cache
def _modules(count=25):
    """The source of the standard library's largest top-level modules."""
    folder = Path(sysconfig.get_paths()["stdlib"])
    files = sorted(folder.glob("*.py"), key=lambda file: (-file.stat().st_size, file.name))
    sources = []
    for file in files[:count]:
        with tokenize.open(file) as opened:
            sources.append(opened.read())
    return tuple(sources)


def docstrings():
    """Of the standard library: prose about code."""
    kinds = ast.Module, ast.ClassDef, ast.FunctionDef
    nodes = (node for source in _modules() for node in ast.walk(ast.parse(source)))
    texts = (ast.get_docstring(node) for node in nodes if isinstance(node, kinds))
    return "\n".join(text for text in texts if text)


def code():
    """The standard library's code, without comments and docstrings."""
    return "\n".join(ast.unparse(_without_docstrings(ast.parse(source))) for source in _modules())


def _without_docstrings(tree):
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list):
            kept = [each for each in body if not _is_text(each)]
            node.body = kept or ([ast.Pass()] if body else [])
    return tree


def _is_text(node):
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)


def unicode_names():
    """Names of characters, in capitals: LATIN SMALL LETTER A."""
    names = (unicodedata.name(chr(i), "") for i in range(0x20, 0x3000))
    return "\n".join(name for name in names if name)


# --- The network ----------------------------------------------------------------------------------


def initial(key):
    """Parameters, float32. Kernels have variance 1/fan-in."""
    keys = iter(jax.random.split(key, 3 + 4 * LAYERS))

    def kernel(inputs, outputs):
        return jax.random.normal(next(keys), (inputs, outputs)) / inputs**0.5

    def layer():
        return {
            "qkv": kernel(WIDTH, 3 * WIDTH),
            "out": kernel(WIDTH, WIDTH),
            "up": kernel(WIDTH, 4 * WIDTH),
            "down": kernel(4 * WIDTH, WIDTH),
        }

    return {
        "embedding": 0.3 * jax.random.normal(next(keys), (len(CHARACTERS), WIDTH)),
        "position": 0.3 * jax.random.normal(next(keys), (CONTEXT, WIDTH)),
        "layers": [layer() for _ in range(LAYERS)],
        "head": kernel(WIDTH, len(CHARACTERS)),
    }


def logits(params, tokens, probe=lambda name, inputs, outputs: outputs):
    """[n, L, characters] of what comes next, for tokens int32 [n, L]."""

    def dense(x, *name):
        kernel = functools.reduce(lambda tree, key: tree[key], name, params)
        return probe(name, x, x @ kernel)

    x = params["embedding"][tokens] + params["position"][: tokens.shape[1]]
    for i in range(LAYERS):
        x = x + dense(_attend(dense(_normal(x), "layers", i, "qkv")), "layers", i, "out")
        hidden = jax.nn.gelu(dense(_normal(x), "layers", i, "up"))
        x = x + dense(hidden, "layers", i, "down")
    return dense(_normal(x), "head")


def _normal(x):
    """Normalised over features, without parameters."""
    x = x - jnp.mean(x, -1, keepdims=True)
    return x * jax.lax.rsqrt(jnp.mean(x**2, -1, keepdims=True) + 1e-5)


def _attend(x):
    """Causal self-attention of queries, keys and values side by side, [n, L, 3 WIDTH]."""
    n, length, _ = x.shape
    heads = (part.reshape(n, length, HEADS, -1) for part in jnp.split(x, 3, -1))
    return jax.nn.dot_product_attention(*heads, is_causal=True).reshape(n, length, WIDTH)


def token_losses(params, pieces):
    """Cross entropy of each next character in nats, [n, CONTEXT], of pieces [n, CONTEXT + 1]."""
    return criterion(logits(params, pieces[:, :-1]), pieces)


def criterion(outputs, pieces):
    return optax.softmax_cross_entropy_with_integer_labels(outputs, pieces[:, 1:])


def losses(params, pieces):
    """The mean over the characters of each piece: [n]."""
    return jnp.mean(token_losses(params, pieces), -1)


@functools.partial(jax.jit, static_argnums=(2, 3))
def train(params, batches, optimizer, of_batch=lambda params, batch: losses(params, batch).mean()):
    """Plain training on batches of pieces, int32 [steps, B, CONTEXT + 1]: parameters at the end."""

    def step(state, batch):
        params, moments = state
        updates, moments = optimizer.update(jax.grad(of_batch)(params, batch), moments, params)
        return (optax.apply_updates(params, updates), moments), None

    return jax.lax.scan(step, (params, optimizer.init(params)), batches)[0][0]


def pretrained(texts, steps=600, batch=32, seed=0):
    """Parameters trained on texts, a list of strings, in equal parts of a seed's draw."""
    pieces = [sequences(text, [seed, i]) for i, text in enumerate(texts)]
    random = np.random.default_rng([seed, 99])
    each = [part[random.integers(0, len(part), steps * batch // len(pieces))] for part in pieces]
    mixed = random.permutation(np.concatenate(each))
    batches = mixed[: len(mixed) // batch * batch].reshape(-1, batch, CONTEXT + 1)
    schedule = optax.cosine_decay_schedule(3e-3, len(batches))
    return train(initial(jax.random.key(seed)), batches, optax.adam(schedule))

"""Seven small models of Equinox, from the library's own layers.

The state of batch normalisation is carried in the training state.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
import problems
from equinox import nn


def keys(seed, count):
    return list(jax.random.split(jax.random.key(seed), count))


class MLP(eqx.Module):
    mlp: nn.MLP
    dropout: nn.Dropout

    def __init__(self):
        self.mlp = nn.MLP(
            2 * problems.SIDE**2, problems.CLASSES, 8, 2, activation=jax.nn.silu, key=keys(0, 1)[0]
        )
        self.dropout = nn.Dropout(problems.RATE)

    def __call__(self, x, state, key):
        return self.mlp(self.dropout(x.reshape(-1), key=key)), state


class ConvNorm(eqx.Module):
    conv: nn.Conv2d
    norm: nn.BatchNorm
    pool: nn.MaxPool2d | None

    def __init__(self, inputs, width, key, pool=False):
        self.conv = nn.Conv2d(inputs, width, 3, padding=1, use_bias=False, key=key)
        self.norm = nn.BatchNorm(width, axis_name="batch", mode="batch")
        self.pool = nn.MaxPool2d(2, 2) if pool else None

    def __call__(self, x, state):
        x, state = self.norm(self.conv(x), state)
        x = jax.nn.relu(x)
        return (self.pool(x) if self.pool else x), state


class ResNet9(eqx.Module):
    layers: list
    head: nn.Linear

    def __init__(self):
        widths = [
            (2, 4, False),
            (4, 6, True),
            (6, 6, False),
            (6, 6, False),
            (6, 8, True),
            (8, 8, True),
            (8, 8, False),
            (8, 8, False),
        ]
        self.layers = [ConvNorm(a, b, key, pool) for (a, b, pool), key in zip(widths, keys(1, 8))]
        self.head = nn.Linear(8, problems.CLASSES, key=keys(2, 1)[0])

    def __call__(self, x, state, key):
        for first, second in ((0, 2), (4, 6)):
            for layer in self.layers[first : first + 2]:
                x, state = layer(x, state)
            h = x
            for layer in self.layers[second : second + 2]:
                h, state = layer(h, state)
            x = x + h
        return self.head(x.max((1, 2))), state


class Block(eqx.Module):
    """A pre-norm transformer block on one sequence."""

    norms: list
    attention: nn.MultiheadAttention
    linears: list
    dropout: nn.Dropout

    def __init__(self, width, key):
        a, b, c = jax.random.split(key, 3)
        self.norms = [nn.LayerNorm(width), nn.LayerNorm(width)]
        self.attention = nn.MultiheadAttention(2, width, dropout_p=problems.RATE, key=a)
        self.linears = [nn.Linear(width, 16, key=b), nn.Linear(16, width, key=c)]
        self.dropout = nn.Dropout(problems.RATE)

    def __call__(self, x, mask, key):
        first, second = (None, None) if key is None else jax.random.split(key)
        h = jax.vmap(self.norms[0])(x)
        x = x + self.attention(h, h, h, mask, key=first)
        h = jax.nn.gelu(jax.vmap(self.linears[0])(jax.vmap(self.norms[1])(x)))
        return x + self.dropout(jax.vmap(self.linears[1])(h), key=second)


class ViT(eqx.Module):
    patches: nn.Conv2d
    cls: jax.Array
    position: jax.Array
    block: Block
    norm: nn.LayerNorm
    head: nn.Linear

    def __init__(self):
        a, b, c, d, e = keys(3, 5)
        self.patches = nn.Conv2d(2, 8, 4, 4, key=a)
        self.cls, self.position = jax.random.normal(b, (1, 8)) / 2, jax.random.normal(c, (5, 8)) / 2
        self.block = Block(8, d)
        self.norm, self.head = nn.LayerNorm(8), nn.Linear(8, problems.CLASSES, key=e)

    def __call__(self, x, state, key):
        x = jnp.concatenate([self.cls, self.patches(x).reshape(8, -1).T]) + self.position
        return self.head(self.norm(self.block(x, None, key)[0])), state


class GPT(eqx.Module):
    embed: nn.Embedding
    rotary: nn.RotaryPositionalEmbedding
    block: Block
    norm: nn.RMSNorm
    head: nn.Linear

    def __init__(self):
        a, b, c = keys(4, 3)
        self.embed, self.rotary = (
            nn.Embedding(problems.VOCABULARY, 8, key=a),
            nn.RotaryPositionalEmbedding(8, dtype=jnp.result_type(float)),
        )
        self.block = Block(8, b)
        self.norm, self.head = nn.RMSNorm(8), nn.Linear(8, problems.VOCABULARY, key=c)

    def __call__(self, tokens, state, key):
        x = self.rotary(jax.vmap(self.embed)(tokens))
        mask = jnp.tril(jnp.ones((len(x), len(x)), bool))
        return jax.vmap(self.head)(jax.vmap(self.norm)(self.block(x, mask, key))), state


class LSTM(eqx.Module):
    embed: nn.Embedding
    cell: nn.LSTMCell
    head: nn.Linear

    def __init__(self):
        a, b, c = keys(5, 3)
        self.embed, self.cell = (
            nn.Embedding(problems.VOCABULARY, 6, key=a),
            nn.LSTMCell(6, 6, key=b),
        )
        self.head = nn.Linear(6, problems.VOCABULARY, key=c)

    def __call__(self, tokens, state, key):
        def turn(carry, x):
            h, c = self.cell(x, carry)
            return (h, c), h

        zeros = jnp.zeros(6, self.embed.weight.dtype)
        _, hidden = jax.lax.scan(turn, (zeros, zeros), jax.vmap(self.embed)(tokens))
        return jax.vmap(self.head)(hidden), state


class UNet(eqx.Module):
    convs: list
    norms: list
    up: nn.ConvTranspose2d
    down: nn.AvgPool2d

    def __init__(self):
        shapes = [
            (2, 4, 3, 1, 1),
            (4, 6, 3, 1, 1),
            (6, 8, 3, 2, 1),
            (12, 6, 3, 1, 1),
            (10, 4, 3, 1, 1),
            (4, 2, 1, 1, 0),
        ]
        self.convs = [
            nn.Conv2d(a, b, size, stride, padding, key=key)
            for (a, b, size, stride, padding), key in zip(shapes, keys(6, 6))
        ]
        self.norms = [nn.GroupNorm(2, b) for _, b, *_ in shapes[:-1]]
        self.up, self.down = nn.ConvTranspose2d(8, 6, 2, 2, key=keys(7, 1)[0]), nn.AvgPool2d(2, 2)

    def __call__(self, x, state, key):
        block = lambda i, x: jax.nn.silu(self.norms[i](self.convs[i](x)))
        first = block(0, x)
        second = block(1, self.down(first))
        up = block(3, jnp.concatenate([self.up(block(2, second)), second]))
        up = jax.image.resize(up, (6, *first.shape[1:]), "bilinear")
        return self.convs[5](block(4, jnp.concatenate([up, first]))), state


class CLIP(eqx.Module):
    conv: nn.Conv2d
    image: nn.Linear
    embed: nn.Embedding
    block: Block
    text: nn.Linear
    temperature: jax.Array

    def __init__(self):
        a, b, c, d, e = keys(8, 5)
        self.conv, self.image = nn.Conv2d(2, 4, 3, 2, key=a), nn.Linear(4, 6, use_bias=False, key=b)
        self.embed, self.block, self.text = (
            nn.Embedding(problems.VOCABULARY, 8, key=c),
            Block(8, d),
            nn.Linear(8, 6, use_bias=False, key=e),
        )
        self.temperature = jnp.asarray(1.0)

    def __call__(self, pair, state, key):
        pixels, tokens = pair
        image = self.image(jax.nn.relu(self.conv(pixels)).mean((1, 2)))
        text = self.text(self.block(jax.vmap(self.embed)(tokens), None, key)[-1])
        # Each embedding has length 1; the logits of a batch are all pairs of them.
        image, text = image / jnp.linalg.norm(image), text / jnp.linalg.norm(text)
        return jnp.exp(self.temperature) * image @ jax.lax.all_gather(text, "batch").T, state


def problem(module, task):
    """The problem of training an Equinox module on a task.

    Images come with their channels last, and Equinox wants them first.
    """
    model, state = nn.make_with_state(module)()
    params, static = eqx.partition(model, lambda leaf: isinstance(leaf, jax.Array))
    carried, of_state = eqx.partition(state, eqx.is_array)

    def channels_first(leaf):
        return jnp.moveaxis(leaf, -1, 1) if leaf.ndim == 4 else leaf

    def losses(params, carried, key, batch, train):
        model, state = eqx.combine(params, static), eqx.combine(carried, of_state)
        keys = jax.random.split(key, problems.EXAMPLES) if train else None
        run = eqx.nn.inference_mode(model, not train)
        run_examples = jax.vmap(
            run, in_axes=(0, None, 0 if train else None), out_axes=(0, None), axis_name="batch"
        )
        out, state = run_examples(jax.tree.map(channels_first, task.inputs(batch)), state, keys)
        out = jnp.moveaxis(out, 1, -1) if out.ndim == 4 else out
        return task.losses(out, batch), eqx.partition(state, eqx.is_array)[0]

    return problems.Problem(params, carried, losses, task)


MODELS = problems.of_library(problem, MLP, ResNet9, ViT, GPT, LSTM, UNet, CLIP)

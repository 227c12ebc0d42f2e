"""Seven small models of flax.nnx, from the library's own layers.

Batch-norm statistics and the streams of dropout keys are carried in the training state.
"""

import jax
import jax.numpy as jnp
import problems
from flax import nnx


def embedding(rows, width, rngs):
    """An embedding whose results have the type of the mode (x64 or not).

    nnx fixes the type when the layer is made.
    """
    return nnx.Embed(rows, width, param_dtype=jnp.result_type(float), rngs=rngs)


class MLP(nnx.Module):
    def __init__(self, rngs):
        inputs = 2 * problems.SIDE**2
        self.layers = nnx.List(
            [nnx.Linear(a, b, rngs=rngs) for a, b in ((inputs, 8), (8, 8), (8, problems.CLASSES))]
        )
        self.dropout = nnx.Dropout(problems.RATE, rngs=rngs)

    def __call__(self, x):
        x = jax.nn.elu(self.layers[0](x.reshape(len(x), -1)))
        return self.layers[2](self.dropout(jax.nn.softplus(self.layers[1](x))))


class ConvNorm(nnx.Module):
    def __init__(self, inputs, width, rngs, pool=False):
        self.conv = nnx.Conv(inputs, width, (3, 3), use_bias=False, rngs=rngs)
        self.norm = nnx.BatchNorm(width, momentum=0.9, rngs=rngs)
        self.pool = pool

    def __call__(self, x):
        x = nnx.relu(self.norm(self.conv(x)))
        return nnx.max_pool(x, (2, 2), (2, 2)) if self.pool else x


class ResNet9(nnx.Module):
    def __init__(self, rngs):
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
        self.layers = nnx.List([ConvNorm(a, b, rngs, pool) for a, b, pool in widths])
        self.head = nnx.Linear(8, problems.CLASSES, rngs=rngs)

    def __call__(self, x):
        a, b, c, d, e, f, g, h = self.layers
        x = b(a(x))
        x = x + d(c(x))
        x = f(e(x))
        x = x + h(g(x))
        return self.head(x.max((1, 2)))


class Block(nnx.Module):
    """A pre-norm transformer block."""

    def __init__(self, width, rngs):
        self.norms = nnx.List([nnx.LayerNorm(width, rngs=rngs), nnx.LayerNorm(width, rngs=rngs)])
        self.attention = nnx.MultiHeadAttention(
            2, width, dropout_rate=problems.RATE, decode=False, rngs=rngs
        )
        self.linears = nnx.List(
            [nnx.Linear(width, 16, rngs=rngs), nnx.Linear(16, width, rngs=rngs)]
        )
        self.dropout = nnx.Dropout(problems.RATE, rngs=rngs)

    def __call__(self, x, mask=None):
        x = x + self.attention(self.norms[0](x), mask=mask)
        return x + self.dropout(self.linears[1](nnx.gelu(self.linears[0](self.norms[1](x)))))


class ViT(nnx.Module):
    def __init__(self, rngs):
        self.patches = nnx.Conv(2, 8, (4, 4), (4, 4), padding="VALID", rngs=rngs)
        self.cls = nnx.Param(jax.random.normal(rngs.params(), (1, 1, 8)) / 2)
        self.position = nnx.Param(jax.random.normal(rngs.params(), (1, 5, 8)) / 2)
        self.block = Block(8, rngs)
        self.norm, self.head = (
            nnx.LayerNorm(8, rngs=rngs),
            nnx.Linear(8, problems.CLASSES, rngs=rngs),
        )

    def __call__(self, x):
        x = self.patches(x).reshape(len(x), -1, 8)
        x = (
            jnp.concatenate([jnp.broadcast_to(self.cls[...], (len(x), 1, 8)), x], 1)
            + self.position[...]
        )
        return self.head(self.norm(self.block(x))[:, 0])


class GPT(nnx.Module):
    def __init__(self, rngs):
        self.embed, self.position = (
            embedding(problems.VOCABULARY, 8, rngs),
            embedding(problems.LENGTH, 8, rngs),
        )
        self.block = Block(8, rngs)
        self.norm = nnx.RMSNorm(8, rngs=rngs)

    def __call__(self, tokens):
        x = self.embed(tokens) + self.position(jnp.arange(tokens.shape[1]))
        mask = nnx.make_causal_mask(tokens)
        return self.embed.attend(self.norm(self.block(x, mask)))


class LSTM(nnx.Module):
    def __init__(self, rngs):
        self.embed = embedding(problems.VOCABULARY, 6, rngs)
        # The type of the carry is that of the parameters, which the tests choose by x64 mode.
        self.first = nnx.RNN(
            nnx.OptimizedLSTMCell(6, 6, param_dtype=jnp.result_type(float), rngs=rngs), rngs=rngs
        )
        self.second = nnx.RNN(
            nnx.LSTMCell(6, 6, param_dtype=jnp.result_type(float), rngs=rngs), rngs=rngs
        )
        self.head = nnx.Linear(6, problems.VOCABULARY, rngs=rngs)

    def __call__(self, tokens):
        return self.head(self.second(self.first(self.embed(tokens))))


class UNet(nnx.Module):
    def __init__(self, rngs):
        shapes = [
            (2, 4, 3, 1),
            (4, 6, 3, 1),
            (6, 8, 3, 2),
            (12, 6, 3, 1),
            (10, 4, 3, 1),
            (4, 2, 1, 1),
        ]
        self.convs = nnx.List(
            [
                nnx.Conv(a, b, (size, size), (stride, stride), rngs=rngs)
                for a, b, size, stride in shapes
            ]
        )
        self.norms = nnx.List([nnx.GroupNorm(b, 2, rngs=rngs) for _, b, *_ in shapes[:-1]])
        self.up = nnx.ConvTranspose(8, 6, (2, 2), (2, 2), rngs=rngs)

    def __call__(self, x):
        block = lambda i, x: nnx.silu(self.norms[i](self.convs[i](x)))
        first = block(0, x)
        second = block(1, nnx.avg_pool(first, (2, 2), (2, 2)))
        up = block(3, jnp.concatenate([self.up(block(2, second)), second], -1))
        up = jax.image.resize(up, (*first.shape[:3], 6), "bilinear")
        return self.convs[5](block(4, jnp.concatenate([up, first], -1)))


class CLIP(nnx.Module):
    def __init__(self, rngs):
        self.conv = nnx.Conv(2, 4, (3, 3), (2, 2), rngs=rngs)
        self.image = nnx.Linear(4, 6, use_bias=False, rngs=rngs)
        self.embed, self.block = embedding(problems.VOCABULARY, 8, rngs), Block(8, rngs)
        self.text = nnx.Linear(8, 6, use_bias=False, rngs=rngs)
        self.temperature = nnx.Param(jnp.asarray(1.0))

    def __call__(self, pair):
        pixels, tokens = pair
        image = self.image(nnx.relu(self.conv(pixels)).mean((1, 2)))
        text = self.text(self.block(self.embed(tokens))[:, -1])
        image = image / jnp.linalg.norm(image, axis=-1, keepdims=True)
        text = text / jnp.linalg.norm(text, axis=-1, keepdims=True)
        return jnp.exp(self.temperature[...]) * image @ text.T


def problem(module, task):
    """The problem of training an nnx module on a task."""
    model = module(nnx.Rngs(0))
    model.eval()
    of_evaluation, *_ = nnx.split(model, nnx.Param, ...)
    model.train()
    of_training, params, rest = nnx.split(model, nnx.Param, ...)

    def losses(params, carried, key, batch, train):
        model = nnx.merge(of_training if train else of_evaluation, params, carried, copy=True)
        losses_of_examples = task.losses(model(task.inputs(batch)), batch)
        return losses_of_examples, nnx.split(model, nnx.Param, ...)[2]

    return problems.Problem(params, rest, losses, task, r"\['key'\]\['bias'\]")


MODELS = problems.of_library(problem, MLP, ResNet9, ViT, GPT, LSTM, UNet, CLIP)

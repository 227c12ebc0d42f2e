"""Seven small models of flax.linen, from the library's own layers.

Batch-norm statistics and the dropout key are carried in the training state.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
import problems


class MLP(nn.Module):
    @nn.compact
    def __call__(self, x, train):
        x = nn.relu(nn.Dense(8)(x.reshape(len(x), -1)))
        x = nn.gelu(nn.Dense(8)(x))
        return nn.Dense(problems.CLASSES)(nn.Dropout(problems.RATE, deterministic=not train)(x))


class Small(nn.Module):
    """Two layers: what the optimisers are tried on."""

    @nn.compact
    def __call__(self, x, train):
        normal = nn.initializers.normal(0.5)
        return nn.Dense(problems.CLASSES, bias_init=normal)(
            nn.tanh(nn.Dense(3, bias_init=normal)(x))
        )


class ConvNorm(nn.Module):
    width: int
    pool: bool = False

    @nn.compact
    def __call__(self, x, train):
        x = nn.Conv(self.width, (3, 3), use_bias=False)(x)
        x = nn.relu(nn.BatchNorm(use_running_average=not train, momentum=0.9)(x))
        return nn.max_pool(x, (2, 2), (2, 2)) if self.pool else x


class ResNet9(nn.Module):
    @nn.compact
    def __call__(self, x, train):
        x = ConvNorm(4)(x, train)
        x = ConvNorm(6, pool=True)(x, train)
        x = x + ConvNorm(6)(ConvNorm(6)(x, train), train)
        x = ConvNorm(8, pool=True)(x, train)
        x = ConvNorm(8, pool=True)(x, train)
        x = x + ConvNorm(8)(ConvNorm(8)(x, train), train)
        return nn.Dense(problems.CLASSES)(x.max((1, 2)))


class Block(nn.Module):
    """A pre-norm transformer block."""

    @nn.compact
    def __call__(self, x, mask, train):
        h = nn.LayerNorm()(x)
        x = x + nn.MultiHeadDotProductAttention(
            2, dropout_rate=problems.RATE, deterministic=not train
        )(h, mask=mask)
        h = nn.gelu(nn.Dense(16)(nn.LayerNorm()(x)))
        return x + nn.Dropout(problems.RATE, deterministic=not train)(nn.Dense(x.shape[-1])(h))


class ViT(nn.Module):
    @nn.compact
    def __call__(self, x, train):
        x = nn.Conv(8, (4, 4), (4, 4), padding="VALID")(x).reshape(len(x), -1, 8)
        cls = self.param("cls", nn.initializers.normal(0.5), (1, 1, 8))
        x = jnp.concatenate([jnp.broadcast_to(cls, (len(x), 1, 8)), x], 1)
        x = x + self.param("position", nn.initializers.normal(0.5), (1, x.shape[1], 8))
        x = Block()(x, None, train)
        return nn.Dense(problems.CLASSES)(nn.LayerNorm()(x)[:, 0])


class GPT(nn.Module):
    @nn.compact
    def __call__(self, tokens, train):
        embed = nn.Embed(problems.VOCABULARY, 8)
        x = embed(tokens) + nn.Embed(problems.LENGTH, 8)(jnp.arange(tokens.shape[1]))
        mask = nn.make_causal_mask(tokens)
        x = Block()(x, mask, train)
        return embed.attend(nn.LayerNorm()(x))


class LSTM(nn.Module):
    @nn.compact
    def __call__(self, tokens, train):
        x = nn.Embed(problems.VOCABULARY, 6)(tokens)
        dtype = jnp.result_type(float)  # the carry's
        x = nn.RNN(nn.OptimizedLSTMCell(6, param_dtype=dtype))(x)
        x = nn.RNN(nn.LSTMCell(6, param_dtype=dtype))(x)
        return nn.Dense(problems.VOCABULARY)(x)


class UNet(nn.Module):
    @nn.compact
    def __call__(self, x, train):
        def block(x, width):
            return nn.silu(nn.GroupNorm(2)(nn.Conv(width, (3, 3))(x)))

        first = block(x, 4)
        second = block(nn.avg_pool(first, (2, 2), (2, 2)), 6)
        bottom = block(nn.Conv(8, (3, 3), (2, 2))(second), 8)
        up = nn.ConvTranspose(6, (2, 2), (2, 2))(bottom)
        up = block(jnp.concatenate([up, second], -1), 6)
        up = jax.image.resize(up, (*first.shape[:3], 6), "bilinear")
        return nn.Conv(x.shape[-1], (1, 1))(block(jnp.concatenate([up, first], -1), 4))


class CLIP(nn.Module):
    @nn.compact
    def __call__(self, pair, train):
        images, tokens = pair
        image = nn.relu(nn.Conv(4, (3, 3), (2, 2))(images)).mean((1, 2))
        image = nn.Dense(6, use_bias=False)(image)
        text = Block()(nn.Embed(problems.VOCABULARY, 8)(tokens), None, train)
        text = nn.Dense(6, use_bias=False)(nn.LayerNorm()(text)[:, -1])
        image = image / jnp.linalg.norm(image, axis=-1, keepdims=True)
        text = text / jnp.linalg.norm(text, axis=-1, keepdims=True)
        scale = self.param("temperature", nn.initializers.constant(1.0), ())
        return jnp.exp(scale) * image @ text.T


def problem(module, task):
    """The problem of training a linen module on a task."""
    model, sample = module(), task.sample()
    initial = jax.jit(model.init, static_argnums=2)
    variables = initial(
        {"params": jax.random.key(0), "dropout": jax.random.key(1)}, task.inputs(sample), True
    )
    collections = {name: tree for name, tree in variables.items() if name != "params"}

    def losses(params, carried, key, batch, train):
        rngs = {"dropout": key} if train else None
        mutable = list(collections) if train else []
        out, changed = model.apply(
            {"params": params, **carried}, task.inputs(batch), train, rngs=rngs, mutable=mutable
        )
        return task.losses(out, batch), changed if train else carried

    return problems.Problem(variables["params"], collections, losses, task, r"\['key'\]\['bias'\]")


SMALL = lambda: problem(Small, problems.FEATURES)

MODELS = problems.of_library(problem, MLP, ResNet9, ViT, GPT, LSTM, UNet, CLIP)

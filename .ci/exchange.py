"""Writes an exported run, or loads those that other Pythons and other versions of JAX have written.

    python exchange.py write FOLDER
    python exchange.py load FOLDER

The run has what differs between versions: linear algebra of LAPACK, functions of CHLO, random bits,
a sort, captured arrays, typed keys. Loading compares value and gradients with what the writer got.
"""

import json
import pathlib
import sys

import jax
import jax.numpy as jnp
import numpy as np

import metagrad

ROWS = np.random.default_rng(0).normal(size=(200, 2))
STATE = {"w": np.ones(2), "n": 0, "name": "sgd", "act": jax.nn.relu}
META = {"rate": 0.1}
XS = np.linspace(-1, 1, 6).reshape(3, 2)
TARGET = 0.5


def step(state, meta, x):
    def loss(w):
        special = jax.scipy.special.erf(w) + jax.lax.lgamma(w + 2)
        return jnp.sum(jnp.tanh(w * x) ** 2 + special) + jnp.mean((ROWS @ w) ** 2)

    noise = jax.random.normal(jax.random.fold_in(state["key"], state["n"]), (2,))
    w = state["w"] - meta["rate"] * metagrad.grad(loss)(state["w"]) + 0.01 * noise
    return {**state, "w": w, "n": state["n"] + 1}, {"sorted": [jnp.sort(w)]}


def outer(state, target):
    factor = jnp.linalg.cholesky(jnp.eye(2) + jnp.outer(state["w"], state["w"]))
    return jnp.sum((state["w"] - target) ** 2) + factor[1, 0] + jax.lax.top_k(state["w"], 1)[0][0]


def numbers(result):
    grads = result.grad[0]["w"], result.grad[1]["rate"]
    return [
        x for a in (result.value, *grads, result.aux["sorted"][0]) for x in np.ravel(a).tolist()
    ]


def main(what, folder):
    folder = pathlib.Path(folder)
    jax.config.update("jax_enable_x64", what == "write")
    arguments = STATE | {"key": jax.random.key(7)}, META, XS, TARGET
    if what == "write":
        folder.mkdir(parents=True, exist_ok=True)
        mg = metagrad.compile(step, has_aux=True).metagradient(outer, wrt=("state", "meta"))
        compiled = mg.lower(*arguments).compile()
        name = f"python{sys.version_info[0]}{sys.version_info[1]}-jax{jax.__version__}"
        compiled.export(folder / f"{name}.mg", overwrite=True)
        (folder / f"{name}.json").write_text(json.dumps(numbers(compiled(*arguments))))
        return
    paths = sorted(folder.glob("*.mg"))
    assert paths, f"no files in {folder}"
    for path in paths:
        expected = json.loads(path.with_suffix(".json").read_text())
        found = numbers(metagrad.load(path)(*arguments))
        np.testing.assert_allclose(found, expected, rtol=1e-11)
        print(f"{path.name}: the same {len(found)} numbers with JAX {jax.__version__}")
    forbidden = [name for name in sys.modules if name.startswith(("enzyme", "metagrad.compiler"))]
    assert not forbidden, forbidden


main(*sys.argv[1:])

"""The optimisers of `python -m benchmarks.inner_optimisers`, and its table."""

import jax
import jax.numpy as jnp
import pytest
from rich.console import Console

from benchmarks import inner_optimisers
from benchmarks.models.preconditioners import _blocks, _whole, by_newton


@pytest.mark.parametrize("name", inner_optimisers.NAMES)
def test_a_step_gives_the_state_that_it_takes(name):
    model = inner_optimisers.trained_with(name, 1)
    batch = jax.tree.map(lambda x: x[0], model.draw_batches(1))
    shapes = lambda tree: jax.tree.map(lambda x: (jnp.shape(x), jnp.result_type(x)), tree)
    after = jax.eval_shape(model.make_step(jax), model.state0, model.meta, batch)
    assert shapes(after) == shapes(model.state0)
    assert jax.eval_shape(model.outer, after, model.held_out).shape == ()


def test_blocks_of_a_matrix():
    matrix = jnp.arange(6 * 4.0).reshape(6, 4)
    blocks = _blocks(matrix, 3)
    assert blocks.shape == (4, 3, 2)
    assert (blocks[1] == matrix[:3, 2:]).all() and (blocks[2] == matrix[3:, :2]).all()
    assert (_whole(blocks, matrix.shape) == matrix).all()
    assert _blocks(matrix, 128).shape == (1, 6, 4)


def test_a_root_by_newton():
    with jax.enable_x64(True):
        half = jax.random.normal(jax.random.key(0), (5, 5), float)
        matrix = half @ half.T + 0.1 * jnp.eye(5)
        root = by_newton(matrix)
        assert jnp.abs(jnp.linalg.matrix_power(root, 4) @ matrix - jnp.eye(5)).max() < 1e-10
        assert jnp.abs(by_newton(matrix, unroll=True) - root).max() < 1e-12


def test_the_table_marks_what_is_not_jaxs():
    seconds = dict.fromkeys(inner_optimisers.PROGRAMS, 0.1)
    ratios = (
        "plain step of Adam's",
        "metagradient of Adam's",
        "metagradient of plain",
        "time, JAX over ours",
        "memory, JAX over ours",
    )
    row = {
        "optimiser": "adam",
        **dict.fromkeys(ratios, 1.5),
        "seconds": seconds,
        "bytes": dict.fromkeys(inner_optimisers.PROGRAMS, 2**20),
        "lowering": 1.0,
        "xla": 2.0,
        "JAX compiles": 3.0,
        "who": ["enzyme", "jax", "enzyme"],
    }
    console = Console(width=200, record=True, quiet=False)
    rows = [row | {"difference": 1e-5}, row | {"difference": 0.5}]
    with console.capture() as captured:
        console.print(inner_optimisers.table(rows, 8, 1))
    assert captured.get().count("(!)") == 1
    assert "│       jax │" in captured.get()

"""benchmarks/gpu.py on a CPU, at its smallest: export, then run what was exported."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import metagrad
from benchmarks import gpu
from benchmarks.contenders import checkpointed, unrolled
from benchmarks.models import gpt2

OF_MODELS = "checkpoint", "mixflow", "replay(4)", "replay+mixflow(4)", "equinox(4)"
OF_TASKS = "checkpoint + blocks", "by hand", "default"


@pytest.mark.slow
@pytest.mark.parametrize(
    "model",
    ["mlp", *(pytest.param(run.model, marks=pytest.mark.long) for run in gpu.SMALL_RUNS[1:])],
)
def test_small(model, tmp_path, capsys):
    small = ["--small", "--runs", f"{model}*"]
    assert gpu.main(["export", str(tmp_path), *small]) == 0
    options = ["--repeat", "1", "--budget", "1"]
    assert gpu.main(["run", str(tmp_path), *small, *options]) == 0, capsys.readouterr().out
    (record,) = json.loads((tmp_path / "gpu.json").read_text())["records"]
    assert record["failures"] == []
    assert [each["model"] for each in record["results"]] == [model]
    for result in record["results"]:
        rows = {each["contender"]: each for each in result["rows"]}
        ours = [name for name in rows if name.startswith("metagrad")]
        assert ours
        jaxs, *by_hand = OF_TASKS if "weighting" in result["model"] else OF_MODELS
        for name in ("plain", jaxs, *ours, *(by_hand if result["by_hand"] else ())):
            assert rows[name]["seconds"] > 0, rows[name]
        for name in (jaxs, *ours):
            assert rows[name]["error"] is not None, rows[name]


def test_without_jaxs_gradient_nothing_is_compared(tmp_path, monkeypatch):
    """Where it does not fit, say: the first gradient is another contender's then."""
    rows = [gpu.Row("plain"), gpu.Row("checkpoint"), gpu.Row("metagrad StoreAll()", error=0.0)]
    monkeypatch.setattr(gpu, "measure", lambda *_: rows)
    run = gpu.SMALL_RUNS[0]
    gpu.run_one(run, tmp_path, None)
    assert "no gradient to compare with" in gpu.failures(run, rows)[0]


def test_runs_that_are_none_and_their_order(tmp_path, capsys):
    with pytest.raises(SystemExit):
        gpu.main(["run", str(tmp_path), "--runs", "gpt-64-f16"])
    assert "no run is called 'gpt-64-f16'; there are mlp-16-highest, " in capsys.readouterr().err
    runs = gpu.named(("gpt-*", "mlp-*", "gpt-16*"), gpu.RUNS, gpu.parser())
    assert [run.title for run in runs] == [
        "gpt-16-highest",
        "gpt-64-f32",
        "mlp-16-highest",
        "mlp-64-f32",
    ]


def test_programs_that_were_not_exported(tmp_path, capsys):
    """It says so before anything is compiled, or paid for."""
    with pytest.raises(SystemExit):
        gpu.main(["run", str(tmp_path), "--runs", "mlp-16*"])
    assert "mlp-16-highest-Binomial-4.mg; `python -m benchmarks.gpu export" in (
        capsys.readouterr().err
    )
    assert not list(tmp_path.iterdir())


def test_a_wrong_gradient_is_a_failure():
    row = gpu.Row("metagrad StoreAll()", error=2 * gpu.CLOSE)
    run = gpu.SMALL_RUNS[0]
    assert "differs from JAX's gradient by 2.0e-04" in gpu.failures(run, [row])[0]
    assert gpu.failures(run, [gpu.Row("mixflow", error=1.0)]) == []
    assert gpu.failures(run, [gpu.Row("metagrad StoreAll()", note="failed: no memory")])
    assert gpu.failures(run, [gpu.Row("metagrad StoreAll()", error=float("nan"))])


@pytest.mark.slow
@pytest.mark.parametrize("remat", [False, True])
def test_the_small_gpt2_has_jaxs_gradient(remat):
    """In f64, where rounding hides nothing."""
    with jax.enable_x64(True):
        model = gpt2.drawn(size=gpt2.SMALL, remat=remat)
        wide = lambda tree: jax.tree.map(
            lambda x: jnp.asarray(x, jnp.float64 if x.dtype == jnp.float32 else x.dtype), tree
        )
        arguments = wide((model.state0, model.meta, model.draw_batches(3), model.held_out))
        step = metagrad.compile(model.make_step(metagrad))
        result = step.metagradient(model.outer, schedule=metagrad.Binomial(2))(*arguments)
        value, gradient = jax.jit(
            unrolled.metagradient(model, model.make_step(jax), checkpointed.per_step)
        )(*arguments)
    np.testing.assert_allclose(result.value, value, rtol=1e-11)
    np.testing.assert_allclose(
        result.grad, gradient, rtol=1e-11, atol=1e-11 * np.abs(gradient).max()
    )


def test_shapes_are_those_of_the_numbers():
    shapes, numbers = gpt2.model(size=gpt2.SMALL), gpt2.drawn(size=gpt2.SMALL)
    of = lambda tree: jax.tree.map(lambda x: (x.shape, np.dtype(x.dtype)), tree)
    for get in (
        lambda model: model.state0,
        lambda model: model.meta,
        lambda model: model.draw_batches(3),
        lambda model: model.held_out,
    ):
        assert of(get(shapes)) == of(get(numbers))


def test_gpt2_has_124_million_parameters():
    params, _ = gpt2.model().state0
    assert sum(x.size for x in jax.tree.leaves(params)) == 124_356_864

"""A descent that was killed goes on, and ends with the bits of one that was left alone."""

import os
import pathlib
import random
import re
import signal
import subprocess
import sys
import time

import descent_runs as run
import jax
import jax.numpy as jnp
import optax
import pytest

import metagrad

SCRIPT = pathlib.Path(__file__).parent / "killed_descent.py"
KILLS = int(os.environ.get("METAGRAD_KILLS", 2))


def start(cache, directory, output):
    environment = os.environ | {
        "METAGRAD_CACHE": "1",
        "METAGRAD_CACHE_DIR": str(cache / "enzyme"),
        "JAX_COMPILATION_CACHE_DIR": str(cache / "xla"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
        "JAX_PLATFORMS": "cpu",
    }
    command = [sys.executable, SCRIPT, directory, output]
    return subprocess.Popen(
        [*map(str, command)], text=True, stdout=subprocess.PIPE, env=environment
    )


def test_kills_at_random_moments(tmp_path):
    alone = start(tmp_path, tmp_path / "alone", tmp_path / "expected")
    assert alone.communicate(timeout=300) and alone.returncode == 0

    chance, first_rounds = random.Random(4), []
    for kill in range(KILLS + 1):
        process = start(tmp_path, tmp_path / "killed", tmp_path / "output")
        first_rounds.append(int(process.stdout.readline()))
        if kill < KILLS:
            for _ in range(chance.randrange(2, 6)):
                process.stdout.readline()
            time.sleep(chance.uniform(0, 0.02))
            process.send_signal(signal.SIGKILL)
        process.communicate(timeout=300)
        assert process.returncode == (0 if kill == KILLS else -signal.SIGKILL)
    assert first_rounds[0] == 0 and first_rounds == sorted(first_rounds)
    assert first_rounds[-1] > 0, "something was saved"
    assert (tmp_path / "output").read_text() == (tmp_path / "expected").read_text()


@pytest.fixture(scope="module")
def mg():
    return metagrad.compile(run.step).metagradient(run.outer)


def descend(mg, directory, **change):
    arguments = {
        "meta0": run.meta0(),
        "problem": run.problem,
        "optimizer": optax.adam(0.1, eps_root=1e-8),
        "rounds": 2,
        "key": 0,
    }
    return metagrad.descent(mg, resume_dir=directory, **arguments | change)


def test_more_rounds_go_on_and_the_same_return_at_once(mg, tmp_path):
    descend(mg, tmp_path)
    seen = []
    longer = descend(mg, tmp_path, rounds=5, callback=seen.append)
    assert [round.record.round for round in seen] == [2, 3, 4]
    again = descend(mg, tmp_path, rounds=5, callback=seen.append)
    assert len(seen) == 3 and again.history == longer.history
    whole = descend(mg, None, rounds=5)
    for tree in ("meta", "optimizer_state"):
        same = jax.tree.map(lambda a, b: (a == b).all(), getattr(again, tree), getattr(whole, tree))
        assert jax.tree.all(same)


def other_step(state, meta, batch):
    return jax.tree.map(lambda x: 0.99 * x, run.step(state, meta, batch))


other_step.__name__ = "step"


def other_problem(number, key):
    *rest, target = run.problem(number, key)
    return *rest, target + 1


IDS = "meta structure,optimiser structure,optimiser,seeds,key,meta,projection,problem,step"


@pytest.fixture(scope="module")
def begun(mg, tmp_path_factory):
    directory = tmp_path_factory.mktemp("begun")
    descend(mg, directory)
    return directory


@pytest.mark.parametrize(
    "change, message",
    [
        (
            {"meta0": run.meta0() | {"more": jnp.zeros(2)}},
            r"the structure of meta0 is \['log_rate'\] float32\[\], .* there and \['log_rate'\]",
        ),
        (
            {"optimizer": optax.sgd(0.1)},
            r"the structure of the optimizer's state is \[0\].count int32\[\], .* and empty here",
        ),
        ({"optimizer": optax.adam(0.2, eps_root=1e-8)}, "the optimizer's first step is"),
        ({"seeds": 2}, "seeds is 1 there and 2 here"),
        ({"key": 1}, "key is .* there and .* here"),
        ({"meta0": run.meta0() | {"log_rate": -2.0}}, "meta0 is .* there and .* here"),
        ({"projection": lambda meta: jax.tree.map(jnp.tanh, meta)}, "the projection is"),
        (
            {
                "problem": lambda *a: jax.tree.map(
                    lambda x: x[..., ::-1] if x.ndim == 2 else x, run.problem(*a)
                )
            },
            r"problem\(0, key\) is",
        ),
        (
            {"mg": metagrad.compile(other_step).metagradient(run.outer)},
            "the training step or the outer function is",
        ),
    ],
    ids=IDS.split(","),
)
def test_another_descent_is_refused(mg, begun, change, message):
    with pytest.raises(metagrad.JournalError, match=f"holds another run: .*{message}") as error:
        descend(**{"mg": mg, "directory": begun} | change)
    others = re.findall(r"(?:: |; )([\w(), ']+) is .*? there", str(error.value))
    if {*change} & {"optimizer", "seeds", "projection", "mg"}:
        assert len(others) <= 2, "nothing else differs"


def test_a_function_among_the_metaparameters_is_the_same_in_another_process(tmp_path):
    """Its text has its address, which every process has its own of."""

    def start_with_function():
        return {"rate": 0.1, "activation": lambda x: x * x}

    @metagrad.compile
    def step(w, meta, x):
        loss = lambda w: jnp.sum(meta["activation"](w - x))
        return w - meta["rate"] * metagrad.grad(loss)(w)

    mg = step.metagradient(lambda w: jnp.sum((w - 1) ** 2))
    problem = lambda round, key: (jnp.zeros(2), jnp.ones((3, 2)))
    first, second = (start_with_function() for _ in range(2))
    assert repr(first["activation"]) != repr(second["activation"])
    for meta0, rounds in ((first, 1), (second, 2)):
        result = metagrad.descent(
            mg, meta0, problem, optax.sgd(0.01), rounds=rounds, resume_dir=tmp_path / "descent"
        )
    assert len(result.history) == 2

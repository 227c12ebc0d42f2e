"""What `metagrad.descent` refuses, and what it keeps when something goes wrong."""

import re

import descent_runs as run
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import metagrad
from metagrad import mgd


@pytest.fixture(scope="module")
def mg():
    return metagrad.compile(run.step).metagradient(run.outer, check_nans=False)


ARGUMENTS = {"meta0": run.meta0(), "problem": run.problem, "optimizer": optax.sgd(0.01)}


@pytest.mark.parametrize(
    "change, error, message",
    [
        ({"mg": 3}, TypeError, r"mg must be a metagradient, .*, got 3"),
        ({"mg": metagrad.compile(run.step)}, TypeError, r"mg must be .*, got TrainStep\(step"),
        ({"problem": None}, TypeError, "problem must be a function"),
        ({"optimizer": 0.1}, TypeError, r"optimizer must be an optax.GradientTransformation.* 0.1"),
        ({"projection": 1}, TypeError, "projection must be a function or None, got 1"),
        ({"callback": 1}, TypeError, "callback must be a function or None, got 1"),
        ({"rounds": -1}, ValueError, "rounds=-1 must be at least 0"),
        ({"rounds": 2.5}, TypeError, "rounds must be an integer, got 2.5"),
        ({"seeds": 0}, ValueError, "seeds=0 must be at least 1"),
        ({"patience": 0}, ValueError, "patience=0 must be at least 1"),
        ({"seconds": "1"}, TypeError, "seconds must be a number, got '1'"),
        ({"min_gain": -1.0}, ValueError, "min_gain=-1.0 must be at least 0"),
        ({"save_every": -1.0}, ValueError, "save_every=-1.0 must be at least 0"),
        ({"resume_dir": 3}, TypeError, "resume_dir must be a path or None, got 3"),
        ({"progress": "yes"}, ValueError, "progress='yes' is none of"),
        ({"key": 0.5}, TypeError, "key must be an integer or one key"),
        ({"meta0": {"n": 3}}, TypeError, "meta0 has no floating-point leaf"),
        (
            {"problem": lambda round, key: (run.problem(round, key)[0],)},
            TypeError,
            r"problem\(0, key\) returned 1 values, .* the tuple \(state0, batches, \*outer_args\)",
        ),
        (
            {"problem": lambda round, key: list(run.problem(round, key))},
            TypeError,
            r"problem\(0, key\) returned a list",
        ),
        (
            {"projection": lambda meta: meta["weight"]},
            TypeError,
            "projection returned another structure",
        ),
        (
            {"projection": lambda meta: meta | {"weight": meta["weight"][1:]}},
            ValueError,
            r"projection returned shape \(11,\) for meta0\['weight'\], whose shape is \(12,\)",
        ),
    ],
)
def test_refused(mg, change, error, message):
    arguments = {"mg": mg} | ARGUMENTS | {"rounds": 2} | change
    with pytest.raises(error, match=message):
        metagrad.descent(**arguments)


def test_a_vector_is_refused():
    many = metagrad.compile(run.step).metagradient(lambda state, x, y: state["w"])
    with pytest.raises(ValueError, match=r"vector of shape \(3,\), and descent needs one value"):
        metagrad.descent(many, **ARGUMENTS, rounds=1)


def test_a_value_that_is_not_finite(mg):
    """The third round is NaN. What was done is there, and a resumed descent says it again."""

    def problem(number, key):
        state, (x, y, order), *rest = run.problem(number, key)
        return state, (x, y * (jnp.nan if number == 2 else 1.0), order), *rest

    arguments = ARGUMENTS | {"problem": problem}
    with pytest.raises(
        mgd.NotFiniteError, match=r"meta0\['log_rate'\].* not finite in round 2"
    ) as e:
        metagrad.descent(mg, **arguments, rounds=5)
    result = e.value.descent
    assert len(result.history) == 2 and result.reason == "unfinished"
    assert jnp.isfinite(result.meta["weight"]).all()
    assert result.best.value == min(result.history.column("value"))
    assert "had made 2 rounds, which are in the attribute `descent`" in e.value.__notes__[0]


def test_metagradients_that_raise_for_a_nan(mg):
    strict = metagrad.compile(run.step).metagradient(run.outer, check_nans=True)

    def problem(number, key):
        *rest, target = run.problem(number, key)
        return *rest, target * jnp.nan

    with pytest.raises(FloatingPointError) as e:
        metagrad.descent(strict, **ARGUMENTS | {"problem": problem}, rounds=5)
    assert e.value.descent.history.rows == ()


@pytest.mark.parametrize("error", [RuntimeError("out of disk"), KeyboardInterrupt()])
def test_other_errors_carry_the_result_and_save_it(mg, error, tmp_path):
    def problem(number, key):
        if number == 2 and fails:
            raise error
        return run.problem(number, key)

    arguments = ARGUMENTS | {"problem": problem, "resume_dir": tmp_path, "rounds": 4}
    fails = True
    with pytest.raises(type(error)) as e:
        metagrad.descent(mg, **arguments)
    assert len(e.value.descent.history) == 2
    fails = False
    result = metagrad.descent(mg, **arguments)
    assert result.history[:2] == e.value.descent.history
    whole = metagrad.descent(mg, **ARGUMENTS, rounds=4)
    assert jax.tree.all(jax.tree.map(lambda a, b: (a == b).all(), result.meta, whole.meta))


def test_the_note_of_a_gradient_of_another_structure(mg):
    wrong = lambda *arguments: metagrad.mgd.Record  # answers like nothing
    with pytest.raises(TypeError):
        metagrad.descent(wrong, **ARGUMENTS, rounds=1)
    flat = lambda *arguments: (mg(*arguments).value, jnp.zeros(3))
    with pytest.raises(TypeError, match=re.escape("does not have the structure of meta0")):
        metagrad.descent(flat, **ARGUMENTS, rounds=1)


@pytest.mark.parametrize("answer", [np.True_, jnp.asarray(True), True])
def test_any_kind_of_true_ends_it(mg, answer):
    result = metagrad.descent(mg, **ARGUMENTS, rounds=3, callback=lambda round: answer)
    assert (result.reason, len(result.history)) == ("callback", 1)


@pytest.mark.parametrize("answer", [np.False_, jnp.asarray(False), None, 1, "stop", np.ones(2)])
def test_other_answers_do_not(mg, answer):
    assert (
        metagrad.descent(mg, **ARGUMENTS, rounds=2, callback=lambda round: answer).reason
        == "rounds"
    )


def test_a_traced_call_is_refused(mg):
    traced = jax.jit(lambda meta: metagrad.descent(mg, meta, run.problem, optax.sgd(0.1), rounds=1))
    with pytest.raises(TypeError, match="descent cannot be traced"):
        traced(run.meta0())


def test_a_gradient_of_another_shape_is_refused(mg):
    def column(*arguments):
        result = mg(*arguments)
        return result._replace(grad=result.grad | {"weight": result.grad["weight"][:, None]})

    with pytest.raises(ValueError, match=r"shape \(12, 1\) for meta0\['weight'\], .* \(12,\)"):
        metagrad.descent(column, **ARGUMENTS, rounds=1)


@pytest.mark.parametrize("meta0", [run.meta0(), (run.meta0(),), [1.0, 2.0]])
def test_a_tuple_of_names_needs_a_tuple_of_starts(meta0):
    mg = metagrad.compile(run.step).metagradient(run.outer, wrt=("meta", "state"))
    with pytest.raises(TypeError, match=r"meta0 has to be the tuple \(meta, state0\), and it is"):
        metagrad.descent(mg, meta0, lambda round, key: (jnp.ones(2),), optax.sgd(0.1), rounds=1)

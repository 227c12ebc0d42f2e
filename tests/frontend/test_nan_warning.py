"""The warning that a metagradient with a NaN gives by default: when it comes, and what it says.

That optimisers are named is tested in tests/models.
"""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import metagrad
from metagrad.diagnostics import non_finite_warning


def root(w, z, x):
    """Its derivative at w[1] = 0 is infinite."""
    return w - 0.1 * z * jnp.sqrt(w)


START = jnp.array([1.0, 0.0])
STEPS = jnp.arange(3)


def metagradient(step=root, outer=jnp.sum, **options):
    return metagrad.compile(step).metagradient(outer, ("meta", "state"), **options)


def silent(function, *arguments):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return function(*arguments)


def text(mg, *arguments):
    with pytest.warns(RuntimeWarning) as caught:
        mg(*arguments)
    assert len(caught) == 1 and caught[0].filename == __file__
    return str(caught[0].message)


@jax.custom_vjp
def steep(x):
    """x, whose derivative is infinite where there is a cotangent."""
    return x


steep.defvjp(lambda x: (x, None), lambda _, bar: (jnp.where(bar == 0, bar, jnp.inf),))


def test_queries_that_are_not_finite():
    mg = metagradient(lambda w, z, x: z * w, lambda w: jnp.stack([w[0], steep(w[1]), w[1]]))
    warning = text(mg, jnp.ones(2), 1.0, STEPS)
    assert "in the gradient of meta, the gradient of state (query 1). Training is fin" in warning


def test_the_users_function_line_and_leaf():
    warning = text(metagradient(), START, 1.0, STEPS)
    assert warning.startswith(
        "the metagradient has a NaN or infinity in the gradient of meta, the gradient of state. "
    )
    assert "At step 0 root (" in warning and "tests/frontend/test_nan_warning.py:" in warning
    assert (
        "takes a root (`sqrt`) of zero or next to it in 1 of 2 entries of what it computes from "
        "state:" in warning
    )
    assert "Keep what is under the root away from zero" in warning and "check_nans=False" in warning


def test_the_step_at_which_it_happens():
    step = lambda w, z, t: w + z * jnp.sqrt(jnp.where(t == 2, w - w, 1.0))
    assert "At step 2 a lambda (" in text(metagradient(step), START, 1.0, STEPS)


def test_once_for_each_program():
    mg = metagradient()
    text(mg, START, 1.0, STEPS)
    assert jnp.isnan(silent(mg, START, 1.0, STEPS).grad[1]).any()


def test_a_good_result_says_nothing_and_a_later_bad_one_does():
    mg = metagradient()
    silent(mg, START + 1, 1.0, STEPS)
    text(mg, START, 1.0, STEPS)


def test_turned_off():
    assert jnp.isnan(silent(metagradient(check_nans=False), START, 1.0, STEPS).grad[1]).any()


def test_nothing_is_checked_under_jit():
    assert jnp.isnan(silent(jax.jit(lambda w: metagradient()(w, 1.0, STEPS).grad[1]), START)).any()


def test_roots_that_carry_no_derivative_are_not_blamed():
    """One behind stop_gradient, one of the batch, one whose result is only compared."""

    def step(w, z, t):
        stopped_root = jnp.sqrt(jax.lax.stop_gradient(w))
        of_batch = jnp.sqrt(t * 0.0)
        small = jnp.sign(stopped_root) * 0 + of_batch
        norm = jnp.sqrt(w - w) > 1
        return jnp.cbrt(w - w[0]) * z + small + norm

    warning = text(
        metagrad.compile(step).metagradient(jnp.sum), jnp.array([1.0, 2.0]), 1.0, jnp.arange(3.0)
    )
    assert "(`cbrt`) of zero" in warning and "more root" not in warning


def test_branches_and_calls():
    def step(w, z, t):
        return jax.lax.cond(
            t == 1,
            lambda w: jax.jit(lambda w: jnp.sqrt(w) * z)(w),
            lambda w: jax.checkpoint(lambda w: jnp.sqrt(w + 1.0) - 1.0)(w),
            w,
        )

    assert "At step 1 a lambda (" in text(metagradient(step), START, 1.0, STEPS)


def test_training_gives_the_first():
    step = lambda w, z, t: jnp.where(t == 1, jnp.log(-w - 1.0), w) * z
    assert "Training itself gave the first: at step 1, in state. Lower the learning rate" in text(
        metagradient(step), START, 1.0, STEPS
    )


def test_the_outer_function():
    warning = text(
        metagradient(lambda w, z, t: w * z, lambda w: jnp.linalg.norm(w - w) + w[0]),
        START,
        1.0,
        STEPS,
    )
    assert (
        "Training is finite. The outer function, in a lambda (" in warning
        and "(`sqrt`) of zero" in warning
    )


def test_the_outer_functions_value():
    warning = text(metagradient(lambda w, z, t: w * z, lambda w: jnp.log(w[1])), START, 1.0, STEPS)
    assert (
        "a NaN or infinity in value, " in warning
        and "Training is finite; the outer function's value is the first." in warning
    )


def test_an_infinity_in_the_state_is_no_fault():
    """The best loss so far, of a schedule that watches it."""
    step = lambda s, z, t: {
        "w": s["w"] * z,
        "best": jnp.minimum(s["best"], jnp.where(t > 0, jnp.sum(s["w"]), jnp.inf)),
    }
    mg = metagrad.compile(step).metagradient(lambda s: jnp.sum(s["w"]))
    silent(mg, {"w": START, "best": jnp.asarray(jnp.inf)}, 1.0, jnp.arange(1))


def test_a_search_that_fails_leaves_the_result(monkeypatch):
    monkeypatch.setattr(non_finite_warning, "_origin", lambda *_: 1 / 0)
    assert "Why could not be found out: ZeroDivisionError" in text(
        metagradient(), START, 1.0, STEPS
    )


def test_the_arguments():
    assert "It was in the arguments: batches." in text(
        metagradient(lambda w, z, x: w * z * x), START, 1.0, jnp.array([1.0, np.nan, 1.0])
    )


def test_where_no_root_is_to_blame():
    """A division that is not taken: its derivative is NaN all the same."""
    step = lambda w, z, t: jnp.where(w == 0, w * z, 1 / (w * z))
    warning = text(metagradient(step), START, 1.0, STEPS)
    assert "metagradient(check_nans=True) repeats the run backward" in warning


def test_a_root_of_what_may_be_rounding():
    """Its derivative is a number in the plain run, and would be infinite at an exact zero."""
    step = lambda w, z, t: w + z * 1e30 * jnp.sqrt(w - w + jnp.asarray([1.0, 1e-30], w.dtype))
    warning = text(metagradient(step), jnp.float32([1.0, 1.0]), jnp.float32(1.0), STEPS[:1])
    assert "At step 0 a lambda (" in warning and "tests/frontend/test_nan_warning.py:" in warning
    assert (
        "takes a root (`sqrt`) of almost zero in 1 of 2 entries of what it computes from state. "
        "That may be the rounding of a number that is zero" in warning
    )
    assert "Keep what is under the root away from zero" in warning


def test_a_root_of_zero_is_blamed_before_one_of_almost_zero():
    def step(w, z, t):
        almost_zero = jnp.sqrt(w - w + jnp.float32(1e-30))
        return w + z * almost_zero + jnp.cbrt(w - w) * z

    warning = text(metagradient(step), jnp.float32([1.0, 1.0]), jnp.float32(1.0), STEPS[:1])
    assert "(`cbrt`) of zero or next to it in 2 of 2 entries" in warning
    assert "more root" not in warning

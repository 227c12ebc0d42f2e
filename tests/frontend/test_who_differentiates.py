"""`ad="auto"`, `"enzyme"`, `"jax"`, and what happens when Enzyme fails."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import metagrad
from metagrad.compiler.enzyme.worker import WORKER


@jax.custom_jvp
def rounded(x):
    return jnp.round(x)


rounded.defjvp(lambda primals, tangents: (rounded(*primals), tangents[0]))


def with_custom_rule(w, decay, x):
    return jnp.sum((rounded(4 * w) / 4 - x) ** 2) + decay * jnp.sum(w**2)


def descend(loss):
    return lambda w, decay, x: w - 0.1 * metagrad.grad(loss)(w, decay, x)


def plain(w, decay, x):
    return jnp.sum((w - x) ** 2) + decay * jnp.sum(w**2)


def expected(step, outer, arguments):
    w, decay, xs = arguments

    def run(decay):
        s = w
        for x in xs:
            s = step(s, decay, x)
        return outer(s)

    return jax.grad(run)(decay)


@pytest.mark.parametrize("ad", ["auto", "enzyme", "jax"])
def test_modes_agree(outer, arguments, ad):
    lowered = metagrad.compile(descend(plain), ad=ad).metagradient(outer).lower(*arguments)
    np.testing.assert_allclose(
        lowered.compile()(*arguments).grad, expected(descend(plain), outer, arguments), rtol=1e-5
    )
    rule = "jax" if ad == "jax" else "enzyme"
    assert {decision.rule for decision in lowered.decisions} == {rule}
    assert ("asked for with ad='jax'" in lowered.explain()) == (ad == "jax")
    assert ("enzyme.autodiff" in lowered.ir("differentiated")) == (ad != "jax")


def test_enzyme_alone_refuses_what_is_not_proven(outer, arguments):
    """The message names the function, the op, the user's line, and the way out."""
    step = metagrad.compile(descend(with_custom_rule), ad="enzyme")
    with pytest.raises(NotImplementedError) as error:
        step.metagradient(outer).lower(*arguments)
    message = str(error.value)
    assert "with_custom_rule (test_who_differentiates.py:" in message
    assert (
        "custom_jvp_call: custom rule" in message
        and "test_who_differentiates.py:" in message.split("custom rule")[1]
    )
    assert "Use ad='auto' to let JAX differentiate this function." in message


def test_auto_lets_jax_do_it(outer, arguments):
    lowered = metagrad.compile(descend(with_custom_rule)).metagradient(outer).lower(*arguments)
    assert [decision.rule for decision in lowered.decisions] == ["jax", "enzyme", "enzyme"]
    np.testing.assert_allclose(
        lowered.compile()(*arguments).grad,
        expected(descend(with_custom_rule), outer, arguments),
        rtol=1e-5,
    )


@pytest.mark.filterwarnings("error")
def test_enzyme_reads_slices_of_scalars(outer, arguments):
    """JAX makes one when it transposes an update of a scalar, in the step as it is run as well."""

    def update(w, decay, x):
        return jnp.sum(jax.lax.dynamic_update_slice(x[0], w[0] * w[1], ()) ** 2) * decay

    step = lambda w, decay, x: w - 0.1 * jax.grad(update)(w, decay, x)
    lowered = metagrad.compile(step).metagradient(outer).lower(*arguments)
    assert [decision.rule for decision in lowered.decisions] == ["expanded", "enzyme", "enzyme"]
    np.testing.assert_allclose(
        lowered.compile()(*arguments).grad, expected(step, outer, arguments), rtol=1e-5
    )


@pytest.mark.filterwarnings("error")
def test_floats_of_eight_bits_are_not_sent_to_enzyme(outer, arguments):
    """Its process dies on them."""
    small = lambda w, decay, x: (
        jnp.sum((w.astype(jnp.float8_e4m3fn).astype(w.dtype) - x) ** 2) + decay * jnp.sum(w**2)
    )
    lowered = metagrad.compile(descend(small)).metagradient(outer).lower(*arguments)
    assert (
        lowered.decisions[0].rule.startswith("jax")
        and "floats of 8 bits or fewer" in lowered.explain()
    )
    with pytest.raises(
        NotImplementedError,
        match=r"convert_element_type: floats of 8 bits or fewer .*test_who_differentiates.py",
    ):
        metagrad.compile(descend(small), ad="enzyme").metagradient(outer).lower(*arguments)


def test_a_message_that_names_no_function_gets_none(outer, arguments, monkeypatch):
    def run(function, module, pipeline, timeout=None):
        raise metagrad.EnzymeError("Enzyme is not installed")

    monkeypatch.setattr(WORKER, "run", run)
    with pytest.warns(UserWarning) as warned:
        metagrad.compile(descend(plain)).metagradient(outer).lower(*arguments)
    assert str(warned[0].message).startswith(
        "Enzyme is not installed. JAX differentiates this step instead"
    )


@pytest.fixture
def broken_enzyme(monkeypatch):
    def run(function, module, pipeline, timeout=None):
        raise metagrad.EnzymeError(f"Enzyme refused @{function}: out of cheese")

    monkeypatch.setattr(WORKER, "run", run)


def test_jax_steps_in_where_enzyme_fails(outer, arguments, broken_enzyme):
    mg = metagrad.compile(descend(plain)).metagradient(outer)
    with pytest.warns(UserWarning, match="out of cheese.*JAX differentiates this step instead"):
        lowered = mg.lower(*arguments)
    assert {decision.rule for decision in lowered.decisions} == {"jax"}
    assert "out of cheese" in lowered.explain()
    np.testing.assert_allclose(
        lowered.compile()(*arguments).grad, expected(descend(plain), outer, arguments), rtol=1e-5
    )


def test_the_warning_points_at_the_users_line(outer, arguments, broken_enzyme):
    mg = metagrad.compile(descend(plain)).metagradient(outer)
    for call in (mg.lower, mg):
        with pytest.warns(UserWarning) as warned:
            call(*arguments)
        assert warned[0].filename == __file__


def test_enzyme_alone_raises_where_enzyme_fails(outer, arguments, broken_enzyme):
    with pytest.raises(metagrad.EnzymeError, match="out of cheese"):
        metagrad.compile(descend(plain), ad="enzyme").metagradient(outer).lower(*arguments)


def test_a_worker_that_was_killed(outer, arguments):
    """The user's process lives on, and so does the next compilation."""
    metagrad.compile(descend(plain)).metagradient(outer).lower(*arguments)
    WORKER._process.kill()
    WORKER._process.wait()
    lowered = metagrad.compile(descend(plain)).metagradient(outer).lower(*arguments)
    assert {decision.rule for decision in lowered.decisions} == {"enzyme"}

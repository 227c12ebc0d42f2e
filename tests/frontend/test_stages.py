"""`.lower()` and what it shows: stages, IR, plan, decisions; and the memory after compilation."""

import functools
import html
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import metagrad
from metagrad.frontend.capabilities import measured_with

STAGES = ("traced", "cut", "differentiated", "pieces", "scheduled", "hlo")


def test_stages(lowered):
    assert lowered.stages == STAGES


SHOWS = {
    "traced": (['"metagrad.grad"', "@step", "@loss_0", "@outer"], ["enzyme."]),
    "cut": (['"metagrad.grad"', "@update", "@inner", "@inputs_0"], ["enzyme."]),
    "differentiated": (
        ["enzyme.autodiff", "enzyme.fwddiff", "@step_vjp", "@outer_vjp"],
        ["metagrad.grad"],
    ),
    "pieces": (
        ["@inner", "@update", "@step_vjp", "@outer_vjp"],
        ["enzyme.", "metagrad.grad", "@step(", "@loss_0", "stablehlo.while"],
    ),
    "scheduled": (
        ["@main", "stablehlo.while", "call @inner", "call @update", "call @step_vjp"],
        ["enzyme", "metagrad."],
    ),
    "hlo": (["HloModule", "while"], ["stablehlo", "enzyme"]),
}


@pytest.mark.parametrize("stage", STAGES)
def test_ir(lowered, stage):
    shown, hidden = SHOWS[stage]
    text = lowered.ir(stage)
    assert all(what in text for what in shown) and not any(what in text for what in hidden)


def test_the_program_holds_one_copy(lowered):
    """Of the step and of its VJP, whatever the schedule."""
    text = lowered.ir("scheduled")
    assert text.count("call @step_vjp(") == text.count("call @outer_vjp(") == 1


def test_unknown_stage(lowered):
    with pytest.raises(
        ValueError,
        match="no stage 'llvm'; there are 'traced', 'cut', 'differentiated', 'pieces', "
        "'scheduled', 'hlo'",
    ):
        lowered.ir("llvm")


def test_plan(lowered):
    assert isinstance(lowered.plan, metagrad.Plan) and lowered.plan.steps == 3
    assert str(lowered.plan).startswith("LazyKary(k=2): 3 steps")
    assert lowered.compile().plan is lowered.plan


def test_decisions(lowered):
    gradient, update, outer = lowered.decisions
    assert [d.rule for d in lowered.decisions] == ["enzyme"] * 3
    assert (
        gradient.function.startswith("loss (conftest.py:")
        and update.function == "the update of train_step"
        and outer.function == "validation"
    )
    # A line more where this JAX is not one of those that were measured.
    lines = [f"{d.function}: Enzyme" for d in lowered.decisions]
    assert lowered.explain().splitlines() == [*lines, *filter(None, [measured_with.unmeasured()])]


def test_lower_takes_shapes(step, outer, arguments, lowered):
    shapes = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), arguments)
    by_shape = step.metagradient(outer, schedule=metagrad.LazyKary(2)).lower(*shapes)
    assert by_shape.ir("scheduled") == lowered.ir("scheduled")
    np.testing.assert_array_equal(
        by_shape.compile()(*arguments).grad, lowered.compile()(*arguments).grad
    )


def test_lower_takes_shapes_of_keys(outer):
    step = metagrad.compile(lambda s, z, b: (s[0] + z * jax.random.normal(b), s[1] + 1))
    keys = jax.random.split(jax.random.key(0), 3)
    shape = jax.ShapeDtypeStruct(keys.shape, keys.dtype)
    compiled = (
        step.metagradient(lambda s: s[0])
        .lower((jax.ShapeDtypeStruct((), jnp.float32), 0), 1.0, shape)
        .compile()
    )
    result = compiled((jnp.asarray(0.0), 0), 1.0, keys)
    np.testing.assert_allclose(result.grad, sum(jax.random.normal(key) for key in keys), rtol=1e-5)


def test_compile_once(lowered):
    assert lowered.compile() is lowered.compile()


def test_memory_and_cost(lowered):
    compiled = lowered.compile()
    memory = compiled.memory_analysis()
    assert memory.argument_size_in_bytes >= 4 * (2 + 1 + 6) and memory.temp_size_in_bytes > 0
    assert compiled.cost()["flops"] > 0
    assert compiled.as_text() == lowered.ir("hlo")


def test_runtime_is_checked(step, outer):
    assert step.metagradient(outer, runtime="fused")
    with pytest.raises(
        ValueError, match="runtime='compiled' is none of 'auto', 'fused', 'streamed'"
    ):
        step.metagradient(outer, runtime="compiled")


def test_explain_says_that_this_jax_was_not_measured(lowered, monkeypatch):
    monkeypatch.setattr(measured_with, "JAX", (jax.__version__,))
    assert "measured with" not in lowered.explain()
    monkeypatch.setattr(measured_with, "JAX", ("0.9.1", "0.9.2"))
    assert lowered.explain().splitlines()[-1] == (
        "the table of proven operations was measured with jax 0.9.1 and 0.9.2, "
        f"this is jax {jax.__version__}; metagrad.compile(ad='jax') does without the table"
    )


@pytest.mark.parametrize(
    "move, copies",
    [(lambda p, g: p - g, 1), (lambda p, g: p - g / jnp.sqrt(1 + g**2), 2)],
    ids=["plain", "with a square root"],
)
def test_the_update_is_lowered_twice_only_where_that_makes_a_difference(move, copies):
    """Enzyme needs a square root in another form than the one run (frontend/exact_lowerings)."""

    @metagrad.compile
    def step(p, z, x):
        return move(p, metagrad.grad(lambda p, x: jnp.sum((z * p - x) ** 2))(p, x))

    lowered = step.metagradient(jnp.sum).lower(jnp.ones(2), 0.5, jnp.ones((3, 2)))
    assert lowered.ir("cut").count("func.func private @update") == copies
    assert lowered.ir("pieces").count("func.func private @update") == 1


def test_reprs_say_what_it_is(step, outer, arguments, lowered):
    text = (
        "metagradient of validation through 3 steps of train_step, wrt meta; "
        "state: float32[2], meta: float32[], batches: float32[3,2]; LazyKary(k=2)"
    )
    fresh = step.metagradient(outer, schedule=metagrad.LazyKary(2)).lower(*arguments)
    assert repr(fresh) == f"<Lowered {text}>"
    assert repr(lowered.compile()) == f"<Compiled {text}>"
    assert repr(lowered) == f"<Lowered {text}, compiled>"
    assert repr(step) == "TrainStep(train_step, ad='auto')"


def test_queries_in_repr_and_explanation(step, arguments):
    lowered = step.metagradient(lambda w: w[:2]).lower(*arguments)
    assert "(2 queries) through 3 steps" in repr(lowered)
    assert "queries: 2, in one run." in lowered.explain()
    alone = step.metagradient(lambda w: w[:1]).lower(*arguments)
    assert "(1 query)" in repr(alone) and "queries: 1," in alone.explain()


def test_the_repr_of_a_step_with_aux_and_of_a_method():
    class Model:
        @metagrad.compile(has_aux=True, ad="jax")
        def step(self, s, z, b):
            return s, b

    assert repr(Model.step).endswith("Model.step, has_aux=True, ad='jax')")
    assert repr(Model().step) == repr(Model.step)
    partial = metagrad.compile(functools.partial(lambda k, s, z, b: s, 1))
    assert repr(partial).startswith("TrainStep(functools.partial(")


def test_the_repr_counts_what_trees_hold():
    step = metagrad.compile(lambda s, z, b: s | {"w": s["w"] * z})
    state = {"w": jnp.ones((100, 20)), "b": jnp.ones(20), "name": "net"}
    lowered = step.metagradient(lambda s, x: jnp.sum(s["w"]) * x).lower(
        state, 0.5, jnp.arange(1), jnp.float32(1)
    )
    assert repr(lowered) == (
        "<Lowered metagradient of outer (a lambda) through 1 step of <lambda>, wrt meta; "
        "state: 2 arrays of 2,020 numbers, meta: float32[], batches: int32[1], "
        "outer_args: float32[]; Binomial(slots=24)>"
    )


def test_a_notebook_shows_plan_and_explanation_as_they_are_printed(lowered):
    explanation = lowered.explain()
    assert isinstance(explanation, str) and explanation == "" + explanation
    for shown in (explanation, lowered.plan):
        page = shown._repr_html_()
        assert page.startswith("<pre") and page.endswith("</pre>")
        assert html.unescape(re.sub("<[^>]*>", "", page)) == str(shown)
    # What the texts hold is not taken for HTML: a VJP is drawn as <.
    assert "&lt;" in lowered.plan._repr_html_()


@pytest.mark.parametrize("method", ["__call__", "memory_analysis", "cost", "as_text"])
def test_methods_of_a_compiled_program_have_docstrings(lowered, method):
    assert getattr(type(lowered.compile()), method).__doc__

"""`.lower()` and what it shows: stages, IR, plan, decisions; and the memory after compilation."""

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
    with pytest.raises(ValueError, match="runtime='streamed': this version has \"fused\""):
        step.metagradient(outer, runtime="streamed")


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

"""What a derivative reaches: from the arguments to the results of a function, and from step to step through the state."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metagrad.compiler.analysis.dependence import active_state, dependence
from metagrad.compiler.dialect import context, functions

ALL = ("meta", "state", "batches")


def of(
    body: str,
    *,
    types="tensor<3xf32>, tensor<3xf32>, tensor<3xf32>",
    results: str,
    others: str = "",
    attributes: str = "",
):
    """The dependence of a function of %a, %b, %c, one set of argument indices for each result."""
    arguments = ", ".join(f"%{name}: {ty}" for name, ty in zip("abc", types.split(", ")))
    values, result_types = zip(*(result.split(": ") for result in results.split(", ")))
    text = f"""
      func.func @f({arguments}) -> ({", ".join(result_types)}) {attributes} {{
        {body}
        return {", ".join(values)} : {", ".join(result_types)}
      }}
      {others}"""
    module = context.parse(text)
    with module.context:
        return [set(reached) for reached in dependence(module, functions.find(module, "f"))]


def test_operands_are_followed():
    body = """%x = stablehlo.multiply %a, %b : tensor<3xf32>
              %y = stablehlo.tanh %x : tensor<3xf32>"""
    assert of(body, results="%y: tensor<3xf32>, %c: tensor<3xf32>") == [{0, 1}, {2}]


def test_a_constant_depends_on_nothing():
    body = "%x = stablehlo.constant dense<1.0> : tensor<3xf32>"
    assert of(body, results="%x: tensor<3xf32>") == [set()]


def test_integers_and_truth_values_carry_nothing():
    """Neither as arguments, nor as results, nor on the way: through a comparison or a rounding no derivative passes."""
    body = """%i = stablehlo.convert %a : (tensor<3xf32>) -> tensor<3xi32>
              %x = stablehlo.convert %i : (tensor<3xi32>) -> tensor<3xf32>
              %p = stablehlo.compare LT, %a, %c : (tensor<3xf32>, tensor<3xf32>) -> tensor<3xi1>
              %y = stablehlo.select %p, %c, %x : tensor<3xi1>, tensor<3xf32>
              %j = stablehlo.convert %b : (tensor<3xi32>) -> tensor<3xf32>"""
    types = "tensor<3xf32>, tensor<3xi32>, tensor<3xf32>"
    results = "%x: tensor<3xf32>, %y: tensor<3xf32>, %j: tensor<3xf32>, %p: tensor<3xi1>, %b: tensor<3xi32>"
    assert of(body, types=types, results=results) == [set(), {2}, set(), set(), set()]


def test_complex_values_carry_derivatives():
    body = """%z = stablehlo.complex %a, %b : tensor<3xcomplex<f32>>
              %x = stablehlo.real %z : (tensor<3xcomplex<f32>>) -> tensor<3xf32>"""
    assert of(body, results="%x: tensor<3xf32>") == [{0, 1}]


def test_ignore_derivatives_ends_a_dependence():
    body = """%s = "enzyme.ignore_derivatives"(%a) : (tensor<3xf32>) -> tensor<3xf32>
              %x = stablehlo.multiply %s, %b : tensor<3xf32>"""
    assert of(body, results="%s: tensor<3xf32>, %x: tensor<3xf32>") == [set(), {1}]


@pytest.mark.parametrize(
    "jump", ["sign", "floor", "ceil", "round_nearest_even", "round_nearest_afz"]
)
def test_what_is_constant_but_for_jumps_ends_a_dependence(jump):
    body = f"""%s = stablehlo.{jump} %a : tensor<3xf32>
              %x = stablehlo.multiply %s, %b : tensor<3xf32>"""
    assert of(body, results="%s: tensor<3xf32>, %x: tensor<3xf32>") == [set(), {1}]


def test_calls_are_looked_into():
    """Twice the same function, with its arguments exchanged; what it stops stays stopped."""
    others = """
      func.func private @g(%x: tensor<3xf32>, %y: tensor<3xf32>) -> (tensor<3xf32>, tensor<3xf32>) {
        %s = "enzyme.ignore_derivatives"(%y) : (tensor<3xf32>) -> tensor<3xf32>
        %z = stablehlo.multiply %x, %s : tensor<3xf32>
        return %z, %y : tensor<3xf32>, tensor<3xf32>
      }"""
    body = """%p:2 = func.call @g(%a, %b) : (tensor<3xf32>, tensor<3xf32>) -> (tensor<3xf32>, tensor<3xf32>)
              %q:2 = func.call @g(%p#1, %p#0) : (tensor<3xf32>, tensor<3xf32>) -> (tensor<3xf32>, tensor<3xf32>)"""
    results = "%p#0: tensor<3xf32>, %p#1: tensor<3xf32>, %q#0: tensor<3xf32>, %q#1: tensor<3xf32>"
    assert of(body, results=results, others=others) == [{0}, {1}, {1}, {0}]


def test_a_loop_is_taken_whole():
    """Every result of a loop depends on all that it carries and on what its regions capture: %c, which the body reads."""
    body = """%zero = stablehlo.constant dense<0> : tensor<i64>
              %one = stablehlo.constant dense<1> : tensor<i64>
              %r:3 = stablehlo.while(%i = %zero, %x = %a, %y = %b) : tensor<i64>, tensor<3xf32>, tensor<3xf32>
              cond {
                %p = stablehlo.compare LT, %i, %one : (tensor<i64>, tensor<i64>) -> tensor<i1>
                stablehlo.return %p : tensor<i1>
              } do {
                %j = stablehlo.add %i, %one : tensor<i64>
                %x1 = stablehlo.multiply %x, %c : tensor<3xf32>
                stablehlo.return %j, %x1, %y : tensor<i64>, tensor<3xf32>, tensor<3xf32>
              }"""
    assert of(body, results="%r#1: tensor<3xf32>, %r#2: tensor<3xf32>, %r#0: tensor<i64>") == [
        {0, 1, 2},
        {0, 1, 2},
        set(),
    ]


def test_a_conditional_is_taken_whole():
    body = """%x = "stablehlo.if"(%a) ({
                stablehlo.return %b : tensor<3xf32>
              }, {
                stablehlo.return %c : tensor<3xf32>
              }) : (tensor<i1>) -> tensor<3xf32>"""
    assert of(
        body, types="tensor<i1>, tensor<3xf32>, tensor<3xf32>", results="%x: tensor<3xf32>"
    ) == [{1, 2}]


def test_a_gradient_depends_on_all_that_its_loss_reads():
    body = '%v, %g = "metagrad.grad"(%a, %b) {loss = @g, wrt = [0]} : (tensor<3xf32>, tensor<3xf32>) -> (tensor<f32>, tensor<3xf32>)'
    assert of(body, results="%v: tensor<f32>, %g: tensor<3xf32>") == [{0, 1}, {0, 1}]


def test_what_jax_differentiates_is_taken_whole():
    """A straight-through estimator sends a derivative past a rounding, so the ops in between say nothing. A result that is an argument says all."""
    body = """%i = stablehlo.convert %a : (tensor<3xf32>) -> tensor<3xi32>
              %x = stablehlo.convert %i : (tensor<3xi32>) -> tensor<3xf32>"""
    results = "%x: tensor<3xf32>, %c: tensor<3xf32>, %i: tensor<3xi32>"
    assert of(body, results=results, attributes="attributes {metagrad.vjp = @made_by_jax}") == [
        {0, 1, 2},
        {2},
        set(),
    ]


def active(step, outer, *, state, meta=1, batch=0, wrt=("meta",)):
    return active_state(
        [frozenset(reached) for reached in step], [frozenset(outer)], state, meta, batch, wrt
    )


@pytest.mark.parametrize(
    "step, outer, expected",
    [
        pytest.param([{0, 2}, set()], {0}, [0], id="weights and a counter"),
        pytest.param(
            [{0, 1, 2}, {1}],
            {0, 1},
            [0],
            id="a frozen leaf that the loss and the outer function read",
        ),
        pytest.param([{0, 2}, {0, 1}], {0}, [0], id="an average of the weights that nothing reads"),
        pytest.param(
            [{0, 1, 2}, {0, 1, 2}], {0}, [0, 1], id="momentum, read by the weights of the next step"
        ),
        pytest.param(
            [{0, 1}, {2}], {0}, [0, 1], id="the metaparameter reaches the weights a step later"
        ),
        pytest.param([{0}, {1}], {0, 1}, [], id="the metaparameter reaches nothing"),
        pytest.param([{0, 2}, {1, 2}], set(), [], id="the outer value depends on nothing"),
        pytest.param([{1}, {0, 2}], {0}, [0, 1], id="leaves that exchange places"),
    ],
)
def test_active_state_of_two_leaves(step, outer, expected):
    """Argument 2 is the metaparameter."""
    assert active(step, outer, state=2) == expected


def test_the_fixed_point_needs_as_many_rounds_as_there_are_leaves():
    """z -> leaf 9 -> leaf 8 -> .. -> leaf 0 -> outer, one step each, whichever way the leaves are numbered."""
    down = [{i + 1} for i in range(10)]
    assert active(down, {0}, state=10) == list(range(10))
    assert active(down, {4}, state=10) == list(range(4, 10))
    up = [{10}] + [{i} for i in range(9)]
    assert active(up, {9}, state=10) == list(range(10))
    assert active(up, {4}, state=10) == list(range(5))


def test_wrt_decides_what_varies():
    """Leaf 0 depends on itself, leaf 1 on the metaparameter (2), leaf 2 on the batch (4 with 3 leaves); the outer function reads all."""
    step, outer = [{0}, {1, 3}, {2, 4}], {0, 1, 2}
    chosen = {wrt: active(step, outer, state=3, meta=1, batch=1, wrt=(wrt,)) for wrt in ALL}
    assert chosen == {"meta": [1], "batches": [2], "state": [0, 1, 2]}
    assert active(step, outer, state=3, meta=1, batch=1, wrt=("meta", "batches")) == [1, 2]


def test_state_that_does_not_reach_the_outer_value_needs_no_cotangent():
    assert active([{0}, {1}], {1}, state=2, wrt=("state",)) == [1]


@st.composite
def cases(draw):
    state, meta, batch = (draw(st.integers(low, 4)) for low in (1, 0, 0))
    of_all = st.frozensets(st.integers(0, state + meta + batch - 1), max_size=3)
    step = draw(st.lists(of_all, min_size=state, max_size=state))
    outer = draw(st.frozensets(st.integers(0, state - 1)))
    wrt = draw(
        st.sampled_from(
            [subset for size in (1, 2, 3) for subset in itertools.combinations(ALL, size)]
        )
    )
    return step, outer, state, meta, batch, wrt


@given(cases())
def test_active_state_is_what_lies_on_a_path(case):
    """Against its meaning: the leaves through which a path leads from what `wrt` names, in any number of steps, to the outer value."""
    step, outer, state, meta, batch, wrt = case
    groups = {
        "state": range(state),
        "meta": range(state, state + meta),
        "batches": range(state + meta, state + meta + batch),
    }
    sources = {i for name in wrt for i in groups[name]}

    # Unrolled for as many steps as a path without repetition can have: the leaves that depend on a source, ..
    varied = [{leaf for leaf in sources if leaf < state}]
    for _ in range(state + 1):
        varied.append({leaf for leaf in range(state) if step[leaf] & (sources | varied[-1])})
    # .. and those on which the outer value depends.
    useful = [set(outer)]
    for _ in range(state + 1):
        useful.append({source for leaf in useful[-1] for source in step[leaf] if source < state})

    expected = set().union(*varied) & set().union(*useful)
    assert active_state(step, [outer], state, meta, batch, wrt) == sorted(expected)

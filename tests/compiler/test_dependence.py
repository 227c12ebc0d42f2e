"""What a derivative reaches, from the arguments to the results of a function."""

import pytest

from metagrad.compiler.analysis.dependence import dependence
from metagrad.compiler.dialect import context, functions


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
    """Neither as arguments, nor as results, nor on the way: through a comparison or a rounding no
    derivative passes.
    """
    body = """%i = stablehlo.convert %a : (tensor<3xf32>) -> tensor<3xi32>
              %x = stablehlo.convert %i : (tensor<3xi32>) -> tensor<3xf32>
              %p = stablehlo.compare LT, %a, %c : (tensor<3xf32>, tensor<3xf32>) -> tensor<3xi1>
              %y = stablehlo.select %p, %c, %x : tensor<3xi1>, tensor<3xf32>
              %j = stablehlo.convert %b : (tensor<3xi32>) -> tensor<3xf32>"""
    types = "tensor<3xf32>, tensor<3xi32>, tensor<3xf32>"
    results = (
        "%x: tensor<3xf32>, %y: tensor<3xf32>, %j: tensor<3xf32>, %p: tensor<3xi1>, %b: "
        "tensor<3xi32>"
    )
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
    body = """%p:2 = func.call @g(%a, %b) : (tensor<3xf32>, tensor<3xf32>)
                  -> (tensor<3xf32>, tensor<3xf32>)
              %q:2 = func.call @g(%p#1, %p#0) : (tensor<3xf32>, tensor<3xf32>)
                  -> (tensor<3xf32>, tensor<3xf32>)"""
    results = "%p#0: tensor<3xf32>, %p#1: tensor<3xf32>, %q#0: tensor<3xf32>, %q#1: tensor<3xf32>"
    assert of(body, results=results, others=others) == [{0}, {1}, {1}, {0}]


def test_a_loop_is_taken_whole():
    """Every result of a loop depends on all that it carries and on what its regions capture: %c,
    which the body reads.
    """
    body = """%zero = stablehlo.constant dense<0> : tensor<i64>
              %one = stablehlo.constant dense<1> : tensor<i64>
              %r:3 = stablehlo.while(%i = %zero, %x = %a, %y = %b) : tensor<i64>, tensor<3xf32>,
                  tensor<3xf32>
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
    body = (
        '%v, %g = "metagrad.grad"(%a, %b) {loss = @g, wrt = [0]} : (tensor<3xf32>, tensor<3xf32>) '
        "-> (tensor<f32>, tensor<3xf32>)"
    )
    assert of(body, results="%v: tensor<f32>, %g: tensor<3xf32>") == [{0, 1}, {0, 1}]


def test_what_jax_differentiates_is_taken_whole():
    """A straight-through estimator sends a derivative past a rounding, so the ops in between say
    nothing. A result that is an argument may have come through a rule too.
    """
    body = """%i = stablehlo.convert %a : (tensor<3xf32>) -> tensor<3xi32>
              %x = stablehlo.convert %i : (tensor<3xi32>) -> tensor<3xf32>"""
    results = "%x: tensor<3xf32>, %c: tensor<3xf32>, %i: tensor<3xi32>"
    assert of(body, results=results, attributes="attributes {metagrad.vjp = @made_by_jax}") == [
        {0, 1, 2},
        {0, 1, 2},
        set(),
    ]

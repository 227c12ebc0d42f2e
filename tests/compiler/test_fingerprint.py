"""The fingerprint of a module: what it leaves out, and what it does not."""

import pytest

from metagrad.compiler.analysis.fingerprint import fingerprint
from metagrad.compiler.dialect import context

MODULE = """
module attributes {metagrad.wrt = ["meta"]} {
  func.func private @update(%w: tensor<2xf32>, %z: tensor<f32>) -> tensor<2xf32> {
    %0 = stablehlo.broadcast_in_dim %z, dims = [] : (tensor<f32>) -> tensor<2xf32>
    %1 = call @helper(%w, %0) : (tensor<2xf32>, tensor<2xf32>) -> tensor<2xf32>
    %2 = call @helper(%1, %0) : (tensor<2xf32>, tensor<2xf32>) -> tensor<2xf32>
    return %2 : tensor<2xf32>
  }
  func.func private @helper(%a: tensor<2xf32>, %b: tensor<2xf32>) -> tensor<2xf32> {
    %0 = stablehlo.multiply %a, %b : tensor<2xf32>
    return %0 : tensor<2xf32>
  }
}
"""

_CONVERTED = MODULE.replace(
    "%0 = stablehlo.broadcast_in_dim %z, dims",
    "%c = stablehlo.convert %z : tensor<f32>\n    %0 = stablehlo.broadcast_in_dim %c, dims",
)
_COPY = """
  func.func private @helper_0(%a: tensor<2xf32>, %b: tensor<2xf32>) -> tensor<2xf32> {
    %c = stablehlo.convert %a : tensor<2xf32>
    %0 = stablehlo.multiply %c, %b : tensor<2xf32>
    return %0 : tensor<2xf32>
  }
}
"""

SAME = {
    "itself": MODULE,
    "a conversion to the same type": _CONVERTED,
    "another name": MODULE.replace("@helper", '@"<lambda>_3"'),
    "a copy of a function": MODULE.replace("call @helper(%1", "call @helper_0(%1").rstrip()[:-1]
    + _COPY,
}
DIFFERENT = {
    "a real conversion": MODULE.replace(
        "%0 = stablehlo.multiply %a, %b : tensor<2xf32>",
        "%1 = stablehlo.convert %a : (tensor<2xf32>) -> tensor<2xbf16>\n"
        "%2 = stablehlo.convert %1 : (tensor<2xbf16>) -> tensor<2xf32>\n"
        "%0 = stablehlo.multiply %2, %b : tensor<2xf32>",
    ),
    "a function that is called": MODULE.replace("multiply", "add"),
    "an order": MODULE.replace("%1 = call @helper(%w, %0)", "%1 = call @helper(%0, %w)"),
    "an attribute of the module": MODULE.replace('["meta"]', '["state"]'),
    "an attribute that names a function": MODULE.replace(
        "-> tensor<2xf32> {\n    %0 = stablehlo.broadcast",
        "-> tensor<2xf32> attributes {metagrad.run = @helper} {\n    %0 = stablehlo.broadcast",
    ),
}


def of(text):
    return fingerprint(context.parse(text), ("update", "outer"))


@pytest.mark.parametrize("name", SAME)
def test_same(name):
    assert of(SAME[name]) == of(MODULE)


@pytest.mark.parametrize("name", DIFFERENT)
def test_different(name):
    assert DIFFERENT[name] != MODULE and of(DIFFERENT[name]) != of(MODULE)

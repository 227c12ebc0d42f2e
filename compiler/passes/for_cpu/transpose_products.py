"""Exchanges the factors of a product of matrices whose transpose is wanted, also where products are
added first.

    %s = add (dot_general %a, %b), (dot_general %c, %d)        transpose %s, dims = [1, 0]
->
    add (dot_general %b, %a), (dot_general %d, %c)

Every weight gradient has this form, with two terms in a Hessian-vector product. XLA exchanges the
factors of a single product by itself, but it transposes a sum, and reads both products across their
rows. The sums are over the same terms. In bf16 the rounding may differ, so what JAX made is left as
JAX made it.
"""

from __future__ import annotations

from jaxlib.mlir import ir
from jaxlib.mlir.dialects import stablehlo as hlo

from metagrad.compiler.dialect import metagrad
from metagrad.compiler.dialect.matching import operations, producer, replace, users

NAME = "transpose-products"


def run(module: ir.Module) -> None:
    for op in operations(module, "transpose", metagrad.BY_ENZYME):
        if list(op.permutation) == [1, 0] and _is_sum_of_products(op.operands[0]):
            with ir.InsertionPoint(op), op.location:
                replace(op, _transposed(op.operands[0]))


def _is_sum_of_products(value: ir.Value) -> bool:
    if len(users(value)) != 1:
        return False
    total = producer(value, "add")
    return (
        all(map(_is_sum_of_products, total.operands))
        if total is not None
        else _is_matrix_product(producer(value, "dot_general"))
    )


def _is_matrix_product(op: hlo.DotGeneralOp | None) -> bool:
    return (
        op is not None
        and len(op.lhs.type.shape) == len(op.rhs.type.shape) == len(op.result.type.shape) == 2
    )


def _transposed(value: ir.Value) -> ir.Value:
    total = producer(value, "add")
    if total is not None:
        return hlo.add(*map(_transposed, total.operands))
    op = producer(value, "dot_general")
    numbers = hlo.DotDimensionNumbers(op.dot_dimension_numbers)
    attributes = {name: op.attributes[name] for name in op.attributes}
    attributes["dot_dimension_numbers"] = hlo.DotDimensionNumbers.get(
        [], [], list(numbers.rhs_contracting_dimensions), list(numbers.lhs_contracting_dimensions)
    )
    if "precision_config" in attributes:
        attributes["precision_config"] = ir.ArrayAttr.get(
            list(attributes["precision_config"])[::-1]
        )
    shape = list(value.type.shape)[::-1]
    product = ir.Operation.create(
        "stablehlo.dot_general",
        results=[ir.RankedTensorType.get(shape, value.type.element_type)],
        operands=[op.rhs, op.lhs],
        attributes=attributes,
    )
    return product.result

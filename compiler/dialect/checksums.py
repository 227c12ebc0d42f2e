"""Checksums of arrays inside a program: 32 bits that depend on every bit and its place.

    sum over i of  mix(x[i] + K i)  modulo 2^32,   x the words of 32 bits,  K odd

where `mix` is the finaliser of MurmurHash3 (A. Appleby, public domain). Of more than 32 words, the
sums of rows of 32 are words in their turn: the checksum is theirs, and the terms of what is left
over are added to it.

- `mix` is a bijection of 32 bits, so one word that changed alone always changes its row's sum, and
  with it that of the row of rows, and so on to the end.
- Where more changed, the sums are equal with probability 2^-32 or so at each level: the terms of
  words that changed are as good as drawn anew. The exchange of two words that differ is of this
  kind. K i is another number for each i, so the terms of both are others than before.
- The terms are not linear in the words. A sum of words times odd weights would miss each even
  number of changed signs: a sign is worth 2^31, and 2^31 times any odd number is 2^31 again.

Sums modulo 2^32 are exact in any order, so the value is the same however XLA splits the work.
Elements of 64 bits count as two words, the lower one first, and complex ones as their two parts:
i counts words in the order in which a little-endian machine has them in memory. The first words of
all elements are summed up apart from the second ones.
"""

from __future__ import annotations

import math

from jaxlib.mlir import ir
from jaxlib.mlir.dialects import stablehlo as hlo

COLUMNS = 32
"""Words of a row. XLA:CPU makes one loop of the sums of rows and what is computed for them, with
vectors. Longer sums, and those along the first axis, it cuts in two: all terms are written to
memory, and read again. (A sum of sums it would make one sum; `mix` is between them.)"""

_PLACE = 0x9E3779B9  # K, the golden ratio's 32 bits


def checksum(array: ir.Value, zero: ir.Value | None = None) -> ir.Value:
    """The checksum of a tensor: a tensor<ui32>.

    Args:
      array: of booleans, integers, real or complex numbers.
      zero: a tensor<ui32> that is 0 and depends on the turn of the loop in which this stands. With
        it the places do too. Else XLA would compute them in front of the loop and read them from
        memory: as many bytes again as the words have.
    """
    zero = nothing() if zero is None else zero
    words = _words(array)
    total = nothing()
    for i, word in enumerate(words):
        total = hlo.add(total, _sum_of_terms(word, i, len(words), zero))
    return total


def nothing() -> ir.Value:
    """A tensor<ui32>, 0: what stands for a checksum before there is one."""
    return _constant(0, ())


def _words(array: ir.Value) -> list[ir.Value]:
    """The bits of a tensor as vectors of ui32: the first word of each element, the second, ..."""
    element = array.type.element_type
    if isinstance(element, ir.ComplexType):
        return [*_words(hlo.real(array)), *_words(hlo.imag(array))]
    shape = list(array.type.shape)
    array = hlo.reshape(ir.RankedTensorType.get([math.prod(shape)], element), array)
    if isinstance(element, ir.FloatType) or element.width in (32, 64):
        element = _unsigned(element.width)
        array = hlo.bitcast_convert(_like(array, element), array)
    u32 = _unsigned(32)
    if element.width != 64:
        return [array if element == u32 else hlo.convert(_like(array, u32), array)]
    upper = hlo.shift_right_logical(array, _constant(32, array.type.shape, 64))
    return [hlo.convert(_like(array, u32), half) for half in (array, upper)]


def _sum_of_terms(words: ir.Value, first: int, stride: int, zero: ir.Value) -> ir.Value:
    """The checksum of a vector of words, of which the i-th has place first + stride i."""
    (count,) = words.type.shape
    rows, rest = divmod(count, COLUMNS)
    if not rows:
        at = _places(words.type, 0, first, stride, zero)
        return _reduce(_mix(hlo.add(words, at))) if count else nothing()
    whole = rows * COLUMNS
    table = ir.RankedTensorType.get([rows, COLUMNS], words.type.element_type)
    head = hlo.slice(words, [0], [whole], [1]) if rest else words
    at = hlo.add(
        _places(table, 0, first, stride * COLUMNS, zero),
        _places(table, 1, 0, stride, zero),
    )
    sums = _reduce(_mix(hlo.add(hlo.reshape(table, head), at)))
    total = _sum_of_terms(sums, first, stride, zero)
    if not rest:
        return total
    tail = hlo.slice(words, [whole], [count], [1])
    at = _places(tail.type, 0, first + stride * whole, stride, zero)
    return hlo.add(total, _reduce(_mix(hlo.add(tail, at))))


def _places(ty: ir.Type, axis: int, first: int, stride: int, zero: ir.Value) -> ir.Value:
    """K (first + stride i), where i counts along an axis."""
    spread = lambda value: _constant(_PLACE * value % 2**32, ty.shape)
    zeros = hlo.broadcast_in_dim(ty, zero, ir.DenseI64ArrayAttr.get([]))
    number = hlo.add(hlo.iota(ty, axis), zeros)
    return hlo.add(hlo.multiply(number, spread(stride)), spread(first))


def _mix(x: ir.Value) -> ir.Value:
    spread = lambda value: _constant(value, x.type.shape)
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35)):
        x = hlo.xor(x, hlo.shift_right_logical(x, spread(shift)))
        x = hlo.multiply(x, spread(factor))
    return hlo.xor(x, hlo.shift_right_logical(x, spread(16)))


def _reduce(values: ir.Value) -> ir.Value:
    """Sums along the last axis."""
    *shape, _ = values.type.shape
    u32 = _unsigned(32)
    result = ir.RankedTensorType.get(shape, u32)
    reduce = hlo.ReduceOp([result], [values], [_constant(0, ())], [len(shape)])
    scalar = ir.RankedTensorType.get([], u32)
    block = ir.Block.create_at_start(reduce.regions[0], [scalar, scalar], [reduce.location] * 2)
    with ir.InsertionPoint(block):
        hlo.return_([hlo.add(*block.arguments)])
    return reduce.results[0]


def _constant(value: int, shape, width: int = 32) -> ir.Value:
    element = _unsigned(width)
    ty = ir.RankedTensorType.get(list(shape), element)
    return hlo.constant(ir.DenseElementsAttr.get_splat(ty, ir.IntegerAttr.get(element, value)))


def _like(array: ir.Value, element: ir.Type) -> ir.Type:
    return ir.RankedTensorType.get(array.type.shape, element)


def _unsigned(width: int) -> ir.Type:
    return ir.IntegerType.get_unsigned(width)

"""Checksums of arrays inside a program: 32 bits that depend on every bit and its place.

    sum over i of  w(i) * bits(x[i])  modulo 2^32,   w(i) = hash of i, odd

A weight that is odd is invertible, so one changed element always changes the sum; which of several
are changed does with probability 1 - 2^-32 or so. Sums modulo 2^32 are exact in any order, so the
value is the same however XLA splits the work. Elements of 64 bits count as two of 32.
"""

from __future__ import annotations

import math

from jaxlib.mlir import ir
from jaxlib.mlir.dialects import stablehlo as hlo


def checksum(array: ir.Value) -> ir.Value:
    """The checksum of a tensor of booleans, integers, real or complex numbers: a tensor<ui32>."""
    words = _words(array)
    count = words.type.shape[0]
    u32 = words.type.element_type
    total = _scalar(0)
    if count == 0:
        return total
    products = hlo.multiply(words, _weights(count))
    reduce = hlo.ReduceOp([ir.RankedTensorType.get([], u32)], [products], [total], [0])
    scalar = ir.RankedTensorType.get([], u32)
    block = ir.Block.create_at_start(reduce.regions[0], [scalar, scalar], [reduce.location] * 2)
    with ir.InsertionPoint(block):
        hlo.return_([hlo.add(*block.arguments)])
    return reduce.results[0]


def _words(array: ir.Value) -> ir.Value:
    """The bits of a tensor as a vector of ui32."""
    element = array.type.element_type
    if isinstance(element, ir.ComplexType):
        return hlo.concatenate([_words(hlo.real(array)), _words(hlo.imag(array))], 0)
    shape = list(array.type.shape)
    if isinstance(element, ir.FloatType):
        bits = _unsigned(element.width)
        array = hlo.bitcast_convert(ir.RankedTensorType.get(shape, bits), array)
        element = bits
    u32 = _unsigned(32)
    if element.width == 64:
        # One dimension more, of the two halves.
        array = hlo.bitcast_convert(ir.RankedTensorType.get([*shape, 2], u32), array)
        shape = [*shape, 2]
    elif element.width == 32:
        array = hlo.bitcast_convert(ir.RankedTensorType.get(shape, u32), array)
    else:
        array = hlo.convert(ir.RankedTensorType.get(shape, u32), array)
    return hlo.reshape(ir.RankedTensorType.get([math.prod(shape)], u32), array)


def _weights(count: int) -> ir.Value:
    """The finaliser of MurmurHash3 (A. Appleby, public domain) of 0, 1, .., made odd."""
    vector = ir.RankedTensorType.get([count], _unsigned(32))
    x = hlo.iota(vector, 0)
    spread = lambda value: hlo.broadcast_in_dim(
        vector, _scalar(value), ir.DenseI64ArrayAttr.get([])
    )
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35)):
        x = hlo.xor(x, hlo.shift_right_logical(x, spread(shift)))
        x = hlo.multiply(x, spread(factor))
    x = hlo.xor(x, hlo.shift_right_logical(x, spread(16)))
    return hlo.or_(x, spread(1))


def _scalar(value: int) -> ir.Value:
    scalar = ir.RankedTensorType.get([], _unsigned(32))
    attribute = ir.DenseElementsAttr.get_splat(scalar, ir.IntegerAttr.get(_unsigned(32), value))
    return hlo.constant(attribute)


def _unsigned(width: int) -> ir.Type:
    return ir.IntegerType.get_unsigned(width)

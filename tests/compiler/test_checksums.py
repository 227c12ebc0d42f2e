"""The checksum inside a program, held against its formula in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jaxlib.mlir import ir

from metagrad.compiler.dialect import context, functions
from metagrad.compiler.dialect.checksums import checksum
from metagrad.compiler.pipeline import bytecode_of
from metagrad.runtime.executors.fused import FusedProgram, Gradients, signature

TYPES = {
    "float32": "f32",
    "float64": "f64",
    "bfloat16": "bf16",
    "complex64": "complex<f32>",
    "complex128": "complex<f64>",
    "int8": "i8",
    "int32": "i32",
    "uint32": "ui32",
    "int64": "i64",
    "bool": "i1",
}


def program(shape, ty):
    """A program that returns the checksum of its argument."""
    module = context.parse("module {}")
    with module.context, ir.Location.unknown():
        argument = ir.Type.parse(f"tensor<{''.join(f'{n}x' for n in shape)}{ty}>")
        build = lambda operands: [checksum(operands[0])]
        functions.add_function(module, "main", [argument], build, visibility="public")
    bytecode, (inputs, outputs) = bytecode_of(module), signature(module)
    gradients = Gradients({}, ("x",), ("sum",))
    return FusedProgram(lambda _: bytecode, "cpu", inputs, outputs, (), gradients).jitted


def expected(array):
    """The formula, in NumPy: `tree` of the words of each element, by their number."""
    flat = np.ascontiguousarray(array).reshape(-1)
    if flat.dtype == bool or np.issubdtype(flat.dtype, np.signedinteger):
        x = flat.astype(np.int64).view(np.uint32)
        x = x if flat.dtype.itemsize == 8 else x[::2]
    elif flat.dtype.itemsize == 2:
        x = flat.view(np.uint16).astype(np.uint32)
    else:
        x = flat.view(np.uint32)
    stride = max(1, flat.dtype.itemsize // 4)
    sums = [tree(x[first::stride], first, stride) for first in range(stride)]
    return sum(sums) % 2**32


def tree(words, first, stride):
    """sum of mix(word i + K i) modulo 2^32; of more than 32 words, the sums of rows of 32 are words
    in their turn."""
    terms = mix(
        words + np.uint32(0x9E3779B9) * (first + stride * np.arange(len(words), dtype="u4"))
    )
    if len(words) < 32:
        return int(np.sum(terms, dtype=np.uint32))
    whole = len(words) // 32 * 32
    rows = np.sum(terms[:whole].reshape(-1, 32), axis=1, dtype=np.uint32)
    return tree(rows, first, stride) + int(np.sum(terms[whole:], dtype=np.uint32))


def mix(x):
    """MurmurHash3's finaliser."""
    x = x.astype(np.uint32)
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35)):
        x ^= x >> np.uint32(shift)
        x *= np.uint32(factor)
    return x ^ (x >> np.uint32(16))


def some(shape, dtype):
    values = np.random.default_rng(0).normal(size=shape) * 100
    if dtype == "bool":
        return np.asarray(values > 0)
    values = values + 1j * values[::-1] if dtype.startswith("complex") and shape else values
    return np.asarray(np.abs(values) if dtype == "uint32" else values).astype(jnp.dtype(dtype))


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("shape", [(), (7,), (0, 4), (32,), (8, 32), (5, 7, 20), (1100,)], ids=str)
def test_checksums_are_those_of_the_formula(dtype, shape):
    array = some(shape, dtype)
    with jax.enable_x64(True):
        (result,) = program(shape, TYPES[dtype])(array)
    assert int(result) == expected(array)


@pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16", "complex64", "int8"])
def test_any_bit_changes_it(dtype):
    array = some((3, 87), dtype)  # rows, and a rest
    unsigned = np.dtype(f"u{min(array.dtype.itemsize, 8)}")
    with jax.enable_x64(True):
        run = program(array.shape, TYPES[dtype])
        sums = {int(run(array)[0])}
        for bit in range(8 * unsigned.itemsize):
            for i in (0, 100, 255, 256, 260):
                changed = array.copy()
                changed.reshape(-1).view(unsigned)[i] ^= unsigned.type(1 << bit)
                sums.add(int(run(changed)[0]))
    assert len(sums) == 1 + 8 * unsigned.itemsize * 5, "each is another sum"


def exchanged(array):
    array[[3, 290]] = array[[290, 3]]


def rotated(array):
    array[:] = np.roll(array, 1)


def two_signs(array):
    array[[5, 40]] *= -1


def all_signs(array):
    array *= -1


def up_and_down_by_one_bit(array):
    words = array.view(np.uint32)
    words[7] += 1
    words[8] -= 1


@pytest.mark.parametrize(
    "change", [exchanged, rotated, two_signs, all_signs, up_and_down_by_one_bit]
)
def test_changes_of_several_words_change_it(change):
    array = some((300,), "float32")
    run = program(array.shape, "f32")
    before = int(run(array)[0])
    change(array)
    assert int(run(array)[0]) != before


def test_a_number_and_its_negative_exchanged_change_it():
    array = some((300,), "float32")
    array[290] = -array[3]
    run = program(array.shape, "f32")
    before = int(run(array)[0])
    exchanged(array)
    assert int(run(array)[0]) != before

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

TYPES = {"float32": "f32", "float64": "f64", "bfloat16": "bf16", "int32": "i32", "bool": "i1"}


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
    """sum of w(i) * bits(x[i]) modulo 2^32, w(i) MurmurHash3's finaliser of i, made odd."""
    flat = np.ascontiguousarray(array).reshape(-1)
    if flat.dtype == bool:
        words = flat.astype(np.uint32)
    elif flat.dtype.itemsize == 2:
        words = flat.view(np.uint16).astype(np.uint32)
    else:
        words = flat.view(np.uint32)
    x = np.arange(len(words), dtype=np.uint32)
    x ^= x >> np.uint32(16)
    x *= np.uint32(0x85EBCA6B)
    x ^= x >> np.uint32(13)
    x *= np.uint32(0xC2B2AE35)
    x ^= x >> np.uint32(16)
    return int(np.sum(words * (x | np.uint32(1)), dtype=np.uint32))


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("shape", [(), (7,), (3, 5), (0, 4)], ids=str)
def test_checksums_are_those_of_the_formula(dtype, shape):
    values = np.random.default_rng(0).normal(size=shape) * 100
    array = np.asarray(values, jnp.dtype(dtype)) if dtype != "bool" else np.asarray(values > 0)
    with jax.enable_x64(True):
        (result,) = program(shape, TYPES[dtype])(array)
    assert int(result) == expected(array)


def test_one_bit_and_two_exchanged_entries_change_it():
    array = np.random.default_rng(0).normal(size=100).astype(np.float32)
    run = program((100,), "f32")
    (before,) = run(array)
    for i in range(100):
        changed = array.copy()
        changed[i] = np.nextafter(changed[i], np.float32(np.inf))
        assert int(run(changed)[0]) != int(before)
    exchanged = array.copy()
    exchanged[[3, 90]] = exchanged[[90, 3]]
    assert int(run(exchanged)[0]) != int(before)

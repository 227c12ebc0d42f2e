"""A script: reads StableHLO artifacts that anybody may have written, and gives back plain modules.

    python examine.py SYS_PATH SECONDS < FRAMES > FRAMES

A frame is a length, 8 bytes, little-endian, and as many bytes. In come portable artifacts. Out come
the same modules as MLIR bytecode of this jaxlib, without source locations.

It is a process of its own because MLIR's reader of bytecode trusts its input: with one to four
bytes of an artifact changed at random, about 1 in 200 ended the process that read it (segmentation
faults, aborts, endless loops). What the user's process then reads was written by MLIR.

A module is refused unless it is made of operations of StableHLO, of functions and of shardings, has
no transfer to or from the host, and calls only library functions of `_TARGETS`. It is not run.

It imports nothing of metagrad, and of JAX only the bindings to MLIR.
"""

from __future__ import annotations

import io
import json
import re
import resource
import signal
import struct
import sys

REFUSED = 3
"""The exit code for a module that is refused; the reason is on the standard error."""

_DIALECTS = {"builtin", "func", "stablehlo", "chlo", "sdy"}

_TRANSFERS = {"stablehlo.infeed", "stablehlo.outfeed", "stablehlo.send", "stablehlo.recv"}

# Linear algebra and random bits: what JAX keeps stable between versions (jax/_src/export/_export.py
# lists them), without what runs code that is in the call (Pallas kernels, TensorFlow).
_TARGETS = re.compile(
    r"lapack_[sdcz](potrf|geqrf|orgqr|ungqr|syevd|heevd|geev|gesdd|getrf|sytrd|hetrd|gehrd|gees"
    r"|trsm|gtsv)_ffi"
    r"|(cu|hip)solver_(getrf|geqrf|orgqr|potrf|syevd|gesvd|gesvdj|gesdd|sytrd)_ffi"
    r"|(cu|hip)_(lu_pivots_to_permutation|threefry2x32_ffi)"
    r"|cusparse_gtsv2_ffi"
    r"|Eigh|Qr|ProductOfElementaryHouseholderReflectors|LuDecomposition|ApproxTopK"
    r"|Sharding|annotate_device_placement"
)

_DEEPEST = 200
"""Regions within regions. A step in a loop in a loop has about ten."""

_LIBRARIES, _PER_BYTE = 8 * 2**30, 256
"""Memory that the process may write to: bytes, and bytes for each byte of an artifact."""


def _read_frames() -> list[bytes]:
    frames, data = [], sys.stdin.buffer
    while prefix := data.read(8):
        frames.append(data.read(struct.unpack("<Q", prefix)[0]))
    return frames


def _examine(artifact: bytes) -> bytes:
    from jaxlib.mlir import ir
    from jaxlib.mlir.dialects import chlo, sdy, stablehlo

    context = ir.Context()
    context.enable_multithreading(False)
    for dialect in (stablehlo, chlo, sdy):
        dialect.register_dialect(context)
    with context:
        module = stablehlo.deserialize_portable_artifact(context, artifact)
        _check(module.operation)
        module.operation.verify()
        # Printed without locations, which name the files of whoever wrote it.
        plain = ir.Module.parse(str(module))
        output = io.BytesIO()
        plain.operation.write_bytecode(output)
        return output.getvalue()


def _check(module) -> None:
    """Raises ValueError for an operation that is not allowed."""
    waiting = [(module, 0)]
    while waiting:
        op, depth = waiting.pop()
        if depth > _DEEPEST:
            raise ValueError(f"its operations are nested more than {_DEEPEST} deep")
        if op.name.split(".")[0] not in _DIALECTS or op.name in _TRANSFERS:
            raise ValueError(f"it has the operation {op.name}, which is not allowed in a file")
        if "sym_name" in op.attributes:
            op.attributes["sym_name"].value.encode()  # UTF-8, or the bindings raise an error
        if op.name == "stablehlo.custom_call":
            target = op.attributes["call_target_name"].value
            if not _TARGETS.fullmatch(target):
                raise ValueError(
                    f"it calls {target!r}, which is not one of the library functions that a file "
                    "may call"
                )
        waiting += [
            (inner.operation, depth + 1)
            for region in op.regions
            for block in region.blocks
            for inner in block.operations
        ]


def _refused(error: Exception) -> int:
    name = "" if isinstance(error, ValueError) else f"{type(error).__name__}: "
    print(f"{name}{error}", file=sys.stderr)
    return REFUSED


def main() -> None:
    sys.path[:] = json.loads(sys.argv[1])
    # A reader that loops or grows without end is stopped by the system.
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.alarm(int(sys.argv[2]))
    artifacts = _read_frames()
    memory = _LIBRARIES + _PER_BYTE * sum(map(len, artifacts))
    resource.setrlimit(resource.RLIMIT_DATA, (memory, memory))
    for artifact in artifacts:
        try:
            answer = _examine(artifact)
        except Exception as error:
            sys.exit(_refused(error))
        sys.stdout.buffer.write(struct.pack("<Q", len(answer)) + answer)


if __name__ == "__main__":
    main()

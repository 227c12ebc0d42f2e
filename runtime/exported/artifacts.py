"""StableHLO portable artifacts: the form in which a program outlives the JAX that made it.

An artifact is MLIR bytecode of a versioned dialect (VHLO). StableHLO promises that newer versions
read it for five years: https://github.com/openxla/stablehlo/blob/main/docs/compatibility.md
"""

from __future__ import annotations

import json
import re
import signal
import struct
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from jaxlib.mlir import ir

from metagrad.runtime import jax_internals

VERSION = "1.17.0"
"""Of StableHLO: the newest that the oldest JAX we support (0.10.2) reads.

`jax.export` takes what was current four weeks before the JAX that writes. So JAX 0.12.0.1 writes
1.18.0, which 0.10.2 refuses."""

_PLACEMENT = re.compile(
    r"\bsdy\.(sharding_constraint|manual_computation|reshard)\b|\bsdy\.mesh @\S+ = <\[\""
)
"""Operations of Shardy, whose bytecode has no promise of compatibility.

A mesh without axes says nothing: JAX writes one where it calls the host."""

_SCRIPT = str(Path(__file__).with_name("examine.py"))
_REFUSED = 3
_SECONDS, _BYTES_PER_SECOND = 60, 2**20


def serialise(bytecode: bytes) -> bytes:
    """A module of StableHLO, as MLIR bytecode or text, as a portable artifact.

    Source locations, which hold names of files, are left out.

    Raises:
      ValueError: an operation cannot be stored.
    """
    with jax_internals.ir_context():
        text = str(ir.Module.parse(bytecode))
        if _PLACEMENT.search(text):
            raise ValueError(
                "it says where values lie on a mesh of devices (with_sharding_constraint, "
                "jax.set_mesh or shard_map in the step, the loss or the outer function), and the "
                "form in which a file would hold that is not one that each JAX reads. Leave the "
                "constraint out of what is exported: the program follows the shardings of the "
                "arguments that it is called with"
            )
        try:
            return jax_internals.portable_artifact(ir.Module.parse(text), VERSION)
        except RuntimeError as error:
            raise ValueError(f"StableHLO {VERSION} cannot store it: {error}") from None


def examine(artifacts: Sequence[bytes]) -> list[bytes]:
    """The modules of artifacts that anybody may have written, as plain MLIR bytecode.

    They are read in a process of its own (examine.py), which ends instead of ours where one is made
    to harm. Nothing of them is run.

    Raises:
      ValueError: an artifact is no artifact, or holds what a file may not; says which, by its
        number, and what.
    """
    if not artifacts:
        return []
    if not sys.executable:
        raise ValueError("its programs are examined in a Python process, and there is no Python")
    frames = b"".join(struct.pack("<Q", len(artifact)) + artifact for artifact in artifacts)
    seconds = _SECONDS + len(frames) // _BYTES_PER_SECOND
    # -I: nothing in the environment or the working folder changes what is imported.
    path = json.dumps([place for place in sys.path if isinstance(place, str)])
    command = [sys.executable, "-I", _SCRIPT, path, str(seconds)]
    try:
        done = subprocess.run(command, input=frames, capture_output=True, timeout=2 * seconds)
    except OSError as error:
        raise ValueError(f"the process that examines its programs cannot start: {error}") from None
    except subprocess.TimeoutExpired:
        raise ValueError(f"its programs cannot be read within {seconds} s") from None
    if done.returncode:
        raise ValueError(_reason(done.returncode, done.stderr.decode(errors="replace"), seconds))
    return _frames(done.stdout, len(artifacts))


def _reason(code: int, said: str, seconds: int) -> str:
    if code == _REFUSED:
        return f"a program in it is refused: {said.strip()}"
    if code == -signal.SIGALRM:
        return f"a program in it cannot be read within {seconds} s"
    how = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
    last = (said.strip().splitlines() or ["it said nothing"])[-1]
    return f"a program in it ended the process that read it ({how}: {last})"


def _frames(data: bytes, count: int) -> list[bytes]:
    frames, at = [], 0
    for _ in range(count):
        (length,) = struct.unpack_from("<Q", data, at)
        frames.append(data[at + 8 : at + 8 + length])
        at += 8 + length
    return frames

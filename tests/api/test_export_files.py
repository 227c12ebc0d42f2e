"""Files that are damaged, newer or made to harm are refused; nothing of them runs."""

import contextlib
import hashlib
import json
import os
import random
import struct

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from altered_manifests import JSON, places, set_at, trusted
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from jax.interpreters import mlir
from jaxlib.mlir import ir

import metagrad
from metagrad.runtime import jax_internals
from metagrad.runtime.exported import artifacts, container
from metagrad.runtime.exported.container import InvalidFile

XS = np.linspace(-1, 1, 6, dtype=np.float32).reshape(3, 2)
ROWS = np.ones((200, 2), np.float32)


def step(w, rate, x):
    return w - rate * metagrad.grad(lambda w: jnp.sum(jnp.tanh(w * x) ** 2 + (ROWS @ w)[0]))(w)


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    """The bytes of a good file."""
    path = tmp_path_factory.mktemp("good") / "run"
    mg = metagrad.compile(step, ad="jax").metagradient(jnp.sum)
    mg.lower(jnp.ones(2), 0.1, XS).compile().export(path, platforms=("cpu",))
    return path.read_bytes()


@pytest.fixture
def load(tmp_path):
    """Loads a file of these bytes."""

    def load(data):
        (tmp_path / "run").write_bytes(data)
        return metagrad.load(tmp_path / "run")

    return load


@pytest.fixture
def altered(good, tmp_path):
    """Writes the good file anew, with contents and payloads changed and all sums right."""

    def write(change=lambda contents: None, **payloads):
        (tmp_path / "good").write_bytes(good)
        file = container.read(tmp_path / "good")
        change(file.contents)
        new = {name: bytes(data) for name, data in file.payloads.items()}
        new |= {name.replace("_", "/"): data for name, data in payloads.items()}
        container.write(tmp_path / "altered", file.contents, new, overwrite=True)
        return tmp_path / "altered"

    return write


@pytest.fixture
def not_examined(monkeypatch):
    """Refusals that need no process."""
    monkeypatch.setattr(artifacts, "examine", lambda _: pytest.fail("artifacts were read"))


def header(manifest, form=container.FORMAT, magic=container.MAGIC, length=None):
    length = len(manifest) if length is None else length
    return struct.pack("<8sIQ32s", magic, form, length, hashlib.sha256(manifest).digest())


def test_the_good_file(load, altered, good):
    expected = load(good)(jnp.ones(2), 0.1, XS)
    np.testing.assert_array_equal(
        metagrad.load(altered())(jnp.ones(2), 0.1, XS).grad, expected.grad
    )


# --- The container --------------------------------------------------------------------------------


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(data=st.data())
def test_truncated_anywhere(good, load, not_examined, data):
    length = data.draw(st.integers(0, len(good) - 1))
    with pytest.raises(InvalidFile, match=r"run cannot be loaded: .*(truncated|not a file that)"):
        load(good[:length])


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(data=st.data())
def test_a_byte_altered_anywhere(good, load, not_examined, data):
    changed = bytearray(good)
    changed[data.draw(st.integers(0, len(good) - 1))] ^= data.draw(st.integers(1, 255))
    with pytest.raises(InvalidFile, match="run cannot be loaded: "):
        load(bytes(changed))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.binary(max_size=200), st.booleans())
def test_any_bytes(load, not_examined, data, with_magic):
    with pytest.raises(InvalidFile):
        load(container.MAGIC * with_magic + data)


@pytest.mark.parametrize(
    "data, message",
    [
        (header(b"{}", form=2) + b"{}", "of format 2, .*reads format 1"),
        (header(b"{}", length=2**63), "manifest would have 9,223,372,036,854,775,808 bytes"),
        (header(b"{}", length=10**6) + b"{}", "ends within the manifest"),
        (header(b"{}") + b"[]", "the manifest does not have its SHA-256"),
        (header(b"[" * 10**5) + b"[" * 10**5, "nested too deeply"),
        (header(b"{") + b"{", "is not JSON"),
        (header(b"\xff") + b"\xff", "is not JSON"),
        (header(b'{"a": NaN}') + b'{"a": NaN}', "NaN is not JSON"),
        (header(b'{"a":1,"a":2}') + b'{"a":1,"a":2}', "a key stands twice"),
        (header(b"9" * 10**5) + b"9" * 10**5, "is not JSON"),
        (header(b"{}") + b"{}", "has not the keys 'payloads' and 'contents'"),
        (b"PK\x03\x04" + bytes(100), "is not a file that compiled.export wrote"),
        (b"", "is not a file that compiled.export wrote"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_headers(load, not_examined, data, message):
    with pytest.raises(InvalidFile, match=message):
        load(data)


NO_BYTES = hashlib.sha256(b"").hexdigest()


def entry(name="x", size=0, digest=NO_BYTES):
    return {"name": name, "bytes": size, "sha256": digest}


@pytest.mark.parametrize(
    "payloads, message",
    [
        ({}, "is not a list"),
        ([3], "has not the keys"),
        ([entry(size=2**62)], "truncated"),
        ([entry(size=-1)], "has -1 bytes"),
        ([entry(size=True)], "has True bytes"),
        ([entry(size=1e3)], "has 1000.0 bytes"),
        ([entry(), entry()], "no name of its own"),
        ([entry(name=["x"])], "no name of its own"),
        ([entry(digest="00")], "'x' does not have its SHA-256"),
        ([entry() | {"offset": 0}], "has not the keys"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_payloads(load, not_examined, payloads, message):
    manifest = json.dumps({"payloads": payloads, "contents": {}}).encode()
    padding = bytes(-(52 + len(manifest)) % 64) if payloads else b""
    with pytest.raises(InvalidFile, match=message):
        load(header(manifest) + manifest + padding)


def test_more_behind_the_end_and_between(good, load, not_examined):
    with pytest.raises(InvalidFile, match="longer than it says"):
        load(good + b"\0")
    manifest_end = 52 + struct.unpack("<Q", good[12:20])[0]
    assert manifest_end % 64
    with pytest.raises(InvalidFile, match="bytes between its payloads"):
        load(good[:manifest_end] + b"\1" + good[manifest_end + 1 :])


@pytest.mark.parametrize("name", ["../../evil", "/etc/passwd", "programs/../../x"])
def test_a_payloads_name_is_no_path(altered, name):
    """A name is a key of a dict, and what nobody asks for is left alone."""
    file = metagrad.load(altered(**{name: b"x"}))
    assert file(jnp.ones(2), 0.1, XS).state.shape == (2,)


def test_a_pipe_and_a_folder(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", tmp_path):
        with pytest.raises(InvalidFile, match="not a regular file"):
            metagrad.load(path)


# --- The manifest ---------------------------------------------------------------------------------


STATE = ("arguments", "state", "leaves", 0)
DEEP: dict = {"none": True}
for _ in range(150):
    DEEP = {"list": [DEEP]}


@pytest.mark.parametrize(
    "place, value, message",
    [
        (("x64",), 1, "x64 is not true or false"),
        (("wrt",), ["everything"], "with respect to"),
        (("names",), ["f"], "not two"),
        (("arguments",), [], "arguments is not a JSON object"),
        ((*STATE, "dtype"), "object", "dtype is 'object'"),
        ((*STATE, "dtype"), "float64", "does not take the arguments"),
        ((*STATE, "shape"), [3], "does not take the arguments"),
        ((*STATE, "shape"), [-1], "is not a list of sizes"),
        ((*STATE, "shape"), [2**40, 2**40], "more than 2\\^63 bytes"),
        ((*STATE, "path"), None, "path is not a string"),
        ((*STATE, "key"), "nonsense", "generator 'nonsense'"),
        (("plan", "steps"), 4, "the plan's tables have"),
        (("plan", "steps"), 2**62, "the plan's tables have"),
        (("plan", "state_slots"), 2**31, "slots for 3 steps"),
        (("plan", "state_slots"), 1, "the plan .* is wrong"),
        (("aux",), DEEP, "nested more than 100 deep"),
        (("aux",), {"pickle": "..."}, "unknown kind, 'pickle'"),
        (
            ("aux",),
            {"namedtuple": {"name": "x", "fields": [["import os", {"none": True}]]}},
            "'import os' cannot be a name",
        ),
        (("captured", 0, "shape"), [10**9, 2], "payload 'captured/0' has 1,600 bytes"),
        (("captured", 0, "dtype"), "float64", "payload 'captured/0' has 1,600 bytes"),
        (("captured", 0, "dtype"), "int32", "does not take the arguments"),
        (("captured",), [], "does not take the arguments"),
        (("programs",), {}, "no program 'fused'"),
        (("programs", "../x"), {}, r"names that are none: .*'\.\./x'"),
        (("names",), ["step", "\x1b[2J"], "strings that can be shown"),
        ((*STATE, "path"), "\x1b]0;title\x07", "characters that cannot be shown"),
        (("aux",), {"\x1b[2J": 1}, r"unknown kind, '\\x1b\[2J'"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_manifest_with_right_sums(altered, monkeypatch, place, value, message):
    if place[0] != "programs":
        # Found before anything is read by MLIR, or with what the good file has.
        monkeypatch.setattr(artifacts, "examine", trusted)
    with pytest.raises(InvalidFile, match=message):
        metagrad.load(altered(set_at(place, value)))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(data=st.data())
def test_any_manifest_with_right_sums(good, altered, data):
    """It loads or is refused; no other error comes out."""

    def change(contents):
        everywhere = list(places(contents))
        for _ in range(data.draw(st.integers(1, 2))):
            place, value = data.draw(st.sampled_from(everywhere)), data.draw(JSON)
            # The first change may have taken the place of the second one away.
            with contextlib.suppress(KeyError, IndexError, TypeError):
                set_at(place, value)(contents)

    path = altered(change)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(artifacts, "examine", trusted)
        with contextlib.suppress(InvalidFile):
            metagrad.load(path).explain()


@pytest.mark.parametrize(
    "name", ["x64", "names", "arguments", "aux", "plan", "programs", "captured", "written_by"]
)
def test_a_part_that_is_missing(altered, monkeypatch, name):
    monkeypatch.setattr(artifacts, "examine", trusted)
    with pytest.raises(InvalidFile, match=f"the manifest has no '{name}'"):
        metagrad.load(altered(lambda contents: contents.pop(name)))


# --- The programs ---------------------------------------------------------------------------------


def artifact(text):
    return artifacts.serialise(text)


def module(body, results="tensor<f32>, tensor<2xf32>, tensor<2xf32>"):
    arguments = "%w: tensor<2xf32>, %r: tensor<f32>, %x: tensor<3x2xf32>, %c: tensor<200x2xf32>"
    return f"func.func public @main({arguments}) -> ({results}) {{ {body} }}".encode()


RETURN = "return %r, %w, %w : tensor<f32>, tensor<2xf32>, tensor<2xf32>"
CALL = """%a = stablehlo.custom_call @{0}(%w) {{{1}}} : (tensor<2xf32>) -> tensor<2xf32>
          return %r, %a, %w : tensor<f32>, tensor<2xf32>, tensor<2xf32>"""
TOKEN = "%t = stablehlo.create_token : !stablehlo.token "


@pytest.mark.parametrize(
    "body, message",
    [
        (CALL.format("xla_ffi_python_cpu_callback", ""), "calls 'xla_ffi_python_cpu_callback'"),
        (CALL.format("system", "api_version = 4 : i32"), "calls 'system'"),
        (CALL.format("tpu_custom_call", ""), "calls 'tpu_custom_call'"),
        (CALL.format("mosaic_gpu_v2", ""), "calls 'mosaic_gpu_v2'"),
        (CALL.format("lapack_spotrf_ffi_", ""), "calls 'lapack_spotrf_ffi_'"),
        (
            TOKEN + '%o = "stablehlo.outfeed"(%w, %t) <{outfeed_config = ""}> : '
            "(tensor<2xf32>, !stablehlo.token) -> !stablehlo.token " + RETURN,
            "has the operation stablehlo.outfeed",
        ),
        ("return %r, %w : tensor<f32>, tensor<2xf32>", "is not what it says"),
        (RETURN + ' } func.func private @"\\FF\\FE"() { return', "a program in it is refused"),
    ],
    ids=lambda value: value[:40],
)
def test_programs_with_right_sums(altered, body, message):
    results = "tensor<f32>, tensor<2xf32>" if "is not what" in message else None
    text = module(body, results) if results else module(body)
    with pytest.raises(InvalidFile, match=message):
        metagrad.load(altered(programs_fused_cpu=artifact(text)))


@pytest.mark.parametrize(
    "data, message",
    [
        (b"", "has no function @main"),
        (b"ML\xefR nonsense", "a program in it is refused"),
        (module(RETURN), "a program in it is refused"),
        (artifact(module(RETURN).replace(b"@main", b"@other")), "has no function @main"),
    ],
    ids=["nothing", "nonsense", "text", "no main"],
)
def test_artifacts_that_are_none(altered, data, message):
    with pytest.raises(InvalidFile, match=message):
        metagrad.load(altered(programs_fused_cpu=data))


def test_a_program_that_is_missing(altered):
    with pytest.raises(InvalidFile, match="no payload 'programs/fused/cuda'"):
        metagrad.load(altered(set_at(("programs", "fused", "platforms"), ["cuda"])))


def test_escape_sequences_are_not_shown():
    shown = str(InvalidFile("run", "it holds \x1b[2J and \ud800 and ü" + 10**4 * "x"))
    assert r"it holds \x1b[2J and \ud800 and ü" in shown and "\x1b" not in shown
    assert len(shown) < 2100


def test_a_reader_that_dies_or_hangs(altered, monkeypatch, tmp_path):
    """What MLIR's reader does with some altered artifacts. Then this process must not end."""
    script = tmp_path / "script.py"
    monkeypatch.setattr(artifacts, "_SCRIPT", str(script))
    script.write_text("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)")
    with pytest.raises(InvalidFile, match=r"ended the process that read it \(signal SIGSEGV"):
        metagrad.load(altered())
    monkeypatch.setattr(artifacts, "_SECONDS", 1)
    script.write_text("import signal, time; signal.alarm(1); time.sleep(60)")
    with pytest.raises(InvalidFile, match="cannot be read within 1 s"):
        metagrad.load(altered())


@pytest.mark.slow
def test_artifacts_altered_at_random(good, tmp_path):
    """With right sums. Each is refused, or is a program of the same signature."""
    (tmp_path / "good").write_bytes(good)
    payload = bytes(container.read(tmp_path / "good").payloads["programs/fused/cpu"])
    for seed in range(12):
        rng = random.Random(seed)
        changed = bytearray(payload)
        for _ in range(rng.choice([1, 2, 40])):
            changed[rng.randrange(len(changed))] = rng.randrange(256)
        try:
            (plain,) = artifacts.examine([bytes(changed)])
        except ValueError as error:
            assert "a program in it" in str(error)
            continue
        with jax_internals.ir_context():
            assert ir.Module.parse(plain).operation.verify()


def test_what_is_examined_has_no_callbacks_of_jax():
    """JAX's own callbacks, as they lie in a lowered module."""
    lowered = jax.jit(
        lambda x: jax.pure_callback(np.sin, jax.ShapeDtypeStruct((2,), np.float32), x)
    ).lower(jnp.ones(2))
    text = mlir.module_to_bytecode(lowered.compiler_ir())
    with pytest.raises(ValueError, match="calls 'xla_ffi_python_cpu_callback'"):
        artifacts.examine([artifacts.serialise(text)])

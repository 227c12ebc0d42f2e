"""The compilation cache: what was stored comes back, and what is damaged does not."""

import errno
import inspect
import os
import resource
import subprocess
import sys
import textwrap

import jax.numpy as jnp
import platformdirs
import pytest

import metagrad
from metagrad.compiler.enzyme import cache
from metagrad.compiler.enzyme.worker import WORKER, EnzymeError

KEY, OTHER = cache.key("a module"), cache.key("another module")
TEXT = "func.func @f() { return }  // \N{GREEK SMALL LETTER PHI}"


def test_keys():
    """Of all parts, in order, and of where one ends."""
    parts = [(), ("",), ("", ""), ("ab",), ("a", "b"), ("b", "a"), ("ab", ""), ("", "ab")]
    assert len({cache.key(*texts) for texts in parts}) == len(parts)


def test_what_was_stored_comes_back(cached):
    assert cache.load(KEY) is None
    cache.store(KEY, TEXT)
    cache.store(OTHER, "other")
    assert cache.load(KEY) == TEXT and cache.load(OTHER) == "other"
    cache.store(KEY, "new")
    assert cache.load(KEY) == "new"
    assert sorted(file.name for file in cached.iterdir()) == sorted([KEY, OTHER]), (
        "nothing else is left in the folder"
    )


# --- Where


@pytest.mark.parametrize("value", ["0", "off", "FALSE", "no"])
def test_switched_off(cached, monkeypatch, value):
    cache.store(KEY, TEXT)
    monkeypatch.setenv("METAGRAD_CACHE", value)
    assert cache.folder() is None and cache.load(KEY) is None
    cache.store(OTHER, TEXT)
    assert [file.name for file in cached.iterdir()] == [KEY]


def test_the_platforms_folder(cached, monkeypatch):
    for folder_name in (None, ""):
        monkeypatch.delenv("METAGRAD_CACHE_DIR") if folder_name is None else monkeypatch.setenv(
            "METAGRAD_CACHE_DIR", folder_name
        )
        assert cache.folder().parent == platformdirs.user_cache_path("metagrad", appauthor=False)


def test_a_folder_of_the_users_home(monkeypatch, cached):
    monkeypatch.setenv("HOME", "/somewhere")
    monkeypatch.setenv("METAGRAD_CACHE_DIR", "~/cache")
    assert str(cache.folder()) == "/somewhere/cache/enzyme"


def test_nobody_else_can_write_into_the_folder(cached):
    cache.store(KEY, TEXT)
    assert cached.stat().st_mode & 0o077 == 0 and (cached / KEY).stat().st_mode & 0o077 == 0


# --- Damage


def test_every_flipped_bit_is_noticed(cached):
    cache.store(KEY, TEXT)
    good = (cached / KEY).read_bytes()
    for bit in range(8 * len(good)):
        bad = bytearray(good)
        bad[bit // 8] ^= 1 << bit % 8
        (cached / KEY).write_bytes(bad)
        assert cache.load(KEY) is None
    (cached / KEY).write_bytes(good)
    assert cache.load(KEY) == TEXT


def test_every_length_but_the_right_one_is_noticed(cached):
    cache.store(KEY, TEXT)
    good = (cached / KEY).read_bytes()
    for bad in (*(good[:length] for length in range(len(good))), good + b"\0", good + good):
        (cached / KEY).write_bytes(bad)
        assert cache.load(KEY) is None


def test_the_entry_of_another_key(cached):
    cache.store(OTHER, TEXT)
    (cached / OTHER).rename(cached / KEY)
    assert cache.load(KEY) is None


@pytest.mark.parametrize(
    "make",
    [os.mkdir, lambda path: os.symlink(path, path), lambda path: os.symlink("/dev/null", path)],
    ids=["folder", "loop", "device"],
)
def test_what_is_no_file(cached, make):
    cached.mkdir(parents=True)
    make(cached / KEY)
    assert cache.load(KEY) is None


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read(cached):
    cache.store(KEY, TEXT)
    (cached / KEY).chmod(0)
    assert cache.load(KEY) is None
    cache.store(KEY, TEXT)
    assert cache.load(KEY) == TEXT


# --- A folder that cannot be written

NOT_WRITTEN = (
    r"metagrad's cache in .* cannot be written \(.+\).*METAGRAD_CACHE_DIR.*METAGRAD_CACHE=0"
)


def test_no_folder(cached):
    cached.parent.mkdir()
    cached.write_text("a file is in the way")
    with pytest.warns(RuntimeWarning, match=NOT_WRITTEN):
        cache.store(KEY, TEXT)
    assert cache.load(KEY) is None


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_is_read_only(cached):
    cache.store(KEY, TEXT)
    cached.chmod(0o500)
    try:
        with pytest.warns(RuntimeWarning, match=NOT_WRITTEN):
            cache.store(OTHER, TEXT)
        assert cache.load(KEY) == TEXT
    finally:
        cached.chmod(0o700)


def test_a_disk_that_is_full(cached):
    """Half an entry is written, and taken away again; the old one stays."""
    cache.store(KEY, TEXT)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (40, limits[1]))
    try:
        with pytest.warns(RuntimeWarning, match=f"{os.strerror(errno.EFBIG)}"):
            cache.store(KEY, "new")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert cache.load(KEY) == TEXT and [file.name for file in cached.iterdir()] == [KEY]


# --- Size


def test_the_oldest_go_first(cached, monkeypatch):
    keys = [cache.key(str(i)) for i in range(4)]
    for age, key in enumerate(keys):
        cache.store(key, TEXT)
        os.utime(cached / key, (age, age))
    (cached / "notes.txt").write_text("not ours" * 1000)
    assert cache.load(keys[0]) == TEXT, "used now: it is the youngest"
    size = (
        (cached / KEY).stat().st_size
        if (cached / KEY).exists()
        else (cached / keys[0]).stat().st_size
    )
    monkeypatch.setattr(cache, "LIMIT", 3 * size)
    cache.store(KEY, TEXT)
    assert {file.name for file in cached.iterdir()} == {keys[0], keys[3], KEY, "notes.txt"}


def test_what_a_killed_writer_left_goes_too(cached, monkeypatch):
    cached.mkdir(parents=True)
    (cached / f"{OTHER}abc_1.part").write_bytes(b"x" * 10_000)
    monkeypatch.setattr(cache, "LIMIT", 5_000)
    cache.store(KEY, TEXT)
    assert [file.name for file in cached.iterdir()] == [KEY]


# --- Several processes


def test_writers_at_the_same_time(cached):
    """A reader sees a whole entry or none."""
    text = "'x' * 100_000"
    script = f"""
        import runpy
        cache = runpy.run_path({inspect.getfile(cache)!r})
        for _ in range(200):
            cache["store"]({KEY!r}, {text})
            assert cache["load"]({KEY!r}) == {text}"""
    writers = [subprocess.Popen([sys.executable, "-c", textwrap.dedent(script)]) for _ in range(3)]
    assert [writer.wait(60) for writer in writers] == [0, 0, 0]
    assert [file.name for file in cached.iterdir()] == [KEY]


# --- Compilations

STEP = """
import jax.numpy as jnp, metagrad

@metagrad.compile
def step(state, z, x):
    loss = lambda w: jnp.sum(jnp.tanh(w["b"] * z - x) ** 2) + jnp.sum(w["a"] ** 3)
    g = metagrad.grad(loss)(state)
    return {name: state[name] - 0.1 * g[name] for name in state}

outer = lambda state: jnp.sum(state["a"] * state["b"])
metagradient = step.metagradient(outer, schedule=metagrad.LazyKary(2))
arguments = {"a": jnp.ones(2), "b": jnp.ones(2)}, jnp.asarray(0.5), jnp.ones((3, 2))
"""


@pytest.fixture(scope="module")
def run():
    """A metagradient and its arguments."""
    names: dict = {}
    exec(STEP, names)
    return names["metagradient"], names["arguments"]


@pytest.fixture
def asked(monkeypatch):
    """The functions that Enzyme was asked to work on."""
    run, names = WORKER.run, []
    monkeypatch.setattr(
        WORKER, "run", lambda name, *arguments: (names.append(name), run(name, *arguments))[1]
    )
    return names


ALL = ["inner", "step_vjp", "step_vjp", "outer_vjp"]


def test_the_second_compilation_needs_no_enzyme(cached, run, asked):
    metagradient, arguments = run
    first = metagradient.lower(*arguments)
    assert asked == ALL
    second = metagradient.lower(*arguments)
    assert asked == ALL and second.ir("scheduled") == first.ir("scheduled")


def test_another_schedule_is_the_same_to_enzyme(cached, run, asked):
    metagradient, arguments = run
    metagradient.lower(*arguments)
    metagrad.compile(metagradient.request.step).metagradient(
        metagradient.request.outer, schedule=metagrad.StoreAll()
    ).lower(*arguments)
    assert asked == ALL


def test_other_shapes_are_not(cached, run, asked):
    metagradient, (state, z, xs) = run
    metagradient.lower(state, z, xs)
    metagradient.lower({name: jnp.ones((3, 2)) for name in state}, z, xs)
    assert asked == 2 * ALL


@pytest.mark.parametrize("content", [b"", b"damaged", None], ids=["empty", "damaged", "no MLIR"])
def test_damaged_entries_are_compiled_again(cached, run, asked, content):
    metagradient, arguments = run
    first = metagradient.lower(*arguments)
    entries = list(cached.iterdir())
    assert len(entries) == len(ALL)
    for entry in entries:
        # Without a content: an entry whose digest fits, of something that is not MLIR.
        entry.write_bytes(content) if content is not None else cache.store(
            entry.name, "what is this"
        )
    assert metagradient.lower(*arguments).ir("scheduled") == first.ir("scheduled")
    assert asked == 2 * ALL
    metagradient.lower(*arguments)
    assert asked == 2 * ALL


def test_a_cache_that_cannot_be_written(cached, run):
    cached.parent.mkdir()
    cached.write_text("a file is in the way")
    metagradient, arguments = run
    with pytest.warns(RuntimeWarning, match=NOT_WRITTEN):
        lowered = metagradient.lower(*arguments)
    assert {decision.rule for decision in lowered.decisions} == {"enzyme"}


def test_another_library_makes_other_entries(cached, run, asked, monkeypatch):
    metagradient, arguments = run
    metagradient.lower(*arguments)
    monkeypatch.setattr("metagrad.compiler.enzyme.library.identity", lambda: "enzyme-ad 99")
    metagradient.lower(*arguments)
    assert asked == 2 * ALL


def test_an_error_is_not_remembered(cached, run, monkeypatch):
    metagradient, arguments = run

    def fail(function, *arguments):
        raise EnzymeError("no")

    with monkeypatch.context() as patch:
        patch.setattr(WORKER, "run", fail)
        with pytest.warns(UserWarning, match="JAX differentiates"):
            metagradient.lower(*arguments)
    assert {decision.rule for decision in metagradient.lower(*arguments).decisions} == {"enzyme"}


def test_another_process(cached, tmp_path):
    """The same program in another place of another file, under another order of Python's sets:
    Enzyme's process is not even started.
    """
    answers = []
    for seed, above in (("1", ""), ("2", "# moved down\n" * 7)):
        file = tmp_path / f"program{seed}.py"
        file.write_text(
            above + STEP + "lowered = metagradient.lower(*arguments)\n"
            "from metagrad.compiler.enzyme.worker import WORKER\n"
            "print(WORKER._process is not None, lowered.compile()(*arguments).grad)\n"
        )
        environment = os.environ | {
            "PYTHONHASHSEED": seed,
            "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
        }
        done = subprocess.run(
            [sys.executable, file], env=environment, capture_output=True, text=True, timeout=120
        )
        assert done.returncode == 0, done.stderr
        answers.append(done.stdout.split())
    (first, *gradient), (second, *same) = answers
    assert (first, second) == ("True", "False") and gradient == same

"""`metagrad doctor` says what is there, and fails where compiling with Enzyme would."""

import sys
from importlib.metadata import version

import jax
import pytest

from metagrad.cli import main
from metagrad.compiler.enzyme import interpreter, library, wheel


@pytest.fixture
def no_library(monkeypatch, tmp_path):
    """A machine to which no library has come yet."""
    monkeypatch.setenv("METAGRAD_DATA_DIR", str(tmp_path))
    monkeypatch.setattr(library, "_installed", lambda: None)
    library._locate.cache_clear()
    yield
    library._locate.cache_clear()


def findings(capsys) -> dict[str, str]:
    """What the doctor prints, by its first word."""
    lines = capsys.readouterr().out.splitlines()
    return {line.split()[0]: line.split(None, 1)[1] for line in lines if line[0] != " "}


def test_it_works_here(cached, capsys):
    assert main(["doctor"]) == 0
    report = findings(capsys)
    assert report["metagrad"].startswith(version("metagrad"))
    assert report["Python"].endswith(f"({sys.executable})")
    assert report["JAX"] == f"jax {jax.__version__}, jaxlib {version('jaxlib')}"
    assert report["library"].startswith(library.path())
    assert interpreter.choose().version in report["worker"]
    assert report["answers"].startswith("yes, with right first and second derivatives, ")
    assert report["cache"] == f"{cached}: 0 entries, 0.0 MiB of at most 256"
    assert f"(cpu:{jax.devices()[0].id})" in report["devices"]
    assert "ERROR" not in report


def test_the_cache(cached, monkeypatch, capsys):
    from metagrad.compiler.enzyme import cache

    cache.store(cache.key("a"), "text")
    (cached / "another file").write_text("not an entry")
    assert main(["doctor"]) == 0
    assert findings(capsys)["cache"].startswith(f"{cached}: 1 entries, ")
    monkeypatch.setenv("METAGRAD_CACHE", "0")
    assert main(["doctor"]) == 0
    assert findings(capsys)["cache"] == "switched off by METAGRAD_CACHE"


def test_a_library_that_is_not_there_yet(no_library, capsys):
    """Nothing is fetched unasked."""
    assert main(["doctor"]) == 1
    report = findings(capsys)
    assert report["library"].startswith("not there yet: the first compilation fetches enzyme-ad")
    assert report["answers"].endswith("get it with: python -m metagrad doctor --fetch")
    assert not wheel.folder().exists()


def test_a_library_that_cannot_be_fetched(no_library, monkeypatch, capsys):
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.delenv("PIP_FIND_LINKS", raising=False)
    assert main(["doctor", "--fetch"]) == 1
    report = findings(capsys)
    assert report["ERROR"].startswith("Enzyme's library could not be fetched: ")
    assert "cache" in report and "devices" in report, "the rest is said all the same"


def test_a_library_that_is_wrong(monkeypatch, tmp_path, capsys):
    (tmp_path / "enzyme_call.so").write_bytes(b"\x7fELF, but no more")
    monkeypatch.setenv(library.VARIABLE, str(tmp_path))
    assert main(["doctor"]) == 1
    report = findings(capsys)
    assert report["library"] == f"{tmp_path / 'enzyme_call.so'} (from METAGRAD_ENZYME)"
    assert report["ERROR"].startswith("Enzyme's library cannot be loaded for @empty: ")
    assert "METAGRAD_ENZYME names it" in report["ERROR"]


def test_a_python_that_is_wrong(monkeypatch, capsys):
    monkeypatch.setenv(interpreter.VARIABLE, "/nowhere/python")
    assert main(["doctor"]) == 1
    assert findings(capsys)["ERROR"].startswith("METAGRAD_ENZYME_PYTHON names /nowhere/python")


def test_an_old_enzyme_that_is_installed(no_library, monkeypatch, tmp_path, capsys):
    information = tmp_path / "site" / "enzyme_ad-0.0.6.dist-info"
    information.mkdir(parents=True)
    (information / "METADATA").write_text("Name: enzyme-ad\nVersion: 0.0.6\n")
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    assert main(["doctor"]) == 1
    assert findings(capsys)["enzyme-ad"] == (
        "0.0.6 is installed and not used: metagrad is tested with 0.0.16"
    )

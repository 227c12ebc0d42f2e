"""The tests with every Python and JAX that metagrad claims: `make matrix`.

`nox -s "tests(3.12, newest)"` runs one session. Each session builds a wheel and installs it into an
environment of its own, away from the tree, so that the tests see what a user gets. JAX itself ended
its support of Python 3.11 with 0.11.
"""

import pathlib
import tomllib

import nox

nox.needs_version = ">=2025.5.1"
nox.options.error_on_missing_interpreters = True

PROJECT = tomllib.loads(pathlib.Path("pyproject.toml").read_text())["project"]
OLDEST_JAX = "0.10.2"

assert f"jax>={OLDEST_JAX}," in PROJECT["dependencies"][0].replace(" ", "")

MATRIX = [
    nox.param("3.11", OLDEST_JAX, id="3.11, oldest"),
    nox.param("3.12", OLDEST_JAX, id="3.12, oldest"),
    nox.param("3.12", None, id="3.12, newest"),
    nox.param("3.13", None, id="3.13, newest"),
]


@nox.session
@nox.parametrize("python,jax", MATRIX)
def tests(session: nox.Session, jax: str | None) -> None:
    """The test suite. Arguments behind `--` go to pytest, in place of `-n 2`."""
    pins = [] if jax is None else [f"jax=={jax}", f"jaxlib=={jax}"]
    session.install(".[test]", *pins)
    session.run("metagrad", "doctor", "--fetch")
    arguments = session.posargs or ["-n", "2", "--dist", "loadgroup"]
    session.run("python", "-P", "-m", "pytest", "-q", *arguments)


EXCHANGED = str(pathlib.Path("build", "exchange").absolute())


def _install(session: nox.Session, jax: str | None) -> None:
    session.install(".", *([] if jax is None else [f"jax=={jax}", f"jaxlib=={jax}"]))


@nox.session
@nox.parametrize("python,jax", MATRIX)
def export(session: nox.Session, jax: str | None) -> None:
    """Writes an exported run, for `load`."""
    _install(session, jax)
    session.run("metagrad", "doctor", "--fetch")
    session.run("python", "-P", ".ci/exchange.py", "write", EXCHANGED)


@nox.session
@nox.parametrize("python,jax", MATRIX)
def load(session: nox.Session, jax: str | None) -> None:
    """Loads what the sessions of `export` wrote, where no Enzyme is installed."""
    _install(session, jax)
    session.run("pip", "uninstall", "--yes", "enzyme-ad")
    env = {"METAGRAD_ENZYME": "/nowhere"}
    session.run("python", "-P", ".ci/exchange.py", "load", EXCHANGED, env=env)

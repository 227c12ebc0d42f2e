"""What `import metagrad` brings: every public name when it is asked for, and JAX not before."""

import pickle
import subprocess
import sys

import pytest

import metagrad
from metagrad.runtime.schedules.lazy_kary import LazyKary


def run(code):
    """What a fresh Python prints for `code`."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.strip()


@pytest.mark.parametrize(
    "statement",
    ["import metagrad", "import metagrad.cli", "import metagrad.compiler.opt"],
)
def test_does_not_wait_for_jax(statement):
    assert run(f"import sys; {statement}; print('jax' in sys.modules)") == "False"


@pytest.mark.parametrize("name", metagrad.__all__)
def test_a_name_is_imported_when_asked_for(name):
    assert run(f"import metagrad; print(metagrad.{name}.__name__)") == name


def test_everything_at_once():
    assert (
        run(
            "from metagrad import *; import metagrad; print(compile is metagrad.compile, "
            "sorted(metagrad.__all__) == "
            "sorted(name for name in metagrad.__all__ if name in globals()))"
        )
        == "True True"
    )


def test_the_version_is_that_of_the_distribution():
    from importlib.metadata import version

    assert metagrad.__version__ == version("metagrad")


def test_dir_lists_what_there_is():
    assert {*metagrad.__all__, "__version__"} <= set(
        run("import metagrad; print(*dir(metagrad))").split()
    )


def test_a_name_that_is_not_there():
    with pytest.raises(AttributeError, match="module 'metagrad' has no attribute 'compil'"):
        _ = metagrad.compil
    with pytest.raises(ImportError, match="cannot import name 'gradd' from 'metagrad'"):
        from metagrad import gradd  # noqa: F401


def test_pickles():
    assert pickle.loads(pickle.dumps(metagrad.LazyKary(3))) == LazyKary(3)


def test_the_names_that_type_checkers_see():
    """Every public name is in the block for type checkers and in the table of modules, once."""
    homes = [name for names in metagrad._HOMES.values() for name in names]
    assert sorted(homes) == sorted(metagrad.__all__)

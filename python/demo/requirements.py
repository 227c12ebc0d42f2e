"""Says which packages of the extra `metagrad[demo]` are missing, before they are imported."""

from importlib.util import find_spec

# import name -> name on PyPI
EXTRA = {"sklearn": "scikit-learn", "matplotlib": "matplotlib", "optax": "optax"}


class MissingExtra(ImportError):
    """The demo's extra is not installed."""


def require_extra(extra=EXTRA):
    """Checks that the packages of the extra can be found.

    Raises:
      MissingExtra: one cannot; the message has the command that installs it.
    """
    missing = [name for module, name in extra.items() if find_spec(module) is None]
    if missing:
        verb, them = ("is", "it") if len(missing) == 1 else ("are", "them")
        raise MissingExtra(
            f"{' and '.join(missing)} {verb} not installed; "
            f"the demo needs {them}: pip install metagrad[demo]"
        )

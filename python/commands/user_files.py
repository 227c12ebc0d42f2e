"""Things of the user's that are named on the command line: `step.py:train_step`.

Before the colon stands a file, or a module as in `import` (`project.training`); behind it an
attribute of it, or one of an attribute (`Model.step`).
"""

from __future__ import annotations

import difflib
import functools
import importlib
import importlib.util
import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any


class Unusable(Exception):
    """Something of the user's is not there, or fails. The message says what to do."""


def split(text: str, place: str | None = None) -> tuple[str, str]:
    """The file or module, and the attribute, of `PLACE:ATTRIBUTE`.

    Args:
      text: as it was written.
      place: the place of a text that is an attribute alone; None: it must have one.

    Raises:
      Unusable: there is no colon, or nothing on one side of it.
    """
    before, colon, attribute = text.rpartition(":")
    if not colon and place is not None and not _is_file(text):
        return place, text
    if not before or not attribute:
        name = text.strip(":") or "step.py"
        raise Unusable(
            f"{text!r} names no attribute of a file; write the file, a colon and the name of the "
            f"function, as in {name}:train_step"
        )
    return before, attribute


def load(place: str, attribute: str) -> Any:
    """The attribute of a file or module, which is imported once.

    Raises:
      Unusable: there is no such file, module or attribute, or importing it fails.
    """
    value: Any = module_of(place)
    where = place
    for name in attribute.split("."):
        if not hasattr(value, name):
            raise Unusable(f"{where} has no attribute {name!r}; {_others(value, name)}")
        value, where = getattr(value, name), f"{where}:{name}"
    return value


@functools.cache
def module_of(place: str) -> ModuleType:
    """The module of a file, or of a name as in `import`.

    Raises:
      Unusable: there is none, or importing it fails.
    """
    if _is_file(place):
        path = Path(place)
        if not path.is_file():
            raise Unusable(f"there is no file {place} in {Path.cwd()}; name the file of the step")
        return calling(f"importing {place}", lambda: _import_file(path), of=place)
    sys.path.insert(0, os.getcwd())  # as `python -m` does
    return calling(f"importing {place}", lambda: importlib.import_module(place), of=place)


def calling(doing: str, function: Callable[[], Any], *, of: str) -> Any:
    """What a function that runs the user's code returns.

    Args:
      doing: what it does, for the message.
      function: it.
      of: the user's file; the message names the last line of it that took part.

    Raises:
      Unusable: it raised, or would end the process.
    """
    try:
        return function()
    except (Unusable, KeyboardInterrupt):
        raise
    except SystemExit as error:
        raise Unusable(
            f"{doing} would end the process (exit status {error.code}). Put what the file does "
            'when it is run below `if __name__ == "__main__":`'
        ) from error
    except BaseException as error:
        raise Unusable(f"{doing} fails{_place_of(error, of)}:\n{_text_of(error)}") from error


def _is_file(place: str) -> bool:
    return place.endswith(".py") or os.sep in place


def _import_file(path: Path) -> ModuleType:
    """Runs a file as the module of its name, with its folder on the path, as Python does."""
    name = path.stem if path.stem.isidentifier() and path.stem not in sys.modules else "__user__"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None, "a .py file has a loader"
    module = importlib.util.module_from_spec(spec)
    sys.path.insert(0, str(path.resolve().parent))
    sys.modules[name] = module  # where pickle and dataclasses look
    spec.loader.exec_module(module)
    return module


def _others(value: Any, name: str) -> str:
    """What there is instead of an attribute that is missing."""
    names = [other for other in vars(value) if not other.startswith("_")]
    if close := difflib.get_close_matches(name, names, 1):
        return f"did you mean {close[0]!r}?"
    own = [n for n in names if getattr(getattr(value, n), "__module__", None) == value.__name__]
    return f"it defines {', '.join(own) or 'no functions'}"


def _text_of(error: BaseException) -> str:
    """An error with its notes, but JAX's about its own frames, which are not shown here."""
    notes = [note for note in getattr(error, "__notes__", ()) if not note.startswith("-----")]
    return "\n".join([f"{type(error).__name__}: {error}", *notes])


def _place_of(error: BaseException, of: str) -> str:
    """The last line of the user's file that took part in an error."""
    if isinstance(error, SyntaxError) and error.filename:
        return f" at {error.filename}:{error.lineno}"
    own = os.path.realpath(of)
    lines = [
        frame.lineno
        for frame in traceback.extract_tb(error.__traceback__)
        if os.path.realpath(frame.filename) == own
    ]
    return f" at {of}:{lines[-1]}" if lines else ""

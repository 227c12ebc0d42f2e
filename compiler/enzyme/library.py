"""Where Enzyme's library comes from.

1. METAGRAD_ENZYME, if it is set: the library, the pinned wheel, or a folder that holds one of them.
2. An installed `enzyme-ad` of the pinned version. On Python 3.11 it is a dependency of metagrad. On
   later ones pip falls back to an old version, whose passes are others; it is not taken.
3. The user's data folder, into which the library is fetched when it is first needed (fetch.py).

To find out which of them it is takes no network and fetches nothing: what is in the compilation
cache needs the library's identity only.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import importlib.metadata
import os
import pathlib
from typing import Literal, NamedTuple

from metagrad.compiler.enzyme import fetch, wheel
from metagrad.compiler.enzyme.error import EnzymeError

VARIABLE = "METAGRAD_ENZYME"

_NAME = "enzyme_call*.so"
_PLACES = ("", "jax", "enzyme_ad/jax")


class Library(NamedTuple):
    """Enzyme's library, and where it comes from.

    Attributes:
      file: the library. It may not be there yet: `path` gets it.
      origin: METAGRAD_ENZYME, the installed package, or the data folder.
      identity: what tells this build from another.
      wheel: the wheel that METAGRAD_ENZYME names, out of which it comes.
    """

    file: pathlib.Path
    origin: Literal["by hand", "installed", "fetched"]
    identity: str
    wheel: pathlib.Path | None = None

    @property
    def present(self) -> bool:
        """Whether the library is there, so that `path` has nothing to do."""
        return wheel.unpacked() if self.file == wheel.library() else self.file.is_file()

    @property
    def remedy(self) -> str:
        """What to do if it cannot be loaded, or is wrong."""
        if self.origin == "installed":
            version = wheel.PIN.version
            return f"Install it anew: pip install --force-reinstall --no-deps enzyme-ad=={version}"
        if self.origin == "by hand":
            return f"{VARIABLE} names it ({os.environ.get(VARIABLE)}); without {VARIABLE} metagrad \
fetches one itself"
        return f"Delete {self.file.parent}; then it is fetched anew"


def locate() -> Library:
    """The library that is used, there or still to be fetched.

    Raises:
      EnzymeError: METAGRAD_ENZYME names nothing that can be one.
    """
    return _locate(os.environ.get(VARIABLE, ""), wheel.library())


def path() -> str:
    """Path of the library; fetches it if it is not there.

    Raises:
      EnzymeError: METAGRAD_ENZYME names nothing that can be one, or it cannot be fetched.
    """
    library = locate()
    if not library.present:
        if library.wheel is None:
            fetch.fetch()
        else:
            with wheel.locked() as where:
                if not wheel.unpacked():
                    wheel.unpack(library.wheel, where)
    return str(library.file)


def identity() -> str:
    """What tells this build of the library from another: the version and the SHA-256.

    Raises:
      EnzymeError: METAGRAD_ENZYME names nothing that can be one.
    """
    return locate().identity


@functools.cache
def _locate(by_hand: str, unpacked: pathlib.Path) -> Library:
    if by_hand:
        return _by_hand(pathlib.Path(os.path.expanduser(by_hand)).absolute(), unpacked)
    installed = _installed()
    if installed is not None:
        return installed
    return Library(unpacked, "fetched", _pinned())


def _pinned() -> str:
    return f"enzyme-ad {wheel.PIN.version} {wheel.PIN.library_digest}"


def _installed() -> Library | None:
    """The library of an installed enzyme-ad, if that has the pinned version."""
    try:
        package = importlib.metadata.distribution("enzyme-ad")
    except importlib.metadata.PackageNotFoundError:
        return None
    if package.version != wheel.PIN.version:
        return None
    for file in package.files or ():
        if file.match(_NAME) and pathlib.Path(file.locate()).is_file():
            # The digest stands in the package's list of files as base64 without padding.
            recorded = file.hash.value if file.hash else ""
            digest = base64.urlsafe_b64decode(recorded + "=" * (-len(recorded) % 4)).hex()
            name = f"enzyme-ad {package.version} {digest}"
            return Library(pathlib.Path(file.locate()), "installed", name)
    return None


def _by_hand(named: pathlib.Path, unpacked: pathlib.Path) -> Library:
    try:
        file = _in_folder(named) if named.is_dir() else named
        if file.suffix == ".whl":
            complaint = wheel.complaint(file)
            if complaint is not None:
                raise EnzymeError(
                    f"{VARIABLE} names {file}, which is not the wheel {wheel.PIN.wheel}: "
                    f"{complaint}. {fetch.elsewhere()}"
                )
            return Library(unpacked, "by hand", _pinned(), file)
        with file.open("rb") as opened:
            if opened.read(4) != b"\x7fELF":
                raise EnzymeError(
                    f"{VARIABLE} names {file}, which is neither a shared library nor a wheel. It "
                    "must name enzyme_call.so, the wheel it comes in, or a folder that holds one "
                    "of them."
                )
            opened.seek(0)
            digest = hashlib.file_digest(opened, "sha256").hexdigest()
    except OSError as error:
        reason = error.strerror or error
        raise EnzymeError(f"{VARIABLE} names {named}, which cannot be read: {reason}") from None
    return Library(file, "by hand", f"enzyme-ad {digest}")


def _in_folder(folder: pathlib.Path) -> pathlib.Path:
    for place in _PLACES:
        for file in sorted((folder / place).glob(_NAME)):
            return file
    if (folder / wheel.PIN.wheel).is_file():
        return folder / wheel.PIN.wheel
    raise EnzymeError(
        f"{VARIABLE} names the folder {folder}, which holds neither enzyme_call.so (there, in jax/ "
        f"or in enzyme_ad/jax/) nor {wheel.PIN.wheel}"
    )

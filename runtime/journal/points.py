"""What a journal saves: points, and the payloads that they refer to."""

from __future__ import annotations

import dataclasses
from typing import Any


@dataclasses.dataclass(frozen=True)
class PayloadRef:
    """Names a list of arrays that a journal stores.

    Attributes:
      number: the payload's number, which is also the name of its file.
    """

    number: int

    @property
    def file(self) -> str:
        """The name of the payload's file."""
        return f"{self.number:012d}.payload"


@dataclasses.dataclass(frozen=True)
class Point:
    """A moment that a run can go on from.

    Attributes:
      position: how many actions of the run's list of actions are done.
      record: what the run noted; anything that JSON can say.
      payloads: the arrays, by the names that the run gave them.
    """

    position: int
    record: dict[str, Any]
    payloads: dict[str, PayloadRef]


@dataclasses.dataclass(frozen=True)
class StoredPayload:
    """A payload's file as it was written.

    Attributes:
      bytes: the file's size.
      checksum: of the whole file but its last 16 bytes, which are this checksum; in hexadecimal.
    """

    ref: PayloadRef
    bytes: int
    checksum: str

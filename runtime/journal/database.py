"""The SQLite database of a journal: the identity of the run, its points, and their payloads.

Journal mode WAL with synchronous=FULL: a transaction is on the disk when it has been committed, for
one sync and a third of the time that a rollback journal takes. The locking mode is exclusive, so
that there is no shared memory and network file systems serve too.

SQLite finds a damaged page only if the page makes no sense, so a digest of all rows is in the
database too, and is compared when it is opened.
"""

from __future__ import annotations

import ctypes
import hashlib
import json
import pathlib
import sqlite3
from collections.abc import Iterable, Mapping
from typing import Any

from metagrad.runtime.journal.errors import JournalError
from metagrad.runtime.journal.points import PayloadRef, Point, StoredPayload

NAME = "journal.sqlite"
KEPT = 2
"""The number of points that are kept, the latest."""

_APPLICATION = 0x6D674A31
_VERSION = 1
_SCHEMA = """
CREATE TABLE identity (item TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE payload (number INTEGER PRIMARY KEY, bytes INTEGER NOT NULL, checksum TEXT NOT NULL);
CREATE TABLE point (number INTEGER PRIMARY KEY, position INTEGER NOT NULL, record TEXT NOT NULL);
CREATE TABLE content (
  point INTEGER NOT NULL REFERENCES point ON DELETE CASCADE,
  name TEXT NOT NULL,
  payload INTEGER NOT NULL REFERENCES payload,
  PRIMARY KEY (point, name)
) WITHOUT ROWID;
CREATE TABLE digest (value TEXT NOT NULL);
INSERT INTO digest VALUES ('');
"""
_ROWS = (
    "SELECT item, value FROM identity ORDER BY item",
    "SELECT number, bytes, checksum FROM payload ORDER BY number",
    "SELECT number, position, record FROM point ORDER BY number",
    "SELECT point, name, payload FROM content ORDER BY point, name",
)


class Database:
    """An open database. One thread at a time may use it.

    Raises:
      JournalError: the file is damaged, or is not a journal of this version.
      sqlite3.Error: it cannot be opened or written.
    """

    def __init__(self, path: pathlib.Path):
        self._path = path
        self._connection = sqlite3.connect(
            path, timeout=0, isolation_level=None, check_same_thread=False
        )
        try:
            self._prepare()
        except sqlite3.DatabaseError as error:
            self.close()
            if _is_damage(error):
                raise self._damaged(str(error)) from error
            raise
        except BaseException:
            self.close()
            raise

    def _prepare(self) -> None:
        execute = self._connection.execute
        execute("PRAGMA locking_mode = EXCLUSIVE")
        # Before anything is written: is this a database of ours?
        (application,) = execute("PRAGMA application_id").fetchone()
        (version,) = execute("PRAGMA user_version").fetchone()
        (tables,) = execute("SELECT count(*) FROM sqlite_schema").fetchone()
        if application != _APPLICATION and (tables or version or application):
            raise self._damaged("it is not a journal of metagrad")
        if tables and version != _VERSION:
            raise JournalError(
                f"{self._path} was written by another version of metagrad (its format is "
                f"{version}, and this one reads {_VERSION}). Go on with that version, or name "
                "another resume_dir."
            )
        execute("PRAGMA journal_mode = WAL")
        execute("PRAGMA synchronous = FULL")
        execute("PRAGMA foreign_keys = ON")
        self.is_new = not tables
        if tables:
            (verdict,) = execute("PRAGMA integrity_check(1)").fetchone()
            if verdict != "ok":
                raise self._damaged(verdict)
            (digest,) = execute("SELECT value FROM digest").fetchone()
            if digest != self._digest():
                raise self._damaged("its digest is not that of its content")

    def identity(self) -> dict[str, Any]:
        """The identity of the run; empty if there is none (yet, or no longer)."""
        if self.is_new:
            return {}
        rows = self._connection.execute("SELECT item, value FROM identity")
        return {item: json.loads(value) for item, value in rows}

    def begin(self, identity: Mapping[str, Any]) -> None:
        """Begins the journal of a run."""
        if self.is_new:
            self._connection.execute(f"PRAGMA application_id = {_APPLICATION}")
        schema = _SCHEMA if self.is_new else ""
        items = [(item, json.dumps(value)) for item, value in identity.items()]
        with _Transaction(self, schema):
            self._connection.executemany("INSERT INTO identity VALUES (?, ?)", items)
        self.is_new = False

    def points(self) -> list[Point]:
        """The points that are kept, the oldest first."""
        rows = self._connection.execute(
            "SELECT number, position, record FROM point ORDER BY number"
        )
        return [
            Point(position, json.loads(record), self._payloads_of(number))
            for number, position, record in rows.fetchall()
        ]

    def payloads(self) -> list[StoredPayload]:
        """The payloads that the points refer to."""
        rows = self._connection.execute("SELECT number, bytes, checksum FROM payload")
        return [StoredPayload(PayloadRef(number), *rest) for number, *rest in rows]

    def commit(self, point: Point, record: str, payloads: Iterable[StoredPayload]) -> None:
        """Adds a point, and forgets all but the KEPT latest.

        Args:
          point: the point.
          record: its record, as JSON.
          payloads: what it refers to.
        """
        execute = self._connection.execute
        with _Transaction(self):
            self._connection.executemany(
                "INSERT OR IGNORE INTO payload VALUES (?, ?, ?)",
                [(stored.ref.number, stored.bytes, stored.checksum) for stored in payloads],
            )
            number = execute(
                "INSERT INTO point (number, position, record) "
                "SELECT coalesce(max(number), 0) + 1, ?, ? FROM point RETURNING number",
                (point.position, record),
            ).fetchone()[0]
            self._connection.executemany(
                "INSERT INTO content VALUES (?, ?, ?)",
                [(number, name, ref.number) for name, ref in point.payloads.items()],
            )
            execute("DELETE FROM point WHERE number <= ?", (number - KEPT,))
            execute("DELETE FROM payload WHERE number NOT IN (SELECT payload FROM content)")

    def keep_first(self, count: int) -> None:
        """Forgets all points but the oldest `count`, and what they alone refer to."""
        execute = self._connection.execute
        with _Transaction(self):
            execute(
                "DELETE FROM point WHERE number NOT IN "
                "(SELECT number FROM point ORDER BY number LIMIT ?)",
                (count,),
            )
            execute("DELETE FROM payload WHERE number NOT IN (SELECT payload FROM content)")

    def clear(self) -> None:
        """Forgets the run: the database is as one that has not begun."""
        with _Transaction(self):
            for table in ("content", "point", "payload", "identity"):
                self._connection.execute(f"DELETE FROM {table}")

    def close(self) -> None:
        self._connection.close()

    def leave_to_parent(self) -> None:
        """Keeps a forked process from ever closing its copy of the connection.

        Closing would write back what the parent is still writing.
        """
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(self._connection))

    def _payloads_of(self, point: int) -> dict[str, PayloadRef]:
        rows = self._connection.execute(
            "SELECT name, payload FROM content WHERE point = ?", (point,)
        )
        return {name: PayloadRef(number) for name, number in rows}

    def _digest(self) -> str:
        digest = hashlib.sha256()
        for query in _ROWS:
            digest.update(json.dumps(self._connection.execute(query).fetchall()).encode())
        return digest.hexdigest()

    def _damaged(self, why: str) -> JournalError:
        return JournalError(
            f"{self._path} is damaged: {why}. The run cannot go on from it. Restore the directory "
            f"from a copy, or remove {str(self._path.parent)!r} to start anew."
        )


class _Transaction:
    """A transaction, with the digest of the content at its end."""

    def __init__(self, database: Database, schema: str = ""):
        self._connection, self._digest = database._connection, database._digest
        self._schema = schema

    def __enter__(self) -> None:
        self._connection.execute("BEGIN IMMEDIATE")
        if self._schema:
            for statement in self._schema.strip().rstrip(";").split(";\n"):
                self._connection.execute(statement)
            self._connection.execute(f"PRAGMA user_version = {_VERSION}")

    def __exit__(self, kind, error, traceback) -> None:
        try:
            if kind is None:
                self._connection.execute("UPDATE digest SET value = ?", (self._digest(),))
                self._connection.execute("COMMIT")
        finally:
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")


def _is_damage(error: sqlite3.DatabaseError) -> bool:
    """Whether the file is the cause: SQLITE_ERROR says that a table of ours is not there."""
    name = getattr(error, "sqlite_errorname", "")
    return name == "SQLITE_ERROR" or name.startswith(("SQLITE_CORRUPT", "SQLITE_NOTADB"))

"""The journal of a long run: what it needs to go on after the process was killed.

A run saves points: its position in its list of actions, a record, and arrays. Arrays are payloads,
one file each; the points are in an SQLite database. A point is committed to the database only when
its payloads are on the disk, so whatever moment a process dies in, the directory holds its last
saved point whole.

    directory/
      lock              held (flock) by the process that runs; says which one it is
      journal.sqlite    the identity of the run, the two latest points, what payloads they refer to
      payloads/         000000000017.payload, ...
"""

from metagrad.runtime.journal.errors import JournalError
from metagrad.runtime.journal.journal import Journal
from metagrad.runtime.journal.points import PayloadRef, Point

__all__ = ["Journal", "JournalError", "PayloadRef", "Point"]

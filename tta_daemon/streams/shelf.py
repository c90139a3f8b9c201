"""States of streams that found no room in memory: on the disk, for as long as the process lives."""

import sqlite3
from collections.abc import Collection

from tta_daemon.errors import CheckpointError
from tta_daemon.stream.records import Partition, Stream

TABLE = "CREATE TABLE states (topic TEXT, number INT, name TEXT, blob BLOB, PRIMARY KEY (topic, number, name))"
PLACE = "WHERE topic = ? AND number = ? AND name = ?"
CACHE_KIB = 4096


class Shelf:
    """A scratch file that the system deletes when the process ends: nothing on it has to be durable, or ever synced.

    Raises:
        CheckpointError: from any call, where the disk is full or there is no folder for temporary files.
    """

    def __init__(self) -> None:
        self._file: sqlite3.Connection | None = None

    def put(self, stream: Stream, blob: bytes) -> None:
        """Keep this state of a stream, in the place of any other."""
        self._do("INSERT OR REPLACE INTO states VALUES (?, ?, ?, ?)", (*_key(stream), blob))

    def get(self, stream: Stream) -> bytes | None:
        """The stream's state."""
        row = self._do(f"SELECT blob FROM states {PLACE}", _key(stream)).fetchone()  # noqa: S608 - a constant
        return row[0] if row else None

    def drop(self, stream: Stream) -> None:
        """Forget the stream's state."""
        self._do(f"DELETE FROM states {PLACE}", _key(stream))  # noqa: S608 - a constant

    def drop_all(self, partitions: Collection[Partition]) -> None:
        """Forget the states of all streams of these partitions."""
        for partition in partitions:
            self._do("DELETE FROM states WHERE topic = ? AND number = ?", tuple(partition))

    def close(self) -> None:
        """Delete everything."""
        if self._file is not None:
            self._file.close()
        self._file = None

    def _do(self, statement: str, values: tuple[object, ...]) -> sqlite3.Cursor:
        try:
            if self._file is None:
                self._file = sqlite3.connect("", isolation_level=None)  # "": a file that nobody sees
                self._file.execute("PRAGMA journal_mode = OFF")
                self._file.execute("PRAGMA synchronous = OFF")
                self._file.execute(f"PRAGMA cache_size = -{CACHE_KIB}")
                self._file.execute(TABLE)
            return self._file.execute(statement, values)
        except sqlite3.Error as error:
            remedy = "is there room, and a folder for temporary files (TMPDIR)?"
            raise CheckpointError(
                f"streams that leave memory cannot be kept on the disk: {error} ({remedy})"
            ) from error


def _key(stream: Stream) -> tuple[str, int, str]:
    return (*stream.place, stream.name)

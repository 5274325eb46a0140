"""Profiles on disk for as long as the process lives: in a nameless file that the system removes with the process.

Does not know what a profile holds. The file lies in the folder of TMPDIR, grows to what the records take and is nobody else's.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator, Mapping

CACHE_KIB = 65_536  # of the file, in memory


class Scratch:
    """User id -> record. One thread at a time, whichever."""

    def __init__(self) -> None:
        self._file = sqlite3.connect("", isolation_level=None, check_same_thread=False)  # "": unlinked as soon as it is made
        for line in (f"PRAGMA cache_size = -{CACHE_KIB}", "PRAGMA journal_mode = OFF", "PRAGMA synchronous = OFF"):
            self._file.execute(line)
        self._file.execute("CREATE TABLE profiles (user BLOB PRIMARY KEY, record BLOB NOT NULL)")

    def get(self, user_id: str) -> bytes | None:
        """Return a user's record."""
        found = self._file.execute("SELECT record FROM profiles WHERE user = ?", (user_id.encode(),)).fetchone()
        return None if found is None else bytes(found[0])

    def put(self, records: Mapping[str, bytes | None]) -> None:
        """Replace records; an empty one, or None, deletes."""
        self._file.execute("BEGIN")
        self._file.executemany("INSERT OR REPLACE INTO profiles VALUES (?, ?)", _kept(records.items()))
        self._file.executemany(
            "DELETE FROM profiles WHERE user = ?", [(u.encode(),) for u, record in records.items() if not record]
        )
        self._file.execute("COMMIT")

    def __len__(self) -> int:
        return int(self._file.execute("SELECT count(*) FROM profiles").fetchone()[0])

    def close(self) -> None:
        """Let the file go."""
        self._file.close()


def _kept(records: Iterable[tuple[str, bytes | None]]) -> Iterator[tuple[bytes, bytes]]:
    return ((user_id.encode(), record) for user_id, record in records if record)

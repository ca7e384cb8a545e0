"""The quarantine of a corpus: rows that are no documents, as their files have them."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict

from rayinfluence.corpus.documents import BadDocument
from rayinfluence.corpus.fragments import FileReport
from rayinfluence.storage.digest import digest_bytes

#: Folder of a corpus.
QUARANTINE = "quarantine"
#: Rows of a file, or of a part of one, that are kept; all are counted.
_MOST = 1000


class Quarantine:
    """The first rows of a file, or of a part of one, that are no documents."""

    def __init__(self, report: FileReport) -> None:
        self._report = report
        self._lines: list[bytes] = []

    def refuse(self, bad: BadDocument) -> None:
        """Count a row that is no document."""
        self._report.refuse(bad.place, bad.reason)
        if len(self._lines) < _MOST:
            self._lines.append(json.dumps(asdict(bad), ensure_ascii=False).encode() + b"\n")

    def write(self, write: Callable[[str, bytes], None]) -> None:
        """Write what is kept, as JSON lines, and note in the report where that is and how much.

        Args:
            write: stores an object under a key.
        """
        if not self._lines:
            return
        body = b"".join(self._lines)
        # By its bytes, as shards: who tokenises the same again writes the same object.
        key = f"{QUARANTINE}/{digest_bytes(body)}.jsonl"
        write(key, body)
        self._report.quarantine.append(key)
        self._report.quarantined += len(self._lines)

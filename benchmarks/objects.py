"""Whole objects by HTTP, as a client of an object store puts and gets them: one kept connection per thread."""

from __future__ import annotations

import http.client
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import IO
from urllib.parse import urlsplit

from benchmarks.children import WorkloadError

_SECONDS_MAX = 600.0
_PIECE_BYTES = 1 << 20


class Objects:
    """The objects below `place`: an address and, behind a space, the token that is shown there. Any thread."""

    def __init__(self, place: str) -> None:
        url, _, token = place.partition(" ")
        parts = urlsplit(url)
        self._host = parts.netloc
        self._base = parts.path
        self._headers = {"X-Auth-Token": token}
        self._kept = threading.local()

    def make_container(self, name: str) -> None:
        self._ask("PUT", name)

    def put(self, name: str, content: bytes) -> None:
        """Stored when it returns, by a majority of those who keep it. Raises WorkloadError, OSError."""
        self._ask("PUT", name, content)

    def put_file(self, name: str, source: str) -> None:
        size = Path(source).stat().st_size
        with open(source, "rb") as file:
            self._ask("PUT", name, file, {"Content-Length": str(size)})

    def get(self, name: str) -> int:
        """Read all of it into memory that is used again; how many bytes that were."""
        return self._ask("GET", name)

    def _ask(
        self,
        method: str,
        name: str,
        body: bytes | IO[bytes] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> int:
        connection = self._connection()
        connection.request(method, f"{self._base}/{name}", body, {**self._headers, **(headers or {})})
        answer = connection.getresponse()
        size = _discard(answer)
        if answer.status not in (200, 201, 202, 204):
            raise WorkloadError(f"{method} {name}: {answer.status} {answer.reason}")
        return size

    def _connection(self) -> http.client.HTTPConnection:
        found: http.client.HTTPConnection | None = getattr(self._kept, "connection", None)
        if found is None:
            found = http.client.HTTPConnection(self._host, timeout=_SECONDS_MAX, blocksize=_PIECE_BYTES)
            self._kept.connection = found
        return found


def _discard(answer: http.client.HTTPResponse) -> int:
    piece = bytearray(_PIECE_BYTES)
    size = 0
    while count := answer.readinto(piece):
        size += count
    return size

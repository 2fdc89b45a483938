"""What an exchange over a stream raises when it has no answer."""

from __future__ import annotations

from typing import Any

import grpc


class BrokenStreamError(grpc.RpcError):
    """An exchange that ended without an answer, with the face of a failed call."""

    def __init__(self, code: grpc.StatusCode, details: str, trailing_metadata: tuple[Any, ...] = ()) -> None:
        super().__init__(details)
        self._code = code
        self._details = details
        self._trailing_metadata = trailing_metadata

    def code(self) -> grpc.StatusCode:
        return self._code

    def details(self) -> str:
        return self._details

    def trailing_metadata(self) -> tuple[Any, ...]:
        return self._trailing_metadata

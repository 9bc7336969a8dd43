"""Answers sent piece by piece, and a watch for clients that disconnect."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine
from typing import Any, TypeVar

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from llmlite.serve.faults import Fault, from_error

T = TypeVar("T")
SSE = "text/event-stream; charset=utf-8"
NDJSON = "application/x-ndjson"


class ClientLeft(Exception):  # noqa: N818 (not an error)
    """Raised when the client has closed the connection, so nobody will read the answer."""


def compact(value: Any) -> str:
    """Return a value as JSON on one line.

    Raises:
        ValueError: If it has NaN or infinity, which aren't JSON.
    """
    return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))


def event(value: Any) -> str:
    """Return a value as a server-sent event."""
    return f"data: {compact(value)}\n\n"


def line(value: Any) -> str:
    """Return a value as a line of NDJSON."""
    return compact(value) + "\n"


async def _until_left(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def unless_left(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """Return the result of `work`; cancel it if the client leaves. Exceptions of `work` are raised too.

    Raises:
        ClientLeft: If the client left first.
    """
    task = asyncio.ensure_future(work)
    left = asyncio.ensure_future(_until_left(request.receive))
    try:
        await asyncio.wait({task, left}, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        raise ClientLeft
    finally:
        for each in (task, left):
            each.cancel()
            with contextlib.suppress(asyncio.CancelledError, Exception):
                await each


class Stream(Response):
    """An answer that is sent while it is made. It is cancelled if the client disconnects.

    Args:
        first: the first part. It is made before the answer begins, so a refused request gets its own status.
        parts: the other parts.
        media_type: the content type.
        failed: makes the last part of an answer that fails after its beginning.
        headers: more headers of the answer.
    """

    def __init__(
        self,
        first: str | bytes,
        parts: AsyncIterator[str | bytes],
        *,
        media_type: str,
        failed: Callable[[Fault], str | bytes],
        headers: dict[str, str] | None = None,
    ) -> None:
        self.status_code, self.background = 200, None  # no body here, because its length isn't known
        self._first, self._parts, self._failed = first, parts, failed
        self.media_type = media_type
        self.init_headers({"cache-control": "no-store", "x-accel-buffering": "no", **(headers or {})})

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        task = asyncio.ensure_future(self._send(send))
        left = asyncio.ensure_future(_until_left(receive))
        try:
            await asyncio.wait({task, left}, return_when=asyncio.FIRST_COMPLETED)
            if task.done():
                task.result()
        finally:
            for each in (task, left):
                each.cancel()
                with contextlib.suppress(asyncio.CancelledError, Exception):
                    await each
            close = getattr(self._parts, "aclose", None)
            if close is not None:
                await close()

    async def _send(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})

        async def part(value: str | bytes) -> None:
            body = value.encode() if isinstance(value, str) else value
            await send({"type": "http.response.body", "body": body, "more_body": True})

        await part(self._first)
        try:
            async for each in self._parts:
                await part(each)
        except asyncio.CancelledError:
            raise
        except Exception as error:
            await part(self._failed(from_error(error)))
        await send({"type": "http.response.body", "body": b"", "more_body": False})


async def streamed(
    request: Request,
    parts: AsyncGenerator[str | bytes, None],
    *,
    media_type: str,
    failed: Callable[[Fault], str | bytes],
    headers: dict[str, str] | None = None,
) -> Response:
    """Wait for the first part, then return the answer that sends it and the others.

    An exception that `parts` raises before its first part is raised here too.

    Raises:
        ClientLeft: If the client left before the first part.
    """
    try:
        first = await unless_left(request, parts.__anext__())
    except BaseException:
        await parts.aclose()
        raise
    return Stream(first, parts, media_type=media_type, failed=failed, headers=headers)


def answer(value: Any, headers: dict[str, str] | None = None) -> Response:
    """Return a value as JSON. Bytes of a file's texts that aren't UTF-8, such as a token's, become "?"."""
    body = compact(value).encode("utf-8", "replace")
    return Response(body, media_type="application/json", headers=headers)

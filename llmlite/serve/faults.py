"""What a server answers when it can't do what a client asks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llmlite.errors import (
    ChatTemplateError,
    ContextOverflowError,
    LlmliteError,
    ModelError,
    NumericsError,
    SamplingError,
    TokenizerError,
)

KINDS = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "invalid_request_error",
    429: "rate_limit_error",
}


class Fault(Exception):  # noqa: N818 (an answer as much as an error)
    """A request that is refused, or that failed.

    Attributes:
        status: of HTTP. message: one sentence. param: the field at fault, or None. code: a word that programs
            look for, or None. headers: of the answer.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.param, self.code = status, message, param, code
        self.headers = dict(headers or {})

    @property
    def body(self) -> dict[str, Any]:
        """The answer in OpenAI's form."""
        kind = KINDS.get(self.status, "server_error" if self.status >= 500 else "invalid_request_error")
        return {
            "error": {"message": self.message, "type": kind, "param": self.param, "code": self.code},
        }


def overflow(n_prompt: int, n_ctx: int) -> Fault:
    """A prompt that doesn't fit the context."""
    return Fault(
        400,
        f"the context holds {n_ctx} tokens, and one must be left to write; the prompt has {n_prompt}",
        param="messages",
        code="context_length_exceeded",
    )


def queue_full(limit: int, retry_after: int) -> Fault:
    """Too many requests wait already."""
    return Fault(
        429,
        f"{limit} requests wait already; try again in {retry_after} s",
        code="queue_full",
        headers={"retry-after": str(retry_after)},
    )


def too_late(seconds: float) -> Fault:
    """A request took longer than the server allows."""
    return Fault(504, f"the request took longer than {seconds:g} s and was ended", code="timeout")


def from_error(error: Exception) -> Fault:
    """The answer for what llmlite raises; anything else says nothing about the inside of the server."""
    if isinstance(error, Fault):
        return error
    if isinstance(error, ContextOverflowError):
        return Fault(400, str(error), code="context_length_exceeded")
    if isinstance(error, MemoryError):
        return Fault(503, "the server has not enough memory for this request", code="out_of_memory")
    if isinstance(error, NumericsError):
        return Fault(500, str(error), code="model_failed")
    if isinstance(error, (ChatTemplateError, TokenizerError, ModelError, SamplingError, LlmliteError)):
        return Fault(400, str(error), code="model_refused")
    if isinstance(error, (ValueError, TypeError)):
        return Fault(400, str(error))
    return Fault(500, "the server failed on this request; its log says why", code="internal_error")

"""A server's answers to requests that it refuses or that fail."""

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
        status: the HTTP status.
        message: one sentence.
        param: the field at fault, or None.
        code: a word that programs can check, or None.
        headers: headers of the answer.
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
    """Return the fault for a prompt that doesn't fit the context."""
    return Fault(
        400,
        f"the prompt has {n_prompt} tokens; the context holds {n_ctx}, and one must be left to write",
        param="messages",
        code="context_length_exceeded",
    )


def queue_full(limit: int, retry_after: int) -> Fault:
    """Return the fault for a full queue."""
    return Fault(
        429,
        f"{limit} requests are already waiting; try again in {retry_after} s",
        code="queue_full",
        headers={"retry-after": str(retry_after)},
    )


def too_late(seconds: float) -> Fault:
    """Return the fault for a request that took longer than the server allows."""
    return Fault(504, f"the request took longer than {seconds:g} s and was stopped", code="timeout")


def from_error(error: Exception) -> Fault:
    """Return the fault for an exception. Unknown exceptions reveal nothing about the server."""
    if isinstance(error, Fault):
        return error
    if isinstance(error, ContextOverflowError):
        return Fault(400, str(error), code="context_length_exceeded")
    if isinstance(error, MemoryError):
        return Fault(503, "the server doesn't have enough memory for this request", code="out_of_memory")
    if isinstance(error, NumericsError):
        return Fault(500, str(error), code="model_failed")
    if isinstance(error, (ChatTemplateError, TokenizerError, ModelError, SamplingError, LlmliteError)):
        return Fault(400, str(error), code="model_refused")
    if isinstance(error, (ValueError, TypeError)):
        return Fault(400, str(error))
    return Fault(500, "the server failed on this request; its log has the reason", code="internal_error")

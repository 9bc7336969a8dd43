"""The settings of a server."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

DEFAULT_PORT = 8080
DEFAULT_SEQUENCES = 8
DEFAULT_QUEUE = 128


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The settings of a server.

    Attributes:
        name: the model's name for clients.
        max_sequences: the number of texts written at the same time.
        prefill_tokens: the most prompt tokens read in one step. A limit lets other texts continue during a
            long prompt, and lets the server notice that a client has left.
        max_queue: requests that may wait; more are refused with 429.
        max_body_bytes: the largest request; a larger one is refused with 413.
        max_seconds: the longest time for a request; a slower one is stopped.
        max_choices: texts that one request may ask for (n times the number of prompts).
        max_inputs: texts that one request may hold.
        context_overflow: "refuse" a conversation that doesn't fit the context, or "drop-oldest" turns.
        pooling: for embeddings, as in `Model.embed`; None means as the file says.
        api_key: the key that requests must have; None requires no key.
        is_local: whether the server is bound to the loopback interface. If so, it answers only requests whose
            host is a name of that interface.
        sagemaker: also answer in the form of a SageMaker container.

    Raises:
        ValueError: If a value is out of range.
    """

    name: str
    max_sequences: int = DEFAULT_SEQUENCES
    prefill_tokens: int = 256
    max_queue: int = DEFAULT_QUEUE
    max_body_bytes: int = 8 << 20
    max_seconds: float = 600.0
    max_choices: int = 64
    max_inputs: int = 2048
    context_overflow: Literal["refuse", "drop-oldest"] = "refuse"
    pooling: str | None = None
    api_key: str | None = None
    is_local: bool = False
    sagemaker: bool = False

    def __post_init__(self) -> None:
        for field in ("max_sequences", "prefill_tokens", "max_queue", "max_body_bytes", "max_choices"):
            value = getattr(self, field)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(f"{field} must be a whole number, 1 or more; got {value!r}")
        if not self.max_seconds > 0:
            raise ValueError(f"max_seconds must be positive; got {self.max_seconds!r}")
        if self.context_overflow not in ("refuse", "drop-oldest"):
            raise ValueError(f"context_overflow must be refuse or drop-oldest; got {self.context_overflow!r}")
        if self.api_key == "":
            raise ValueError("api_key must not be empty")

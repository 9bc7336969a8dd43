"""What a server is told when it starts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

DEFAULT_PORT = 8080
DEFAULT_SEQUENCES = 8
DEFAULT_QUEUE = 128


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How a server behaves.

    Attributes:
        name: the model's name, as clients ask for it.
        max_sequences: how many texts are written at the same time.
        prefill_tokens: the most prompt tokens read in one step, so that a long prompt doesn't
            hold up the texts that are being written, and a client that leaves is noticed.
        max_queue: requests that wait for their turn; more are refused with 429.
        max_body_bytes: a larger request is refused with 413.
        max_seconds: a request that takes longer is stopped.
        max_choices: texts that one request may ask for (n times prompts).
        max_inputs: texts that one request for embeddings may hold.
        context_overflow: "refuse" a conversation that doesn't fit the context, or "drop-oldest" turns.
        pooling: for embeddings, as in `Model.embed`; None takes what the file says.
        api_key: requests must bring it; None lets everybody in.
        is_local: bound to the loopback interface: only requests that name it as their host are answered.
        sagemaker: also answer in the form of a SageMaker container.
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

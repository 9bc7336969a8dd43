"""The figures of a server, for Prometheus."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)


class Metrics:
    """The counters of one server, in a registry of their own.

    Attributes:
        requests: requests by path and status.
        seconds: time of whole requests.
        first_token: time from a request's arrival to its first token.
        read: tokens of prompts that were read.
        cached: tokens of prompts that a cache already held.
        made: tokens written.
        rejected: requests refused because the queue was full.
        cancelled: jobs whose client left.
    """

    CONTENT_TYPE = CONTENT_TYPE_LATEST

    def __init__(self) -> None:
        registry = self.registry = CollectorRegistry()
        self.requests = Counter(
            "llmlite_requests", "Requests answered.", ["path", "status"], registry=registry
        )
        self.seconds = Histogram(
            "llmlite_request_seconds", "Time of whole requests.", ["path"], buckets=SECONDS, registry=registry
        )
        self.first_token = Histogram(
            "llmlite_first_token_seconds",
            "Time from a request's arrival to its first token.",
            buckets=SECONDS,
            registry=registry,
        )
        self.read = Counter("llmlite_prompt_tokens", "Tokens of prompts that were read.", registry=registry)
        self.cached = Counter(
            "llmlite_cached_tokens", "Tokens of prompts that a cache already held.", registry=registry
        )
        self.made = Counter("llmlite_generated_tokens", "Tokens that were written.", registry=registry)
        self.rejected = Counter(
            "llmlite_rejected", "Requests refused because the queue was full.", registry=registry
        )
        self.cancelled = Counter("llmlite_cancelled", "Texts whose client left.", registry=registry)
        self._running = Gauge("llmlite_running", "Texts that are being written.", registry=registry)
        self._waiting = Gauge("llmlite_waiting", "Requests in the queue.", registry=registry)

    def watch(self, running: Callable[[], float], waiting: Callable[[], float]) -> None:
        """Call these functions whenever the figures are read."""
        self._running.set_function(running)
        self._waiting.set_function(waiting)

    def text(self) -> bytes:
        """Return all figures in Prometheus's text format."""
        return generate_latest(self.registry)

"""A server as a process: its socket, its signals, its log."""

from __future__ import annotations

import logging
import socket
import sys
from typing import TYPE_CHECKING

import uvicorn

from llmlite.errors import LlmliteError
from llmlite.serve.settings import Settings
from llmlite.serve.web import make_app
from llmlite.terminal import say

if TYPE_CHECKING:
    from llmlite.model import Model


def serve(model: Model, settings: Settings, host: str, port: int, *, grace: int, quiet: bool) -> int:
    """Serve until SIGTERM or Ctrl-C. Then let running answers finish, for at most `grace` seconds.

    Raises:
        LlmliteError: If the address isn't available.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
    log = logging.getLogger("llmlite.serve")
    log.handlers, log.propagate = [handler], False
    log.setLevel(logging.WARNING if quiet else logging.INFO)
    listening = _listen(host, port)
    shown = f"[{host}]" if ":" in host else host
    say(
        f"llmlite: {settings.name} at http://{shown}:{listening.getsockname()[1]}/ (Ctrl-C ends)",
        file=sys.stderr,
        flush=True,
    )
    config = uvicorn.Config(
        make_app(model, settings),
        log_config=None,
        access_log=False,
        server_header=False,
        http="h11",
        ws="none",
        timeout_keep_alive=15,
        timeout_graceful_shutdown=grace,
        limit_concurrency=settings.max_queue + settings.max_sequences + 256,
    )
    uvicorn.Server(config).run(sockets=[listening])
    return 0


def _listen(host: str, port: int) -> socket.socket:
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        # asyncio sets TCP_NODELAY only if the protocol is named; without it, answers are delayed by 40 ms
        listening = socket.socket(family, kind, protocol)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
        listening.listen(1024)
        listening.setblocking(False)
    except OSError as error:
        raise LlmliteError(f"{host}:{port}: {error.strerror or error}; --port chooses another") from None
    return listening

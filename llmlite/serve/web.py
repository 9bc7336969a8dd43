"""The ASGI application: routes, and the checks and limits of every request."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import hmac
import logging
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import SplitResult, urlsplit

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from llmlite.serve.faults import Fault, from_error, too_late
from llmlite.serve.ollama import Ollama
from llmlite.serve.openai import OpenAI
from llmlite.serve.responses import ClientLeft
from llmlite.serve.service import Service
from llmlite.serve.settings import Settings
from llmlite.serve.tokenizing import Tokenizing

if TYPE_CHECKING:
    from llmlite.model import Model

log = logging.getLogger("llmlite.serve")
OPEN = ("/", "/health", "/ping")  # answered without a key, because they reveal nothing
LOCAL = ("localhost", "127.0.0.1", "::1", "testserver")
GRACE = 5.0  # seconds after max_seconds in which an answer can still report its own timeout
PAGE = Path(__file__).with_name("page.html")
POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'; "
    "img-src data:"
)


def make_app(model: Model, settings: Settings) -> Starlette:
    """Return the ASGI application that serves a model.

    Its engine runs between the application's startup and shutdown. `app.state.service` is the Service.
    """
    service = Service(model, settings)
    openai = OpenAI(service)
    routes = [
        Route("/", page, methods=["GET"]),
        Route("/health", health, methods=["GET"]),
        Route("/metrics", metrics, methods=["GET"]),
        *openai.routes,
        *Tokenizing(service).routes,
        *Ollama(service).routes,
        *extra_routes(service, openai),
    ]

    @contextlib.asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        service.engine.start()
        try:
            yield
        finally:
            await asyncio.to_thread(service.engine.stop)

    app = Starlette(
        routes=routes,
        lifespan=lifespan,
        exception_handlers={
            Exception: on_error,
            Fault: on_error,
            HTTPException: on_http,
            ClientLeft: on_left,
        },
    )
    app.state.service = service
    app.add_middleware(Surroundings, service=service)
    return app


def extra_routes(service: Service, openai: OpenAI) -> list[Route]:
    """Return the routes of other servers' protocols."""
    from llmlite.serve.kserve import KServe

    found = KServe(service).routes
    if service.settings.sagemaker:
        from llmlite.serve.sagemaker import SageMaker

        found = [*found, *SageMaker(service, openai).routes]
    return found


async def page(request: Request) -> Response:
    """GET /: a page to chat with. ollama's clients use HEAD / to check that a server is running."""
    text = await asyncio.to_thread(PAGE.read_text, "utf-8")
    return HTMLResponse(
        text, headers={"content-security-policy": POLICY, "x-content-type-options": "nosniff"}
    )


async def health(request: Request) -> Response:
    """GET /health: 200 while the engine runs, else 503."""
    engine = request.app.state.service.engine
    if engine.is_alive:
        return JSONResponse({"status": "ok", "running": engine.n_running, "waiting": engine.n_waiting})
    return JSONResponse({"status": "error"}, 503)


async def metrics(request: Request) -> Response:
    """GET /metrics."""
    found = request.app.state.service.metrics
    return Response(found.text(), media_type=found.CONTENT_TYPE)


# ---- errors ------------------------------------------------------------------------------------------------


def refusal(path: str, fault: Fault) -> Response:
    """Return an error in the format of the path's clients."""
    plain = path.startswith(("/api/", "/v2"))
    body = {"error": fault.message} if plain else fault.body
    return JSONResponse(body, fault.status, headers=fault.headers)


async def on_error(request: Request, error: Exception) -> Response:
    fault = from_error(error)
    if fault.status == 500:
        log.error("%s failed", request.url.path, exc_info=error)
    return refusal(request.url.path, fault)


async def on_http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    text = {404: "no such path", 405: f"this path doesn't accept {request.method}"}.get(error.status_code)
    headers = dict(error.headers or {})
    fault = Fault(error.status_code, f"{request.url.path}: {text or error.detail}", headers=headers)
    return refusal(request.url.path, fault)


async def on_left(request: Request, error: Exception) -> Response:
    return Response(status_code=499)  # only for the log, because the client has left


def _split(address: str) -> SplitResult:
    """Return the parts of an address; empty parts if it is malformed."""
    try:
        return urlsplit(address)
    except ValueError:
        return urlsplit("")


# ---- checks and limits of every request --------------------------------------------------------------------


class Surroundings:
    """Middleware that checks host, origin and key, limits size and time, counts, and logs.

    It never logs a part of a prompt.
    """

    def __init__(self, app: ASGIApp, service: Service) -> None:
        self.app, self.service = app, service
        key = service.settings.api_key
        self._key = None if key is None else hashlib.sha256(key.encode()).digest()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        begin, status, started = time.monotonic(), 500, False
        settings = self.service.settings

        async def noted(message: Message) -> None:
            nonlocal status, started
            if message["type"] == "http.response.start":
                status, started = message["status"], True
            await send(message)

        try:
            self._check(scope)
            async with asyncio.timeout(settings.max_seconds + GRACE):
                await self.app(scope, self._limited(scope, receive), noted)
        except Fault as fault:
            if not started:
                await refusal(scope["path"], fault)(scope, receive, noted)
        except TimeoutError:
            if not started:
                await refusal(scope["path"], too_late(settings.max_seconds))(scope, receive, noted)
        finally:
            seconds = time.monotonic() - begin
            path = self._label(scope["path"])
            self.service.metrics.requests.labels(path, str(status)).inc()
            self.service.metrics.seconds.labels(path).observe(seconds)
            shown = scope["path"].encode("unicode_escape").decode("ascii")[:200]
            log.info("%s %s %s %.0f ms", scope["method"], shown, status, seconds * 1000)

    def _check(self, scope: Scope) -> None:
        headers = {name: value.decode("latin-1") for name, value in scope["headers"]}
        host = headers.get(b"host", "")
        if self.service.settings.is_local and (_split(f"//{host}").hostname or "") not in LOCAL:
            raise Fault(403, "this server answers only requests to localhost (another name may be a trick)")
        origin = headers.get(b"origin")
        if origin is not None and _split(origin).netloc != host:
            raise Fault(403, "a page of another site may not use this server")
        if self._key is not None and scope["path"] not in OPEN:
            given = headers.get(b"authorization", "").removeprefix("Bearer ").strip()
            given = given or headers.get(b"x-api-key", "")
            if not hmac.compare_digest(hashlib.sha256(given.encode("latin-1")).digest(), self._key):
                raise Fault(
                    401, "a key is needed: Authorization: Bearer KEY", code="invalid_api_key",
                    headers={"www-authenticate": "Bearer"},
                )  # fmt: skip
        length = headers.get(b"content-length", "0")
        if length.isdigit() and int(length) > self.service.settings.max_body_bytes:
            raise self._too_large()

    def _limited(self, scope: Scope, receive: Receive) -> Receive:
        n_bytes = 0

        async def limited() -> Message:
            nonlocal n_bytes
            message = await receive()
            n_bytes += len(message.get("body", b""))
            if n_bytes > self.service.settings.max_body_bytes:
                raise self._too_large()
            return message

        return limited

    def _too_large(self) -> Fault:
        limit = self.service.settings.max_body_bytes
        return Fault(413, f"a request may have at most {limit} bytes", code="too_large")

    @staticmethod
    def _label(path: str) -> str:
        """Return a path as a label of metrics. All unknown paths share one label."""
        for prefix in ("/v1/", "/api/"):
            if path.startswith(prefix):
                rest = path[len(prefix) :]
                known = ("models", "chat/completions", "completions", "embeddings", "version", "tags", "ps")
                return path if rest in (*known, "show", "chat", "generate", "embed") else f"{prefix}other"
        if path.startswith("/v2"):
            return "/v2"
        return path if path in ("/", "/health", "/metrics", "/ping", "/invocations") else "other"

"""Slow clients, slow heads, limits of time, and clients that leave while their prompt is read."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

pytest.importorskip("starlette", reason="the extra serve (starlette) is not installed")
pytest.importorskip("uvicorn", reason="the extra serve (uvicorn) is not installed")

from starlette.testclient import TestClient

import llmlite as ll
from llmlite.serve import Settings, make_app
from llmlite.serve.engine import Engine, Job, Piece
from llmlite.serve.metrics import Metrics


@pytest.fixture(scope="module")
def model() -> Any:
    return ll.load("tales:Q8_0", n_ctx=1024)


def idle(engine: Engine) -> bool:
    limit = time.monotonic() + 20
    while (engine.n_running or engine.n_waiting) and time.monotonic() < limit:
        time.sleep(0.005)
    return not (engine.n_running or engine.n_waiting)


@pytest.mark.parametrize("streams", [False, True])
def test_a_text_that_takes_too_long_is_ended_and_its_place_is_free(model: Any, streams: bool) -> None:
    with TestClient(make_app(model, Settings(name="tales", max_seconds=0.05))) as client:
        endless = {str(token): -100 for token in model.tokenizer.eog_ids}  # else all four may end in time
        asked = {"prompt": "The fox", "max_tokens": 900, "n": 4, "stream": streams, "logit_bias": endless}
        answer = client.post("/v1/completions", json=asked)
        if streams and answer.status_code == 200:  # it had begun: the last event is the error
            assert "longer than 0.05 s" in answer.text and "[DONE]" not in answer.text
        else:
            assert answer.status_code == 504 and answer.json()["error"]["code"] == "timeout"
        assert idle(client.app.state.service.engine)  # type: ignore[attr-defined]


def test_a_prompt_that_is_being_read_can_be_given_up(model: Any) -> None:
    """A step reads `prefill_tokens` of a prompt, so a client that leaves stops it before it is read."""
    seen: list[Any] = []
    engine = Engine(model, max_sequences=2, prefill_tokens=16, max_queue=4, metrics=Metrics())
    steps: list[int] = []
    joined = threading.Event()
    job = Job([7 + i % 50 for i in range(1000)], {"max_tokens": 5}, deliver=seen.append)
    plain = engine._step

    def step() -> None:
        plain()
        steps.append(len(job.generation.ids))
        if len(steps) == 3:
            engine.cancel([job])
            joined.set()

    engine._step = step  # type: ignore[method-assign]
    engine.start()
    try:
        engine.submit([job])
        assert joined.wait(20) and idle(engine)
        assert steps == [0, 0, 0]  # 1,000 tokens take 63 steps; it was left after three
        assert not any(isinstance(event, Piece) for event in seen)
    finally:
        engine.stop()


@pytest.fixture
def address(model: Any) -> Iterator[tuple[str, int]]:
    """A real server in a thread, for clients that are slow."""
    import uvicorn

    config = uvicorn.Config(make_app(model, Settings(name="tales")), port=0, log_level="error")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    limit = time.monotonic() + 20
    while not server.started and time.monotonic() < limit:
        time.sleep(0.01)
    yield server.servers[0].sockets[0].getsockname()[:2]
    server.should_exit = True
    thread.join(20)


def healthy(address: tuple[str, int]) -> bool:
    with socket.create_connection(address, timeout=20) as other:
        other.sendall(b"GET /health HTTP/1.1\r\nhost: 127.0.0.1\r\nconnection: close\r\n\r\n")
        return b" 200 " in other.recv(100)


def test_slow_heads_and_bodies_don_t_hold_others_up(address: tuple[str, int]) -> None:
    heads = [
        b"POST /v1/comp",
        b"POST /v1/completions HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-length: 50\r\n\r\n{",
    ]
    slow = [socket.create_connection(address, timeout=20) for _ in range(20)]
    try:
        for i, connection in enumerate(slow):
            connection.sendall(heads[i % 2])
        assert healthy(address)
    finally:
        for connection in slow:
            connection.close()
    assert healthy(address)


def test_a_client_that_reads_slowly_holds_nobody_up_and_loses_nothing(address: tuple[str, int]) -> None:
    body = b'{"prompt": "The fox", "max_tokens": 200, "stream": true, "logprobs": 20, "seed": 1}'
    head = "POST /v1/completions HTTP/1.1\r\nhost: 127.0.0.1\r\n"
    head += f"content-length: {len(body)}\r\nconnection: close"
    with socket.socket() as slow:
        slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        slow.settimeout(30)
        slow.connect(address)
        slow.sendall(head.encode() + b"\r\n\r\n" + body)
        assert healthy(address)
        found = b""
        while part := slow.recv(2000):
            found += part
            time.sleep(0.002)
            assert len(found) < 1 << 22
        assert b"data: [DONE]" in found and b'"finish_reason"' in found

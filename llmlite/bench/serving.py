"""Tests of `llmlite serve` in its own process: its protocols, and its throughput by number of clients.

Only the standard library is needed on this side; the server needs the extra `serve`.
"""

from __future__ import annotations

import json
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from urllib.error import HTTPError
from urllib.request import ProxyHandler, Request, build_opener

from llmlite.errors import LlmliteError

START = 120.0  # seconds for the server to load the model and compile its kernels
ANSWER = 60.0  # seconds for one answer
CLIENTS = (1, 4, 16)
N_TOKENS = 48  # tokens generated for each request
REQUESTS = 16  # requests of all clients together
NAME = "served"

_open = build_opener(ProxyHandler({})).open  # this machine's own address never goes through a proxy


@dataclass(frozen=True, kw_only=True)
class Throughput:
    """The throughput of a number of clients together.

    Attributes:
        clients: number of clients that send requests at the same time.
        tokens: number of tokens generated for all of them.
        seconds: time from the first request to the last answer.
    """

    clients: int
    tokens: int
    seconds: float

    @property
    def tokens_per_second(self) -> float:
        return self.tokens / self.seconds


@contextmanager
def server(model: str = "tales:Q8_0", *arguments: str) -> Iterator[str]:
    """Serve a model on a free port of this machine while the block runs; yield its URL without a final slash.

    Args:
        model: a GGUF file, "tales" or "tales:Q4_0".
        arguments: more arguments of `llmlite serve`.

    Raises:
        LlmliteError: the server didn't start; the message has its output.
    """
    command = [sys.executable, "-m", "llmlite", "serve", model, "--port", "0", "--name", NAME, "--sagemaker"]
    process = subprocess.Popen(
        [*command, "--quiet", *arguments], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    try:
        yield _address(process)
    finally:
        process.terminate()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        assert process.stdout is not None
        process.stdout.close()


def _address(process: subprocess.Popen[str]) -> str:
    """Wait until the server prints its address, and return it."""
    lines: queue.Queue[str] = queue.Queue()

    def read() -> None:  # reads to the end, so that a full pipe never blocks the server
        try:
            for line in process.stdout or ():
                lines.put(line)
        except ValueError:  # closed by the other thread
            pass
        lines.put("")

    threading.Thread(target=read, daemon=True).start()
    said, end = "", time.monotonic() + START
    while time.monotonic() < end:
        try:
            line = lines.get(timeout=1)
        except queue.Empty:
            continue
        said += line
        if " at http://" in line:
            return line.split(" at ", 1)[1].split()[0].rstrip("/")
        if not line:
            raise LlmliteError(
                f"llmlite serve ended before it was ready: {said.strip()[-300:] or 'no message'}"
            )
    raise LlmliteError(f"llmlite serve did not start within {START:g} s")


def ask(url: str, body: dict[str, Any] | None = None) -> tuple[int, Any]:
    """Send a request and return the status and the answer.

    The answer is an object from JSON, a text if it isn't JSON, or None if it is empty.

    Args:
        url: the address.
        body: object to send as JSON by POST; None for a GET.

    Raises:
        OSError: there was no answer.
    """
    data = None if body is None else json.dumps(body).encode()
    try:
        with _open(Request(url, data, {"Content-Type": "application/json"}), timeout=ANSWER) as answer:
            status, content = answer.status, answer.read()
    except HTTPError as error:
        with error:
            status, content = error.code, error.read()
    try:
        return status, json.loads(content) if content else None
    except ValueError:
        return status, content.decode("utf-8", "replace")


def protocols(url: str) -> dict[str, str]:
    """Try each protocol of a running server; return "answered" or the error by name of the protocol.

    Args:
        url: the server's address.

    Raises:
        LlmliteError: the server doesn't complete a text.
    """
    text = {"prompt": "The fox", "max_tokens": 8, "temperature": 0}
    written = _written_by_completion(url, text)
    found = {}
    tries: dict[str, Callable[[], str]] = {
        "OpenAI /v1/completions": lambda: written,
        "OpenAI /v1/chat/completions": lambda: _chat(url),
        "Triton /v2/models/NAME/generate": lambda: ask(
            f"{url}/v2/models/{NAME}/generate",
            {"text_input": "The fox", "parameters": {"max_tokens": 8, "temperature": 0}},
        )[1]["text_output"],
        "Triton /v2/models/NAME/infer": lambda: _infer(url),
        "SageMaker /invocations": lambda: ask(f"{url}/invocations", text)[1]["choices"][0]["text"],
        "SageMaker /ping": lambda: "" if ask(f"{url}/ping")[0] == 200 else "no",
    }
    for name, attempt in tries.items():
        try:
            said = attempt()
        except (OSError, KeyError, TypeError, IndexError) as error:
            found[name] = f"{type(error).__name__}: {error}"
            continue
        same = {"SageMaker /ping": "", "OpenAI /v1/chat/completions": said}.get(name, written)
        found[name] = "answered" if said == same else f"not the text of /v1/completions: {said!r}"
    return found


def _written_by_completion(url: str, body: dict[str, Any]) -> str:
    status, answer = ask(f"{url}/v1/completions", body)
    if status != 200 or not answer["choices"][0]["text"]:
        raise LlmliteError(f"/v1/completions: status {status}: {answer}")
    return str(answer["choices"][0]["text"])


def _chat(url: str) -> str:
    messages = [{"role": "user", "content": "Tell me of a fox."}]
    status, answer = ask(f"{url}/v1/chat/completions", {"messages": messages, "max_tokens": 8})
    if status != 200:
        raise KeyError(f"status {status}: {answer}")
    return str(answer["choices"][0]["message"]["content"])


def _infer(url: str) -> str:
    tensor = {"name": "text_input", "datatype": "BYTES", "shape": [1], "data": ["The fox"]}
    body = {"inputs": [tensor], "parameters": {"max_tokens": 8, "temperature": 0}}
    _, answer = ask(f"{url}/v2/models/{NAME}/infer", body)
    return str(next(out for out in answer["outputs"] if out["name"] == "text_output")["data"][0])


def throughput(url: str, clients: Sequence[int] = CLIENTS, n_tokens: int = N_TOKENS) -> list[Throughput]:
    """Measure the throughput of REQUESTS requests, for each number of clients.

    Args:
        url: the server's address.
        clients: numbers of clients that share the requests.
        n_tokens: tokens to write for each request.

    Raises:
        LlmliteError: a request was refused.
        OSError: there was no answer.
    """

    def request(number: int) -> int:
        prompt = f"Once upon a time there were {number + 2} foxes"
        body = {"prompt": prompt, "max_tokens": n_tokens, "temperature": 0}
        status, answer = ask(f"{url}/v1/completions", body)
        if status != 200:
            raise LlmliteError(f"/v1/completions: status {status}: {answer}")
        return int(answer["usage"]["completion_tokens"])

    def all_requests(n: int) -> int:
        with ThreadPoolExecutor(n) as pool:
            return sum(pool.map(request, range(REQUESTS)))

    all_requests(max(clients))  # a warm-up, so that kernels are compiled and every prompt is cached
    found = []
    for n in clients:
        begin = time.monotonic()
        tokens = all_requests(n)
        found.append(Throughput(clients=n, tokens=tokens, seconds=time.monotonic() - begin))
    return found

"""The Python model of `llmlite export triton`: Triton's Python backend runs a copy of it.

It forwards requests to a running `llmlite serve`, so it doesn't need llmlite. It needs only the standard
library, Triton's own triton_python_backend_utils, and NumPy for Triton's tensors.
Source: https://github.com/triton-inference-server/python_backend, on execute, decoupled mode and cancelling.
"""

from __future__ import annotations

import http.client
import json
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from typing import Any
from urllib.parse import quote, urlsplit

import numpy as np
import triton_python_backend_utils as pb

CONNECT_SECONDS = 10.0
WATCH_SECONDS = 0.05  # between two checks whether the client has cancelled
EXIT_SECONDS = 20.0  # for answers that are still being written when the model is unloaded


class RefusedError(Exception):
    """Raised when the server refuses a request, or can't be reached."""


class Call:
    """One POST to the server. Another thread can end it with `cancel`, and the server notices this."""

    def __init__(self, url: str, path: str, body: dict[str, Any]) -> None:
        parts = urlsplit(url)
        made = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        self._connection = made(parts.netloc, timeout=CONNECT_SECONDS)
        self._url, self._path, self._body = url, parts.path.rstrip("/") + path, body
        self._socket: socket.socket | None = None
        self.is_cancelled = False

    def __enter__(self) -> http.client.HTTPResponse:
        headers = {"Content-Type": "application/json"}
        key = os.environ.get("LLMLITE_API_KEY")
        if key:
            headers["Authorization"] = f"Bearer {key}"
        try:
            self._connection.connect()
            self._socket = self._connection.sock
            self._socket.settimeout(None)  # the server has a limit of its own: --max-seconds
            if self.is_cancelled:
                raise RefusedError("cancelled")
            self._connection.request("POST", self._path, json.dumps(self._body), headers)
            answer = self._connection.getresponse()
        except (OSError, http.client.HTTPException) as error:
            self._connection.close()
            raise RefusedError(
                f"{self._url}: {error or type(error).__name__}; is llmlite serve running?"
            ) from None
        if answer.status != 200:
            text = answer.read(100_000).decode("utf-8", "replace")
            self._connection.close()
            raise RefusedError(f"{answer.status}: {message_of(text)}")
        return answer

    def __exit__(self, *_: object) -> None:
        self._connection.close()

    def cancel(self) -> None:
        self.is_cancelled = True
        if self._socket is not None:
            with suppress(OSError):  # it has ended
                self._socket.shutdown(socket.SHUT_RDWR)


class TritonPythonModel:
    """The class that Triton's Python backend calls: initialize, execute, finalize."""

    def initialize(self, args: dict[str, str]) -> None:
        config = json.loads(args["model_config"])
        given = {name: each["string_value"] for name, each in config["parameters"].items()}
        self.url, self.name = given["llmlite_url"], given["llmlite_model"]
        self.is_streaming = config.get("model_transaction_policy", {}).get("decoupled", False)
        self._running: set[threading.Thread] = set()

    def execute(self, requests: list[Any]) -> None:
        """Begin every request in a thread of its own; answers leave through their senders."""
        for request in requests:
            thread = threading.Thread(target=self._serve, args=(request, request.get_response_sender()))
            self._running = {each for each in self._running if each.is_alive()} | {thread}
            thread.start()

    def finalize(self) -> None:
        limit = time.monotonic() + EXIT_SECONDS
        for thread in self._running:
            thread.join(max(0.0, limit - time.monotonic()))

    def _serve(self, request: Any, sender: Any) -> None:
        final = pb.TRITONSERVER_RESPONSE_COMPLETE_FINAL
        try:
            prompt, values = asked(request)
            if self.is_streaming:
                for text in self._pieces(prompt, values, sender):
                    sender.send(pb.InferenceResponse([tensor("text_output", text)]))
                sender.send(flags=final)
            else:
                sender.send(pb.InferenceResponse(self._whole(prompt, values, sender)), flags=final)
        except Exception as error:  # the client needs an answer after any error
            code = pb.TritonError.CANCELLED if sender.is_cancelled() else pb.TritonError.INVALID_ARG
            if not isinstance(error, (RefusedError, ValueError)):
                code = pb.TritonError.INTERNAL
            sender.send(pb.InferenceResponse(error=pb.TritonError(str(error), code)), flags=final)

    def _pieces(self, prompt: dict[str, Any], values: dict[str, Any], sender: Any) -> Iterator[str]:
        if "text_input" not in prompt:
            raise ValueError("input_ids: the streaming model takes text_input")
        call = Call(self.url, self._path("generate_stream"), {**prompt, "parameters": values})
        with Watched(call, sender), call as answer:
            for line in lines(answer):
                if call.is_cancelled:
                    break
                if line.startswith(b"data: "):
                    found = json.loads(line[6:])
                    if "error" in found:
                        raise RefusedError(found["error"])
                    yield found["text_output"]
        if call.is_cancelled:
            raise RefusedError("cancelled")

    def _whole(self, prompt: dict[str, Any], values: dict[str, Any], sender: Any) -> list[Any]:
        [(name, data)] = prompt.items()
        kind, data = ("BYTES", [data]) if name == "text_input" else ("INT32", data)
        entry = {"name": name, "datatype": kind, "shape": [len(data)], "data": data}
        call = Call(self.url, self._path("infer"), {"inputs": [entry], "parameters": values})
        with Watched(call, sender), call as answer:
            raw = answer.read()
        if call.is_cancelled:
            raise RefusedError("cancelled")
        found = {each["name"]: each["data"] for each in json.loads(raw)["outputs"]}
        ids = np.array(found["output_ids"], np.int32)
        return [tensor("text_output", found["text_output"][0]), pb.Tensor("output_ids", ids)]

    def _path(self, verb: str) -> str:
        return f"/v2/models/{quote(self.name, safe='')}/{verb}"


class Watched:
    """Context manager whose thread asks Triton whether the client has left, and then ends the call."""

    def __init__(self, call: Call, sender: Any) -> None:
        self._call, self._sender = call, sender
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def _watch(self) -> None:
        while not self._over.wait(WATCH_SECONDS):
            if self._sender.is_cancelled():
                self._call.cancel()
                return

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()


def lines(answer: http.client.HTTPResponse) -> Iterator[bytes]:
    """Yield lines as they arrive. HTTPResponse's own iteration mistakes a broken connection for the end."""
    rest = b""
    while part := answer.read1():
        *whole, rest = (rest + part).split(b"\n")
        yield from whole


def asked(request: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the prompt, {"text_input": text} or {"input_ids": ids}, and the parameters of a request."""
    values = dict(json.loads(request.parameters() or "{}"))
    prompt: dict[str, Any] = {}
    for each in request.inputs():
        name, data = each.name(), each.as_numpy().reshape(-1).tolist()
        if name == "input_ids":
            prompt[name] = data
        elif name == "stop":
            values[name] = [text.decode() for text in data]
        elif len(data) != 1:
            raise ValueError(f"{name}: expected one value, got {len(data)}")
        else:
            place = prompt if name == "text_input" else values
            place[name] = data[0].decode() if isinstance(data[0], bytes) else data[0]
    if len(prompt) != 1:
        raise ValueError("expected one of text_input and input_ids")
    return prompt, values


def tensor(name: str, text: str) -> Any:
    return pb.Tensor(name, np.array([text.encode()], np.object_))


def message_of(text: str) -> str:
    """Return the message of an error in either of the server's formats."""
    try:
        found = json.loads(text)["error"]
        return str(found["message"] if isinstance(found, dict) else found)
    except (ValueError, KeyError, TypeError):
        return text[:300]

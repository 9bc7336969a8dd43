"""The v2 inference protocol of KServe, Triton and their clients: /v2/….

Inputs of `infer`: text_input (BYTES, [1]) or input_ids (INT32 or INT64, [T]). Parameters of the request:
max_tokens, temperature, top_k, top_p, min_p, seed and stop. Outputs: text_output (BYTES) and output_ids.
Sources: https://kserve.github.io/website/docs/concepts/architecture/data-plane/v2-protocol and Triton's
extensions for binary data and generate.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from llmlite._version import __version__
from llmlite.serve.engine import Piece
from llmlite.serve.faults import Fault
from llmlite.serve.openai import Choice, OpenAI
from llmlite.serve.responses import SSE, answer, compact, event, streamed, unless_left
from llmlite.serve.schemas import CompletionRequest, read
from llmlite.serve.service import Service

HEADER = "inference-header-content-length"
PARAMETERS = ("max_tokens", "temperature", "top_k", "top_p", "min_p", "seed", "stop")
INTEGERS = {"INT32": "<i", "INT64": "<q", "UINT32": "<I", "UINT64": "<Q"}
IGNORED = ("stream", "binary_data_output", "sequence_id", "sequence_start", "sequence_end", "priority")


class KServe:
    """The routes, for one service."""

    def __init__(self, service: Service) -> None:
        self.service = service
        self._openai = OpenAI(service)
        one = ["/v2/models/{name}", "/v2/models/{name}/versions/{version}"]
        self.routes = [
            Route("/v2", self.server, methods=["GET"]),
            Route("/v2/health/live", self.live, methods=["GET"]),
            Route("/v2/health/ready", self.live, methods=["GET"]),
            Route("/v2/repository/index", self.index, methods=["POST"]),
        ]
        for base in one:
            self.routes += [
                Route(base, self.metadata, methods=["GET"]),
                Route(f"{base}/ready", self.ready, methods=["GET"]),
                Route(f"{base}/infer", self.infer, methods=["POST"]),
                Route(f"{base}/generate", self.generate, methods=["POST"]),
                Route(f"{base}/generate_stream", self.generate_stream, methods=["POST"]),
            ]

    def _check(self, request: Request) -> None:
        self.service.check_model(request.path_params["name"])
        if request.path_params.get("version", "1") != "1":
            raise Fault(404, "this model has one version, 1")

    async def server(self, request: Request) -> Response:
        return answer(
            {"name": "llmlite", "version": __version__, "extensions": ["binary_tensor_data", "generate"]}
        )

    async def live(self, request: Request) -> Response:
        return Response(status_code=200 if self.service.engine.is_alive else 503)

    async def ready(self, request: Request) -> Response:
        self._check(request)
        return await self.live(request)

    async def index(self, request: Request) -> Response:
        return answer([{"name": self.service.settings.name, "version": "1", "state": "READY", "reason": ""}])

    async def metadata(self, request: Request) -> Response:
        self._check(request)
        return answer(
            {
                "name": self.service.settings.name,
                "versions": ["1"],
                "platform": "llmlite",
                "inputs": [
                    {"name": "text_input", "datatype": "BYTES", "shape": [1]},
                    {"name": "input_ids", "datatype": "INT32", "shape": [-1]},
                ],
                "outputs": [
                    {"name": "text_output", "datatype": "BYTES", "shape": [1]},
                    {"name": "output_ids", "datatype": "INT32", "shape": [-1]},
                ],
            }
        )

    def _completion(self, values: dict[str, Any]) -> tuple[CompletionRequest, Any]:
        """Return a request of this protocol as a request of /v1/completions, and its prompt."""
        values = {name: value for name, value in values.items() if name not in IGNORED}
        unknown = sorted(set(values) - {"prompt", *PARAMETERS})
        if unknown:
            raise Fault(400, f"{unknown[0]}: this model has no such parameter or input")
        return read(CompletionRequest, compact(values).encode()), values["prompt"]

    async def _spec(self, values: dict[str, Any]) -> Any:
        asked, prompt = self._completion(values)
        self.service.check_writes()
        several = await self.service.prompts(prompt, n_ctx=self.service.model.n_ctx)
        if len(several) != 1:
            raise Fault(400, f"expected one prompt, a text or its token ids, got {len(several)}")
        [ids] = several
        return ids, self._openai._shared(asked, asked.max_tokens, len(ids))

    # ---- infer -------------------------------------------------------------------------------------------

    async def infer(self, request: Request) -> Response:
        """POST …/infer: tensors are in the JSON, or binary data after it."""
        self._check(request)
        asked, tensors, binary = tensors_of(await request.body(), request.headers.get(HEADER))
        values = {**(asked.get("parameters") or {}), "prompt": prompt_of(tensors)}
        spec = await self._spec(values)
        [choice] = await unless_left(request, self._openai._all([spec]))
        assert choice.ended is not None
        outputs: dict[str, tuple[str, list[Any]]] = {
            "text_output": ("BYTES", [choice.text.encode()]),
            "output_ids": ("INT32", list(choice.ended.ids)),
        }
        wanted = [(each["name"], each.get("parameters") or {}) for each in asked.get("outputs") or []]
        wanted = wanted or [(name, {}) for name in outputs]
        found, tail = [], b""
        for name, parameters in wanted:
            if name not in outputs:
                raise Fault(400, f"outputs: this model has no {name!r:.80}")
            kind, data = outputs[name]
            entry: dict[str, Any] = {"name": name, "datatype": kind, "shape": [len(data)]}
            if parameters.get("binary_data", binary):
                raw = packed(kind, data)
                entry["parameters"] = {"binary_data_size": len(raw)}
                tail += raw
            else:
                entry["data"] = [x.decode() if isinstance(x, bytes) else x for x in data]
            found.append(entry)
        body = {"model_name": self.service.settings.name, "model_version": "1", "outputs": found}
        if "id" in asked:
            body["id"] = str(asked["id"])
        head = compact(body).encode()
        if not tail:
            return Response(head, media_type="application/json")
        headers = {HEADER: str(len(head))}
        return Response(head + tail, media_type="application/octet-stream", headers=headers)

    # ---- generate ----------------------------------------------------------------------------------------

    async def _generated(self, request: Request) -> Any:
        self._check(request)
        values = json_object(await request.body())
        parameters = values.pop("parameters", None) or {}
        values.pop("id", None)
        if not isinstance(parameters, dict) or "text_input" not in values:
            raise Fault(400, 'expected {"text_input": text, "parameters": {…}}')
        prompt = values.pop("text_input")
        return await self._spec({**values, **parameters, "prompt": prompt})

    async def generate(self, request: Request) -> Response:
        """POST …/generate."""
        spec = await self._generated(request)
        [choice] = await unless_left(request, self._openai._all([spec]))
        return answer({**self._names(), "text_output": choice.text})

    async def generate_stream(self, request: Request) -> Response:
        """POST …/generate_stream: an event for each piece."""
        spec = await self._generated(request)
        return await streamed(request, self._events(spec), media_type=SSE, failed=failed)

    async def _events(self, spec: Any) -> AsyncGenerator[str, None]:
        choice = Choice()
        async with self.service.run([spec]) as run:
            await run.started()
            async with aclosing(run.events()) as events:
                async for _, part in events:
                    choice.add(part)
                    if isinstance(part, Piece) and part.text:
                        yield event({**self._names(), "text_output": part.text})
        if not choice.text:
            yield event({**self._names(), "text_output": ""})

    def _names(self) -> dict[str, str]:
        return {"model_name": self.service.settings.name, "model_version": "1"}


def failed(fault: Fault) -> str:
    return event({"error": fault.message})


def json_object(raw: bytes) -> dict[str, Any]:
    """Return the JSON object in these bytes.

    Raises:
        Fault: If they hold anything else.
    """
    try:
        found = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise Fault(400, f"the body is not JSON: {error}") from None
    if not isinstance(found, dict):
        raise Fault(400, "the body: expected a JSON object")
    return found


def tensors_of(body: bytes, length: str | None) -> tuple[dict[str, Any], dict[str, list[Any]], bool]:
    """Return the request, its inputs by name, and whether outputs are binary by default.

    Raises:
        Fault: If the request is malformed.
    """
    n = len(body)
    if length is not None:
        if not length.isdecimal() or int(length[:12]) > len(body):
            raise Fault(400, f"{HEADER}: expected at most {len(body)}, got {length!r:.40}")
        n = int(length)
    asked, tail = json_object(body[:n]), body[n:]
    parameters = asked.get("parameters") or {}
    inputs, outputs = asked.get("inputs"), asked.get("outputs") or []
    if (
        not isinstance(inputs, list)
        or not isinstance(outputs, list)
        or not isinstance(parameters, dict)
        or not all(isinstance(x, dict) and isinstance(x.get("name"), str) for x in [*inputs, *outputs])
        or not all(isinstance(x.get("parameters") or {}, dict) for x in outputs)
    ):
        raise Fault(400, 'expected {"inputs": [{"name", "datatype", "shape", "data"}], …}')
    found = {}
    for entry in inputs:
        own = entry.get("parameters") or {}
        size = own.get("binary_data_size") if isinstance(own, dict) else None
        if size is None:
            data = flat(entry.get("data"))
        elif isinstance(size, int) and not isinstance(size, bool) and 0 <= size <= len(tail):
            data, tail = unpacked(str(entry.get("datatype")), tail[:size]), tail[size:]
        else:
            raise Fault(
                400, f"{entry['name']}: binary_data_size: {len(tail)} bytes are left, got {size!r:.40}"
            )
        shape = entry.get("shape")
        if shape is not None and not (
            isinstance(shape, list) and all(type(n) is int for n in shape) and math.prod(shape) == len(data)
        ):
            raise Fault(
                400, f"{entry['name']}: shape: expected the sizes of {len(data)} values, got {shape!r:.40}"
            )
        found[entry["name"]] = data
    return asked, found, bool(parameters.get("binary_data_output"))


def prompt_of(tensors: dict[str, list[Any]]) -> Any:
    """Return the prompt in the inputs.

    Raises:
        Fault: If there isn't exactly one.
    """
    if set(tensors) == {"text_input"} and len(tensors["text_input"]) == 1:
        text = tensors["text_input"][0]
        try:
            return text.decode() if isinstance(text, bytes) else text
        except UnicodeDecodeError as error:
            raise Fault(400, f"text_input: not UTF-8: {error}") from None
    if set(tensors) == {"input_ids"}:
        return tensors["input_ids"]
    raise Fault(400, "inputs: expected text_input with one text, or input_ids")


def flat(data: Any) -> list[Any]:
    """Flatten nested data: [[1, 2]] is [1, 2]."""
    while isinstance(data, list) and len(data) == 1 and isinstance(data[0], list):
        data = data[0]
    if not isinstance(data, list):
        raise Fault(400, "data: expected a list")
    return data


def packed(kind: str, data: list[Any]) -> bytes:
    """Encode values: numbers in little-endian order, each text after its length."""
    if kind == "BYTES":
        return b"".join(struct.pack("<I", len(each)) + each for each in data)
    return b"".join(struct.pack(INTEGERS[kind], each) for each in data)


def unpacked(kind: str, raw: bytes) -> list[Any]:
    """Decode the values of binary data.

    Raises:
        Fault: If the data don't have this type.
    """
    if kind in INTEGERS and len(raw) % struct.calcsize(INTEGERS[kind]) == 0:
        return [value for (value,) in struct.iter_unpack(INTEGERS[kind], raw)]
    found, place = [], 0
    while kind == "BYTES" and place + 4 <= len(raw):
        (size,) = struct.unpack_from("<I", raw, place)
        found.append(raw[place + 4 : place + 4 + size])
        place += 4 + size
    if kind != "BYTES" or place != len(raw):
        raise Fault(400, f"binary data of type {kind!r:.20} and {len(raw)} bytes can't be read")
    return found

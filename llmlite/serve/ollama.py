"""The API of ollama's clients: /api/….

Source of the request and response formats: https://docs.ollama.com/api
"""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator
from contextlib import aclosing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from llmlite._version import __version__
from llmlite.serve import options, tools
from llmlite.serve.engine import Ended, Piece
from llmlite.serve.faults import Fault
from llmlite.serve.openai import DROPPED, Choice, finite
from llmlite.serve.responses import NDJSON, answer, line, streamed, unless_left
from llmlite.serve.schemas import OllamaChat, OllamaEmbed, OllamaEmbeddings, OllamaGenerate, OllamaShow, read
from llmlite.serve.service import Service

ELSEWHERE = ("pull", "push", "create", "copy", "delete", "blobs/{digest}")
BILLION = 1_000_000_000


def now() -> str:
    """Return the present time in RFC 3339's format."""
    return datetime.now(UTC).isoformat().replace("+00:00", "Z")


class Ollama:
    """The routes, for one service."""

    def __init__(self, service: Service) -> None:
        self.service = service
        every = ["GET", "HEAD", "POST", "DELETE"]
        self.routes = [
            Route("/api/version", self.version, methods=["GET"]),
            Route("/api/tags", self.tags, methods=["GET"]),
            Route("/api/ps", self.running, methods=["GET"]),
            Route("/api/show", self.show, methods=["POST"]),
            Route("/api/chat", self.chat, methods=["POST"]),
            Route("/api/generate", self.generate, methods=["POST"]),
            Route("/api/embed", self.embed, methods=["POST"]),
            Route("/api/embeddings", self.embeddings, methods=["POST"]),
            *(Route(f"/api/{name}", self.refuse, methods=every) for name in ELSEWHERE),
        ]

    async def refuse(self, request: Request) -> Response:
        raise Fault(501, f"{request.url.path}: this server serves one model and can't change any")

    async def version(self, request: Request) -> Response:
        return answer({"version": __version__})

    def _details(self) -> dict[str, Any]:
        from llmlite.inventory import examine

        model = self.service.model
        entry = examine(self.service.settings.name, "served", Path(model.gguf.path))
        return {
            "parent_model": "",
            "format": "gguf",
            "family": entry.architecture,
            "families": [entry.architecture],
            "parameter_size": f"{sum(t.n_elements for t in model.gguf.tensors.values()) / 1e6:.1f}M",
            "quantization_level": entry.type,
        }

    def _entry(self) -> dict[str, Any]:
        service = self.service
        return {
            "name": service.settings.name,
            "model": service.settings.name,
            "modified_at": datetime.fromtimestamp(service.created, UTC).isoformat().replace("+00:00", "Z"),
            "size": service.model.gguf.file_size,
            "digest": "",
            "details": self._details(),
        }

    async def tags(self, request: Request) -> Response:
        return answer({"models": [self._entry()]})

    async def running(self, request: Request) -> Response:
        entry = self._entry()
        return answer({"models": [{**entry, "size_vram": 0, "expires_at": "9999-12-31T00:00:00Z"}]})

    async def show(self, request: Request) -> Response:
        asked = read(OllamaShow, await request.body())
        self.service.check_model(asked.model or asked.name)
        model = self.service.model
        info: dict[str, Any] = {
            key: value for key, value in model.metadata.items() if isinstance(value, (str, int, float, bool))
        }
        template = info.pop("tokenizer.chat_template", "")
        info["general.parameter_count"] = sum(t.n_elements for t in model.gguf.tensors.values())
        can = ["completion"] if model.config.causal else ["embedding"]
        if "tools" in str(template):
            can.append("tools")
        return answer(
            {
                "modelfile": "",
                "parameters": "",
                "template": template,
                "details": self._details(),
                "model_info": info,
                "capabilities": can,
                "modified_at": self._entry()["modified_at"],
            }
        )

    # ---- texts -------------------------------------------------------------------------------------------

    async def chat(self, request: Request) -> Response:
        asked = read(OllamaChat, await request.body())
        self.service.check_model(asked.model)
        if not asked.messages:  # this means "load the model", and it is loaded
            return answer(self._done({"message": {"role": "assistant", "content": ""}}, reason="load"))
        wanted = self._max_tokens(asked)
        offer = tools.offered(self.service.model, asked.tools, None)
        conversation = await self.service.conversation(
            asked.messages,
            tools=offer.tools if offer else None,
            max_tokens=wanted,
            variables=self._thinking(asked),
        )
        headers = {DROPPED: str(conversation.n_dropped)} if conversation.n_dropped else {}
        return await self._answer(request, asked, conversation.ids, wanted, offer, headers)

    async def generate(self, request: Request) -> Response:
        asked = read(OllamaGenerate, await request.body())
        self.service.check_model(asked.model)
        self.service.check_writes()
        for name in ("suffix", "template", "images"):
            if getattr(asked, name):
                raise Fault(400, f"{name}: this server doesn't support it", param=name)
        if not asked.prompt:
            return answer(self._done({"response": ""}, reason="load"))
        wanted = self._max_tokens(asked)
        model = self.service.model
        if asked.raw or "tokenizer.chat_template" not in model.metadata:
            text = asked.prompt if asked.raw or not asked.system else f"{asked.system}\n\n{asked.prompt}"
            [ids] = await self.service.prompts(text, n_ctx=model.n_ctx)
        else:
            system = [{"role": "system", "content": asked.system}] if asked.system else []
            messages = [*system, {"role": "user", "content": asked.prompt}]
            ids = (await self.service.conversation(messages, variables=self._thinking(asked))).ids
        if asked.context:
            [before] = await self.service.prompts(asked.context, field="context")
            begin, _ = model.tokenizer.special_ids()  # the context has them already, at its own beginning
            after = ids[len(begin) :] if ids[: len(begin)] == begin else ids
            [ids] = await self.service.prompts([[*before, *after]], n_ctx=model.n_ctx)
        return await self._answer(request, asked, ids, wanted, None, {})

    @staticmethod
    def _thinking(asked: Any) -> dict[str, Any]:
        return {} if asked.think is None else {"enable_thinking": bool(asked.think)}

    def _max_tokens(self, asked: Any) -> int | None:
        """Return num_predict. None, for -1 and -2, means to fill the context."""
        given = asked.options or None
        n_ctx = self.service.model.n_ctx
        if given and given.num_ctx is not None and given.num_ctx > n_ctx:
            raise Fault(
                400,
                f"num_ctx: this server's context holds {n_ctx} tokens (`llmlite serve --ctx` sets it), "
                f"got {given.num_ctx}",
                param="options.num_ctx",
            )
        wanted = given.num_predict if given else None
        return None if wanted is None or wanted < 0 else wanted

    def _options(self, asked: Any, wanted: int | None, n_prompt: int) -> dict[str, Any]:
        values = asked.options.model_dump() if asked.options else {}
        values["repetition_penalty"] = values.pop("repeat_penalty", None)
        if values.get("seed") is not None and values["seed"] < 0:
            values["seed"] = None  # ollama's -1 means a new seed each time
        found = {
            "max_tokens": self.service.max_tokens(wanted, n_prompt),
            "stop": options.stops(values.get("stop")),
            **options.sampling(values, self.service.model.config.n_vocab),
        }
        if asked.format:
            found["json_schema"] = {"type": "object"} if asked.format == "json" else asked.format
        if asked.logprobs:
            found["logprobs"] = asked.top_logprobs or 0
        return found

    async def _answer(
        self,
        request: Request,
        asked: Any,
        ids: list[int],
        wanted: int | None,
        offer: tools.Offer | None,
        headers: dict[str, str],
    ) -> Response:
        spec = (ids, self._options(asked, wanted, len(ids)))
        is_chat = isinstance(asked, OllamaChat)
        if asked.stream is None or asked.stream:
            parts = self._lines(asked, spec, is_chat, offer)
            return await streamed(request, parts, media_type=NDJSON, failed=failed, headers=headers)
        choice = await unless_left(request, self._one(spec, offer))
        assert choice.ended is not None
        body = self._body(choice.text, is_chat, choice.calls)
        if asked.logprobs:
            body["logprobs"] = [self._logprob(score) for score in choice.logprobs]
        return answer(self._done(body, choice.ended, ids, is_chat), headers)

    def _begun(self, offer: tools.Offer | None) -> Choice:
        return Choice(reader=tools.CallReader(offer, self.service.model.tokenizer) if offer else None)

    async def _one(self, spec: Any, offer: tools.Offer | None) -> Choice:
        choice = self._begun(offer)
        async with self.service.run([spec]) as run, aclosing(run.events()) as events:
            async for _, part in events:
                choice.add(part)
        return choice

    async def _lines(
        self, asked: Any, spec: Any, is_chat: bool, offer: tools.Offer | None
    ) -> AsyncGenerator[str, None]:
        choice = self._begun(offer)
        async with self.service.run([spec]) as run, aclosing(run.events()) as events:
            await run.started()
            async for _, part in events:
                n_calls = len(choice.calls)
                text = choice.add(part)
                calls = choice.calls[n_calls:]
                if text or calls or (isinstance(part, Piece) and part.logprobs):
                    body = self._body(text, is_chat, calls)
                    if asked.logprobs and isinstance(part, Piece):
                        body["logprobs"] = [self._logprob(score) for score in part.logprobs]
                    yield line({**self._head(), **body, "done": False})
        yield line(self._done(self._body("", is_chat, []), choice.ended, spec[0], is_chat))

    def _head(self) -> dict[str, Any]:
        return {"model": self.service.settings.name, "created_at": now()}

    def _body(self, text: str, is_chat: bool, calls: list[dict[str, Any]]) -> dict[str, Any]:
        if not is_chat:
            return {"response": text}
        message: dict[str, Any] = {"role": "assistant", "content": text}
        if calls:
            message["tool_calls"] = [
                {"function": {"name": f["name"], "arguments": json.loads(f["arguments"])}}
                for f in (call["function"] for call in calls)
            ]
        return {"message": message}

    def _logprob(self, score: Any) -> dict[str, Any]:
        def entry(token: int, logprob: float) -> dict[str, Any]:
            raw = self.service.model.tokenizer.piece(token)
            return {"token": raw.decode("utf-8", "replace"), "logprob": finite(logprob), "bytes": list(raw)}

        return {**entry(score.id, score.logprob), "top_logprobs": [entry(*pair) for pair in score.top]}

    def _done(
        self,
        body: dict[str, Any],
        ended: Ended | None = None,
        ids: list[int] | None = None,
        is_chat: bool = True,
        *,
        reason: str = "",
    ) -> dict[str, Any]:
        found = {**self._head(), **body, "done": True}
        if ended is None:
            return {**found, "done_reason": reason}
        if not is_chat:
            found["context"] = [*(ids or ()), *ended.ids]
        return {
            **found,
            "done_reason": "length" if ended.reason == "length" else "stop",
            "total_duration": round((ended.waited + ended.prompt_seconds + ended.decode_seconds) * BILLION),
            "load_duration": 0,
            "prompt_eval_count": ended.n_prompt,
            "prompt_eval_duration": round(ended.prompt_seconds * BILLION),
            "eval_count": ended.n_made,
            "eval_duration": round(ended.decode_seconds * BILLION),
        }

    # ---- vectors -----------------------------------------------------------------------------------------

    async def embed(self, request: Request) -> Response:
        asked = read(OllamaEmbed, await request.body())
        self.service.check_model(asked.model)
        rows = await self.service.prompts(asked.input, field="input") if asked.input else []
        cut = asked.truncate is None or asked.truncate
        found = await unless_left(request, self.service.embed(rows, truncate=cut))
        if asked.dimensions is not None and rows and asked.dimensions != found.shape[1]:
            raise Fault(400, f"dimensions: this model has {found.shape[1]}", param="dimensions")
        return answer(
            {
                "model": self.service.settings.name,
                "embeddings": [[float(x) for x in row] for row in found],
                "prompt_eval_count": sum(map(len, rows)),
            }
        )

    async def embeddings(self, request: Request) -> Response:
        asked = read(OllamaEmbeddings, await request.body())
        self.service.check_model(asked.model)
        rows = await self.service.prompts(asked.prompt) if asked.prompt else []
        found = await unless_left(request, self.service.embed(rows, truncate=True))
        return answer({"embedding": [float(x) for x in found[0]] if rows else []})


def failed(fault: Fault) -> str:
    """Return the last line of a stream that failed."""
    return line({"error": fault.message})

"""The endpoints of a SageMaker container: /ping and /invocations. The body is one of OpenAI's requests.

`messages` asks for a chat, `prompt` for a completion, `input` for embeddings.
Source: https://docs.aws.amazon.com/sagemaker/latest/dg/your-algorithms-inference-code.html
"""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from llmlite.serve.faults import Fault
from llmlite.serve.kserve import json_object
from llmlite.serve.openai import OpenAI
from llmlite.serve.schemas import ChatRequest, CompletionRequest, EmbeddingRequest, read
from llmlite.serve.service import Service


class SageMaker:
    """The routes, for one service."""

    def __init__(self, service: Service, openai: OpenAI) -> None:
        self.service, self._openai = service, openai
        self.routes = [
            Route("/ping", self.ping, methods=["GET"]),
            Route("/invocations", self.invoke, methods=["POST"]),
        ]

    async def ping(self, request: Request) -> Response:
        """GET /ping."""
        return Response(status_code=200 if self.service.engine.is_alive else 503)

    async def invoke(self, request: Request) -> Response:
        """POST /invocations."""
        body = await request.body()
        keys = {"messages", "prompt", "input"} & set(json_object(body))
        if keys == {"messages"}:
            return await self._openai.chat_of(request, read(ChatRequest, body))
        if keys == {"prompt"}:
            return await self._openai.complete_of(request, read(CompletionRequest, body))
        if keys == {"input"}:
            return await self._openai.embeddings_of(request, read(EmbeddingRequest, body))
        raise Fault(400, "expected one of messages, prompt and input")

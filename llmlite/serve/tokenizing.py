"""The model's tokenizer over HTTP: /tokenize, /detokenize and /tokenizer_info, in the forms of vLLM's server.

lm-eval's `local-completions` uses them to find the boundary between a context and its continuation, so it
needs no copy of the tokenizer.

Source of the request and response formats:
https://docs.vllm.ai/en/latest/serving/openai_compatible_server.html
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from llmlite.serve.faults import Fault
from llmlite.serve.responses import answer
from llmlite.serve.schemas import DetokenizeRequest, TokenizeRequest, read
from llmlite.serve.service import Service, as_plain

if TYPE_CHECKING:
    from llmlite.tokenizers import Tokenizer

OF_TEXTS = ("add_special_tokens",)
OF_CONVERSATIONS = ("add_generation_prompt", "tools", "chat_template_kwargs")


class Offsets:
    """Where tokens begin in a text, in characters. A control token and a part of a character have no length.

    Args:
        tokenizer: the tokenizer of these tokens.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._decoder = tokenizer.stream(skip_special=True)
        self._reached = 0

    def next(self, token: int) -> int:
        """Return where the next token begins."""
        begin = self._reached
        self._reached += len(self._decoder.push(token))
        return begin


class Tokenizing:
    """The routes, for one service."""

    def __init__(self, service: Service) -> None:
        self.service = service
        self.routes = [
            Route("/tokenize", self.tokenize, methods=["POST"]),
            Route("/detokenize", self.detokenize, methods=["POST"]),
            Route("/tokenizer_info", self.info, methods=["GET"]),
        ]

    async def tokenize(self, request: Request) -> Response:
        """POST /tokenize: the ids of a text or a conversation, which may be longer than the context."""
        asked = read(TokenizeRequest, await request.body())
        self.service.check_model(asked.model)
        if (asked.prompt is None) == (asked.messages is None):
            raise Fault(400, "expected either prompt or messages", param="prompt")
        others = OF_CONVERSATIONS if asked.messages is None else OF_TEXTS
        for name in others:
            if getattr(asked, name) is not None:
                kind = "prompt" if asked.messages is None else "messages"
                raise Fault(400, f"{name}: not with {kind}", param=name)
        ids = await asyncio.to_thread(self._ids, asked)
        body = {"count": len(ids), "max_model_len": self.service.model.n_ctx, "tokens": ids}
        if asked.return_token_strs:
            tokenizer = self.service.model.tokenizer
            body["token_strs"] = [tokenizer.token(token) for token in ids]
        return answer(body)

    def _ids(self, asked: TokenizeRequest) -> list[int]:
        service = self.service
        if asked.messages is not None:
            return service.rendered(
                [as_plain(index, message) for index, message in enumerate(asked.messages)],
                asked.tools,
                asked.chat_template_kwargs or {},
                begins_answer=asked.add_generation_prompt is not False,
            )
        assert asked.prompt is not None
        with service.model.gguf.located():
            return service.model.tokenizer.encode(
                asked.prompt,
                add_special=asked.add_special_tokens is not False,
                add_eos=not service.model.config.causal,  # as in /v1/completions or /v1/embeddings
            )

    async def detokenize(self, request: Request) -> Response:
        """POST /detokenize: the text of ids, with the names of control tokens."""
        asked = read(DetokenizeRequest, await request.body())
        self.service.check_model(asked.model)
        n_vocab = self.service.model.config.n_vocab
        for token in asked.tokens:
            if not 0 <= token < n_vocab:
                raise Fault(
                    400, f"token {token} is not in the vocabulary, 0 to {n_vocab - 1}", param="tokens"
                )
        text = await asyncio.to_thread(self.service.model.tokenizer.decode, asked.tokens)
        return answer({"prompt": text})

    async def info(self, request: Request) -> Response:
        """GET /tokenizer_info: special tokens and the chat template, by the names of Hugging Face's files."""
        model = self.service.model
        tokenizer = model.tokenizer

        def text(token: int | None) -> str | None:
            return None if token is None else tokenizer.token(token)

        found: dict[str, Any] = {
            "tokenizer_class": type(tokenizer).__name__,
            "bos_token": text(tokenizer.bos_id),
            "eos_token": text(tokenizer.eos_id),
            "unk_token": text(tokenizer.unk_id),
            "pad_token": text(tokenizer.pad_id),
            "add_bos_token": tokenizer.add_bos,
            "add_eos_token": tokenizer.add_eos,
            "model_max_length": model.n_ctx,
            "chat_template": model.chat_templates.get("default"),
        }
        return answer(found)

"""OpenAI's API: /v1/models, /v1/chat/completions, /v1/completions, /v1/embeddings.

Source of the request and response formats: https://platform.openai.com/docs/api-reference
"""

from __future__ import annotations

import base64
import secrets
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from llmlite.serve import options, tools
from llmlite.serve.engine import Ended, Piece
from llmlite.serve.faults import Fault
from llmlite.serve.responses import SSE, answer, event, streamed, unless_left
from llmlite.serve.schemas import ChatRequest, CompletionRequest, EmbeddingRequest, read
from llmlite.serve.service import RenderedConversation, Service
from llmlite.serve.tokenizing import Offsets

REASONS = {"eos": "stop", "stop": "stop", "length": "length", "cancelled": "stop"}
DEFAULT_COMPLETION = 16  # tokens, OpenAI's default for /v1/completions
DROPPED = "x-llmlite-dropped-messages"


@dataclass
class Choice:
    """One text of an answer, as far as it has been written.

    Attributes:
        text: the text without tool calls.
        logprobs: a record for each token.
        ended: the last event, once the text is complete.
        reader: finds tool calls in the text, if tools were offered.
        calls: the tool calls so far, in OpenAI's form.
    """

    text: str = ""
    logprobs: list[Any] = field(default_factory=list)
    ended: Ended | None = None
    reader: tools.CallReader | None = None
    calls: list[dict[str, Any]] = field(default_factory=list)

    def add(self, event: Piece | Ended) -> str:
        """Add an event; return its new text, without tool calls."""
        text = ""
        calls: list[dict[str, Any]] = []
        if isinstance(event, Ended):
            self.ended = event
            if self.reader is not None:
                text, calls = self.reader.end()
        else:
            self.logprobs += event.logprobs
            text, calls = self.reader.push(event) if self.reader is not None else (event.text, [])
        self.text += text
        self.calls += calls
        return text

    def forget(self) -> Ended:
        """Drop the token that was made only to score a prompt, because the client asked for none."""
        assert self.ended is not None
        self.text, self.logprobs = "", []
        self.ended = replace(self.ended, reason="length", n_made=0, end_logprob=None)
        return self.ended


def usage(choices: Sequence[Choice], n_prompts: int = 1) -> dict[str, Any]:
    """Return a request's numbers of tokens. Each prompt counts once, even if several texts follow it."""
    ended = [choice.ended for choice in choices if choice.ended is not None]
    n = max(1, len(choices) // n_prompts)
    prompt = sum(each.n_prompt for each in ended[::n])
    made = sum(each.n_made for each in ended)
    return {
        "prompt_tokens": prompt,
        "completion_tokens": made,
        "total_tokens": prompt + made,
        "prompt_tokens_details": {"cached_tokens": sum(each.n_cached for each in ended[::n])},
    }


class OpenAI:
    """The routes, for one service."""

    def __init__(self, service: Service) -> None:
        self.service = service
        self.routes = [
            Route("/v1/models", self.models, methods=["GET"]),
            Route("/v1/models/{name:path}", self.one_model, methods=["GET"]),
            Route("/v1/chat/completions", self.chat, methods=["POST"]),
            Route("/v1/completions", self.complete, methods=["POST"]),
            Route("/v1/embeddings", self.embeddings, methods=["POST"]),
        ]

    def _model(self) -> dict[str, Any]:
        service = self.service
        return {
            "id": service.settings.name,
            "object": "model",
            "created": service.created,
            "owned_by": "llmlite",
            "context_length": service.model.n_ctx,
        }

    async def models(self, request: Request) -> Response:
        return answer({"object": "list", "data": [self._model()]})

    async def one_model(self, request: Request) -> Response:
        self.service.check_model(request.path_params["name"])
        return answer(self._model())

    # ---- chat --------------------------------------------------------------------------------------------

    async def chat(self, request: Request) -> Response:
        """POST /v1/chat/completions."""
        return await self.chat_of(request, read(ChatRequest, await request.body()))

    async def chat_of(self, request: Request, asked: ChatRequest) -> Response:
        self.service.check_model(asked.model)
        self.service.check_choices(asked.n or 1)
        one = asked.parallel_tool_calls is False
        offer = tools.offered(self.service.model, asked.tools, asked.tool_choice, one=one)
        limit = asked.max_completion_tokens if asked.max_completion_tokens is not None else asked.max_tokens
        variables = dict(asked.chat_template_kwargs or {})
        if asked.reasoning_effort is not None:  # gpt-oss's template, for instance, reads it by this name
            variables.setdefault("reasoning_effort", asked.reasoning_effort)
        conversation = await self.service.conversation(
            asked.messages,
            tools=offer.tools if offer else None,
            max_tokens=limit,
            variables=variables,
            begin=offer.begin if offer else "",
        )
        if asked.top_logprobs and not asked.logprobs:
            raise Fault(400, "top_logprobs: needs logprobs true", param="top_logprobs")
        shared = self._chat_options(asked, limit, offer, len(conversation.ids))
        specs = [(conversation.ids, one) for one in seeded(shared, asked.n or 1)]
        headers = {DROPPED: str(conversation.n_dropped)} if conversation.n_dropped else {}
        head = {
            "id": f"chatcmpl-{secrets.token_hex(12)}",
            "created": int(time.time()),
            "model": self.service.settings.name,
        }
        if asked.stream:
            parts = self._chat_chunks(asked, specs, head, offer, conversation)
            return await streamed(request, parts, media_type=SSE, failed=failed, headers=headers)
        choices = await unless_left(request, self._all(specs, offer))
        body = {**head, "object": "chat.completion", **told(conversation)}
        body["choices"] = [self._chat_choice(i, choice, asked) for i, choice in enumerate(choices)]
        return answer({**body, "usage": usage(choices)}, headers)

    def _chat_options(
        self, asked: ChatRequest, limit: int | None, offer: tools.Offer | None, n_prompt: int
    ) -> dict[str, Any]:
        """Return the options of every text of a request; limit: the most tokens that it asks for."""
        shared = self._shared(asked, limit, n_prompt)
        if offer and offer.forced:
            if options.constraint(asked):
                raise Fault(
                    400,
                    "tool_choice: a forced call has a form of its own; give no other form",
                    param="tool_choice",
                )
            shared.update(offer.constraint)
        if asked.logprobs:
            shared["logprobs"] = asked.top_logprobs or 0
        return shared

    def _chat_choice(self, index: int, choice: Choice, asked: ChatRequest) -> dict[str, Any]:
        assert choice.ended is not None
        message: dict[str, Any] = {
            "role": "assistant",
            "content": choice.text or (None if choice.calls else ""),
            "refusal": None,
        }
        if choice.calls:
            message["tool_calls"] = choice.calls
        return {
            "index": index,
            "message": message,
            "logprobs": self._chat_logprobs(choice.logprobs) if asked.logprobs else None,
            "finish_reason": "tool_calls" if choice.calls else REASONS[choice.ended.reason],
        }

    async def _chat_chunks(
        self,
        asked: ChatRequest,
        specs: list[Any],
        head: dict[str, Any],
        offer: tools.Offer | None,
        conversation: RenderedConversation,
    ) -> AsyncGenerator[str, None]:
        wants_usage = bool(asked.stream_options and asked.stream_options.include_usage)

        def chunk(index: int, delta: dict[str, Any], reason: str | None = None, logprobs: Any = None) -> str:
            choice = {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": reason}
            body = {**head, "object": "chat.completion.chunk", "choices": [choice]}
            return event({**body, "usage": None} if wants_usage else body)

        choices = self._begun(specs, offer)
        async with self.service.run(specs) as run, aclosing(run.events()) as events:
            await run.started()
            if conversation.n_dropped:
                yield event({**head, "object": "chat.completion.chunk", "choices": [], **told(conversation)})
            for index in range(len(specs)):
                yield chunk(index, {"role": "assistant", "content": ""})
            async for index, part in events:
                choice = choices[index]
                n_calls = len(choice.calls)
                text = choice.add(part)
                scores = None
                if isinstance(part, Piece) and asked.logprobs:
                    scores = self._chat_logprobs(part.logprobs)
                if text or scores:
                    yield chunk(index, {"content": text}, logprobs=scores)
                for place in range(n_calls, len(choice.calls)):
                    yield chunk(index, {"tool_calls": [{"index": place, **choice.calls[place]}]})
                if isinstance(part, Ended):
                    yield chunk(index, {}, "tool_calls" if choice.calls else REASONS[part.reason])
        if wants_usage:
            yield event({**head, "object": "chat.completion.chunk", "choices": [], "usage": usage(choices)})
        yield "data: [DONE]\n\n"

    def _chat_logprobs(self, scores: Sequence[Any]) -> dict[str, Any]:
        def entry(token: int, logprob: float) -> dict[str, Any]:
            raw = self.service.model.tokenizer.piece(token)
            return {"token": raw.decode("utf-8", "replace"), "logprob": finite(logprob), "bytes": list(raw)}

        return {
            "content": [
                {**entry(s.id, s.logprob), "top_logprobs": [entry(*pair) for pair in s.top]} for s in scores
            ],
            "refusal": None,
        }

    # ---- completions -------------------------------------------------------------------------------------

    async def complete(self, request: Request) -> Response:
        """POST /v1/completions."""
        return await self.complete_of(request, read(CompletionRequest, await request.body()))

    async def complete_of(self, request: Request, asked: CompletionRequest) -> Response:
        self.service.check_model(asked.model)
        self.service.check_writes()
        if asked.suffix:
            raise Fault(400, "suffix: this server doesn't fill gaps", param="suffix")
        n = asked.n or 1
        if asked.best_of is not None and asked.best_of != n:
            raise Fault(400, "best_of: only the value of n is possible", param="best_of")
        if asked.echo and asked.stream and asked.logprobs is not None:
            raise Fault(400, "echo: not with both stream and logprobs", param="echo")
        self.service.check_choices(n)
        prompts = await self.service.prompts(asked.prompt, n_ctx=self.service.model.n_ctx)
        self.service.check_choices(n * len(prompts))
        wanted = DEFAULT_COMPLETION if asked.max_tokens is None else asked.max_tokens
        specs = []
        for ids in prompts:
            # scoring a prompt needs a step that makes a token, so one is made, and left out of the answer
            shared = self._shared(asked, max(wanted, 1) if asked.echo else wanted, len(ids))
            if asked.logprobs is not None:
                shared["logprobs"] = asked.logprobs
                if asked.echo:
                    shared["prompt_logprobs"] = True
            specs += [(ids, one) for one in seeded(shared, n)]
        head = {
            "id": f"cmpl-{secrets.token_hex(12)}",
            "object": "text_completion",
            "created": int(time.time()),
            "model": self.service.settings.name,
        }
        if asked.stream:
            parts = self._completion_chunks(asked, specs, head, len(prompts))
            return await streamed(request, parts, media_type=SSE, failed=failed)
        choices = await unless_left(request, self._all(specs))
        if not wanted:
            for choice in choices:
                choice.forget()
        body = {
            **head,
            "choices": [self._text_choice(i, c, asked, specs[i][0]) for i, c in enumerate(choices)],
        }
        return answer({**body, "usage": usage(choices, len(prompts))})

    def _text_choice(
        self, index: int, choice: Choice, asked: CompletionRequest, ids: list[int]
    ) -> dict[str, Any]:
        assert choice.ended is not None
        before = self._decoded(ids) if asked.echo else ""
        scores = None
        if asked.logprobs is not None:
            prompt = list(zip(ids, choice.ended.prompt_logprobs or ())) if asked.echo else []
            scores = self._text_logprobs(prompt, choice.logprobs + end_score(choice.ended), asked.logprobs)
        reason = REASONS[choice.ended.reason]
        return {"text": before + choice.text, "index": index, "logprobs": scores, "finish_reason": reason}

    async def _completion_chunks(
        self, asked: CompletionRequest, specs: list[Any], head: dict[str, Any], n_prompts: int
    ) -> AsyncGenerator[str, None]:
        wants_usage = bool(asked.stream_options and asked.stream_options.include_usage)

        def chunk(index: int, text: str, reason: str | None = None, logprobs: Any = None) -> str:
            choice = {"index": index, "text": text, "logprobs": logprobs, "finish_reason": reason}
            return event({**head, "choices": [choice], **({"usage": None} if wants_usage else {})})

        def scored(scores: Sequence[Any], place: Offsets) -> dict[str, Any] | None:
            return None if asked.logprobs is None else self._text_logprobs([], scores, asked.logprobs, place)

        choices = [Choice() for _ in specs]
        places = [Offsets(self.service.model.tokenizer) for _ in specs]
        wanted = asked.max_tokens != 0
        async with self.service.run(specs) as run, aclosing(run.events()) as events:
            await run.started()
            if asked.echo:
                for index, (ids, _) in enumerate(specs):
                    yield chunk(index, self._decoded(ids))
            async for index, part in events:
                choices[index].add(part)
                if isinstance(part, Ended):
                    ended = part if wanted else choices[index].forget()
                    last = end_score(ended)
                    scores = scored(last, places[index]) if last else None
                    yield chunk(index, "", REASONS[ended.reason], logprobs=scores)
                elif wanted and (part.text or part.logprobs):
                    yield chunk(index, part.text, logprobs=scored(part.logprobs, places[index]))
        if wants_usage:
            yield event({**head, "choices": [], "usage": usage(choices, n_prompts)})
        yield "data: [DONE]\n\n"

    def _text_logprobs(
        self, prompt: list[Any], made: Sequence[Any], n_top: int, places: Offsets | None = None
    ) -> dict[str, Any]:
        """Return the scores in the older format: parallel lists. `prompt` has pairs (id, score or None).

        `places` continues from the pieces before; None means the beginning of a text.
        """
        tokens, values, tops, offsets = [], [], [], []
        places = Offsets(self.service.model.tokenizer) if places is None else places
        for token, score in [*prompt, *((score.id, score) for score in made)]:
            tokens.append(self._text_of(token))
            offsets.append(places.next(token))
            values.append(None if score is None else finite(score.logprob))
            tops.append(
                None if score is None else {self._text_of(each): finite(value) for each, value in score.top}
            )
        return {
            "tokens": tokens,
            "token_logprobs": values,
            "top_logprobs": tops if n_top else None,
            "text_offset": offsets,
        }

    def _text_of(self, token: int) -> str:
        """Return a token's text. For a part of a character, this is OpenAI's notation, bytes:\\xf0\\x9f."""
        raw = self.service.model.tokenizer.piece(token)
        try:
            return raw.decode("utf-8")
        except UnicodeDecodeError:
            return "bytes:" + "".join(f"\\x{byte:02x}" for byte in raw)

    def _decoded(self, ids: Sequence[int]) -> str:
        tokenizer = self.service.model.tokenizer
        return b"".join(tokenizer.piece(token, skip_special=True) for token in ids).decode("utf-8", "replace")

    # ---- both --------------------------------------------------------------------------------------------

    def _shared(self, asked: Any, limit: int | None, n_prompt: int) -> dict[str, Any]:
        """Return the options of `Batch.add` that are the same for all texts after one prompt."""
        return {
            "max_tokens": self.service.max_tokens(limit, n_prompt),
            "stop": options.stops(asked.stop),
            **options.sampling(asked.model_dump(), self.service.model.config.n_vocab),
            **options.constraint(asked),
        }

    def _begun(self, specs: Sequence[Any], offer: tools.Offer | None) -> list[Choice]:
        tokenizer = self.service.model.tokenizer
        return [Choice(reader=tools.CallReader(offer, tokenizer) if offer else None) for _ in specs]

    async def _all(self, specs: list[Any], offer: tools.Offer | None = None) -> list[Choice]:
        choices = self._begun(specs, offer)
        async with self.service.run(specs) as run, aclosing(run.events()) as events:
            async for index, part in events:
                choices[index].add(part)
        return choices

    # ---- embeddings --------------------------------------------------------------------------------------

    async def embeddings(self, request: Request) -> Response:
        """POST /v1/embeddings."""
        return await self.embeddings_of(request, read(EmbeddingRequest, await request.body()))

    async def embeddings_of(self, request: Request, asked: EmbeddingRequest) -> Response:
        self.service.check_model(asked.model)
        rows = await self.service.prompts(asked.input, field="input")
        found = await unless_left(request, self.service.embed(rows))
        if asked.dimensions is not None and asked.dimensions != found.shape[1]:
            raise Fault(400, f"dimensions: this model has {found.shape[1]}", param="dimensions")

        def encoded(row: Any) -> Any:
            if asked.encoding_format == "base64":
                return base64.b64encode(row.astype("<f4").tobytes()).decode("ascii")
            return [float(x) for x in row]

        data = [{"object": "embedding", "index": i, "embedding": encoded(row)} for i, row in enumerate(found)]
        n_tokens = sum(map(len, rows))
        counts = {"prompt_tokens": n_tokens, "total_tokens": n_tokens}
        return answer({"object": "list", "data": data, "model": self.service.settings.name, "usage": counts})


def seeded(shared: dict[str, Any], n: int) -> list[dict[str, Any]]:
    """Return the options of n texts. Text i gets the seed `seed + i`."""
    seed = shared.get("seed")
    return [shared if seed is None else {**shared, "seed": seed + i} for i in range(n)]


def end_score(ended: Ended) -> list[Any]:
    """Return the score of the token that ended a text, if there is one.

    As in vLLM, this token has no text, but it has an entry in the lists of /v1/completions. With `echo`, a
    client that scores a prompt (lm-eval) removes one entry for each token that it let the server make.
    """
    return [] if ended.end_logprob is None else [ended.end_logprob]


def told(conversation: RenderedConversation) -> dict[str, Any]:
    """Return the warning of an answer whose oldest messages were left out."""
    count = conversation.n_dropped
    if not count:
        return {}
    return {"warnings": [f"the oldest {count} messages didn't fit the context and were left out"]}


def finite(logprob: float) -> float:
    """Return a log-probability for JSON, which has no infinity: an impossible token has OpenAI's -9999."""
    return max(float(logprob), -9999.0)


def failed(fault: Fault) -> str:
    """Return the last event of a stream that failed."""
    return event(fault.body)

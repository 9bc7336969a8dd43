"""The parts that all APIs share: prompts, texts in pieces, embeddings."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from llmlite.serve.engine import Ended, Engine, Event, Failed, Job, Piece, Started
from llmlite.serve.faults import Fault, from_error, overflow, too_late
from llmlite.serve.metrics import Metrics
from llmlite.serve.settings import Settings

if TYPE_CHECKING:
    import numpy as np

    from llmlite.model import Model

EMBED_TOKENS = 512  # of the texts that one task of the engine takes
ANSWER_SHARE = 4  # dropping old turns leaves at least n_ctx / 4 tokens for the answer


@dataclass(frozen=True)
class Conversation:
    """A rendered conversation. n_dropped: how many old messages were left out because they didn't fit."""

    ids: list[int]
    n_dropped: int = 0


class Run:
    """The texts of one request, and their events. Leaving the block cancels texts that still run.

    Args:
        engine: what writes them. specs: (prompt ids, options of `Batch.add`) each.
        max_seconds: that all may take together, from when they are queued.
    """

    def __init__(
        self, engine: Engine, specs: Sequence[tuple[Sequence[int], dict[str, Any]]], max_seconds: float
    ) -> None:
        self._engine, self._max_seconds = engine, max_seconds
        self._loop = asyncio.get_running_loop()
        self._events: asyncio.Queue[tuple[int, Event]] = asyncio.Queue()
        self._left = len(specs)
        self.jobs = [
            Job(ids, options, deliver=partial(self._put, i), post=self._loop.call_soon_threadsafe)
            for i, (ids, options) in enumerate(specs)
        ]

    def _put(self, index: int, event: Event) -> None:
        self._events.put_nowait((index, event))

    async def __aenter__(self) -> Run:
        self._engine.submit(self.jobs)
        # one timer: a timeout around each wait cost as much as the rest of the way of a token
        late = Failed(too_late(self._max_seconds))
        self._timer = self._loop.call_later(self._max_seconds, self._put, 0, late)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._timer.cancel()
        if self._left:
            self._engine.cancel(self.jobs)

    async def started(self) -> None:
        """Wait until the first text has joined the batch.

        Raises:
            Fault: its options are refused, or it waited too long.
        """
        index, event = await self._events.get()
        if isinstance(event, Failed):
            raise from_error(event.error)
        if not isinstance(event, Started):
            self._events.put_nowait((index, event))

    async def events(self) -> AsyncGenerator[tuple[int, Piece | Ended], None]:
        """Yield (index of the text, Piece or Ended) until all have ended.

        Raises:
            Fault: one of them failed, or the time is over.
        """
        while self._left:
            index, event = await self._events.get()
            if isinstance(event, Failed):
                raise from_error(event.error)
            if isinstance(event, Ended):
                self._left -= 1
            if not isinstance(event, Started):
                yield index, event


class Service:
    """A model that is being served.

    Attributes:
        model, settings, metrics, engine: see there. created: when it was loaded, in seconds since 1970.
    """

    def __init__(self, model: Model, settings: Settings) -> None:
        self.model, self.settings = model, settings
        self.metrics = Metrics()
        self.created = int(time.time())
        self.engine = Engine(
            model,
            max_sequences=settings.max_sequences,
            prefill_tokens=settings.prefill_tokens,
            max_queue=settings.max_queue,
            metrics=self.metrics,
        )
        self.metrics.watch(lambda: self.engine.n_running, lambda: self.engine.n_waiting)

    def check_model(self, name: str | None) -> None:
        """Refuse a request for another model. None, and the name with ":latest", mean this one.

        Raises:
            Fault: another name.
        """
        own = self.settings.name
        if name is not None and name.removesuffix(":latest") != own.removesuffix(":latest"):
            raise Fault(
                404,
                f"the model {name!r:.200} is not here; this server has {own!r}",
                param="model",
                code="model_not_found",
            )

    def check_writes(self) -> None:
        """Refuse texts from a model that writes none. Raises Fault."""
        if not self.model.config.causal:
            raise Fault(400, "this model writes no text; it has embeddings", code="model_refused")

    # ---- prompts ---------------------------------------------------------------------------------------

    async def conversation(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        max_tokens: int | None = None,
        variables: Mapping[str, Any] | None = None,
        begin: str = "",
    ) -> Conversation:
        """Return a conversation's token ids. Drop its oldest turns if it is too long and settings allow it.

        Args:
            messages, tools, variables: for the template. max_tokens: of the answer. begin: the answer's first
            text, made part of the prompt.

        Raises:
            Fault: it doesn't fit the context. LlmliteError: the template refuses it.
        """
        return await asyncio.to_thread(self._fitting, messages, tools, max_tokens, variables or {}, begin)

    def _fitting(
        self,
        messages: Sequence[Mapping[str, Any]],
        tools: Sequence[Mapping[str, Any]] | None,
        max_tokens: int | None,
        variables: Mapping[str, Any],
        begin: str,
    ) -> Conversation:
        self.check_writes()
        plain = [as_plain(index, message) for index, message in enumerate(messages)]
        n_ctx = self.model.n_ctx
        ids = self.rendered(plain, tools, variables, begin)
        if len(ids) < n_ctx:
            return Conversation(ids)
        if self.settings.context_overflow == "refuse":
            raise overflow(len(ids), n_ctx)
        share = n_ctx // ANSWER_SHARE
        room = n_ctx - max(1, share if max_tokens is None else min(max_tokens, share))
        cuts = [cut for cut in turns(plain) if cut]
        low, high = 0, len(cuts) - 1  # the fewest turns to drop: lengths fall with each
        best: Conversation | None = None
        while low <= high:
            middle = (low + high) // 2
            kept = without_oldest(plain, cuts[middle])
            found = self.rendered(kept, tools, variables, begin)
            if len(found) <= room:
                best = Conversation(found, len(plain) - len(kept))
                high = middle - 1
            else:
                low = middle + 1
        if best is None:
            raise overflow(len(ids), n_ctx)
        return best

    def rendered(
        self,
        messages: Sequence[Mapping[str, Any]],
        tools: Sequence[Mapping[str, Any]] | None,
        variables: Mapping[str, Any],
        begin: str = "",
        *,
        begins_answer: bool = True,
    ) -> list[int]:
        """Return a conversation's token ids, however many; `conversation` also looks at the context.

        Args:
            messages: with plain contents (`as_plain`). tools, variables, begin: as for `conversation`.
            begins_answer: end with what the template writes before an answer.

        Raises:
            Fault: a variable that isn't the client's. LlmliteError: the template refuses it.
        """
        model = self.model
        reserved = {"messages", "add_generation_prompt", "tools", "now"} & set(variables)
        if reserved:
            raise Fault(400, f"chat_template_kwargs: {sorted(reserved)[0]} is not for clients to set")
        text = model._template(None, tools).render(messages, begins_answer, tools=tools or None, **variables)
        bos = model.tokenizer.bos_id
        has_bos = bos is not None and text.startswith(model.tokenizer.token(bos))
        with model.gguf.located():
            return model.tokenizer.encode(
                text + begin, add_special=not has_bos, add_eos=False, plain=text.plain
            )

    async def prompts(
        self, prompt: str | Sequence[Any], *, n_ctx: int | None = None, field: str = "prompt"
    ) -> list[list[int]]:
        """Return the ids of each of a request's prompts: a text, texts, ids, or lists of ids.

        Args:
            n_ctx: the most tokens of each prompt and one to write; None: any number.
            field: the request's name for it, which a Fault has as `param`.

        Raises:
            Fault: none, an empty one, an id outside the vocabulary, or one that is too long.
        """
        several: Sequence[Any]
        if isinstance(prompt, str) or (prompt and isinstance(prompt[0], int)):
            several = [prompt]
        else:
            several = prompt
        if not several:
            raise Fault(400, "expected at least one text", param=field)
        try:
            return await asyncio.to_thread(lambda: [self._ids(each, n_ctx) for each in several])
        except Fault as fault:
            fault.param = field
            raise

    def _ids(self, prompt: str | Sequence[int], n_ctx: int | None) -> list[int]:
        if isinstance(prompt, str):
            with self.model.gguf.located():
                ids = self.model.tokenizer.encode(prompt, add_eos=n_ctx is None)
        else:
            ids = list(prompt)
        n_vocab = self.model.config.n_vocab
        for token in ids:
            if not 0 <= token < n_vocab:
                raise Fault(
                    400,
                    f"token {token} is not in the vocabulary, 0 to {n_vocab - 1}; send texts, or ids by "
                    "this model's own tokenizer",
                    param="input",
                )
        if not ids:
            raise Fault(400, "an empty text: expected at least one token", param="prompt")
        if n_ctx is not None and len(ids) >= n_ctx:
            raise overflow(len(ids), n_ctx)
        return ids

    # ---- texts and vectors -------------------------------------------------------------------------------

    def run(self, specs: Sequence[tuple[Sequence[int], dict[str, Any]]]) -> Run:
        """Begin the texts of a request; an asynchronous context manager.

        Raises:
            Fault: more than one request may ask for.
        """
        if len(specs) > self.settings.max_choices:
            limit = self.settings.max_choices
            raise Fault(400, f"{len(specs)} texts: one request may ask for {limit}", param="n")
        return Run(self.engine, specs, self.settings.max_seconds)

    def max_tokens(self, wanted: int | None, n_prompt: int) -> int:
        """Return how many tokens may be written: those wanted, as far as the context has room."""
        room = self.model.n_ctx - n_prompt
        return room if wanted is None else min(wanted, room)

    async def embed(self, rows: Sequence[list[int]], *, truncate: bool = False) -> np.ndarray:
        """Return the embeddings of texts given as ids, float32 (n, n_embd).

        They are read in groups between the steps of texts that are being written; a client that leaves stops
        the groups that are left.

        Raises:
            Fault: too many texts, or the time is over. LlmliteError, ValueError: as `Model.embed`.
        """
        import numpy as np

        from llmlite.embed import grouped

        if len(rows) > self.settings.max_inputs:
            limit = self.settings.max_inputs
            raise Fault(400, f"{len(rows)} texts: one request may hold {limit}", param="input")
        found: list[np.ndarray] = [np.empty(0)] * len(rows)
        try:
            async with asyncio.timeout(self.settings.max_seconds):
                for group in grouped([len(ids) for ids in rows], EMBED_TOKENS):
                    texts = [rows[i] for i in group]
                    work = self.engine.task(
                        partial(self.model.embed, texts, pooling=self.settings.pooling, truncate=truncate)
                    )
                    for i, row in zip(group, await asyncio.wrap_future(work)):
                        found[i] = row
        except TimeoutError:
            raise too_late(self.settings.max_seconds) from None
        return np.array(found, np.float32)


def as_plain(index: int, message: Mapping[str, Any]) -> dict[str, Any]:
    """Return a message as templates know it: "developer" is "system", arguments of calls are objects.

    Raises:
        Fault: a part that isn't text, or no role.
    """
    import json

    plain = dict(message)
    where = f"messages[{index}]"
    if not isinstance(plain.get("role"), str):
        raise Fault(400, f"{where}.role: expected a text", param=f"{where}.role")
    if plain["role"] == "developer":
        plain["role"] = "system"
    content = plain.get("content")
    if content is None:
        plain["content"] = ""
    elif isinstance(content, list):
        texts = []
        for place, part in enumerate(content):
            if not isinstance(part, Mapping) or not isinstance(part.get("text"), str):
                name = f"{where}.content[{place}]"
                raise Fault(
                    400,
                    f'{name}: expected {{"type": "text", "text": …}}; this model reads text only',
                    param=name,
                )
            texts.append(part["text"])
        plain["content"] = "\n".join(texts)
    elif not isinstance(content, str):
        raise Fault(400, f"{where}.content: expected a text or parts", param=f"{where}.content")
    if plain.get("images"):
        raise Fault(400, f"{where}.images: this model reads text only", param=f"{where}.images")
    calls = plain.get("tool_calls")
    if isinstance(calls, list):
        plain["tool_calls"] = [_with_object(call, json.loads) for call in calls]
    return plain


def _with_object(call: Any, read: Any) -> Any:
    """A tool call whose arguments, a text in OpenAI's form, are the object that it holds."""
    function = call.get("function") if isinstance(call, Mapping) else None
    if not isinstance(function, Mapping) or not isinstance(function.get("arguments"), str):
        return call
    try:
        arguments = read(function["arguments"])
    except (ValueError, RecursionError):
        return call
    return {**call, "function": {**function, "arguments": arguments}}


def turns(messages: Sequence[Mapping[str, Any]]) -> list[int]:
    """Return where turns begin: places of user messages, not counting system messages at the beginning."""
    return [index for index, message in enumerate(messages) if message["role"] == "user" and index]


def without_oldest(messages: Sequence[Mapping[str, Any]], cut: int) -> list[Mapping[str, Any]]:
    """Return system messages at the beginning, and all messages from `cut` on."""
    n_system = 0
    while n_system < len(messages) and messages[n_system]["role"] == "system":
        n_system += 1
    return [*messages[:n_system], *messages[max(cut, n_system) :]]

"""The parts that all APIs share: prompts, texts in pieces, embeddings."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from llmlite.generate.options import form
from llmlite.serve.engine import Ended, Engine, Event, Failed, Job, Piece, Started
from llmlite.serve.faults import Fault, from_error, overflow, too_late
from llmlite.serve.metrics import Metrics
from llmlite.serve.settings import Settings

if TYPE_CHECKING:
    import numpy as np

    from llmlite.model import Model

EMBED_TOKENS = 512  # tokens of the texts in one task of the engine
FORMS = ("json_schema", "grammar", "regex")
ANSWER_SHARE = 4  # dropping old turns leaves at least n_ctx / 4 tokens for the answer


@dataclass(frozen=True)
class RenderedConversation:
    """A rendered conversation.

    Attributes:
        ids: its token ids.
        n_dropped: the number of old messages that were left out because they didn't fit.
    """

    ids: list[int]
    n_dropped: int = 0


class Run:
    """The texts of one request and their events. Leaving the block cancels texts that are still running.

    Args:
        engine: the engine that writes them.
        specs: (prompt ids, options of `Batch.add`) of each text.
        max_seconds: the most seconds for all texts together, from the time they are queued.
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
        for job in self.jobs:
            if any(name in job.options for name in FORMS):
                await asyncio.to_thread(_make_form, job.options, self._engine.model)
        self._engine.submit(self.jobs)
        # one timer for all: a timeout around each wait cost as much as all other work for a token
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
            Fault: If its options are refused, or it waited too long.
        """
        index, event = await self._events.get()
        if isinstance(event, Failed):
            raise from_error(event.error)
        if not isinstance(event, Started):
            self._events.put_nowait((index, event))

    async def events(self) -> AsyncGenerator[tuple[int, Piece | Ended], None]:
        """Yield (index of the text, Piece or Ended) until all have ended.

        Raises:
            Fault: If one of them failed, or the time is over.
        """
        while self._left:
            index, event = await self._events.get()
            if isinstance(event, Failed):
                raise from_error(event.error)
            if isinstance(event, Ended):
                self._left -= 1
            if not isinstance(event, Started):
                yield index, event


def _make_form(options: dict[str, Any], model: Model) -> None:
    """Replace a schema, grammar or pattern by its Grammar. In the engine's thread, all texts would wait.

    Raises:
        Fault: If it is malformed, or no text can have this form.
    """
    try:
        for name in FORMS:
            if name in options:
                options[name] = form(name, options[name])
                options[name].constrain(model.tokenizer)  # the grammar caches this work
    except Exception as error:
        raise from_error(error) from error


class Service:
    """A model that is being served.

    Attributes:
        model: the model.
        settings: the server's settings.
        metrics: the server's figures.
        engine: the thread that runs the model.
        created: when the model was loaded, in seconds since 1970.
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
        """Refuse a request for another model. None, and the name with ":latest", mean this model.

        Raises:
            Fault: If the name is another model's.
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
        """Refuse to write text with an encoder.

        Raises:
            Fault: If the model writes no text.
        """
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
    ) -> RenderedConversation:
        """Return a conversation's token ids. Drop its oldest turns if it is too long and settings allow it.

        Args:
            messages: the conversation.
            tools: tools for the template.
            max_tokens: the most tokens of the answer.
            variables: variables of the template.
            begin: the beginning of the answer, which is made part of the prompt.

        Raises:
            Fault: If it doesn't fit the context.
            LlmliteError: If the template refuses it.
        """
        return await asyncio.to_thread(self._fitting, messages, tools, max_tokens, variables or {}, begin)

    def _fitting(
        self,
        messages: Sequence[Mapping[str, Any]],
        tools: Sequence[Mapping[str, Any]] | None,
        max_tokens: int | None,
        variables: Mapping[str, Any],
        begin: str,
    ) -> RenderedConversation:
        self.check_writes()
        plain = [as_plain(index, message) for index, message in enumerate(messages)]
        n_ctx = self.model.n_ctx
        ids = self.rendered(plain, tools, variables, begin)
        if len(ids) < n_ctx:
            return RenderedConversation(ids)
        if self.settings.context_overflow == "refuse":
            raise overflow(len(ids), n_ctx)
        share = n_ctx // ANSWER_SHARE
        room = n_ctx - max(1, share if max_tokens is None else min(max_tokens, share))
        cuts = [cut for cut in turns(plain) if cut]
        low, high = 0, len(cuts) - 1  # search for the fewest turns to drop: each makes the prompt shorter
        best: RenderedConversation | None = None
        while low <= high:
            middle = (low + high) // 2
            kept = without_oldest(plain, cuts[middle])
            found = self.rendered(kept, tools, variables, begin)
            if len(found) <= room:
                best = RenderedConversation(found, len(plain) - len(kept))
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
        """Return a conversation's token ids, of any number. `conversation` also respects the context.

        Args:
            messages: messages with plain contents (`as_plain`).
            tools: as in `conversation`.
            variables: as in `conversation`.
            begin: as in `conversation`.
            begins_answer: whether to end with the template's text before an answer.

        Raises:
            Fault: If clients may not set a variable.
            LlmliteError: If the template refuses the conversation.
        """
        model = self.model
        reserved = {"messages", "add_generation_prompt", "tools", "now"} & set(variables)
        if reserved:
            raise Fault(400, f"chat_template_kwargs: clients may not set {sorted(reserved)[0]}")
        text = model._template(None, tools).render(messages, begins_answer, tools=tools or None, **variables)
        has_bos = model._begins_with_bos(text, text.plain)
        with model.gguf.located():
            return model.tokenizer.encode(
                text + begin, add_special=not has_bos, add_eos=False, plain=text.plain
            )

    async def prompts(
        self, prompt: str | Sequence[Any], *, n_ctx: int | None = None, field: str = "prompt"
    ) -> list[list[int]]:
        """Return the ids of each prompt of a request.

        Args:
            prompt: a text, several texts, ids, or several lists of ids.
            n_ctx: the context, which must hold each prompt and one more token; None allows any length.
            field: the request's name for the prompt, which a Fault has as `param`.

        Raises:
            Fault: If there is no prompt or there are too many, or one is empty, is too long, or has an id
                outside the vocabulary.
        """
        several: Sequence[Any]
        if isinstance(prompt, str) or (prompt and isinstance(prompt[0], int)):
            several = [prompt]
        else:
            several = prompt
        if not several:
            raise Fault(400, "expected at least one text", param=field)
        if len(several) > self.settings.max_inputs:
            limit = self.settings.max_inputs
            raise Fault(400, f"{len(several)} texts: one request may hold {limit}", param=field)
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
        """Return an asynchronous context manager that runs the texts of a request.

        Raises:
            Fault: If there are more texts than one request may ask for.
        """
        self.check_choices(len(specs))
        return Run(self.engine, specs, self.settings.max_seconds)

    def check_choices(self, count: int) -> None:
        """Refuse a request for too many texts. Call this before anything is made for each of them.

        Raises:
            Fault: If there are more texts than one request may ask for.
        """
        limit = self.settings.max_choices
        if count > limit:
            raise Fault(400, f"{count} texts: one request may ask for {limit}", param="n")

    def max_tokens(self, wanted: int | None, n_prompt: int) -> int:
        """Return the most tokens that may be written: `wanted`, but no more than fit the context."""
        room = self.model.n_ctx - n_prompt
        return room if wanted is None else min(wanted, room)

    async def embed(self, rows: Sequence[list[int]], *, truncate: bool = False) -> np.ndarray:
        """Return the embeddings of texts given as ids, float32 (n, n_embd).

        Groups of texts are read between the steps of texts that are being written. If the client leaves, the
        remaining groups are dropped.

        Raises:
            Fault: If the time is over.
            LlmliteError, ValueError: As in `Model.embed`.
        """
        import numpy as np

        from llmlite.embed import grouped

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
    """Return a message in the form of templates: "developer" is "system", arguments of calls are objects.

    Raises:
        Fault: If it has no role, or a part that isn't text.
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
    """Return a tool call with its arguments, which are JSON text in OpenAI's form, as an object."""
    function = call.get("function") if isinstance(call, Mapping) else None
    if not isinstance(function, Mapping) or not isinstance(function.get("arguments"), str):
        return call
    try:
        arguments = read(function["arguments"])
    except (ValueError, RecursionError):
        return call
    return {**call, "function": {**function, "arguments": arguments}}


def turns(messages: Sequence[Mapping[str, Any]]) -> list[int]:
    """Return the indices at which turns begin: those of user messages, except index 0."""
    return [index for index, message in enumerate(messages) if message["role"] == "user" and index]


def without_oldest(messages: Sequence[Mapping[str, Any]], cut: int) -> list[Mapping[str, Any]]:
    """Return the system messages at the beginning, and all messages from index `cut` on."""
    n_system = 0
    while n_system < len(messages) and messages[n_system]["role"] == "system":
        n_system += 1
    return [*messages[:n_system], *messages[max(cut, n_system) :]]

"""The part of `llmlite.Model` for text: it writes, answers and scores."""

from __future__ import annotations

import asyncio
import copy
import warnings
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Unpack, cast

import numpy as np

from llmlite.chat import ChatTemplate
from llmlite.chat.tool_calls import Answer, form_of, parse, with_marks
from llmlite.errors import ChatTemplateError, ModelError
from llmlite.generate.batch import Batch
from llmlite.generate.generation import Generation
from llmlite.generate.options import MAX_TOKENS, NAMES, check_names, given, make_constraint, make_sampler
from llmlite.generate.speculation import Speculator
from llmlite.sampling import Sampler
from llmlite.tokenizers import as_ids, several

if TYPE_CHECKING:
    from llmlite.generate.options import BatchOptions, TextOptions
    from llmlite.gguf import GGUFFile
    from llmlite.model import Model

Prompt = str | Sequence[int]
Messages = str | Sequence[Mapping[str, Any]]
FORM = "tokenizer.chat_template"


class Texts:
    """Methods of `llmlite.Model` that take and return text."""

    if TYPE_CHECKING:  # the attributes of Model
        gguf: GGUFFile
        metadata: Mapping[str, Any]
        n_ctx: int
        tokenizer: Any
        chat_template: Any
        _ids: Callable[[Prompt], list[int]]
        _text_of: Callable[[str], str]
        _writes_text: Callable[[], None]

    # ---- tokens ----------------------------------------------------------------------------------------

    def tokenize(self, text: str, *, add_special: bool = True, parse_special: bool = True) -> list[int]:
        """Return the token ids of a prompt with this text.

        Args:
            text: any text.
            add_special: add the token that begins a text, if the model's file requires it.
            parse_special: read the texts of control tokens as these tokens.

        Raises:
            TokenizerError: see `tokenizer`; or the text has a lone surrogate.
        """
        with self.gguf.located():
            return self.tokenizer.encode(
                text, add_special=add_special, parse_special=parse_special, add_eos=False
            )

    def detokenize(self, ids: Sequence[int], *, skip_special: bool = False) -> str:
        """Return the text of token ids; bytes that aren't UTF-8 become U+FFFD.

        Args:
            ids: token ids.
            skip_special: leave control tokens out.

        Raises:
            TokenizerError: an id is outside the vocabulary.
        """
        return self.tokenizer.decode(ids, skip_special=skip_special)

    # ---- texts -----------------------------------------------------------------------------------------

    def generate(self, prompt: Prompt, *, stream: bool | None = None, **options: Unpack[TextOptions]) -> Any:
        """Continue a prompt and return the text, without the prompt.

        Args:
            prompt: text, or token ids.
            stream: deprecated; use the method `stream`.
            options: `max_tokens` (256), `stop`, every option of `Sampler` by name (temperature 0.8, top_k 40,
                top_p 0.95, seed …) or `sampler`, `grammar`, `json_schema`, `regex`, `logprobs`,
                `prompt_logprobs`, `draft`; see `llmlite.generate.options`. None means "not given".

        Returns:
            The text, a str.

        Raises:
            ValueError: an option is outside its range, or the prompt has no tokens.
            TypeError: an option is unknown.
            ContextOverflowError: the prompt has more tokens than n_ctx.
            TokenizerError: see `tokenizer`.
            ModelError: the model is an encoder.
            GrammarError: a grammar, schema or pattern is malformed.
        """
        if stream is not None:
            _deprecated("generate(stream=…)", "stream(…)")
        generation = self.stream(prompt, **options)
        return generation if stream else "".join(generation)

    def stream(self, prompt: Prompt, **options: Unpack[TextOptions]) -> Generation:
        """Continue a prompt piece by piece; iterate over the result.

        The arguments and errors are those of `generate`.

        Returns:
            A Generation, which makes its text during the iteration, and has its ids, usage and speeds.
        """
        return self._generation(prompt, options)

    async def astream(self, prompt: Prompt, **options: Unpack[TextOptions]) -> AsyncIterator[str]:
        """Continue a prompt piece by piece without blocking the event loop.

            async for piece in model.astream("Once upon a time"):
                ...

        The work is done in a thread. If the task is cancelled, the work ends after the running step, which
        has at most 256 tokens of a prompt.

        The arguments and errors are those of `generate`.
        """
        generation: Generation | None = None
        cancelled = False

        def advance() -> str | None:
            nonlocal generation
            if generation is None:
                generation = self._generation(prompt, options)
            if cancelled:
                generation.cancel()
            return next(generation, None)

        try:
            while (piece := await asyncio.to_thread(advance)) is not None:
                yield piece
        finally:
            cancelled = True
            if generation is not None:
                generation.cancel()

    def generate_batch(
        self,
        prompts: Sequence[Prompt],
        *,
        max_sequences: int = 8,
        details: bool = False,
        **options: Unpack[BatchOptions],
    ) -> list[Any]:
        """Continue many prompts together; weights are read once for all prompts that run at the same time.

        Args:
            prompts: texts, or token ids, or both.
            max_sequences: the most prompts that run together.
            details: return Generations instead of texts; one that failed has an `error`.
            options: the options of `generate`, without `draft`. They apply to each prompt as if it ran alone;
                each gets its own copy of a `sampler`, with other random numbers if it has no seed.

        Returns:
            A text for each prompt, or a Generation if `details` is set.

        Raises:
            The errors of `generate`. Prompts and options are checked before anything runs. Without `details`,
            the error of a text that fails later is raised after the others have ended.
        """
        batch = self.batch(max_sequences=max_sequences)
        kept: dict[str, Any] = {  # the first prompt would exhaust an iterator, such as one of stop strings
            name: list(value) if isinstance(value, Iterator) else value for name, value in options.items()
        }
        made = [batch.add(prompt, **_own(kept)) for prompt in several(prompts, "prompts")]
        while len(batch):
            batch.step()
        if details:
            return list(made)
        for generation in made:
            if generation.error is not None:
                raise generation.error
        return [generation.text for generation in made]

    def batch(self, *, max_sequences: int = 8, prefill_tokens: int = 256, kept: int = 4) -> Batch:
        """Make an empty batch. Its sequences run together, and join and leave between steps.

        The arguments are those of `llmlite.generate.Batch`.

        Raises:
            ValueError: an option is outside its range.
            ModelError: the model is an encoder.
        """
        self._writes_text()
        return Batch(
            cast("Model", self), max_sequences=max_sequences, prefill_tokens=prefill_tokens, kept=kept
        )

    # ---- conversations ---------------------------------------------------------------------------------

    def chat(
        self,
        messages: Messages,
        *,
        stream: bool | None = None,
        parse_special: bool = False,
        tools: Sequence[Mapping[str, Any]] | None = None,
        template: str | None = None,
        template_variables: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> Any:
        """Answer a conversation, in the format that the model was trained on.

        Args:
            messages: a list of {"role": "user" | "assistant" | "system", "content": text}, or the text of one
                user message. A content may also be None, or a list of parts {"type": "text", "text": text}.
            stream: deprecated; use `stream_chat`.
            parse_special: read the texts of control tokens in the messages as these tokens. By default, they
                are plain text, so that the author of a message can't end it and begin another in someone
                else's name.
            tools: descriptions of functions that the model may call.
            template: the name of one of `chat_templates`, or a Jinja program; by default, the file's own
                template, or with `tools` the one named "tool_use" if there is one.
            template_variables: variables of the template, such as {"enable_thinking": False}; those that it
                names may also be passed as keywords.
            options: the options of `generate`.

        Returns:
            The answer, a str. With `tools`, a `llmlite.chat.tool_calls.Answer`: a str without the calls,
            which are objects in `tool_calls`.

        Raises:
            The errors of `generate`, and:
            ModelError: the model's file has no chat template.
            ChatTemplateError: the messages are malformed, or the template refuses them, doesn't support
                tools, or writes calls in an unknown form.
        """
        if stream is not None:
            _deprecated("chat(stream=…)", "stream_chat(…)")
        form = None
        if tools and not stream:
            form = form_of(self._template(template, tools).source)
        generation = self.stream_chat(
            messages,
            parse_special=parse_special,
            tools=tools,
            template=template,
            template_variables=template_variables,
            **options,
        )
        if stream:
            return generation
        if tools and form is None:
            raise ChatTemplateError(
                f"{FORM}: writes tool calls in an unknown form (known: Hermes and Qwen, Llama 3, "
                "Mistral); stream_chat returns the text unchanged"
            )
        text = "".join(generation)
        if form is None:
            return text
        return Answer.of(parse(with_marks(text, generation.ids, self.tokenizer), form))

    def stream_chat(
        self,
        messages: Messages,
        *,
        parse_special: bool = False,
        tools: Sequence[Mapping[str, Any]] | None = None,
        template: str | None = None,
        template_variables: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> Generation:
        """Answer a conversation piece by piece; arguments and errors as in `chat`, result as in `stream`."""
        extra = {name: options.pop(name) for name in list(options) if name not in NAMES}
        ids = self.chat_prompt(
            messages,
            parse_special=parse_special,
            tools=tools,
            template=template,
            template_variables=template_variables,
            **extra,
        )
        return self.stream(ids, **options)

    def chat_prompt(
        self,
        messages: Messages,
        *,
        parse_special: bool = False,
        add_special: bool = True,
        tools: Sequence[Mapping[str, Any]] | None = None,
        template: str | None = None,
        template_variables: Mapping[str, Any] | None = None,
        **variables: Any,
    ) -> list[int]:
        """Return the token ids of a conversation, up to the beginning of the answer.

        The other arguments and the errors are those of `chat`.

        Args:
            add_special: add the token that begins a text, if the file requires it and the template hasn't
                written it.
        """
        self._writes_text()
        if isinstance(messages, str):
            messages = [{"role": "user", "content": messages}]
        program = self._template(template, tools)
        unknown = {name: value for name, value in variables.items() if not program.reads(name)}
        check_names(unknown)  # neither an option nor a variable of this template
        if tools and "tools" not in program.source:
            raise ChatTemplateError(f"{FORM}: this model's template doesn't support tools")
        text = program.render(
            messages, add_generation_prompt=True, tools=tools, **{**(template_variables or {}), **variables}
        )
        plain = () if parse_special else text.plain
        has_bos = self._begins_with_bos(text, plain)
        return self.tokenizer.encode(
            text, add_special=add_special and not has_bos, add_eos=False, plain=plain
        )

    def _begins_with_bos(self, text: str, plain: Sequence[tuple[int, int]]) -> bool:
        """Return whether a template wrote the token that begins a text. In a message, its name is only text.

        Args:
            text: a rendered conversation.
            plain: its parts from messages, as in `llmlite.chat.Prompt`.
        """
        bos = self._text_of("bos_id")
        return bool(bos) and text.startswith(bos) and not any(begin < len(bos) for begin, _ in plain)

    @property
    def chat_templates(self) -> dict[str, str]:
        """The file's chat templates by name: "default" and the named ones."""
        found = {"default": self.metadata[FORM]} if FORM in self.metadata else {}
        for key, source in self.metadata.items():
            if key.startswith(f"{FORM}.") and isinstance(source, str):
                found[key.removeprefix(f"{FORM}.")] = source
        return found

    def _template(self, name: str | None, tools: Any) -> ChatTemplate:
        named = self.chat_templates
        if name is None:
            name = "tool_use" if tools and "tool_use" in named else None
        if name in (None, "default"):
            return self.chat_template
        source = named.get(name)
        if source is None:
            if "{" not in name:
                raise ModelError.missing(f"{FORM}.{name}", f"this file has {', '.join(named) or 'none'}")
            source = name
        return ChatTemplate(source, bos_token=self._text_of("bos_id"), eos_token=self._text_of("eos_id"))

    # ---- scores ----------------------------------------------------------------------------------------

    def perplexity(self, texts: str | Sequence[Prompt]) -> Any:
        """Return the perplexity of texts: exp of the mean negative log-likelihood of a token.

        Every token except a text's first is scored, given all tokens before it. A text longer than n_ctx is
        cut into parts of n_ctx tokens, each scored like a text of its own. (`llmlite perplexity` follows
        llama.cpp's method, which scores fewer tokens.)

        Args:
            texts: one text, or several texts or lists of token ids, which are read together.

        Returns:
            A float for one text; float64 (n,) for several. 1 means no surprise; a text of one token gives
            nan.

        Raises:
            The errors of `generate`.
        """
        all_texts = [texts] if isinstance(texts, str) else several(texts, "texts")
        batch, parts = self.batch(kept=0), []
        for place, text in enumerate(all_texts):
            ids = self.tokenize(text) if isinstance(text, str) else as_ids(text, f"texts[{place}]")
            for start in range(0, max(1, len(ids)), self.n_ctx):
                options: dict[str, Any] = {"max_tokens": 1, "temperature": 0, "prompt_logprobs": True}
                parts.append((place, batch.add(ids[start : start + self.n_ctx], **options)))
        while len(batch):
            batch.step()
        losses: list[list[float]] = [[] for _ in all_texts]
        for place, generation in parts:
            if generation.error is not None:
                raise generation.error
            losses[place] += [-t.logprob for t in generation.prompt_logprobs or () if t is not None]
        found = np.array([np.exp(np.mean(each)) if each else np.nan for each in losses])
        return float(found[0]) if isinstance(texts, str) else found

    # ---- how a Generation is made ----------------------------------------------------------------------

    def _generation(
        self, prompt: Prompt, options: Mapping[str, Any], make: Callable[..., Generation] = Generation
    ) -> Generation:
        """Make a Generation from the options of `stream`."""
        self._writes_text()
        chosen = given(options)
        sampler = make_sampler(chosen)
        ids = self._ids(prompt)
        speculator = None
        if (draft := chosen.get("draft")) is not None:
            speculator = Speculator(cast("Model", self), draft, chosen.get("draft_tokens"))
        return make(
            self,
            ids,
            max_tokens=chosen.get("max_tokens", MAX_TOKENS),
            sampler=sampler,
            stop=chosen.get("stop", ()),
            constraint=make_constraint(chosen, cast("Model", self)),
            logprobs=chosen.get("logprobs"),
            prompt_logprobs=bool(chosen.get("prompt_logprobs", False)),
            speculator=speculator,
        )


def _own(options: Mapping[str, Any]) -> Any:
    """Return the options for one of several texts, without shared random numbers or states."""
    own = {
        name: copy.deepcopy(value) if name in ("sampler", "constraint", "chain") else value
        for name, value in options.items()
    }
    sampler = own.get("sampler")
    if isinstance(sampler, Sampler) and sampler.seed is None:  # a copy would draw the same random numbers
        own["sampler"] = sampler.fresh()
    return own


def _deprecated(old: str, new: str) -> None:
    warnings.warn(f"{old} is deprecated; use {new}", DeprecationWarning, stacklevel=3)

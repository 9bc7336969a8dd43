"""llama-cpp-python's `Llama`, run by llmlite. A program only needs to change one import.

    from llmlite.compat import Llama                   # was: from llama_cpp import Llama

Methods, arguments and returned dictionaries have the same names and types. Missing methods and options are
refused by name. Source: the documented interface of llama-cpp-python 0.3.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from llmlite.errors import UnsupportedError
from llmlite.generate import Generation
from llmlite.model import load
from llmlite.sampling import Sampler

FINISH = {"eos": "stop", "stop": "stop", "length": "length"}
# llama-cpp-python's name of an option -> llmlite's name
SAMPLING = {
    "temperature": "temperature", "top_k": "top_k", "top_p": "top_p", "min_p": "min_p",
    "typical_p": "typical_p", "repeat_penalty": "repeat_penalty", "frequency_penalty": "frequency_penalty",
    "presence_penalty": "presence_penalty", "mirostat_mode": "mirostat", "mirostat_tau": "mirostat_tau",
    "mirostat_eta": "mirostat_eta", "seed": "seed", "logit_bias": "logit_bias",
}  # fmt: skip
DEFAULTS: dict[str, Any] = {
    "temperature": 0.8, "top_p": 0.95, "min_p": 0.05, "typical_p": 1.0, "top_k": 40, "repeat_penalty": 1.0,
    "frequency_penalty": 0.0, "presence_penalty": 0.0, "mirostat_mode": 0, "mirostat_tau": 5.0,
    "mirostat_eta": 0.1, "seed": None, "logit_bias": None,
}  # fmt: skip
OTHERS = ("max_tokens", "stop", "logprobs", "echo", "stream", "model", "grammar", "logits_processor")
IGNORED = frozenset(  # options of the constructor that change how llama.cpp runs, but not its results
    "n_gpu_layers main_gpu use_mmap use_mlock n_batch n_ubatch n_threads_batch offload_kqv verbose "
    "logits_all flash_attn numa split_mode no_perf".split()
)


RANDOM_SEEDS = (-1, 0xFFFFFFFF)  # LLAMA_DEFAULT_SEED, signed and unsigned


class Llama:
    """A model, with llama-cpp-python's methods.

    Args:
        model_path: a GGUF file, or another name for `llmlite.load`.
        n_ctx: length of the context in tokens; 0 for llmlite's default, at most 4096.
        seed: the seed of calls without one; -1 for another one in each call.
        n_threads: number of threads.
        type_k, type_v: type of keys and values: 0 (F32), 1 (F16, the default) or 8 (Q8_0), the same for both.
        lora_path, lora_scale: an adapter, and its factor.
        embedding: ignored, because `embed` needs no preparation.
        options: options that only change how llama.cpp runs (n_gpu_layers, n_batch, use_mmap …) are ignored.

    Raises:
        UnsupportedError: an option isn't supported. The error names it.
    """

    def __init__(
        self,
        model_path: str,
        *,
        n_ctx: int = 512,
        seed: int | None = None,
        n_threads: int | None = None,
        type_k: int | None = None,
        type_v: int | None = None,
        lora_path: str | None = None,
        lora_scale: float = 1.0,
        embedding: bool = False,
        **options: Any,
    ) -> None:
        for name, value in options.items():
            if name not in IGNORED and value is not None:
                raise UnsupportedError(f"Llama({name}=…): llmlite.compat has no such option")
        kinds = {None: "f16", 0: "f32", 1: "f16", 8: "q8_0"}
        if type_k not in kinds or type_v not in (None, type_k):
            raise UnsupportedError(
                f"Llama(type_k={type_k}, type_v={type_v}): both must be the same, 0, 1 or 8"
            )
        self.model_path = model_path
        self.model = load(
            model_path,
            n_ctx=n_ctx or None,
            kv_dtype=kinds[type_k],
            n_threads=n_threads,
            lora=[(lora_path, lora_scale)] if lora_path else None,
        )
        self.seed = seed
        self.input_ids: list[int] = []
        self._last: np.ndarray | None = None  # logits (V,) after input_ids

    def __getattr__(self, name: str) -> Any:
        if name == "model" and "model_path" in self.__dict__:
            raise AttributeError("this Llama was closed, so it has no model")
        if name.startswith("_") or name == "model":
            raise AttributeError(name)
        raise UnsupportedError(f"Llama.{name}: llmlite.compat has no such method")

    def close(self) -> None:
        """Release the model's memory. Other methods then raise AttributeError; closing twice is allowed."""
        self.__dict__.pop("model", None)
        self.input_ids, self._last = [], None

    # ---- tokens ----------------------------------------------------------------------------------------

    @property
    def metadata(self) -> dict[str, str]:
        """The file's metadata as text, without arrays."""
        found = self.model.metadata.items()
        return {key: str(value) for key, value in found if isinstance(value, (str, int, float, bool))}

    @property
    def n_tokens(self) -> int:
        """Number of tokens that were evaluated."""
        return len(self.input_ids)

    def n_ctx(self) -> int:
        """Return the length of the context in tokens."""
        return self.model.n_ctx

    def n_embd(self) -> int:
        """Return the number of elements in a token's state."""
        return self.model.config.n_embd

    def n_vocab(self) -> int:
        """Return the number of tokens in the vocabulary."""
        return self.model.config.n_vocab

    def token_bos(self) -> int:
        """Return the id of the token that begins a text, -1 if there is none."""
        return -1 if self.model.tokenizer.bos_id is None else self.model.tokenizer.bos_id

    def token_eos(self) -> int:
        """Return the id of the token that ends a text, -1 if there is none."""
        return -1 if self.model.tokenizer.eos_id is None else self.model.tokenizer.eos_id

    def tokenize(self, text: bytes, add_bos: bool = True, special: bool = False) -> list[int]:
        """Return the token ids of UTF-8 bytes."""
        text_ = text.decode("utf-8", "surrogateescape")
        return self.model.tokenize(text_, add_special=add_bos, parse_special=special)

    def detokenize(
        self, tokens: Sequence[int], prev_tokens: Sequence[int] | None = None, special: bool = False
    ) -> bytes:
        """Return the bytes of token ids, without control tokens unless `special`."""
        return self.model.tokenizer.decode_bytes(tokens, skip_special=not special)

    # ---- step by step ----------------------------------------------------------------------------------

    def reset(self) -> None:
        """Forget all evaluated tokens."""
        self.input_ids, self._last = [], None

    def eval(self, tokens: Sequence[int]) -> None:
        """Evaluate tokens after those that were evaluated before."""
        ids = [*self.input_ids, *tokens]
        self._last = self.model._next_logits(self.model._checked(ids))[1]
        self.input_ids = ids

    def sample(
        self, *, logits_processor: Any = None, grammar: Any = None, idx: int | None = None, **options: Any
    ) -> int:
        """Choose a token from the logits after the last evaluated token."""
        if logits_processor is not None or grammar is not None or idx is not None:
            raise UnsupportedError("Llama.sample: logits_processor, grammar and idx are not supported")
        if self._last is None:
            raise ValueError("sample: no tokens have been evaluated")
        return Sampler(**self._sampling("sample", {"temp": 0.8, **options}))(self._last, self.input_ids)

    def save_state(self) -> dict[str, Any]:
        """Return the evaluated tokens for `load_state`, which evaluates them again if necessary."""
        return {"input_ids": list(self.input_ids)}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Restore a state that `save_state` returned."""
        self.reset()
        if state["input_ids"]:
            self.eval(state["input_ids"])

    # ---- completions -----------------------------------------------------------------------------------

    def create_completion(self, prompt: str | Sequence[int], **options: Any) -> Any:
        """Continue a prompt. Return a dict, or with stream=True an iterator of dicts."""
        text = prompt if isinstance(prompt, str) else self.model.detokenize(prompt)
        n_top, echo = options.pop("logprobs", None), options.pop("echo", False)
        options.setdefault("max_tokens", 16)
        generation, is_stream, name = self._begin("create_completion", prompt, options, n_top)
        head = self._head("cmpl", "text_completion", name)
        if is_stream:
            return self._completion_chunks(generation, head, text if echo else "", n_top)
        list(generation)
        logprobs = self._logprobs(generation) if n_top is not None else None
        shown = (text if echo else "") + generation.text
        choice = {"text": shown, "index": 0, "logprobs": logprobs, "finish_reason": finish(generation)}
        return {**head, "choices": [choice], "usage": usage(generation)}

    __call__ = create_completion

    def _completion_chunks(
        self, generation: Generation, head: dict[str, Any], echo: str, n_top: int | None
    ) -> Iterator[dict[str, Any]]:
        def chunk(text: str, reason: str | None) -> dict[str, Any]:
            choice = {"text": text, "index": 0, "logprobs": None, "finish_reason": reason}
            return {**head, "choices": [choice]}

        if n_top is not None:
            raise UnsupportedError(
                "create_completion(stream=True, logprobs=…): llmlite.compat doesn't support both together"
            )
        if echo:
            yield chunk(echo, None)
        for piece in generation:
            yield chunk(piece, None)
        yield chunk("", finish(generation))

    def create_chat_completion(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        response_format: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> Any:
        """Answer a conversation. Return a dict, or with stream=True an iterator of dicts."""
        for name in ("logprobs", "echo"):
            if options.pop(name, None):
                raise UnsupportedError(f"create_chat_completion({name}=…): llmlite.compat has no such option")
        ids = self.model.chat_prompt(messages, tools=tools, add_special=False)  # as in llama-cpp-python
        kind = "text" if response_format is None else response_format.get("type")
        if kind not in ("text", "json_object"):
            raise UnsupportedError(
                f"create_chat_completion(response_format={{'type': {kind!r}}}): llmlite.compat has "
                "'text' and 'json_object', the second with or without a 'schema'"
            )
        if response_format is not None and kind == "json_object":
            options["json_schema"] = response_format.get("schema", {"type": "object"})
        generation, is_stream, name = self._begin("create_chat_completion", ids, options, None)
        if is_stream:
            return self._chat_chunks(generation, self._head("chatcmpl", "chat.completion.chunk", name))
        list(generation)
        message = {"role": "assistant", "content": generation.text}
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": finish(generation)}
        head = self._head("chatcmpl", "chat.completion", name)
        return {**head, "choices": [choice], "usage": usage(generation)}

    def _chat_chunks(self, generation: Generation, head: dict[str, Any]) -> Iterator[dict[str, Any]]:
        def chunk(delta: dict[str, str], reason: str | None) -> dict[str, Any]:
            choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": reason}
            return {**head, "choices": [choice]}

        yield chunk({"role": "assistant"}, None)
        for piece in generation:
            yield chunk({"content": piece}, None)
        yield chunk({}, finish(generation))

    def embed(self, input: str | list[str], normalize: bool = False, truncate: bool = True) -> Any:
        """Return the embedding of a text as a list of floats, or those of several texts as a list of lists.

        If the model's file has no kind of pooling, the result for a text is a list with a vector for each
        token, as in llama-cpp-python.
        """
        pooling = "none" if self.model.config.pooling is None else self.model.config.pooling
        found = self.model.embed(input, normalize=normalize, truncate=truncate, pooling=pooling)
        rows = [row.tolist() for row in found]
        return rows[0] if isinstance(input, str) else rows

    # ---- shared by the methods -------------------------------------------------------------------------

    def _begin(
        self, method: str, prompt: Any, options: dict[str, Any], n_top: int | None
    ) -> tuple[Generation, bool, str]:
        ours: dict[str, Any] = {"json_schema": options.pop("json_schema", None)}
        rest = {name: options.pop(name) for name in OTHERS if name in options}
        max_tokens = rest.get("max_tokens")
        if isinstance(prompt, str):
            prompt = self.model.tokenize(prompt)
        room = max(0, self.model.n_ctx - len(prompt))
        ours["max_tokens"] = room if max_tokens is None or max_tokens <= 0 else min(max_tokens, room)
        ours["stop"] = rest.get("stop")
        ours["grammar"] = rest.get("grammar")
        ours["processors"] = processors(rest.get("logits_processor"))
        ours |= self._sampling(method, options)
        generation = self.model.stream(prompt, logprobs=n_top, **ours)
        return generation, bool(rest.get("stream")), rest.get("model") or self.model_path

    def _sampling(self, method: str, options: Mapping[str, Any]) -> dict[str, Any]:
        """Return llmlite's options for llama-cpp-python's."""
        found = {**DEFAULTS, "seed": self.seed}
        for name, value in options.items():
            name = "temperature" if name == "temp" else name
            if value is None:
                continue
            if name not in SAMPLING:
                raise UnsupportedError(f"Llama.{method}({name}=…): llmlite.compat has no such option")
            found[name] = value
        found["top_k"] = max(0, found["top_k"])  # in llama-cpp-python, 0 or less means all
        if found["seed"] in RANDOM_SEEDS:
            found["seed"] = None
        if found["logit_bias"]:
            found["logit_bias"] = {int(token): float(bias) for token, bias in found["logit_bias"].items()}
        return {SAMPLING[name]: value for name, value in found.items() if value is not None}

    def _head(self, kind: str, name: str, model: str) -> dict[str, Any]:
        return {"id": f"{kind}-{uuid.uuid4()}", "object": name, "created": int(time.time()), "model": model}

    def _logprobs(self, generation: Generation) -> dict[str, Any]:
        tokenizer, offset = self.model.tokenizer, len(self.model.detokenize(generation._prompt_ids))
        texts, offsets = [], []
        for token in generation.ids:
            texts.append(tokenizer.decode([token]))
            offsets.append(offset)
            offset += len(texts[-1])
        found = generation.logprobs or []
        return {
            "tokens": texts,
            "text_offset": offsets,
            "token_logprobs": [each.logprob for each in found],
            "top_logprobs": [
                {tokenizer.decode([i]): p for i, p in [*each.top, (each.id, each.logprob)]} for each in found
            ],
        }


def finish(generation: Generation) -> str:
    """Return the finish_reason of a text that has ended."""
    return FINISH.get(generation.stop_reason or "", "stop")


def usage(generation: Generation) -> dict[str, int]:
    """Return the three counts of tokens of a completion."""
    found = generation.usage
    names = ("prompt_tokens", "completion_tokens", "total_tokens")
    return {name: found[name] for name in names}  # type: ignore[literal-required]


def processors(given: Any) -> list[Callable[..., Any]]:
    """Return a LogitsProcessorList, a list of functions or one function of (ids, scores) as a list."""
    if given is None:
        return []
    return list(given) if isinstance(given, Sequence) else [given]

"""A model loaded from a file: logits, intermediates, text."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np

from llmlite import gguf, resources
from llmlite.chat import ChatTemplate
from llmlite.config import ModelConfig
from llmlite.embed import Embedder, Text
from llmlite.engine import make_executor
from llmlite.engine.eager import EagerExecutor
from llmlite.errors import ContextOverflowError, ModelError
from llmlite.generate import Batch, Generation
from llmlite.kv_cache import DTYPES, SNAPSHOTS, KVCache
from llmlite.locks import fork_safe
from llmlite.lora import Adapters, listed
from llmlite.lora import read as read_adapters
from llmlite.sampling import Sampler
from llmlite.tokenizers import Tokenizer, as_ids, from_metadata
from llmlite.weights import Weights

DEFAULT_N_CTX = 4096  # models trained for more would reserve gigabytes of cache
KV_DTYPES = DTYPES
SCORING_CHUNK = 64  # tokens whose logits (T, n_vocab) are in memory together


def load(
    path_or_name: str | os.PathLike[str],
    *,
    n_ctx: int | None = None,
    kv_dtype: str = "f16",
    executor: str = "auto",
    n_threads: int | None = None,
    n_snapshots: int = SNAPSHOTS,
    lora: Adapters | None = None,
) -> Model:
    """Load a model. Its weights stay in the file, which is mapped into memory.

    Args:
        path_or_name: a GGUF file; "tales" (the bundled model) or "smollm2" (pulled with `llmlite pull`),
            also in another type, "tales:Q4_0", made on first use; or any name that `llmlite models` lists.
        n_ctx: how many tokens the context holds; by default what the model was trained for, at most 4096.
        kv_dtype: keys and values are kept as "f16", as "q8_0" in half the memory (a KL divergence of about
            6e-4 from rounding alone), or as "f32" to compare exactly.
        executor: "auto", "eager" (NumPy, to read), "planned" (compiled, to run).
        n_threads: for the planned executor; by default all cores this process may use.
        n_snapshots: of recurrent layers' states (LFM2, Mamba), from which a text that shares only its
            beginning with the last one is read on. Each takes as much memory as the states.
        lora: a LoRA adapter (GGUF), or a list of them, each a path or (path, scale).

    Raises:
        LlmliteError: no such model (MissingFileError, also an OSError), or not a valid file (GGUFError),
            hyper-parameters or tensors that don't fit together (ModelError), something llmlite doesn't
            support (UnsupportedError).
        ValueError: an option outside its range.
    """
    file = gguf.read(resources.model_path(path_or_name))
    return Model(
        file,
        n_ctx=n_ctx,
        kv_dtype=kv_dtype,
        executor=executor,
        n_threads=n_threads,
        n_snapshots=n_snapshots,
        lora=lora,
    )


def _again(file: gguf.GGUFFile, options: dict[str, Any]) -> Model:
    """Make the model that a pickle describes."""
    return Model(file, **options)


class Model:
    """A loaded model; make one with `load`.

    Attributes:
        gguf: the file. metadata: its keys and values.
        config: hyper-parameters. weights: tensors as the forward pass reads them.
        n_ctx: the size of the context in tokens.
        adapters: (path, scale) of each LoRA adapter.
        executor: what runs the forward pass.
        cache: keys and values of the tokens read last. A new prompt that begins with the same tokens
            is not read again from the start.

    One model may be used from several threads: steps take turns. Texts generated at the same time push
    each other out of the cache, so they come out right but slower.

    A pickle or a deep copy of a model opens its file again with the same options, and has a cache of its own.
    """

    def __init__(
        self,
        file: gguf.GGUFFile,
        *,
        n_ctx: int | None = None,
        kv_dtype: str = "f16",
        executor: str = "auto",
        n_threads: int | None = None,
        n_snapshots: int = SNAPSHOTS,
        lora: Adapters | None = None,
    ) -> None:
        if kv_dtype not in KV_DTYPES:
            raise ValueError(f"kv_dtype must be one of {', '.join(KV_DTYPES)}; got {kv_dtype!r}")
        self._options: dict[str, Any] = {  # what a pickle needs beside the file
            "n_ctx": n_ctx, "kv_dtype": kv_dtype, "executor": executor, "n_threads": n_threads,
            "n_snapshots": n_snapshots, "lora": lora,
        }  # fmt: skip
        self.gguf = file
        self.metadata = file.metadata
        with file.located():
            config = ModelConfig.from_metadata(file.metadata, file.tensors)
            self.n_ctx = min(config.n_ctx, DEFAULT_N_CTX) if n_ctx is None else n_ctx
            self.config = config.for_context(self.n_ctx)
            self.adapters = listed(lora)
            corrections = read_adapters(self.adapters, config.architecture.name, file.tensors)
            self.weights = Weights.from_tensors(file.tensors, self.config, corrections)
        if self.weights.positions is not None and self.n_ctx > self.config.n_ctx:
            raise ValueError(f"n_ctx: this model has learned {self.config.n_ctx} positions, got {self.n_ctx}")
        dtype = KV_DTYPES[kv_dtype] if self.config.causal else np.float32  # an encoder keeps no text
        self._cache_options: dict[str, Any] = {"dtype": dtype, "n_snapshots": n_snapshots}
        self.cache = self._new_cache()
        self.executor = make_executor(
            executor, self.weights, self.config, n_threads=n_threads, kv_dtype=dtype
        )
        self._lock = fork_safe(threading.RLock())

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """Turns text into token ids and back.

        Raises:
            TokenizerError: the file has no vocabulary, or one of a kind that isn't supported.
        """
        with self.gguf.located():
            return from_metadata(self.metadata)

    @cached_property
    def chat_template(self) -> ChatTemplate:
        """Turns messages into a prompt.

        Raises:
            ModelError: the file has no template: the model wasn't trained to chat.
        """
        source = self.metadata.get("tokenizer.chat_template")
        if source is None:
            raise ModelError.missing("tokenizer.chat_template", "this model has no form for a conversation")
        return ChatTemplate(source, bos_token=self._text_of("bos_id"), eos_token=self._text_of("eos_id"))

    def _text_of(self, special: str) -> str:
        token = getattr(self.tokenizer, special)
        return "" if token is None else self.tokenizer.token(token)

    @cached_property
    def _embedder(self) -> Embedder:
        return Embedder(self)

    def embed(
        self,
        texts: str | Sequence[Text],
        *,
        normalize: bool = True,
        pooling: str | None = None,
        truncate: bool = False,
    ) -> np.ndarray | list[np.ndarray]:
        """Turn texts into vectors: the more alike two texts are, the larger the product of theirs.

        Short texts are read several at a time. A model that writes text can do it too.

        Args:
            texts: one text, or several; each a string, which gets the tokens that belong around it, or
                token ids, which are taken as they are.
            normalize: bring each vector to length 1, so that a product of two is their cosine.
            pooling: how the last states of a text's tokens become one vector: "mean", "cls" (the first
                token's), "last" (the last token's), or "none". By default what the file says.
            truncate: cut texts that are longer than n_ctx instead of refusing them.

        Returns:
            float32 (n, n_embd), one row for each text, also if it is one. With pooling "none" a list of n
            arrays (T, n_embd).

        Raises:
            ContextOverflowError: a text has more tokens than n_ctx. TokenizerError: as `tokenizer`.
            ValueError: no tokens, an id outside the vocabulary, or no pooling in file and call.
        """
        return self._embedder.embed(
            [texts] if isinstance(texts, str) else texts,
            normalize=normalize,
            pooling=pooling,
            truncate=truncate,
        )

    def score(self, query: str, texts: str | Sequence[str], *, truncate: bool = False) -> np.ndarray:
        """Score how well each text answers a query, with the head that rerankers have.

        Args:
            texts: one text, or several.
            truncate: cut texts so that each pair fits n_ctx, instead of refusing them.

        Returns:
            float32 (n,), the head's own numbers: the higher, the better. (n, n_class) if it has several.

        Raises:
            ModelError: the file has no such head. ContextOverflowError: a pair is longer than n_ctx.
        """
        return self._embedder.score(query, [texts] if isinstance(texts, str) else texts, truncate=truncate)

    def _writes_text(self) -> None:
        """Refuse what an encoder can't do.

        Raises:
            ModelError: this is one.
        """
        if not self.config.causal:
            raise ModelError("an encoder doesn't write text, so it has no logits; use embed")

    def logits(self, ids: Sequence[int], *, last_only: bool = False) -> np.ndarray:
        """Run the model over `ids` and return a score for every possible next token.

        Args:
            ids: token ids, at least one.
            last_only: only those after the last token, which is all that generating needs.

        Returns:
            float32 (T, n_vocab), row t after having read ids[: t + 1]; (1, n_vocab) with `last_only`.

        Raises:
            ContextOverflowError: more ids than n_ctx. ValueError: no ids, or one outside the vocabulary.
            ModelError: the model is an encoder, which has none.
            TypeError: something that isn't a whole number, or bytes.
        """
        self._writes_text()
        ids = self._checked(ids)
        with self._lock:
            self.cache.truncate(0)
            rows = self._evaluate(ids, last_only=last_only)
        return rows

    def trace(self, prompt: str | Sequence[int]) -> Trace:
        """Run the model over a prompt and keep every intermediate, under llama.cpp's names.

        The eager executor computes them, on a cache of their own, whatever executor the model has.

        Returns:
            A mapping from names such as "attn_norm-0", "Qcur-0" (after RoPE; (T, H, Dh)), "kq_soft_max-0"
            (attention weights; (H, T, T)), "ffn_out-0", "l_out-0", "result_norm", "result_output" to
            float32 arrays; (T, width) unless said otherwise.

        Raises:
            As `logits`; TokenizerError as `tokenizer`.
        """
        ids = self._ids(prompt)
        cache = KVCache(self.config, len(ids), self.cache.dtype.type, chunk=len(ids))
        trace = Trace(ids)
        EagerExecutor(self.weights, self.config)(ids, cache, n_outputs=len(ids), trace=trace)
        return trace

    def generate(
        self,
        prompt: str | Sequence[int],
        *,
        max_tokens: int = 256,
        temperature: float = 0.8,
        top_k: int = 40,
        top_p: float = 0.95,
        seed: int | None = None,
        stop: Sequence[str] = (),
        stream: bool = False,
    ) -> str | Generation:
        """Continue a prompt.

        Args:
            prompt: text, or token ids.
            max_tokens: stop after so many.
            temperature: 0 always takes the likeliest token; the higher, the more varied.
            top_k: choose among the k likeliest. top_p: among the likeliest that together have this share.
            seed: the same seed gives the same text.
            stop: strings that end the text where they come up.
            stream: return a Generation to iterate over instead of the finished text.

        Returns:
            The text, without the prompt; with `stream` a Generation.

        Raises:
            As `logits`; TokenizerError as `tokenizer`; ValueError for an option outside its range.
        """
        options = {
            "max_tokens": max_tokens, "temperature": temperature, "top_k": top_k, "top_p": top_p,
            "seed": seed, "stop": stop,
        }  # fmt: skip
        generation = self._generation(prompt, options)
        return generation if stream else "".join(generation)

    def batch(self, *, max_sequences: int = 8, prefill_tokens: int = 256, kept: int = 4) -> Batch:
        """Make an empty batch: sequences that run together, and join and leave between steps.

        Args and Raises: as `llmlite.generate.Batch`; ModelError: the model is an encoder.
        """
        self._writes_text()
        return Batch(self, max_sequences=max_sequences, prefill_tokens=prefill_tokens, kept=kept)

    def _generation(
        self,
        prompt: str | Sequence[int],
        options: Mapping[str, Any],
        make: Callable[..., Generation] = Generation,
    ) -> Generation:
        """Make a Generation from the options that `stream` takes."""
        self._writes_text()
        given = {name: value for name, value in options.items() if value is not None}
        ending = {name: given.pop(name) for name in ("stop", "logprobs", "prompt_logprobs") if name in given}
        max_tokens = given.pop("max_tokens", 256)
        sampler = Sampler(**given)
        ids = self._ids(prompt)
        return make(self, ids, max_tokens=max_tokens, sampler=sampler, **ending)

    def chat(
        self, messages: str | Sequence[Mapping[str, Any]], *, parse_special: bool = False, **options: Any
    ) -> str | Generation:
        """Answer a conversation, in the form the model was trained on.

        Args:
            messages: {"role": "user" | "assistant" | "system", "content": text} each; or one user message.
                A content may also be None, or a list of parts {"type": "text", "text": text}.
            parse_special: read control tokens spelled in the messages as those tokens. By default they are
                only text: whoever writes a message can't end it and begin another in someone else's name.
            options: as for `generate`.

        Raises:
            As `generate`; ModelError: the model's file has no chat template; ChatTemplateError: these are no
            messages, or the template refuses them.
        """
        self._writes_text()
        if isinstance(messages, str):
            messages = [{"role": "user", "content": messages}]
        text = self.chat_template.render(messages, add_generation_prompt=True)
        has_bos = self.tokenizer.bos_id is not None and text.startswith(self._text_of("bos_id"))
        plain = () if parse_special else text.plain
        ids = self.tokenizer.encode(text, add_special=not has_bos, add_eos=False, plain=plain)
        return self.generate(ids, **options)

    def _ids(self, prompt: str | Sequence[int]) -> list[int]:
        if not isinstance(prompt, str):
            return self._checked(prompt)
        with self.gguf.located():  # merges are read at the first text
            return self._checked(self.tokenizer.encode(prompt, add_eos=False))

    def _checked(self, ids: Sequence[int]) -> list[int]:
        ids = as_ids(ids, "prompt")
        if not ids:
            raise ValueError("a prompt needs at least one token")
        if len(ids) > self.n_ctx:
            raise ContextOverflowError(
                f"a prompt of {len(ids)} tokens doesn't fit the context of {self.n_ctx}; n_ctx sets its size"
            )
        for token in ids:
            if not 0 <= token < self.config.n_vocab:
                raise ValueError(f"token {token} is not in the vocabulary, 0 to {self.config.n_vocab - 1}")
        return ids

    def _new_cache(self) -> KVCache:
        """An empty cache for a sequence of this model."""
        return KVCache(self.config, self.n_ctx, **self._cache_options)

    def _prompt_rows(self, ids: list[int]) -> Iterator[tuple[int, np.ndarray]]:
        """Read `ids` from the first on; yield the place of each chunk and its logits (T, V)."""
        with self._lock:
            self.cache.truncate(0)
        for start in range(0, len(ids), SCORING_CHUNK):
            with self._lock:
                self.cache.reuse(ids, start)  # another text may have come in between
                if self.cache.position < start:
                    self._evaluate(ids[self.cache.position : start], last_only=True)
                rows = self._evaluate(ids[start : start + SCORING_CHUNK], last_only=False)
            yield start, rows

    def _next_logits(self, ids: list[int]) -> tuple[int, np.ndarray]:
        """Return the logits (V,) after `ids`, and how many of `ids` were in the cache already."""
        with self._lock:
            reused = self.cache.reuse(ids, len(ids) - 1)  # one must run to give logits
            return reused, self._evaluate(ids[reused:], last_only=True)[0]

    def _evaluate(self, ids: list[int], *, last_only: bool) -> np.ndarray:
        """Run `ids` behind what the cache holds, in chunks the executor can take."""
        size = self.executor.max_tokens
        rows = []
        for start in range(0, len(ids), size):
            chunk = ids[start : start + size]
            rows.append(self.executor(chunk, self.cache, n_outputs=1 if last_only else len(chunk)))
        return rows[-1] if last_only else np.concatenate(rows)

    def __reduce__(self) -> tuple[Any, ...]:
        # A pickle, or a deep copy: the file is opened again with the same options, the cache begins empty.
        return _again, (self.gguf, self._options)

    def __repr__(self) -> str:
        config = self.config
        n_weights = sum(tensor.n_elements for tensor in self.gguf.tensors.values())
        n_bytes = sum(tensor.n_bytes for tensor in self.gguf.tensors.values())
        adapters = "".join(
            f"adapter {os.path.basename(path)} times {scale:g}, " for path, scale in self.adapters
        )
        return (
            f"Model({os.path.basename(self.gguf.path)}: {config.architecture.name}, {config.n_layer} layers, "
            f"n_embd {config.n_embd}, {n_weights / 1e6:.1f} M weights, {n_bytes / 1e6:.1f} MB, "
            f"n_ctx {self.n_ctx}, {adapters}{self.executor!r})"
        )


class Trace(dict[str, np.ndarray]):
    """Named intermediates of one run, in the order they were computed.

    Attributes:
        ids: the tokens that were read.
    """

    def __init__(self, ids: Sequence[int]) -> None:
        super().__init__()
        self.ids = list(ids)

    def __missing__(self, name: str) -> np.ndarray:
        stems = dict.fromkeys(known.partition("-")[0] for known in self)  # in order, each once
        raise KeyError(f"{name!r}; there is {', '.join(stems)}, most of them followed by -LAYER")

    def __repr__(self) -> str:
        lines = [f"{name:<20} {array.shape}" for name, array in self.items()]
        return "\n".join([f"Trace of {len(self.ids)} tokens", *lines])

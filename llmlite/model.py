"""A model loaded from a file: logits, intermediates, text."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any, SupportsIndex

import numpy as np

from llmlite import gguf, resources
from llmlite.chat import ChatTemplate
from llmlite.description.architectures.traced import TRACED
from llmlite.description.config import ModelConfig
from llmlite.description.lora import Adapters, listed
from llmlite.description.lora import read as read_adapters
from llmlite.description.weights import Weights
from llmlite.embed import Embedder, Text
from llmlite.engine import make_executor
from llmlite.engine.eager import EagerExecutor
from llmlite.engine.kv_cache import DTYPES, SNAPSHOT_EVERY, SNAPSHOTS, KVCache
from llmlite.errors import ContextOverflowError, ModelError
from llmlite.generate.texts import Texts
from llmlite.system.locks import fork_safe
from llmlite.tokenizers import Tokenizer, as_ids, from_metadata

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
    snapshot_every: int = SNAPSHOT_EVERY,
    lora: Adapters | None = None,
) -> Model:
    """Load a model. Its weights stay in the file, which is mapped into memory.

    Args:
        path_or_name: a GGUF file, or a name that `llmlite models` lists, such as "tales" (the bundled model)
            or "smollm2" (after `llmlite pull smollm2`). Both are also available in other types:
            "tales:Q4_0" is made on first use.
        n_ctx: length of the context in tokens. None: that of the model's training, at most 4096.
        kv_dtype: type of the stored keys and values: "f16"; "q8_0", which takes half the memory and costs a
            KL divergence of about 6e-4; or "f32" for exact comparisons.
        executor: "eager" (NumPy, written to be read), "planned" (compiled, fast), or "auto" (planned if
            possible).
        n_threads: threads of the planned executor. None: one per core that this process may use.
        n_snapshots: the maximum of snapshots of recurrent layers' states (LFM2, Mamba). A text that shares
            only its beginning with the last one continues from a snapshot. Each takes as much memory as the
            states.
        snapshot_every: number of tokens between snapshots in decode. There is one more at each prompt's end.
        lora: a LoRA adapter (GGUF), or a list of them, each a path or (path, scale).

    Raises:
        MissingFileError: there is no such file or model. It is also an OSError.
        GGUFError: the file is malformed.
        ModelError: hyper-parameters and tensors don't fit together.
        UnsupportedError: llmlite doesn't support the model.
        ValueError: an option is outside its range.
    """
    file = gguf.read(resources.model_path(path_or_name))
    return Model(
        file,
        n_ctx=n_ctx,
        kv_dtype=kv_dtype,
        executor=executor,
        n_threads=n_threads,
        n_snapshots=n_snapshots,
        snapshot_every=snapshot_every,
        lora=lora,
    )


def _again(file: gguf.GGUFFile, options: dict[str, Any]) -> Model:
    """Return the model of a pickle."""
    return Model(file, **options)


class Model(Texts):
    """A loaded model; make one with `load`.

    A model may be used by several threads: their steps take turns. Texts that are generated at the same time
    displace each other in the cache, so they are correct but slower.

    A pickle or a deep copy of a model opens its file again with the same options, and has a cache of its own.

    Attributes:
        gguf: the file.
        metadata: its keys and values.
        config: hyper-parameters.
        weights: tensors in the form for the forward pass.
        n_ctx: length of the context in tokens.
        adapters: (path, scale) of each LoRA adapter.
        executor: the executor of the forward pass.
        cache: keys and values of the last tokens. If a new prompt begins with the same tokens, they are not
            computed again.
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
        snapshot_every: int = SNAPSHOT_EVERY,
        lora: Adapters | None = None,
    ) -> None:
        if kv_dtype not in KV_DTYPES:
            raise ValueError(f"kv_dtype must be one of {', '.join(KV_DTYPES)}; got {kv_dtype!r}")
        sizes = {"n_ctx": n_ctx, "n_threads": n_threads}
        for name, value in (sizes | {"n_snapshots": n_snapshots, "snapshot_every": snapshot_every}).items():
            if value is not None and (isinstance(value, bool) or not isinstance(value, SupportsIndex)):
                raise TypeError(f"{name}: expected a whole number, got {value!r:.80}")
        self._options: dict[str, Any] = {  # for a pickle, with the file
            "n_ctx": n_ctx, "kv_dtype": kv_dtype, "executor": executor, "n_threads": n_threads,
            "n_snapshots": n_snapshots, "snapshot_every": snapshot_every, "lora": lora,
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
        dtype = KV_DTYPES[kv_dtype] if self.config.causal else np.float32  # an encoder has no past
        self._cache_options: dict[str, Any] = {
            "dtype": dtype, "n_snapshots": n_snapshots, "snapshot_every": snapshot_every,
        }  # fmt: skip
        self.cache = self._new_cache()
        self.executor = make_executor(
            executor, self.weights, self.config, n_threads=n_threads, kv_dtype=dtype
        )
        self._lock = fork_safe(threading.RLock())

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer, which turns text into token ids and back.

        Raises:
            TokenizerError: the file has no vocabulary, or its kind isn't supported.
        """
        with self.gguf.located():
            return from_metadata(self.metadata)

    @cached_property
    def chat_template(self) -> ChatTemplate:
        """The chat template, which turns messages into a prompt.

        Raises:
            ModelError: the file has no template, because the model wasn't trained to chat.
        """
        source = self.metadata.get("tokenizer.chat_template")
        if source is None:
            raise ModelError.missing("tokenizer.chat_template", "this model has no chat template")
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
        """Turn texts into vectors. The more similar two texts are, the larger is their vectors' dot product.

        Several short texts are computed in one step. Models that write text can be used too.

        Args:
            texts: one text, or several. A text is a string, to which special tokens are added, or token ids,
                which are used unchanged.
            normalize: scale each vector to length 1. A dot product is then a cosine.
            pooling: the rule that makes one vector of a text's last states: "mean", "cls" (the first token's
                state), "last" (the last token's), or "none". None: as stated in the file.
            truncate: cut texts that are longer than n_ctx instead of refusing them.

        Returns:
            float32 (n, n_embd), a row for each text, even if there is only one. With pooling "none", a list
            of n arrays (T, n_embd).

        Raises:
            ContextOverflowError: a text has more tokens than n_ctx.
            TokenizerError: as for `tokenizer`.
            ValueError: a text has no tokens or an id outside the vocabulary, or no pooling is given.
        """
        return self._embedder.embed(
            [texts] if isinstance(texts, str) else texts,
            normalize=normalize,
            pooling=pooling,
            truncate=truncate,
        )

    def score(self, query: str, texts: str | Sequence[str], *, truncate: bool = False) -> np.ndarray:
        """Score how well each text answers a query, with a reranker's head.

        Args:
            query: the query.
            texts: one text, or several.
            truncate: cut texts to fit n_ctx in each pair, instead of refusing them.

        Returns:
            float32 (n,), the head's own numbers: the higher, the better. (n, n_class) if the head has several
            results.

        Raises:
            ModelError: the file has no such head.
            ContextOverflowError: a pair has more tokens than n_ctx.
        """
        return self._embedder.score(query, [texts] if isinstance(texts, str) else texts, truncate=truncate)

    def _writes_text(self) -> None:
        """Raise ModelError if the model is an encoder, which can't write text."""
        if not self.config.causal:
            raise ModelError("an encoder doesn't write text, so it has no logits; use embed")

    def logits(self, ids: Sequence[int], *, last_only: bool = False) -> np.ndarray:
        """Run the model over `ids` and return a score for every possible next token.

        Args:
            ids: token ids, at least one.
            last_only: return only the logits after the last token, which are enough for generation.

        Returns:
            float32 (T, n_vocab); row t has the logits after ids[: t + 1]. (1, n_vocab) with `last_only`.

        Raises:
            ContextOverflowError: there are more ids than n_ctx.
            ValueError: there are no ids, or one is outside the vocabulary.
            ModelError: the model is an encoder, which has no logits.
            TypeError: an id isn't a whole number, or `ids` are bytes.
        """
        self._writes_text()
        ids = self._checked(ids)
        with self._lock:
            self.cache.truncate(0)
            rows = self._evaluate(ids, last_only=last_only)
        return rows

    def trace(self, prompt: str | Sequence[int]) -> Trace:
        """Run the model over a prompt and keep every intermediate result, under llama.cpp's names.

        They are always computed by the eager executor, with a separate cache.

        Args:
            prompt: text, or token ids.

        Returns:
            A mapping from names to float32 arrays, (T, width) in most cases. Names are "attn_norm-0",
            "Qcur-0" (after RoPE; (T, H, Dh)), "kq_soft_max-0" (attention weights; (H, T, T)), "ffn_out-0",
            "l_out-0", "result_norm", "result_output", and others.

        Raises:
            The errors of `logits` and `tokenizer`.
        """
        ids = self._ids(prompt)
        cache = KVCache(self.config, len(ids), self.cache.dtype.type, chunk=len(ids))
        found: dict[str, np.ndarray] = {}
        EagerExecutor(self.weights, self.config)(ids, cache, n_outputs=len(ids), trace=found)
        return Trace(ids, found, TRACED.get(self.config.architecture.name))

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
        """Return an empty cache for a sequence of this model."""
        return KVCache(self.config, self.n_ctx, **self._cache_options)

    def _prompt_rows(self, ids: list[int]) -> Iterator[tuple[int, np.ndarray]]:
        """Run the model over `ids` in chunks; yield the index of each chunk and its logits (T, V)."""
        with self._lock:
            self.cache.truncate(0)
        for start in range(0, len(ids), SCORING_CHUNK):
            with self._lock:
                self.cache.reuse(ids, start)  # another text may have used the cache in between
                if self.cache.position < start:
                    self._evaluate(ids[self.cache.position : start], last_only=True)
                rows = self._evaluate(ids[start : start + SCORING_CHUNK], last_only=False)
            yield start, rows

    def _next_logits(self, ids: list[int], *, halted: Callable[[], bool] | None = None) -> Any:
        """Return the number of `ids` that were in the cache, and the logits (V,) after `ids`.

        Args:
            ids: token ids.
            halted: function that is called between chunks. If it returns True, the result is None.
        """
        with self._lock:
            reused = self.cache.reuse(ids, len(ids) - 1)  # at least one token must run to give logits
            rows = self._evaluate(ids[reused:], last_only=True, halted=halted)
            return None if rows is None else (reused, rows[0])

    def _rows_after(self, ids: list[int], more: list[int]) -> np.ndarray:
        """Return the logits after `ids`, and after each token of `more`: (1 + len(more), V)."""
        with self._lock:
            reused = self.cache.reuse(ids, len(ids) - 1)
            if reused < len(ids) - 1:
                self._evaluate(ids[reused:-1], last_only=True)
            return self._evaluate([ids[-1], *more], last_only=False)

    def _evaluate(self, ids: list[int], *, last_only: bool, halted: Callable[[], bool] | None = None) -> Any:
        """Run `ids` after the tokens in the cache, in chunks that the executor can run; None if halted."""
        size = self.executor.max_tokens
        rows = []
        for start in range(0, len(ids), size):
            if halted is not None and halted():
                return None
            chunk = ids[start : start + size]
            rows.append(self.executor(chunk, self.cache, n_outputs=1 if last_only else len(chunk)))
        return rows[-1] if last_only else np.concatenate(rows)

    def __reduce__(self) -> tuple[Any, ...]:
        # for a pickle or a deep copy: the file is opened again with the same options and an empty cache
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
    """Named intermediate results of one run, in the order in which they were computed.

    The names are llama.cpp's. If its graph of an architecture uses another name than the rest, the usual one
    is accepted too: in Qwen 3.5, "ffn_inp-0" is "attn_residual-0".

    Attributes:
        ids: the token ids of the run.
    """

    def __init__(
        self,
        ids: Sequence[int],
        found: Mapping[str, np.ndarray] | None = None,
        names: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__()
        self.ids, self._names = list(ids), dict(names or {})
        for name, array in (found or {}).items():
            self[self._own(name)] = array

    def _own(self, name: str) -> str:
        """Return the name in this architecture for the usual name of a result."""
        stem, dash, layer = name.rpartition("-")
        if not dash or not layer.isdigit():
            return self._names.get(name, name)
        return f"{self._names.get(stem, stem)}-{layer}"

    def __missing__(self, name: str) -> np.ndarray:
        if self._own(name) in self:
            return self[self._own(name)]
        stems = dict.fromkeys(known.partition("-")[0] for known in self)  # in order, each once
        raise KeyError(f"{name!r}; there is {', '.join(stems)}, most of them followed by -LAYER")

    def __repr__(self) -> str:
        lines = [f"{name:<20} {array.shape}" for name, array in self.items()]
        return "\n".join([f"Trace of {len(self.ids)} tokens", *lines])

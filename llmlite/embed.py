"""Turn texts into embeddings, by pooling a model's last states, and score pairs of texts.

Shapes: n texts, T tokens of a text, D n_embd.
Sources: sentence-transformers, models/Pooling.py, for pooling; transformers, BertForSequenceClassification
and ModernBertForSequenceClassification, for the heads.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from llmlite.engine import make_executor
from llmlite.engine.kv_cache import KVCache
from llmlite.errors import ContextOverflowError, ModelError
from llmlite.system.locks import fork_safe
from llmlite.tokenizers import as_ids, several

if TYPE_CHECKING:
    from llmlite.model import Model

POOLINGS = ("mean", "cls", "last", "none")
BATCH_TOKENS = 512  # of short texts in one step, which reads the weights once for all of them
SMALLEST_CACHE = 32  # tokens
SMALLEST_NORM = np.float32(1e-12)  # the smallest divisor, as in torch.nn.functional.normalize

Text = str | Sequence[int]


class Embedder:
    """Run a model to get the states of its last layer instead of logits.

    Args:
        model: a loaded model. An encoder's own executor is used. For a model that writes text, another
            executor of the same kind ("eager" or "planned") is made, without the output matrix.
    """

    def __init__(self, model: Model) -> None:
        self.model, self.config = model, model.config
        self.executor: Any = model.executor
        if self.config.causal:
            self.executor = make_executor(
                model.executor.name,
                replace(model.weights, output=None),
                self.config,
                n_threads=getattr(model.executor, "n_threads", None),
                kv_dtype=np.float32,
            )
        self._spare: dict[int, list[KVCache]] = {}  # caches of short texts, by size
        self._matrices: dict[str, np.ndarray] = {}
        self._lock = fork_safe(threading.Lock())

    # ---- public ----------------------------------------------------------------------------------------

    def embed(
        self, texts: Sequence[Text], *, normalize: bool, pooling: str | None, truncate: bool
    ) -> np.ndarray | list[np.ndarray]:
        """See `Model.embed`."""
        pooling = self._pooling(pooling)
        rows = [self._ids(text, truncate) for text in several(texts, "texts")]
        found: list[np.ndarray] = [np.empty(0)] * len(rows)
        n_outputs = [1] * len(rows) if self.config.causal and pooling == "last" else None
        for i, states in self._states(rows, n_outputs=n_outputs):
            found[i] = states if pooling == "none" else self._dense(pooled(states, pooling))
        if normalize:
            found = [normalized(x) for x in found]
        if pooling == "none":
            return found
        return np.array(found, np.float32).reshape(len(rows), self.width)

    def score(self, query: str, texts: Sequence[str], *, truncate: bool) -> np.ndarray:
        """See `Model.score`."""
        if not self.config.n_class:
            raise ModelError("cls.output.weight: missing; this model has no head that scores pairs of texts")
        pairs = [self._pair(query, text, truncate) for text in several(texts, "texts")]
        types = [kinds for _, kinds in pairs] if self.config.n_token_types > 1 else None
        found = np.empty((len(pairs), self.config.n_class), np.float32)
        how = "cls" if self.config.head_pooling is None else self.config.head_pooling
        for i, states in self._states([ids for ids, _ in pairs], types=types):
            found[i] = self._head(pooled(states, how))
        return found[:, 0] if self.config.n_class == 1 else found

    @property
    def width(self) -> int:
        """Number of elements in an embedding."""
        return [self.config.n_embd, *(rows for rows, _ in self.config.dense.values())][-1]

    def _pooling(self, pooling: str | None) -> str:
        if pooling is not None and pooling not in POOLINGS:
            raise ValueError(f"pooling must be one of {', '.join(POOLINGS)}; got {pooling!r}")
        found = pooling or self.config.pooling
        if found == "rank":
            raise ValueError(
                "pooling: this model is made to score pairs of texts (see `score`); "
                f"for embeddings, pass one of {', '.join(POOLINGS)}"
            )
        if found is None or (found == "none" and pooling is None):
            raise ValueError(
                f"pooling: this model's file has no kind of pooling; pass one of {', '.join(POOLINGS)}"
            )
        return found

    # ---- tokens ----------------------------------------------------------------------------------------

    def _ids(self, text: Text, truncate: bool) -> list[int]:
        n_ctx, model = self.model.n_ctx, self.model
        if not isinstance(text, str):
            ids = as_ids(text, "a text")
            return model._checked(ids[:n_ctx] if truncate else ids)
        with model.gguf.located():
            ids = model.tokenizer.encode(text)
        if len(ids) > n_ctx and not truncate:
            raise ContextOverflowError(
                f"a text of {len(ids)} tokens doesn't fit the context of {n_ctx}; use truncate to cut it"
            )
        if len(ids) > n_ctx:
            end = model.tokenizer.special_ids()[1]
            ids = [*ids[: n_ctx - len(end)], *end]
        return model._checked(ids)

    def _pair(self, query: str, text: str, truncate: bool) -> tuple[list[int], list[int]]:
        """Return the ids of a pair in the form of the model's training, and the text (0 or 1) of each id."""
        tokenizer = self.model.tokenizer
        begin, end = tokenizer.special_ids()
        first = [*begin, *tokenizer.encode(query, add_special=False), *end]
        second = tokenizer.encode(text, add_special=False)
        room = self.model.n_ctx - len(first) - len(end)
        if len(second) > room:
            if not truncate or room < 1:
                raise ContextOverflowError(
                    f"a pair of {len(first)} and {len(second) + len(end)} tokens doesn't fit the context of "
                    f"{self.model.n_ctx}"
                )
            second = second[:room]
        second = [*second, *end]
        return first + second, [0] * len(first) + [1] * len(second)

    # ---- states ----------------------------------------------------------------------------------------

    def _states(
        self,
        rows: Sequence[list[int]],
        *,
        n_outputs: Sequence[int] | None = None,
        types: Sequence[list[int]] | None = None,
    ) -> Iterator[tuple[int, np.ndarray]]:
        """Yield the index of each text and its last states: all, (T, D), or the last n_outputs."""
        for group in grouped([len(ids) for ids in rows], BATCH_TOKENS):
            wanted = [len(rows[i]) if n_outputs is None else n_outputs[i] for i in group]
            with self._lock:
                caches = [self._cache(len(rows[i])) for i in group]
                if hasattr(self.executor, "batch"):
                    kinds = [None if types is None else types[i] for i in group]
                    found = self.executor.batch(
                        list(zip((rows[i] for i in group), caches, wanted)), types=kinds
                    )
                else:
                    found = [
                        self._eager(rows[i], cache, n, None if types is None else types[i])
                        for i, cache, n in zip(group, caches, wanted)
                    ]
                for cache in caches:
                    self._put_back(cache)
            yield from zip(group, found)

    def _eager(self, ids: list[int], cache: KVCache, n_outputs: int, types: list[int] | None) -> np.ndarray:
        """Return the last states of a text. An encoder needs one step; other models may need several."""
        if not self.config.causal:
            return self.executor(ids, cache, n_outputs=n_outputs, types=types)
        size = self.executor.max_tokens
        parts = [ids[start : start + size] for start in range(0, len(ids), size)]
        return np.concatenate([self.executor(part, cache, n_outputs=len(part)) for part in parts])[
            len(ids) - n_outputs :
        ]

    def _cache(self, n: int) -> KVCache:
        """Return an empty cache for n tokens. Caches of short texts are reused."""
        size = max(SMALLEST_CACHE, 1 << (n - 1).bit_length())
        spare = self._spare.get(size)
        return spare.pop() if spare else KVCache(self.config, size, np.float32)

    def _put_back(self, cache: KVCache) -> None:
        if cache.n_ctx <= BATCH_TOKENS:
            cache.truncate(0)
            self._spare.setdefault(cache.n_ctx, []).append(cache)

    # ---- after the last layer --------------------------------------------------------------------------

    def _matrix(self, name: str) -> np.ndarray:
        """Return a matrix that is applied after the last layer, as float32. It is dequantized once."""
        if name not in self._matrices:
            self._matrices[name] = self.model.weights.outer[f"{name}.weight"].dequantize()
        return self._matrices[name]

    def _dense(self, x: np.ndarray) -> np.ndarray:
        """Apply the matrices after pooling, if there are any, to x (D,)."""
        for name in self.config.dense:
            x = self._matrix(name) @ x
        return x

    def _head(self, x: np.ndarray) -> np.ndarray:
        """Apply the head for pairs to x (D,). Returns (n_class,)."""
        outer = self.model.weights.outer

        def linear(name: str, x: np.ndarray) -> np.ndarray:
            return self._matrix(name) @ x + outer.get(f"{name}.bias", np.float32(0))

        x = linear("cls", x)
        if self.config.architecture.head == "tanh":
            return linear("cls.output", np.tanh(x))
        from llmlite.engine.eager import Eager

        ops = Eager(0, 1)
        x = ops.activate("gelu_erf", x[None])
        gain, bias = outer["cls.norm.weight"], outer.get("cls.norm.bias")
        return linear("cls.output", ops.layer_norm(x, gain, bias, self.config.rms_eps)[0])


def grouped(lengths: Sequence[int], limit: int) -> Iterator[list[int]]:
    """Yield the indices of the texts in each step: up to `limit` tokens together, or one longer text.

    Texts of similar length are in the same step, the longest first.
    """
    group: list[int] = []
    n_tokens = 0
    for i in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        if group and n_tokens + lengths[i] > limit:
            yield group
            group, n_tokens = [], 0
        group.append(i)
        n_tokens += lengths[i]
    if group:
        yield group


def pooled(states: np.ndarray, how: str) -> np.ndarray:
    """Pool states (T, D) to (D,): the mean of all, or the state of the first ("cls") or last token."""
    if how == "mean":
        return states.mean(axis=0, dtype=np.float64).astype(np.float32)
    return states[0 if how == "cls" else -1].copy()


def normalized(x: np.ndarray) -> np.ndarray:
    """Scale vectors along the last axis to length 1. Vectors of zeros are kept."""
    length = np.sqrt(np.square(x, dtype=np.float64).sum(-1, keepdims=True)).astype(np.float32)
    return x / np.maximum(length, SMALLEST_NORM)

"""Run planned operations on a test's inputs, with random weights."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from llmlite.description.config import ModelConfig
from llmlite.description.weights import Weights
from llmlite.engine.families import FAMILIES
from llmlite.engine.kv_cache import KVCache
from llmlite.engine.plan import Plan, Share
from llmlite.engine.planned import KV_NAMES, layer_words
from llmlite.engine.recorder import Recorder
from llmlite.engine.recording import Buffer
from llmlite.model import Model
from llmlite.quants import get
from llmlite.quants.tensor import QuantTensor
from tests.support.tiny_models import tiny_model

rng = np.random.default_rng(7)
FAST = ("F32", "F16", "Q8_0", "Q4_0", "Q4_K", "Q6_K")  # the others' kernels are compiled by `make test-all`
NAMES = {get(number).name: family for number, family in FAMILIES.items()}


def computed(
    build: Callable[..., Buffer],
    *inputs: np.ndarray,
    position: int = 0,
    cache: KVCache | None = None,
    n_outputs: int = 0,
) -> np.ndarray:
    """Run the operations that `build(recorder, *buffers)` records, on inputs (T, width)."""
    T = len(inputs[0])
    kv = "f16" if cache is None else KV_NAMES[cache.dtype]
    recorder = Recorder(max_tokens=T, max_outputs=max(1, n_outputs), n_threads=2, kv=kv)
    buffers = [recorder.embed(QuantTensor.quantize(x, "F32"), None) for x in inputs]
    result = build(recorder, *buffers)
    plan = Plan(recorder, result)
    rows = [np.ascontiguousarray(t.rows(np.arange(position + T)), np.float32) for t in plan.tables]
    states = np.array([layer_words(state) for state in cache.states] if cache else [], np.int64)
    share = Share(range(T), position, states.ctypes.data, n_outputs)
    with plan.lock:
        return plan.run([share], tables=[table.ctypes.data for table in rows]).copy()


def quantized_activations(x: np.ndarray) -> np.ndarray:
    """Return x in float64 after the engine's quantization: the exact values that it multiplies."""
    blocks = x.reshape(len(x), -1, 32)
    largest = np.abs(blocks).max(2, keepdims=True)
    with np.errstate(divide="ignore"):
        inverse = np.where(largest > 0, np.float32(127) / largest, 0).astype(np.float32)
    levels = np.rint(blocks * inverse).astype(np.float64)
    return (levels * (largest / np.float32(127))).reshape(x.shape)


def random_weights(type_name: str, rows: int, columns: int) -> QuantTensor:
    """Return a matrix whose codes use every bit, with scales of ordinary size."""
    w = QuantTensor.quantize(rng.standard_normal((rows, columns)).astype(np.float32), type_name, "w")
    layout = w.type.layout
    if w.type.block_size == 1:
        return w
    fields = w.blocks.copy().view(layout)
    for name in layout.names:
        if layout[name].base != np.float16 and name != "e":
            fields[name] = rng.integers(0, 256, fields[name].nbytes,
            np.uint8).view(fields[name].dtype.base).reshape(
                fields[name].shape
            )  # fmt: skip
    return QuantTensor("w", w.type, w.shape, fields.view(np.uint8).reshape(w.blocks.shape))


def close(got: np.ndarray, want: np.ndarray, tolerance: float = 1e-5) -> None:
    assert got.shape == want.shape
    assert np.abs(got - want).max() <= tolerance * np.abs(want).max()


def get_block(type_name: str) -> int:
    from llmlite.quants import by_name

    return by_name(type_name).block_size


def normal(*shape: int) -> np.ndarray:
    return rng.standard_normal(shape).astype(np.float32)


def weights_of(type_name: str = "F32", **options: Any) -> tuple[Weights, ModelConfig]:
    tiny = tiny_model(**{"n_ctx": 512, **options})
    tensors = tiny.tensors(type_name)
    config = ModelConfig.from_metadata(tiny.metadata, tensors)
    return Weights.from_tensors(tensors, config), config


def ids_of(config: ModelConfig, n: int) -> list[int]:
    return np.random.default_rng(n).integers(0, config.n_vocab, n).tolist()


def assert_neighbours_change_nothing(model: Model, texts: list[list[int]]) -> None:
    """Assert that texts in one step get the same bits as alone, also in later steps of one and two tokens."""

    def caches() -> list[KVCache]:
        return [KVCache(model.config, 512, np.float16) for _ in texts]

    alone, together = caches(), caches()
    for next_ids in (texts, [[3]] * len(texts), [[4, 5]] * len(texts)):
        want = [model.executor(ids, cache, n_outputs=1) for ids, cache in zip(next_ids, alone)]
        got = model.executor.batch([(ids, cache, 1) for ids, cache in zip(next_ids, together)])
        for each, other in zip(got, want):
            np.testing.assert_array_equal(each, other)


def product(w: QuantTensor, x: np.ndarray, n_threads: int, at_once: int = 0) -> np.ndarray:
    """Return x Wᵀ from the kernels for steps of `at_once` tokens, by default of all tokens."""
    n = at_once or len(x)
    recorder = Recorder(max_tokens=n, max_outputs=1, n_threads=n_threads)
    plan = Plan(recorder, recorder.matmul(w, recorder.embed(QuantTensor.quantize(x, "F32"), None)))
    with plan.lock:
        return np.concatenate([plan.run([Share(range(t, t + n))]).copy() for t in range(0, len(x), n)])

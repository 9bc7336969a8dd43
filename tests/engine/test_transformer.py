"""Hyper-parameters and tensors: what fits is read, what doesn't is refused with key, expected and got."""

from __future__ import annotations

import contextlib

import numpy as np
import pytest

from llmlite.description.architectures import ARCHITECTURES, Architecture
from llmlite.description.config import ModelConfig
from llmlite.description.layers import Rope
from llmlite.description.rope import RopeTable, rope_table
from llmlite.description.weights import Weights
from llmlite.engine.eager import EagerExecutor
from llmlite.engine.kv_cache import KVCache
from llmlite.errors import LlmliteError, ModelError, UnsupportedError
from tests.support.tiny_models import TinyModel, tiny_model


def read(model: TinyModel) -> tuple[ModelConfig, Weights]:
    tensors = model.tensors()
    config = ModelConfig.from_metadata(model.metadata, tensors)
    return config, Weights.from_tensors(tensors, config)


def table_of(model: TinyModel) -> RopeTable:
    """The angles of a model all of whose layers turn alike."""
    (table,) = read(model)[1].ropes.values()
    return table


def test_hyper_parameters_are_read() -> None:
    config, _ = read(tiny_model("qwen2", n_layer=3, n_embd=96, n_head=6, n_head_kv=3, n_ff=160))
    assert (config.n_layer, config.n_embd, config.n_head, config.n_head_kv) == (3, 96, 6, 3)
    assert (config.head_size, config.n_ff, config.n_ctx, config.rope_dim) == (16, 160, 128, 16)
    assert (config.n_embd_q, config.n_embd_kv) == (96, 48)
    assert {layer.mixer.rope.pairs for layer in config.layers} == {"neox"}
    assert config.is_uniform
    assert config.attention_scale == 0.25


def test_absent_keys_take_llama_cpp_defaults() -> None:
    model = tiny_model(n_head=4, n_head_kv=4)
    for key in ("attention.head_count_kv", "rope.freq_base"):
        del model.metadata[f"llama.{key}"]
    config, _ = read(model)
    assert (config.n_head_kv, config.rope_base, config.rope_scale, config.rope_dim) == (4, 10000.0, 1.0, 16)


def test_a_value_for_each_layer_is_taken_where_all_are_equal() -> None:
    model = tiny_model()
    model.metadata["llama.attention.head_count_kv"] = np.array([2, 2], np.int32)
    model.metadata["llama.feed_forward_length"] = [128, 128]
    assert read(model)[0].n_head_kv == 2


def test_embeddings_serve_as_output_where_it_is_absent() -> None:
    _, tied = read(tiny_model(tied=True))
    _, untied = read(tiny_model())
    assert tied.output is tied.token_embd
    assert untied.output is not untied.token_embd


CASES = [
    ("general.architecture", None, ModelError, "general.architecture: missing"),
    (
        "general.architecture",
        "rwkv7",
        UnsupportedError,
        "'rwkv7' (RWKV's time mix has no mixer here) is not",
    ),
    ("general.architecture", "rwkv", UnsupportedError, "'rwkv' is not supported; supported are llama, qwen2"),
    ("general.architecture", 7, ModelError, "expected a string, got 7"),
    ("llama.block_count", None, ModelError, "llama.block_count: missing"),
    ("llama.block_count", 0, ModelError, "llama.block_count: expected 1 to 512, got 0"),
    ("llama.block_count", 513, ModelError, "expected 1 to 512, got 513"),
    ("llama.block_count", "2", ModelError, "llama.block_count: expected an integer, got '2'"),
    ("llama.block_count", 3, ModelError, "blk.2.attn_norm.weight: this tensor is missing"),
    ("llama.block_count", 1, ModelError, "blk.1.attn_norm.weight: not a tensor of the llama architecture"),
    ("llama.embedding_length", 66, ModelError, "expected a multiple of head_count, 4, got 66"),
    (
        "llama.embedding_length",
        128,
        ModelError,
        "token_embd.weight: expected shape (267, 128), got (267, 64)",
    ),
    ("llama.embedding_length", True, ModelError, "expected an integer, got True"),
    ("llama.embedding_length", -64, ModelError, "got -64"),
    ("llama.attention.head_count", 0, ModelError, "llama.attention.head_count: expected 1 to"),
    (
        "llama.attention.head_count",
        [4],
        ModelError,
        "expected one value or 2, one for each layer, got '1 values'",
    ),
    (
        "llama.attention.head_count",
        [4, 2],
        ModelError,
        "blk.1.attn_q.weight: expected shape (32, 64), got (64, 64)",
    ),
    ("llama.attention.head_count", 8, ModelError, "attn_k.weight: expected shape (16, 64), got (32, 64)"),
    ("llama.attention.head_count_kv", 3, ModelError, "expected a divisor of head_count, 4, got 3"),
    (
        "llama.attention.key_length",
        32,
        ModelError,
        "blk.0.attn_q.weight: expected shape (128, 64), got (64, 64)",
    ),
    (
        "llama.attention.value_length",
        8,
        ModelError,
        "blk.0.attn_v.weight: expected shape (16, 64), got (32, 64)",
    ),
    ("llama.attention.layer_norm_rms_epsilon", None, ModelError, "layer_norm_rms_epsilon: missing"),
    (
        "llama.attention.layer_norm_rms_epsilon",
        float("nan"),
        ModelError,
        "expected a number, 0 or more, got nan",
    ),
    ("llama.feed_forward_length", 96, ModelError, "ffn_gate.weight: expected shape (96, 64), got (128, 64)"),
    ("llama.context_length", 2**40, ModelError, "llama.context_length: expected 1 to 2147483647"),
    ("llama.rope.dimension_count", 18, ModelError, "expected 1 to 16, got 18"),
    ("llama.rope.dimension_count", 7, ModelError, "expected an even number, got 7"),
    (
        "llama.rope.freq_base",
        -1.0,
        ModelError,
        "llama.rope.freq_base: expected a number, 0 or more, got -1.0",
    ),
    (
        "llama.rope.scaling.type",
        "dynamic",
        UnsupportedError,
        "'dynamic' is not supported; supported are none, linear, yarn, longrope",
    ),
    ("llama.rope.freq_base", 0, ModelError, "llama.rope.freq_base: expected a number above 0, got 0"),
    ("llama.rope.scaling.factor", -2.0, ModelError, "expected a number, 0 or more, got -2.0"),
    ("tokenizer.ggml.tokens", 5, ModelError, "tokenizer.ggml.tokens: expected an array of strings, got 5"),
    ("llama.expert_count", 8, ModelError, "expert_used_count: missing"),
    (
        "tokenizer.ggml.tokens",
        ["a", "b"],
        ModelError,
        "expected 2 rows, one for each of tokenizer.ggml.tokens",
    ),
]


@pytest.mark.parametrize(("key", "value", "error", "message"), CASES, ids=lambda case: str(case)[:30])
def test_a_wrong_key_is_refused(key: str, value: object, error: type[LlmliteError], message: str) -> None:
    model = tiny_model()
    model.metadata[key] = value
    if value is None:
        del model.metadata[key]
    with pytest.raises(error) as caught:
        read(model)
    assert message in str(caught.value)


VALUES = [0, -1, 2**63, 1.5, float("nan"), "", "x", True, {}, [], [1, 2], ["a", "b"], [[1], [2]], [None, 1]]
VALUES += [np.array([2, 2], np.int32), np.array([4.0, 4.0]), np.array([], np.int32), np.float32(1e-30)]
OPTIONAL = ["attention.key_length", "attention.value_length", "rope.dimension_count", "rope.scaling.factor"]
OPTIONAL += ["rope.scaling.type", "rope.scale_linear", "expert_count"]


def test_no_value_of_any_key_escapes_as_another_error() -> None:
    model = tiny_model()
    tensors = model.tensors()
    keys = [key for key in model.metadata if key.startswith(("general", "llama"))]
    for key in [*keys, "tokenizer.ggml.tokens", *(f"llama.{name}" for name in OPTIONAL)]:
        for value in VALUES:
            with contextlib.suppress(LlmliteError):
                config = ModelConfig.from_metadata(model.metadata | {key: value}, tensors)
                Weights.from_tensors(tensors, config)


@pytest.mark.parametrize(
    "name", ["token_embd.weight", "output_norm.weight", "blk.1.ffn_up.weight", "blk.0.attn_q.bias"]
)
def test_a_missing_tensor_is_named(name: str) -> None:
    model = tiny_model("qwen2")
    del model.arrays[name]
    with pytest.raises(ModelError, match=f"^{name}: this tensor is missing$"):
        read(model)


def test_a_tensor_that_would_be_left_out_is_refused() -> None:
    model = tiny_model()
    model.arrays["blk.0.attn_q_norm.weight"] = np.ones(16, np.float32)
    with pytest.raises(ModelError, match=r"blk\.0\.attn_q_norm\.weight: not a tensor of the llama arch"):
        read(model)


def test_linear_scaling_divides_positions() -> None:
    model = tiny_model()
    plain = table_of(model).frequencies
    model.metadata |= {"llama.rope.scaling.type": "linear", "llama.rope.scaling.factor": 4.0}
    np.testing.assert_allclose(table_of(model).frequencies, plain / 4, rtol=1e-6)
    model.metadata["llama.rope.scaling.type"] = "none"
    np.testing.assert_array_equal(table_of(model).frequencies, plain)


def test_rope_factors_divide_frequencies() -> None:
    model = tiny_model(rope_freqs=True)
    factors = model.arrays["rope_freqs.weight"]
    expected = 10000.0 ** (-np.arange(8) / 8) / factors
    table = table_of(model)
    np.testing.assert_allclose(table.frequencies, expected, rtol=1e-6)
    assert table.frequencies.dtype == np.float32
    with pytest.raises(ModelError, match=r"rope_freqs\.weight: expected 8 positive numbers"):
        rope_table(Rope(dim=16, pairs="norm", factors="rope_freqs"), factors[:7])
    model.arrays["rope_freqs.weight"][3] = 0
    with pytest.raises(ModelError, match=r"rope_freqs\.weight: expected 8 positive numbers"):
        read(model)


def test_one_entry_adds_an_architecture(monkeypatch: pytest.MonkeyPatch) -> None:
    """A llama with RoPE's pairs in halves: with its rows reordered it must give llama's logits."""
    llama = tiny_model()
    monkeypatch.setitem(ARCHITECTURES, "halves", Architecture(name="halves", rope_pairs="neox"))
    metadata = {key.replace("llama.", "halves."): value for key, value in llama.metadata.items()}
    halves = TinyModel(metadata | {"general.architecture": "halves"}, dict(llama.arrays))
    for name, array in llama.arrays.items():
        if "attn_q." in name or "attn_k." in name:
            pairs = array.reshape(-1, 8, 2, 64)  # (heads, Dh/2, 2, D)
            halves.arrays[name] = pairs.swapaxes(1, 2).reshape(array.shape)
    logits = []
    for model in (llama, halves):
        config, weights = read(model)
        logits.append(EagerExecutor(weights, config)([1, 2, 3, 4], KVCache(config, 8), n_outputs=4))
    np.testing.assert_allclose(logits[1], logits[0], atol=1e-5)


def test_a_bias_that_is_not_required_is_used_if_present() -> None:
    model = tiny_model()
    ids = [1, 2, 3]

    def logits() -> np.ndarray:
        config, weights = read(model)
        return EagerExecutor(weights, config)(ids, KVCache(config, 8), n_outputs=3)

    plain = logits()
    model.arrays["blk.1.ffn_down.bias"] = np.full(64, 0.1, np.float32)
    assert np.abs(logits() - plain).max() > 1e-2


def test_cache_knows_a_common_prefix() -> None:
    config, _ = read(tiny_model())
    cache = KVCache(config, 32, np.float16)
    cache.ids[:] = [1, 2, 3]
    for ids, expected in (([1, 2, 3, 4], 3), ([1, 2], 2), ([1, 9, 3], 1), ([9], 0), ([], 0), ([1, 2, 3], 3)):
        assert cache.common_prefix(ids) == expected, ids
    cache.truncate(1)
    assert cache.position == 1
    assert cache.n_bytes == 2 * 2 * 2 * 32 * 16 * 2  # k and v, layers, heads, positions, head size, bytes


def test_a_cache_beyond_all_memory_is_a_model_error() -> None:
    config, _ = read(tiny_model())
    for n_ctx in (2**44, 2**62):
        with pytest.raises(ModelError, match=f"no memory for the keys and values of a context of {n_ctx}"):
            KVCache(config, n_ctx)


@pytest.mark.parametrize(("n_ctx", "dtype"), [(0, np.float32), (8, np.float64), (8, np.int16)])
def test_cache_refuses_what_it_cannot_be(n_ctx: int, dtype: type) -> None:
    config, _ = read(tiny_model())
    with pytest.raises(ValueError, match=r"n_ctx|float16, float32 or int8"):
        KVCache(config, n_ctx, dtype)

"""The cache of keys and values, as the lessons count it."""

from __future__ import annotations

import numpy as np
import pytest

import llmlite as ll
from llmlite.engine.kv_cache import KVCache
from llmlite.lessons import caching
from llmlite.synth import SHAPES


@pytest.fixture(scope="module")
def model() -> ll.Model:
    return ll.load("tales", kv_dtype="f32")


@pytest.mark.parametrize("itemsize", [2, 4])
def test_the_formula_is_what_a_cache_really_takes(model: ll.Model, itemsize: int) -> None:
    real = KVCache(model.config, 128, {2: np.float16, 4: np.float32}[itemsize])
    assert caching.cache_bytes(model.config, 128, itemsize) == real.n_bytes
    assert KVCache(model.config, 100).n_bytes == KVCache(model.config, 128).n_bytes  # blocks of 32 positions


def test_a_shape_without_a_head_size_gets_it_from_its_widths() -> None:
    # 16 layers, 8 heads of 2048/32 numbers, keys and values of 2 bytes: 32 KiB per token
    assert caching.cache_bytes(SHAPES["llama-3.2-1b"], 1) == 32768


def test_tokens_processed_are_those_that_really_go_through(model: ll.Model) -> None:
    ids = model.tokenizer.encode("Once upon a time there was")
    for cached in (True, False):
        _, processed = caching.logits_step_by_step(model, ids, cached=cached)
        assert processed == sum(caching.tokens_processed(1, len(ids), cached=cached))
    assert caching.tokens_processed(5, 0, cached=True) == []


def test_the_same_logits_with_and_without_a_cache(model: ll.Model) -> None:
    ids = model.tokenizer.encode("Once upon a time there was a fox")
    kept, _ = caching.logits_step_by_step(model, ids, cached=True)
    again, _ = caching.logits_step_by_step(model, ids, cached=False)
    np.testing.assert_allclose(kept, again, atol=1e-3)
    np.testing.assert_allclose(kept, model.logits(ids), atol=1e-3)


def test_filling_is_relative_to_the_longest_key_of_a_head(model: ll.Model) -> None:
    found = caching.filling(model, "Once upon a time")
    assert found.size.shape == (model.config.n_layer, model.config.n_head_kv, len(found.ids))
    np.testing.assert_allclose(found.size.max(-1), 1, rtol=1e-6)
    assert (found.size > 0).all()


def test_what_lesson_05_says_of_known_shapes() -> None:
    per_token = {name: caching.cache_bytes(shape, 1, 2) for name, shape in caching.known_shapes().items()}
    assert per_token["qwen3-0.6b"] == 112 * 1024, "its heads are 128 long, not 1024 / 16"
    sharing = {name: shape.n_head // shape.n_head_kv for name, shape in caching.known_shapes().items()}
    assert per_token["llama-3.2-1b"] == 32 * 1024  # times 24,000: the 770 MB of its weights in Q4_0
    assert 1 < per_token["smollm2-135m"] / per_token["tinyllama-1.1b"] < 1.05
    assert min(per_token, key=per_token.__getitem__) == "qwen2.5-0.5b"
    assert [sharing[name] for name in ("smollm2-135m", "tinyllama-1.1b", "qwen2.5-0.5b")] == [3, 8, 7]

"""A batch gives each of its sequences what it would get alone, bit for bit, whoever joins and leaves."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import llmlite as ll
from llmlite.engine.kv_cache import KVCache
from llmlite.errors import ContextOverflowError, NumericsError
from llmlite.generate import Batch, Generation
from llmlite.model import Model
from tests.support.tiny_models import tiny_model

IDS = np.random.default_rng(5).integers(0, 260, 400).tolist()
SAMPLED = {"temperature": 1.0, "top_k": 0, "top_p": 1.0}
REQUESTS: list[tuple[list[int], dict[str, Any]]] = [
    (IDS[:7], {"max_tokens": 25, "temperature": 0}),
    (IDS[:300], {"max_tokens": 9, "seed": 1, **SAMPLED}),
    (IDS[50:51], {"max_tokens": 40, "seed": 2, **SAMPLED}),
    (IDS[:290] + [3], {"max_tokens": 12, "seed": 3, **SAMPLED}),
    (IDS[100:170], {"max_tokens": 1, "temperature": 0}),
    (IDS[:120], {"max_tokens": 30, "seed": 4, "stop": [12, 80, "e"], **SAMPLED}),
    (IDS[9:40], {"max_tokens": 20, "seed": 5, **SAMPLED}),
]
WINDOW = {"gemma3.attention.sliding_window": 40, "gemma3.attention.key_length": 16,
          "gemma3.attention.value_length": 16}  # fmt: skip
KINDS: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "llama-Q8_0": ({}, {}, "f16"),
    "llama-q8-cache": ({"n_embd": 128}, {}, "q8_0"),
    "gemma3-window": ({"architecture": "gemma3", "n_layer": 6}, WINDOW, "f16"),
    "lfm2": ({"architecture": "lfm2", "n_layer": 4}, {}, "f16"),
    "mamba2": ({"architecture": "mamba2", "n_layer": 4}, {}, "f16"),
}


def tiny(folder: Path, kind: str) -> Callable[..., Model]:
    shape, hyper, kv_dtype = KINDS[kind]
    made = tiny_model(n_ctx=512, seed=3, **shape)
    made.metadata |= hyper
    path = made.write(folder / "tiny.gguf", "Q8_0")
    return lambda executor="planned", **options: ll.load(
        path, executor=executor, kv_dtype=kv_dtype, n_ctx=512, **options
    )


def outcome(generation: Generation) -> tuple[list[int], str, str | None]:
    return generation.ids, generation.text, generation.stop_reason


def alone(model: Model, prompt: list[int], options: dict[str, Any]) -> tuple[list[int], str, str | None]:
    model.cache.truncate(0)
    generation = model._generation(prompt, options)
    assert "".join(generation) == generation.text
    return outcome(generation)


def finish(batch: Batch, texts: dict[Generation, str] | None = None) -> dict[Generation, str]:
    texts = {} if texts is None else texts
    while len(batch):
        for generation, piece in batch.step():
            texts[generation] = texts.get(generation, "") + piece
    return texts


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return tiny(tmp_path_factory.mktemp("models"), "llama-Q8_0")()


@pytest.mark.parametrize("kind", list(KINDS))
def test_joining_and_leaving_changes_no_sequence(tmp_path: Path, kind: str) -> None:
    load = tiny(tmp_path, kind)
    want = [alone(load(), *request) for request in REQUESTS]
    batch = load().batch(max_sequences=4, prefill_tokens=48)
    texts: dict[Generation, str] = {}
    made = [batch.add(prompt, **options) for prompt, options in REQUESTS[:2]]
    for prompt, options in REQUESTS[2:]:
        for _ in range(3):
            for generation, piece in batch.step():
                texts[generation] = texts.get(generation, "") + piece
        made.append(batch.add(prompt, **options))
    finish(batch, texts)
    assert [outcome(generation) for generation in made] == want
    assert [texts[generation] for generation in made] == [text for _, text, _ in want]
    assert made[3].n_reused >= 256 or kind == "gemma3-window", "290 tokens had been read for another one"


@pytest.mark.parametrize("kind", list(KINDS))
def test_a_copied_beginning_gives_the_same_logits_as_a_read_one(tmp_path: Path, kind: str) -> None:
    model = tiny(tmp_path, kind)()
    source, copy, fresh = (model._new_cache() for _ in range(3))
    model.executor(IDS[:200], source, n_outputs=1)
    model.executor(IDS[200:203], source, n_outputs=1)
    before = [state.k.copy() for state in source.states if hasattr(state, "k")]
    n = copy.copy_from(source, IDS[:200] + IDS[300:310], 400)
    assert n == 200
    got = model.executor(IDS[300:310], copy, n_outputs=1)
    model.executor(IDS[:200], fresh, n_outputs=1)
    np.testing.assert_array_equal(got, model.executor(IDS[300:310], fresh, n_outputs=1))
    assert source.ids == IDS[:203]
    for state, held in zip((state for state in source.states if hasattr(state, "k")), before):
        np.testing.assert_array_equal(state.k, held)


def test_a_ring_that_has_wrapped_around_is_copied_whole(tmp_path: Path) -> None:
    model = tiny(tmp_path, "gemma3-window")()
    source, copy, fresh = (model._new_cache() for _ in range(3))
    for cache in (source, fresh):
        for start in (0, 200):
            model.executor(IDS[start : start + 200], cache, n_outputs=1)
    assert any(getattr(state, "intact", 0) for state in source.states)
    assert copy.copy_from(source, IDS[:400], 400) == 400
    np.testing.assert_array_equal(*(model.executor([5], cache, n_outputs=1) for cache in (copy, fresh)))


@pytest.mark.parametrize("kind", ["llama-Q8_0", "lfm2"])
def test_a_beginning_that_all_share_is_read_once(tmp_path: Path, kind: str) -> None:
    model = tiny(tmp_path, kind)()
    prompts = [IDS[:200] + IDS[300 + i : 303 + i] for i in range(6)]
    want = [alone(model, prompt, {"max_tokens": 5, "temperature": 0}) for prompt in prompts]
    batch = model.batch(max_sequences=6)
    made = [batch.add(prompt, max_tokens=5, temperature=0) for prompt in prompts]
    finish(batch)
    assert [outcome(generation) for generation in made] == want
    assert [generation.n_reused for generation in made] == [0, *[200] * 5]
    assert batch.n_step_tokens == 200 + 6 * 3 + sum(generation._n_chosen - 1 for generation in made)
    later = batch.add(prompts[2], max_tokens=5, temperature=0)
    finish(batch)
    assert outcome(later) == want[2]
    assert later.n_reused >= 200
    assert len(batch._idle) <= batch.kept


def test_prompts_are_read_in_parts_while_others_write(model: Model) -> None:
    batch = model.batch(prefill_tokens=16)
    writer = batch.add(IDS[:3], max_tokens=100, temperature=0)
    batch.step()
    reader = batch.add(IDS[100:200], max_tokens=2, temperature=0)
    for n in range(2, 8):
        assert [generation for generation, _ in batch.step()] == [writer]
        assert (len(writer.ids), len(reader.ids)) == (n, 0)
    assert [generation for generation, _ in batch.step()] == [writer, reader]


def test_more_sequences_than_places_wait_their_turn(model: Model) -> None:
    batch = model.batch(max_sequences=2)
    made = [batch.add(IDS[i : i + 5], max_tokens=3, temperature=0) for i in range(5)]
    assert (len(batch), batch.running, batch.waiting) == (5, 0, 5)
    batch.step()
    assert (len(batch), batch.running, batch.waiting) == (5, 2, 3)
    finish(batch)
    assert [len(generation.ids) for generation in made] == [3] * 5
    assert (len(batch), batch.running, batch.waiting) == (0, 0, 0)


def test_cancelling_frees_the_place_and_leaves_the_others_alone(model: Model) -> None:
    want = alone(model, IDS[:20], {"max_tokens": 30, "temperature": 0})
    batch = model.batch(max_sequences=2)
    gone = batch.add(IDS[30:300], max_tokens=30)
    stays = batch.add(IDS[:20], max_tokens=30, temperature=0)
    waits = batch.add(IDS[:10], max_tokens=30)
    batch.step()
    batch.cancel(gone)
    waits.cancel()
    assert (gone.stop_reason, waits.stop_reason) == ("cancelled", "cancelled")
    assert (len(batch), batch.running, batch.waiting) == (1, 1, 0)
    batch.cancel(gone)  # twice does no harm
    texts = finish(batch)
    assert list(texts) == [stays]
    assert outcome(stays) == want
    batch.cancel(stays)
    assert stays.stop_reason == "length"


def test_a_request_that_cannot_run_fails_alone(model: Model) -> None:
    want = alone(model, IDS[:20], {"max_tokens": 10, "temperature": 0})
    batch = model.batch()
    good = batch.add(IDS[:20], max_tokens=10, temperature=0)
    with pytest.raises(ContextOverflowError, match="600 tokens doesn't fit the context of 512"):
        batch.add([5] * 600)
    with pytest.raises(ValueError, match="top_k"):
        batch.add(IDS[:3], top_k=-1)

    def broken(logits: np.ndarray) -> int:
        raise RuntimeError("a sampler of the caller's own")

    bad = batch.add(IDS[:5], max_tokens=5, sampler=broken)
    finish(batch)
    assert outcome(good) == want
    assert bad.stop_reason == "error"
    with pytest.raises(RuntimeError, match="of the caller's own"):
        list(bad)


def test_a_step_that_fails_ends_only_the_sequence_at_fault(
    model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    want = [alone(model, IDS[i : i + 20], {"max_tokens": 10, "temperature": 0}) for i in range(3)]
    batch = model.batch()
    made = [batch.add(IDS[i : i + 20], max_tokens=10, temperature=0) for i in range(3)]
    batch.step()
    batch.step()
    original, bad = model.executor.batch, made[1]._context

    def failing(requests: Any, **options: Any) -> Any:
        found = original(requests, **options)  # the caches of all have gone on already
        if any(cache.ids[:20] == bad[:20] for _, cache, _ in requests):
            raise NumericsError.at("ffn_out", 1)
        return found

    monkeypatch.setattr(model.executor, "batch", failing)
    finish(batch)
    assert [outcome(made[0]), outcome(made[2])] == [want[0], want[2]]
    assert made[1].stop_reason == "error"
    assert isinstance(made[1].error, NumericsError)


def test_an_interrupted_step_can_be_taken_again(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    want = [alone(model, IDS[i : i + 20], {"max_tokens": 10, "temperature": 0}) for i in range(3)]
    batch = model.batch()
    made = [batch.add(IDS[i : i + 20], max_tokens=10, temperature=0) for i in range(3)]
    batch.step()
    batch.step()
    original = KVCache.extend
    calls = []

    def interrupted(cache: KVCache, ids: list[int]) -> None:
        original(cache, ids)
        calls.append(ids)
        if len(calls) == 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(KVCache, "extend", interrupted)
        with pytest.raises(KeyboardInterrupt):
            batch.step()
    finish(batch)
    assert [outcome(generation) for generation in made] == want


def test_the_eager_executor_runs_one_after_the_other_to_the_same_texts(tmp_path: Path) -> None:
    load = tiny(tmp_path, "llama-Q8_0")
    greedy = [(prompt, {"max_tokens": 8, "temperature": 0}) for prompt, _ in REQUESTS[:4]]
    want = [alone(load("eager"), *request) for request in greedy]
    batch = load("eager").batch(max_sequences=3)
    made = [batch.add(prompt, **options) for prompt, options in greedy]
    finish(batch)
    assert [outcome(generation) for generation in made] == want


def test_threads_may_add_while_another_steps(model: Model) -> None:
    want = [alone(model, IDS[i : i + 9], {"max_tokens": 12, "temperature": 0}) for i in range(8)]
    batch, made = model.batch(max_sequences=3), {}

    def add(i: int) -> None:
        made[i] = batch.add(IDS[i : i + 9], max_tokens=12, temperature=0)

    threads = [threading.Thread(target=add, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
        batch.step()
    for thread in threads:
        thread.join()
    finish(batch)
    assert [outcome(made[i]) for i in range(8)] == want


def test_iterating_one_steps_all(model: Model) -> None:
    batch = model.batch()
    first, second = (batch.add(IDS[i : i + 9], max_tokens=12, temperature=0) for i in range(2))
    assert "".join(first) == first.text
    assert second._n_chosen == first._n_chosen


def test_the_prompts_of_a_batch_are_scored_as_alone(model: Model) -> None:
    options = {"max_tokens": 3, "temperature": 0, "prompt_logprobs": True, "logprobs": 2}
    want = model._generation(IDS[:100], options)
    list(want)
    batch = model.batch(prefill_tokens=30)
    other = batch.add(IDS[:100], max_tokens=3)
    got = batch.add(IDS[:100], **options)
    finish(batch)
    assert (got.prompt_logprobs, got.logprobs) == (want.prompt_logprobs, want.logprobs)
    assert len(got.prompt_logprobs or []) == 100
    assert other.logprobs is None


@pytest.mark.parametrize(("name", "value"), [("max_sequences", 0), ("prefill_tokens", 257), ("kept", -1)])
def test_options_out_of_range_are_refused(model: Model, name: str, value: int) -> None:
    with pytest.raises(ValueError, match=f"{name} must be a whole number"):
        model.batch(**{name: value})


def test_nothing_to_make_ends_at_once(model: Model) -> None:
    batch = model.batch()
    generation = batch.add(IDS[:4], max_tokens=0)
    assert len(batch) == 1
    assert batch.step() == [(generation, "")]
    assert (generation.stop_reason, len(batch), batch.n_steps) == ("length", 0, 0)

"""The Model on the planned executor: interrupts, threads, interleaved texts, a cache that is reused."""

from __future__ import annotations

import _thread
import threading
import time
from pathlib import Path

import numpy as np
import pytest

import llmlite as ll
from llmlite.engine.recording import PositionTable
from llmlite.model import Model
from tests.support.tiny_models import tiny_model

PROMPTS = ["the sea", "on the", "inner", "a stone"]
KINDS = {"dense": {}, "experts": {"n_expert": 4}}


@pytest.fixture(scope="module", params=list(KINDS))
def path(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    tiny = tiny_model(seed=3, n_ctx=512, **KINDS[request.param])
    return tiny.write(tmp_path_factory.mktemp("models") / "tiny.gguf", "Q8_0")


@pytest.fixture
def model(path: Path) -> Model:
    return ll.load(path, kv_dtype="f32", executor="planned", n_threads=2)


def texts(model: Model) -> list[str]:
    return [str(model.generate(prompt, max_tokens=10, temperature=0)) for prompt in PROMPTS]


def test_an_interrupt_returns_within_one_token_and_leaves_the_model_usable(model: Model) -> None:
    expected = texts(model)
    running = [model.stream("the sea", max_tokens=1, temperature=0)]
    at_interrupt = []

    def interrupt() -> None:
        time.sleep(0.3)
        _thread.interrupt_main()
        at_interrupt.append((running[-1], len(running[-1].ids)))

    thread = threading.Thread(target=interrupt)
    with pytest.raises(KeyboardInterrupt):
        thread.start()
        while True:
            running.append(model.stream("the sea", max_tokens=400, temperature=1))
            for _ in running[-1]:
                pass
    thread.join()
    generation, n_tokens = at_interrupt[0]
    assert generation is running[-1]
    assert len(generation.ids) - n_tokens <= 1
    assert texts(model) == expected


def test_python_threads_take_turns(model: Model) -> None:
    expected = texts(model)
    got: list[list[str]] = [[], [], []]
    threads = [threading.Thread(target=lambda out=out: out.extend(texts(model))) for out in got]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    assert got == [expected] * 3


def test_two_models_run_side_by_side_in_threads(path: Path, model: Model) -> None:
    other = ll.load(path, kv_dtype="f32", executor="planned", n_threads=2)
    expected = texts(model)
    got: list[list[str]] = [[], []]
    threads = [
        threading.Thread(target=lambda m=m, out=out: out.extend(texts(m)))
        for m, out in zip((model, other), got)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    assert got == [expected] * 2


def test_texts_made_in_turns_are_right(model: Model) -> None:
    alone = texts(model)
    both = [model.stream(prompt, max_tokens=10, temperature=0) for prompt in PROMPTS]
    for _ in range(10):
        for generation in both:
            next(generation, None)
    assert [generation.text for generation in both] == alone


@pytest.mark.parametrize("size", [1, 2, 7, 64, 300])
def test_a_prompt_in_pieces_through_the_reused_cache_gives_the_same_logits(model: Model, size: int) -> None:
    ids = np.random.default_rng(5).integers(0, 256, 300).tolist()
    want = model.logits(ids, last_only=True)[0]
    model.cache.truncate(0)
    for end in range(size, 301, size):
        reused, got = model._next_logits(ids[:end])
        assert reused == end - size
    if 300 % size:
        reused, got = model._next_logits(ids)
        assert reused == 300 - 300 % size
    # activations are rounded to bytes: a last bit of a sum may tip one of them over
    assert np.abs(got - want).max() <= 0.02 * np.abs(want).max()
    assert got.argmax() == want.argmax()


@pytest.mark.parametrize("head_size", [8, 40, 72, 80, 100, 576])
def test_any_head_size_is_planned_and_gives_the_eager_logits(head_size: int, tmp_path: Path) -> None:
    """Stories260K, which many courses use, has heads of 8."""
    n_head = 8 if head_size <= 100 else 2
    made = tiny_model(n_embd=n_head * head_size, n_head=n_head, n_head_kv=n_head // 2, seed=1)
    path = made.write(tmp_path / "tiny.gguf")
    planned, eager = (ll.load(path, kv_dtype="f32", executor=name) for name in ("planned", "eager"))
    assert "slow" not in repr(planned.executor)
    ids = list(range(3, 63))
    want = eager.logits(ids)
    np.testing.assert_allclose(planned.logits(ids), want, atol=2e-5 * np.abs(want).max())


def test_each_row_of_a_table_is_computed_once_and_none_far_ahead(model: Model) -> None:
    asked: list[int] = []

    def rows(at: np.ndarray) -> np.ndarray:
        asked.extend(at.tolist())
        return np.stack([at, 2 * at], axis=1).astype(np.float32)

    table, executor = PositionTable("a key", 2, rows), model.executor
    for n in (1, 256, 257, 30, 1300):
        found = executor._table(table, n)
        np.testing.assert_array_equal(found[:n], np.arange(n)[:, None] * np.float32([1, 2]))
    assert found is executor._table(table, 7)
    assert asked == list(range(6 * 256))

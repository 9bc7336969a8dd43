"""The Model: logits, trace, text and chat on tiny random models written to files."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest

import llmlite as ll
from llmlite.engine.eager import Eager
from llmlite.errors import ContextOverflowError, LlmliteError, ModelError, TokenizerError
from llmlite.model import Model
from tests.support.tiny_models import tiny_model

IDS = [7, 77, 177, 5, 99, 210, 33, 64]


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(seed=3).write(tmp_path_factory.mktemp("models") / "tiny.gguf", "Q8_0")


@pytest.fixture
def model(path: Path) -> Model:
    return ll.load(path, kv_dtype="f32", executor="eager")


def test_logits_have_a_row_for_each_token(model: Model) -> None:
    logits = model.logits(IDS)
    assert (logits.shape, logits.dtype) == ((8, 267), np.float32)
    last = model.logits(IDS, last_only=True)
    assert last.shape == (1, 267)
    np.testing.assert_allclose(last[0], logits[-1], atol=1e-4)


def test_logits_see_only_the_past(model: Model) -> None:
    other = model.logits([*IDS[:4], 1, 2, 3, 4])
    np.testing.assert_allclose(other[:4], model.logits(IDS)[:4], atol=1e-5)


def test_prefill_in_chunks_equals_at_once(model: Model) -> None:
    whole = model.logits(IDS)
    model.executor.max_tokens = 3
    np.testing.assert_allclose(model.logits(IDS), whole, atol=1e-4)
    np.testing.assert_allclose(model.logits(IDS, last_only=True), whole[-1:], atol=1e-4)


def test_a_shared_beginning_is_not_read_again(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = model.logits([*IDS, 1])[-1]
    model.cache.truncate(0)
    model._next_logits(IDS)
    read = []
    embed = Eager.embed
    monkeypatch.setattr(Eager, "embed", lambda self, w, ids: read.append(len(ids)) or embed(self, w, ids))
    reused, got = model._next_logits([*IDS, 1])
    assert (reused, read) == (8, [1])
    np.testing.assert_allclose(got, expected, atol=1e-4)
    reused, got = model._next_logits([*IDS[:5], 2, 3])
    assert (reused, read[1:]) == (5, [2])
    np.testing.assert_allclose(got, model.logits([*IDS[:5], 2, 3])[-1], atol=1e-4)
    reused, again = model._next_logits([*IDS[:5], 2, 3])
    assert reused == 6  # all are there, but one must run to give logits
    np.testing.assert_allclose(again, got, atol=1e-4)


def test_trace_names_every_step(model: Model) -> None:
    trace = model.trace(IDS)
    shapes = {
        "embd": (8, 64),
        "attn_norm-0": (8, 64),
        "Qcur-0": (8, 4, 16),
        "Kcur-1": (8, 2, 16),
        "Vcur-1": (8, 2, 16),
        "kq-0": (4, 8, 8),
        "kq_soft_max-0": (4, 8, 8),
        "kqv_out-0": (8, 64),
        "attn_out-0": (8, 64),
        "ffn_inp-0": (8, 64),
        "ffn_norm-0": (8, 64),
        "ffn_gate-0": (8, 128),
        "ffn_up-0": (8, 128),
        "ffn_swiglu-0": (8, 128),
        "ffn_out-0": (8, 64),
        "l_out-1": (8, 64),
        "result_norm": (8, 64),
        "result_output": (8, 267),
    }
    for name, shape in shapes.items():
        assert trace[name].shape == shape, name
    assert trace.ids == IDS
    assert "Trace of 8 tokens" in repr(trace)
    np.testing.assert_allclose(trace["result_output"], model.logits(IDS), atol=1e-4)
    np.testing.assert_allclose(trace["kq_soft_max-1"].sum(-1), 1, atol=1e-5)
    np.testing.assert_allclose(trace["l_out-0"], trace["ffn_inp-0"] + trace["ffn_out-0"], atol=1e-6)
    with pytest.raises(KeyError, match="there is embd, attn_norm"):
        trace["nothing-0"]


def test_trace_leaves_the_models_cache_alone(model: Model) -> None:
    model._next_logits(IDS)
    model.trace([1, 2, 3])
    assert model.cache.ids == IDS


def test_greedy_text_is_the_likeliest_token_each_time(model: Model) -> None:
    generation = model.stream("the inner", max_tokens=12, temperature=0)
    text = "".join(generation)
    assert model.generate("the inner", max_tokens=12, temperature=0) == text
    ids = model.tokenizer.encode("the inner")
    for token in generation.ids:
        assert token == model.logits(ids)[-1].argmax()
        ids.append(token)


def test_a_seed_repeats_a_text(model: Model) -> None:
    texts = {
        seed: [model.generate(IDS, max_tokens=20, temperature=1.0, seed=seed) for _ in range(2)]
        for seed in (1, 2)
    }
    assert texts[1][0] == texts[1][1]
    assert texts[1][0] != texts[2][0]


def test_texts_made_in_turns_are_right(model: Model) -> None:
    alone = [model.generate(prompt, max_tokens=8, temperature=0) for prompt in ("the sea", "on the")]
    both = [model.stream(prompt, max_tokens=8, temperature=0) for prompt in ("the sea", "on the")]
    for _ in range(8):
        for generation in both:
            next(generation, None)
    assert [generation.text for generation in both] == alone


def test_threads_take_turns(model: Model) -> None:
    prompts = ["the sea", "on the", "inner", "a stone"]
    expected = [model.generate(prompt, max_tokens=10, temperature=0) for prompt in prompts]
    got = [""] * 4

    def run(i: int) -> None:
        got[i] = str(model.generate(prompts[i], max_tokens=10, temperature=0))

    threads = [threading.Thread(target=run, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert got == expected


def test_an_interrupt_leaves_the_model_usable(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = model.generate("the sea", max_tokens=8, temperature=0)
    generation = model.stream("the sea", max_tokens=8, temperature=0)
    next(generation)

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Eager, "activate", interrupt)
        list(generation)
    assert model.generate("the sea", max_tokens=8, temperature=0) == expected


def test_chat_renders_the_template(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []
    stream = model.stream

    def spy(prompt: list[int], **options: object) -> object:
        seen.append(model.tokenizer.decode(prompt))
        return stream(prompt, **options)

    monkeypatch.setattr(model, "stream", spy)
    answer = model.chat("Where is the key?", max_tokens=5, temperature=0)
    assert isinstance(answer, str)
    model.chat([{"role": "user", "content": "Where is the key?"}], max_tokens=1)
    assert seen == ["<|im_start|>user\nWhere is the key?<|im_end|>\n<|im_start|>assistant\n"] * 2


def test_a_bos_in_the_template_is_not_doubled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny = tiny_model()
    tiny.metadata["tokenizer.ggml.add_bos_token"] = True
    tiny.metadata["tokenizer.chat_template"] = "{{ bos_token }}{{ messages[0]['content'] }}"
    model = ll.load(tiny.write(tmp_path / "bos.gguf"), executor="eager")
    seen: list[list[int]] = []
    monkeypatch.setattr(model, "stream", lambda ids, **_: seen.append(ids) or iter([]))
    model.chat("a")
    assert seen[0] == [model.tokenizer.bos_id, *model.tokenizer.encode("a", add_special=False)]


def test_what_a_file_lacks_is_missed_only_when_used(tmp_path: Path) -> None:
    tiny = tiny_model()
    tiny.metadata = {k: v for k, v in tiny.metadata.items() if not k.startswith("tokenizer")}
    model = ll.load(tiny.write(tmp_path / "bare.gguf"), executor="eager")
    assert model.logits([1, 2]).shape == (2, 267)
    with pytest.raises(TokenizerError, match="no tokenizer"):
        model.generate("text")
    with pytest.raises(ModelError, match=r"tokenizer\.chat_template: missing"):
        model.chat("hello")


def test_wrong_input_is_refused(model: Model, path: Path, tmp_path: Path) -> None:
    with pytest.raises(ContextOverflowError, match="129 tokens doesn't fit the context of 128"):
        model.logits([1] * 129)
    with pytest.raises(ContextOverflowError, match="doesn't fit the context of 4"):
        ll.load(path, n_ctx=4, executor="eager").generate("the long inner sea")
    with pytest.raises(ValueError, match="at least one token"):
        model.logits([])
    with pytest.raises(ValueError, match="token 267 is not in the vocabulary, 0 to 266"):
        model.logits([267])
    with pytest.raises(ValueError, match="kv_dtype must be one of f16, f32, q8_0; got 'f64'"):
        ll.load(path, kv_dtype="f64")
    with pytest.raises(ValueError, match="n_ctx must be at least 1, got 0"):
        ll.load(path, n_ctx=0)
    with pytest.raises((LlmliteError, OSError)):
        ll.load(tmp_path / "absent.gguf")


def test_the_context_can_be_filled_to_the_brim(path: Path) -> None:
    model = ll.load(path, n_ctx=6, executor="eager")
    generation = model.stream([1, 2, 3, 4, 5, 6], max_tokens=50, temperature=0)
    list(generation)
    assert len(generation.ids) <= 1
    assert generation.stop_reason in ("length", "eos")


def test_a_model_shows_what_it_is(model: Model) -> None:
    assert "tiny.gguf: llama, 2 layers, n_embd 64" in repr(model)
    assert "EagerExecutor" in repr(model)

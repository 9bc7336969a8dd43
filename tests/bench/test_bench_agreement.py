"""When the results of two backends are the same."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from llmlite.bench import agreement, backends


def judged(logits: np.ndarray, reference: np.ndarray, backend: str) -> dict[str, Any]:
    return agreement.judge(logits, reference, reference, backends.BACKENDS[backend])


def test_float32_arithmetic_is_held_to_a_ten_thousandth() -> None:
    reference = np.random.default_rng(0).normal(size=(20, 50)).astype(np.float32)
    assert judged(reference + 5e-4, reference, "torch-f32")["agrees"]
    refused = judged(reference + 5e-3, reference, "torch-f32")
    assert not refused["agrees"] and "differ by 0.005" in refused["reason"]


def test_lower_precision_is_held_to_divergence_and_best_token() -> None:
    random = np.random.default_rng(0)
    reference = (4 * random.normal(size=(200, 50))).astype(np.float32)
    nearly = reference + 0.05 * random.normal(size=reference.shape)
    assert judged(nearly, reference, "torch-bf16")["agrees"]
    other = 4 * random.normal(size=reference.shape)
    refused = judged(other, reference, "torch-bf16")
    assert not refused["agrees"] and "KL" in refused["reason"]


def test_other_best_tokens_count_only_if_the_distributions_differ() -> None:
    random = np.random.default_rng(0)
    flat = random.normal(size=(100, 20_000)).astype(np.float32)  # as of random weights: many near-ties
    verdict = judged(flat + 0.05 * random.normal(size=flat.shape), flat, "llmlite")
    assert verdict["top1"] < agreement.MIN_TOP1 and verdict["kl"] < agreement.TIES_KL and verdict["agrees"]
    verdict = judged(flat + 0.1 * random.normal(size=flat.shape), flat, "llmlite")
    assert agreement.TIES_KL < verdict["kl"] < agreement.MAX_KL and not verdict["agrees"]


@pytest.mark.parametrize("backend", ["torch-f32", "torch-bf16"])
def test_a_shifted_position_or_a_wrong_token_order_does_not_agree(backend: str) -> None:
    reference = (4 * np.random.default_rng(0).normal(size=(50, 50))).astype(np.float32)
    assert not judged(np.roll(reference, 1, axis=0), reference, backend)["agrees"]
    assert not judged(np.roll(reference, 1, axis=1), reference, backend)["agrees"]


def test_numbers_that_are_not_finite_do_not_agree() -> None:
    reference = np.zeros((3, 4), np.float32)
    assert "finite" in judged(np.full((3, 4), np.nan), reference, "torch-bf16")["reason"]


def test_without_a_reference_nothing_agrees() -> None:
    logits = np.zeros((3, 4), np.float32)
    verdict = agreement.judge(logits, None, None, backends.BACKENDS["llmlite"])
    assert not verdict["agrees"] and "no float32 reference" in verdict["reason"]


def test_a_writer_that_loses_its_place_does_not_agree() -> None:
    random = np.random.default_rng(0)
    logits = (4 * random.normal(size=(6, 50))).astype(np.float32)
    best = logits.argmax(axis=-1)
    assert agreement.judge_steps(logits, best, 0.0) == {}
    refused = agreement.judge_steps(logits, np.roll(best, 1), 0.05)
    assert not refused["agrees"] and "decode chose token" in refused["reason"]


def test_a_near_tie_may_fall_either_way() -> None:
    logits = np.zeros((2, 5), np.float32)
    logits[:, 3], logits[:, 4] = 9.0, 8.9
    assert agreement.judge_steps(logits, [4, 3], 0.1) == {}
    assert agreement.judge_steps(logits, [4, 3], 0.01)["agrees"] is False


def test_weights_of_its_own_have_a_wider_bar_and_say_so() -> None:
    random = np.random.default_rng(0)
    reference = (4 * random.normal(size=(200, 50))).astype(np.float32)
    coarse = reference + 1.0 * random.normal(size=reference.shape)
    info = backends.BACKENDS["torch-int8"]
    assert not agreement.judge(coarse, reference, reference, info)["agrees"]
    assert agreement.judge(coarse, reference, reference, info, own=True)["agrees"]
    other = 4 * random.normal(size=reference.shape)
    assert not agreement.judge(other, reference, reference, info, own=True)["agrees"]


def test_log_probabilities_are_judged_as_logits_are() -> None:
    from llmlite.bench.quality import log_softmax

    random = np.random.default_rng(0)
    reference = (4 * random.normal(size=(40, 50)) + 7).astype(np.float32)
    info = backends.BACKENDS["xllamacpp"]
    verdict = agreement.judge(log_softmax(reference), reference, reference, info)
    assert verdict["agrees"] and verdict["max_abs_diff"] < 1e-4 and verdict["same_file_kl"] < 1e-9


def test_tokens_alone_are_judged_by_the_best_token() -> None:
    random = np.random.default_rng(0)
    reference = (4 * random.normal(size=(40, 50))).astype(np.float32)
    best = reference.argmax(axis=-1)
    assert agreement.judge_tokens(best, reference, reference)["agrees"]
    refused = agreement.judge_tokens((best + 1) % 50, reference, reference)
    assert not refused["agrees"] and "below the best" in refused["reason"]
    assert not agreement.judge_tokens(best, None, None)["agrees"]

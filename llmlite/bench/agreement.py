"""Check before any timing that a backend gives the results of float32 arithmetic."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from llmlite.bench import quality
from llmlite.bench.backends import BackendInfo

REFERENCES = ("torch-f32", "llmlite-eager")  # float32 arithmetic throughout; the first that is installed
EXACT = 1e-4  # float32 against float32: largest difference over the largest logit (at least 10)
MAX_KL = 0.02  # nats: largest mean divergence of lower precision on the same file
MIN_TOP1 = 0.90  # smallest share of equal best tokens in that case
TIES_KL = 0.002  # nats: distributions this close differ in their best token only if there are ties
OWN_MAX_KL = 2.0  # nats: limit for own weights; a different model is about 10 nats away
OWN_MIN_TOP1 = 0.30


def judge(
    logits: np.ndarray,
    reference: np.ndarray | None,
    best: np.ndarray | None,
    info: BackendInfo,
    *,
    own: bool = False,
    ids: Sequence[int] = (),
) -> dict[str, Any]:
    """Decide whether the logits of an entry agree with float32 arithmetic on its file.

    Args:
        logits: (T, V) logits or log probabilities of the entry.
        reference: float32 logits (T, V) of the same file; None if there are none.
        best: float32 logits (T, V) of the comparison's first file; None if there are none.
        info: the entry's backend.
        own: whether the entry uses weights other than the file's.
        ids: the T tokens that were read, to calculate the perplexity; empty for no perplexity.

    Returns:
        A record with "agrees" and "reason" ("" if it agrees), and the differences if they could be measured.
    """
    if not np.isfinite(logits).all():
        return {"agrees": False, "reason": "its logits aren't finite numbers"}
    if reference is None or best is None:
        return {"agrees": False, "reason": "there is no float32 reference to check it against"}
    if logits.shape != reference.shape:
        return {
            "agrees": False,
            "reason": f"logits of shape {logits.shape}, the reference's {reference.shape}",
        }
    if not info.exact and _are_log_probabilities(logits):
        reference, best = (quality.log_softmax(each).astype(np.float32) for each in (reference, best))
    same, quality_ = quality.divergence(logits, reference), quality.divergence(logits, best)
    record: dict[str, Any] = {
        "max_abs_diff": same.max_abs_diff,
        "same_file_kl": same.kl,
        "same_file_top1": same.top1,
        "kl": quality_.kl,
        "top1": quality_.top1,
    }
    if len(ids) > 1:
        losses = quality.negative_log_likelihoods(logits[: len(ids) - 1], ids[1:])
        record["perplexity"] = float(np.exp(losses.mean()))
    if info.exact:
        limit = EXACT * max(10.0, float(np.abs(reference).max()))
        agrees = same.max_abs_diff <= limit
        reason = "" if agrees else f"logits differ by {same.max_abs_diff:.2g}, more than {limit:.2g}"
    else:
        max_kl, min_top1 = (OWN_MAX_KL, OWN_MIN_TOP1) if own else (MAX_KL, MIN_TOP1)
        ties = same.kl <= TIES_KL  # random weights make tokens almost equally likely
        agrees = same.kl <= max_kl and (ties or same.top1 >= min_top1)
        reason = (
            ""
            if agrees
            else (
                f"KL {same.kl:.2g} nats (at most {max_kl:g}), "
                f"same best token {same.top1:.0%} (at least {min_top1:.0%})"
            )
        )
    return {**record, "agrees": agrees, "reason": reason}


def _are_log_probabilities(logits: np.ndarray) -> bool:
    """Return whether the exponentials of each row add up to 1."""
    wide = np.asarray(logits, np.float64)
    top = wide.max(axis=-1, keepdims=True)
    sums = top[:, 0] + np.log(np.exp(wide - top).sum(axis=-1))
    return bool(np.abs(sums).max() < 1e-2)


def judge_tokens(
    tokens: Sequence[int], reference: np.ndarray | None, best: np.ndarray | None
) -> dict[str, Any]:
    """Decide by the best token after each prefix of a text, for a library that returns no logits.

    Args:
        tokens: the library's best tokens, T of them.
        reference: float32 logits (T, V) of the same file; None if there are none.
        best: float32 logits (T, V) of the comparison's first file; None if there are none.

    Returns:
        A record with "agrees" and "reason" ("" if it agrees), and the shares of equal best tokens.
    """
    if reference is None or best is None:
        return {"agrees": False, "reason": "there is no float32 reference to check it against"}
    found = np.asarray(tokens)
    same = found == reference.argmax(axis=-1)
    short = reference.max(axis=-1) - reference[np.arange(len(found)), found]
    agrees = bool(same.mean() >= MIN_TOP1)
    reason = (
        f"same best token {same.mean():.0%} (at least {MIN_TOP1:.0%}); "
        f"the logit of a token that it chose is {short.max():.2g} below the best"
    )
    top1 = {
        "same_file_top1": float(same.mean()),
        "top1": float((found == best.argmax(axis=-1)).mean()),
    }
    return {**top1, "agrees": agrees, "reason": "" if agrees else reason}


def judge_steps(logits: np.ndarray, written: Sequence[int], max_abs_diff: float) -> dict[str, Any]:
    """Decide whether decode chooses the tokens that prefill of the same text ranks first.

    Args:
        logits: (T, V) logits from which each written token should be chosen. They come from the same backend,
            from one prefill of the whole text.
        written: the T tokens that decode wrote.
        max_abs_diff: largest difference of the backend's logits from float32. Tokens whose logits differ by
            less than twice this may swap.

    Returns:
        An empty record if they agree; otherwise "agrees" (False) and "reason".
    """
    gaps = logits.max(axis=-1) - logits[np.arange(len(written)), np.asarray(written)]
    limit = 2 * max_abs_diff + EXACT * max(10.0, float(np.abs(logits).max()))
    if gaps.max() <= limit:
        return {}
    place = int(gaps.argmax())
    return {
        "agrees": False,
        "reason": f"decode chose token {place}, whose logit in prefill is {gaps[place]:.2g} below the best",
    }

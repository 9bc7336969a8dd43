"""A model's loss of quality: perplexity, Kullback-Leibler divergence, and agreement of the best token.

Perplexity is calculated as in llama.cpp's tools/perplexity. The text is cut into chunks of n_ctx tokens, and
each chunk's first token is replaced by BOS. Only the second half of a chunk is scored, so that at least half
a context comes before every scored token.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np


@dataclass(frozen=True, kw_only=True)
class Perplexity:
    """Perplexity: exp of the mean negative log-likelihood.

    Attributes:
        value: the perplexity; a model that guesses among V equally likely tokens has V.
        standard_error: standard error of the value, from the spread of the tokens' log-likelihoods.
        n_tokens: number of tokens scored.
    """

    value: float
    standard_error: float
    n_tokens: int


@dataclass(frozen=True, kw_only=True)
class Divergence:
    """The distance of a model's predictions from a reference's, over the same positions.

    Attributes:
        kl: mean Kullback-Leibler divergence in nats; 0 for equal predictions.
        kl_error: standard error of `kl`.
        kl_50, kl_90, kl_99, kl_max: median, percentiles and largest value of the divergence.
        top1: share of positions at which both rank the same token first.
        delta_p_rms: root mean square of the difference in the probability of the text's own next token, from
            0 to 1; None if the text wasn't given.
        max_abs_diff: largest difference of any logit.
        n_tokens: number of positions compared.
    """

    kl: float
    kl_error: float
    kl_50: float
    kl_90: float
    kl_99: float
    kl_max: float
    top1: float
    delta_p_rms: float | None
    max_abs_diff: float
    n_tokens: int


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """Return log probabilities, float64, for logits (..., V): x - max - log(sum(exp(x - max)))."""
    shifted = np.asarray(logits, np.float64)
    shifted = shifted - shifted.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))


def negative_log_likelihoods(logits: np.ndarray, targets: Sequence[int] | np.ndarray) -> np.ndarray:
    """Return -log p(target) in nats, float64 (T,), for logits (T, V) and targets (T,)."""
    return -log_softmax(logits)[np.arange(len(targets)), np.asarray(targets)]


def divergence(
    logits: np.ndarray, reference: np.ndarray, targets: Sequence[int] | np.ndarray | None = None
) -> Divergence:
    """Compare logits with a reference's: KL(reference || logits) and related figures.

    Args:
        logits: (T, V) logits of the model.
        reference: (T, V) logits of the reference.
        targets: (T,) the text's own next tokens, for `delta_p_rms`.

    Raises:
        ValueError: the shapes differ.
    """
    return _summary([_compare(logits, reference, targets)])


class _Compared(NamedTuple):
    """The figures of one piece of a text, (T,) each; they are much smaller than the logits."""

    kl: np.ndarray
    same_top: np.ndarray
    delta_p: np.ndarray
    abs_diff: np.ndarray


def _compare(
    logits: np.ndarray, reference: np.ndarray, targets: Sequence[int] | np.ndarray | None
) -> _Compared:
    if logits.shape != reference.shape:
        raise ValueError(f"logits: expected the reference's shape {reference.shape}, got {logits.shape}")
    p, q = log_softmax(reference), log_softmax(logits)
    kl = np.maximum((np.exp(p) * (p - q)).sum(axis=-1), 0.0)  # rounding can give values below 0
    delta_p = np.empty(0)
    if targets is not None:
        place = np.arange(len(targets)), np.asarray(targets)
        delta_p = np.exp(q[place]) - np.exp(p[place])
    abs_diff = np.abs(np.asarray(logits, np.float64) - reference).max(axis=-1)
    return _Compared(kl, logits.argmax(axis=-1) == reference.argmax(axis=-1), delta_p, abs_diff)


def _summary(pieces: Sequence[_Compared]) -> Divergence:
    kl, same_top, delta_p, abs_diff = (np.concatenate(parts) for parts in zip(*pieces))
    middle, high, highest = np.percentile(kl, (50, 90, 99))
    return Divergence(
        kl=float(kl.mean()),
        kl_error=float(kl.std(ddof=1) / math.sqrt(len(kl))) if len(kl) > 1 else math.nan,
        kl_50=float(middle),
        kl_90=float(high),
        kl_99=float(highest),
        kl_max=float(kl.max()),
        top1=float(same_top.mean()),
        delta_p_rms=float(np.sqrt(np.mean(delta_p**2))) if len(delta_p) else None,
        max_abs_diff=float(abs_diff.max()),
        n_tokens=len(kl),
    )


def perplexity(
    logits_of: Callable[[list[int]], np.ndarray],
    ids: Sequence[int],
    *,
    n_ctx: int,
    bos_id: int | None = None,
    n_chunks: int | None = None,
) -> Perplexity:
    """Measure perplexity on the tokens of a text by llama.cpp's method.

    Args:
        logits_of: function that returns logits (T, V) for T token ids from an empty cache, such as
            `model.logits`.
        ids: the whole text's tokens; an incomplete chunk at the end isn't used.
        n_ctx: tokens in a chunk.
        bos_id: token that replaces each chunk's first token, if the model wants a BOS; None keeps the text's
            token.
        n_chunks: score at most this many chunks; None scores all.

    Raises:
        ValueError: the text is shorter than one chunk, or n_ctx < 4.
    """
    chunks = list(_chunks(ids, n_ctx, bos_id))[:n_chunks]
    losses = np.concatenate([_second_half(logits_of(chunk), original) for chunk, original in chunks])
    mean = float(losses.mean())
    error = float(losses.std(ddof=1) / math.sqrt(len(losses)))
    return Perplexity(value=math.exp(mean), standard_error=math.exp(mean) * error, n_tokens=len(losses))


def text_divergence(
    logits_of: Callable[[list[int]], np.ndarray],
    reference_of: Callable[[list[int]], np.ndarray],
    ids: Sequence[int],
    *,
    n_ctx: int,
    bos_id: int | None = None,
    n_chunks: int | None = None,
) -> Divergence:
    """Compare two models over a text, at the positions that `perplexity` scores.

    The logits of only one chunk are in memory at a time.

    Args:
        logits_of: function of the model, as in `perplexity`.
        reference_of: function of the reference, likewise.
        ids, n_ctx, bos_id, n_chunks: see `perplexity`.

    Raises:
        ValueError: the text is shorter than one chunk, or n_ctx < 4.
    """
    first = scored_from(n_ctx)
    pieces = []
    for chunk, original in list(_chunks(ids, n_ctx, bos_id))[:n_chunks]:
        ours, theirs = logits_of(chunk)[first:-1], reference_of(chunk)[first:-1]
        pieces.append(_compare(ours, theirs, original[first + 1 :]))
    return _summary(pieces)


def scored_from(n_ctx: int) -> int:
    """Return the first position whose prediction is scored: the middle of a chunk."""
    return n_ctx // 2


def _chunks(ids: Sequence[int], n_ctx: int, bos_id: int | None) -> list[tuple[list[int], list[int]]]:
    """Cut `ids` into chunks of n_ctx; return pairs of the tokens to read and the original ones."""
    if n_ctx < 4:
        raise ValueError(f"n_ctx must be at least 4, got {n_ctx}")
    if len(ids) < n_ctx:
        raise ValueError(f"the text has {len(ids)} tokens, fewer than one chunk of {n_ctx}")
    pairs = []
    for start in range(0, len(ids) - n_ctx + 1, n_ctx):
        original = [int(token) for token in ids[start : start + n_ctx]]
        read = original if bos_id is None else [bos_id, *original[1:]]
        pairs.append((read, original))
    return pairs


def _second_half(logits: np.ndarray, original: list[int]) -> np.ndarray:
    """Return the losses of the tokens after the middle: position i predicts token i + 1."""
    first = scored_from(len(original))
    return negative_log_likelihoods(logits[first:-1], original[first + 1 :])

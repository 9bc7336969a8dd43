"""The eager executor's choice of experts: its parts, and its steps under the names of a trace."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from llmlite.description.layers import Experts

SMALLEST_SUM = np.float32(6.103515625e-5)  # the smallest divisor of llama.cpp: F16's smallest normal number


@dataclass(frozen=True)
class Routes:
    """The experts of a step's tokens. S = T * n_used rows are sorted by expert.

    Attributes:
        weights: float32 (T, n_used).
        order: (S,), the index t * n_used + j of each row.
        counts: (n_expert,), rows of each expert.
    """

    weights: np.ndarray
    order: np.ndarray
    counts: np.ndarray

    def by_token(self, x: np.ndarray) -> np.ndarray:
        """Return the rows x (S, D), sorted by expert, as (T, n_used, D)."""
        out = np.empty_like(x)
        out[self.order] = x
        return out.reshape(*self.weights.shape, -1)


def softmax(x: np.ndarray, sinks: np.ndarray | None = None) -> np.ndarray:
    """Return exp(x) / sum(exp(x)) over the last axis; the maximum is subtracted first, so exp stays finite.

    Args:
        sinks: additional logits that count only in the sum, one for each row.
    """
    top = x.max(axis=-1, keepdims=True)
    if sinks is not None:
        top = np.maximum(top, sinks)
    e = np.exp(x - top)
    total = e.sum(axis=-1, keepdims=True)
    return e / (total if sinks is None else total + np.exp(sinks - top))


def in_best_groups(by: np.ndarray, spec: Experts) -> np.ndarray:
    """Return the scores for the choice of experts, (T, n_expert), with -inf outside each token's best groups.

    A group's score is that of its best expert (DeepSeek-V2), or after a sigmoid the sum of its two best (V3).
    """
    groups = by.reshape(len(by), spec.n_group, -1)
    best = np.sort(groups, axis=-1)
    worth = best[..., -1] + best[..., -2] if spec.gating == "sigmoid" else best[..., -1]  # (T, n_group)
    chosen = np.argsort(-worth, axis=-1, kind="stable")[:, : spec.n_group_used]
    out = np.full_like(groups, -np.inf)
    rows = np.arange(len(by))[:, None]
    out[rows, chosen] = groups[rows, chosen]
    return out.reshape(by.shape)


def routing_steps(
    scores: np.ndarray, spec: Experts, bias: np.ndarray | None, by: np.ndarray, ids: np.ndarray
) -> dict[str, np.ndarray]:
    """Return the steps from scores to weights, with the names and the order of llama.cpp's graph.

    Args:
        by: scores that the experts were chosen by.
        ids: the chosen experts, (T, n_used).
    """
    p = scores if spec.gating == "softmax_chosen" else softmax(scores)
    p = 1 / (1 + np.exp(-scores)) if spec.gating == "sigmoid" else p
    found = {"ffn_moe_probs": p}
    if bias is not None:
        found["ffn_moe_probs_biased"] = p + bias
    if spec.n_group > 1:
        found["ffn_moe_probs_masked"] = np.where(np.isinf(by), by, p if bias is None else p + bias)
    weights = found["ffn_moe_weights"] = np.take_along_axis(p, ids, axis=-1)
    if spec.gating == "softmax_chosen":
        weights = found["ffn_moe_weights_softmax"] = softmax(weights)
    if spec.normalized and spec.gating != "softmax_chosen":
        total = found["ffn_moe_weights_sum"] = weights.sum(-1, keepdims=True)
        total = found["ffn_moe_weights_sum_clamped"] = np.maximum(total, SMALLEST_SUM)
        weights = found["ffn_moe_weights_norm"] = weights / total
    if spec.weight_scale != 1:
        found["ffn_moe_weights_scaled"] = weights * np.float32(spec.weight_scale)
    return {name: array.astype(np.float32) for name, array in found.items()}

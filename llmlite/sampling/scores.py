"""Log-probabilities, exact to the last digits of float64."""

from __future__ import annotations

import numpy as np

from llmlite import deterministic
from llmlite.errors import SamplingError


def log_probabilities(logits: np.ndarray) -> np.ndarray:
    """Return the log-softmax, logits - max - log Σ exp(logits - max), in float64, equal on every machine.

    Args:
        logits: float (V,) or (T, V); -inf is a token of probability 0.

    Returns:
        float64 of the same shape. Row t has the log-probabilities of the token after token t.

    Raises:
        SamplingError: the logits contain NaN or +inf, or a row has only -inf.
    """
    logits = np.asarray(logits)
    if logits.ndim not in (1, 2) or not logits.size or logits.dtype.kind != "f":
        got = f"{logits.dtype} {logits.shape}"
        raise SamplingError(f"logits: expected floats of shape (V,) or (T, V), got {got}")
    highest = logits.max(-1, keepdims=True).astype(np.float64)
    if not np.isfinite(highest).all():
        row = int(np.flatnonzero(~np.isfinite(highest))[0])
        raise SamplingError(f"logits: the highest of row {row} is {highest.flat[row]}: no probabilities")
    below = logits - highest
    return below - deterministic.log(deterministic.total(deterministic.exp(below)))[..., None]


def log_probabilities_of(logits: np.ndarray, ids: np.ndarray) -> np.ndarray:
    """Return the log-probability of one token for each row, without a table of all.

    Args:
        logits: float (T, V).
        ids: the token after row t, int (T,).

    Returns:
        float64 (T,), with the same bits as `log_probabilities` at these places.

    Raises:
        SamplingError: see `log_probabilities`; or the ids don't fit the logits.
    """
    logits, ids = np.asarray(logits), np.asarray(ids, dtype=np.int64)
    if logits.ndim != 2 or ids.shape != logits.shape[:1]:
        raise SamplingError(f"ids: expected one for each row of logits {logits.shape}, got {ids.shape}")
    if len(ids) and not (ids.min() >= 0 and ids.max() < logits.shape[1]):
        raise SamplingError(f"ids: expected 0 to {logits.shape[1] - 1}, got {ids.min()} to {ids.max()}")
    rows = [log_probabilities(row)[token] for row, token in zip(logits, ids)]  # memory for one row at a time
    return np.array(rows, dtype=np.float64)

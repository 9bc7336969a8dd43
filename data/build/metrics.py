"""What evaluate.py counts, as functions of plain text and arrays, so that tests can check them by hand."""

import re
from collections import Counter
from collections.abc import Sequence

import numpy as np

# words that begin sentences or stand for titles; every other capitalised word is a name
_SENTENCE = re.compile(r"(?<=[.!?])\"?\s+(?=[\"A-Z])")
_NAME = re.compile(r"\b[A-Z][a-z]+\b")


def names_right(expected: str, got: str, names: Sequence[str]) -> tuple[int, int]:
    """Count the names in `expected` that stand letter for letter in `got`; return (right, all)."""
    wanted = Counter(w for w in _NAME.findall(expected) if w in names)
    found = Counter(_NAME.findall(got))
    return sum(min(n, found[name]) for name, n in wanted.items()), wanted.total()


def sentences(text: str) -> list[str]:
    return [s.strip() for s in _SENTENCE.split(text) if s.strip()]


def is_loop(text: str) -> bool:
    """Say whether a whole sentence comes twice (short ones may)."""
    counted = Counter(s for s in sentences(text) if len(s.split()) > 4)
    return any(n > 1 for n in counted.values())


def strangers(text: str, characters: Sequence[str], common: frozenset[str]) -> set[str]:
    """Return the capitalised words that are neither characters nor common words of the corpus."""
    return {w for w in _NAME.findall(text) if w not in characters and w.lower() not in common}


def stays_on_characters(text: str, characters: Sequence[str], common: frozenset[str]) -> bool:
    """Say whether a continuation speaks of the characters, of nobody else, and doesn't loop.

    The last word may be cut off in the middle, so it isn't judged.
    """
    whole = text.rsplit(" ", 1)[0]
    spoken_of = any(name in whole for name in characters)
    return spoken_of and not strangers(whole, characters, common) and not is_loop(text)


def kl_divergence(reference: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Return KL(reference || other) in nats for logits (N, V), shape (N,)."""

    def log_softmax(x: np.ndarray) -> np.ndarray:
        x = x - x.max(-1, keepdims=True)
        return x - np.log(np.exp(x).sum(-1, keepdims=True))

    p, q = log_softmax(reference.astype(np.float64)), log_softmax(other.astype(np.float64))
    return (np.exp(p) * (p - q)).sum(-1)


def copying_attention(attention: np.ndarray, start: int, length: int) -> float:
    """Return the mean weight on the token after the earlier occurrence.

    attention: (T, T) of one head, rows are queries; the sequence of `length` tokens begins at `start`
        and is said again right after.
    """
    queries = np.arange(start + length, start + 2 * length - 1)
    return float(attention[queries, queries - length + 1].mean())

"""Erase a sentence of a tale and ask again: does the answer come from where the model looked?"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from llmlite import resources
from llmlite.lessons.attention import attention
from llmlite.model import Model

MAX_TOKENS = 48
KINDS = ("where", "friend", "why")


@dataclass(frozen=True)
class Question:
    """A question about a tale that the model has never seen.

    Args:
        kind: of the question: where, friend or why. question, answer: texts.
        sentences: the tale. source: index of the one that answers. other: of one that doesn't matter.
    """

    kind: str
    question: str
    answer: str
    sentences: tuple[str, ...]
    source: int
    other: int

    def prompt(self, erased: int | None = None) -> str:
        """Return the prompt: the tale, without one sentence, and the question."""
        tale = " ".join(s for i, s in enumerate(self.sentences) if i != erased)
        return f"{tale}\n\n{self.question}"


def questions() -> list[Question]:
    """Return the bundled questions that have a source sentence, in the file's order.

    Raises:
        LlmliteError: the bundled data is missing.
    """
    text = resources.data_path("tales-questions.jsonl").read_text(encoding="utf-8")
    records = [json.loads(line) for line in text.splitlines()]
    return [
        Question(r["family"], r["question"], r["answer"], tuple(r["sentences"]), r["source"], r["other"])
        for r in records
        if r["family"] in KINDS
    ]


def ask(model: Model, question: Question, erased: int | None = None) -> str:
    """Return the model's likeliest answer to a question about a tale without one sentence."""
    answer = model.chat(question.prompt(erased), max_tokens=MAX_TOKENS, temperature=0)
    return str(answer).strip()


def examples(model: Model, n: int = 3) -> list[Question]:
    """Return the first `n` questions that the model answers right and that show the effect.

    Right with the whole tale; still right without the other sentence; something else without the source.
    The kinds take turns.
    """
    found: list[Question] = []
    by_kind = {kind: iter([q for q in questions() if q.kind == kind]) for kind in KINDS}
    while len(found) < n:
        kind = KINDS[len(found) % len(KINDS)]
        question = next((q for q in by_kind[kind] if _shows(model, q)), None)
        if question is None:  # a model that was never taught this
            break
        found.append(question)
    return found


def _shows(model: Model, question: Question) -> bool:
    return (
        ask(model, question) == question.answer
        and ask(model, question, question.other) == question.answer
        and ask(model, question, question.source) != question.answer
    )


def looked_at(model: Model, question: Question, answer: str, erased: int | None = None) -> np.ndarray:
    """Return how much each sentence was looked at while the answer was written.

    The last layer's attention, mean over its heads and the tokens of the answer, summed over the tokens of
    a sentence. The last layer, because its heads fetch what is written next.

    Returns:
        float64 (number of sentences,), 0 for an erased one; the rest up to 1 went to the question, to the
        answer itself and to the first token.
    """
    message = [{"role": "user", "content": question.prompt(erased)}]
    head = model.chat_template.render(message, add_generation_prompt=True)
    encode = model.tokenizer.encode
    n_prompt, ids = len(encode(head)), encode(head + answer)
    found = attention(model, ids)
    last = found.weights[-1].mean(axis=0)[n_prompt - 1 : len(ids) - 1].mean(axis=0)  # (T,)
    owner = _owners(model, ids, question.sentences, erased)
    return np.array([last[owner == i].sum() for i in range(len(question.sentences))], dtype=np.float64)


def _owners(model: Model, ids: Sequence[int], sentences: Sequence[str], erased: int | None) -> np.ndarray:
    """Return for each token the sentence it belongs to, −1 for none; int64 (T,)."""
    pieces = [model.tokenizer.piece(token) for token in ids]
    ends = np.cumsum([len(piece) for piece in pieces])
    text, owner, at = b"".join(pieces), np.full(len(ids), -1), 0
    for i, sentence in enumerate(sentences):
        if i == erased:
            continue
        start = text.index(sentence.encode(), at)
        at = start + len(sentence.encode())
        owner[(ends > start) & (ends <= at)] = i
    return owner

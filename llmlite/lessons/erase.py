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

    Attributes:
        kind: the kind of question: "where", "friend" or "why".
        question: the text of the question.
        answer: the text of the right answer.
        sentences: the sentences of the tale.
        source: the index of the sentence that contains the answer.
        other: the index of a sentence that doesn't matter for the answer.
    """

    kind: str
    question: str
    answer: str
    sentences: tuple[str, ...]
    source: int
    other: int

    def prompt(self, erased: int | None = None) -> str:
        """Return the prompt: the tale (without the sentence at index `erased`, if given) and the question."""
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
    """Return the model's likeliest answer to a question about a tale.

    Args:
        model: the model that answers.
        question: the question with its tale.
        erased: the index of the sentence that the prompt leaves out; None for the whole tale.
    """
    answer = model.chat(question.prompt(erased), max_tokens=MAX_TOKENS, temperature=0)
    return str(answer).strip()


def examples(model: Model, n: int = 3) -> list[Question]:
    """Return the first `n` questions that the model answers right and that show the effect.

    The model must answer right with the whole tale and without the `other` sentence, but not without the
    `source` sentence. The kinds of questions take turns. There are fewer than `n` questions if the
    next kind in turn has no further question that shows the effect.
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
    """Return how much attention each sentence got while the model wrote the answer.

    This is the attention of the last layer, whose heads fetch what is written next. It is averaged over the
    heads and over the tokens of the answer, then summed over the tokens of each sentence.

    Args:
        model: the model that answered.
        question: the question with its tale.
        answer: the answer that the model wrote.
        erased: the index of the sentence that the prompt leaves out; None for the whole tale.

    Returns:
        float64 (number of sentences,): the shares; 0 for an erased sentence. Their sum is below 1, because
        the question, the answer itself and the first token get attention too.
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
    """Return the index of the sentence that each token belongs to, int64 (T,); −1 if it belongs to none."""
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

"""Exact answers to the bundled questions, by any backend that writes tokens.

The questions are about tales that were made up for the bundled model, so only that model is asked.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from llmlite import gguf, resources, tokenizers
from llmlite.bench.inputs import ModelFile
from llmlite.chat import ChatTemplate
from llmlite.tokenizers import Tokenizer

N_QUESTIONS = 20
SECONDS = 4.0  # for one entry; a slower entry is asked fewer questions
FAMILIES = ("where", "friend", "why")  # answers to arithmetic and lists depend on more than rounding
SPARE = 4  # extra tokens: for the end, and if the right words are cut into more tokens


@dataclass(frozen=True, kw_only=True)
class Question:
    """A prompt, the number of tokens to write after it, and the only right answer.

    Attributes:
        ids: token ids of the prompt.
        n_gen: number of tokens to write.
        answer: the right answer.
    """

    ids: tuple[int, ...]
    n_gen: int
    answer: str


@dataclass(frozen=True, kw_only=True)
class Exam:
    """The questions in a model's own tokens.

    Attributes:
        questions: the questions, in the order asked.
        tokenizer: tokenizer of the model.
    """

    questions: tuple[Question, ...]
    tokenizer: Tokenizer

    def marks(self, ask: Callable[..., dict[str, Any]], seconds: float = SECONDS) -> tuple[int, int]:
        """Ask until time runs out; return the number of exact answers and the number of questions asked.

        Args:
            ask: function that sends a request to a worker and returns its answer.
            seconds: no question is asked after this time.
        """
        right, asked, end = 0, 0, time.monotonic() + seconds
        for question in self.questions:
            written = ask("greedy", ids=list(question.ids), n_gen=question.n_gen)["ids"]
            right += self.text(written) == question.answer
            asked += 1
            if time.monotonic() > end:
                break
        return right, asked

    def text(self, ids: Sequence[int]) -> str:
        """Return the text of an answer; tokens after its end are ignored."""
        ends = self.tokenizer.eog_ids
        length = next((place for place, token in enumerate(ids) if token in ends), len(ids))
        return self.tokenizer.decode(ids[:length]).strip()


def exam(file: ModelFile, n_ctx: int, n: int = N_QUESTIONS) -> Exam:
    """Return the first `n` bundled questions that fit in a context, taken from all families in turn.

    Raises:
        LlmliteError: the installation has no questions, or the file has no chat template.
    """
    lines = resources.data_path("tales-questions.jsonl").read_text(encoding="utf-8").splitlines()
    records = [json.loads(line) for line in lines]
    by_family = [[r for r in records if r["family"] == family] for family in FAMILIES]
    found: list[Question] = []
    with gguf.read(file.path) as opened:
        metadata = dict(opened.metadata)
        tokenizer = tokenizers.from_metadata(opened.metadata)
        template = ChatTemplate(
            str(metadata.get("tokenizer.chat_template", "")),
            bos_token="" if tokenizer.bos_id is None else tokenizer.token(tokenizer.bos_id),
            eos_token="" if tokenizer.eos_id is None else tokenizer.token(tokenizer.eos_id),
        )
        for group in zip(*by_family):
            for record in group:
                text = "\n\n".join([" ".join(record["sentences"]), record["question"]])
                prompt = template.render([{"role": "user", "content": text}])
                ids = tokenizer.encode(prompt, add_special=False)
                n_gen = len(tokenizer.encode(record["answer"], add_special=False)) + SPARE
                if len(ids) + n_gen < n_ctx and len(found) < n:
                    found.append(Question(ids=tuple(map(int, ids)), n_gen=n_gen, answer=record["answer"]))
            if len(found) == n:
                break
    return Exam(questions=tuple(found), tokenizer=tokenizer)

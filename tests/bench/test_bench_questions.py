"""The bundled questions, as a comparison asks them."""

from __future__ import annotations

import llmlite as ll
from llmlite.bench import questions
from llmlite.bench.inputs import open_models


def test_a_perfect_pupil_gets_every_mark_and_a_wrong_word_costs_one() -> None:
    [file] = open_models("tales", ("F16",))
    exam = questions.exam(file, n_ctx=400, n=6)
    answers = {
        q.ids: [*exam.tokenizer.encode(q.answer, add_special=False), exam.tokenizer.eos_id, 7, 7]
        for q in exam.questions
    }
    assert exam.marks(lambda _, ids, n_gen: {"ids": answers[tuple(ids)]}) == (6, 6)
    answers[exam.questions[2].ids] = answers[exam.questions[3].ids]
    assert exam.marks(lambda _, ids, n_gen: {"ids": answers[tuple(ids)]}) == (5, 6)
    assert exam.marks(lambda _, ids, n_gen: {"ids": answers[tuple(ids)]}, seconds=0.0) == (1, 1)


def test_the_bundled_model_answers_exactly_and_a_short_context_is_asked_nothing() -> None:
    [file] = open_models("tales", ("F16",))
    exam = questions.exam(file, n_ctx=400, n=4)
    model = ll.load("tales")

    def ask(_: str, ids: list[int], n_gen: int) -> dict[str, list[int]]:
        stream = model.stream(ids, max_tokens=n_gen, temperature=0)
        list(stream)
        return {"ids": list(stream.ids)}

    assert exam.marks(ask, seconds=60) == (4, 4)
    assert questions.exam(file, n_ctx=32).questions == ()

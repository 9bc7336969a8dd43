"""Attention as the lessons show it: rows are shares, and the model looks where its answer comes from."""

from __future__ import annotations

import numpy as np
import pytest

import llmlite as ll
from llmlite.lessons import erase
from llmlite.lessons.attention import attention


@pytest.fixture(scope="module")
def model() -> ll.Model:
    return ll.load("tales", executor="eager", kv_dtype="f32")


@pytest.fixture(scope="module")
def fast() -> ll.Model:
    return ll.load("tales")


def test_rows_are_shares_of_what_came_before(model: ll.Model) -> None:
    found = attention(model, "Miro, Talan, Besik, Miro, Talan,")
    n = len(found.ids)
    assert found.weights.shape == (model.config.n_layer, model.config.n_head, n, n)
    np.testing.assert_allclose(found.weights.sum(-1), 1, atol=1e-5)
    assert not np.triu(found.weights, 1).any()
    assert "".join(found.texts).replace("␣", " ").endswith("Miro, Talan,")


def test_the_top_keys_are_the_heaviest_and_the_mean_is_over_heads(model: ll.Model) -> None:
    found = attention(model, "Once upon a time")
    top = found.top(0, 1, 2, 2)
    row = found.row(0, 1, 2)
    assert [i for i, _ in top] == list(np.argsort(-row)[:2]) and top[0][1] == pytest.approx(row.max())
    np.testing.assert_allclose(found.row(0, None, 2), found.weights[0, :, 2].mean(0))


def test_examples_change_without_their_source_and_only_then(fast: ll.Model) -> None:
    found = erase.examples(fast, 3)
    assert [q.kind for q in found] == ["where", "friend", "why"]
    for question in found:
        assert erase.ask(fast, question) == question.answer
        assert erase.ask(fast, question, question.source) != question.answer
        assert erase.ask(fast, question, question.other) == question.answer


def test_the_model_looks_most_at_the_sentence_that_answers(fast: ll.Model) -> None:
    some = [q for q in erase.questions() if q.kind == "where"][:8]
    hits = 0
    for question in some:
        shares = erase.looked_at(fast, question, question.answer)
        assert shares.shape == (len(question.sentences),) and 0 < shares.sum() <= 1
        hits += shares.argmax() == question.source
    assert hits >= 6


def test_an_erased_sentence_is_not_in_the_prompt_and_gets_no_attention(fast: ll.Model) -> None:
    question = erase.questions()[0]
    assert question.sentences[question.source] not in question.prompt(question.source)
    assert erase.looked_at(fast, question, "It is here.", question.source)[question.source] == 0


def test_a_head_of_layer_3_looks_behind_the_earlier_occurrence(model: ll.Model) -> None:
    found = attention(model, "Miro, Talan, Besik, Miro, Talan,")
    third = found.texts.index("␣Bes")  # what followed "Talan," the first time
    (place, share), *_ = found.top(3, 3, len(found.ids) - 1, 1)
    assert place == third and share > 0.5


@pytest.mark.parametrize("text", ["The fox was hungry, and the fox was", "Miro, Talan, Besik, Miro, Talan,"])
def test_every_layer_agrees_with_pytorch(model: ll.Model, text: str) -> None:
    """Each operation on the inputs that it had, then the whole against PyTorch's own in float64.

    Scores reach thousands here, so their last bit alone moves an output of 20 by up to 2e-4, PyTorch's in
    float32 as ours: an absolute bound on the whole would hold or not by the order in which a BLAS adds.
    """
    torch = pytest.importorskip("torch")
    trace = model.trace(text)
    shared = model.config.n_head // model.config.n_head_kv
    for layer in range(model.config.n_layer):
        q, k, v = (trace[f"{name}cur-{layer}"] for name in "QKV")  # (T, heads, d)
        heads = [q, k.repeat(shared, axis=1), v.repeat(shared, axis=1)]
        q, k, v = (torch.from_numpy(x).transpose(0, 1).double() for x in heads)  # (heads, T, d)
        scores, weights = (torch.from_numpy(trace[f"{name}-{layer}"]) for name in ("kq", "kq_soft_max"))
        terms = q.abs() @ k.abs().transpose(1, 2)  # what a score's rounding is relative to
        assert ((scores - q @ k.transpose(1, 2)).abs() <= 2e-6 * terms).all()
        seen = scores.masked_fill(torch.ones(len(heads[0]), len(heads[0])).triu(1).bool(), -torch.inf)
        expected = torch.softmax(seen.double() * model.config.attention_scale, dim=-1)
        torch.testing.assert_close(weights.double(), expected, atol=2e-6, rtol=0)
        ours = torch.from_numpy(trace[f"kqv_out-{layer}"].reshape(heads[0].shape)).transpose(0, 1).double()
        torch.testing.assert_close(ours, weights.double() @ v, atol=2e-6 * float(v.abs().max()), rtol=0)
        whole = torch.nn.functional.scaled_dot_product_attention(q[None], k[None], v[None], is_causal=True)[0]
        torch.testing.assert_close(ours, whole, atol=5e-5 * float(whole.abs().max()), rtol=0)

"""The chain taken apart must be the chain that draws; the lens' last reading must be the model's own."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import llmlite as ll
from llmlite.engine.eager_routing import softmax
from llmlite.errors import SamplingError
from llmlite.lessons import choosing
from llmlite.lessons.lens import lens
from llmlite.lessons.tokens import visible
from llmlite.sampling import Greedy, MinP, Sampler, Temperature, TopK, TopP

LOGITS = np.random.default_rng(6).standard_normal(500).astype(np.float32) * 3


@pytest.fixture(scope="module")
def model(tales: Path) -> ll.Model:
    return ll.load(tales, executor="eager", kv_dtype="f32")


@pytest.mark.parametrize(
    "sampler",
    [
        Sampler(),
        Sampler(temperature=0),
        Sampler(top_k=0, top_p=1, min_p=0.1),
        Sampler(chain=[Temperature(t=1.7), TopK(k=12), TopP(p=0.6), MinP(p=0.2)]),
    ],
    ids=str,
)
def test_every_token_is_kept_or_cut_by_exactly_one_step(sampler: Sampler) -> None:
    found = choosing.stages(sampler, LOGITS)
    out = choosing.cut_by(found)
    kept = set(found[-1].ids.tolist())
    assert kept.isdisjoint(out) and len(kept) + len(out) == len(LOGITS)
    assert len(out) == sum(len(stage.cut) for stage in found)
    assert all(sampler(LOGITS) in kept for _ in range(50))


def test_the_stages_are_the_samplers_own_steps() -> None:
    sampler = Sampler(temperature=0.6, top_k=20, top_p=0.8, min_p=0.05)
    for stage, step in zip(choosing.stages(sampler, LOGITS)[1:], sampler.steps(LOGITS), strict=True):
        np.testing.assert_array_equal(stage.ids, step.ids)
        np.testing.assert_array_equal(stage.probabilities, step.probabilities)


def test_the_first_stage_is_the_plain_softmax() -> None:
    first = choosing.stages(Sampler(), LOGITS)[0]
    np.testing.assert_allclose(first.probabilities, np.sort(softmax(LOGITS))[::-1], rtol=1e-5)


def test_probabilities_by_token_are_0_for_those_that_are_cut() -> None:
    sampler = Sampler(top_k=9, top_p=1, temperature=0.7)
    last = sampler.steps(LOGITS)[-1]
    found = choosing.probabilities(sampler, LOGITS)
    np.testing.assert_array_equal(found[last.ids], last.probabilities)
    assert np.count_nonzero(found) == 9 and found.shape == LOGITS.shape


def test_what_a_step_cut_is_weighed_before_the_step() -> None:
    found = choosing.stages(Sampler(chain=[TopK(k=3)]), LOGITS)
    assert found[1].cut_share == pytest.approx(np.sort(softmax(LOGITS))[:-3].sum(), rel=1e-5)


def test_steps_are_named_with_their_setting_and_known_to_be_off() -> None:
    found = choosing.stages(Sampler(top_k=0, top_p=1, min_p=0, temperature=1), LOGITS)
    assert [stage.name for stage in found] == ["all tokens", "top-k 0", "top-p 1", "min-p 0", "temperature 1"]
    assert all(stage.off for stage in found)
    assert choosing.name_of(Greedy()) == "greedy" and not choosing.stages(Sampler(), LOGITS)[1].off


@pytest.mark.parametrize(("n", "bits"), [(1, 0.0), (2, 1.0), (32, 5.0)])
def test_an_even_choice_among_2_to_the_b_has_b_bits(n: int, bits: float) -> None:
    even = np.full(n, 1 / n)
    assert choosing.entropy(even) == pytest.approx(bits)
    assert choosing.even_choice(np.append(even, 0.0)) == pytest.approx(n)


def test_draws_are_the_samplers_own() -> None:
    counts = choosing.draws(Sampler(seed=3), LOGITS, 100)
    sampler = Sampler(seed=3)
    expected = [sampler(LOGITS) for _ in range(100)]
    assert counts == {token: expected.count(token) for token in set(expected)}


def test_logits_without_a_choice_are_refused() -> None:
    with pytest.raises(SamplingError, match="forbidden"):
        choosing.stages(Sampler(), np.full(4, -np.inf, np.float32))


def test_the_lens_last_reading_is_what_the_model_says(model: ll.Model) -> None:
    ids = model.tokenizer.encode("Once upon a time there was")
    found = lens(model, ids)
    assert found.ids == ids
    assert found.stages[-1] == f"layer {model.config.n_layer - 1}", "numbered from 0, as everywhere"
    np.testing.assert_allclose(found.probabilities[-1], softmax(model.logits(ids)), rtol=1e-4, atol=1e-7)


def test_the_lens_reads_probabilities_and_ranks_them(model: ll.Model) -> None:
    found = lens(model, "The fox went to the")
    np.testing.assert_allclose(found.probabilities.sum(-1), 1, rtol=1e-5)
    top = found.top(2, 3)
    assert top[0] == (found.best[2, 3], found.confidence[2, 3])
    assert [p for _, p in top] == sorted((p for _, p in top), reverse=True) and len(top) == 5


def test_with_tied_embeddings_the_lens_reads_the_input_token_at_the_bottom(model: ll.Model) -> None:
    found = lens(model, "Once upon a time there was")
    assert model.weights.output is model.weights.token_embd
    assert found.best[0].tolist() == found.ids


def test_from_the_settled_stage_on_the_choice_stays(model: ll.Model) -> None:
    found = lens(model, "Once upon a time there was")
    for position in range(len(found.ids)):
        stage, final = found.settled(position), found.best[-1, position]
        assert (found.best[stage:, position] == final).all()
        assert stage == 0 or found.best[stage - 1, position] != final


def test_spaces_line_ends_and_single_bytes_can_be_seen(model: ll.Model) -> None:
    tokenizer = model.tokenizer
    assert visible(tokenizer, tokenizer.encode(" there", add_special=False)[0]) == "␣there"
    assert visible(tokenizer, tokenizer.encode("\n", add_special=False)[0]) == "↵"
    pieces = [visible(tokenizer, token) for token in tokenizer.encode("é", add_special=False)]
    assert "".join(pieces) in ("é", "<C3><A9>")

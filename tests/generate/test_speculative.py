"""A draft decides how fast a text is made, never which text."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import llmlite as ll
from llmlite.errors import UnsupportedError
from llmlite.generate import speculation
from llmlite.generate.speculation import PromptLookup, Speculation
from llmlite.model import Model
from tests.support.tiny_models import tiny_model

PROMPT = "Once upon a time there was a fox. The fox was red. Once upon a time there was a"
SAMPLED = {"temperature": 0.9, "top_k": 0, "top_p": 1.0, "repeat_penalty": 1.05}


@pytest.fixture(scope="module")
def model() -> Model:
    return ll.load("tales:Q4_0", executor="planned")


@pytest.fixture(scope="module")
def draft() -> Model:
    return ll.load("tales:Q8_0", executor="planned")


@pytest.fixture(autouse=True)
def never_switched_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(speculation, "TRIAL_STEPS", 10**9)  # what pays depends on the machine's load


@pytest.mark.parametrize(
    "options", [{"temperature": 0}, *({"seed": i, **SAMPLED} for i in range(3))], ids=str
)
@pytest.mark.parametrize("n", [1, 8])
def test_the_text_is_the_same_with_any_draft(
    model: Model, draft: Model, options: dict[str, Any], n: int
) -> None:
    options = {"max_tokens": 60, "logprobs": 1, "stop": ["\n\n\n"], **options}
    want = model.stream(PROMPT, **options)
    list(want)
    for proposer in ("prompt-lookup", draft):
        got = model.stream(PROMPT, draft=proposer, draft_tokens=n, **options)
        assert "".join(got) == want.text
        assert (got.ids, got.stop_reason, got.logprobs) == (want.ids, want.stop_reason, want.logprobs)
        report = got.speculation
        assert report is not None
        assert 0 <= report.accepted <= report.proposed
        assert report.plain_steps + report.tokens >= len(got.ids) - 1
        if proposer is draft:
            assert report.proposed > 0


def test_a_draft_that_agrees_is_accepted(model: Model) -> None:
    twin = ll.load("tales:Q4_0", executor="planned")
    generation = model.stream(PROMPT, draft=twin, temperature=0, max_tokens=40)
    list(generation)
    assert generation.speculation is not None
    assert generation.speculation.accepted_share > 0.95
    assert generation.speculation.speed_up > 0
    assert "proposed tokens accepted" in str(generation.speculation)


def test_a_draft_that_costs_more_than_it_saves_is_switched_off(
    model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(speculation, "TRIAL_STEPS", 2)
    monkeypatch.setattr(Speculation, "speed_up", property(lambda self: 0.5 if self.steps else 0.0))
    want = model.generate(PROMPT, temperature=0, max_tokens=60)
    twin = ll.load("tales:Q8_0", executor="planned")
    generation = model.stream(PROMPT, draft=twin, temperature=0, max_tokens=60)
    assert "".join(generation) == want
    assert generation.speculation is not None
    assert (generation.speculation.steps, generation.speculation.worth_it) == (2, False)
    assert "not worth it here" in str(generation.speculation)


def test_a_text_may_fill_the_context(tmp_path: Path) -> None:
    path = tiny_model(n_ctx=64, seed=3).write(tmp_path / "tiny.gguf", "Q8_0")
    model, twin = (ll.load(path, executor="planned") for _ in range(2))
    want = model.stream([5] * 30, temperature=0, max_tokens=100)
    list(want)
    got = model.stream([5] * 30, temperature=0, max_tokens=100, draft=twin)
    list(got)
    assert (got.ids, got.stop_reason) == (want.ids, want.stop_reason)


def test_prompt_lookup_proposes_what_followed() -> None:
    lookup = PromptLookup()
    assert lookup.propose([1, 2, 3, 9, 9, 1, 2, 3], 2) == [9, 9]
    assert lookup.propose([1, 2, 7, 1, 2, 8, 1, 2], 1) == [8]  # the latest
    assert lookup.propose([5, 1, 2, 7, 6, 1, 2], 3) == [7, 6, 1]
    assert lookup.propose([1, 2, 3], 4) == []
    assert lookup.propose([1], 4) == []
    assert lookup.propose([4, 4, 4], 4) == [4]


def test_what_cannot_draft_is_refused(model: Model, tmp_path: Path) -> None:
    small = ll.load(tiny_model().write(tmp_path / "tiny.gguf"), executor="planned")
    lfm2 = ll.load(tiny_model("lfm2", n_layer=4).write(tmp_path / "lfm2.gguf"), executor="planned")
    for draft, message in ((small, "is different"), ("ngram", "must be"), (model, "its own draft")):
        with pytest.raises(ValueError, match=message):
            model.stream(PROMPT, draft=draft)  # type: ignore[arg-type]
    with pytest.raises(UnsupportedError, match="recurrent"):
        lfm2.stream([5], draft="prompt-lookup")
    with pytest.raises(UnsupportedError, match="eager"):
        ll.load("tales", executor="eager").stream(PROMPT, draft="prompt-lookup")
    with pytest.raises(ValueError, match="draft_tokens"):
        model.stream(PROMPT, draft="prompt-lookup", draft_tokens=0)
    with pytest.raises(ValueError, match="draft: not supported in a batch"):
        model.batch().add(PROMPT, draft="prompt-lookup")

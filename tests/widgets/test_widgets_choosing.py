"""The sampling explorer and the logit lens without a browser: what the controls do to what is shown."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("ipywidgets")
pytest.importorskip("matplotlib")

import llmlite as ll
from llmlite import plots
from llmlite.sampling import Sampler
from llmlite.widgets.choosing import FIRST, N_DRAWS, SamplingExplorer
from llmlite.widgets.lens import N_SHOWN, LogitLens

PROMPT = "Once upon a time there was a"


@pytest.fixture(scope="module")
def model(tales: Path) -> ll.Model:
    return ll.load(tales, executor="eager", kv_dtype="f32")


@pytest.fixture
def explorer(model: ll.Model) -> SamplingExplorer:
    return ll.widgets.sampling_explorer(model, PROMPT)


@pytest.fixture
def lens(model: ll.Model) -> LogitLens:
    return ll.widgets.logit_lens(model, PROMPT)


def test_no_slider_runs_the_model_again(explorer: SamplingExplorer, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[object] = []
    monkeypatch.setattr(type(explorer.model), "_evaluate", lambda *_, **__: calls.append(1))
    before = explorer.logits.copy()
    explorer.temperature.value, explorer.top_k.value = 1.4, 7
    explorer.top_p.value, explorer.min_p.value = 0.5, 0.1
    explorer.order.value, explorer.seed.value = FIRST, 9
    explorer.draw.click()
    assert not calls
    np.testing.assert_array_equal(explorer.logits, before)


def test_another_prompt_runs_it_once(explorer: SamplingExplorer, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[object] = []
    run = type(explorer.model)._evaluate
    monkeypatch.setattr(type(explorer.model), "_evaluate", lambda *a, **k: calls.append(1) or run(*a, **k))
    before = explorer.view.value
    explorer.prompt.value = "The fox went to the"
    assert len(calls) == 1 and explorer.view.value != before


def test_a_prompt_that_cannot_be_read_is_said_and_leaves_the_bars(explorer: SamplingExplorer) -> None:
    before = explorer.view.value
    explorer.prompt.value = "a tale " * 2000
    assert "be read:" in explorer.words.value and explorer.view.value == before


def test_each_slider_cuts_in_its_own_name(explorer: SamplingExplorer) -> None:
    explorer.top_k.value = 5
    assert "cut by top-k 5" in explorer.view.value and len(explorer.stages[-1].ids) == 5
    explorer.top_k.value, explorer.top_p.value = 0, 0.3
    assert "cut by top-p 0.3" in explorer.view.value and "cut by top-k" not in explorer.view.value
    explorer.top_p.value, explorer.min_p.value = 1, 0.4
    assert "cut by min-p 0.4" in explorer.view.value
    explorer.min_p.value, explorer.temperature.value = 0, 0
    assert "cut by greedy" in explorer.view.value and "Only" in explorer.words.value


def test_with_everything_off_nothing_is_cut(explorer: SamplingExplorer) -> None:
    explorer.top_k.value, explorer.top_p.value, explorer.temperature.value = 0, 1, 1
    assert "Nothing is cut" in explorer.words.value and "(off)" in explorer.view.value


def test_temperature_before_or_after_the_cuts_keeps_different_tokens(explorer: SamplingExplorer) -> None:
    explorer.temperature.value, explorer.top_p.value = 2, 0.9
    last = len(explorer.stages[-1].ids)
    explorer.order.value = FIRST
    assert len(explorer.stages[-1].ids) > last


def test_draws_are_those_of_the_sampler_with_this_seed(explorer: SamplingExplorer) -> None:
    explorer.seed.value = 5
    explorer.draw.click()
    sampler = Sampler(seed=5)
    expected = [sampler(explorer.logits) for _ in range(N_DRAWS)]
    assert sum(explorer.counts.values()) == N_DRAWS and explorer.first_draws == expected[:12]
    assert explorer.counts == {token: expected.count(token) for token in set(expected)}
    assert "draws" in explorer.words.value
    explorer.top_k.value = 3
    assert not explorer.counts, "counts of other settings must not stay on show"


def test_the_explorers_static_view_says_who_was_cut(explorer: SamplingExplorer) -> None:
    explorer.top_k.value = 4
    picture = explorer.static_view()
    assert "cut by top-k 4" in picture.alt and picture.y["after the chain"][4] == 0
    assert sum(picture.y["after the chain"]) == pytest.approx(100)
    assert plots.MIME in explorer.static_bundle()


def test_a_click_on_a_cell_shows_its_five_likeliest(lens: LogitLens) -> None:
    before = lens.detail.value
    lens.cells[2, 3].click()
    assert (lens.stage.value, lens.position.value) == (2, 3)
    assert lens.detail.value != before and lens.detail.value.count("<tr>") == 5
    assert "After layer 1" in lens.words.value, "row 0 is the embedding; layers are numbered from 0"
    lens.stage.value = 0
    assert "Straight from the embedding" in lens.words.value


def test_the_top_row_says_what_the_model_says(lens: LogitLens, model: ll.Model) -> None:
    best = model.logits(lens.lens.ids).argmax(-1)
    last = len(lens.lens.stages) - 1
    for position, token in enumerate(best):
        assert lens.cells[last, position].description == lens._text(token)


def test_a_long_text_shows_its_end(lens: LogitLens) -> None:
    lens.text.value = "The fox went to the barn. " * 10
    assert len({position for _, position in lens.cells}) == N_SHOWN
    assert lens.position.value == len(lens.lens.ids) - 1 and lens.position.min == lens.start
    assert len(lens.static_view().x) == N_SHOWN


def test_a_short_text_after_a_long_one_is_read(lens: LogitLens) -> None:
    lens.text.value = "The fox went to the barn. " * 10
    lens.text.value = "The fox"
    assert lens.start == 0 and lens.position.max == len(lens.lens.ids) - 1


def test_a_text_too_long_is_said_not_raised(lens: LogitLens) -> None:
    before = lens.grid.children
    lens.text.value = "a tale " * 2000
    assert "be read:" in lens.words.value and lens.grid.children == before


def test_the_lens_static_view_describes_every_layer(lens: LogitLens) -> None:
    picture = lens.static_view()
    assert all(stage in picture.alt for stage in lens.lens.stages)
    assert list(picture.y) == lens.lens.stages

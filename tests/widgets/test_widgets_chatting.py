"""The chat panel without a browser: what its buttons do, and what is shown of each token."""

from __future__ import annotations

import math
import re
import time
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("ipywidgets")
pytest.importorskip("matplotlib")

import llmlite as ll
from llmlite import plots
from llmlite.errors import ModelError
from llmlite.widgets.chatting import ChatPanel

QUESTION = "Where is the fox?"
OPTIONS: dict[str, Any] = {"max_tokens": 8, "temperature": 0}


@pytest.fixture(scope="module")
def model(tales: Path) -> ll.Model:
    return ll.load(tales, executor="eager")


@pytest.fixture
def panel(model: ll.Model) -> ChatPanel:
    return ll.widgets.chat_panel(model, **OPTIONS)


def test_an_answer_is_that_of_chat_and_every_token_of_it_is_shown(panel: ChatPanel, model: ll.Model) -> None:
    answer = panel.ask(QUESTION)
    assert answer == model.chat(QUESTION, **OPTIONS)
    assert "".join(token.text for token in panel.tokens) == answer
    n = len(panel.tokens)
    assert n > 1 and panel.token.max == n - 1
    assert re.search(rf"{n} tokens, [\d.]+ tokens/s", panel.speed.value)


def test_hovering_and_the_slider_show_the_models_own_probabilities(panel: ChatPanel, model: ll.Model) -> None:
    panel.ask(QUESTION)
    made = model.stream_chat(QUESTION, logprobs=5, **OPTIONS)
    list(made)
    scores = made.logprobs or []
    titles = re.findall(r'<span title="([^"]*)"', panel.transcript.value)
    assert len(titles) == len(scores)
    for place, (title, score) in enumerate(zip(titles, scores)):
        panel.token.value = place
        for token, logprob in score.top:
            assert f"{math.exp(logprob):.1%}" in title
            assert f"{math.exp(logprob):.1%}" in panel.detail.value
            assert panel._name(token) in panel.detail.value.replace("&#x27;", "'").replace("&quot;", '"')
        assert panel.transcript.value.count("outline:") == 1, "the chosen token is marked"


def test_a_token_that_was_drawn_from_below_the_top_is_listed_too(model: ll.Model) -> None:
    panel = ll.widgets.chat_panel(model, n_top=1, max_tokens=12, temperature=0, regex="[a-z ]{200}")
    panel.ask(QUESTION)
    below = [i for i, each in enumerate(panel.tokens) if each.score.id != each.score.top[0][0]]
    assert below
    panel.token.value = below[0]
    assert panel.detail.value.count("<tr>") == 2 and "(written)" in panel.detail.value


def test_send_writes_in_the_background_and_stop_ends_it(model: ll.Model) -> None:
    panel = ll.widgets.chat_panel(model, max_tokens=900, temperature=0, regex="[a-z ]{5000}")
    panel.field.value = "Sing"
    panel.send_button.click()
    assert panel.send_button.disabled and not panel.stop_button.disabled and panel.field.value == ""
    while panel._generation is None or not panel._generation.ids:
        assert panel.running
    panel.stop_button.click()
    assert panel.wait(60)
    assert "interrupted" in panel.words.value and 0 < len(panel.tokens) < 900
    assert not panel.send_button.disabled and panel.stop_button.disabled
    assert panel.conversation.messages[-1]["content"] == panel.turns[-1].text


def test_enter_sends_and_an_empty_message_is_not_sent(panel: ChatPanel) -> None:
    panel.field.value = "   "
    panel.send()
    assert not panel.running and not panel.turns
    panel.field.value = QUESTION
    panel.field._handle_custom_msg({"event": "submit"}, [])
    for _ in range(600):
        if panel.turns and panel.wait(0.1) and panel.turns[-1].text:
            break
        time.sleep(0.05)
    else:
        pytest.fail("no answer came")
    assert panel.turns[0].text == QUESTION


def test_a_second_question_knows_the_first_and_new_forgets_both(panel: ChatPanel, model: ll.Model) -> None:
    first = panel.ask(QUESTION)
    second = panel.ask("And the lamb?")
    talk = [
        {"role": "user", "content": QUESTION}, {"role": "assistant", "content": first},
        {"role": "user", "content": "And the lamb?"},
    ]  # fmt: skip
    assert second == model.chat(talk, **OPTIONS)
    panel.new_button.click()
    assert not panel.turns and not panel.conversation.messages and panel.token.disabled
    assert panel.ask(QUESTION) == first


def test_a_conversation_longer_than_the_context_is_said_and_the_question_comes_back(tales: Path) -> None:
    panel = ll.widgets.chat_panel(ll.load(tales, executor="eager", n_ctx=64), **OPTIONS)
    panel.field.value = "tale " * 200
    panel.send()
    assert panel.wait(60)
    assert "fit the context" in panel.words.value and panel.field.value == "tale " * 200
    assert not panel.turns and not panel.conversation.messages and not panel.send_button.disabled


def test_what_a_model_or_a_user_writes_is_text_not_html(panel: ChatPanel) -> None:
    panel.ask("<script>alert(1)</script>")
    assert "<script>" not in panel.transcript.value and "&lt;script&gt;" in panel.transcript.value
    assert "<script>" not in panel.static_bundle()["text/html"]


def test_without_a_kernel_the_conversation_is_a_table(model: ll.Model) -> None:
    panel = ll.widgets.chat_panel(model, QUESTION, **OPTIONS)
    data = panel.static_bundle()
    assert QUESTION in data["text/html"] and panel.turns[1].text in data["text/plain"]
    assert "<table" in data["text/html"] and plots.MIME in data
    assert ll.widgets.chat_panel(model).static_bundle()["text/plain"].endswith("Nothing has been said yet.")


def test_the_table_grows_with_each_answer(panel: ChatPanel, monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[dict[str, Any]] = []
    monkeypatch.setattr("llmlite.widgets.base.publish_display_data", shown.append)
    monkeypatch.setattr("IPython.display.DisplayHandle.display", lambda _self, data, raw: shown.append(data))
    monkeypatch.setattr("IPython.display.DisplayHandle.update", lambda _self, data, raw: shown.append(data))
    panel._ipython_display_()
    panel.ask(QUESTION)
    assert "application/vnd.jupyter.widget-view+json" in shown[0]
    assert QUESTION not in shown[1]["text/html"] and QUESTION in shown[2]["text/html"]


def test_it_can_be_read_by_a_screen_reader_and_used_by_keyboard(panel: ChatPanel) -> None:
    panel.ask(QUESTION)
    assert 'role="log"' in panel.transcript.value and 'aria-live="polite"' in panel.words.value
    assert panel.field.description and panel.token.description
    for button in (panel.send_button, panel.stop_button, panel.new_button):
        assert button.description and button.tooltip


@pytest.mark.parametrize("options", [{"temperature": -1}, {"nosuch": 1}, {"n_top": 0}, {"n_top": 11}])
def test_a_wrong_option_is_refused_at_once(model: ll.Model, options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(options))):
        ll.widgets.chat_panel(model, **options)


def test_a_model_without_a_form_for_conversations_is_refused(
    model: ll.Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    bare = ll.load(model.gguf.path, executor="eager")
    metadata = {key: value for key, value in bare.metadata.items() if key != "tokenizer.chat_template"}
    monkeypatch.setattr(bare, "metadata", metadata)
    with pytest.raises(ModelError, match="chat_template"):
        ll.widgets.chat_panel(bare)

"""Over HTTP: calls of tools come back as objects, and what holds a text to a form really holds it."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from typing import Any

import pytest

pytest.importorskip("starlette", reason="the extra serve (starlette) is not installed")
pytest.importorskip("uvicorn", reason="the extra serve (uvicorn) is not installed")

from starlette.testclient import TestClient

import llmlite as ll
from llmlite.chat import ChatTemplate
from llmlite.grammar import Grammar
from llmlite.serve import Settings, make_app
from llmlite.serve.engine import Piece
from llmlite.serve.tools import CallReader, Offer
from llmlite.tokenizers import StreamDecoder

SAY = [{"role": "user", "content": "What is the weather?"}]
TOOL = {
    "type": "function",
    "function": {
        "name": "weather",
        "parameters": {
            "type": "object",
            "properties": {"city": {"enum": ["Bern", "Oslo"]}, "n": {"type": "integer", "maximum": 9}},
            "required": ["city"],
            "additionalProperties": False,
        },
    },
}
TIME = {"type": "function", "function": {"name": "time"}}
CALL = '{"name": "weather", "arguments": {"city": "Bern"}}'
CALL_TWO = '{"name": "time", "arguments": {}}'
TEXTS = {
    "hermes": f"I look. <tool_call>\n{CALL}\n</tool_call>\n<tool_call>{CALL_TWO}</tool_call>",
    "llama3": f"{CALL}; {CALL_TWO}".replace("arguments", "parameters"),
    "mistral": f"I look. [TOOL_CALLS] [{CALL}, {CALL_TWO}]",
}
MARKS = {"hermes": "<tool_call>", "llama3": "python_tag", "mistral": "[TOOL_CALLS]"}


@pytest.fixture(scope="module", params=list(TEXTS))
def tooled(request: pytest.FixtureRequest) -> Iterator[tuple[TestClient, str]]:
    """A server whose template knows tools in one of the forms, and that form."""
    model = ll.load("tales:Q8_0", n_ctx=512)
    model.chat_template = ChatTemplate(
        f"{{# {MARKS[request.param]} #}}"
        "{% for tool in tools or [] %}Tool {{ tool.function.name }}. {% endfor %}"
        "{% for message in messages %}{{ message.content }} {% endfor %}"
    )
    with TestClient(make_app(model, Settings(name="tales"))) as client:
        yield client, request.param


@pytest.fixture(scope="module")
def client() -> Iterator[TestClient]:
    model = ll.load("tales:Q8_0", n_ctx=256)
    with TestClient(make_app(model, Settings(name="tales"))) as client:
        yield client


def saying(form: str) -> dict[str, Any]:
    """A request to which the model can only answer with the form's text: a grammar of that text alone."""
    grammar = f"root ::= {json.dumps(TEXTS[form])}"
    return {"messages": SAY, "tools": [TOOL, TIME], "grammar": grammar, "max_tokens": 300}


def chunks(text: str) -> list[Any]:
    return [json.loads(part[6:]) for part in text.split("\n\n") if part and part != "data: [DONE]"]


def called(calls: list[dict[str, Any]]) -> list[tuple[str, Any]]:
    assert all(call["type"] == "function" and call["id"] for call in calls)
    return [(call["function"]["name"], json.loads(call["function"]["arguments"])) for call in calls]


BOTH = [("weather", {"city": "Bern"}), ("time", {})]


def test_calls_come_back_as_objects_whole_and_streamed(tooled: tuple[TestClient, str]) -> None:
    client, form = tooled
    [choice] = client.post("/v1/chat/completions", json=saying(form)).json()["choices"]
    assert called(choice["message"]["tool_calls"]) == BOTH
    assert choice["finish_reason"] == "tool_calls"
    shown = None if form == "llama3" else "I look."
    content = choice["message"]["content"]
    assert (content and content.strip()) == shown
    parts = chunks(client.post("/v1/chat/completions", json={**saying(form), "stream": True}).text)
    deltas = [part["choices"][0]["delta"] for part in parts]
    calls = [call for delta in deltas for call in delta.get("tool_calls", ())]
    assert called(calls) == BOTH and [call["index"] for call in calls] == [0, 1]
    assert "".join(delta.get("content") or "" for delta in deltas) == (content or "")
    assert parts[-1]["choices"][0]["finish_reason"] == "tool_calls"
    one = {**saying(form), "parallel_tool_calls": False}
    [choice] = client.post("/v1/chat/completions", json=one).json()["choices"]
    assert called(choice["message"]["tool_calls"]) == BOTH[:1]


class Words:
    """Be a tokenizer of few tokens; token 1 is a control token that begins calls."""

    texts = ("ok\n", "[TOOL_CALLS]", "[", CALL, "]")

    def __init__(self) -> None:
        self.vocabulary = self

    def is_hidden(self, token: int) -> bool:
        return token == 1

    def token(self, token: int) -> str:
        return self.texts[token]

    def stream(self, *, skip_special: bool) -> StreamDecoder:
        return StreamDecoder(lambda i: b"" if skip_special and self.is_hidden(i) else self.texts[i].encode())


@pytest.mark.parametrize("n_ids", range(1, 6))
@pytest.mark.parametrize("n_held", range(4))
def test_a_mark_keeps_its_place_if_the_text_before_it_is_held_back(n_ids: int, n_held: int) -> None:
    """A stop string may hold back text, so that a piece has text from both sides of a control token."""
    tokenizer: Any = Words()
    text = "".join(t for i, t in enumerate(Words.texts) if i != 1)
    decoded = "".join(t for i, t in enumerate(Words.texts[:n_ids]) if i != 1)
    shown = max(0, len(decoded) - n_held)
    reader = CallReader(Offer([TOOL], "mistral"), tokenizer)
    first = reader.push(Piece(text[:shown], tuple(range(n_ids)), ()))
    second = reader.push(Piece(text[shown:], tuple(range(n_ids, 5)), ()))
    parts = [first, second, reader.end()]
    assert "".join(part[0] for part in parts).strip() == "ok"
    assert called([call for part in parts for call in part[1]]) == BOTH[:1]


@pytest.mark.parametrize("streams", [False, True])
@pytest.mark.parametrize("named", [False, True])
def test_a_forced_call_is_made_and_fits_its_schema(
    tooled: tuple[TestClient, str], named: bool, streams: bool
) -> None:
    client, _ = tooled
    choice: Any = {"type": "function", "function": {"name": "weather"}} if named else "required"
    asked = {"messages": SAY, "tools": [TOOL] if not named else [TIME, TOOL], "tool_choice": choice}
    body = client.post("/v1/chat/completions", json={**asked, "seed": 1, "temperature": 2, "stream": streams})
    assert body.status_code == 200
    if streams:
        deltas = [part["choices"][0]["delta"] for part in chunks(body.text)]
        calls = [call for delta in deltas for call in delta.get("tool_calls", ())]
        assert not "".join(delta.get("content") or "" for delta in deltas)
    else:
        calls = body.json()["choices"][0]["message"]["tool_calls"]
    [(name, arguments)] = called(calls)
    assert name == "weather" and arguments["city"] in ("Bern", "Oslo") and set(arguments) <= {"city", "n"}


def test_a_text_that_only_looks_like_a_call_is_text(tooled: tuple[TestClient, str]) -> None:
    client, form = tooled
    text = {"hermes": "<tool_call>no", "llama3": '{"a": 1} is it', "mistral": "[TOOL_CALLS] no"}[form]
    asked = {**saying(form), "grammar": f"root ::= {json.dumps(text)}"}
    for streams in (False, True):
        answer = client.post("/v1/chat/completions", json={**asked, "stream": streams})
        if streams:
            parts = [part["choices"][0] for part in chunks(answer.text)]
            found = "".join(part["delta"].get("content") or "" for part in parts)
            reason = parts[-1]["finish_reason"]
        else:
            [choice] = answer.json()["choices"]
            found, reason = choice["message"]["content"], choice["finish_reason"]
            assert "tool_calls" not in choice["message"]
        assert (found, reason) == (text, "stop")


def test_ollama_gets_calls_with_objects_as_arguments(tooled: tuple[TestClient, str]) -> None:
    client, form = tooled
    key = "parameters" if form == "llama3" else "arguments"
    schema: dict[str, Any] = {
        "type": "object",
        "properties": {"name": {"const": "weather"}, key: TOOL["function"]["parameters"]},  # type: ignore[index]
        "required": ["name", key],
        "additionalProperties": False,
    }
    asked = {"messages": SAY, "tools": [TOOL], "format": schema, "stream": False}
    message = client.post("/api/chat", json=asked).json()["message"]
    if form != "llama3":  # JSON without the mark of a call is an answer
        assert json.loads(message["content"])["name"] == "weather" and "tool_calls" not in message
    else:
        [call] = message["tool_calls"]
        assert call["function"]["arguments"]["city"] in ("Bern", "Oslo")
        lines = client.post("/api/chat", json={**asked, "stream": True}).text.splitlines()
        streamed = [call for line in lines for call in json.loads(line)["message"].get("tool_calls", ())]
        assert [call["function"]["name"] for call in streamed] == ["weather"]


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"tool_choice": {"type": "function", "function": {"name": "nosuch"}}}, "not among the tools"),
        ({"tool_choice": {"type": "function"}}, "tool_choice"),
        ({"tools": [{"type": "function"}]}, "tools[0]"),
        ({"tools": [{"function": {"name": "f", "parameters": 3}}]}, "parameters"),
        ({"tool_choice": "required", "regex": "a"}, "form of its own"),
    ],
)
def test_bad_tools_are_refused(tooled: tuple[TestClient, str], change: dict[str, Any], word: str) -> None:
    client, _ = tooled
    answer = client.post("/v1/chat/completions", json={"messages": SAY, "tools": [TOOL], **change})
    assert answer.status_code == 400 and word in answer.json()["error"]["message"]


def test_tools_are_refused_if_the_template_knows_none(client: TestClient) -> None:
    answer = client.post("/v1/chat/completions", json={"messages": SAY, "tools": [TOOL]})
    assert answer.status_code == 400 and "doesn't support them" in answer.json()["error"]["message"]


# ---- forms and penalties ---------------------------------------------------------------------------------

HOT = {"temperature": 3.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0, "max_tokens": 120, "prompt": "Once"}


def written(client: TestClient, **change: Any) -> tuple[str, str]:
    answer = client.post("/v1/completions", json={**HOT, **change})
    assert answer.status_code == 200, answer.text
    [choice] = answer.json()["choices"]
    return choice["text"], choice["finish_reason"]


@pytest.mark.parametrize("seed", range(3))
def test_a_schema_a_grammar_and_a_regex_hold_a_hot_sampler(client: TestClient, seed: int) -> None:
    schema = {
        "type": "object",
        "properties": {"who": {"enum": ["fox", "dog"]}, "old": {"type": "boolean"}},
        "required": ["who", "old"],
        "additionalProperties": False,
    }
    form = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema, "strict": True}}
    text, reason = written(client, response_format=form, seed=seed)
    found = json.loads(text)
    assert found["who"] in ("fox", "dog") and isinstance(found["old"], bool) and len(found) == 2
    assert reason == "stop"
    assert written(client, grammar='root ::= ("ab" | "c"){2} "!"', seed=seed)[0] in (
        *("abab!", "abc!", "cab!", "cc!"),
    )
    text, _ = written(client, regex="[0-9]{3}-[xyz]", seed=seed)
    assert len(text) == 5 and text[:3].isdecimal() and text[3] == "-" and text[4] in "xyz"


def test_a_form_is_made_outside_of_the_thread_that_writes_all_texts(
    client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    made_in: list[str] = []
    make = Grammar.from_json_schema

    def noted(schema: Any) -> Grammar:
        made_in.append(threading.current_thread().name)
        return make(schema)

    monkeypatch.setattr(Grammar, "from_json_schema", noted)
    schema = {"enum": ["only", "here"]}
    form = {"type": "json_schema", "json_schema": {"schema": schema}}
    answer = client.post("/v1/completions", json={"prompt": "a", "n": 3, "response_format": form})
    assert {json.loads(choice["text"]) for choice in answer.json()["choices"]} <= {"only", "here"}
    assert len(made_in) == 1 and made_in[0] != "llmlite-engine"


def test_json_object_is_an_object_as_far_as_it_goes(client: TestClient) -> None:
    text, reason = written(client, response_format={"type": "json_object"}, seed=5, temperature=0.2)
    assert text.lstrip().startswith("{")
    if reason == "stop":
        assert isinstance(json.loads(text), dict)


def test_a_malformed_schema_or_grammar_is_refused(client: TestClient) -> None:
    for change in (
        {"grammar": "root ::= ("},
        {"regex": "(a"},
        {"response_format": {"type": "json_schema"}},
        {"response_format": {"type": "json_schema", "json_schema": {"schema": {"type": "nosuch"}}}},
        {"grammar": 'root ::= "a"', "regex": "a"},
    ):
        for streams in (False, True):
            answer = client.post("/v1/completions", json={**HOT, **change, "stream": streams})
            assert answer.status_code == 400, (change, answer.text)


def test_logit_bias_and_penalties_change_the_tokens(client: TestClient) -> None:
    asked = {"temperature": 0, "max_tokens": 40, "logprobs": 0}
    body = client.post("/v1/completions", json={**HOT, **asked}).json()
    first = body["choices"][0]["logprobs"]["tokens"][0]
    tokenizer = client.app.state.service.model.tokenizer  # type: ignore[attr-defined]
    [token] = [i for i in range(tokenizer.n_vocab) if tokenizer.piece(i) == first.encode()][:1]
    banned = client.post("/v1/completions", json={**HOT, **asked, "logit_bias": {str(token): -100}}).json()
    assert first not in banned["choices"][0]["logprobs"]["tokens"]
    forced = client.post("/v1/completions", json={**HOT, **asked, "logit_bias": {str(token): 100}}).json()
    assert set(forced["choices"][0]["logprobs"]["tokens"]) == {first}
    plain = body["choices"][0]["logprobs"]["tokens"]
    for penalty in ({"presence_penalty": 2.0, "frequency_penalty": 2.0}, {"repetition_penalty": 5.0}):
        found = client.post("/v1/completions", json={**HOT, **asked, **penalty}).json()
        tokens = found["choices"][0]["logprobs"]["tokens"]
        assert len(set(tokens)) > len(set(plain))

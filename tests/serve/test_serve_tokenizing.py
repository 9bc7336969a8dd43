"""The tokenizer over HTTP gives what the model's own tokenizer gives."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

pytest.importorskip("starlette", reason="the extra serve (starlette) is not installed")
pytest.importorskip("uvicorn", reason="the extra serve (uvicorn) is not installed")

from starlette.testclient import TestClient

import llmlite as ll
from llmlite.serve import Settings, make_app

SAY = [{"role": "user", "content": "Tell a tale."}]
TEXT = "Once upon a time there lived a café-owner named Ütz 🦊."


@pytest.fixture(scope="module")
def model() -> Any:
    return ll.load("tales:Q8_0", n_ctx=64)


@pytest.fixture(scope="module")
def client(model: Any) -> Iterator[TestClient]:
    with TestClient(make_app(model, Settings(name="tales"))) as client:
        yield client


@pytest.mark.parametrize("special", [None, True, False])
def test_tokenize_is_the_models_own(client: TestClient, model: Any, special: bool | None) -> None:
    body = client.post("/tokenize", json={"prompt": TEXT, "add_special_tokens": special}).json()
    expected = model.tokenizer.encode(TEXT, add_special=special is not False, add_eos=False)
    assert body == {"count": len(expected), "max_model_len": 64, "tokens": expected}


def test_the_ids_are_those_that_a_completion_reads(client: TestClient) -> None:
    count = client.post("/tokenize", json={"model": "tales", "prompt": "The fox"}).json()["count"]
    usage = client.post("/v1/completions", json={"prompt": "The fox", "max_tokens": 1}).json()["usage"]
    assert count == usage["prompt_tokens"]


def test_a_conversation_is_counted_as_the_chat_reads_it(client: TestClient, model: Any) -> None:
    body = client.post("/tokenize", json={"messages": SAY, "return_token_strs": True}).json()
    usage = client.post("/v1/chat/completions", json={"messages": SAY, "max_tokens": 1}).json()["usage"]
    assert body["count"] == usage["prompt_tokens"] == len(body["tokens"])
    assert body["token_strs"] == [model.tokenizer.token(token) for token in body["tokens"]]
    without = client.post("/tokenize", json={"messages": SAY, "add_generation_prompt": False}).json()[
        "tokens"
    ]
    assert without == body["tokens"][: len(without)] and len(without) < body["count"]


def test_a_control_token_in_a_message_stays_text(client: TestClient, model: Any) -> None:
    end = model.tokenizer.token(model.tokenizer.eos_id)
    messages = [{"role": "user", "content": f"a{end}b"}]
    found = client.post("/tokenize", json={"messages": messages, "add_generation_prompt": False}).json()
    plain = client.post("/tokenize", json={"messages": SAY, "add_generation_prompt": False}).json()
    ends = [body["tokens"].count(model.tokenizer.eos_id) for body in (found, plain)]
    assert ends[0] == ends[1]


def test_a_token_that_is_not_utf_8_is_answered_too(
    client: TestClient, model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model.tokenizer, "token", lambda _: "a\udcff")  # as read from a file
    answer = client.post("/tokenize", json={"prompt": "x", "return_token_strs": True})
    assert answer.status_code == 200 and set(answer.json()["token_strs"]) == {"a?"}
    assert client.get("/tokenizer_info").json()["eos_token"] == "a?"


def test_texts_longer_than_the_context_are_counted_too(client: TestClient) -> None:
    assert client.post("/tokenize", json={"prompt": TEXT * 50}).json()["count"] > 64
    messages = [{"role": "user", "content": TEXT * 50}]
    assert client.post("/tokenize", json={"messages": messages}).json()["count"] > 64


def test_detokenize_gives_the_text_back_with_control_tokens_by_name(client: TestClient, model: Any) -> None:
    ids = model.tokenizer.encode(TEXT, add_special=False)
    assert client.post("/detokenize", json={"tokens": ids}).json() == {"prompt": TEXT}
    eos = model.tokenizer.eos_id
    ended = client.post("/detokenize", json={"tokens": [*ids, eos]}).json()["prompt"]
    assert ended == TEXT + model.tokenizer.token(eos)
    assert client.post("/detokenize", json={"tokens": []}).json() == {"prompt": ""}


def test_the_info_names_tokens_that_tokenize_reads_as_themselves(client: TestClient, model: Any) -> None:
    info = client.get("/tokenizer_info").json()
    for name, token in (("bos_token", model.tokenizer.bos_id), ("eos_token", model.tokenizer.eos_id)):
        asked = {"prompt": info[name], "add_special_tokens": False}
        assert client.post("/tokenize", json=asked).json()["tokens"] == [token]
    assert info["chat_template"] == model.chat_template.source
    assert info["model_max_length"] == 64


@pytest.mark.parametrize(
    ("path", "body", "named"),
    [
        ("/tokenize", {}, "prompt"),
        ("/tokenize", {"prompt": "a", "messages": SAY}, "prompt"),
        ("/tokenize", {"prompt": "a", "tools": []}, "tools"),
        ("/tokenize", {"messages": SAY, "add_special_tokens": True}, "add_special_tokens"),
        ("/tokenize", {"messages": SAY, "chat_template_kwargs": {"messages": []}}, "messages"),
        ("/tokenize", {"prompt": 5}, "prompt"),
        ("/detokenize", {"tokens": [-1]}, "-1"),
        ("/detokenize", {"tokens": [10**9]}, "1000000000"),
        ("/detokenize", {"tokens": [10**40]}, "vocabulary"),
        ("/detokenize", {}, "tokens"),
    ],
)
def test_what_makes_no_sense_is_refused_by_name(
    client: TestClient, path: str, body: dict[str, Any], named: str
) -> None:
    answer = client.post(path, json=body)
    assert answer.status_code == 400
    assert named in answer.json()["error"]["message"]


def test_another_model_is_refused_and_a_key_is_asked_for(client: TestClient, model: Any) -> None:
    assert client.post("/tokenize", json={"prompt": "a", "model": "gpt"}).status_code == 404
    with TestClient(make_app(model, Settings(name="tales", api_key="secret"))) as locked:
        assert locked.get("/tokenizer_info").status_code == 401
        assert locked.post("/tokenize", json={"prompt": "a"}).status_code == 401

"""The server by its protocol: forms, refusals, limits, and that answers are those of the model alone."""

from __future__ import annotations

import base64
import json
import time
import tracemalloc
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

pytest.importorskip("starlette", reason="the extra serve (starlette) is not installed")
pytest.importorskip("uvicorn", reason="the extra serve (uvicorn) is not installed")

from starlette.testclient import TestClient

import llmlite as ll
from llmlite.chat import ChatTemplate
from llmlite.serve import Settings, make_app, openai, schemas
from llmlite.serve.faults import Fault

GREEDY = {"model": "tales", "temperature": 0, "max_tokens": 12}
SAY = [{"role": "user", "content": "Tell a tale."}]


@pytest.fixture(scope="module")
def model() -> Any:
    return ll.load("tales:Q8_0", n_ctx=256)


@pytest.fixture(scope="module")
def client(model: Any) -> Iterator[TestClient]:
    settings = Settings(name="tales", pooling="last", sagemaker=True, max_body_bytes=100_000)
    with TestClient(make_app(model, settings)) as client:
        yield client


def events(text: str) -> list[Any]:
    parts = [part.removeprefix("data: ") for part in text.split("\n\n") if part]
    return [part if part == "[DONE]" else json.loads(part) for part in parts]


def test_a_completion_is_the_text_that_the_model_writes_alone(client: TestClient, model: Any) -> None:
    expected = ll.load("tales:Q8_0", n_ctx=256).generate("Once upon a time", max_tokens=12, temperature=0)
    body = client.post("/v1/completions", json={**GREEDY, "prompt": "Once upon a time"}).json()
    assert body["choices"][0]["text"] == expected
    assert body["choices"][0]["finish_reason"] == "length"
    assert body["usage"]["completion_tokens"] == 12
    ids = model.tokenizer.encode("Once upon a time", add_eos=False)
    same = client.post("/v1/completions", json={**GREEDY, "prompt": [ids, ids], "n": 2}).json()
    assert [choice["text"] for choice in same["choices"]] == [expected] * 4
    assert same["usage"] == {**body["usage"], **same["usage"], "prompt_tokens": 2 * len(ids)}


def test_streamed_pieces_join_to_the_whole_and_usage_comes_last(client: TestClient) -> None:
    asked = {**GREEDY, "messages": SAY}
    whole = client.post("/v1/chat/completions", json=asked).json()
    options = {"stream": True, "stream_options": {"include_usage": True}}
    answer = client.post("/v1/chat/completions", json={**asked, **options})
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert "content-length" not in answer.headers
    *chunks, last, done = events(answer.text)
    assert done == "[DONE]"
    assert last["choices"] == []
    assert last["usage"]["completion_tokens"] == whole["usage"]["completion_tokens"]
    text = "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks)
    assert text == whole["choices"][0]["message"]["content"]
    assert chunks[-1]["choices"][0]["finish_reason"] == whole["choices"][0]["finish_reason"]


def test_log_probabilities_of_the_prompt_are_the_models(client: TestClient, model: Any) -> None:
    ids = model.tokenizer.encode("Once upon a time", add_eos=False)
    asked = {"model": "tales", "prompt": ids, "max_tokens": 0, "echo": True, "logprobs": 1}
    [choice] = client.post("/v1/completions", json=asked).json()["choices"]
    rows = ll.load("tales:Q8_0", n_ctx=256).logits(ids).astype(np.float64)
    scores = (
        rows
        - np.log(np.exp(rows - rows.max(1, keepdims=True)).sum(1, keepdims=True))
        - rows.max(1, keepdims=True)
    )
    expected = [scores[t, ids[t + 1]] for t in range(len(ids) - 1)]
    found = choice["logprobs"]["token_logprobs"]
    assert found[0] is None
    np.testing.assert_allclose(found[1:], expected, atol=1e-9)
    assert choice["logprobs"]["text_offset"][0] == 0


def scored(client: TestClient, ids: list[int], **options: Any) -> dict[str, Any]:
    asked = {"prompt": ids, "echo": True, "logprobs": 1, "temperature": 0, **options}
    return client.post("/v1/completions", json=asked).json()


def test_a_scored_prompt_loses_no_entry_if_the_model_ends_its_text_at_once(client: TestClient) -> None:
    model = ll.load("tales:Q8_0", n_ctx=256)
    whole = model.stream(model.chat_prompt(SAY), temperature=0, max_tokens=200)
    list(whole)
    assert whole.stop_reason == "eos"
    ids = [*whole._prompt_ids, *whole.ids]
    [none], [one], [two] = (scored(client, ids, max_tokens=n)["choices"] for n in (0, 1, 2))
    assert none["logprobs"]["token_logprobs"] == one["logprobs"]["token_logprobs"][:-1]
    assert one["logprobs"] == two["logprobs"]
    assert {len(each) for each in one["logprobs"].values()} == {len(ids) + 1}
    rows = model.logits(ids)[-1].astype(np.float64)
    end = int(rows.argmax())
    assert end in model.tokenizer.eog_ids
    assert one["logprobs"]["tokens"][-1] == model.tokenizer.token(end)
    expected = rows[end] - rows.max() - np.log(np.exp(rows - rows.max()).sum())
    assert one["logprobs"]["token_logprobs"][-1] == pytest.approx(expected, abs=1e-9)
    assert one["text"] == none["text"]
    assert (none["finish_reason"], one["finish_reason"]) == ("length", "stop")


def test_a_streamed_end_token_has_its_score_in_the_last_piece(client: TestClient, model: Any) -> None:
    eos = model.tokenizer.eos_id
    asked = {"prompt": "The fox", "logprobs": 0, "logit_bias": {str(eos): 100}, "stream": True}
    [last, done] = events(client.post("/v1/completions", json=asked).text)
    [choice] = last["choices"]
    assert done == "[DONE]" and choice["finish_reason"] == "stop"
    assert choice["logprobs"]["tokens"] == [model.tokenizer.token(eos)]
    assert choice["logprobs"]["token_logprobs"][0] < 0


def test_offsets_of_tokens_are_their_places_in_the_text_whole_and_streamed(client: TestClient) -> None:
    asked = {**GREEDY, "prompt": "Once upon a time", "logprobs": 1}
    for echo in (False, True):  # an echo begins with a control token, which the text doesn't show
        [choice] = client.post("/v1/completions", json={**asked, "echo": echo}).json()["choices"]
        scores = choice["logprobs"]
        shown = list(zip(scores["tokens"], scores["text_offset"]))[echo:]
        assert len(shown) > 10 and all(choice["text"].startswith(token, at) for token, at in shown)
    *chunks, _ = events(client.post("/v1/completions", json={**asked, "stream": True}).text)
    found = [chunk["choices"][0]["logprobs"] for chunk in chunks]
    streamed = [at for each in found if each for at in each["text_offset"]]
    [whole] = client.post("/v1/completions", json=asked).json()["choices"]
    assert streamed == whole["logprobs"]["text_offset"]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("end", [False, True])
def test_an_echo_of_no_tokens_is_the_prompt_alone(
    client: TestClient, model: Any, stream: bool, end: bool
) -> None:
    bias = {str(model.tokenizer.eos_id): 100 if end else -100}
    asked = {"prompt": "The fox", "max_tokens": 0, "echo": True, "logit_bias": bias}
    if stream:
        asked |= {"stream": True, "stream_options": {"include_usage": True}}
        *chunks, last, _ = events(client.post("/v1/completions", json=asked).text)
        text = "".join(chunk["choices"][0]["text"] for chunk in chunks)
        reason, usage = chunks[-1]["choices"][0]["finish_reason"], last["usage"]
    else:
        body = client.post("/v1/completions", json=asked).json()
        [choice], usage = body["choices"], body["usage"]
        text, reason = choice["text"], choice["finish_reason"]
    assert text == "The fox" and reason == "length"
    assert usage["completion_tokens"] == 0


def test_the_same_seed_gives_the_same_texts_and_n_gives_others(client: TestClient) -> None:
    asked = {"messages": SAY, "max_tokens": 16, "seed": 3, "n": 3, "temperature": 1.5}
    first, second = (client.post("/v1/chat/completions", json=asked).json()["choices"] for _ in range(2))
    assert first == second
    assert len({choice["message"]["content"] for choice in first}) > 1


def test_embeddings_are_the_models_in_both_encodings(client: TestClient, model: Any) -> None:
    expected = model.embed(["A fox ran.", "A dog slept."], pooling="last")
    asked: dict[str, Any] = {"model": "tales", "input": ["A fox ran.", "A dog slept."]}
    plain = client.post("/v1/embeddings", json=asked).json()
    np.testing.assert_allclose([row["embedding"] for row in plain["data"]], expected, rtol=1e-6)
    packed = client.post("/v1/embeddings", json={**asked, "encoding_format": "base64"}).json()
    raw = np.frombuffer(base64.b64decode(packed["data"][1]["embedding"]), "<f4")
    np.testing.assert_array_equal(raw, expected[1])


def test_embeddings_keep_the_end_token_that_the_file_asks_for(
    client: TestClient, model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    [without] = model.embed(["A fox ran."], pooling="last")
    monkeypatch.setattr(model.tokenizer, "add_eos", True)
    [expected] = model.embed(["A fox ran."], pooling="last")
    assert not np.allclose(without, expected)
    found = client.post("/v1/embeddings", json={"input": "A fox ran."}).json()
    np.testing.assert_allclose(found["data"][0]["embedding"], expected, rtol=1e-6)
    texts = client.post("/v1/completions", json={"prompt": "A fox ran.", "max_tokens": 1}).json()
    assert texts["usage"]["prompt_tokens"] == found["usage"]["prompt_tokens"] - 1


@pytest.mark.parametrize(
    ("change", "status", "word"),
    [
        ({"model": "gpt-9"}, 404, "model_not_found"),
        ({"nosuch": 1}, 400, "nosuch"),
        ({"max_tokens": "5"}, 400, "max_tokens"),
        ({"temperature": -1}, 400, "temperature"),
        ({"stop": ""}, 400, "stop"),
        ({"messages": []}, 400, "messages"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, 400, "text only"),
        ({"messages": [{"role": "user", "content": "word " * 2000}]}, 400, "context_length_exceeded"),
        ({"tool_choice": "required", "tools": []}, 400, "tool_choice"),
        ({"n": 1000}, 400, "one request may ask for"),
        ({"messages": [{"role": "user", "content": "x" * 200_000}]}, 413, "bytes"),
    ],
)
def test_a_bad_request_is_refused_in_openais_form(
    client: TestClient, change: dict[str, Any], status: int, word: str
) -> None:
    answer = client.post("/v1/chat/completions", json={**GREEDY, "messages": SAY, **change})
    assert answer.status_code == status
    assert word in json.dumps(answer.json()["error"])
    assert set(answer.json()["error"]) == {"message", "type", "param", "code"}


@pytest.mark.parametrize(
    ("path", "field", "wrong"),
    [
        ("/v1/completions", "prompt", [-1]),
        ("/v1/completions", "prompt", []),
        ("/v1/completions", "prompt", "word " * 2000),
        ("/v1/embeddings", "input", [10**9]),
        ("/v1/embeddings", "input", []),
    ],
)
def test_a_refusal_names_the_field_that_the_client_sent(
    client: TestClient, path: str, field: str, wrong: Any
) -> None:
    answer = client.post(path, json={"model": "tales", field: wrong})
    assert answer.status_code == 400 and answer.json()["error"]["param"] == field


@pytest.mark.parametrize(
    "asked", [{"reasoning_effort": "very high"}, {"chat_template_kwargs": {"reasoning_effort": "very high"}}]
)
def test_the_template_is_told_the_effort(
    client: TestClient, model: Any, monkeypatch: pytest.MonkeyPatch, asked: dict[str, Any]
) -> None:
    monkeypatch.setattr(
        model, "chat_template", ChatTemplate("{{ reasoning_effort }} {{ messages[0].content }}")
    )
    body = {**GREEDY, "messages": [{"role": "user", "content": "A fox"}], "max_tokens": 1, **asked}
    usage = client.post("/v1/chat/completions", json=body).json()["usage"]
    assert usage["prompt_tokens"] == len(model.tokenize("very high A fox"))


@pytest.mark.parametrize(
    ("path", "asked"),
    [
        ("/v1/chat/completions", {"messages": SAY, "n": 10**12}),
        ("/v1/completions", {"prompt": "The fox", "n": 10**12}),
        ("/v1/completions", {"prompt": ["The fox"] * 65}),
    ],
)
def test_too_many_texts_are_refused_before_anything_is_made_for_each(
    client: TestClient, monkeypatch: pytest.MonkeyPatch, path: str, asked: dict[str, Any]
) -> None:
    def seeded(shared: dict[str, Any], n: int) -> Any:
        raise AssertionError(f"made options for {n} texts, which may exhaust the memory")

    monkeypatch.setattr(openai, "seeded", seeded)
    answer = client.post(path, json=asked)
    assert answer.status_code == 400 and "one request may ask for 64" in answer.json()["error"]["message"]


@pytest.mark.parametrize("path", ["/v1/completions", "/v1/embeddings", "/api/embed"])
def test_too_many_inputs_are_refused_before_they_are_encoded(
    client: TestClient, model: Any, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    def encode(*_: Any, **__: Any) -> Any:
        raise AssertionError("encoded a text of a request that holds too many")

    monkeypatch.setattr(model.tokenizer, "encode", encode)
    field = "prompt" if path == "/v1/completions" else "input"
    answer = client.post(path, json={field: ["a"] * 2049})
    assert answer.status_code == 400 and "2049 texts: one request may hold 2048" in answer.text


@pytest.mark.parametrize(
    ("kind", "field", "item"),
    [
        ("CompletionRequest", "prompt", "{}"),
        ("CompletionRequest", "prompt", "[{}]"),
        ("CompletionRequest", "prompt", "1.5"),
        ("EmbeddingRequest", "input", "{}"),
        ("ChatRequest", "messages", "1"),
        ("ChatRequest", "tools", "1"),
        ("ChatRequest", "modalities", "1"),
        ("ChatRequest", "stop", "1"),
        ("OllamaGenerate", "images", "1"),
        ("OllamaGenerate", "context", "{}"),
        ("OllamaEmbed", "input", "1"),
        ("DetokenizeRequest", "tokens", "{}"),
    ],
)
def test_many_wrong_items_of_a_list_take_no_memory_each(kind: str, field: str, item: str) -> None:
    more = '"messages": [{}], ' if kind == "ChatRequest" and field != "messages" else ""
    body = f'{{{more}"{field}": [{",".join([item] * 5000)}]}}'.encode()
    tracemalloc.start()
    try:
        with pytest.raises(Fault) as caught:
            schemas.read(getattr(schemas, kind), body)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert caught.value.param is not None and caught.value.param.startswith(field)
    assert peak < 60 * len(body)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ('"x{}": 1', "x0"),
        ('"x{}": {{"y": 1}}', "x0"),
        ('"stream_options": {{}}, "x{}": 1', "x0"),
    ],
)
def test_many_unknown_fields_take_no_memory_each(fields: str, param: str) -> None:
    body = f'{{"prompt": "a", {", ".join(fields.format(i) for i in range(5000))}}}'.encode()
    tracemalloc.start()
    try:
        with pytest.raises(Fault, match="x0: this server has no such field") as caught:
            schemas.read(schemas.CompletionRequest, body)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert (caught.value.param, caught.value.code) == (param, "unknown_field")
    assert peak < 60 * len(body)


def test_an_unknown_field_inside_another_is_named_with_its_place(client: TestClient) -> None:
    asked = {"prompt": "a", "stream_options": {"include_usage": True, "nosuch": 1}}
    answer = client.post("/v1/completions", json=asked)
    assert answer.status_code == 400 and answer.json()["error"]["param"] == "stream_options.nosuch"
    answer = client.post("/api/generate", json={"prompt": "a", "options": {"mirostat": 2}})
    assert answer.status_code == 400 and "options.mirostat: this server has no such" in answer.json()["error"]


@pytest.mark.parametrize("bias", ["5", True, None, 101, -101, [1]])
def test_a_bias_that_is_no_number_in_range_is_refused(client: TestClient, bias: Any) -> None:
    answer = client.post("/v1/completions", json={"prompt": "a", "logit_bias": {"5": 1, "6": bias}})
    assert answer.status_code == 400 and answer.json()["error"]["param"] == "logit_bias"


def test_what_is_no_json_is_refused(client: TestClient) -> None:
    for body in (b"", b"{", b"[" * 50_000, b"\xff", b"null"):
        assert client.post("/v1/chat/completions", content=body).status_code == 400
        assert client.post("/v2/models/tales/infer", content=body).status_code == 400


def test_ollamas_lines_join_to_its_whole_answer(client: TestClient) -> None:
    asked = {"model": "tales:latest", "messages": SAY, "options": {"temperature": 0, "num_predict": 8}}
    whole = client.post("/api/chat", json={**asked, "stream": False}).json()
    lines = [json.loads(line) for line in client.post("/api/chat", json=asked).text.splitlines()]
    assert "".join(line["message"]["content"] for line in lines) == whole["message"]["content"]
    assert lines[-1]["done"] and lines[-1]["eval_count"] == whole["eval_count"] == 8
    made = client.post(
        "/api/generate", json={"prompt": "Hello", "stream": False, "options": {"num_predict": 3}}
    )
    assert made.json()["done_reason"] == "length"
    assert client.get("/api/tags").json()["models"][0]["name"] == "tales"
    assert client.post("/api/show", json={"model": "tales"}).json()["details"]["quantization_level"] == "Q8_0"
    assert len(client.post("/api/embed", json={"input": ["a", "b"]}).json()["embeddings"]) == 2
    assert client.post("/api/pull", json={}).status_code == 501


def test_ollamas_repeat_last_n_has_an_effect(client: TestClient) -> None:
    def text(**options: Any) -> str:
        body = {"prompt": "The fox and the fox", "raw": True, "stream": False}
        body["options"] = {"temperature": 0, "num_predict": 12, **options}
        return client.post("/api/generate", json=body).json()["response"]

    assert text(repeat_penalty=5.0) != text()
    assert text(repeat_penalty=5.0, repeat_last_n=0) == text()


def test_ollamas_context_is_continued_without_a_second_beginning(client: TestClient, model: Any) -> None:
    def ask(prompt: str, **more: Any) -> dict[str, Any]:
        body = {"prompt": prompt, "raw": True, "stream": False, **more}
        body["options"] = {"temperature": 0, "num_predict": 4}
        return client.post("/api/generate", json=body).json()

    before = ask("The fox")["context"]
    after = ask(" and the", context=before)
    plain = model.tokenizer.encode(" and the", add_special=False)
    assert after["prompt_eval_count"] == len(before) + len(plain)
    assert after["context"][: after["prompt_eval_count"]] == [*before, *plain]


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"outputs": [{"name": "text_output", "parameters": "binary"}]}, "expected {"),
        ({"inputs": [{"name": "input_ids", "datatype": "INT32", "data": [[1, 2], [3]]}]}, "one prompt"),
    ],
)
def test_a_malformed_request_of_kserve_is_refused_not_failed(
    client: TestClient, change: dict[str, Any], word: str
) -> None:
    tensor = {"name": "text_input", "datatype": "BYTES", "shape": [1], "data": ["The fox"]}
    answer = client.post("/v2/models/tales/infer", json={"inputs": [tensor], **change})
    assert answer.status_code == 400 and word in answer.json()["error"]


@pytest.mark.parametrize("shape", [[2], [0], [10**12], [-1], [1.0], "1", [[1]]])
def test_a_tensor_whose_shape_is_not_that_of_its_data_is_refused(client: TestClient, shape: Any) -> None:
    tensor = {"name": "text_input", "datatype": "BYTES", "shape": shape, "data": ["The fox"]}
    answer = client.post("/v2/models/tales/infer", json={"inputs": [tensor]})
    assert answer.status_code == 400 and "text_input: shape: expected" in answer.json()["error"]


def test_a_length_of_a_head_that_is_no_number_is_refused(client: TestClient) -> None:
    for length in (b"-1", b"1.5", b"\xb2", b"9" * 400):
        headers = {"inference-header-content-length": length}
        answer = client.post("/v2/models/tales/infer", content=b'{"inputs": []}', headers=headers)
        assert answer.status_code == 400 and "expected at most" in answer.json()["error"]


def test_kserve_infers_and_generates_the_same_text(client: TestClient) -> None:
    expected = client.post("/v1/completions", json={**GREEDY, "prompt": "The fox"}).json()["choices"][0][
        "text"
    ]
    values = {"temperature": 0, "max_tokens": 12}
    tensor = {"name": "text_input", "datatype": "BYTES", "shape": [1], "data": ["The fox"]}
    found = client.post("/v2/models/tales/infer", json={"inputs": [tensor], "parameters": values}).json()
    assert found["outputs"][0]["data"] == [expected]
    asked = {"text_input": "The fox", "parameters": values}
    assert client.post("/v2/models/tales/generate", json=asked).json()["text_output"] == expected
    streamed = events(client.post("/v2/models/tales/generate_stream", json=asked).text)
    assert "".join(each["text_output"] for each in streamed) == expected


def test_sagemakers_contract_is_answered(client: TestClient) -> None:
    assert client.get("/ping").status_code == 200
    body = {"prompt": "The fox", "max_tokens": 3}
    assert client.post("/invocations", json=body).json()["object"] == "text_completion"
    assert client.post("/invocations", json={}).status_code == 400


def test_a_key_is_asked_for_and_other_sites_and_hosts_are_refused(model: Any) -> None:
    with TestClient(make_app(model, Settings(name="tales", api_key="s3cret", is_local=True))) as client:
        assert client.get("/health").status_code == 200
        assert client.get("/v1/models").status_code == 401
        own = {"authorization": "Bearer s3cret"}
        assert client.get("/v1/models", headers=own).status_code == 200
        assert client.get("/v1/models", headers={"authorization": "Bearer s3cre"}).status_code == 401
        assert client.get("/v1/models", headers={**own, "origin": "http://evil.example"}).status_code == 403
        assert client.get("/v1/models", headers={**own, "host": "evil.example"}).status_code == 403
        assert client.get("/v1/models", headers={**own, "host": "["}).status_code == 403
        assert client.get("/v1/models", headers={**own, "origin": "http://["}).status_code == 403


def test_the_oldest_turns_are_dropped_if_asked_and_the_answer_says_so(model: Any) -> None:
    turn = [{"role": "user", "content": "word " * 30}, {"role": "assistant", "content": "yes " * 30}]
    long = [{"role": "system", "content": "Be kind."}, *turn * 8, *SAY]
    settings = Settings(name="tales", context_overflow="drop-oldest")
    with TestClient(make_app(model, settings)) as client:
        answer = client.post("/v1/chat/completions", json={**GREEDY, "messages": long})
        assert answer.status_code == 200
        dropped = int(answer.headers["x-llmlite-dropped-messages"])
        assert 0 < dropped < len(long) and dropped % 2 == 0
        assert str(dropped) in answer.json()["warnings"][0]
        last = [{"role": "user", "content": "word " * 2000}]
        assert client.post("/v1/chat/completions", json={"messages": last}).status_code == 400


def test_a_full_queue_answers_429_and_a_cancelled_job_frees_its_place(model: Any) -> None:
    from llmlite.serve.engine import Ended, Job
    from llmlite.serve.faults import Fault

    app = make_app(model, Settings(name="tales", max_sequences=1, max_queue=1))
    with TestClient(app) as client:
        engine = app.state.service.engine
        seen: list[Any] = []
        options = {"max_tokens": 200, "temperature": 0}
        jobs = [Job([1, 5, 9], options, deliver=seen.append) for _ in range(2)]
        engine.submit(jobs)
        with pytest.raises(Fault) as refused:
            engine.submit([Job([1], options, deliver=seen.append) for _ in range(2)])
        assert refused.value.status == 429 and int(refused.value.headers["retry-after"]) >= 1
        engine.cancel(jobs)
        limit = time.monotonic() + 20
        while (engine.n_running or engine.n_waiting) and time.monotonic() < limit:
            time.sleep(0.01)
        assert engine.n_running == engine.n_waiting == 0
        assert not any(isinstance(event, Ended) for event in seen)
        assert client.post("/v1/completions", json={**GREEDY, "prompt": "The fox"}).status_code == 200
        assert "llmlite_cancelled_total 2.0" in client.get("/metrics").text


def test_the_page_needs_no_network(client: TestClient) -> None:
    page = client.get("/")
    assert "default-src 'none'" in page.headers["content-security-policy"]
    assert "http://" not in page.text and "https://" not in page.text


def test_connections_send_answers_at_once() -> None:
    """An answer leaves in two parts; without TCP_NODELAY the second waits 40 ms for the client's word."""
    import asyncio
    import socket

    from llmlite.serve.process import _listen

    async def option() -> int:
        found: asyncio.Queue[int] = asyncio.Queue()

        async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            own = writer.get_extra_info("socket")
            found.put_nowait(own.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
            writer.close()

        listening = _listen("127.0.0.1", 0)
        async with await asyncio.start_server(connected, sock=listening):
            _, writer = await asyncio.open_connection(*listening.getsockname())
            writer.close()
            return await asyncio.wait_for(found.get(), 10)

    assert asyncio.run(option())

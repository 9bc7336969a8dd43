"""The server in a process of its own, asked by the clients that people use.

docs/serve.md has the table; `test_the_table_names_what_is_tested` holds it to the tests here and ELSEWHERE.
"""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.clients import installed
from tests.support.server import Server

pytest.importorskip("uvicorn", reason="the extra serve (uvicorn) is not installed")
pytestmark = [pytest.mark.slow, pytest.mark.conformance]
ROOT = Path(__file__).resolve().parents[2]
ELSEWHERE = {
    "boto3": "serve/test_sagemaker.py",
    "llm": "conformance/test_llm_plugin.py",
    "lm-eval": "conformance/test_serve_lm_eval.py",
}
SAY = [{"role": "user", "content": "Tell a tale."}]


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    server = Server("--ctx", "1024", "--pooling", "last", "--sagemaker", "--quiet")
    yield server
    if server.process.poll() is None:
        assert server.end() in (0, 143)


def test_openai(server: Server) -> None:
    openai = installed("openai", "openai")
    client = openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0)
    assert client.models.list().data[0].id == "tales"
    asked: dict[str, Any] = {"model": "tales", "messages": SAY, "temperature": 0, "max_tokens": 10}
    whole = client.chat.completions.create(**asked, logprobs=True, top_logprobs=2)
    assert whole.choices[0].logprobs.content[0].top_logprobs[1].logprob < 0
    stream = client.chat.completions.create(**asked, stream=True, stream_options={"include_usage": True})
    chunks = list(stream)
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == whole.choices[0].message.content
    assert chunks[-1].usage.completion_tokens == whole.usage.completion_tokens == 10
    assert client.completions.create(model="tales", prompt="The fox", n=2, max_tokens=3).choices[1].text
    assert len(client.embeddings.create(model="tales", input=["a", "b"]).data) == 2
    with pytest.raises(openai.NotFoundError) as missing:
        client.chat.completions.create(**{**asked, "model": "gpt-9"})
    assert missing.value.code == "model_not_found"
    with pytest.raises(openai.BadRequestError, match="top_p"):
        client.chat.completions.create(**asked, top_p=7)


def test_ollama(server: Server) -> None:
    ollama = installed("ollama", "ollama")
    client = ollama.Client(host=server.url)
    assert client.list().models[0].model == "tales"
    assert client.show("tales").details.family == "llama"
    options = {"temperature": 0, "num_predict": 8}
    whole = client.chat("tales", SAY, options=options)
    pieces = [part.message.content for part in client.chat("tales", SAY, options=options, stream=True)]
    assert "".join(pieces) == whole.message.content
    assert client.generate("tales", "The fox", options=options).eval_count > 0
    assert len(client.embed("tales", ["a", "b"]).embeddings) == 2
    assert client.embeddings("tales", "a").embedding
    assert client.ps().models
    with pytest.raises(ollama.ResponseError, match="not here"):
        client.chat("nosuch", SAY)


def test_litellm(server: Server) -> None:
    litellm = installed("litellm", "litellm")
    where = {"api_base": f"{server.url}/v1", "api_key": "none", "max_tokens": 5}
    assert litellm.completion("openai/tales", messages=SAY, seed=1, **where).choices[0].message.content
    text = litellm.text_completion(
        model="text-completion-openai/tales", prompt=["The fox"], logprobs=1, n=1, **where
    )
    assert text.choices[0].text
    assert list(litellm.completion("openai/tales", messages=SAY, stream=True, **where))
    del where["max_tokens"]
    assert litellm.embedding("openai/tales", input=["a"], **where).data


def test_langchain_openai(server: Server) -> None:
    langchain = installed("langchain_openai", "langchain-openai")
    where: dict[str, Any] = {"base_url": f"{server.url}/v1", "api_key": "none", "model": "tales"}
    chat = langchain.ChatOpenAI(**where, max_tokens=5, temperature=0)
    whole = chat.invoke("Tell a tale.").content
    assert whole and "".join(part.content for part in chat.stream("Tell a tale.")) == whole
    embed = langchain.OpenAIEmbeddings(**where, check_embedding_ctx_length=False)
    assert len(embed.embed_documents(["a", "b"])) == 2


def test_llama_index(server: Server) -> None:
    like = installed("llama_index.llms.openai_like", "llama-index-llms-openai-like")
    where: dict[str, Any] = {"api_base": f"{server.url}/v1", "api_key": "none", "model": "tales"}
    assert like.OpenAILike(**where, max_tokens=5).complete("The fox").text
    chat = like.OpenAILike(**where, max_tokens=5, is_chat_model=True)
    assert list(chat.stream_complete("Tell a tale."))[-1].text


def test_tritonclient(server: Server) -> None:
    triton = installed("tritonclient.http", "tritonclient[http]")
    import numpy as np

    client = triton.InferenceServerClient(server.url.removeprefix("http://"))
    assert client.is_server_live() and client.is_model_ready("tales")
    assert client.get_model_metadata("tales")["inputs"][0]["name"] == "text_input"
    texts = []
    for binary in (True, False):
        tensor = triton.InferInput("text_input", [1], "BYTES")
        tensor.set_data_from_numpy(np.array([b"The fox"], np.object_), binary_data=binary)
        output = triton.InferRequestedOutput("text_output", binary_data=binary)
        parameters = {"max_tokens": 8, "temperature": 0}
        found = client.infer("tales", [tensor], outputs=[output], parameters=parameters)
        [text] = found.as_numpy("text_output")
        texts.append(text if isinstance(text, bytes) else text.encode())
    assert texts[0] == texts[1] and texts[0]


def metric(server: Server, name: str) -> float:
    found = re.search(rf"^{name} (\S+)$", server.get("/metrics"), re.MULTILINE)
    assert found
    return float(found[1])


@pytest.mark.parametrize("streams", [True, False])
def test_a_client_that_leaves_stops_its_text(server: Server, streams: bool) -> None:
    before = metric(server, "llmlite_cancelled_total")
    body = {"prompt": "the " * 200, "max_tokens": 700, "n": 48, "temperature": 1.5, "stream": streams}
    raw = json.dumps(body).encode()
    host, port = server.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as connection:
        head = f"POST /v1/completions HTTP/1.1\r\nhost: {host}\r\ncontent-length: {len(raw)}\r\n\r\n"
        connection.sendall(head.encode() + raw)
        limit = time.monotonic() + 30
        while metric(server, "llmlite_running") == 0 and time.monotonic() < limit:
            time.sleep(0.005)
    while metric(server, "llmlite_cancelled_total") == before and time.monotonic() < limit:
        time.sleep(0.02)
    assert metric(server, "llmlite_cancelled_total") > before
    assert metric(server, "llmlite_running") == 0


def test_sigterm_lets_a_running_answer_end() -> None:
    server = Server("--quiet")
    body = json.dumps({"prompt": "The fox", "max_tokens": 300, "stream": True, "temperature": 1.0}).encode()
    request = urllib.request.Request(server.url + "/v1/completions", body)
    with urllib.request.urlopen(request, timeout=60) as answer:
        first = answer.readline()
        server.process.send_signal(signal.SIGTERM)
        rest = answer.read()
    assert first.startswith(b"data: ") and rest.rstrip().endswith(b"[DONE]")
    assert server.process.wait(30) == 143


def test_the_log_holds_no_prompt() -> None:
    server = Server()
    body = json.dumps({"prompt": "xyzzy secret", "max_tokens": 2}).encode()
    urllib.request.urlopen(urllib.request.Request(server.url + "/v1/completions?q=xyzzy", body)).read()
    os.kill(server.process.pid, signal.SIGTERM)
    assert server.process.stderr is not None
    log = server.process.stderr.read()
    assert "POST /v1/completions 200" in log and "xyzzy" not in log


def test_the_table_names_what_is_tested() -> None:
    table = (ROOT / "docs" / "serve.md").read_text(encoding="utf-8")
    own = Path(__file__).read_text(encoding="utf-8")
    named = set(re.findall(r"^\| `([a-z][a-z0-9-]+)` \|", table, re.MULTILINE))
    tested = {
        name.replace("_", "-")
        for name in re.findall(r"^def test_(\w+)\(server: Server\) -> None", own, re.MULTILINE)
    }
    assert named == tested | set(ELSEWHERE)
    for client, file in ELSEWHERE.items():
        text = (ROOT / "tests" / file).read_text(encoding="utf-8")
        assert re.search(rf'installed\("\w+", "{client}"', text), file

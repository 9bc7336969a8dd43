"""SageMaker: the container's program and boto3's real client. See docs/sagemaker.md."""

from __future__ import annotations

import binascii
import json
import os
import re
import shutil
import signal
import struct
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from llmlite import resources
from llmlite.cli import sagemaker
from llmlite.errors import LlmliteError
from tests.support.clients import installed

ROOT = Path(__file__).resolve().parents[2]


def test_the_environment_says_what_to_serve(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "m-00001-of-00002.gguf").touch()
    (tmp_path / "sub" / "m-00002-of-00002.gguf").touch()
    given = {"SM_MODEL_DIR": str(tmp_path), "LLMLITE_SERVE_ARGS": "--name 'a b'"}
    found = sagemaker.arguments(given)
    assert found[:3] == ["serve", str(tmp_path / "sub" / "m-00001-of-00002.gguf"), "--sagemaker"]
    assert found[3:7] == ["--host", "0.0.0.0", "--port", "8080"] and found[-2:] == ["--name", "a b"]
    assert "9000" in sagemaker.arguments({**given, "SAGEMAKER_BIND_TO_PORT": "9000"})


def test_a_model_folder_that_leaves_it_open_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    given = {"SM_MODEL_DIR": str(tmp_path)}
    with pytest.raises(LlmliteError, match="found none"):
        sagemaker.arguments(given)
    (tmp_path / "a.gguf").touch()
    (tmp_path / "b.gguf").touch()
    with pytest.raises(LlmliteError, match=r"a\.gguf, b\.gguf"):
        sagemaker.arguments(given)
    assert str(tmp_path / "b.gguf") in sagemaker.arguments({**given, "LLMLITE_MODEL": "b"})
    with pytest.raises(LlmliteError, match="LLMLITE_SERVE_ARGS"):
        sagemaker.arguments({**given, "LLMLITE_MODEL": "b", "LLMLITE_SERVE_ARGS": "'"})
    assert sagemaker.main(["train"]) == 2
    monkeypatch.setenv("SM_MODEL_DIR", str(tmp_path / "no"))
    assert sagemaker.main(["serve"]) == 2
    assert "expected one GGUF file" in capsys.readouterr().err


class Container:
    """The container's program as a process."""

    def __init__(self, models: Path, command: list[str], environment: dict[str, str] | None = None) -> None:
        pytest.importorskip("uvicorn", reason="the extra serve (uvicorn) is not installed")
        own = {"SM_MODEL_DIR": str(models), "SAGEMAKER_BIND_TO_PORT": "0", "LLMLITE_HOST": "127.0.0.1"}
        self.process = subprocess.Popen(
            command, cwd=models, stderr=subprocess.PIPE, text=True,
            env={**os.environ, **own, "LLMLITE_SERVE_ARGS": "--ctx 1024 --quiet", **(environment or {})},
        )  # fmt: skip
        assert self.process.stderr is not None
        found, lines = None, []
        while found is None and (line := self.process.stderr.readline()):
            lines.append(line)
            found = re.search(r"http://[\d.]+:\d+", line)
        assert found, "".join(lines)
        self.url = found[0]
        for _ in range(300):
            try:
                urllib.request.urlopen(f"{self.url}/ping", timeout=5).close()
                return
            except OSError:
                time.sleep(0.1)
        raise AssertionError("/ping doesn't answer")

    def end(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(30)


def frame(kind: str, payload: bytes) -> bytes:
    """A message of AWS's event stream: lengths, CRC, headers, payload, CRC.

    Source: https://docs.aws.amazon.com/transcribe/latest/dg/event-stream.html
    """
    headers = b""
    values = (":event-type", kind), (":content-type", "application/octet-stream"), (":message-type", "event")
    for name, value in values:
        headers += struct.pack(">B", len(name)) + name.encode()
        headers += b"\x07" + struct.pack(">H", len(value)) + value.encode()
    prelude = struct.pack(">II", 16 + len(headers) + len(payload), len(headers))
    message = prelude + struct.pack(">I", binascii.crc32(prelude)) + headers + payload
    return message + struct.pack(">I", binascii.crc32(message))


class Front(BaseHTTPRequestHandler):
    """Stands for AWS's own front: a container knows neither its paths nor its frames."""

    target = ""

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        kind = {"content-type": self.headers.get("content-type") or "application/json"}
        asked = urllib.request.Request(f"{self.target}/invocations", body, kind)
        is_stream = self.path == "/endpoints/tales/invocations-response-stream"
        assert is_stream or self.path == "/endpoints/tales/invocations"
        with urllib.request.urlopen(asked, timeout=60) as answer:
            self.send_response(200)
            name = "X-Amzn-SageMaker-Content-Type" if is_stream else "Content-Type"
            self.send_header(name, answer.headers["content-type"])
            if is_stream:
                self.send_header("Content-Type", "application/vnd.amazon.eventstream")
            self.end_headers()
            while part := answer.read1():
                self.wfile.write(frame("PayloadPart", part) if is_stream else part)

    def log_message(self, *_: Any) -> None:
        pass


def models_folder(folder: Path) -> Path:
    shutil.copy(resources.data_path("tales-f16.gguf"), folder / "tales.gguf")
    return folder


@pytest.fixture
def container(tmp_path: Path) -> Iterator[Container]:
    models = models_folder(tmp_path)
    made = Container(
        models, [sys.executable, "-m", "llmlite.cli.sagemaker", "serve"], {"PYTHONPATH": str(ROOT)}
    )
    yield made
    if made.process.poll() is None:
        made.process.kill()
        made.process.wait()


@pytest.mark.slow
@pytest.mark.conformance
def test_boto3_invokes_and_streams_and_sigterm_ends_it(container: Container) -> None:
    boto3 = installed("boto3", "boto3")
    front = type("ToContainer", (Front,), {"target": container.url})
    with ThreadingHTTPServer(("127.0.0.1", 0), front) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        client = boto3.client(
            "sagemaker-runtime", endpoint_url=f"http://127.0.0.1:{server.server_port}",
            region_name="eu-west-1", aws_access_key_id="none", aws_secret_access_key="none",
        )  # fmt: skip
        asked = {"prompt": "The fox", "temperature": 0, "max_tokens": 12}
        given: dict[str, Any] = {"EndpointName": "tales", "ContentType": "application/json"}
        whole = client.invoke_endpoint(**given, Body=json.dumps(asked))
        text = json.loads(whole["Body"].read())["choices"][0]["text"]
        import llmlite as ll

        assert text == ll.load("tales", n_ctx=1024).generate("The fox", max_tokens=12, temperature=0)
        streaming = client.invoke_endpoint_with_response_stream(
            **given, Body=json.dumps({**asked, "stream": True})
        )
        assert streaming["ContentType"].startswith("text/event-stream")
        parts = [each["PayloadPart"]["Bytes"] for each in streaming["Body"]]
        assert len(parts) > 3  # as it came, not at the end
        *events, done = [line[6:] for line in b"".join(parts).decode().split("\n\n") if line]
        assert done == "[DONE]"
        pieces = [c["text"] for each in events for c in json.loads(each)["choices"]]
        assert "".join(pieces) == text
        server.shutdown()
    assert container.end() in (0, 143)


def instructions() -> list[tuple[str, str]]:
    """Return the Dockerfile's instructions, (word, rest) each."""
    text = (ROOT / "packaging/sagemaker/Dockerfile").read_text(encoding="utf-8")
    lines = [line for line in text.replace("\\\n", " ").splitlines() if line and not line.startswith("#")]
    return [(word, rest) for word, _, rest in (line.partition(" ") for line in lines)]


def test_the_dockerfile_keeps_the_rules() -> None:
    found = instructions()
    words = [word for word, _ in found]
    assert words[0] == "FROM" and set(words) <= {
        *("FROM", "ENV", "COPY", "RUN", "EXPOSE", "STOPSIGNAL", "ENTRYPOINT", "CMD")
    }
    given = dict(found)
    assert re.fullmatch(r"[a-z]+:\d+\.\d+-slim-[a-z]+", given["FROM"])  # a fixed version
    # lists, not texts: a shell in between would keep SIGTERM to itself
    assert json.loads(given["ENTRYPOINT"]) == ["python", "-m", "llmlite.cli.sagemaker"]
    assert json.loads(given["CMD"]) == ["serve"]
    assert given["EXPOSE"] == "8080" and f"SM_MODEL_DIR={sagemaker.MODEL_DIR}" in given["ENV"]
    for word, rest in found:
        if word == "RUN" and "pip install" in rest:
            assert "--no-cache-dir" in rest and "-c /opt/llmlite/constraints.txt" in rest


@pytest.mark.slow
def test_the_dockerfiles_steps_make_a_container_that_answers(tmp_path: Path) -> None:
    """There is no Docker here: COPY and RUN act on a clean environment; a folder stands for /opt."""
    import venv

    made = tmp_path / "opt"
    made.mkdir()
    venv.create(tmp_path / "venv", with_pip=True)
    plain = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
    own = {**plain, "PATH": f"{tmp_path / 'venv/bin'}:{os.environ['PATH']}"}
    wheels = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "-q",
        "--no-deps",
        "-w",
        str(tmp_path / "dist"),
        str(ROOT),
    ]
    subprocess.run(wheels, check=True, timeout=300)
    for word, rest in instructions():
        if word == "ENV":
            given = dict(each.split("=", 1) for each in rest.replace("/opt/llmlite", str(made)).split())
            own.update(given)
        elif word == "COPY":
            assert rest == "constraints.txt dist/*.whl /opt/llmlite/"
            for path in (ROOT / "constraints.txt", *(tmp_path / "dist").glob("*.whl")):
                shutil.copy(path, made)
        elif word == "RUN":
            command = rest.replace("/opt/llmlite", str(made))
            subprocess.run(["sh", "-c", command], check=True, env=own, cwd=tmp_path, timeout=900)
    models = tmp_path / "models"
    models.mkdir()
    command = [*json.loads(dict(instructions())["ENTRYPOINT"]), *json.loads(dict(instructions())["CMD"])]
    command[0] = str(tmp_path / "venv/bin/python")
    container = Container(
        models_folder(models), command, {"PYTHONPATH": "", "LLMLITE_CACHE": own["LLMLITE_CACHE"]}
    )
    body = json.dumps({"prompt": "The fox", "max_tokens": 3}).encode()
    kind = {"content-type": "application/json"}
    with urllib.request.urlopen(
        urllib.request.Request(f"{container.url}/invocations", body, kind), timeout=60
    ) as answer:
        assert json.load(answer)["usage"]["completion_tokens"] == 3
    assert container.end() in (0, 143)

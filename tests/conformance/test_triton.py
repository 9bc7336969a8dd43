"""A real tritonserver serves what `llmlite export triton` writes, and answers with llmlite's own tokens.

`make triton-test` makes Triton's environment first. Without it these tests fail; TRITON_SKIP=1 skips them.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import llmlite as ll
from llmlite.serve.triton import export

ROOT = Path(__file__).resolve().parents[2]
SIDE = Path(__file__).with_name("triton_side.py")
VENV = ROOT / os.environ.get("TRITON_VENV", ".venv-triton")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.conformance,
    pytest.mark.skipif(os.environ.get("TRITON_SKIP") == "1", reason="TRITON_SKIP=1"),
]


def free_ports(n: int) -> list[int]:
    held = [socket.create_server(("127.0.0.1", 0)) for _ in range(n)]
    ports = [each.getsockname()[1] for each in held]
    for each in held:
        each.close()
    return ports


def wait_for(url: str, process: subprocess.Popen[bytes], log: Path, seconds: float = 120) -> None:
    limit = time.monotonic() + seconds
    while time.monotonic() < limit and process.poll() is None:
        try:
            urllib.request.urlopen(url, timeout=5).close()
            return
        except OSError:
            time.sleep(0.1)
    raise AssertionError(f"{url} doesn't answer (exit code {process.poll()}):\n{log.read_text()[-3000:]}")


def ended(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(40)
    except subprocess.TimeoutExpired:
        process.kill()
        raise


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """What tritonclient found, with llmlite serve and tritonserver running beside each other."""
    python = VENV / "bin/python"
    assert python.exists(), f"{python} is missing: `make triton-test` makes it, TRITON_SKIP=1 skips"
    [packages] = VENV.glob("lib/python3*/site-packages")
    server = packages / "pytriton/tritonserver"
    folder = tmp_path_factory.mktemp("triton")
    backend = folder / "backends/python"  # the backend wants the stub beside it
    shutil.copytree(server / "backends/python", backend)
    shutil.copy(server / "python_backend_stubs/3.11/triton_python_backend_stub", backend)
    ours, http, grpc = free_ports(3)
    url = f"http://127.0.0.1:{ours}"
    export(folder / "repository", name="tales", url=url)
    log = folder / "log"
    plain = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
    libraries = str(packages.joinpath("nvidia_pytriton.libs"))
    path = f"{VENV / 'bin'}:{os.environ['PATH']}"
    with log.open("wb") as out:
        command = [sys.executable, "-m", "llmlite", "serve", "tales", "--port", str(ours), "--ctx", "1024"]
        llmlite = subprocess.Popen(command, cwd=ROOT, stdout=out, stderr=out)
        command = [
            *(str(server / "bin/tritonserver"), "--model-repository", str(folder / "repository")),
            *("--backend-directory", str(folder / "backends"), "--disable-auto-complete-config"),
            *("--http-address", "127.0.0.1", "--http-port", str(http)),
            *("--grpc-address", "127.0.0.1", "--grpc-port", str(grpc)),
            *("--allow-metrics", "false", "--exit-timeout-secs", "10"),
        ]
        triton = subprocess.Popen(
            command, stdout=out, stderr=out, env={**plain, "LD_LIBRARY_PATH": libraries, "PATH": path}
        )
        try:
            wait_for(f"{url}/health", llmlite, log)
            wait_for(f"http://127.0.0.1:{http}/v2/health/ready", triton, log)
            asked = [str(python), str(SIDE), str(http), str(grpc), url]
            done = subprocess.run(asked, env=plain, capture_output=True, text=True, timeout=300)
            assert done.returncode == 0, done.stderr[-3000:] + log.read_text()[-3000:]
            yield json.loads(done.stdout)
        finally:
            ended(triton)
            ended(llmlite)


@pytest.fixture(scope="module")
def alone() -> dict[str, Any]:
    """The text and ids that the model writes without any server."""
    made = ll.load("tales", n_ctx=1024).stream("The fox", max_tokens=24, temperature=0)
    text = "".join(made)
    return {"text": text, "ids": list(made.ids)}


@pytest.mark.parametrize("protocol", ["http", "grpc"])
def test_triton_answers_with_the_tokens_of_the_model_alone(
    report: dict[str, Any], alone: dict[str, Any], protocol: str
) -> None:
    assert report[protocol] == alone


def test_triton_streams_the_same_text_in_pieces(report: dict[str, Any], alone: dict[str, Any]) -> None:
    assert "".join(report["pieces"]) == alone["text"]
    assert len(report["pieces"]) > 5


def test_llmlites_refusals_reach_tritons_clients(report: dict[str, Any]) -> None:
    assert "temperature" in report["refused"]


def test_a_request_cancelled_in_triton_ends_in_llmlite(report: dict[str, Any]) -> None:
    assert report["first_piece"] and report["stream_cancelled"] and report["whole_cancelled"]


def test_what_triton_adds_is_measured(report: dict[str, Any]) -> None:
    print(
        f"\nTriton {report['version']}: one token {report['through_ms']:.2f} ms through Triton, "
        f"{report['direct_ms']:.2f} ms from llmlite serve (median of 90)"
    )
    assert report["through_ms"] > 0 and report["direct_ms"] > 0

"""Files from the Hugging Face hub, played by a server on this machine that can fail half-way."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest

from tests.support.fake_packages import reply, server
from tests.support.tiny_models import tiny_model

pytest.importorskip("huggingface_hub", reason="huggingface_hub (the extra hub) is not installed")

ROOT = Path(__file__).resolve().parents[2]
COMMIT = "0123456789abcdef0123456789abcdef01234567"


@dataclass
class Hub:
    """One repository, acme/tiny, and what was asked of it.

    breaks: how many downloads end half-way. lies: whether the bytes differ from the announced hash.
    """

    files: dict[str, bytes]
    breaks: int = 0
    lies: bool = False
    ranges: list[str] = field(default_factory=list)
    sent: int = 0
    address: str = ""

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        path = handler.path.partition("?")[0]
        if path.startswith("/api/models/acme/tiny"):
            self.list_files(handler, path)
            return
        name = path.rpartition("/resolve/main/")[2]
        if name not in self.files or not path.startswith("/acme/tiny/"):
            reply(handler, 404, b"{}", "application/json", X_Error_Code="EntryNotFound")
            return
        self.send(handler, self.files[name])

    def list_files(self, handler: BaseHTTPRequestHandler, path: str) -> None:
        tree = [
            {"type": "file", "path": name, "size": len(data), "oid": "0" * 40}
            for name, data in self.files.items()
        ]
        siblings = [{"rfilename": name} for name in self.files]
        body = tree if "/tree/" in path else {"id": "acme/tiny", "sha": COMMIT, "siblings": siblings}
        reply(handler, 200, json.dumps(body).encode(), "application/json")

    def send(self, handler: BaseHTTPRequestHandler, data: bytes) -> None:
        digest = hashlib.sha256(data).hexdigest()
        if self.lies:
            data = bytes([data[0] ^ 1]) + data[1:]
        asked = handler.headers.get("Range", "")
        start = int(asked.removeprefix("bytes=").partition("-")[0]) if asked else 0
        handler.send_response(206 if asked else 200)
        handler.send_header("ETag", f'"{digest}"')
        handler.send_header("X-Linked-ETag", f'"{digest}"')
        handler.send_header("X-Linked-Size", str(len(data)))
        handler.send_header("X-Repo-Commit", COMMIT)
        handler.send_header("Content-Length", str(len(data) - start))
        if asked:
            handler.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        handler.end_headers()
        if handler.command == "HEAD":
            return
        self.ranges.append(asked)
        end = len(data)
        if self.breaks:
            self.breaks -= 1
            end = (start + end) // 2
            handler.close_connection = True
        handler.wfile.write(data[start:end])
        self.sent += end - start


@pytest.fixture
def model_bytes(tmp_path: Path) -> bytes:
    return tiny_model().write(tmp_path / "source.gguf", "Q8_0").read_bytes()


@pytest.fixture
def hub(model_bytes: bytes) -> Iterator[Hub]:
    running = Hub({"tiny-Q8_0.gguf": model_bytes, "README.md": b"# Tiny"})
    with server(running.answer) as running.address:
        yield running


def llmlite(hub: Hub, home: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run a command against the server, in a process: huggingface_hub reads its variables on import."""
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUGGING"))
    }
    environment |= {
        "HF_ENDPOINT": hub.address,
        "HF_HOME": str(home),
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_DOWNLOAD_TIMEOUT": "10",
        "NO_PROXY": "127.0.0.1",
        "no_proxy": "127.0.0.1",
        "LLMLITE_CACHE": str(home / "llmlite"),
    } | variables
    return subprocess.run(
        [sys.executable, "-m", "llmlite", *arguments],
        cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip


def error_of(done: subprocess.CompletedProcess[str]) -> str:
    """Return the last line of a command that must have failed with one sentence."""
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    return done.stderr.splitlines()[-1]


def test_the_only_model_file_of_a_repository_is_pulled_and_can_be_named(
    hub: Hub, tmp_path: Path, model_bytes: bytes
) -> None:
    done = llmlite(hub, tmp_path, "pull", "acme/tiny")
    assert done.returncode == 0, done.stderr
    path = Path(done.stdout.strip().partition(": ")[2])
    assert path.read_bytes() == model_bytes
    assert hub.ranges == [""]
    for name in ("acme/tiny", "acme/tiny:tiny-Q8_0.gguf", "acme/tiny:Q8_0"):
        shown = llmlite(hub, tmp_path, "show", name)
        assert shown.returncode == 0 and "GGUF version 3" in shown.stdout, shown.stderr
    assert "acme/tiny:tiny-Q8_0.gguf" in llmlite(hub, tmp_path, "models").stdout


BIG = bytes(range(251)) * 100_000  # 25 MB: huggingface_hub keeps pieces of 10 MiB


def test_a_download_that_breaks_off_goes_on_from_there(hub: Hub, tmp_path: Path) -> None:
    hub.files["big.gguf"] = BIG
    hub.breaks = 1
    done = llmlite(hub, tmp_path, "pull", "acme/tiny:big.gguf")
    assert done.returncode == 0, done.stderr
    assert Path(done.stdout.strip().partition(": ")[2]).read_bytes() == BIG
    first, second = hub.ranges
    assert first == "" and int(second.removeprefix("bytes=").rstrip("-")) > 0
    assert hub.sent < 1.2 * len(BIG)


@pytest.mark.slow  # huggingface_hub waits before it tries again
def test_a_download_given_up_leaves_nothing_and_the_next_command_gets_it(hub: Hub, tmp_path: Path) -> None:
    hub.files["big.gguf"] = BIG
    hub.breaks = 1000
    assert "acme/tiny: " in error_of(llmlite(hub, tmp_path, "pull", "acme/tiny:big.gguf"))
    assert max((path.stat().st_size for path in tmp_path.rglob("*") if path.is_file()), default=0) < 200_000
    assert "is not here yet" in error_of(llmlite(hub, tmp_path, "show", "acme/tiny:big.gguf"))
    hub.breaks = 0
    done = llmlite(hub, tmp_path, "pull", "acme/tiny:big.gguf")
    assert done.returncode == 0, done.stderr
    assert Path(done.stdout.strip().partition(": ")[2]).read_bytes() == BIG


def test_wrong_bytes_are_refused_removed_and_pulled_again(
    hub: Hub, tmp_path: Path, model_bytes: bytes
) -> None:
    hub.lies = True
    error = error_of(llmlite(hub, tmp_path, "pull", "acme/tiny"))
    digest = hashlib.sha256(model_bytes).hexdigest()
    assert f"expected the hash {digest}, got " in error and "pull again" in error
    assert "is not here yet" in error_of(llmlite(hub, tmp_path, "show", "acme/tiny"))
    hub.lies = False
    assert llmlite(hub, tmp_path, "pull", "acme/tiny").returncode == 0


def test_of_several_files_the_right_one_has_to_be_named(hub: Hub, tmp_path: Path, model_bytes: bytes) -> None:
    hub.files["tiny-Q4_K_M.gguf"] = hub.files["tiny-Q4_K_S.gguf"] = model_bytes
    hub.files["mmproj-tiny.gguf"] = b"no model"
    error = error_of(llmlite(hub, tmp_path, "pull", "acme/tiny"))
    assert "say which file" in error and "tiny-Q4_K_M.gguf" in error and "mmproj" not in error
    assert "say which" not in llmlite(hub, tmp_path, "pull", "acme/tiny:q4_k_m").stderr
    error = error_of(llmlite(hub, tmp_path, "pull", "acme/tiny:Q2_K"))
    assert "has no file or type 'Q2_K'; it has tiny-Q4_K_M.gguf" in error


def test_all_parts_of_a_split_model_are_pulled(hub: Hub, tmp_path: Path) -> None:
    from llmlite import gguf

    gguf.split(tiny_model().write(tmp_path / "whole.gguf"), tmp_path / "part", max_tensors=5)
    hub.files = {path.name: path.read_bytes() for path in sorted(tmp_path.glob("part-*.gguf"))}
    assert len(hub.files) > 2
    done = llmlite(hub, tmp_path, "pull", "acme/tiny")
    assert done.returncode == 0, done.stderr
    assert len(hub.ranges) == len(hub.files)
    assert llmlite(hub, tmp_path, "show", "acme/tiny", "--check").returncode == 0


def test_what_the_hub_refuses_is_one_sentence(hub: Hub, tmp_path: Path) -> None:
    assert "acme/tiny: " in error_of(llmlite(hub, tmp_path, "pull", "acme/tiny:nosuch.gguf"))
    assert "acme/nosuch: " in error_of(llmlite(hub, tmp_path, "pull", "acme/nosuch"))
    hub.files = {"README.md": b""}
    assert "has no GGUF file" in error_of(llmlite(hub, tmp_path, "pull", "acme/tiny"))
    hub.sent = 0
    assert "acme/tiny: " in error_of(llmlite(hub, tmp_path, "pull", "acme/tiny", HF_HUB_OFFLINE="1"))
    assert hub.sent == 0, "offline is offline"


def test_without_huggingface_hub_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    from llmlite.downloads import pull
    from llmlite.errors import LlmliteError

    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(LlmliteError, match=r"needs huggingface_hub \(pip install 'llmlite-kit\[hub\]'\)"):
        pull("acme/tiny")

"""The SavedModel of tales, loaded by TensorFlow Hub, generates llmlite's tokens.

`make tfhub-test` installs both (two gigabytes) in a folder of their own and runs this.
"""

from __future__ import annotations

import tarfile
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

import llmlite as ll
from llmlite import cli
from tests.support.clients import installed

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that `llmlite export tensorflow` writes."""
    installed("tensorflow", "TensorFlow", "tfhub-test")
    folder = tmp_path_factory.mktemp("tensorflow") / "saved"
    assert cli.main(["export", "tensorflow", str(folder)]) == 0
    return folder


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    monkeypatch.setenv("TFHUB_CACHE_DIR", str(tmp_path / "cache"))
    return installed("tensorflow_hub", "TensorFlow Hub", "tfhub-test")


@pytest.fixture(scope="module")
def written() -> tuple[list[int], list[int]]:
    """The tokens of a prompt, and those that llmlite writes after it."""
    model = ll.load("tales", n_ctx=64)
    made = model.stream("The fox", max_tokens=12, temperature=0)
    assert "".join(made)
    return model.tokenizer.encode("The fox", add_eos=False), list(made.ids)


def output(generate: Any, ids: list[int], max_tokens: int) -> list[int]:
    tf = installed("tensorflow", "TensorFlow", "tfhub-test")
    found = generate(input_ids=tf.constant(ids, tf.int32), max_tokens=tf.constant(max_tokens))
    return found["output_ids"].numpy().tolist()


def test_hub_loads_a_signature_that_generates_our_tokens(
    saved: Path, hub: Any, written: tuple[list[int], list[int]]
) -> None:
    tf = installed("tensorflow", "TensorFlow", "tfhub-test")
    ids, want = written
    generate = hub.load(str(saved)).signatures["generate"]
    for _ in range(2):  # nothing is left in the cache
        assert output(generate, ids, 12) == want
    assert output(generate, ids, 0) == []
    for bad in (ids, []):
        with pytest.raises(tf.errors.InvalidArgumentError, match="context|empty"):
            output(generate, bad, 256)


@pytest.fixture
def address(saved: Path, tmp_path: Path) -> Iterator[str]:
    """The address of a web server that has the folder's archive, made as the folder's README says."""
    with tarfile.open(tmp_path / "model.tar.gz", "w:gz") as archive:
        archive.add(saved, arcname=".")
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(SimpleHTTPRequestHandler, directory=str(tmp_path)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/model.tar.gz"
    server.shutdown()
    server.server_close()


def test_hub_loads_the_archive_that_its_readme_says_to_publish(
    saved: Path, address: str, hub: Any, written: tuple[list[int], list[int]]
) -> None:
    readme = (saved / "README.md").read_text()
    assert "tar czf model.tar.gz -C FOLDER ." in readme and "license" in readme
    ids, want = written
    assert output(hub.load(address).signatures["generate"], ids, 12) == want


def test_a_folder_that_holds_something_is_left_alone(saved: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["export", "tensorflow", str(saved)]) != 0
    assert "not an empty folder" in capsys.readouterr().err

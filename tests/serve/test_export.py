"""Folders for other servers: what is in them, and what is refused."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import pytest

from llmlite import cli
from llmlite.errors import LlmliteError
from llmlite.serve import triton


def test_a_triton_repository_has_a_whole_and_a_streaming_model(tmp_path: Path) -> None:
    made = triton.export(tmp_path / "new", name="my.model-1", url="http://10.0.0.5:9000")
    names = {path.relative_to(tmp_path / "new").as_posix() for path in made}
    expected = {
        f"my.model-1{end}/{file}" for end in ("", "_stream") for file in ("config.pbtxt", "1/model.py")
    }
    assert names == {"README.md", *expected}
    whole, stream = (
        (tmp_path / "new" / f"my.model-1{end}" / "config.pbtxt").read_text() for end in ("", "_stream")
    )
    assert "decoupled: false" in whole and "decoupled: true" in stream
    for text in (whole, stream):  # both forward to the one model of the server
        assert 'key: "llmlite_model" value: { string_value: "my.model-1" }' in text
        assert 'string_value: "http://10.0.0.5:9000"' in text
    readme = (tmp_path / "new" / "README.md").read_text()
    assert "llmlite serve MODEL --name my.model-1 --port 9000" in readme


def test_tritons_model_needs_only_the_standard_library_and_triton(tmp_path: Path) -> None:
    tree = ast.parse(triton.MODEL.read_text(encoding="utf-8"))
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {each.name.partition(".")[0] for each in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0
            found.add((node.module or "").partition(".")[0])
    assert found - sys.stdlib_module_names == {"numpy", "triton_python_backend_utils"}


@pytest.mark.parametrize("name", ["", "a/b", "../a", 'a"b', "a b", "x" * 200])
def test_a_name_that_triton_cannot_have_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(LlmliteError, match="--name"):
        triton.export(tmp_path / "new", name=name)
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    "url",
    ["", "localhost:8080", "ftp://a", 'http://a"b', "http://a:x", "http://a b", "http://[", "http://a\\b"],
)
def test_an_address_that_is_not_http_is_refused(url: str, tmp_path: Path) -> None:
    with pytest.raises(LlmliteError, match="--url"):
        triton.export(tmp_path / "new", name="tales", url=url)
    assert not (tmp_path / "new").exists()


def test_a_folder_that_holds_something_is_left_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mine").write_text("x")
    assert cli.main(["export", "triton", str(tmp_path)]) == 2
    assert "not an empty folder" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]

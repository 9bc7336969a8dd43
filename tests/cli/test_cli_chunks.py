"""Commands that read a text in chunks: perplexity, kl and imatrix."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from llmlite import cli, model
from tests.support.tiny_models import tiny_model


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[str, str]:
    """A model that was trained for more tokens than a context has by default, and a text of many tokens."""
    monkeypatch.setattr(model, "DEFAULT_N_CTX", 64)
    text = tmp_path / "text.txt"
    text.write_text("a story " * 100, encoding="utf-8")
    return str(tiny_model(n_ctx=128).write(tmp_path / "tiny.gguf")), str(text)


def test_a_chunk_may_have_all_tokens_that_a_model_was_trained_for(
    files: tuple[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    name, text = files
    assert cli.main(["perplexity", name, text, "-c", "128", "--chunks", "1", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["n_ctx"] == 128
    assert cli.main(["kl", name, text, "--reference", name, "-c", "128", "--chunks", "1", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["kl"] == 0
    for n in ("129", "3"):
        assert cli.main(["perplexity", name, text, "-c", n]) == 2
        assert "--ctx-size: expected 4 to 128, the model's own" in capsys.readouterr().err


def test_imatrix_takes_no_executor_because_it_always_needs_the_plain_one(
    files: tuple[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name, text = files
    out = str(tmp_path / "imatrix.gguf")
    assert cli.main(["imatrix", name, text, "-o", out, "-c", "128", "--chunks", "1"]) == 0
    with pytest.raises(SystemExit):
        cli.main(["imatrix", name, text, "-o", out, "--executor", "planned"])
    assert "--executor" in capsys.readouterr().err

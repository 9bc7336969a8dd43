"""What the documents show works: their Python runs, and the parser takes their commands."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from llmlite import cli, load
from llmlite.sampling import Sampler
from llmlite.synth import SHAPES, Shape, synthesize

ROOT = Path(__file__).resolve().parent.parent
PAGES = [page for page in sorted((ROOT / "docs").rglob("*.md")) if page.name != "api.md"]
LANGUAGES = {"python": "python", "sh": "sh", "bash": "sh", "": "sh"}
ENCODER = Shape(
    architecture="bert", n_layer=1, n_embd=64, n_head=2, n_head_kv=2, n_ff=64, n_vocab=1000, n_ctx=64,
    rope_base=0, is_tied=True, n_token_types=2, more={"pooling_type": 1},
)  # fmt: skip


def blocks(page: Path, language: str) -> list[str]:
    """Return the examples of a page in one language."""
    found = re.findall(r"^```(\w*)[^\n]*\n(.*?)^```", page.read_text(encoding="utf-8"), re.M | re.DOTALL)
    return [text for name, text in found if LANGUAGES.get(name) == language]


def having(language: str) -> list[Path]:
    return [page for page in PAGES if blocks(page, language)]


def a_reader() -> dict[str, Any]:
    """What a reader has before an example of sampling, grammars or chat: a model, its logits, a text."""
    model = load("tales", executor="eager")
    ids = model.tokenizer.encode("Once upon a time")
    return {
        "model": model,
        "ids": ids,
        "logits": np.asarray(model.logits(ids))[-1],
        "sampler": Sampler(temperature=0.7, seed=1),
        "text": '<tool_call>{"name": "now", "arguments": {}}</tool_call>',
        "template": "",
    }


@pytest.mark.parametrize("page", having("python"), ids=lambda page: page.stem)
def test_the_python_of_a_page_runs(
    page: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if "matplotlib" in page.read_text(encoding="utf-8"):
        pytest.importorskip("matplotlib")
    monkeypatch.setitem(SHAPES, "encoder", ENCODER)
    synthesize(tmp_path / "encoder.gguf", "encoder", "Q8_0")
    monkeypatch.chdir(tmp_path)
    names = a_reader()
    for block in blocks(page, "python"):
        block = block.replace('"minilm"', '"encoder.gguf"').replace("(2, 384)", "(2, 64)")
        exec(compile(block, page.name, "exec"), names)


@pytest.mark.parametrize("page", having("sh"), ids=lambda page: page.stem)
def test_the_commands_of_a_page_parse(page: Path, capsys: pytest.CaptureFixture[str]) -> None:
    parser = cli.build_parser()
    for block in blocks(page, "sh"):
        for line in re.findall(r"^(?:\$ )?llmlite (.*)$", block.replace("\\\n", " "), re.M):
            words = shlex.split(line, comments=True)
            words = words[: next((i for i, word in enumerate(words) if word in ("|", ">", "&", "&&")), None)]
            try:
                parser.parse_args(words)
            except SystemExit as ended:
                assert not ended.code, f"llmlite {line}\n{capsys.readouterr().err}"


def test_an_example_that_fails_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = tmp_path / "page.md"
    page.write_text("```sh\nllmlite run --nosuch\n```\n```python\nmodel.nosuch\n```\n", encoding="utf-8")
    check: Callable[..., None] = test_the_commands_of_a_page_parse
    with pytest.raises(AssertionError, match="nosuch"):
        check(page, type("Capture", (), {"readouterr": staticmethod(lambda: type("R", (), {"err": ""}))}))
    with pytest.raises(AttributeError, match="nosuch"):
        exec(blocks(page, "python")[0], a_reader())

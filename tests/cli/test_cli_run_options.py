"""`llmlite run` with an adapter, a form or a draft: the text is the one that the Python API gives."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import llmlite as ll
from llmlite import cli, gguf
from tests.support.tiny_models import tiny_model

PROMPT = "Once upon a time"
MODEL = "tales:Q8_0"


def written(capsys: pytest.CaptureFixture[str], *options: str, temperature: str = "0") -> tuple[str, str]:
    """What `llmlite run` writes after the prompt, and its figures."""
    arguments = ["run", MODEL, "-p", PROMPT, "-n", "24", "--no-echo", "--temperature", temperature, *options]
    assert cli.main(arguments) == 0
    captured = capsys.readouterr()
    return captured.out.removesuffix("\n"), captured.err


def refused(capsys: pytest.CaptureFixture[str], *options: str) -> str:
    """The one line that a wrong option gets."""
    assert cli.main(["run", MODEL, "-n", "2", *options]) == 2
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err.count("\n") == 1
    return captured.err


@pytest.fixture(scope="module")
def plain() -> str:
    return ll.load(MODEL).generate(PROMPT, max_tokens=24, temperature=0)


@pytest.fixture(scope="module")
def adapter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random adapter of the bundled model's first layers, strong enough to change its text."""
    random = np.random.default_rng(1)
    pairs: dict[str, Any] = {}
    with gguf.read(ll.model_path("tales")) as file:
        for block in range(3):
            name = f"blk.{block}.ffn_down.weight"
            n_out, n_in = file.tensors[name].shape
            pairs[f"{name}.lora_a"] = random.standard_normal((4, n_in)).astype(np.float32) * 0.1
            pairs[f"{name}.lora_b"] = random.standard_normal((n_out, 4)).astype(np.float32) * 0.1
        architecture = file.metadata["general.architecture"]
    facts = {"general.type": "adapter", "adapter.type": "lora", "general.architecture": architecture}
    path = tmp_path_factory.mktemp("adapters") / "a.gguf"
    gguf.write(path, {**facts, "adapter.lora.alpha": 8.0}, pairs)
    return path


def test_an_adapter_changes_the_text_by_its_scale(
    capsys: pytest.CaptureFixture[str], adapter: Path, plain: str
) -> None:
    def expected(*scales: float) -> str:
        model = ll.load(MODEL, lora=[(adapter, scale) for scale in scales])
        return model.generate(PROMPT, max_tokens=24, temperature=0)

    whole, half = expected(1.0), expected(0.5)
    assert len({plain, whole, half}) == 3
    assert written(capsys, "--lora", str(adapter))[0] == whole
    assert written(capsys, "--lora", f"{adapter}=0.5")[0] == half
    assert written(capsys, "--lora", f"{adapter}=0")[0] == plain
    twice = written(capsys, "--lora", f"{adapter}=0.25", "--lora", f"{adapter}=0.25")[0]
    assert twice == expected(0.25, 0.25)


def test_a_file_that_is_no_adapter_is_refused_by_name(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert "missing.gguf" in refused(capsys, "--lora", str(tmp_path / "missing.gguf"))
    assert "adapter" in refused(capsys, "--lora", str(ll.model_path("tales")))


@pytest.mark.parametrize("temperature", ["0", "1.5"])
def test_a_grammar_holds_the_text(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, temperature: str
) -> None:
    file = tmp_path / "form.gbnf"
    file.write_text('root ::= "The " ("fox" | "hen") " has " [0-9]+ " eggs."', encoding="utf-8")
    text, _ = written(capsys, "--grammar", str(file), "--seed", "3", temperature=temperature)
    options: dict[str, Any] = {"max_tokens": 24, "temperature": float(temperature), "seed": 3}
    assert text == ll.load(MODEL).generate(PROMPT, grammar=file.read_text(encoding="utf-8"), **options)
    assert text.startswith(("The fox has ", "The hen has "))


def test_a_schema_holds_the_text_to_json(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    file = tmp_path / "schema.json"
    schema = {
        "type": "object",
        "properties": {"who": {"enum": ["fox", "hen"]}, "n": {"type": "integer", "maximum": 9, "minimum": 0}},
        "required": ["who", "n"],
        "additionalProperties": False,
    }
    file.write_text(json.dumps(schema), encoding="utf-8")
    found = json.loads(written(capsys, "-n", "80", "--json-schema", str(file), temperature="1")[0])
    assert found["who"] in ("fox", "hen") and 0 <= found["n"] <= 9 and len(found) == 2


@pytest.mark.parametrize("option", ["--grammar", "--json-schema"])
def test_a_wrong_form_is_refused_by_name(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, option: str
) -> None:
    missing = refused(capsys, option, str(tmp_path / "missing"))
    assert option in missing and "missing" in missing
    broken = tmp_path / "broken"
    broken.write_text("root ::= (", encoding="utf-8")
    assert "broken" in refused(capsys, option, str(broken)) or option == "--grammar"


@pytest.mark.parametrize("draft", ["prompt-lookup", "tales:Q4_0"])
def test_a_draft_never_changes_the_text_and_its_share_is_shown(
    capsys: pytest.CaptureFixture[str], plain: str, draft: str
) -> None:
    text, figures = written(capsys, "--draft", draft)
    assert text == plain
    assert "draft" in figures


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--repeat-penalty", "0"), "repeat_penalty must be above 0"),
        (("--frequency-penalty=-inf",), "frequency_penalty must be"),
        (("--lora", "/dev/null=nan"), "lora: expected a path"),
        (
            ("--grammar", "/nonexistent.gbnf"),
            "llmlite: --grammar: /nonexistent.gbnf: No such file or directory\n",
        ),
    ],
)
@pytest.mark.parametrize("chat", [(), ("--chat", "-p", "Hello")])
def test_an_option_that_the_library_refuses_is_one_line(
    capsys: pytest.CaptureFixture[str], options: tuple[str, ...], words: str, chat: tuple[str, ...]
) -> None:
    assert words in refused(capsys, *options, *chat)


def test_a_system_message_without_a_conversation_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert "--system: needs --chat" in refused(capsys, "--system", "Be brief.")


def test_a_draft_of_another_vocabulary_is_one_line(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    other = tiny_model().write(tmp_path / "other.gguf")
    assert "draft: its vocabulary is different" in refused(capsys, "--draft", str(other))


def test_a_context_longer_than_the_models_own_is_warned_of(
    capsys: pytest.CaptureFixture[str], plain: str
) -> None:
    text, err = written(capsys, "--ctx", "1025")
    assert text == plain
    assert err.startswith("llmlite: warning: --ctx 1025: this model was trained for 1024 tokens")
    assert "warning" not in written(capsys, "--ctx", "1024")[1]

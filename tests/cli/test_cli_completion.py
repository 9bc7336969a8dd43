"""Shell completion, asked of the shells themselves; and the width of every help."""

from __future__ import annotations

import argparse
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from llmlite import cli
from llmlite.cli import completion


def parsers(parser: argparse.ArgumentParser) -> Iterator[argparse.ArgumentParser]:
    """Yield a parser and those of all its subcommands."""
    yield parser
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for sub in action.choices.values():
                yield from parsers(sub)


@pytest.mark.parametrize("parser", list(parsers(cli.build_parser())), ids=lambda parser: parser.prog)
def test_every_help_fits_80_columns_however_wide_the_screen(
    parser: argparse.ArgumentParser, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    assert [line for line in parser.format_help().splitlines() if len(line) > 80] == []


@pytest.fixture(scope="module")
def words() -> completion.Words:
    return completion.tree(cli.build_parser())


def asked_of_bash(script: str, folder: Path, *line: str) -> set[str]:
    """What bash itself completes after the words of `line`, in a folder."""
    ask = (
        'COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _llmlite; '
        'printf "%s\\n" "${COMPREPLY[@]}"; complete -p llmlite >&2'
    )
    done = subprocess.run(
        ["bash", "--norc", "-c", f"{script}\n{ask}", "bash", "llmlite", *line],
        cwd=folder, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stderr == "complete -F _llmlite llmlite\n"
    return set(done.stdout.split("\n")) - {""}


@pytest.mark.skipif(shutil.which("bash") is None, reason="bash isn't here")
def test_bash_completes_commands_options_choices_models_and_files(
    words: completion.Words, tmp_path: Path
) -> None:
    script = completion.bash(words)
    (tmp_path / "my model.gguf").touch()
    assert asked_of_bash(script, tmp_path, "") == set(cli.COMMANDS)
    assert asked_of_bash(script, tmp_path, "qu") == {"quantize"}
    assert asked_of_bash(script, tmp_path, "run", "--temp") == {"--temperature"}
    assert asked_of_bash(script, tmp_path, "run", "--kv", "") == {"f16", "f32", "q8_0"}
    assert {"tales", "smollm2", "my model.gguf"} <= asked_of_bash(script, tmp_path, "run", "")
    assert asked_of_bash(script, tmp_path, "run", "my") == {"my model.gguf"}
    assert asked_of_bash(script, tmp_path, "run", "tales", ":", "Q4") == {"Q4_0"}
    assert asked_of_bash(script, tmp_path, "run", "-n", "") == set(), "a number has no completion"
    assert asked_of_bash(script, tmp_path, "completion", "") == {"bash", "zsh", "fish"}
    assert asked_of_bash(script, tmp_path, "workshop", "sch") == {"schedule"}
    assert "prompt-lookup" in asked_of_bash(script, tmp_path, "chat", "--draft", "p")


@pytest.mark.parametrize("shell", completion.SHELLS)
def test_each_shell_accepts_its_script(words: completion.Words, shell: str, tmp_path: Path) -> None:
    script = tmp_path / "script"
    script.write_text(getattr(completion, shell)(words))
    assert "--temperature" in script.read_text() or "-l temperature" in script.read_text()
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} isn't here")
    subprocess.run([shell, "-n", str(script)], check=True)

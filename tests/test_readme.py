"""What the README says works: its Python runs, its commands exist, its make goals and links too."""

from __future__ import annotations

import re
import shlex
import shutil
from pathlib import Path

import pytest

from llmlite import cli, resources
from llmlite.catalog import PACKAGED

ROOT = Path(__file__).resolve().parent.parent
TEXT = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_python_examples_run(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    blocks = re.findall(r"```python\n(.*?)```", TEXT, flags=re.DOTALL)
    assert blocks
    shutil.copy(resources.model_path("tales"), tmp_path / "model.gguf")
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    for block in blocks:
        exec(compile(block, "README.md", "exec"), names)  # one reader, one session: blocks share their names
    if "print(" in TEXT:
        assert capsys.readouterr().out.strip()


def test_the_commands_parse() -> None:
    parser = cli.build_parser()
    lines = re.findall(
        r"^(?:\$ )?llmlite (.*)$", "\n".join(re.findall(r"```sh\n(.*?)```", TEXT, re.DOTALL)), re.M
    )
    for line in lines:
        parser.parse_args(shlex.split(line, comments=True))


def test_every_command_named_exists() -> None:
    named = set(re.findall(r"`llmlite ([a-z]+)", TEXT))
    assert named and named <= set(cli.COMMANDS)


def test_the_models_that_can_be_pulled_are_those_of_the_table() -> None:
    rows = re.findall(r"^\| `([\w.-]+)` \| (.*), (\w+) \| (\d+) MB \| (.*?) \|", TEXT, re.M)
    assert rows == [
        (model.name, model.title, model.type, f"{model.n_bytes_to_fetch / 1e6:.0f}", model.licence)
        for model in PACKAGED.values()
    ]


def test_every_make_goal_named_exists() -> None:
    goals = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M))
    assert set(re.findall(r"`?make ([a-z-]+)`", TEXT)) <= goals


def test_every_local_link_leads_somewhere() -> None:
    for target in re.findall(r"\]\((?!https?://|#)([^)#]+)", TEXT):
        assert (ROOT / target).exists(), target

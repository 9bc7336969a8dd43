"""Our plugin of Simon Willison's `llm`, in the real package: its Python API and its command line."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import llmlite as ll
from tests.support.clients import installed

pytestmark = [pytest.mark.slow, pytest.mark.conformance]
ROOT = Path(__file__).resolve().parents[2]
GREEDY = {"temperature": 0, "max_tokens": 8}
QUESTION = "Where is the fox?"


def entry_point() -> tuple[str, str]:
    """The plugin as pyproject.toml declares it."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    [(name, module)] = project["entry-points"]["llm"].items()
    return name, module


@pytest.fixture(scope="module")
def llm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """The package with our plugin registered, as its entry point asks for."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LLM_USER_PATH", str(tmp_path_factory.mktemp("llm")))
        patch.setenv("LLM_LOAD_PLUGINS", "")  # those of other packages stay out
        found = installed("llm", "llm")
        name, module = entry_point()
        found.plugins.load_plugins()
        if not found.plugins.pm.has_plugin(name):
            found.plugins.pm.register(importlib.import_module(module), name=name)
        yield found


@pytest.fixture(scope="module")
def model() -> ll.Model:
    return ll.load("tales")


def test_the_models_that_are_here_are_listed(llm: Any) -> None:
    listed = {model.model_id for model in llm.get_models()}
    from llmlite import catalog, resources

    pulled = {model.name for model, _ in catalog.pulled(resources.cache_dir())}
    assert {f"llmlite/{name}" for name in ("tales", *pulled)} <= listed


def test_a_prompt_is_answered_as_by_chat_and_streamed(llm: Any, model: ll.Model) -> None:
    want = model.chat(QUESTION, **GREEDY)
    response = llm.get_model("llmlite/tales").prompt(QUESTION, **GREEDY)
    pieces = list(response)
    assert "".join(pieces) == want and len(pieces) > 1
    usage = response.usage()
    made = model.stream_chat(QUESTION, **GREEDY)
    list(made)
    assert (usage.input, usage.output) == (made.n_prompt, len(made.ids))
    assert llm.get_model("llmlite/tales").prompt(QUESTION, stream=False, **GREEDY).text() == want


def test_a_conversation_carries_the_turns_before(llm: Any, model: ll.Model) -> None:
    talk = llm.get_model("llmlite/tales").conversation()
    first = talk.prompt(QUESTION, **GREEDY).text()
    second = talk.prompt("And the lamb?", **GREEDY).text()
    turns = [("user", QUESTION), ("assistant", first), ("user", "And the lamb?")]
    assert second == model.chat([{"role": role, "content": text} for role, text in turns], **GREEDY)


def test_raw_continues_the_prompt_and_a_system_message_excludes_it(llm: Any, model: ll.Model) -> None:
    theirs = llm.get_model("llmlite/tales")
    assert theirs.prompt("The fox", raw=True, **GREEDY).text() == model.generate("The fox", **GREEDY)
    with pytest.raises(ll.LlmliteError, match="raw"):
        theirs.prompt("The fox", system="Be brief.", raw=True).text()


def test_options_reach_the_sampler_and_wrong_ones_are_refused(llm: Any, model: ll.Model) -> None:
    theirs = llm.get_model("llmlite/tales")
    options: dict[str, Any] = {"temperature": 1.5, "seed": 7, "top_k": 12, "max_tokens": 12, "stop": "the"}
    assert theirs.prompt(QUESTION, **options).text() == model.chat(QUESTION, **options)
    with pytest.raises(ValueError, match="nosuch"):
        theirs.prompt(QUESTION, nosuch=1)
    with pytest.raises(ValueError, match="temperature"):
        theirs.prompt(QUESTION, temperature=-1).text()
    with pytest.raises(ValueError, match="attachments"):
        theirs.prompt(QUESTION, attachments=[llm.Attachment(content=b"x", type="image/png")])


def test_every_option_of_a_conversation_is_offered(llm: Any) -> None:
    from llmlite.repl.conversation import settable

    fields = llm.get_model("llmlite/tales").Options.model_fields
    assert set(fields) == {*settable(), "raw", "context", "threads"}


def test_a_schema_holds_the_answer_to_json(llm: Any) -> None:
    schema = {
        "type": "object", "properties": {"a": {"enum": ["x", "y"]}}, "required": ["a"],
        "additionalProperties": False,
    }  # fmt: skip
    answer = llm.get_model("llmlite/tales").prompt(QUESTION, schema=schema, max_tokens=60).text()
    assert json.loads(answer)["a"] in ("x", "y")


@pytest.fixture
def command(tmp_path: Path) -> list[str]:
    """`llm` as its users start it, with the entry point of a package's metadata."""
    installed("llm", "llm")
    name, module = entry_point()
    info = tmp_path / "site" / "llmlite_plugin_test-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: llmlite-plugin-test\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[llm]\n{name} = {module}\n")
    return [sys.executable, "-m", "llm"]


def told(command: list[str], folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "LLM_USER_PATH": str(folder), "LLM_LOAD_PLUGINS": "llmlite-plugin-test"}
    path = [str(folder / "site"), str(ROOT), os.environ.get("PYTHONPATH", "")]
    environment["PYTHONPATH"] = os.pathsep.join(path)
    return subprocess.run(
        [*command, *arguments], env=environment, capture_output=True, text=True, timeout=300,
        stdin=subprocess.DEVNULL,
    )  # fmt: skip


def test_the_command_line_lists_prompts_goes_on_and_explains_errors(
    command: list[str], tmp_path: Path, model: ll.Model
) -> None:
    listed = told(command, tmp_path, "models", "list", "--options", "-m", "llmlite/tales")
    assert listed.returncode == 0 and "llmlite/tales" in listed.stdout, listed.stderr
    assert "top_k: int" in listed.stdout and "among the K likeliest" in listed.stdout
    options = [part for key, value in GREEDY.items() for part in ("-o", key, str(value))]
    first = told(command, tmp_path, "-m", "llmlite/tales", *options, QUESTION)
    assert first.stdout == model.chat(QUESTION, **GREEDY) + "\n", first.stderr
    more = told(command, tmp_path, "-c", *options, "And the lamb?")
    turns = [("user", QUESTION), ("assistant", first.stdout[:-1]), ("user", "And the lamb?")]
    want = model.chat([{"role": role, "content": text} for role, text in turns], **GREEDY)
    assert more.stdout == want + "\n", more.stderr
    wrong = told(command, tmp_path, "-m", "llmlite/tales", "-o", "temperature", "-1", QUESTION)
    assert wrong.returncode == 1 and "temperature" in wrong.stderr and "Traceback" not in wrong.stderr

"""`llmlite chat`: on a real terminal (a pty), and its parts without one."""

from __future__ import annotations

import io
import json
import os
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import llmlite as ll
from llmlite.errors import LlmliteError
from llmlite.repl.commands import Quit, obey
from llmlite.repl.conversation import Conversation, settable
from llmlite.repl.reading import History, completions, whole
from llmlite.repl.showing import Blocks, MarkdownView

ROOT = Path(__file__).resolve().parents[2]
CHAT = ["-m", "llmlite", "chat", "--executor", "eager", "--temperature", "0"]
ENDED = r"\[prompt \d+ tokens"


@pytest.fixture(scope="module")
def model(tales: Path) -> ll.Model:
    return ll.load(tales, executor="eager")


@pytest.fixture
def conversation(model: ll.Model) -> Conversation:
    return Conversation(model, {"temperature": 0, "max_tokens": 4})


def started(tmp_path: Path, *arguments: str) -> Any:
    """Start `llmlite chat` on a terminal of its own."""
    pexpect = pytest.importorskip("pexpect", reason="pexpect isn't here")
    if sys.platform == "win32":
        pytest.skip("a pty is POSIX")
    environment = {
        **os.environ,
        "TERM": "xterm",
        "PROMPT_TOOLKIT_NO_CPR": "1",
        "LLMLITE_CACHE": str(tmp_path),
    }
    environment.pop("LLMLITE_DEBUG", None)
    return pexpect.spawn(
        sys.executable, [*CHAT, *arguments], cwd=str(ROOT), env=environment, encoding="utf-8", timeout=20,
        dimensions=(24, 80),
    )  # fmt: skip


def exit_code(chat: Any) -> int:
    """Wait for the program's end."""
    import pexpect

    chat.expect_exact(pexpect.EOF)
    chat.close()
    return chat.exitstatus


# --- on a terminal ----------------------------------------------------------------------------


def test_a_plain_conversation_on_a_terminal(tmp_path: Path) -> None:
    chat = started(tmp_path, "--plain", "-n", "5")
    chat.expect("/help lists")
    chat.expect("> ")
    chat.sendline("Hello")
    chat.expect(ENDED)
    chat.expect("> ")
    chat.sendline("/nosuch")
    chat.expect("no command /nosuch")
    chat.sendline("/stats")
    chat.expect("answers: 1, 5 tokens")
    chat.expect("> ")
    chat.sendcontrol("c")
    chat.expect("/quit or Ctrl-D ends")
    chat.expect("> ")
    chat.sendcontrol("d")
    assert exit_code(chat) == 0
    typed = [json.loads(line) for line in (tmp_path / "chat-history.jsonl").read_text().splitlines()]
    assert typed == ["Hello", "/nosuch", "/stats"]
    assert stat.S_IMODE((tmp_path / "chat-history.jsonl").stat().st_mode) == 0o600


def test_ctrl_c_stops_the_answer_and_the_next_question_is_answered(tmp_path: Path) -> None:
    chat = started(tmp_path, "--plain", "-n", "900", "--regex", "[a-z ]{5000}")  # it must go on
    chat.expect("> ")
    chat.sendline("Sing")
    chat.expect("[a-z ]{20}")
    chat.sendcontrol("c")
    chat.expect(r"interrupted\]")
    chat.expect("> ")
    chat.sendline("/set max_tokens 3")
    chat.expect("max_tokens = 3")
    chat.sendline("Again")
    chat.expect("made 3 tokens")
    chat.sendline("/quit")
    assert exit_code(chat) == 0


def test_with_prompt_toolkit_and_rich_lines_are_edited_and_several_are_one_message(tmp_path: Path) -> None:
    pytest.importorskip("prompt_toolkit")
    pytest.importorskip("rich")
    chat = started(tmp_path, "-n", "5")
    chat.expect("\\x1b\\[\\?25h")  # the cursor is shown: it waits
    for keys in ("first", "\x1b\r", "second", "\r"):  # Alt-Enter between them
        chat.send(keys)
    chat.expect(ENDED)
    chat.expect("\\x1b\\[\\?25h")  # the cursor is shown: it waits
    for keys in ("/sta", "\t", "\r"):
        chat.send(keys)
    chat.expect("answers: 1, 5 tokens")
    chat.expect("\\x1b\\[\\?25h")
    chat.send("\x04")
    assert exit_code(chat) == 0
    first = (tmp_path / "chat-history.jsonl").read_text().splitlines()[0]
    assert json.loads(first) == "first\nsecond"


def test_a_pipe_is_read_line_by_line_and_holds_no_history(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, *CHAT, "-n", "3"], input=b"Hello\n\xff\xfe\n/stats", cwd=ROOT, capture_output=True,
        env={**os.environ, "LLMLITE_CACHE": str(tmp_path)}, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0 and b"answers: 2, 6 tokens" in done.stderr
    assert not (tmp_path / "chat-history.jsonl").exists()


def test_standard_output_that_goes_away_ends_the_conversation_with_141() -> None:
    running = subprocess.Popen(
        [sys.executable, *CHAT, "-n", "3"], cwd=ROOT, text=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    assert running.stdin and running.stdout and running.stderr
    running.stdout.close()
    running.stdin.write("Hello\n" * 3)
    running.stdin.close()
    assert running.wait(timeout=120) == 141
    assert "Traceback" not in running.stderr.read()


# --- commands ---------------------------------------------------------------------------------


def test_retry_and_undo_change_the_messages_as_they_say(conversation: Conversation) -> None:
    conversation.ask("Hello")
    conversation.keep(_finished(conversation))
    before = list(conversation.messages)
    assert obey("/retry", conversation)
    assert conversation.messages == before[:1]
    obey("/undo", conversation)
    assert conversation.messages == []


def _finished(conversation: Conversation) -> ll.Generation:
    generation = conversation.answer()
    for _ in generation:
        pass
    return generation


def test_set_changes_what_the_next_answer_is_made_with(conversation: Conversation) -> None:
    obey("/set max-tokens 2", conversation)
    conversation.ask("Hello")
    assert len(_finished(conversation).ids) == 2
    obey("/set max_tokens default", conversation)
    assert "max_tokens" not in conversation.options


@pytest.mark.parametrize("line", ["/set top_p 4", "/set top_k x", "/set max_tokens -1", "/set max_tokens 1.5",
                                  "/set chain 1", "/set", "/set top_k", "/save", "/load", "/load /no/such",
                                  "/retry", "/nosuch", "/save /no/such/folder/file", "/"])  # fmt: skip
def test_a_wrong_command_is_said_and_changes_nothing(
    conversation: Conversation, line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    before = dict(conversation.options)
    assert not obey(line, conversation)
    assert conversation.options == before and conversation.messages == []
    assert capsys.readouterr().err


@pytest.mark.parametrize("name", settable())
def test_every_option_that_can_be_set_is_one_that_an_answer_takes(
    conversation: Conversation, name: str
) -> None:
    conversation.set_option(name, "1")
    conversation.ask("Hello")
    assert conversation.answer().stop_reason is None


def test_quit_and_its_other_names_end(conversation: Conversation) -> None:
    for line in ("/quit", "/exit"):
        with pytest.raises(Quit):
            obey(line, conversation)


def test_a_saved_conversation_loads_as_it_was(conversation: Conversation, tmp_path: Path) -> None:
    obey("/system Be brief.", conversation)
    conversation.ask("Hé\n\u202e")
    path = tmp_path / "talk.json"
    obey(f"/save {path}", conversation)
    with pytest.raises(LlmliteError, match="exists already"):
        conversation.save(path)
    other = Conversation(conversation.model)
    obey(f"/load {path}", other)
    assert other.all_messages() == conversation.all_messages()


NO_CONVERSATIONS = [
    *("", "{", "\x00", "[1]", '{"messages": 3}', "[" * 100_000),
    *('[{"role": "user"}]', '[{"role": "root", "content": ""}]', '[{"role": [], "content": ""}]'),
    '[{"role": "user", "content": ""}, {"role": "system", "content": ""}]',
]


@pytest.mark.parametrize("text", NO_CONVERSATIONS, ids=range(len(NO_CONVERSATIONS)))
def test_a_file_that_is_no_conversation_is_refused_and_nothing_is_lost(
    conversation: Conversation, tmp_path: Path, text: str
) -> None:
    conversation.ask("Hello")
    path = tmp_path / "bad.json"
    path.write_text(text)
    with pytest.raises(LlmliteError, match="bad.json"):
        conversation.load(path)
    assert len(conversation.messages) == 1


# --- reading ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["one"], "one"),
        (["a\\", "b\\", "c"], "a\nb\nc"),
        (['"""', "a", "", "b", '"""'], "a\n\nb"),
        (['"""a', 'b"""'], "a\nb"),
        (['"""a"""'], "a"),
        (['"""', "a"], "a"),  # the input ends inside
        (["a\\"], "a"),
        ([], None),
    ],
)
def test_several_lines_become_one_message(lines: list[str], message: str | None) -> None:
    rest = iter(lines)
    assert whole(lambda _prompt: next(rest, None)) == message


def test_completion_knows_commands_and_options() -> None:
    assert "/reset" in completions("/re") and "/retry" in completions("/re")
    assert completions("/set temp") == ["temperature"]
    assert completions("hello") == [] and completions("/set temperature 1") == []


def test_the_history_survives_and_damage_costs_only_the_damaged_line(tmp_path: Path) -> None:
    path = tmp_path / "history"
    History(path).add("a\nb")
    with path.open("ab") as file:
        file.write(b"\xff broken\n3\n")
    History(path).add("c")
    assert History(path).entries == ["a\nb", "c"]
    History(tmp_path / "no" / "such").add("kept nowhere")


# --- showing ----------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
def test_blocks_end_at_blank_lines_but_never_inside_code_however_it_arrives(size: int) -> None:
    text = "# A\n\nb\nc\n\n```py\nx\n\ny\n```\n\nlast"
    blocks = Blocks()
    done = [block for i in range(0, len(text), size) for block in blocks.add(text[i : i + size])]
    assert done == ["# A", "b\nc", "```py\nx\n\ny\n```"] and blocks.rest == "last"


def test_markdown_is_set_and_nothing_in_an_answer_steers_the_terminal() -> None:
    console_module = pytest.importorskip("rich.console")
    out = io.StringIO()
    console = console_module.Console(file=out, force_terminal=True, width=60, color_system=None)
    pieces = ["**bo", "ld**\n\n", "\x1b]0;title\x07 \x9b2J ", "[click](http://a.b)\n\n```\nco", "de\n```\n"]
    MarkdownView(console).show(iter(pieces))  # type: ignore[arg-type]
    text = out.getvalue()
    assert "bold" in text and "**bold**" not in text
    assert "\x1b]" not in text and "\x07" not in text and "\x9b" not in text
    assert "http://a.b" in text and "code" in text

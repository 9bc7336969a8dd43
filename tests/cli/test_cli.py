"""The command line as a user meets it: what it prints, where, and the exit code."""

from __future__ import annotations

import io
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from llmlite import cli
from llmlite.cli import show
from tests.support.cli import failing, output

ROOT = Path(__file__).resolve().parents[2]


def process(*arguments: str, **options: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "llmlite", *arguments]
    return subprocess.Popen(command, cwd=ROOT, text=True, **options)  # type: ignore[call-overload]


# --- help -------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", cli.COMMANDS)
def test_help_teaches_with_examples(capsys: pytest.CaptureFixture[str], command: str) -> None:
    with pytest.raises(SystemExit) as end:
        cli.main([command, "--help"])
    assert end.value.code == 0
    text = capsys.readouterr().out
    assert "examples:" in text
    assert f"  llmlite {command}" in text


@pytest.mark.parametrize("command", cli.COMMANDS)
def test_examples_in_the_help_parse(command: str) -> None:
    import shlex
    from importlib import import_module

    parser = cli.build_parser()
    for line in import_module(f"llmlite.cli.{command}").EXAMPLES.splitlines():
        text = line.partition("  llmlite ")[2].partition("   ")[0]
        text = re.split(r" \| | < | >>? ", text)[0]  # what a shell reads itself
        if text:
            parser.parse_args(shlex.split(text))


def test_version_is_printed_and_so_by_the_module(capsys: pytest.CaptureFixture[str]) -> None:
    from llmlite import __version__

    with pytest.raises(SystemExit):
        cli.main(["--version"])
    assert capsys.readouterr().out == f"llmlite {__version__}\n"
    assert process("--version", stdout=subprocess.PIPE).communicate()[0] == f"llmlite {__version__}\n"


def test_an_unknown_command_exits_with_2(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        cli.main(["nosuch"])
    assert end.value.code == 2


# --- wrong requests ---------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["run", "show"])
def test_a_wrong_path_is_one_sentence(capsys: pytest.CaptureFixture[str], command: str) -> None:
    assert "nosuch.gguf" in failing(capsys, command, "nosuch.gguf")


@pytest.mark.parametrize("command", ["run", "show"])
@pytest.mark.parametrize("content", [b"", b"GG", b"not a model at all, but long enough to be one"])
def test_a_file_that_is_no_gguf_is_one_sentence(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, command: str, content: bytes
) -> None:
    file = tmp_path / "x.gguf"
    file.write_bytes(content)
    assert "x.gguf" in failing(capsys, command, str(file))


def test_a_folder_is_one_sentence(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    failing(capsys, "show", str(tmp_path))


def test_a_prompt_longer_than_the_context_is_one_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    prompt = "Once upon a time there was a fox and a hen."
    assert "8" in failing(capsys, "run", "--executor", "eager", "--ctx", "8", "--no-echo", "-p", prompt)


def test_an_unknown_quantization_is_one_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    assert "Q9_9" in failing(capsys, "run", "tales:Q9_9")


@pytest.mark.parametrize(
    "arguments",
    [
        ["--temperature", "-1"],
        ["--top-p", "1.5"],
        ["-n", "-3"],
        ["--top-k", "many"],
        ["--seed", "-1"],
        ["--ctx", "0"],
    ],
)
def test_an_option_outside_its_range_exits_with_2(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        cli.main(["run", *arguments])
    assert end.value.code == 2
    assert arguments[0] in capsys.readouterr().err


def test_the_debug_variable_shows_the_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    from llmlite.errors import LlmliteError

    monkeypatch.setenv("LLMLITE_DEBUG", "1")
    with pytest.raises(LlmliteError):
        cli.main(["show", "nosuch.gguf"])


# --- run --------------------------------------------------------------------------------------


def test_run_without_a_model_tells_a_tale_and_the_figures_go_to_stderr(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert cli.main(["run", "-n", "8", "--temperature", "0"]) == 0
    captured = capsys.readouterr()
    assert captured.out.startswith("Once upon a time")
    assert captured.out.endswith("\n")
    assert "made 8 tokens" in captured.err


def test_a_seed_repeats_the_text(capsys: pytest.CaptureFixture[str]) -> None:
    first = output(capsys, "run", "-n", "12", "--seed", "3")
    assert output(capsys, "run", "-n", "12", "--seed", "3") == first
    assert any(output(capsys, "run", "-n", "12", "--seed", str(seed)) != first for seed in (4, 5, 6))


def test_quiet_and_no_echo_leave_only_the_new_text(capsys: pytest.CaptureFixture[str]) -> None:
    whole = output(capsys, "run", "-p", "The fox", "-n", "6", "--temperature", "0")
    assert cli.main(["run", "-p", "The fox", "-n", "6", "--temperature", "0", "--no-echo", "--quiet"]) == 0
    captured = capsys.readouterr()
    assert "The fox" + captured.out == whole
    assert captured.err == ""


def test_chat_answers_every_line_of_its_input() -> None:
    running = process("run", "--chat", "-n", "4", "--temperature", "0", stdin=subprocess.PIPE,
                      stdout=subprocess.PIPE, stderr=subprocess.PIPE)  # fmt: skip
    _, err = running.communicate("Hello\n/new\n/what\nWho are you?\n/exit\nnever asked\n", timeout=120)
    assert running.returncode == 0
    assert err.count("[prompt ") == 2
    assert err.count("/help lists them") == 1, "a wrong command is answered with where the right ones are"


def test_a_reader_that_goes_away_is_no_error() -> None:
    running = process("show", "tales", "--json", stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert running.stdout and running.stderr
    running.stdout.close()
    assert running.stderr.read() == ""
    assert running.wait(timeout=60) in (0, 141)


def interrupt(generation: object) -> str:
    raise KeyboardInterrupt


def test_ctrl_c_while_it_writes_ends_quietly_with_130(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("llmlite.cli.run.stream", interrupt)
    assert cli.main(["run", "--executor", "eager"]) == 130
    assert capsys.readouterr().err == "\n"


def test_ctrl_c_in_a_conversation_stops_the_answer_and_goes_on(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("llmlite.repl.showing.PlainView.show", lambda _self, answer: interrupt(answer))
    monkeypatch.setattr("sys.stdin", io.StringIO("Hello\nHello again\n"))
    assert cli.main(["run", "--chat", "--executor", "eager"]) == 0
    assert capsys.readouterr().err.count("interrupted") == 2


@pytest.mark.skipif(sys.platform == "win32", reason="signals are POSIX")
def test_ctrl_c_at_the_prompt_ends_quietly_with_130() -> None:
    def heed() -> None:  # started from a script in the background, tests inherit that Ctrl-C is ignored
        signal.signal(signal.SIGINT, signal.SIG_DFL)

    running = process("run", "--chat", "--executor", "eager", "-n", "2", stdin=subprocess.PIPE,
                      stdout=subprocess.PIPE, stderr=subprocess.PIPE, preexec_fn=heed)  # fmt: skip
    assert running.stdin and running.stderr
    running.stdin.write("Hello\n")
    running.stdin.flush()
    assert running.stderr.readline().startswith("[prompt "), "it has answered and waits for the next line"
    running.send_signal(signal.SIGINT)
    _, err = running.communicate(timeout=60)
    assert running.returncode == 130
    assert "Traceback" not in err


# --- show, tokenize ---------------------------------------------------------------------------


def test_show_names_every_tensor_and_key(capsys: pytest.CaptureFixture[str]) -> None:
    from llmlite import gguf, resources

    text = output(capsys, "show", "tales")
    with gguf.read(resources.model_path("tales")) as file:
        assert all(name in text for name in [*file.tensors, *file.metadata])
    assert "GGUF version 3" in text


def test_show_lets_no_escape_sequence_of_a_file_pass(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    import numpy as np

    from llmlite import gguf

    path = tmp_path / "hostile.gguf"
    weights = {"w\x1b[2J\u202e": np.zeros((1, 32), np.float32)}
    gguf.write(path, {"general.name": "\x1b]0;name\x07", "k\x1b[31m": "v\x1b[0m\udc80"}, weights)
    text = output(capsys, "show", str(path)) + output(
        capsys, "show", str(path), "--tensor", next(iter(weights))
    )
    assert "w\\x1b[2J" in text
    assert all(char.isprintable() or char == "\n" for char in text)


def test_show_json_is_json_with_whole_arrays(capsys: pytest.CaptureFixture[str]) -> None:
    record = json.loads(output(capsys, "show", "tales", "--json"))
    assert record["metadata"]["general.architecture"] == "llama"
    assert len(record["metadata"]["tokenizer.ggml.tokens"]) > 1000
    assert {"name", "type", "shape", "n_bytes", "bits_per_weight"} == set(record["tensors"][0])


def test_show_a_block_prints_its_bytes_and_weights(capsys: pytest.CaptureFixture[str]) -> None:
    from llmlite import gguf, resources

    arguments = ["show", "tales:Q4_0", "--tensor", "blk.0.attn_q.weight", "--block", "1"]
    text = output(capsys, *arguments)
    with gguf.read(resources.model_path("tales:Q4_0")) as file:
        tensor = file.tensors["blk.0.attn_q.weight"]
        block = json.loads(output(capsys, *arguments, "--json"))["block"]
        assert bytes.fromhex(block["bytes"]) == bytes(tensor.blocks[1])
        assert block["weights"] == tensor.dequantize().reshape(-1)[32:64].tolist()
        assert bytes(tensor.blocks[1])[:8].hex(" ") in text


def test_a_wrong_tensor_name_suggests_the_right_one(capsys: pytest.CaptureFixture[str]) -> None:
    assert "did you mean blk.0.attn_q.weight" in failing(
        capsys, "show", "tales", "--tensor", "blk.0.atn_q.weight"
    )


def test_a_wrong_block_says_which_there_are(capsys: pytest.CaptureFixture[str]) -> None:
    assert "0 to" in failing(
        capsys, "show", "tales", "--tensor", "blk.0.attn_q.weight", "--block", "99999999"
    )
    assert "--tensor" in failing(capsys, "show", "tales", "--block", "0")


def test_json_knows_no_nan() -> None:
    import numpy as np

    assert show.plain(np.array([np.nan, np.inf, 1.0])) == ["nan", "inf", 1.0]


def test_tokenize_gives_ids_that_decode_to_the_text(capsys: pytest.CaptureFixture[str]) -> None:
    rows = json.loads(output(capsys, "tokenize", "--json", "--no-special", "a fox, 🦊"))
    assert b"".join(bytes.fromhex(row["bytes"]) for row in rows).decode() == "a fox, 🦊"
    ids = output(capsys, "tokenize", "--ids", "--no-special", "a fox, 🦊").split()
    assert [int(token) for token in ids] == [row["id"] for row in rows]


def test_an_unreadable_output_encoding_does_not_crash() -> None:
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    running = process("tokenize", "a 🦊", env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    out, err = running.communicate(timeout=60)
    assert running.returncode == 0, err
    assert "tokens" in out


def test_no_command_writes_over_what_it_reads(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    text = tmp_path / "text.txt"
    text.write_text("Once upon a time there was a fox. " * 40, encoding="utf-8")
    output(capsys, "split", "tales", "part", "--max-tensors", "30")
    first, second = sorted(tmp_path.glob("part-*.gguf"))
    before = {path: path.read_bytes() for path in (text, first, second)}
    for arguments in (
        ("imatrix", first.name, text.name, "-o", text.name, "-c", "64", "--force"),
        ("imatrix", first.name, text.name, "-o", first.name, "-c", "64", "--force"),
        ("imatrix", first.name, text.name, "-o", second.name, "-c", "64", "--force"),
        ("merge", first.name, second.name, "--force"),
        ("quantize", first.name, second.name, "Q4_0", "--force"),
        ("split", first.name, "part", "--max-tensors", "30"),
    ):
        assert "of the source" in (said := failing(capsys, *arguments)) or "the source itself" in said
    assert "--force" in failing(capsys, "imatrix", "tales", text.name, "-o", second.name, "-c", "64")
    assert {path: path.read_bytes() for path in before} == before


@pytest.mark.parametrize(
    "arguments", [("run", "--temperature", "inf"), ("synth", "smollm2-135m", "--seed", "-1")]
)
def test_numbers_that_cannot_be_are_refused(
    capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...]
) -> None:
    try:
        assert cli.main(arguments) == 2
    except SystemExit as stop:
        assert stop.code == 2
    assert "Traceback" not in capsys.readouterr().err


def test_bytes_that_are_not_utf8_are_named_wherever_a_text_is_read(tmp_path: Path) -> None:
    latin = "Straße. ".encode("latin-1") * 300
    story = tmp_path / "story.txt"
    story.write_bytes(latin)
    for arguments in (
        ["perplexity", "tales", str(story), "--chunks", "1"],
        ["tokenize", "-"],
        ["run", "-p", "-", "-n", "1"],
    ):
        done = subprocess.run(
            [sys.executable, "-m", "llmlite", *arguments], input=latin[:80], capture_output=True, check=True
        )
        name = story if "perplexity" in arguments else "standard input"
        assert f"llmlite: {name}: byte 4 is not UTF-8" in done.stderr.decode()
    done = subprocess.run(
        [sys.executable, "-m", "llmlite", "tokenize", "-"],
        input="Straße".encode(),
        capture_output=True,
        check=True,
    )
    assert done.stderr == b""

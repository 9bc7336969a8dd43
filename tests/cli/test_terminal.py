"""No text from a file steers a terminal: hostile strings through every command, and where they come out."""

from __future__ import annotations

import ast
import errno
import json
import os
import subprocess
import sys
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmlite import cli, gguf, terminal
from llmlite.errors import ChatTemplateError, GGUFError, GGUFWarning, ModelError
from llmlite.quants.tensor import QuantTensor
from llmlite.terminal import HARMFUL, json_text, printable
from tests.support.synthetic import synthetic_comparison
from tests.support.tiny_models import tiny_model

PACKAGE = Path(__file__).resolve().parents[2] / "llmlite"
EVIL = "\x1b[2J\x1b]0;title\x07\x9b31m\x7f\r\u202egnp.\u2066\u2069\u200f\u061c\u2028"
EVIL_NAME = "e\x1b[2J\x9b\u202e\u2066vil"  # as a file may be called


# ---- the function ------------------------------------------------------------------------------------------


@given(st.text())
def test_printable_leaves_nothing_that_steers_a_terminal(text: str) -> None:
    shown = printable(text)
    for character in shown:
        kind = unicodedata.category(character)
        assert character in "\n\t" or kind not in ("Cc", "Cs", "Zl", "Zp")
        assert unicodedata.bidirectional(character) not in (
            *("LRE", "RLE", "LRO", "RLO", "PDF"),
            *("LRI", "RLI", "FSI", "PDI"),
        )
    assert printable(shown) == shown


@given(st.text())
def test_text_without_controls_stays_as_it_is(text: str) -> None:
    harmless = HARMFUL.sub("", text)
    assert printable(harmless) == harmless


def test_tabs_newlines_emoji_and_right_to_left_letters_stay() -> None:
    text = "a\tb\nשלום مرحبا 👩‍👩‍👧 é ﬁ"
    assert printable(text) == text


@given(st.recursive(st.text(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)))
def test_json_text_is_the_same_value_and_harmless(value: object) -> None:
    text = json_text(value)
    assert not HARMFUL.search(text)
    assert json.loads(text) == value


@pytest.mark.parametrize(
    "error",
    [
        GGUFError(EVIL, EVIL, 5, EVIL, EVIL, EVIL),
        ChatTemplateError(EVIL),
        ModelError.at(EVIL, EVIL, EVIL),
        GGUFWarning(EVIL),
    ],
)
def test_an_errors_text_is_fit_for_a_terminal(error: Exception) -> None:
    assert not HARMFUL.search(str(error))


def test_only_the_terminal_module_prints() -> None:
    """Every way from a command to a terminal goes through `say`, `say_text` or `complain`."""
    for path in sorted(PACKAGE.rglob("*.py")):
        if path.name == "terminal.py":
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            called = ast.unparse(node.func) if isinstance(node, ast.Call) else ""
            assert called not in ("print", "sys.stdout.write", "sys.stderr.write"), f"{path}:{node.lineno}"
            if path.parent.name == "cli":
                assert called != "json.dumps" or "indent" in ast.unparse(node), f"{path}:{node.lineno}"


# ---- every command -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files whose every text is hostile, in a folder with a hostile name."""
    place = tmp_path_factory.mktemp("terminal") / EVIL_NAME
    place.mkdir()
    model = tiny_model(n_ctx=64)
    tokens = list(model.metadata["tokenizer.ggml.tokens"])
    tokens[-1] = f"<|{EVIL}|>"
    model.metadata |= {
        "tokenizer.ggml.tokens": tokens,
        "general.name": EVIL,
        f"evil.{EVIL}": EVIL,
        "evil.list": [EVIL, EVIL],
        "tokenizer.chat_template": "{{ raise_exception('" + EVIL.replace("\u2028", "") + "') }}",
    }
    model.write(place / f"{EVIL_NAME}.gguf")
    weights = {
        f"blk.0.{EVIL[:20]}": QuantTensor.quantize(np.ones((2, 32), np.float32), "F32", "x"),
        f"nan.{EVIL[:20]}": QuantTensor.quantize(np.full((2, 32), np.nan, np.float32), "F32", "x"),
    }
    gguf.write(place / f"names{EVIL_NAME}.gguf", model.metadata, weights)
    comparison = synthetic_comparison()
    comparison.environment["cpu_info"] = EVIL
    comparison.skipped.append({"backend": "llamacpp", "reason": EVIL})
    comparison.agreement[0] |= {"agrees": False, "reason": EVIL}
    comparison.notes.append(EVIL)
    comparison.save(place / f"{EVIL_NAME}.jsonl")
    (place / "damaged.jsonl").write_text(json.dumps({"kind": EVIL, EVIL: EVIL}))
    (place / f"{EVIL_NAME}.txt").write_text("the cat sat on the mat " * 40)
    (place / "hf").mkdir()
    (place / "hf" / "config.json").write_text(json.dumps({"architectures": [EVIL], "model_type": EVIL}))
    return place


COMMANDS = {
    "run": "run MODEL -n 0 --executor eager",
    "run-chat": "run MODEL --chat -p hello --executor eager",
    "run-names": "run NAMES --executor eager",
    "show": "show MODEL",
    "show-names": "show NAMES",
    "show-json": "show NAMES --json",
    "show-tensor": "show NAMES --tensor EVIL --block 0",
    "show-wrong-tensor": "show MODEL --tensor EVIL",
    "show-check": "show NAMES --check",
    "tokenize": "tokenize -m MODEL TOKEN",
    "tokenize-json": "tokenize -m MODEL TOKEN --json",
    "quantize": "quantize MODEL OUT Q8_0",
    "quantize-dry": "quantize NAMES OUT Q8_0 --dry-run",
    "quantize-names": "quantize NAMES OUT Q8_0",
    "quantize-type": "quantize MODEL OUT EVIL",
    "quantize-override": "quantize MODEL OUT Q8_0 --tensor-type (EVIL=Q8_0",
    "imatrix": "imatrix MODEL TEXT -o OUT -c 16 --chunks 2",
    "perplexity": "perplexity MODEL TEXT -c 16 --chunks 2 --executor eager",
    "perplexity-json": "perplexity MODEL TEXT -c 16 --chunks 2 --executor eager --json",
    "kl": "kl MODEL TEXT --reference MODEL -c 16 --chunks 2 --executor eager",
    "kl-json": "kl MODEL TEXT --reference MODEL -c 16 --chunks 2 --executor eager --json",
    "convert": "convert FOLDER/hf OUT",
    "convert-file": "convert TEXT OUT",
    "split": "split MODEL FOLDER/part --max-tensors 4",
    "merge": "merge MODEL OUT",
    "warmup": "warmup NAMES",
    "synth": "synth EVIL -o OUT",
    "doctor": "doctor",
    "doctor-json": "doctor --json",
    "doctor-code": "doctor --code",
    "doctor-decode": "doctor --decode EVIL TEXT",
    "workshop-mail": "workshop mail --where EVIL",
    "workshop-bundle": "workshop bundle OUT --for EVIL",
    "lab": "lab FOLDER/lessons --copy-only",
    "compare": "compare --from RESULTS -o FOLDER/out",
    "compare-damaged": "compare --from FOLDER/damaged.jsonl",
    "compare-model": "compare NOSUCH -o FOLDER/out --backends EVIL",
    "unknown-arguments": "show MODEL NAMES",
    "unknown-command": "EVIL",
} | {
    f"{command}-nosuch": f"{command} NOSUCH {rest}"
    for command, rest in {
        **dict.fromkeys(("run", "show", "imatrix", "perplexity", "kl", "warmup"), ""),
        **dict.fromkeys(("convert", "merge"), "OUT"),
        "quantize": "OUT Q8_0",
        "split": "FOLDER/part --max-tensors 4",
    }.items()
}


def arguments(words: str, folder: Path) -> list[str]:
    found = {
        "MODEL": folder / f"{EVIL_NAME}.gguf",
        "NAMES": folder / f"names{EVIL_NAME}.gguf",
        "RESULTS": folder / f"{EVIL_NAME}.jsonl",
        "TEXT": folder / f"{EVIL_NAME}.txt",
        "OUT": folder / f"out{EVIL_NAME}.gguf",
        "NOSUCH": folder / f"nosuch{EVIL_NAME}.gguf",
        "FOLDER": folder,
        "TOKEN": f"the <|{EVIL}|> {EVIL}",
        "EVIL": f"blk.0.{EVIL[:20]}",
    }
    made = []
    for word in words.split():
        for name, value in found.items():
            word = word.replace(name, str(value))
        made.append(word)
    return made


@pytest.mark.parametrize("name", COMMANDS)
def test_no_command_passes_on_what_steers_a_terminal(
    name: str, folder: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    if name.startswith("doctor"):
        monkeypatch.setenv("LLMLITE_CACHE", str(folder / "cache"))
    try:
        code = cli.main(arguments(COMMANDS[name], folder))
    except SystemExit as end:  # argparse
        code = end.code
    for path in folder.glob("out*.gguf"):
        path.unlink()
    out, err = capfd.readouterr()
    assert out + err, "the command says something"
    assert not HARMFUL.search(out), HARMFUL.search(out)
    assert not HARMFUL.search(err), HARMFUL.search(err)
    assert code in (0, 1, 2) and "Traceback" not in err
    if name.endswith("-json") and code in (0, 1):
        json.loads(out)


@pytest.mark.skipif(not hasattr(os, "openpty"), reason="this system has no pseudo-terminals")
def test_a_models_text_is_escaped_on_a_terminal_and_raw_in_a_pipe(folder: Path) -> None:
    words = "-n 50 --seed 3 --temperature 50 --top-k 0 --top-p 1 --executor eager --quiet".split()
    words = ["run", str(folder / f"{EVIL_NAME}.gguf"), "-p", f"the {EVIL}", *words]
    command = [sys.executable, "-m", "llmlite", *words]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "PYTHONIOENCODING": "utf-8"}
    raw = subprocess.run(command, env=env, stdout=subprocess.PIPE, check=True).stdout
    assert EVIL.encode() in raw and raw.count(b"\x1b") >= 2, "a pipe gets the text itself"
    ours, theirs = os.openpty()
    process = subprocess.Popen(command, env=env, stdout=theirs, stderr=theirs)
    os.close(theirs)
    shown = b""
    while True:
        try:
            piece = os.read(ours, 65536)
        except OSError as error:
            assert error.errno == errno.EIO  # the other end is closed
            break
        if not piece:
            break
        shown += piece
    assert process.wait() == 0
    text = shown.decode("utf-8", "replace").replace("\r\n", "\n")
    assert not HARMFUL.search(text), HARMFUL.search(text)
    assert "\\x1b[2J" in text and "\\u202e" in text


# ---- progress in a notebook --------------------------------------------------------------------------------


def test_progress_without_a_terminal_says_the_first_message_only(capsys: pytest.CaptureFixture[str]) -> None:
    with terminal.progress() as shown:
        shown.show("making x")
        shown.show("making x: 50%")
    assert capsys.readouterr().err == "llmlite: making x\n"


@pytest.mark.slow  # compiles every kernel of a model, in a cold cache
def test_a_notebooks_outputs_do_not_depend_on_the_cache(tmp_path: Path) -> None:
    nbformat = pytest.importorskip("nbformat", reason="nbformat isn't installed")
    nbclient = pytest.importorskip("nbclient", reason="nbclient isn't installed")
    pytest.importorskip("ipykernel", reason="ipykernel isn't installed")
    cell = nbformat.v4.new_code_cell(
        f"import os; os.environ['LLMLITE_CACHE'] = {str(tmp_path / 'cache')!r}\n"
        "print('before')\nimport llmlite as ll\nm = ll.load('tales:Q4_1')\nprint('loaded')"
    )
    outputs = []
    for _ in range(2):  # with a cold cache, then with a warm one
        book = nbformat.v4.new_notebook(cells=[cell.copy()])
        nbclient.NotebookClient(book, timeout=300, kernel_name="python3").execute()
        outputs.append([output for output in book.cells[0].outputs if output.get("data") != {}])
    (cold, warm) = outputs
    assert all(output["output_type"] == "stream" and output["name"] == "stdout" for output in cold)
    assert "".join(o["text"] for o in cold) == "".join(o["text"] for o in warm) == "before\nloaded\n"

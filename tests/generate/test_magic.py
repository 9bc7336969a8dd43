"""`%load_ext llmlite`, in IPython's own shell and in a notebook that is executed."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("IPython", reason="IPython is not installed (extra lab)")

import llmlite as ll
from llmlite import magic

RUN = "tales --executor eager --temperature 0"
PROMPT = "The fox"


@pytest.fixture(scope="module")
def session() -> Iterator[Any]:
    from IPython.core.interactiveshell import InteractiveShell

    shell = InteractiveShell.instance()
    shell.run_line_magic("load_ext", "llmlite")
    yield shell
    InteractiveShell.clear_instance()


@pytest.fixture
def shell(session: Any, capsys: pytest.CaptureFixture[str]) -> Any:
    session.run_line_magic("colors", "nocolor")
    capsys.readouterr()
    return session


@pytest.fixture(scope="module")
def expected() -> str:
    return ll.load("tales", executor="eager").generate(PROMPT, max_tokens=6, temperature=0)


def ran(shell: Any, code: str, capsys: pytest.CaptureFixture[str]) -> str:
    result = shell.run_cell(code)
    assert result.success, capsys.readouterr()
    return capsys.readouterr().out


def refused(shell: Any, code: str, capsys: pytest.CaptureFixture[str]) -> str:
    """What IPython shows of a cell that fails; it must be one line, without a traceback."""
    assert not shell.run_cell(code).success
    shown = capsys.readouterr()
    text = (shown.out + shown.err).strip()
    assert text.startswith("UsageError: ") and "Traceback" not in text and "\n" not in text
    return text


def test_a_line_prints_the_prompt_and_what_the_model_adds(
    shell: Any, capsys: pytest.CaptureFixture[str], expected: str
) -> None:
    out = ran(shell, f'%llm {RUN} -n 6 -p "{PROMPT}"', capsys)
    assert out.startswith(PROMPT + expected + "\n[prompt ") and "made 6 tokens" in out
    assert ran(shell, f'%llm {RUN} -n 6 --no-echo --quiet -p "{PROMPT}"', capsys) == expected + "\n"


def test_a_cell_is_the_prompt_and_out_keeps_the_generation(
    shell: Any, capsys: pytest.CaptureFixture[str], expected: str
) -> None:
    out = ran(shell, f"%%llm {RUN} -n 6 --quiet --out made\n{PROMPT}\n", capsys)
    assert out == expected + "\n"
    made = shell.user_ns["made"]
    assert made.text == expected and len(made.logprobs) == len(made.ids) == 6


def test_chat_asks_in_the_models_form(shell: Any, capsys: pytest.CaptureFixture[str]) -> None:
    out = ran(shell, f"%%llm {RUN} -n 8 --chat --quiet\nWhere is the fox?\n", capsys)
    want = ll.load("tales", executor="eager").chat("Where is the fox?", max_tokens=8, temperature=0)
    assert out == want + "\n"


def test_braces_in_a_pattern_are_no_variables(shell: Any, capsys: pytest.CaptureFixture[str]) -> None:
    out = ran(shell, f"%llm {RUN} --no-echo --quiet --regex '[a-z]{{3}}'", capsys)
    assert re.fullmatch("[a-z]{3}\n", out)


def test_pieces_arrive_one_by_one(shell: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    pieces: list[str] = []
    monkeypatch.setattr(magic, "say", lambda *text, **_options: pieces.extend(map(str, text)))
    shell.run_cell(f"%%llm {RUN} -n 6 --quiet\n{PROMPT}\n")
    assert len(pieces) >= 6


def test_the_last_model_stays_loaded(shell: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    loads: list[str] = []
    load = magic.load_model
    monkeypatch.setattr(magic, "load_model", lambda options: loads.append(options.model) or load(options))
    for code in (f"{RUN} -n 1", f"{RUN} -n 2", f"{RUN} -n 1 --ctx 64", f"{RUN} -n 1 --ctx 64"):
        assert shell.run_cell(f"%llm {code}").success
    assert loads.count("tales") <= 2, "only another context loads again"


@pytest.mark.parametrize(
    ("code", "says"),
    [
        ("%llm tales --temperature -1", "expected a number of at least 0"),
        ("%llm tales --nosuch", "--nosuch"),
        ("%llm nosuch", "no such file"),
        ("%llm tales -p 'open", "No closing quotation"),
        ("%llm tales --stop ''", "must not be empty"),
        ("%llm tales --out class", "expected a variable's name"),
        ("%llm tales --regex '('", "expected ')'"),
        ("%llm tales --json-schema no/such.json", "--json-schema"),
        ("%%llm tales -p x\ny", "remove one"),
        ("%%llm tales\n\n", "the cell is empty"),
        ("%llm tales --executor eager --ctx 4 -p 'one two three four five six'", "n_ctx"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(
    shell: Any, capsys: pytest.CaptureFixture[str], code: str, says: str
) -> None:
    assert says in refused(shell, code, capsys)


def test_help_lists_the_options_and_runs_nothing(shell: Any, capsys: pytest.CaptureFixture[str]) -> None:
    out = ran(shell, "%llm --help", capsys)
    assert "--json-schema" in out and "--out" in out and max(map(len, out.splitlines())) <= 80


def test_every_option_of_run_is_here_too() -> None:
    from llmlite import cli
    from llmlite.cli.completion import tree

    ours, theirs = tree(magic.make_parser())[""], tree(cli.build_parser())["run"]
    assert set(theirs) <= set(ours) and {name: ours[name] for name in theirs if name} == {
        name: values for name, values in theirs.items() if name
    }


def completed(shell: Any, text: str) -> list[tuple[str, str]]:
    """What IPython itself offers at the end of a text: (what is replaced, by what)."""
    from IPython.core.completer import provisionalcompleter

    with provisionalcompleter():
        found = list(shell.Completer.completions(text, len(text)))
    return [(text[each.start : each.end], each.text) for each in found]


def test_ipython_completes_models_options_values_and_files(
    shell: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mine.gguf").touch()
    (tmp_path / "more").mkdir()
    monkeypatch.chdir(tmp_path)
    assert ("ta", "tales:Q4_0") in completed(shell, "%llm ta")
    assert completed(shell, "%%llm tales:Q4") == [("tales:Q4", "tales:Q4_0")]
    assert completed(shell, "%%llm tales --temp") == [("--temp", "--temperature")]
    assert [text for _, text in completed(shell, "%llm --kv ")] == ["f16", "f32", "q8_0"]
    assert completed(shell, "%llm --draft prom") == [("prom", "prompt-lookup")]
    assert completed(shell, "%llm m") == [("m", "minilm"), ("m", "mine.gguf"), ("m", "more/")]
    assert ("pri", "print") in completed(shell, "pri"), "other completion stays"
    assert ("pri", "print") in completed(shell, "%%llm tales\npri"), "the cell's body is no line of options"


def test_an_interrupt_ends_the_text_and_keeps_it(
    shell: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    if threading.current_thread() is not threading.main_thread():
        pytest.skip("signals reach only the main thread")
    said, count = magic.say, 0

    def interrupting(*text: str, **options: Any) -> None:
        nonlocal count
        count += 1
        if count == 3:
            signal.raise_signal(signal.SIGINT)
        said(*text, **options)

    monkeypatch.setattr(magic, "say", interrupting)
    code = f"%%llm {RUN} -n 300 --out part --regex '[a-z ]{{5000}}'\n{PROMPT}\n"
    out = ran(shell, code, capsys)
    assert "interrupted]" in out and 1 <= len(shell.user_ns["part"].ids) < 10


def test_loading_twice_adds_one_matcher_and_unloading_takes_all_away(
    shell: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    shell.run_line_magic("reload_ext", "llmlite")
    matchers = shell.Completer.custom_matchers
    assert sum(each.matcher_identifier == magic.MATCHER for each in matchers) == 1
    shell.run_line_magic("unload_ext", "llmlite")
    assert not matchers and "llm" not in shell.magics_manager.magics["line"]
    shell.run_line_magic("load_ext", "llmlite")
    assert "llm" in shell.magics_manager.magics["cell"]


def test_importing_llmlite_imports_no_ipython() -> None:
    code = "import sys, llmlite; assert llmlite.load_ipython_extension; print('IPython' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


@pytest.mark.slow
def test_a_notebook_with_the_magic_and_the_panel_is_executed(tmp_path: Path) -> None:
    nbformat = pytest.importorskip("nbformat", reason="nbformat is not installed (extra lab)")
    nbclient = pytest.importorskip("nbclient", reason="nbclient is not installed (extra lab)")
    cells = [
        "%load_ext llmlite",
        f"%%llm {RUN} -n 6 --quiet\n{PROMPT}",
        "import llmlite as ll\nmodel = ll.load('tales', executor='eager')\n"
        "ll.widgets.chat_panel(model, 'Where is the fox?', max_tokens=8, temperature=0)",
        f"%llm {RUN} --nosuch",
    ]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    nbclient.NotebookClient(notebook, timeout=120, allow_errors=True, kernel_name="python3").execute()
    expected = ll.load("tales", executor="eager").generate(PROMPT, max_tokens=6, temperature=0)
    told = "".join(output.text for output in notebook.cells[1].outputs)  # pieces may come apart
    assert told == expected + "\n"
    widget, static = notebook.cells[2].outputs
    assert "application/vnd.jupyter.widget-view+json" in widget.data
    assert "Where is the fox?" in static.data["text/html"]
    shown = str(notebook.cells[3].outputs)
    assert "unrecognized arguments: --nosuch" in shown and "Traceback" not in shown

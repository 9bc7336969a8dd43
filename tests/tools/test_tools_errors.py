"""Tools and benchmarks answer a wrong request with a sentence and exit code 2, never with a traceback."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

from llmlite.cli import lab

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("tools/build_llama_cpp.py", "folder"),
        ("tools/build_llama_cpp.py a-file", "a-file: File exists"),
        ("tools/render_site.py --out a-file", "a-file"),
        ("tools/lessons.py 77", "no lesson '77'"),
        ("tools/architectures_table.py nope", "no name begins with 'nope'; there are: llama,"),
        ("tools/sweep_types.py --help", "no name begins with '--help'; there are: "),
        ("tools/samples.py --only nope", "no sample 'nope'; there are: comparison-two-cores"),
        ("benchmarks/quantize.py --report a-file", "expected samples"),
        ("benchmarks/quantize.py --report missing", "missing"),
        ("benchmarks/quantize.py --types NOPE", "no NOPE; there are"),
        ("benchmarks/quantize.py --rounds 0", "at least 1"),
        ("benchmarks/engine.py --report missing", "missing: no such file"),
        ("benchmarks/engine.py --folder a-file", "expected a folder"),
        ("benchmarks/engine.py --folder x --shape nope", "no 'nope'; there are"),
        ("benchmarks/engine.py --folder x --minutes nan", "--minutes must be above 0"),
    ],
)
def test_a_wrong_request_gets_a_sentence(tmp_path: Path, command: str, words: str) -> None:
    (tmp_path / "a-file").write_text("plain\n")
    script, *arguments = command.split()
    done = subprocess.run(
        [sys.executable, str(ROOT / script), *arguments],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,  # a tool that hangs fails here by its name
    )
    assert done.returncode == 2, done.stderr
    assert words in done.stderr and "Traceback" not in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["a-file"], "nothing is left behind"


@pytest.mark.parametrize("record", ["{bad", "[1]", "\udcff"])
def test_a_damaged_record_of_copied_lessons_loses_no_ones_work(tmp_path: Path, record: str) -> None:
    source, folder = tmp_path / "source", tmp_path / "mine"
    source.mkdir()
    (source / "lesson.ipynb").write_text("new")
    folder.mkdir()
    (folder / "lesson.ipynb").write_text("my work")
    (folder / lab.RECORD).write_bytes(record.encode("utf-8", "surrogateescape"))
    assert lab.copy_lessons(source, folder) == (0, ["lesson.ipynb"])
    assert (folder / "lesson.ipynb").read_text() == "my work"


@pytest.mark.parametrize("path", sorted(ROOT.glob("tools/*.py")), ids=lambda path: path.stem)
def test_every_tool_can_be_imported(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a tool takes from the package may have moved; tools that measure for minutes run seldom."""
    spec = importlib.util.spec_from_file_location(f"tool_{path.stem}", path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)  # dataclasses look their module up
    try:
        spec.loader.exec_module(module)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] == "llmlite":
            raise
        pytest.skip(f"{error.name} is not installed")

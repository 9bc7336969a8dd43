"""Names of pulled models, their siblings, the table, and the command."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import llmlite as ll
from llmlite import catalog, cli, gguf, resources
from llmlite.catalog import PACKAGED, Packaged, store
from llmlite.downloads import pull
from llmlite.errors import LlmliteError
from llmlite.terminal import HARMFUL
from tests.support.fake_packages import WHOLE, left_in
from tests.support.pulling import pulled_or_skipped

ROOT = Path(__file__).resolve().parents[2]


def test_a_model_that_is_not_here_is_one_sentence_with_the_command(
    tiny: Packaged, cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("tiny", "tiny:Q8_0"):
        assert cli.main(["run", name]) == 2
        error = capsys.readouterr().err
        assert error.startswith("llmlite: tiny: the model is not here yet; `llmlite pull tiny` downloads it")
        assert error.count("\n") == 1


def test_a_folder_of_the_same_name_does_not_hide_a_model(
    monkeypatch: pytest.MonkeyPatch, tiny: Packaged, cache: Path, tmp_path: Path
) -> None:
    (tmp_path / "tiny").mkdir()
    monkeypatch.chdir(tmp_path)
    assert pull("tiny") == resources.model_path("tiny")


def test_a_sibling_is_requantized_once_and_says_what_that_loses(
    tiny: Packaged, cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = pull("tiny")
    capsys.readouterr()
    sibling = resources.model_path("tiny:q8_0")
    said = capsys.readouterr().err
    assert "the source is already Q4_1: Q8_0 adds its own rounding error" in said
    assert resources.model_path("tiny:Q8_0") == sibling
    assert capsys.readouterr().err == ""
    assert resources.model_path("tiny:Q4_1") == source, "its own type is the file itself"
    with gguf.read(source) as old, gguf.read(sibling) as new:
        name = "blk.0.ffn_up.weight"
        assert (old.tensors[name].type.name, new.tensors[name].type.name) == ("Q4_1", "Q8_0")
        expected = ll.QuantTensor.quantize(old.tensors[name].dequantize(), "Q8_0", name)
        assert np.array_equal(new.tensors[name].blocks, expected.blocks)


def test_a_sibling_of_a_type_that_does_not_exist_leaves_nothing(tiny: Packaged, cache: Path) -> None:
    pull("tiny")
    with pytest.raises(LlmliteError, match="NOSUCH"):
        resources.model_path("tiny:NOSUCH")
    assert left_in(cache) == WHOLE


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("nosuch", "expected one of smollm2, gemma3-270m, minilm.*or OWNER/REPO"),
        ("smollm2:Q8_0", "pull 'smollm2'; 'smollm2:Q8_0' is made from it on first use"),
        ("../../etc", "expected one of"),
        ("", "expected one of"),
    ],
)
def test_a_name_that_cannot_be_pulled_says_why(cache: Path, name: str, words: str) -> None:
    with pytest.raises(LlmliteError, match=words):
        pull(name)


def test_pulling_what_is_bundled_or_a_file_gives_it(cache: Path, tales: Path) -> None:
    assert pull("tales") == tales
    assert pull(str(tales)) == tales


def test_every_row_of_the_table_is_complete_and_safe_to_unpack() -> None:
    for name, model in PACKAGED.items():
        assert name == model.name and not set(name) & set("/\\:")
        assert {len(wheel.sha256) for wheel in model.wheels} | {len(model.sha256)} == {64}
        targets = [target for wheel in model.wheels for _, target in wheel.members]
        assert model.checked in targets
        assert (model.file in targets) == (not model.folder)
        assert all(not Path(target).is_absolute() and ".." not in target for target in targets)
        assert any("LICENSE" in target or "TERMS" in target for target in targets), "the licence comes along"
        assert store.RECORD not in targets
        assert all(wheel.file.endswith(f"-{wheel.version}-py3-none-any.whl") for wheel in model.wheels)


def test_no_index_is_named_in_the_code() -> None:
    for path in [
        *(ROOT / "llmlite" / "downloads").glob("*.py"),
        *(ROOT / "llmlite" / "catalog").glob("*.py"),
    ]:
        text = path.read_text(encoding="utf-8")
        assert not any(word in text for word in ("pypi", "index-url", "huggingface.co")), path


def test_the_command_names_size_and_licence_then_the_file(
    tiny: Packaged, cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["pull", "tiny"]) == 0
    shown = capsys.readouterr()
    assert "A tiny model: " in shown.err and "from 1 package, Public domain" in shown.err
    assert shown.out == f"tiny: {cache / 'pulled' / 'tiny' / 'tiny.gguf'}\n"
    assert cli.main(["pull", "tiny"]) == 0
    assert capsys.readouterr().err == "", "nothing is announced that is here already"


def test_a_name_that_steers_a_terminal_is_shown_as_escapes(
    monkeypatch: pytest.MonkeyPatch, cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)  # nothing is asked of a network
    for name in ("\x1b[31m", "ollama:\x1b]0;title\x07", "tales:\u202e"):
        assert cli.main(["pull", name]) == 2
        shown = capsys.readouterr()
        assert not HARMFUL.search(shown.out + shown.err)
        assert shown.err.count("\n") == 1


@pytest.mark.parametrize("command", ["pull", "models"])
def test_help_fits_in_80_columns(command: str) -> None:
    environment = {**os.environ, "COLUMNS": "80"}
    done = subprocess.run(
        [sys.executable, "-m", "llmlite", command, "--help"],
        cwd=ROOT, env=environment, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert max(map(len, done.stdout.splitlines())) <= 80
    for model in PACKAGED.values() if command == "pull" else ():
        assert model.name in done.stdout and model.licence in done.stdout and model.purpose in done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("name", list(PACKAGED))
def test_the_real_package_is_still_the_one_in_the_table(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str
) -> None:
    monkeypatch.setenv("LLMLITE_CACHE", str(tmp_path / "cache"))
    path = pulled_or_skipped(name)
    assert catalog.pulled(tmp_path / "cache") == [(PACKAGED[name], path)]
    with gguf.read(path) as file:
        gguf.check_weights(file)
    assert {member.suffix for member in path.parent.iterdir()} & {".part", ".whl"} == set()


@pytest.mark.slow
def test_smollm2_and_its_sibling_know_a_capital(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("LLMLITE_CACHE", str(tmp_path / "cache"))
    pulled_or_skipped("smollm2")
    for name in ("smollm2", "smollm2:Q8_0"):
        model = ll.load(name)
        assert "Paris" in str(model.generate("The capital of France is", max_tokens=8, temperature=0)), name

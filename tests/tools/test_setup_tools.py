"""The set-up scripts decide rightly: where PyTorch comes from, when to install again, which Python."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

TOOLS = Path(__file__).resolve().parents[2] / "tools"
CUDA = ("2.13.0", "https://files.example/torch-2.13.0-cp311-cp311-manylinux_2_28_x86_64.whl")
LOCAL = ("2.13.0", "file:///wheels/torch-2.13.0-cp311-cp311-manylinux_2_28_x86_64.whl")
CPU = ("2.13.0+cpu", "https://files.example/torch-2.13.0%2Bcpu-cp311-cp311-manylinux_2_28_x86_64.whl")


def tool(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, TOOLS / f"{name}.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("chosen", "platform", "answers", "probing", "expected"),
    [
        (None, "linux", True, True, "installed"),
        (LOCAL, "linux", True, True, "default"),
        (CPU, "linux", True, True, "default"),
        (CUDA, "darwin", True, True, "default"),
        (CUDA, "win32", True, True, "default"),
        (CUDA, "linux", True, True, "cpu-index"),
        (CUDA, "linux", False, True, "cuda"),
        (CUDA, "linux", True, False, "cuda"),
    ],
)
def test_where_torch_comes_from(
    chosen: tuple[str, str] | None, platform: str, answers: bool, probing: bool, expected: str
) -> None:
    probed = []
    decision = tool("install_torch").decide(
        chosen, platform, lambda: probed.append(1) is None and answers, probing=probing
    )
    assert decision == expected
    assert bool(probed) == (expected == "cpu-index" or (expected == "cuda" and probing)), (
        "probed only where it matters"
    )


def test_pips_report_is_read_and_an_installed_torch_recognised() -> None:
    read = tool("install_torch").chosen_by_pip
    item = {"metadata": {"name": "torch", "version": CPU[0]}, "download_info": {"url": CPU[1]}}
    assert read({"install": [item]}) == CPU
    assert read({"install": []}) is None


def fake_pip(
    monkeypatch: pytest.MonkeyPatch, module: ModuleType, chosen: object, cpu_index_works: bool
) -> list[str]:
    """Replace pip; return the list that its `install` commands are written to."""
    commands: list[str] = []

    def pip(*arguments: str, capture: bool = False) -> subprocess.CompletedProcess[str]:
        commands.append(" ".join(arguments))
        failed = "--index-url" in arguments and not cpu_index_works
        return subprocess.CompletedProcess(arguments, int(failed))

    monkeypatch.setattr(module, "pip", pip)
    monkeypatch.setattr(module, "ask_pip", lambda: chosen)
    monkeypatch.setattr(module, "cpu_index_answers", lambda: True)
    monkeypatch.setattr(module.sys, "platform", "linux")
    monkeypatch.delenv("TORCH_PROBE", raising=False)
    return commands


def test_a_cpu_index_that_fails_falls_back_with_a_warning(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    module = tool("install_torch")
    commands = fake_pip(monkeypatch, module, CUDA, cpu_index_works=False)
    assert module.main() == 0
    assert [("--index-url" in command) for command in commands] == [True, False]
    assert "3 GB" in capsys.readouterr().err


def test_the_variable_turns_the_probe_off(monkeypatch: pytest.MonkeyPatch) -> None:
    module = tool("install_torch")
    commands = fake_pip(monkeypatch, module, CUDA, cpu_index_works=True)
    monkeypatch.setenv("TORCH_PROBE", "0")
    assert module.main() == 0
    assert not any("--index-url" in command for command in commands)


def test_a_local_wheel_is_taken_without_any_index(monkeypatch: pytest.MonkeyPatch) -> None:
    module = tool("install_torch")
    commands = fake_pip(monkeypatch, module, LOCAL, cpu_index_works=True)
    assert module.main() == 0
    assert commands == ["install -c constraints.txt torch"]


def test_a_stamp_skips_installing_until_the_pins_change(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    module = tool("setup_env")
    for name in ("pyproject.toml", "constraints.txt"):
        shutil.copy(TOOLS.parent / name, tmp_path)
    monkeypatch.setattr(module, "ROOT", tmp_path)
    python = module.python_of(tmp_path / ".venv")
    python.parent.mkdir(parents=True)
    python.touch()
    calls: list[list[str]] = []
    monkeypatch.setattr(module, "install", lambda folder, extras: calls.append(sorted(extras)))

    def set_up(extras: str) -> None:
        monkeypatch.setattr(sys, "argv", ["setup_env.py", "--extras", extras])
        assert module.main() == 0

    set_up("plot,torch")
    set_up("torch")
    assert calls == [["plot", "torch"]], "what is there isn't installed again"
    set_up("test")
    assert calls[1:] == [["plot", "test", "torch"]], "more extras are added to those there"
    with (tmp_path / "constraints.txt").open("a") as file:
        file.write("another==1\n")
    set_up("torch")
    assert calls[2:] == [["torch"]]


@pytest.mark.skipif(not shutil.which("sh"), reason="needs sh")
@pytest.mark.parametrize(
    ("body", "words"),
    [
        (
            'case "$2" in *version_info\\ *) exit 3;; esac',
            ["3.11 or newer", "apt install", "dnf install", "brew install"],
        ),
        (
            'case "$2" in *ensurepip*) exit 1;; *print*) echo 3.12;; esac',
            ["lacks ensurepip", "python3.12-venv"],
        ),
    ],
    ids=["too old", "no ensurepip"],
)
def test_an_unfit_python_gets_told_what_to_install(tmp_path: Path, body: str, words: list[str]) -> None:
    fake = tmp_path / "python3"
    fake.write_text(f"#!/bin/sh\n{body}\n")
    fake.chmod(0o755)
    for name in ("sh", "cat"):
        (tmp_path / name).symlink_to(shutil.which(name) or name)
    environment = {**os.environ, "PATH": str(tmp_path), "PYTHON": ""}
    done = subprocess.run(
        ["sh", str(TOOLS / "find_python.sh")], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert all(word in done.stderr for word in words), done.stderr


@pytest.mark.skipif(not shutil.which("sh"), reason="needs sh")
def test_a_fit_python_is_found() -> None:
    environment = {**os.environ, "PYTHON": sys.executable}
    done = subprocess.run(
        ["sh", str(TOOLS / "find_python.sh")], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == sys.executable


def test_constraints_carry_neither_addresses_nor_local_tags() -> None:
    lines = (TOOLS.parent / "constraints.txt").read_text().splitlines()
    pins = [line for line in lines if line and not line.startswith("#")]
    assert pins
    for pin in pins:
        assert "@" not in pin and "+" not in pin and pin.count("==") == 1, pin


def fake_index(stock: dict[str, list[str]], wheels: set[str], broken: bool = False) -> object:
    """Return a pip whose index has `stock`, `wheels` of it built; it stops at the first pin that lacks."""

    def pip(*arguments: str) -> subprocess.CompletedProcess[str]:
        if arguments[:2] == ("index", "versions"):
            name = arguments[2]
            answer = json.dumps({"versions": stock.get(name, [])})
            return subprocess.CompletedProcess(arguments, int(name not in stock), answer, "")
        for pin in Path(arguments[-1]).read_text().split():
            if pin not in wheels or broken:
                noise = "WARNING: Retrying after connection broken\n" if broken else ""
                words = f"{noise}ERROR: No matching distribution found for {pin}\n"
                return subprocess.CompletedProcess(arguments, 1, "", words)
        return subprocess.CompletedProcess(arguments, 0, "", "")

    return pip


def test_the_check_of_pins_names_each_that_the_index_lacks() -> None:
    freeze = tool("freeze")
    stock = {"wheel": ["1.0"], "source": ["2.0", "1.9"], "older": ["2.10"]}
    pins = ["older==4.1.2", "source==2.0", "unknown==1.0", "wheel==1.0"]
    pip = fake_index(stock, {"wheel==1.0"})
    assert freeze.missing(pins, "3.11.0", pip) == ["older==4.1.2", "unknown==1.0"]
    assert freeze.missing(["wheel==1.0"], "3.11.0", pip) == []


def test_the_check_of_pins_calls_a_broken_network_by_its_name() -> None:
    with pytest.raises(SystemExit, match="not because a version is missing"):
        tool("freeze").missing(["wheel==1.0"], "3.11.0", fake_index({}, {"wheel==1.0"}, broken=True))


def test_the_check_of_pins_starts_at_the_oldest_python_that_is_supported() -> None:
    freeze = tool("freeze")
    project = (TOOLS.parent / "pyproject.toml").read_text(encoding="utf-8")
    assert f'requires-python = ">={freeze.pythons()[0].removesuffix(".0")}"' in project


def test_pins_added_by_hand_stay_and_installed_ones_are_renewed() -> None:
    kept = tool("freeze").with_kept(["a==2", "c==1"], ["a==1", "b==7"])
    assert kept == ["a==2", "b==7", "c==1"]

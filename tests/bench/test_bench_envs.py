"""Environments of the comparison's backends: what they ask for, what they cost, what they can't see."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from llmlite import resources
from llmlite.bench import backends, envs
from llmlite.bench.process import WorkerProcess
from llmlite.errors import LlmliteError

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LLMLITE_CACHE", str(tmp_path / "cache"))
    envs._has.cache_clear()
    return tmp_path / "cache"


def point_at(monkeypatch: pytest.MonkeyPatch, wheels: Path) -> None:
    """Let pip look at a folder of wheels alone; the environment "peer" asks for the one that is there."""
    for name in [name for name in os.environ if name.startswith(("PIP_", "UV_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(wheels))
    monkeypatch.setattr(envs.shutil, "which", lambda name: None)  # pip: its options are set above
    monkeypatch.setattr(envs, "ALWAYS", ())
    monkeypatch.setitem(envs.ENVIRONMENTS, "peer", ("stand-in-peer",))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, Path, envs.Installation]]:
    """A folder with one wheel, a cache folder with an environment made of it, and what that cost.

    Making one takes seconds, so the tests share it; the one that removes it comes last.
    """
    wheels, cache = tmp_path_factory.mktemp("wheels"), tmp_path_factory.mktemp("cache")
    write_wheel(wheels, "stand_in_peer")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LLMLITE_CACHE", str(cache))
        point_at(patch, wheels)
        found = envs.create("peer")
    yield wheels, cache, found


@pytest.fixture
def peer(made: tuple[Path, Path, envs.Installation], monkeypatch: pytest.MonkeyPatch) -> envs.Installation:
    """The environment that was made, in the cache folder of this test."""
    wheels, cache, found = made
    point_at(monkeypatch, wheels)
    monkeypatch.setenv("LLMLITE_CACHE", str(cache))
    return found


def write_wheel(folder: Path, name: str) -> None:
    from zipfile import ZipFile

    info = f"{name}-1.0.dist-info"
    files = {
        f"{name}.py": "VALUE = 7\n" * 100,
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = "".join(f"{path},,{len(text)}\n" for path, text in files.items()) + f"{info}/RECORD,,\n"
    with ZipFile(folder / f"{name}-1.0-py3-none-any.whl", "w") as wheel:
        for path, text in {**files, f"{info}/RECORD": record}.items():
            wheel.writestr(path, text)


def test_an_environment_asks_for_what_its_extra_asks_for() -> None:
    with open(ROOT / "pyproject.toml", "rb") as file:
        extras = tomllib.load(file)["project"]["optional-dependencies"]
    for name, requirements in envs.ENVIRONMENTS.items():
        wanted = set(extras[name])
        if "llmlite-kit[torch]" in wanted:
            wanted = wanted - {"llmlite-kit[torch]"} | set(extras["torch"])
        assert set(requirements) <= wanted, name
        assert name in ("transformers",) or set(requirements) == wanted, name


def test_every_backend_that_needs_a_package_has_an_environment() -> None:
    for info in backends.BACKENDS.values():
        assert bool(info.requires) == bool(info.extra), info.name
        assert not info.extra or info.extra in envs.ENVIRONMENTS, info.name


def test_an_environment_is_made_and_its_cost_recorded(peer: envs.Installation) -> None:
    assert peer.n_packages == 1 and not peer.compiled and peer.installer == "pip"
    assert 1000 < peer.n_bytes < 10_000 and peer.seconds > 0
    assert envs.installed("peer") == peer
    python = envs.python_with("peer", "stand_in_peer")
    assert python and envs.python_with("peer", "stand_in_peer numpy") == ""
    said = subprocess.run(
        [python, "-c", "import stand_in_peer; print(stand_in_peer.VALUE)"], capture_output=True, text=True
    )
    assert said.stdout.strip() == "7"


UV = """\
#!{python}
import pathlib, subprocess, sys, zipfile
words = sys.argv[1:]
with open({log!r}, "a") as log:
    print(*words, sep="\\t", file=log)
python = words[words.index("--python") + 1]
if words[0] == "venv":
    sys.exit(subprocess.run([python, "-m", "venv", "--without-pip", words[-1]]).returncode)
if "stand-in-peer" not in words:
    sys.exit("error: No solution found: " + words[-1] + " was not found in the package registry")
code = "import sysconfig; print(sysconfig.get_path('purelib'))"
target = subprocess.run([python, "-c", code], capture_output=True, text=True).stdout.strip()
zipfile.ZipFile(next(pathlib.Path({wheels!r}).glob("*.whl"))).extractall(target)
print("   Built stand-in-peer==1.0", file=sys.stderr)
"""


@pytest.fixture
def uv_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A program called uv that installs a wheel; returns the file with its command lines."""
    if os.name == "nt":
        pytest.skip("the stand-in for uv is a script with a first line")
    write_wheel(tmp_path, "stand_in_peer")
    point_at(monkeypatch, tmp_path)
    program, log = tmp_path / "uv", tmp_path / "log"
    program.write_text(UV.format(python=sys.executable, log=str(log), wheels=str(tmp_path)))
    program.chmod(0o755)
    monkeypatch.setattr(envs.shutil, "which", lambda name: str(program) if name == "uv" else None)
    return log


def test_uv_makes_the_environment_if_it_is_there(uv_log: Path) -> None:
    found = envs.create("peer")
    home = envs.folder("peer")
    assert (found.installer, found.compiled, found.n_packages) == ("uv", True, 1)
    assert envs.installed("peer") == found and envs.python_with("peer", "stand_in_peer")
    made, installed = (line.split("\t") for line in uv_log.read_text().splitlines())
    assert made == ["venv", "--python", sys.executable, str(home)]
    python = str(envs.interpreter(home))
    assert installed == ["pip", "install", "--no-cache", "--python", python, "stand-in-peer"]


def test_what_uv_says_of_a_failure_is_in_the_error(uv_log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(envs.ENVIRONMENTS, "peer", ("no-such-package-here",))
    with pytest.raises(LlmliteError, match="installing failed .*no-such-package-here was not found"):
        envs.create("peer")
    assert envs.installed("peer") is None


def test_nothing_an_earlier_installation_left_behind_shortens_the_seconds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    point_at(monkeypatch, tmp_path)
    asked: list[list[str]] = []
    monkeypatch.setattr(envs, "_run", lambda command: asked.append(command) or "")  # type: ignore[func-returns-value]
    monkeypatch.setattr(envs.files, "write_text", lambda path, text: None)
    envs.create("peer")
    assert asked[-1][1:] == ["-m", "pip", "install", "--no-input", "--no-cache-dir", "stand-in-peer"]


def test_an_installation_that_failed_is_no_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    point_at(monkeypatch, tmp_path)
    monkeypatch.setitem(envs.ENVIRONMENTS, "peer", ("no-such-package-here",))
    with pytest.raises(LlmliteError, match="installing failed .*no-such-package-here"):
        envs.create("peer")
    assert envs.installed("peer") is None and envs.python_with("peer", "sys") == ""


def test_an_unknown_environment_names_those_there_are() -> None:
    with pytest.raises(LlmliteError, match="no environment 'abacus'; there are: torch, "):
        envs.create("abacus")


def test_a_record_that_was_cut_off_counts_as_no_environment(own_cache: Path) -> None:
    home = own_cache / "bench-env" / "xllamacpp"
    home.mkdir(parents=True)
    (home / envs.RECORD).write_text('{"name": "xlla', encoding="utf-8")
    assert envs.installed("xllamacpp") is None


def test_a_backend_runs_in_its_environment_when_this_one_lacks_its_package(
    peer: envs.Installation, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    info = backends.BackendInfo(
        name="peer", title="a peer", module="peer", colour="grey", requires="stand_in_peer", extra="peer"
    )
    assert info.unavailable() == "" and info.python() != sys.executable
    monkeypatch.setenv("LLMLITE_CACHE", str(tmp_path / "another"))
    envs._has.cache_clear()
    assert "llmlite bench env create peer" in info.unavailable()


def test_another_interpreter_sees_llmlite_and_none_of_this_ones_packages(peer: envs.Installation) -> None:
    python = envs.python_with("peer", "stand_in_peer")
    with WorkerProcess("llmlite-eager", 1, python=python) as worker, pytest.raises(Exception, match="numpy"):
        worker.ask("start")  # llmlite is found, and NumPy, which isn't installed there, is not


def test_the_footprint_counts_what_is_required_once() -> None:
    n_packages, n_bytes = envs.footprint("numpy")
    assert n_packages == 1 and n_bytes > 10**7
    more, larger = envs.footprint("pytest")  # numpy isn't among pytest's
    assert more > 1 and larger > 10**6
    with pytest.raises(LlmliteError, match="isn't installed"):
        envs.footprint("no-such-package-here")


def test_the_record_is_json(peer: envs.Installation) -> None:
    record: dict[str, Any] = json.loads(json.dumps(peer.as_record()))
    assert record["requirements"] == ["stand-in-peer"]
    assert str(resources.cache_dir()) not in json.dumps(record)


def test_the_cost_here_is_a_footprint_and_elsewhere_what_was_recorded(peer: envs.Installation) -> None:
    assert envs.cost("")["installed_bytes"] > 10**7
    recorded = envs.cost("peer", here=False)
    assert recorded["n_packages"] == 1 and recorded["install_seconds"] > 0 and not recorded["compiled"]
    assert envs.cost("peer") == {}  # its package isn't in this environment
    assert envs.cost("xllamacpp", here=False) == {}


def test_a_wheel_that_no_index_would_take_was_compiled_here(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    tags = {"built": "py3-none-linux_x86_64", "came": "cp311-cp311-manylinux_2_17_x86_64"}
    tags["pure"] = "py3-none-any"
    for name, tag in tags.items():
        info = tmp_path / f"{name}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        (info / "WHEEL").write_text(f"Wheel-Version: 1.0\nTag: {tag}\n")
    assert [envs.built_here(name) for name in (*tags, "absent")] == [True, False, False, False]


def test_ci_runs_the_comparison_that_a_lost_peer_fails() -> None:
    jobs = (ROOT / ".github/workflows/ci.yml").read_text(encoding="utf-8")
    assert "- run: make compare-test" in jobs
    recipe = (
        (ROOT / "Makefile").read_text(encoding="utf-8").partition("\ncompare-test:\n")[2].partition("\n\n")[0]
    )
    assert "tests/bench/test_bench_ci.py" in recipe and "-m" not in recipe.partition("pytest")[2]
    assert "xllamacpp" in recipe and "$(TEST)" in recipe


def test_a_removed_environment_is_gone(peer: envs.Installation) -> None:
    assert envs.remove("peer") and not envs.remove("peer") and envs.installed("peer") is None

"""A stick holds what each system needs, names what is missing, and appears whole or not at all.

The index is a folder of tiny wheels; pip reads it as any other (PIP_FIND_LINKS). One slow test makes a real
stick and installs it without a network.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

pytest.importorskip("packaging")

from llmlite import cli
from llmlite.errors import LlmliteError
from llmlite.workshop import bundle, scripts
from llmlite.workshop.target import PYTHONS, SYSTEMS, targets


def wheel(folder: Path, name: str, version: str, *requires: str, tag: str = "py3-none-any") -> Path:
    """Write an empty wheel."""
    base = name.replace("-", "_")
    info = f"{base}-{version}.dist-info"
    lines = ["Metadata-Version: 2.1", f"Name: {name}", f"Version: {version}", "Provides-Extra: lab"]
    lines += [f"Requires-Dist: {line}" for line in requires]
    path = folder / f"{base}-{version}-{tag}.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(f"{info}/METADATA", "\n".join(lines) + "\n")
        archive.writestr(f"{info}/WHEEL", f"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: {tag}\n")
        archive.writestr(f"{info}/RECORD", "")
    return path


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An index of tiny wheels: a compiled one for Linux and Windows only, markers, and an extra."""
    folder = tmp_path / "index"
    folder.mkdir()
    wheel(folder, "fast", "1.0", tag="cp312-cp312-manylinux_2_17_x86_64")
    wheel(folder, "fast", "1.0", tag="cp312-cp312-win_amd64")
    wheel(folder, "bars", "2.0", 'tint; sys_platform == "win32"')
    wheel(folder, "tint", "0.4")
    wheel(folder, "screen", "1.5", "bars>=1")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    return folder


@pytest.fixture
def own(tmp_path: Path) -> Path:
    return wheel(tmp_path, "llmlite-kit", "0.1.0", "fast", "bars", 'screen; extra == "lab"')


def planned(tmp_path: Path, own: Path, systems: str = "linux,windows", **options: object) -> bundle.StickPlan:
    pins = tmp_path / "pins.txt"
    if not pins.exists():
        pins.write_text("")
    return bundle.plan(tmp_path / "stick", targets(systems, "3.12"), own=own, constraints=pins, **options)


def names(plan: bundle.StickPlan, target: str) -> set[str]:
    (found,) = [r for r in plan.resolutions if r.target.name == target]
    return set(found.wheels)


def test_each_system_gets_its_own_wheels_by_its_own_markers(tmp_path: Path, index: Path, own: Path) -> None:
    plan = planned(tmp_path, own)
    assert names(plan, "linux-3.12") == {"llmlite-kit", "fast", "bars", "screen"}
    assert names(plan, "windows-3.12") == {"llmlite-kit", "fast", "bars", "screen", "tint"}
    assert plan.n_bytes == own.stat().st_size + sum(path.stat().st_size for path in index.iterdir())
    assert names(planned(tmp_path, own, extras=""), "linux-3.12") == {"llmlite-kit", "fast", "bars"}


def test_a_gap_is_named_and_its_system_left_out(
    tmp_path: Path, index: Path, own: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plan = planned(tmp_path, own, "linux,macos")
    assert [r.target.name for r in plan.left_out] == ["macos-3.12"]
    assert plan.left_out[0].gaps == {"fast": "no wheel of fast"}
    command = [
        "workshop",
        "bundle",
        str(tmp_path / "stick"),
        "--for",
        "linux,macos",
        "--python",
        "3.12",
        "--yes",
    ]
    assert cli.main([*command, "--wheel", str(own), "--constraints", str(tmp_path / "pins.txt")]) == 1
    assert "fast: no wheel of fast" in capsys.readouterr().out


def test_a_pre_release_is_refused_by_name(tmp_path: Path, index: Path, own: Path) -> None:
    wheel(index, "bars", "3.0rc1")
    (tmp_path / "pins.txt").write_text("bars==3.0rc1\n")
    with pytest.raises(LlmliteError, match=r"bars 3\.0rc1 is a pre-release"):
        planned(tmp_path, own)
    (tmp_path / "pins.txt").write_text("")
    assert names(planned(tmp_path, own), "linux-3.12"), "pip itself leaves it out if it isn't pinned"


def test_the_stick_appears_whole_and_is_checked(
    tmp_path: Path, index: Path, own: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stick = bundle.make(planned(tmp_path, own))
    assert {path.name for path in (stick / "wheels").iterdir()} == {
        own.name,
        *(p.name for p in index.iterdir()),
    }
    assert (stick / "pins" / "windows-3.12.txt").read_text().splitlines() == [
        *("bars==2.0", "fast==1.0", "llmlite-kit==0.1.0", "screen==1.5", "tint==0.4")
    ]
    assert list((stick / "lessons").glob("00_*.ipynb")) and not (stick / "lessons" / "instructor").exists()
    assert [path.name for path in tmp_path.glob(".stick*")] == []
    assert cli.main(["workshop", "check", str(stick)]) == 0
    (stick / "install.sh").write_text("rm -r /")
    assert cli.main(["workshop", "check", str(stick)]) == 1
    assert "install.sh: its bytes differ" in capsys.readouterr().out


@pytest.mark.slow
def test_a_new_stick_takes_the_place_of_an_older_one(tmp_path: Path, index: Path, own: Path) -> None:
    stick = bundle.make(planned(tmp_path, own))
    (stick / "install.sh").write_text("rm -r /")
    bundle.make(planned(tmp_path, own, "linux"))
    assert bundle.damaged(stick) == [] and not (stick / "install.bat").exists()


@pytest.mark.slow
def test_an_interrupted_run_leaves_the_old_stick_and_goes_on(
    tmp_path: Path, index: Path, own: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stick = bundle.make(planned(tmp_path, own, "linux"))
    fetched: list[str] = []

    def interrupt(text: str) -> None:
        fetched.append(text)
        if len(fetched) == 3:
            raise KeyboardInterrupt

    plan = planned(tmp_path, own)
    with pytest.raises(KeyboardInterrupt):
        bundle.make(plan, interrupt)
    assert bundle.damaged(stick) == [] and not (stick / "install.bat").exists(), "the old one is as it was"
    whole = {path.name for path in (plan.part / "wheels").glob("*.whl")}
    assert whole, "each wheel is there whole or not at all"
    again: list[str] = []
    bundle.make(planned(tmp_path, own), again.append)
    assert not any(name in text for text in again for name in whole), "what is whole isn't fetched again"
    assert bundle.damaged(stick) == [] and (stick / "install.bat").exists()


@pytest.mark.slow
def test_a_damaged_wheel_of_an_interrupted_run_is_fetched_again(
    tmp_path: Path, index: Path, own: Path
) -> None:
    plan = planned(tmp_path, own)
    (plan.part / "wheels" / "tint-0.4-py3-none-any.whl").write_bytes(b"half")
    stick = bundle.make(plan)
    assert (stick / "wheels" / "tint-0.4-py3-none-any.whl").read_bytes() == (
        index / "tint-0.4-py3-none-any.whl"
    ).read_bytes()


def test_nothing_is_fetched_without_a_yes(
    tmp_path: Path, index: Path, own: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["workshop", "bundle", str(tmp_path / "stick"), "--for", "linux", "--python", "3.12"]
    assert cli.main([*command, "--wheel", str(own), "--constraints", os.devnull]) == 2
    shown = capsys.readouterr()
    assert "4 wheels" in shown.out and "--yes" in shown.err
    assert not list(tmp_path.glob("*stick*")), "nothing is left over"


def test_a_folder_with_other_files_is_left_alone(tmp_path: Path, own: Path) -> None:
    (tmp_path / "stick").mkdir()
    (tmp_path / "stick" / "thesis.doc").write_text("years of work")
    with pytest.raises(LlmliteError, match="no bundle made"):
        planned(tmp_path, own)


@pytest.mark.parametrize(("option", "value"), [("--for", "amiga"), ("--python", "2.7"), ("--for", ",")])
def test_unknown_systems_are_refused(option: str, value: str) -> None:
    with pytest.raises(LlmliteError, match="there are|expected names"):
        targets(*((value, "3.12") if option == "--for" else ("linux", value)))


@pytest.mark.skipif(shutil.which("sh") is None, reason="no sh here")
def test_the_shell_script_parses_and_says_what_is_missing(tmp_path: Path) -> None:
    made = scripts.all_of(targets("linux,windows", "3.12,3.13"), ["smollm2"])
    (tmp_path / "install.sh").write_text(made["install.sh"], encoding="utf-8")
    subprocess.run(["sh", "-n", str(tmp_path / "install.sh")], check=True)
    assert "pull smollm2" in made["install.sh"] and "pull smollm2" in made["install.ps1"]
    (tmp_path / "pins").mkdir()
    command = ["sh", str(tmp_path / "install.sh"), str(tmp_path / "out")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2 and ("No Python here" in done.stderr or "nothing for" in done.stderr)
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="unshare is Linux's")
def test_a_real_stick_installs_without_a_network(tmp_path: Path) -> None:
    """Needs an index (or a folder of wheels) to fill the stick from, and a kernel that grants namespaces."""
    offline = ["unshare", "-rn"]
    if shutil.which("unshare") is None or subprocess.run([*offline, "true"], check=False).returncode:
        pytest.skip("no namespace without a network can be made here (unshare -rn)")
    python = f"3.{sys.version_info.minor}"
    if python not in PYTHONS:
        pytest.skip(f"the stick has no packages for Python {python}")
    plan = bundle.plan(tmp_path / "stick", targets("linux", python), extras="")
    if plan.left_out:
        pytest.skip(f"the index here has gaps: {plan.left_out[0].gaps}")
    stick = bundle.make(plan)
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("PIP_", "PYTHON"))}
    environment |= {"PYTHON": sys.executable, "LLMLITE_CACHE": str(tmp_path / "cache")}
    place = tmp_path / "with a space"
    done = subprocess.run(
        [*offline, "sh", str(stick / "install.sh"), str(place)],
        env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=900, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "LL1-" in done.stdout and list((place / "lessons").glob("00_*.ipynb"))
    run = [*offline, str(place / "venv" / "bin" / "llmlite"), "run", "-n", "5", "--temperature", "0"]
    told = subprocess.run(run, env=environment, capture_output=True, text=True, timeout=300, check=True)
    assert told.stdout.startswith("Once upon a time")


def test_every_system_names_its_platforms_and_markers() -> None:
    from packaging.markers import default_environment

    for system in SYSTEMS.values():
        held = set(targets(system.name, "3.12")[0].marker_values())
        assert held == {*default_environment(), "extra"} and system.platforms

"""Is this machine ready: each thing that can be wrong is found, and told with what to do."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import llmlite as ll
from llmlite import resources
from llmlite.bench import checks, environment


def finding(topic: str, **options: object) -> checks.CheckResult:
    return next(found for found in checks.examine(**options) if found.topic == topic)


def test_nothing_is_wrong_here_and_every_check_is_in_a_group_that_has_a_name() -> None:
    findings = checks.examine()
    assert checks.wrong(findings) == []
    assert [f.topic for f in findings] == [check.topic for check in checks.CHECKS]
    assert {check.group for check in checks.CHECKS} == set(checks.GROUPS)
    assert {f.group for f in checks.examine(("files",))} == {"files"}


def test_every_check_that_can_fail_says_what_to_do() -> None:
    for check in checks.CHECKS:
        assert check.needs
        assert check.remedy or check.topic in ("processor", "threads"), check.topic


@pytest.mark.parametrize(
    ("module", "found", "verdict"),
    [
        ("numpy", None, "wrong"),
        ("jinja2", "3.1.5", "wrong"),
        ("jinja2", "3.1.6", "ready"),
        ("torch", None, "optional"),
        ("ipywidgets", None, "optional"),
        ("ipywidgets", "7.8.1", "optional"),
        ("ipywidgets", "8.1", "ready"),
        ("regex", "present, version unknown", "ready"),
    ],
)
def test_packages(monkeypatch: pytest.MonkeyPatch, module: str, found: str | None, verdict: str) -> None:
    monkeypatch.setattr(checks, "version", lambda *_names: found)
    got = finding(module, groups=("packages", "lessons", "peers"))
    assert got.verdict == verdict
    assert (sys.executable in got.remedy) == (verdict != "ready")


def test_what_lessons_need_is_wrong_to_miss_in_a_lesson(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "version", lambda *_names: None)
    assert finding("ipywidgets", groups=("lessons",), needed=("lessons",)).verdict == "wrong"
    assert finding("torch", groups=("peers",), needed=("lessons",)).verdict == "optional"


def test_a_full_memory_a_full_disk_and_a_cache_that_cant_be_written(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(environment, "available_memory", lambda: 100_000_000)
    assert "close other programs" in finding("memory").remedy
    monkeypatch.setattr(environment, "available_memory", lambda: None)
    assert finding("memory").ok, "a system that doesn't tell is believed"
    monkeypatch.setattr(checks, "MIN_DISK", 1e18)
    assert "free some space" in finding("disk").remedy
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("LLMLITE_CACHE", str(tmp_path / "file"))
    assert not finding("cache folder").ok
    assert "LLMLITE_CACHE" in finding("cache folder").remedy


def test_damaged_data_and_kernels_that_dont_compile(monkeypatch: pytest.MonkeyPatch) -> None:
    from llmlite.engine.jit import Kernel, KernelError

    monkeypatch.setattr(resources, "damaged_data", lambda: ["tales-f16.gguf: its bytes differ"])
    assert checks.wrong(checks.examine(("files",)))[0].startswith("bundled data: tales-f16.gguf: its bytes")

    def broken(_kernel: Kernel) -> int:
        raise KernelError("no compiler")

    monkeypatch.setattr(Kernel, "address", property(broken))
    assert "NumPy runs the models" in finding("compiler", groups=("kernels",)).remedy


def test_kernels_that_arent_compiled_yet_are_no_fault(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from llmlite.engine.jit import Kernel

    monkeypatch.setattr(Kernel, "ready", property(lambda self: "q4_0" not in self.name))
    found = finding("lessons' kernels", groups=("kernels",))
    assert found.verdict == "optional" and "warmup --lessons" in found.remedy


def test_the_lessons_models_are_of_the_types_whose_kernels_are_compiled() -> None:
    types = {
        tensor.type.name
        for name in checks.LESSON_MODELS
        for tensor in ll.gguf.read(ll.model_path(name)).tensors.values()
    }
    assert types | set(checks.MADE_TYPES) == set(checks.LESSON_TYPES)


def test_warming_up_runs_every_model_and_tells_its_progress(monkeypatch: pytest.MonkeyPatch) -> None:
    from llmlite.engine import jit

    told: list[object] = []
    monkeypatch.setattr(jit, "prepare", lambda kernels, progress=None: progress and progress(0, 1, "add"))
    checks.warm_up(progress=lambda *step: told.append(step))
    assert told == [(0, 1, "add")]


def test_without_numpy_the_findings_say_so() -> None:
    code = (
        "import sys; sys.modules['numpy'] = None\n"
        "from llmlite.bench import checks\n"
        "print(*(f.topic + ' ' + f.found for f in checks.examine(('machine', 'kernels'))), sep='\\n')"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=resources.PACKAGE.parent, capture_output=True, text=True, timeout=60
    )
    assert "can't be checked" in done.stdout, done.stderr

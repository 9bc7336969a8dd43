"""The wheel alone is enough: installed in an empty environment, it runs its model in any folder.

Its kernels are compiled here as `make wheel` does it, into build/kernels: three minutes on two cores the
first time, and again after a change of the engine's sources.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
import time
import venv
import zipfile
from pathlib import Path

import pytest

from llmlite.engine import jit
from llmlite.engine.cpu import host
from llmlite.engine.shipped import LEVELS

ROOT = Path(__file__).resolve().parents[2]
KERNELS = ROOT / "build" / "kernels"
FITTING = [level for level in LEVELS if host().has(*level.required)] if jit.OBJECTS_PROVEN else []
known_cpu = pytest.mark.skipif(not FITTING, reason="no level fits this CPU, so nothing shipped is used here")
pytestmark = pytest.mark.slow


class Installed:
    """An environment that holds the wheel and its dependencies, used from a folder of its own."""

    def __init__(self, folder: Path) -> None:
        self.home = folder / "elsewhere"
        self.home.mkdir()
        self.bin = folder / "venv" / ("Scripts" if sys.platform == "win32" else "bin")
        self.environment = {
            key: value
            for key, value in os.environ.items()
            if key not in ("PYTHONPATH", "VIRTUAL_ENV", "VENV")
        } | {"LLMLITE_CACHE": str(folder / "cache"), "PYTHONSAFEPATH": "1"}
        venv.create(folder / "venv", with_pip=True)
        wheels = folder / "wheels"
        if jit.OBJECTS_PROVEN:
            self.run(sys.executable, ROOT / "tools" / "compile_kernels.py", "--out", KERNELS)
            self.environment["LLMLITE_WHEEL_KERNELS"] = str(KERNELS)
        self.run(sys.executable, "-m", "build", "--wheel", "--outdir", wheels, ROOT)
        (self.wheel,) = wheels.glob("*.whl")
        python = self.bin / "python"
        self.run(python, "-m", "pip", "install", "-q", "-c", ROOT / "constraints.txt", self.wheel)

    def without_numba(self) -> dict[str, str]:
        """Return variables under which numba can't be imported, and nothing is cached yet."""
        folder = self.home.parent / "no-numba"
        (folder / "numba").mkdir(parents=True, exist_ok=True)
        (folder / "numba" / "__init__.py").write_text('raise ImportError("numba is not to be imported")\n')
        return {"PYTHONPATH": str(folder), "LLMLITE_CACHE": str(folder / f"cache-{time.monotonic_ns()}")}

    def run(self, *command: str | Path, **environment: str) -> str:
        """Run a command in the folder elsewhere; return what it printed; fail with its errors."""
        done = subprocess.run(
            [str(part) for part in command],
            cwd=self.home,
            env=self.environment | environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=900,
        )
        assert done.returncode == 0, f"{command}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def llmlite(self, *arguments: str | Path, **environment: str) -> str:
        return self.run(self.bin / "llmlite", *arguments, **environment)


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Installed:
    return Installed(tmp_path_factory.mktemp("wheel"))


def test_the_package_comes_from_the_environment(installed: Installed) -> None:
    where = installed.run(installed.bin / "python", "-c", "import llmlite; print(llmlite.__file__)").strip()
    assert Path(where).is_relative_to(installed.bin.parent)


def test_the_bundled_model_runs_in_another_folder(installed: Installed) -> None:
    text = installed.llmlite("run", "-n", "12", "--temperature", "0")
    assert text.startswith("Once upon a time")
    assert len(text.split()) > 6
    assert list(installed.home.glob("*.gguf")) == [], "nothing is written where the user stands"


def test_a_quantized_sibling_is_made_in_the_cache(installed: Installed) -> None:
    assert installed.llmlite("run", "tales:Q8_0", "-n", "4", "--temperature", "0").startswith(
        "Once upon a time"
    )
    assert "Q8_0" in installed.llmlite("show", "tales:Q8_0")


def test_doctor_finds_nothing_wrong(installed: Installed) -> None:
    assert "checksums agree" in installed.llmlite("doctor")


def test_lab_copies_the_lessons(installed: Installed) -> None:
    installed.llmlite("lab", "--copy-only", "lessons")
    copied = {path.name for path in (installed.home / "lessons").glob("*.ipynb")}
    assert copied == {path.name for path in (ROOT / "notebooks").glob("*.ipynb")}
    assert copied


def test_only_the_core_dependencies_came_along(installed: Installed) -> None:
    names = installed.run(installed.bin / "python", "-m", "pip", "list", "--format=freeze").lower()
    assert "numpy==" in names
    assert not [name for name in ("torch", "matplotlib", "jupyter", "transformers") if name in names]


# ---- the kernels in it -------------------------------------------------------------------------------------

PROBE = """
import hashlib, sys
import llmlite
digest = hashlib.sha256()
for name in ("tales", "tales:Q8_0", "tales:Q4_0"):
    model = llmlite.load(name, executor="planned", n_threads=2)
    digest.update(model.logits(list(range(1, 90))).tobytes())
    digest.update(model.generate("Once upon a time", max_tokens=20, temperature=0).encode())
from llmlite.engine.cpu import target
print(digest.hexdigest(), "numba" in sys.modules, target().features)
"""


@known_cpu
def test_the_first_text_after_the_installation_needs_no_numba_and_is_the_checkouts(
    installed: Installed,
) -> None:
    words = ("run", "tales", "-n", "20", "--temperature", "0")
    began = time.perf_counter()
    text = installed.llmlite(*words, **installed.without_numba())
    print(f"first run of the installed wheel: {time.perf_counter() - began:.2f} s")
    ours = subprocess.run(
        [sys.executable, "-m", "llmlite", *words],
        cwd=ROOT,
        env={**os.environ, "LLMLITE_KERNELS": "compile"},
        capture_output=True,
        text=True,
        check=True,
        timeout=600,
    )
    assert text == ours.stdout and text.startswith("Once upon a time")


@known_cpu
def test_every_level_gives_the_bits_of_kernels_compiled_here(installed: Installed) -> None:
    python = installed.bin / "python"
    compiled, *_ = installed.run(python, "-c", PROBE, LLMLITE_KERNELS="compile").split()
    for level in FITTING:
        as_if = {"NUMBA_CPU_NAME": level.cpu, "NUMBA_CPU_FEATURES": level.features}
        digest, numba, features = installed.run(
            python, "-c", PROBE, **as_if, **installed.without_numba()
        ).split()
        assert features == level.features
        assert (digest, numba) == (compiled, "False"), level.name


@known_cpu
def test_a_damaged_kernel_of_an_installed_wheel_is_named_by_doctor_and_compiled_instead(
    installed: Installed,
) -> None:
    where = installed.run(
        installed.bin / "python", "-c", "import llmlite; print(llmlite.__path__[0])"
    ).strip()
    path = Path(where) / "_kernels" / f"{FITTING[0].name}.bin"
    whole = path.read_bytes()
    assert f"shipped for {FITTING[0].name}" in installed.llmlite("doctor", **installed.without_numba())
    try:
        path.write_bytes(whole[: len(whole) // 2] + bytes(64) + whole[len(whole) // 2 + 64 :])
        done = subprocess.run(
            [str(installed.bin / "llmlite"), "doctor"],
            cwd=installed.home,
            env=installed.environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=600,
        )
        assert done.returncode == 1 and "its SHA-256 isn't the one in the manifest" in done.stdout
        assert installed.llmlite("run", "-n", "4", "--temperature", "0").startswith("Once upon a time")
    finally:
        path.write_bytes(whole)


@pytest.mark.skipif(not jit.OBJECTS_PROVEN, reason="kernels are compiled for wheels on Linux only")
def test_the_kernels_of_all_levels_add_at_most_5_megabytes(installed: Installed) -> None:
    with zipfile.ZipFile(installed.wheel) as archive:
        kernels = {i.filename: i.compress_size for i in archive.infolist() if "/_kernels/" in i.filename}
    names = {f"llmlite/_kernels/{level.name}.{suffix}" for level in LEVELS for suffix in ("bin", "json")}
    assert set(kernels) == names
    print(f"kernels in the wheel: {sum(kernels.values()) / 1e6:.2f} MB")
    assert sum(kernels.values()) <= 5e6


def test_a_wheel_that_pip_builds_for_itself_carries_no_kernels_and_compiles_none(
    installed: Installed, tmp_path: Path
) -> None:
    installed.run(sys.executable, "-m", "build", "--outdir", tmp_path, ROOT, LLMLITE_WHEEL_KERNELS="")
    (wheel,), (sdist,) = tmp_path.glob("*.whl"), tmp_path.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        members = archive.getnames()
    assert not [name for name in members if "_kernels/" in name or "/build/kernels" in name]
    assert any(name.endswith("packaging/wheel_kernels.py") for name in members), "the hook builds from it"
    with zipfile.ZipFile(wheel) as archive:
        assert not [name for name in archive.namelist() if "_kernels/" in name]

"""The wheel alone is enough: installed in an empty environment, it runs its model in any folder."""

from __future__ import annotations

import os
import subprocess
import sys
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
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
        self.run(sys.executable, "-m", "build", "--wheel", "--outdir", wheels, ROOT)
        (wheel,) = wheels.glob("*.whl")
        self.run(self.bin / "python", "-m", "pip", "install", "-q", "-c", ROOT / "constraints.txt", wheel)

    def run(self, *command: str | Path) -> str:
        """Run a command in the folder elsewhere; return what it printed; fail with its errors."""
        done = subprocess.run(
            [str(part) for part in command],
            cwd=self.home,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=600,
        )
        assert done.returncode == 0, f"{command}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def llmlite(self, *arguments: str | Path) -> str:
        return self.run(self.bin / "llmlite", *arguments)


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

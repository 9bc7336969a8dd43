"""The wheel runs on every Python that the classifiers name: it compiles its kernels and runs its model there.

An interpreter that isn't on this machine is a skip by name. Python 3.14 isn't claimed yet: for it, only the
wheels of the dependencies are resolved and fetched.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
CLAIMED = [text.rpartition(" ")[2] for text in PROJECT["classifiers"] if " 3." in text]
NEXT = "3.14"
PROBE = """
import hashlib, sys
import llmlite
digest = hashlib.sha256()
for name in ("tales", "tales:Q4_0"):
    model = llmlite.load(name, executor="planned", n_threads=2)
    digest.update(model.logits(list(range(1, 90))).tobytes())
    digest.update(model.generate("Once upon a time", max_tokens=20, temperature=0).encode())
print(digest.hexdigest())
print("%d.%d" % sys.version_info[:2], llmlite.__file__)
"""


def interpreter(version: str) -> str | None:
    """Return the path of a Python of that version: this one, one on the PATH, or one of pyenv's."""
    if version == f"3.{sys.version_info.minor}":
        return sys.executable
    home = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv")
    found = sorted(home.glob(f"versions/{version}.*/bin/python"))
    for path in [shutil.which(f"python{version}"), *map(str, found)]:  # a shim of pyenv's may lead nowhere
        if path and subprocess.run([path, "-c", "import ensurepip"], capture_output=True).returncode == 0:
            return path
    return None


def run(*command: str | Path, **options: object) -> str:
    """Run a command that must succeed; return what it printed."""
    done = subprocess.run(
        [str(part) for part in command], capture_output=True, text=True, check=False, timeout=900, **options
    )
    assert done.returncode == 0, f"{command}: {done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    environment = os.environ | {"LLMLITE_WHEEL_KERNELS": ""}  # without kernels: numba has to compile them
    run(sys.executable, "-m", "build", "--wheel", "--outdir", folder, ROOT, env=environment)
    (path,) = folder.glob("*.whl")
    return path


def test_the_classifiers_name_what_ci_runs() -> None:
    workflow = (ROOT / ".github" / "workflows" / "ci.yml").read_text(encoding="utf-8")
    assert CLAIMED[0] == PROJECT["requires-python"].removeprefix(">=")
    versions = ", ".join(f'"{version}"' for version in CLAIMED)
    assert f"python: [{versions}]" in workflow


@pytest.mark.slow
@pytest.mark.parametrize("version", CLAIMED)
def test_the_wheel_runs_its_model_with_the_same_bits(version: str, wheel: Path, tmp_path: Path) -> None:
    python = interpreter(version)
    if python is None:
        pytest.skip(f"no Python {version} on this machine")
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    environment |= {"LLMLITE_CACHE": str(tmp_path / "cache"), "PYTHONSAFEPATH": "1"}
    run(python, "-m", "venv", tmp_path / "venv", env=environment)
    there = tmp_path / "venv" / ("Scripts" if sys.platform == "win32" else "bin") / "python"
    run(there, "-m", "pip", "install", "-q", "-c", ROOT / "constraints.txt", wheel, env=environment)
    digest, where = run(there, "-c", PROBE, env=environment, cwd=tmp_path).splitlines()
    said, path = where.split(maxsplit=1)
    assert said == version and Path(path).is_relative_to(tmp_path)
    here = run(sys.executable, "-c", PROBE, env=os.environ | {"PYTHONPATH": str(ROOT)}).split()[0]
    assert digest == here
    run(there, "-m", "llmlite", "doctor", env=environment, cwd=tmp_path)


@pytest.mark.slow
def test_the_next_python_has_wheels_of_every_dependency(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"]
    command += ["--only-binary", ":all:", "--python-version", NEXT, "--dest", str(tmp_path)]
    command += ["-c", str(ROOT / "constraints.txt"), *PROJECT["dependencies"]]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=600)
    if done.returncode and "Retrying" in done.stderr:
        pytest.skip("the package index doesn't answer")
    assert done.returncode == 0, done.stderr
    fetched = {path.name.partition("-")[0] for path in tmp_path.glob("*.whl")}
    assert {"numpy", "numba", "llvmlite", "regex", "jinja2", "tqdm"} <= fetched

"""Make the environment and install llmlite with some extras; do nothing if that is done already.

    python tools/setup_env.py --venv .venv --extras lab,torch,test

A stamp in the environment records the installed extras, with a digest of pyproject.toml, constraints.txt and
the Python version. The tool uses only the standard library, because it runs before anything is installed.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
import time
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
NATIVE_BUILD = {  # build only llama.cpp's library, for this machine's CPU
    "CMAKE_ARGS": "-DGGML_NATIVE=ON -DLLAMA_BUILD_TESTS=OFF -DLLAMA_BUILD_EXAMPLES=OFF "
    "-DLLAMA_BUILD_TOOLS=OFF -DLLAMA_BUILD_SERVER=OFF -DLLAMA_CURL=OFF -DLLAVA_BUILD=OFF",
    "CMAKE_BUILD_PARALLEL_LEVEL": str(os.cpu_count() or 1),
}
NEED_TORCH = {"torch", "transformers", "all"}


def key() -> str:
    """Return a digest of everything that an installation depends on."""
    digest = hashlib.sha256(repr(sys.version_info[:3]).encode())
    for name in ("pyproject.toml", "constraints.txt"):
        digest.update((ROOT / name).read_bytes())
    return digest.hexdigest()


def installed(stamp: Path) -> set[str] | None:
    """Return the extras in the stamp; None if it is missing or out of date."""
    try:
        record = json.loads(stamp.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return set(record["extras"]) if record.get("key") == key() else None


def python_of(folder: Path) -> Path:
    return folder / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")


def usable(python: Path) -> bool:
    """Return whether the environment is complete; if its making was interrupted, it has no pip."""
    try:
        return subprocess.run([str(python), "-m", "pip", "--version"], capture_output=True).returncode == 0
    except OSError:
        return False


def step(title: str, command: list[str], **environment: str) -> None:
    """Run a command and print its time; if it fails, end with its exit code."""
    print(f"setup: {title}", flush=True)
    begin = time.monotonic()
    done = subprocess.run(command, cwd=ROOT, env={**os.environ, **environment})
    if done.returncode:
        print(f"setup: failed: {' '.join(command)}", file=sys.stderr)
        raise SystemExit(done.returncode)
    print(f"setup: {title}: {time.monotonic() - begin:.0f} s", flush=True)


def install(folder: Path, extras: set[str]) -> None:
    """Make a missing environment and install the checkout in it, editable, with the extras."""
    if not usable(python_of(folder)):
        print(f"setup: a new environment in {folder}", flush=True)
        venv.create(folder, with_pip=True, clear=True)
    python = str(python_of(folder))
    pip = [python, "-m", "pip", "--disable-pip-version-check", "install", "--quiet", "-c", "constraints.txt"]
    # update pip first: an old one downloads whole wheels for --dry-run
    step("pip", [*pip, "pip"])
    if extras & NEED_TORCH:
        step("PyTorch", [python, "tools/install_torch.py"])
    if "llamacpp" in extras:
        print("setup: llama-cpp-python is compiled for this machine, which takes some minutes", flush=True)
    names = ",".join(sorted(extras))
    step(
        f"llmlite-kit[{names}]",
        [*pip, "-e", f".[{names}]" if names else "."],
        **(NATIVE_BUILD if "llamacpp" in extras else {}),
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--venv", default=".venv", type=Path)
    parser.add_argument("--extras", default="", help="comma-separated, as in pyproject.toml")
    options = parser.parse_args()
    folder = options.venv if options.venv.is_absolute() else ROOT / options.venv
    wanted = {extra for extra in options.extras.split(",") if extra}
    stamp = folder / "llmlite-installed.json"
    present = installed(stamp) if python_of(folder).exists() else None
    if present is not None and wanted <= present:
        return 0
    stamp.unlink(missing_ok=True)
    extras = wanted | (present or set())
    install(folder, extras)
    stamp.write_text(json.dumps({"key": key(), "extras": sorted(extras)}), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())

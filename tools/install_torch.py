"""Install PyTorch without gigabytes of CUDA libraries if possible.

On Linux, the default package index serves PyTorch with its CUDA libraries (about 3 GB). So this tool tries,
in this order:

1. pip's own choice, if that is a wheel on this machine or a CPU build (`+cpu`);
2. PyTorch's CPU index, if it answers within 3 seconds;
3. the default index, with a warning about the size.

`TORCH_PROBE=0` turns step 2 off. tools/setup_env.py runs this tool with the environment's Python.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable

CPU_INDEX = "https://download.pytorch.org/whl/cpu"
PROBE_SECONDS = 3
CONSTRAINTS = "constraints.txt"


def chosen_by_pip(report: dict) -> tuple[str, str] | None:
    """Return (version, address) of the torch that pip would install; None if one is installed."""
    for item in report.get("install", []):
        if item["metadata"]["name"].lower() == "torch":
            return item["metadata"]["version"], item.get("download_info", {}).get("url", "")
    return None


def decide(chosen: tuple[str, str] | None, platform: str, probe: Callable[[], bool], *, probing: bool) -> str:
    """Return "installed", "default" (pip's choice is fine), "cpu-index", or "cuda" (with a warning)."""
    if chosen is None:
        return "installed"
    version, address = chosen
    if not platform.startswith("linux") or address.startswith("file:") or version.endswith("+cpu"):
        return "default"
    return "cpu-index" if probing and probe() else "cuda"


def cpu_index_answers() -> bool:
    """Return whether PyTorch's CPU index answers in time."""
    request = urllib.request.Request(f"{CPU_INDEX}/torch/", method="HEAD")
    try:
        with urllib.request.urlopen(request, timeout=PROBE_SECONDS) as answer:
            return answer.status == 200
    except (OSError, urllib.error.URLError, ValueError):
        return False


def pip(*arguments: str, capture: bool = False) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", *arguments]
    return subprocess.run(command, text=True, stdout=subprocess.PIPE if capture else None)


def ask_pip() -> tuple[str, str] | None:
    """Ask pip which torch it would install; install nothing."""
    answer = pip(
        "install",
        "--quiet",
        "--dry-run",
        "--no-deps",
        "--report",
        "-",
        "-c",
        CONSTRAINTS,
        "torch",
        capture=True,
    )
    if answer.returncode:
        raise SystemExit(answer.returncode)
    return chosen_by_pip(json.loads(answer.stdout))


def main() -> int:
    chosen = ask_pip()
    choice = decide(
        chosen, sys.platform, cpu_index_answers, probing=os.environ.get("TORCH_PROBE", "1") != "0"
    )
    if choice == "installed":
        return 0
    if choice == "cpu-index":
        # --no-deps: the dependencies come from the default index, at the versions in constraints.txt
        done = pip("install", "--no-deps", "--index-url", CPU_INDEX, "-c", CONSTRAINTS, "torch")
        if done.returncode == 0:
            return 0
        choice = "cuda"
    if choice == "cuda":
        print(
            f"PyTorch's CPU index ({CPU_INDEX}) wasn't used: the default index brings PyTorch with CUDA, "
            "about 3 GB to download. Ctrl-C stops it.",
            file=sys.stderr,
        )
    return pip("install", "-c", CONSTRAINTS, "torch").returncode


if __name__ == "__main__":
    sys.exit(main())

"""Make the environment of the Triton tests on Linux x86-64: nvidia-pytriton, which includes the server.

    python tools/triton_env.py --venv .venv-triton

nvidia-pytriton needs NumPy below 2, so it can't share llmlite's environment. Triton's stub loads the system's
libpython3.11 and fails with another build of Python. So the system's python3.11 makes the environment
(packages python3.11 and python3.11-venv on Debian and Ubuntu). The tool uses only the standard library.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

SYSTEM_PYTHON = "/usr/bin/python3.11"
PACKAGES = ["nvidia-pytriton==0.7.0", "tritonclient[grpc,http]==2.73.0", "numpy<2"]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--venv", default=".venv-triton", type=Path)
    folder = parser.parse_args().venv
    stamp, wanted = folder / "llmlite-triton.txt", "\n".join(PACKAGES)
    if stamp.exists() and stamp.read_text(encoding="utf-8") == wanted:
        return 0
    python = str(folder / "bin/python")
    if not Path(SYSTEM_PYTHON).exists():
        print(f"triton_env: {SYSTEM_PYTHON} is missing; TRITON_SKIP=1 skips these tests", file=sys.stderr)
        return 2
    print("setup: an environment for Triton", flush=True)
    for command in (
        [SYSTEM_PYTHON, "-m", "venv", "--clear", str(folder)],
        [python, "-m", "pip", "--disable-pip-version-check", "install", "--quiet", *PACKAGES],
    ):
        done = subprocess.run(command)
        if done.returncode:
            print(f"triton_env: failed: {' '.join(command)}; TRITON_SKIP=1 skips", file=sys.stderr)
            return done.returncode
    stamp.write_text(wanted, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())

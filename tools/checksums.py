"""Write data/SHA256SUMS, so that `llmlite doctor` can detect damaged files.

python tools/checksums.py      (after every change under data/; takes no arguments)
"""

from __future__ import annotations

import argparse
import hashlib
import sys
from pathlib import Path

DATA = Path(__file__).resolve().parent.parent / "data"
SHIPPED = (
    "*.gguf",
    "*.txt",
    "*.json",
    "*.jsonl",
    "*.md",
    "samples/*",
)  # the same files that pyproject.toml puts into the wheel


def main() -> None:
    argparse.ArgumentParser(description=__doc__).parse_args()
    write()


def write() -> None:
    """Write the checksums of all shipped files."""
    if not any(DATA.glob("*.gguf")):
        sys.exit(f"{DATA}: no model (*.gguf) there; get it back (git checkout data) before taking sums")
    files = sorted(path for pattern in SHIPPED for path in DATA.glob(pattern) if path.is_file())
    lines = [
        f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.relative_to(DATA).as_posix()}"
        for path in files
    ]
    (DATA / "SHA256SUMS").write_text("\n".join(lines) + "\n", encoding="utf-8")
    print(f"data/SHA256SUMS: {len(lines)} files")


if __name__ == "__main__":
    main()

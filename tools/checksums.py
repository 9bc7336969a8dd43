"""Write data/SHA256SUMS: what the bundled files are, so that `llmlite doctor` can tell a damaged one.

python tools/checksums.py      (after every change under data/)
"""

from __future__ import annotations

import hashlib
from pathlib import Path

DATA = Path(__file__).resolve().parent.parent / "data"
SHIPPED = (
    "*.gguf",
    "*.txt",
    "*.json",
    "*.jsonl",
    "*.md",
    "samples/*",
)  # as pyproject.toml's wheel includes them


def main() -> None:
    files = sorted(path for pattern in SHIPPED for path in DATA.glob(pattern) if path.is_file())
    lines = [
        f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.relative_to(DATA).as_posix()}"
        for path in files
    ]
    (DATA / "SHA256SUMS").write_text("\n".join(lines) + "\n", encoding="utf-8")
    print(f"data/SHA256SUMS: {len(lines)} files")


if __name__ == "__main__":
    main()

"""Print the tests that belong to changed files, or what tests cover by room.

    python tools/tests_of.py llmlite/sampling.py docs/gguf.md
    python tools/tests_of.py --coverage          after `coverage run` (see `make coverage`)

A test belongs to a module of the package if it imports that module, by name or from its room. What reaches a
module through others is not followed: `make test` runs everything.
"""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections import defaultdict
from pathlib import Path
from tempfile import TemporaryDirectory

ROOT = Path(__file__).resolve().parent.parent
ALWAYS = "tests/test_layout.py"


def imported(path: Path) -> set[str]:
    """Return every dotted name of llmlite that a file imports: modules, and names from them."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return {name for name in found if name.startswith(("llmlite.", "tests.", "tools."))}


def tests_of(name: str) -> set[str]:
    """Return the test files that belong to a file of the repository.

    Raises:
        SystemExit: there is no such file.
    """
    path = (ROOT / name).resolve()
    if not path.is_file():
        raise SystemExit(f"{name}: there is no such file")
    place = path.relative_to(ROOT)
    if place.name.startswith("test_"):
        return {place.as_posix()}
    if place.suffix == ".md":
        return {"tests/test_docs.py", "tests/test_readme.py"}
    module = ".".join(place.with_suffix("").parts).removesuffix(".__init__")
    tests = sorted((ROOT / "tests").rglob("test_*.py"))
    found = {test.relative_to(ROOT).as_posix() for test in tests if module in imported(test)}
    if not found:  # a part of a room that tests reach through the room's front door
        room = module.rpartition(".")[0]
        found = {
            test.relative_to(ROOT).as_posix()
            for test in tests
            if room != "llmlite" and room in imported(test)
        }
    return found | {ALWAYS}


def coverage() -> str:
    """Return a table of covered lines by room, from coverage's data in this folder."""
    with TemporaryDirectory() as folder:
        report = Path(folder) / "coverage.json"
        subprocess.run([sys.executable, "-m", "coverage", "json", "-q", "-o", report], cwd=ROOT, check=True)
        files = json.loads(report.read_text(encoding="utf-8"))["files"]
    rooms: dict[str, list[int]] = defaultdict(lambda: [0, 0])
    for name, record in files.items():
        parts = Path(name).parts
        room = parts[1] if len(parts) > 2 else parts[-1].removesuffix(".py")
        rooms[room][0] += record["summary"]["covered_lines"]
        rooms[room][1] += record["summary"]["num_statements"]
    lines = [
        f"{room:<18} {done:>6} of {n:>6}  {done / max(n, 1):>5.0%}"
        for room, (done, n) in sorted(rooms.items())
    ]
    return "\n".join(lines)


def main() -> int:
    if sys.argv[1:] == ["--coverage"]:
        print(coverage())
        return 0
    if not sys.argv[1:]:
        raise SystemExit("expected files, as llmlite/sampling.py")
    print(*sorted(set().union(*map(tests_of, sys.argv[1:]))))
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Print the tests that belong to changed files, or the coverage of each room.

    python tools/tests_of.py llmlite/sampling/sampler.py docs/gguf.md
    python tools/tests_of.py --coverage          after `coverage run` (see `make coverage`)

A test belongs to a module of the package if it imports the module, directly or through tests/support. Some
modules, such as kernels, are never imported by name. Then the tests that import the module's room, or are in
the folder that mirrors it, belong to the module. A test also belongs to a file if its text, or a module that
it imports, names the file. Imports through other modules are not followed: `make test` runs everything.
"""

from __future__ import annotations

import ast
import functools
import json
import subprocess
import sys
from collections import defaultdict
from pathlib import Path
from tempfile import TemporaryDirectory

ROOT = Path(__file__).resolve().parent.parent
ALWAYS = "tests/test_layout.py"


@functools.cache
def imported(path: Path) -> frozenset[str]:
    """Return the dotted names that a file imports from this project: modules, and names in them."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return frozenset(name for name in found if name.startswith(("llmlite.", "tests.", "tools.")))


@functools.cache
def reached(path: Path) -> frozenset[str]:
    """Return the names that a test imports, directly or through files of tests/support."""
    found: set[str] = set()
    waiting = [path]
    seen = set(waiting)
    while waiting:
        names = imported(waiting.pop())
        found |= names
        parts = {ROOT / f"{name.replace('.', '/')}.py" for name in names if name.startswith("tests.support.")}
        waiting += [part for part in parts - seen if part.is_file()]
        seen |= parts
    return frozenset(found)


def tests_of(name: str) -> set[str]:
    """Return the test files that belong to a file of the repository.

    Raises:
        SystemExit: the file doesn't exist, or isn't in the repository.
    """
    path = (ROOT / name).resolve()
    if not path.is_file() or not path.is_relative_to(ROOT):
        raise SystemExit(f"{name}: there is no such file in the repository")
    place = path.relative_to(ROOT)
    if place.name.startswith("test_"):
        return {place.as_posix()}
    tests = sorted((ROOT / "tests").rglob("test_*.py"))
    found = {test for test in tests if place.name in test.read_text(encoding="utf-8")}
    if place.suffix == ".md":
        found |= {
            ROOT / "tests/test_docs.py",
            ROOT / "tests/test_docs_examples.py",
            ROOT / "tests/test_readme.py",
        }
    elif place.parts[0] == "notebooks":
        found |= {
            *(ROOT / "tests/notebooks").glob("test_*.py"),
            *(ROOT / "tests/lessons").glob("test_tools_*.py"),
        }
        found |= {ROOT / "tests/lessons/test_glossary.py"}
    elif place.name == "conftest.py":
        found |= set(path.parent.rglob("test_*.py"))
    else:
        found |= _importing(place, tests)
    if place.suffix not in (".py", ".md", ".ipynb"):  # data: add the tests of the modules that read it
        for module in sorted((ROOT / "llmlite").rglob("*.py")):
            if place.name in module.read_text(encoding="utf-8"):
                found |= _importing(module.relative_to(ROOT), tests)
    return {test.relative_to(ROOT).as_posix() for test in found} | {ALWAYS}


def _importing(place: Path, tests: list[Path]) -> set[Path]:
    """Return the tests that import a module; if there are none, those of its room and its folder."""
    module = ".".join(place.with_suffix("").parts).removesuffix(".__init__")
    found = {test for test in tests if module in reached(test)}
    if found or place.parts[0] != "llmlite":
        return found
    room, folder = module.rpartition(".")[0], ROOT / "tests" / place.parts[1].removesuffix(".py")
    mirrored = {test for test in tests if test.is_relative_to(folder)}
    return mirrored | {test for test in tests if room != "llmlite" and room in imported(test)}


def coverage() -> str:
    """Return a table of covered lines by room, from the data of coverage in this folder."""
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
        raise SystemExit("expected files, such as llmlite/sampling/sampler.py")
    print(*sorted(set().union(*map(tests_of, sys.argv[1:]))))
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Find the pieces of `code` in a document that name nothing in this repository."""

from __future__ import annotations

import ast
import builtins
import keyword
import re
from collections import defaultdict
from collections.abc import Iterator
from functools import cache, cached_property
from itertools import pairwise
from pathlib import Path

from llmlite import cli

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = ("llmlite", "tests", "tools")
FILE = re.compile(r"[\w./*-]*(/|\.(py|md|txt|toml|json|sh))$|\.\w+/[\w.-]+$")
IGNORED = {".venv", "results/", "llmlite/NAME"}  # made by a command; a pattern
WORDS = ("pyproject.toml", "Makefile", "constraints.txt")  # files whose words count as names


class Names:
    """All names that the code of this repository defines.

    Attributes:
        names: every defined name, and every text in the code.
        members: class -> names of its fields, methods and attributes.
        modules: last part of a module's name -> names at its top level.
    """

    def __init__(self) -> None:
        self.names: set[str] = {*dir(builtins), *keyword.kwlist, "ll"}
        self.members: dict[str, set[str]] = defaultdict(set)
        self.modules: dict[str, set[str]] = defaultdict(set)
        for folder in FOLDERS:
            for path in sorted((ROOT / folder).rglob("*.py")):
                self._add(path, with_texts=path.name != "test_docs.py")
        for file in WORDS:
            self.names.update(re.findall(r"[\w.-]+", (ROOT / file).read_text(encoding="utf-8")))

    def _add(self, path: Path, *, with_texts: bool) -> None:
        tree = ast.parse(path.read_text(encoding="utf-8"))
        module = path.parent.name if path.stem == "__init__" else path.stem
        self.names.add(module)
        self.modules[module].update(_defined(tree.body))
        if path.stem != "__init__":
            self.modules[path.parent.name].add(path.stem)
        for node in ast.walk(tree):
            self.names.update(_defined([node]))
            if isinstance(node, ast.ClassDef):
                self.members[node.name].update(_defined(node.body), _attributes(node))
            elif with_texts and isinstance(node, ast.Constant) and isinstance(node.value, str):
                self.names.add(node.value)

    @cached_property
    def all_members(self) -> set[str]:
        return set().union(*self.members.values())

    def has(self, code: str) -> bool:
        """Return whether a name such as `engine.plan.Plan`, `Plan.run`, `model.chat` or `attn_norm` exists.

        A class must have the member, and a module the name, unless the module's name is also a variable's.
        """
        if code in self.names:
            return True
        parts = [part for part in re.split(r"[./]", code) if part]
        for owner, name in pairwise(parts):
            if owner in self.members:
                if name not in self.members[owner]:
                    return False
            elif owner in self.modules and name not in self.modules[owner] | self.all_members:
                return False
        return all(part in self.names for part in parts)


def _defined(nodes: list[ast.stmt] | list[ast.AST]) -> Iterator[str]:
    """Yield the names that statements define."""
    for node in nodes:
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield node.name
        elif isinstance(node, ast.arg | ast.keyword):
            yield node.arg or ""
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            for inner in (inner for target in targets for inner in ast.walk(target)):
                if isinstance(inner, ast.Name):
                    yield inner.id
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            yield node.attr
        elif isinstance(node, ast.Import | ast.ImportFrom):
            yield from (alias.asname or alias.name for alias in node.names)
        elif isinstance(node, ast.If | ast.Try):
            yield from _defined(node.body)


def _attributes(node: ast.ClassDef) -> Iterator[str]:
    """Yield the attributes that a class's methods set."""
    for inner in ast.walk(node):
        if isinstance(inner, ast.Attribute) and isinstance(inner.ctx, ast.Store):
            yield inner.attr


@cache
def names() -> Names:
    return Names()


def pieces_of_code(text: str) -> list[str]:
    """Return each piece of `code` in a text in Markdown, once, in order; blocks of code are left out."""
    text = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
    found = re.findall(r"(?<!`)`([^`]+)`(?!`)", text)
    return list(dict.fromkeys(re.sub(r"\s+", " ", piece) for piece in found))


def _is_file(code: str) -> bool:
    pattern = re.sub("NN_name|NN|NAME", "*", code).strip("/")
    roots = (ROOT, ROOT / "llmlite", ROOT / "tests")
    if "*" not in pattern:
        return any((root / pattern).exists() for root in roots) or _somewhere(pattern)
    return any(next(root.glob(pattern), None) for root in roots) or _somewhere(pattern)


def _somewhere(pattern: str) -> bool:
    """Return whether a file of this name is in a folder of the package, the tests or the lessons."""
    folders = (ROOT / "llmlite", ROOT / "tests", ROOT / "notebooks")
    return any(next(folder.rglob(pattern), None) for folder in folders)


def unknown(code: str) -> list[str]:
    """Return the parts of a piece of code that name nothing: files, names, options, goals and commands.

    Of a command or a phrase, only files, goals of make and commands of llmlite are examined.
    """
    if " " in code:
        words = code.split()
        files = [word for word in words if re.fullmatch(r"[\w./]+/[\w.]+\.(py|sh)", word)]
        wrong = [file for file in files if not _is_file(file)]
        if words[0] == "make":
            goals = [word for word in words[1:] if re.fullmatch(r"[a-z-]+", word)]
            wrong += [goal for goal in goals if not _is_goal(goal)]
        if words[0] == "llmlite" and words[1].islower() and words[1] not in cli.COMMANDS:
            wrong.append(words[1])
        return wrong
    bare = re.sub(r"\(.*\)|=.*", "", code)
    if not re.fullmatch(r"[\w./*-]+", bare) or bare in IGNORED:
        return []
    if FILE.fullmatch(bare):
        return [] if _is_file(bare) else [bare]
    return [] if names().has(bare.removeprefix(".")) else [bare]


def _is_goal(goal: str) -> bool:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    return re.search(rf"^{re.escape(goal)}:", makefile, re.MULTILINE) is not None

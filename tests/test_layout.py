"""Who may import whom. A room imports only from floors below its own; heavy packages stay in their rooms."""

from __future__ import annotations

import ast
import functools
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "llmlite"
FLOORS = [  # the lowest first; rooms of one floor don't import each other
    {"_version", "terminal", "deterministic"},
    {"errors"},
    {"system"},
    {"quants"},
    {"gguf"},
    {"tokenizers", "chat", "sampling", "description", "quantize"},
    {"grammar", "catalog"},
    {"resources", "synth"},
    {"engine", "huggingface"},
    {"generate", "embed"},
    {"model"},
    {"bench", "downloads", "inventory", "compat"},
    {"lessons", "serve", "workshop", "repl"},
    {"plots"},
    {"widgets", "nbval"},
    {"cli"},
    {"__main__", "magic", "llm_plugin"},
]
HOME = {  # a package -> where alone it may be imported
    "torch": ("bench/backends/", "bench/experiments/", "lessons/training.py"),
    "transformers": ("bench/backends/",),
    "tensorflow": ("bench/backends/", "bench/experiments/"),
    "tensorflow_hub": ("bench/backends/",),
    "llama_cpp": ("bench/backends/", "bench/experiments/"),
    "xllamacpp": ("bench/backends/",),
    "openvino": ("bench/backends/",),
    "openvino_genai": ("bench/backends/",),
    "ctranslate2": ("bench/backends/",),
    "onnx": ("bench/backends/",),
    "onnxruntime_genai": ("bench/backends/",),
    "matplotlib": ("plots/",),
    "ipywidgets": ("widgets/", "lessons/predict.py"),
    "IPython": ("widgets/", "plots/", "lessons/predict.py", "lessons/large.py", "terminal.py", "magic.py"),
    "distributed": ("bench/sweep.py",),
    "dask_jobqueue": ("bench/sweep.py",),
    "numba": ("engine/", "quants/"),
    "huggingface_hub": ("downloads/",),
    "starlette": ("serve/",),
    "uvicorn": ("serve/",),
    "pydantic": ("serve/", "llm_plugin.py"),
    "llm": ("llm_plugin.py",),
    "prometheus_client": ("serve/",),
    "pytest": ("nbval.py",),
    "nbval": ("nbval.py",),
    "packaging": ("workshop/",),
    "prompt_toolkit": ("repl/",),
    "rich": ("repl/",),
}
FILES = sorted(PACKAGE.rglob("*.py"))
MODULES = {  # dotted name -> file
    ".".join(["llmlite", *path.relative_to(PACKAGE).with_suffix("").parts]).removesuffix(".__init__"): path
    for path in FILES
}


def room_of(module: str) -> str:
    """Return the room of a dotted name such as llmlite.engine.eager; "" for the package itself."""
    return [*module.split("."), ""][1]


@functools.cache
def imports(path: Path) -> tuple[tuple[str, int], ...]:
    """Return (absolute module name, line) of each import, within functions too.

    Imports for type checkers only don't count.
    """
    return tuple(_imports(path))


def _imports(path: Path) -> Iterator[tuple[str, int]]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    ignored = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        for inner in ast.walk(node)
    }
    package = path.relative_to(ROOT).parts[:-1]
    for node in ast.walk(tree):
        if id(node) in ignored:
            continue
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            for alias in node.names:  # from llmlite import gguf: each name is a room
                full = f"{module}.{alias.name}"
                yield full if full in MODULES or module == "llmlite" else module, node.lineno


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_a_room_imports_only_from_floors_below(path: Path) -> None:
    floor = {room: level for level, rooms in enumerate(FLOORS) for room in rooms}
    own = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    if own == "__init__":
        return  # the front door names every room; test_importing_llmlite holds it to laziness
    assert own in floor, f"{own} stands on no floor: give it one in FLOORS"
    for module, line in imports(path):
        room = room_of(module) if module.partition(".")[0] == "llmlite" else ""
        assert not room or room == own or floor.get(room, 0) < floor[own], (
            f"{path.name}:{line} imports {module}"
        )


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_a_heavy_package_is_imported_only_at_home(path: Path) -> None:
    where = path.relative_to(PACKAGE).as_posix()
    for module, line in imports(path):
        home = HOME.get(module.partition(".")[0])
        assert home is None or where.startswith(home), f"{where}:{line} imports {module}"


def test_no_modules_import_each_other_in_a_circle() -> None:
    graph = {
        name: sorted({module for module, _ in imports(path)} & set(MODULES) - {"llmlite", name})
        for name, path in MODULES.items()
    }
    done: set[str] = set()

    def visit(name: str, path: tuple[str, ...]) -> None:
        assert name not in path, "a circle: " + " -> ".join([*path[path.index(name) :], name])
        if name not in done:
            for other in graph[name]:
                visit(other, (*path, name))
            done.add(name)

    for name in sorted(graph):
        visit(name, ())


def test_a_picture_and_a_widget_have_the_name_of_their_lessons_topic() -> None:
    shared = {"tokens", "large"}  # serve every topic
    parts = {("attention", "erase"), ("blocks", "flip"), ("choosing", "lens")}  # a topic of two modules
    topics = {path.stem for path in (PACKAGE / "lessons").glob("*.py")} - {"__init__"}
    found = set()
    for path in [*(PACKAGE / "plots").glob("*.py"), *(PACKAGE / "widgets").glob("*.py")]:
        for module, _ in imports(path):
            room, _, topic = module.removeprefix("llmlite.").partition(".")
            if room == "lessons" and topic in topics - shared:
                found.add((path.stem, topic))
    assert {(own, topic) for own, topic in found if own != topic} == parts


def test_no_module_hides_a_name_of_its_room() -> None:
    """Importing llmlite.widgets.x sets the attribute x of llmlite.widgets: no widget may be called so."""
    import llmlite.widgets

    assert not set(dir(llmlite.widgets)) & {path.stem for path in (PACKAGE / "widgets").glob("*.py")}


def test_what_tests_share_is_in_support() -> None:
    """A test file that another one imports would be collected twice, or run for its helpers alone."""
    importing = [
        f"{path.relative_to(ROOT)}:{line} imports {module}"
        for path in sorted((ROOT / "tests").rglob("*.py"))
        for module, line in imports(path)
        if module.startswith("tests.") and module.rpartition(".")[2].startswith("test_")
    ]
    assert not importing, "move it to tests/support: " + "; ".join(importing)


def third_party_after(statement: str) -> set[str]:
    """Return the top-level modules outside the standard library that a Python holds after the statement."""
    code = (
        "import sys; before = set(sys.modules)\n"
        f"{statement}\n"
        "names = {name.partition('.')[0] for name in set(sys.modules) - before}\n"
        "print(*sorted(names - sys.stdlib_module_names - {'llmlite'}))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    return set(done.stdout.split())


@pytest.mark.parametrize("statement", ["import llmlite", "import llmlite.cli; llmlite.cli.build_parser()"])
def test_importing_llmlite_imports_no_third_party_module(statement: str) -> None:
    assert third_party_after(statement) == set()


def test_loading_a_model_class_imports_no_compiler_and_no_framework() -> None:
    held = third_party_after("import llmlite; llmlite.Model; llmlite.gguf; llmlite.QuantTensor")
    assert "numpy" in held
    assert not held & {"numba", "llvmlite", "torch", "transformers", "matplotlib", "IPython", "pandas"}


def test_every_public_name_loads_and_is_listed() -> None:
    import llmlite

    for name in llmlite.__all__:
        assert getattr(llmlite, name) is not None
    assert set(llmlite.__all__) <= set(dir(llmlite))
    with pytest.raises(AttributeError, match="no attribute 'nosuch'"):
        _ = llmlite.nosuch

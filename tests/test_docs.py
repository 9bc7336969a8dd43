"""Every local link of the documents leads somewhere, the words keep the house's rules, the version is one."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from types import ModuleType

import pytest

from llmlite._version import __version__
from tests.support.named import pieces_of_code, unknown
from tools.check_terms import findings
from tools.tests_of import tests_of as choose

ROOT = Path(__file__).resolve().parent.parent
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md")), ROOT / "notebooks" / "README.md"]


def anchors(text: str) -> set[str]:
    """Return the anchors of a page's headings, as hosts of repositories make them."""
    headings = re.findall(r"^#+ (.+)$", text, re.M)
    found = {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
    return found | set(re.findall(r'(?:id|name)="([^"]+)"', text))


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_every_local_link_leads_somewhere(page: Path) -> None:
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    for target, anchor in re.findall(r"\]\((?!https?://|mailto:)([^)#\s]*)(?:#([^)]+))?\)", text):
        aim = page.parent / target if target else page
        assert aim.exists(), f"{page.name} -> {target}"
        if anchor and aim.suffix == ".md":
            assert anchor in anchors(aim.read_text(encoding="utf-8")), f"{page.name} -> {target}#{anchor}"


def test_the_api_page_names_what_exists() -> None:
    from importlib import import_module

    names = re.findall(r"^::: (\S+)$", (ROOT / "docs" / "api.md").read_text(encoding="utf-8"), re.M)
    for name in names:
        module, _, attribute = name.rpartition(".")
        assert (
            importlib.util.find_spec(name)
            if attribute.islower() and _is_module(name)
            else hasattr(import_module(module), attribute)
        ), name


def _is_module(name: str) -> bool:
    path = ROOT / name.replace(".", "/")
    return path.is_dir() or path.with_suffix(".py").is_file()


# the pages that speak of this project's code; the others also name what belongs to other programs
OF_OUR_CODE = ["README.md", "CONTRIBUTING.md", "notebooks/README.md"] + [
    f"docs/{name}.md"
    for name in ("architecture", "chat", "ci-performance", "grammars", "index", "python-api", "reliability")
    + ("sampling", "sweep")
]


@pytest.mark.parametrize("page", OF_OUR_CODE)
def test_the_code_that_a_page_names_exists(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    named = pieces_of_code(text)
    assert named
    assert not {code: wrong for code in named if (wrong := unknown(code))}


@pytest.mark.parametrize(
    ("code", "wrong"),
    [
        ("docs/nosuch.md", "docs/nosuch.md"),
        ("engine/nosuch.py", "engine/nosuch.py"),
        ("operations.Nosuch", "operations.Nosuch"),
        ("Attention.nosuch", "Attention.nosuch"),
        ("engine/transformer.nosuch_inputs", "engine/transformer.nosuch_inputs"),
        ("nosuch_function(x)", "nosuch_function"),
        ("--no-such-option", "--no-such-option"),
        ("make nosuch", "nosuch"),
        ("llmlite nosuch FILE", "nosuch"),
        ("python tools/nosuch.py NAME", "tools/nosuch.py"),
    ],
)
def test_code_that_names_nothing_is_found(code: str, wrong: str) -> None:
    assert unknown(code) == [wrong]


def test_the_module_map_names_every_room() -> None:
    package = ROOT / "llmlite"
    rooms = {f"{path.parent.name}/" for path in package.glob("*/__init__.py")}
    rooms |= {path.name for path in package.glob("*.py") if not path.name.startswith("_")}
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    chart = readme.partition("## What is where")[2].partition("Beside the package")[0]
    assert rooms == set(re.findall(r"`([a-z_]+(?:/|\.py))`", chart)) - {"llmlite/"}


def test_the_terms_are_those_of_the_house() -> None:
    done = subprocess.run(
        [sys.executable, "tools/check_terms.py"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout


def test_a_foreign_phrase_is_found_with_a_suggestion() -> None:
    (found,) = findings(Path("x.md"), "Colours\nfor who does not see them")
    assert found == "x.md:2: 'for who'; better: for people who; for readers who"
    assert not list(findings(Path("x.md"), "for who <!-- terms: ok -->"))


@pytest.mark.parametrize(
    "text",
    [
        "None where the file has none",
        "where it is absent",
        "field 3 is no message",
        "it's no multiple of 32",
        "memory behind position 2047",
        "behind the end of the file",
        "tensors lie one behind the other",
        "a text of so many tokens",
        "wait at most so long",
        "a rendering is ended then",
        "nothing of it was kept",
        "Falcon's vocabulary, for one, has none",
        "a script (a CI, for one)",
        "--plain does without.",
        "what isn't installed is said to be so",
        "they didn't come to an end",
        "in order, without a hole",
        "what the model held likely there",
        "what it makes for later: where it is",
        "Markdown is set as it comes",
        "the least of 6 runs",
        "perplexity on so many tokens",
        "not measured: the time was over",
        "60% of 8 s were gone",
        "pip failed, and not for want of a version",
        "interrupted: the table of what there is",
        "nothing is slower for certain",
        "the figure is theirs all the same",
        "memory isn't told here",
    ],
)
def test_phrases_that_came_up_in_the_text_cannot_come_back(text: str) -> None:
    assert len(list(findings(Path("x.md"), text))) == 1


@pytest.mark.parametrize("text", ["there is no token for it", "there is no folder", "the token where it is"])
def test_the_same_words_in_plain_english_are_left_alone(text: str) -> None:
    assert not list(findings(Path("x.md"), text))


def test_the_version_is_written_once() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert "version" in project["dynamic"] and "version" not in project
    citation = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    stated = re.findall(r"^version: ['\"]?([\w.]+)", citation, re.M)
    assert not stated or stated == [__version__]


def test_the_reference_has_every_public_name() -> None:
    import llmlite as ll

    reference = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
    missing = [
        name
        for name in ll.__all__
        if not isinstance(value := getattr(ll, name), (str, ModuleType))
        and not (isinstance(value, type) and issubclass(value, (Exception, Warning)))  # ::: llmlite.errors
        and not re.search(rf"^(:::|      members:).*\b{name}\b", reference, re.M)
    ]
    assert not missing and "::: llmlite.errors" in reference


@pytest.mark.slow
def test_the_site_builds_without_a_warning_and_asks_no_network(tmp_path: Path) -> None:
    pytest.importorskip("mkdocs", reason="the extra docs isn't installed")
    pytest.importorskip("mkdocstrings", reason="the extra docs isn't installed")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "-d", str(tmp_path / "site")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    for page in (tmp_path / "site").rglob("*.html"):
        text = page.read_text("utf-8")
        loaded = re.findall(
            r'<(?:script|link rel="stylesheet"|img)[^>]+(?:src|href)="(https?://[^"]+)"', text
        )
        assert not loaded, f"{page.name} loads {loaded[0]}"
    assert "The Python API" in (tmp_path / "site" / "index.html").read_text("utf-8")
    assert "llmlite.model.load" in (tmp_path / "site" / "api.html").read_text("utf-8")


def test_the_tests_of_a_file_are_those_that_import_or_name_it() -> None:
    assert {"tests/generate/test_sampling.py", "tests/test_layout.py"} <= choose(
        "llmlite/sampling/__init__.py"
    )
    assert "tests/lessons/test_workshop.py" in choose("llmlite/workshop/codes.py")
    assert "tests/bench/test_bench_diff.py" not in choose("llmlite/workshop/codes.py")
    assert "tests/engine/test_same_bits.py" in choose("llmlite/engine/kernels/few.py"), "no test imports it"
    assert "tests/engine/test_attention.py" in choose("llmlite/engine/contract.py"), "through tests/support"
    assert "tests/lessons/test_lessons_type_sweep.py" in choose("data/types.json"), "a module names it"
    assert "tests/notebooks/test_copies.py" in choose("notebooks/source/03_which_quantization.py")
    assert "tests/huggingface/test_safetensors.py" in choose("tests/huggingface/conftest.py")
    for wrong in ("llmlite/nosuch.py", "/etc/hostname"):
        with pytest.raises(SystemExit, match="no such file"):
            choose(wrong)

"""tools/check_release.py: a release without addresses, version or date is refused, each by name."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from tools.check_release import URLS, lacks

ROOT = Path(__file__).resolve().parents[2]
FILES = ("pyproject.toml", "CHANGELOG.md", "CITATION.cff", "SECURITY.md", "llmlite/_version.py")


def checkout(folder: Path) -> Path:
    for name in FILES:
        (folder / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, folder / name)
    return folder


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new, 1), encoding="utf-8")


def test_a_complete_release_lacks_nothing_and_each_gap_is_named(tmp_path: Path) -> None:
    root = checkout(tmp_path)
    (root / "llmlite" / "_version.py").write_text('__version__ = "9.1.0"\n', encoding="utf-8")
    gaps = {
        "[project.urls] has no Source",
        "[project.urls] has no Issues",
        "[project.urls] has no Changelog",
        "CHANGELOG.md: no heading '## 9.1.0",
        "CITATION.cff: no version 9.1.0",
        "git: this commit has no tag v9.1.0",
    }
    found = list(lacks(root))
    assert all(any(gap in sentence for sentence in found) for gap in gaps), found

    urls = "\n".join(f'{name} = "https://code.example/llmlite"' for name in URLS)
    edit(root / "pyproject.toml", "[project.scripts]", f"[project.urls]\n{urls}\n\n[project.scripts]")
    edit(root / "CHANGELOG.md", "## Unreleased", "## Unreleased\n\n## 9.1.0 (2030-01-02)")
    (root / "CITATION.cff").write_text(
        "version: 9.1.0\ndate-released: 2030-01-02\nrepository-code: https://code.example/llmlite\n"
    )
    (root / "SECURITY.md").write_text("Write to security@code.example.\n")
    identity = ["-c", "user.name=t", "-c", "user.email=t@code.example", "-c", "commit.gpgsign=false"]
    for command in (["init", "-q"], ["add", "."], [*identity, "commit", "-qm", "all"], ["tag", "v9.1.0"]):
        subprocess.run(["git", "-C", str(root), *command], check=True)
    assert list(lacks(root)) == []
    (root / "SECURITY.md").write_text("Write to safety@code.example.\n")
    assert list(lacks(root)) == ["git: there are changes that are not committed"]


def test_publishing_is_behind_the_check() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    goal = makefile.partition("\npublish:")[2].partition("\n\n")[0]
    assert goal.index("check_release.py") < goal.index("twine upload")
    uploads = [line for line in makefile.splitlines() if "twine upload" in line and line.startswith("\t")]
    assert len(uploads) == 1

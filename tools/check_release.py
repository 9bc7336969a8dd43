"""List everything that a release still lacks: `python tools/check_release.py`.

The exit code is 1 if anything is missing. `make dist` prints the list as a warning, because a wheel for
private use needs none of it. `make publish` stops.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
URLS = ("Source", "Issues", "Changelog")  # the links that a page on the package index should have at least


def lacks(root: Path) -> Iterator[str]:
    """Yield a sentence about each thing that a release of the checkout in `root` lacks."""
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    urls = project.get("urls", {})
    for name in URLS:
        if not urls.get(name, "").startswith("https://"):
            yield f"pyproject.toml: [project.urls] has no {name}; give the public address, https://…"
    text = (root / "llmlite" / "_version.py").read_text(encoding="utf-8")
    version = re.search(r'__version__ = "([^"]+)"', text)[1]
    changes = (root / "CHANGELOG.md").read_text(encoding="utf-8")
    if not re.search(rf"^## {re.escape(version)} \(\d{{4}}-\d\d-\d\d\)$", changes, re.M):
        yield f"CHANGELOG.md: no heading '## {version} (YYYY-MM-DD)'"
    citation = (root / "CITATION.cff").read_text(encoding="utf-8")
    for key, wanted in {
        "version": re.escape(version),
        "date-released": r"\d{4}-\d\d-\d\d",
        "repository-code": "https://.+",
    }.items():
        if not re.search(rf"^{key}: ['\"]?{wanted}['\"]?$", citation, re.M):
            yield f"CITATION.cff: no {key}{f' {version}' if key == 'version' else ''}"
    security = (root / "SECURITY.md").read_text(encoding="utf-8")
    if not re.search(r"https://|[\w.]+@[\w.]+", security):
        yield "SECURITY.md: no address to report a fault to in private"
    if f"v{version}" not in _git(root, "tag", "--points-at", "HEAD").split():
        yield f"git: this commit has no tag v{version}"
    if _git(root, "status", "--porcelain"):
        yield "git: there are changes that are not committed"


def _git(root: Path, *arguments: str) -> str:
    return subprocess.run(
        ["git", "-C", str(root), *arguments], capture_output=True, text=True, check=False
    ).stdout


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--warn", action="store_true", help="only print what is missing; exit code 0")
    options = parser.parse_args()
    found = list(lacks(ROOT))
    for sentence in found:
        print(f"not ready to be published: {sentence}", file=sys.stderr)
    if not found:
        print("ready to be published")
    return 1 if found and not options.warn else 0


if __name__ == "__main__":
    sys.exit(main())

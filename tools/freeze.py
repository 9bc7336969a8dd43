"""Write constraints.txt from the environment that this runs in: every version, no addresses, no local tags.

.venv/bin/python tools/freeze.py     (after `make test-all` and `make lint` have installed every extra)
"""

from __future__ import annotations

import re
from importlib.metadata import distributions
from pathlib import Path

TARGET = Path(__file__).resolve().parent.parent / "constraints.txt"
HEADER = """\
# Every version that the tests ran with; regenerate with tools/freeze.py. Constraints, not requirements:
# pip installs none of these for being listed here.
"""
OWN = "llmlite-kit"


def pins() -> list[str]:
    """Return `name==version` for every installed distribution but this one, local tags (`+cpu`) cut off."""
    versions = {}
    for distribution in distributions():
        name = re.sub(r"[-_.]+", "-", distribution.metadata["Name"]).lower()
        versions[name] = distribution.version.partition("+")[0]
    versions.pop(OWN, None)
    return [f"{name}=={version}" for name, version in sorted(versions.items())]


def main() -> None:
    lines = pins()
    TARGET.write_text(HEADER + "\n".join(lines) + "\n", encoding="utf-8")
    print(f"{TARGET.name}: {len(lines)} versions")


if __name__ == "__main__":
    main()

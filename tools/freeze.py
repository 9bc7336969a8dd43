"""Write constraints.txt from the current environment: every version, no addresses, no local tags.

.venv/bin/python tools/freeze.py          (after `make test-all` and `make lint` have installed every extra)
.venv/bin/python tools/freeze.py --check  (then, with a network: check that the default index has every pin)

Pins of packages that aren't installed here stay, such as those of peers in their own environments. --drop
drops them.

The environment may have a newer Python than another user's, or packages from a mirror, a folder of wheels or
a private index. So --check asks only the default index, once for the first release of each Python that
pyproject.toml names. (With 3.11.0 it finds a pin that needs 3.11.5, which Debian's 3.11.2 couldn't install.)
pip ignores its configuration files and environment variables. Each missing pin is named, and the exit code is
then 1. Only descriptions are downloaded. No test runs --check, because it needs a network.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Callable
from importlib.metadata import distributions
from pathlib import Path
from tempfile import TemporaryDirectory

TARGET = Path(__file__).resolve().parent.parent / "constraints.txt"
HEADER = """\
# Every version that the tests ran with; regenerate with tools/freeze.py. Constraints, not requirements:
# pip installs nothing only because it is listed here.
"""
PROJECT = TARGET.with_name("pyproject.toml")
OWN = "llmlite-kit"
Pip = Callable[..., "subprocess.CompletedProcess[str]"]


def pins() -> list[str]:
    """Return `name==version` of every installed distribution but this one, without local tags (`+cpu`)."""
    versions = {}
    for distribution in distributions():
        name = re.sub(r"[-_.]+", "-", distribution.metadata["Name"]).lower()
        versions[name] = distribution.version.partition("+")[0]
    versions.pop(OWN, None)
    return [f"{name}=={version}" for name, version in sorted(versions.items())]


def with_kept(found: list[str], before: list[str]) -> list[str]:
    """Return the pins found here, and the earlier pins of packages that aren't installed here."""
    names = {pin.partition("==")[0] for pin in found}
    return sorted([*found, *(pin for pin in before if pin.partition("==")[0] not in names)])


def in_file() -> list[str]:
    """Return the present pins of constraints.txt."""
    lines = TARGET.read_text(encoding="utf-8").splitlines() if TARGET.exists() else []
    return [line.strip() for line in lines if line.strip() and not line.startswith("#")]


def isolated_pip(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pip", "--isolated", "--disable-pip-version-check", *arguments]
    # --isolated still reads the system's configuration; this turns that off too
    environment = {**os.environ, "PIP_CONFIG_FILE": os.devnull}
    return subprocess.run(command, text=True, capture_output=True, env=environment)


def pythons() -> list[str]:
    """Return the first release of each Python in pyproject.toml's classifiers, oldest first."""
    classifiers = tomllib.loads(PROJECT.read_text(encoding="utf-8"))["project"]["classifiers"]
    named = re.findall(r":: (3\.\d+)$", "\n".join(classifiers), flags=re.MULTILINE)
    return [f"{version}.0" for version in named]


def without_wheel(wanted: list[str], python: str, pip: Pip) -> list[str]:
    """Return the pins for which the index has no wheel for this Python on this machine.

    Raises:
        SystemExit: pip fails for another reason, such as a missing network.
    """
    wanted, refused = list(wanted), []
    options = ["--quiet", "--dry-run", "--ignore-installed", "--no-deps", "--only-binary", ":all:"]
    with TemporaryDirectory() as folder:
        options += ["--python-version", python, "--target", folder]
        file = Path(folder) / "requirements.txt"
        while wanted:
            file.write_text("\n".join(wanted) + "\n", encoding="utf-8")
            done = pip("install", *options, "-r", str(file))
            if done.returncode == 0:
                break
            # pip stops at the first pin that it can't find: remove it and ask for the rest
            found = re.search(r"No matching distribution found for (\S+)", done.stderr)
            # without a network, pip retries and then reports every version as missing
            if not found or found[1] not in wanted or "Retrying" in done.stderr:
                raise SystemExit(f"pip failed, but not because a version is missing:\n{done.stderr}")
            wanted.remove(found[1])
            refused.append(found[1])
    return refused


def missing(wanted: list[str], python: str, pip: Pip = isolated_pip) -> list[str]:
    """Return the pins that the default index has neither as a wheel nor as source for this Python."""
    gone = []
    for pin in without_wheel(wanted, python, pip):
        name, _, version = pin.partition("==")
        done = pip("index", "versions", name, "--json", "--python-version", python)
        # pip fails for an unknown name; a missing network would have failed before
        if done.returncode or version not in json.loads(done.stdout)["versions"]:
            gone.append(pin)
    return gone


def check() -> int:
    wanted = in_file()
    complete = True
    for python in pythons():
        gone = missing(wanted, python)
        complete &= not gone
        answer = (
            f"lacks {len(gone)} of {len(wanted)}: {', '.join(gone)}" if gone else f"has all {len(wanted)}"
        )
        print(f"{TARGET.name}: for Python {python} the default index {answer}", flush=True)
    if not complete:
        print("Choose versions that the index has, install them, and run the tests.")
    return 0 if complete else 1


def main() -> int:
    parser = argparse.ArgumentParser(description="Write or check constraints.txt.")
    parser.add_argument(
        "--check", action="store_true", help="ask the default index for every pin; write nothing"
    )
    parser.add_argument(
        "--drop", action="store_true", help="drop the pins of packages that aren't installed here"
    )
    options = parser.parse_args()
    if options.check:
        return check()
    found = pins()
    lines = found if options.drop else with_kept(found, in_file())
    TARGET.write_text(HEADER + "\n".join(lines) + "\n", encoding="utf-8")
    print(f"{TARGET.name}: {len(lines)} versions")
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Copy the lessons to a folder of yours and open them in JupyterLab.

A lesson that you changed is never overwritten: the copy keeps your version and says so.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path

from llmlite import resources
from llmlite.errors import LlmliteError

HELP = "copy the lessons to a folder and open them in JupyterLab"
EXAMPLES = """\
examples:
  llmlite lab                     copies to ./llmlite-lessons and opens the browser
  llmlite lab ~/lessons           another folder
  llmlite lab --copy-only         only copies
"""
# The checksum of each file as it was copied: tells a lesson that its reader changed from an old one.
RECORD = ".llmlite-lessons.json"
SKIPPED = {"__pycache__", ".ipynb_checkpoints", "conftest.py"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "folder", nargs="?", default="llmlite-lessons", type=Path, help="where to (default: %(default)s)"
    )
    parser.add_argument("--copy-only", action="store_true", help="don't start JupyterLab")
    parser.add_argument(
        "--no-browser", action="store_true", help="start JupyterLab, print its address, open nothing"
    )


def run(options: argparse.Namespace) -> int:
    copied, kept = copy_lessons(resources.notebooks_path(), options.folder)
    print(f"{options.folder}: {copied} file{'' if copied == 1 else 's'} copied")
    for name in kept:
        print(f"{options.folder / name}: changed by you, left as it is (delete it to get the new one)")
    if options.copy_only:
        return 0
    if importlib.util.find_spec("jupyterlab") is None:
        raise LlmliteError(
            "JupyterLab isn't installed here; install it with: "
            f"{Path(sys.executable).name} -m pip install 'llmlite-kit[lab]'"
        )
    return open_lab(options.folder, browser=not options.no_browser)


def copy_lessons(source: Path, folder: Path) -> tuple[int, list[str]]:
    """Copy what is new or outdated in the folder; return how many files, and the names left alone."""
    folder.mkdir(parents=True, exist_ok=True)
    record_file = folder / RECORD
    record = json.loads(record_file.read_text(encoding="utf-8")) if record_file.is_file() else {}
    copied, kept = 0, []
    for path in sorted(p for p in source.rglob("*") if p.is_file()):
        name = path.relative_to(source).as_posix()
        if SKIPPED & set(name.split("/")):
            continue
        target = folder / name
        new = resources.sha256(path)
        present = resources.sha256(target) if target.exists() else None
        if present not in (None, new, record.get(name)):
            kept.append(name)
            continue
        if present != new:
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)  # not the mode: an installed lesson may be read-only
            copied += 1
        record[name] = new
    record_file.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    return copied, kept


def open_lab(folder: Path, *, browser: bool) -> int:
    """Start JupyterLab in the folder and wait for its end."""
    command = [sys.executable, "-m", "jupyterlab", *([] if browser else ["--no-browser"])]
    process = subprocess.Popen(command, cwd=folder)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is JupyterLab's question to answer
    return process.wait()

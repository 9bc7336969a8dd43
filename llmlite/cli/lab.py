"""Copy the lessons to a folder of yours and open them in JupyterLab.

A lesson that you changed is never overwritten: your version stays, and a line says so.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from llmlite import resources
from llmlite.errors import LlmliteError
from llmlite.system import files
from llmlite.terminal import say

HELP = "copy the lessons to a folder and open them in JupyterLab"
EXAMPLES = """\
examples:
  llmlite lab                     copies to ./llmlite-lessons and opens their index in the browser
  llmlite lab ~/lessons           another folder
  llmlite lab --copy-only         only copies
  llmlite lab --large-type        for a projector: larger text and figures
  llmlite lab --no-browser --ip 0.0.0.0 --port 9999      on a server or in a container
  llmlite lab -- --LabApp.collaborative=True             pass the options after -- to JupyterLab
  llmlite lab --summary FOLDER    a table of the progress files that learners handed in
  llmlite lab --instructor        with solutions and notes, to teach from (./llmlite-lessons-instructor)
"""
PASSES_ON = True  # options after -- go to JupyterLab
# Has the checksum of each file as it was copied. It tells a changed lesson from an outdated one.
RECORD = ".llmlite-lessons.json"
INSTRUCTOR = "instructor"
SKIPPED = {"lessons.json", "__pycache__", ".ipynb_checkpoints", "conftest.py", "source", INSTRUCTOR}
INDEX = "index.ipynb"
# JupyterLab would ask the network for news and newer versions. Nothing here needs a network.
QUIET = (
    "--LabApp.news_url=None",
    "--LabApp.check_for_updates_class=jupyterlab.handlers.announcements.NeverCheckForUpdate",
)
# Without this setting, JupyterLab asks at its first start whether it may fetch news.
NEWS = "@jupyterlab/apputils-extension:notification"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "folder",
        nargs="?",
        type=Path,
        help="the folder to copy to (default: llmlite-lessons in the current folder)",
    )
    parser.add_argument("--instructor", action="store_true", help="copy the lessons with solutions and notes")
    parser.add_argument("--copy-only", action="store_true", help="don't start JupyterLab")
    parser.add_argument(
        "--no-browser", action="store_true", help="start JupyterLab, print its address, open nothing"
    )
    parser.add_argument("--large-type", action="store_true", help="text and figures for a projector")
    parser.add_argument("--port", type=int, help="port of JupyterLab (default: 8888, or the next free one)")
    parser.add_argument("--ip", help="address to listen on; 0.0.0.0 means all (default: this machine only)")
    parser.add_argument("--summary", type=Path, metavar="FOLDER", help="read progress files, print a table")
    parser.add_argument(
        "--points", type=Path, metavar="CSV", help="with --summary: write points to a CSV file"
    )
    parser.add_argument("rest", nargs="*", metavar="-- OPTION", help="options for JupyterLab, after --")


def run(options: argparse.Namespace) -> int:
    if options.summary:
        return summarize(options.summary, options.points)
    if options.points:
        raise LlmliteError("--points needs --summary FOLDER")
    folder = options.folder or Path("llmlite-lessons" + ("-instructor" if options.instructor else ""))
    copied, kept = copy_lessons(resources.notebooks_path(), folder, instructor=options.instructor)
    say(f"{folder}: {copied} file{'' if copied == 1 else 's'} copied")
    for name in kept:
        say(f"{folder / name}: changed by you, left as it is (delete it to get the new one)")
    if options.copy_only:
        return 0
    if importlib.util.find_spec("jupyterlab") is None:
        raise LlmliteError(
            "JupyterLab isn't installed here; install it with: "
            f"{Path(sys.executable).name} -m pip install 'llmlite-kit[lab]'"
        )
    if options.large_type:
        os.environ["LLMLITE_LARGE"] = "1"  # read by the lessons' kernels
    given = [f"--{name}={value}" for name in ("port", "ip") if (value := getattr(options, name)) is not None]
    return open_lab(folder, browser=not options.no_browser, more=[*given, *options.rest])


def summarize(folder: Path, points: Path | None) -> int:
    """Print a table of lessons by learners and the most missed predictions; write points as CSV."""
    from llmlite.lessons import progress

    if not folder.is_dir():
        raise LlmliteError(f"{folder}: no such folder; put the learners' progress files into one")
    learners, problems = progress.collect(folder)
    for problem in problems:
        say(f"left out: {problem}")
    if not learners:
        raise LlmliteError(
            f"{folder}: no progress files in it ({progress.FILE}, or NAME.json for each learner)"
        )
    rows = progress.table(learners)
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    for row in rows:
        say("  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip())
    for one in progress.missed(learners.values())[:5]:
        say(
            f"missed by {one.wrong} of {one.made}, lesson {one.lesson}: {one.question} "
            f"(most frequent wrong answer: {one.favourite})"
        )
    if points:
        files.write_text(points, progress.points(learners))
        say(f"{points}: points of {len(learners)} learners")
    return 0


def shipped(source: Path, *, instructor: bool = False) -> dict[str, Path]:
    """Return the files to copy, by their names in the reader's folder.

    With `instructor`, these are the lessons with solutions and notes.
    """
    found = {
        path.relative_to(source).as_posix(): path for path in sorted(source.rglob("*")) if path.is_file()
    }
    if instructor:
        found |= {path.name: path for path in sorted((source / INSTRUCTOR).glob("*.ipynb"))}
    return {name: path for name, path in found.items() if not SKIPPED & set(name.split("/"))}


def copy_lessons(source: Path, folder: Path, *, instructor: bool = False) -> tuple[int, list[str]]:
    """Copy lessons that are new or outdated in the folder.

    Returns:
        The number of files copied, and the names of files that were left alone.
    """
    folder.mkdir(parents=True, exist_ok=True)
    record_file = folder / RECORD
    record = read_record(record_file)
    copied, kept = 0, []
    for name, path in shipped(source, instructor=instructor).items():
        target = folder / name
        new = resources.sha256(path)
        present = resources.sha256(target) if target.exists() else None
        if present not in (None, new, record.get(name)):
            kept.append(name)
            continue
        if present != new:
            target.parent.mkdir(parents=True, exist_ok=True)
            files.write_bytes(target, path.read_bytes())  # not its mode: an installed lesson may be read-only
            copied += 1
        record[name] = new
    files.write_text(record_file, json.dumps(record, indent=1) + "\n")
    return copied, kept


def read_record(file: Path) -> dict[str, str]:
    """Return the checksums of an earlier copy, or none if the record is missing or damaged.

    Without checksums, every lesson that differs counts as changed by its reader and isn't overwritten.
    """
    try:
        record = json.loads(file.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return {}
    return record if isinstance(record, dict) else {}


def command(folder: Path, *, browser: bool, more: Sequence[str] = ()) -> list[str]:
    """Return the command that starts JupyterLab; it opens the index if the folder has one."""
    start = [sys.executable, "-m", "jupyterlab", *QUIET]
    if hasattr(os, "geteuid") and os.geteuid() == 0:
        start.append("--allow-root")  # containers run as root
    if (folder / INDEX).is_file():
        start.append(f"--LabApp.default_url=/lab/tree/{INDEX}")  # also in the address that it prints
    return [*start, *(() if browser else ["--no-browser"]), *more]


def settings(folder: Path) -> Path:
    """Write JupyterLab's defaults for these lessons; return their folder. A user's own settings win."""
    place = folder / ".llmlite-jupyter" / "lab" / "settings"
    place.mkdir(parents=True, exist_ok=True)
    quiet = {NEWS: {"fetchNews": "false", "checkForUpdates": False}}
    files.write_text(place / "overrides.json", json.dumps(quiet, indent=1) + "\n")
    return place


def open_lab(folder: Path, *, browser: bool, more: Sequence[str] = ()) -> int:
    """Start JupyterLab in the folder and wait until it ends."""
    quiet = f"--LabApp.app_settings_dir={settings(folder.resolve())}"
    process = subprocess.Popen(command(folder, browser=browser, more=[quiet, *more]), cwd=folder)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # JupyterLab itself handles Ctrl-C
    try:
        return process.wait()
    except BaseException:  # a signal ends this process: end JupyterLab too
        process.terminate()
        raise

"""Prepare a workshop: its schedule, the mail to send the day before, and an offline stick.

docs/workshop.md explains how to run a workshop. `llmlite doctor --code` prints a laptop's state as a short
code, and `llmlite doctor --decode FILE` turns many codes into a table.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from llmlite.cli.files import size, table
from llmlite.errors import LlmliteError
from llmlite.terminal import complain, say
from llmlite.workshop import schedule

if TYPE_CHECKING:
    from llmlite.workshop.bundle import StickPlan

HELP = "prepare a workshop: schedule, mail, offline stick"
EXAMPLES = """\
examples:
  llmlite workshop schedule 3-hours --start 13:30
  llmlite workshop mail 3-hours --when 13:30 --where "room 2.17"
  llmlite workshop bundle stick --for linux,windows --python 3.12,3.13 --model smollm2
  llmlite workshop check stick                  check that the files on it are undamaged
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    plan = actions.add_parser("schedule", help="print a schedule with breaks")
    plan.add_argument("route", nargs="?", choices=tuple(schedule.ROUTES), help="by default, all of them")
    plan.add_argument("--start", default="09:00", metavar="HH:MM", help="default: %(default)s")
    plan.add_argument("--markdown", action="store_true", help="as tables in Markdown")
    mail = actions.add_parser("mail", help="print the mail to send the day before")
    mail.add_argument("route", nargs="?", choices=tuple(schedule.ROUTES), default="3-hours")
    mail.add_argument("--when", default="", metavar="HH:MM", help="the time at which it begins")
    mail.add_argument("--where", default="", metavar="PLACE", help="the place")
    stick = actions.add_parser("bundle", help="make an offline stick")
    stick.add_argument("folder", type=Path, help="a new folder, on the stick if you like")
    stick.add_argument("--for", dest="systems", default="linux,windows,macos", metavar="SYSTEMS",
                       help="default: %(default)s")  # fmt: skip
    stick.add_argument("--python", default="3.12,3.13", metavar="VERSIONS", help="default: %(default)s")
    stick.add_argument("--extras", default="lab", metavar="EXTRAS",
                       help="extras of llmlite-kit, such as lab,torch (default: %(default)s)")  # fmt: skip
    stick.add_argument(
        "--model", action="append", default=[], metavar="NAME", help="also bring this model: smollm2"
    )
    stick.add_argument("--site", type=Path, metavar="FOLDER", help="also the rendered lessons (make site)")
    stick.add_argument(
        "--wheel", type=Path, metavar="FILE", help="llmlite's own wheel (default: built or fetched)"
    )
    stick.add_argument(
        "--constraints", type=Path, metavar="FILE", help="pinned versions (default: a checkout's own)"
    )
    stick.add_argument("--yes", action="store_true", help="fetch without asking")
    check = actions.add_parser("check", help="compare a stick's files with what was written")
    check.add_argument("folder", type=Path)


def run(options: argparse.Namespace) -> int:
    return {"schedule": run_schedule, "mail": run_mail, "bundle": run_bundle, "check": run_check}[
        options.action
    ](options)


def run_schedule(options: argparse.Namespace) -> int:
    from llmlite import resources

    here = schedule.shipped(resources.notebooks_path())
    for route in [options.route] if options.route else schedule.ROUTES:
        rows = schedule.rows(route, start=options.start, only=here)
        if not options.route:
            say(f"## {schedule.NAMES[route]} ({route})\n")
        if options.markdown:
            say(schedule.markdown(rows))
        else:
            say("\n".join(table(rows)) + "\n")
    return 0


def run_mail(options: argparse.Namespace) -> int:
    from llmlite.workshop.mail import letter

    if options.when:
        schedule.minutes_of(options.when)
    say(letter(options.route, when=options.when, where=options.where), end="")
    return 0


def run_check(options: argparse.Namespace) -> int:
    from llmlite.workshop import bundle

    problems = bundle.damaged(options.folder)
    for problem in problems:
        say(problem)
    say(f"{len(problems)} damaged" if problems else "every file is what was written")
    return 1 if problems else 0


def run_bundle(options: argparse.Namespace) -> int:
    from llmlite.workshop import bundle
    from llmlite.workshop.target import targets

    plan = bundle.plan(
        options.folder,
        targets(options.systems, options.python),
        extras=options.extras,
        constraints=options.constraints,
        own=options.wheel,
        models=tuple(dict.fromkeys(options.model)),
        site=options.site,
        say=complain,
    )
    show(plan)
    if not options.yes and not agreed():
        bundle.give_up(plan)
        raise LlmliteError("nothing was fetched; --yes fetches without asking")
    try:
        bundle.make(plan, complain)
    except BaseException:
        if plan.part.is_dir():
            complain(f"complete files are kept in {plan.part}; run the same command again to continue")
        raise
    say(f"{plan.folder}: a stick for {', '.join(r.target.name for r in plan.resolutions)}")
    return 1 if plan.left_out else 0


def show(plan: StickPlan) -> None:
    """Print the size of each system's part, and the name of every gap."""
    for resolution in plan.resolutions:
        n = len(resolution.wheels)
        say(f"{resolution.target.name:<14} {n:>4} wheels  {size(plan.of_target(resolution)):>8}")
    for resolution in plan.left_out:
        say(f"{resolution.target.name:<14} left out:")
        for name, why in sorted(resolution.gaps.items()):
            say(f"{'':<14}   {name}: {why}")
    unknown = f", and {plan.unknown} wheels of unknown size" if plan.unknown else ""
    say(f"{'together':<14} {len(plan.sizes):>4} wheels  {size(plan.n_bytes):>8}{unknown} (each once)")


def agreed() -> bool:
    """Ask on a terminal whether to continue. Return False if there is no terminal."""
    if not (sys.stdin and sys.stdin.isatty()):
        return False
    say("Fetch them? [y/N] ", end="", file=sys.stderr, flush=True)
    return sys.stdin.readline().strip().lower() in ("y", "yes")

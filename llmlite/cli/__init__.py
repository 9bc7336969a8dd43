"""The command line: one file per command; this file has the parser and the handling of errors.

A command module has HELP (one line), EXAMPLES (shown under --help), `add_arguments(parser)` and
`run(options) -> exit code`. If it has PASSES_ON, `options.rest` holds the words after `--`.

Exit codes: 0 done, 1 something examined is wrong (doctor, compare), 2 the request, a file or the machine is
at fault, 129 the terminal went away, 130 stopped by Ctrl-C, 141 the reader of our output went away, 143 ended
by SIGTERM.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import textwrap
import warnings
from collections.abc import Sequence
from contextlib import suppress
from importlib import import_module
from typing import Any

from llmlite._version import __version__
from llmlite.cli.process import EndedBySignal, discard_output, ending_by_signal, is_expected, open_streams
from llmlite.errors import FallbackWarning, LlmliteError
from llmlite.system.limits import spare_blas
from llmlite.terminal import Lossy, complain, flush_output, printable, say

COMMANDS = (
    *("run", "chat", "serve", "embed", "show", "compare", "bench", "claims", "tokenize"),
    *("pull", "models"),
    *("advise", "sweep"),
    *("quantize", "imatrix", "perplexity", "kl"),
    *("convert", "split", "merge", "export"),
    *("warmup", "synth"),
    *("doctor", "lab", "workshop", "completion"),
)
EPILOG = """\
start here:
  llmlite run                        a tale by the bundled model
  llmlite run -p "The fox" -n 50     your own beginning
  llmlite pull smollm2               a model that can chat (93 MB)
  llmlite embed minilm "A" "B"       compare texts (after llmlite pull minilm)
  llmlite show model.gguf            the contents of a file
  llmlite compare                    llmlite beside PyTorch, on this machine
  llmlite lab                        the lessons, in JupyterLab

MODEL is a path to a GGUF file, "tales" (bundled), "smollm2" (pulled), either with
a type, as in "tales:Q4_0" (made on first use), or any name that `llmlite models` lists.
`llmlite COMMAND --help` explains each command with examples.
"""


WIDTH = 80  # columns: every help fits into them
FULL_LINE = (
    60  # characters: a line of at least this many was broken in the source, so the next one continues it
)


class HelpFormatter(argparse.RawDescriptionHelpFormatter):
    """Formatter that fills paragraphs, keeps short and indented lines, and breaks lines wider than WIDTH.

    If an example's line is too wide, its comment goes on a line of its own. Three spaces begin a comment.
    """

    def __init__(self, prog: str) -> None:
        super().__init__(prog, width=WIDTH - 2)

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        return "\n".join(indent + part for line in joined(text) for part in broken(line))


def joined(text: str) -> list[str]:
    """Return the lines of a text, with a full line and the unindented line after it joined."""
    lines: list[str] = []
    for line in text.splitlines():
        if lines and len(lines[-1]) >= FULL_LINE and line[:1].strip() and lines[-1][:1].strip():
            lines[-1] += " " + line
        else:
            lines.append(line)
    return lines


def broken(line: str) -> list[str]:
    """Break a line of help into lines of at most WIDTH - 2 characters."""
    if len(line) <= WIDTH - 2:
        return [line]
    margin = line[: len(line) - len(line.lstrip())]
    command, gap, comment = line.strip().partition("   ")
    if margin and gap:
        return [*broken(margin + command), *broken(f"{margin}    {comment.strip()}")]
    more = f"{margin}  " if margin else ""
    return textwrap.wrap(
        line.strip(), WIDTH - 2, initial_indent=margin, subsequent_indent=more, break_on_hyphens=False,
        break_long_words=False,
    )  # fmt: skip


class Parser(argparse.ArgumentParser):
    """A parser whose messages may quote file names, and whose help fits 80 columns."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**{"formatter_class": HelpFormatter} | options)

    def _print_message(self, message: str, file: Any = None) -> None:
        super()._print_message(printable(message), file)


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the whole command line."""
    parser = Parser(
        prog="llmlite",
        description="Read, run, measure and understand quantized language models (GGUF).",
        epilog=EPILOG,
    )
    parser.add_argument("--version", action="version", version=f"llmlite {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name in COMMANDS:
        module = import_module(f"llmlite.cli.{name}")
        sub = commands.add_parser(name, help=module.HELP, description=module.__doc__, epilog=module.EXAMPLES)
        module.add_arguments(sub)
        sub.set_defaults(run=module.run, parser=sub)
    return parser


def parsed(argv: Sequence[str] | None) -> argparse.Namespace:
    """Return the options of a command line. An unknown option prints its command's usage and exits."""
    given, rest = list(sys.argv[1:] if argv is None else argv), []
    command = given[0] if given else ""
    if command in COMMANDS and getattr(import_module(f"llmlite.cli.{command}"), "PASSES_ON", False):
        cut = given.index("--") if "--" in given else len(given)
        given, rest = given[:cut], given[cut + 1 :]
    options, unknown = build_parser().parse_known_args(given)
    unknown += getattr(options, "rest", None) or []
    if unknown:
        options.parser.error(f"unrecognized arguments: {' '.join(unknown)}")
    options.rest = rest
    return options


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command line (without the program's name) and return its exit code."""
    messages = sys.stderr
    try:
        return _main(argv)
    except KeyboardInterrupt:
        say(file=sys.stderr)
        return 130
    finally:
        if argv is None:  # the process is ending: Ctrl-C must not print a traceback now
            signal.signal(signal.SIGINT, signal.SIG_DFL)
        sys.stderr = messages


def _main(argv: Sequence[str] | None) -> int:
    spare_blas()
    lost = open_streams()
    if lost:
        complain("standard output is closed, so nothing was done")
        return 2
    sys.stderr = Lossy(sys.stderr)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # print "?" for a character that the terminal can't show
            stream.reconfigure(errors="replace")
    warnings.formatwarning = _plain_warning
    warnings.simplefilter("always", FallbackWarning)
    try:
        with ending_by_signal():
            options = parsed(argv)
            code = options.run(options)
            flush_output()
            return code
    except EndedBySignal as end:
        return end.code
    except BrokenPipeError:
        discard_output()
        return 141
    except (LlmliteError, OSError, MemoryError, ImportError, RuntimeError) as error:
        if os.environ.get("LLMLITE_DEBUG") == "1" or not is_expected(error):
            raise
        complain(sentence(error))
        with suppress(OSError, ValueError):
            sys.stdout.flush()
            return 2
        discard_output()  # a full disk: the rest of the buffer can't be written at the exit either
        return 2


def _plain_warning(
    message: Warning | str, category: type[Warning], filename: str, lineno: int, line: str | None = None
) -> str:
    """Return a warning without the line of source code that Python adds."""
    return printable(f"llmlite: warning: {message}\n")


def sentence(error: Exception) -> str:
    """Return an error as one line. For an error of the system, name the file and the reason."""
    if isinstance(error, MemoryError):
        about = " ".join(str(error).split())
        return f"not enough memory{': ' + about if about else ''}"
    if isinstance(error, RuntimeError):
        return "the system grants no more threads (ulimit -u shows the limit); --threads 1 needs fewest"
    if isinstance(error, ImportError):
        first = str(error).strip().splitlines() or [""]
        return f"a library can't be loaded: {first[0]} (`llmlite doctor` says what is missing)"
    if isinstance(error, OSError) and error.strerror:
        return f"{os.fsdecode(error.filename)}: {error.strerror}" if error.filename else error.strerror
    return " ".join(str(error).split()) or type(error).__name__

"""The command line: one file per command, and here what they share.

A command module has HELP (one line), EXAMPLES (shown under --help), `add_arguments(parser)` and
`run(options) -> exit code`. Exit codes: 0 done, 1 something examined is wrong (doctor), 2 the request or a
file is at fault, 130 stopped by Ctrl-C, 141 the reader of our output went away.
"""

from __future__ import annotations

import argparse
import os
import sys
import warnings
from collections.abc import Sequence
from importlib import import_module

from llmlite._version import __version__
from llmlite.errors import LlmliteError

COMMANDS = (
    *("run", "show", "compare", "bench", "claims", "tokenize"),
    *("quantize", "imatrix", "perplexity", "kl"),
    *("convert", "split", "merge"),
    *("warmup", "synth"),
    *("doctor", "lab"),
)
EPILOG = """\
start here:
  llmlite run                        a tale by the bundled model
  llmlite run -p "The fox" -n 50     your own beginning
  llmlite show model.gguf            what is in a file
  llmlite compare                    llmlite beside PyTorch, on this machine
  llmlite lab                        the lessons, in JupyterLab

MODEL is a path to a GGUF file, "tales" (bundled), or "tales:Q4_0" (bundled, quantized on first use).
`llmlite COMMAND --help` explains each command with examples.
"""


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the whole command line."""
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(
        prog="llmlite",
        description="Read, run, measure and understand quantized language models (GGUF).",
        epilog=EPILOG,
        formatter_class=raw,
    )
    parser.add_argument("--version", action="version", version=f"llmlite {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name in COMMANDS:
        module = import_module(f"llmlite.cli.{name}")
        sub = commands.add_parser(
            name, help=module.HELP, description=module.__doc__, epilog=module.EXAMPLES, formatter_class=raw
        )
        module.add_arguments(sub)
        sub.set_defaults(run=module.run)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command line (without the program's name) and return its exit code."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # a terminal that can't show a character gets "?", not a crash
            stream.reconfigure(errors="replace")
    warnings.formatwarning = _plain_warning
    try:
        options = build_parser().parse_args(argv)
        code = options.run(options)
        sys.stdout.flush()
        return code
    except KeyboardInterrupt:
        print(file=sys.stderr)
        return 130
    except BrokenPipeError:
        # Python flushes stdout once more at exit: give it somewhere to go
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except (LlmliteError, OSError) as error:
        if os.environ.get("LLMLITE_DEBUG") == "1":
            raise
        print(f"llmlite: {sentence(error)}", file=sys.stderr)
        return 2


def _plain_warning(
    message: Warning | str, category: type[Warning], filename: str, lineno: int, line: str | None = None
) -> str:
    """Return a warning without the line of source code that Python adds."""
    return f"llmlite: warning: {message}\n"


def sentence(error: Exception) -> str:
    """Return what went wrong in one line: for the system's errors, the file and the reason."""
    if isinstance(error, OSError) and error.strerror:
        return f"{os.fsdecode(error.filename)}: {error.strerror}" if error.filename else error.strerror
    return " ".join(str(error).split()) or type(error).__name__

"""Hold a conversation with a model, with messages of several lines, a history,
and /commands. Answers go to standard output, everything else to standard error."""

from __future__ import annotations

import argparse
import contextlib
import sys

from llmlite.cli.run import add_choice, add_engine, add_length, add_model, answer_options, load_model

HELP = "hold a conversation"
EXAMPLES = """\
examples:
  llmlite chat smollm2                         after llmlite pull smollm2
  llmlite chat smollm2 --system "Be brief."    with a system message
  llmlite chat model.gguf --temperature 0      the likeliest answer each time
  llmlite chat < questions.txt                 one question a line

/help lists the commands: /reset, /system, /set, /retry, /undo, /save, /load,
/stats, /quit. Ctrl-C stops only the answer; Ctrl-D ends the program.
A line that ends in "\\" continues on the next one, and a line \"\"\" begins or ends
a message of several lines. With the extra `chat` (prompt_toolkit, rich)
Alt-Enter makes a new line, and Markdown is formatted as it arrives; --plain
turns both off. The lines you type are kept in chat-history.jsonl in the cache
folder.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_model(parser)
    parser.add_argument(
        "--system", default="", metavar="TEXT", help="the system message, given to the model first"
    )
    parser.add_argument("--plain", action="store_true", help="no colours, no Markdown, plain line editing")
    add_length(parser)
    add_choice(parser)
    add_engine(parser)


def run(options: argparse.Namespace) -> int:
    from llmlite.repl import Conversation, converse

    with contextlib.suppress(AttributeError, ValueError):
        sys.stdin.reconfigure(errors="replace")  # type: ignore[union-attr]
    model = load_model(options)
    conversation = Conversation(model, answer_options(options, model), system=options.system)
    converse(conversation, plain=options.plain, quiet=options.quiet)
    return 0

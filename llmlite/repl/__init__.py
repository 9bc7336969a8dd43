"""A conversation in a terminal: messages, answers and /commands.

The room has four parts. `conversation` has messages and options, without a terminal. `commands` runs a line
that begins with "/". `reading` reads lines, and `showing` shows answers.
"""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from llmlite.errors import LlmliteError
from llmlite.repl.commands import COMMANDS, Quit, obey
from llmlite.repl.conversation import Conversation, figures
from llmlite.repl.reading import Reader, make_reader
from llmlite.repl.showing import View, make_view
from llmlite.terminal import complain, say

if TYPE_CHECKING:
    from llmlite.generate import Generation

__all__ = ["COMMANDS", "Conversation", "converse"]
GREETING = "/help lists the commands, /quit or Ctrl-D ends; Ctrl-C stops an answer only"


def converse(conversation: Conversation, *, plain: bool = False, quiet: bool = False) -> None:
    """Hold a conversation until the end of the input, or until /quit.

    Args:
        conversation: the conversation to continue.
        plain: don't use prompt_toolkit and rich, even if they are installed.
        quiet: print no figures on standard error.

    Raises:
        ModelError: the model's file has no chat template.
        OSError: standard output can't be written.
    """
    conversation.check()  # a model that can't chat raises an error before the first question
    reader, view = make_reader(plain=plain), make_view(plain=plain)
    if reader.interactive:
        say(GREETING, file=sys.stderr)
    while True:
        try:
            text = reader.read()
        except KeyboardInterrupt:  # at the prompt: drop the typed text
            if not reader.interactive:
                raise
            say("\n(/quit or Ctrl-D ends)", file=sys.stderr)
            continue
        if text is None:
            return
        if not text.strip():
            continue
        if text.startswith("/") and "\n" not in text:
            try:
                retry = obey(text, conversation)
            except Quit:
                return
            if not retry:
                continue
        else:
            conversation.ask(text)
        answer(conversation, view, quiet=quiet)


def answer(conversation: Conversation, view: View, *, quiet: bool) -> None:
    """Show the model's answer to the last message while it is written. Ctrl-C keeps the part so far."""
    generation = None
    try:
        generation = conversation.answer()
        with stopping(generation):
            view.show(generation)
    except (LlmliteError, ValueError) as error:
        conversation.take_back()
        complain(f"{error} (the question was taken back; /reset begins a new conversation)")
        return
    except KeyboardInterrupt:  # pressed again, or before the answer began
        say(flush=True)
        if generation is None:
            conversation.take_back()
            return
        generation.cancel()
    conversation.keep(generation)
    if not quiet:
        say(f"[{figures(generation)}]", file=sys.stderr)


@contextmanager
def stopping(generation: Generation) -> Iterator[None]:
    """Let Ctrl-C end the answer after the present step. A second Ctrl-C interrupts the step too."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGINT)

    def stop(_signal: int, _frame: object) -> None:
        if generation.stop_reason == "cancelled":
            raise KeyboardInterrupt
        generation.cancel()

    signal.signal(signal.SIGINT, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)

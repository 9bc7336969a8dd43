"""The /commands of a conversation."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial

from llmlite.errors import LlmliteError
from llmlite.repl.conversation import Conversation, expanded, figures
from llmlite.terminal import complain, say


class Quit(Exception):  # noqa: N818  no error
    """Raised to end the conversation."""


def obey(line: str, conversation: Conversation) -> bool:
    """Run the command of a line "/NAME ARGUMENT"; return whether the model should answer now.

    Errors are printed on standard error, and leave the conversation unchanged.

    Raises:
        Quit: /quit.
    """
    name, _, argument = line[1:].strip().partition(" ")
    command = COMMANDS.get(ALIASES.get(name, name))
    if command is None:
        complain(f"no command /{name}; /help lists them; a message may begin with a space and then /")
        return False
    try:
        return bool(command[2](conversation, argument.strip()))
    except OSError as error:
        complain(f"{error.filename or argument}: {error.strerror}")
    except (LlmliteError, ValueError) as error:
        complain(str(error))
    return False


def _say(text: str) -> None:
    say(text, file=sys.stderr)


def _help(_conversation: Conversation, _argument: str) -> None:
    for name, (argument, text, _) in COMMANDS.items():
        _say(f"  {'/' + name + ' ' + argument:<22} {text}")
    _say('\nA line that ends in "\\" continues; """ on separate lines encloses several lines.')


def _reset(conversation: Conversation, _argument: str) -> None:
    conversation.reset()
    _say("(a new conversation)")


def _system(conversation: Conversation, argument: str) -> None:
    if argument:
        conversation.system = "" if argument == "none" else argument
    _say(f"system: {conversation.system or 'none'}")


def _set(conversation: Conversation, argument: str) -> None:
    name, _, value = argument.replace("=", " ", 1).partition(" ")
    if value.strip():
        conversation.set_option(name, value.strip())
    elif name:
        raise ValueError(f"/set {name}: expected a value, or default")
    for key, kept in sorted(conversation.options.items()):
        if isinstance(kept, int | float | list) and kept != []:
            _say(f"  {key} = {kept if not isinstance(kept, list) else ', '.join(map(repr, kept))}")


def _save(conversation: Conversation, argument: str, *, replace: bool = False) -> None:
    if not argument:
        raise ValueError("/save: expected a file's name")
    conversation.save(expanded(argument), replace=replace)
    _say(f"(saved {len(conversation.messages)} messages: {argument})")


def _load(conversation: Conversation, argument: str) -> None:
    if not argument:
        raise ValueError("/load: expected a file's name")
    conversation.load(expanded(argument))
    _say(f"(loaded {len(conversation.messages)} messages: {argument})")


def _undo(conversation: Conversation, _argument: str) -> None:
    _say("(took the last question back)" if conversation.take_back() else "(there is no question)")


def _retry(conversation: Conversation, _argument: str) -> bool:
    questions = [message["content"] for message in conversation.messages if message["role"] == "user"]
    if not questions:
        raise ValueError("/retry: there is no question yet")
    conversation.take_back()
    conversation.ask(questions[-1])
    return True


def _stats(conversation: Conversation, _argument: str) -> None:
    _say(f"  model: {conversation.model.gguf.path}")
    _say(f"  context: {conversation.n_context()} of {conversation.model.n_ctx} tokens")
    _say(f"  answers: {conversation.n_answers}, {conversation.n_made} tokens")
    if conversation.last is not None:
        _say(f"  last: {figures(conversation.last)}")


def _quit(_conversation: Conversation, _argument: str) -> None:
    raise Quit


Action = Callable[[Conversation, str], bool | None]
COMMANDS: dict[str, tuple[str, str, Action]] = {
    "help": ("", "this list", _help),
    "reset": ("", "begin a new conversation (also /new)", _reset),
    "system": ("[TEXT]", 'show or set the system message; "none" clears it', _system),
    "set": ("[NAME VALUE]", 'show or set options: /set temperature 0.2; "default" clears', _set),
    "retry": ("", "ask the last question again", _retry),
    "undo": ("", "remove the last question and its answer", _undo),
    "save": ("FILE", "write the conversation as JSON; /save! replaces a file", _save),
    "save!": ("FILE", "the same, replacing an existing file", partial(_save, replace=True)),
    "load": ("FILE", "continue a saved conversation", _load),
    "stats": ("", "tokens, context and speed", _stats),
    "quit": ("", "end (also /exit, Ctrl-D)", _quit),
}
ALIASES = {"new": "reset", "exit": "quit", "bye": "quit", "?": "help"}

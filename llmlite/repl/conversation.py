"""A conversation: its messages, and the options of the next answer."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmlite.errors import LlmliteError
from llmlite.system.files import write_text

if TYPE_CHECKING:
    from llmlite.generate import Generation
    from llmlite.model import Model

MAX_FILE_BYTES = 16 << 20  # of a saved conversation
ROLES = ("system", "user", "assistant")
NOT_SET = frozenset({"chain", "dry_breakers", "logit_bias", "processors"})  # their values aren't one word
Message = dict[str, str]


def settable() -> list[str]:
    """Return the names of the options that /set can change."""
    from llmlite.generate.options import SAMPLER_OPTIONS

    return sorted({*SAMPLER_OPTIONS, "max_tokens", "stop"} - NOT_SET)


def figures(generation: Generation) -> str:
    """Return an answer's numbers of tokens, speeds and reason to stop, as one line."""
    ends = {"eos": "ended by the model", "stop": "a stop text came up", "length": "length reached"}
    return (
        f"prompt {generation.n_prompt - generation.n_reused} tokens, "
        f"{generation.prompt_tokens_per_second:.1f}/s; "
        f"made {len(generation.ids)} tokens, {generation.decode_tokens_per_second:.1f}/s; "
        f"{ends.get(generation.stop_reason or '', 'interrupted')}"
        + (f"; {generation.speculation}" if generation.speculation else "")
    )


class Conversation:
    """Messages, and the options of the next answer.

    Attributes:
        messages: the messages, without the system message.
        system: the text of the system message, or "".
        options: options of `Model.stream_chat`.
        last: the last answer, or None.
        n_answers, n_made: numbers of answers, and of their tokens, since the beginning.
    """

    def __init__(self, model: Model, options: dict[str, Any] | None = None, *, system: str = "") -> None:
        self.model = model
        self.options = dict(options or {})
        self.system = system
        self.messages: list[Message] = []
        self.last: Generation | None = None
        self.n_answers = self.n_made = 0

    def check(self) -> None:
        """Raise ModelError if the model's file has no chat template."""
        _ = self.model.chat_template

    def all_messages(self) -> list[Message]:
        """Return the messages, beginning with the system message."""
        opening = [{"role": "system", "content": self.system}] if self.system else []
        return [*opening, *self.messages]

    def ask(self, text: str) -> None:
        """Add the user's message."""
        self.messages.append({"role": "user", "content": text})

    def answer(self) -> Generation:
        """Begin the answer to the last message. `keep` adds it when it is complete."""
        return self.model.stream_chat(self.all_messages(), **self.options)

    def keep(self, generation: Generation) -> None:
        """Add an answer, or the part of it that was written."""
        self.messages.append({"role": "assistant", "content": generation.text})
        self.last = generation
        self.n_answers += 1
        self.n_made += len(generation.ids)

    def take_back(self) -> bool:
        """Remove the last question and its answer; return whether there was one."""
        n = len(self.messages)
        while self.messages and self.messages.pop()["role"] != "user":
            pass
        return len(self.messages) < n

    def reset(self) -> None:
        """Remove all messages except the system message."""
        self.messages.clear()

    def set_option(self, name: str, text: str) -> None:
        """Set an option.

        Args:
            name: the option's name.
            text: its value as text; "default" removes the option.

        Raises:
            ValueError: there is no such option, or it can't have this value. Options are then unchanged.
        """
        name = name.replace("-", "_")
        if name not in settable():
            raise ValueError(f"no option {name!r}; these can be set: {', '.join(settable())}")
        options = {key: value for key, value in self.options.items() if key != name}
        if text != "default":
            options[name] = [text] if name == "stop" else _number(name, text)
        self.check_options(options)
        self.options = options

    def check_options(self, options: dict[str, Any]) -> None:
        """Raise ValueError for an unknown option, or for a value that an option can't have."""
        from llmlite.generate.options import given, make_sampler

        try:
            make_sampler(given(options))
        except TypeError as error:
            raise ValueError(str(error)) from None
        most = options.get("max_tokens")
        if most is not None and (not isinstance(most, int) or most < 0):
            raise ValueError(f"max_tokens: expected a whole number of at least 0, got {most}")

    def n_context(self) -> int:
        """Return the number of tokens of the conversation so far, in the template's form."""
        return len(self.model.chat_prompt(self.all_messages())) if self.messages else 0

    def save(self, path: str | os.PathLike[str], *, replace: bool = False) -> None:
        """Write the messages as JSON.

        Raises:
            LlmliteError: the file exists, and `replace` is False.
            OSError: the file can't be written.
        """
        if os.path.exists(path) and not replace:
            raise LlmliteError(f"{os.fspath(path)}: exists already; /save! replaces it")
        write_text(path, json.dumps({"messages": self.all_messages()}, ensure_ascii=False, indent=1) + "\n")

    def load(self, path: str | os.PathLike[str]) -> None:
        """Replace the messages by those of a file that `save` wrote.

        Raises:
            LlmliteError: the file isn't a saved conversation. This conversation is then unchanged.
            OSError: the file can't be read.
        """
        with open(path, "rb") as file:
            data = file.read(MAX_FILE_BYTES + 1)
        messages = _messages(data, os.fspath(path))
        is_system = bool(messages) and messages[0]["role"] == "system"
        self.system = messages.pop(0)["content"] if is_system else ""
        self.messages = messages


def _messages(data: bytes, name: str) -> list[Message]:
    """Return the messages of a saved conversation.

    Args:
        data: the content of the file.
        name: the name of the file, for error messages.

    Raises:
        LlmliteError: the data isn't a saved conversation.
    """
    if len(data) > MAX_FILE_BYTES:
        raise LlmliteError(f"{name}: more than {MAX_FILE_BYTES >> 20} MiB; this is not a saved conversation")
    try:
        found = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise LlmliteError(f"{name}: expected a JSON file written by /save: {error}") from None
    messages = found.get("messages") if isinstance(found, dict) else found
    if not isinstance(messages, list):
        raise LlmliteError(f'{name}: expected a list "messages", got {type(messages).__name__}')
    for i, message in enumerate(messages):
        role, content = (
            (message.get("role"), message.get("content")) if isinstance(message, dict) else (None, None)
        )
        if role not in ROLES or not isinstance(content, str) or (role == "system" and i):
            raise LlmliteError(
                f'{name}: message {i}: expected "role" (user or assistant; system only first) and the text '
                f'"content", got {message!r:.80}'
            )
    return [{"role": message["role"], "content": message["content"]} for message in messages]


def expanded(text: str) -> Path:
    """Return a typed path with "~" replaced. Raises LlmliteError if that user's home isn't known."""
    try:
        return Path(text).expanduser()
    except RuntimeError as error:
        raise LlmliteError(f"{text}: {error}") from None


def _number(name: str, text: str) -> int | float:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    raise ValueError(f"{name}: expected a number, got {text!r:.80}")

"""The variables of a template. A content that isn't text can be inspected, but not printed."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from llmlite.chat.worker.given import Text, given, joined
else:  # this folder runs as a program, which imports nothing else of llmlite
    from given import Text, given, joined


class RawContentError(TypeError):
    """Raised if a template prints a content that isn't text."""


class Parts(list[Any]):
    """A content that is a list. Templates may inspect it, but not print it."""

    def __str__(self) -> str:
        raise RawContentError

    __repr__ = __str__


class Nothing:
    """A content that is None. It is false and equal to None, and can't be printed."""

    def __bool__(self) -> bool:
        return False

    def __eq__(self, other: object) -> bool:
        return other is None or isinstance(other, Nothing)

    def __hash__(self) -> int:
        return hash(None)

    def __str__(self) -> str:
        raise RawContentError

    __repr__ = __str__


_ROLE = re.compile("[A-Za-z0-9_. -]{1,64}")


def variables(request: dict[str, Any], *, flat: bool) -> dict[str, Any]:
    """Return the template's variables. flat: whether contents that aren't text become text."""
    names = request["variables"]
    found = {key: value if key.endswith("_token") else given(value) for key, value in names.items()}
    found["messages"] = [_message(message, flat) for message in names["messages"]]
    return found


def _message(message: dict[str, Any], flat: bool) -> dict[str, Any]:
    found: dict[str, Any] = given(message)
    found["role"] = _word(message["role"])
    content = message.get("content", "")
    if isinstance(content, list):
        parts = [given(part) | {"type": _word(part["type"])} for part in content]
        found["content"] = _flat(parts) if flat else Parts(parts)
    elif content is None:
        found["content"] = Text("") if flat else Nothing()
    return found


def _word(value: str) -> str:
    """Return a role or type. A simple word counts as the template's own, for marks such as <|user|>."""
    return value if _ROLE.fullmatch(value) else Text(value)


def _flat(parts: list[dict[str, Any]]) -> Text:
    """Return a list of parts as text, one part per line, as in llama.cpp."""
    for part in parts:
        if part["type"] != "text" or not isinstance(part.get("text"), str):
            raise ValueError(f"only text is supported, got a part of type {part['type']!s:.40}")
    return Text("") + joined(Text("\n"), [part["text"] for part in parts])

"""The variables that a template gets. Contents that aren't text can be looked into, but not printed."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from llmlite.chat.worker.given import Text, given, joined
else:  # this folder is run as a program, which holds nothing else of llmlite
    from given import Text, given, joined


class RawContentError(TypeError):
    """A template prints content that isn't text as Python would."""


class Parts(list[Any]):
    """A content that is a list: for templates that look into it, not to be printed."""

    def __str__(self) -> str:
        raise RawContentError

    __repr__ = __str__


class Nothing:
    """A content that is None: false, equal to None, not to be printed."""

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
    """Return what the template gets. flat: contents that aren't text become text; otherwise they stay."""
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
    """Return a role or a kind: the application's own word, which templates write between signs: <|user|>."""
    return value if _ROLE.fullmatch(value) else Text(value)


def _flat(parts: list[dict[str, Any]]) -> Text:
    """Return a list of parts as text, one part a line, as llama.cpp has it."""
    for part in parts:
        if part["type"] != "text" or not isinstance(part.get("text"), str):
            raise ValueError(f"it takes text only, not a part of type {part['type']!s:.40}")
    return Text("") + joined(Text("\n"), [part["text"] for part in parts])

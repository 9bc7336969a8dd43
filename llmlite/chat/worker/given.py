"""Strings that record for each character whether it came from a request or from the template.

A plain str is the template's own. If an unknown operation gets a Text, its whole result counts as the
request's.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any


class Text(str):
    """A string in which some characters came from a request.

    _own: a byte for each character, 1 if it is the template's own.
    """

    __slots__ = ("_own",)

    _own: bytes

    def __new__(cls, text: str, own: bytes | None = None) -> Text:
        self = str.__new__(cls, text)
        self._own = bytes(len(self)) if own is None else own
        return self

    def __str__(self) -> str:
        return self

    def __add__(self, other: str) -> Text:
        if not isinstance(other, str):
            return NotImplemented
        return Text(str.__add__(self, other), self._own + own(other))

    def __radd__(self, other: str) -> Text:
        return Text(str.__add__(other, self), own(other) + self._own)

    def __mul__(self, n: Any) -> Text:
        return Text(str.__mul__(self, n), self._own * n)

    __rmul__ = __mul__

    def __getitem__(self, key: Any) -> Text:
        own = self._own[key]
        return Text(str.__getitem__(self, key), own if isinstance(own, bytes) else bytes([own]))

    def __iter__(self) -> Iterator[Text]:
        return (self[i] for i in range(len(self)))

    def _cuts(self, pieces: Iterable[str], gap: int | None) -> list[Text]:
        """Return pieces of this text in order, `gap` characters apart; None: as few as possible."""
        found, at = [], 0
        for piece in pieces:
            at = str.find(self, piece, at) if gap is None else at
            found.append(self[at : at + len(piece)])
            at += len(piece) + (gap or 0)
        return found

    def split(self, sep: Any = None, maxsplit: Any = -1) -> list[Text]:  # type: ignore[override]
        return self._cuts(str.split(self, sep, maxsplit), None if sep is None else len(sep))

    def rsplit(self, sep: Any = None, maxsplit: Any = -1) -> list[Text]:  # type: ignore[override]
        return self._cuts(str.rsplit(self, sep, maxsplit), None if sep is None else len(sep))

    def splitlines(self, keepends: bool = False) -> list[Text]:  # type: ignore[override]
        whole = self._cuts(str.splitlines(self, True), 0)
        ends = str.splitlines(self, keepends)
        return [line[: len(end)] for line, end in zip(whole, ends)]

    def partition(self, sep: str) -> tuple[Text, Text, Text]:
        return tuple(self._cuts(str.partition(self, sep), 0))  # type: ignore[return-value]

    def rpartition(self, sep: str) -> tuple[Text, Text, Text]:
        return tuple(self._cuts(str.rpartition(self, sep), 0))  # type: ignore[return-value]

    def lstrip(self, chars: str | None = None) -> Text:
        return self[len(self) - len(str.lstrip(self, chars)) :]

    def rstrip(self, chars: str | None = None) -> Text:
        return self[: len(str.rstrip(self, chars))]

    def strip(self, chars: str | None = None) -> Text:
        return self.lstrip(chars).rstrip(chars)

    def removeprefix(self, prefix: str) -> Text:
        return self[len(prefix) :] if str.startswith(self, prefix) else self

    def removesuffix(self, suffix: str) -> Text:
        return self[: len(self) - len(suffix)] if suffix and str.endswith(self, suffix) else self

    def replace(self, old: str, new: str, count: Any = -1) -> Text:
        if not old:
            return Text(str.replace(self, old, new, count))
        return joined(new, self.split(old, count))

    def join(self, items: Iterable[str]) -> Text:
        return joined(self, items)


def _same_length(name: str) -> Callable[..., Text]:
    """Return a method that changes letters but usually not their number."""
    method = getattr(str, name)

    def changed(self: Text) -> Text:
        new = method(self)
        return Text(new, self._own if len(new) == len(self) else None)

    return changed


for _name in ("lower", "upper", "capitalize", "title", "swapcase", "casefold"):
    setattr(Text, _name, _same_length(_name))

# The methods of a Text that record each character; after others, the whole result counts as the request's
EXACT = frozenset(name for name in vars(Text) if not name.startswith("_"))
_HOLD_NOTHING = frozenset({"Sandbox", "Context", "EvalContext", "Undefined", "LoopContext"})  # Jinja's own
_MARK = re.compile("\x00([0-9]+)\x01")


def own(text: str) -> bytes:
    """Return a byte for each character, 1 if it is the template's own."""
    return text._own if isinstance(text, Text) else b"\1" * len(text)


def joined(separator: str, items: Iterable[Any]) -> Any:
    """Return separator.join(items), as a plain str if all of them are the template's own."""
    pieces = [item if isinstance(item, str) else shown(item) for item in items]
    text = str.join(separator, pieces)
    if not any(isinstance(piece, Text) for piece in (separator, *pieces)):
        return text
    return Text(text, own(separator).join(map(own, pieces)))


def shown(value: Any) -> str:
    """Return the text that a template prints for a value."""
    if isinstance(value, str):
        return str(value)
    text = str(value)
    return Text(text) if is_given(value) else text


def is_given(value: Any) -> bool:
    """Return whether a value contains text of the request, or may: unknown objects may print such text."""
    if isinstance(value, dict):
        return any(map(is_given, value)) or any(map(is_given, value.values()))
    if isinstance(value, list | tuple):
        return any(map(is_given, value))
    if isinstance(value, str):
        return isinstance(value, Text)
    return not isinstance(value, int | float | None) and type(value).__name__ not in _HOLD_NOTHING


def whole(result: Any, *inputs: Any) -> Any:
    """Return the result of an operation that doesn't record characters, as a Text if an input was given."""
    if isinstance(result, str) and any(map(is_given, inputs)):
        return Text(result)
    return result


def formatted(form: Callable[..., str], args: tuple[Any, ...], kwargs: dict[str, Any]) -> str:
    """Return form(*args, **kwargs) for a format of the template's own. Texts of the request remain such."""
    texts: list[Text] = []

    def mark(value: Any) -> Any:
        if isinstance(value, tuple):
            return tuple(map(mark, value))
        if not is_given(value):
            return value
        texts.append(value if isinstance(value, Text) else Text(str(value)))
        return f"\0{len(texts) - 1}\1"

    plain = form(*args, **kwargs)
    try:
        marked = form(*map(mark, args), **{key: mark(value) for key, value in kwargs.items()})
    except Exception:  # the format requires a number, or accesses a value's parts
        return Text(plain)
    pieces: list[str] = []
    at = 0
    for match in _MARK.finditer(marked):
        if int(match[1]) < len(texts):
            pieces += [marked[at : match.start()], texts[int(match[1])]]
            at = match.end()
    text = joined("", [*pieces, marked[at:]])
    # a width or a precision was applied to the mark instead of the text, so origins are unknown
    return text if text == plain else Text(plain)


def percent(form: str, values: Any) -> str:
    """Return form % values for a format of the template's own."""
    if isinstance(values, dict):
        return formatted(lambda **named: form % named, (), values)
    return formatted(lambda *args: form % args, values if isinstance(values, tuple) else (values,), {})


def given(value: Any) -> Any:
    """Return a value of the request, with each string in it as a Text."""
    if isinstance(value, str):
        return Text(value)
    if isinstance(value, list):
        return [given(item) for item in value]
    if isinstance(value, dict):
        return {given(key): given(item) for key, item in value.items()}
    return value

"""The parts of a JSON text as expressions: space, strings, lists of items, names."""

from __future__ import annotations

import json
from typing import Any

from llmlite.errors import GrammarError
from llmlite.grammar.expressions import (
    NOTHING,
    Chars,
    Expression,
    Repeat,
    chars,
    choice,
    normalized,
    optional,
    sequence,
)

SPACE = choice("", " ", sequence("\n", Repeat(chars("\t", " "), 0, 20)))
COMMA = sequence(",", SPACE)
PLAIN_CHAR = Chars(normalized([(0, 0x1F), (0x22, 0x22), (0x5C, 0x5C), (0x7F, 0x7F)])).inverted()
HEX = chars("09", "af", "AF")
UNICODE = choice(  # without surrogates, which are half a character
    sequence(chars("09", "ac", "ef", "AC", "EF"), Repeat(HEX, 3, 3)),
    sequence(chars("d", "D"), chars("07"), Repeat(HEX, 2, 2)),
)
CHAR = choice(
    PLAIN_CHAR, sequence("\\", choice(chars('"', "\\", "/", "b", "f", "n", "r", "t"), sequence("u", UNICODE)))
)
STRING = sequence('"', Repeat(CHAR, 0, None), '"')
FORMATS = {
    "date": r"[1-9]\d{3}-((0[13578]|1[02])-(0[1-9]|[12]\d|3[01])|(0[469]|11)-(0[1-9]|[12]\d|30)"
    r"|02-(0[1-9]|1\d|2[0-8]))",
    "time": r"([01]\d|2[0-3]):[0-5]\d:[0-5]\d(\.\d{1,6})?(Z|[+-]([01]\d|2[0-3]):[0-5]\d)",
    "uuid": r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}",
    "ipv4": r"((25[0-5]|2[0-4]\d|1\d\d|[1-9]?\d)\.){3}(25[0-5]|2[0-4]\d|1\d\d|[1-9]?\d)",
}
FORMATS["date-time"] = f"({FORMATS['date']})T({FORMATS['time']})"


def listed(opening: str, item: Expression, low: int, high: int | None, closing: str) -> Expression:
    """Return items between brackets, separated by commas."""
    if high is not None and high < low:
        return NOTHING
    if high == 0 or (item == NOTHING and low == 0):
        return sequence(opening, SPACE, closing)
    rest = Repeat(sequence(COMMA, item, SPACE), max(0, low - 1), None if high is None else high - 1)
    items: Expression = sequence(item, SPACE, rest)
    return sequence(opening, SPACE, items if low else optional(items), closing)


def other_names(names: list[str]) -> Expression:
    """Return the texts without escapes that aren't one of the names: each leaves the tree of names."""
    tree: dict[str, Any] = {}
    for name in names:
        node = tree
        for c in name:
            node = node.setdefault(c, {})
        node[""] = {}
    anything = Repeat(PLAIN_CHAR, 0, None)

    def below(node: dict[str, Any], depth: int) -> Expression:
        if depth > 500:
            raise GrammarError(
                "schema: a property's name with more than 500 characters isn't supported beside "
                "additionalProperties"
            )
        known = [c for c in node if c]
        taken = {point for c in known for point in [(ord(c), ord(c))]}
        others = _without(PLAIN_CHAR, taken)
        parts: list[Expression] = [sequence(others, anything)]
        if "" not in node:
            parts.append(sequence())
        for c in known:
            if _holds(PLAIN_CHAR, c):
                parts.append(sequence(c, below(node[c], depth + 1)))
        return choice(*parts)

    return below(tree, 0)


def _without(one: Chars, taken: set[tuple[int, int]]) -> Chars:
    outside = list(one.inverted().ranges) + sorted(taken)
    return Chars(normalized(outside)).inverted()


def _holds(one: Chars, c: str) -> bool:
    return any(low <= ord(c) <= high for low, high in one.ranges)


def escaped(found: Chars) -> Expression:
    """Return a character of a set in the notation of a JSON string."""
    plain = _without(PLAIN_CHAR, set(found.inverted().ranges))
    special = [c for c in map(chr, [*range(0x20), 0x22, 0x5C, 0x7F]) if _holds(found, c)]
    escapes = [json.dumps(c)[1:-1] if c != "\x7f" else "\\u007f" for c in special]
    return choice(plain, *escapes)


def checked_text(text: str, where: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise GrammarError(f"schema, {where}: {text!r:.80} holds half a character") from None
    return text

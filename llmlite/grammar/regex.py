"""Regular expressions as grammars: the part of ECMAScript's syntax that describes a regular language.

The classes \\d, \\w and \\s are ECMAScript's. A lazy quantifier has the same meaning here as a greedy one.
Look-around, references to groups and word boundaries are refused by name.

Source: ECMA-262, 22.2.1 (patterns).
"""

from __future__ import annotations

from collections.abc import Callable

from llmlite.errors import GrammarError
from llmlite.grammar.expressions import (
    HIGHEST,
    MAX_COUNT,
    MAX_DEPTH,
    MAX_SOURCE,
    Chars,
    Choice,
    Expression,
    Repeat,
    Rule,
    Sequence,
    Text,
    chars,
    choice,
    normalized,
    sequence,
)
from llmlite.grammar.scanner import Scanner

DIGITS = chars("09")
WORDS = chars("az", "AZ", "09", "_")
SPACES = chars(
    "\t\r", " ", "\xa0", "\u1680", (0x2000, 0x200A), (0x2028, 0x2029), "\u202f", "\u205f", "\u3000", "\ufeff"
)
ANY = chars((0, HIGHEST))
NOT_LINE_ENDS = chars("\n", "\r", (0x2028, 0x2029)).inverted()
CLASSES = {"d": DIGITS, "w": WORDS, "s": SPACES}
CONTROLS = {"n": "\n", "r": "\r", "t": "\t", "f": "\f", "v": "\v", "0": "\0"}
PLAIN = set("^$\\.*+?()[]{}|/-,:;=!<>@#%&~'\"` _")
START, END = Rule("^"), Rule("$")  # markers while a pattern is read; no rule has such a name


def parse(pattern: str, *, search: bool = False) -> Expression:
    """Read a pattern.

    Args:
        pattern: the pattern's text.
        search: accept texts with a match anywhere, as in a JSON schema; by default, the whole text must
            match.

    Raises:
        GrammarError: the pattern is malformed; names the character, what was expected, and what was found.
    """
    if not isinstance(pattern, str):
        raise TypeError(f"pattern: expected text, got {type(pattern).__name__}")
    if len(pattern) > MAX_SOURCE:
        raise GrammarError(f"pattern: expected at most {MAX_SOURCE} characters, got {len(pattern)}")
    parser = _Parser(pattern)
    branches = parser.branches()
    if parser.place < len(pattern):
        parser.fail("nothing more")
    return choice(*(_anchored(branch, search, parser) for branch in branches))


def map_chars(expression: Expression, function: Callable[[Chars], Expression]) -> Expression:
    """Replace every set of characters, also in texts."""
    match expression:
        case Chars():
            return function(expression)
        case Text(text):
            return sequence(*(function(chars(c)) for c in text))
        case Sequence(items):
            return sequence(*(map_chars(item, function) for item in items))
        case Choice(items):
            return Choice(tuple(map_chars(item, function) for item in items))
        case Repeat(item, low, high):
            return Repeat(map_chars(item, function), low, high)
    return expression


def _anchored(branch: list[Expression], search: bool, parser: _Parser) -> Expression:
    at_start = at_end = not search
    while branch and branch[0] == START:
        branch, at_start = branch[1:], True
    while branch and branch[-1] == END:
        branch, at_end = branch[:-1], True
    if any(_holds_anchor(item) for item in branch):
        parser.fail("^ and $ only at the ends of a pattern or of its alternatives", repr(parser.text[:40]))
    anything = Repeat(ANY, 0, None)
    return sequence(*([] if at_start else [anything]), *branch, *([] if at_end else [anything]))


def _holds_anchor(expression: Expression) -> bool:
    match expression:
        case Rule():
            return True
        case Sequence(items) | Choice(items):
            return any(map(_holds_anchor, items))
        case Repeat(item, _, _):
            return _holds_anchor(item)
    return False


class _Parser(Scanner):
    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.depth = 0

    def branches(self) -> list[list[Expression]]:
        found = [self.branch()]
        while self.take("|"):
            found.append(self.branch())
        return found

    def branch(self) -> list[Expression]:
        found: list[Expression] = []
        while self.place < len(self.text) and self.text[self.place] not in "|)":
            item = self.item()
            counts = self.counts()
            if counts is not None:
                if item in (START, END):
                    self.fail("something to repeat, not an anchor")
                item = Repeat(item, *counts)
                if self.peek() in ("*", "+"):
                    self.fail("one quantifier")
            found.append(item)
        return found

    def item(self) -> Expression:
        c = self.peek()
        if c in ("*", "+", "?"):
            self.fail("something to repeat")
        if c == "(":
            return self.group()
        if c == "[":
            return self.bracketed()
        self.place += 1
        if c == "^":
            return START
        if c == "$":
            return END
        if c == ".":
            return NOT_LINE_ENDS
        if c == "\\":
            return self.escape()
        if 0xD800 <= ord(c) <= 0xDFFF:
            self.fail("characters that UTF-8 can spell", f"U+{ord(c):04X}")
        return Text(c)

    def group(self) -> Expression:
        start = self.place
        self.depth += 1
        if self.depth > MAX_DEPTH:
            self.fail(f"at most {MAX_DEPTH} nested groups")
        self.place += 1
        if self.take("?"):
            if self.take("P<") or (
                self.text.startswith("<", self.place)
                and self.text[self.place + 1 : self.place + 2] not in ("=", "!")
            ):
                end = self.text.find(">", self.place)
                if end < 0:
                    self.fail("'>' after a group's name")
                self.place = end + 1
            elif not self.take(":"):
                self.place = start
                self.fail(
                    "a plain group",
                    f"{self.text[start : start + 4]!r}: look-around and flags aren't supported",
                )
        found = self.branches()
        if not self.take(")"):
            self.fail("')'")
        self.depth -= 1
        return choice(*(sequence(*branch) for branch in found))

    def counts(self) -> tuple[int, int | None] | None:
        c = self.peek()
        found: tuple[int, int | None] | None = None
        if c in ("*", "+", "?"):
            self.place += 1
            found = {"*": (0, None), "+": (1, None), "?": (0, 1)}[c]
        elif c == "{":
            end = self.text.find("}", self.place)
            low, comma, high = self.text[self.place + 1 : max(end, 0)].partition(",")
            if end < 0 or not _is_count(low) or (high and not _is_count(high)):
                self.fail("{m}, {m,} or {m,n} (a brace itself is \\{)")
            found = (int(low), (int(high) if high else None) if comma else int(low))
            if max(int(low), int(high or 0)) > MAX_COUNT or (found[1] is not None and found[1] < found[0]):
                self.fail(f"{{m,n}} with m <= n <= {MAX_COUNT}")
            self.place = end + 1
        if found is not None:
            self.take("?")  # lazy
        return found

    def escape(self) -> Expression:
        """Read the part after a backslash outside brackets."""
        start = self.place - 1
        c = self.peek()
        if c in ("b", "B"):
            self.place = start
            self.fail("no word boundary, which isn't supported")
        if (c.isascii() and c.isdigit() and c != "0") or c == "k":
            self.place = start
            self.fail("no reference to a group, which isn't supported")
        found = self.escaped(start)
        return found if isinstance(found, Chars) else Text(found)

    def escaped(self, start: int) -> Chars | str:
        c = self.peek()
        self.place += 1
        if c.lower() in CLASSES and c:
            found = CLASSES[c.lower()]
            return found if c.islower() else found.inverted()
        if c in CONTROLS:
            return CONTROLS[c]
        if c in ("x", "u"):
            if c == "u" and self.take("{"):
                end = self.text.find("}", self.place)
                digits, after = self.text[self.place : max(end, 0)], end + 1
            else:
                after = self.place + (2 if c == "x" else 4)
                digits = self.text[self.place : after] if after <= len(self.text) else ""
            if digits and len(digits) <= 8 and all(d in "0123456789abcdefABCDEF" for d in digits):
                value = int(digits, 16)
                if value <= HIGHEST and not 0xD800 <= value <= 0xDFFF:
                    self.place = after
                    return chr(value)
        if c and c in PLAIN:
            return c
        self.place = start
        self.fail("a known escape of a character")
        raise AssertionError

    def bracketed(self) -> Expression:
        start = self.place
        self.place += 1
        inverted = self.take("^")
        ranges: list[tuple[int, int]] = []
        while not self.take("]"):
            low = self.member(start)
            if isinstance(low, Chars):
                ranges += low.ranges
                continue
            high: Chars | str = low
            if self.peek() == "-" and self.text[self.place + 1 : self.place + 2] not in ("]", ""):
                before = self.place
                self.place += 1
                high = self.member(start)
                if isinstance(high, Chars):  # [a-\d]: the hyphen means itself
                    self.place, high = before, low
            if ord(high) < ord(low):  # type: ignore[arg-type]
                self.fail("a range whose first character comes first", f"{low}-{high}")
            ranges.append((ord(low), ord(high)))  # type: ignore[arg-type]
        found = Chars(normalized(ranges))
        return found.inverted() if inverted else found

    def member(self, start: int) -> Chars | str:
        c = self.peek()
        if not c:
            self.place = start
            self.fail("']' at the end of a set")
        self.place += 1
        if c != "\\":
            return c
        if self.take("b"):
            return "\b"
        return self.escaped(self.place - 1)

    def fail(self, expected: str, got: str = "") -> None:
        got = got or (
            repr(self.text[self.place : self.place + 20]) if self.place < len(self.text) else "the end"
        )
        raise GrammarError(f"pattern, character {self.place + 1}: expected {expected}, got {got}")


def _is_count(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= 10

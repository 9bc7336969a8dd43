"""A reader of llama.cpp's grammar language.

Source: llama.cpp, grammars/README.md and src/llama-grammar.cpp.
"""

from __future__ import annotations

from llmlite.errors import GrammarError
from llmlite.grammar.expressions import (
    EMPTY,
    HIGHEST,
    MAX_COUNT,
    MAX_DEPTH,
    MAX_SOURCE,
    Chars,
    Expression,
    Repeat,
    Rule,
    Text,
    choice,
    normalized,
    sequence,
)
from llmlite.grammar.scanner import Scanner

ESCAPES = {"t": "\t", "r": "\r", "n": "\n", "\\": "\\", '"': '"', "[": "[", "]": "]", "-": "-"}
HEX_DIGITS = {"x": 2, "u": 4, "U": 8}


def parse(text: str) -> dict[str, Expression]:
    """Read a grammar.

    Returns:
        The expression of each rule, by name.

    Raises:
        GrammarError: the text is malformed; names line and column, what was expected, and what was found.
    """
    if len(text) > MAX_SOURCE:
        raise GrammarError(f"grammar: expected at most {MAX_SOURCE} characters, got {len(text)}")
    if not isinstance(text, str):
        raise TypeError(f"grammar: expected text, got {type(text).__name__}")
    return _Parser(text).rules()


class _Parser(Scanner):
    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.depth = 0

    def rules(self) -> dict[str, Expression]:
        found: dict[str, Expression] = {}
        self.space(lines=True)
        while self.place < len(self.text):
            start = self.place
            name = self.name()
            self.space()
            if not self.take("::="):
                self.fail("'::=' after a rule's name")
            if name in found:
                self.place = start
                self.fail("each rule once", f"a second rule {name!r}")
            self.space(lines=True)
            found[name] = self.alternatives(lines=False)
            if self.place < len(self.text) and self.text[self.place] not in "\r\n":
                self.fail("an item, '|', or the end of the line")
            self.space(lines=True)
        if not found:
            raise GrammarError('grammar: expected at least one rule, as root ::= "yes" | "no", got none')
        return found

    def alternatives(self, *, lines: bool) -> Expression:
        items = [self.items(lines=lines)]
        while self.take("|"):
            self.space(lines=True)
            items.append(self.items(lines=lines))
        return choice(*items)

    def items(self, *, lines: bool) -> Expression:
        found: list[Expression] = []
        while (item := self.item()) is not None:
            self.space(lines=lines)
            n_counts = 0
            while (counts := self.counts()) is not None:
                item = Repeat(item, *counts)
                n_counts += 1
                if n_counts > MAX_DEPTH:
                    self.fail(f"at most {MAX_DEPTH} repetitions of one item")
                self.space(lines=lines)
            found.append(item)
        return sequence(*found)

    def item(self) -> Expression | None:
        c = self.peek()
        if c == '"':
            return self.quoted()
        if c == "[":
            return self.bracketed()
        if c == ".":
            self.place += 1
            return Chars(normalized([(0, HIGHEST)]))
        if c == "(":
            self.depth += 1
            if self.depth > MAX_DEPTH:
                self.fail(f"at most {MAX_DEPTH} nested parentheses")
            self.place += 1
            self.space(lines=True)
            found = self.alternatives(lines=True)
            if not self.take(")"):
                self.fail("')'")
            self.depth -= 1
            return found
        if c in ("<", "!"):
            self.fail("characters", f"a token ({c}), which isn't supported: write its text in quotes")
        if c in ("*", "+", "?", "{"):
            self.fail("something to repeat before it")
        return Rule(self.name()) if _is_word(c) else None

    def counts(self) -> tuple[int, int | None] | None:
        c = self.peek()
        if c in ("*", "+", "?"):
            self.place += 1
            return {"*": (0, None), "+": (1, None), "?": (0, 1)}[c]
        if c != "{":
            return None
        start = self.place
        self.place += 1
        self.space()
        low = self.number() or 0
        high: int | None = low
        self.space()
        if self.take(","):
            self.space()
            high = self.number()
            self.space()
        if not self.take("}"):
            self.fail("'}'")
        if high is not None and high < low:
            self.place = start
            self.fail("{m}, {m,} or {m,n} with m <= n")
        return low, high

    def number(self) -> int | None:
        start = self.place
        while self.peek() and self.peek() in "0123456789":
            self.place += 1
        digits = self.text[start : self.place]
        if len(digits) > 10 or (digits and int(digits) > MAX_COUNT):
            self.place = start
            self.fail(f"a count of at most {MAX_COUNT}")
        return int(digits) if digits else None

    def quoted(self) -> Expression:
        self.place += 1
        found = []
        while not self.take('"'):
            found.append(self.character())
        return Text("".join(found)) if found else EMPTY

    def bracketed(self) -> Expression:
        self.place += 1
        inverted = self.take("^")
        ranges = []
        while not self.take("]"):
            start = self.place
            low = high = ord(self.character())
            if self.peek() == "-" and self.text[self.place + 1 : self.place + 2] != "]":
                self.place += 1
                high = ord(self.character())
            if high < low:
                self.place = start
                self.fail("a range whose first character comes first")
            ranges.append((low, high))
        found = Chars(normalized(ranges))
        return found.inverted() if inverted else found

    def character(self) -> str:
        c = self.peek()
        if not c:
            self.fail("more characters")
        start = self.place
        self.place += 1
        if c != "\\":
            if 0xD800 <= ord(c) <= 0xDFFF:
                self.place = start
                self.fail("characters that UTF-8 can spell", f"U+{ord(c):04X}")
            return c
        escape = self.peek()
        self.place += 1
        if escape in ESCAPES:
            return ESCAPES[escape]
        n_digits = HEX_DIGITS.get(escape, 0)
        digits = self.text[self.place : self.place + n_digits]
        if n_digits and len(digits) == n_digits and all(d in "0123456789abcdefABCDEF" for d in digits):
            value = int(digits, 16)
            if value <= HIGHEST and not 0xD800 <= value <= 0xDFFF:
                self.place += n_digits
                return chr(value)
        self.place = start
        return self.fail(
            'an escape: \\n \\r \\t \\\\ \\" \\[ \\] \\- \\xHH \\uHHHH \\UHHHHHHHH, of a character'
        )

    def name(self) -> str:
        start = self.place
        while _is_word(self.peek()):
            self.place += 1
        if self.place == start:
            self.fail("a rule's name (letters, digits and -)")
        return self.text[start : self.place]

    def space(self, *, lines: bool = False) -> None:
        while c := self.peek():
            if c == "#":
                end = self.text.find("\n", self.place)
                self.place = len(self.text) if end < 0 else end
            elif c in " \t" or (lines and c in "\r\n"):
                self.place += 1
            else:
                return

    def fail(self, expected: str, got: str = "") -> str:
        line = self.text.count("\n", 0, self.place) + 1
        column = self.place - (self.text.rfind("\n", 0, self.place) + 1) + 1
        rest = self.text[self.place : self.place + 20].split("\n")[0]
        got = got or (repr(rest) if rest else "the end of the line")
        raise GrammarError(f"grammar, line {line}, column {column}: expected {expected}, got {got}")


def _is_word(c: str) -> bool:
    return bool(c) and ((c.isascii() and c.isalnum()) or c in "-_")

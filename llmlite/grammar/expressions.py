"""A grammar as a tree: characters, sequences, alternatives, repetitions and names of rules."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TypeAlias

from llmlite.errors import GrammarError

HIGHEST = 0x10FFFF  # Unicode's last code point
SURROGATES = (0xD800, 0xDFFF)  # not characters: UTF-8 can't encode them
MAX_DEPTH = 60  # of nested parentheses, or of nested schemas
MAX_COUNT = 2**31 - 1
MAX_SOURCE = 2**20  # characters of a grammar, schema or pattern

Ranges: TypeAlias = "tuple[tuple[int, int], ...]"


@dataclass(frozen=True)
class Chars:
    """One character from a set: sorted ranges of code points, with both ends."""

    ranges: Ranges

    def inverted(self) -> Chars:
        """Return the set of all other characters."""
        found, start = [], 0
        for low, high in self.ranges:
            if low > start:
                found.append((start, low - 1))
            start = high + 1
        if start <= HIGHEST:
            found.append((start, HIGHEST))
        return Chars(normalized(found))


@dataclass(frozen=True)
class Text:
    """These characters, one after another; an empty text matches only the empty text."""

    text: str


@dataclass(frozen=True)
class Sequence:
    items: tuple[Expression, ...]


@dataclass(frozen=True)
class Choice:
    """Any one of the items; without items, no text fits."""

    items: tuple[Expression, ...]


@dataclass(frozen=True)
class Repeat:
    """The item, at least `low` and at most `high` times; None means no limit."""

    item: Expression
    low: int
    high: int | None


@dataclass(frozen=True)
class Rule:
    """A reference to a rule by its name."""

    name: str


Expression: TypeAlias = "Chars | Text | Sequence | Choice | Repeat | Rule"
NOTHING = Choice(())
EMPTY = Text("")


def chars(*ranges: tuple[int, int] | str) -> Chars:
    """Make a set of characters: "az" is the range from a to z, "x" one character."""
    pairs = [(ord(r[0]), ord(r[-1])) if isinstance(r, str) else r for r in ranges]
    return Chars(normalized(pairs))


def normalized(ranges: list[tuple[int, int]]) -> Ranges:
    """Sort ranges, join adjacent ones, and leave out surrogates."""
    low_surrogate, high_surrogate = SURROGATES
    parts = []
    for low, high in ranges:
        parts += [(low, min(high, low_surrogate - 1)), (max(low, high_surrogate + 1), min(high, HIGHEST))]
    found: list[tuple[int, int]] = []
    for low, high in sorted(part for part in parts if part[0] <= part[1]):
        if found and low <= found[-1][1] + 1:
            found[-1] = (found[-1][0], max(found[-1][1], high))
        else:
            found.append((low, high))
    return tuple(found)


def sequence(*items: Expression | str) -> Expression:
    """Make a sequence; strings are texts."""
    flat = [Text(item) if isinstance(item, str) else item for item in items]
    flat = [item for item in flat if item != EMPTY]
    return flat[0] if len(flat) == 1 else Sequence(tuple(flat))


def choice(*items: Expression | str) -> Expression:
    """Make a choice; strings are texts."""
    flat = tuple(Text(item) if isinstance(item, str) else item for item in items)
    return flat[0] if len(flat) == 1 else Choice(flat)


def optional(item: Expression) -> Repeat:
    return Repeat(item, 0, 1)


def children(expression: Expression) -> tuple[Expression, ...]:
    match expression:
        case Sequence(items) | Choice(items):
            return items
        case Repeat(item, _, _):
            return (item,)
    return ()


def names(expression: Expression) -> Iterator[str]:
    """Return all rules that an expression names."""
    open_ones = [expression]
    while open_ones:
        found = open_ones.pop()
        if isinstance(found, Rule):
            yield found.name
        open_ones.extend(children(found))


class Rules:
    """The rules of a grammar that `root` needs, checked, without alternatives that can never be completed.

    Attributes:
        rules: name -> expression.
        root: name of the first rule.
        nullable: the names of rules that the empty text fits.
        order: the names of all rules, each after those that it may begin with.

    Raises:
        GrammarError: a name has no rule, a rule begins with itself, or no text fits the root.
    """

    def __init__(self, rules: Mapping[str, Expression], root: str = "root") -> None:
        self.root = root
        self.rules = self._reachable(rules)
        productive = self._growing(self._is_productive)
        if root not in productive:
            raise GrammarError(
                f"rule {root!r}: no finite text fits it, because every way through it is endless"
            )
        self.rules = {
            name: self._pruned(expression, productive)
            for name, expression in self.rules.items()
            if name in productive
        }
        self.nullable = self._growing(self.is_nullable)
        self.order = self._ordered()

    def _reachable(self, rules: Mapping[str, Expression]) -> dict[str, Expression]:
        found: dict[str, Expression] = {}
        open_ones = [(self.root, "the grammar")]
        while open_ones:
            name, user = open_ones.pop()
            if name in found:
                continue
            if name not in rules:
                raise GrammarError(f"{user} needs a rule {name!r}, which doesn't exist")
            found[name] = rules[name]
            open_ones.extend((other, f"rule {name!r}") for other in names(rules[name]))
        return found

    def _growing(self, holds: Callable[[Expression, set[str]], bool]) -> set[str]:
        """Return the smallest set of rules for which `holds(expression, set)` is true for each member."""
        users: dict[str, set[str]] = {name: set() for name in self.rules}
        for name, expression in self.rules.items():
            for other in names(expression):
                users[other].add(name)
        found: set[str] = set()
        open_ones = list(self.rules)
        while open_ones:
            name = open_ones.pop()
            if name not in found and holds(self.rules[name], found):
                found.add(name)
                open_ones.extend(users[name] - found)
        return found

    def _is_productive(self, expression: Expression, known: set[str]) -> bool:
        match expression:
            case Chars(ranges):
                return bool(ranges)
            case Sequence(items):
                return all(self._is_productive(item, known) for item in items)
            case Choice(items):
                return any(self._is_productive(item, known) for item in items)
            case Repeat(item, low, _):
                return low == 0 or self._is_productive(item, known)
            case Rule(name):
                return name in known
        return True

    def is_nullable(self, expression: Expression, known: set[str] | None = None) -> bool:
        """Return whether the empty text fits an expression."""
        known = self.nullable if known is None else known
        match expression:
            case Text(text):
                return not text
            case Sequence(items):
                return all(self.is_nullable(item, known) for item in items)
            case Choice(items):
                return any(self.is_nullable(item, known) for item in items)
            case Repeat(item, low, _):
                return low == 0 or self.is_nullable(item, known)
            case Rule(name):
                return name in known
        return False

    def least_bytes(self, expression: Expression) -> int:
        """Return a lower limit of bytes in the texts of an expression; a rule counts as at most one byte."""
        match expression:
            case Text(text):
                return len(text.encode())
            case Chars(ranges):
                return len(chr(ranges[0][0]).encode()) if ranges else 0
            case Sequence(items):
                return sum(map(self.least_bytes, items))
            case Choice(items):
                return min(map(self.least_bytes, items), default=0)
            case Repeat(item, low, _):
                return low * self.least_bytes(item) if low else 0
            case Rule(name):
                return 0 if name in self.nullable else 1
        raise AssertionError(expression)

    def _pruned(self, expression: Expression, productive: set[str]) -> Expression:
        if not self._is_productive(expression, productive):
            return NOTHING
        match expression:
            case Sequence(items):
                return Sequence(tuple(self._pruned(item, productive) for item in items))
            case Choice(items):
                kept = [item for item in items if self._is_productive(item, productive)]
                return choice(*(self._pruned(item, productive) for item in kept))
            case Repeat(item, low, high):
                if not self._is_productive(item, productive):
                    return EMPTY
                return Repeat(self._pruned(item, productive), low, high)
        return expression

    def _first_names(self, expression: Expression) -> Iterator[str]:
        """Return the rules that an expression may begin with."""
        match expression:
            case Rule(name):
                yield name
            case Repeat(item, _, high):
                if high != 0:
                    yield from self._first_names(item)
            case Choice(items):
                for item in items:
                    yield from self._first_names(item)
            case Sequence(items):
                for item in items:
                    yield from self._first_names(item)
                    if not self.is_nullable(item):
                        return

    def _ordered(self) -> list[str]:
        """Visit rules depth first, without recursion; a rule met again on its own path begins with itself."""
        done: dict[str, None] = {}
        path: dict[str, Iterator[str]] = {}
        for start in self.rules:
            if start not in done:
                path[start] = self._first_names(self.rules[start])
            while path:
                name = next(reversed(path))
                after = next((other for other in path[name] if other not in done), None)
                if after is None:
                    done[name] = None
                    del path[name]
                elif after in path:
                    circle = [*list(path)[list(path).index(after) :], after]
                    shown = " → ".join(circle[:6] + (["…"] if len(circle) > 6 else []))
                    raise GrammarError(
                        f"rule {after!r} begins with itself ({shown}): left recursion can't be followed; "
                        "write a repetition instead"
                    )
                else:
                    path[after] = self._first_names(self.rules[after])
        return list(done)

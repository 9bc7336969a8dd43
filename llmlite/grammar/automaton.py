"""A pushdown automaton over bytes that follows all readings of a text at once.

Each rule becomes a small graph. A reading of the text is a stack. Its top is the place in a rule's graph that
waits for a byte. Below it are the places to continue from when the rules above are complete. Stacks share
their lower parts. Repetitions with bounds count down in their stack frame, so {1,1000000} takes no more
memory than {1,2}.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from llmlite.errors import GrammarError
from llmlite.grammar.expressions import (
    Chars,
    Choice,
    Expression,
    Repeat,
    Rule,
    Rules,
    Sequence,
    Text,
)
from llmlite.grammar.utf8 import byte_ranges

MAX_PLACES = 300_000
MAX_READINGS = 2_000  # of one text at once
MAX_ENTERED = 50_000  # stack frames that one place may lead to without a byte
UNLIMITED = -1


class Frame(NamedTuple):
    """One level of a stack.

    Attributes:
        place: index of the place.
        must: items that must still come, if the place counts a repetition.
        may: items that may still come; UNLIMITED for any number.
    """

    place: int
    must: int = 0
    may: int = 0


class Entered(NamedTuple):
    """The result of entering a place without reading a byte.

    Attributes:
        stacks: the stacks that the place leads to, each with its lowest frame first.
        ends: whether the place's rule can end here.
    """

    stacks: tuple[tuple[Frame, ...], ...]
    ends: bool


class Stack:
    """A stack that shares its lower frames; equal stacks of one automaton are the same object."""

    __slots__ = ("below", "bounded", "frame")

    def __init__(self, frame: Frame, below: Stack | None) -> None:
        self.frame = frame
        self.below = below
        self.bounded: tuple[int, Stack] | None = None


Readings = frozenset[Stack]


@dataclass
class _Place:
    """A node of a rule's graph."""

    bytes: list[tuple[int, int, int]] = field(default_factory=list)  # (lowest, highest, next place)
    empty: list[int] = field(default_factory=list)  # next places, reached without a byte
    call: tuple[str, int] | None = None  # rule, place to continue at
    count: tuple[int, int, int, int] | None = None  # item's place, must, may, place to continue at
    ends: bool = False


class Automaton:
    """Rules in a form that follows a text byte by byte.

    Args:
        rules: the checked rules.

    Attributes:
        n_classes: number of classes; bytes that no rule distinguishes share a class.
        class_of: class of each byte, uint8 (256,).

    Raises:
        GrammarError: the grammar is too large, or too ambiguous.
    """

    def __init__(self, rules: Rules) -> None:
        self._rules = rules
        self._places: list[_Place] = []
        self._least: dict[int, int] = {}  # for a place that counts: the minimum of bytes in an item
        self._starts: dict[str, int] = {}
        for name, expression in rules.rules.items():
            self._starts[name] = self._whole(expression)
        self._make_classes()
        self._entered: dict[int, Entered] = {}
        for name in rules.order:
            self._enter(self._starts[name])
        self._stacks: dict[tuple[Frame, int], Stack] = {}
        self.end = Stack(Frame(-1), None)

    def start(self) -> Readings:
        """Return the readings of an empty text."""
        found: set[Stack] = set()
        self._go_on(self._enter(self._starts[self._rules.root]), None, found)
        return frozenset(found)

    def step(self, readings: Iterable[Stack], byte_class: int) -> Readings:
        """Return the readings after one more byte; none if it doesn't fit.

        Raises:
            GrammarError: there are too many readings.
        """
        found: set[Stack] = set()
        for stack in readings:
            if stack is not self.end:
                for target in self._moves[stack.frame.place].get(byte_class, ()):
                    self._go_on(self._enter(target), stack.below, found)
        if len(found) > MAX_READINGS:
            raise GrammarError(
                f"the grammar is too ambiguous: this text has more than {MAX_READINGS} readings at once"
            )
        return frozenset(found)

    def bounded(self, readings: Readings, n_bytes: int) -> Readings:
        """Return readings with counters as low as possible without a difference within n_bytes.

        An item in progress may end with the first byte; after it, the bytes begin at most
        n_bytes // (minimum of bytes in an item) + 1 other items.
        """
        return frozenset(self._bounded(stack, n_bytes) for stack in readings)

    def forget(self) -> None:
        """Drop the table that makes equal stacks the same object; readings must be `adopted` afterwards."""
        self._stacks.clear()

    def adopted(self, readings: Readings) -> Readings:
        """Return the same readings, made from this automaton's present stacks."""
        return frozenset(self._rebuilt(stack, None) for stack in readings)

    def _push(self, frame: Frame, below: Stack | None) -> Stack:
        key = (frame, id(below))
        found = self._stacks.get(key)
        if found is None:
            found = self._stacks[key] = Stack(frame, below)
        return found

    def _bounded(self, stack: Stack, n_bytes: int) -> Stack:
        if stack.bounded is not None and stack.bounded[0] == n_bytes:
            return stack.bounded[1]
        return self._rebuilt(stack, n_bytes)

    def _rebuilt(self, stack: Stack, n_bytes: int | None) -> Stack:
        """Rebuild a stack from the bottom, without recursion; stop at a frame that was rebuilt before."""
        if stack is self.end:
            return stack
        todo: list[Stack] = []
        made: Stack | None = None
        level: Stack | None = stack
        while level is not None:
            if n_bytes is not None and level.bounded is not None and level.bounded[0] == n_bytes:
                made = level.bounded[1]
                break
            todo.append(level)
            level = level.below
        for level in reversed(todo):
            frame = level.frame
            if n_bytes is not None:
                limit = n_bytes // self._least.get(frame.place, 1) + 1
                frame = Frame(frame.place, min(frame.must, limit), min(frame.may, limit))
            made = self._push(frame, made)
            if n_bytes is not None:
                level.bounded = (n_bytes, made)
        assert made is not None
        return made

    def _go_on(self, entered: Entered, below: Stack | None, found: set[Stack]) -> None:
        """Push stacks; at the end of a rule, continue with the frame below, and so on down."""
        while True:
            for stack in entered.stacks:
                top = below
                for frame in stack:
                    top = self._push(frame, top)
                found.add(top)  # type: ignore[arg-type]
            if not entered.ends:
                return
            if below is None:
                found.add(self.end)
                return
            entered, below = self._resume(below.frame), below.below

    def _resume(self, frame: Frame) -> Entered:
        """Return the stacks that a frame leads to when the rule or the item above it is complete."""
        count = self._places[frame.place].count
        if count is None:
            return self._enter(frame.place)
        item, _, _, after = count
        stacks: tuple[tuple[Frame, ...], ...] = ()
        ends = False
        if frame.must == 0:
            stacks, ends = self._enter(after)
        if frame.may != 0:
            stacks += self._counted(frame.place, item, frame.must, frame.may)
        return Entered(stacks, ends)

    def _counted(self, place: int, item: int, must: int, may: int) -> tuple[tuple[Frame, ...], ...]:
        """Return stacks that begin one more item; an empty item doesn't count."""
        rest = Frame(place, max(0, must - 1), may - 1 if may > 0 else UNLIMITED)
        inner = self._enter(item).stacks
        return tuple((rest, *stack) for stack in inner)

    def _enter(self, start: int) -> Entered:
        """Return what a place leads to without a byte. Rules that may begin it come first (`Rules.order`)."""
        known = self._entered.get(start)
        if known is not None:
            return known
        stacks: dict[tuple[Frame, ...], None] = {}
        ends = False
        n_frames = 0
        seen = {start}
        open_ones = [start]
        while open_ones:
            number = open_ones.pop()
            place = self._places[number]
            added: list[tuple[Frame, ...]] = []
            after: list[int] = list(place.empty)
            ends |= place.ends
            if place.bytes:
                added.append((Frame(number),))
            if place.call:
                rule, back = place.call
                inner = self._enter(self._starts[rule])
                # after the last call, nothing is left to do: the end of its rule is the end of this rule
                below = () if self._only_ends(back) else (Frame(back),)
                added += [below + stack for stack in inner.stacks]
                after += [back] if inner.ends else []
                ends |= inner.ends and not below
            if place.count:
                item, must, may, back = place.count
                added += self._counted(number, item, must, may)
                after += [back] if must == 0 else []
            for stack in added:
                if stack not in stacks:
                    stacks[stack] = None
                    n_frames += len(stack)
            if n_frames > MAX_ENTERED:
                raise GrammarError("the grammar is too ambiguous: a place has too many ways to continue")
            open_ones += [other for other in after if other not in seen]
            seen.update(after)
        found = self._entered[start] = Entered(tuple(stacks), ends)
        return found

    def _only_ends(self, number: int) -> bool:
        place = self._places[number]
        return place.ends and not (place.bytes or place.empty or place.call or place.count)

    def _new(self, **fields: object) -> int:
        if len(self._places) >= MAX_PLACES:
            raise GrammarError(f"the grammar is too large: more than {MAX_PLACES} places")
        self._places.append(_Place(**fields))  # type: ignore[arg-type]
        return len(self._places) - 1

    def _whole(self, expression: Expression) -> int:
        """Return the first place of a graph that ends after the expression."""
        return self._graph(expression, self._new(ends=True))

    def _graph(self, expression: Expression, after: int) -> int:
        """Return the first place of a graph for an expression that continues at `after`."""
        match expression:
            case Text(text):
                for byte in reversed(text.encode()):
                    after = self._new(bytes=[(byte, byte, after)])
                return after
            case Chars(ranges):
                return self._characters(ranges, after)
            case Sequence(items):
                for item in reversed(items):
                    after = self._graph(item, after)
                return after
            case Choice(items):
                return self._new(empty=[self._graph(item, after) for item in items])
            case Rule(name):
                return self._new(call=(name, after))
            case Repeat(item, low, high):
                return self._repeat(item, low, high, after)
        raise AssertionError(expression)

    def _repeat(self, item: Expression, low: int, high: int | None, after: int) -> int:
        if high == 0:
            return after
        if self._rules.is_nullable(item):
            low = 0  # empty items make up the number
        if low <= 1 and high is None:
            again = self._new(empty=[after])
            first = self._graph(item, again)
            self._places[again].empty.append(first)
            return again if low == 0 else first
        if high == 1:
            first = self._graph(item, after)
            return first if low else self._new(empty=[first, after])
        place = self._new(count=(self._whole(item), low, UNLIMITED if high is None else high, after))
        self._least[place] = max(1, self._rules.least_bytes(item))
        return place

    def _characters(self, ranges: Iterable[tuple[int, int]], after: int) -> int:
        """Return a place from which the UTF-8 of every character of the ranges leads to `after`."""
        tails: dict[tuple[tuple[int, int], ...], int] = {(): after}
        edges: list[tuple[int, int, int]] = []
        for low, high in ranges:
            for parts in byte_ranges(low, high):
                for n in range(len(parts) - 1, 0, -1):  # characters share equal ends
                    if parts[n:] not in tails:
                        tails[parts[n:]] = self._new(bytes=[(*parts[n], tails[parts[n + 1 :]])])
                edges.append((*parts[0], tails[parts[1:]]))
        return self._new(bytes=edges)

    def _make_classes(self) -> None:
        """Put bytes that no edge distinguishes into one class, and index each place's edges by class."""
        edges = {(low, high) for place in self._places for low, high, _ in place.bytes}
        signature = [0] * 256
        for bit, (low, high) in enumerate(sorted(edges)):
            for byte in range(low, high + 1):
                signature[byte] |= 1 << bit
        numbers: dict[int, int] = {}
        of = [numbers.setdefault(found, len(numbers)) for found in signature]
        self.class_of = np.array(of, dtype=np.uint8)
        self.n_classes = len(numbers)
        self._moves: list[dict[int, list[int]]] = []
        spans = {(low, high): sorted(set(of[low : high + 1])) for low, high in edges}
        for place in self._places:
            moves: dict[int, list[int]] = {}
            for low, high, target in place.bytes:
                for number in spans[low, high]:
                    moves.setdefault(number, []).append(target)
            self._moves.append(moves)

    def expected(self, readings: Readings) -> Iterator[tuple[int, int]]:
        """Return the ranges of bytes that may come next, for an error's text."""
        for stack in readings:
            if stack is not self.end:
                yield from ((low, high) for low, high, _ in self._places[stack.frame.place].bytes)

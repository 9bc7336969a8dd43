"""Grammars for the digits of numbers between bounds."""

from __future__ import annotations

from decimal import Decimal, localcontext
from math import ceil, floor

from llmlite.errors import GrammarError
from llmlite.grammar.expressions import NOTHING, Chars, Expression, Repeat, chars, choice, optional, sequence

MAX_DIGITS = 15  # two different decimals with this many digits are different float64 numbers
DIGIT = chars("09")
NONZERO = chars("19")
WHOLE = choice("0", sequence(NONZERO, Repeat(DIGIT, 0, MAX_DIGITS - 1)))
INTEGER = sequence(optional(choice("-")), WHOLE)
NUMBER = sequence(
    INTEGER,
    optional(sequence(".", Repeat(DIGIT, 1, MAX_DIGITS))),
    optional(sequence(chars("e", "E"), optional(chars("+", "-")), Repeat(DIGIT, 1, 2))),
)
MAX_BOUND_DIGITS = 60


def integers(low: int | None, high: int | None) -> Expression:
    """Return all integers from low to high. None is no bound, except 15 digits or 4 more than the other's."""
    for bound in (low, high):
        if bound is not None and len(str(abs(bound))) > MAX_BOUND_DIGITS:
            raise GrammarError(f"a bound of an integer: expected at most {MAX_BOUND_DIGITS} digits")
    if low is None and high is None:
        return INTEGER
    size = max(MAX_DIGITS, *(len(str(abs(bound))) + 4 for bound in (low, high) if bound is not None))
    low = -(10**size) + 1 if low is None else low
    high = 10**size - 1 if high is None else high
    parts: list[Expression] = []
    if low < 0:
        negative = _naturals(max(1, -high), -low)
        parts += [sequence("-", negative)] if -low >= max(1, -high) else []
    if high >= 0 and high >= low:
        parts.append(_naturals(max(0, low), high))
    return choice(*parts) if parts else NOTHING


def decimals(low: Decimal | None, high: Decimal | None, low_open: bool, high_open: bool) -> Expression:
    """Return all decimals between bounds, without exponents; an open bound is excluded."""
    if low is None and high is None:
        return NUMBER
    with localcontext() as context:
        context.prec = 4 * MAX_BOUND_DIGITS  # every step below is exact
        return _decimals(low, high, low_open, high_open)


def _decimals(low: Decimal | None, high: Decimal | None, low_open: bool, high_open: bool) -> Expression:
    for bound in (low, high):
        if bound is None:
            continue
        exponent = bound.as_tuple().exponent
        if (
            not isinstance(exponent, int)
            or bound.adjusted() > MAX_BOUND_DIGITS
            or exponent < -MAX_BOUND_DIGITS
        ):
            raise GrammarError(
                f"a bound of a number: expected at most {MAX_BOUND_DIGITS} digits, got {bound}"
            )
    largest = Decimal(10 ** max(MAX_DIGITS, *(b.adjusted() + 4 for b in (low, high) if b is not None)))
    low, low_open = (-largest, True) if low is None else (low, low_open)
    high, high_open = (largest, True) if high is None else (high, high_open)
    parts: list[Expression] = []
    zero = Decimal(0)
    if low < 0:
        parts.append(sequence("-", _positive(max(zero, -high), -low, high_open or high >= 0, low_open)))
    if high >= 0:
        parts.append(_positive(max(zero, low), high, low_open and low >= 0, high_open))
    return choice(*parts) if parts else NOTHING


def _naturals(low: int, high: int) -> Expression:
    """Return the digits of low … high, for 0 <= low <= high, without leading zeros."""
    if low > high:
        return NOTHING
    parts = []
    for length in range(len(str(low)), len(str(high)) + 1):
        first = max(low, 10 ** (length - 1) if length > 1 else 0)
        last = min(high, 10**length - 1)
        parts.append(_same_length(str(first), str(last)))
    return choice(*parts)


def _same_length(low: str, high: str) -> Expression:
    """Return digit strings from low to high, both of the same length."""
    if not low:
        return sequence()
    if low == "0" * len(low) and high == "9" * len(high):
        return Repeat(DIGIT, len(low), len(low))
    if low[0] == high[0]:
        return sequence(low[0], _same_length(low[1:], high[1:]))
    n = len(low) - 1
    parts = []
    first, last = int(low[0]), int(high[0])
    if low[1:] != "0" * n:
        parts.append(sequence(low[0], _same_length(low[1:], "9" * n)))
        first += 1
    if high[1:] != "9" * n:
        parts.append(sequence(high[0], _same_length("0" * n, high[1:])))
        last -= 1
    if first <= last:
        parts.append(sequence(_digits(first, last), Repeat(DIGIT, n, n)))
    return choice(*parts)


def _positive(low: Decimal, high: Decimal, low_open: bool, high_open: bool) -> Expression:
    """Return decimals from low to high, for low >= 0."""
    if low > high or (low == high and (low_open or high_open)):
        return NOTHING
    parts: list[Expression] = []
    first = floor(low) + 1 if low_open else ceil(low)
    last = ceil(high) - 1 if high_open else floor(high)
    if first <= last:
        parts.append(_naturals(first, last))
    whole_low, whole_high = floor(low), floor(high)
    size = max(1, MAX_DIGITS - len(str(whole_high)), -low.as_tuple().exponent, -high.as_tuple().exponent)  # type: ignore[operator]
    for whole in sorted({whole_low, whole_high}):
        for n in range(1, size + 1):  # digits after the point: an integer of n digits between two others
            scale = 10**n
            above, below = (low - whole) * scale, (high - whole) * scale
            smallest = max(0, floor(above) + 1 if low_open else ceil(above))
            largest = min(scale - 1, ceil(below) - 1 if high_open else floor(below))
            if smallest <= largest:
                digits = _same_length(str(smallest).zfill(n), str(largest).zfill(n))
                parts.append(sequence(str(whole), ".", digits))
    if whole_low + 1 <= whole_high - 1:
        parts.append(sequence(_naturals(whole_low + 1, whole_high - 1), ".", Repeat(DIGIT, 1, size)))
    return choice(*parts) if parts else NOTHING


def _digits(first: int, last: int) -> Chars:
    return chars((ord("0") + first, ord("0") + last))

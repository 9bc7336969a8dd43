"""Find special tokens in a text by their whole text, before the rest is encoded."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterator, Sequence

from llmlite.tokenizers.vocabulary import ALWAYS_SHOWN, TokenType, Vocabulary

_KINDS = (TokenType.CONTROL, TokenType.USER_DEFINED, TokenType.UNKNOWN)
_HEAD_LENGTH = 4  # tokens with the same first letters are searched together: <unused0> to <unused6241>
_SCANNED_FROM = 32  # from this many tokens with one head, all places of the head in the text are checked


class SpecialTokens:
    """The control, user-defined and unknown tokens of a vocabulary.

    The whole text is first cut at the longest token, then at the next longest, and so on, as in llama.cpp
    (tokenizer_st_partition). A search from left to right for the longest token at each place gives the same,
    unless the end of one token is the start of another. So a single expression is used if the text has no two
    such tokens.

    Args:
        vocabulary: the vocabulary.
    """

    def __init__(self, vocabulary: Vocabulary) -> None:
        special = [
            (vocabulary.texts[i], i, vocabulary.is_hidden(i))
            for i, kind in enumerate(vocabulary.types)
            if kind in _KINDS
        ]
        special.sort(key=lambda entry: -len(entry[0].encode("utf-8", "surrogateescape")))
        self._order = {text: order for order, (text, _, _) in enumerate(special)}
        self._ids = {text: token_id for text, token_id, _ in special}
        self._hidden = {text for text, _, hidden in special if hidden}
        self._markup = self._hidden.union(ALWAYS_SHOWN)  # tokens that delimit the parts of a conversation
        self._by_head: dict[str, list[str]] = defaultdict(list)
        for text, _, _ in special:
            self._by_head[text[:_HEAD_LENGTH]].append(text)
        self._compiled: dict[tuple[str, ...], re.Pattern[str] | None] = {}

    def __len__(self) -> int:
        return len(self._ids)

    def partition(self, text: str, *, hidden: bool, plain: Sequence[tuple[int, int]] = ()) -> list[str | int]:
        """Cut a text at its special tokens.

        Args:
            text: the text.
            hidden: whether control and unknown tokens are found too.
            plain: parts of the text, as (begin, end) in characters, in order. Markup that overlaps one is
                text; other user-defined tokens are still found.

        Returns:
            Strings, never empty, and the special tokens' ids.
        """
        if not text:
            return []
        present = self._present(text, hidden)
        if not present:
            return [text]
        pattern = None if plain and not self._markup.isdisjoint(present) else self._pattern(present)
        if pattern is None:
            return self._longest_first(text, present, plain)
        ids = self._ids
        return [
            ids[part] if i % 2 else part
            for i, part in enumerate(pattern.split(text))
            if part  # odd: tokens
        ]

    def _present(self, text: str, hidden: bool) -> tuple[str, ...]:
        """Return the special tokens that the text contains, longest first."""
        found: list[str] = []
        for head, tokens in self._by_head.items():
            if head not in text:
                continue
            if len(tokens) < _SCANNED_FROM or (not hidden and self._hidden.issuperset(tokens)):
                found += [
                    token for token in tokens if (hidden or token not in self._hidden) and token in text
                ]
            else:
                found += self._scan(text, head, tokens, hidden)
        return tuple(sorted(found, key=self._order.__getitem__))

    def _scan(self, text: str, head: str, tokens: list[str], hidden: bool) -> set[str]:
        """Return those of many tokens with one head that are in the text."""
        wanted = {token for token in tokens if hidden or token not in self._hidden}
        lengths = sorted({len(token) for token in wanted})
        found: set[str] = set()
        start = text.find(head)
        while start >= 0 and len(found) < len(wanted):
            found.update(wanted.intersection(text[start : start + length] for length in lengths))
            start = text.find(head, start + 1)
        return found

    def _pattern(self, present: tuple[str, ...]) -> re.Pattern[str] | None:
        """Return an expression that finds these tokens from left to right; None if two of them overlap."""
        if present not in self._compiled:
            if len(self._compiled) >= 64:
                self._compiled.clear()
            pattern = None if _overlap(present) else re.compile(f"({'|'.join(map(re.escape, present))})")
            self._compiled[present] = pattern
        return self._compiled[present]

    def _longest_first(
        self, text: str, present: tuple[str, ...], plain: Sequence[tuple[int, int]]
    ) -> list[str | int]:
        fragments: list[tuple[int, str | int]] = [(0, text)]  # with their places in the text
        for token in present:
            forbidden = plain if token in self._markup else ()
            cut: list[tuple[int, str | int]] = []
            for begin, fragment in fragments:
                if isinstance(fragment, int) or token not in fragment:
                    cut.append((begin, fragment))
                    continue
                done = 0
                for at in _places(fragment, token, begin, forbidden):
                    if at > done:
                        cut.append((begin + done, fragment[done:at]))
                    cut.append((begin + at, self._ids[token]))
                    done = at + len(token)
                if done < len(fragment):
                    cut.append((begin + done, fragment[done:]))
            fragments = cut
        return [fragment for _, fragment in fragments]


def _places(text: str, token: str, begin: int, plain: Sequence[tuple[int, int]]) -> Iterator[int]:
    """Yield a token's places in a fragment, from left to right, except those that overlap a plain part.

    begin: place of the fragment in the text that `plain` refers to.
    """
    at = text.find(token)
    while at >= 0:
        first = bisect_right(plain, begin + at, key=lambda part: part[1])  # the first part to end after it
        if first < len(plain) and plain[first][0] < begin + at + len(token):
            at = text.find(token, at + 1)
        else:
            yield at
            at = text.find(token, at + len(token))


def _overlap(tokens: tuple[str, ...]) -> bool:
    """Return whether the end of a token is the start of another.

    Runs of one letter don't count, because both orders cut them in the same way.
    """
    starts = {token[:length] for token in tokens for length in range(1, len(token))}
    for token in tokens:
        ends = (token[start:] for start in range(1, len(token)))
        run = len(set(token)) == 1
        for end in ends:
            if end in starts and not (run and _only_runs(end, tokens)):
                return True
    return False


def _only_runs(end: str, tokens: tuple[str, ...]) -> bool:
    """Return whether all tokens that start with this run of one letter are such runs themselves."""
    return all(len(set(token)) == 1 for token in tokens if token.startswith(end))

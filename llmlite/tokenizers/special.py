"""Special tokens in a text: found by their whole text, before anything else is encoded."""

from __future__ import annotations

import re
from collections import defaultdict

from llmlite.tokenizers.vocabulary import TokenType, Vocabulary

_KINDS = (TokenType.CONTROL, TokenType.USER_DEFINED, TokenType.UNKNOWN)
_HEAD_LENGTH = 4  # tokens with the same first letters are looked for together: <unused0> to <unused6241>
_SCANNED_FROM = 32  # so many under one head: its places in the text are looked at one by one


class SpecialTokens:
    """The control, user-defined and unknown tokens of a vocabulary.

    A text is cut at the longest tokens first, over its whole length, as llama.cpp does
    (tokenizer_st_partition). That is the same as the longest at each place, from left to right, unless the
    end of one token is the start of another; so a single expression does it if no two tokens of a
    text are like that.
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
        self._by_head: dict[str, list[str]] = defaultdict(list)
        for text, _, _ in special:
            self._by_head[text[:_HEAD_LENGTH]].append(text)
        self._compiled: dict[tuple[str, ...], re.Pattern[str] | None] = {}

    def __len__(self) -> int:
        return len(self._ids)

    def partition(self, text: str, *, hidden: bool) -> list[str | int]:
        """Cut a text at its special tokens: strings (never empty) and the special tokens' ids.

        hidden: whether control and unknown tokens are found, too.
        """
        if not text:
            return []
        present = self._present(text, hidden)
        if not present:
            return [text]
        pattern = self._pattern(present)
        if pattern is None:
            return self._longest_first(text, present)
        ids = self._ids
        return [
            ids[part] if i % 2 else part
            for i, part in enumerate(pattern.split(text))
            if part  # odd: tokens
        ]

    def _present(self, text: str, hidden: bool) -> tuple[str, ...]:
        """The special tokens that the text holds, the longest first."""
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
        """Which of many tokens with one head are in the text."""
        wanted = {token for token in tokens if hidden or token not in self._hidden}
        lengths = sorted({len(token) for token in wanted})
        found: set[str] = set()
        start = text.find(head)
        while start >= 0 and len(found) < len(wanted):
            found.update(wanted.intersection(text[start : start + length] for length in lengths))
            start = text.find(head, start + 1)
        return found

    def _pattern(self, present: tuple[str, ...]) -> re.Pattern[str] | None:
        """An expression that finds these tokens from left to right; None where that isn't longest-first."""
        if present not in self._compiled:
            if len(self._compiled) >= 64:
                self._compiled.clear()
            pattern = None if _overlap(present) else re.compile(f"({'|'.join(map(re.escape, present))})")
            self._compiled[present] = pattern
        return self._compiled[present]

    def _longest_first(self, text: str, present: tuple[str, ...]) -> list[str | int]:
        fragments: list[str | int] = [text]
        for token in present:
            cut: list[str | int] = []
            for fragment in fragments:
                if isinstance(fragment, int) or token not in fragment:
                    cut.append(fragment)
                    continue
                for i, between in enumerate(fragment.split(token)):
                    if i:
                        cut.append(self._ids[token])
                    if between:
                        cut.append(between)
            fragments = cut
        return fragments


def _overlap(tokens: tuple[str, ...]) -> bool:
    """Whether a token ends as another one starts. Runs of one letter do, but are cut alike both ways."""
    starts = {token[:length] for token in tokens for length in range(1, len(token))}
    for token in tokens:
        ends = (token[start:] for start in range(1, len(token)))
        run = len(set(token)) == 1
        for end in ends:
            if end in starts and not (run and _only_runs(end, tokens)):
                return True
    return False


def _only_runs(end: str, tokens: tuple[str, ...]) -> bool:
    """Whether all tokens that start with this run of a letter are runs themselves."""
    return all(len(set(token)) == 1 for token in tokens if token.startswith(end))

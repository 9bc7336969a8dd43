"""HTML that compares two texts, and marks the place where the second begins to differ from the first."""

from __future__ import annotations

from html import escape
from itertools import takewhile

MARK = "background:rgba(213,94,0,.28);color:inherit;border-bottom:3px solid #D55E00"


def common_words(first: str, second: str) -> int:
    """Return how many words at the beginning of two texts are the same."""
    return len(list(takewhile(lambda pair: pair[0] == pair[1], zip(first.split(), second.split()))))


def marked(text: str, reference: str) -> str:
    """Return a text as HTML, with a mark on the first word that differs from the reference.

    If the text ends where the reference goes on, the end is marked.
    """
    n = common_words(reference, text)
    words = text.split()
    if n == len(words) == len(reference.split()):
        return escape(text)
    if n == len(words):
        return f'{escape(text)} <mark style="{MARK}">(ends here)</mark>'
    before, after = " ".join(words[:n]), " ".join(words[n + 1 :])
    return f'{escape(before)} <mark style="{MARK}">{escape(words[n])}</mark> {escape(after)}'


def panel(heading: str, body: str) -> str:
    """Return HTML for a framed panel with a heading, in the page's own colours. `body` is HTML."""
    return (
        '<div style="flex:1;min-width:220px;border:1px solid currentColor;border-radius:6px;padding:8px 12px;'
        f'margin:4px;line-height:1.45"><b>{escape(heading)}</b><br>{body}</div>'
    )


def beside(*panels: str) -> str:
    """Return HTML that shows panels side by side, or under each other if the page is too narrow."""
    return f'<div style="display:flex;flex-wrap:wrap">{"".join(panels)}</div>'

"""Find the words that a lesson explains in its "**Words.**" paragraph, and link their first uses.

Links are added when the copies are made, so the sources stay plain text and no link can be forgotten.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

GLOSSARY = "glossary.ipynb"
WORDS = re.compile(r"^\*\*Words\.\*\*(?P<text>.*)\Z", re.M | re.S)
ENTRY = re.compile(r"\*(?P<word>[^*]+)\*:\s+(?P<meaning>.*?)(?=\.\s+\*[^*]+\*:\s|\.?\s*\Z)", re.S)
# text that must not get a link: code, existing links, formulas
CLOSED = re.compile(r"`[^`]*`|\[[^\]]*\]\([^)]*\)|\$[^$]*\$")
# Words that usually mean something else. They are linked only in lessons that explain them.
EVERYDAY = frozenset(
    """
    backend bit block cache claim context convert draw engine framework gain greedy head intensity
    kernel level levels loss mask mapped minimum mix mixer model offset padding plan scalar scale
    seed state tail temperature trace training verdict widget window
    """.split()
)
NO_TEXT = ("#", "    ", "|", "*About ", "*Time to here", "**Words.**", "> **Predict first.**")


def explained(notebook: Any) -> list[tuple[str, str]]:
    """Return (word, meaning) of each word that a lesson explains, in the lesson's order."""
    found = []
    for cell in notebook.cells:
        if cell.cell_type == "markdown" and (words := WORDS.search(cell.source)):
            for entry in ENTRY.finditer(words["text"].strip()):
                found.append((" ".join(entry["word"].split()), " ".join(entry["meaning"].split())))
    return found


def anchor(word: str) -> str:
    """Return the link from a lesson to a word in the glossary."""
    return f"{GLOSSARY}#{word.replace(' ', '-')}"


def link_first_uses(notebook: Any, others: Iterable[str] = ()) -> None:
    """Turn a lesson's first use of each word into a link to the glossary, in place.

    Args:
        others: words that other lessons explain; those in EVERYDAY are skipped.
    """
    words = {word for word, _ in explained(notebook)} | (set(others) - EVERYDAY)
    for word in sorted(words, key=lambda word: (-len(word), word)):  # "cache folder" before "cache"
        for cell in notebook.cells:
            if cell.cell_type != "markdown" or "instructor" in cell.metadata.get("tags", []):
                continue
            text = linked(cell.source, word)
            if text != cell.source:
                cell.source = text
                break


def linked(text: str, word: str) -> str:
    """Return Markdown with the first use of a word outside of code, if any, as a link.

    Args:
        text: the Markdown.
        word: a word, or several that share an entry ("top-k, top-p, min-p"); plurals also match.
    """
    any_of = "|".join(map(re.escape, word.split(", ")))
    whole = re.compile(rf"(?<![\w-])(?:{any_of})s?(?![\w-])", re.I)
    body = text.partition("**Words.**")[0]
    place, fenced = 0, False
    for line in body.splitlines(keepends=True):
        fenced ^= line.startswith("```")
        if not fenced and not line.startswith(NO_TEXT):
            closed = [match.span() for match in CLOSED.finditer(line)]
            for use in whole.finditer(line):
                if not any(begin <= use.start() < end for begin, end in closed):
                    begin, end = place + use.start(), place + use.end()
                    return f"{text[:begin]}[{text[begin:end]}]({anchor(word)}){text[end:]}"
        place += len(line)
    return text

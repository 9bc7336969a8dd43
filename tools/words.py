"""The words that a lesson explains, in its "**Words.**" paragraph, and links from their first uses.

The links are put in when the copies are made, so the sources stay plain text and no link can be forgotten.
"""

from __future__ import annotations

import re
from typing import Any

GLOSSARY = "glossary.ipynb"
WORDS = re.compile(r"^\*\*Words\.\*\*(?P<text>.*)\Z", re.M | re.S)
ENTRY = re.compile(r"\*(?P<word>[^*]+)\*: (?P<meaning>.*?)(?=\.\s+\*[^*]+\*: |\.?\s*\Z)", re.S)
# where no link may be: code, links that are there already, formulas
CLOSED = re.compile(r"`[^`]*`|\[[^\]]*\]\([^)]*\)|\$[^$]*\$")
NO_TEXT = ("#", "    ", "|", "*About ", "*Time to here", "**Words.**", "> **Predict first.**")


def explained(notebook: Any) -> list[tuple[str, str]]:
    """Return (word, meaning) of each word that a lesson explains, in its order."""
    found = []
    for cell in notebook.cells:
        if cell.cell_type == "markdown" and (words := WORDS.search(cell.source)):
            for entry in ENTRY.finditer(words["text"].strip()):
                found.append((" ".join(entry["word"].split()), " ".join(entry["meaning"].split())))
    return found


def anchor(word: str) -> str:
    """Return the link to a word's place in the glossary, from another lesson."""
    return f"{GLOSSARY}#{word.replace(' ', '-')}"


def link_first_uses(notebook: Any) -> None:
    """Make the first use of each word that the lesson explains a link to the glossary, in place."""
    for word, _ in sorted(
        explained(notebook), key=lambda entry: -len(entry[0])
    ):  # "cache folder", then "cache"
        for cell in notebook.cells:
            if cell.cell_type != "markdown" or "instructor" in cell.metadata.get("tags", []):
                continue
            text = linked(cell.source, word)
            if text != cell.source:
                cell.source = text
                break


def linked(text: str, word: str) -> str:
    """Return Markdown with its first use of a word as a link; unchanged if there is none outside of code."""
    whole = re.compile(rf"(?<![\w-]){re.escape(word)}(?![\w-])", re.I)
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

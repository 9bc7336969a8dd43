"""Make one page of all words that the lessons explain, from their "**Words.**" paragraphs.

    python tools/glossary.py                 write notebooks/glossary.ipynb
    python tools/glossary.py --first-uses    list where each lesson first uses each word, for links

The page has a heading for each word, so that the link `glossary.ipynb#WORD` works.
"""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path
from typing import Any

import nbformat

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tools.lesson_sources import METADATA, NOTEBOOKS, copy_name, load, sources
from tools.words import GLOSSARY, anchor, explained

PAGE = NOTEBOOKS / GLOSSARY


def entries() -> dict[str, list[tuple[str, str]]]:
    """Return word -> [(lesson, meaning)] for every lesson that explains the word, in alphabetical order."""
    found: dict[str, list[tuple[str, str]]] = {}
    for source in sources():
        for word, meaning in explained(load(source)):
            found.setdefault(word, []).append((copy_name(source), meaning))
    return dict(sorted(found.items(), key=lambda item: item[0].casefold()))


def page(found: dict[str, list[tuple[str, str]]]) -> Any:
    """Return the notebook: a title, then for each word a heading and its meanings."""
    texts = ["# Glossary\n\n*The words that the lessons explain, each with the lesson that does.*"]
    for word, meanings in found.items():
        said = [
            f"{text[:1].upper()}{text[1:]}. ([lesson {name.partition('_')[0]}]({name}.ipynb))"
            for name, text in meanings
        ]
        texts.append(f"## {word}\n\n" + "\n\n".join(dict.fromkeys(said)))
    notebook = nbformat.v4.new_notebook(metadata=nbformat.from_dict(METADATA))
    notebook.cells = [
        nbformat.v4.new_markdown_cell(text, id=f"glossary-{i:03}") for i, text in enumerate(texts)
    ]
    return notebook


def first_uses(source: Path, words: list[str]) -> list[tuple[str, int, str]]:
    """Return (word, cell, line) of each word's first use in a lesson, without code and headings."""
    uses = {}
    for number, cell in enumerate(load(source).cells):
        if cell.cell_type != "markdown":
            continue
        for line in cell.source.split("\n"):
            if line.startswith(("#", "**Words.**")):
                continue
            for word in words:
                if word not in uses and re.search(rf"\b{re.escape(word)}\b", line, re.I):
                    uses[word] = (word, number, line.strip())
    return list(uses.values())


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--first-uses", action="store_true", help="list first uses, write nothing")
    options = parser.parse_args()
    found = entries()
    if not options.first_uses:
        nbformat.write(page(found), PAGE)
        print(f"{PAGE.name}: {len(found)} words")
        return 0
    for source in sources():
        for word, cell, line in first_uses(source, list(found)):
            print(f"{source.name}, cell {cell}: [{word}]({anchor(word)}): {line}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

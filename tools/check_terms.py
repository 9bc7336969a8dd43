"""Find phrases that must be read twice, and suggest better ones: `python tools/check_terms.py`.

It reads README, docs, the lessons, and all text in the rooms of ROOMS, in benchmarks/ and in tools/:
docstrings, comments, help and errors. Each rule is a pattern and a suggestion. Lines with the comment "terms:
ok" are skipped. The exit code is 1 if a phrase is found.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
ROOMS = (
    "bench catalog chat cli description downloads engine generate grammar gguf huggingface lessons plots"
    " quantize quants repl sampling serve system tokenizers widgets workshop"
).split()
READ = (
    "*.md",
    "docs/*.md",
    "docs/measurements/*.md",
    "llmlite/*.py",
    *(f"llmlite/{room}/**/*.py" for room in ROOMS),
    "benchmarks/*.py",
    "benchmarks/*.sh",
    "tools/*.py",
    "notebooks/*.md",
    "notebooks/source/*.py",
)
RULES = {
    r"\bfor who\b": "for people who; for readers who",
    r"\bwhoever\b": "anyone who; name them",
    r"\b(say|says|said) what to (do|install) where\b": "… if something is missing",
    r"\bwhere something (is|lacks)\b": "if something is …",
    r"\bcompiled for minutes\b": "takes minutes to compile",
    r"\b(comes|come) along\b": "is included",
    r"\bread over\b": "ignored",
    r"\bthe way round\b": "Use … to avoid this",
    r"\bsecond second\b": "after one second",
    r"\bhow many megabytes has\b": "how many megabytes does … take",
    r"(?<!there )\bis no (size|path|number|file|folder)\b": "is not a valid …",
    r"\bfound not\b(?! in\b)": "did not find",
    r"\bonly so many\b": "at most this many",
    r"\b(stands|stand) (in|on|there|beside|behind)\b": "is in; is stored; is written",
    r"\bbehind (each|every) (step|block|token)\b": "after",
    r"\b(can|could) be had\b": "is available",
    r"\bto be had\b": "available",
    r"\bwhile anybody\b": "while anything",
    r"\bhas no place there\b": "has no position there",
    r"\bgive back nothing\b": "return nothing",
    r"\bin words, for\b": "a description for",
    r"\bmade for later\b": "cached",
    r"\bmeanwhiles?\b(?= that)": "while",
    r"\b(None|False|True|empty|nothing) where\b": "None if; where is for places",
    r"\bwhere (it is|that is|that isn't|that can't be) (possible|absent|missing|done|installed)\b": "if …",
    r"(?<!there )\b(is|are|it's) no (message|model|number|text|token|JSON|JSON number|lesson|multiple|gguf"
    r"|list|choice|variable|tolerance|saved conversation|byte-level|controls|such file)\b": "is not a …",
    r"\bbehind (position|the (step|scored|end of)|nothing|its bar|one the other)\b": "after; beyond",
    r"\bone behind the other\b": "one after the other",
    r"\bof so many\b": "of `n`; name the number",
    r"\b(at most|wait|take) so long\b": "at most `seconds`; name the limit",
    r"\b(rendering|request|answer|process|sequence)s? (is|are) ended\b": "is stopped",
    r"\bnothing of it\b": "nothing",
    r", for one,|, for one\)": "for example",
    r"\bdo(es)? without\.": "say what is missing then",
    r"\bsaid to be so\b": "is reported as …",
    r"\bdidn't come to an end\b": "didn't finish",
    r"\bwithout a hole\b": "without gaps",
    r"\bheld likely\b": "considered likely",
    r"\bfor later:": "cached",
    r"\bset as it comes\b": "formatted as it arrives",
    r"\bthe least of (some|many|all|\d+|four|five|six)\b": "the minimum of",
    r"\breads? prompts? [\d.]+": "prefill … times as fast",
    r"\bwrites [\d.]+ (to|times)": "decode … times as fast",
    r"(?<!of )\bso many (tokens|runs|times)\b": "name the number",
    r"\b(time was over|(time|seconds|s) were gone)\b": "time ran out; had passed",
    r"\bfor want of\b": "because … is missing",
    r"\bof what there is\b": "of the results so far",
    r"\bfor certain\b": "certainly",
    r"\b(figure|result)s? (is|are) theirs\b": "comes from; comes from them",
    r"\b(isn't|aren't) told\b": "isn't reported",
}


def findings(path: Path, text: str) -> Iterator[str]:
    """Yield a line of output for each phrase in a text that a rule finds."""
    for number, line in enumerate(text.splitlines(), 1):
        if "terms: ok" in line:
            continue
        for pattern, better in RULES.items():
            for match in re.finditer(pattern, line, re.IGNORECASE):
                yield f"{path}:{number}: {match[0]!r}; better: {better}"


def main() -> int:
    found = []
    for pattern in READ:
        for path in sorted(ROOT.glob(pattern)):
            if path == Path(__file__).resolve():
                continue
            found += findings(path.relative_to(ROOT), path.read_text(encoding="utf-8"))
    print("\n".join(found) if found else f"{len(RULES)} phrases, none found")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())

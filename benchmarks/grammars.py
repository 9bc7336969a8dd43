"""Measure the time that a grammar adds to each token, compared with the same model without a grammar.

    python benchmarks/grammars.py tales:Q8_0
    python benchmarks/grammars.py smollm2.gguf                      # --tokens 64 --rounds 5 --threads 2

A round writes a text without a grammar and two texts with each grammar, in turns. A time is the mean over a
text's tokens after the first, in the best round. The extra time over the text without a grammar is printed
next to it. "first text" is the first text of a new Grammar object, which computes its states and masks on the
way. "later texts" reuse the object, as in a loop.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import time
from typing import Any

import llmlite as ll
from llmlite.grammar import Grammar

PROMPT = "Once upon a time there was a fox. She"
PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 40},
        "age": {"type": "integer", "minimum": 0, "maximum": 120},
        "kind": {"enum": ["fox", "bear", "bird"]},
        "tags": {"type": "array", "items": {"type": "string", "maxLength": 20}, "minItems": 3},
    },
    "required": ["name", "age", "kind", "tags"],
}
PEOPLE = {"type": "array", "items": PERSON, "minItems": 9}
GRAMMARS = {
    "JSON, one object": lambda: Grammar.from_json_schema(PERSON),
    "JSON, a list of objects": lambda: Grammar.from_json_schema(PEOPLE),
    "a pattern": lambda: Grammar.from_regex(r"([A-Z][a-z]{1,9} ){40,60}"),
    "GBNF, lines of text": lambda: Grammar('root ::= line{9,}\nline ::= "- " [^\\n]{20,60} "\\n"'),
}  # fmt: skip


def seconds_of_tokens(model: Any, n_tokens: int, seed: int, grammar: Grammar | None) -> list[float]:
    """Return the seconds of each token of a text after the first."""
    generation = model.stream(PROMPT, max_tokens=n_tokens, seed=seed, grammar=grammar)
    ends = []
    while generation.stop_reason is None:
        generation._timed(generation._advance)
        ends.append(time.perf_counter())
    return [after - before for before, after in itertools.pairwise(ends)]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model")
    parser.add_argument("--tokens", type=int, default=64, help="of each text (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    model = ll.load(options.model, n_ctx=512, n_threads=options.threads, executor="planned")
    seconds_of_tokens(model, 8, 0, None)
    kept = {name: make() for name, make in GRAMMARS.items()}
    for grammar in kept.values():
        seconds_of_tokens(model, options.tokens, 0, grammar)
    best: dict[tuple[str, str], float] = {}

    def note(name: str, what: str, found: list[float]) -> None:
        if len(found) > 8:  # otherwise the text ended too soon
            best[name, what] = min(best.get((name, what), 1e9), statistics.mean(found))

    for i in range(options.rounds):
        note("none", "later", seconds_of_tokens(model, options.tokens, i + 1, None))
        for name, grammar in kept.items():
            start = time.perf_counter()
            new = GRAMMARS[name]()
            made = time.perf_counter() - start
            best[name, "made"] = min(best.get((name, "made"), 1e9), made)
            note(name, "first", seconds_of_tokens(model, options.tokens, i + 1, new))
            note(name, "later", seconds_of_tokens(model, options.tokens, i + 1, grammar))
    plain = best["none", "later"]
    print(f"{'grammar':26} made in   first text         later texts")
    print(f"{'none':26} {'':28} {plain * 1e3:6.2f} ms {1 / plain:5.0f}/s")
    for name in kept:
        first, later = best[name, "first"], best[name, "later"]
        print(
            f"{name:26} {best[name, 'made'] * 1e3:4.1f} ms  {first * 1e3:6.2f} ms {first / plain - 1:6.1%}  "
            f"{later * 1e3:6.2f} ms {1 / later:5.0f}/s {later / plain - 1:6.1%}"
        )


if __name__ == "__main__":
    main()

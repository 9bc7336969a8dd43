"""Measure what a grammar costs each token, beside the same model writing freely.

    python benchmarks/grammars.py tales:Q8_0
    python benchmarks/grammars.py smollm2.gguf                      # --tokens 64 --rounds 5 --threads 2

A round writes a text without a grammar and one under each grammar, in turns. "ms" is the mean time of a token
after the first, of the best round. "first text" is the first one under a grammar, whose states and masks are
found out on the way; "cost" is of those that follow, with the same Grammar object, as in a loop.
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
    """The times of a text's tokens after the first."""
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
    grammars, made, first = {}, {}, {}
    for name, make in GRAMMARS.items():
        start = time.perf_counter()
        grammars[name] = make()
        made[name] = time.perf_counter() - start
        first[name] = statistics.mean(seconds_of_tokens(model, options.tokens, 0, grammars[name]))
    best: dict[str, float] = {}
    for i in range(options.rounds):
        for name, grammar in (("none", None), *grammars.items()):
            found = seconds_of_tokens(model, options.tokens, i + 1, grammar)
            if len(found) > 8:  # else the text ended too soon
                best[name] = min(best.get(name, 1e9), statistics.mean(found))
    plain = best.pop("none")
    print(f"{'grammar':26} made in   first text       ms  tokens/s    cost")
    print(f"{'none':26} {'':9} {'':10} {plain * 1e3:8.2f} {1 / plain:9.0f}")
    for name, seconds in best.items():
        print(
            f"{name:26} {made[name] * 1e3:6.1f} ms {first[name] * 1e3:10.2f} {seconds * 1e3:8.2f} "
            f"{1 / seconds:9.0f} {seconds / plain - 1:7.0%}"
        )


if __name__ == "__main__":
    main()

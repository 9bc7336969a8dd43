"""Measure tokenizers: seconds until a vocabulary is ready, and megabytes per second by kind of text.

    python benchmarks/tokenizers.py VOCABULARY.gguf …        a table in Markdown, one row per file
    python benchmarks/tokenizers.py --megabytes 0.25 …       less text, for a first look

"Ready" is the time of `from_metadata` and the first `encode` of a short text in English and Chinese; the
metadata is already in memory. Each speed is that of a new tokenizer, whose cache of words is empty, over one
text of the given size in UTF-8. All times are CPU seconds of this process, the fastest of `--rounds`.

The texts need no data. English is the project's own prose, and code is its own source. German and Chinese are
drawn from made-up words with the frequencies of Zipf's law, so that words repeat as in a language. Two more
texts are a single word each: random letters, and one repeated letter.
"""

from __future__ import annotations

import argparse
import random
import time
import warnings
from itertools import accumulate
from pathlib import Path

from llmlite import gguf, tokenizers

ROOT = Path(__file__).resolve().parent.parent
KINDS = ("English", "German", "Chinese", "code", "random letters", "one letter")
SHORT = "The first words, 你好，世界: x = 1\n"


def sample(kind: str, n_bytes: int) -> str:
    """Return a text of one kind, cut to `n_bytes` bytes of UTF-8."""
    draw = random.Random(kind)
    if kind == "English":
        paths = [
            *sorted(ROOT.glob("data/*.txt")),
            *sorted(ROOT.glob("docs/*.md")),
            *sorted(ROOT.glob("*.md")),
        ]
        text = "\n".join(path.read_text(encoding="utf-8") for path in paths)
    elif kind == "code":
        text = "\n".join(path.read_text(encoding="utf-8") for path in sorted(ROOT.rglob("llmlite/**/*.py")))
    elif kind == "German":
        text = _german(draw, n_bytes)
    elif kind == "Chinese":
        text = _chinese(draw, n_bytes)
    elif kind == "random letters":
        text = "".join(draw.choices("abcdefghijklmnopqrstuvwxyz", k=n_bytes))
    else:
        text = "a" * n_bytes
    encoded = text.encode()
    encoded *= -(-n_bytes // len(encoded))
    return encoded[:n_bytes].decode("utf-8", "ignore")


def _zipf(draw: random.Random, words: list[str], n_words: int) -> list[str]:
    weights = list(accumulate(1 / rank for rank in range(3, len(words) + 3)))
    return draw.choices(words, cum_weights=weights, k=n_words)


def _german(draw: random.Random, n_bytes: int) -> str:
    syllables = (
        "der die und in den von zu mit sich auf für ist im dem nicht ein eine als auch es an wer aus er hat "
        "ver ge be ent ung heit keit lich schaft bar sam über unter vor nach stell führ arbeit haus straß "
        "fräu wört bäck schlüs sel zeug maß größ brück fähr"
    ).split()
    words = ["".join(draw.choices(syllables, k=min(5, 1 + rank // 40))) for rank in range(200)]
    words += ["".join(draw.choices(syllables, k=draw.randint(2, 5))) for _ in range(30_000)]
    words = [word.capitalize() if draw.random() < 0.3 else word for word in words]
    chosen = _zipf(draw, words, n_bytes // 6)
    return " ".join(word + draw.choices(("", ",", ".\n"), (12, 1, 1))[0] for word in chosen)


def _chinese(draw: random.Random, n_bytes: int) -> str:
    common = [bytes((high, low)) for high in range(0xB0, 0xD7) for low in range(0xA1, 0xFE)]
    characters = [code.decode("gb2312") for code in common]  # the 3,600 most frequent characters
    draw.shuffle(characters)
    letters = _zipf(draw, characters, 60_000)
    words = ["".join(letters[i : i + draw.choice((1, 2, 2, 2, 3))]) for i in range(0, 60_000, 2)]
    chosen = _zipf(draw, words, n_bytes // 4)
    return "".join(word + draw.choices(("", "，", "。\n"), (9, 1, 0.5))[0] for word in chosen)


def seconds_until_ready(metadata: dict[str, object], rounds: int) -> float:
    """Return the CPU seconds of from_metadata and of encoding one short text."""
    best = float("inf")
    for _ in range(rounds):
        start = time.process_time()
        tokenizers.from_metadata(metadata).encode(SHORT)
        best = min(best, time.process_time() - start)
    return best


def megabytes_per_second(metadata: dict[str, object], text: str, rounds: int) -> float:
    """Return the speed of a new tokenizer over a text that it sees for the first time."""
    best = float("inf")
    for _ in range(rounds):
        tokenizer = tokenizers.from_metadata(metadata)
        tokenizer.encode(SHORT)
        start = time.process_time()
        tokenizer.encode(text)
        best = min(best, time.process_time() - start)
    return len(text.encode()) / 1e6 / best


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("files", nargs="+", metavar="FILE", help="GGUF files with a tokenizer")
    parser.add_argument("--megabytes", type=float, default=1.0, help="size of each text (default: 1)")
    parser.add_argument(
        "--rounds", type=int, default=3, help="number of runs; the fastest counts (default: 3)"
    )
    options = parser.parse_args()
    warnings.simplefilter("ignore")  # gaps in a vocabulary don't matter for speed
    texts = {kind: sample(kind, int(options.megabytes * 1e6)) for kind in KINDS}
    print(f"| vocabulary | tokens | ready, s | {' | '.join(f'{kind}, MB/s' for kind in KINDS)} |")
    print("|---" * (len(KINDS) + 3) + "|")
    for path in options.files:
        # read it first: the time of reading the file's strings isn't the tokenizer's
        found = gguf.read(path).metadata
        metadata = {key: found[key] for key in found if key.startswith("tokenizer.")}
        metadata = {
            key: list(value) if key.endswith(("tokens", "merges")) else value
            for key, value in metadata.items()
        }
        ready = seconds_until_ready(metadata, options.rounds)
        speeds = [megabytes_per_second(metadata, text, options.rounds) for text in texts.values()]
        n_tokens = len(metadata["tokenizer.ggml.tokens"])
        name = Path(path).stem.removeprefix("ggml-vocab-")
        print(
            f"| {name} | {n_tokens:,} | {ready:.2f} | {' | '.join(f'{s:.2f}' for s in speeds)} |", flush=True
        )


if __name__ == "__main__":
    main()

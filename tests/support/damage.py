"""Damage the JSON of a model folder at random."""

from __future__ import annotations

import copy
import random
from collections.abc import Iterator
from typing import Any

JUNK: tuple[Any, ...] = (
    *(None, True, False, 0, 1, -1, 2**31, 2**63, 10**40, 1.5, 1e308, float("nan"), float("inf")),
    *("", "a", "▁", "\ud800", "\0", "x" * 100_000),
    *([], [1], ["a"], [[]], [{}], {}, {"a": 1}, {"content": []}),
    *({"type": kind} for kind in ("Sequence", "Metaspace", "ByteLevel", "Split", "TemplateProcessing", [])),
)
BOS = {"SpecialToken": {"id": "<|endoftext|>"}}
MORE: dict[str, Any] = {  # values that a plain folder lacks, to damage them too
    "config.json": {
        "rope_scaling": {
            "type": "llama3",
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 64,
        },
        "sliding_window": 64,
        "eos_token_id": [1, 2],
    },
    "tokenizer.json": {
        "normalizer": {
            "type": "Sequence",
            "normalizers": [
                {"type": "Prepend", "prepend": "▁"},
                {"type": "Replace", "pattern": {"String": " "}, "content": "▁"},
            ],
        },
        "post_processor": {"type": "TemplateProcessing", "single": [BOS, {"Sequence": {"id": "A"}}]},
    },
    "tokenizer_config.json": {"chat_template": [{"name": "default", "template": "x"}]},
    "model.safetensors.index.json": {},
}


def paths(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the path of every value in a JSON value; of long tables, only of the first 40."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for _, (key, inner) in zip(range(40), items):
        yield (*path, key)
        yield from paths(inner, (*path, key))


def damaged(value: Any, chance: random.Random) -> Any:
    """Return a copy with one to three values replaced or removed."""
    value = copy.deepcopy(value)
    for _ in range(chance.choice((1, 1, 2, 3))):
        *keys, last = chance.choice([*paths(value)] or [()]) or [None]
        inner = value
        for key in keys:
            inner = inner[key]
        if last is None or chance.random() < 0.2:
            inner.pop(last) if last is not None else None
        else:
            inner[last] = copy.deepcopy(chance.choice(JUNK))
    return value


def damaged_bytes(data: bytes, chance: random.Random) -> bytes:
    """Return the data with a few bytes of the header changed, and sometimes with the end cut off."""
    changed = bytearray(data)
    n_header = 8 + int.from_bytes(data[:8], "little")
    for _ in range(chance.choice((1, 2, 5))):
        changed[chance.randrange(n_header)] = chance.choice((*b'09-,[{"', chance.randrange(256)))
    return bytes(changed[: chance.randrange(len(data))] if chance.random() < 0.2 else changed)

"""Throw damaged tokenizer.json, and the files beside it, at the converter: it converts or refuses.

What is converted must make a tokenizer that gives a text back, or is refused as one.

    python tests/fuzz/fuzz_tokenizer_json.py --inputs 100000 --seed 1
"""

from __future__ import annotations

import json
import random
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.fuzz import fuzzing
from tests.fuzz.fuzz_gguf import mutated
from tests.support.huggingface_folders import tokenizer_of
from tests.support.tiny_models import CHATML, tiny_model

N_VOCAB = 300
TEXT = "The fox isn't 1234\n\n  here <|im_end|> 🦊 é"


def seeds() -> list[dict[str, Any]]:
    """The files of good folders, by name: byte-level and SentencePiece's."""
    from tests.support.damage import MORE

    plain = tokenizer_of(tiny_model())
    short = {"vocab": {chr(97 + i): i for i in range(26)} | {"▁": 26, "ab": 27, "<unk>": 28, "<0x0A>": 29},
             "merges": ["a b"], "type": "BPE"}  # fmt: skip
    pieces = {**plain, "model": short | {"byte_fallback": True, "unk_token": "<unk>"}, "pre_tokenizer": None}
    pieces |= {"normalizer": MORE["tokenizer.json"]["normalizer"], "added_tokens": []}
    settings = {"bos_token": "<|endoftext|>", "eos_token": {"content": "<|im_end|>"}, "chat_template": CHATML}
    config = {"eos_token_id": [256, 257], "bos_token_id": 256}
    return [
        {"tokenizer.json": tokenizer, "tokenizer_config.json": beside, "config.json": config,
         "generation_config.json": {"eos_token_id": [265, 266, 3, 4, 5]}}
        for tokenizer in (plain, plain | {"post_processor": MORE["tokenizer.json"]["post_processor"]}, pieces)
        for beside in (settings, MORE["tokenizer_config.json"])
    ]  # fmt: skip


def inputs(n: int, seed: int) -> Iterator[bytes]:
    """n folders as one JSON object each, a value here or there replaced; some with damaged bytes."""
    from tests.support.damage import damaged

    dice, good = random.Random(seed), seeds()
    for _ in range(n):
        files = dict(dice.choice(good))
        name = dice.choice(["tokenizer.json"] * 4 + [*files])
        files[name] = damaged(files[name], dice)
        data = json.dumps(files).encode()
        yield data if dice.random() < 0.9 else mutated(data, [data], dice)


def check(data: bytes, folder: Path) -> str:
    """Convert a folder's tokenizer, make it, and use it."""
    from llmlite import tokenizers
    from llmlite.errors import GGUFError
    from llmlite.gguf import Typed
    from llmlite.huggingface.vocabulary import tokenizer_metadata

    try:
        files = json.loads(data)
        whole = isinstance(files, dict) and "tokenizer.json" in files
    except (ValueError, RecursionError):
        whole = False
    if not whole:
        files = {"tokenizer.json": data}
    for name in ("tokenizer_config.json", "generation_config.json"):
        (folder / name).unlink(missing_ok=True)
    for name in ("tokenizer.json", "tokenizer_config.json", "generation_config.json"):
        if name in files:
            value = files[name]
            raw = value if isinstance(value, bytes) else json.dumps(value).encode()
            (folder / name).write_bytes(raw)
    config = files.get("config.json")

    def act() -> str | None:
        if not isinstance(config, dict):  # convert_folder reads it first and refuses it
            raise GGUFError("config.json", "JSON", None, "an object", "none")
        found = tokenizer_metadata(str(folder), config, N_VOCAB)
        plain = {key: value.value if isinstance(value, Typed) else value for key, value in found.items()}
        tokenizer = tokenizers.from_metadata(plain)
        ids = tokenizer.encode(TEXT)
        assert all(0 <= token < tokenizer.n_vocab for token in ids)
        assert all(0 <= token < tokenizer.n_vocab for token in tokenizer.eog_ids)
        tokenizer.decode(ids)
        return "read"

    return fuzzing.outcome(act)


if __name__ == "__main__":
    fuzzing.main(__doc__, inputs, check)

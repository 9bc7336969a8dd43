"""The files of a folder that describe its tokenizer."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from typing import Any, NoReturn

from llmlite.errors import TokenizerError, UnsupportedError
from llmlite.huggingface.safetensors import read_json, shown

# One of these holds the vocabulary; the first that exists is read.
FILES = ("tokenizer.json", "tekken.json", "tokenizer.model", "vocab.txt")


class TokenizerFiles:
    """The tokenizer of a folder.

    Attributes:
        name, path: the file that holds the vocabulary, the first of `FILES` that exists.
        tokenizer: its content, if it is JSON.
        settings: what tokenizer_config.json and special_tokens_map.json say.
        generation: what generation_config.json says.
        config: the content of config.json.

    Raises:
        GGUFError: a file isn't JSON. UnsupportedError: none of `FILES` is there. OSError.
    """

    def __init__(self, folder: str, config: dict[str, Any]) -> None:
        self.folder = folder
        names = [name for name in FILES if os.path.exists(os.path.join(folder, name))]
        if not names:
            raise UnsupportedError(
                f"{folder}: has no {', '.join(FILES[:-1])} or {FILES[-1]}; "
                "transformers' save_pretrained writes a tokenizer.json if it can"
            )
        self.name = names[0]
        self.path = os.path.join(folder, self.name)
        self.tokenizer = read_json(self.path) if self.name.endswith(".json") else {}
        self.settings = self.optional("special_tokens_map.json") | self.optional("tokenizer_config.json")
        self.generation = self.optional("generation_config.json")
        self.config = config

    def optional(self, name: str) -> dict[str, Any]:
        """A JSON file of the folder without its nulls; empty if there is none."""
        path = os.path.join(self.folder, name)
        found = read_json(path) if os.path.exists(path) else {}
        return {key: value for key, value in found.items() if value is not None}

    def fail(self, what: str, expected: str, got: object) -> NoReturn:
        """Raise a TokenizerError about this file."""
        raise TokenizerError(f"{self.path}: {what}: expected {expected}, got {shown(got)}")

    def refuse(self, what: str) -> NoReturn:
        """Raise an UnsupportedError about this file."""
        raise UnsupportedError(f"{self.path}: {what}")

    def part(self, name: str) -> dict[str, Any]:
        """One of tokenizer.json's objects; empty if it is absent or null."""
        value = self.tokenizer.get(name)
        if not isinstance(value, dict | None):
            self.fail(name, "an object", value)
        return value or {}

    def warn(self, what: str) -> None:
        """Warn of what a GGUF file can't say."""
        warnings.warn(f"{self.path}: {what}", stacklevel=5)


def flat(part: dict[str, Any], key: str) -> Iterator[dict[str, Any]]:
    """The parts of a Sequence in order; anything else is its own only part."""
    if part.get("type") != "Sequence":
        if part:
            yield part
        return
    parts = part.get(key)
    for inner in parts if isinstance(parts, list) else [parts]:
        if isinstance(inner, dict) and inner.get("type") != "Sequence":
            yield inner
        else:
            yield {"type": f"Sequence of {shown(inner)}"}  # no reader knows this: it is refused by name

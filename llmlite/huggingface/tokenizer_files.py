"""The files of a folder that describe its tokenizer."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from typing import Any, NoReturn

from llmlite.errors import TokenizerError, UnsupportedError
from llmlite.huggingface.safetensors import read_json, shown

# One of these has the vocabulary; the first that exists is read.
FILES = ("tokenizer.json", "tekken.json", "tokenizer.model", "vocab.txt")


class TokenizerFiles:
    """The files of a folder's tokenizer.

    Args:
        folder: path of the folder.
        config: the content of config.json.

    Attributes:
        name, path: the file with the vocabulary, the first of `FILES` that exists.
        tokenizer: its content, if it is JSON.
        settings: the content of special_tokens_map.json and tokenizer_config.json.
        generation: the content of generation_config.json.

    Raises:
        GGUFError: a file isn't JSON.
        UnsupportedError: none of `FILES` exists.
        OSError: a file can't be read.
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
        """Return the content of a JSON file without its nulls; empty if the file doesn't exist."""
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
        """Return one of tokenizer.json's objects; empty if it is absent or null."""
        value = self.tokenizer.get(name)
        if not isinstance(value, dict | None):
            self.fail(name, "an object", value)
        return value or {}

    def warn(self, what: str) -> None:
        """Warn of a property that a GGUF file can't express."""
        warnings.warn(f"{self.path}: {what}", stacklevel=5)


def flat(part: dict[str, Any], key: str) -> Iterator[dict[str, Any]]:
    """Yield the parts of a Sequence in order, or the only part if it isn't a Sequence."""
    if part.get("type") != "Sequence":
        if part:
            yield part
        return
    parts = part.get(key)
    for inner in parts if isinstance(parts, list) else [parts]:
        if isinstance(inner, dict) and inner.get("type") != "Sequence":
            yield inner
        else:
            yield {"type": f"Sequence of {shown(inner)}"}  # an unknown type, so callers refuse it

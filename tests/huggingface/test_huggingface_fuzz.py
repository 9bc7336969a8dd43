"""Folders with anything in their JSON, or with bytes changed: converted, or refused in one sentence."""

from __future__ import annotations

import json
import random
import warnings
from pathlib import Path

import pytest

from llmlite.errors import LlmliteError
from llmlite.huggingface import convert_folder
from tests.support.damage import MORE, damaged, damaged_bytes
from tests.support.huggingface_folders import write_folder
from tests.support.tiny_models import tiny_model


def try_inputs(tmp_path: Path, n_inputs: int, seed: int) -> int:
    """Convert damaged folders; return how many were converted. Any other exception goes through."""
    chance = random.Random(seed)
    folder = write_folder(tmp_path / "model", tiny_model(n_layer=1, n_ff=64), n_shards=2)
    whole = {path: path.read_bytes() for path in folder.iterdir()}
    converted = 0
    for _ in range(n_inputs):
        path = chance.choice(sorted(whole))
        if path.suffix == ".safetensors":
            path.write_bytes(damaged_bytes(whole[path], chance))
        else:
            value = json.loads(whole[path]) | (MORE[path.name] if chance.random() < 0.6 else {})
            if path.name == "tokenizer.json" and chance.random() < 0.4:
                value["model"]["byte_fallback"], value["pre_tokenizer"] = True, None
            path.write_text(json.dumps(damaged(value, chance)), encoding="utf-8")
        try:
            convert_folder(folder, tmp_path / "out.gguf", file_type=chance.choice((None, "F16", "Q8_0")))
            converted += 1
        except LlmliteError as error:
            assert "\n" not in str(error) and len(str(error)) < 2000
        path.write_bytes(whole[path])
    assert not [path for path in tmp_path.iterdir() if path.name not in ("model", "out.gguf")]
    return converted


@pytest.mark.parametrize(
    ("n_inputs", "seed"), [(150, 0), pytest.param(3_000, 1, marks=pytest.mark.slow)], ids=["few", "many"]
)
def test_damaged_folders_are_converted_or_refused(tmp_path: Path, n_inputs: int, seed: int) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        converted = try_inputs(tmp_path, n_inputs, seed)
    print(f"{n_inputs} inputs, {converted} converted")
    assert 0 < converted < n_inputs

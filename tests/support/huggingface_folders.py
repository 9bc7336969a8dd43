"""Write a tiny model byte by byte as a Hugging Face folder."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from llmlite.description.architectures import ARCHITECTURES
from tests.support.tiny_models import CHATML, SPECIALS, TinyModel, vocabulary

QWEN2_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
TEXTS = (
    "Hello, world! It's 12345 o'clock.",
    "  two spaces,\n\n\tnewlines and a tab   ",
    "<|im_start|>user\nThe fox isn't here<|im_end|>\n",
    "Grüße an 東京 und Привет, 🦊 und é ñ",
    "x = [i ** 2 for i in range(10)]  # squares",
    "",
    " ",
    "the",
)
DTYPES = {"<f4": "F32", "<f2": "F16", "<f8": "F64", "<i4": "I32", "|u1": "U8"}


def safetensors(arrays: dict[str, np.ndarray], *, dtypes: dict[str, str] | None = None) -> bytes:
    """Return the bytes of a safetensors file.

    Args:
        arrays: the arrays by name.
        dtypes: dtype names that replace those of the arrays, such as BF16 for uint16.
    """
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    data = b""
    for name, array in arrays.items():
        raw = np.ascontiguousarray(array).tobytes()
        dtype = (dtypes or {}).get(name) or DTYPES[array.dtype.str]
        offsets = [len(data), len(data) + len(raw)]
        header[name] = {"dtype": dtype, "shape": list(array.shape), "data_offsets": offsets}
        data += raw
    return packed(header, data)


def packed(header: Any, data: bytes = b"") -> bytes:
    """Return the length of the header, the header and the data as bytes."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def write_folder(folder: Path, model: TinyModel, *, n_shards: int = 1) -> Path:
    """Write a tiny model as a Hugging Face folder, the reverse of conversion."""
    folder.mkdir()
    arrays = their_arrays(model)
    if n_shards == 1:
        (folder / "model.safetensors").write_bytes(safetensors(arrays))
    else:
        files = [f"model-{i + 1:05d}-of-{n_shards:05d}.safetensors" for i in range(n_shards)]
        places = {name: files[i % n_shards] for i, name in enumerate(arrays)}
        for file in set(places.values()):
            part = {name: array for name, array in arrays.items() if places[name] == file}
            (folder / file).write_bytes(safetensors(part))
        write_json(folder / "model.safetensors.index.json", {"metadata": {}, "weight_map": places})
    write_json(folder / "config.json", config_of(model))
    write_json(folder / "tokenizer.json", tokenizer_of(model))
    write_json(
        folder / "tokenizer_config.json",
        {"bos_token": "<|endoftext|>", "eos_token": {"content": "<|im_end|>"}, "chat_template": CHATML},
    )
    return folder


def write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value), encoding="utf-8")


def their_arrays(model: TinyModel) -> dict[str, np.ndarray]:
    """Return the arrays under Hugging Face's names, with the rows of Q and K in its order."""
    architecture = model.metadata["general.architecture"]
    heads = {
        "attn_q": model.metadata[f"{architecture}.attention.head_count"],
        "attn_k": model.metadata[f"{architecture}.attention.head_count_kv"],
    }
    names = ARCHITECTURES[architecture].names
    found = {}
    for name, array in model.arrays.items():
        stem = name.split(".")[-2]
        if stem in heads and ARCHITECTURES[architecture].rope_pairs == "norm":
            rows = array.reshape(heads[stem], -1, 2, *array.shape[1:])  # (H, Dh/2, 2, ...)
            array = np.concatenate([rows[:, :, 0], rows[:, :, 1]], axis=1).reshape(array.shape)
        found[names.old(name)] = array
    return found


def config_of(model: TinyModel) -> dict[str, Any]:
    architecture = model.metadata["general.architecture"]
    get = {key.partition(".")[2]: value for key, value in model.metadata.items()}
    return {
        "architectures": [ARCHITECTURES[architecture].classes[0]],
        "model_type": architecture,
        "hidden_act": "silu",
        "hidden_size": get["embedding_length"],
        "intermediate_size": get["feed_forward_length"],
        "num_hidden_layers": get["block_count"],
        "num_attention_heads": get["attention.head_count"],
        "num_key_value_heads": get["attention.head_count_kv"],
        "max_position_embeddings": get["context_length"],
        "rms_norm_eps": get["attention.layer_norm_rms_epsilon"],
        "rope_theta": get["rope.freq_base"],
        "tie_word_embeddings": "output.weight" not in model.arrays,
        "vocab_size": len(model.arrays["token_embd.weight"]),
    }


def tokenizer_of(model: TinyModel) -> dict[str, Any]:
    tokens, merges = vocabulary()
    return {
        "added_tokens": [
            {"id": tokens.index(text), "content": text, "special": True, "lstrip": False} for text in SPECIALS
        ],
        "normalizer": None,
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False, "use_regex": True},
        "post_processor": None,
        "model": {
            "type": "BPE",
            "vocab": {text: i for i, text in enumerate(tokens[: -len(SPECIALS)])},
            "merges": [merge.split(" ") for merge in merges],
        },
    }


def sentencepiece_merges(pieces: list[str]) -> list[tuple[str, str]]:
    """Return all pairs of pieces whose joined text is a piece, the earliest piece first."""
    known = set(pieces)
    cuts = ((piece, cut) for piece in pieces for cut in range(1, len(piece)))
    return [(p[:cut], p[cut:]) for p, cut in cuts if p[:cut] in known and p[cut:] in known]


def changed(folder: Path, name: str, change: Callable[[Any], Any]) -> None:
    """Change one JSON file; if `change` returns a value, it replaces the content."""
    value = json.loads((folder / name).read_text(encoding="utf-8"))
    write_json(folder / name, change(value) or value)


def drop(key: str) -> Callable[[Any], Any]:
    return lambda value: value.pop(key) and None


def put(*path: Any) -> Callable[[Any], Any]:
    """Return a change: put("a", "b", 1) sets value["a"]["b"] = 1."""
    *keys, last, new = path

    def change(value: Any) -> None:
        for key in keys:
            value = value[key]
        value[last] = new

    return change

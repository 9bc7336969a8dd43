"""Small files in formats older than GGUF, to test backends: a random LLaMA in GGML, GGMF or GGJT."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np

# name -> magic, version; GGML has no version
FORMS = {
    "GGML": (b"lmgg", 0),
    "GGMF v1": (b"fmgg", 1),
    "GGJT v1": (b"tjgg", 1),
    "GGJT v2": (b"tjgg", 2),
    "GGJT v3": (b"tjgg", 3),
}
N_EMBD, N_HEAD, N_FF, N_MULT = 32, 2, 96, 32  # N_FF is derived from N_EMBD and N_MULT, as in those formats
TEXTS = (b"?", b"", b"", *(bytes([i]) for i in range(256)), b" ", b"a", b" a", b"the", b" the")
ALIGNMENT = 32  # of data in GGJT, in bytes


def write(path: Path, form: str) -> None:
    """Write a model of one layer with float32 weights.

    Args:
        path: the file to write.
        form: a key of FORMS. The layouts are described in llmlite/gguf/legacy.py.
    """
    magic, version = FORMS[form]
    out = bytearray(magic)
    if version:
        out += struct.pack("<I", version)
    out += struct.pack("<7I", len(TEXTS), N_EMBD, N_MULT, N_HEAD, 1, N_EMBD // N_HEAD, 0)
    for i, text in enumerate(TEXTS):
        out += struct.pack("<I", len(text)) + text
        if version:
            out += struct.pack("<f", min(0, 259 - i))
    random = np.random.default_rng(0)
    for name, shape in _shapes().items():
        dims = shape[::-1]  # fastest first
        out += struct.pack(f"<{3 + len(dims)}I", len(dims), len(name), 0, *dims) + name.encode()
        if magic == b"tjgg":
            out += bytes(-len(out) % ALIGNMENT)
        values = random.standard_normal(shape, np.float32) / np.float32(shape[-1] ** 0.5)
        out += (values if len(shape) > 1 else np.ones(shape, np.float32)).tobytes()
    path.write_bytes(out)


def _shapes() -> dict[str, tuple[int, ...]]:
    square, layer = (N_EMBD, N_EMBD), "layers.0."
    return {
        "tok_embeddings.weight": (len(TEXTS), N_EMBD),
        "norm.weight": (N_EMBD,),
        "output.weight": (len(TEXTS), N_EMBD),
        **{f"{layer}attention.w{part}.weight": square for part in "qkvo"},
        f"{layer}attention_norm.weight": (N_EMBD,),
        f"{layer}feed_forward.w1.weight": (N_FF, N_EMBD),
        f"{layer}feed_forward.w2.weight": (N_EMBD, N_FF),
        f"{layer}feed_forward.w3.weight": (N_FF, N_EMBD),
        f"{layer}ffn_norm.weight": (N_EMBD,),
    }

"""Build files in the formats before GGUF."""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from typing import Any

from llmlite.quants.tensor import QuantTensor
from tests.support.tiny_models import tiny_model

OLD_NAMES = {
    "token_embd": "tok_embeddings", "output_norm": "norm", "output": "output", "attn_q": "attention.wq",
    "attn_k": "attention.wk", "attn_v": "attention.wv", "attn_output": "attention.wo",
    "attn_norm": "attention_norm", "ffn_norm": "ffn_norm", "ffn_gate": "feed_forward.w1",
    "ffn_down": "feed_forward.w2", "ffn_up": "feed_forward.w3",
}  # fmt: skip
TEXTS = [b" the", b"he", b"h", b"e", b" ", "é".encode(), b" a", b"", b"t", b" t", b""]
MODEL = tiny_model(n_embd=64, n_head=4, n_head_kv=2, n_ff=128)
N_VOCAB = MODEL.arrays["token_embd.weight"].shape[0]


def u32(*values: int) -> bytes:
    return struct.pack(f"<{len(values)}I", *values)


@dataclass
class LegacyBuilder:
    """Build a legacy file; `at` has the offset of each field."""

    magic: bytes = b"tjgg"
    version: int = 3
    type_name: str = "F32"
    hyperparameters: dict[str, int] = field(
        default_factory=lambda: {"n_vocab": N_VOCAB, "n_embd": 64, "n_mult": 256, "n_head": 4, "n_layer": 2,
                                 "n_rot": 16, "ftype": 0}
    )  # fmt: skip
    change: dict[str, Any] = field(default_factory=dict)
    at: dict[str, int] = field(default_factory=dict)

    def build(self) -> bytes:
        out = bytearray(self.magic)
        if self.magic != b"lmgg":
            out += u32(self.version)
        for name, value in (self.hyperparameters | self.change).items():
            if name in self.hyperparameters:
                self.at[name] = len(out)
                out += u32(value)
        texts = [b"?", b"", b"", *(bytes([i]) for i in range(256)), *TEXTS]
        for i in range(N_VOCAB):
            text = texts[i] if i < len(texts) else f" word{i}".encode()
            self.at[f"token {i}"] = len(out)
            out += u32(self.change.get(f"token {i}", len(text))) + text
            if self.magic != b"lmgg":
                out += struct.pack("<f", min(0, 259 - i))
        for tensor in self.tensors().values():
            self.put(out, tensor)
        return bytes(out)

    def tensors(self) -> dict[str, QuantTensor]:
        return MODEL.tensors(self.type_name)

    def put(self, out: bytearray, tensor: QuantTensor) -> None:
        layer, _, part = tensor.name.removesuffix(".weight").rpartition(".")
        old = f"layers.{layer[4:]}.{OLD_NAMES[part]}.weight" if layer else f"{OLD_NAMES[part]}.weight"
        name = self.change.get(f"{old}: name", old).encode()
        dims = self.change.get(f"{old}: dims", tensor.dims)
        self.at[old] = len(out)
        out += u32(self.change.get(f"{old}: n_dims", len(dims)), len(name))
        out += u32(self.change.get(f"{old}: type", tensor.type.id)) + u32(*dims) + name
        if self.magic == b"tjgg":
            out += bytes(-len(out) % 32)
        self.at[f"{old}: data"] = len(out)
        out += tensor.blocks.tobytes()

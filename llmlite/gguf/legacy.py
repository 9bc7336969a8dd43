"""Convert GGML, GGMF and GGJT files, the formats of LLaMA models in early 2023, to GGUF.

    magic     "lmgg" GGML   "fmgg" GGMF   "tjgg" GGJT
    version   u32; not in GGML
    7 × u32   n_vocab n_embd n_mult n_head n_layer n_rot ftype
    n_vocab × u32 length, bytes, f32 score; no score in GGML
    until the end of the file, for each tensor:
        u32 n_dims, u32 length of its name, u32 type, n_dims × u32 (fastest first), the name,
        in GGJT padding to a multiple of 32 bytes of the file, then the data

All numbers are little-endian. The layouts of quantized blocks have changed since: before GGJT version 2, none
is the same as today; in version 2, those of Q4_0, Q4_1 and Q8_0 still differ.
Source: llama.cpp's convert_llama_ggml_to_gguf.py.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from llmlite.errors import GGUFError
from llmlite.gguf.file import file_bytes
from llmlite.gguf.parse import CUT_OFF, DAMAGED, LEGACY_MAGICS, MAGIC, MAX_DIMS, Cursor, shown
from llmlite.gguf.values import Typed
from llmlite.gguf.writer import write
from llmlite.quants import TYPES
from llmlite.quants.tensor import QuantTensor
from llmlite.terminal import Progress

VERSIONS = {"GGML": (), "GGMF": (1,), "GGJT": (1, 2, 3)}
HYPERPARAMETERS = ("n_vocab", "n_embd", "n_mult", "n_head", "n_layer", "n_rot", "ftype")
MAX_TEXT = 4096  # bytes of a token or a tensor's name; longer ones mean a damaged file
PADDING = 32
OUTER_NAMES = {"tok_embeddings": "token_embd", "norm": "output_norm", "output": "output"}
LAYER_NAMES = {
    "attention.wq": "attn_q",
    "attention.wk": "attn_k",
    "attention.wv": "attn_v",
    "attention.wo": "attn_output",
    "attention_norm": "attn_norm",
    "ffn_norm": "ffn_norm",
    "feed_forward.w1": "ffn_gate",
    "feed_forward.w2": "ffn_down",
    "feed_forward.w3": "ffn_up",
}
FIRST_BYTE, FIRST_TEXT = 3, 259  # LLaMA's vocabulary: 3 special tokens, 256 bytes, then texts by score
NORMAL, UNKNOWN, CONTROL, BYTE = 1, 2, 3, 6


@dataclass
class LegacyFile:
    """The content of a GGML, GGMF or GGJT file.

    Attributes:
        name: the format and its version: "GGJT v3".
        version: the version; 0 for GGML, which has none.
        hyperparameters: the header's numbers, under the names in HYPERPARAMETERS.
        texts: the tokens' texts.
        scores: the tokens' scores; empty for GGML, which has none.
        tensors: GGUF's name -> QuantTensor.
    """

    name: str
    version: int
    hyperparameters: dict[str, int]
    texts: list[bytes] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)
    tensors: dict[str, QuantTensor] = field(default_factory=dict)


def convert_legacy(
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    *,
    n_ctx: int = 2048,
    rms_eps: float = 5e-6,
    progress: Progress | None = None,
) -> None:
    """Convert a LLaMA model from a GGML, GGMF or GGJT file to GGUF. Its blocks are copied unchanged.

    Args:
        source: path of the old file.
        target: path of the new file.
        n_ctx: the context length, which old files don't have. LLaMA 1: 2048; LLaMA 2: 4096.
        rms_eps: the epsilon of the norms, which old files don't have. LLaMA 1: 1e-6; LLaMA 2: 1e-5. The
            default is llama.cpp's, between the two.
        progress: called as progress(bytes_done, n_bytes).

    Raises:
        GGUFError: the file isn't in one of these formats, is malformed, or has blocks in a layout that no
            longer exists.
        OSError: a file can't be read or written.
    """
    file = read_legacy(source)
    title = os.path.splitext(os.path.basename(os.fspath(source)))[0]
    metadata = {"general.architecture": "llama", "general.name": title}
    metadata |= _hyperparameters(os.fspath(source), file, n_ctx, rms_eps) | _vocabulary(file)
    write(target, metadata, file.tensors, progress=progress)


def read_legacy(path: str | os.PathLike[str], *, mmap: bool = True) -> LegacyFile:
    """Read a GGML, GGMF or GGJT file. Its tensors are views of the file.

    Args:
        path: path of the file.
        mmap: map the file into memory instead of reading all of it now.

    Raises:
        GGUFError: the file isn't in one of these formats, or is malformed.
        OSError: the file can't be read.
    """
    name = os.fspath(path)
    cursor = Cursor(file_bytes(name, mmap=mmap), name)
    cursor.width = 4
    file = _header(cursor)
    _read_vocabulary(cursor, file)
    while cursor.left:
        _read_tensor(cursor, file)
    return file


def _header(cursor: Cursor) -> LegacyFile:
    """Read the magic, the version and the hyper-parameters."""
    magic = cursor.data[:4].tobytes()
    if magic == MAGIC:
        cursor.fail("magic", 0, "GGML, GGMF or GGJT", "GGUF", "the file needs no conversion")
    if magic not in LEGACY_MAGICS:
        cursor.fail("magic", 0, "GGML, GGMF or GGJT", repr(magic)[1:], "the file has another format")
    cursor.at = 4
    kind, version = LEGACY_MAGICS[magic], 0
    if VERSIONS[kind]:
        version = cursor.number("I", "version")
        if version not in VERSIONS[kind]:
            cursor.fail(
                "version", 4, f"{kind} version {' or '.join(map(str, VERSIONS[kind]))}", version, DAMAGED
            )
    hyperparameters = {}
    for key in HYPERPARAMETERS:
        hyperparameters[key] = cursor.number("I", key)
        if hyperparameters[key] < 1 and key not in ("n_mult", "ftype"):
            cursor.fail(key, cursor.at - 4, "at least 1", hyperparameters[key], DAMAGED)
    if hyperparameters["n_embd"] % hyperparameters["n_head"]:
        cursor.fail("n_head", None, f"a divisor of n_embd, {hyperparameters['n_embd']}",
                    hyperparameters["n_head"], DAMAGED)  # fmt: skip
    return LegacyFile(f"{kind} v{version}" if version else kind, version, hyperparameters)


def _read_vocabulary(cursor: Cursor, file: LegacyFile) -> None:
    has_scores = file.version > 0
    n_vocab = file.hyperparameters["n_vocab"]
    most = cursor.left // (8 if has_scores else 4)
    if n_vocab > most:
        cursor.fail("n_vocab", None, f"at most {most}, which fit in the file", n_vocab, CUT_OFF)
    for i in range(n_vocab):
        file.texts.append(_text(cursor, f"token {i}"))
        if has_scores:
            raw = cursor.number("I", f"token {i}: score")
            file.scores.append(float(np.uint32(raw).view(np.float32)))


def _text(cursor: Cursor, what: str, length: int | None = None) -> bytes:
    """Read a text. Its length is read first, unless it is given."""
    offset = cursor.at
    length = cursor.number("I", f"{what}: length") if length is None else length
    if length > MAX_TEXT:
        cursor.fail(f"{what}: length", offset, f"at most {MAX_TEXT}", length, DAMAGED)
    start = cursor.skip(length, f"{what}: length", offset)
    return cursor.data[start : cursor.at].tobytes()


def _read_tensor(cursor: Cursor, file: LegacyFile) -> None:
    """Read one tensor, and add it under its new name."""
    index, start = len(file.tensors), cursor.at
    what = f"tensor {index}"
    n_dims = cursor.number("I", f"{what}: n_dims")
    if not 1 <= n_dims <= MAX_DIMS:
        cursor.fail(f"{what}: n_dims", start, f"1 to {MAX_DIMS}", n_dims, DAMAGED)
    name_length = cursor.number("I", f"{what}: name length")
    type_id = cursor.number("I", f"{what}: type")
    dims = tuple(cursor.number("I", f"{what}: dims[{i}]") for i in range(n_dims))
    old_name = _text(cursor, f"{what}: name", name_length).decode("utf-8", "replace")
    name = _new_name(cursor, old_name, start)
    if name in file.tensors:
        cursor.fail(shown(old_name), start, "each tensor once", "another one", DAMAGED)
    kind = _type(cursor, file, shown(old_name), type_id, start + 8)
    if min(dims) < 1 or dims[0] % kind.block_size:
        expected = f"rows of a multiple of {kind.block_size} weights"
        cursor.fail(f"{shown(old_name)}: dims", start + 12, expected, dims, DAMAGED)
    if file.name.startswith("GGJT"):
        cursor.at += -cursor.at % PADDING
    n_bytes = math.prod(dims) // kind.block_size * kind.type_size
    if n_bytes > cursor.left:
        got = f"{max(0, cursor.left)} until the end of the file"
        cursor.fail(f"{shown(old_name)}: data", cursor.at, f"{n_bytes} bytes", got, CUT_OFF)
    blocks = cursor.data[cursor.at : cursor.at + n_bytes].reshape(-1, kind.type_size)
    cursor.at += n_bytes
    file.tensors[name] = QuantTensor(name, kind, dims[::-1], blocks)


def _new_name(cursor: Cursor, old: str, offset: int) -> str:
    """Return GGUF's name of a LLaMA tensor."""
    match = re.fullmatch(r"(?:layers\.(\d{1,4})\.)?(.+)\.weight", old)
    names = LAYER_NAMES if match and match[1] else OUTER_NAMES
    if match is None or match[2] not in names:
        hint = "only LLaMA models can be converted from this format"
        cursor.fail("tensor name", offset, "a tensor of a LLaMA model", repr(shown(old)), hint)
    layer = f"blk.{int(match[1])}." if match[1] else ""
    return f"{layer}{names[match[2]]}.weight"


def _type(cursor: Cursor, file: LegacyFile, name: str, type_id: int, offset: int) -> Any:
    """Return the tensor's type, if the layout of its blocks is still the same."""
    kind = TYPES.get(type_id)
    if kind is None:
        cursor.fail(f"{name}: type", offset, "a type that llmlite reads", f"type {type_id}", DAMAGED)
    current = file.name == "GGJT v3" or (file.name == "GGJT v2" and kind.name not in ("Q4_0", "Q4_1", "Q8_0"))
    if kind.name not in ("F32", "F16") and not current:
        cursor.fail(f"{name}: type", offset, "F32 or F16", f"{kind.name} in the layout of {file.name}",
                    "that layout no longer exists; convert the original model instead")  # fmt: skip
    return kind


def _expected_names(n_layer: int) -> Iterator[str]:
    """Yield the names of all LLaMA models' tensors. The caller stops at the first missing one."""
    yield from (f"{name}.weight" for name in OUTER_NAMES.values())
    for layer in range(n_layer):
        yield from (f"blk.{layer}.{name}.weight" for name in LAYER_NAMES.values())


def _hyperparameters(path: str, file: LegacyFile, n_ctx: int, rms_eps: float) -> dict[str, Any]:
    """Return metadata under GGUF's names. Values missing in the header follow from the tensors' shapes."""
    given = file.hyperparameters
    n_embd, n_head = given["n_embd"], given["n_head"]
    shapes = {name: tensor.shape for name, tensor in file.tensors.items()}
    for name in _expected_names(given["n_layer"]):
        if name not in shapes:
            raise GGUFError(path, name, None, "a tensor of this name", "none", CUT_OFF)
    for name, expected in (
        ("token_embd.weight", (given["n_vocab"], n_embd)),
        ("blk.0.ffn_gate.weight", (None, n_embd)),
        ("blk.0.attn_k.weight", (None, n_embd)),
    ):
        shape = shapes[name]
        if len(shape) != 2 or any(e not in (None, n) for e, n in zip(expected, shape)):
            raise GGUFError(path, f"{name}: shape", None, str(expected), shape,
                            "models in several files must be joined before conversion")  # fmt: skip
    quantized = any(tensor.type.block_size > 1 for tensor in file.tensors.values())
    return {
        "general.description": f"converted from {file.name}",
        "general.file_type": Typed(given["ftype"], "u32"),
        **({"general.quantization_version": Typed(2, "u32")} if quantized else {}),
        "llama.context_length": n_ctx,
        "llama.embedding_length": n_embd,
        "llama.block_count": given["n_layer"],
        "llama.feed_forward_length": shapes["blk.0.ffn_gate.weight"][0],
        "llama.rope.dimension_count": given["n_rot"],
        "llama.attention.head_count": n_head,
        "llama.attention.head_count_kv": max(1, shapes["blk.0.attn_k.weight"][0] // (n_embd // n_head)),
        "llama.attention.layer_norm_rms_epsilon": float(rms_eps),
        "llama.vocab_size": given["n_vocab"],
    }


def _vocabulary(file: LegacyFile) -> dict[str, Any]:
    """Return the vocabulary's metadata: texts in SentencePiece's form, types and scores."""
    texts, types = [], []
    for i, text in enumerate(file.texts):
        text, kind = _token(i, text)
        texts.append(text)
        types.append(kind)
    # GGML has no scores. In LLaMA's vocabulary, texts are sorted by score, in steps of one.
    scores = file.scores or [min(0.0, float(FIRST_TEXT - i)) for i in range(len(texts))]
    return {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.pre": "default",
        "tokenizer.ggml.tokens": Typed(texts, "[string]"),
        "tokenizer.ggml.scores": Typed(scores, "[f32]"),
        "tokenizer.ggml.token_type": Typed(types, "[i32]"),
        "tokenizer.ggml.unknown_token_id": 0,
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
    }


def _token(i: int, text: bytes) -> tuple[bytes, int]:
    """Return a token's text and type for a GGUF file. Old files have the text that a token prints."""
    special = {0: (b"<unk>", UNKNOWN), 1: (b"<s>", CONTROL), 2: (b"</s>", CONTROL)}
    if i in special:
        return special[i]
    if not text:  # llama.cpp's name for a token without text, because texts must be unique
        return f"[EMPTY_{i}]".encode(), CONTROL
    if i < FIRST_TEXT and len(text) == 1:
        return f"<0x{text[0]:02X}>".encode(), BYTE
    return text.replace(b" ", "▁".encode()), NORMAL

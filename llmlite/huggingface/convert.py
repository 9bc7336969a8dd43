"""Convert a folder from Hugging Face to a GGUF file: names, hyper-parameters, order of Q's and K's rows."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np

from llmlite import gguf
from llmlite.description.architectures import Names
from llmlite.description.config import ModelConfig
from llmlite.description.shapes import ALWAYS_F32
from llmlite.description.weights import Weights
from llmlite.errors import ModelError, UnsupportedError
from llmlite.huggingface import sentences
from llmlite.huggingface.config import Config
from llmlite.huggingface.names import renamed
from llmlite.huggingface.safetensors import read_folder
from llmlite.huggingface.vocabulary import tokenizer_metadata
from llmlite.quantize.mixes import FILE_TYPES, assign, canonical
from llmlite.quants import QuantType, by_name
from llmlite.quants.tensor import PendingTensor, QuantTensor
from llmlite.terminal import Progress

PLAIN = ("position_embd", "token_types")  # tables that GGUF readers require in F32


def convert_folder(
    folder: str | os.PathLike[str],
    target: str | os.PathLike[str],
    *,
    file_type: str | None = None,
    pre: str | None = None,
    progress: Progress | None = None,
    allow_nan: bool = False,
) -> None:
    """Convert a model in the format of transformers' save_pretrained to a GGUF file.

    The folder has config.json, model.safetensors (or its parts and their index), tokenizer.json and,
    usually, tokenizer_config.json. No code in it is run. The new file appears only when it is complete.

    Args:
        folder: path of the folder.
        target: path of the new file.
        file_type: "F32", "F16", "BF16", "Q8_0", "Q4_K_M", … as for `quantize_file`. None: matrices keep their
            types. Vectors become F32, as llama.cpp requires.
        pre: the `tokenizer.ggml.pre` to write. None: it is determined from tokenizer.json.
        progress: called as progress(bytes_done, n_bytes).
        allow_nan: accept a weight that is NaN, infinite, or too large for its new type. It ruins its block.

    Raises:
        UnsupportedError: the architecture, a variant of it or the tokenizer can't be converted.
        ModelError, TokenizerError: config.json, tensors and tokenizer don't fit each other, or a weight that
            is to be quantized isn't finite. Its row and column are those of the tensor in the GGUF file.
        GGUFError: a file is malformed or cut off.
        OSError: a file can't be read or written.

    Source: llama.cpp's convert_hf_to_gguf.py, with which the result must agree.
    """
    folder = os.fspath(folder)
    path = os.path.join(folder, "config.json")
    if not os.path.exists(path):
        raise UnsupportedError(f"{folder}: this folder has no config.json, so it isn't a Hugging Face model")
    config = Config(path)
    architecture = config.architecture()
    sources = read_folder(folder)
    names = architecture.class_names.get(config.class_name, architecture.names)
    tied = config.flag("tie_word_embeddings", architecture.tied)
    sources = architecture.sources(sources, config)
    tensors = renamed(folder, sources, names, tied=tied, has_output=architecture.causal)
    tensors = architecture.tensors(tensors, config)
    hyperparameters = config.hyperparameters(architecture) | sentences.pooling(folder)
    keys, matrices = sentences.dense(folder, architecture.dense)
    hyperparameters, tensors = hyperparameters | keys, tensors | matrices
    metadata = _metadata(folder, architecture.name, hyperparameters)
    for name, factors in config.rope_factors().items():
        tensors[f"{name}.weight"] = QuantTensor.quantize(factors, "F32", f"{name}.weight")
    checked = _check(folder, metadata, tensors, names)
    metadata |= tokenizer_metadata(folder, config.values, checked.n_vocab, pre=pre)
    types = _types(metadata, tensors, file_type)
    metadata |= _type_metadata(tensors, types, file_type)
    by_pairs = architecture.rope_pairs == "norm" and architecture.reordered
    reordered = {"attn_q": checked.n_head, "attn_k": checked.n_head_kv} if by_pairs else {}
    made = {
        name: _made(name, tensors[name], types[name], reordered, allow_nan) for name in _in_order(tensors)
    }
    try:
        gguf.write(target, metadata, made, progress=progress)
    except ModelError as error:
        error.path = error.path or folder
        raise


def _metadata(folder: str, architecture: str, hyperparameters: Mapping[str, Any]) -> dict[str, Any]:
    """Return the keys of the file, with the architecture's name before hyper-parameters."""
    return {
        "general.architecture": architecture,
        "general.type": "model",
        "general.name": os.path.basename(os.path.realpath(folder)),
        **{
            key if key.startswith("tokenizer.") else f"{architecture}.{key}": value
            for key, value in hyperparameters.items()
        },
    }


def _check(
    folder: str, metadata: Mapping[str, Any], tensors: Mapping[str, QuantTensor], names: Names
) -> ModelConfig:
    """Check that all tensors are present, with the shapes that follow from the hyper-parameters."""
    try:
        config = ModelConfig.from_metadata(metadata, tensors)
        given = metadata[f"{config.architecture.name}.vocab_size"]
        if config.n_vocab != given:
            raise ModelError.at("token_embd.weight", f"vocab_size, {given}, rows", config.n_vocab)
        Weights.from_tensors({name: _blank(tensor) for name, tensor in tensors.items()}, config)
    except ModelError as error:
        if error.key is None:
            raise
        rest = str(error.args[0]).removeprefix(error.key)
        raise ModelError(f"{folder}: {names.old(error.key)}{rest}") from None
    return config


def _blank(tensor: QuantTensor) -> QuantTensor:
    """Return a matrix of the same shape whose blocks are all the same zeros, so that checking it makes none.

    A vector is returned unchanged.
    """
    if len(tensor.shape) < 2:
        return tensor
    n_blocks = tensor.n_elements // tensor.type.block_size
    block = np.zeros((1, tensor.type.type_size), np.uint8)
    blocks = np.broadcast_to(block, (n_blocks, tensor.type.type_size))
    return QuantTensor(tensor.name, tensor.type, tensor.shape, blocks)


def _types(
    metadata: Mapping[str, Any], tensors: Mapping[str, QuantTensor], file_type: str | None
) -> dict[str, QuantType]:
    """Return each tensor's type in the new file."""
    chosen = assign(metadata, tensors, file_type) if file_type is not None else {}
    types = {}
    for name, tensor in tensors.items():
        kept = by_name("F32") if tensor.type.name == "F64" else tensor.type
        is_matrix = len(tensor.shape) > 1 and not name.startswith(PLAIN) and "gate_inp" not in name
        is_matrix = is_matrix and not name.endswith(ALWAYS_F32)
        types[name] = chosen.get(name, kept) if is_matrix else by_name("F32")
        if types[name].needs_importance or types[name].encode is None:
            raise UnsupportedError(
                f"{name}: can't be converted to {types[name].name} directly: convert to F16 or BF16, "
                "then use llmlite quantize"
            )
    return types


def _type_metadata(
    tensors: Mapping[str, QuantTensor], types: Mapping[str, QuantType], file_type: str | None
) -> dict[str, Any]:
    """Return the keys of the file's main type."""
    if file_type is None:
        sizes: Counter[str] = Counter()
        for name, tensor in tensors.items():
            if len(tensor.shape) > 1:
                sizes[types[name].name] += tensor.n_elements
        file_type = sizes.most_common(1)[0][0]
    found: dict[str, Any] = {"general.file_type": np.uint32(FILE_TYPES[canonical(file_type)][0])}
    if any(kind.block_size > 1 for kind in types.values()):
        found["general.quantization_version"] = np.uint32(2)
    return found


def _made(
    name: str, source: QuantTensor, type: QuantType, reordered: Mapping[str, int], allow_nan: bool
) -> QuantTensor:
    """Return the tensor to write: in its new type, with rows reordered if RoPE's pairs require it."""
    n_head = reordered.get(name.split(".")[-2], 0)

    def make() -> np.ndarray:
        tensor = QuantTensor(name, source.type, source.shape, source.blocks)
        if n_head:
            tensor.blocks = interleaved(source.blocks.reshape(source.shape[0], -1), n_head).reshape(
                -1, source.type.type_size
            )
        if type is tensor.type:
            return tensor.blocks
        threads = os.cpu_count() or 1
        return QuantTensor.quantize(tensor, type.name, name, n_threads=threads, allow_nan=allow_nan).blocks

    return PendingTensor(name, type, source.shape, make)


def interleaved(rows: np.ndarray, n_head: int) -> np.ndarray:
    """Reorder the rows (H*Dh, n) of Q or K from RoPE pairs (i, i + Dh/2) to pairs (2i, 2i + 1)."""
    halves = rows.reshape(n_head, 2, -1, rows.shape[-1])  # (H, 2, Dh/2, n)
    return np.ascontiguousarray(halves.swapaxes(1, 2)).reshape(rows.shape)


def _in_order(tensors: Mapping[str, QuantTensor]) -> list[str]:
    """Return the tensors' names in the file's order: embedding and output first, then layer by layer."""

    def place(name: str) -> tuple[int, str]:
        match = re.match(r"blk\.(\d+)\.", name)
        return (int(match[1]) + 1 if match else 0), name

    return sorted(tensors, key=place)

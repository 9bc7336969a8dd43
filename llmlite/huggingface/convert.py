"""A folder from Hugging Face to one GGUF file: names, hyper-parameters, and the order of Q's and K's rows."""

from __future__ import annotations

import math
import os
import re
from collections import Counter
from collections.abc import Mapping
from typing import Any, NoReturn

import numpy as np

from llmlite import gguf
from llmlite.architectures import Architecture, by_class
from llmlite.config import ModelConfig
from llmlite.errors import ModelError, UnsupportedError
from llmlite.gguf.writer import Progress
from llmlite.huggingface.names import BY_CLASS, LLAMA, Names, renamed
from llmlite.huggingface.safetensors import read_folder, read_json, shown
from llmlite.huggingface.vocabulary import tokenizer_metadata
from llmlite.mixes import FILE_TYPES, assign, canonical
from llmlite.quants import QuantType, by_name
from llmlite.tensor import PendingTensor, QuantTensor
from llmlite.transformer import Weights

GPT2_REFUSED = {
    "scale_attn_weights": True,
    "scale_attn_by_inverse_layer_idx": False,
    "add_cross_attention": False,
}  # the only values that GPT-2's own weights have, and that a GGUF file can say
ACTIVATIONS = {"silu": ("silu", "swish"), "gelu": ("gelu_new", "gelu_pytorch_tanh")}  # ours -> theirs


def convert_folder(
    folder: str | os.PathLike[str],
    target: str | os.PathLike[str],
    *,
    file_type: str | None = None,
    pre: str | None = None,
    progress: Progress | None = None,
    allow_nan: bool = False,
) -> None:
    """Make a GGUF file of a model in the form that transformers' save_pretrained writes.

    The folder holds config.json, model.safetensors (or its parts and their index), tokenizer.json and,
    usually, tokenizer_config.json. Nothing in it is run. Nothing of `target` appears until it is complete.

    file_type: "F32", "F16", "BF16", "Q8_0", "Q4_K_M", … as for `quantize_file`; by default matrices keep
        the type they have. Vectors become F32, as llama.cpp wants them.
    pre: the `tokenizer.ggml.pre` to write; by default found from tokenizer.json.
    progress: called as progress(bytes_done, n_bytes).
    allow_nan: go on at a weight that is NaN or infinite, or beyond what its new type can hold; it ruins its
        block.

    Raises:
        UnsupportedError: an architecture, a variant or a tokenizer that can't be converted.
        ModelError, TokenizerError: config.json, tensors and tokenizer don't fit together, or a weight that is
            to be quantized isn't finite; row and column are those of the tensor in the GGUF file.
        GGUFError: a file is malformed or cut off. OSError: it can't be read or written.
    Source: llama.cpp's convert_hf_to_gguf.py, with which the result must agree.
    """
    folder = os.fspath(folder)
    path = os.path.join(folder, "config.json")
    if not os.path.exists(path):
        raise UnsupportedError(f"{folder}: is a folder without config.json, so no model from Hugging Face")
    config = Config(path)
    architecture = config.architecture()
    sources = read_folder(folder)
    names = BY_CLASS.get(config.class_name, LLAMA)
    tied = config.flag("tie_word_embeddings", architecture.name == "gpt2")
    tensors = renamed(folder, sources, names, tied=tied)
    hyperparameters = config.hyperparameters(architecture)
    metadata: dict[str, Any] = {
        "general.architecture": architecture.name,
        "general.type": "model",
        "general.name": os.path.basename(os.path.realpath(folder)),
        **{f"{architecture.name}.{key}": value for key, value in hyperparameters.items()},
    }
    factors = config.rope_factors()
    if factors is not None:
        tensors["rope_freqs.weight"] = QuantTensor.quantize(factors, "F32", "rope_freqs.weight")
    checked = _check(folder, metadata, tensors, names)
    metadata |= tokenizer_metadata(folder, config.values, checked.n_vocab, pre=pre)
    types = _types(metadata, tensors, file_type)
    metadata |= _type_metadata(tensors, types, file_type)
    reordered = {"attn_q": checked.n_head, "attn_k": checked.n_head_kv}
    if architecture.rope_pairs != "norm":
        reordered = {}
    made = {
        name: _made(name, tensors[name], types[name], reordered, allow_nan) for name in _in_order(tensors)
    }
    try:
        gguf.write(target, metadata, made, progress=progress)
    except ModelError as error:
        error.path = error.path or folder
        raise


class Config:
    """config.json, read key by key; each fault says which key. Raises GGUFError if it isn't JSON."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.values = read_json(path)

    def fail(self, key: str, expected: str, got: object) -> NoReturn:
        raise ModelError(f"{self.path}: {key}: expected {expected}, got {shown(got)}")

    def refuse(self, text: str) -> NoReturn:
        raise UnsupportedError(f"{self.path}: {text}")

    def architecture(self) -> Architecture:
        """The architecture, and a refusal of what would run but give wrong answers."""
        named = self.values.get("architectures")
        if not isinstance(named, list) or len(named) != 1:
            self.fail("architectures", "a list of one", named)
        try:
            architecture = by_class(named[0])
        except UnsupportedError as error:
            self.refuse(str(error))
        if self.values.get("quantization_config"):
            self.refuse("quantization_config: only models that are not quantized can be converted")
        self.class_name = named[0]
        key = "activation_function" if architecture.name == "gpt2" else "hidden_act"
        usual = ACTIVATIONS[architecture.activation]
        if self.values.get(key, usual[0]) not in usual:
            self.refuse(f"{key}: {shown(self.values[key])} is not supported, only {usual[0]!r} is")
        if self.values.get("partial_rotary_factor", 1) != 1:
            self.refuse("partial_rotary_factor: only 1 is supported")
        return architecture

    def flag(self, key: str, default: bool = False) -> bool:
        value = self.values.get(key, default)
        if not isinstance(value, bool):
            self.fail(key, "true or false", value)
        return value

    def integer(self, key: str, default: int | None = None) -> int:
        value = self.values.get(key)
        value = default if value is None else value
        if type(value) is not int or not 0 < value < 2**31:
            self.fail(key, "a whole number above 0", "nothing" if value is None else value)
        return value

    def number(self, values: Mapping[str, Any], key: str, default: float | None = None) -> float:
        value = values.get(key)
        value = default if value is None else value
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1e30:
            self.fail(key, "a number above 0", "nothing" if value is None else value)
        return float(value)

    def hyperparameters(self, architecture: Architecture) -> dict[str, Any]:
        """The keys of a GGUF file, without the architecture's prefix."""
        if architecture.name == "gpt2":
            return self._gpt2()
        n_head, head_size = self.integer("num_attention_heads"), self.head_size()
        found: dict[str, Any] = {
            "block_count": self.integer("num_hidden_layers"),
            "context_length": self._n_ctx(),
            "embedding_length": self.integer("hidden_size"),
            "feed_forward_length": self.integer("intermediate_size"),
            "attention.head_count": n_head,
            "attention.head_count_kv": self.integer("num_key_value_heads", n_head),
            "attention.layer_norm_rms_epsilon": self.number(self.values, "rms_norm_eps"),
            "rope.freq_base": self.number(self.rope() | self.values, "rope_theta", 10000.0),
            "rope.dimension_count": head_size,
            "vocab_size": self.integer("vocab_size"),
        }
        if head_size * n_head != found["embedding_length"]:
            found |= {"attention.key_length": head_size, "attention.value_length": head_size}
        if self._rope_type() == "linear":
            found["rope.scaling.type"] = "linear"
            found["rope.scaling.factor"] = self.number(self.rope(), "factor")
        if architecture.expert_count_required or self.class_name == "MixtralForCausalLM":
            found |= self._experts()
        return found

    def _experts(self) -> dict[str, Any]:
        """A mixture's keys, and a refusal of what would run but give wrong answers."""
        count = "num_local_experts" if self.values.get("num_local_experts") is not None else "num_experts"
        found = {
            "expert_count": self.integer(count),
            "expert_used_count": self.integer("num_experts_per_tok"),
        }
        if self.class_name == "MixtralForCausalLM":
            return found
        if not self.flag("norm_topk_prob"):
            self.refuse("norm_topk_prob: only true is supported: weights of the chosen experts that add to 1")
        if self.integer("decoder_sparse_step", 1) != 1 or self.values.get("mlp_only_layers"):
            self.refuse("decoder_sparse_step, mlp_only_layers: only mixtures in every layer are supported")
        return found | {"expert_feed_forward_length": self.integer("moe_intermediate_size")}

    def _gpt2(self) -> dict[str, Any]:
        for key, usual in GPT2_REFUSED.items():
            if self.flag(key, usual) != usual:
                self.refuse(f"{key}: only {str(usual).lower()} is supported")
        n_embd = self.integer("n_embd")
        return {
            "block_count": self.integer("n_layer"),
            "context_length": self.integer("n_positions"),
            "embedding_length": n_embd,
            "feed_forward_length": self.integer("n_inner", 4 * n_embd),
            "attention.head_count": self.integer("n_head"),
            "attention.layer_norm_epsilon": self.number(self.values, "layer_norm_epsilon", 1e-5),
            "vocab_size": self.integer("vocab_size"),
        }

    def head_size(self) -> int:
        n_embd, n_head = self.integer("hidden_size"), self.integer("num_attention_heads")
        if self.values.get("head_dim") is None and n_embd % n_head:
            self.fail("hidden_size", f"a multiple of num_attention_heads, {n_head}", n_embd)
        return self.integer("head_dim", n_embd // n_head)

    def _n_ctx(self) -> int:
        """The context; with a sliding window, as far as attention still sees everything."""
        n_ctx = self.integer("max_position_embeddings")
        if self.values.get("sliding_window") is None or not self.flag("use_sliding_window", True):
            return n_ctx
        return min(n_ctx, self.integer("sliding_window"))

    def rope(self) -> dict[str, Any]:
        """The object that says how RoPE's frequencies are made, under its new name or its old one."""
        for key in ("rope_parameters", "rope_scaling"):
            value = self.values.get(key)
            if value is not None and not isinstance(value, dict):
                self.fail(key, "an object", value)
            if value:
                return value
        return {}

    def _rope_type(self) -> str:
        kind = self.rope().get("rope_type", self.rope().get("type", "default"))
        if kind not in ("default", "linear", "llama3"):
            self.refuse(f"rope_type: {shown(kind)} is not supported; supported are default, linear, llama3")
        return kind

    def rope_factors(self) -> np.ndarray | None:
        """What RoPE's frequencies are divided by in Llama 3.x, float32 (head_size/2,); None elsewhere.

        Long waves are stretched by `factor`, short ones stay, those between are blended.
        Source: transformers' modeling_rope_utils.py, _compute_llama3_parameters.
        """
        if self._rope_type() != "llama3":
            return None
        rope = self.rope()
        factor, low, high, n_ctx = (
            self.number(rope, key)
            for key in ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings")
        )
        if low >= high:
            self.fail("low_freq_factor", f"less than high_freq_factor, {high}", low)
        base = self.number(rope | self.values, "rope_theta", 10000.0)
        exponents = np.arange(0, self.head_size(), 2) / self.head_size()
        wavelengths = 2 * math.pi * base**exponents  # in tokens
        blend = np.clip((n_ctx / wavelengths - low) / (high - low), 0, 1)  # 0: stretched, 1: as it is
        return (1 / ((1 - blend) / factor + blend)).astype(np.float32)


def _check(
    folder: str, metadata: Mapping[str, Any], tensors: Mapping[str, QuantTensor], names: Names
) -> ModelConfig:
    """Check that all tensors are there and have the shapes that the hyper-parameters give them."""
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
    """A matrix of the same shape, all of whose blocks are one: none is made to be checked. A vector as is."""
    if len(tensor.shape) < 2:
        return tensor
    n_blocks = tensor.n_elements // tensor.type.block_size
    block = np.zeros((1, tensor.type.type_size), np.uint8)
    blocks = np.broadcast_to(block, (n_blocks, tensor.type.type_size))
    return QuantTensor(tensor.name, tensor.type, tensor.shape, blocks)


def _types(
    metadata: Mapping[str, Any], tensors: Mapping[str, QuantTensor], file_type: str | None
) -> dict[str, QuantType]:
    """Each tensor's type in the new file."""
    chosen = assign(metadata, tensors, file_type) if file_type is not None else {}
    types = {}
    for name, tensor in tensors.items():
        kept = by_name("F32") if tensor.type.name == "F64" else tensor.type
        is_matrix = len(tensor.shape) > 1 and not name.startswith("position_embd") and "gate_inp" not in name
        types[name] = chosen.get(name, kept) if is_matrix else by_name("F32")
        if types[name].needs_importance or types[name].encode is None:
            raise UnsupportedError(
                f"{name}: can't become {types[name].name} while it is converted: convert to F16 or BF16, "
                "then llmlite quantize"
            )
    return types


def _type_metadata(
    tensors: Mapping[str, QuantTensor], types: Mapping[str, QuantType], file_type: str | None
) -> dict[str, Any]:
    """The keys that say what most of the file is made of."""
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
    """The tensor as it is written: rows reordered where RoPE's pairs ask for it, in its new type."""
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
    """Embedding and output first, then layer by layer."""

    def place(name: str) -> tuple[int, str]:
        match = re.match(r"blk\.(\d+)\.", name)
        return (int(match[1]) + 1 if match else 0), name

    return sorted(tensors, key=place)

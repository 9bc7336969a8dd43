"""CTranslate2 with int8 weights and activations; the weights are quantized anew from the dequantized file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from time import perf_counter_ns
from typing import Any

import ctranslate2
import numpy as np
from ctranslate2.specs import common_spec, transformer_spec

from llmlite.bench.backends.weights import Shape, cached, floats, opened, refuse
from llmlite.quants.tensor import QuantTensor

ARCHITECTURES = ("llama",)


def make() -> CTranslate2Backend:
    """Return the backend."""
    return CTranslate2Backend()


class CTranslate2Backend:
    """A backend with one ctranslate2.Generator. Token i is called "i": nothing here needs the text."""

    def __init__(self) -> None:
        self.generator: Any = None
        self.n_threads = 0

    def start(self) -> None:
        """Do nothing: this file has imported everything."""

    def convert(self, path: str, n_ctx: int) -> bool:
        return _converted(path)[1]

    def load(self, path: str, n_ctx: int, n_threads: int) -> None:
        self.generator = None
        folder, _ = _converted(path)
        self.generator = ctranslate2.Generator(
            folder, device="cpu", compute_type="int8", inter_threads=1, intra_threads=n_threads
        )
        self.n_threads = n_threads

    def logits(self, ids: Sequence[int]) -> np.ndarray:
        found = self.generator.forward_batch([_names(ids)])
        return np.array(found, np.float32)[0]

    def prefill(self, ids: Sequence[int]) -> int:
        return self.greedy(ids, 1)[0]

    def step(self, token: int) -> int:
        raise NotImplementedError("this library has its own decoding loop: use `write`")

    def write(self, ids: Sequence[int], n_gen: int) -> list[int]:
        times: list[int] = []

        def note_time(_: Any) -> bool:
            times.append(perf_counter_ns())
            return False  # True would stop decoding

        self._generate(ids, n_gen + 1, note_time)
        return [later - earlier for earlier, later in pairwise(times)]

    def greedy(self, ids: Sequence[int], n_gen: int) -> list[int]:
        return self._generate(ids, n_gen)

    def _generate(self, ids: Sequence[int], n_gen: int, callback: Any = None) -> list[int]:
        found = self.generator.generate_batch(
            [_names(ids)],
            max_length=n_gen,
            min_length=n_gen,
            sampling_topk=1,
            end_token=[],
            include_prompt_in_result=False,
            callback=callback,
        )
        tokens = [int(token) for token in found[0].sequences_ids[0]]
        if len(tokens) != n_gen:
            raise RuntimeError(f"expected {n_gen} tokens, got {len(tokens)}")
        return tokens

    def about(self) -> dict[str, Any]:
        return {
            "n_threads": self.n_threads,
            "type_k": "f32",
            "version": ctranslate2.__version__,
            "isa": "chosen at run time, not reported",
            "own_quantization": True,
            "note": "int8 weights and activations, quantized from the file's dequantized weights",
        }


def _names(ids: Sequence[int]) -> list[str]:
    return [str(token) for token in ids]


def _converted(path: str) -> tuple[str, bool]:
    return cached(path, "ctranslate2-int8", lambda part: _convert(path, part))


def _convert(path: str, folder: str) -> None:
    """Write the model in CTranslate2's own format into a new folder."""
    with opened(path) as (shape, tensors):
        refuse(shape, "CTranslate2", ARCHITECTURES)
        if "rope_freqs.weight" in tensors or shape.rope_scale != 1:
            raise ValueError("CTranslate2's side of the comparison runs RoPE without scaling only")
        spec = _spec(shape, tensors)
    spec.validate()
    spec.optimize(quantization="int8")
    Path(folder).mkdir()
    spec.save(folder)


def _spec(shape: Shape, tensors: Mapping[str, QuantTensor]) -> Any:
    spec = transformer_spec.TransformerDecoderModelSpec.from_config(
        shape.n_layer,
        shape.n_head,
        activation=common_spec.Activation.SWISH,
        pre_norm=True,
        ffn_glu=True,
        rms_norm=True,
        rotary_dim=shape.rope_dim,
        rotary_interleave=shape.rope_pairs == "norm",
        rotary_scaling_type=None,
        rotary_base=shape.rope_base,
        num_heads_kv=shape.n_head_kv if shape.n_head_kv != shape.n_head else None,
    )
    decoder = spec.decoder
    decoder.scale_embeddings = False
    decoder.embeddings.weight = floats(tensors["token_embd.weight"])
    decoder.layer_norm.gamma = floats(tensors["output_norm.weight"])
    decoder.projection.weight = floats(tensors.get("output.weight", tensors["token_embd.weight"]))
    for number, layer in enumerate(decoder.layer):
        w = {
            name.split(".")[2]: floats(tensor)
            for name, tensor in tensors.items()
            if name.startswith(f"blk.{number}.") and name.endswith(".weight")
        }
        layer.self_attention.layer_norm.gamma = w["attn_norm"]
        layer.self_attention.linear[0].weight = np.concatenate([w["attn_q"], w["attn_k"], w["attn_v"]])
        layer.self_attention.linear[1].weight = w["attn_output"]
        layer.ffn.layer_norm.gamma = w["ffn_norm"]
        layer.ffn.linear_0.weight = w["ffn_gate"]
        layer.ffn.linear_0_noact.weight = w["ffn_up"]
        layer.ffn.linear_1.weight = w["ffn_down"]
    spec.config.layer_norm_epsilon = shape.rms_eps
    spec.config.bos_token = spec.config.eos_token = spec.config.unk_token = "0"
    spec.register_vocabulary([str(i) for i in range(shape.n_vocab)])
    return spec

"""Executors against transformers without a file between: its weights in memory under GGUF's names."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest

from llmlite.description.architectures import ARCHITECTURES
from llmlite.description.config import ModelConfig
from llmlite.description.weights import Weights
from llmlite.engine.eager import EagerExecutor
from llmlite.engine.kv_cache import KVCache
from llmlite.engine.planned import PlannedExecutor
from llmlite.huggingface.convert import interleaved
from llmlite.quants.tensor import QuantTensor

pytestmark = pytest.mark.conformance
D, H, K, F, E, USED, N_CTX, V = 64, 4, 2, 96, 6, 3, 128, 300
COMMON = {
    "hidden_size": D,
    "intermediate_size": F,
    "num_hidden_layers": 2,
    "num_attention_heads": H,
    "num_key_value_heads": K,
    "max_position_embeddings": N_CTX,
    "vocab_size": V,
    "initializer_range": 0.2,
    "num_experts_per_tok": USED,
}
OPTIONS = {
    "Mixtral": COMMON | {"num_local_experts": E, "sliding_window": None},
    "Qwen3Moe": COMMON
    | {"num_experts": E, "moe_intermediate_size": F, "norm_topk_prob": True, "head_dim": D // H},
    "GPT2": {"n_embd": D, "n_layer": 2, "n_head": H, "n_positions": N_CTX, "vocab_size": V,
             "initializer_range": 0.2, "bos_token_id": 0, "eos_token_id": 0},
}  # fmt: skip
GPT2_NAMES = {
    "wte": "token_embd",
    "wpe": "position_embd",
    "ln_f": "output_norm",
    "ln_1": "attn_norm",
    "attn.c_attn": "attn_qkv",
    "attn.c_proj": "attn_output",
    "ln_2": "ffn_norm",
    "mlp.c_fc": "ffn_up",
    "mlp.c_proj": "ffn_down",
}


def reference(name: str) -> Any:
    """A random model of transformers, its norms and biases not ones and zeros."""
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    import torch

    torch.manual_seed(0)
    torch.set_num_threads(1)
    config = getattr(transformers, f"{name}Config")(**OPTIONS[name])
    model_class = "GPT2LMHeadModel" if name == "GPT2" else f"{name}ForCausalLM"
    model = getattr(transformers, model_class)(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter += 0.3 * torch.randn_like(parameter)
    return model


def renamed_gpt2(state: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """GPT-2 keeps its matrices as (columns, rows)."""
    found = {}
    for name, array in state.items():
        if name == "lm_head.weight":
            continue
        match = re.fullmatch(r"transformer\.(?:h\.(\d+)\.)?(.+)\.(weight|bias)", name)
        assert match, name
        layer, old, kind = match.groups()
        is_matrix = array.ndim == 2 and old not in ("wte", "wpe")
        prefix = f"blk.{layer}." if layer else ""
        found[f"{prefix}{GPT2_NAMES[old]}.{kind}"] = array.T if is_matrix else array
    return found


def renamed_moe(state: dict[str, np.ndarray], pairs: str) -> dict[str, np.ndarray]:
    """Gates and ups of all experts are in one tensor, (n_expert, 2 F, D)."""
    found, names = {}, ARCHITECTURES["llama"].names
    for name, array in state.items():
        _, _, rest = name.partition("layers.")
        layer, _, old = rest.partition(".")
        prefix = f"blk.{layer}."
        if old == "mlp.experts.gate_up_proj":
            found[f"{prefix}ffn_gate_exps.weight"], found[f"{prefix}ffn_up_exps.weight"] = (
                array[:, :F],
                array[:, F:],
            )
        elif old == "mlp.experts.down_proj":
            found[f"{prefix}ffn_down_exps.weight"] = array
        elif old == "mlp.gate.weight":
            found[f"{prefix}ffn_gate_inp.weight"] = array
        elif not rest:
            found[names.new(name)[0]] = array
        else:
            new = names.new(name)[0]
            n_head = {"attn_q": H, "attn_k": K}.get(new.split(".")[-2])
            found[new] = interleaved(array, n_head) if n_head and pairs == "norm" else array
    return found


def hyperparameters(name: str) -> dict[str, Any]:
    """What a GGUF file of the model would say."""
    prefix = {"Mixtral": "llama", "Qwen3Moe": "qwen3moe", "GPT2": "gpt2"}[name]
    found = {
        "block_count": 2,
        "context_length": N_CTX,
        "embedding_length": D,
        "feed_forward_length": 4 * D if name == "GPT2" else F,
        "attention.head_count": H,
    }
    if name == "GPT2":
        found["attention.layer_norm_epsilon"] = 1e-5
    else:
        eps = {"Mixtral": 1e-5, "Qwen3Moe": 1e-6}[name]
        found |= {"attention.head_count_kv": K, "attention.layer_norm_rms_epsilon": eps}
        found |= {
            "expert_count": E,
            "expert_used_count": USED,
            "rope.freq_base": 1e6 if prefix == "llama" else 1e4,
        }
    return {"general.architecture": prefix} | {f"{prefix}.{key}": value for key, value in found.items()}


@pytest.mark.parametrize("name", list(OPTIONS))
@pytest.mark.parametrize("executor_class", [EagerExecutor, PlannedExecutor])
def test_logits_equal_those_of_transformers(name: str, executor_class: type) -> None:
    import torch

    model = reference(name)
    state = {key: value.numpy() for key, value in model.state_dict().items()}
    arrays = (
        renamed_gpt2(state) if name == "GPT2" else renamed_moe(state, "norm" if name == "Mixtral" else "neox")
    )
    tensors = {
        key: QuantTensor.quantize(np.ascontiguousarray(array), "F32", key) for key, array in arrays.items()
    }
    config = ModelConfig.from_metadata(hyperparameters(name), tensors)
    weights = Weights.from_tensors(tensors, config)
    ids = np.random.default_rng(0).integers(0, V, 100).tolist()
    with torch.no_grad():
        want = model(torch.tensor([ids])).logits[0].numpy()
    options = {"kv_dtype": np.float32} if executor_class is PlannedExecutor else {}
    got = executor_class(weights, config, **options)(ids, KVCache(config, N_CTX, np.float32), n_outputs=100)
    difference = np.abs(got - want).max() / np.abs(want).max()
    print(
        f"{name}, {executor_class.name}: logits to {np.abs(want).max():.1f}, off by {difference:.1e} of that"
    )
    assert difference < 2e-5

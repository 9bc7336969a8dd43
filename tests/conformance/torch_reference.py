"""A plain llama written out in PyTorch: an oracle that shares nothing with llmlite but the file's values."""

from __future__ import annotations

import numpy as np

from llmlite import gguf


def torch_llama(file: gguf.GGUFFile, ids: list[int], dtype: str = "float32") -> np.ndarray:
    """Logits (T, V) of a llama file for token ids (T,), computed and returned in `dtype`.

    dtype: "float32", or "float64" for what stands in for the exact answer: its rounding, a part in 1e15 per
    operation, is nothing next to that of float32. The weights are the file's, dequantized to float32.
    """
    import torch  # not every caller has it, so not at the top

    precision = {"float32": torch.float32, "float64": torch.float64}[dtype]
    m = {key.removeprefix("llama."): value for key, value in file.metadata.items()}
    w = {name: torch.from_numpy(tensor.dequantize()).to(precision) for name, tensor in file.tensors.items()}
    H, K, T = m["attention.head_count"], m["attention.head_count_kv"], len(ids)
    Dh = m["embedding_length"] // H
    exponents = torch.arange(0, Dh, 2, dtype=torch.float64) / Dh
    angles = torch.outer(torch.arange(T, dtype=torch.float64), m["rope.freq_base"] ** -exponents)
    turn = torch.polar(torch.ones_like(angles), angles).to(precision.to_complex())[:, None]  # (T, 1, Dh/2)

    def norm(x, name):
        return torch.nn.functional.rms_norm(x, x.shape[-1:], w[name], m["attention.layer_norm_rms_epsilon"])

    def rope(x):  # (T, heads, Dh): elements 2i and 2i+1 are one complex number
        pairs = torch.view_as_complex(x.reshape(*x.shape[:2], Dh // 2, 2))
        return torch.view_as_real(pairs * turn).reshape(x.shape)

    x = w["token_embd.weight"][ids]  # (T, D)
    for layer in range(m["block_count"]):
        b = f"blk.{layer}."
        h = norm(x, b + "attn_norm.weight")
        q = rope((h @ w[b + "attn_q.weight"].T).reshape(T, H, Dh)).transpose(0, 1)  # (H, T, Dh)
        k = rope((h @ w[b + "attn_k.weight"].T).reshape(T, K, Dh)).transpose(0, 1)
        v = (h @ w[b + "attn_v.weight"].T).reshape(T, K, Dh).transpose(0, 1)
        a = torch.nn.functional.scaled_dot_product_attention(
            q[None], k[None], v[None], is_causal=True, enable_gqa=True
        )[0]
        x = x + a.transpose(0, 1).reshape(T, -1) @ w[b + "attn_output.weight"].T
        h = norm(x, b + "ffn_norm.weight")
        h = torch.nn.functional.silu(h @ w[b + "ffn_gate.weight"].T) * (h @ w[b + "ffn_up.weight"].T)
        x = x + h @ w[b + "ffn_down.weight"].T
    assert x.dtype == precision, f"a step left {dtype} for {x.dtype}"
    output = w.get("output.weight", w["token_embd.weight"])
    return (norm(x, "output_norm.weight") @ output.T).numpy()

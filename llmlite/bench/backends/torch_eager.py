"""PyTorch as a good user of it would write a model: SDPA, a static cache, inference_mode, plain eager calls.

The weights come from the same GGUF file, turned into `dtype` on loading (PyTorch has no GGUF types), so
a quantized file costs as much memory here as an unquantized one. Written independently of
llmlite.transformer's forward pass: the two check each other.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - everybody's name for it

from llmlite import gguf
from llmlite.bench.environment import has_bf16
from llmlite.config import ModelConfig


def make(*, dtype: str) -> TorchBackend:
    """Return the backend computing in "float32" or "bfloat16"."""
    return TorchBackend(getattr(torch, dtype))


class TorchTransformer:
    """Any of llmlite's architectures, for one sequence.

    Args:
        weights: name in the GGUF file -> tensor of the dtype to compute in.
        config: the hyper-parameters.
        n_ctx: positions in the static cache.
    """

    def __init__(self, weights: dict[str, torch.Tensor], config: ModelConfig, n_ctx: int) -> None:
        self.weights, self.config = weights, config
        dtype = weights["token_embd.weight"].dtype
        shape = (config.n_layer, config.n_head_kv, n_ctx, config.head_size)
        self.keys = torch.zeros(shape, dtype=dtype)
        self.values = torch.zeros(shape, dtype=dtype)
        self.cos, self.sin = self._rotations(n_ctx)  # (n_ctx, rope_dim/2) each, float32

    def _rotations(self, n_ctx: int) -> tuple[torch.Tensor, torch.Tensor]:
        c = self.config
        exponents = torch.arange(0, c.rope_dim, 2, dtype=torch.float64) / c.rope_dim
        frequencies = c.rope_scale * c.rope_base**-exponents
        if "rope_freqs.weight" in self.weights:
            frequencies = frequencies / self.weights["rope_freqs.weight"].double()
        angles = torch.outer(torch.arange(n_ctx, dtype=torch.float64), frequencies)
        return angles.cos().float(), angles.sin().float()

    def __call__(self, ids: torch.Tensor, position: int, *, last_only: bool) -> torch.Tensor:
        """Run `ids` (T,) at `position`; return logits (T, V), or (1, V) with `last_only`."""
        w = self.weights
        x = F.embedding(ids, w["token_embd.weight"])  # (T, D)
        if "position_embd.weight" in w:
            x = x + w["position_embd.weight"][position : position + len(ids)]
        for layer in range(self.config.n_layer):
            x = x + self._attention(layer, x, position)
            x = x + self._feed_forward(layer, x)
        if last_only:
            x = x[-1:]
        x = self._norm(x, "output_norm")
        return F.linear(x, w.get("output.weight", w["token_embd.weight"]))

    def _attention(self, layer: int, x: torch.Tensor, position: int) -> torch.Tensor:
        c, n_tokens = self.config, len(x)
        end = position + n_tokens
        q, k, v = self._queries_keys_values(f"blk.{layer}.", self._norm(x, f"blk.{layer}.attn_norm"))
        self.keys[layer, :, position:end] = self._rotate(k, position).transpose(0, 1)
        self.values[layer, :, position:end] = v.transpose(0, 1)
        mask = None
        if n_tokens > 1 and position:  # is_causal aligns the corner for an empty cache only
            mask = torch.ones(n_tokens, end, dtype=torch.bool).tril(position)
        x = F.scaled_dot_product_attention(
            self._rotate(q, position).transpose(0, 1)[None],  # (1, H, T, Dh)
            self.keys[layer, :, :end][None],  # (1, K, end, Dh)
            self.values[layer, :, :end][None],
            attn_mask=mask,
            is_causal=n_tokens > 1 and not position,
            enable_gqa=c.n_head != c.n_head_kv,
        )
        x = x[0].transpose(0, 1).reshape(n_tokens, -1)  # (T, H*Dh)
        return self._linear(f"blk.{layer}.attn_output", x)

    def _queries_keys_values(self, layer: str, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """(T, H, Dh), (T, K, Dh), (T, K, Dh)."""
        c = self.config
        if f"{layer}attn_qkv.weight" in self.weights:
            widths = (c.n_embd_q, c.n_embd_kv, c.n_embd_kv)
            q, k, v = self._linear(f"{layer}attn_qkv", x).split(widths, dim=-1)
        else:
            q, k, v = (self._linear(f"{layer}attn_{name}", x) for name in "qkv")
        q, k, v = (each.reshape(len(x), -1, c.head_size) for each in (q, k, v))
        if c.architecture.head_norms:
            q, k = self._norm(q, f"{layer}attn_q_norm"), self._norm(k, f"{layer}attn_k_norm")
        return q, k, v

    def _feed_forward(self, layer: int, x: torch.Tensor) -> torch.Tensor:
        x, name = self._norm(x, f"blk.{layer}.ffn_norm"), f"blk.{layer}.ffn_"
        if self.config.n_expert:
            return self._experts(name, x)
        if f"{name}gate.weight" in self.weights:
            x = F.silu(self._linear(f"{name}gate", x)) * self._linear(f"{name}up", x)
        else:
            x = F.gelu(self._linear(f"{name}up", x), approximate="tanh")
        return self._linear(f"{name}down", x)

    def _experts(self, name: str, x: torch.Tensor) -> torch.Tensor:
        """Each token through the experts its scores are highest for, those of one expert together."""
        gate, up, down = (self.weights[f"{name}{part}_exps.weight"] for part in ("gate", "up", "down"))
        scores = self._linear(f"{name}gate_inp", x).float()  # (T, n_expert)
        scores, chosen = scores.topk(self.config.n_expert_used)
        shares = scores.softmax(dim=-1).to(x.dtype)
        out = torch.zeros_like(x)
        for expert in chosen.unique().tolist():
            tokens, place = (chosen == expert).nonzero(as_tuple=True)
            inner = F.silu(F.linear(x[tokens], gate[expert])) * F.linear(x[tokens], up[expert])
            out.index_add_(0, tokens, F.linear(inner, down[expert]) * shares[tokens, place, None])
        return out

    def _rotate(self, x: torch.Tensor, position: int) -> torch.Tensor:
        """RoPE on (T, heads, Dh): pairs (2i, 2i+1) for "norm", (i, i + rope_dim/2) for "neox"; in float32."""
        n = self.config.rope_dim
        if not n:
            return x
        turned, rest = x[..., :n].float(), x[..., n:]
        if self.config.architecture.rope_pairs == "neox":
            a, b = turned.chunk(2, dim=-1)
        else:
            a, b = turned[..., 0::2], turned[..., 1::2]
        cos = self.cos[position : position + len(x), None]  # (T, 1, rope_dim/2)
        sin = self.sin[position : position + len(x), None]
        a, b = a * cos - b * sin, a * sin + b * cos
        if self.config.architecture.rope_pairs == "neox":
            turned = torch.cat((a, b), dim=-1)
        else:
            turned = torch.stack((a, b), dim=-1).flatten(-2)
        return torch.cat((turned.to(x.dtype), rest), dim=-1)

    def _norm(self, x: torch.Tensor, name: str) -> torch.Tensor:
        gain, bias = self.weights[f"{name}.weight"], self.weights.get(f"{name}.bias")
        if bias is not None:
            return F.layer_norm(x, x.shape[-1:], gain, bias, self.config.rms_eps)
        return F.rms_norm(x, x.shape[-1:], gain, self.config.rms_eps)

    def _linear(self, name: str, x: torch.Tensor) -> torch.Tensor:
        return F.linear(x, self.weights[f"{name}.weight"], self.weights.get(f"{name}.bias"))


class TorchBackend:
    """One TorchTransformer and how far its cache is filled."""

    def __init__(self, dtype: torch.dtype) -> None:
        self.dtype = dtype
        self.model: TorchTransformer | None = None
        self.position = 0

    def start(self) -> None:
        """Nothing left to import: this file already did."""

    def load(self, path: str, n_ctx: int, n_threads: int) -> None:
        torch.set_num_threads(n_threads)
        self.model = None  # the old weights go before the new ones come
        with gguf.read(path) as file:
            config = ModelConfig.from_metadata(file.metadata, file.tensors)
            weights = {
                name: torch.from_numpy(np.array(tensor.dequantize(), np.float32)).to(self.dtype)
                for name, tensor in file.tensors.items()
            }
        self.model = TorchTransformer(weights, config, n_ctx)

    @torch.inference_mode()
    def logits(self, ids: Sequence[int]) -> np.ndarray:
        return self._run(list(ids), 0, last_only=False).float().numpy()

    @torch.inference_mode()
    def prefill(self, ids: Sequence[int]) -> int:
        return int(self._run(list(ids), 0, last_only=True).argmax())

    @torch.inference_mode()
    def step(self, token: int) -> int:
        return int(self._run([token], self.position, last_only=True).argmax())

    def _run(self, ids: list[int], position: int, *, last_only: bool) -> torch.Tensor:
        assert self.model is not None
        logits = self.model(torch.tensor(ids), position, last_only=last_only)
        self.position = position + len(ids)
        return logits

    def about(self) -> dict[str, Any]:
        kind = {torch.float32: "f32", torch.bfloat16: "bf16"}[self.dtype]
        note = ""
        if kind == "bf16" and has_bf16() is False:
            note = "this processor has no bfloat16 arithmetic: it is emulated"
        return {
            "n_threads": torch.get_num_threads(),
            "type_k": kind,
            "version": torch.__version__,
            "note": note,
        }

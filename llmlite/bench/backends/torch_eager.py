"""PyTorch, with a model as an experienced user would write it: SDPA, a static cache, inference_mode.

Several backends share this file: float32 and bfloat16, float32 compiled, int8 by `quantize_dynamic`, and int4
in packed groups. The weights come from the same GGUF file. PyTorch has no GGUF types, so the weights become
floats of the backend's `dtype` on loading, or are packed anew (see torch_linear.py). The code is independent
of the forward pass in llmlite.engine.transformer, so that each checks the other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - its usual name

from llmlite.bench.backends import torch_linear
from llmlite.bench.backends.weights import Shape, floats, opened, refuse
from llmlite.bench.environment import has_bf16
from llmlite.quants.tensor import QuantTensor

ARCHITECTURES = ("llama", "qwen2", "qwen3", "qwen3moe", "gpt2")
COMPILE_FOR = (5, 1, 1, 9, 1)  # tokens of each call that compiles: prompts and steps, at different positions
SMALL = {"int8": torch.float32, "int4": torch.bfloat16}  # kind of matrices -> type of the rest


def make(*, dtype: str, compiled: bool = False) -> TorchBackend:
    """Return the backend.

    Args:
        dtype: "float32" or "bfloat16" for the type of all weights; "int8" or "int4" for the matrices only.
        compiled: run each layer through torch.compile.
    """
    return TorchBackend(dtype, compiled)


class TorchTransformer:
    """Any of ARCHITECTURES, for one sequence.

    Args:
        weights: by name in the GGUF file, each a tensor of the type to compute in, or a packed matrix to
            call.
        shape: the hyper-parameters.
        n_ctx: positions in the static cache.
        compiled: compile the layer once; every layer runs the same code on its own weights.
    """

    def __init__(self, weights: Mapping[str, Any], shape: Shape, n_ctx: int, *, compiled: bool) -> None:
        self.top = {name: w for name, w in weights.items() if not name.startswith("blk.")}
        self.layers: list[dict[str, Any]] = [{} for _ in range(shape.n_layer)]
        for name, weight in weights.items():
            if name.startswith("blk."):
                _, number, rest = name.split(".", 2)
                self.layers[int(number)][rest] = weight
        self.shape = shape
        dtype = self.top["token_embd.weight"].dtype
        size = (shape.n_head_kv, n_ctx, shape.head_size)
        self.keys = [torch.zeros(size, dtype=dtype) for _ in self.layers]
        self.values = [torch.zeros(size, dtype=dtype) for _ in self.layers]
        freqs = self.top.get("rope_freqs.weight")
        angles = torch.from_numpy(shape.angles(n_ctx, None if freqs is None else freqs.float().numpy()))
        self.cos, self.sin = angles.cos().float(), angles.sin().float()  # (n_ctx, rope_dim/2)
        self.run_layer = torch.compile(self._layer) if compiled else self._layer

    def __call__(self, ids: torch.Tensor, position: int, *, last_only: bool) -> torch.Tensor:
        """Read `ids` (T,) from `position` on; return logits (T, V), or (1, V) with `last_only`."""
        w, end = self.top, position + len(ids)
        x = F.embedding(ids, w["token_embd.weight"])  # (T, D)
        if "position_embd.weight" in w:
            x = x + w["position_embd.weight"][position:end]
        mask = None
        if len(ids) > 1 and position:  # is_causal is right only for an empty cache
            mask = torch.ones(len(ids), end, dtype=torch.bool).tril(position)
        turn = self.cos[position:end, None], self.sin[position:end, None]  # (T, 1, rope_dim/2)
        for layer, keys, values in zip(self.layers, self.keys, self.values):
            x = self.run_layer(layer, keys, values, x, position, turn, mask)
        if last_only:
            x = x[-1:]
        x = self._norm(w, x, "output_norm")
        head = "output" if "output.weight" in w else "head" if "head.weight" in w else "token_embd"
        return _linear(w, head, x)

    def _layer(
        self,
        w: Mapping[str, Any],
        keys: torch.Tensor,
        values: torch.Tensor,
        x: torch.Tensor,
        position: int,
        turn: tuple[torch.Tensor, torch.Tensor],
        mask: torch.Tensor | None,
    ) -> torch.Tensor:
        x = x + self._attention(w, keys, values, x, position, turn, mask)
        return x + self._feed_forward(w, x)

    def _attention(
        self,
        w: Mapping[str, Any],
        keys: torch.Tensor,
        values: torch.Tensor,
        x: torch.Tensor,
        position: int,
        turn: tuple[torch.Tensor, torch.Tensor],
        mask: torch.Tensor | None,
    ) -> torch.Tensor:
        n_tokens = x.shape[0]
        end = position + n_tokens
        q, k, v = self._queries_keys_values(w, self._norm(w, x, "attn_norm"))
        keys[:, position:end] = self._rotate(k, turn).transpose(0, 1)
        values[:, position:end] = v.transpose(0, 1)
        x = F.scaled_dot_product_attention(
            self._rotate(q, turn).transpose(0, 1)[None],  # (1, H, T, Dh)
            keys[:, :end][None],  # (1, K, end, Dh)
            values[:, :end][None],
            attn_mask=mask,
            is_causal=n_tokens > 1 and mask is None,
            enable_gqa=self.shape.n_head != self.shape.n_head_kv,
        )
        return _linear(w, "attn_output", x[0].transpose(0, 1).reshape(n_tokens, -1))

    def _queries_keys_values(self, w: Mapping[str, Any], x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Return queries (T, H, Dh), keys (T, K, Dh) and values (T, K, Dh)."""
        s = self.shape
        if "attn_qkv.weight" in w:
            widths = [n * s.head_size for n in (s.n_head, s.n_head_kv, s.n_head_kv)]
            q, k, v = _linear(w, "attn_qkv", x).split(widths, dim=-1)
        else:
            q, k, v = (_linear(w, f"attn_{name}", x) for name in "qkv")
        q, k, v = (each.reshape(x.shape[0], -1, s.head_size) for each in (q, k, v))
        if s.head_norms:
            q, k = self._norm(w, q, "attn_q_norm"), self._norm(w, k, "attn_k_norm")
        return q, k, v

    def _feed_forward(self, w: Mapping[str, Any], x: torch.Tensor) -> torch.Tensor:
        x = self._norm(w, x, "ffn_norm")
        if self.shape.n_expert:
            return self._experts(w, x)
        if "ffn_gate.weight" in w:
            x = F.silu(_linear(w, "ffn_gate", x)) * _linear(w, "ffn_up", x)
        else:
            x = F.gelu(_linear(w, "ffn_up", x), approximate="tanh")
        return _linear(w, "ffn_down", x)

    def _experts(self, w: Mapping[str, Any], x: torch.Tensor) -> torch.Tensor:
        """Send each token to the experts with its highest scores; an expert takes all its tokens at once."""
        gate, up, down = (w[f"ffn_{part}_exps.weight"] for part in ("gate", "up", "down"))
        scores = _linear(w, "ffn_gate_inp", x).float()  # (T, n_expert)
        scores, chosen = scores.topk(self.shape.n_expert_used)
        shares = scores.softmax(dim=-1).to(x.dtype)
        out = torch.zeros_like(x)
        for expert in chosen.unique().tolist():
            tokens, place = (chosen == expert).nonzero(as_tuple=True)
            inner = F.silu(F.linear(x[tokens], gate[expert])) * F.linear(x[tokens], up[expert])
            out.index_add_(0, tokens, F.linear(inner, down[expert]) * shares[tokens, place, None])
        return out

    def _rotate(self, x: torch.Tensor, turn: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        """Apply RoPE to x (T, H, Dh): to pairs (2i, 2i+1) for "norm", (i, i + rope_dim/2) for "neox"."""
        n = self.shape.rope_dim
        if not n:
            return x
        turned, rest = x[..., :n].float(), x[..., n:]
        if self.shape.rope_pairs == "neox":
            a, b = turned.chunk(2, dim=-1)
        else:
            a, b = turned[..., 0::2], turned[..., 1::2]
        cos, sin = turn
        a, b = a * cos - b * sin, a * sin + b * cos
        if self.shape.rope_pairs == "neox":
            turned = torch.cat((a, b), dim=-1)
        else:
            turned = torch.stack((a, b), dim=-1).flatten(-2)
        return torch.cat((turned.to(x.dtype), rest), dim=-1)

    def _norm(self, w: Mapping[str, Any], x: torch.Tensor, name: str) -> torch.Tensor:
        gain, bias = w[f"{name}.weight"], w.get(f"{name}.bias")
        if bias is not None:
            return F.layer_norm(x, x.shape[-1:], gain, bias, self.shape.rms_eps)
        return F.rms_norm(x, x.shape[-1:], gain, self.shape.rms_eps)


def _linear(w: Mapping[str, Any], name: str, x: torch.Tensor) -> torch.Tensor:
    weight = w[f"{name}.weight"]
    if isinstance(weight, torch.Tensor):
        return F.linear(x, weight, w.get(f"{name}.bias"))
    return weight(x)  # packed, with its bias


class TorchBackend:
    """A backend with one TorchTransformer and the number of positions filled in its cache."""

    def __init__(self, dtype: str, compiled: bool) -> None:
        self.kind, self.compiled = dtype, compiled
        self.dtype = SMALL.get(dtype) or getattr(torch, dtype)
        self.model: TorchTransformer | None = None
        self.own = False
        self.position = 0
        self.compiled_anew = False

    def start(self) -> None:
        """Do nothing: this file has imported everything."""

    def load(self, path: str, n_ctx: int, n_threads: int) -> None:
        torch.set_num_threads(n_threads)
        self.model = None  # free the old weights before loading new ones
        with opened(path) as (shape, tensors):
            refuse(shape, "PyTorch", ARCHITECTURES, experts=True)
            weights = self._weights(tensors)
        self.model = TorchTransformer(weights, shape, n_ctx, compiled=self.compiled)

    def _weights(self, tensors: Mapping[str, QuantTensor]) -> dict[str, Any]:
        """Return each weight as a tensor, or as a packed matrix if this backend packs matrices."""
        self.own = self.kind == "int8"
        weights: dict[str, Any] = {}
        for name, tensor in tensors.items():
            small = self.kind in SMALL and self._can_pack(name, tensor)
            bias = tensors.get(name.replace(".weight", ".bias"))
            weights[name] = self._packed(tensor, bias) if small else self._floats(tensor)
        embedding = tensors["token_embd.weight"]
        if "output.weight" not in tensors and self.kind in SMALL and self._fits(embedding):
            weights["head.weight"] = self._packed(embedding, None)  # floats stay, to look up rows
        return weights

    def _can_pack(self, name: str, tensor: QuantTensor) -> bool:
        lookup = name.startswith(("token_embd", "position_embd")) or "ffn_gate_inp" in name
        return not lookup and self._fits(tensor)

    def _fits(self, tensor: QuantTensor) -> bool:
        return len(tensor.shape) == 2 and (self.kind == "int8" or torch_linear.fits_int4(tensor))

    def _packed(self, tensor: QuantTensor, bias: QuantTensor | None) -> torch_linear.Linear:
        found = None if bias is None else self._floats(bias)
        if self.kind == "int8":
            return torch_linear.int8(tensor, found)
        packed = torch_linear.Int4(tensor, found)
        self.own |= packed.own
        return packed

    def _floats(self, tensor: QuantTensor) -> torch.Tensor:
        return torch.from_numpy(floats(tensor)).to(self.dtype)

    def compile(self, lengths: Sequence[int]) -> bool:
        """Compile for prompts and steps of any length; return False if nothing is compiled."""
        if not self.compiled:
            return False
        assert self.model is not None
        from torch._dynamo.utils import counters

        missed = counters["inductor"]["fxgraph_cache_miss"]
        n_ctx = self.model.keys[0].shape[1]
        for n_tokens in COMPILE_FOR:
            if n_tokens == 1:
                self.step(0)
            elif n_tokens < n_ctx:
                self.prefill([0] * n_tokens)
        self.compiled_anew = counters["inductor"]["fxgraph_cache_miss"] > missed
        return True

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
        notes = []
        if kind == "bf16" and has_bf16() is False:
            notes.append("this processor has no bfloat16 arithmetic: it is emulated")
        if self.compiled:
            notes.append("one compiled layer that all layers share")
        if self.kind == "int4":
            notes.append("scales rounded to bfloat16")
        return {
            "n_threads": torch.get_num_threads(),
            "type_k": kind,
            "version": torch.__version__,
            "isa": torch.backends.cpu.get_cpu_capability(),
            "own_quantization": self.own,
            "note": "; ".join(notes),
        }

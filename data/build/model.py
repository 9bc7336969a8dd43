"""The llama of "tales" in plain PyTorch: module names ARE the GGUF tensor names.

RMSNorm, grouped-query attention, rotary positions on neighbouring pairs (what GGUF calls NORM, so
nothing is permuted on export), SwiGLU, tied embeddings. Shape letters: B batch, T tokens, D n_embd,
H heads, K key/value heads, Dh head size, F n_ff, V vocabulary.
"""

from dataclasses import asdict, dataclass

import torch
import torch.nn.functional as F  # noqa: N812 (its name everywhere)
from torch import Tensor, nn


@dataclass(frozen=True, kw_only=True)
class Config:
    """The hyperparameters; the names are those that llama.cpp uses."""

    n_vocab: int = 2048
    n_embd: int = 256
    n_layer: int = 5
    n_head: int = 4
    n_head_kv: int = 2
    n_ff: int = 768
    n_ctx: int = 1024
    rms_eps: float = 1e-5
    rope_base: float = 10000.0

    @property
    def head_size(self) -> int:
        return self.n_embd // self.n_head

    def as_dict(self) -> dict:
        return asdict(self)


def rope_table(config: Config, n_positions: int) -> tuple[Tensor, Tensor]:
    """Return cos and sin, (T, Dh): each pair's value twice, the sine of the first one negated."""
    pair = torch.arange(0, config.head_size, 2, dtype=torch.float64)
    frequency = config.rope_base ** (-pair / config.head_size)
    angle = torch.outer(torch.arange(n_positions, dtype=torch.float64), frequency)  # (T, Dh/2)
    cos = angle.cos().repeat_interleave(2, dim=-1)
    sin = torch.stack([-angle.sin(), angle.sin()], dim=-1).flatten(-2)
    return cos.float(), sin.float()


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn neighbouring pairs of x (B, H, T, Dh): x0' = x0 cos - x1 sin, x1' = x1 cos + x0 sin."""
    swapped = x.unflatten(-1, (-1, 2)).flip(-1).flatten(-2)
    return x * cos + swapped * sin


class Block(nn.Module):
    """One layer; its parameters carry the names they have in the file behind `blk.N.`"""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        d, dh = config.n_embd, config.head_size
        self.attn_norm = nn.RMSNorm(d, eps=config.rms_eps)
        self.attn_q = nn.Linear(d, config.n_head * dh, bias=False)
        self.attn_k = nn.Linear(d, config.n_head_kv * dh, bias=False)
        self.attn_v = nn.Linear(d, config.n_head_kv * dh, bias=False)
        self.attn_output = nn.Linear(config.n_head * dh, d, bias=False)
        self.ffn_norm = nn.RMSNorm(d, eps=config.rms_eps)
        self.ffn_gate = nn.Linear(d, config.n_ff, bias=False)
        self.ffn_up = nn.Linear(d, config.n_ff, bias=False)
        self.ffn_down = nn.Linear(config.n_ff, d, bias=False)

    def qkv(self, x: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Project x (B, T, D); return q (B, H, T, Dh) and k, v (B, K, T, Dh), q and k rotated."""
        dh = self.config.head_size
        q = self.attn_q(x).unflatten(-1, (-1, dh)).transpose(1, 2)  # (B, H, T, Dh)
        k = self.attn_k(x).unflatten(-1, (-1, dh)).transpose(1, 2)  # (B, K, T, Dh)
        v = self.attn_v(x).unflatten(-1, (-1, dh)).transpose(1, 2)  # (B, K, T, Dh)
        return rotate(q, cos, sin).to(v.dtype), rotate(k, cos, sin).to(v.dtype), v

    def forward(
        self, x: Tensor, cos: Tensor, sin: Tensor, cache: dict | None = None, mask: Tensor | None = None
    ) -> Tensor:
        q, k, v = self.qkv(self.attn_norm(x), cos, sin)
        if cache is not None:
            if "k" in cache:
                k, v = torch.cat([cache["k"], k], dim=2), torch.cat([cache["v"], v], dim=2)
            cache["k"], cache["v"] = k, v
        group = self.config.n_head // self.config.n_head_kv
        k, v = k.repeat_interleave(group, dim=1), v.repeat_interleave(group, dim=1)  # (B, H, T, Dh)
        causal = mask is None and q.shape[2] == k.shape[2]
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=causal)
        x = x + self.attn_output(mixed.transpose(1, 2).flatten(-2))
        h = self.ffn_norm(x)
        return x + self.ffn_down(F.silu(self.ffn_gate(h)) * self.ffn_up(h))


class Llama(nn.Module):
    """Token ids (B, T) in, final hidden states (B, T, D) out; `logits` applies the tied head."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.token_embd = nn.Embedding(config.n_vocab, config.n_embd)
        self.blk = nn.ModuleList(Block(config) for _ in range(config.n_layer))
        self.output_norm = nn.RMSNorm(config.n_embd, eps=config.rms_eps)
        cos, sin = rope_table(config, config.n_ctx)
        self.register_buffer("cos", cos, persistent=False)
        self.register_buffer("sin", sin, persistent=False)

    def initialise(self, generator: torch.Generator) -> "Llama":
        """Draw the weights: 0.02 everywhere, less for what writes into the residual stream."""
        for name, weight in self.named_parameters():
            if weight.dim() == 2:
                writes = name.endswith(("attn_output.weight", "ffn_down.weight"))
                scale = 0.02 / (2 * self.config.n_layer) ** 0.5 if writes else 0.02
                with torch.no_grad():
                    weight.normal_(0.0, scale, generator=generator)
        return self

    def forward(
        self,
        ids: Tensor,
        caches: list[dict] | None = None,
        mask: Tensor | None = None,
        positions: Tensor | None = None,
    ) -> Tensor:
        """positions (B, T) are needed with a cache or a left-padded batch; mask is (B, 1, T, S)."""
        if positions is None:
            cos, sin = self.cos[: ids.shape[1]], self.sin[: ids.shape[1]]
        else:
            cos, sin = self.cos[positions].unsqueeze(1), self.sin[positions].unsqueeze(1)
        x = self.token_embd(ids)
        for index, block in enumerate(self.blk):
            x = block(x, cos, sin, caches[index] if caches is not None else None, mask)
        return self.output_norm(x)

    def logits(self, hidden: Tensor) -> Tensor:
        return F.linear(hidden, self.token_embd.weight)

"""The description of each layer: small frozen records that the forward pass and both executors read.

A model is a tuple of `Layer`s. Each describes what mixes tokens (`Attention` or another mixer's record), what
follows (`FeedForward` or `Experts`), and how the branches join. The records are built from a file's metadata
and the names of its tensors (layer_keys.py); no record has an architecture's name.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

ACTIVATIONS = ("silu", "gelu", "gelu_erf", "relu2", "swiglu_oai")


@dataclass(frozen=True, kw_only=True)
class Rope:
    """Rotary position embedding of a layer: its angles, and the elements they rotate.

    Attributes:
        dim: number of elements of each head that are rotated, an even number.
        pairs: "norm" rotates the elements (2i, 2i + 1) together, "neox" (i, i + dim/2).
        base: the lowest frequency is about 1/base.
        scale: factor of every position (linear scaling of the context).
        factors: the tensor whose values divide the frequencies ("rope_freqs", "rope_factors_long",
            "rope_factors_short"), or "".
        magnitude: factor of cosines and sines (attention factor of yarn and longrope).
        yarn: how yarn blends scaled and unscaled frequencies, or None.
    """

    dim: int
    pairs: str
    base: float = 10000.0
    scale: float = 1.0
    factors: str = ""
    magnitude: float = 1.0
    yarn: Yarn | None = None


@dataclass(frozen=True, kw_only=True)
class Yarn:
    """YaRN's scaling (Peng et al. 2023): high frequencies are kept, low ones are scaled, with a ramp between.

    Attributes:
        n_ctx: the context length that the model was first trained for.
        beta_fast, beta_slow: number of turns within n_ctx at which the ramp begins and ends.
        mix: weight of the blend (`ext_factor`), 0 to 1.
        rounded: whether the ramp's ends are rounded to whole pairs.
    """

    n_ctx: int
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    mix: float = 1.0
    rounded: bool = True


@dataclass(frozen=True, kw_only=True)
class Attention:
    """Softmax attention over keys and values in a cache.

    Attributes:
        n_head, n_head_kv: number of query heads, and of key/value heads, which groups of query heads share.
        key_size, value_size: numbers in a key (and a query) and in a value.
        scale: factor of the scores before the softmax.
        rope: rotation of queries and keys, or None.
        window: number of latest positions that a query sees, including its own; 0 for all positions. Without
            `causal`, a query sees positions at most window/2 away on either side.
        causal: whether a query sees only positions up to its own. If not, it sees all positions of the step.
        softcap: scores become softcap · tanh(score / softcap); 0 leaves them unchanged.
        sinks: whether each head has a logit that counts only in the softmax's denominator.
        alibi: the largest slope exponent of ALiBi (slope · distance is subtracted from scores); 0 for none.
        temperature_scale, temperature_length: queries are multiplied by
            1 + scale · ln(floor(position / length) + 1); 0 leaves them unchanged.
        norm_after_rope: whether per-head norms of queries and keys come after the rotation.
        norm_values: whether values are divided by their root mean square, head by head.
        keys_as_values: whether the keys before their norm are also the values. The file then has no `attn_v`.
        output_gate: whether `attn_q` gives, for each head, a query and a gate whose sigmoid multiplies the
            head's output.
        shared: the layer whose keys and values this one reads instead of its own, or None.
        values_in_keys: whether a value is the first `value_size` numbers of its key. Then no values are
            stored.
    """

    n_head: int
    n_head_kv: int
    key_size: int
    value_size: int
    scale: float
    rope: Rope | None = None
    window: int = 0
    causal: bool = True
    softcap: float = 0.0
    sinks: bool = False
    alibi: float = 0.0
    temperature_scale: float = 0.0
    temperature_length: int = 0
    norm_after_rope: bool = False
    norm_values: bool = False
    keys_as_values: bool = False
    output_gate: bool = False
    shared: int | None = None
    values_in_keys: bool = False

    @property
    def group(self) -> int:
        """Number of query heads that share a key/value head."""
        return self.n_head // self.n_head_kv

    @property
    def q_width(self) -> int:
        """Width of all queries, H · Dk."""
        return self.n_head * self.key_size

    @property
    def k_width(self) -> int:
        """Width of all keys, K · Dk."""
        return self.n_head_kv * self.key_size

    @property
    def v_width(self) -> int:
        """Width of all values that are stored separately from the keys, K · Dv."""
        return 0 if self.values_in_keys else self.n_head_kv * self.value_size

    @property
    def out_width(self) -> int:
        """Width of the heads' outputs, H · Dv."""
        return self.n_head * self.value_size


@dataclass(frozen=True, kw_only=True)
class LatentAttention(Attention):
    """Attention over one short row for each token that all heads share (DeepSeek-V2, 2024), in absorbed form.

    In the original form, a head's key is the head's key matrix times the first `kv_rank` numbers of the row,
    followed by the row's last numbers, which are rotated; its value is another matrix times the first
    numbers. In the absorbed form, the key matrix multiplies the head's query instead, and the value matrix
    multiplies the head's result. So the row itself is the key of all heads (n_head_kv is 1, key_size is the
    length of the row), and its first numbers are the value (`values_in_keys`).

    Attributes:
        head_key_size, head_value_size: numbers of a head's query before the multiplication, and of its
            output.
        q_rank: length of the row that queries are made from; 0 if they are made from the input.
        split: whether the file has separate matrices for keys and values, head by head.
    """

    head_key_size: int
    head_value_size: int
    q_rank: int = 0
    split: bool = True
    values_in_keys: bool = True

    @property
    def kv_rank(self) -> int:
        """Numbers of a row that keys and values are made from."""
        return self.value_size

    @property
    def rope_size(self) -> int:
        """Numbers at the end of a query or row, which are rotated."""
        return self.rope.dim if self.rope else 0

    @property
    def plain_size(self) -> int:
        """Numbers at the start of a head's query, which aren't rotated."""
        return self.head_key_size - self.rope_size


@dataclass(frozen=True, kw_only=True)
class ShortConvolution:
    """A gated convolution over the latest tokens (LFM2): out(c · conv(b · x)), with b, c, x = in(input).

    Its state is the last `n_taps - 1` rows of b · x, whatever the length of the text.

    Attributes:
        width: numbers of a token, n_embd.
        n_taps: number of tokens that the convolution sees, including the present one.
    """

    width: int
    n_taps: int

    @property
    def tail_shape(self) -> tuple[int, int]:
        """Number of earlier rows that the next token needs, and their width."""
        return self.n_taps - 1, self.width

    @property
    def state_shape(self) -> tuple[int, ...]:
        """Shape of the recurrent state, which is empty."""
        return (0,)


@dataclass(frozen=True, kw_only=True)
class Mamba2:
    """A state-space model whose heads decay at a rate that each token determines (Dao and Gu, 2024).

    Its state is a matrix for each head, and the latest rows that its convolution needs.

    Attributes:
        n_head: number of heads.
        head_size: numbers of a token in each head.
        n_group: number of groups of heads that share b, which writes to the state, and c, which reads it.
        state_size: numbers of b and c.
        n_taps: number of tokens that the convolution sees, including the present one.
    """

    n_head: int
    head_size: int
    n_group: int
    state_size: int
    n_taps: int

    @property
    def inner_width(self) -> int:
        """Width of all heads."""
        return self.n_head * self.head_size

    @property
    def conv_width(self) -> int:
        """Width of the convolution's rows: the heads, then b and c of every group."""
        return self.inner_width + 2 * self.n_group * self.state_size

    @property
    def tail_shape(self) -> tuple[int, int]:
        """Number of earlier rows that the next token needs, and their width."""
        return self.n_taps - 1, self.conv_width

    @property
    def state_shape(self) -> tuple[int, ...]:
        """Shape of the state: a row of head_size for each head and each number of b."""
        return self.n_head, self.state_size, self.head_size


@dataclass(frozen=True, kw_only=True)
class Mamba:
    """A state-space model in which every number has its own decay rates (Gu and Dao, 2023).

    Attributes:
        width: numbers of a token in the state-space model.
        rank: numbers from which a token's time steps are computed.
        state_size: numbers in the state for each number of a token.
        n_taps: as in Mamba2.
    """

    width: int
    rank: int
    state_size: int
    n_taps: int

    @property
    def tail_shape(self) -> tuple[int, int]:
        """Number of earlier rows that the next token needs, and their width."""
        return self.n_taps - 1, self.width

    @property
    def state_shape(self) -> tuple[int, ...]:
        """Shape of the state: rows as wide as a token."""
        return self.state_size, self.width


@dataclass(frozen=True, kw_only=True)
class DeltaNet:
    """Linear attention with the gated delta rule (Yang et al., 2024).

    Each head's matrix decays, and each token corrects the matrix's value for its key.

    Attributes:
        n_head_k: number of heads of queries and keys.
        n_head: number of heads of values. Several share a query and a key.
        head_size: numbers of a query, a key and a value.
        n_taps: number of tokens that the convolution sees, including the present one.
        tiled: whether value head h reads key head h % n_head_k. If not, it reads h // (n_head / n_head_k).
        fused_rates: whether the file has both matrices of the rates in one, `ssm_ba`.
    """

    n_head_k: int
    n_head: int
    head_size: int
    n_taps: int
    tiled: bool = True
    fused_rates: bool = False

    @property
    def key_width(self) -> int:
        """Width of all queries, and of all keys."""
        return self.n_head_k * self.head_size

    @property
    def value_width(self) -> int:
        """Width of all values."""
        return self.n_head * self.head_size

    @property
    def conv_width(self) -> int:
        """Width of the convolution's rows: queries, keys, values."""
        return 2 * self.key_width + self.value_width

    @property
    def tail_shape(self) -> tuple[int, int]:
        """Number of earlier rows that the next token needs, and their width."""
        return self.n_taps - 1, self.conv_width

    @property
    def state_shape(self) -> tuple[int, ...]:
        """Shape of the state: a row as long as a value for each head and each number of a key."""
        return self.n_head, self.head_size, self.head_size


@dataclass(frozen=True, kw_only=True)
class FeedForward:
    """One network for every token: down(activation(gate(x)) · up(x)), or down(activation(up(x))).

    Attributes:
        n_ff: its inner width.
        activation: one of ACTIVATIONS.
        gated: whether there is a gate.
    """

    n_ff: int
    activation: str = "silu"
    gated: bool = True


@dataclass(frozen=True, kw_only=True)
class Experts:
    """A mixture of feed-forward networks: a router chooses `n_used` of them for each token.

    Attributes:
        n_expert, n_used: number of experts, and of those that a token uses.
        n_ff: the inner width of an expert.
        activation: one of ACTIVATIONS.
        gating: the function of the scores: "softmax" (over all experts, before the best are chosen),
            "softmax_chosen" (over the chosen experts only) or "sigmoid".
        normalized: whether the chosen experts' weights are divided by their sum.
        weight_scale: factor of the weights afterwards.
        n_ff_shared: the width of a network that is applied to every token in addition; 0 for none.
        shared_gate: whether a sigmoid of `ffn_gate_inp_shexp` · x multiplies that network's output.
        beside: a dense network that runs in parallel with the experts, with a norm after each, or None.
        fused: whether the file has each expert's gate and `up` in one matrix, `ffn_gate_up_exps`.
        n_group, n_group_used: experts are chosen from the best `n_group_used` of `n_group` groups of equal
            size. A group's score is that of its best expert; with "sigmoid", it is the sum of its two best.
    """

    n_expert: int
    n_used: int
    n_ff: int
    activation: str = "silu"
    gating: str = "softmax"
    normalized: bool = True
    weight_scale: float = 1.0
    n_ff_shared: int = 0
    shared_gate: bool = False
    beside: FeedForward | None = None
    fused: bool = False
    n_group: int = 1
    n_group_used: int = 1


@dataclass(frozen=True, kw_only=True)
class Layer:
    """One block: a mixer and a feed-forward network.

    The tensors in the file determine the norms: `attn_norm` and `ffn_norm` are before a branch,
    `post_attention_norm` and `post_ffw_norm` after it and before the residual, `attn_output_norm` and
    `layer_output_norm` after the residual.

    Attributes:
        mixer: the part that mixes tokens.
        feed_forward: the part that works on each token separately, or None.
        norm: "rms" or "layer".
        eps: number added to a mean of squares, or to a variance.
        parallel: whether both branches read the layer's input, and the output is the sum of all three.
        residual_scale: factor of both branches' outputs.
    """

    mixer: Any  # the record of one of mixers.MIXERS
    feed_forward: FeedForward | Experts | None
    norm: str = "rms"
    eps: float = 1e-5
    parallel: bool = False
    residual_scale: float = 1.0


def alibi_slopes(spec: Attention) -> np.ndarray:
    """Return each head's slope of ALiBi, the loss of score per position, float32 (H,); Press et al. 2022."""
    n = 1 << int(math.log2(spec.n_head))  # the largest power of two up to the number of heads
    even, odd = 2 ** (-spec.alibi / n), 2 ** (-spec.alibi / 2 / n)
    slopes = [even ** (h + 1) if h < n else odd ** (2 * (h - n) + 1) for h in range(spec.n_head)]
    return np.array(slopes, np.float32)


def temperatures(positions: np.ndarray, spec: Attention) -> np.ndarray:
    """Return the factors of queries at `positions` p: 1 + scale · ln(⌊p / length⌋ + 1)."""
    steps = np.floor(positions / spec.temperature_length)
    return (1 + spec.temperature_scale * np.log(steps + 1)).astype(np.float32)

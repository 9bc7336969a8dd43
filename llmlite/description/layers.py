"""Layers, described one by one: small frozen records that the forward pass and both executors read.

A model is a tuple of `Layer`s. Each says what mixes tokens (`Attention`; other mixers have records of their
own), what follows (`FeedForward`, `Experts`), and how the branches join. Names are built from a file's
metadata and from which tensors it holds (layer_keys.py); no record knows an architecture's name.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

ACTIVATIONS = ("silu", "gelu", "gelu_erf", "relu2", "swiglu_oai")


@dataclass(frozen=True, kw_only=True)
class Rope:
    """Rotary position embedding of a layer: which angles, and which elements they turn.

    Attributes:
        dim: how many elements of each head are turned, an even number.
        pairs: "norm" turns elements (2i, 2i + 1) together, "neox" (i, i + dim/2).
        base: the lowest frequency is about 1/base.
        scale: every position is multiplied by it (linear scaling of the context).
        factors: the tensor whose values divide the frequencies ("rope_freqs", "rope_factors_long",
            "rope_factors_short"), or "".
        magnitude: multiplies cosines and sines (attention factor of yarn and longrope).
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
    """Peng et al. 2023: high frequencies stay, low ones are scaled, a ramp lies between.

    Attributes:
        n_ctx: the context the model was first trained for.
        beta_fast, beta_slow: turns within n_ctx at which the ramp begins and ends.
        mix: how much of the blend counts (`ext_factor`), 0 to 1.
        rounded: whether the ramp's ends are rounded to whole pairs.
    """

    n_ctx: int
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    mix: float = 1.0
    rounded: bool = True


@dataclass(frozen=True, kw_only=True)
class Attention:
    """Softmax attention over keys and values that a cache keeps.

    Attributes:
        n_head, n_head_kv: query heads, and the key/value heads that groups of them share.
        key_size, value_size: numbers in a key (and a query) and in a value.
        scale: scores are multiplied by it before the softmax.
        rope: how queries and keys are turned, or None.
        window: a query sees the `window` latest positions, itself included; 0: all of them. Without
            `causal`, positions at most window/2 away on either side.
        causal: whether a query sees only positions up to its own; else all of the step's.
        softcap: scores become softcap · tanh(score / softcap); 0: they stay.
        sinks: whether each head has a logit that counts in the softmax's denominator only.
        alibi: the largest slope exponent of ALiBi (scores lose slope · distance); 0: none.
        temperature_scale, temperature_length: queries are multiplied by
            1 + scale · ln(floor(position / length) + 1); 0: they stay.
        norm_after_rope: whether per-head norms of queries and keys come after the rotation.
        norm_values: whether values are divided by their root mean square, head by head.
        keys_as_values: whether the values are what the keys are made of, before their norm: the file has no
            `attn_v`.
        output_gate: whether `attn_q` holds, for each head, a query and a gate whose sigmoid multiplies the
            head's output.
        shared: the layer whose keys and values this one reads instead of its own, or None.
        values_in_keys: whether a value is the first `value_size` numbers of its key: only keys are stored.
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
        """Query heads that share a key/value head."""
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
        """Width of all values that are stored beside the keys, K · Dv."""
        return 0 if self.values_in_keys else self.n_head_kv * self.value_size

    @property
    def out_width(self) -> int:
        """Width of the heads' outputs, H · Dv."""
        return self.n_head * self.value_size


@dataclass(frozen=True, kw_only=True)
class LatentAttention(Attention):
    """Attention by one short row for each token, which all heads share (DeepSeek-V2, 2024), absorbed.

    A head's key would be a matrix of its own times the first `kv_rank` numbers of the row, followed by the
    row's last numbers, which are turned; its value another matrix times the first ones. Instead of keys, the
    head's query is multiplied by the keys' matrix, and instead of values, what it finds by the values'
    matrix. So the row itself is the key of all heads (n_head_kv is 1, key_size the length of the row), and
    its first numbers are the value: `values_in_keys`.

    Attributes:
        head_key_size, head_value_size: numbers of a head's query before it is multiplied, and of its output.
        q_rank: numbers of the row that queries are made of; 0: of the input.
        split: whether the file holds the matrices of keys and of values by themselves, head by head.
    """

    head_key_size: int
    head_value_size: int
    q_rank: int = 0
    split: bool = True
    values_in_keys: bool = True

    @property
    def kv_rank(self) -> int:
        """Numbers of a row that keys and values are made of."""
        return self.value_size

    @property
    def rope_size(self) -> int:
        """Numbers of a query or row that are turned: the last ones."""
        return self.rope.dim if self.rope else 0

    @property
    def plain_size(self) -> int:
        """Numbers of a head's query that are not turned: the first ones."""
        return self.head_key_size - self.rope_size


@dataclass(frozen=True, kw_only=True)
class ShortConvolution:
    """A gated convolution over the latest tokens (LFM2): out(c · conv(b · x)), with b, c, x = in(input).

    Its state is the last `n_taps - 1` rows of b · x, whatever the length of the text.

    Attributes:
        width: numbers of a token, n_embd. n_taps: tokens that the convolution sees, this one included.
    """

    width: int
    n_taps: int

    @property
    def tail_shape(self) -> tuple[int, int]:
        """Rows that the next token needs of earlier ones, and their width."""
        return self.n_taps - 1, self.width

    @property
    def state_shape(self) -> tuple[int, ...]:
        """It has no other state."""
        return (0,)


@dataclass(frozen=True, kw_only=True)
class Mamba2:
    """A state-space model whose heads forget at a rate that each token sets (Dao and Gu, 2024).

    Its state is a matrix for each head, and the last rows that its convolution needs.

    Attributes:
        n_head, head_size: heads, and the numbers of a token that each takes.
        n_group: groups of heads that share what writes to the state (b) and what reads it (c).
        state_size: numbers of b and c. n_taps: tokens that the convolution sees, this one included.
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
        """Rows that the next token needs of earlier ones, and their width."""
        return self.n_taps - 1, self.conv_width

    @property
    def state_shape(self) -> tuple[int, ...]:
        """For each head and each number of b a row as long as the head."""
        return self.n_head, self.state_size, self.head_size


@dataclass(frozen=True, kw_only=True)
class Mamba:
    """A state-space model whose every number forgets at rates of its own (Gu and Dao, 2023).

    Attributes:
        width: numbers of a token in the state-space model.
        rank: numbers from which a token's time steps come.
        state_size: numbers that the state keeps for each. n_taps: as in Mamba2.
    """

    width: int
    rank: int
    state_size: int
    n_taps: int

    @property
    def tail_shape(self) -> tuple[int, int]:
        """Rows that the next token needs of earlier ones, and their width."""
        return self.n_taps - 1, self.width

    @property
    def state_shape(self) -> tuple[int, ...]:
        """Rows as wide as a token."""
        return self.state_size, self.width


@dataclass(frozen=True, kw_only=True)
class DeltaNet:
    """Linear attention by the gated delta rule (Yang et al., 2024): each head's matrix forgets, and a token
    corrects what the matrix holds for its key.

    Attributes:
        n_head_k: heads of queries and keys. n_head: heads of values; several share a query and a key.
        head_size: numbers of a query, a key and a value.
        n_taps: tokens that the convolution sees, this one included.
        tiled: whether value head h reads key head h % n_head_k, else h // (n_head / n_head_k).
        fused_rates: whether the file holds the rates' two matrices in one, `ssm_ba`.
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
        """Rows that the next token needs of earlier ones, and their width."""
        return self.n_taps - 1, self.conv_width

    @property
    def state_shape(self) -> tuple[int, ...]:
        """For each head and each number of a key a row as long as a value."""
        return self.n_head, self.head_size, self.head_size


@dataclass(frozen=True, kw_only=True)
class FeedForward:
    """One network for every token: down(activation(gate(x)) · up(x)), or down(activation(up(x))).

    Attributes:
        n_ff: its inner width. activation: one of ACTIVATIONS. gated: whether there is a gate.
    """

    n_ff: int
    activation: str = "silu"
    gated: bool = True


@dataclass(frozen=True, kw_only=True)
class Experts:
    """A mixture of feed-forward networks: each token goes through the `n_used` that a router chooses.

    Attributes:
        n_expert, n_used: how many there are, and how many a token uses.
        n_ff: the inner width of one. activation: one of ACTIVATIONS.
        gating: "softmax" (over all experts, then the best are chosen), "softmax_chosen" (over the chosen
            only) or "sigmoid".
        normalized: whether the chosen experts' weights are made to add up to 1. weight_scale: what they
            are multiplied by then.
        n_ff_shared: the width of a network that every token goes through as well; 0: none.
        shared_gate: whether a sigmoid of `ffn_gate_inp_shexp` · x multiplies its output.
        beside: a dense network that runs beside the experts, with norms of its own after both, or None.
        fused: whether the file holds each expert's gate and `up` in one matrix, `ffn_gate_up_exps`.
        n_group, n_group_used: experts are chosen among those of the best `n_group_used` of `n_group` groups
            of the same size. A group counts as much as its best expert; with "sigmoid", as its two best
            together.
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
    """One block: a mixer and what follows it.

    Which norms stand before, after or inside the branches follows from the tensors that the file holds:
    `attn_norm` and `ffn_norm` before them, `post_attention_norm` and `post_ffw_norm` after them and before
    the residual, `attn_output_norm` and `layer_output_norm` after the residual.

    Attributes:
        mixer: mixes tokens. feed_forward: works on each token alone, or None.
        norm: "rms" or "layer". eps: added to a mean of squares, or to a variance.
        parallel: whether both branches read the layer's input, and the output is the sum of all three.
        residual_scale: multiplies both branches' outputs.
    """

    mixer: Any  # the record of one of mixers.MIXERS
    feed_forward: FeedForward | Experts | None
    norm: str = "rms"
    eps: float = 1e-5
    parallel: bool = False
    residual_scale: float = 1.0


def alibi_slopes(spec: Attention) -> np.ndarray:
    """Return what each head's scores lose per position of distance, float32 (H,); Press et al. 2022."""
    n = 1 << int(math.log2(spec.n_head))  # the largest power of two up to the number of heads
    even, odd = 2 ** (-spec.alibi / n), 2 ** (-spec.alibi / 2 / n)
    slopes = [even ** (h + 1) if h < n else odd ** (2 * (h - n) + 1) for h in range(spec.n_head)]
    return np.array(slopes, np.float32)


def temperatures(positions: np.ndarray, spec: Attention) -> np.ndarray:
    """Return what queries at `positions` p are multiplied by: 1 + scale · ln(⌊p / length⌋ + 1)."""
    steps = np.floor(positions / spec.temperature_length)
    return (1 + spec.temperature_scale * np.log(steps + 1)).astype(np.float32)

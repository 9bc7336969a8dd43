"""The contract between recorder, plan and kernels: the layout of memory, defined once and without numba.

A kernel is called as (record, rank, n_threads, worker): it computes piece `rank` of `n_threads` pieces, on
the thread `worker`, whose scratch memory it may use. Its record is an array of int64 words: the address of
the step record, then one word for each argument. If an operation has many arguments, one of them is the
address of a separate record; both kinds are declared here as dataclasses, whose fields are words in order.
"""

from __future__ import annotations

import dataclasses
from collections import namedtuple
from dataclasses import dataclass
from typing import Any

WORD = 8  # bytes

# ---- sizes that both sides must agree on -------------------------------------------------------------------

FEW_TOKENS = 16  # up to this number, weights are multiplied as they are read, without a tile
TILE_TOKENS = 12  # matrix kernels take 6, 4 or 2 tokens at a time: a common multiple
NO_FAULT = 1 << 62
MAX_PIECES = 8  # of an operation that a thread of the team may own

CACHE_BLOCK = 32  # positions whose keys are stored transposed, and whose scores are made together
ATTENTION_QUERIES = 4  # queries at a time, at most (`tiles.QUERIES`)
ATTENTION_PART = 256  # positions summed together, counted from position 0; parts are merged in order
ATTENTION_SHARED = 2  # tokens: up to this number, threads may share the parts of one
ATTENTION_PARTS = 128  # parts of a few tokens that threads may share; with more, a thread takes whole rows
ATTENTION_FORMS = (64, 128, 256)  # sizes of keys and values that have a kernel of their own
ATTENTION_ROW_BYTES = 64 << 10  # approximate bytes of queries and sums in a unit of work
ATTENTION_ROWS = 32  # the minimum in a unit of work
ATTENTION_ROWS_IN_KEYS = 128  # if it transposes keys into values: 14 % faster than 32 for DeepSeek-V2-Lite


# ---- records -----------------------------------------------------------------------------------------------


def offsets(record: type) -> Any:
    """Return the byte offset of each field of a record, as a named tuple: numba reads it as constants."""
    names = [f.name for f in dataclasses.fields(record)]
    made = namedtuple(f"{record.__name__}Offsets", names)  # type: ignore[misc]  # its name is computed
    return made(*(WORD * i for i in range(len(names))))


@dataclass
class Step:
    """The facts that change from one run of a plan to the next.

    Attributes:
        n_tokens: rows of the step, of all its sequences together.
        n_outputs: rows whose logits are needed.
        n_slots, n_output_slots: n_tokens and n_outputs times the experts that each row uses.
        ids: address of the token ids, int64 (n_tokens,).
        positions: address of each row's position in its sequence, int64 (n_tokens,).
        outputs: address of the rows whose logits are needed, int64 (n_outputs,).
        n_sequences: number of sequences that the rows belong to.
        sequences: address of their `Sequence` records, one after another.
        tables: address of the addresses of tables, int64 (n_tables,). A table has a row of float32 for each
            position from 0 on (RoPE: cosines, then sines).
        faults: address of an int64: the number of the first operation that met a number that is not finite,
            plus 1; NO_FAULT if there was none.
        types: address of each row's token type, int64 (n_tokens,).
    """

    n_tokens: int = 0
    n_outputs: int = 0
    n_slots: int = 0
    n_output_slots: int = 0
    ids: int = 0
    positions: int = 0
    outputs: int = 0
    n_sequences: int = 0
    sequences: int = 0
    tables: int = 0
    faults: int = 0
    types: int = 0


@dataclass
class Sequence:
    """One sequence's part of a step.

    Attributes:
        first, end: its rows.
        position: position of its first row.
        states: address of its cache's `LayerWords`, one record for each layer.
    """

    first: int = 0
    end: int = 0
    position: int = 0
    states: int = 0


@dataclass
class LayerWords:
    """The addresses of a layer's state (`llmlite.engine.kv_cache`).

    Attributes:
        k, v: addresses of keys and values.
        size: positions there is room for, a multiple of CACHE_BLOCK; position p is stored at p % size.
        k_scales, v_scales: addresses of the scales of a quantized cache, float16 (K, size/32, D/32, 32), or
            0.
        conv, state: addresses of the convolution tail and state that a recurrent mixer's step reads, or 0.
        flip: bytes from these addresses to the tail and state that the step writes.
    """

    k: int = 0
    v: int = 0
    size: int = 0
    k_scales: int = 0
    v_scales: int = 0
    conv: int = 0
    state: int = 0
    flip: int = 0


@dataclass
class AttentionRecord:
    """The arguments of `attention` and `merge_parts`.

    T tokens, H heads, Dk and Dv the sizes of keys and values.

    Attributes:
        q: float32 (T, H·Dk).
        out: float32 (T, H·Dv).
        parts, states: memory for the parts of positions that threads share: float32
            (n_parts, T, H, Dv rounded up to 16), and (n_parts, T, H, 2).
        n_parts: number of parts there is room for; with 0, none is shared, and `merge_parts` does nothing.
        scratch: `scratch_bytes` for each thread (`attention_scratch`).
        tile_rows: queries of a unit of work.
        layer: index of a sequence's `LayerWords`.
        scale, window, causal, softcap: as in `llmlite.description.layers.Attention`.
        sinks, slopes: addresses of float32 (H,), or 0: logits that count only in the denominator, and the
            loss of a score for each position of distance (ALiBi).
    """

    q: Any = 0
    out: Any = 0
    parts: Any = 0
    states: Any = 0
    n_parts: int = 0
    scratch: Any = 0
    scratch_bytes: int = 0
    tile_rows: int = 0
    layer: int = 0
    n_head: int = 0
    n_head_kv: int = 0
    key_size: int = 0
    value_size: int = 0
    scale: float = 1.0
    window: int = 0
    causal: int = 1
    softcap: float = 0.0
    sinks: Any = 0
    slopes: Any = 0


@dataclass
class MatmulRecord:
    """The arguments of a product of a quantized matrix with many tokens (kernels/matmul.py).

    Attributes:
        rows: offset in the step record of the number of tokens.
        unpack, multiply: addresses of the routines that unpack 32 rows and multiply them (kernels/unpack.py,
            kernels/multiply.py).
        paired: 1 if `multiply` takes two blocks of the only group at once, else 0.
        zero: number to subtract from its quants.
        w: the matrix, `n_rows` rows of `width` weights, of `row_bytes` each.
        q, d: activations as bytes (T, width), and their scales, float32 (T, width/32).
        sums: of activations, int32; or times their scales, float32 (T, width/32 or width/16).
        out: float32 (T, n_rows).
        scratch: `scratch_bytes` for each thread (`families.Family.scratch_bytes`).
    """

    rows: int = 0
    unpack: Any = 0
    multiply: Any = 0
    paired: int = 0
    w: Any = 0
    row_bytes: int = 0
    q: Any = 0
    d: Any = 0
    sums: Any = 0
    out: Any = 0
    n_rows: int = 0
    width: int = 0
    zero: int = 0
    scratch: Any = 0
    scratch_bytes: int = 0


def attention_tile(n_rows: int, key_size: int, value_size: int, least: int = ATTENTION_ROWS) -> int:
    """Return the number of queries in a unit of work, if a sequence may have n_rows for a key/value head."""
    rows = max(least, min(256, ATTENTION_ROW_BYTES // (4 * (key_size + value_size)) // 16 * 16))
    return min(rows, -(-n_rows // ATTENTION_QUERIES) * ATTENTION_QUERIES)


def attention_scratch(tile_rows: int, key_size: int, value_size: int) -> int:
    """Return the bytes of scratch memory for a thread of the attention kernel."""
    n_bytes = ATTENTION_QUERIES * CACHE_BLOCK * 4 + 64  # scores, then factors of older sums
    n_bytes += CACHE_BLOCK * 4  # scales of a quantized cache
    n_bytes += CACHE_BLOCK * (key_size + value_size) * 4 + 64  # a block as float32; reads past its end
    q_bytes, o_bytes = -(-key_size // 16) * 64, -(-value_size // 32) * 128
    n_bytes += tile_rows * (q_bytes + 2 * o_bytes + 64)  # queries, sums of a part and of all, a line of facts
    return -(-n_bytes // 64) * 64


STEP, SEQUENCE, LAYER = offsets(Step), offsets(Sequence), offsets(LayerWords)
SEQUENCE_BYTES, LAYER_BYTES = WORD * len(SEQUENCE), WORD * len(LAYER)
ATTENTION, MATMUL = offsets(AttentionRecord), offsets(MatmulRecord)

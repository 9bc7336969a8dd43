"""Compute attention of one layer with the compiled kernels and with a plain twin."""

from __future__ import annotations

import ctypes
import dataclasses
import functools

import numpy as np
import pytest

from llmlite.description.layers import Attention
from llmlite.engine.contract import (
    ATTENTION_FORMS,
    AttentionRecord,
    LayerWords,
    Sequence,
    Step,
    attention_scratch,
    attention_tile,
)
from llmlite.engine.families import declared_kernel
from llmlite.engine.kv_cache import KV_NAMES, AttentionState, quantize
from llmlite.engine.planned import layer_words

KINDS = {np.float16: "f16", np.float32: "f32", np.int8: "q8_0"}
RUN = ctypes.CFUNCTYPE(None, *[ctypes.c_int64] * 4)


@functools.cache
def entry(module: str, name: str):
    return RUN(declared_kernel(module, name).address)


def words(record) -> np.ndarray:
    """Return a record as kernels read it: addresses and integers unchanged, floats as float64 bits."""
    out = np.zeros(len(dataclasses.fields(record)), np.int64)
    for i, field in enumerate(dataclasses.fields(record)):
        value = getattr(record, field.name)
        if isinstance(value, np.ndarray):
            out[i] = value.ctypes.data
        elif isinstance(value, float):
            out[i : i + 1].view(np.float64)[0] = value
        else:
            out[i] = value
    return out


def run(module: str, name: str, *arguments: int, threads: int) -> None:
    record = np.array(arguments, np.int64)
    for rank in range(threads):
        entry(module, name)(record.ctypes.data, rank, threads, rank)


class Layer:
    """Run steps of several sequences through the compiled attention kernels of one layer."""

    def __init__(
        self, spec: Attention, dtype, *, n_parts: int = 0, threads: int = 1, sinks=0, slopes=0
    ) -> None:
        self.spec, self.kind, self.threads = spec, KV_NAMES[np.dtype(dtype)], threads
        self.n_parts, self.sinks, self.slopes = n_parts, sinks, slopes

    def step(self, parts: list[tuple[AttentionState, int, np.ndarray, np.ndarray, np.ndarray]]) -> np.ndarray:
        """Store keys and values, then attend.

        Args:
            parts: (state, position, q, k, v) of each sequence; q is (T, H·Dk).
        """
        spec, layer = self.spec, 1
        q, k, v = (np.concatenate([part[i] for part in parts]) for i in (2, 3, 4))
        n_tokens = len(q)
        layers = np.zeros((len(parts), 2, len(dataclasses.fields(LayerWords))), np.int64)
        sequences = np.zeros((len(parts), len(dataclasses.fields(Sequence))), np.int64)
        first = 0
        for i, (state, position, own, *_) in enumerate(parts):
            layers[i, layer] = layer_words(state)
            end = first + len(own)
            sequences[i] = words(Sequence(first, end, position, layers[i].ctypes.data))
            first = end
        step = words(Step(n_tokens=n_tokens, n_sequences=len(parts), sequences=sequences))
        sizes = (spec.n_head_kv, spec.key_size, 0 if spec.values_in_keys else spec.value_size)
        place = step.ctypes.data
        run(
            "cache",
            f"store_{self.kind}",
            place,
            k.ctypes.data,
            v.ctypes.data,
            layer,
            *sizes,
            threads=self.threads,
        )
        out = np.full((n_tokens, spec.out_width), np.nan, np.float32)
        tile = attention_tile(n_tokens * spec.group, spec.key_size, spec.value_size)
        size = attention_scratch(tile, spec.key_size, spec.value_size)
        padded = -(-spec.value_size // 16) * 16
        record = AttentionRecord(
            q=q, out=out, layer=layer, tile_rows=tile, scratch_bytes=size, n_parts=self.n_parts,
            parts=np.full((self.n_parts, n_tokens, spec.n_head, padded), np.nan, np.float32),
            states=np.full((self.n_parts, n_tokens, spec.n_head, 2), np.nan, np.float32),
            scratch=np.full(size * self.threads, 255, np.uint8),
            n_head=spec.n_head, n_head_kv=spec.n_head_kv, key_size=spec.key_size, value_size=spec.value_size,
            scale=spec.scale, window=spec.window, causal=int(spec.causal), softcap=spec.softcap,
            sinks=self.sinks, slopes=self.slopes,
        )  # fmt: skip
        address = words(record)
        form = f"_{spec.key_size}" if spec.key_size == spec.value_size in ATTENTION_FORMS else ""
        form = "_in_keys" if spec.values_in_keys else form
        run("attention", f"attention_{self.kind}{form}", place, address.ctypes.data, threads=self.threads)
        if self.n_parts:
            run("attention", "merge_parts", place, address.ctypes.data, threads=self.threads)
        return out


def twin(spec: Attention, q, k, v, position: int, sinks=0, slopes=0) -> np.ndarray:
    """Compute the formula in double precision; q (T, H·Dk) starts at `position`, k and v at position 0."""
    T, end = len(q), len(k)
    q = q.reshape(T, spec.n_head, spec.key_size).astype(np.float64) * spec.scale
    k = k.reshape(end, spec.n_head_kv, spec.key_size).astype(np.float64)
    if spec.values_in_keys:
        v = k[..., : spec.value_size]
    else:
        v = v.reshape(end, spec.n_head_kv, spec.value_size).astype(np.float64)
    distance = np.arange(position, position + T)[:, None] - np.arange(end)  # (T, end)
    seen = np.ones(distance.shape, bool)
    if spec.causal:
        seen = distance >= 0
        if spec.window:
            seen &= distance < spec.window
    elif spec.window:
        seen = abs(distance) <= spec.window // 2
    out = np.empty((T, spec.n_head, spec.value_size))
    for head in range(spec.n_head):  # one at a time, because all at once don't fit the CPU's caches
        score = q[:, head] @ k[:, head // spec.group].T  # (T, end)
        if spec.softcap:
            score = spec.softcap * np.tanh(score / spec.softcap)
        if isinstance(slopes, np.ndarray):
            score -= slopes[head].astype(np.float64) * abs(distance)
        score[~seen] = -np.inf
        if isinstance(sinks, np.ndarray):
            score = np.append(score, np.full((T, 1), sinks[head], np.float64), axis=1)
        weight = np.exp(score - score.max(axis=-1, keepdims=True))
        weight = (weight / weight.sum(axis=-1, keepdims=True))[:, :end]
        out[:, head] = weight @ v[:, head // spec.group]
    return out.reshape(T, -1)


def numbers(rng, spec: Attention, n: int, dtype) -> tuple[np.ndarray, ...]:
    """Return random q, k and v of n positions; the cache can store k and v exactly."""
    q = rng.standard_normal((n, spec.q_width), np.float32)
    if spec.values_in_keys:
        v = np.zeros((n, 0), np.float32)
        k = rng.standard_normal((n, spec.k_width), np.float32)
        if dtype != np.int8:
            return q, k.astype(dtype).astype(np.float32), v
        codes, scales = quantize(k)
        return q, codes * scales.astype(np.float32).repeat(32, axis=-1), v
    k, v = (rng.standard_normal((n, width), np.float32) for width in (spec.k_width, spec.v_width))
    if dtype != np.int8:
        return q, k.astype(dtype).astype(np.float32), v.astype(dtype).astype(np.float32)
    return q, *(
        codes * scales.astype(np.float32).repeat(32, axis=-1) for codes, scales in map(quantize, (k, v))
    )


def cuts(n: int, sizes: list[int]) -> list[tuple[int, int]]:
    """Return ranges that cover n positions and repeat the given sizes in turn."""
    out, at = [], 0
    while at < n:
        size = sizes[len(out) % len(sizes)]
        out.append((at, min(at + size, n)))
        at += size
    return out


def through(layer: Layer, q, k, v, sizes: list[int], dtype, chunk: int = 256) -> np.ndarray:
    """Return the output of all positions, computed in steps of the given sizes."""
    state = AttentionState(layer.spec, len(q), dtype, chunk)
    return np.concatenate([layer.step([(state, a, q[a:b], k[a:b], v[a:b])]) for a, b in cuts(len(q), sizes)])


def close(got: np.ndarray, expected: np.ndarray) -> None:
    assert np.isfinite(got).all()
    assert np.abs(got - expected).max() <= 3e-6 * np.abs(expected).max()


def spec_of(group: int, n_head_kv: int, key_size: int, value_size: int = 0, **rest) -> Attention:
    rest.setdefault("scale", key_size**-0.5)
    value_size = value_size or key_size
    return Attention(
        n_head=group * n_head_kv, n_head_kv=n_head_kv, key_size=key_size, value_size=value_size, **rest
    )


def each(names: str, rows: list[tuple], *sizes: int):
    """Parametrize a test with every row and each kind of cache that can store it.

    Q8_0 needs multiples of 32 in the columns `sizes`.
    """
    fit = [(*row, dtype) for row in rows for dtype in KINDS
           if dtype != np.int8 or not any(row[i] % 32 for i in sizes)]  # fmt: skip
    ids = ["-".join(map(str, row[:-1])) + "-" + KINDS[row[-1]] for row in fit]
    return pytest.mark.parametrize(f"{names}, dtype", fit, ids=ids)

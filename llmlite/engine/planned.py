"""The planned executor: the speed. Records the forward pass once for each length of step, then runs plans."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

import numpy as np

from llmlite.config import ModelConfig
from llmlite.engine.cpu import target, usable_threads
from llmlite.engine.jit import Progress, prepare
from llmlite.engine.plan import Plan, kernels_of
from llmlite.engine.recorder import Buffer, Recorder
from llmlite.guard import Watch
from llmlite.kv_cache import KVCache
from llmlite.limits import MAX_THREADS
from llmlite.locks import fork_safe
from llmlite.transformer import Weights, forward

PREFILL_TOKENS = 256
BYTES_PER_THREAD = 8 << 20  # of weights: below, a token's step is a fraction of a millisecond
RELEASED_BYTES = 16 << 20  # a larger arena is given back when single tokens follow; see docs/engine.md
SCORING_TOKENS = 64  # when all logits are wanted: bounds their buffer, (64, n_vocab)


def _matrices(weights: Weights) -> list[Any]:
    layers = [tensor for layer in weights.layers for tensor in layer.values() if hasattr(tensor, "blocks")]
    return [weights.token_embd, weights.output, *layers]


class PlannedExecutor:
    """Runs a model by compiled kernels on a team of threads; see llmlite.engine.Executor.

    Args:
        n_threads: at most so many; by default the physical cores this process may use, within its cgroup's
            quota. A single token's step that has too little work for them runs on fewer (`step_threads`).
        progress: called as progress(done, total, name) while kernels are compiled.

    Raises:
        UnsupportedError: something in the model that the kernels don't take.
        KernelError: kernels can't be compiled or loaded on this machine.
        ValueError: n_threads below 1 or above MAX_THREADS.
    """

    name = "planned"
    max_tokens = PREFILL_TOKENS

    def __init__(
        self,
        weights: Weights,
        config: ModelConfig,
        *,
        n_threads: int | None = None,
        kv_dtype: Any = np.float16,
        progress: Progress | None = None,
    ) -> None:
        if n_threads is not None and not 1 <= n_threads <= MAX_THREADS:
            raise ValueError(f"n_threads must be at least 1 and at most {MAX_THREADS}, got {n_threads}")
        self.weights, self.config = weights, config
        self.n_threads = n_threads or usable_threads()
        self.progress = progress
        self._plans: dict[tuple, Plan] = {}
        self._filled: set[Plan] = set()  # plans of many tokens whose arenas hold pages
        self._lock = fork_safe(threading.Lock())
        self._angles = np.empty((0, 2, len(weights.frequencies)), np.float32)
        self._watch = Watch(tensor.blocks for tensor in _matrices(weights))
        # Now: a model that can't be planned says so when it is made, and its kernels are compiled at one go.
        recorded = {kind: self._recorded(*kind, kv_dtype) for kind in ((1, 1), (PREFILL_TOKENS, 1))}
        prepare([k for recorder, _ in recorded.values() for k in kernels_of(recorder.ops)], progress)
        for kind, (recorder, result) in recorded.items():
            self._plans[*kind, np.dtype(kv_dtype).itemsize] = Plan(recorder, result, progress=progress)

    def __call__(self, ids: Sequence[int], cache: KVCache, *, n_outputs: int) -> np.ndarray:
        """Run `ids` behind the tokens in `cache`.

        Returns:
            float32 (n_outputs, n_vocab), the logits of the last `n_outputs` tokens.

        Raises:
            GGUFError: the model's file has been cut off since it was mapped.
        """
        logits = np.empty((n_outputs, self.config.n_vocab), np.float32)
        first_output = len(ids) - n_outputs
        at = 0
        while at < len(ids):
            wanted_behind = at >= first_output
            longest = SCORING_TOKENS if n_outputs > 1 and wanted_behind else PREFILL_TOKENS
            end = min(at + longest, len(ids))
            if (
                n_outputs > 1 and at < first_output < end
            ):  # the chunk of mere context stops where logits begin
                end = first_output
            self._step(ids[at:end], cache, logits[max(0, at - first_output) : max(0, end - first_output)])
            at = end
        return logits

    def plan(self, n_tokens: int, n_outputs: int, kv_dtype: Any) -> Plan:
        """Return the plan that runs a step of that size, recorded on first use."""
        kind = (
            (1, 1)
            if n_tokens == 1
            else (PREFILL_TOKENS, 1)
            if n_outputs <= 1
            else (SCORING_TOKENS, SCORING_TOKENS)
        )
        key = (*kind, np.dtype(kv_dtype).itemsize)
        with self._lock:
            if key not in self._plans:
                self._plans[key] = self.record(*kind, kv_dtype)
            return self._plans[key]

    def step_threads(self, max_tokens: int) -> int:
        """Return how many threads run a step of up to `max_tokens` tokens.

        A barrier costs nothing while every thread has a core of its own, and a time slice of the system
        (milliseconds) when another program holds one of them. Where the whole step takes less than that,
        two threads win a tenth on a quiet machine and lose nine tenths on a busy one.
        """
        if max_tokens > 1:
            return self.n_threads
        matrices = {id(tensor.blocks): tensor for tensor in _matrices(self.weights)}
        if self.weights.output is not self.weights.token_embd:
            matrices.pop(id(self.weights.token_embd.blocks))  # one row of it is read
        n_bytes = sum(tensor.n_bytes for tensor in matrices.values())
        return max(1, min(self.n_threads, n_bytes // BYTES_PER_THREAD))

    def record(self, max_tokens: int, max_outputs: int, kv_dtype: Any, *, keep_all: bool = False) -> Plan:
        """Record a plan for steps of up to `max_tokens` tokens."""
        recorder, result = self._recorded(max_tokens, max_outputs, kv_dtype)
        return Plan(recorder, result, keep_all=keep_all, progress=self.progress)

    def _recorded(self, max_tokens: int, max_outputs: int, kv_dtype: Any) -> tuple[Recorder, Buffer]:
        """The operations of such a step and the buffer of its logits."""
        recorder = Recorder(
            max_tokens=max_tokens,
            max_outputs=max_outputs,
            n_threads=self.step_threads(max_tokens),
            kv_itemsize=np.dtype(kv_dtype).itemsize,
        )
        shape_only = KVCache(
            self.config, 1, np.dtype(kv_dtype).type
        )  # where a cache lies is told at every step
        return recorder, forward(recorder, self.weights, self.config, shape_only, None)

    def _step(self, ids: Sequence[int], cache: KVCache, logits: np.ndarray) -> None:
        plan = self.plan(len(ids), len(logits), cache.k.dtype)
        with plan.lock:
            logits[:] = self.run_plan(plan, ids, cache, len(logits))
        self._watch.check()
        cache.ids.extend(int(token) for token in ids)
        if plan.max_tokens > 1:
            if plan.arena_bytes >= RELEASED_BYTES:
                self._filled.add(plan)
        elif self._filled:
            self._release()

    def _release(self) -> None:
        """While a text is written nobody needs what its prompt was read with."""
        for plan in list(self._filled):
            if plan.lock.acquire(blocking=False):  # else a step of another thread fills it right now
                try:
                    self._filled.discard(plan)
                    plan.release()
                finally:
                    plan.lock.release()

    def run_plan(
        self, plan: Plan, ids: Sequence[int], cache: KVCache, n_outputs: int, clock: np.ndarray | None = None
    ) -> np.ndarray:
        """Run one step of `plan`, whose lock is held; `cache` gets the keys and values, not the ids."""
        position = cache.position
        if position + len(ids) > cache.n_ctx:  # a kernel would write past the cache's end
            raise ValueError(f"{len(ids)} tokens behind {position} do not fit in a cache of {cache.n_ctx}")
        learned = self.weights.positions
        if learned is not None and position + len(ids) > len(learned):
            raise ValueError(f"{len(ids)} tokens behind {position}: the model knows {len(learned)} positions")
        angles = self._angles_up_to(position + len(ids))
        return plan.run(
            ids,
            n_outputs,
            clock=clock,
            position=position,
            n_ctx=cache.v.shape[2],  # n_ctx as it is laid out: whole blocks
            k_cache=cache.k.ctypes.data,
            v_cache=cache.v.ctypes.data,
            angles=angles.ctypes.data + position * angles[:1].nbytes,
        )

    def profile(self, *, n_tokens: int = 1, depth: int = 0, repeat: int = 5) -> list[dict[str, Any]]:
        """Time every operation of a step by itself, barrier included.

        Args:
            n_tokens: length of the step, at most PREFILL_TOKENS. depth: tokens that the cache holds before
                it.
            repeat: runs, of which each operation's median counts.

        Returns:
            One row per operation, in order, with the columns "operation" (the kernel), "label" (weight or
            result), "type", "nanoseconds", "bytes" (of weights) and "operations" (multiplications and
            additions with weights): what pandas.DataFrame takes.
        """
        plan = self.plan(n_tokens, 1, np.float16)
        cache = KVCache(self.config, depth + n_tokens, np.float16)
        cache.k[:], cache.v[:] = 0.01, 0.01  # of pages never written, the system keeps only one
        cache.ids.extend([0] * depth)
        clock = np.zeros((len(plan.ops) + 1, 2), np.int64)
        runs = []
        with plan.lock:
            for _ in range(repeat):
                self.run_plan(plan, [0] * n_tokens, cache, 1, clock)
                runs.append(np.diff(clock @ np.array([10**9, 1])))
        nanoseconds = np.median(runs, axis=0)
        return [
            {
                "operation": op.name,
                "label": op.label or op.writes[0].name,
                "type": op.type,
                "nanoseconds": float(spent),
                "bytes": op.bytes_read,
                "operations": op.work * int(plan.step[op.writes[0].rows // 8]),
            }
            for op, spent in zip(plan.ops, nanoseconds)
        ]

    def _angles_up_to(self, n: int) -> np.ndarray:
        """Cosines and sines for positions 0…n−1 at least, float32 (n, 2, rope_dim/2)."""
        angles = self._angles
        if len(angles) < n:
            positions = np.arange(max(n, 2 * len(angles), 256))
            turns = positions[:, None] * self.weights.frequencies.astype(np.float64)
            angles = self._angles = np.stack([np.cos(turns), np.sin(turns)], axis=1).astype(np.float32)
        return angles

    def __repr__(self) -> str:
        slow = sorted({op.type for plan in self._plans.values() for op in plan.ops if op.kernel is None})
        text = f"PlannedExecutor({self.n_threads} threads, {target()}"
        return text + (f"; slow, through NumPy: {', '.join(slow)})" if slow else ")")

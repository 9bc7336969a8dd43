"""The planned executor, the fast one: it records the forward pass once per step length, then runs plans."""

from __future__ import annotations

import dataclasses
import threading
import weakref
from collections.abc import Sequence
from typing import Any

import numpy as np

from llmlite.description.config import ModelConfig
from llmlite.description.weights import Weights
from llmlite.engine import amx_check
from llmlite.engine.contract import FEW_TOKENS, WORD, LayerWords
from llmlite.engine.cpu import target, usable_threads
from llmlite.engine.jit import prepare
from llmlite.engine.kv_cache import CHUNK, KV_NAMES, AttentionState, KVCache
from llmlite.engine.plan import FaultError, Plan, Share, kernels_of
from llmlite.engine.recorder import Recorder
from llmlite.engine.recording import Buffer, PositionTable
from llmlite.engine.recurrent import RecurrentState
from llmlite.engine.transformer import forward
from llmlite.errors import ContextOverflowError, NumericsError
from llmlite.system.guard import Watch
from llmlite.system.limits import MAX_THREADS
from llmlite.system.locks import fork_safe
from llmlite.terminal import NamedProgress

PREFILL_TOKENS = CHUNK
BYTES_PER_THREAD = 8 << 20  # of weights; with fewer, a token's step takes a fraction of a millisecond
RELEASED_BYTES = 16 << 20  # a larger arena is released when single tokens follow; see docs/engine.md
ENCODER_TOKENS = 512  # of several texts in one step of an encoder
TABLE_ROWS = 256  # positions of which a table's rows are computed at once
SCORING_TOKENS = 64  # if all logits are needed; limits their buffer to (64, n_vocab)


def _matrices(weights: Weights) -> list[Any]:
    layers = [tensor for layer in weights.layers for tensor in layer.values() if hasattr(tensor, "blocks")]
    output = [] if weights.output is None else [weights.output]
    return [weights.token_embd, *output, *layers]


class PlannedExecutor:
    """Runs a model with compiled kernels on a team of threads; see llmlite.engine.Executor.

    Args:
        n_threads: the maximum number of threads; by default, the physical cores that this process may use,
        within
            its cgroup's quota. A single token's step with too little work for them runs on fewer
            (`step_threads`).
        progress: called as progress(done, total, name) while kernels are compiled.

    Raises:
        UnsupportedError: the kernels don't support something in the model.
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
        progress: NamedProgress | None = None,
    ) -> None:
        if n_threads is not None and not 1 <= n_threads <= MAX_THREADS:
            raise ValueError(f"n_threads must be at least 1 and at most {MAX_THREADS}, got {n_threads}")
        self.weights, self.config = weights, config
        self.n_threads = n_threads or usable_threads()
        self.progress = progress
        self.tiles = amx_check.usable(_matrices(weights))  # must ask the system before threads start
        self._plans: dict[tuple, Plan] = {}
        self._filled: set[Plan] = set()  # plans of many tokens whose arenas have pages
        self._lock = fork_safe(threading.Lock())
        self._tables: dict[
            Any, tuple[np.ndarray, int]
        ] = {}  # by PositionTable.key: rows, and how many are there
        self._words: weakref.WeakKeyDictionary[KVCache, np.ndarray] = weakref.WeakKeyDictionary()
        outer = (tensor.blocks for tensor in weights.outer.values() if hasattr(tensor, "blocks"))
        self._watch = Watch((*outer, *(tensor.blocks for tensor in _matrices(weights))))
        # Record the plans now, so that an unsupported model fails here, and all kernels are compiled at once.
        few = (FEW_TOKENS, FEW_TOKENS)
        kinds = ((1, 1), few, (PREFILL_TOKENS, 1)) if config.causal else ((SCORING_TOKENS, SCORING_TOKENS),)
        kv = KV_NAMES[np.dtype(kv_dtype)]
        recorded = {kind: self._recorded(*kind, kv) for kind in kinds}
        prepare([k for recorder, _ in recorded.values() for k in kernels_of(recorder.ops)], progress)
        for kind, (recorder, result) in recorded.items():
            self._plans[*kind, kv] = Plan(recorder, result, progress=progress)

    @property
    def width(self) -> int:
        """Numbers in a result: n_vocab, or n_embd for an encoder."""
        return self.config.n_vocab if self.weights.output is not None else self.config.n_embd

    def __call__(
        self, ids: Sequence[int], cache: KVCache, *, n_outputs: int, types: Sequence[int] | None = None
    ) -> np.ndarray:
        """Run `ids` after the tokens in `cache`.

        Args:
            types: each id's token type; by default 0.

        Returns:
            The logits of the last `n_outputs` tokens, float32 (n_outputs, n_vocab); for an encoder, their
            last states, float32 (n_outputs, n_embd).

        Raises:
            GGUFError: the model's file has been cut off since it was mapped.
            NumericsError: a number is not finite; names the first operation that met one.
            ContextOverflowError: the tokens don't fit the cache.
        """
        return self.batch([(ids, cache, n_outputs)], types=[types])[0]

    def batch(
        self,
        requests: Sequence[tuple[Sequence[int], KVCache, int]],
        *,
        types: Sequence[Sequence[int] | None] | None = None,
    ) -> list[np.ndarray]:
        """Run several sequences at once, so that weights are read once for all of their tokens.

        Args:
            requests: for each sequence, its next ids, its own cache, and the number of last ids whose
                results are needed.
            types: for each sequence, its ids' token types; None if all are 0.

        Returns:
            Each sequence's results, float32 (n_outputs, n_vocab), with the same bits as if it had run alone.

        Raises:
            The same errors as `__call__`.
        """
        results = [np.empty((n_outputs, self.width), np.float32) for _, _, n_outputs in requests]
        waiting = [
            (i, chunk) for i, (ids, _, n) in enumerate(requests) for chunk in self._chunks(len(ids), n)
        ]
        while waiting:
            waiting = self._step(requests, waiting, results, types or [None] * len(requests))
        return results

    def _chunks(self, n: int, n_outputs: int) -> list[tuple[int, int]]:
        """Cut n ids into ranges, one for each step; steps whose results are needed are shorter."""
        if not self.config.causal:
            return [(0, n)]  # every token sees all others
        cuts, at, first_output = [], 0, n - n_outputs
        while at < n:
            wanted = n_outputs > 1 and at >= first_output
            end = min(at + (SCORING_TOKENS if wanted else PREFILL_TOKENS), n)
            if n_outputs > 1 and at < first_output < end:  # a step without results ends where results begin
                end = first_output
            cuts.append((at, end))
            at = end
        return cuts

    def _step(self, requests: Any, waiting: list, results: list[np.ndarray], types: Any) -> list:
        """Run as many of the waiting chunks as fit in a step, one of each sequence; return the others.

        All caches of a step have the same type, which is that of the first one.
        """
        taken: dict[int, tuple[int, int, int]] = {}
        left: list[tuple[int, tuple[int, int]]] = []
        n_tokens = n_outputs = 0
        dtype = requests[waiting[0][0]][1].dtype
        for i, (at, end) in waiting:
            first_output = len(requests[i][0]) - requests[i][2]
            outputs = max(0, end - max(at, first_output))
            fits = n_outputs + outputs <= 1 and n_tokens + end - at <= PREFILL_TOKENS
            fits |= n_tokens + end - at <= (SCORING_TOKENS if self.config.causal else ENCODER_TOKENS)
            fits &= requests[i][1].dtype == dtype
            if not taken or (i not in taken and not any(i == j for j, _ in left) and fits):
                taken[i] = at, end, outputs
                n_tokens, n_outputs = n_tokens + end - at, n_outputs + outputs
            else:
                left.append((i, (at, end)))
        caches = [requests[i][1] for i in taken]
        plan = self.plan(n_tokens, n_outputs, dtype)
        shares = []
        for (i, (at, end, outputs)), cache in zip(taken.items(), caches):
            cache.reserve(end - at)
            kinds = None if types[i] is None else types[i][at:end]
            shares.append(Share(requests[i][0][at:end], cache.position, self._states(cache), outputs, kinds))
        with plan.lock:
            found, row = self.run_plan(plan, shares), 0
            for i, (at, _, outputs) in taken.items():
                start = max(0, at - (len(requests[i][0]) - requests[i][2]))
                results[i][start : start + outputs] = found[row : row + outputs]
                row += outputs
        self._watch.check()
        for (i, (at, end, _)), cache in zip(taken.items(), caches):
            cache.extend(requests[i][0][at:end])
        self._keep_or_release(plan)
        return left

    def plan(self, n_tokens: int, n_outputs: int, kv_dtype: Any) -> Plan:
        """Return the plan for a step of this size, which is recorded on first use."""
        if not self.config.causal:
            size = max(SCORING_TOKENS, 1 << (n_tokens - 1).bit_length())
            kind = (size, size)
        elif n_tokens == 1:
            kind = (1, 1)
        elif n_tokens <= FEW_TOKENS:
            kind = (FEW_TOKENS, FEW_TOKENS)
        elif n_outputs <= 1:
            kind = (PREFILL_TOKENS, 1)
        else:
            kind = (SCORING_TOKENS, SCORING_TOKENS)
        key = (*kind, KV_NAMES[np.dtype(kv_dtype)])
        with self._lock:
            if key not in self._plans:
                self._plans[key] = self.record(*key)
            return self._plans[key]

    def step_threads(self, max_tokens: int) -> int:
        """Return the number of threads for a step of this size: few, if the step is short."""
        if max_tokens > 1:
            return self.n_threads
        n_bytes = sum(tensor.n_bytes for tensor in _matrices(self.weights))
        return max(1, min(self.n_threads, n_bytes // BYTES_PER_THREAD))

    def record(self, max_tokens: int, max_outputs: int, kv: str, *, keep_all: bool = False) -> Plan:
        """Record a plan for steps of up to `max_tokens` tokens; kv: one of `kv_cache.DTYPES`."""
        recorder, result = self._recorded(max_tokens, max_outputs, kv)
        return Plan(recorder, result, keep_all=keep_all, progress=self.progress)

    def _recorded(self, max_tokens: int, max_outputs: int, kv: str) -> tuple[Recorder, Buffer]:
        """Return the operations of such a step, and the buffer of its results."""
        recorder = Recorder(
            max_tokens=max_tokens, max_outputs=max_outputs, n_threads=self.step_threads(max_tokens), kv=kv,
            tiles=self.tiles,
        )  # fmt: skip
        return recorder, forward(recorder, self.weights, self.config, None)

    def _keep_or_release(self, plan: Plan) -> None:
        if plan.max_tokens > 1:
            if plan.arena_bytes >= RELEASED_BYTES:
                self._filled.add(plan)
        elif self._filled:
            self._release()

    def _release(self) -> None:
        """Release the memory that was needed for prefill; decode doesn't need it."""
        for plan in list(self._filled):
            if plan.lock.acquire(blocking=False):  # otherwise a step of another thread is filling it
                try:
                    self._filled.discard(plan)
                    plan.release()
                finally:
                    plan.lock.release()

    def run_plan(self, plan: Plan, shares: Sequence[Share], clock: np.ndarray | None = None) -> np.ndarray:
        """Run one step of `plan`, whose lock is held; the caches get keys and values, but not the ids.

        Raises:
            NumericsError: a number is not finite.
        """
        end = max(share.position + len(share.ids) for share in shares)
        learned = self.weights.positions
        if learned is not None and end > len(learned):
            raise ContextOverflowError(f"{end} positions: the model knows {len(learned)}")
        tables = [self._table(table, end) for table in plan.tables]
        try:
            found = plan.run(shares, tables=[table.ctypes.data for table in tables], clock=clock)
        except FaultError as fault:
            raise NumericsError.of_input(fault.op.reads[0].name, fault.op.label) from None
        if found.size and not (found.min() > -np.inf and found.max() < np.inf):  # NaN fails both
            raise NumericsError.at("result_output", None)
        return found

    def _states(self, cache: KVCache) -> int:
        """Return the address of a cache's layer words for the row of states that the step reads."""
        if cache not in self._words:
            words = [[layer_words(state, turn) for state in cache.states] for turn in (0, 1)]
            self._words[cache] = np.array(words, np.int64)
        return self._words[cache][cache.recurrent.turn].ctypes.data

    def _table(self, table: PositionTable, n: int) -> np.ndarray:
        """Return an array whose first n rows are the table's, float32 (at least n, width).

        It has room for more, which takes no memory before it is written. Rows are computed 256 at a time, so
        that temporary arrays are small.
        """
        rows, filled = self._tables.get(table.key, (np.empty((0, table.width), np.float32), 0))
        if filled < n:
            end = -(-n // TABLE_ROWS) * TABLE_ROWS
            if end > len(rows):
                grown = np.empty((max(end, 2 * len(rows)), table.width), np.float32)
                grown[:filled] = rows[:filled]
                rows = grown
            for start in range(filled, end, TABLE_ROWS):
                rows[start : start + TABLE_ROWS] = table.rows(np.arange(start, start + TABLE_ROWS))
            self._tables[table.key] = rows, end
        return rows

    def profile(self, *, n_tokens: int = 1, depth: int = 0, repeat: int = 5) -> list[dict[str, Any]]:
        """Time every operation of a step separately, including waiting.

        Args:
            n_tokens: length of the step, at most PREFILL_TOKENS.
            depth: tokens in the cache before the step.
            repeat: number of runs; each operation's median counts.

        Returns:
            One row per operation, in order, with the columns "operation" (the kernel), "label" (weight or
            result), "type", "nanoseconds", "waiting" (nanoseconds of these that a thread was idle, as the
            mean of all threads; in the first row also until the threads had woken up), "bytes" (of weights)
            and "operations" (multiplications and additions with weights), in the form that pandas.DataFrame
            takes.
        """
        plan = self.plan(n_tokens, 1, np.float16)
        cache = KVCache(self.config, depth + n_tokens, np.float16)
        for state in cache.states:
            if isinstance(state, AttentionState):
                state.k[:], state.v[:] = 0.01, 0.01  # or all pages would be the same one
        share = Share([0] * n_tokens, depth, self._states(cache), 1)
        clock = np.zeros((len(plan.ops) + 1, 1 + plan.n_threads, 2), np.int64)
        runs, waits = [], []
        with plan.lock:
            for _ in range(repeat):
                clock[:] = 0
                self.run_plan(plan, [share], clock)
                times = clock @ np.array([10**9, 1])
                runs.append(np.diff(times[:, 0]))
                waits.append(_waits(times))
        nanoseconds, waiting = np.median(runs, axis=0), np.median(waits, axis=0)
        return [
            {
                "operation": op.name,
                "label": op.label or op.writes[0].name,
                "type": op.type,
                "nanoseconds": float(spent),
                "waiting": float(waited),
                "bytes": op.bytes_read,
                "operations": op.work * int(plan.step[op.writes[0].rows // WORD]),
            }
            for op, spent, waited in zip(plan.ops, nanoseconds, waiting)
        ]

    def __repr__(self) -> str:
        slow = sorted({op.type for plan in self._plans.values() for op in plan.ops if op.kernel is None})
        text = f"PlannedExecutor({self.n_threads} threads, {target()}{', AMX' if self.tiles else ''}"
        return text + (f"; slow, through NumPy: {', '.join(slow)})" if slow else ")")


def _waits(times: np.ndarray) -> np.ndarray:
    """Return the nanoseconds that threads were idle in each operation, on average.

    Args:
        times: nanoseconds (n_ops + 1, 1 + n_threads), in the layout of `Plan.run`'s clock. A thread without a
            time, or with a time after the operation's end, took no part in it.
    """
    begin, end, finished = times[:-1, :1], times[1:, :1], times[1:, 1:]
    took_part = (finished > begin) & (finished <= end)
    return np.where(took_part, end - finished, end - begin).mean(axis=1)


def layer_words(state: Any, turn: int = 0) -> tuple[int, ...]:
    """Return the words of a layer's state that kernels read, in the order of `contract.LayerWords`.

    Args:
        state: the layer's state.
        turn: the row, 0 or 1, from which a recurrent state is read.
    """
    if isinstance(state, RecurrentState):
        flip = state.tail(1 - turn).ctypes.data - state.tail(turn).ctypes.data
        conv, at = state.tail(turn).ctypes.data, state.state(turn).ctypes.data
        return dataclasses.astuple(LayerWords(conv=conv, state=at, flip=flip))
    scales = {
        name: getattr(state, name).ctypes.data
        for name in ("k_scales", "v_scales")
        if getattr(state, name) is not None
    }
    words = LayerWords(k=state.k.ctypes.data, v=state.v.ctypes.data, size=state.size, **scales)
    return dataclasses.astuple(words)

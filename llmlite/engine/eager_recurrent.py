"""The eager executor's operations for mixers with a state of fixed size (llmlite.engine.recurrent).

Each reads the row of states that the previous step wrote, and writes the other row.
"""

from __future__ import annotations

import numpy as np

from llmlite.description.layers import DeltaNet, Mamba, Mamba2
from llmlite.engine.kv_cache import KVCache


class EagerRecurrent:
    """A part of `eager.Eager`; it reads and writes that class's cache."""

    cache: KVCache | None

    def name(
        self, x: np.ndarray, name: str, layer: int | None = None, heads: int | None = None
    ) -> np.ndarray:
        """See eager.Eager.name."""
        raise NotImplementedError

    def convolve(self, x: np.ndarray, taps: np.ndarray, bias: np.ndarray | None, layer: int) -> np.ndarray:
        """Return weighted sums of each column's latest values, and keep the last ones for the next step:

            out[t, c] = Σ taps[j, c] · x[t - n + 1 + j, c] + bias[c]

        Args:
            x: (T, C). Rows before the step come from the layer's state.
            taps: (n, C); the last row is for the token itself.
            bias: (C,) or None.
        """
        assert self.cache is not None
        state, turn, n = self.cache[layer], self.cache.recurrent.turn, len(taps)
        rows = np.concatenate([self.name(state.tail(turn), "conv_states", layer), x])
        self.name(rows, "conv_input", layer)
        out = sum(taps[j] * rows[j : j + len(x)] for j in range(n))
        state.tail(1 - turn)[:] = self.name(rows[len(rows) - n + 1 :], "conv_state_last", layer)
        return out if bias is None else out + bias

    def multiply(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        """Return a · b."""
        return a * b

    def multiply_row(self, x: np.ndarray, row: np.ndarray) -> np.ndarray:
        """Return x with every row multiplied by `row`."""
        return x * row

    def scan(
        self, x: np.ndarray, dt: np.ndarray, a: np.ndarray, d: np.ndarray, dt_bias: np.ndarray, layer: int,
        spec: Mamba2,
    ) -> np.ndarray:  # fmt: skip
        """Decay each head's state S (N, P), add the token x (P,) through b (N,), and read S through c (N,):

            δ = ln(1 + e^(dt + dt_bias)),  S ← e^(δ·a) · S + b ⊗ δ·x,  out = Sᵀ·c + d·x

        Args:
            x: (T, H*P + 2*G*N), the heads' tokens, then b and c of each group.
            dt: (T, H).
            a, d, dt_bias: (H,).

        Returns:
            (T, H*P)
        """
        assert self.cache is not None
        held, turn = self.cache[layer], self.cache.recurrent.turn
        T, H, G, N = len(x), spec.n_head, spec.n_group, spec.state_size
        tokens, b, c = np.split(x, (spec.inner_width, spec.inner_width + G * N), axis=1)
        tokens = tokens.reshape(T, H, -1)  # (T, H, P)
        b, c = (part.reshape(T, G, N).repeat(H // G, axis=1) for part in (b, c))  # (T, H, N)
        delta = np.logaddexp(0, dt + dt_bias).astype(np.float32)  # (T, H)
        state, out = held.state(turn), np.empty_like(tokens)
        for t in range(T):
            added = b[t, :, :, None] * (delta[t, :, None] * tokens[t])[:, None]  # (H, N, P)
            state = np.exp(delta[t] * a)[:, None, None] * state + added
            out[t] = np.einsum("hn,hnp->hp", c[t], state) + d[:, None] * tokens[t]
        held.state(1 - turn)[:] = self.name(state, "new_state", layer)
        return out.reshape(T, -1)

    def delta_rule(
        self, x: np.ndarray, qk: np.ndarray, beta: np.ndarray, alpha: np.ndarray, a: np.ndarray,
        dt_bias: np.ndarray, layer: int, spec: DeltaNet,
    ) -> np.ndarray:  # fmt: skip
        """Decay each head's state S (N, N), correct its value at the key k towards v, and read it with q:

            S ← e^(a·ln(1 + e^(alpha + dt_bias))) · S,  S ← S + k ⊗ σ(beta)·(v − Sᵀ·k),  out = Sᵀ·q / √N

        Args:
            x: (T, 2*K*N + H*N), whose last H*N columns are the values.
            qk: (T, 2*K*N), queries and keys of length 1.
            beta, alpha: (T, H).
            a, dt_bias: (H,).

        Returns:
            (T, H*N)
        """
        assert self.cache is not None
        held, turn = self.cache[layer], self.cache.recurrent.turn
        T, H, N = len(x), spec.n_head, spec.head_size
        keys_of = np.arange(H) % spec.n_head_k if spec.tiled else np.arange(H) // (H // spec.n_head_k)
        q, k = (part.reshape(T, spec.n_head_k, N)[:, keys_of] for part in np.split(qk, 2, axis=1))
        v = x[:, 2 * spec.key_width :].reshape(T, H, N)
        before = (*np.split(x[:, : 2 * spec.key_width], 2, axis=1), v)
        for part, raw, unit in zip("qkv", before, (*np.split(qk, 2, axis=1), v)):
            self.name(raw.reshape(T, -1, N), f"{part}_conv", layer)
            self.name(unit.reshape(T, -1, N), f"{part}_conv_predelta", layer)
        strength = self.name(1 / (1 + np.exp(-beta)), "beta_sigmoid", layer)
        passed = self.name(np.logaddexp(0, alpha + dt_bias).astype(np.float32), "a_softplus", layer)
        decay = np.exp(self.name(passed * a, "gate", layer))
        state, out = self.name(held.state(turn), "state_predelta", layer), np.empty_like(v)
        for t in range(T):
            state = decay[t, :, None, None] * state
            error = v[t] - np.einsum("hn,hnp->hp", k[t], state)
            state = state + k[t, :, :, None] * (strength[t, :, None] * error)[:, None]
            out[t] = np.einsum("hn,hnp->hp", q[t], state)
        held.state(1 - turn)[:] = self.name(state, "new_state", layer)
        return (out * np.float32(N**-0.5)).reshape(T, -1)

    def project(self, x: np.ndarray, w: np.ndarray, bias: np.ndarray) -> np.ndarray:
        """Return x[:, :n] @ w + bias: (T, n or more) by (n, E) -> (T, E)."""
        return x[:, : len(w)] @ w + bias

    def scan_columns(
        self, x: np.ndarray, dt: np.ndarray, db: np.ndarray, a: np.ndarray, d: np.ndarray, layer: int,
        spec: Mamba,
    ) -> np.ndarray:  # fmt: skip
        """Do the same as `scan`, but each number of the state (N, E) has its own rate a[n, e]:

            δ = ln(1 + e^dt),  S ← e^(δ·a) · S + b ⊗ δ·x,  out = Σₙ c[n] · S[n] + d·x

        Args:
            x, dt: (T, E).
            db: (T, rank + 2*N), with b and c after `rank` columns.
            a: (N, E).
            d: (E,).

        Returns:
            (T, E)
        """
        assert self.cache is not None
        held, turn = self.cache[layer], self.cache.recurrent.turn
        b, c = np.split(db[:, spec.rank :], 2, axis=1)  # (T, N)
        delta = np.logaddexp(0, dt).astype(np.float32)
        state, out = held.state(turn), np.empty_like(x)
        for t in range(len(x)):
            state = np.exp(delta[t] * a) * state + b[t, :, None] * (delta[t] * x[t])
            out[t] = c[t] @ state + d * x[t]
        held.state(1 - turn)[:] = self.name(state, "new_state", layer)
        return out

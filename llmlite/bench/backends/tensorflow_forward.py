"""The same Llama in TensorFlow's operations, run one by one ("eager") or as one graph (`tf.function`).

The weights come from the same GGUF file and become float32 on loading, because TensorFlow has no GGUF types.
The code is independent of the forward pass in llmlite.engine.transformer. The graph is traced once, for
prompts and steps of any length. XLA doesn't compile it, because it would have to compile again for every
length.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # read when the library is imported
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")

import numpy as np
import tensorflow as tf

from llmlite.bench.backends.weights import Shape, floats, opened, refuse

ARCHITECTURES = ("llama", "qwen2")


def make(*, graph: bool) -> TensorFlowBackend:
    """Return the backend.

    Args:
        graph: run the forward pass as a `tf.function`.
    """
    return TensorFlowBackend(graph)


class TensorFlowLlama:
    """A Llama (or a relative whose tensors have the same names) for one sequence.

    Args:
        weights: float32 tensors by their names in the GGUF file.
        shape: the hyper-parameters.
        n_ctx: positions in the static cache.
    """

    def __init__(self, weights: dict[str, Any], shape: Shape, n_ctx: int) -> None:
        self.weights, self.config = weights, shape
        size = (shape.n_head_kv, n_ctx, shape.head_size)
        self.keys = [tf.Variable(tf.zeros(size)) for _ in range(shape.n_layer)]
        self.values = [tf.Variable(tf.zeros(size)) for _ in range(shape.n_layer)]
        freqs = weights.get("rope_freqs.weight")
        angles = shape.angles(n_ctx, None if freqs is None else freqs.numpy())  # (n_ctx, rope_dim/2)
        self.cos, self.sin = (tf.constant(f(angles), tf.float32) for f in (np.cos, np.sin))

    def __call__(self, ids: Any, position: Any, n_outputs: Any) -> Any:
        """Read ids (T,) int32 from `position` on; return the last `n_outputs` logits, (n_outputs, V)."""
        x = self.layers(ids, position)
        return self.head(x[tf.shape(x)[0] - n_outputs :])

    def layers(self, ids: Any, position: Any) -> Any:
        """Return the output of the last layer, (T, D)."""
        x = tf.gather(self.weights["token_embd.weight"], ids)  # (T, D)
        for layer in range(self.config.n_layer):
            x = x + self._attention(layer, x, position)
            x = x + self._feed_forward(layer, x)
        return x

    def head(self, x: Any) -> Any:
        """Return the logits (T, V) for the last layer's output (T, D)."""
        w = self.weights
        x = self._norm(x, "output_norm.weight")
        return tf.matmul(x, w.get("output.weight", w["token_embd.weight"]), transpose_b=True)

    def _remember(self, layer: int, k: Any, v: Any, position: Any) -> tuple[Any, Any]:
        """Write keys and values (K, T, Dh) to the cache; return all visible ones, (K, seen, Dh) each."""
        end = position + tf.shape(k)[1]
        self.keys[layer][:, position:end].assign(k)
        self.values[layer][:, position:end].assign(v)
        return self.keys[layer][:, :end], self.values[layer][:, :end]

    def _attention(self, layer: int, x: Any, position: Any) -> Any:
        c, n_tokens = self.config, tf.shape(x)[0]
        x = self._norm(x, f"blk.{layer}.attn_norm.weight")
        q = self._heads(f"blk.{layer}.attn_q", x, c.n_head)  # (T, H, Dh)
        k = self._heads(f"blk.{layer}.attn_k", x, c.n_head_kv)  # (T, K, Dh)
        v = self._heads(f"blk.{layer}.attn_v", x, c.n_head_kv)
        k, v = (tf.transpose(each, (1, 0, 2)) for each in (self._rotate(k, position), v))  # (K, T, Dh)
        keys, values = self._remember(layer, k, v, position)
        seen = tf.shape(keys)[1]
        group = c.n_head // c.n_head_kv  # query heads per key/value head
        q = tf.transpose(self._rotate(q, position), (1, 0, 2))  # (H, T, Dh)
        q = tf.reshape(q, (c.n_head_kv, group * n_tokens, c.head_size))
        scores = tf.matmul(q, keys, transpose_b=True) / float(np.sqrt(c.head_size))
        scores = tf.reshape(scores, (c.n_head_kv, group, n_tokens, seen))
        visible = tf.range(seen)[None, :] <= position + tf.range(n_tokens)[:, None]  # (T, seen)
        scores = tf.where(visible, scores, np.float32(-np.inf))
        shares = tf.reshape(tf.nn.softmax(scores), (c.n_head_kv, group * n_tokens, seen))
        out = tf.matmul(shares, values)  # (K, group*T, Dh)
        out = tf.transpose(tf.reshape(out, (c.n_head, n_tokens, c.head_size)), (1, 0, 2))
        return self._linear(f"blk.{layer}.attn_output", tf.reshape(out, (n_tokens, c.n_head * c.head_size)))

    def _feed_forward(self, layer: int, x: Any) -> Any:
        x = self._norm(x, f"blk.{layer}.ffn_norm.weight")
        gate = tf.nn.silu(self._linear(f"blk.{layer}.ffn_gate", x))
        return self._linear(f"blk.{layer}.ffn_down", gate * self._linear(f"blk.{layer}.ffn_up", x))

    def _heads(self, name: str, x: Any, n_head: int) -> Any:
        return tf.reshape(self._linear(name, x), (tf.shape(x)[0], n_head, self.config.head_size))

    def _rotate(self, x: Any, position: Any) -> Any:
        """Apply RoPE to x (T, heads, Dh): to pairs (2i, 2i+1) for "norm", (i, i + rope_dim/2) for "neox"."""
        n = self.config.rope_dim
        places = position + tf.range(tf.shape(x)[0])
        cos, sin = (tf.gather(each, places)[:, None] for each in (self.cos, self.sin))  # (T, 1, rope_dim/2)
        if self.config.rope_pairs == "neox":
            a, b = x[..., : n // 2], x[..., n // 2 : n]
            turned = tf.concat((a * cos - b * sin, a * sin + b * cos), -1)
        else:
            a, b = x[..., 0:n:2], x[..., 1:n:2]
            pairs = tf.stack((a * cos - b * sin, a * sin + b * cos), -1)  # (T, heads, rope_dim/2, 2)
            turned = tf.reshape(pairs, (*tf.unstack(tf.shape(x)[:2]), n))
        return tf.concat((turned, x[..., n:]), -1)

    def _norm(self, x: Any, name: str) -> Any:
        mean = tf.reduce_mean(tf.square(x), axis=-1, keepdims=True)
        return x * tf.math.rsqrt(mean + self.config.rms_eps) * self.weights[name]

    def _linear(self, name: str, x: Any) -> Any:
        out = tf.matmul(x, self.weights[f"{name}.weight"], transpose_b=True)
        bias = self.weights.get(f"{name}.bias")
        return out if bias is None else out + bias


def set_threads(n_threads: int) -> None:
    """Set the number of threads; TensorFlow accepts it only before its first operation."""
    if tf.config.threading.get_intra_op_parallelism_threads() == n_threads:
        return
    tf.config.threading.set_intra_op_parallelism_threads(n_threads)
    tf.config.threading.set_inter_op_parallelism_threads(1)


class TensorFlowBackend:
    """A backend with one TensorFlowLlama and the number of positions filled in its cache."""

    def __init__(self, graph: bool) -> None:
        self.graph = graph
        self.run: Callable[..., Any] | None = None
        self.position = 0
        self.n_threads = 0

    def start(self) -> None:
        """Do nothing: this file has imported everything."""

    def load(self, path: str, n_ctx: int, n_threads: int) -> None:
        if self.run is None:
            set_threads(n_threads)
        self.run, self.n_threads = None, tf.config.threading.get_intra_op_parallelism_threads()
        with opened(path) as (shape, tensors):
            refuse(shape, "TensorFlow", ARCHITECTURES)
            weights = {name: tf.constant(floats(tensor)) for name, tensor in tensors.items()}
        model = TensorFlowLlama(weights, shape, n_ctx)
        whole = tf.TensorSpec([], tf.int32)
        signature = [tf.TensorSpec([None], tf.int32), whole, whole]
        self.run = tf.function(model.__call__, input_signature=signature) if self.graph else model

    def logits(self, ids: Sequence[int]) -> np.ndarray:
        return self._step(ids, 0, len(ids))

    def prefill(self, ids: Sequence[int]) -> int:
        return int(self._step(ids, 0, 1)[0].argmax())

    def step(self, token: int) -> int:
        return int(self._step([token], self.position, 1)[0].argmax())

    def _step(self, ids: Sequence[int], position: int, n_outputs: int) -> np.ndarray:
        assert self.run is not None
        whole = (tf.constant(n, tf.int32) for n in (position, n_outputs))
        logits = self.run(tf.constant(list(ids), tf.int32), *whole).numpy()
        self.position = position + len(ids)
        return logits

    def about(self) -> dict[str, Any]:
        return {
            "n_threads": self.n_threads,
            "type_k": "f32",
            "version": tf.__version__,
            "isa": "chosen at run time, not reported",
            "note": "one graph (tf.function)" if self.graph else "operation by operation",
        }

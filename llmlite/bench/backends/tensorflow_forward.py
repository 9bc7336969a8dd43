"""TensorFlow: the same Llama in its operations, run one by one ("eager") or as one graph (`tf.function`).

The weights come from the same GGUF file and become float32 on loading (TensorFlow has no GGUF types). Written
independently of llmlite.transformer's forward pass. The graph is traced once for prompts and steps of any
length; it isn't compiled by XLA, which would compile again for every length.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # read when the library is imported
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")

import numpy as np
import tensorflow as tf

from llmlite import gguf
from llmlite.config import ModelConfig
from llmlite.errors import UnsupportedError

ARCHITECTURES = ("llama", "qwen2")


def make(*, graph: bool) -> TensorFlowBackend:
    """Return the backend; `graph` runs the forward pass as a `tf.function`."""
    return TensorFlowBackend(graph)


class TensorFlowLlama:
    """A Llama (or a relative whose tensors have the same names) for one sequence.

    Args:
        weights: name in the GGUF file -> float32 tensor.
        config: the hyper-parameters. n_ctx: positions in the static cache.
    """

    def __init__(self, weights: dict[str, Any], config: ModelConfig, n_ctx: int) -> None:
        self.weights, self.config = weights, config
        shape = (config.n_head_kv, n_ctx, config.head_size)
        self.keys = [tf.Variable(tf.zeros(shape)) for _ in range(config.n_layer)]
        self.values = [tf.Variable(tf.zeros(shape)) for _ in range(config.n_layer)]
        exponents = np.arange(0, config.rope_dim, 2) / config.rope_dim
        frequencies = config.rope_scale * config.rope_base**-exponents
        if "rope_freqs.weight" in weights:
            frequencies = frequencies / weights["rope_freqs.weight"].numpy().astype(np.float64)
        angles = np.outer(np.arange(n_ctx), frequencies)  # (n_ctx, rope_dim/2)
        self.cos, self.sin = (tf.constant(f(angles), tf.float32) for f in (np.cos, np.sin))

    def __call__(self, ids: Any, position: Any, n_outputs: Any) -> Any:
        """Run ids (T,) int32 at `position`; return the last `n_outputs` logits, (n_outputs, V)."""
        w = self.weights
        x = tf.gather(w["token_embd.weight"], ids)  # (T, D)
        for layer in range(self.config.n_layer):
            x = x + self._attention(layer, x, position)
            x = x + self._feed_forward(layer, x)
        x = self._norm(x[tf.shape(x)[0] - n_outputs :], "output_norm.weight")
        return tf.matmul(x, w.get("output.weight", w["token_embd.weight"]), transpose_b=True)

    def _attention(self, layer: int, x: Any, position: Any) -> Any:
        c, n_tokens = self.config, tf.shape(x)[0]
        end = position + n_tokens
        x = self._norm(x, f"blk.{layer}.attn_norm.weight")
        q = self._heads(f"blk.{layer}.attn_q", x, c.n_head)  # (T, H, Dh)
        k = self._heads(f"blk.{layer}.attn_k", x, c.n_head_kv)  # (T, K, Dh)
        v = self._heads(f"blk.{layer}.attn_v", x, c.n_head_kv)
        self.keys[layer][:, position:end].assign(tf.transpose(self._rotate(k, position), (1, 0, 2)))
        self.values[layer][:, position:end].assign(tf.transpose(v, (1, 0, 2)))
        group = c.n_head // c.n_head_kv  # query heads that share one of keys and values
        q = tf.transpose(self._rotate(q, position), (1, 0, 2))  # (H, T, Dh)
        q = tf.reshape(q, (c.n_head_kv, group * n_tokens, c.head_size))
        scores = tf.matmul(q, self.keys[layer][:, :end], transpose_b=True) / float(np.sqrt(c.head_size))
        scores = tf.reshape(scores, (c.n_head_kv, group, n_tokens, end))
        visible = tf.range(end)[None, :] <= position + tf.range(n_tokens)[:, None]  # (T, end)
        scores = tf.where(visible, scores, np.float32(-np.inf))
        shares = tf.reshape(tf.nn.softmax(scores), (c.n_head_kv, group * n_tokens, end))
        out = tf.matmul(shares, self.values[layer][:, :end])  # (K, group*T, Dh)
        out = tf.transpose(tf.reshape(out, (c.n_head, n_tokens, c.head_size)), (1, 0, 2))
        return self._linear(f"blk.{layer}.attn_output", tf.reshape(out, (n_tokens, c.n_head * c.head_size)))

    def _feed_forward(self, layer: int, x: Any) -> Any:
        x = self._norm(x, f"blk.{layer}.ffn_norm.weight")
        gate = tf.nn.silu(self._linear(f"blk.{layer}.ffn_gate", x))
        return self._linear(f"blk.{layer}.ffn_down", gate * self._linear(f"blk.{layer}.ffn_up", x))

    def _heads(self, name: str, x: Any, n_head: int) -> Any:
        return tf.reshape(self._linear(name, x), (tf.shape(x)[0], n_head, self.config.head_size))

    def _rotate(self, x: Any, position: Any) -> Any:
        """RoPE on (T, heads, Dh): pairs (2i, 2i+1) for "norm", (i, i + rope_dim/2) for "neox"."""
        n = self.config.rope_dim
        end = position + tf.shape(x)[0]
        cos, sin = self.cos[position:end, None], self.sin[position:end, None]  # (T, 1, rope_dim/2)
        if self.config.architecture.rope_pairs == "neox":
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


class TensorFlowBackend:
    """One TensorFlowLlama and how far its cache is filled."""

    def __init__(self, graph: bool) -> None:
        self.graph = graph
        self.run: Callable[..., Any] | None = None
        self.position = 0
        self.n_threads = 0

    def start(self) -> None:
        """Nothing left to import: this file already did."""

    def load(self, path: str, n_ctx: int, n_threads: int) -> None:
        if self.run is None:  # TensorFlow takes the number of threads before its first operation only
            tf.config.threading.set_intra_op_parallelism_threads(n_threads)
            tf.config.threading.set_inter_op_parallelism_threads(1)
        self.run, self.n_threads = None, tf.config.threading.get_intra_op_parallelism_threads()
        with gguf.read(path) as file:
            config = ModelConfig.from_metadata(file.metadata, file.tensors)
            if config.architecture.name not in ARCHITECTURES or config.n_expert:
                experts = " with experts" if config.n_expert else ""
                raise UnsupportedError(
                    f"TensorFlow's side of the comparison runs {' and '.join(ARCHITECTURES)} without "
                    f"experts, not {config.architecture.name}{experts}"
                )
            weights = {
                name: tf.constant(np.array(tensor.dequantize(), np.float32))
                for name, tensor in file.tensors.items()
            }
        model = TensorFlowLlama(weights, config, n_ctx)
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
            "note": "one graph (tf.function)" if self.graph else "operation by operation",
        }
